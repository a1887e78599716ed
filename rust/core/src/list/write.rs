//! The fields of one block.

use super::encode::{Encoder, Several, Window};
use super::{BLOCK, Shape, multi_bits};
use crate::bits::{BitWriter, Burst, gamma_bits, width_of};
use crate::code::{self, LOW_BITS};

impl Encoder {
    pub(super) fn write_gaps(
        &self,
        out: &mut BitWriter,
        first_run: usize,
        start: usize,
        end: usize,
    ) {
        let parts = || {
            let runs = self.runs[first_run..].iter();
            runs.take_while(|run| (run.first as usize) < end)
                .map(|run| {
                    let from = start.max(run.first as usize);
                    let to = end.min((run.first + run.count) as usize);
                    (run.gap_bits, &self.gaps[from..to])
                })
        };
        let mut bits = 0;
        for (k, gaps) in parts() {
            let high: u64 = gaps.iter().map(|&gap| u64::from(gap >> k) + 1).sum();
            bits += high + u64::from(k) * gaps.len() as u64;
        }
        let mut burst = out.burst(bits);
        for (k, gaps) in parts().filter(|&(k, _)| k > 0) {
            burst.fields(gaps, k);
        }
        for (k, gaps) in parts() {
            let mut pairs = gaps.chunks_exact(2);
            for pair in &mut pairs {
                let (a, b) = (pair[0] >> k, pair[1] >> k);
                if a + b <= 54 {
                    burst.put(1 << a | 1 << (a + b + 1), a + b + 2);
                } else {
                    burst.unary(a);
                    burst.unary(b);
                }
            }
            pairs
                .remainder()
                .iter()
                .for_each(|&gap| burst.unary(gap >> k));
        }
        burst.end();
    }

    pub(super) fn write_hits(
        &self,
        out: &mut BitWriter,
        hits_of: &HitsOf<'_>,
        mut run: usize,
        start: usize,
        end: usize,
    ) {
        let windows = &self.ranked[start..end];
        let o = self.shape.offset_bits();
        // The few windows with several hits are listed first: to ask each window is to guess wrong.
        let mut places = [0u8; BLOCK as usize];
        let mut offsets = [0u32; BLOCK as usize];
        let mut m = 0;
        for (i, window) in windows.iter().enumerate() {
            places[m] = i as u8;
            m += (window.0 & 1) as usize;
            offsets[i] = window.0 as u32 >> 16;
        }
        let several = || {
            places[..m].iter().map(|&i| {
                let window = windows[usize::from(i)];
                (usize::from(i), window, &self.several[window.place()])
            })
        };
        for (i, window, several) in several() {
            offsets[i] = hits_of.offset(window, several.first + several.peak);
        }
        if hits_of.dense {
            for window in windows {
                hits_of.write_mask(out, *window, &self.several);
            }
        } else {
            let counts = several().map(|(i, _, several)| (i as u32, several.count));
            write_counts(out, windows.len() as u32, m as u32, counts);
        }
        let mut burst = out.burst(u64::from(o) * windows.len() as u64);
        if o > 0 {
            burst.fields(&offsets[..windows.len()], o);
        }
        burst.end();
        if !hits_of.dense {
            for (_, window, several) in several() {
                several.others(|posting| out.put(hits_of.offset(window, posting), o));
            }
        }
        for (i, _, several) in several() {
            while self.runs[run].first + self.runs[run].count <= (start + i) as u32 {
                run += 1;
            }
            let code = self.runs[run].code;
            let r = width_of(u32::from(code - hits_of.floor));
            several.others(|posting| {
                let other = code::code(hits_of.values[posting as usize]);
                out.put(u32::from(code - other), r);
            });
        }
        if self.shape.lossless {
            for window in windows {
                if window.0 & 1 == 0 {
                    out.put(window.0 as u32 >> 1 & 7, LOW_BITS);
                    continue;
                }
                let several = &self.several[window.place()];
                let mut put = |posting: u32| {
                    let low = code::low(hits_of.values[posting as usize]);
                    out.put(u32::from(low), LOW_BITS);
                };
                put(several.first + several.peak);
                several.others(put);
            }
        }
    }
}

/// The postings that are being encoded.
pub(super) struct HitsOf<'a> {
    pub(super) shape: Shape,
    pub(super) positions: &'a [u32],
    pub(super) values: &'a [u16],
    pub(super) floor: u16,
    pub(super) dense: bool,
}

impl HitsOf<'_> {
    /// The offset of a posting in its window.
    #[inline]
    fn offset(&self, window: Window, posting: u32) -> u32 {
        self.positions[posting as usize] - window.number() * self.shape.window
    }

    fn write_mask(&self, out: &mut BitWriter, window: Window, several: &[Several]) {
        let mut burst = out.burst(u64::from(self.shape.window));
        let mut next = 0;
        let mut one = |offset: u32| {
            zeros(&mut burst, offset - next);
            burst.put(1, 1);
            next = offset + 1;
        };
        if window.0 & 1 == 0 {
            one(window.0 as u32 >> 16);
        } else {
            let Several { first, count, .. } = several[window.place()];
            (first..first + count).for_each(|posting| one(self.offset(window, posting)));
        }
        zeros(&mut burst, self.shape.window - next);
        burst.end();
    }
}

/// Writes how many hits the `len` windows of a block have, in the shorter of two forms; `several` are
/// the places and counts of the `m` that have more than one.
fn write_counts(
    out: &mut BitWriter,
    len: u32,
    m: u32,
    several: impl Iterator<Item = (u32, u32)> + Clone,
) {
    let g = multi_bits(len, m);
    let mut bits = gamma_bits(m + 1);
    let mut hits = len;
    let mut next = 0;
    for (at, count) in several.clone() {
        bits += ((at - next) >> g) + 1 + g + count - 1;
        hits += count - 1;
        next = at + 1;
    }
    next = 0;
    if hits <= bits {
        out.put(1, 1);
        for (at, count) in several {
            (next..at).for_each(|_| out.put(1, 1));
            out.unary(count - 1);
            next = at + 1;
        }
        (next..len).for_each(|_| out.put(1, 1));
        return;
    }
    out.put(0, 1);
    out.gamma(m + 1);
    for (at, count) in several {
        out.rice(at - next, g);
        out.unary(count - 2);
        next = at + 1;
    }
}

fn zeros(out: &mut Burst<'_>, mut n: u32) {
    while n > 0 {
        let some = n.min(56);
        out.put(0, some);
        n -= some;
    }
}
