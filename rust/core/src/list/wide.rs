//! What [`super::unpack`] does, with AVX-512 and its instructions on bytes (Ice Lake, Zen 4).

#[allow(clippy::wildcard_imports)] // They are instructions, and have their own prefix.
use std::arch::x86_64::*;

use bytemuck::Pod;

use super::unpack::{Firsts, Gaps, Plane, ROOM, end_of};
use crate::bits::{Bits, low_mask};

/// The widest field that a lane of 32 bits holds wherever in a byte it begins.
pub(super) const WIDEST: u32 = 25;
/// Below so many windows no gap has more low bits than that.
pub(super) const MOST_WINDOWS: u32 = 1 << (WIDEST + 1);
/// Fields that are unpacked at a time.
const LANES: usize = 16;

/// Whether this processor has all that is used here.
#[inline]
pub(super) fn is_supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vbmi2")
}

/// As [`super::unpack::ones`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
pub(super) fn ones(bits: Bits<'_>, at: u64, n: usize, out: &mut Plane) -> Option<u64> {
    let places: __m512i = bytemuck::cast(PLACES);
    let mut byte = (at >> 3) as usize;
    let skipped = (at & 7) as u32;
    let mut base = 0u32.wrapping_sub(skipped);
    let mut word = bits.word(byte) & (u64::MAX << skipped);
    let mut found = 0;
    while found < n {
        if byte >= bits.n_bytes {
            return None;
        }
        // The places of the ones in the word, a byte each, moved together.
        let bytes = _mm512_maskz_compress_epi8(word, places);
        let quarters: [__m128i; 4] = bytemuck::cast(bytes);
        let count = word.count_ones() as usize;
        for (quarter, from) in quarters.into_iter().zip((0..count).step_by(LANES)) {
            let ones = _mm512_add_epi32(_mm512_cvtepu8_epi32(quarter), all(base));
            store(ones, found + from, out);
        }
        found += count;
        byte += 8;
        base = base.wrapping_add(64);
        if base > u32::MAX - 128 && found < n {
            return None;
        }
        word = bits.word(byte);
    }
    end_of(bits, at, n, out)
}

/// As [`super::unpack::fields`], for fields of up to [`WIDEST`] bits.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
pub(super) fn fields(bits: Bits<'_>, at: u64, width: u32, n: usize, out: &mut Plane) {
    let sixteen = Sixteen::new(at, width);
    let mut byte = (at >> 3) as usize;
    for from in (0..n).step_by(LANES) {
        store(sixteen.fields(bits, byte), from, out);
        byte += 2 * width as usize;
    }
}

/// As [`super::unpack::windows`], for fewer than [`MOST_WINDOWS`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
pub(super) fn windows(
    bits: Bits<'_>,
    mut at: u64,
    n_windows: u32,
    ones: &Plane,
    runs: impl Iterator<Item = Gaps>,
    out: &mut Plane,
) -> Option<()> {
    let lanes: __m512i = bytemuck::cast(LANE);
    let sixteen = all(LANES as u32);
    let last_lane = all(LANES as u32 - 1);
    let mut from = 0;
    // The bit after the last one.
    let mut last = 0u32;
    for Gaps {
        count,
        low_bits,
        next,
    } in runs
    {
        if next > u64::from(n_windows) {
            return None;
        }
        let fields = Sixteen::new(at, low_bits);
        let mut byte = (at >> 3) as usize;
        let shift = _mm_cvtsi32_si128(low_bits.cast_signed());
        // What a window is beyond its high parts and its low ones: one more for each before it.
        let mut more = _mm512_add_epi32(lanes, all(next as u32));
        // The one it would have without high parts.
        let mut without = _mm512_add_epi32(lanes, all(last));
        let mut lows = _mm512_setzero_si512();
        for place in (from..from + count).step_by(LANES) {
            lows = _mm512_add_epi32(sums(fields.fields(bits, byte)), lows);
            let high = _mm512_sub_epi32(lanes_of(ones, place), without);
            let window =
                _mm512_add_epi32(_mm512_sll_epi32(high, shift), _mm512_add_epi32(lows, more));
            store(window, place, out);
            lows = _mm512_permutexvar_epi32(last_lane, lows);
            more = _mm512_add_epi32(more, sixteen);
            without = _mm512_add_epi32(without, sixteen);
            byte += 2 * low_bits as usize;
        }
        if count > 0 {
            let (before, end) = (count as u64 - 1, from + count - 1);
            // All but the low bits, which add up to less than 2^32: what is missing is their sum.
            let high = u64::from(ones[end]) - u64::from(last) - before;
            let known = next + before + (high << low_bits);
            let lows = out[end].wrapping_sub(known as u32);
            if known + u64::from(lows) >= u64::from(n_windows) {
                return None;
            }
            last = ones[end] + 1;
        }
        at += count as u64 * u64::from(low_bits);
        from += count;
    }
    Some(())
}

/// As [`super::unpack::expand`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
pub(super) fn expand<T: Pod>(firsts: &Firsts, n: usize, values: &[T; ROOM], out: &mut [T]) {
    let lanes = 64 / size_of::<T>();
    let mut taken = 0;
    for at in (0..n).step_by(lanes) {
        let mask = firsts[at / 64] >> (at % 64) & (u64::MAX >> (64 - lanes));
        let packed =
            bytemuck::pod_read_unaligned(bytemuck::cast_slice(&values[taken..taken + lanes]));
        let spread = match lanes {
            8 => _mm512_maskz_expand_epi64(mask as u8, packed),
            16 => _mm512_maskz_expand_epi32(mask as u16, packed),
            _ => _mm512_maskz_expand_epi16(mask as u32, packed),
        };
        bytemuck::cast_slice_mut(&mut out[at..at + lanes])
            .copy_from_slice(bytemuck::bytes_of(&spread));
        taken += mask.count_ones() as usize;
    }
}

/// Where sixteen fields of one width lie, and the next sixteen, and so on.
struct Sixteen {
    /// The four bytes of each.
    bytes: __m512i,
    /// Where in them it begins.
    shift: __m512i,
    mask: __m512i,
}

impl Sixteen {
    /// Fields of `width` bits from bit `at` on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
    fn new(at: u64, width: u32) -> Self {
        let begin = _mm512_add_epi32(
            _mm512_mullo_epi32(bytemuck::cast(LANE), all(width)),
            all((at & 7) as u32),
        );
        let first = _mm512_mullo_epi32(_mm512_srli_epi32::<3>(begin), all(0x0101_0101));
        Self {
            bytes: _mm512_add_epi32(first, all(0x0302_0100)),
            shift: _mm512_and_si512(begin, all(7)),
            mask: all(low_mask(width)),
        }
    }

    /// Those of which the first begins in `byte`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
    fn fields(&self, bits: Bits<'_>, byte: usize) -> __m512i {
        let bytes = _mm512_permutexvar_epi8(self.bytes, load(bits, byte));
        _mm512_and_si512(_mm512_srlv_epi32(bytes, self.shift), self.mask)
    }
}

/// Of each lane: the sum of those up to it.
#[inline]
#[target_feature(enable = "avx512f")]
fn sums(values: __m512i) -> __m512i {
    let zero = _mm512_setzero_si512();
    let values = _mm512_add_epi32(values, _mm512_alignr_epi32::<15>(values, zero));
    let values = _mm512_add_epi32(values, _mm512_alignr_epi32::<14>(values, zero));
    let values = _mm512_add_epi32(values, _mm512_alignr_epi32::<12>(values, zero));
    _mm512_add_epi32(values, _mm512_alignr_epi32::<8>(values, zero))
}

/// The numbers of the lanes.
const LANE: [u32; LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// The bytes 0 to 63.
const PLACES: [u8; 64] = {
    let mut places = [0; 64];
    let mut place = 0;
    while place < 64 {
        places[place] = place as u8;
        place += 1;
    }
    places
};

/// The 64 bytes from `byte` on; what lies beyond the end is 0.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(bits: Bits<'_>, byte: usize) -> __m512i {
    match bits.bytes.get(byte..byte.wrapping_add(64)) {
        Some(bytes) => bytemuck::pod_read_unaligned(bytes),
        None => load_at_the_end(bits, byte),
    }
}

#[cold]
#[target_feature(enable = "avx512f")]
fn load_at_the_end(bits: Bits<'_>, byte: usize) -> __m512i {
    let mut bytes = [0u8; 64];
    let rest = bits.bytes.get(byte..).unwrap_or_default();
    let n = rest.len().min(64);
    bytes[..n].copy_from_slice(&rest[..n]);
    bytemuck::cast(bytes)
}

/// Sixteen times the same.
#[inline]
#[target_feature(enable = "avx512f")]
fn all(value: u32) -> __m512i {
    _mm512_set1_epi32(value.cast_signed())
}

/// Sixteen values from `from` on.
#[inline]
#[target_feature(enable = "avx512f")]
fn lanes_of(plane: &Plane, from: usize) -> __m512i {
    bytemuck::pod_read_unaligned(bytemuck::cast_slice(&plane[from..from + LANES]))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(values: __m512i, from: usize, out: &mut Plane) {
    out[from..from + LANES].copy_from_slice(&bytemuck::cast::<__m512i, [u32; LANES]>(values));
}
