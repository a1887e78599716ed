//! Windows of a latent: their maxima, their ranks, and what the histograms say of them.

use rayon::prelude::*;

use crate::error::Result;
use crate::index::Index;
use crate::ranked::{Level, Ranked, activation};

/// The windows in which one latent is active, ordered by position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Windows {
    /// Positions of the first tokens.
    pub starts: Vec<u64>,
    /// The largest activation in each, of the index's precision.
    pub maxima: Vec<f32>,
    /// Rank deciles over the whole index, 1 to 10.
    pub deciles: Vec<u8>,
}

/// How many windows of each latent have each code; one row for a latent and a code, the strongest
/// first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Latent.
    pub latent: Vec<u32>,
    /// Code of the windows' maxima.
    pub code: Vec<u16>,
    /// The activation that stands for the code, within 1/32.
    pub activation: Vec<f32>,
    /// Windows.
    pub count: Vec<u64>,
}

/// The columns of [`Index::deciles`]: minimum, nine boundaries, maximum.
pub const BOUNDARIES: usize = 11;

impl Index {
    /// The windows in which a latent is active; costs one decoding of its lists.
    pub fn windows(&self, latent: u32) -> Result<Windows> {
        let mut ranked = Ranked::open(self, latent)?;
        let by_position = ranked.by_position()?;
        let exact = if self.lossless() {
            ranked.exact()?
        } else {
            Vec::new()
        };
        let mut windows = Windows::default();
        for (window, rank) in by_position {
            windows.starts.push(self.window_start(window));
            let bf16 = exact.get(rank as usize).map(|&(_, bf16)| bf16);
            let code = || activation(ranked.code(rank));
            windows
                .maxima
                .push(bf16.map_or_else(code, crate::code::value));
            windows.deciles.push(ranked.decile(rank));
        }
        self.intact()?;
        Ok(windows)
    }

    /// Of every latent's n window maxima: the weakest, the weakest of each of deciles 2 to 10, and
    /// the strongest; `L * 11` values.
    ///
    /// With the maxima in ascending order `v[0..n]`, boundary `j` is `v[min(⌈j n / 10⌉, n - 1)]`:
    /// the order statistic at which decile `j + 1` begins. A latent without windows has NaN. Values
    /// are those that stand for the codes, within 1/32; no list is decoded.
    pub fn deciles(&self) -> Result<Vec<f32>> {
        let rows: Vec<Result<[f32; BOUNDARIES]>> = (0..self.n_latents())
            .into_par_iter()
            .map(|latent| Ok(boundaries(&Ranked::open(self, latent)?)))
            .collect();
        let mut values = Vec::with_capacity(rows.len() * BOUNDARIES);
        for row in rows {
            values.extend_from_slice(&row?);
        }
        self.intact()?;
        Ok(values)
    }

    /// Windows in which each latent is active; decodes none.
    pub fn window_counts(&self) -> Result<Vec<u64>> {
        (0..self.n_latents())
            .into_par_iter()
            .map(|latent| Ok(Ranked::open(self, latent)?.n()))
            .collect()
    }

    /// The histograms of some latents' window maxima, from the heads of their lists alone.
    pub fn histogram(&self, latents: &[u32]) -> Result<Histogram> {
        let mut histogram = Histogram::default();
        for &latent in latents {
            for Level { code, count, .. } in Ranked::open(self, latent)?.levels() {
                histogram.latent.push(latent);
                histogram.code.push(code);
                histogram.activation.push(activation(code));
                histogram.count.push(count);
            }
        }
        self.intact()?;
        Ok(histogram)
    }

    /// Whether a latent is active in the windows that hold these positions.
    ///
    /// Costs one decoding of the windows of its lists, not of the postings.
    pub fn active(&self, latent: u32, positions: &[u64]) -> Result<Vec<bool>> {
        for &position in positions {
            self.check_position(position)?;
        }
        let number = |&position: &u64| self.window_number(position) as u64;
        let mut wanted: Vec<u64> = positions.iter().map(number).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut found = vec![false; wanted.len()];
        Ranked::open(self, latent)?.each_window(|window| {
            if let Ok(at) = wanted.binary_search(&window) {
                found[at] = true;
            }
        })?;
        self.intact()?;
        let found = |position| {
            wanted
                .binary_search(&number(position))
                .is_ok_and(|at| found[at])
        };
        Ok(positions.iter().map(found).collect())
    }

    /// The number of a window in the order of the whole index.
    #[must_use]
    pub fn window_number(&self, position: u64) -> usize {
        ((position - self.first_position()) / self.window() as u64) as usize
    }

    /// The position of the first token of the window with this number.
    pub(crate) fn window_start(&self, number: u64) -> u64 {
        self.first_position() + number * self.window() as u64
    }
}

fn boundaries(ranked: &Ranked<'_>) -> [f32; BOUNDARIES] {
    let mut boundaries = [f32::NAN; BOUNDARIES];
    if ranked.n() > 0 {
        for (j, boundary) in (1u8..).zip(&mut boundaries) {
            // Where a decile is empty, the next window that is stronger; at the end the strongest.
            let weakest = ranked.decile_ranks(j.min(10)).end.saturating_sub(1);
            let rank = if j > 10 { 0 } else { weakest };
            *boundary = activation(ranked.code(rank));
        }
    }
    boundaries
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::code;
    use crate::testing::corpora;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn windows_ranks_and_histograms_equal_the_plain_ones(corpus in corpora()) {
            let (_folder, index) = corpus.index();
            let length = u64::from(corpus.parameters.window);
            let boundaries = index.deciles().unwrap();
            let n_windows = corpus.tokens.len() as u64 / length;
            for latent in 0..index.n_latents() {
                let ranked = corpus.ranked(latent);
                let windows = index.windows(latent).unwrap();
                let mut expected = ranked.clone();
                expected.sort_by_key(|row| row.0);
                prop_assert_eq!(&windows.starts, &expected.iter().map(|r| r.0).collect::<Vec<_>>());
                let shown = |r: &(u64, u16, u8)| corpus.shape().activation(r.1);
                prop_assert_eq!(&windows.maxima, &expected.iter().map(shown).collect::<Vec<_>>());
                prop_assert_eq!(&windows.deciles, &expected.iter().map(|r| r.2).collect::<Vec<_>>());

                let at = latent as usize;
                let row = &boundaries[at * BOUNDARIES..(at + 1) * BOUNDARIES];
                let n = ranked.len();
                for (j, &value) in row.iter().enumerate() {
                    if n == 0 {
                        prop_assert!(value.is_nan());
                    } else {
                        let weakness = (j * n).div_ceil(10).min(n - 1);
                        let of = activation(code::code(ranked[n - 1 - weakness].1));
                        prop_assert_eq!(value, of);
                    }
                }

                let mut codes: BTreeMap<u16, u64> = BTreeMap::new();
                for row in &ranked {
                    *codes.entry(code::code(row.1)).or_default() += 1;
                }
                let histogram = index.histogram(&[latent]).unwrap();
                let found: Vec<_> = histogram.code.into_iter().zip(histogram.count).collect();
                prop_assert_eq!(found, codes.into_iter().rev().collect::<Vec<_>>());

                let positions: Vec<u64> = (0..n_windows)
                    .map(|w| corpus.base() + w * length + (w * 7) % length).collect();
                let active = index.active(latent, &positions).unwrap();
                for (&position, found) in positions.iter().zip(active) {
                    let start = position / length * length;
                    prop_assert_eq!(found, windows.starts.contains(&start));
                }
            }
        }
    }
}
