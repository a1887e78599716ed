//! One rule per latent, from the explain side of an index.
//!
//! What is maximised is F1 over windows at the natural firing rate. A clause of context is kept
//! only if it raises F1 on explain documents that had no part in choosing it; the rule of that
//! shape is then fitted to all explain documents.

use std::sync::Arc;

use rayon::prelude::*;

use super::context::{Clause, Reach};
use super::gather::{ALL, Active, FIT, Layout, SELECT, Scratch};
use super::{Activity, Corpus, Rule};

/// How rules are learned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// The most tokens that a rule fires on.
    pub max_tokens: usize,
    /// The most tokens of each clause of context.
    pub max_context_tokens: usize,
    /// The furthest that a clause looks, in tokens.
    pub reach: u32,
    /// Whether a clause may look at what follows: for subject models that do.
    pub look_ahead: bool,
    /// What a clause must add to F1 on explain documents that did not choose it.
    pub min_gain: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_tokens: 32,
            max_context_tokens: 16,
            reach: 8,
            look_ahead: false,
            min_gain: 0.02,
        }
    }
}

/// Active windows that a part needs before a clause is tried on it.
const ENOUGH: usize = 8;
/// Places looked at to compare two rules.
const TEST_BUDGET: usize = 1 << 16;

///
/// Building it costs a few passes over the explain side and about 5 bytes a token.
#[derive(Debug)]
pub struct Learner {
    pub(super) layout: Layout,
    pub(super) options: Options,
}

/// Everything about a rule save its tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Shape {
    wide: bool,
    require: Option<Reach>,
    exclude: Option<Reach>,
}

impl Learner {
    /// Lays the explain side of `corpus` out for learning.
    #[must_use]
    pub fn new(corpus: &Arc<Corpus>, options: Options) -> Self {
        Self {
            layout: Layout::new(corpus),
            options,
        }
    }

    /// A rule for each of `latents`, `None` for one without activity on the explain side; the
    /// same on any number of threads.
    pub fn learn<A: Activity>(
        &self,
        activity: &A,
        latents: &[u32],
    ) -> Result<Vec<Option<Rule>>, A::Error> {
        latents
            .par_iter()
            .with_min_len(8)
            .map_init(
                || self.layout.scratch(),
                |scratch, &latent| Ok(self.learn_one(scratch, &activity.positions(latent)?)),
            )
            .collect()
    }

    fn learn_one(&self, scratch: &mut Scratch, positions: &[u64]) -> Option<Rule> {
        let active = self.layout.active(positions);
        if active.ranks.is_empty() {
            return None;
        }
        for &rank in &active.ranks {
            scratch.active[rank as usize] = true;
        }
        let shape = self.choose_shape(scratch, &active);
        let rule = self.fit(scratch, &active, ALL, shape);
        for &rank in &active.ranks {
            scratch.active[rank as usize] = false;
        }
        Some(rule)
    }

    fn choose_shape(&self, scratch: &mut Scratch, active: &Active) -> Shape {
        let fit = self.layout.in_part(active, FIT);
        let select = self.layout.in_part(active, SELECT);
        let mut shape = Shape::default();
        if fit.ranks.len() < ENOUGH || select.ranks.len() < ENOUGH {
            return shape;
        }
        let candidates = self.candidates(scratch, &fit, FIT);
        let narrow = plain(self.narrow(scratch, &fit, FIT, &candidates));
        let mut score = self.f1(scratch, &select, SELECT, &narrow);
        let mut rule = narrow.clone();
        if 1.0 - score < self.options.min_gain {
            return shape;
        }
        let wide = plain(self.wide(&fit, candidates));
        let reaches = self.reaches();
        let mut best: Option<(f64, Shape, Rule)> = None;
        for (is_wide, start) in [(false, &narrow), (true, &wide)] {
            let clause = Clause::Require;
            let found = self.with_clause(scratch, &fit, FIT, start, clause, &reaches);
            let Some((reach, longer)) = found else {
                continue;
            };
            let fitted = self.f1(scratch, &fit, FIT, &longer);
            if best.as_ref().is_none_or(|(old, ..)| fitted > *old) {
                let shape = Shape {
                    wide: is_wide,
                    require: Some(reach),
                    exclude: None,
                };
                best = Some((fitted, shape, longer));
            }
        }
        if let Some((_, longer_shape, longer)) = best {
            let unseen = self.f1(scratch, &select, SELECT, &longer);
            if unseen >= score + self.options.min_gain {
                (shape, rule, score) = (longer_shape, longer, unseen);
            }
        }
        let found = self.with_clause(scratch, &fit, FIT, &rule, Clause::Exclude, &reaches);
        if let Some((reach, longer)) = found
            && self.f1(scratch, &select, SELECT, &longer) >= score + self.options.min_gain
        {
            shape.exclude = Some(reach);
        }
        shape
    }

    /// The rule of a given shape.
    fn fit(&self, scratch: &mut Scratch, active: &Active, part: u8, shape: Shape) -> Rule {
        let candidates = self.candidates(scratch, active, part);
        let tokens = if shape.wide {
            self.wide(active, candidates)
        } else {
            self.narrow(scratch, active, part, &candidates)
        };
        let mut rule = plain(tokens);
        if let Some(reach) = shape.require {
            match self.with_clause(scratch, active, part, &rule, Clause::Require, &[reach]) {
                Some((_, longer)) => rule = longer,
                // The widest tokens are worth nothing without it.
                None if shape.wide => rule = self.fit(scratch, active, part, Shape::default()),
                None => {}
            }
        }
        if let Some(reach) = shape.exclude {
            let found = self.with_clause(scratch, active, part, &rule, Clause::Exclude, &[reach]);
            rule = found.map_or(rule, |(_, longer)| longer);
        }
        rule
    }

    fn reaches(&self) -> Vec<Reach> {
        let mut lengths: Vec<u32> = [1, 3, 8, self.options.reach]
            .into_iter()
            .filter(|&r| r <= self.options.reach)
            .collect();
        lengths.sort_unstable();
        lengths.dedup();
        lengths.retain(|&length| length > 0);
        let before = lengths.iter().map(|&before| Reach { before, after: 0 });
        let after = lengths.iter().map(|&after| Reach { before: 0, after });
        if self.options.look_ahead {
            before.chain(after).collect()
        } else {
            before.collect()
        }
    }

    fn f1(&self, scratch: &mut Scratch, active: &Active, part: u8, rule: &Rule) -> f64 {
        let mut sample = self
            .layout
            .gather(scratch, active, &rule.tokens, part, TEST_BUDGET);
        sample.keep_firing(&self.layout.corpus, &mut scratch.marks, rule);
        sample.f1()
    }
}

/// A rule without clauses.
pub(super) fn plain(tokens: Vec<u32>) -> Rule {
    Rule {
        tokens,
        require: None,
        exclude: None,
    }
}
