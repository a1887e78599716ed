//! The defined order of a dot product, for some latents of a row.
//!
//! Lane `i` of 32 adds `x[i + 32 t] · w[i + 32 t]` by fused multiply-adds, `t` ascending, from 0; the
//! lanes are added by halving: `i` and `i + 16`, then `i + 8`, and so on. Both ways below give the same
//! bits. Rows of weights lie anywhere in memory, so those to come are asked for ahead.

#[cfg(target_arch = "x86_64")]
#[allow(clippy::wildcard_imports)] // They are instructions, and have their own prefix.
use std::arch::x86_64::*;

use super::margin::widen;

const LANES: usize = 32;
/// How many rows ahead memory is asked for.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 3;

/// Weights as what is exact for them, row by row.
#[derive(Clone, Copy, Debug)]
pub enum Exact<'a> {
    /// Float32, or what fits into it (float16).
    Float32(&'a [f32]),
    /// The bits of bf16.
    Bf16(&'a [u16]),
}

impl Exact<'_> {
    /// How many numbers.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Float32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Appends the dots of a row with some latents.
pub(super) fn dots(
    x: &[f32],
    exact: &Exact<'_>,
    latents: &[u32],
    wide: bool,
    values: &mut Vec<f32>,
) {
    #[cfg(target_arch = "x86_64")]
    if wide {
        // SAFETY: `wide` is set where the processor has the instructions.
        unsafe { wide_dots(x, exact, latents, values) };
        return;
    }
    let _ = wide;
    let width = x.len();
    values.extend(latents.iter().map(|&latent| {
        let at = latent as usize * width;
        match exact {
            Exact::Float32(weights) => plain(x, &weights[at..][..width], |value| value),
            Exact::Bf16(weights) => plain(x, &weights[at..][..width], widen),
        }
    }));
}

#[inline]
fn plain<T: Copy>(x: &[f32], w: &[T], value: impl Fn(T) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (xs, ws) = (x.chunks_exact(LANES), w.chunks_exact(LANES));
    let rest = xs.remainder().iter().zip(ws.remainder());
    for (x, w) in xs.zip(ws) {
        for lane in 0..LANES {
            lanes[lane] = x[lane].mul_add(value(w[lane]), lanes[lane]);
        }
    }
    for (lane, (x, &w)) in lanes.iter_mut().zip(rest) {
        *lane = x.mul_add(value(w), *lane);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn wide_dots(x: &[f32], exact: &Exact<'_>, latents: &[u32], values: &mut Vec<f32>) {
    let width = x.len();
    for (place, &latent) in latents.iter().enumerate() {
        let at = latent as usize * width;
        let next = latents
            .get(place + AHEAD)
            .map(|&next| next as usize * width);
        let value = match exact {
            Exact::Float32(weights) => {
                if let Some(next) = next {
                    ask_for(&weights[next..][..width]);
                }
                wide_float32(x, &weights[at..][..width])
            }
            Exact::Bf16(weights) => {
                if let Some(next) = next {
                    ask_for(&weights[next..][..width]);
                }
                wide_bf16(x, &weights[at..][..width])
            }
        };
        values.push(value);
    }
}

/// Asks for a row's memory; a hint, which cannot fail. Rows of float32 are too long for the first
/// cache: 32 µs a token in place of 38 when they are asked into the second.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn ask_for<T>(row: &[T]) {
    for line in row.chunks(64 / size_of::<T>()) {
        if size_of::<T>() == 4 {
            _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast());
        } else {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn wide_float32(x: &[f32], w: &[f32]) -> f32 {
    let (xs, ws) = (x.chunks_exact(LANES), w.chunks_exact(LANES));
    let rest = (xs.remainder(), ws.remainder());
    let mut sums = [_mm512_setzero_ps(); 2];
    for (x, w) in xs.zip(ws) {
        for half in 0..2 {
            sums[half] = _mm512_fmadd_ps(load(&x[16 * half..]), load(&w[16 * half..]), sums[half]);
        }
    }
    tail(rest.0, rest.1, |value| value, &mut sums);
    halve(sums)
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn wide_bf16(x: &[f32], w: &[u16]) -> f32 {
    let (xs, ws) = (x.chunks_exact(LANES), w.chunks_exact(LANES));
    let rest = (xs.remainder(), ws.remainder());
    let mut sums = [_mm512_setzero_ps(); 2];
    for (x, w) in xs.zip(ws) {
        let w: &[[u16; 16]; 2] = bytemuck::from_bytes(bytemuck::cast_slice(w));
        for half in 0..2 {
            let bits: __m256i = bytemuck::cast(w[half]);
            let bits = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits));
            let w = _mm512_castsi512_ps(bits);
            sums[half] = _mm512_fmadd_ps(load(&x[16 * half..]), w, sums[half]);
        }
    }
    tail(rest.0, rest.1, widen, &mut sums);
    halve(sums)
}

/// Sixteen values; zeros if there are fewer.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load(values: &[f32]) -> __m512 {
    let values: &[f32; 16] = values.first_chunk().unwrap_or(&[0.0; 16]);
    bytemuck::cast(*values)
}

/// The last columns, filled with zeros.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn tail<T: Copy>(x: &[f32], w: &[T], value: impl Fn(T) -> f32, sums: &mut [__m512; 2]) {
    if x.is_empty() {
        return;
    }
    let (mut xs, mut ws) = ([0.0f32; LANES], [0.0f32; LANES]);
    for (lane, (&x, &w)) in x.iter().zip(w).enumerate() {
        (xs[lane], ws[lane]) = (x, value(w));
    }
    for half in 0..2 {
        sums[half] = _mm512_fmadd_ps(load(&xs[16 * half..]), load(&ws[16 * half..]), sums[half]);
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn halve(sums: [__m512; 2]) -> f32 {
    let sum = _mm512_add_ps(sums[0], sums[1]);
    let upper = _mm512_castpd_ps(_mm512_castps_pd(_mm512_shuffle_f32x4::<0b11_10>(sum, sum)));
    let sum = _mm256_add_ps(_mm512_castps512_ps256(sum), _mm512_castps512_ps256(upper));
    let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    let sum = _mm_add_ss(sum, _mm_movehdup_ps(sum));
    _mm_cvtss_f32(sum)
}
