//! The explain side laid out for learning: where each token stands, and how often.
//!
//! Windows are ranked by a hash, and each token's places are kept in that order, so that the
//! places in the first ranks are a uniform sample of windows, the same windows for every token.
//! That bounds what a latent on the commonest tokens costs.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Corpus, EXPLAIN, Marks, Places, Rule, SUBJECT};

/// Documents that rules are fitted to while their shape is chosen.
pub(super) const FIT: u8 = 1;
/// Documents that decide whether a clause is worth having.
pub(super) const SELECT: u8 = 2;
/// Both.
pub(super) const ALL: u8 = FIT | SELECT;

const PART_SEED: u64 = 0x7061_7274;
const RANK_SEED: u64 = 0x7261_6e6b;

/// How often a token stands in the windows of some part.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frequency {
    pub tokens: u32,
    pub windows: u32,
    pub documents: u32,
}

#[derive(Debug)]
pub(super) struct Layout {
    pub corpus: Arc<Corpus>,
    /// The window at each rank.
    pub windows: Vec<u32>,
    /// The rank of each window, `u32::MAX` outside the explain side.
    ranks: Vec<u32>,
    /// For each rank, its part.
    parts: Vec<u8>,
    /// For each token its cells, `rank * window + offset`.
    cells: Places,
    fit: Vec<Frequency>,
    all: Vec<Frequency>,
    /// Unmasked tokens in the fitted part, and in all.
    sizes: [u64; 2],
}

/// A window among those looked at, standing for `weight` windows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub active: bool,
    pub weight: f64,
    pub document: u32,
}

/// Places of some tokens: `(number in windows, position)`, those of one window together.
#[derive(Debug, Default)]
pub(super) struct Sample {
    pub windows: Vec<Window>,
    pub places: Vec<(u32, u32)>,
    /// Windows in which the latent is active, fired on or not.
    pub actual: f64,
}

/// The windows of the explain side in which one latent is active.
#[derive(Debug)]
pub(super) struct Active {
    /// Ranks, ascending.
    pub ranks: Vec<u32>,
    /// Positions.
    pub positions: Vec<u32>,
}

/// Working memory of one thread.
#[derive(Debug)]
pub(super) struct Scratch {
    pub marks: Marks,
    /// For each rank, whether the latent at hand is active there.
    pub active: Vec<bool>,
    /// For each token of the vocabulary, a number that is 0 between uses.
    pub slots: Vec<u32>,
    pub seen: Vec<u32>,
}

impl Layout {
    pub fn new(text: &Arc<Corpus>) -> Self {
        let corpus = &**text;
        let window = corpus.window;
        let hash = |value: u64, seed| xxh3_64_with_seed(&value.to_le_bytes(), seed);
        let mut windows: Vec<u32> = (0..corpus.sides.len() as u32)
            .filter(|&w| corpus.sides[w as usize] == EXPLAIN)
            .collect();
        let part = |w: u32| {
            let document = corpus.window_documents[w as usize];
            let id = corpus.document_ids[document as usize];
            if hash(id, PART_SEED) % 3 == 0 {
                SELECT
            } else {
                FIT
            }
        };
        let (fit, fit_size) = frequencies(corpus, windows.iter().filter(|&&w| part(w) == FIT));
        let (all, all_size) = frequencies(corpus, windows.iter());
        windows.sort_by_cached_key(|&w| (hash(u64::from(w), RANK_SEED), w));
        let mut ranks = vec![u32::MAX; corpus.sides.len()];
        for (rank, &w) in windows.iter().enumerate() {
            ranks[w as usize] = rank as u32;
        }
        let parts = windows.iter().map(|&w| part(w)).collect();
        let pairs = windows.iter().enumerate().flat_map(|(rank, &w)| {
            let first = w as usize * window;
            (0..window)
                .filter(move |&offset| corpus.unmasked[first + offset])
                .map(move |offset| {
                    (
                        corpus.tokens[first + offset],
                        (rank * window + offset) as u32,
                    )
                })
        });
        let cells = Places::new(corpus.vocabulary, pairs);
        Self {
            corpus: Arc::clone(text),
            windows,
            ranks,
            parts,
            cells,
            fit,
            all,
            sizes: [fit_size, all_size],
        }
    }

    pub fn scratch(&self) -> Scratch {
        Scratch {
            marks: Marks::new(self.corpus.vocabulary),
            active: vec![false; self.windows.len()],
            slots: vec![0; self.corpus.vocabulary],
            seen: vec![u32::MAX; self.corpus.vocabulary],
        }
    }

    pub fn frequency(&self, token: u32, part: u8) -> Frequency {
        if part == FIT {
            self.fit[token as usize]
        } else {
            self.all[token as usize]
        }
    }

    /// Unmasked tokens in a part.
    pub fn size(&self, part: u8) -> u64 {
        self.sizes[usize::from(part != FIT)]
    }

    pub fn is_in(&self, rank: u32, part: u8) -> bool {
        self.parts[rank as usize] & part != 0
    }

    /// The explain side of a latent's positions.
    pub fn active(&self, positions: &[u64]) -> Active {
        let mut ranks = Vec::new();
        let mut kept = Vec::new();
        for &position in positions {
            let t = position as usize;
            let rank = self.ranks[t / self.corpus.window];
            if rank != u32::MAX && self.corpus.unmasked[t] {
                kept.push(t as u32);
                if ranks.last() != Some(&rank) {
                    ranks.push(rank);
                }
            }
        }
        ranks.sort_unstable();
        ranks.dedup();
        Active {
            ranks,
            positions: kept,
        }
    }

    pub fn in_part(&self, active: &Active, part: u8) -> Active {
        let window = self.corpus.window;
        let inside = |&&t: &&u32| self.is_in(self.ranks[t as usize / window], part);
        Active {
            ranks: active
                .ranks
                .iter()
                .copied()
                .filter(|&rank| self.is_in(rank, part))
                .collect(),
            positions: active.positions.iter().filter(inside).copied().collect(),
        }
    }

    /// The unmasked positions of the window at a rank.
    pub fn positions(&self, rank: u32) -> impl Iterator<Item = u32> + '_ {
        let corpus = &*self.corpus;
        let first = self.windows[rank as usize] as usize * corpus.window;
        (first..first + corpus.window)
            .filter(|&t| corpus.unmasked[t])
            .map(|t| t as u32)
    }

    /// The places of `tokens` in a part, about `budget` of them where there are more: all
    /// windows in which the latent is active, and a sample of the others. `active` is of that
    /// part, and marked in `scratch`.
    pub fn gather(
        &self,
        scratch: &mut Scratch,
        active: &Active,
        tokens: &[u32],
        part: u8,
        budget: usize,
    ) -> Sample {
        let mut sample = Sample {
            actual: active.ranks.len() as f64,
            ..Sample::default()
        };
        if tokens.is_empty() {
            return sample;
        }
        let total = self.windows.len() as u32;
        let share = |size: usize| (budget as f64 / size.max(1) as f64).min(1.0);
        let upto = |rate: f64| ((rate * f64::from(total)).ceil() as u32).min(total);

        let cut = upto(share(active.ranks.len()));
        let taken = &active.ranks[..active.ranks.partition_point(|&rank| rank < cut)];
        scratch.marks.put(tokens, SUBJECT);
        for &rank in taken {
            let weight = active.ranks.len() as f64 / taken.len() as f64;
            self.push(
                &mut sample,
                rank,
                Some((true, weight)),
                self.positions(rank).filter(|&t| {
                    scratch.marks.bits[self.corpus.tokens[t as usize] as usize] & SUBJECT != 0
                }),
            );
        }
        scratch.marks.clear(tokens);

        let width = self.corpus.window as u32;
        let found: usize = tokens.iter().map(|&token| self.cells.of(token).len()).sum();
        let cut = upto(share(found));
        let weight = f64::from(total) / f64::from(cut.max(1));
        let mut cells = Vec::new();
        for &token in tokens {
            let places = self.cells.of(token);
            let places = &places[..places.partition_point(|&cell| cell / width < cut)];
            cells.extend(places.iter().copied().filter(|&cell| {
                let rank = cell / width;
                self.is_in(rank, part) && !scratch.active[rank as usize]
            }));
        }
        cells.sort_unstable();
        let mut last = u32::MAX;
        for cell in cells {
            let rank = cell / width;
            let first = self.windows[rank as usize] * width;
            let window = (rank != last).then_some((false, weight));
            last = rank;
            self.push(
                &mut sample,
                rank,
                window,
                std::iter::once(first + cell % width),
            );
        }
        sample
    }

    fn push(
        &self,
        sample: &mut Sample,
        rank: u32,
        window: Option<(bool, f64)>,
        positions: impl Iterator<Item = u32>,
    ) {
        let mut positions = positions.peekable();
        if positions.peek().is_none() {
            return;
        }
        if let Some((active, weight)) = window {
            let document = self.corpus.window_documents[self.windows[rank as usize] as usize];
            sample.windows.push(Window {
                active,
                weight,
                document,
            });
        }
        let number = (sample.windows.len() - 1) as u32;
        sample.places.extend(positions.map(|t| (number, t)));
    }
}

fn frequencies<'w>(
    corpus: &Corpus,
    windows: impl Iterator<Item = &'w u32>,
) -> (Vec<Frequency>, u64) {
    let mut counts = vec![Frequency::default(); corpus.vocabulary];
    let mut last = vec![(u32::MAX, u32::MAX); corpus.vocabulary];
    let mut size = 0;
    for &w in windows {
        let document = corpus.window_documents[w as usize];
        let first = w as usize * corpus.window;
        for t in (first..first + corpus.window).filter(|&t| corpus.unmasked[t]) {
            let token = corpus.tokens[t] as usize;
            let (last_window, last_document) = std::mem::replace(&mut last[token], (w, document));
            counts[token].tokens += 1;
            counts[token].windows += u32::from(last_window != w);
            counts[token].documents += u32::from(last_document != document);
            size += 1;
        }
    }
    (counts, size)
}

impl Sample {
    /// Leaves the places at which `rule` fires; its tokens are those gathered, or fewer.
    pub fn keep_firing(&mut self, corpus: &Corpus, marks: &mut Marks, rule: &Rule) {
        marks.set(rule);
        self.places.retain(|&(_, t)| {
            let t = t as usize;
            marks.bits[corpus.tokens[t] as usize] & SUBJECT != 0 && marks.fires(corpus, t, rule)
        });
        marks.unset(rule);
    }

    /// Predicted windows, and those of them in which the latent is active.
    pub fn predicted(&self) -> (f64, f64) {
        let (mut predicted, mut right) = (0.0, 0.0);
        let mut last = u32::MAX;
        for &(number, _) in &self.places {
            if number != last {
                let window = self.windows[number as usize];
                predicted += window.weight;
                right += if window.active { window.weight } else { 0.0 };
                last = number;
            }
        }
        (predicted, right)
    }

    /// F1 of what is predicted.
    pub fn f1(&self) -> f64 {
        let (predicted, right) = self.predicted();
        let size = predicted + self.actual;
        if size > 0.0 { 2.0 * right / size } else { 0.0 }
    }
}
