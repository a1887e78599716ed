//! The draws of negatives: windows of the score side that an explanation should deny.
//!
//! Each kind is a walk, or several that take turns, over windows in the order of a keyed shuffle (or
//! of nearness). A window is taken if it is eligible, is in no list yet, and the latent is silent on
//! what is shown of it and `margin` tokens around. `decoder_unfiltered` alone asks for no silence:
//! it reproduces scores whose counterexamples were never checked.

use std::collections::{BTreeMap, BTreeSet};

use super::draw::{Draw, Drawn, NEGATIVE, OfLatent, PEAKS};
use super::peaks::{PeakTokens, common_peak_tokens, peaks};
use super::plan::{NegativeKind, NegativePlan};
use super::sources::{CHILD, NO_WINDOW, NearestTable, NeighbourTable, PARENT};
use super::walk::{NeighbourWalk, TokenWalk};
use crate::batch::NO_LATENT;
use crate::cooccurrence::NO_NEIGHBOUR;
use crate::error::Result;
use crate::random::{Shuffle, key};
use crate::ranked::Ranked;
use crate::sides::{EXPLAIN, SCORE};

/// The peaks whose tokens are looked for.
const N_PEAKS: usize = 32;

/// Working memory: one bit a window, all 0 between latents.
#[derive(Default)]
pub(super) struct Marks {
    /// Whether the latent is active in it.
    active: Vec<u64>,
    /// Whether it was drawn.
    taken: Vec<u64>,
}

/// What of one latent is known to all its lists of negatives.
struct Known<'a> {
    active: &'a [u64],
    /// The positions on which it is, where a list asks for them.
    positions: Option<&'a [u64]>,
    peaks: PeakTokens,
    /// The commonest tokens of more peaks, where a list asks for them.
    common: Vec<u32>,
}

/// What the lists of one latent share and change.
struct Shared<'a, 'b> {
    /// Bits of the windows that are in a list, or drawn as activating.
    taken: &'b mut [u64],
    /// Where what is shown begins, unless that is where the window does.
    starts: BTreeSet<u64>,
    /// Neighbours that were looked at.
    neighbours: Vec<(u32, Ranked<'a>)>,
}

/// One list of negatives, as it is drawn.
struct List<'a, 'b, 'c> {
    draw: &'a Draw<'a>,
    latent: u32,
    plan: &'a NegativePlan,
    purpose: u64,
    known: &'b Known<'b>,
    shared: &'b mut Shared<'a, 'c>,
    rows: &'b mut Vec<Drawn>,
    /// The rows with which the list is full.
    enough: usize,
}

impl OfLatent<'_> {
    /// Draws all lists of negatives.
    pub(super) fn negatives(&mut self, marks: &mut Marks) -> Result<()> {
        let draw = self.draw;
        let lists = || draw.plan.negatives.iter().filter(|list| list.n > 0);
        if lists().next().is_none() {
            return Ok(());
        }
        let before = self.rows.len();
        self.mark(marks)?;
        let stretches = self.stretches.take();
        let decoded;
        let positions = match &stretches {
            Some(stretches) => Some(stretches.postings.positions.as_slice()),
            None if lists().all(|list| list.margin == 0) => None,
            None => {
                decoded = draw.index.postings(self.latent)?.positions;
                Some(decoded.as_slice())
            }
        };
        let known = Known {
            active: &marks.active,
            positions,
            peaks: if lists().any(|list| list.kind.of_peaks()) {
                let key = key(draw.seed, self.latent, PEAKS, 0);
                let explains = |window| draw.sides[window as usize] == EXPLAIN;
                let peaks = peaks(draw.index, &mut self.ranked, key, N_PEAKS, explains)?;
                PeakTokens::of(draw.index, &peaks)?
            } else {
                PeakTokens::default()
            },
            common: if lists().any(|list| list.even) {
                common_peak_tokens(draw.index, &mut self.ranked, draw.sides, draw.seed)?
            } else {
                Vec::new()
            },
        };
        let mut shared = Shared {
            taken: &mut marks.taken,
            starts: if draw.frame.on_grid() {
                BTreeSet::new()
            } else {
                self.rows.iter().map(|row| row.start).collect()
            },
            neighbours: Vec::new(),
        };
        for (purpose, plan) in (NEGATIVE..).zip(&draw.plan.negatives) {
            let first = self.rows.len();
            let mut list = List {
                draw,
                latent: self.latent,
                plan,
                purpose,
                known: &known,
                shared: &mut shared,
                rows: &mut self.rows,
                enough: first.saturating_add(plan.n),
            };
            let asked = list.draw()?;
            if asked < self.rows.len() {
                self.note_found(plan.kind.name_of_ranks(), plan.n, asked - first);
            }
            self.note(plan.kind.name(), plan.n, first);
        }
        self.stretches = stretches;
        self.find_ranks(before, &marks.active)?;
        self.unmark(marks)
    }

    /// Sets the bits of the windows in which the latent is active, and of those that were drawn.
    fn mark(&mut self, marks: &mut Marks) -> Result<()> {
        let words = self.draw.sides.len().div_ceil(64);
        marks.active.resize(words, 0);
        marks.taken.resize(words, 0);
        for row in &self.rows {
            set(&mut marks.taken, row.window);
        }
        self.ranked
            .each_window(|window| set(&mut marks.active, window))
    }

    fn unmark(&mut self, marks: &mut Marks) -> Result<()> {
        for row in &self.rows {
            marks.taken[row.window as usize / 64] = 0;
        }
        self.ranked
            .each_window(|window| marks.active[window as usize / 64] = 0)
    }

    /// Finds the ranks of the negatives in which the latent is active, to read them by.
    fn find_ranks(&mut self, first: usize, active: &[u64]) -> Result<()> {
        if !self.draw.frame.on_grid() {
            return Ok(());
        }
        let negatives = self.rows.iter().enumerate().skip(first);
        let mut rows: Vec<(u64, usize)> = negatives
            .filter(|(_, row)| is_set(active, row.window))
            .map(|(at, row)| (row.window, at))
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        rows.sort_unstable();
        let windows: Vec<u64> = rows.iter().map(|&(window, _)| window).collect();
        for (rank, place) in self.ranked.ranks_of(&windows)? {
            self.rows[rows[place].1].rank = Some(rank);
        }
        Ok(())
    }
}

impl List<'_, '_, '_> {
    /// Draws the list; returns how many rows there were before ranks beyond the asked ones helped.
    fn draw(&mut self) -> Result<usize> {
        let (peaks, sources) = (&self.known.peaks, self.draw.sources);
        match self.plan.kind {
            NegativeKind::Random => self.random(),
            NegativeKind::PeakToken if self.plan.even => self.evenly(&self.known.common)?,
            NegativeKind::PeakToken => self.of_tokens(&peaks.own)?,
            NegativeKind::NearToken => self.of_tokens(&peaks.near)?,
            NegativeKind::Embedding => {
                if let Some(nearest) = &sources.nearest {
                    self.nearest(nearest)?;
                }
            }
            NegativeKind::Decoder | NegativeKind::DecoderUnfiltered => {
                if let Some(neighbours) = &sources.neighbours {
                    return self.of_neighbours(neighbours);
                }
            }
        }
        Ok(self.rows.len())
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= self.enough
    }

    /// Any windows.
    fn random(&mut self) {
        let key = key(self.draw.seed, self.latent, self.purpose, 0);
        let mut shuffle = Shuffle::new(key, self.draw.sides.len() as u64);
        while !self.is_full() {
            let Some(window) = shuffle.next() else { break };
            if let Some(start) = self.start(window) {
                self.take(window, start, (NO_LATENT, 0));
            }
        }
    }

    /// Windows that hold one of some tokens, which take turns; one that is there twice has two.
    fn of_tokens(&mut self, tokens: &[u32]) -> Result<()> {
        let words = self.draw.index.words()?;
        let mut places = BTreeMap::new();
        let mut walks = Vec::new();
        let turns: Vec<usize> = tokens
            .iter()
            .map(|&token| {
                *places.entry(token).or_insert_with(|| {
                    let key = key(self.draw.seed, self.latent, self.purpose, u64::from(token));
                    walks.push(TokenWalk::new(token, words.windows(token), key));
                    walks.len() - 1
                })
            })
            .collect();
        self.in_turn(turns, &mut walks, |list, walk| {
            while let Some(window) = walk.next() {
                let Some(start) = list.start(window) else {
                    continue;
                };
                if walk.is_shown(list.draw, start)? && list.take(window, start, (NO_LATENT, 0)) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Windows that hold one of some distinct tokens, each equally likely.
    fn evenly(&mut self, tokens: &[u32]) -> Result<()> {
        let words = self.draw.index.words()?;
        let lists: Vec<&[u32]> = tokens.iter().map(|&token| words.windows(token)).collect();
        let mut ends = Vec::with_capacity(lists.len());
        let mut end = 0;
        for list in &lists {
            end += list.len();
            ends.push(end);
        }
        let key = key(self.draw.seed, self.latent, self.purpose, 0);
        let mut shuffle = Shuffle::new(key, end as u64);
        while !self.is_full() {
            let Some(place) = shuffle.next() else { break };
            let of = ends.partition_point(|&end| end as u64 <= place);
            let window = lists[of][place as usize + lists[of].len() - ends[of]];
            // In several lists it would be likelier: it counts in the first alone.
            let counts = |list: &&[u32]| list.binary_search(&window).is_ok();
            if lists[..of].iter().any(counts) {
                continue;
            }
            if let Some(start) = self.start(u64::from(window)) {
                self.take(u64::from(window), start, (NO_LATENT, 0));
            }
        }
        Ok(())
    }

    /// The nearest windows, in their order.
    fn nearest(&mut self, nearest: &NearestTable<'_>) -> Result<()> {
        for (rank, &window) in (1..).zip(nearest.of(self.latent)?) {
            if self.is_full() {
                break;
            }
            if window == NO_WINDOW {
                continue;
            }
            if let Some(start) = self.start(window) {
                self.take(window, start, (NO_LATENT, rank));
            }
        }
        Ok(())
    }

    /// Windows in which neighbours are active: those of the asked ranks take turns; what they cannot
    /// give comes from the next ranks, one after the other.
    fn of_neighbours(&mut self, table: &NeighbourTable<'_>) -> Result<usize> {
        let (ids, relation) = table.of(self.latent);
        let (first, last) = self.plan.ranks;
        let filtered = self.plan.kind == NegativeKind::Decoder;
        let kin = |place: usize| {
            let of = relation.map(|relation| relation[place]);
            filtered && matches!(of, Some(PARENT | CHILD))
        };
        let usable = |rank: &usize| ids[rank - 1] != NO_NEIGHBOUR && !kin(rank - 1);
        self.walk_neighbours(ids, (first..=last.min(table.k)).filter(usable))?;
        let asked = self.rows.len();
        for rank in (last + 1..=table.k).filter(usable) {
            if self.is_full() {
                break;
            }
            self.walk_neighbours(ids, std::iter::once(rank))?;
        }
        Ok(asked)
    }

    /// Lets the neighbours of some ranks take turns.
    fn walk_neighbours(&mut self, ids: &[u32], ranks: impl Iterator<Item = usize>) -> Result<()> {
        let mut walks = Vec::new();
        for rank in ranks {
            let id = ids[rank - 1];
            let known = &mut self.shared.neighbours;
            let ranked = match known.iter().position(|(other, _)| *other == id) {
                Some(at) => known.swap_remove(at).1,
                None => Ranked::open(self.draw.index, id)?,
            };
            let key = key(self.draw.seed, self.latent, self.purpose, rank as u64);
            let from = (id, rank as u32);
            let pool = self.plan.pool;
            walks.push(NeighbourWalk::new(self.draw, ranked, from, pool, key)?);
        }
        self.in_turn((0..walks.len()).collect(), &mut walks, |list, walk| {
            while let Some((window, start)) = walk.next(list.draw)? {
                if list.take(window, start, walk.from) {
                    return Ok(true);
                }
            }
            Ok(false)
        })?;
        let walked = walks.into_iter().map(|walk| (walk.from.0, walk.ranked));
        self.shared.neighbours.extend(walked);
        Ok(())
    }

    /// Lets walks take turns until the list is full or all have ended: `step` takes one row from a
    /// walk, or says that it has ended.
    fn in_turn<W>(
        &mut self,
        mut turns: Vec<usize>,
        walks: &mut [W],
        step: impl Fn(&mut Self, &mut W) -> Result<bool>,
    ) -> Result<()> {
        let mut ended = vec![false; walks.len()];
        while !turns.is_empty() {
            for &turn in &turns {
                if self.is_full() {
                    return Ok(());
                }
                if !ended[turn] {
                    ended[turn] = !step(self, &mut walks[turn])?;
                }
            }
            turns.retain(|&turn| !ended[turn]);
        }
        Ok(())
    }

    /// Where the text of a window begins, if the latent is silent in it and it may be drawn.
    fn start(&self, window: u64) -> Option<u64> {
        if self.draw.sides[window as usize] != SCORE || self.is_active(window) {
            return None;
        }
        self.draw.silent_start(window)
    }

    fn is_active(&self, window: u64) -> bool {
        is_set(self.known.active, window)
    }

    /// Takes an eligible window, if the latent is silent as it has to be and it is in no list yet.
    fn take(&mut self, window: u64, start: u64, from: (u32, u32)) -> bool {
        let silent = || {
            let positions = self.known.positions;
            !self.is_active(window)
                && positions.is_none_or(|p| self.draw.is_silent(p, start, self.plan.margin))
        };
        if self.plan.kind != NegativeKind::DecoderUnfiltered && !silent() {
            return false;
        }
        let shared = &mut *self.shared;
        if is_set(shared.taken, window)
            || !self.draw.frame.on_grid() && !shared.starts.insert(start)
        {
            return false;
        }
        set(shared.taken, window);
        self.rows.push(Drawn {
            window,
            rank: None,
            start,
            decile: 0,
            split: SCORE,
            kind: self.plan.kind.code(),
            from,
        });
        true
    }
}

pub(super) fn set(bits: &mut [u64], window: u64) {
    bits[window as usize / 64] |= 1 << (window % 64);
}

pub(super) fn is_set(bits: &[u64], window: u64) -> bool {
    bits[window as usize / 64] >> (window % 64) & 1 == 1
}

impl Draw<'_> {
    /// Whether no posting lies in what is shown or within `margin` tokens of it in its context.
    fn is_silent(&self, positions: &[u64], start: u64, margin: usize) -> bool {
        let length = self.index.context_length() as u64;
        let context = start - start % length;
        let from = start.saturating_sub(margin as u64).max(context);
        let to = (start + self.frame.length as u64)
            .saturating_add(margin as u64)
            .min(context + length);
        let next = positions.partition_point(|&position| position < from);
        positions.get(next).is_none_or(|&position| position >= to)
    }
}
