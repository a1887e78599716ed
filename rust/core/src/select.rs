//! Which latents are active, of pre-activations that a fast matrix product only proposes; exact.
//!
//! The pre-activation of row `x` and latent `w` is *defined* by an order of float32 operations: 32
//! lanes of fused multiply-adds, halved (`dot`), plus the bias. A product by any library (bf16 or
//! float32, sums in float32 in any order) comes with a bound of how far it may be from that
//! (`margin`); what cannot be ruled out by it is computed again in the defined order, and selected by
//! those values. So the result depends neither on the library nor on the type of its product.
//!
//! One pass over a row keeps the largest proposal of each of many small groups (`scan`). The `k`-th
//! largest of them is a lower bound of the `k`-th largest proposal and seldom far below it; a second
//! look at the groups that reach it, less twice the margin, finds the candidates.

mod dot;
mod margin;
mod scan;
#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests;

use std::cmp::Ordering;

pub use dot::Exact;
pub use margin::{Norms, norms};
pub use scan::Proposed;

use crate::batch::NO_LATENT;
use crate::error::{Error, Result};
use margin::Margin;
use scan::Scan;

/// With which instructions; the results are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instructions {
    /// The widest that the processor has: AVX-512.
    Fastest,
    /// Those that the crate is compiled for: AVX2 and FMA on x86-64, else what there is.
    Portable,
}

impl Instructions {
    fn wide(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Fastest
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }
}

/// When a latent is active, and how strongly.
#[derive(Clone, Copy, Debug)]
pub enum Rule<'a> {
    /// The so many largest positive pre-activations; of equal ones the first latents.
    TopK(usize),
    /// Positive pre-activations above the latent's value.
    Threshold(&'a [f32]),
    /// Pre-activations above 0; the activation is `scale · dot + magnitude`, rounded once, if
    /// positive; `dot` is the pre-activation without its bias.
    Gated {
        /// By latent.
        scale: &'a [f32],
        /// By latent.
        magnitude: &'a [f32],
    },
}

/// An encoder's weights and rule, on which rows can be selected.
pub struct Selector<'a> {
    exact: Exact<'a>,
    bias: &'a [f32],
    rule: Rule<'a>,
    norms: Norms,
    /// What is added to a proposal before it is compared: the bias, less a threshold.
    offset: std::borrow::Cow<'a, [f32]>,
    width: usize,
    wide: bool,
}

/// What was found in some rows, one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selected {
    /// How many entries each row has.
    pub counts: Vec<u32>,
    /// Within a row by activation descending, equal ones by latent.
    pub latents: Vec<u32>,
    /// Positive.
    pub activations: Vec<f32>,
    /// Rows with NaN or infinity in them, or in their pre-activations; they have no entries.
    pub refused: Vec<u32>,
    /// Pre-activations that were computed again.
    pub rescored: u64,
}

/// What is needed while a row is selected, kept from row to row.
#[derive(Default)]
struct Scratch {
    scan: Scan,
    candidates: Vec<u32>,
    values: Vec<f32>,
    order: Vec<(f32, u32)>,
}

impl<'a> Selector<'a> {
    /// Prepares; the thresholds' offsets are computed here.
    pub fn new(
        exact: Exact<'a>,
        bias: &'a [f32],
        width: usize,
        rule: Rule<'a>,
        norms: Norms,
        instructions: Instructions,
    ) -> Result<Self> {
        let n = bias.len();
        if width == 0 || n == 0 || exact.len() != n * width {
            return Err(Error::input(format!(
                "`weight` holds {} numbers, not {n} rows of {width}",
                exact.len()
            )));
        }
        let lengths = match rule {
            Rule::TopK(k) if k == 0 || k > n => {
                return Err(Error::input(format!(
                    "`k` is {k}; it must be from 1 to {n}"
                )));
            }
            Rule::TopK(_) => [n; 2],
            Rule::Threshold(values) => [values.len(); 2],
            Rule::Gated { scale, magnitude } => [scale.len(), magnitude.len()],
        };
        if let Some(length) = lengths.into_iter().find(|&length| length != n) {
            return Err(Error::input(format!(
                "the rule has {length} numbers for {n} latents"
            )));
        }
        let offset = match rule {
            Rule::Threshold(values) => margin::offsets(bias, values).into(),
            _ => bias.into(),
        };
        Ok(Self {
            exact,
            bias,
            rule,
            norms,
            offset,
            width,
            wide: instructions.wide(),
        })
    }

    /// The active latents of some rows.
    ///
    /// `x` holds the rows, rounded to what is exact; `proposed` their products with the weights,
    /// without bias: of `x` and weights rounded to bf16 if it is [`Proposed::Bf16`].
    pub fn select(&self, x: &[f32], proposed: Proposed<'_>) -> Result<Selected> {
        let (n, width) = (x.len() / self.width, self.width);
        let latents = self.bias.len();
        if x.len() != n * width || proposed.len() != n * latents {
            return Err(Error::input(format!(
                "`x` holds {} numbers and `proposed` {}, not rows of {width} and {latents}",
                x.len(),
                proposed.len()
            )));
        }
        let mut found = Selected {
            counts: Vec::with_capacity(n),
            ..Selected::default()
        };
        let mut scratch = Scratch::default();
        for row in 0..n {
            let before = found.latents.len();
            let values = &x[row * width..][..width];
            if !self.row(values, proposed.row(row, latents), &mut scratch, &mut found) {
                found.refused.push(row as u32);
            }
            found.counts.push((found.latents.len() - before) as u32);
        }
        Ok(found)
    }

    /// Appends a row's entries; false if it cannot have any.
    fn row(
        &self,
        x: &[f32],
        proposed: Proposed<'_>,
        scratch: &mut Scratch,
        found: &mut Selected,
    ) -> bool {
        let n = self.bias.len();
        let Some(margin) = Margin::of(x, &self.norms, proposed.is_rounded()) else {
            return false;
        };
        scratch.candidates.clear();
        let mut around = 0.0;
        if margin.is_useless() {
            scratch.candidates.extend(0..n as u32);
        } else {
            let groups = match self.rule {
                Rule::TopK(k) => k,
                _ => 1,
            };
            let largest = scratch.scan.look(proposed, &self.offset, groups, self.wide);
            around = margin.around(largest);
            let least = match self.rule {
                Rule::TopK(k) => margin::least(scratch.scan.kth(k, self.wide), around),
                _ => -around,
            };
            let candidates = &mut scratch.candidates;
            scratch
                .scan
                .gather(proposed, &self.offset, least, self.wide, candidates);
        }
        let values = &mut scratch.values;
        values.clear();
        let mut known = 0;
        if let Rule::TopK(k) = self.rule
            && scratch.candidates.len() > k
            && !margin.is_useless()
        {
            // The likely ones first: the least of them leaves fewer of the others.
            let key = |&at: &u32| proposed.at(at as usize) + self.bias[at as usize];
            let candidates = &mut scratch.candidates;
            candidates.select_nth_unstable_by(k - 1, |a, b| key(b).total_cmp(&key(a)));
            dot::dots(x, &self.exact, &candidates[..k], self.wide, values);
            let pre = |(&value, &at): (&f32, &u32)| value + self.bias[at as usize];
            let kth = values.iter().zip(&candidates[..]).map(pre);
            let least = margin::least_beside(kth.fold(f32::INFINITY, f32::min), around);
            let mut place = 0;
            candidates.retain(|at| {
                place += 1;
                place <= k || key(at) >= least
            });
            known = k;
        }
        found.rescored += scratch.candidates.len() as u64;
        let others = &scratch.candidates[known..];
        dot::dots(x, &self.exact, others, self.wide, values);
        scratch.order.clear();
        let mut finite = true;
        for (&latent, &dot) in scratch.candidates.iter().zip(values.iter()) {
            let at = latent as usize;
            let pre = dot + self.bias[at];
            finite &= pre.is_finite();
            let activation = match self.rule {
                Rule::TopK(_) => pre,
                Rule::Threshold(values) if pre > values[at] => pre,
                Rule::Gated { scale, magnitude } if pre > 0.0 => {
                    // Of the dot itself, which the bias would round first; rounded once.
                    dot.mul_add(scale[at], magnitude[at])
                }
                _ => 0.0,
            };
            if activation > 0.0 {
                scratch.order.push((activation, latent));
            }
        }
        if !finite || scratch.order.iter().any(|(value, _)| value.is_infinite()) {
            return false;
        }
        let order = &mut scratch.order;
        if let Rule::TopK(k) = self.rule
            && order.len() > k
        {
            order.select_nth_unstable_by(k - 1, first);
            order.truncate(k);
        }
        order.sort_unstable_by(first);
        found
            .latents
            .extend(order.iter().map(|&(_, latent)| latent));
        found
            .activations
            .extend(order.iter().map(|&(value, _)| value));
        true
    }
}

/// The stronger first, of equal ones the smaller latent.
#[allow(clippy::trivially_copy_pass_by_ref)] // as sorting asks for it
fn first(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

impl Selected {
    /// Rows of `k` entries, filled with [`NO_LATENT`] and 0.
    #[must_use]
    pub fn rows(&self, k: usize) -> (Vec<u32>, Vec<f32>) {
        let n = self.counts.len();
        let (mut latents, mut activations) = (vec![NO_LATENT; n * k], vec![0.0; n * k]);
        let mut at = 0;
        for (row, &count) in self.counts.iter().enumerate() {
            let count = count as usize;
            let kept = count.min(k);
            latents[row * k..][..kept].copy_from_slice(&self.latents[at..][..kept]);
            activations[row * k..][..kept].copy_from_slice(&self.activations[at..][..kept]);
            at += count;
        }
        (latents, activations)
    }
}
