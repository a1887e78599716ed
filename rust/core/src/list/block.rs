//! One block of a list: the windows, and where the fields of their hits lie.

use super::read::{Hits, List};
use super::unpack::{self, Gaps, Plane, ROOM};
use super::{BLOCK, Damaged, Run, multi_bits};
use crate::bits::{Bits, WHOLE, WordReader, width_of};
use crate::code::{self, LOW_BITS};

/// From so many windows with several hits on in a block, what lies between them is no longer copied
/// as a whole.
const MANY: usize = 12;

/// Where the fields of a block lie, and how many hits its windows have.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) first: u32,
    pub(super) len: usize,
    /// The ends of the windows' gaps.
    ones: Plane,
    pub(super) windows: Plane,
    pub(super) counts: [u32; BLOCK as usize],
    /// The windows with several hits, by their places in the block; `n_several` of them.
    several: [u8; BLOCK as usize],
    n_several: usize,
    /// Of each window: its code, and the bits of the difference between it and its other hits'.
    pub(super) codes_of: [u16; ROOM],
    pub(super) rest_bits: [u8; ROOM],
    /// Hits beyond the first of each window.
    pub(super) others: u64,
    masks: u64,
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

    /// Writes what each window has to the place of its first hit among those of all; what it writes
    /// to other places is undefined.
    #[inline]
    pub(super) fn spread<T: Copy>(&self, values: &[T; ROOM], out: &mut [T]) {
        if self.n_several > MANY {
            let mut at = 0;
            for (&value, &count) in values[..self.len].iter().zip(&self.counts) {
                out[at] = value;
                at += count as usize;
            }
            return;
        }
        let (mut from, mut others) = (0, 0);
        for i in self.several().chain([self.len - 1]) {
            // Sixteen at a time, wanted or not.
            for at in (from..=i).step_by(16) {
                out[at + others..at + others + 16].copy_from_slice(&values[at..at + 16]);
            }
            from = i + 1;
            others += self.counts[i] as usize - 1;
        }
    }

    /// Lists the windows with several hits, once all are counted.
    #[inline]
    fn list_several(&mut self) {
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

    /// Finds the fields of a block's hits, which begin at bit `at`.
    #[inline]
    pub(super) fn read_fields(
        &self,
        at: u64,
        run: usize,
        block: &mut Block,
    ) -> Result<(), Damaged> {
        let damaged = Damaged("has hits that are out of range");
        let len = block.len;
        let o = u64::from(self.shape.offset_bits());
        if self.dense {
            let w = u64::from(self.shape.window);
            let mut fewest = 1;
            for (i, count) in (0..).zip(&mut block.counts[..len]) {
                *count = self.mask_ones(at + i * w);
                fewest = fewest.min(*count);
            }
            if fewest == 0 {
                return Err(damaged);
            }
            block.list_several();
            block.place_dense(at, w, self.shape.offset_bits());
        } else {
            block.peaks = self.read_counts(at, block).ok_or(damaged)?;
            block.offsets = block.peaks + len as u64 * o;
            block.codes = block.offsets + block.others * o;
        }
        for Stretch { run, from, to } in self.stretches(run, block.first, len) {
            let bits = width_of(u32::from(run.code - self.floor)) as u8;
            // Thirty-two at a time, wanted or not: stretches are short.
            for i in (from..to).step_by(32) {
                block.codes_of[i..i + 32].fill(run.code);
                block.rest_bits[i..i + 32].fill(bits);
            }
        }
        let mut skipped = (0, 0);
        block.several().for_each(|i| block.skip(i, &mut skipped));
        block.lows = block.codes + skipped.1;
        let low_bits = if self.shape.lossless { LOW_BITS } else { 0 };
        let end = block.lows + (len as u64 + block.others) * u64::from(low_bits);
        if end > self.blocks.len() {
            return Err(damaged);
        }
        Ok(())
    }

    /// Reads how many hits each window of a block has; returns the bit after that.
    #[inline]
    fn read_counts(&self, at: u64, block: &mut Block) -> Option<u64> {
        let most = self.shape.window;
        let mut reader = WordReader::new(self.blocks, at);
        if reader.get(1) == 1 {
            let end = unpack::ones(self.blocks, reader.at, block.len, &mut block.ones)?;
            let (mut last, mut largest) = (u32::MAX, 0);
            for (count, &one) in block.counts[..block.len].iter_mut().zip(&block.ones) {
                *count = one.wrapping_sub(last);
                (last, largest) = (one, largest.max(*count));
            }
            block.list_several();
            return (largest <= most).then_some(end);
        }
        block.counts[..block.len].fill(1);
        let (m, _) = reader.gamma_and_field(0)?;
        let g = multi_bits(block.len as u32, m.min(BLOCK));
        let (mut next, mut n, mut others) = (0, 0, 0);
        for _ in 0..m {
            let (gap, more) = reader.rice_and_unary(g)?;
            let at = next + gap as usize;
            if at >= block.len || u64::from(more) + 2 > u64::from(most) {
                return None;
            }
            block.counts[at] = more + 2;
            block.several[n] = at as u8;
            (next, n) = (at + 1, n + 1);
            others += u64::from(more) + 1;
        }
        (block.n_several, block.others) = (n, others);
        Some(reader.at)
    }

    /// The ones of a window's mask.
    #[inline]
    fn mask_ones(&self, at: u64) -> u32 {
        let mut ones = 0;
        let mut from = 0;
        while from < self.shape.window {
            let width = (self.shape.window - from).min(32);
            ones += self.blocks.get(at + u64::from(from), width).count_ones();
            from += width;
        }
        ones
    }

    /// Reads the hits of the window at `at` in its block, `skipped` lying before them.
    #[inline]
    pub(super) fn read_hits(
        &self,
        block: &Block,
        at: usize,
        skipped: (u64, u64),
        hits: &mut Hits,
    ) -> Result<(), Damaged> {
        let damaged = Damaged("has offsets that are out of range");
        let o = self.shape.offset_bits();
        let code = block.codes_of[at];
        let others = block.counts[at] - 1;
        let peak = self.blocks.get(block.peaks + at as u64 * u64::from(o), o);
        let mut offsets_at = block.offsets + skipped.0 * u64::from(o);
        let mut codes_at = block.codes + skipped.1;
        let mut lows_at = block.lows + (at as u64 + skipped.0) * u64::from(LOW_BITS);
        let mut low = || {
            if self.shape.lossless {
                let low = self.blocks.get(lows_at, LOW_BITS) as u8;
                lows_at += u64::from(LOW_BITS);
                low
            } else {
                0
            }
        };
        hits.offsets.clear();
        hits.values.clear();
        let peak_value = code::join(code, low());
        if others == 0 {
            hits.offsets.push(peak);
            hits.values.push(peak_value);
            hits.peak = 0;
            return if peak < self.shape.window {
                Ok(())
            } else {
                Err(damaged)
            };
        }
        let mut mask = self.mask(block, at);
        let mut placed = false;
        for _ in 0..others {
            let offset = if self.dense {
                mask.next_but(peak)
            } else {
                let offset = self.blocks.get(offsets_at, o);
                offsets_at += u64::from(o);
                offset
            };
            if !placed && offset > peak {
                hits.peak = hits.offsets.len();
                hits.offsets.push(peak);
                hits.values.push(peak_value);
                placed = true;
            }
            let r = u32::from(block.rest_bits[at]);
            let less = self.blocks.get(codes_at, r) as u16;
            codes_at += u64::from(r);
            hits.offsets.push(offset);
            hits.values
                .push(code::join(code.saturating_sub(less), low()));
        }
        if !placed {
            hits.peak = hits.offsets.len();
            hits.offsets.push(peak);
            hits.values.push(peak_value);
        }
        let ascending = hits.offsets.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = hits.offsets.last() < Some(&self.shape.window);
        if ascending && inside {
            Ok(())
        } else {
            Err(damaged)
        }
    }
}

/// The ones of a window's mask, in order.
pub(super) struct Mask<'a> {
    bits: Bits<'a>,
    /// Where the bits after `word` begin, and how many of the mask they are.
    at: u64,
    left: u32,
    /// Bits of the mask from `base` on, without the ones that were given.
    word: u64,
    base: u32,
}

impl List<'_> {
    /// The mask of the window at `at` in a dense block.
    #[inline]
    pub(super) fn mask(&self, block: &Block, at: usize) -> Mask<'_> {
        let mut mask = Mask {
            bits: self.blocks,
            at: block.masks + at as u64 * u64::from(self.shape.window),
            left: self.shape.window,
            word: 0,
            base: 0,
        };
        mask.load();
        mask
    }
}

impl Mask<'_> {
    #[inline]
    fn load(&mut self) {
        let some = self.left.min(WHOLE);
        self.word = self.bits.load(self.at) & ((1 << some) - 1);
        self.at += u64::from(some);
        self.left -= some;
    }

    /// The next one that is not `but`; 0 where there is none.
    #[inline]
    pub(super) fn next_but(&mut self, but: u32) -> u32 {
        loop {
            if self.word != 0 {
                let offset = self.base + self.word.trailing_zeros();
                self.word &= self.word - 1;
                if offset != but {
                    return offset;
                }
            } else if self.left > 0 {
                self.base += WHOLE;
                self.load();
            } else {
                return 0;
            }
        }
    }
}
