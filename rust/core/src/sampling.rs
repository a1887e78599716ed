//! Drawing examples: what an explainer reads, and what an explanation is scored on.
//!
//! A draw is the windows with the smallest keyed hashes (see `random`), so it is the same on any
//! machine, for any division of the index into segments and any set of latents asked for together,
//! and a smaller draw is the beginning of a larger one.

use std::collections::HashSet;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::batch::NO_DOCUMENT;
use crate::error::{Error, Result};
use crate::index::{Index, Postings};
use crate::random::{below, key};
use crate::windows::{Windows, decile};

/// How often a negative is looked for by chance before all are listed; the same for every plan, so
/// that a smaller draw stays the beginning of a larger one.
const ATTEMPTS: u64 = 4096;

const UNIFORM: u64 = 1;
const POOL: u64 = 2;
const STRATA: u64 = 3;
const SCORE: u64 = 4;
const REST: u64 = 5;
/// And upwards: one for each of a plan's lists of negatives.
const NEGATIVE: u64 = 16;

/// How the explain-side windows are chosen; all ranks are within that side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExplainKind {
    /// `n` of all, each equally likely.
    Uniform,
    /// The `n` strongest.
    Top,
    /// `n` of the `pool` strongest.
    TopOf,
    /// `n / 10` of each tenth of the ranks; what is left over goes one each to the strongest tenths.
    Deciles,
    /// `n_top` of the `pool` strongest, and `n - n_top` of all others.
    Mixture,
}

/// What an explainer reads of each latent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainPlan {
    /// How they are chosen.
    pub kind: ExplainKind,
    /// How many windows.
    pub n: usize,
    /// From how many of the strongest, for `top_of` and `mixture`.
    pub pool: usize,
    /// How many from the strongest, for `mixture`.
    pub n_top: usize,
}

/// Which windows without an activation are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NegativeKind {
    /// Any, each equally likely.
    Random,
}

impl NegativeKind {
    /// The code in [`Examples::kind`].
    fn code(self) -> u8 {
        match self {
            Self::Random => 1,
        }
    }

    /// The name in [`Shortfall::what`].
    fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
        }
    }
}

/// One list of non-activating windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NegativePlan {
    /// Which windows.
    pub kind: NegativeKind,
    /// How many.
    pub n: usize,
    /// Tokens on either side, within the context, on which the latent must be silent too.
    pub margin: usize,
}

/// What to draw of each latent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Explain side.
    pub explain: ExplainPlan,
    /// Score-side windows of each decile.
    pub per_decile: usize,
    /// Score-side windows in which the latent is silent; no window is in two of the lists.
    pub negatives: Vec<NegativePlan>,
}

/// A plan that a latent could not fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// Which latent.
    pub latent: u32,
    /// `explain`, `score`, or the kind of negatives.
    pub what: &'static str,
    /// Windows that the plan asks for.
    pub wanted: usize,
    /// Windows that there are.
    pub found: usize,
}

/// Windows drawn, as columns of `n` rows; `W` is the window length.
///
/// Rows are ordered by latent, split, decile and order of drawing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Examples {
    /// Latent.
    pub latent: Vec<u32>,
    /// Position of the first token.
    pub start: Vec<u64>,
    /// Token ids, `n * W`.
    pub tokens: Vec<u32>,
    /// Activations, `n * W`.
    pub activations: Vec<f32>,
    /// Rank decile over the whole index; 0: the latent is silent.
    pub decile: Vec<u8>,
    /// 0 explain, 1 score.
    pub split: Vec<u8>,
    /// Kind of negative: 0 none, 1 random.
    pub kind: Vec<u8>,
    /// Document of the first unmasked token.
    pub document: Vec<u64>,
    /// Whether a token is the first of its document, `n * W`.
    pub document_start: Vec<bool>,
    /// Which tokens count, `n * W`.
    pub mask: Vec<bool>,
    /// Plans that could not be filled.
    pub shortfalls: Vec<Shortfall>,
}

/// One chosen window.
#[derive(Clone, Copy)]
struct Drawn {
    start: u64,
    decile: u8,
    split: u8,
    kind: u8,
}

impl Plan {
    /// Refuses what cannot be drawn.
    fn check(&self) -> Result<()> {
        let explain = &self.explain;
        if explain.kind == ExplainKind::Mixture && explain.n_top > explain.n {
            return Err(Error::input(format!(
                "`explain.n_top` is {} of `explain.n` {} windows",
                explain.n_top, explain.n
            )));
        }
        Ok(())
    }
}

impl Index {
    /// Draws the examples of some latents; a latent asked for twice is drawn once.
    pub fn sample(&self, latents: &[u32], plan: &Plan, seed: u64) -> Result<Examples> {
        plan.check()?;
        let mut latents = latents.to_vec();
        latents.sort_unstable();
        latents.dedup();
        if let Some(&last) = latents.last() {
            self.check_latent(last)?;
        }
        let sides = self.sides()?;
        let eligible = self.eligible()?;
        let score: Vec<usize> = (0..sides.len())
            .filter(|&w| sides[w] == 1 && eligible[w])
            .collect();
        let draw = Draw {
            index: self,
            plan,
            seed,
            sides,
            eligible,
            score,
        };
        let parts: Vec<Result<Examples>> = latents
            .into_par_iter()
            .map(|latent| draw.latent(latent))
            .collect();
        let mut examples = Examples::default();
        for part in parts {
            examples.append(part?);
        }
        Ok(examples)
    }
}

/// What all latents of one call share.
struct Draw<'a> {
    index: &'a Index,
    plan: &'a Plan,
    seed: u64,
    sides: &'a [u8],
    eligible: &'a [bool],
    /// The numbers of the eligible score-side windows.
    score: Vec<usize>,
}

impl Draw<'_> {
    fn latent(&self, latent: u32) -> Result<Examples> {
        let postings = self.index.postings(latent)?;
        let windows = Windows::of(&postings, self.index.window());
        let mut shortfalls = Vec::new();
        let mut note = |what, wanted, found| {
            if found < wanted {
                shortfalls.push(Shortfall {
                    latent,
                    what,
                    wanted,
                    found,
                });
            }
        };
        let mut drawn = self.explain(latent, &windows);
        note("explain", self.plan.explain.n, drawn.len());
        let scored = self.score(latent, &windows);
        note("score", 10 * self.plan.per_decile, scored.len());
        drawn.extend(scored);
        let mut taken = HashSet::new();
        for (purpose, negatives) in (NEGATIVE..).zip(&self.plan.negatives) {
            let found = self.negatives(latent, &postings, purpose, negatives, &mut taken);
            note(negatives.kind.name(), negatives.n, found.len());
            drawn.extend(found.into_iter().map(|window| Drawn {
                start: self.start(window),
                decile: 0,
                split: 1,
                kind: negatives.kind.code(),
            }));
        }
        // Stable: within a decile the order of drawing stays.
        drawn.sort_by_key(|d| (d.split, d.decile));
        let mut examples = self.read(latent, &postings, &drawn)?;
        examples.shortfalls = shortfalls;
        Ok(examples)
    }

    /// Explain-side windows, in the order of drawing.
    fn explain(&self, latent: u32, windows: &Windows) -> Vec<Drawn> {
        let plan = &self.plan.explain;
        let ranked: Vec<usize> = windows
            .strongest_first()
            .into_iter()
            .filter(|&w| self.sides[self.index.window_number(windows.starts[w])] == 0)
            .collect();
        let n = ranked.len();
        let take = |pool: &[usize], wanted, purpose| {
            let key = |w: &usize| key(self.seed, latent, purpose, windows.starts[*w]);
            smallest(pool.to_vec(), wanted, key)
        };
        let pool = &ranked[..plan.pool.min(n)];
        let chosen = match plan.kind {
            ExplainKind::Uniform => take(&ranked, plan.n, UNIFORM),
            ExplainKind::Top => ranked[..plan.n.min(n)].to_vec(),
            ExplainKind::TopOf => take(pool, plan.n, POOL),
            ExplainKind::Mixture => {
                let mut chosen = take(pool, plan.n_top, POOL);
                let top: HashSet<usize> = chosen.iter().copied().collect();
                let rest: Vec<usize> = ranked
                    .iter()
                    .copied()
                    .filter(|w| !top.contains(w))
                    .collect();
                // What the strongest could not give is not made up for by the others.
                chosen.extend(take(&rest, plan.n - plan.n_top, REST));
                chosen
            }
            ExplainKind::Deciles => {
                let mut strata: [Vec<usize>; 10] = Default::default();
                for (strength, &window) in ranked.iter().enumerate() {
                    strata[usize::from(decile(n - 1 - strength, n)) - 1].push(window);
                }
                let mut turns = Vec::new();
                for (from_top, stratum) in strata.iter().rev().enumerate() {
                    let wanted = plan.n / 10 + usize::from(from_top < plan.n % 10);
                    let taken = take(stratum, wanted, STRATA).into_iter().enumerate();
                    turns.extend(taken.map(|(turn, window)| (turn, from_top, window)));
                }
                // In turns, as the tenths of this side are not the deciles of the whole index: so a
                // smaller draw begins a larger one there too.
                turns.sort_unstable();
                turns.into_iter().map(|(_, _, window)| window).collect()
            }
        };
        let drawn = |window: usize| Drawn {
            start: windows.starts[window],
            decile: windows.deciles[window],
            split: 0,
            kind: 0,
        };
        chosen.into_iter().map(drawn).collect()
    }

    /// Score-side windows in which the latent is active, of each decile in turn.
    fn score(&self, latent: u32, windows: &Windows) -> Vec<Drawn> {
        let mut strata: [Vec<usize>; 10] = Default::default();
        for (window, (&start, &decile)) in windows.starts.iter().zip(&windows.deciles).enumerate() {
            let number = self.index.window_number(start);
            if self.sides[number] == 1 && self.eligible[number] {
                strata[usize::from(decile) - 1].push(window);
            }
        }
        let mut drawn = Vec::new();
        for (stratum, decile) in strata.into_iter().zip(1..) {
            let key = |w: &usize| key(self.seed, latent, SCORE, windows.starts[*w]);
            let chosen = smallest(stratum, self.plan.per_decile, key);
            drawn.extend(chosen.into_iter().map(|window| Drawn {
                start: windows.starts[window],
                decile,
                split: 1,
                kind: 0,
            }));
        }
        drawn
    }

    /// Numbers of eligible score-side windows in which the latent is silent, in order of drawing.
    ///
    /// First by chance, which is quick for a latent that is rarely active; then, for one that is
    /// active almost everywhere, from the list of all that are left.
    fn negatives(
        &self,
        latent: u32,
        postings: &Postings,
        purpose: u64,
        plan: &NegativePlan,
        taken: &mut HashSet<usize>,
    ) -> Vec<usize> {
        let mut found = Vec::new();
        if self.score.is_empty() {
            return found;
        }
        for attempt in 0..ATTEMPTS {
            if found.len() >= plan.n {
                return found;
            }
            let key = key(self.seed, latent, purpose, attempt);
            let window = self.score[below(key, self.score.len())];
            if !taken.contains(&window) && self.silent(postings, window, plan.margin) {
                taken.insert(window);
                found.push(window);
            }
        }
        let left: Vec<usize> = self
            .score
            .iter()
            .copied()
            .filter(|w| !taken.contains(w) && self.silent(postings, *w, plan.margin))
            .collect();
        // Attempts have the small numbers, positions are told apart from them by the complement.
        let key = |w: &usize| key(self.seed, latent, purpose, !self.start(*w));
        for window in smallest(left, plan.n - found.len(), key) {
            taken.insert(window);
            found.push(window);
        }
        found
    }

    /// Whether no posting lies in a window or within `margin` tokens of it in its context.
    fn silent(&self, postings: &Postings, window: usize, margin: usize) -> bool {
        let length = self.index.context_length() as u64;
        let start = self.start(window);
        let context = start - start % length;
        let from = start.saturating_sub(margin as u64).max(context);
        let to = (start + self.index.window() as u64)
            .saturating_add(margin as u64)
            .min(context + length);
        postings
            .positions
            .get(postings.rank(from))
            .is_none_or(|&position| position >= to)
    }

    fn start(&self, window: usize) -> u64 {
        self.index.first_position() + (window * self.index.window()) as u64
    }

    /// Reads the text and the activations of the chosen windows.
    fn read(&self, latent: u32, postings: &Postings, drawn: &[Drawn]) -> Result<Examples> {
        let length = self.index.window();
        let per_context = self.index.context_length() as u64;
        let mut examples = Examples::default();
        for row in drawn {
            let (segment, context) = self.index.find_context(row.start / per_context)?;
            let first = context * per_context as usize + (row.start % per_context) as usize;
            let span = first..first + length;
            let documents = segment.documents()?;
            let mask = segment.mask()?;
            examples.latent.push(latent);
            examples.start.push(row.start);
            examples.decile.push(row.decile);
            examples.split.push(row.split);
            examples.kind.push(row.kind);
            examples
                .tokens
                .extend_from_slice(&segment.tokens()?[span.clone()]);
            examples.mask.extend(span.clone().map(|p| mask.get(p)));
            let live = span.clone().find(|&p| mask.get(p));
            examples
                .document
                .push(live.map_or(NO_DOCUMENT, |p| documents[p]));
            let mut before = self.document_before(row.start)?;
            for &document in &documents[span] {
                let starts = document != NO_DOCUMENT && before != Some(document);
                examples.document_start.push(starts);
                before = Some(document);
            }
            let filled = examples.activations.len();
            examples.activations.resize(filled + length, 0.0);
            postings.fill(row.start, &mut examples.activations[filled..]);
        }
        Ok(examples)
    }

    /// The document of the token before a position, in the context before it where need be.
    fn document_before(&self, position: u64) -> Result<Option<u64>> {
        if position == self.index.first_position() {
            return Ok(None);
        }
        let length = self.index.context_length() as u64;
        let (segment, row) = self.index.find_context((position - 1) / length)?;
        let place = row * length as usize + ((position - 1) % length) as usize;
        Ok(Some(segment.documents()?[place]))
    }
}

impl Examples {
    fn append(&mut self, other: Self) {
        self.latent.extend(other.latent);
        self.start.extend(other.start);
        self.tokens.extend(other.tokens);
        self.activations.extend(other.activations);
        self.decile.extend(other.decile);
        self.split.extend(other.split);
        self.kind.extend(other.kind);
        self.document.extend(other.document);
        self.document_start.extend(other.document_start);
        self.mask.extend(other.mask);
        self.shortfalls.extend(other.shortfalls);
    }
}

/// The `wanted` items with the smallest keys, in the order of their keys; `items` are ascending, so
/// that of equal keys the earlier item goes first.
fn smallest(items: Vec<usize>, wanted: usize, key: impl Fn(&usize) -> u64) -> Vec<usize> {
    let mut keyed: Vec<(u64, usize)> = items.into_iter().map(|item| (key(&item), item)).collect();
    if wanted < keyed.len() {
        if wanted == 0 {
            return Vec::new();
        }
        keyed.select_nth_unstable(wanted - 1);
        keyed.truncate(wanted);
    }
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests;
