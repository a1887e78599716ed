//! The two sides of a run, and what may be drawn of each.
//!
//! Explanations are made from one half of the documents and scored on the other. Disjoint documents
//! are not enough where text is repeated, so a score-side window that shares a run of
//! [`RUN`] tokens with the explain side is not drawn.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Result;
use crate::index::Index;
use crate::random::document_side;
use crate::segment::Segment;

/// Tokens in a run that both sides must not share.
pub const RUN: usize = 16;

/// The side of a window whose tokens are on both sides, or all masked.
pub const NO_SIDE: u8 = 2;

/// Keys that are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

type Hashes = HashSet<u64, BuildHasherDefault<Identity>>;

impl Index {
    /// The side of every window: 0 explain, 1 score, 2 neither.
    ///
    /// A window has the side of its unmasked tokens' documents.
    pub fn sides(&self) -> Result<&[u8]> {
        if let Some(sides) = self.sides.get() {
            return Ok(sides);
        }
        let parts: Vec<Result<Vec<u8>>> = self
            .segments()
            .par_iter()
            .map(|segment| {
                let positions = self.position_sides(segment)?;
                Ok(positions
                    .chunks_exact(self.window())
                    .map(window_side)
                    .collect())
            })
            .collect();
        let mut sides = Vec::with_capacity(self.n_windows());
        for part in parts {
            sides.extend(part?);
        }
        Ok(self.sides.get_or_init(|| sides))
    }

    /// Whether each window may be drawn for its side.
    ///
    /// Every explain-side window may. A score-side window may not when it shares a run of [`RUN`]
    /// unmasked tokens within a context with the explain side: when the run lies in the window, or,
    /// where windows are shorter than a run, the window in the run. Windows of neither side may not.
    pub fn eligible(&self) -> Result<&[bool]> {
        if let Some(eligible) = self.eligible.get() {
            return Ok(eligible);
        }
        let sides = self.sides()?;
        let seen = self.runs_of_the_explain_side()?;
        let parts: Vec<Result<Vec<u64>>> = self
            .segments()
            .par_iter()
            .map(|segment| self.shared_windows(segment, sides, &seen))
            .collect();
        let mut eligible: Vec<bool> = sides.iter().map(|&side| side != NO_SIDE).collect();
        for part in parts {
            for window in part? {
                eligible[window as usize] = false;
            }
        }
        Ok(self.eligible.get_or_init(|| eligible))
    }

    /// The share of score-side windows that are not eligible; 0 where there are none.
    pub fn overlap_share(&self) -> Result<f64> {
        let eligible = self.eligible()?;
        let (mut windows, mut lost) = (0u64, 0u64);
        for (_, &usable) in self
            .sides()?
            .iter()
            .zip(eligible)
            .filter(|(side, _)| **side == 1)
        {
            windows += 1;
            lost += u64::from(!usable);
        }
        Ok(if windows == 0 {
            0.0
        } else {
            lost as f64 / windows as f64
        })
    }

    /// The side of every position of a segment; masked ones have [`NO_SIDE`].
    pub fn position_sides(&self, segment: &Segment) -> Result<Vec<u8>> {
        let mask = segment.mask()?;
        let seed = self.parameters().split_seed;
        let mut last = None;
        let documents = segment.documents()?;
        let sides = documents.iter().enumerate();
        Ok(sides
            .map(|(position, &document)| {
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

    fn runs_of_the_explain_side(&self) -> Result<Hashes> {
        let parts: Vec<Result<Vec<u64>>> = self
            .segments()
            .par_iter()
            .map(|segment| {
                let mut hashes = Vec::new();
                self.each_run(segment, 0, |_, hash| hashes.push(hash))?;
                Ok(hashes)
            })
            .collect();
        let mut seen = Hashes::default();
        for part in parts {
            seen.extend(part?);
        }
        Ok(seen)
    }

    /// The numbers of the segment's score-side windows that share a run with `seen`.
    fn shared_windows(&self, segment: &Segment, sides: &[u8], seen: &Hashes) -> Result<Vec<u64>> {
        let length = self.window();
        let first = self.window_number(self.segment_position(segment));
        let overlap = RUN.min(length);
        let mut shared = Vec::new();
        self.each_run(segment, 1, |start, hash| {
            if !seen.contains(&hash) {
                return;
            }
            // The windows that the run overlaps by `overlap` tokens.
            for window in start / length..=(start + RUN - 1) / length {
                let from = start.max(window * length);
                let to = (start + RUN).min((window + 1) * length);
                if to - from >= overlap && sides[first + window] == 1 {
                    shared.push((first + window) as u64);
                }
            }
        })?;
        Ok(shared)
    }

    /// Calls `visit` with the start and the hash of every run of one side.
    fn each_run(
        &self,
        segment: &Segment,
        side: u8,
        mut visit: impl FnMut(usize, u64),
    ) -> Result<()> {
        let length = self.context_length();
        let tokens = segment.tokens()?;
        let sides = self.position_sides(segment)?;
        for context in (0..segment.n_positions()).step_by(length) {
            let mut run = 0;
            for position in context..context + length {
                run = if sides[position] == side { run + 1 } else { 0 };
                if run >= RUN {
                    let start = position + 1 - RUN;
                    visit(
                        start,
                        xxh3_64(bytemuck::cast_slice(&tokens[start..=position])),
                    );
                }
            }
        }
        Ok(())
    }
}

fn window_side(positions: &[u8]) -> u8 {
    let seen = |side| positions.contains(&side);
    match (seen(0), seen(1)) {
        (true, false) => 0,
        (false, true) => 1,
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
