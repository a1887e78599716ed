//! Single windows: what a draw reads.

use super::block::Block;
use super::read::{Hits, List};
use super::{BLOCK, Damaged};
use crate::bits::{WHOLE, low_mask, width_of};

impl List<'_> {
    /// The window with this rank, below `n_windows`.
    ///
    /// Adds up the gaps before it in its block: what is unary is counted, not read one by one.
    pub fn window_at(&self, rank: u32) -> Result<u32, Damaged> {
        Ok(self.find(rank)?.0)
    }

    /// The window with this rank, below `n_windows`, and its hits.
    pub fn read(&self, rank: u32, hits: &mut Hits) -> Result<u32, Damaged> {
        let damaged = Damaged("has windows that are out of range");
        let (window, high_at) = self.find(rank)?;
        let mut block = Block::empty();
        block.first = rank / BLOCK * BLOCK;
        block.len = (self.n - block.first).min(BLOCK) as usize;
        let hits_at = self.after_ones(high_at, block.len as u32).ok_or(damaged)?;
        let at = (rank % BLOCK) as usize;
        let skipped = if self.dense && !self.shape.lossless {
            self.skip_masks(hits_at, rank, &mut block)?
        } else {
            self.read_fields(hits_at, self.run_of(block.first), &mut block)?;
            block.skipped(at)
        };
        self.read_hits(&block, at, skipped, hits)?;
        Ok(window)
    }

    /// Of a block whose masks begin at bit `at`: where its fields lie, how many hits the window with
    /// this rank has, and the other hits before it with the bits of their codes.
    fn skip_masks(&self, at: u64, rank: u32, block: &mut Block) -> Result<(u64, u64), Damaged> {
        let damaged = Damaged("has hits that are out of range");
        let width = u64::from(self.shape.window);
        block.place_dense(at, width, self.shape.offset_bits());
        let ones = |from: u32, to: u32| {
            let begin = at + u64::from(from - block.first) * width;
            let ones = self.count_ones(begin, u64::from(to - from) * width);
            ones.checked_sub(u64::from(to - from)).ok_or(damaged)
        };
        let mut skipped = (0, 0);
        for run in &self.runs[self.run_of(block.first)..] {
            if run.first >= rank {
                break;
            }
            let (from, to) = (
                run.first.max(block.first),
                (run.first + run.count).min(rank),
            );
            let others = ones(from, to)?;
            skipped.0 += others;
            skipped.1 += others * u64::from(width_of(u32::from(run.code - self.floor)));
        }
        let own = (rank - block.first) as usize;
        block.counts[own] = ones(rank, rank + 1)? as u32 + 1;
        let code = self.code_at(rank);
        block.codes_of[own] = code;
        block.rest_bits[own] = width_of(u32::from(code - self.floor)) as u8;
        Ok(skipped)
    }

    /// Reads the windows with these ranks, ascending and below `n_windows`, and their hits; each
    /// block is decoded once. `visit` is given the place in `ranks`, the window and the hits.
    pub fn read_each(
        &self,
        ranks: &[u32],
        mut visit: impl FnMut(usize, u32, &Hits),
    ) -> Result<(), Damaged> {
        let mut block = Block::empty();
        let mut hits = Hits::default();
        let mut from = 0;
        for wanted in ranks.chunk_by(|a, b| a / BLOCK == b / BLOCK) {
            if let &[rank] = wanted {
                let window = self.read(rank, &mut hits)?;
                visit(from, window, &hits);
            } else {
                let number = wanted[0] / BLOCK;
                self.read_block(number, self.run_of(number * BLOCK), &mut block)?;
                for (place, rank) in (from..).zip(wanted) {
                    let at = (rank % BLOCK) as usize;
                    self.read_hits(&block, at, block.skipped(at), &mut hits)?;
                    visit(place, block.windows[at], &hits);
                }
            }
            from += wanted.len();
        }
        Ok(())
    }

    /// The window with a rank, and where the unary parts of its block's gaps begin.
    fn find(&self, rank: u32) -> Result<(u32, u64), Damaged> {
        let damaged = Damaged("has windows that are out of range");
        let first = rank / BLOCK * BLOCK;
        let end = (first + BLOCK).min(self.n);
        let (at, before) = self.skip(rank / BLOCK);
        // The low bits come first: of the windows before the rank's run, and of all.
        let (mut low_at, mut high_at) = (at, at);
        let runs = &self.runs[self.run_of(first)..];
        let mut run = runs[0];
        for next in runs {
            if next.first >= end {
                break;
            }
            let (from, to) = (next.first.max(first), (next.first + next.count).min(end));
            if next.first <= rank {
                run = *next;
                low_at = high_at;
            }
            high_at += u64::from(next.gap_bits) * u64::from(to - from);
        }
        let start = run.first.max(first);
        let begin = self.after_ones(high_at, start - first).ok_or(damaged)?;
        let gaps = rank + 1 - start;
        let stop = self.after_ones(begin, gaps).ok_or(damaged)?;
        let (k, mask) = (run.gap_bits, low_mask(run.gap_bits));
        // As many fields at a time as a word holds for certain.
        let (mut low, mut left) = (0u64, if k == 0 { 0 } else { gaps });
        while left > 0 {
            let fields = (WHOLE / k).min(left);
            let mut word = self.blocks.load(low_at);
            for _ in 0..fields {
                low += u64::from(word as u32 & mask);
                word >>= k;
            }
            low_at += u64::from(fields * k);
            left -= fields;
        }
        let high = stop - begin - u64::from(gaps);
        if high > u64::from(self.shape.n_windows) {
            return Err(damaged);
        }
        let next = if run.first < first {
            u64::from(before) + 1
        } else {
            0
        };
        let window = next + (high << k) + low + u64::from(gaps - 1);
        if window >= u64::from(self.shape.n_windows) {
            return Err(damaged);
        }
        Ok((window as u32, high_at))
    }

    /// The ones among `len` bits from bit `at` on.
    fn count_ones(&self, mut at: u64, len: u64) -> u64 {
        let end = at + len;
        let mut ones = 0;
        while at < end {
            let bits = (end - at).min(u64::from(WHOLE)) as u32;
            ones += u64::from((self.blocks.load(at) & (u64::MAX >> (64 - bits))).count_ones());
            at += u64::from(bits);
        }
        ones
    }

    /// The bit after the next `n` ones from bit `at` on.
    fn after_ones(&self, mut at: u64, mut n: u32) -> Option<u64> {
        while n > 0 {
            if at >= self.blocks.len() {
                return None;
            }
            let mut word = self.blocks.load(at) & (u64::MAX >> (64 - WHOLE));
            let ones = word.count_ones();
            if ones < n {
                n -= ones;
                at += u64::from(WHOLE);
                continue;
            }
            for _ in 1..n {
                word &= word - 1;
            }
            at += u64::from(word.trailing_zeros()) + 1;
            n = 0;
        }
        (at <= self.blocks.len()).then_some(at)
    }
}
