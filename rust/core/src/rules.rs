//! Rules: explanations that run.
//!
//! A [`Rule`] is a predicate over tokens: a set of tokens on which it fires, and optionally tokens
//! of which one must, or none may, stand near. [`Learner`] finds one rule per latent from the
//! explain side of an index alone; [`Checker`] runs rules on every eligible window of the score
//! side and counts, so that precision and recall at the natural firing rate follow without a
//! sample.
//!
//! Both work on a [`Corpus`] (the text, with its windows' sides) and an [`Activity`] (which
//! positions a latent is active at), never on an index file.

mod check;
mod context;
mod cover;
mod gather;
mod learn;
mod of_index;
mod subjects;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

pub use check::{Check, Checker, DECILES, Unit};
pub use learn::{Learner, Options};
pub use of_index::OfIndex;

/// Side code of a window whose documents are the explainer's.
pub const EXPLAIN: u8 = 0;
/// Side code of a window whose documents are the scorer's.
pub const SCORE: u8 = 1;

/// Tokens looked for around a position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Near {
    /// The tokens; any one of them counts.
    pub tokens: Vec<u32>,
    /// How many positions before the firing one are looked at.
    pub before: u32,
    /// How many positions after the firing one are looked at.
    pub after: u32,
}

/// A predicate over the positions of a context.
///
/// It fires at an unmasked position whose token is in `tokens`, if some token of `require` stands
/// in the positions around it and none of `exclude` does. Neither looks beyond the context, at
/// masked positions, or at the firing position itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The tokens on which the rule fires; the most telling first.
    pub tokens: Vec<u32>,
    /// Context of which one token must stand near.
    #[serde(default)]
    pub require: Option<Near>,
    /// Context of which no token may stand near.
    #[serde(default)]
    pub exclude: Option<Near>,
}

/// The text of an index, whole and in memory: 9 bytes a token.
///
/// Positions are counted from the first context that the index holds.
#[derive(Debug)]
pub struct Corpus {
    window: usize,
    context_length: usize,
    tokens: Vec<u32>,
    unmasked: Vec<bool>,
    /// For each position, the number of its document in the order of first appearance.
    documents: Vec<u32>,
    /// The document ids in the order of first appearance.
    document_ids: Vec<u64>,
    /// For each window, its side where it may be used, and `UNUSED` elsewhere.
    sides: Vec<u8>,
    /// For each window, the number of the document of its first unmasked token.
    window_documents: Vec<u32>,
    vocabulary: usize,
}

const UNUSED: u8 = u8::MAX;

impl Corpus {
    /// Assembles a corpus of `sides.len()` windows of `window` tokens each.
    ///
    /// `unmasked`, `documents` have one entry a token; `sides` and `eligible` one a window. What is
    /// not eligible, or belongs to neither side, or has no unmasked token, is read as context but
    /// never learned from or counted.
    ///
    /// # Panics
    /// If the lengths disagree, or `context_length` is no multiple of `window`.
    #[must_use]
    pub fn new(
        tokens: Vec<u32>,
        unmasked: Vec<bool>,
        document_ids: &[u64],
        context_length: usize,
        window: usize,
        sides: &[u8],
        eligible: &[bool],
    ) -> Self {
        assert!(
            window > 0 && context_length.is_multiple_of(window),
            "a context is whole windows"
        );
        assert_eq!(tokens.len(), unmasked.len());
        assert_eq!(tokens.len(), document_ids.len());
        assert_eq!(tokens.len(), sides.len() * window);
        assert_eq!(tokens.len() % context_length, 0);
        assert_eq!(sides.len(), eligible.len());
        let mut numbers: HashMap<u64, u32> = HashMap::new();
        let mut ids = Vec::new();
        let mut documents = Vec::with_capacity(tokens.len());
        let mut last = None;
        for &id in document_ids {
            let number = match last {
                Some((same, number)) if same == id => number,
                _ => *numbers.entry(id).or_insert_with(|| {
                    ids.push(id);
                    (ids.len() - 1) as u32
                }),
            };
            last = Some((id, number));
            documents.push(number);
        }
        let mut usable = Vec::with_capacity(sides.len());
        let mut window_documents = Vec::with_capacity(sides.len());
        for (w, (&side, &may)) in sides.iter().zip(eligible).enumerate() {
            let span = w * window..(w + 1) * window;
            let first = span.clone().find(|&t| unmasked[t]);
            let used = may && first.is_some() && (side == EXPLAIN || side == SCORE);
            usable.push(if used { side } else { UNUSED });
            window_documents.push(documents[first.unwrap_or(span.start)]);
        }
        let vocabulary = tokens.iter().max().map_or(0, |&token| token as usize + 1);
        Self {
            window,
            context_length,
            tokens,
            unmasked,
            documents,
            document_ids: ids,
            sides: usable,
            window_documents,
            vocabulary,
        }
    }

    /// The positions of `[at - before, at + after]` inside the context of `at`.
    fn around(&self, at: usize, before: u32, after: u32) -> std::ops::Range<usize> {
        let start = at - at % self.context_length;
        let end = start + self.context_length;
        let low = at.saturating_sub(before as usize).max(start);
        low..end.min(at + 1 + after as usize)
    }
}

/// Where each latent is active; positions count from the first context of the corpus.
pub trait Activity: Sync {
    /// What reading may fail with.
    type Error: Send;

    /// The positions at which `latent` is active, ascending.
    fn positions(&self, latent: u32) -> Result<Vec<u64>, Self::Error>;

    /// The first positions of the windows in which `latent` is active, with their rank deciles.
    fn deciles(&self, latent: u32) -> Result<(Vec<u64>, Vec<u8>), Self::Error>;
}

/// Membership of tokens in the three sets of a rule: one byte a token of the vocabulary, kept
/// between rules so that setting one costs its tokens alone.
#[derive(Debug)]
struct Marks {
    bits: Vec<u8>,
}

const SUBJECT: u8 = 1;
const REQUIRE: u8 = 2;
const EXCLUDE: u8 = 4;

impl Marks {
    fn new(vocabulary: usize) -> Self {
        Self {
            bits: vec![0; vocabulary],
        }
    }

    fn put(&mut self, tokens: &[u32], bit: u8) {
        for &token in tokens {
            if let Some(bits) = self.bits.get_mut(token as usize) {
                *bits |= bit;
            }
        }
    }

    fn clear(&mut self, tokens: &[u32]) {
        for &token in tokens {
            if let Some(bits) = self.bits.get_mut(token as usize) {
                *bits = 0;
            }
        }
    }

    fn set(&mut self, rule: &Rule) {
        self.put(&rule.tokens, SUBJECT);
        if let Some(near) = &rule.require {
            self.put(&near.tokens, REQUIRE);
        }
        if let Some(near) = &rule.exclude {
            self.put(&near.tokens, EXCLUDE);
        }
    }

    fn unset(&mut self, rule: &Rule) {
        self.clear(&rule.tokens);
        for near in [&rule.require, &rule.exclude].into_iter().flatten() {
            self.clear(&near.tokens);
        }
    }

    fn stands_near(&self, corpus: &Corpus, at: usize, near: &Near, bit: u8) -> bool {
        corpus.around(at, near.before, near.after).any(|t| {
            t != at && corpus.unmasked[t] && self.bits[corpus.tokens[t] as usize] & bit != 0
        })
    }

    /// Whether `rule`, whose marks are set, fires at `at`, an unmasked position with a token of
    /// the rule.
    fn fires(&self, corpus: &Corpus, at: usize, rule: &Rule) -> bool {
        rule.require
            .as_ref()
            .is_none_or(|near| self.stands_near(corpus, at, near, REQUIRE))
            && !rule
                .exclude
                .as_ref()
                .is_some_and(|near| self.stands_near(corpus, at, near, EXCLUDE))
    }
}

/// For each token, the places where it stands unmasked in the usable windows of one side.
#[derive(Debug)]
struct Places {
    offsets: Vec<usize>,
    places: Vec<u32>,
}

impl Places {
    /// Counting sort of `(token, place)` pairs; the order of places within a token is kept.
    fn new(vocabulary: usize, pairs: impl Iterator<Item = (u32, u32)> + Clone) -> Self {
        let mut offsets = vec![0_usize; vocabulary + 1];
        for (token, _) in pairs.clone() {
            offsets[token as usize + 1] += 1;
        }
        for token in 0..vocabulary {
            offsets[token + 1] += offsets[token];
        }
        let mut next = offsets.clone();
        let mut places = vec![0; offsets[vocabulary]];
        for (token, place) in pairs {
            places[next[token as usize]] = place;
            next[token as usize] += 1;
        }
        Self { offsets, places }
    }

    fn of(&self, token: u32) -> &[u32] {
        let token = token as usize;
        if token + 1 >= self.offsets.len() {
            return &[];
        }
        &self.places[self.offsets[token]..self.offsets[token + 1]]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
