//! Hits by position.

/// Hits below which comparing is the quicker way to sort.
const FEW: usize = 96;
/// The most bits that one pass of the sort orders by.
const RADIX_BITS: u32 = 10;

/// One posting, from the top: 32 bits of window, 16 of offset, 16 of bf16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hit(u64);

impl Hit {
    #[inline]
    pub(super) fn of(window: u32, offset: u32, bf16: u16) -> Self {
        Self(u64::from(window) << 32 | u64::from(offset) << 16 | u64::from(bf16))
    }

    #[inline]
    pub(super) fn bf16(self) -> u16 {
        self.0 as u16
    }

    #[inline]
    pub(super) fn with(self, bf16: u16) -> Self {
        Self(self.0 & !0xffff | u64::from(bf16))
    }

    #[inline]
    pub(super) fn offset(self) -> u32 {
        (self.0 >> 16 & 0xffff) as u32
    }

    /// Its position where windows have `window` tokens.
    #[inline]
    pub(super) fn position(self, window: u32) -> u32 {
        self.window() * window + self.offset()
    }

    #[inline]
    fn window(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Calls `place` with every hit and its place by window, of up to `bits` bits; the hits of one window
/// stay in their order.
pub(super) fn in_order(
    hits: &mut [Hit],
    sorted: &mut Vec<Hit>,
    bits: u32,
    mut place: impl FnMut(usize, Hit),
) {
    if hits.len() < FEW {
        hits.sort_unstable();
        hits.iter()
            .enumerate()
            .for_each(|(at, &hit)| place(at, hit));
        return;
    }
    let passes = bits.div_ceil(RADIX_BITS).max(1);
    let width = bits.div_ceil(passes);
    let digit =
        |hit: Hit, pass: u32| (hit.window() >> (pass * width)) as usize & ((1 << width) - 1);
    // Where the hits with each digit go, for all passes at once.
    let mut starts = vec![0u32; (passes as usize) << width];
    for &hit in &*hits {
        for pass in 0..passes {
            starts[((pass as usize) << width) + digit(hit, pass)] += 1;
        }
    }
    for starts in starts.chunks_exact_mut(1 << width) {
        let mut next = 0;
        for start in starts {
            next += std::mem::replace(start, next);
        }
    }
    if sorted.len() < hits.len() {
        sorted.resize(hits.len(), Hit::default());
    }
    let (mut from, mut to) = (hits, &mut sorted[..]);
    let n = from.len();
    for (pass, starts) in (0..passes).zip(starts.chunks_exact_mut(1 << width)) {
        let mut next = |hit: Hit| {
            let start = &mut starts[digit(hit, pass)];
            *start += 1;
            *start as usize - 1
        };
        if pass + 1 == passes {
            from[..n].iter().for_each(|&hit| place(next(hit), hit));
        } else {
            from[..n].iter().for_each(|&hit| to[next(hit)] = hit);
            std::mem::swap(&mut from, &mut to);
        }
    }
}
