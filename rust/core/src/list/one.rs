//! Single windows: what a draw reads.

use super::block::{Block, Stretch};
use super::read::{Hits, List};
use super::{BLOCK, Damaged};
use crate::bits::{WHOLE, low_mask, width_of};

impl List<'_> {
    /// The window with this rank, below `n_windows`, and its hits.
    pub fn read(&self, rank: u32, hits: &mut Hits) -> Result<u32, Damaged> {
        self.read_one(rank, &mut Block::empty(), hits)?;
        self.window_at(rank)
    }

    /// The hits of the window with this rank; `block` is working memory.
    fn read_one(&self, rank: u32, block: &mut Block, hits: &mut Hits) -> Result<(), Damaged> {
        let damaged = Damaged("has windows that are out of range");
        let number = rank / BLOCK;
        let first = number * BLOCK;
        let run = self.run_of(first);
        (block.first, block.len) = (first, (self.n - first).min(BLOCK) as usize);
        let high_at = self.skip(number).0 + self.low_bits(run, first, block.len);
        let hits_at = self.after_ones(high_at, block.len as u32).ok_or(damaged)?;
        let at = (rank % BLOCK) as usize;
        let skipped = if self.dense && !self.shape.lossless {
            self.skip_masks(hits_at, run, rank, block)?
        } else {
            self.read_fields(hits_at, run, block)?;
            block.skipped(at)
        };
        self.read_hits(block, at, skipped, hits)
    }

    /// Of a block whose masks begin at bit `at`: where its fields lie, how many hits the window with
    /// this rank has, and the other hits before it with the bits of their codes.
    fn skip_masks(
        &self,
        at: u64,
        run: usize,
        rank: u32,
        block: &mut Block,
    ) -> Result<(u64, u64), Damaged> {
        let damaged = Damaged("has hits that are out of range");
        let width = u64::from(self.shape.window);
        block.place_dense(at, width, self.shape.offset_bits());
        let ones = |from: u32, to: u32| {
            let begin = at + u64::from(from - block.first) * width;
            let ones = self.count_ones(begin, u64::from(to - from) * width);
            ones.checked_sub(u64::from(to - from)).ok_or(damaged)
        };
        let mut skipped = (0, 0);
        for run in &self.runs[run..] {
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

    /// Reads the hits of the windows with these ranks, ascending and below `n_windows`; each block is
    /// decoded once. `visit` is given the place in `ranks`, and the hits.
    pub fn read_each(
        &self,
        ranks: &[u32],
        mut visit: impl FnMut(usize, &Hits),
    ) -> Result<(), Damaged> {
        let mut block = Block::empty();
        let mut hits = Hits::default();
        let mut from = 0;
        for wanted in ranks.chunk_by(|a, b| a / BLOCK == b / BLOCK) {
            if let &[rank] = wanted {
                self.read_one(rank, &mut block, &mut hits)?;
                visit(from, &hits);
            } else {
                let number = wanted[0] / BLOCK;
                self.read_block(number, self.run_of(number * BLOCK), &mut block)?;
                for (place, rank) in (from..).zip(wanted) {
                    let at = (rank % BLOCK) as usize;
                    self.read_hits(&block, at, block.skipped(at), &mut hits)?;
                    visit(place, &hits);
                }
            }
            from += wanted.len();
        }
        Ok(())
    }

    /// The window with this rank, below `n_windows`.
    ///
    /// Adds up the gaps before it in its block: what is unary is counted, not read one by one.
    pub fn window_at(&self, rank: u32) -> Result<u32, Damaged> {
        let damaged = Damaged("has windows that are out of range");
        let first = rank / BLOCK * BLOCK;
        let len = (self.n - first).min(BLOCK) as usize;
        let (at, before) = self.skip(rank / BLOCK);
        let (block_run, own) = (self.run_of(first), self.run_of(rank));
        let run = self.runs[own];
        let start = run.first.max(first);
        // The low bits come first: of the windows before the rank's run, and of all.
        let mut low_at = at + self.low_bits(block_run, first, (start - first) as usize);
        let rest = first as usize + len - start as usize;
        let high_at = low_at + self.low_bits(own, start, rest);
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
        Ok(window as u32)
    }

    /// The low bits of the gaps of `len` windows from rank `first` on, which is of the run `run`.
    fn low_bits(&self, run: usize, first: u32, len: usize) -> u64 {
        let bits = |part: Stretch| u64::from(part.run.gap_bits) * (part.to - part.from) as u64;
        self.stretches(run, first, len).map(bits).sum()
    }

    /// The ones among `len` bits from bit `at` on.
    fn count_ones(&self, at: u64, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        let end = at + len;
        let mut base = at & !7;
        let mut word = self.blocks.word((base >> 3) as usize) & (u64::MAX << (at & 7));
        let mut ones = 0;
        while base + 64 < end {
            ones += u64::from(word.count_ones());
            base += 64;
            word = self.blocks.word((base >> 3) as usize);
        }
        ones + u64::from((word & (u64::MAX >> (base + 64 - end))).count_ones())
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
