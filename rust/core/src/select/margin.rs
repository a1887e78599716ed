//! How far a proposal may be from the pre-activation, proved.
//!
//! Let `x`, `w` be the exact operands (width d), `x'`, `w'` those of the product (rounded to bf16, or
//! the same), `u = 2⁻²⁴`. A proposal `p` and the defined dot `s` differ by at most the sum of
//!
//! - what rounding the operands left out: `x·w − x'·w' = (x − x')·w + x'·(w − w')`, which by Cauchy and
//!   Schwarz is at most `|x − x'| |w| + |x'| |w − w'|`;
//! - the product's own rounding: each of its sums in float32, in any order, with or without fused
//!   steps, is off by at most `γ(d) Σ|x'ᵢ w'ᵢ| ≤ 2 d u |x'| |w'|` (Higham, "Accuracy and Stability of
//!   Numerical Algorithms", §3.1; `γ(n) = n u / (1 − n u)`, and `Σ|aᵢ bᵢ| ≤ |a| |b|`);
//! - the defined order's: a term goes through at most ⌈d/32⌉ fused steps and 5 halvings, so
//!   `2 (d/32 + 8) u |x| |w|`;
//! - what is too small for float32: an operand below `2⁻¹²⁶` may be read as 0 (the processor's bf16
//!   instruction does) and a result below it written as 0: `2⁻¹²⁶ (√d (|x'| + |w'|) + 4 d + 4)`;
//! - where the product is stored as bf16: half a step, `2⁻⁸ |p|`; `|p|` is at most the row's largest.
//!
//! The norms of weights are the largest of any latent. They are taken in float64, whose own error
//! (`d · 2⁻⁵³`) is within the factor [`SLACK`]. Adding the bias `b` rounds monotonically: if
//! `p + b ≥ f` for a float32 `f`, then so does the rounded sum, and adding it to `s` moves that by `u`
//! of the result. Hence, with `m` the sum above, if `K` is a lower bound of the `k`-th largest rounded
//! `p + b`, then `k` pre-activations are at least `K (1 − 4u) − m (1 + 4u)`, and one that is at least as
//! large as these has a proposal of at least `K − 8u|K| − 2m (1 + 8u)`: nothing below can be among the
//! `k` largest, nor equal to the last of them. Once `k` of them are computed, the least, `T`, takes
//! the place of the first margin: what is at least `T` has a proposal of at least
//! `T − 8u|T| − m (1 + 8u)`. Finite weights and rows whose products could overflow
//! have no margin; all their pre-activations are computed in the defined order.

use rayon::prelude::*;

use super::dot::Exact;

const U: f64 = 1.0 / (1u32 << 24) as f64;
/// The least normal float32.
const TINY: f64 = f32::MIN_POSITIVE as f64;
/// Covers float64's rounding in the norms and in the margin itself.
const SLACK: f64 = 1.0 + 1e-6;
/// Beyond it a product may overflow.
const LARGEST: f64 = 1e37;

/// The largest norms of any latent's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Norms {
    /// Of the exact weights.
    pub exact: f64,
    /// Of what rounding them to bf16 leaves out: 0 where the product does not round them.
    pub left: f64,
}

/// The norms of weights whose product is of bf16 (`rounded`), or of them as they are.
#[must_use]
pub fn norms(exact: &Exact<'_>, width: usize, rounded: bool) -> Norms {
    let squares = |values: &[f32]| {
        let (whole, left) = sums(values, rounded);
        Norms {
            exact: whole.sqrt(),
            left: left.sqrt(),
        }
    };
    let larger = |a: Norms, b: Norms| Norms {
        exact: a.exact.max(b.exact),
        left: a.left.max(b.left),
    };
    match exact {
        Exact::Float32(values) => values
            .par_chunks(width)
            .map(squares)
            .reduce(Norms::default, larger),
        Exact::Bf16(values) => values
            .par_chunks(width)
            .map(|row| squares(&row.iter().map(|&bits| widen(bits)).collect::<Vec<_>>()))
            .reduce(Norms::default, larger),
    }
}

/// The squared norms of some values and of what rounding them to bf16 leaves out.
fn sums(values: &[f32], rounded: bool) -> (f64, f64) {
    // Eight lanes, so that the additions do not wait for each other.
    let (mut whole, mut left) = ([0.0f64; 8], [0.0f64; 8]);
    let (parts, rest) = values.as_chunks::<8>();
    let mut last = [0.0; 8];
    last[..rest.len()].copy_from_slice(rest);
    for part in parts.iter().chain([&last]) {
        for (lane, &value) in part.iter().enumerate() {
            let off = if rounded {
                f64::from(value) - f64::from(widen(round(value)))
            } else {
                0.0
            };
            whole[lane] += f64::from(value) * f64::from(value);
            left[lane] += off * off;
        }
    }
    (whole.iter().sum(), left.iter().sum())
}

/// To bf16, to the nearest and of two the even one; values too large become infinite.
fn round(value: f32) -> u16 {
    let bits = value.to_bits();
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// The value of a bf16.
pub(super) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Of a row.
pub(super) struct Margin {
    /// What does not depend on the proposal.
    absolute: f64,
    /// Of the proposal.
    relative: f64,
    /// A bound of every product of the row.
    bound: f64,
}

impl Margin {
    /// None if the row holds NaN or infinity.
    pub(super) fn of(x: &[f32], weights: &Norms, stored_as_bf16: bool) -> Option<Self> {
        let d = x.len() as f64;
        let (whole, left) = sums(x, stored_as_bf16);
        // A sum of squares of float32 does not overflow float64.
        if !whole.is_finite() {
            return None;
        }
        let (exact, left) = (whole.sqrt(), left.sqrt());
        let (operand, weight) = (exact + left, weights.exact + weights.left);
        let rounding = left * weights.exact + operand * weights.left;
        let product = 2.0 * d * U * operand * weight;
        let defined = 2.0 * (d / 32.0 + 8.0) * U * exact * weights.exact;
        let tiny = TINY * (d.sqrt() * (operand + weight) + 4.0 * d + 4.0);
        Some(Self {
            absolute: SLACK * (rounding + product + defined + tiny),
            relative: if stored_as_bf16 { 1.0 / 256.0 } else { 0.0 },
            bound: SLACK * operand * weight,
        })
    }

    /// Whether the product may have overflowed, so that nothing is known.
    pub(super) fn is_useless(&self) -> bool {
        let known = self.absolute < LARGEST && self.bound < LARGEST;
        !known
    }

    /// The margin of a row whose proposals are at most so large, rounded up.
    pub(super) fn around(&self, largest: f32) -> f32 {
        let margin = self.absolute + SLACK * self.relative * f64::from(largest);
        ((margin * (1.0 + 16.0 * U)) as f32).next_up()
    }
}

/// What a proposal and its bias must reach, given a lower bound of the `k`-th of them.
pub(super) fn least(kth: f32, around: f32) -> f32 {
    let (kth, around) = (f64::from(kth), f64::from(around));
    let least = kth - 8.0 * U * kth.abs() - 2.0 * around * (1.0 + 8.0 * U);
    // Only positive pre-activations are kept.
    (least as f32).next_down().max(-(around as f32))
}

/// What a proposal and its bias must reach, given the least of `k` pre-activations.
pub(super) fn least_beside(pre: f32, around: f32) -> f32 {
    let (pre, around) = (f64::from(pre), f64::from(around));
    let least = pre - 8.0 * U * pre.abs() - around * (1.0 + 8.0 * U);
    (least as f32).next_down().max(-(around as f32))
}

/// Bias less threshold, by latent, rounded up by all that comparing them rounds.
pub(super) fn offsets(bias: &[f32], thresholds: &[f32]) -> Vec<f32> {
    bias.iter()
        .zip(thresholds)
        .map(|(&bias, &threshold)| {
            let (bias, threshold) = (f64::from(bias), f64::from(threshold));
            let up = 4.0 * U * threshold.abs() + 2.0 * TINY;
            ((bias - threshold + up) as f32).next_up()
        })
        .collect()
}
