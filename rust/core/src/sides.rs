//! The two sides of a run, and what may be drawn of each.
//!
//! Explanations are made from one half of the documents and scored on the other. Disjoint documents
//! are not enough where text is repeated, so a score-side window that shares a run of
//! [`RUN`] tokens with the explain side is not drawn.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Result;
use crate::index::Index;
use crate::random::document_side;
use crate::sampling::Words;
use crate::segment::Segment;

/// Tokens in a run that both sides must not share.
pub const RUN: usize = 16;

/// The explain side.
pub(crate) const EXPLAIN: u8 = 0;
/// The score side.
pub(crate) const SCORE: u8 = 1;
/// The side of a window whose tokens are on both sides, or all masked.
pub const NO_SIDE: u8 = 2;

/// Tokens that are worked on at a time, about.
const CHUNK: usize = 1 << 16;
/// Runs whose hashes are held at a time; of more, the corpus is read several times.
const HELD: u64 = 1 << 27;

/// What is computed once per index.
#[derive(Debug, Default)]
pub(crate) struct Derived {
    sides: OnceLock<Vec<u8>>,
    drawable: OnceLock<Vec<u8>>,
    pub(crate) words: OnceLock<Words>,
}

/// Some contexts of a segment.
pub(crate) struct Chunk<'a> {
    pub(crate) segment: &'a Segment,
    pub(crate) span: Range<usize>,
}

impl Index {
    /// The side of every window: 0 explain, 1 score, 2 neither.
    ///
    /// A window has the side of its unmasked tokens' documents.
    pub fn sides(&self) -> Result<&[u8]> {
        if let Some(sides) = self.derived.sides.get() {
            return Ok(sides);
        }
        let sides = self.in_chunks(|chunk| {
            let positions = self.position_sides(chunk.segment, chunk.span.clone())?;
            Ok(positions
                .chunks_exact(self.window())
                .map(window_side)
                .collect())
        })?;
        self.intact()?;
        Ok(self.derived.sides.get_or_init(|| sides))
    }

    /// The side for which every window may be drawn, [`NO_SIDE`] if for none.
    ///
    /// Every explain-side window may. A score-side window may not when it shares a run of [`RUN`]
    /// unmasked tokens within a context with the explain side: when the run lies in the window, or,
    /// where windows are shorter than a run, the window in the run. Windows of neither side may not.
    pub fn drawable(&self) -> Result<&[u8]> {
        if let Some(drawable) = self.derived.drawable.get() {
            return Ok(drawable);
        }
        let mut drawable = self.sides()?.to_vec();
        let n_runs: u64 = self
            .in_chunks(|chunk| {
                let mut n = 0u64;
                self.each_run(chunk, EXPLAIN, |_, _| n += 1)?;
                Ok(vec![n])
            })?
            .into_iter()
            .sum();
        let passes = n_runs.div_ceil(HELD);
        for pass in 0..passes {
            let ours = |hash: u64| passes == 1 || hash % passes == pass;
            let seen = Hashes::of_at_most(if passes == 1 { n_runs } else { HELD + HELD / 8 });
            self.in_chunks(|chunk| {
                let insert = |_, hash| _ = ours(hash) && seen.insert(hash);
                self.each_run(chunk, EXPLAIN, insert)?;
                Ok(Vec::<u8>::new())
            })?;
            let shared = self.in_chunks(|chunk| {
                self.shared_windows(chunk, |hash| ours(hash) && seen.contains(hash))
            })?;
            for window in shared {
                if drawable[window] == SCORE {
                    drawable[window] = NO_SIDE;
                }
            }
        }
        self.intact()?;
        Ok(self.derived.drawable.get_or_init(|| drawable))
    }

    /// Whether each window may be drawn for its side: whether it is [`Index::drawable`] for one.
    pub fn eligible(&self) -> Result<Vec<bool>> {
        Ok(self
            .drawable()?
            .iter()
            .map(|&side| side != NO_SIDE)
            .collect())
    }

    /// The share of score-side windows that are not eligible; 0 where there are none.
    pub fn overlap_share(&self) -> Result<f64> {
        let count =
            |sides: &[u8]| -> usize { sides.iter().map(|&side| usize::from(side == SCORE)).sum() };
        let (windows, left) = (count(self.sides()?), count(self.drawable()?));
        Ok(if windows == 0 {
            0.0
        } else {
            (windows - left) as f64 / windows as f64
        })
    }

    /// The side of the positions `span` of a segment; masked ones have [`NO_SIDE`].
    fn position_sides(&self, segment: &Segment, span: Range<usize>) -> Result<Vec<u8>> {
        let mask = segment.mask()?;
        let seed = self.parameters().split_seed;
        let mut documents = Vec::with_capacity(span.len());
        segment.documents_into(span.clone(), &mut documents)?;
        let mut last = None;
        Ok(span
            .zip(documents)
            .map(|(position, document)| {
                if !mask.get(position) {
                    return NO_SIDE;
                }
                match last {
                    Some((id, side)) if id == document => side,
                    _ => {
                        let side = document_side(document, seed);
                        last = Some((document, side));
                        side
                    }
                }
            })
            .collect())
    }

    /// The numbers of the chunk's windows that share a run with the explain side.
    fn shared_windows(&self, chunk: &Chunk<'_>, seen: impl Fn(u64) -> bool) -> Result<Vec<usize>> {
        let length = self.window();
        let first = self.window_number(self.segment_position(chunk.segment));
        let overlap = RUN.min(length);
        let mut shared = Vec::new();
        self.each_run(chunk, SCORE, |start, hash| {
            if !seen(hash) {
                return;
            }
            // The windows that the run overlaps by `overlap` tokens.
            for window in start / length..=(start + RUN - 1) / length {
                let from = start.max(window * length);
                let to = (start + RUN).min((window + 1) * length);
                if to - from >= overlap && shared.last() != Some(&(first + window)) {
                    shared.push(first + window);
                }
            }
        })?;
        Ok(shared)
    }

    /// Calls `visit` with the start and the hash of every run of one side.
    fn each_run(
        &self,
        chunk: &Chunk<'_>,
        side: u8,
        mut visit: impl FnMut(usize, u64),
    ) -> Result<()> {
        let length = self.context_length();
        let sides = self.position_sides(chunk.segment, chunk.span.clone())?;
        let mut tokens = Vec::with_capacity(sides.len());
        chunk.segment.tokens_into(chunk.span.clone(), &mut tokens)?;
        for context in (0..sides.len()).step_by(length) {
            let mut run = 0;
            for position in context..context + length {
                run = if sides[position] == side { run + 1 } else { 0 };
                if run >= RUN {
                    let start = position + 1 - RUN;
                    let hash = xxh3_64(bytemuck::cast_slice(&tokens[start..=position]));
                    visit(chunk.span.start + start, hash);
                }
            }
        }
        Ok(())
    }

    /// Works on all chunks of contexts in parallel; what they give stands in their order.
    pub(crate) fn in_chunks<T: Send>(
        &self,
        work: impl Fn(&Chunk<'_>) -> Result<Vec<T>> + Sync + Send,
    ) -> Result<Vec<T>> {
        let size = (CHUNK / self.context_length()).max(1) * self.context_length();
        let chunks: Vec<Chunk<'_>> = self
            .segments()
            .iter()
            .flat_map(|segment| {
                let n = segment.n_positions();
                (0..n).step_by(size).map(move |start| Chunk {
                    segment,
                    span: start..n.min(start + size),
                })
            })
            .collect();
        let parts: Vec<Result<Vec<T>>> = chunks.par_iter().map(work).collect();
        let mut all = Vec::new();
        for part in parts {
            all.extend(part?);
        }
        Ok(all)
    }
}

/// A set of hashes that several threads fill at once.
struct Hashes {
    slots: Vec<AtomicU64>,
}

impl Hashes {
    fn of_at_most(n: u64) -> Self {
        let slots = (n + n / 2).next_power_of_two().max(16);
        Self {
            slots: (0..slots).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The slots to look at for a hash, in turn; an empty one holds 0, and 0 stands as 1.
    fn slots(&self, hash: u64) -> impl Iterator<Item = &AtomicU64> {
        let mask = self.slots.len() - 1;
        (0..self.slots.len()).map(move |step| &self.slots[(hash as usize + step) & mask])
    }

    /// True, or, if the set is full, false.
    fn insert(&self, hash: u64) -> bool {
        let hash = hash.max(1);
        self.slots(hash).any(|slot| {
            let found = slot.load(Ordering::Relaxed);
            if found != 0 {
                return found == hash;
            }
            let set = slot.compare_exchange(0, hash, Ordering::Relaxed, Ordering::Relaxed);
            set.is_ok() || set == Err(hash)
        })
    }

    fn contains(&self, hash: u64) -> bool {
        let hash = hash.max(1);
        for slot in self.slots(hash) {
            let found = slot.load(Ordering::Relaxed);
            if found == hash {
                return true;
            }
            if found == 0 {
                return false;
            }
        }
        false
    }
}

fn window_side(positions: &[u8]) -> u8 {
    let seen = |side| positions.contains(&side);
    match (seen(EXPLAIN), seen(SCORE)) {
        (true, false) => EXPLAIN,
        (false, true) => SCORE,
        _ => NO_SIDE,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Corpus, corpora};

    /// Every run of one side: its place in the corpus and its tokens.
    fn runs(corpus: &Corpus, side: u8) -> Vec<(usize, &[u32])> {
        let inside = |p: usize| {
            corpus.mask[p]
                && document_side(corpus.documents[p], corpus.parameters.split_seed) == side
        };
        (0..corpus.tokens.len())
            .filter(|&p| p % corpus.length() + RUN <= corpus.length())
            .filter(|&p| (p..p + RUN).all(inside))
            .map(|p| (p, &corpus.tokens[p..p + RUN]))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn sides_and_eligibility_equal_the_plain_ones(corpus in corpora()) {
            let (_folder, index) = corpus.index();
            let (sides, eligible) = (index.sides().unwrap(), index.eligible().unwrap());
            let length = corpus.parameters.window as usize;
            let seen: BTreeSet<&[u32]> = runs(&corpus, 0).into_iter().map(|(_, run)| run).collect();
            let shared: Vec<usize> = runs(&corpus, 1).into_iter()
                .filter(|(_, run)| seen.contains(run)).map(|(p, _)| p).collect();
            prop_assert_eq!(sides.len(), corpus.tokens.len() / length);
            let (mut score, mut lost) = (0, 0);
            for window in 0..sides.len() {
                let span = window * length..(window + 1) * length;
                let found: BTreeSet<u8> = span.clone().filter(|&p| corpus.mask[p])
                    .map(|p| document_side(corpus.documents[p], corpus.parameters.split_seed))
                    .collect();
                let side = if found.len() == 1 { *found.first().unwrap() } else { NO_SIDE };
                prop_assert_eq!(sides[window], side);
                let overlaps = shared.iter().any(|&p| {
                    (p..p + RUN).filter(|q| span.contains(q)).count() >= RUN.min(length)
                });
                let usable = side == 0 || (side == 1 && !overlaps);
                prop_assert_eq!(eligible[window], usable, "window {}", window);
                score += u32::from(side == 1);
                lost += u32::from(side == 1 && !usable);
            }
            let share = if score == 0 { 0.0 } else { f64::from(lost) / f64::from(score) };
            prop_assert!((index.overlap_share().unwrap() - share).abs() < 1e-12);
        }
    }
}
