//! One block of a list: the windows, and where the fields of their hits lie.

use bytemuck::Pod;

use super::read::List;
use super::unpack::{self, FIRSTS, Firsts, Gaps, Plane, ROOM};
use super::{BLOCK, Damaged, Run};

/// Of more hits in a block beyond the first of each window it takes too long to mark them.
const MANY: u64 = 40;

/// Where the fields of a block lie, and how many hits its windows have.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) first: u32,
    pub(super) len: usize,
    /// The ends of the windows' gaps.
    pub(super) ones: Plane,
    pub(super) windows: Plane,
    pub(super) counts: [u32; BLOCK as usize],
    /// The windows with several hits, by their places in the block; `n_several` of them.
    pub(super) several: [u8; BLOCK as usize],
    pub(super) n_several: usize,
    /// Of each window: its code, and the bits of the difference between it and its other hits'.
    pub(super) codes_of: [u16; ROOM],
    pub(super) rest_bits: [u8; ROOM],
    /// Hits beyond the first of each window.
    pub(super) others: u64,
    /// Where the masks and the offsets of the peaks begin.
    pub(super) masks: u64,
    pub(super) peaks: u64,
    /// Of the other hits: their offsets, their codes, and all low bits.
    pub(super) offsets: u64,
    pub(super) codes: u64,
    pub(super) lows: u64,
}

impl Block {
    pub(super) fn empty() -> Self {
        Self {
            first: 0,
            len: 0,
            ones: [0; ROOM],
            windows: [0; ROOM],
            counts: [0; BLOCK as usize],
            several: [0; BLOCK as usize],
            n_several: 0,
            codes_of: [0; ROOM],
            rest_bits: [0; ROOM],
            others: 0,
            masks: 0,
            peaks: 0,
            offsets: 0,
            codes: 0,
            lows: 0,
        }
    }

    /// Where the fields of a dense block lie, whose masks of `width` bits begin at bit `at`.
    pub(super) fn place_dense(&mut self, at: u64, width: u64, offset_bits: u32) {
        self.masks = at;
        self.peaks = at + self.len as u64 * width;
        self.offsets = self.peaks + self.len as u64 * u64::from(offset_bits);
        self.codes = self.offsets;
        self.lows = self.codes;
    }

    /// Its hits.
    #[inline]
    pub(super) fn hits(&self) -> usize {
        self.len + self.others as usize
    }

    /// The places of the windows with several hits, ascending.
    #[inline]
    pub(super) fn several(&self) -> impl Iterator<Item = usize> {
        self.several[..self.n_several]
            .iter()
            .map(|&i| usize::from(i))
    }

    /// Of each of the other hits: its window's place.
    #[inline]
    pub(super) fn owners<'a>(&self, owners: &'a mut Vec<u8>) -> &'a [u8] {
        let n = self.others as usize;
        if owners.len() < n + 8 {
            owners.resize(n + 8, 0);
        }
        let mut from = 0;
        for &i in &self.several[..self.n_several] {
            let to = from + self.counts[usize::from(i)] as usize - 1;
            // Eight at a time, wanted or not: most have one.
            for at in (from..to).step_by(8) {
                owners[at..at + 8].fill(i);
            }
            from = to;
        }
        &owners[..n]
    }

    /// Which hits are the first of their windows, a bit each, where that serves [`Self::spread`].
    #[inline]
    pub(super) fn firsts(&self) -> Option<Firsts> {
        if self.others > MANY || !unpack::can_expand() {
            return None;
        }
        let mut firsts = [u64::MAX; FIRSTS];
        let mut others = 0;
        for i in self.several() {
            for _ in 1..self.counts[i] {
                others += 1;
                firsts[(i + others) / 64] &= !(1 << ((i + others) % 64));
            }
        }
        Some(firsts)
    }

    /// Writes what each window has to the place of its first hit among those of all; what it writes
    /// to other places is undefined.
    #[inline]
    pub(super) fn spread<T: Pod>(
        &self,
        firsts: Option<&Firsts>,
        values: &[T; ROOM],
        out: &mut [T],
    ) {
        if let Some(firsts) = firsts {
            unpack::expand(firsts, self.hits(), values, out);
            return;
        }
        let mut at = 0;
        for (&value, &count) in values[..self.len].iter().zip(&self.counts) {
            out[at] = value;
            at += count as usize;
        }
    }

    /// Lists the windows with several hits, once all are counted.
    #[inline]
    pub(super) fn list_several(&mut self) {
        let (mut n, mut hits) = (0, 0);
        for (i, &count) in (0..).zip(&self.counts[..self.len]) {
            // Without a branch, which would be guessed wrong.
            self.several[n] = i;
            n += usize::from(count > 1);
            hits += u64::from(count);
        }
        (self.n_several, self.others) = (n, hits - self.len as u64);
    }

    /// Adds a window's other hits, and the bits of their codes, to what is skipped.
    #[inline]
    pub(super) fn skip(&self, i: usize, skipped: &mut (u64, u64)) {
        let others = u64::from(self.counts[i] - 1);
        skipped.0 += others;
        skipped.1 += others * u64::from(self.rest_bits[i]);
    }

    /// Of the windows before the one at `at`: other hits, and the bits of their codes.
    #[inline]
    pub(super) fn skipped(&self, at: usize) -> (u64, u64) {
        let mut skipped = (0, 0);
        self.several()
            .take_while(|&i| i < at)
            .for_each(|i| self.skip(i, &mut skipped));
        skipped
    }
}

/// The windows of a run that are in a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) run: Run,
    /// Their places in the block.
    pub(super) from: usize,
    pub(super) to: usize,
}

impl List<'_> {
    /// Where a block begins, and the window before its first one.
    pub(super) fn skip(&self, block: u32) -> (u64, u32) {
        if block == 0 {
            return (0, 0);
        }
        let width = u64::from(self.skip_width) + u64::from(self.shape.window_bits());
        let at = self.skips_at + u64::from(block - 1) * width;
        let before = at + u64::from(self.skip_width);
        (
            u64::from(self.skips.get(at, self.skip_width)),
            self.skips.get(before, self.shape.window_bits()),
        )
    }

    /// What of each run, from `run` on, is among the `len` windows from rank `first` on.
    #[inline]
    pub(super) fn stretches(
        &self,
        run: usize,
        first: u32,
        len: usize,
    ) -> impl Iterator<Item = Stretch> {
        let mut from = 0;
        self.runs[run..].iter().map_while(move |&run| {
            let to = len.min((run.first + run.count - first) as usize);
            let stretch = Stretch { run, from, to };
            from = to;
            (stretch.from < len).then_some(stretch)
        })
    }

    /// Decodes the windows of a block whose first one is of the run `run`; returns where their hits
    /// begin, and the run of the next block's first window.
    #[inline]
    pub(super) fn read_windows(
        &self,
        number: u32,
        run: usize,
        block: &mut Block,
    ) -> Result<(u64, usize), Damaged> {
        let damaged = Damaged("has windows that are out of range");
        let first = number * BLOCK;
        let len = (self.n - first).min(BLOCK) as usize;
        (block.first, block.len) = (first, len);
        let (at, before) = self.skip(number);
        let stretches = || self.stretches(run, first, len);
        // The low bits come first, and how many there are follows from the runs.
        let (mut low_bits, mut next_run) = (0, run);
        for Stretch { run, from, to } in stretches() {
            low_bits += u64::from(run.gap_bits) * (to - from) as u64;
            next_run += usize::from(run.first + run.count <= first + to as u32);
        }
        let ones = &mut block.ones;
        let hits_at = unpack::ones(self.blocks, at + low_bits, len, ones).ok_or(damaged)?;
        let gaps = stretches().map(|Stretch { run, from, to }| Gaps {
            count: to - from,
            low_bits: run.gap_bits,
            next: if run.first < first {
                u64::from(before) + 1
            } else {
                0
            },
        });
        let n_windows = self.shape.n_windows;
        unpack::windows(self.blocks, at, n_windows, ones, gaps, &mut block.windows)
            .ok_or(damaged)?;
        Ok((hits_at, next_run))
    }

    /// Decodes a block but for its hits; its first window is of the run `run`. Returns the run of the
    /// next block's first window.
    #[inline]
    pub(super) fn read_block(
        &self,
        number: u32,
        run: usize,
        block: &mut Block,
    ) -> Result<usize, Damaged> {
        let (at, next) = self.read_windows(number, run, block)?;
        self.read_fields(at, run, block)?;
        Ok(next)
    }
}
