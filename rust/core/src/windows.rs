//! Windows of a latent: their maxima, their ranks, and what is counted over them.

use std::cmp::Ordering;

use rayon::prelude::*;

use crate::error::Result;
use crate::index::{Index, Postings};

/// The windows in which one latent is active, ordered by position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Windows {
    /// Positions of the first tokens.
    pub starts: Vec<u64>,
    /// The largest activation in each.
    pub maxima: Vec<f32>,
    /// Rank deciles over the whole index, 1 to 10.
    pub deciles: Vec<u8>,
}

/// The columns of [`Index::deciles`]: minimum, nine boundaries, maximum.
pub const BOUNDARIES: usize = 11;

/// What is counted of every latent; each a list over latents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Postings.
    pub count: Vec<u64>,
    /// Windows in which it is active.
    pub windows: Vec<u64>,
    /// Those on the explain side.
    pub windows_explain: Vec<u64>,
    /// Those on the score side that are eligible.
    pub windows_scoring: Vec<u64>,
    /// Documents in which it is active.
    pub documents: Vec<u64>,
    /// Documents in which it is active within its explain-side windows.
    pub documents_explain: Vec<u64>,
    /// Documents in which it is active within its eligible score-side windows.
    pub documents_scoring: Vec<u64>,
    /// The largest activation; 0 for a dead latent.
    pub max_activation: Vec<f32>,
}

/// The decile of the window with weakness rank `rank` (0 the weakest) among `n`.
pub(crate) fn decile(rank: usize, n: usize) -> u8 {
    (1 + 10 * rank / n) as u8
}

/// Strength: the larger maximum first, and of equals the earlier position.
pub(crate) fn stronger(a: (f32, u64), b: (f32, u64)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

impl Windows {
    /// Groups postings into windows of `length` tokens and ranks them.
    #[must_use]
    pub fn of(postings: &Postings, length: usize) -> Self {
        let length = length as u64;
        let mut windows = Self::default();
        for (&position, &activation) in postings.positions.iter().zip(&postings.activations) {
            let start = position - position % length;
            if windows.starts.last() == Some(&start) {
                if let Some(max) = windows.maxima.last_mut() {
                    *max = activation.max(*max);
                }
            } else {
                windows.starts.push(start);
                windows.maxima.push(activation);
            }
        }
        let n = windows.starts.len();
        windows.deciles = vec![0; n];
        for (strength, &window) in windows.strongest_first().iter().enumerate() {
            windows.deciles[window] = decile(n - 1 - strength, n);
        }
        windows
    }

    /// The windows' places in the list, the strongest first.
    #[must_use]
    pub fn strongest_first(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.starts.len()).collect();
        order.sort_unstable_by(|&a, &b| {
            stronger(
                (self.maxima[a], self.starts[a]),
                (self.maxima[b], self.starts[b]),
            )
        });
        order
    }

    /// The weakest maximum, the weakest of each of deciles 2 to 10, and the strongest.
    ///
    /// With the maxima in ascending order `v[0..n]`, boundary `j` is `v[min(⌈j n / 10⌉, n - 1)]`:
    /// the order statistic at which decile `j + 1` begins. A latent without windows has NaN.
    #[must_use]
    pub fn boundaries(&self) -> [f32; BOUNDARIES] {
        let mut maxima = self.maxima.clone();
        maxima.sort_unstable_by(f32::total_cmp);
        let n = maxima.len();
        let mut boundaries = [f32::NAN; BOUNDARIES];
        if n > 0 {
            for (j, boundary) in boundaries.iter_mut().enumerate() {
                *boundary = maxima[(j * n).div_ceil(10).min(n - 1)];
            }
        }
        boundaries
    }
}

impl Index {
    /// The windows in which a latent is active.
    pub fn windows(&self, latent: u32) -> Result<Windows> {
        Ok(Windows::of(&self.postings(latent)?, self.window()))
    }

    /// [`Windows::boundaries`] of every latent, `L * 11` values.
    pub fn deciles(&self) -> Result<Vec<f32>> {
        let rows: Vec<Result<[f32; BOUNDARIES]>> = (0..self.n_latents())
            .into_par_iter()
            .map(|latent| Ok(self.windows(latent)?.boundaries()))
            .collect();
        let mut values = Vec::with_capacity(rows.len() * BOUNDARIES);
        for row in rows {
            values.extend_from_slice(&row?);
        }
        Ok(values)
    }

    /// Counts of every latent.
    pub fn summary(&self) -> Result<Summary> {
        let sides = self.sides()?;
        let eligible = self.eligible()?;
        let rows: Vec<Result<Counts>> = (0..self.n_latents())
            .into_par_iter()
            .map(|latent| self.count(latent, sides, eligible))
            .collect();
        let mut summary = Summary::default();
        for row in rows {
            let row = row?;
            summary.count.push(row.count);
            summary.windows.push(row.windows);
            summary.windows_explain.push(row.windows_explain);
            summary.windows_scoring.push(row.windows_scoring);
            summary.documents.push(row.documents);
            summary.documents_explain.push(row.documents_explain);
            summary.documents_scoring.push(row.documents_scoring);
            summary.max_activation.push(row.max_activation);
        }
        Ok(summary)
    }

    /// The number of a window in the order of the whole index.
    #[must_use]
    pub fn window_number(&self, position: u64) -> usize {
        ((position - self.first_position()) / self.window() as u64) as usize
    }

    fn count(&self, latent: u32, sides: &[u8], eligible: &[bool]) -> Result<Counts> {
        let mut counts = Counts::default();
        let (mut all, mut explain, mut scoring) = (Vec::new(), Vec::new(), Vec::new());
        for segment in self.segments() {
            let base = self.segment_position(segment);
            let documents = segment.documents()?;
            let (positions, activations) = segment.postings(latent)?;
            counts.count += positions.len() as u64;
            let mut last = None;
            for (&position, &activation) in positions.iter().zip(&activations) {
                let window = self.window_number(base + u64::from(position));
                let scored = sides[window] == 1 && eligible[window];
                if last != Some(window) {
                    last = Some(window);
                    counts.windows += 1;
                    counts.windows_explain += u64::from(sides[window] == 0);
                    counts.windows_scoring += u64::from(scored);
                }
                counts.max_activation = counts.max_activation.max(activation);
                let document = documents[position as usize];
                push_new(&mut all, document);
                if scored {
                    push_new(&mut scoring, document);
                } else if sides[window] == 0 {
                    push_new(&mut explain, document);
                }
            }
        }
        counts.documents = distinct(all);
        counts.documents_explain = distinct(explain);
        counts.documents_scoring = distinct(scoring);
        Ok(counts)
    }
}

#[derive(Default)]
struct Counts {
    count: u64,
    windows: u64,
    windows_explain: u64,
    windows_scoring: u64,
    documents: u64,
    documents_explain: u64,
    documents_scoring: u64,
    max_activation: f32,
}

/// Runs of one document are the rule: keeping one of each run bounds the list.
fn push_new(list: &mut Vec<u64>, document: u64) {
    if list.last() != Some(&document) {
        list.push(document);
    }
}

fn distinct(mut list: Vec<u64>) -> u64 {
    list.sort_unstable();
    list.dedup();
    list.len() as u64
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::testing::corpora;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn windows_ranks_and_counts_equal_the_plain_ones(corpus in corpora()) {
            let (_folder, index) = corpus.index();
            let length = u64::from(corpus.parameters.window);
            let boundaries = index.deciles().unwrap();
            let summary = index.summary().unwrap();
            let (sides, eligible) = (index.sides().unwrap(), index.eligible().unwrap());
            for latent in 0..index.n_latents() {
                let at = latent as usize;
                let mut maxima: BTreeMap<u64, f32> = BTreeMap::new();
                for (position, activation) in corpus.postings(latent) {
                    let max = maxima.entry(position / length * length).or_insert(0.0);
                    *max = max.max(activation);
                }
                let windows = index.windows(latent).unwrap();
                let n = maxima.len();
                prop_assert_eq!(&windows.starts, &maxima.keys().copied().collect::<Vec<_>>());
                prop_assert_eq!(&windows.maxima, &maxima.values().copied().collect::<Vec<_>>());
                for (&start, &decile) in windows.starts.iter().zip(&windows.deciles) {
                    let rank = maxima.iter().filter(|&(&other, &max)| {
                        max < maxima[&start] || (max == maxima[&start] && other > start)
                    }).count();
                    prop_assert_eq!(usize::from(decile), 1 + 10 * rank / n);
                }
                let row = &boundaries[at * BOUNDARIES..(at + 1) * BOUNDARIES];
                if n == 0 {
                    prop_assert!(row.iter().all(|v| v.is_nan()));
                } else {
                    let weakest = |from: u8| windows.maxima.iter().zip(&windows.deciles)
                        .filter(|&(_, &d)| d >= from).map(|(&m, _)| m).reduce(f32::min);
                    let strongest = windows.maxima.iter().copied().fold(0.0, f32::max);
                    for (j, &value) in row.iter().enumerate() {
                        let expected = weakest(j as u8 + 1).unwrap_or(strongest);
                        prop_assert_eq!(value, if j == 10 { strongest } else { expected });
                    }
                }
                let number = |start: u64| ((start - corpus.base()) / length) as usize;
                let scored = |start: u64| sides[number(start)] == 1 && eligible[number(start)];
                let documents = |of: &dyn Fn(u64) -> bool| corpus.postings(latent).iter()
                    .filter(|(p, _)| of(p / length * length))
                    .map(|(p, _)| corpus.documents[(p - corpus.base()) as usize])
                    .collect::<BTreeSet<_>>().len() as u64;
                prop_assert_eq!(summary.count[at], corpus.postings(latent).len() as u64);
                prop_assert_eq!(summary.windows[at], n as u64);
                let explain = maxima.keys().filter(|&&s| sides[number(s)] == 0).count() as u64;
                prop_assert_eq!(summary.windows_explain[at], explain);
                let scoring = maxima.keys().filter(|&&s| scored(s)).count() as u64;
                prop_assert_eq!(summary.windows_scoring[at], scoring);
                prop_assert_eq!(summary.documents[at], documents(&|_| true));
                let explained = |start: u64| sides[number(start)] == 0;
                prop_assert_eq!(summary.documents_explain[at], documents(&explained));
                prop_assert_eq!(summary.documents_scoring[at], documents(&scored));
                let max = maxima.values().copied().fold(0.0, f32::max);
                prop_assert_eq!(summary.max_activation[at], max);
            }
        }
    }
}
