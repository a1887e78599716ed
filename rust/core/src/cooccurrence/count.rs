//! Counting the rows that one latent shares with each latent of a group.

use std::ops::AddAssign;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::rows::{PLACES, Rows};
use super::top::{Neighbour, Top};

/// How many postings ahead memory is asked for where a row begins, and for the row.
const AHEAD: [usize; 2] = [32, 16];
/// Counters that are compared together.
const CHUNK: usize = 16;

/// Some of the latents asked for, in the order of their sizes, and the copy of their rows.
pub(super) struct Group<'a> {
    pub(super) rows: &'a Rows,
    pub(super) ids: &'a [u32],
    pub(super) sizes: &'a [u64],
    pub(super) best: &'a [Mutex<Top>],
}

/// The latent that is counted.
pub(super) struct Counted<'a> {
    pub(super) id: u32,
    /// Its rows, ascending.
    pub(super) list: &'a [u32],
    /// It is counted against the group's latents before this place.
    pub(super) end: usize,
    /// Where its own neighbours are collected, if it was asked for.
    pub(super) best: Option<&'a Mutex<Top>>,
}

/// A thread's counters.
pub(super) struct Counter<'a> {
    group: &'a Group<'a>,
    /// For lists that no counter of 16 bits can overflow on; they are half as large.
    narrow: Vec<u16>,
    wide: Vec<u32>,
    /// The group's sizes and bars, in the form in which they are compared; bars may be old, which
    /// costs a look at a latent's best and nothing else.
    sizes: Vec<f32>,
    bars: Vec<f32>,
}

pub(super) fn lock(top: &Mutex<Top>) -> MutexGuard<'_, Top> {
    top.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Counter<'a> {
    pub(super) fn new(group: &'a Group<'a>) -> Self {
        Self {
            group,
            narrow: vec![0; PLACES],
            wide: vec![0; PLACES],
            sizes: group.sizes.iter().map(|&size| size as f32).collect(),
            bars: group.best.iter().map(|top| lock(top).bar()).collect(),
        }
    }

    /// Counts a latent and offers each pair to both its ends, as far as they were asked for.
    pub(super) fn count(&mut self, latent: &Counted<'_>) {
        let (group, sizes, bars) = (self.group, &self.sizes[..], &mut self.bars[..]);
        let pairs = Pairs::new(group, sizes, bars, latent);
        if u16::try_from(latent.list.len()).is_ok() {
            count(&mut self.narrow, pairs);
        } else {
            count(&mut self.wide, pairs);
        }
    }
}

/// A counter's number.
trait Tally: Copy + Default + AddAssign + PartialOrd + Into<u32> + From<u8> {}
impl Tally for u16 {}
impl Tally for u32 {}

fn count<C: Tally>(counters: &mut [C], mut pairs: Pairs<'_>) {
    let Some(counters) = counters.first_chunk_mut::<PLACES>() else {
        return; // they have as many
    };
    let (rows, list, end) = (pairs.group.rows, pairs.latent.list, pairs.latent.end);
    for (at, &row) in list.iter().enumerate() {
        if let Some(&ahead) = list.get(at + AHEAD[0]) {
            rows.fetch_start(ahead);
        }
        if let Some(&ahead) = list.get(at + AHEAD[1]) {
            rows.fetch_row(ahead);
        }
        for &place in rows.row(row) {
            if usize::from(place) >= end {
                break;
            }
            counters[usize::from(place)] += C::from(1);
        }
    }
    if list.len() * rows.mean() * 8 < end {
        // Few counters are touched: their rows are gone through again.
        for &row in list {
            for &place in rows.row(row) {
                let place = usize::from(place);
                if place >= end {
                    break;
                }
                let both: u32 = std::mem::take(&mut counters[place]).into();
                if both > 0 && pairs.may_enter(place, both) {
                    pairs.offer(place, both);
                }
            }
        }
    } else {
        for first in (0..end).step_by(CHUNK) {
            let after = end.min(first + CHUNK);
            let chunk = &mut counters[first..after];
            if pairs.any_may_enter(first, chunk) {
                for (place, &both) in (first..).zip(&*chunk) {
                    if pairs.may_enter(place, both.into()) {
                        pairs.offer(place, both.into());
                    }
                }
            }
            chunk.fill(C::default());
        }
    }
    pairs.finish();
}

/// The pairs of one latent with those of a group.
struct Pairs<'a> {
    group: &'a Group<'a>,
    sizes: &'a [f32],
    bars: &'a mut [f32],
    latent: &'a Counted<'a>,
    size: f32,
    /// The best found here, if it was asked for; merged at the end.
    own: Option<Top>,
    own_bar: f32,
}

impl<'a> Pairs<'a> {
    fn new(
        group: &'a Group<'a>,
        sizes: &'a [f32],
        bars: &'a mut [f32],
        latent: &'a Counted<'a>,
    ) -> Self {
        let found = latent.best.map(|best| {
            let best = lock(best);
            (best.empty(), best.bar())
        });
        let (own, own_bar) = found.map_or((None, f32::INFINITY), |(own, bar)| (Some(own), bar));
        Self {
            group,
            sizes,
            bars,
            latent,
            size: latent.list.len() as f32,
            own,
            own_bar,
        }
    }

    /// Whether a count may change the best of one of the two; false for sure if not.
    #[inline]
    fn may_enter(&self, place: usize, both: u32) -> bool {
        let bar = self.bars[place].min(self.own_bar);
        both as f32 >= (bar * (self.sizes[place] + self.size)).max(0.5)
    }

    /// [`Self::may_enter`] for the counts from a place on, without a branch.
    #[inline]
    fn any_may_enter<C: Tally>(&self, first: usize, counts: &[C]) -> bool {
        let span = first..first + counts.len();
        let limits = self.bars[span.clone()].iter().zip(&self.sizes[span]);
        let mut any = false;
        for (&both, (bar, size)) in counts.iter().zip(limits) {
            let limit = (bar.min(self.own_bar) * (size + self.size)).max(0.5);
            any |= both.into() as f32 >= limit;
        }
        any
    }

    /// Offers a pair to both ends.
    fn offer(&mut self, place: usize, both: u32) {
        let (group, both) = (self.group, u64::from(both));
        let sizes = (group.sizes[place], self.latent.list.len() as u64);
        let pair = |id| Neighbour::new(id, sizes.0, sizes.1, both);
        {
            let mut best = lock(&group.best[place]);
            best.offer(pair(self.latent.id));
            self.bars[place] = best.bar();
        }
        if let Some(own) = &mut self.own {
            own.offer(pair(group.ids[place]));
            self.own_bar = self.own_bar.max(own.bar());
        }
    }

    /// Merges the latent's own best, of which others may have added some meanwhile.
    fn finish(self) {
        if let (Some(own), Some(best)) = (self.own, self.latent.best) {
            let mut best = lock(best);
            for &neighbour in own.best() {
                best.offer(neighbour);
            }
        }
    }
}
