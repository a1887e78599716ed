//! The fields of one block.

use super::encode::Encoder;
use super::found::Several;
use super::{BLOCK, multi_bits};
use crate::bits::{Burst, gamma_bits, low_mask, width_of};
use crate::code::{self, LOW_BITS, MAX_CODE};

/// The postings that are being encoded.
pub(super) struct Hits<'a> {
    pub(super) addresses: &'a [u32],
    pub(super) values: &'a [u16],
    pub(super) floor: u16,
    pub(super) dense: bool,
}

/// The hits of a block's windows with several, the peaks apart.
#[derive(Debug, Default)]
pub(super) struct Others {
    n: usize,
    addresses: Vec<u32>,
    /// The window's code, and the hit's bf16.
    codes: Vec<(u16, u16)>,
}

impl Others {
    /// Makes room for so many hits, the peaks included.
    fn clear(&mut self, hits: usize) {
        self.n = 0;
        if self.addresses.len() < hits {
            self.addresses.resize(hits, 0);
            self.codes.resize(hits, (0, 0));
        }
    }

    /// Takes the hits of a window with this code. Which of them is the peak is a guess that is often
    /// wrong: it is written too, and the next one over it.
    #[inline]
    fn push(&mut self, hits: &Hits<'_>, several: &Several, code: u16) {
        let peak = several.peak as usize;
        let span = several.first as usize..(several.first + several.count) as usize;
        let (addresses, codes) = (&mut self.addresses[..], &mut self.codes[..]);
        let all = hits.addresses[span.clone()].iter().zip(&hits.values[span]);
        for (i, (&address, &bf16)) in all.enumerate() {
            addresses[self.n] = address;
            codes[self.n] = (code, bf16);
            self.n += usize::from(i != peak);
        }
    }
}

impl Encoder {
    /// The most bits that all the hits of a list take.
    pub(super) fn most_hit_bits(&self, hits: &Hits<'_>) -> u64 {
        let (n, hits_of) = (self.ranked.len() as u64, hits.values.len() as u64);
        let masks = if hits.dense {
            n * u64::from(self.shape.window)
        } else {
            0
        };
        let each = self.shape.offset_bits() + width_of(u32::from(MAX_CODE)) + LOW_BITS + 1;
        masks + hits_of * u64::from(each) + n.div_ceil(u64::from(BLOCK)) * 64
    }

    pub(super) fn write_gaps(
        &self,
        out: &mut Burst<'_>,
        first_run: usize,
        start: usize,
        end: usize,
    ) {
        let mut highs = [0u32; BLOCK as usize];
        for run in &self.runs[first_run..] {
            let from = start.max(run.first as usize);
            let to = end.min((run.first + run.count) as usize);
            if from >= to {
                break;
            }
            let k = run.gap_bits;
            let gaps = &self.gaps[from..to];
            if k > 0 {
                out.fields(gaps, k);
            }
            for (high, gap) in highs[from - start..].iter_mut().zip(gaps) {
                *high = gap >> k;
            }
        }
        out.unaries(&highs[..end - start]);
    }

    pub(super) fn write_hits(
        &self,
        out: &mut Burst<'_>,
        hits: &Hits<'_>,
        others: &mut Others,
        mut run: usize,
        start: usize,
        end: usize,
    ) {
        let windows = &self.ranked[start..end];
        let o = self.shape.offset_bits();
        let inside = low_mask(o);
        // The few windows with several hits are listed first: to ask each window is to guess wrong.
        let mut places = [0u8; BLOCK as usize];
        let mut m = 0;
        if !self.several.is_empty() {
            for (i, window) in windows.iter().enumerate() {
                places[m] = i as u8;
                m += usize::from(window.has_several());
            }
        }
        let several = || {
            places[..m].iter().map(|&i| {
                let place = windows[usize::from(i)].place();
                (usize::from(i), &self.several[place])
            })
        };
        if hits.dense {
            for window in windows {
                let postings = window.has_several().then(|| self.several[window.place()]);
                let others = postings.map_or(&[][..], |Several { first, count, .. }| {
                    &hits.addresses[first as usize..(first + count) as usize]
                });
                let peak = [window.address()];
                let offsets = if others.is_empty() { &peak } else { others };
                write_mask(out, offsets, inside, self.shape.window);
            }
        } else {
            let counts = several().map(|(i, several)| (i as u32, several.count));
            write_counts(out, windows.len() as u32, m as u32, counts);
        }
        if o > 0 {
            let mut peaks = [0u32; BLOCK as usize];
            for (peak, window) in peaks.iter_mut().zip(windows) {
                *peak = window.address();
            }
            out.fields(&peaks[..windows.len()], o);
        }
        if m > 0 {
            let all = several().map(|(_, several)| several.count as usize).sum();
            others.clear(all);
            for (i, several) in several() {
                while self.runs[run].first + self.runs[run].count <= (start + i) as u32 {
                    run += 1;
                }
                others.push(hits, several, self.runs[run].code);
            }
            if !hits.dense {
                out.fields(&others.addresses[..others.n], o);
            }
            for &(own, bf16) in &others.codes[..others.n] {
                let r = width_of(u32::from(own - hits.floor));
                out.put(u64::from(own - code::code(bf16)), r);
            }
        }
        if self.shape.lossless {
            for window in windows {
                let mut put = |bf16| out.put(u64::from(code::low(bf16)), LOW_BITS);
                if window.has_several() {
                    let several = &self.several[window.place()];
                    put(hits.values[(several.first + several.peak) as usize]);
                    several.others(|posting| put(hits.values[posting as usize]));
                } else {
                    put(window.bf16());
                }
            }
        }
    }
}

/// Writes the offsets, the low bits of some addresses, as a mask.
fn write_mask(out: &mut Burst<'_>, addresses: &[u32], inside: u32, window: u32) {
    let mut next = 0;
    for address in addresses {
        let offset = address & inside;
        zeros(out, offset - next);
        out.put(1, 1);
        next = offset + 1;
    }
    zeros(out, window - next);
}

/// Writes how many hits the `len` windows of a block have, in the shorter of two forms; `several` are
/// the places and counts of the `m` that have more than one.
fn write_counts(
    out: &mut Burst<'_>,
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
            ones(out, at - next);
            out.unary(count - 1);
            next = at + 1;
        }
        ones(out, len - next);
        return;
    }
    out.put(0, 1);
    out.gamma(m + 1);
    for (at, count) in several {
        let distance = at - next;
        // The distance in Golomb-Rice form and the count: in one go, as far as they fit.
        let (high, count) = (distance >> g, count - 2);
        let used = high + 1 + g;
        if used + count < 56 {
            let low = u64::from(distance & low_mask(g));
            out.put(
                1 << high | low << (high + 1) | 1 << (used + count),
                used + count + 1,
            );
        } else {
            out.rice(distance, g);
            out.unary(count);
        }
        next = at + 1;
    }
}

fn zeros(out: &mut Burst<'_>, n: u32) {
    repeated(out, 0, n);
}

fn ones(out: &mut Burst<'_>, n: u32) {
    repeated(out, u64::MAX >> 8, n);
}

/// Writes `n` bits that are all as those of `word`.
fn repeated(out: &mut Burst<'_>, word: u64, mut n: u32) {
    while n > 0 {
        let some = n.min(56);
        out.put(word & ((1 << some) - 1), some);
        n -= some;
    }
}
