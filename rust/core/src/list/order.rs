//! Hits by position.

/// Hits below which comparing is the quicker way to sort.
const FEW: usize = 64;

/// One posting, from the top: 32 bits of window, 16 of offset, 16 of bf16.
pub(super) type Hit = u64;

#[inline]
pub(super) fn hit(window: u32, offset: u32, bf16: u16) -> Hit {
    u64::from(window) << 32 | u64::from(offset) << 16 | u64::from(bf16)
}

#[inline]
pub(super) fn offset_of(hit: Hit) -> u32 {
    (hit >> 16) as u32 & 0xffff
}

#[inline]
pub(super) fn bf16_of(hit: Hit) -> u16 {
    hit as u16
}

#[inline]
pub(super) fn with_bf16(hit: Hit, bf16: u16) -> Hit {
    hit & !0xffff | u64::from(bf16)
}

/// Its position where windows have `window` tokens.
#[inline]
pub(super) fn position_of(hit: Hit, window: u32) -> u32 {
    window_of(hit) * window + offset_of(hit)
}

#[inline]
fn window_of(hit: Hit) -> u32 {
    (hit >> 32) as u32
}

/// The hits by window, of up to `bits` bits; those of one window stay in their order.
pub(super) fn in_order<'a>(
    hits: &'a mut [Hit],
    other: &'a mut Vec<Hit>,
    bits: u32,
) -> &'a mut [Hit] {
    if hits.len() < FEW {
        hits.sort_unstable();
        return hits;
    }
    if other.len() < hits.len() {
        other.resize(hits.len(), 0);
    }
    let other = &mut other[..hits.len()];
    match bits {
        // Fewer buckets are filled up sooner.
        0..=16 => by_digits::<256, 2>(hits, other),
        17..=22 => by_digits::<2048, 2>(hits, other),
        _ => by_digits::<2048, 3>(hits, other),
    }
}

/// Sorts by `PASSES` digits of the window, each below `RADIX`, the lowest first.
fn by_digits<'a, const RADIX: usize, const PASSES: usize>(
    hits: &'a mut [Hit],
    other: &'a mut [Hit],
) -> &'a mut [Hit] {
    let digit = |hit: Hit, pass: usize| {
        (window_of(hit) >> (pass as u32 * RADIX.ilog2())) as usize & (RADIX - 1)
    };
    // Where the hits with each digit go, for all passes at once.
    let mut starts = [[0u32; RADIX]; PASSES];
    for &hit in &*hits {
        for (pass, starts) in starts.iter_mut().enumerate() {
            starts[digit(hit, pass)] += 1;
        }
    }
    for start in &mut starts {
        let mut next = 0;
        for start in start {
            next += std::mem::replace(start, next);
        }
    }
    let (mut from, mut to) = (hits, other);
    for (pass, starts) in starts.iter_mut().enumerate() {
        for &hit in &*from {
            let start = &mut starts[digit(hit, pass)];
            to[*start as usize] = hit;
            *start += 1;
        }
        std::mem::swap(&mut from, &mut to);
    }
    from
}
