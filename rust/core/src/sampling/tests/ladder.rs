//! Tables and lists of negatives of any numbers, and what the lists may hold, by brute force.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::sources::{CHILD, PARENT};
use super::plain::{Plain, rows};
use crate::testing::{Corpus, TestResult};
use crate::{
    Examples, Index, NO_LATENT, NO_NEIGHBOUR, NO_WINDOW, NearestTable, NegativeKind, NegativePlan,
    NeighbourTable, Plan, Sources,
};

pub(super) const KINDS: [NegativeKind; 6] = [
    NegativeKind::Random,
    NegativeKind::PeakToken,
    NegativeKind::NearToken,
    NegativeKind::Embedding,
    NegativeKind::Decoder,
    NegativeKind::DecoderUnfiltered,
];

/// Tables of any numbers, which are made to fit an index.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    pub(super) ids: Vec<u32>,
    pub(super) relation: Vec<u8>,
    pub(super) k: usize,
    pub(super) latents: Vec<u32>,
    pub(super) windows: Vec<u64>,
    pub(super) m: usize,
}

impl Tables {
    pub(super) fn sources(&self) -> Sources<'_> {
        Sources {
            neighbours: Some(NeighbourTable {
                ids: &self.ids,
                relation: Some(&self.relation),
                k: self.k,
            }),
            nearest: Some(NearestTable {
                latents: &self.latents,
                windows: &self.windows,
                m: self.m,
            }),
        }
    }

    pub(super) fn fit(mut self, index: &Index) -> Self {
        let (n, windows) = (index.n_latents(), index.n_windows() as u64);
        self.ids.truncate(n as usize * self.k);
        for id in &mut self.ids {
            *id = if *id < 12 { *id % n } else { NO_NEIGHBOUR };
        }
        self.relation.truncate(self.ids.len());
        self.latents = (0..n).collect();
        self.windows.truncate(n as usize * self.m);
        for window in &mut self.windows {
            *window = if *window % 8 > 0 {
                *window % windows.max(1)
            } else {
                NO_WINDOW
            };
            if windows == 0 {
                *window = NO_WINDOW;
            }
        }
        self
    }
}

pub(super) fn tables() -> impl Strategy<Value = Tables> {
    (1usize..5, 0usize..20).prop_flat_map(|(k, m)| {
        (
            prop::collection::vec(0u32..14, 5 * k),
            prop::collection::vec(0u8..5, 5 * k),
            prop::collection::vec(any::<u64>(), 5 * m),
        )
            .prop_map(move |(ids, relation, windows)| Tables {
                ids,
                relation,
                k,
                latents: Vec::new(),
                windows,
                m,
            })
    })
}

pub(super) type Numbers = (NegativeKind, usize, usize, usize, usize, Option<usize>);

pub(super) fn lists() -> impl Strategy<Value = Vec<Numbers>> {
    let one = (
        prop::sample::select(KINDS.to_vec()),
        0usize..20,
        prop_oneof![Just(0usize), 0usize..30],
        0usize..4,
        0usize..4,
        prop::option::of(0usize..6),
    );
    prop::collection::vec(one, 1..5)
}

/// The plan with these lists, whose ranks fit the table.
pub(super) fn with_lists(plan: &Plan, lists: &[Numbers], k: usize) -> Plan {
    let of = |&(kind, n, margin, first, more, pool): &Numbers| {
        let first = 1 + first % k;
        NegativePlan {
            kind,
            n,
            margin,
            ranks: (first, (first + more).min(k)),
            pool,
            even: false,
        }
    };
    // Each kind once: the rows of two lists of one kind could not be told apart.
    let mut seen = BTreeSet::new();
    let lists = lists.iter().filter(|list| seen.insert(list.0.code()));
    Plan {
        negatives: lists.map(of).collect(),
        ..plan.clone()
    }
}

/// A window that a list may hold: itself, the start of its stretch, source and rank.
type Candidate = (u64, u64, u32, u32);

/// Checks the negatives of one latent.
pub(super) struct Checked<'a> {
    plain: Plain<'a>,
    corpus: &'a Corpus,
    index: &'a Index,
    plan: &'a Plan,
    tables: &'a Tables,
    latent: u32,
    windows: BTreeSet<u64>,
    starts: BTreeSet<u64>,
}

impl<'a> Checked<'a> {
    pub(super) fn of(
        corpus: &'a Corpus,
        index: &'a Index,
        plan: &'a Plan,
        tables: &'a Tables,
        latent: u32,
    ) -> Self {
        Self {
            plain: Plain::of(corpus, index, plan, latent),
            corpus,
            index,
            plan,
            tables,
            latent,
            windows: BTreeSet::new(),
            starts: BTreeSet::new(),
        }
    }
    fn tokens(&self, from: u64, length: usize) -> BTreeSet<u32> {
        let first = (from - self.corpus.base()) as usize;
        let live = (first..first + length).filter(|&place| self.corpus.mask[place]);
        live.map(|place| self.corpus.tokens[place]).collect()
    }

    /// The tokens at the peaks of the explain side's windows, or beside them.
    fn peak_tokens(&self, near: bool) -> BTreeSet<u32> {
        let drawable = self.index.drawable().unwrap();
        let window = self.index.window() as u64;
        let mut found = BTreeSet::new();
        for (start, max, _) in self.corpus.ranked(self.latent) {
            if drawable[self.index.window_number(start)] != 0 {
                continue;
            }
            let code = |bf16| crate::code::code(bf16);
            let peak = self
                .corpus
                .postings(self.latent)
                .into_iter()
                .find(|p| {
                    (start..start + window).contains(&p.0)
                        && code(crate::code::bf16_of(p.1)) == code(max)
                })
                .unwrap()
                .0;
            let length = self.corpus.length() as u64;
            if !near {
                found.extend(self.tokens(peak, 1));
                continue;
            }
            if peak % length > 0 {
                found.extend(self.tokens(peak - 1, 1));
            }
            if (peak + 1) % length > 0 {
                found.extend(self.tokens(peak + 1, 1));
            }
        }
        found
    }

    fn shown_length(&self) -> usize {
        self.plan.length.unwrap_or(self.index.window())
    }

    /// What a list may hold, whatever it holds already; of neighbours those of one rank.
    fn candidates(&self, list: &NegativePlan, rank: usize) -> Vec<Candidate> {
        let silent = self.plain.silent_windows().into_iter();
        let quiet = |start| self.plain.silent_around(start, list.margin as u64);
        let silent = silent.filter(|&(_, start)| quiet(start));
        match list.kind {
            NegativeKind::Random => silent.map(|(w, s)| (w, s, NO_LATENT, 0)).collect(),
            NegativeKind::PeakToken | NegativeKind::NearToken => {
                let wanted = self.peak_tokens(list.kind == NegativeKind::NearToken);
                silent
                    .filter(|&(window, start)| {
                        let here = self.tokens(window, self.index.window());
                        let shown = self.tokens(start, self.shown_length());
                        here.intersection(&shown)
                            .any(|token| wanted.contains(token))
                    })
                    .map(|(w, s)| (w, s, NO_LATENT, 0))
                    .collect()
            }
            NegativeKind::Embedding => {
                let silent: Vec<_> = silent.collect();
                let row = self.latent as usize * self.tables.m;
                let given = &self.tables.windows[row..row + self.tables.m];
                (1..)
                    .zip(given)
                    .filter_map(|(rank, &number)| {
                        let start =
                            |w: &&(u64, u64)| self.index.window_number(w.0) as u64 == number;
                        let &(window, start) = silent.iter().find(start)?;
                        Some((window, start, NO_LATENT, rank))
                    })
                    .collect()
            }
            NegativeKind::Decoder | NegativeKind::DecoderUnfiltered => {
                let at = self.latent as usize * self.tables.k + rank - 1;
                let (id, relation) = (self.tables.ids[at], self.tables.relation[at]);
                let filtered = list.kind == NegativeKind::Decoder;
                if id == NO_NEIGHBOUR || (filtered && [PARENT, CHILD].contains(&relation)) {
                    return Vec::new();
                }
                let mut shown = Plain::of(self.corpus, self.index, self.plan, id).shown(1);
                shown.sort_by_key(|w| std::cmp::Reverse(w.max));
                shown.truncate(list.pool.unwrap_or(usize::MAX));
                let own = self.corpus.ranked(self.latent);
                let quiet = |window, start| !own.iter().any(|row| row.0 == window) && quiet(start);
                shown.retain(|w| !filtered || quiet(w.window, w.start));
                shown
                    .iter()
                    .map(|w| (w.window, w.start, id, rank as u32))
                    .collect()
            }
        }
    }

    fn is_free(&self, candidate: &Candidate) -> bool {
        !self.windows.contains(&candidate.0) && !self.starts.contains(&candidate.1)
    }

    fn take(&mut self, examples: &Examples, row: usize, candidates: &[Candidate]) -> TestResult {
        let found = (
            examples.start[row],
            examples.source[row],
            examples.rank[row],
        );
        let candidate = candidates
            .iter()
            .find(|c| (c.1, c.2, c.3) == found && self.is_free(c));
        prop_assert!(
            candidate.is_some(),
            "{found:?} is not free among {candidates:?}"
        );
        let &(window, start, ..) = candidate.unwrap();
        self.windows.insert(window);
        self.starts.insert(start);
        Ok(())
    }

    fn check_list(
        &mut self,
        list: &NegativePlan,
        examples: &Examples,
        drawn: &[usize],
    ) -> TestResult {
        prop_assert!(drawn.len() <= list.n);
        let k = self.tables.k;
        let neighbours = matches!(
            list.kind,
            NegativeKind::Decoder | NegativeKind::DecoderUnfiltered
        );
        let ranks = if neighbours { list.ranks.0..=k } else { 1..=1 };
        let by_rank: Vec<(usize, Vec<Candidate>)> = ranks
            .map(|rank| (rank, self.candidates(list, rank)))
            .collect();
        let all: Vec<Candidate> = by_rank.iter().flat_map(|(_, c)| c).copied().collect();
        let mut nearest = 0;
        for &row in drawn {
            let rank = examples.rank[row] as usize;
            if neighbours && rank > list.ranks.1 {
                // The asked ranks, and those between, had nothing left.
                let nearer = by_rank.iter().filter(|(other, _)| *other < rank);
                prop_assert!(nearer.flat_map(|(_, c)| c).all(|c| !self.is_free(c)));
            }
            if list.kind == NegativeKind::Embedding {
                prop_assert!(rank > nearest);
                // Nothing nearer was passed over.
                prop_assert!(
                    all.iter()
                        .filter(|c| (c.3 as usize) < rank)
                        .all(|c| !self.is_free(c))
                );
                nearest = rank;
            }
            self.take(examples, row, &all)?;
        }
        if drawn.len() < list.n {
            prop_assert!(all.iter().all(|candidate| !self.is_free(candidate)));
        }
        for (rank, candidates) in &by_rank {
            let of = |rank: usize| {
                drawn
                    .iter()
                    .filter(|&&r| examples.rank[r] as usize == rank)
                    .count()
            };
            let least = (list.ranks.0..=list.ranks.1).map(of).max().unwrap_or(0);
            if neighbours && *rank <= list.ranks.1 && of(*rank) + 1 < least {
                prop_assert!(
                    candidates.iter().all(|c| !self.is_free(c)),
                    "ranks take turns"
                );
            }
        }
        Ok(())
    }

    pub(super) fn check(&mut self, examples: &Examples) -> TestResult {
        for split in 0..2 {
            for row in rows(examples, self.latent, split) {
                if examples.decile[row] > 0 {
                    prop_assert_eq!(examples.kind[row], 0);
                    prop_assert_eq!((examples.source[row], examples.rank[row]), (NO_LATENT, 0));
                    let shown = self.plain.shown(split);
                    let window = shown
                        .iter()
                        .find(|w| w.start == examples.start[row])
                        .unwrap();
                    self.windows.insert(window.window);
                    self.starts.insert(window.start);
                }
            }
        }
        let mut rest: Vec<usize> = rows(examples, self.latent, 1)
            .into_iter()
            .filter(|&row| examples.decile[row] == 0)
            .collect();
        let short = |what: &str| {
            let of = |s: &&crate::Shortfall| s.latent == self.latent && s.what == what;
            examples.shortfalls.iter().filter(of).count()
        };
        for &kind in &KINDS {
            let wanted: usize = self
                .plan
                .negatives
                .iter()
                .filter(|l| l.kind == kind)
                .map(|l| l.n)
                .sum();
            let found = rest
                .iter()
                .filter(|&&row| examples.kind[row] == kind.code())
                .count();
            prop_assert_eq!(found < wanted, short(kind.name()) > 0);
        }
        for list in &self.plan.negatives.clone() {
            let code = list.kind.code();
            let drawn = rest
                .iter()
                .take_while(|&&row| examples.kind[row] == code)
                .count();
            let drawn: Vec<usize> = rest.drain(..drawn).collect();
            self.check_list(list, examples, &drawn)?;
        }
        prop_assert!(rest.is_empty());
        Ok(())
    }
}
