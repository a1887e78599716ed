//! What there is to draw, by brute force.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::*;
use crate::batch::NO_DOCUMENT;
use crate::code;
use crate::testing::{Corpus, TestResult};

/// The rows of one latent and split, in order.
pub(super) fn rows(examples: &Examples, latent: u32, split: u8) -> Vec<usize> {
    (0..examples.latent.len())
        .filter(|&r| examples.latent[r] == latent && examples.split[r] == split)
        .collect()
}

/// A window that may be drawn.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) window: u64,
    pub(super) start: u64,
    pub(super) max: u16,
    decile: u8,
}

/// What there is to draw from one latent, by brute force.
pub(super) struct Plain<'a> {
    corpus: &'a Corpus,
    index: &'a Index,
    plan: &'a Plan,
    postings: Vec<(u64, f32)>,
    ranked: Vec<(u64, u16, u8)>,
}

impl<'a> Plain<'a> {
    pub(super) fn of(corpus: &'a Corpus, index: &'a Index, plan: &'a Plan, latent: u32) -> Self {
        Self {
            corpus,
            index,
            plan,
            postings: corpus.postings(latent),
            ranked: corpus.ranked(latent),
        }
    }

    fn length(&self) -> u64 {
        self.plan.length.unwrap_or(self.index.window()) as u64
    }

    pub(super) fn stretch(&self, middle: u64) -> u64 {
        let context = middle - middle % self.corpus.length() as u64;
        let first = (middle - context).saturating_sub(self.length() / 2);
        context + first.min(self.corpus.length() as u64 - self.length())
    }

    pub(super) fn on_side(&self, start: u64, side: u8) -> bool {
        let drawable = self.index.drawable().unwrap();
        (start..start + self.length()).all(|p| drawable[self.index.window_number(p)] == side)
    }

    fn silent(&self, from: u64, to: u64) -> bool {
        !self.postings.iter().any(|&(p, _)| (from..to).contains(&p))
    }

    /// The activating windows of a side, the strongest first by rank.
    pub(super) fn shown(&self, side: u8) -> Vec<Shown> {
        let length = self.index.window() as u64;
        let on_grid = self.length() == length && !self.plan.centred;
        let mut seen = BTreeSet::new();
        let mut shown = Vec::new();
        for &(window, max, decile) in &self.ranked {
            let start = window;
            let code_of = |activation| code::code(code::bf16_of(activation));
            let inside = self
                .postings
                .iter()
                .filter(|p| (start..start + length).contains(&p.0));
            let peak = inside
                .clone()
                .find(|p| code_of(p.1) == code::code(max))
                .unwrap()
                .0;
            let start = match (on_grid, self.plan.centred) {
                (true, _) => start,
                (_, true) => self.stretch(peak),
                _ => self.stretch(start + length / 2),
            };
            let some = !self.silent(start, start + self.length());
            if some && seen.insert(start) && self.on_side(start, side) {
                shown.push(Shown {
                    window,
                    start,
                    max,
                    decile,
                });
            }
        }
        shown
    }

    /// The silent windows that may be drawn, each with the start of its stretch: of windows with the
    /// same stretch the first.
    pub(super) fn silent_windows(&self) -> Vec<(u64, u64)> {
        let window = self.index.window() as u64;
        let on_grid = self.length() == window && !self.plan.centred;
        let n = self.corpus.tokens.len() as u64;
        let mut seen = BTreeSet::new();
        (0..n / window)
            .map(|w| self.corpus.base() + w * window)
            .map(|start| {
                let shown = if on_grid {
                    start
                } else {
                    self.stretch(start + window / 2)
                };
                (start, shown)
            })
            .filter(|&(_, shown)| seen.insert(shown))
            .filter(|&(start, shown)| self.silent(start, start + window) && self.on_side(shown, 1))
            .collect()
    }

    pub(super) fn silent_around(&self, start: u64, margin: u64) -> bool {
        let context = start - start % self.corpus.length() as u64;
        let to = (start + self.length() + margin).min(context + self.corpus.length() as u64);
        self.silent(start.saturating_sub(margin).max(context), to)
    }

    pub(super) fn check_explain(&self, examples: &Examples, latent: u32) -> TestResult {
        let plan = &self.plan.explain;
        let mut ranked = self.shown(0);
        ranked.sort_by_key(|w| std::cmp::Reverse(w.max));
        let n = ranked.len();
        let found = rows(examples, latent, 0);
        let drawn: BTreeSet<u64> = found.iter().map(|&r| examples.start[r]).collect();
        prop_assert_eq!(drawn.len(), found.len());
        prop_assert!(
            drawn
                .iter()
                .all(|start| ranked.iter().any(|w| w.start == *start))
        );
        let pool = plan.pool.min(n);
        let in_pool = ranked[..pool]
            .iter()
            .filter(|w| drawn.contains(&w.start))
            .count();
        match plan.kind {
            ExplainKind::Uniform => prop_assert_eq!(drawn.len(), plan.n.min(n)),
            ExplainKind::Top => {
                let top: BTreeSet<u64> = ranked.iter().take(plan.n).map(|w| w.start).collect();
                prop_assert_eq!(drawn, top);
            }
            ExplainKind::TopOf => {
                prop_assert_eq!(drawn.len(), plan.n.min(pool));
                prop_assert_eq!(in_pool, drawn.len());
            }
            ExplainKind::Mixture => {
                let top = plan.n_top.min(pool);
                prop_assert!(in_pool >= top);
                prop_assert_eq!(drawn.len(), top + (plan.n - plan.n_top).min(n - top));
            }
            ExplainKind::Deciles => {
                for decile in 1..=10u8 {
                    let there = ranked.iter().filter(|w| w.decile == decile).count();
                    let found = ranked
                        .iter()
                        .filter(|w| w.decile == decile && drawn.contains(&w.start))
                        .count();
                    let more = usize::from(10 - decile) < plan.n % 10;
                    prop_assert_eq!(found, (plan.n / 10 + usize::from(more)).min(there));
                }
            }
        }
        Ok(())
    }

    pub(super) fn check_score(&self, examples: &Examples, latent: u32) -> TestResult {
        let shown = self.shown(1);
        let scored: BTreeSet<u64> = rows(examples, latent, 1)
            .into_iter()
            .filter(|&r| examples.decile[r] > 0)
            .map(|r| examples.start[r])
            .collect();
        let is_drawn = |w: &&Shown| scored.contains(&w.start);
        let (mut least, mut most) = (0, 0);
        for decile in 1..=10 {
            let there: Vec<_> = shown.iter().filter(|w| w.decile == decile).collect();
            let wanted = self.plan.per_decile.min(there.len());
            let found = there.into_iter().filter(is_drawn).count();
            prop_assert!(found >= wanted);
            least += wanted;
            most += found;
        }
        prop_assert_eq!(most, scored.len());
        let strongest = self
            .ranked
            .first()
            .map_or(1.0, |row| code::decode(code::code(row.1)));
        let bins = self.plan.bins;
        let mut in_bins = 0;
        for bin in 0..bins {
            let inside = |w: &&Shown| {
                let share = f64::from(code::decode(code::code(w.max))) / f64::from(strongest);
                ((bins as f64 * share) as usize).min(bins - 1) == bin
            };
            let there = shown.iter().filter(inside).count();
            let found = shown.iter().filter(inside).filter(is_drawn).count();
            prop_assert!(found >= self.plan.per_bin.min(there));
            in_bins += self.plan.per_bin.min(there);
        }
        prop_assert!((least..=least + in_bins).contains(&scored.len()));

        let mut left: BTreeSet<u64> = self.silent_windows().iter().map(|w| w.1).collect();
        let mut next = rows(examples, latent, 1)
            .into_iter()
            .filter(|&r| examples.decile[r] == 0);
        for list in &self.plan.negatives {
            let margin = list.margin as u64;
            let there = left
                .iter()
                .filter(|&&s| self.silent_around(s, margin))
                .count();
            for _ in 0..list.n.min(there) {
                let row = next.next().unwrap();
                prop_assert_eq!(examples.kind[row], 1);
                prop_assert!(self.silent_around(examples.start[row], margin));
                prop_assert!(left.remove(&examples.start[row]));
            }
        }
        prop_assert_eq!(next.next(), None);
        Ok(())
    }
}

pub(super) fn check_columns(
    corpus: &Corpus,
    index: &Index,
    plan: &Plan,
    examples: &Examples,
) -> TestResult {
    let width = plan.length.unwrap_or(index.window());
    prop_assert_eq!(examples.length, width);
    for r in 0..examples.latent.len() {
        let latent = examples.latent[r];
        let first = (examples.start[r] - corpus.base()) as usize;
        let live = (first..first + width).find(|&p| corpus.mask[p]);
        prop_assert_eq!(
            examples.document[r],
            live.map_or(NO_DOCUMENT, |p| corpus.documents[p])
        );
        let simple = Plain::of(corpus, index, plan, latent);
        let shown = simple.shown(examples.split[r]);
        let decile = shown
            .iter()
            .find(|w| w.start == examples.start[r])
            .map_or(0, |w| w.decile);
        if examples.decile[r] > 0 || decile == 0 {
            prop_assert_eq!(examples.decile[r], decile);
        }
        let postings = corpus.kept(latent);
        for t in 0..width {
            let (place, at) = (first + t, r * width + t);
            prop_assert_eq!(examples.tokens[at], corpus.tokens[place]);
            prop_assert_eq!(examples.mask[at], corpus.mask[place]);
            let position = corpus.base() + place as u64;
            let activation = postings.iter().find(|(p, _)| *p == position);
            prop_assert_eq!(examples.activations[at], activation.map_or(0.0, |a| a.1));
            let document = corpus.documents[place];
            let starts =
                document != NO_DOCUMENT && (place == 0 || corpus.documents[place - 1] != document);
            prop_assert_eq!(examples.document_start[at], starts);
        }
    }
    Ok(())
}
