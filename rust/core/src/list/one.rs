//! Single windows: what a draw reads.

use super::block::Block;
use super::read::{Hits, List};
use super::{BLOCK, Damaged};
use crate::bits::low_mask;

/// Bits of a word that [`crate::bits::Bits::load`] fills wherever it begins.
const WHOLE: u32 = 56;

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
        self.read_fields(hits_at, at, &mut block)?;
        self.read_hits(&block, at, block.skipped(at), hits)?;
        Ok(window)
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
                self.read_block(wanted[0] / BLOCK, &mut block)?;
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
        let mut run = self.runs[self.run_of(first)];
        for next in &self.runs[self.run_of(first)..] {
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
        let mut low = 0u64;
        for gap in 0..u64::from(gaps) {
            low += u64::from(self.blocks.load(low_at + gap * u64::from(k)) as u32 & mask);
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
