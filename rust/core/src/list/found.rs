//! The windows of a latent's postings, by position.

use super::encode::Encoder;
use crate::bits::low_mask;
use crate::code::{self, LOW_BITS};

/// The smallest bf16 that is not subnormal.
const NORMAL: u16 = 0x80;

/// A window, from the top: 32 bits of the address of its peak; 3 low bits of its largest bf16; with
/// one hit 12 bits of nothing, 16 of its bf16 and a 0; with several, 28 of its place in
/// `Encoder::several` and a 1.
///
/// An address is the number of the window and below it, in as many bits as that needs, an offset in
/// the window: the position itself, where the window is a power of two.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window(u64);

/// The hits of a window with several: `count` postings from `first` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Several {
    pub(super) first: u32,
    pub(super) count: u32,
    /// The posting of its peak, counted from `first`.
    pub(super) peak: u32,
}

impl Window {
    /// Of a bf16 that is not subnormal; see [`Window::with_low`].
    #[inline]
    fn single(address: u32, bf16: u16) -> Self {
        let low = u64::from(bf16) & u64::from(low_mask(LOW_BITS));
        Self(u64::from(address) << 32 | low << 29 | u64::from(bf16) << 1)
    }

    #[inline]
    fn several(self, address: u32, place: usize) -> Self {
        let low = self.0 & 0xe000_0000;
        Self(u64::from(address) << 32 | low | (place as u64) << 1 | 1)
    }

    /// The same with these low bits.
    fn with_low(self, low: u8) -> Self {
        Self(self.0 & !0xe000_0000 | u64::from(low) << 29)
    }

    #[inline]
    pub(super) fn address(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The low bits of its largest bf16.
    #[inline]
    pub(super) fn low(self) -> u32 {
        self.0 as u32 >> 29
    }

    #[inline]
    pub(super) fn has_several(self) -> bool {
        self.0 & 1 == 1
    }

    /// Where its hits are, of a window with several.
    #[inline]
    pub(super) fn place(self) -> usize {
        (self.0 as u32 >> 1 & 0x0fff_ffff) as usize
    }

    /// Its bf16, of a window with one hit.
    #[inline]
    pub(super) fn bf16(self) -> u16 {
        (self.0 >> 1) as u16
    }
}

impl Several {
    /// Calls `visit` with each posting but the peak, ascending.
    #[inline]
    pub(super) fn others(&self, mut visit: impl FnMut(u32)) {
        let peak = self.first + self.peak;
        (self.first..peak).for_each(&mut visit);
        (peak + 1..self.first + self.count).for_each(visit);
    }
}

impl Encoder {
    /// The addresses of positions, where they are others.
    pub(super) fn address(&self, positions: &[u32], mut addresses: Vec<u32>) -> Option<Vec<u32>> {
        if self.shape.window.is_power_of_two() {
            return None;
        }
        let (w, o) = (self.shape.window, self.shape.offset_bits());
        addresses.clear();
        addresses.extend(positions.iter().map(|&position| {
            let window = self.divide.of(position);
            window << o | (position - window * w)
        }));
        Some(addresses)
    }

    /// Finds the windows, their codes and the smallest code of a hit, which is returned.
    pub(super) fn group(&mut self, addresses: &[u32], values: &[u16]) -> u16 {
        let o = self.shape.offset_bits();
        let n = addresses.len();
        let most = n.min(self.shape.n_windows as usize);
        self.found.resize(most, Window::default());
        self.firsts.resize(most + 1, 0);
        // Whether a posting begins a window is a guess that is often wrong: both cases are computed,
        // and what belongs to the last window is written at every posting.
        let (found, firsts) = (&mut self.found[..most], &mut self.firsts[..most]);
        let mut next = 0;
        let (mut window, mut first, mut address, mut largest) = (u32::MAX, 0, 0, 0);
        for (posting, (&at, &bf16)) in (0u32..).zip(addresses.iter().zip(values)) {
            let begins = at >> o != window;
            window = at >> o;
            next += usize::from(begins);
            first = if begins { posting } else { first };
            address = if begins { at } else { address };
            largest = if begins { bf16 } else { bf16.max(largest) };
            found[next - 1] = Window::single(address, largest);
            firsts[next - 1] = first;
        }
        self.found.truncate(next);
        self.firsts.truncate(next + 1);
        self.firsts[next] = n as u32;
        let floor = values.iter().copied().min().unwrap_or(0);
        self.codes.clear();
        let largest = self.found.iter().map(|window| window.bf16());
        if floor >= NORMAL {
            // The same as below, without a question: many at a time.
            let normal = |bf16| (bf16 >> LOW_BITS) + (code::code(NORMAL) - (NORMAL >> LOW_BITS));
            self.codes.extend(largest.map(normal));
        } else {
            self.codes.extend(largest.map(code::code));
            for window in &mut self.found {
                *window = window.with_low(code::low(window.bf16()));
            }
        }
        self.gather_several(addresses, values);
        code::code(floor)
    }

    /// Notes the hits of the windows with several, and puts their peaks in their places.
    fn gather_several(&mut self, addresses: &[u32], values: &[u16]) {
        self.several.clear();
        let n = self.found.len();
        if n == addresses.len() {
            return;
        }
        // The gaps are not needed yet. The places of those windows are listed without a branch.
        let mut places = std::mem::take(&mut self.gaps);
        places.resize(n + 1, 0);
        let mut m = 0;
        for (at, edges) in (0u32..).zip(self.firsts.windows(2)) {
            places[m] = at;
            m += usize::from(edges[1] - edges[0] > 1);
        }
        for &at in &places[..m] {
            let at = at as usize;
            let (first, end) = (self.firsts[at], self.firsts[at + 1]);
            let span = first as usize..end as usize;
            let own = self.codes[at];
            // Of equal codes the first: the low bits do not decide, they may not be stored.
            // Without stopping there: where it is cannot be guessed.
            let hits = values[span.clone()].iter().enumerate().rev();
            let peak = hits.fold(
                0,
                |peak, (i, &bf16)| {
                    if code::code(bf16) == own { i } else { peak }
                },
            );
            let address = addresses[span.start + peak];
            self.found[at] = self.found[at].several(address, self.several.len());
            self.several.push(Several {
                first,
                count: end - first,
                peak: peak as u32,
            });
        }
        self.gaps = places;
    }
}
