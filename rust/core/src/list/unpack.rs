//! Whole planes of a block at once: ones of unary numbers, and fields of equal width.
//!
//! Both are what decoding a list mostly does. Where the processor has AVX-512 with its instructions
//! on bytes, [`super::wide`] does 16 or more at a time; what is here does the same anywhere.

use bytemuck::Pod;

use super::BLOCK;
#[cfg(target_arch = "x86_64")]
use super::wide;
use crate::bits::{Bits, WHOLE, low_mask};

/// Values of a plane, and room for those that are written beyond it.
pub(super) const ROOM: usize = BLOCK as usize + 64;
/// A plane of a block, unpacked.
pub(super) type Plane = [u32; ROOM];

/// Words that have a bit for each of up to `2 * BLOCK` hits.
pub(super) const FIRSTS: usize = 2 * BLOCK as usize / 64 + 1;
pub(super) type Firsts = [u64; FIRSTS];

/// Whether [`expand`] is there, without which moving one value after the other is quickest.
#[inline]
pub(super) fn can_expand() -> bool {
    #[cfg(target_arch = "x86_64")]
    return wide::is_supported();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Moves the values apart, to the places of the ones among the first `n` bits; what it writes to
/// other places, and to some after the last, is undefined. For values of 2, 4 or 8 bytes, where
/// [`can_expand`].
#[inline]
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
pub(super) fn expand<T: Pod>(firsts: &Firsts, n: usize, values: &[T; ROOM], out: &mut [T]) {
    #[cfg(target_arch = "x86_64")]
    if wide::is_supported() {
        // SAFETY: the processor has the instructions. `stored` is a third quicker with it.
        unsafe { wide::expand(firsts, n, values, out) };
    }
}

/// Finds the next `n` ones, up to [`BLOCK`], from bit `at` on, counted from there; returns the bit
/// after the last of them. What follows in `out` is undefined.
#[inline]
pub(super) fn ones(bits: Bits<'_>, at: u64, n: usize, out: &mut Plane) -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    if wide::is_supported() {
        // SAFETY: the processor has the instructions. Twice as quick as `plain_ones`.
        return unsafe { wide::ones(bits, at, n, out) };
    }
    plain_ones(bits, at, n, out)
}

/// Unpacks `n` fields of `width` bits, up to 32, that follow one another from bit `at` on; up to
/// [`BLOCK`] of them. What follows in `out` is undefined.
#[inline]
pub(super) fn fields(bits: Bits<'_>, at: u64, width: u32, n: usize, out: &mut Plane) {
    #[cfg(target_arch = "x86_64")]
    if width <= wide::WIDEST && wide::is_supported() {
        // SAFETY: the processor has the instructions. Four times as quick as `plain_fields`.
        return unsafe { wide::fields(bits, at, width, n, out) };
    }
    plain_fields(bits, at, width, &mut out[..n]);
}

/// Windows of one run that follow one another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gaps {
    pub(super) count: usize,
    /// Low bits of a gap.
    pub(super) low_bits: u32,
    /// The window that a first gap of 0 leads to.
    pub(super) next: u64,
}

/// Adds up the gaps of a block, whose low bits begin at bit `at` and whose high parts are the
/// distances between `ones`. None if a window is not below `n_windows`. What follows in `out` is
/// undefined.
#[inline]
pub(super) fn windows(
    bits: Bits<'_>,
    at: u64,
    n_windows: u32,
    ones: &Plane,
    runs: impl Iterator<Item = Gaps>,
    out: &mut Plane,
) -> Option<()> {
    #[cfg(target_arch = "x86_64")]
    if n_windows < wide::MOST_WINDOWS && wide::is_supported() {
        // SAFETY: the processor has the instructions. Three times as quick as `plain_windows`.
        return unsafe { wide::windows(bits, at, n_windows, ones, runs, out) };
    }
    plain_windows(bits, at, n_windows, ones, runs, out)
}

/// [`ones`] with what every processor has.
pub(super) fn plain_ones(bits: Bits<'_>, at: u64, n: usize, out: &mut Plane) -> Option<u64> {
    let mut base = 0u32;
    let mut found = 0;
    while found < n {
        let place = at + u64::from(base);
        if place >= bits.len() {
            return None;
        }
        let mut word = bits.load(place) & (u64::MAX >> (64 - WHOLE));
        let end = found + word.count_ones() as usize;
        // Four at a time, wanted or not: how many there are is hard to guess.
        while found < end {
            for one in &mut out[found..found + 4] {
                *one = base + word.trailing_zeros();
                word &= word.wrapping_sub(1);
            }
            found += 4;
        }
        found = end;
        base = base.checked_add(WHOLE)?;
    }
    end_of(bits, at, n, out)
}

/// The bit after the last of `n` ones.
#[inline]
pub(super) fn end_of(bits: Bits<'_>, at: u64, n: usize, ones: &Plane) -> Option<u64> {
    let end = n
        .checked_sub(1)
        .map_or(at, |last| at + u64::from(ones[last]) + 1);
    (end <= bits.len()).then_some(end)
}

/// [`fields`] with what every processor has.
pub(super) fn plain_fields(bits: Bits<'_>, mut at: u64, width: u32, out: &mut [u32]) {
    if width == 0 {
        out.fill(0);
        return;
    }
    let mask = low_mask(width);
    // As many at a time as a word holds for certain.
    let together = WHOLE / width;
    for some in out.chunks_mut(together as usize) {
        let mut word = bits.load(at);
        for field in some {
            *field = word as u32 & mask;
            word >>= width;
        }
        at += u64::from(together * width);
    }
}

/// [`windows`] with what every processor has.
pub(super) fn plain_windows(
    bits: Bits<'_>,
    mut at: u64,
    n_windows: u32,
    ones: &Plane,
    runs: impl Iterator<Item = Gaps>,
    out: &mut Plane,
) -> Option<()> {
    let mut from = 0;
    // The bit after the last one.
    let mut last = 0u32;
    for Gaps {
        count,
        low_bits,
        mut next,
    } in runs
    {
        let to = from + count;
        plain_fields(bits, at, low_bits, &mut out[from..to]);
        for (window, &one) in out[from..to].iter_mut().zip(&ones[from..to]) {
            next += (u64::from(one - last) << low_bits) + u64::from(*window);
            *window = next as u32;
            next += 1;
            last = one + 1;
        }
        if next > u64::from(n_windows) {
            return None;
        }
        at += count as u64 * u64::from(low_bits);
        from = to;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes of which more or fewer bits are 1, and how many of them are only there to be loaded.
    fn streams() -> impl Strategy<Value = (Vec<u8>, usize)> {
        let byte = |rare| prop_oneof![rare => Just(0u8), 4 => any::<u8>(), 1 => Just(1u8)];
        prop::sample::select(vec![1, 4, 40])
            .prop_flat_map(move |rare| (prop::collection::vec(byte(rare), 0..400), 0usize..90))
    }

    fn bits((bytes, slack): &(Vec<u8>, usize)) -> Bits<'_> {
        Bits {
            bytes,
            n_bytes: bytes.len().saturating_sub(*slack),
        }
    }

    proptest! {
        #[test]
        fn fields_are_those_read_one_by_one(stream in streams(), at in 0u64..900, width in 0u32..=32, n in 0usize..=128) {
            let bits = bits(&stream);
            let expected: Vec<u32> =
                (0..n as u64).map(|i| bits.get(at + i * u64::from(width), width)).collect();
            let mut out = [7; ROOM];
            fields(bits, at, width, n, &mut out);
            prop_assert_eq!(&out[..n], &expected);
            plain_fields(bits, at, width, &mut out[..n]);
            prop_assert_eq!(&out[..n], &expected);
        }

        #[test]
        fn ones_and_windows_are_those_of_every_processor(
            stream in streams(),
            at in 0u64..500,
            low_at in 0u64..500,
            runs in prop::collection::vec((1usize..40, 0u32..20, 0u64..100), 0..9),
            n_windows in prop_oneof![1u32..3_000, 1u32..1 << 26],
        ) {
            let bits = bits(&stream);
            let mut left = BLOCK as usize;
            let runs: Vec<Gaps> = runs
                .into_iter()
                .map(|(count, low_bits, next)| {
                    let count = count.min(left);
                    left -= count;
                    Gaps { count, low_bits, next }
                })
                .collect();
            let n = BLOCK as usize - left;
            let (mut found, mut plain) = ([7; ROOM], [7; ROOM]);
            let end = ones(bits, at, n, &mut found);
            prop_assert_eq!(end, plain_ones(bits, at, n, &mut plain));
            if end.is_none() {
                return Ok(());
            }
            let places = (at..bits.len()).filter(|&at| bits.get(at, 1) == 1);
            let expected: Vec<u32> = places.take(n).map(|one| (one - at) as u32).collect();
            prop_assert_eq!(&found[..n], &expected);
            prop_assert_eq!(&plain[..n], &expected);
            let expected = plain_windows(bits, low_at, n_windows, &found, runs.iter().copied(), &mut plain);
            let mut out = [7; ROOM];
            let given = windows(bits, low_at, n_windows, &found, runs.iter().copied(), &mut out);
            prop_assert_eq!(given, expected);
            if given.is_some() {
                prop_assert_eq!(&out[..n], &plain[..n]);
                prop_assert!(out[..n].iter().all(|&window| window < n_windows));
            }
        }

        #[test]
        fn values_are_moved_to_the_ones(firsts: [u64; FIRSTS], n in 0usize..=128) {
            if !can_expand() {
                return Ok(());
            }
            let places: Vec<usize> =
                (0..256).filter(|&at| firsts[at / 64] >> (at % 64) & 1 == 1).take(n).collect();
            let hits = places.last().map_or(0, |&last| last + 1);
            let (mut small, mut middle, mut large) = ([0u16; 512], [0u32; 512], [0u64; 512]);
            expand(&firsts, hits, &std::array::from_fn(|i| i as u16), &mut small);
            expand(&firsts, hits, &std::array::from_fn(|i| i as u32), &mut middle);
            expand(&firsts, hits, &std::array::from_fn(|i| i as u64), &mut large);
            for (i, &at) in places.iter().enumerate() {
                prop_assert_eq!((small[at], middle[at], large[at]), (i as u16, i as u32, i as u64));
            }
        }
    }
}
