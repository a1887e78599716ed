//! One segment: a range of contexts, its text (see `text`) and its lists (see `list`).
//!
//! All numbers are little-endian. With `C` contexts and `L` latents:
//!
//! | file | type | length | content |
//! |---|---|---|---|
//! | `lists.bin` | bytes | | the latents' lists, one after the other |
//! | `offsets.u64` | u64 | L + 1 | where each latent's list begins in `lists.bin` |
//! | `hashes.u64` | u64 | C | a hash of each context's postings, whatever their order |
//! | `pages.u64` | u64 | | the page hashes of the files above, in the order of their names |

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::PAGES;
use crate::list::{Damaged, List, SLACK, Shape};
use crate::manifest::{FileRecord, Parameters, SegmentRecord, hex, is_missing};
use crate::mapped::{Mapped, PAGE, page_hashes, root};
use crate::text::{Mask, Text};

#[cfg(target_endian = "big")]
compile_error!("the index is read in place, and its files are little-endian");

pub(crate) const LISTS: &str = "lists.bin";
pub(crate) const OFFSETS: &str = "offsets.u64";
pub(crate) const HASHES: &str = "hashes.u64";

/// The folder of the segments within the index.
pub(crate) const FOLDER: &str = "segments";

/// The name of the segment that begins at `first_context`.
pub(crate) fn name(first_context: u64) -> String {
    format!("{first_context:020}")
}

pub(crate) fn corrupt(index: &Path, segment: u64, file: &str, problem: String) -> Error {
    Error::Corrupt {
        index: index.to_owned(),
        place: format!("segment {segment}, file `{file}`"),
        problem,
    }
}

/// One folder of a segment, whose files are being opened.
pub(crate) struct Folder<'a> {
    index: &'a Path,
    segment: u64,
    path: &'a str,
    files: BTreeMap<&'a str, &'a FileRecord>,
    hashes: BTreeMap<&'a str, Vec<u64>>,
}

impl<'a> Folder<'a> {
    /// Reads the folder's page hashes, and compares them with the manifest.
    fn open_folder(index: &'a Path, record: &'a SegmentRecord, path: &'a str) -> Result<Self> {
        let inside = |(file, record)| {
            let (folder, name) = str::rsplit_once(file, '/')?;
            (folder == path).then_some((name, record))
        };
        let mut folder = Self {
            index,
            segment: record.first_context,
            path,
            files: record
                .files
                .iter()
                .map(|(f, r)| (f.as_str(), r))
                .filter_map(inside)
                .collect(),
            hashes: BTreeMap::new(),
        };
        let pages = folder.path_of(PAGES);
        let bytes = match fs::read(&pages) {
            Ok(bytes) => bytes,
            Err(error) if is_missing(&error) => {
                return Err(folder.corrupt(PAGES, "is missing".to_owned()));
            }
            Err(error) => return Err(Error::io("read", &pages)(error)),
        };
        let expected = folder.record(PAGES)?;
        if expected.bytes != bytes.len() as u64 {
            return Err(folder.corrupt(
                PAGES,
                format!(
                    "has {} bytes where the manifest says {}",
                    bytes.len(),
                    expected.bytes
                ),
            ));
        }
        let mut all: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|hash| {
                hash.iter()
                    .rev()
                    .fold(0, |all, &byte| all << 8 | u64::from(byte))
            })
            .collect();
        let mut hashes = BTreeMap::new();
        for (&name, record) in folder.files.iter().filter(|(name, _)| **name != PAGES) {
            let pages = record.bytes.div_ceil(PAGE as u64);
            if pages > all.len() as u64 {
                return Err(folder.corrupt(PAGES, "is too short".to_owned()));
            }
            let rest = all.split_off(pages as usize);
            hashes.insert(name, std::mem::replace(&mut all, rest));
        }
        if !all.is_empty() || hex(root(&page_hashes(&bytes))) != expected.xxh3 {
            return Err(folder.corrupt(PAGES, "does not match its checksum".to_owned()));
        }
        for (name, pages) in &hashes {
            if hex(root(pages)) != folder.record(name)?.xxh3 {
                return Err(folder.corrupt(PAGES, format!("does not match the hash of `{name}`")));
            }
        }
        folder.hashes = hashes;
        Ok(folder)
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.index.join(self.path).join(name)
    }

    fn record(&self, name: &str) -> Result<&'a FileRecord> {
        self.files
            .get(name)
            .copied()
            .ok_or_else(|| self.corrupt(name, "is not in the manifest".to_owned()))
    }

    /// Whether the manifest names a file.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// Maps a file, whose size must be `bytes` where that is known.
    pub(crate) fn open(&mut self, name: &str, bytes: Option<u64>) -> Result<Mapped> {
        let record = self.record(name)?;
        if let Some(bytes) = bytes
            && record.bytes != bytes
        {
            return Err(self.corrupt(
                name,
                format!(
                    "should have {bytes} bytes, and the manifest says {}",
                    record.bytes
                ),
            ));
        }
        let hashes = self.hashes.remove(name).unwrap_or_default();
        Mapped::open(
            self.index,
            format!("segment {}, file `{name}`", self.segment),
            &self.path_of(name),
            record.bytes,
            hashes,
        )
    }

    pub(crate) fn corrupt(&self, file: &str, problem: String) -> Error {
        corrupt(self.index, self.segment, file, problem)
    }
}

/// A committed segment, open for reading.
///
/// Positions within it are relative: `(context - first_context) * S + offset`.
#[derive(Debug)]
pub struct Segment {
    index: PathBuf,
    first_context: u64,
    contexts: usize,
    nnz: u64,
    n_latents: usize,
    shape: Shape,
    text: Text,
    lists: Mapped,
    offsets: Mapped,
    hashes: Mapped,
}

impl Segment {
    /// Maps the files of a segment after comparing their sizes; reads the page hashes alone.
    pub(crate) fn open(
        index: &Path,
        parameters: &Parameters,
        record: &SegmentRecord,
    ) -> Result<Self> {
        // The manifest has been checked: a segment holds fewer than 2^32 positions.
        let length = u64::from(parameters.context_length);
        let mut folder = Folder::open_folder(index, record, &record.text)?;
        let text = Text::open(&mut folder, record.contexts, length)?;
        let mut folder = Folder::open_folder(index, record, &record.lists)?;
        let n_latents = parameters.n_latents as usize;
        Ok(Self {
            index: index.to_owned(),
            first_context: record.first_context,
            contexts: record.contexts as usize,
            nnz: record.nnz,
            n_latents,
            shape: shape(parameters, record.contexts),
            text,
            lists: folder.open(LISTS, None)?,
            offsets: folder.open(OFFSETS, Some((n_latents as u64 + 1) * 8))?,
            hashes: folder.open(HASHES, Some(record.contexts * 8))?,
        })
    }

    /// The number of the first context.
    #[must_use]
    pub fn first_context(&self) -> u64 {
        self.first_context
    }

    /// How many contexts it holds.
    #[must_use]
    pub fn contexts(&self) -> usize {
        self.contexts
    }

    /// How many positions it holds, masked ones included.
    #[must_use]
    pub fn n_positions(&self) -> usize {
        self.text.n_positions()
    }

    /// How many windows it holds.
    #[must_use]
    pub fn n_windows(&self) -> usize {
        self.shape.n_windows as usize
    }

    /// How many postings it holds.
    #[must_use]
    pub fn nnz(&self) -> u64 {
        self.nnz
    }

    /// What its lists share.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The list of a latent, which is below `n_latents`; one without a posting has an empty list.
    pub fn list(&self, latent: u32) -> Result<List<'_>> {
        let at = latent as usize;
        let &[start, end] = self.offsets.values::<u64>(at..at + 2)? else {
            return Err(corrupt(
                &self.index,
                self.first_context,
                OFFSETS,
                "is too short".into(),
            ));
        };
        let length = self.lists.bytes(start..end)?.len();
        // What lies behind the list, but not beyond the page, which would have to be checked.
        let page = end.next_multiple_of(PAGE as u64).min(self.lists.len());
        let bytes = self.lists.bytes(start..page.min(end + SLACK))?;
        List::open_first(bytes, length, self.shape).map_err(|d| self.damaged(latent, d))
    }

    /// The error of a list that is none.
    pub fn damaged(&self, latent: u32, damaged: Damaged) -> Error {
        // A list that changed under the reader has its own error.
        if let Err(error) = self.lists.intact() {
            return error;
        }
        let problem = format!("has a list of latent {latent} that {}", damaged.0);
        corrupt(&self.index, self.first_context, LISTS, problem)
    }

    /// The token at a position.
    pub fn token(&self, position: usize) -> Result<u32> {
        self.text.token(position)
    }

    /// Appends the tokens of some positions.
    pub fn tokens_into(&self, range: Range<usize>, out: &mut Vec<u32>) -> Result<()> {
        self.text.tokens_into(range, out)
    }

    /// The document that a position belongs to.
    pub fn document_of(&self, position: usize) -> Result<u64> {
        self.text.document_of(position)
    }

    /// Appends the documents of some positions.
    pub fn documents_into(&self, range: Range<usize>, out: &mut Vec<u64>) -> Result<()> {
        self.text.documents_into(range, out)
    }

    /// Where each run of positions of one document begins, and the documents.
    pub fn document_runs(&self) -> Result<(&[u32], &[u64])> {
        self.text.document_runs()
    }

    /// Which positions count.
    pub fn mask(&self) -> Result<Mask<'_>> {
        self.text.mask()
    }

    /// One hash per context, of its postings.
    pub fn hashes(&self) -> Result<&[u64]> {
        self.hashes.all()
    }

    /// One hash per context, of its text.
    pub fn text_hashes(&self) -> Result<&[u64]> {
        self.text.hashes()
    }

    pub(crate) fn text(&self) -> &Text {
        &self.text
    }

    /// Whether every file is as long as it was when it was opened; to be asked after the last use
    /// of what was read, before an answer is given.
    pub fn intact(&self) -> Result<()> {
        self.text.intact()?;
        [&self.lists, &self.offsets, &self.hashes]
            .into_iter()
            .try_for_each(Mapped::intact)
    }

    /// Compares every checksum, also of pages that have been looked at before, and the numbers of
    /// every list with the manifest.
    pub(crate) fn verify(&self) -> Result<()> {
        self.text.verify(&self.index, self.first_context)?;
        for file in [&self.lists, &self.offsets, &self.hashes] {
            file.verify()?;
        }
        let offsets: &[u64] = self.offsets.all()?;
        let wrong = |file, problem: &str| {
            corrupt(&self.index, self.first_context, file, problem.to_owned())
        };
        if offsets.first() != Some(&0)
            || offsets.last() != Some(&self.lists.len())
            || !offsets.is_sorted()
        {
            return Err(wrong(OFFSETS, "holds numbers that are out of range"));
        }
        let mut nnz = 0;
        for latent in 0..self.n_latents as u32 {
            let list = self.list(latent)?;
            let limit = self.n_positions() as u64;
            if list.n_postings() > limit {
                return Err(wrong(LISTS, "has more postings than positions"));
            }
            nnz += list.n_postings();
        }
        if nnz != self.nnz {
            return Err(wrong(
                LISTS,
                "has another number of postings than the manifest",
            ));
        }
        Ok(())
    }
}

/// What the lists of a segment with so many contexts share.
pub(crate) fn shape(parameters: &Parameters, contexts: u64) -> Shape {
    let windows = contexts * u64::from(parameters.context_length / parameters.window);
    Shape {
        n_windows: windows as u32,
        window: parameters.window,
        lossless: parameters.lossless,
    }
}
