//! The strongest windows of both sides, whose maxima are kept exactly.

use super::EXACT;
use super::encode::Encoder;
use super::found::Window;
use crate::bits::gamma_bits;
use crate::code::LOW_BITS;

impl Encoder {
    /// Writes the low bits of the strongest windows of both sides into `head`.
    pub(super) fn write_exact(&mut self, sides: &[u8]) {
        self.head.clear();
        let n = self.ranked.len() as u32;
        if n <= EXACT {
            self.lows.clear();
            let lows = self.ranked.iter().map(|window| window.low());
            self.lows.extend(lows);
            let mut burst = self.head.burst(u64::from(n * LOW_BITS));
            burst.fields(&self.lows, LOW_BITS);
            burst.end();
            self.head.align();
            return;
        }
        self.mark(sides);
        let leading = (0u32..)
            .zip(&self.marked)
            .take_while(|(i, rank)| i == *rank)
            .count();
        let (prefix, lows) = self.lows.split_at(leading);
        let most = u64::from(gamma_bits(n + 1) + LOW_BITS);
        let mut burst = self.head.burst(most * (self.lows.len() as u64 + 2));
        burst.gamma(leading as u32 + 1);
        burst.fields(prefix, LOW_BITS);
        burst.gamma(lows.len() as u32 + 1);
        let mut next = leading as u32;
        for (&rank, &low) in self.marked[leading..].iter().zip(lows) {
            burst.gamma(rank + 1 - next);
            burst.put(u64::from(low), LOW_BITS);
            next = rank + 1;
        }
        burst.end();
        self.head.align();
    }

    /// Marks the strongest windows of both sides, in the order of their ranks.
    fn mark(&mut self, sides: &[u8]) {
        let o = self.shape.offset_bits();
        let (marked, lows) = (&mut self.marked, &mut self.lows);
        marked.clear();
        lows.clear();
        let mut wanted = [EXACT; 2];
        for run in &self.runs {
            if wanted == [0, 0] {
                break;
            }
            let windows = &self.ranked[run.first as usize..][..run.count as usize];
            let each = || {
                let side = |window: Window| usize::from(sides[(window.address() >> o) as usize]);
                let ranks = run.first..;
                ranks
                    .zip(windows)
                    .map(move |(rank, window)| (rank, window.low(), side(*window)))
                    .filter(|&(_, _, side)| side < 2)
            };
            if run.count <= wanted[0].min(wanted[1]) {
                // There is room for all.
                for (rank, low, side) in each() {
                    wanted[side] -= 1;
                    marked.push(rank);
                    lows.push(low);
                }
                continue;
            }
            // How many there are of each side and low bits, and then how many of them are wanted.
            let mut keep = [[0u32; 1 << LOW_BITS]; 2];
            for (_, low, side) in each() {
                keep[side][low as usize] += 1;
            }
            for (keep, wanted) in keep.iter_mut().zip(&mut wanted) {
                for kept in keep.iter_mut().rev() {
                    *kept = (*kept).min(*wanted);
                    *wanted -= *kept;
                }
            }
            for (rank, low, side) in each() {
                let left = &mut keep[side][low as usize];
                if *left > 0 {
                    *left -= 1;
                    marked.push(rank);
                    lows.push(low);
                }
            }
        }
    }
}
