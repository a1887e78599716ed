//! The text that all latents are compared with: what stands where, and how often.

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::Peaks;
use crate::error::Result;
use crate::index::Index;
use crate::segment::Segment;
use crate::text::{Mask, TokenSlice};

/// The text of an index, where it lies, and counts of it.
pub(super) struct Surroundings<'a> {
    segments: Vec<(u64, TokenSlice<'a>, Mask<'a>, usize)>,
    length: Divisor,
    window: Divisor,
    /// Unmasked tokens at each offset.
    pub(super) offsets: Vec<u64>,
    /// Unmasked occurrences of each token.
    pub(super) frequency: Vec<u64>,
    /// Unmasked tokens after each token.
    pub(super) followed: Vec<u64>,
}

/// A number that is mostly a power of two, and divides quickly if it is.
#[derive(Clone, Copy)]
struct Divisor {
    value: u32,
    shift: Option<u32>,
}

/// Tokens that a thread takes on at a time.
const PART: usize = 1 << 18;

/// A token and the one before it.
#[inline]
pub(super) fn pair(token: u32, before: u32) -> u64 {
    u64::from(token) << 32 | u64::from(before)
}

impl<'a> Surroundings<'a> {
    pub(super) fn of(index: &'a Index) -> Result<Self> {
        let mut text = Self {
            segments: Vec::new(),
            length: Divisor::new(index.context_length() as u32),
            window: Divisor::new(index.window() as u32),
            offsets: vec![0; index.context_length()],
            frequency: Vec::new(),
            followed: Vec::new(),
        };
        for segment in index.segments() {
            let (tokens, mask) = (segment.text().tokens()?, segment.mask()?);
            let n = segment.n_positions();
            text.segments
                .push((segment.first_context(), tokens, mask, n));
            for position in 0..n {
                let token = tokens.get(position) as usize;
                if text.frequency.len() <= token {
                    text.frequency.resize(token + 1, 0);
                    text.followed.resize(token + 1, 0);
                }
                if !mask.get(position) {
                    continue;
                }
                text.frequency[token] += 1;
                let offset = text.length.rest(position as u32) as usize;
                text.offsets[offset] += 1;
                if offset > 0 {
                    text.followed[tokens.get(position - 1) as usize] += 1;
                }
            }
        }
        Ok(text)
    }

    /// The tokens of a segment of this index.
    pub(super) fn tokens(&self, segment: &Segment) -> TokenSlice<'a> {
        let first = segment.first_context();
        self.segments[self.segments.partition_point(|s| s.0 < first)].1
    }

    /// The offset in its context of a position in its segment.
    #[inline]
    pub(super) fn offset(&self, position: u32) -> usize {
        self.length.rest(position) as usize
    }

    /// The number of its window there.
    #[inline]
    pub(super) fn window(&self, position: u32) -> u32 {
        self.window.quotient(position)
    }

    /// Mutual information, in nats, of the offset and of being active, which is `count` tokens, so
    /// many at each offset.
    pub(super) fn information(&self, active: &[u64], count: u64) -> f64 {
        let n: u64 = self.offsets.iter().sum();
        let (all, silent) = (n as f64, (n - count) as f64);
        let share = count as f64 / all;
        let none = -(1.0 - share).ln();
        let mut sum = 0.0;
        for (&there, &active) in self.offsets.iter().zip(active) {
            let (there, active) = (there as f64, active as f64);
            if active > 0.0 {
                sum += active * (active / (share * there)).ln();
                let rest = there - active;
                if rest > 0.0 {
                    sum += rest * (rest * all / (silent * there)).ln();
                }
            } else if there > 0.0 {
                sum += there * none;
            }
        }
        // Rounding alone can cross the end.
        (sum / all).max(0.0)
    }

    /// Counts where the pairs stand.
    pub(super) fn count_pairs(&self, pairs: &mut Peaks) {
        let mut keys = pairs.keys.clone();
        keys.par_sort_unstable();
        keys.dedup();
        if keys.is_empty() {
            return;
        }
        let vocabulary = self.frequency.len() as u64;
        let starts: Vec<usize> = (0..=vocabulary)
            .map(|token| keys.partition_point(|&key| key >> 32 < token))
            .collect();
        let counts: Vec<AtomicU64> = keys.iter().map(|_| AtomicU64::new(0)).collect();
        for &(_, tokens, mask, n) in &self.segments {
            (0..n.div_ceil(PART)).into_par_iter().for_each(|part| {
                for position in part * PART..n.min((part + 1) * PART) {
                    let token = tokens.get(position) as usize;
                    let span = starts[token]..starts[token + 1];
                    if span.is_empty() || !mask.get(position) || self.offset(position as u32) == 0 {
                        continue;
                    }
                    let key = pair(token as u32, tokens.get(position - 1));
                    if let Ok(at) = keys[span.clone()].binary_search(&key) {
                        counts[span.start + at].fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let of = |key: &u64| match keys.binary_search(key) {
            Ok(at) => counts[at].load(Ordering::Relaxed),
            Err(_) => 0,
        };
        for (latent, edges) in pairs.starts.windows(2).enumerate() {
            let few = &pairs.keys[edges[0] as usize..edges[1] as usize];
            pairs.occurrences[latent] = few.iter().map(of).sum();
        }
    }
}

impl Divisor {
    fn new(value: u32) -> Self {
        let shift = value.is_power_of_two().then(|| value.trailing_zeros());
        Self { value, shift }
    }

    #[inline]
    fn quotient(self, dividend: u32) -> u32 {
        match self.shift {
            Some(shift) => dividend >> shift,
            None => dividend / self.value,
        }
    }

    #[inline]
    fn rest(self, dividend: u32) -> u32 {
        dividend - self.quotient(dividend) * self.value
    }
}
