//! Whole planes of a block at once: ones of unary numbers, and fields of equal width.
//!
//! Both are what decoding a list mostly does. Where the processor has AVX-512 with its instructions
//! on bytes, [`super::wide`] does 16 or more at a time; what is here does the same anywhere.

use super::BLOCK;
#[cfg(target_arch = "x86_64")]
use super::wide;
use crate::bits::{Bits, WHOLE, low_mask};

/// Values of a plane, and room for those that are written beyond it.
pub(super) const ROOM: usize = BLOCK as usize + 64;
/// A plane of a block, unpacked.
pub(super) type Plane = [u32; ROOM];

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
