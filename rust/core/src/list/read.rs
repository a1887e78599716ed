//! Bytes to windows and their hits.

use super::block::Block;
use super::{BLOCK, Damaged, EXACT, Run, Shape};
use crate::bits::{BitReader, Bits, WordReader, take_varint};
use crate::code::{self, LOW_BITS, MAX_CODE};

/// Bytes behind a list that make reading its end quicker.
pub(crate) const SLACK: u64 = 64;

/// One latent's list, open for reading. Costs as much as it has runs.
#[derive(Clone, Debug)]
pub struct List<'a> {
    pub(super) shape: Shape,
    pub(super) n: u32,
    hits: u64,
    pub(super) runs: Vec<Run>,
    pub(super) floor: u16,
    pub(super) dense: bool,
    pub(super) skips: Bits<'a>,
    /// Where the skip entries begin, and the bits of an offset in them.
    pub(super) skips_at: u64,
    pub(super) skip_width: u32,
    pub(super) blocks: Bits<'a>,
    pub(super) exact: Bits<'a>,
}

/// The hits of one window, by offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// Offsets in the window, ascending.
    pub offsets: Vec<u32>,
    /// Their bf16. In a list that is not lossless the low bits are 0, those of a maximum that is kept
    /// exactly excepted.
    pub values: Vec<u16>,
    /// The place of the peak in the two.
    pub peak: usize,
}

impl<'a> List<'a> {
    /// Reads the header; refuses one that contradicts itself or the segment.
    pub fn open(bytes: &'a [u8], shape: Shape) -> Result<Self, Damaged> {
        Self::open_first(bytes, bytes.len(), shape)
    }

    /// Opens the list in the first `length` bytes. [`SLACK`] more are of use: with them the end of the
    /// list is read as quickly as the rest.
    pub(crate) fn open_first(all: &'a [u8], length: usize, shape: Shape) -> Result<Self, Damaged> {
        let bytes = &all[..length];
        if bytes.is_empty() {
            return Ok(Self::of_nothing(shape));
        }
        let mut rest = bytes;
        let mut number = |largest: u64| match take_varint(&mut rest) {
            Some(value) if value <= largest => Ok(value),
            _ => Err(Damaged("has a header that is out of range")),
        };
        let n = number(u64::from(shape.n_windows))? as u32;
        let most = u64::from(n) * u64::from(shape.window - 1);
        let hits = u64::from(n) + number(most)?;
        let hi = number(u64::from(MAX_CODE))? as u16;
        let lo = hi - number(u64::from(hi))? as u16;
        let floor = lo - number(u64::from(lo))? as u16;
        let damaged = Damaged("ends too early");
        let (&params, after) = rest.split_first().ok_or(damaged)?;
        rest = after;
        let length_of_blocks = take_varint(&mut rest).ok_or(damaged)?;
        let mut skip_width = 0;
        if n > BLOCK {
            let (&width, after) = rest.split_first().ok_or(damaged)?;
            skip_width = u32::from(width);
            rest = after;
        }
        // Every window and every hit has a bit at least.
        if n == 0 || hits > bytes.len() as u64 * 8 * u64::from(shape.window) || skip_width > 32 {
            return Err(Damaged("has a header that is out of range"));
        }
        let mut head = WordReader::new(Bits::of(rest), 0);
        let narrower = u32::from(params >> 1 & 3);
        let runs = read_runs(
            &mut head,
            shape,
            (hi, lo),
            n,
            u32::from(params >> 3),
            narrower,
        )?;
        let entry = u64::from(skip_width + shape.window_bits());
        let after_skips = head.at + u64::from((n - 1) / BLOCK) * entry;
        let at = after_skips.div_ceil(8);
        let end = at
            .checked_add(length_of_blocks)
            .filter(|&end| end <= rest.len() as u64);
        let end = end.ok_or(damaged)?;
        Ok(Self {
            shape,
            n,
            hits,
            runs,
            floor,
            dense: params & 1 == 1,
            skips: Bits::of(rest),
            skips_at: head.at,
            skip_width,
            blocks: Bits {
                bytes: &all[bytes.len() - rest.len() + at as usize..],
                n_bytes: length_of_blocks as usize,
            },
            exact: Bits::of(&rest[end as usize..]),
        })
    }

    fn of_nothing(shape: Shape) -> Self {
        Self {
            shape,
            n: 0,
            hits: 0,
            runs: Vec::new(),
            floor: 0,
            dense: false,
            skips: Bits::of(&[]),
            skips_at: 0,
            skip_width: 0,
            blocks: Bits::of(&[]),
            exact: Bits::of(&[]),
        }
    }

    /// What all lists of the segment share.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Windows in which the latent is active.
    #[must_use]
    pub fn n_windows(&self) -> u32 {
        self.n
    }

    /// Its postings.
    #[must_use]
    pub fn n_postings(&self) -> u64 {
        self.hits
    }

    /// The windows of each code, the strongest first.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The run of the window with this rank, below `n_windows`.
    pub(super) fn run_of(&self, rank: u32) -> usize {
        self.runs.partition_point(|run| run.first <= rank) - 1
    }

    /// The code of the largest activation of the window with this rank.
    #[must_use]
    pub fn code_at(&self, rank: u32) -> u16 {
        self.runs[self.run_of(rank)].code
    }

    /// Appends all windows in the order of their ranks.
    pub fn windows(&self, out: &mut Vec<u32>) -> Result<(), Damaged> {
        let (mut block, mut run) = (Block::empty(), 0);
        for number in 0..self.n.div_ceil(BLOCK) {
            (_, run) = self.read_windows(number, run, &mut block)?;
            out.extend_from_slice(&block.windows[..block.len]);
        }
        Ok(())
    }

    /// The ranks whose maxima are kept exactly, ascending, with their bf16.
    ///
    /// Among them are the 200 strongest windows of the explain side and those of the score side. All
    /// ranks of a lossless list are, and none is returned here.
    pub fn exact(&self) -> Result<Vec<(u32, u16)>, Damaged> {
        let damaged = Damaged("has exact maxima that are out of range");
        let mut found = Vec::new();
        let mut reader = BitReader {
            bits: self.exact,
            at: 0,
        };
        if self.shape.lossless || self.n == 0 {
            return Ok(found);
        }
        let mut run = 0;
        let mut push = |rank: u32, low: u32| {
            while self.runs[run].first + self.runs[run].count <= rank {
                run += 1;
            }
            found.push((rank, code::join(self.runs[run].code, low as u8)));
        };
        if self.n <= EXACT {
            (0..self.n).for_each(|rank| push(rank, reader.get(LOW_BITS)));
            return Ok(found);
        }
        let leading = reader.gamma().ok_or(damaged)? - 1;
        if leading > self.n {
            return Err(damaged);
        }
        (0..leading).for_each(|rank| push(rank, reader.get(LOW_BITS)));
        let more = reader.gamma().ok_or(damaged)? - 1;
        let mut next = leading;
        for _ in 0..more {
            let gap = reader.gamma().ok_or(damaged)? - 1;
            let rank = next.checked_add(gap).filter(|&rank| rank < self.n);
            let rank = rank.ok_or(damaged)?;
            push(rank, reader.get(LOW_BITS));
            next = rank + 1;
        }
        Ok(found)
    }

    /// Reads every window and its hits, in the order of the ranks.
    pub fn for_each(&self, mut visit: impl FnMut(u32, u32, &Hits)) -> Result<(), Damaged> {
        let mut block = Block::empty();
        let mut hits = Hits::default();
        let mut run = 0;
        for number in 0..self.n.div_ceil(BLOCK) {
            run = self.read_block(number, run, &mut block)?;
            let mut skipped = (0, 0);
            for at in 0..block.len {
                self.read_hits(&block, at, skipped, &mut hits)?;
                visit(block.first + at as u32, block.windows[at], &hits);
                block.skip(at, &mut skipped);
            }
        }
        Ok(())
    }
}

/// Reads the histogram: the runs of `n` windows with codes from `hi` down to `lo`.
fn read_runs(
    head: &mut WordReader<'_>,
    shape: Shape,
    (hi, lo): (u16, u16),
    n: u32,
    order: u32,
    narrower: u32,
) -> Result<Vec<Run>, Damaged> {
    let damaged = Damaged("has a histogram that is out of range");
    let mut runs = Vec::with_capacity(64.min(usize::from(hi - lo) + 1));
    let mut first = 0u32;
    for code in (lo..=hi).rev() {
        let (high, low) = head.gamma_and_field(order).ok_or(damaged)?;
        let count = u64::from(high) << order | u64::from(low);
        let left = u64::from(n - first);
        if count > left {
            return Err(damaged);
        }
        if count > 0 {
            let count = count as u32;
            runs.push(Run {
                code,
                first,
                count,
                gap_bits: shape.gap_bits(count, narrower),
            });
            first += count;
        }
    }
    if first != n {
        return Err(damaged);
    }
    Ok(runs)
}
