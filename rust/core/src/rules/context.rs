//! The tokens that must, or must not, stand near.

use super::cover::{Aim, Item, Value, cover};
use super::gather::{Active, Sample, Scratch};
use super::learn::Learner;
use super::subjects::window_values;
use super::{Corpus, Near, Rule};

/// Documents' worth of contrary evidence charged to every token of a clause: more than a token of
/// the rule itself is charged, as any token of the language may stand near by chance.
const CAUTION: f64 = 4.0;
/// What a single token of a clause must add to F1.
const LEAST: f64 = 0.002;
/// Places looked at.
const BUDGET: usize = 1 << 14;
/// Context tokens that enter the choice, per reach and level of F1.
const SHORTLIST: usize = 32;

/// How far a clause looks, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    pub before: u32,
    pub after: u32,
}

/// Which clause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clause {
    Require,
    Exclude,
}

impl Learner {
    /// `rule` with the best clause added, at the reach that serves it best (the first of equals);
    /// `None` where no token pays.
    pub(super) fn with_clause(
        &self,
        scratch: &mut Scratch,
        active: &Active,
        part: u8,
        rule: &Rule,
        clause: Clause,
        reaches: &[Reach],
    ) -> Option<(Reach, Rule)> {
        let corpus = &*self.layout.corpus;
        let mut sample = self
            .layout
            .gather(scratch, active, &rule.tokens, part, BUDGET);
        sample.keep_firing(corpus, &mut scratch.marks, rule);
        let mut best: Option<(f64, Reach, Vec<u32>)> = None;
        for ahead in [false, true] {
            let mine: Vec<Reach> = reaches
                .iter()
                .copied()
                .filter(|reach| (reach.after > 0) == ahead)
                .collect();
            if mine.is_empty() {
                continue;
            }
            for one in self.context(scratch, &sample, clause, ahead, &mine) {
                if best.as_ref().is_none_or(|old| one.0 > old.0) {
                    best = Some(one);
                }
            }
        }
        let (_, reach, tokens) = best?;
        let near = Near {
            tokens,
            before: reach.before,
            after: reach.after,
        };
        let mut longer = rule.clone();
        match clause {
            Clause::Require => {
                longer.require = Some(near);
                longer.tokens = self.subjects(scratch, active, part, &longer);
            }
            Clause::Exclude => longer.exclude = Some(near),
        }
        (!longer.tokens.is_empty()).then_some((reach, longer))
    }

    /// The best context tokens at each of `reaches`, all before or all ahead of the places, with the
    /// F1 that they reach.
    fn context(
        &self,
        scratch: &mut Scratch,
        sample: &Sample,
        clause: Clause,
        ahead: bool,
        reaches: &[Reach],
    ) -> Vec<(f64, Reach, Vec<u32>)> {
        let lengths: Vec<u32> = reaches
            .iter()
            .map(|reach| reach.before.max(reach.after))
            .collect();
        let (units, values, aim) = self.context_units(sample, clause);
        let f = sample.f1();
        let around = Around {
            corpus: &self.layout.corpus,
            sample,
            units: &units,
            ahead,
            lengths,
        };
        let listed = around.shortlist(scratch, &values, f);
        let items = around.distances(scratch, &listed);
        let mut found = Vec::new();
        for (&reach, &length) in reaches.iter().zip(&around.lengths) {
            let items: Vec<Item> = listed
                .iter()
                .zip(&items)
                .map(|(&token, seen)| {
                    let units: Vec<u32> = seen
                        .iter()
                        .filter(|&&(_, distance)| distance <= length)
                        .map(|&(unit, _)| unit)
                        .collect();
                    let per_document = around.per_document(&units, clause);
                    Item {
                        token,
                        units,
                        per_document,
                    }
                })
                .filter(|item| !item.units.is_empty())
                .collect();
            let (chosen, f1) = cover(&items, &values, &aim);
            if !chosen.is_empty() {
                let tokens = chosen.into_iter().map(|i| items[i].token).collect();
                found.push((f1, reach, tokens));
            }
        }
        found
    }

    /// What covering counts in: windows for a requirement (it saves a window if it holds at any
    /// of its places), places for an exclusion, each an equal part of its window.
    fn context_units(&self, sample: &Sample, clause: Clause) -> (Vec<u32>, Vec<Value>, Aim) {
        let mut aim = Aim {
            caution: CAUTION,
            least: LEAST,
            limit: self.options.max_context_tokens,
            ..self.subject_aim(sample)
        };
        if clause == Clause::Require {
            let units = sample.places.iter().map(|&(number, _)| number).collect();
            return (units, window_values(sample), aim);
        }
        let (predicted, right) = sample.predicted();
        aim.start = Value {
            numerator: 2.0 * right,
            denominator: predicted + sample.actual,
        };
        aim.adverse = Value {
            numerator: -2.0,
            denominator: -1.0,
        };
        let mut shares = vec![0.0_f64; sample.windows.len()];
        for &(number, _) in &sample.places {
            shares[number as usize] += 1.0;
        }
        let values = sample
            .places
            .iter()
            .map(|&(number, _)| {
                let window = sample.windows[number as usize];
                let weight = window.weight / shares[number as usize];
                let numerator = if window.active { -2.0 * weight } else { 0.0 };
                Value {
                    numerator,
                    denominator: -weight,
                }
            })
            .collect();
        ((0..sample.places.len() as u32).collect(), values, aim)
    }
}

/// The surroundings of a sample's places, on one side of them.
struct Around<'s> {
    corpus: &'s Corpus,
    sample: &'s Sample,
    /// The unit of each place.
    units: &'s [u32],
    ahead: bool,
    /// Ascending.
    lengths: Vec<u32>,
}

impl Around<'_> {
    fn longest(&self) -> u32 {
        self.lengths.last().copied().unwrap_or(0)
    }

    /// The unmasked tokens around a place with their distances.
    fn tokens(&self, t: u32) -> impl Iterator<Item = (u32, u32)> {
        let (at, longest) = (t as usize, self.longest());
        let (before, after) = if self.ahead {
            (0, longest)
        } else {
            (longest, 0)
        };
        self.corpus
            .around(at, before, after)
            .filter(move |&near| near != at && self.corpus.unmasked[near])
            .map(move |near| (self.corpus.tokens[near], near.abs_diff(at) as u32))
    }

    /// The context tokens that would pay most by themselves, for any of the lengths.
    fn shortlist(&self, scratch: &mut Scratch, values: &[Value], f: f64) -> Vec<u32> {
        let n = self.lengths.len();
        let mut tokens: Vec<u32> = Vec::new();
        let mut sums: Vec<Value> = Vec::new();
        let zero = Value {
            numerator: 0.0,
            denominator: 0.0,
        };
        for (&(_, t), &unit) in self.sample.places.iter().zip(self.units) {
            for (token, distance) in self.tokens(t) {
                let slot = &mut scratch.slots[token as usize];
                if *slot == 0 {
                    tokens.push(token);
                    *slot = tokens.len() as u32;
                    sums.resize(tokens.len() * n, zero);
                }
                let bin = self.lengths.partition_point(|&length| length < distance);
                let sum = &mut sums[(*slot as usize - 1) * n + bin];
                sum.numerator += values[unit as usize].numerator;
                sum.denominator += values[unit as usize].denominator;
            }
        }
        for &token in &tokens {
            scratch.slots[token as usize] = 0;
        }
        let mut listed = Vec::new();
        for level in [f, 0.5 * (1.0 + f)] {
            let mut reached = vec![zero; tokens.len()];
            for bin in 0..n {
                let mut gains: Vec<(f64, u32)> = Vec::new();
                for (i, &token) in tokens.iter().enumerate() {
                    reached[i].numerator += sums[i * n + bin].numerator;
                    reached[i].denominator += sums[i * n + bin].denominator;
                    let gain = reached[i].numerator - level * reached[i].denominator;
                    if gain > 0.0 {
                        gains.push((gain, token));
                    }
                }
                let first =
                    |a: &(f64, u32), b: &(f64, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
                if gains.len() > SHORTLIST {
                    gains.select_nth_unstable_by(SHORTLIST, first);
                    gains.truncate(SHORTLIST);
                }
                listed.extend(gains.into_iter().map(|(_, token)| token));
            }
        }
        listed.sort_unstable();
        listed.dedup();
        listed
    }

    /// For each listed token, the units it stands near to with the least distance.
    fn distances(&self, scratch: &mut Scratch, listed: &[u32]) -> Vec<Vec<(u32, u32)>> {
        let mut seen: Vec<Vec<(u32, u32)>> = vec![Vec::new(); listed.len()];
        for (i, &token) in listed.iter().enumerate() {
            scratch.slots[token as usize] = i as u32 + 1;
        }
        for (&(_, t), &unit) in self.sample.places.iter().zip(self.units) {
            for (token, distance) in self.tokens(t) {
                let slot = scratch.slots[token as usize] as usize;
                if slot == 0 {
                    continue;
                }
                match seen[slot - 1].last_mut() {
                    Some((last, nearest)) if *last == unit => *nearest = distance.min(*nearest),
                    _ => seen[slot - 1].push((unit, distance)),
                }
            }
        }
        for &token in listed {
            scratch.slots[token as usize] = 0;
        }
        seen
    }

    fn per_document(&self, units: &[u32], clause: Clause) -> f64 {
        let mut documents: Vec<u32> = units
            .iter()
            .map(|&unit| match clause {
                Clause::Require => unit,
                Clause::Exclude => self.sample.places[unit as usize].0,
            })
            .map(|number| self.sample.windows[number as usize].document)
            .collect();
        documents.sort_unstable();
        documents.dedup();
        units.len() as f64 / documents.len().max(1) as f64
    }
}
