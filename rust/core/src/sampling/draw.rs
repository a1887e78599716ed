//! The draws of one latent.

use std::ops::Range;

use super::negatives::Marks;
use super::plan::{ExplainKind, Plan, Shortfall};
use super::sources::Sources;
use super::stretch::{Frame, Stretches};
use crate::batch::NO_LATENT;
use crate::error::Result;
use crate::index::Index;
use crate::random::{Shuffle, key};
use crate::ranked::{Ranked, activation};
use crate::sides::{EXPLAIN, SCORE};

const UNIFORM: u64 = 1;
const POOL: u64 = 2;
const STRATA: u64 = 3;
const SCORED: u64 = 4;
const REST: u64 = 5;
const BINS: u64 = 6;
pub(super) const PEAKS: u64 = 7;
/// And upwards: one for each of a plan's lists of negatives.
pub(super) const NEGATIVE: u64 = 16;

/// What all latents of one call share.
pub(super) struct Draw<'a> {
    pub(super) index: &'a Index,
    pub(super) plan: &'a Plan,
    pub(super) seed: u64,
    /// The side for which each window may be drawn.
    pub(super) sides: &'a [u8],
    pub(super) frame: Frame,
    pub(super) sources: &'a Sources<'a>,
}

/// One chosen window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drawn {
    pub(super) window: u64,
    /// Its rank, if the latent is active in it.
    pub(super) rank: Option<u64>,
    /// The position of the first token shown.
    pub(super) start: u64,
    pub(super) decile: u8,
    pub(super) split: u8,
    pub(super) kind: u8,
    /// The latent from whose windows it was drawn, or none, and the rank of that; 0 if it has none.
    pub(super) from: (u32, u32),
}

/// What was drawn of one latent.
pub(super) struct OfOne {
    pub(super) latent: u32,
    pub(super) rows: Vec<Drawn>,
    pub(super) shortfalls: Vec<Shortfall>,
    /// The activations of all rows, where stretches were decoded to draw them; else none.
    pub(super) activations: Vec<f32>,
}

/// The rows of one latent as they are drawn.
pub(super) struct OfLatent<'a> {
    pub(super) draw: &'a Draw<'a>,
    pub(super) latent: u32,
    pub(super) ranked: Ranked<'a>,
    /// None where the windows themselves are shown.
    pub(super) stretches: Option<Stretches>,
    pub(super) rows: Vec<Drawn>,
    pub(super) shortfalls: Vec<Shortfall>,
}

impl Draw<'_> {
    /// Draws from one latent.
    pub(super) fn latent(&self, latent: u32, marks: &mut Marks) -> Result<OfOne> {
        let stretches = if self.frame.on_grid() {
            None
        } else {
            Some(Stretches::of(self.index, latent, self.frame)?)
        };
        let mut of_latent = OfLatent {
            draw: self,
            latent,
            ranked: Ranked::open(self.index, latent)?,
            stretches,
            rows: Vec::new(),
            shortfalls: Vec::new(),
        };
        of_latent.explain()?;
        of_latent.note("explain", self.plan.explain.n, 0);
        let scored = of_latent.rows.len();
        of_latent.deciles()?;
        of_latent.note("score", 10 * self.plan.per_decile, scored);
        let binned = of_latent.rows.len();
        of_latent.bins(scored)?;
        let bins = self.plan.bins.saturating_mul(self.plan.per_bin);
        of_latent.note("bins", bins, binned);
        of_latent.negatives(marks)?;
        let mut rows = of_latent.rows;
        // Stable: within a decile the order of drawing stays.
        rows.sort_by_key(|row| (row.split, row.decile));
        let mut activations = Vec::new();
        if let Some(stretches) = &of_latent.stretches {
            let length = self.frame.length;
            activations.resize(rows.len() * length, 0.0);
            for (row, filled) in rows.iter().zip(activations.chunks_exact_mut(length)) {
                stretches.postings.fill(row.start, filled);
            }
        }
        Ok(OfOne {
            latent,
            rows,
            shortfalls: of_latent.shortfalls,
            activations,
        })
    }
}

impl OfLatent<'_> {
    /// Notes it if the rows from `first` on are fewer than were asked for.
    pub(super) fn note(&mut self, what: &'static str, wanted: usize, first: usize) {
        self.note_found(what, wanted, self.rows.len() - first);
    }

    /// Notes it if fewer were found than asked for.
    pub(super) fn note_found(&mut self, what: &'static str, wanted: usize, found: usize) {
        if found < wanted {
            self.shortfalls.push(Shortfall {
                latent: self.latent,
                what,
                wanted,
                found,
            });
        }
    }

    /// Explain-side windows.
    fn explain(&mut self) -> Result<()> {
        let plan = &self.draw.plan.explain;
        let all = 0..self.ranked.n();
        match plan.kind {
            ExplainKind::Uniform => self.walk(all, (UNIFORM, 0), plan.n, EXPLAIN, &[]),
            ExplainKind::Top => self.pool(plan.n, plan.n),
            ExplainKind::TopOf => self.pool(plan.pool, plan.n),
            ExplainKind::Mixture => {
                self.pool(plan.pool, plan.n_top)?;
                let taken = self.taken(0);
                // What the strongest could not give is not made up for by the others.
                self.walk(all, (REST, 0), plan.n - plan.n_top, EXPLAIN, &taken)
            }
            ExplainKind::Deciles => (1..=10u8).rev().try_for_each(|decile| {
                let more = usize::from(10 - decile) < plan.n % 10;
                let wanted = plan.n / 10 + usize::from(more);
                let ranks = self.ranked.decile_ranks(decile);
                self.walk(ranks, (STRATA, u64::from(decile)), wanted, EXPLAIN, &[])
            }),
        }
    }

    /// `n` of the `pool` strongest windows of the explain side; in their order if that is all.
    fn pool(&mut self, pool: usize, n: usize) -> Result<()> {
        let (draw, stretches) = (self.draw, &self.stretches);
        let wanted = |window| draw.start(stretches.as_ref(), window, EXPLAIN).is_some();
        let strongest =
            self.ranked
                .strongest(pool.min(self.ranked.n() as usize), draw.sides, wanted)?;
        let key = key(draw.seed, self.latent, POOL, 0);
        let in_order = draw.plan.explain.kind == ExplainKind::Top;
        let shuffled = Shuffle::new(key, strongest.len() as u64).take(n);
        for (place, shuffled) in shuffled.enumerate() {
            let strong = strongest[if in_order { place } else { shuffled as usize }];
            self.push(strong.rank, strong.window, EXPLAIN);
        }
        Ok(())
    }

    /// Score-side windows of each decile.
    fn deciles(&mut self) -> Result<()> {
        let wanted = self.draw.plan.per_decile;
        (1..=10u8).try_for_each(|decile| {
            let ranks = self.ranked.decile_ranks(decile);
            self.walk(ranks, (SCORED, u64::from(decile)), wanted, SCORE, &[])
        })
    }

    /// Score-side windows of each bin, without the rows from `scored` on.
    fn bins(&mut self, scored: usize) -> Result<()> {
        let plan = self.draw.plan;
        if plan.per_bin == 0 || self.ranked.n() == 0 {
            return Ok(());
        }
        let taken = self.taken(scored);
        let max = f64::from(activation(self.ranked.code(0)));
        let bin = |code| {
            let share = f64::from(activation(code)) / max;
            ((plan.bins as f64 * share) as usize).min(plan.bins - 1)
        };
        // A bin is a range of codes, so a range of ranks.
        let mut ranges: Vec<(usize, Range<u64>)> = Vec::new();
        for level in self.ranked.levels() {
            let (bin, end) = (bin(level.code), level.first + level.count);
            match ranges.last_mut() {
                Some((last, range)) if *last == bin => range.end = end,
                _ => ranges.push((bin, level.first..end)),
            }
        }
        ranges.into_iter().try_for_each(|(bin, ranks)| {
            self.walk(ranks, (BINS, bin as u64), plan.per_bin, SCORE, &taken)
        })
    }

    /// Takes `wanted` windows of a side from some ranks, but for those in `taken` (ascending).
    fn walk(
        &mut self,
        ranks: Range<u64>,
        (purpose, stratum): (u64, u64),
        wanted: usize,
        side: u8,
        taken: &[u64],
    ) -> Result<()> {
        if wanted == 0 {
            return Ok(());
        }
        let enough = self.rows.len() + wanted;
        let key = key(self.draw.seed, self.latent, purpose, stratum);
        let mut shuffle = Shuffle::new(key, ranks.end - ranks.start);
        while self.rows.len() < enough {
            let Some(place) = shuffle.next() else { break };
            let rank = ranks.start + place;
            let window = self.ranked.window(rank)?;
            if taken.binary_search(&window).is_err() {
                self.push(rank, window, side);
            }
        }
        Ok(())
    }

    /// Adds a window in which the latent is active, if it may be drawn for the side.
    fn push(&mut self, rank: u64, window: u64, side: u8) {
        if let Some(start) = self.draw.start(self.stretches.as_ref(), window, side) {
            self.rows.push(Drawn {
                window,
                rank: Some(rank),
                start,
                decile: self.ranked.decile(rank),
                split: side,
                kind: 0,
                from: (NO_LATENT, 0),
            });
        }
    }

    /// The windows of the rows from `first` on, ascending.
    pub(super) fn taken(&self, first: usize) -> Vec<u64> {
        let mut taken: Vec<u64> = self.rows[first..].iter().map(|row| row.window).collect();
        taken.sort_unstable();
        taken
    }
}

impl Draw<'_> {
    /// Where the text of an activating window begins, if it may be drawn for a side.
    pub(super) fn start(
        &self,
        stretches: Option<&Stretches>,
        window: u64,
        side: u8,
    ) -> Option<u64> {
        if self.sides[window as usize] != side {
            return None;
        }
        let Some(stretches) = stretches else {
            return Some(self.index.window_start(window));
        };
        let start = stretches.start(window)?;
        self.frame
            .within(self.index, start, self.sides, side)
            .then_some(start)
    }

    /// Where the text of a silent window begins, if it may be drawn.
    pub(super) fn silent_start(&self, window: u64) -> Option<u64> {
        let start = self.index.window_start(window);
        if self.frame.on_grid() {
            return Some(start);
        }
        let start = self.frame.silent(start)?;
        self.frame
            .within(self.index, start, self.sides, SCORE)
            .then_some(start)
    }
}
