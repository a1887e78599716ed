//! What the windows of a block hold: how many hits, where, and how strong.

use super::block::{Block, Stretch};
use super::read::{Hits, List};
use super::{BLOCK, Damaged, multi_bits, unpack};
use crate::bits::{Bits, WHOLE, WordReader, width_of};
use crate::code::{self, LOW_BITS};

impl List<'_> {
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
