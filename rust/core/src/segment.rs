//! One segment: a range of contexts, its texts and its postings, in seven flat files.
//!
//! All numbers are little-endian. With `C` contexts of `S` tokens and `L` latents:
//!
//! | file | type | length | content |
//! |---|---|---|---|
//! | `tokens.u32` | u32 | C·S | token ids |
//! | `documents.u64` | u64 | C·S | document ids; `2^64 - 1` is padding |
//! | `mask.bits` | bits | C·S | 1: in the statistics; bit `i` is bit `i % 8` of byte `i / 8` |
//! | `hashes.u64` | u64 | C | hash of each context: text, mask and postings |
//! | `offsets.u64` | u64 | L + 1 | where each latent's postings begin |
//! | `positions.u32` | u32 | nnz | positions, relative to the segment, ascending by latent |
//! | `activations.f32` | f32 | nnz | their activations, above 0 |

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bytemuck::Pod;
use memmap2::Mmap;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::list::{Damaged, Encoder, List, Shape};
use crate::manifest::{FileRecord, Parameters, SegmentRecord, hex, sync_folder};

#[cfg(target_endian = "big")]
compile_error!("the index is read in place, and its files are little-endian");

const TOKENS: &str = "tokens.u32";
const DOCUMENTS: &str = "documents.u64";
const MASK: &str = "mask.bits";
const HASHES: &str = "hashes.u64";
const OFFSETS: &str = "offsets.u64";
const POSITIONS: &str = "positions.u32";
const ACTIVATIONS: &str = "activations.f32";

/// The folder of the segments within the index.
pub(crate) const FOLDER: &str = "segments";
/// The end of the name of a segment that is being written.
pub(crate) const UNFINISHED: &str = ".tmp";

/// The name of the segment that begins at `first_context`.
pub(crate) fn name(first_context: u64) -> String {
    format!("{first_context:020}")
}

/// Everything in a segment, before it is written.
pub(crate) struct SegmentData {
    pub(crate) first_context: u64,
    pub(crate) tokens: Vec<u32>,
    pub(crate) documents: Vec<u64>,
    pub(crate) mask: Vec<bool>,
    pub(crate) hashes: Vec<u64>,
    pub(crate) offsets: Vec<u64>,
    pub(crate) positions: Vec<u32>,
    pub(crate) activations: Vec<f32>,
}

impl SegmentData {
    /// Writes the files beside their final place, then moves the folder there.
    ///
    /// The segment is part of the index only once a manifest names it.
    pub(crate) fn write(&self, index: &Path) -> Result<SegmentRecord> {
        let segments = index.join(FOLDER);
        let folder = segments.join(name(self.first_context));
        let unfinished = segments.join(name(self.first_context) + UNFINISHED);
        fs::create_dir(&unfinished).map_err(Error::io("create", &unfinished))?;
        let written = self.write_files(&unfinished).and_then(|record| {
            sync_folder(&unfinished)?;
            fs::rename(&unfinished, &folder).map_err(Error::io("rename to", &folder))?;
            sync_folder(&segments)?;
            Ok(record)
        });
        if written.is_err() {
            // On a full disk the half of a segment would be in the way of everything else; should
            // it not go either, the next writer removes it.
            let _ = fs::remove_dir_all(&unfinished);
        }
        written
    }

    fn write_files(&self, folder: &Path) -> Result<SegmentRecord> {
        let mut bits = vec![0u8; self.mask.len().div_ceil(8)];
        for (i, _) in self.mask.iter().enumerate().filter(|&(_, &live)| live) {
            bits[i / 8] |= 1 << (i % 8);
        }
        let contents: [(&str, &[u8]); 7] = [
            (TOKENS, bytemuck::cast_slice(&self.tokens)),
            (DOCUMENTS, bytemuck::cast_slice(&self.documents)),
            (MASK, &bits),
            (HASHES, bytemuck::cast_slice(&self.hashes)),
            (OFFSETS, bytemuck::cast_slice(&self.offsets)),
            (POSITIONS, bytemuck::cast_slice(&self.positions)),
            (ACTIVATIONS, bytemuck::cast_slice(&self.activations)),
        ];
        let mut files = BTreeMap::new();
        for (name, content) in contents {
            let path = folder.join(name);
            File::create(&path)
                .and_then(|mut file| {
                    file.write_all(content)?;
                    file.sync_all()
                })
                .map_err(Error::io("write", &path))?;
            let record = FileRecord {
                bytes: content.len() as u64,
                xxh3: hex(xxh3_64(content)),
            };
            files.insert(name.to_owned(), record);
        }
        Ok(SegmentRecord {
            first_context: self.first_context,
            contexts: self.hashes.len() as u64,
            n_tokens: self.mask.iter().filter(|&&live| live).count() as u64,
            nnz: self.positions.len() as u64,
            files,
        })
    }
}

/// One file of a segment, mapped; its checksum is compared when it is first looked at.
#[derive(Debug)]
struct DataFile {
    index: PathBuf,
    segment: u64,
    name: &'static str,
    record: FileRecord,
    /// None for an empty file.
    map: Option<Mmap>,
    checked: OnceLock<std::result::Result<(), String>>,
}

impl DataFile {
    fn open(index: &Path, record: &SegmentRecord, name: &'static str, bytes: u64) -> Result<Self> {
        let corrupt = |problem: String| corrupt(index, record.first_context, name, problem);
        let Some(file_record) = record.files.get(name) else {
            return Err(corrupt("is not in the manifest".to_owned()));
        };
        if file_record.bytes != bytes {
            return Err(corrupt(format!(
                "should have {bytes} bytes, and the manifest says {}",
                file_record.bytes
            )));
        }
        let path = index
            .join(FOLDER)
            .join(self::name(record.first_context))
            .join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if crate::manifest::is_missing(&error) => {
                return Err(corrupt("is missing".to_owned()));
            }
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let found = file.metadata().map_err(Error::io("read", &path))?.len();
        if found != bytes {
            return Err(corrupt(format!(
                "has {found} bytes where the manifest says {bytes}"
            )));
        }
        let map = if bytes == 0 {
            None
        } else {
            // SAFETY: segments are never changed once the manifest names them; who changes one in
            // place while it is open breaks this, as with any mapped file. Mapping is what lets an
            // index be larger than memory.
            let map = unsafe { Mmap::map(&file) };
            Some(map.map_err(Error::io("map", &path))?)
        };
        Ok(Self {
            index: index.to_owned(),
            segment: record.first_context,
            name,
            record: file_record.clone(),
            map,
            checked: OnceLock::new(),
        })
    }

    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }

    fn verify(&self) -> Result<()> {
        if hex(xxh3_64(self.bytes())) == self.record.xxh3 {
            return Ok(());
        }
        Err(self.corrupt("does not match its checksum".to_owned()))
    }

    /// The content as numbers, after its checksum and `check` have passed once.
    fn values<T: Pod>(&self, check: impl Fn(&[T]) -> bool) -> Result<&[T]> {
        let bytes = self.bytes();
        let values: std::result::Result<&[T], _> = if bytes.is_empty() {
            Ok(&[])
        } else {
            bytemuck::try_cast_slice(bytes)
        };
        let checked = self.checked.get_or_init(|| {
            if hex(xxh3_64(bytes)) != self.record.xxh3 {
                return Err("does not match its checksum".to_owned());
            }
            match values {
                Ok(values) if check(values) => Ok(()),
                _ => Err("holds numbers that are out of range".to_owned()),
            }
        });
        match (checked, values) {
            (Ok(()), Ok(values)) => Ok(values),
            (Err(problem), _) => Err(self.corrupt(problem.clone())),
            (Ok(()), Err(error)) => Err(self.corrupt(format!("cannot be read: {error}"))),
        }
    }

    fn corrupt(&self, problem: String) -> Error {
        corrupt(&self.index, self.segment, self.name, problem)
    }
}

fn corrupt(index: &Path, segment: u64, file: &str, problem: String) -> Error {
    Error::Corrupt {
        index: index.to_owned(),
        place: format!("segment {segment}, file `{file}`"),
        problem,
    }
}

/// Which positions of a segment count: one bit each.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a>(&'a [u8]);

impl Mask<'_> {
    /// Whether the token at `position` (relative to the segment) is in the statistics.
    #[must_use]
    pub fn get(self, position: usize) -> bool {
        self.0[position / 8] >> (position % 8) & 1 == 1
    }
}

/// A committed segment, open for reading.
///
/// Positions within it are relative: `(context - first_context) * S + offset`.
#[derive(Debug)]
pub struct Segment {
    first_context: u64,
    contexts: usize,
    n_positions: usize,
    nnz: usize,
    tokens: DataFile,
    documents: DataFile,
    mask: DataFile,
    hashes: DataFile,
    offsets: DataFile,
    positions: DataFile,
    activations: DataFile,
    // What follows is the stand-in for format 1.
    shape: Shape,
    split_seed: u64,
    lists: Vec<OnceLock<Vec<u8>>>,
    runs: OnceLock<(Vec<u32>, Vec<u64>)>,
}

impl Segment {
    /// The shape of its lists.
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// How many windows it holds.
    #[must_use]
    pub fn n_windows(&self) -> u32 {
        self.shape.n_windows
    }

    /// The list of a latent.
    pub(crate) fn list(&self, latent: u32) -> Result<List<'_>> {
        let (positions, activations) = self.postings(latent)?;
        let bytes = match self.lists[latent as usize].get() {
            Some(bytes) => bytes,
            None => {
                let values: Vec<u16> =
                    activations.iter().map(|&a| crate::code::bf16_of(a)).collect();
                let (documents, mask) = (self.documents()?, self.mask()?);
                let sides: Vec<u8> = (0..self.n_windows() as usize)
                    .map(|w| {
                        let span = w * self.shape.window as usize..(w + 1) * self.shape.window as usize;
                        let mut seen = [false; 2];
                        for p in span.filter(|&p| mask.get(p)) {
                            seen[crate::random::document_side(documents[p], self.split_seed)
                                as usize] = true;
                        }
                        match seen {
                            [true, false] => 0,
                            [false, true] => 1,
                            _ => 2,
                        }
                    })
                    .collect();
                let mut bytes = Vec::new();
                Encoder::new(self.shape).encode(positions, &values, &sides, &mut bytes);
                self.lists[latent as usize].get_or_init(|| bytes)
            }
        };
        List::open(bytes, self.shape).map_err(|d| self.damaged(latent, &d))
    }

    /// What to say of a list that cannot be read.
    pub(crate) fn damaged(&self, latent: u32, damaged: &Damaged) -> Error {
        self.positions.corrupt(format!("has a damaged list of latent {latent}: {}", damaged.0))
    }

    /// Appends token ids.
    pub(crate) fn tokens_into(&self, span: Range<usize>, out: &mut Vec<u32>) -> Result<()> {
        out.extend_from_slice(&self.tokens()?[span]);
        Ok(())
    }

    /// Appends document ids.
    pub(crate) fn documents_into(&self, span: Range<usize>, out: &mut Vec<u64>) -> Result<()> {
        out.extend_from_slice(&self.documents()?[span]);
        Ok(())
    }

    /// The document of a position.
    pub(crate) fn document_of(&self, position: usize) -> Result<u64> {
        Ok(self.documents()?[position])
    }

    /// Where each run of one document begins, and its id.
    pub(crate) fn document_runs(&self) -> Result<(&[u32], &[u64])> {
        let documents = self.documents()?;
        let (starts, ids) = self.runs.get_or_init(|| {
            let (mut starts, mut ids) = (vec![], vec![]);
            for (p, &d) in documents.iter().enumerate() {
                if ids.last() != Some(&d) {
                    starts.push(p as u32);
                    ids.push(d);
                }
            }
            (starts, ids)
        });
        Ok((starts, ids))
    }

    /// Maps the files of a segment after comparing their sizes; reads none of them.
    pub(crate) fn open(
        index: &Path,
        parameters: &Parameters,
        record: &SegmentRecord,
    ) -> Result<Self> {
        // The manifest has been checked: a segment holds fewer than 2^32 positions.
        let n_positions = record.contexts * u64::from(parameters.context_length);
        let postings = record
            .nnz
            .checked_mul(4)
            .ok_or_else(|| corrupt(index, record.first_context, POSITIONS, "is too long".into()))?;
        let open = |name, bytes| DataFile::open(index, record, name, bytes);
        Ok(Self {
            first_context: record.first_context,
            contexts: record.contexts as usize,
            n_positions: n_positions as usize,
            nnz: record.nnz as usize,
            tokens: open(TOKENS, n_positions * 4)?,
            documents: open(DOCUMENTS, n_positions * 8)?,
            mask: open(MASK, n_positions.div_ceil(8))?,
            hashes: open(HASHES, record.contexts * 8)?,
            offsets: open(OFFSETS, (u64::from(parameters.n_latents) + 1) * 8)?,
            positions: open(POSITIONS, postings)?,
            activations: open(ACTIVATIONS, postings)?,
            shape: Shape {
                n_windows: (n_positions / u64::from(parameters.window)) as u32,
                window: parameters.window,
                lossless: parameters.attributes.contains_key("lossless"),
            },
            split_seed: parameters.split_seed,
            lists: (0..parameters.n_latents).map(|_| OnceLock::new()).collect(),
            runs: OnceLock::new(),
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
        self.n_positions
    }

    /// Token ids, one context after the other.
    pub fn tokens(&self) -> Result<&[u32]> {
        self.tokens.values(|_| true)
    }

    /// Document ids, one context after the other.
    pub fn documents(&self) -> Result<&[u64]> {
        self.documents.values(|_| true)
    }

    /// Which positions count.
    pub fn mask(&self) -> Result<Mask<'_>> {
        self.mask.values(|_| true).map(Mask)
    }

    /// One hash per context, of its text, mask and postings.
    pub fn hashes(&self) -> Result<&[u64]> {
        self.hashes.values(|_| true)
    }

    /// Where each latent's postings begin in the lists of positions and activations.
    pub fn offsets(&self) -> Result<&[u64]> {
        self.offsets.values(|offsets: &[u64]| {
            offsets.first() == Some(&0)
                && offsets.last() == Some(&(self.nnz as u64))
                && offsets.is_sorted()
        })
    }

    /// The postings of one latent (below `n_latents`): relative positions, ascending, and
    /// activations.
    pub fn postings(&self, latent: u32) -> Result<(&[u32], &[f32])> {
        let offsets = self.offsets()?;
        let range = offsets[latent as usize] as usize..offsets[latent as usize + 1] as usize;
        let positions = self
            .positions
            .values(|p: &[u32]| p.iter().all(|&p| (p as usize) < self.n_positions))?;
        let activations = self
            .activations
            .values(|a: &[f32]| a.iter().all(|&a| a > 0.0 && a.is_finite()))?;
        Ok((&positions[range.clone()], &activations[range]))
    }

    /// Compares every checksum, also of files that have been looked at before.
    pub(crate) fn verify(&self) -> Result<()> {
        let files = [
            &self.tokens,
            &self.documents,
            &self.mask,
            &self.hashes,
            &self.offsets,
            &self.positions,
            &self.activations,
        ];
        files.into_iter().try_for_each(DataFile::verify)?;
        self.postings(0)?;
        Ok(())
    }
}
