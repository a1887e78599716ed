//! The text of a segment: tokens, documents and mask, in a folder that hookpoints may share.
//!
//! All numbers are little-endian. With `C` contexts of `S` tokens and `D` runs of one document:
//!
//! | file | type | length | content |
//! |---|---|---|---|
//! | `tokens.u16` or `tokens.u32` | u16, u32 | C·S | token ids; u16 if all are below 65,536 |
//! | `document_starts.u32` | u32 | D | positions where another document begins; the first is 0 |
//! | `document_ids.u64` | u64 | D | its id; `2^64 - 1` is padding |
//! | `mask.bits` | bits | C·S | 1: in the statistics; bit `i` is bit `i % 8` of byte `i / 8` |
//! | `hashes.u64` | u64 | C | a hash of each context's text |
//! | `pages.u64` | u64 | | the page hashes of the files above, in the order of their names |

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use crate::error::Result;
use crate::files::{FileWriter, FolderWriter};
use crate::manifest::FileRecord;
use crate::mapped::Mapped;
use crate::random::document_side;
use crate::segment::{Folder, corrupt};
use crate::sides::NO_SIDE;

pub(crate) const TOKENS_U16: &str = "tokens.u16";
pub(crate) const TOKENS_U32: &str = "tokens.u32";
pub(crate) const STARTS: &str = "document_starts.u32";
pub(crate) const IDS: &str = "document_ids.u64";
pub(crate) const MASK: &str = "mask.bits";
pub(crate) const HASHES: &str = "hashes.u64";

/// Some text, one context after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TextPart {
    pub(crate) tokens: Vec<u32>,
    /// Where another document begins, from 0 on.
    pub(crate) starts: Vec<u32>,
    /// Its id.
    pub(crate) ids: Vec<u64>,
    pub(crate) mask: Vec<bool>,
}

impl TextPart {
    /// Appends another part.
    pub(crate) fn append(&mut self, other: &Self) {
        let base = self.tokens.len() as u32;
        self.tokens.extend_from_slice(&other.tokens);
        for (&start, &id) in other.starts.iter().zip(&other.ids) {
            if self.ids.last() != Some(&id) {
                self.starts.push(base + start);
                self.ids.push(id);
            }
        }
        self.mask.extend_from_slice(&other.mask);
    }
}

/// What is known of a text when it has been written.
pub(crate) struct WrittenText {
    pub(crate) files: BTreeMap<String, FileRecord>,
    /// Unmasked tokens.
    pub(crate) n_tokens: u64,
    /// The side of every window.
    pub(crate) sides: Vec<u8>,
}

/// Writes the text folder of one segment, piece by piece.
pub(crate) struct TextWriter {
    folder: FolderWriter,
    wide: bool,
    tokens: FileWriter,
    starts: FileWriter,
    ids: FileWriter,
    mask: FileWriter,
    hashes: FileWriter,
    scan: SideScan,
    position: u32,
    last: Option<u64>,
    /// Mask bits that do not fill a byte yet.
    byte: u8,
    narrow: Vec<u16>,
    n_tokens: u64,
}

impl TextWriter {
    /// Begins the folder `text/name`; `wide` if a token id is 65,536 or more.
    pub(crate) fn create(
        text: &Path,
        name: &str,
        wide: bool,
        window: u32,
        split_seed: u64,
        durable: bool,
    ) -> Result<Self> {
        let folder = FolderWriter::create(text, name, durable)?;
        Ok(Self {
            tokens: folder.file(if wide { TOKENS_U32 } else { TOKENS_U16 })?,
            starts: folder.file(STARTS)?,
            ids: folder.file(IDS)?,
            mask: folder.file(MASK)?,
            hashes: folder.file(HASHES)?,
            folder,
            wide,
            scan: SideScan::new(window, split_seed),
            position: 0,
            last: None,
            byte: 0,
            narrow: Vec::new(),
            n_tokens: 0,
        })
    }

    /// Appends text.
    pub(crate) fn push(&mut self, part: &TextPart) -> Result<()> {
        if self.wide {
            self.tokens.write(bytemuck::cast_slice(&part.tokens))?;
        } else {
            self.narrow.clear();
            self.narrow.extend(part.tokens.iter().map(|&t| t as u16));
            self.tokens.write(bytemuck::cast_slice(&self.narrow))?;
        }
        for (&start, &id) in part.starts.iter().zip(&part.ids) {
            if self.last != Some(id) {
                self.last = Some(id);
                self.starts.write(&(self.position + start).to_le_bytes())?;
                self.ids.write(&id.to_le_bytes())?;
            }
        }
        for &live in &part.mask {
            self.byte |= u8::from(live) << (self.position % 8);
            self.n_tokens += u64::from(live);
            self.position += 1;
            if self.position.is_multiple_of(8) {
                self.mask.write(&[self.byte])?;
                self.byte = 0;
            }
        }
        self.scan.push(part);
        Ok(())
    }

    /// Ends the folder; `hashes` has one per context.
    pub(crate) fn finish(mut self, hashes: &[u64], shared: bool) -> Result<WrittenText> {
        if !self.position.is_multiple_of(8) {
            self.mask.write(&[self.byte])?;
        }
        self.hashes.write(bytemuck::cast_slice(hashes))?;
        let tokens = if self.wide { TOKENS_U32 } else { TOKENS_U16 };
        self.folder.close(tokens, self.tokens)?;
        self.folder.close(STARTS, self.starts)?;
        self.folder.close(IDS, self.ids)?;
        self.folder.close(MASK, self.mask)?;
        self.folder.close(HASHES, self.hashes)?;
        Ok(WrittenText {
            files: self.folder.finish(shared)?,
            n_tokens: self.n_tokens,
            sides: self.scan.sides,
        })
    }
}

/// The side of each window, from text that comes in pieces.
struct SideScan {
    window: u32,
    split_seed: u64,
    /// Positions of the window that has begun.
    filled: u32,
    /// Which sides it has: bit 0 explain, bit 1 score.
    seen: u8,
    sides: Vec<u8>,
}

impl SideScan {
    fn new(window: u32, split_seed: u64) -> Self {
        Self {
            window,
            split_seed,
            filled: 0,
            seen: 0,
            sides: Vec::new(),
        }
    }

    fn push(&mut self, part: &TextPart) {
        for (run, &id) in part.ids.iter().enumerate() {
            let bit = 1 << document_side(id, self.split_seed);
            let next = part.starts.get(run + 1).copied();
            let end = next.map_or(part.mask.len(), |end| end as usize);
            for &live in &part.mask[part.starts[run] as usize..end] {
                self.seen |= if live { bit } else { 0 };
                self.filled += 1;
                if self.filled == self.window {
                    self.sides.push(match self.seen {
                        1 => 0,
                        2 => 1,
                        _ => NO_SIDE,
                    });
                    (self.filled, self.seen) = (0, 0);
                }
            }
        }
    }
}

/// The tokens of a segment, as they lie in its file.
#[derive(Debug)]
enum Tokens {
    Narrow(Mapped),
    Wide(Mapped),
}

/// The text of a committed segment, open for reading.
#[derive(Debug)]
pub(crate) struct Text {
    n_positions: usize,
    tokens: Tokens,
    n_runs: usize,
    starts: Mapped,
    ids: Mapped,
    mask: Mapped,
    hashes: Mapped,
}

/// Which positions of a segment count: one bit each.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a>(pub(crate) &'a [u8]);

/// The tokens of a segment; to be used no longer than until the file is asked whether it is intact.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TokenSlice<'a> {
    Narrow(&'a [u16]),
    Wide(&'a [u32]),
}

impl TokenSlice<'_> {
    /// The token at a position, relative to the segment.
    #[inline]
    pub(crate) fn get(self, position: usize) -> u32 {
        match self {
            Self::Narrow(tokens) => u32::from(tokens[position]),
            Self::Wide(tokens) => tokens[position],
        }
    }

    /// Appends the tokens at some positions, each with the one before it; that of the first of all
    /// is itself.
    pub(crate) fn around(self, positions: &[u32], out: &mut Vec<(u32, u32)>) {
        fn of<T: Copy + Into<u32>>(tokens: &[T], position: u32) -> (u32, u32) {
            let at = position as usize;
            (tokens[at].into(), tokens[at.saturating_sub(1)].into())
        }
        match self {
            Self::Narrow(tokens) => out.extend(positions.iter().map(|&p| of(tokens, p))),
            Self::Wide(tokens) => out.extend(positions.iter().map(|&p| of(tokens, p))),
        }
    }
}

impl Mask<'_> {
    /// Whether the token at `position` (relative to the segment) is in the statistics.
    #[must_use]
    #[inline]
    pub fn get(self, position: usize) -> bool {
        self.0[position / 8] >> (position % 8) & 1 == 1
    }
}

impl Text {
    /// Maps the files after comparing their sizes.
    pub(crate) fn open(folder: &mut Folder<'_>, contexts: u64, length: u64) -> Result<Self> {
        let n_positions = contexts * length;
        let tokens = if folder.has(TOKENS_U16) {
            Tokens::Narrow(folder.open(TOKENS_U16, Some(n_positions * 2))?)
        } else {
            Tokens::Wide(folder.open(TOKENS_U32, Some(n_positions * 4))?)
        };
        let starts = folder.open(STARTS, None)?;
        let n_runs = starts.len() / 4;
        if starts.len() % 4 != 0 || n_runs > n_positions || n_runs == 0 {
            return Err(folder.corrupt(STARTS, "has a length that cannot be".to_owned()));
        }
        Ok(Self {
            n_positions: n_positions as usize,
            tokens,
            n_runs: n_runs as usize,
            starts,
            ids: folder.open(IDS, Some(n_runs * 8))?,
            mask: folder.open(MASK, Some(n_positions.div_ceil(8)))?,
            hashes: folder.open(HASHES, Some(contexts * 8))?,
        })
    }

    pub(crate) fn token(&self, position: usize) -> Result<u32> {
        Ok(match &self.tokens {
            Tokens::Narrow(file) => u32::from(file.values::<u16>(position..position + 1)?[0]),
            Tokens::Wide(file) => file.values::<u32>(position..position + 1)?[0],
        })
    }

    pub(crate) fn tokens_into(&self, range: Range<usize>, out: &mut Vec<u32>) -> Result<()> {
        match &self.tokens {
            Tokens::Narrow(file) => {
                out.extend(file.values::<u16>(range)?.iter().map(|&t| u32::from(t)));
            }
            Tokens::Wide(file) => out.extend_from_slice(file.values(range)?),
        }
        self.tokens_file().intact()
    }

    /// All tokens, where they lie.
    pub(crate) fn tokens(&self) -> Result<TokenSlice<'_>> {
        Ok(match &self.tokens {
            Tokens::Narrow(file) => TokenSlice::Narrow(file.all()?),
            Tokens::Wide(file) => TokenSlice::Wide(file.all()?),
        })
    }

    fn tokens_file(&self) -> &Mapped {
        match &self.tokens {
            Tokens::Narrow(file) | Tokens::Wide(file) => file,
        }
    }

    /// Where each run of one document begins, and its id.
    pub(crate) fn document_runs(&self) -> Result<(&[u32], &[u64])> {
        Ok((self.starts.all()?, self.ids.all()?))
    }

    pub(crate) fn document_of(&self, position: usize) -> Result<u64> {
        let run = self.run_of(position)?;
        Ok(self.ids.values::<u64>(run..run + 1)?[0])
    }

    /// The run that a position belongs to; the last run's pages alone are looked at.
    fn run_of(&self, position: usize) -> Result<usize> {
        let starts: &[u32] = self.starts.values(0..self.n_runs)?;
        Ok(starts
            .partition_point(|&start| start as usize <= position)
            .saturating_sub(1))
    }

    pub(crate) fn documents_into(&self, range: Range<usize>, out: &mut Vec<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let (starts, ids) = self.document_runs()?;
        let mut at = range.start;
        let mut run = self.run_of(at)?;
        while at < range.end {
            let next = starts
                .get(run + 1)
                .map_or(range.end, |&start| start as usize);
            // A damaged start must not lead astray.
            let end = next.clamp(at + usize::from(run + 1 >= starts.len()), range.end);
            out.extend(std::iter::repeat_n(ids[run.min(ids.len() - 1)], end - at));
            (at, run) = (end, run + 1);
        }
        self.starts.intact()?;
        self.ids.intact()
    }

    pub(crate) fn mask(&self) -> Result<Mask<'_>> {
        self.mask.all().map(Mask)
    }

    /// One hash per context.
    pub(crate) fn hashes(&self) -> Result<&[u64]> {
        self.hashes.all()
    }

    /// The text of some positions.
    pub(crate) fn part(&self, range: Range<usize>) -> Result<TextPart> {
        let mut part = TextPart::default();
        self.tokens_into(range.clone(), &mut part.tokens)?;
        let (starts, ids) = self.document_runs()?;
        let from = self.run_of(range.start)?;
        for (&start, &id) in starts[from..].iter().zip(&ids[from..]) {
            if start as usize >= range.end {
                break;
            }
            part.starts
                .push((start as usize).saturating_sub(range.start) as u32);
            part.ids.push(id);
        }
        let mask = self.mask()?;
        part.mask.extend(range.map(|p| mask.get(p)));
        Ok(part)
    }

    /// Whether every token fits 16 bits.
    pub(crate) fn is_wide(&self) -> bool {
        matches!(self.tokens, Tokens::Wide(_))
    }

    pub(crate) fn n_positions(&self) -> usize {
        self.n_positions
    }

    fn files(&self) -> [&Mapped; 5] {
        [
            self.tokens_file(),
            &self.starts,
            &self.ids,
            &self.mask,
            &self.hashes,
        ]
    }

    /// Compares every checksum, and whether the documents' runs are in order.
    pub(crate) fn verify(&self, index: &Path, segment: u64) -> Result<()> {
        self.files().into_iter().try_for_each(Mapped::verify)?;
        let (starts, _) = self.document_runs()?;
        let ordered = starts.is_sorted_by(|a, b| a < b)
            && starts.first() == Some(&0)
            && starts
                .last()
                .is_some_and(|&s| (s as usize) < self.n_positions);
        if ordered {
            return Ok(());
        }
        Err(corrupt(
            index,
            segment,
            STARTS,
            "holds numbers that are out of range".to_owned(),
        ))
    }

    /// Whether every file is as long as it was; to be asked after the last use.
    pub(crate) fn intact(&self) -> Result<()> {
        self.files().into_iter().try_for_each(Mapped::intact)
    }
}
