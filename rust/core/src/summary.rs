//! What is counted of every latent.

use rayon::prelude::*;

use crate::error::Result;
use crate::index::Index;
use crate::list::Buffers;
use crate::ranked::{Ranked, activation};
use crate::segment::Segment;
use crate::sides::{EXPLAIN, SCORE};

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
    /// The largest activation, of the index's precision; 0 for a dead latent.
    pub max_activation: Vec<f32>,
}

/// What is counted of one latent.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) count: u64,
    windows: [u64; 3],
    /// Of all windows, and of those of either side.
    documents: [u64; 3],
    max_activation: f32,
}

/// The same while its postings are read.
#[derive(Default)]
pub(crate) struct Tally {
    windows: [u64; 3],
    documents: [Vec<u64>; 3],
    largest: f32,
}

impl Index {
    /// Counts of every latent; costs one decoding of the whole index.
    pub fn summary(&self) -> Result<Summary> {
        let drawable = self.drawable()?;
        let rows: Vec<Result<Counts>> = (0..self.n_latents())
            .into_par_iter()
            .map_init(Buffers::default, |buffers, latent| {
                self.count(latent, drawable, buffers)
            })
            .collect();
        let mut summary = Summary::default();
        for row in rows {
            summary.push(&row?);
        }
        self.intact()?;
        Ok(summary)
    }

    fn count(&self, latent: u32, drawable: &[u8], buffers: &mut Buffers) -> Result<Counts> {
        let ranked = Ranked::open(self, latent)?;
        let mut tally = Tally::default();
        ranked.each_postings(buffers, |segment, base, positions, values| {
            tally.add(self, drawable, segment, base, positions, values)
        })?;
        Ok(tally.counts(&ranked))
    }
}

impl Summary {
    /// Appends a latent.
    pub(crate) fn push(&mut self, row: &Counts) {
        let (explain, score) = (usize::from(EXPLAIN), usize::from(SCORE));
        self.count.push(row.count);
        self.windows.push(row.windows.iter().sum());
        self.windows_explain.push(row.windows[explain]);
        self.windows_scoring.push(row.windows[score]);
        self.documents.push(row.documents[2]);
        self.documents_explain.push(row.documents[explain]);
        self.documents_scoring.push(row.documents[score]);
        self.max_activation.push(row.max_activation);
    }
}

impl Tally {
    /// Counts a segment's postings, as `Ranked::each_postings` gives them; `drawable` is the index's.
    pub(crate) fn add(
        &mut self,
        index: &Index,
        drawable: &[u8],
        segment: &Segment,
        base: u64,
        positions: &[u32],
        values: &[u16],
    ) -> Result<()> {
        if index.lossless() {
            let largest = values.iter().copied().max().unwrap_or(0);
            self.largest = crate::code::value(largest).max(self.largest);
        }
        let length = index.parameters().window;
        let (starts, ids) = segment.document_runs()?;
        let ends = starts.iter().skip(1).copied().chain([u32::MAX]);
        let mut runs = ends.zip(ids.iter().copied());
        let first = index.window_number(base);
        let (mut end, mut side) = (0, 0);
        let mut document = (0, 0);
        for &position in positions {
            if position >= end {
                let window = position / length;
                end = (window + 1).saturating_mul(length);
                side = usize::from(drawable[first + window as usize]);
                self.windows[side] += 1;
            }
            while position >= document.0 {
                let Some(next) = runs.next() else {
                    break;
                };
                document = next;
            }
            push_new(&mut self.documents[2], document.1);
            if side < 2 {
                push_new(&mut self.documents[side], document.1);
            }
        }
        Ok(())
    }

    /// What was counted, of the latent whose windows are `ranked`.
    pub(crate) fn counts(self, ranked: &Ranked<'_>) -> Counts {
        let max_activation = if ranked.lossless() || ranked.n() == 0 {
            self.largest
        } else {
            activation(ranked.code(0))
        };
        Counts {
            count: ranked.n_postings(),
            windows: self.windows,
            documents: self.documents.map(distinct),
            max_activation,
        }
    }
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
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use crate::testing::corpora;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn counts_equal_the_plain_ones(corpus in corpora()) {
            let (_folder, index) = corpus.index();
            let length = u64::from(corpus.parameters.window);
            let summary = index.summary().unwrap();
            let (sides, eligible) = (index.sides().unwrap(), index.eligible().unwrap());
            for latent in 0..index.n_latents() {
                let at = latent as usize;
                let ranked = corpus.ranked(latent);
                let number = |start: u64| ((start - corpus.base()) / length) as usize;
                let scored = |start: u64| sides[number(start)] == 1 && eligible[number(start)];
                let explained = |start: u64| sides[number(start)] == 0;
                let documents = |of: &dyn Fn(u64) -> bool| corpus.postings(latent).iter()
                    .filter(|(p, _)| of(p / length * length))
                    .map(|(p, _)| corpus.documents[(p - corpus.base()) as usize])
                    .collect::<BTreeSet<_>>().len() as u64;
                let windows = |of: &dyn Fn(u64) -> bool| {
                    ranked.iter().filter(|row| of(row.0)).count() as u64
                };
                prop_assert_eq!(summary.count[at], corpus.postings(latent).len() as u64);
                prop_assert_eq!(summary.windows[at], windows(&|_| true));
                prop_assert_eq!(summary.windows_explain[at], windows(&explained));
                prop_assert_eq!(summary.windows_scoring[at], windows(&scored));
                prop_assert_eq!(summary.documents[at], documents(&|_| true));
                prop_assert_eq!(summary.documents_explain[at], documents(&explained));
                prop_assert_eq!(summary.documents_scoring[at], documents(&scored));
                let largest = ranked.iter().map(|row| row.1).max();
                let max = largest.map_or(0.0, |max| corpus.shape().activation(max));
                prop_assert_eq!(summary.max_activation[at], max);
            }
        }
    }
}
