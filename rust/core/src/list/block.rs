//! One block of a list: the windows, and where the fields of their hits lie.

use super::read::{Hits, List};
use super::{BLOCK, Damaged, multi_bits};
use crate::bits::{BitReader, Bits, low_mask, width_of};
use crate::code::{self, LOW_BITS};

/// Where the fields of a block lie, and how many hits its windows have.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) first: u32,
    pub(super) len: usize,
    pub(super) windows: [u32; BLOCK as usize],
    pub(super) counts: [u32; BLOCK as usize],
    /// The windows with several hits, by their places in the block; `n_several` of them.
    pub(super) several: [u8; BLOCK as usize],
    pub(super) n_several: usize,
    /// Of each window with several hits: bits of the difference between its code and the others'.
    pub(super) rest_bits: [u8; BLOCK as usize],
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
            windows: [0; BLOCK as usize],
            counts: [0; BLOCK as usize],
            several: [0; BLOCK as usize],
            n_several: 0,
            rest_bits: [0; BLOCK as usize],
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

    #[inline]
    fn set_count(&mut self, i: usize, count: u32) {
        self.counts[i] = count;
        if count > 1 {
            self.several[self.n_several] = i as u8;
            self.n_several += 1;
            self.others += u64::from(count - 1);
        }
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
        for &i in &self.several[..self.n_several] {
            if usize::from(i) >= at {
                break;
            }
            self.skip(usize::from(i), &mut skipped);
        }
        skipped
    }
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

    /// Decodes the windows of a block; returns how many, and where their hits begin.
    #[inline]
    pub(super) fn read_windows(
        &self,
        block: u32,
        windows: &mut [u32; BLOCK as usize],
    ) -> Result<(usize, u64), Damaged> {
        let damaged = Damaged("has windows that are out of range");
        let first = block * BLOCK;
        let end = (first + BLOCK).min(self.n);
        let len = (end - first) as usize;
        let (at, before) = self.skip(block);
        let first_run = self.run_of(first);
        // The low bits come first, and how many there are follows from the runs.
        let mut low_bits = 0;
        for run in &self.runs[first_run..] {
            if run.first >= end {
                break;
            }
            let (from, to) = (run.first.max(first), (run.first + run.count).min(end));
            low_bits += u64::from(run.gap_bits) * u64::from(to - from);
        }
        let mut ones = [0u32; BLOCK as usize];
        let hits_at = self.ones(at + low_bits, &mut ones[..len]).ok_or(damaged)?;
        let mut low_at = at;
        let mut done = 0;
        // The bit after the last one; high parts are the distances between ones.
        let mut last_one = 0u32;
        for run in &self.runs[first_run..] {
            if done == len {
                break;
            }
            let to = ((run.first + run.count).min(end) - first) as usize;
            let k = run.gap_bits;
            let mask = low_mask(k);
            let mut next = if run.first < first {
                u64::from(before) + 1
            } else {
                0
            };
            for (window, &one) in windows[done..to].iter_mut().zip(&ones[done..to]) {
                let low = (self.blocks.load(low_at) as u32) & mask;
                low_at += u64::from(k);
                next += u64::from(one - last_one) << k | u64::from(low);
                *window = next as u32;
                next += 1;
                last_one = one + 1;
            }
            if next > u64::from(self.shape.n_windows) {
                return Err(damaged);
            }
            done = to;
        }
        Ok((len, hits_at))
    }

    /// Finds the next ones from bit `at` on, counted from there; returns the bit after the last.
    #[inline]
    fn ones(&self, at: u64, ones: &mut [u32]) -> Option<u64> {
        let mut base = 0u32;
        let mut found = 0;
        while found < ones.len() {
            let place = at + u64::from(base);
            if place >= self.blocks.len() {
                return None;
            }
            let mut word = self.blocks.load(place) & (u64::MAX >> 8);
            while word != 0 {
                ones[found] = base + word.trailing_zeros();
                word &= word - 1;
                found += 1;
                if found == ones.len() {
                    break;
                }
            }
            base = base.checked_add(56)?;
        }
        let end = ones.last().map_or(at, |&one| at + u64::from(one) + 1);
        (end <= self.blocks.len()).then_some(end)
    }

    /// Decodes a block but for its hits.
    #[inline]
    pub(super) fn read_block(&self, number: u32, block: &mut Block) -> Result<(), Damaged> {
        block.first = number * BLOCK;
        let (len, at) = self.read_windows(number, &mut block.windows)?;
        block.len = len;
        self.read_fields(at, block)
    }

    /// Finds the fields of a block's hits, which begin at bit `at`.
    #[inline]
    pub(super) fn read_fields(&self, at: u64, block: &mut Block) -> Result<(), Damaged> {
        let damaged = Damaged("has hits that are out of range");
        let len = block.len;
        let o = u64::from(self.shape.offset_bits());
        block.n_several = 0;
        block.others = 0;
        if self.dense {
            let w = u64::from(self.shape.window);
            for i in 0..len {
                let count = self.mask_ones(at + i as u64 * w).ok_or(damaged)?;
                block.set_count(i, count);
            }
            block.place_dense(at, w, self.shape.offset_bits());
        } else {
            let mut reader = BitReader {
                bits: self.blocks,
                at,
            };
            self.read_counts(&mut reader, block).ok_or(damaged)?;
            block.peaks = reader.at;
            block.offsets = block.peaks + len as u64 * o;
            block.codes = block.offsets + block.others * o;
        }
        block.lows = block.codes;
        if block.n_several > 0 {
            let mut run = self.run_of(block.first);
            for &i in &block.several[..block.n_several] {
                let i = usize::from(i);
                while self.runs[run].first + self.runs[run].count <= block.first + i as u32 {
                    run += 1;
                }
                let bits = width_of(u32::from(self.runs[run].code - self.floor));
                block.rest_bits[i] = bits as u8;
                block.lows += u64::from(block.counts[i] - 1) * u64::from(bits);
            }
        }
        let low_bits = if self.shape.lossless { LOW_BITS } else { 0 };
        let end = block.lows + (len as u64 + block.others) * u64::from(low_bits);
        if end > self.blocks.len() {
            return Err(damaged);
        }
        Ok(())
    }

    /// Reads how many hits each window of a block has.
    #[inline]
    fn read_counts(&self, reader: &mut BitReader<'_>, block: &mut Block) -> Option<()> {
        let most = self.shape.window;
        if reader.get(1) == 1 {
            for i in 0..block.len {
                let count = reader.unary()? + 1;
                if count > most {
                    return None;
                }
                block.set_count(i, count);
            }
            return Some(());
        }
        block.counts[..block.len].fill(1);
        let m = reader.gamma()? - 1;
        let g = multi_bits(block.len as u32, m.min(BLOCK));
        let mut next = 0;
        for _ in 0..m {
            let at = next + reader.rice(g)? as usize;
            let count = reader.unary()? + 2;
            if at >= block.len || count > most {
                return None;
            }
            block.set_count(at, count);
            next = at + 1;
        }
        Some(())
    }

    /// The ones of a window's mask, at least 1.
    fn mask_ones(&self, at: u64) -> Option<u32> {
        let mut ones = 0;
        let mut from = 0;
        while from < self.shape.window {
            let width = (self.shape.window - from).min(32);
            ones += self.blocks.get(at + u64::from(from), width).count_ones();
            from += width;
        }
        (ones > 0).then_some(ones)
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
        let code = self.code_at(block.first + at as u32);
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
        let mut mask = Mask::new(self, block.masks, at);
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
struct Mask<'a> {
    bits: Bits<'a>,
    at: u64,
    width: u32,
    next: u32,
}

impl<'a> Mask<'a> {
    fn new(list: &List<'a>, masks: u64, window: usize) -> Self {
        let width = list.shape.window;
        Self {
            bits: list.blocks,
            at: masks + window as u64 * u64::from(width),
            width,
            next: 0,
        }
    }

    /// The next one that is not `but`; 0 where there is none.
    fn next_but(&mut self, but: u32) -> u32 {
        while self.next < self.width {
            let word = self.bits.load(self.at + u64::from(self.next)) & (u64::MAX >> 8);
            if word == 0 {
                self.next += 56;
                continue;
            }
            let offset = self.next + word.trailing_zeros();
            self.next = offset + 1;
            if offset >= self.width {
                break;
            }
            if offset != but {
                return offset;
            }
        }
        0
    }
}
