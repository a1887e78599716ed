//! The tokens on which a rule fires.

use super::Rule;
use super::cover::{Aim, Item, Value, cover};
use super::gather::{Active, Sample, Scratch};
use super::learn::{Learner, plain};

/// Documents' worth of contrary evidence charged to every token of a rule.
const CAUTION: f64 = 1.0;
/// What a single token must add to F1.
const LEAST: f64 = 0.001;
/// The share of a latent's activity that the widest token set covers.
const WIDE: f64 = 0.95;
/// Places looked at.
const BUDGET: usize = 1 << 16;

#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    token: u32,
    /// Tokens of this kind on which the latent is active.
    active: u32,
    /// Windows with such a token in which the latent is active anywhere.
    windows: u32,
}

/// What a token predicts by itself.
#[derive(Clone, Copy, Debug)]
struct Alone {
    token: u32,
    /// Windows in which the latent is active.
    right: f64,
    /// All its windows, and those that caution charges.
    charged: f64,
}

/// The tokens of the largest `2 right − f charged` above 0, the largest first.
fn best_alone(alone: &[Alone], f: f64, limit: usize) -> Vec<Alone> {
    let gain = |one: &Alone| 2.0 * one.right - f * one.charged;
    let first = |a: &Alone, b: &Alone| gain(b).total_cmp(&gain(a)).then(a.token.cmp(&b.token));
    let mut best: Vec<Alone> = alone
        .iter()
        .copied()
        .filter(|one| gain(one) > 0.0)
        .collect();
    if best.len() > limit {
        best.select_nth_unstable_by(limit, first);
        best.truncate(limit);
    }
    best.sort_unstable_by(first);
    best
}

impl Learner {
    /// The tokens on which the latent is active, and more often than on tokens at large.
    pub(super) fn candidates(
        &self,
        scratch: &mut Scratch,
        active: &Active,
        part: u8,
    ) -> Vec<Candidate> {
        let corpus = &*self.layout.corpus;
        let mut found: Vec<Candidate> = Vec::new();
        for &t in &active.positions {
            let token = corpus.tokens[t as usize];
            let slot = &mut scratch.slots[token as usize];
            if *slot == 0 {
                found.push(Candidate {
                    token,
                    active: 0,
                    windows: 0,
                });
                *slot = found.len() as u32;
            }
            found[*slot as usize - 1].active += 1;
        }
        for &rank in &active.ranks {
            for t in self.layout.positions(rank) {
                let token = corpus.tokens[t as usize] as usize;
                let slot = scratch.slots[token];
                if slot != 0 && std::mem::replace(&mut scratch.seen[token], rank) != rank {
                    found[slot as usize - 1].windows += 1;
                }
            }
        }
        for candidate in &found {
            scratch.slots[candidate.token as usize] = 0;
            scratch.seen[candidate.token as usize] = u32::MAX;
        }
        let (size, total) = (self.layout.size(part) as f64, active.positions.len() as f64);
        let above = |candidate: &Candidate| {
            let tokens = f64::from(self.layout.frequency(candidate.token, part).tokens);
            f64::from(candidate.active) * size > total * tokens
        };
        if found.iter().any(above) {
            found.retain(above);
        }
        found
    }

    /// The token set of the best F1.
    pub(super) fn narrow(
        &self,
        scratch: &mut Scratch,
        active: &Active,
        part: u8,
        candidates: &[Candidate],
    ) -> Vec<u32> {
        let limit = self.options.max_tokens;
        let actual = active.ranks.len() as f64;
        // As if no two tokens shared a window.
        let alone: Vec<Alone> = candidates
            .iter()
            .map(|candidate| {
                let often = self.layout.frequency(candidate.token, part);
                let windows = f64::from(often.windows);
                Alone {
                    token: candidate.token,
                    right: f64::from(candidate.windows),
                    charged: windows * (1.0 + CAUTION / f64::from(often.documents.max(1))),
                }
            })
            .collect();
        let mut f = 0.0;
        for _ in 0..32 {
            let chosen = best_alone(&alone, f, limit);
            let right: f64 = chosen.iter().map(|one| one.right).sum();
            let charged: f64 = chosen.iter().map(|one| one.charged).sum();
            let reached = 2.0 * right.min(actual) / (charged + actual);
            if reached <= f {
                break;
            }
            f = reached;
        }
        let tokens: Vec<u32> = best_alone(&alone, 0.5 * f, 4 * limit)
            .iter()
            .map(|one| one.token)
            .collect();
        let chosen = self.subjects(scratch, active, part, &plain(tokens.clone()));
        if chosen.is_empty() {
            tokens.into_iter().take(1).collect()
        } else {
            chosen
        }
    }

    /// The tokens that cover most of the latent's activity.
    pub(super) fn wide(&self, active: &Active, mut candidates: Vec<Candidate>) -> Vec<u32> {
        candidates.sort_by(|a, b| b.active.cmp(&a.active).then(a.token.cmp(&b.token)));
        let mut left = WIDE * active.positions.len() as f64;
        candidates
            .into_iter()
            .take(self.options.max_tokens)
            .take_while(|candidate| {
                let wanted = left > 0.0;
                left -= f64::from(candidate.active);
                wanted
            })
            .map(|candidate| candidate.token)
            .collect()
    }

    /// The best of a rule's tokens, its clauses being given.
    pub(super) fn subjects(
        &self,
        scratch: &mut Scratch,
        active: &Active,
        part: u8,
        rule: &Rule,
    ) -> Vec<u32> {
        let corpus = &*self.layout.corpus;
        let mut sample = self
            .layout
            .gather(scratch, active, &rule.tokens, part, BUDGET);
        if rule.require.is_some() || rule.exclude.is_some() {
            sample.keep_firing(corpus, &mut scratch.marks, rule);
        }
        let mut items: Vec<Item> = rule
            .tokens
            .iter()
            .map(|&token| {
                let often = self.layout.frequency(token, part);
                let per_document = f64::from(often.windows) / f64::from(often.documents.max(1));
                Item {
                    token,
                    units: Vec::new(),
                    per_document,
                }
            })
            .collect();
        for (i, item) in items.iter().enumerate() {
            scratch.slots[item.token as usize] = i as u32;
        }
        for &(number, t) in &sample.places {
            let i = scratch.slots[corpus.tokens[t as usize] as usize] as usize;
            if items[i].units.last() != Some(&number) {
                items[i].units.push(number);
            }
        }
        for item in &items {
            scratch.slots[item.token as usize] = 0;
        }
        let (chosen, _) = cover(&items, &window_values(&sample), &self.subject_aim(&sample));
        chosen.into_iter().map(|i| items[i].token).collect()
    }

    pub(super) fn subject_aim(&self, sample: &Sample) -> Aim {
        Aim {
            start: Value {
                numerator: 0.0,
                denominator: sample.actual,
            },
            adverse: Value {
                numerator: 0.0,
                denominator: 1.0,
            },
            caution: CAUTION,
            least: LEAST,
            limit: self.options.max_tokens,
        }
    }
}

/// What each window adds to F1 when it is predicted.
pub(super) fn window_values(sample: &Sample) -> Vec<Value> {
    let value = |active, weight| Value {
        numerator: if active { 2.0 * weight } else { 0.0 },
        denominator: weight,
    };
    sample
        .windows
        .iter()
        .map(|window| value(window.active, window.weight))
        .collect()
}
