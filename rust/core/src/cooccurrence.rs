//! Which latents are active together: exact Jaccard neighbours.
//!
//! A latent is counted against the more frequent ones by going through the rows (tokens or windows)
//! in which it is active, and adding one for each latent there. For that the index, which is ordered
//! by latent, is copied into rows: of each row the latents asked for, the most frequent first. So
//! each pair is counted once, from the end of the rarer one, and the counters that are used most
//! stand side by side. Work: for each posting a row, and half of the row's latents.

mod count;
mod rows;
mod top;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::index::Index;
use count::{Counted, Counter, Group, lock};
use rows::{BATCH, PLACES, Rows};
use top::Top;

/// No neighbour, where a latent has fewer than asked for.
pub const NO_NEIGHBOUR: u32 = u32::MAX;

/// In what two latents are active together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A token.
    Token,
    /// A window of the index's grid.
    Window,
}

/// The neighbours of some latents, `top` for each, flat; the best first.
///
/// A neighbour shares at least one token (or window) with the latent. Where there are fewer, the
/// neighbour is [`NO_NEIGHBOUR`] and all its numbers 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cooccurrence {
    /// Latent ids. Of equal Jaccards, as 64-bit numbers, the smaller id comes first.
    pub neighbours: Vec<u32>,
    /// Common tokens over the tokens of either.
    pub jaccard: Vec<f64>,
    /// Common tokens.
    pub both: Vec<u64>,
    /// Common tokens over the latent's: P(neighbour | latent).
    pub given: Vec<f64>,
    /// Common tokens over the neighbour's: P(latent | neighbour).
    pub given_back: Vec<f64>,
}

/// Lists of the rows in which latents are active; a row is whatever is counted.
pub(crate) trait Source: Sync {
    /// Number of rows.
    fn n_rows(&self) -> usize;
    /// The length of each latent's list.
    fn counts(&self) -> Result<Vec<u64>>;
    /// Appends a latent's rows, ascending.
    fn rows(&self, latent: u32, out: &mut Vec<u32>) -> Result<()>;
}

impl Index {
    /// The `top` Jaccard neighbours of each of `latents` among all latents; exact.
    ///
    /// `memory` bounds, in bytes, what is held beside the result. With 6 bytes for each posting of
    /// `latents` the index is decoded once; with less three times or more. 4 bytes for each token
    /// (or window) and 2 for each posting of the most frequent latent are the least.
    pub fn cooccurrence(
        &self,
        latents: &[u32],
        top: usize,
        unit: Unit,
        memory: u64,
    ) -> Result<Cooccurrence> {
        for &latent in latents {
            self.check_latent(latent)?;
        }
        let row_tokens = match unit {
            Unit::Token => 1,
            Unit::Window => self.window() as u64,
        };
        let source = Grid {
            index: self,
            row_tokens,
        };
        neighbours(&source, latents, top, memory)
    }
}

/// An index in rows of `row_tokens` tokens.
struct Grid<'a> {
    index: &'a Index,
    row_tokens: u64,
}

impl Source for Grid<'_> {
    fn n_rows(&self) -> usize {
        let tokens = self.index.end_position() - self.index.first_position();
        (tokens / self.row_tokens) as usize
    }

    fn counts(&self) -> Result<Vec<u64>> {
        if self.row_tokens == 1 {
            return self.index.counts();
        }
        self.index.window_counts()
    }

    fn rows(&self, latent: u32, out: &mut Vec<u32>) -> Result<()> {
        let base = self.index.first_position();
        let positions = self.index.postings(latent)?.positions;
        let rows = positions
            .iter()
            .map(|position| ((position - base) / self.row_tokens) as u32);
        out.extend(rows);
        if self.row_tokens > 1 {
            out.dedup();
        }
        Ok(())
    }
}

/// Lists, some of which may be held in memory.
pub(crate) struct Lists<'a> {
    source: &'a dyn Source,
    counts: Vec<u64>,
    /// By latent; empty if nothing is held.
    held: Vec<Vec<u32>>,
}

impl Lists<'_> {
    fn count(&self, latent: u32) -> u64 {
        self.counts[latent as usize]
    }

    /// A latent's list, decoded into `buffer` if it is not held.
    fn get<'b>(&'b self, latent: u32, buffer: &'b mut Vec<u32>) -> Result<&'b [u32]> {
        match self.held.get(latent as usize) {
            Some(list) if !list.is_empty() => Ok(list),
            _ => {
                buffer.clear();
                self.source.rows(latent, buffer)?;
                Ok(buffer)
            }
        }
    }

    fn decode(&self, latent: u32) -> Result<Vec<u32>> {
        let mut list = Vec::with_capacity(self.count(latent) as usize);
        self.source.rows(latent, &mut list)?;
        Ok(list)
    }

    /// Holds the lists of some latents.
    fn hold(&mut self, latents: &[u32]) -> Result<()> {
        let lists: Vec<Vec<u32>> = latents
            .par_iter()
            .map(|&latent| self.decode(latent))
            .collect::<Result<_>>()?;
        self.held.resize(self.counts.len(), Vec::new());
        for (&latent, list) in latents.iter().zip(lists) {
            self.held[latent as usize] = list;
        }
        Ok(())
    }

    /// Hands over the lists of `latents`, about [`BATCH`] postings at a time, each batch with the
    /// place of its first latent.
    fn for_each_batch(
        &self,
        latents: &[u32],
        mut take: impl FnMut(usize, &[&[u32]]),
    ) -> Result<()> {
        let mut first = 0;
        while first < latents.len() {
            let (mut end, mut postings) = (first, 0);
            while end < latents.len() && (end == first || postings < BATCH) {
                postings += self.count(latents[end]);
                end += 1;
            }
            let batch = &latents[first..end];
            if self.held.is_empty() {
                let lists: Vec<Vec<u32>> = batch
                    .par_iter()
                    .map(|&latent| self.decode(latent))
                    .collect::<Result<_>>()?;
                take(
                    first,
                    &lists.iter().map(|list| &list[..]).collect::<Vec<_>>(),
                );
            } else {
                let lists: Vec<&[u32]> = batch
                    .iter()
                    .map(|&latent| &self.held[latent as usize][..])
                    .collect();
                take(first, &lists);
            }
            first = end;
        }
        Ok(())
    }
}

/// [`Index::cooccurrence`] of anything.
pub(crate) fn neighbours(
    source: &dyn Source,
    latents: &[u32],
    top: usize,
    memory: u64,
) -> Result<Cooccurrence> {
    let counts = source.counts()?;
    let mut lists = Lists {
        source,
        counts,
        held: Vec::new(),
    };
    // The most frequent first; who has no rows has no neighbours.
    let sorted = |mut ids: Vec<u32>| {
        ids.retain(|&id| lists.count(id) > 0);
        ids.sort_unstable_by_key(|&id| (std::cmp::Reverse(lists.count(id)), id));
        ids.dedup();
        ids
    };
    let asked = sorted(latents.to_vec());
    let all = sorted((0..lists.counts.len() as u32).collect());
    let mut place_of = vec![None; lists.counts.len()];
    for (place, &id) in asked.iter().enumerate() {
        place_of[id as usize] = Some(place);
    }
    let best: Vec<Mutex<Top>> = asked.iter().map(|_| Mutex::new(Top::new(top))).collect();
    if top > 0 {
        let sizes: Vec<u64> = asked.iter().map(|&id| lists.count(id)).collect();
        let plan = plan(&sizes, source.n_rows(), top, memory)?;
        if plan.hold {
            lists.hold(&asked)?;
        }
        for group in plan.groups {
            let entries = sizes[group.clone()].iter().sum::<u64>() as usize;
            let rows = Rows::build(&lists, &asked[group.clone()], source.n_rows(), entries)?;
            let members = Group {
                rows: &rows,
                ids: &asked[group.clone()],
                sizes: &sizes[group.clone()],
                best: &best[group.clone()],
            };
            count_all(&lists, &all, &place_of, &best, &members, &group)?;
        }
    }
    Ok(result(latents, top, &lists, &place_of, &best))
}

/// Counts every latent against those of a group that come before it.
fn count_all(
    lists: &Lists<'_>,
    all: &[u32],
    place_of: &[Option<usize>],
    best: &[Mutex<Top>],
    members: &Group<'_>,
    group: &Range<usize>,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = |_| {
        let (mut counter, mut buffer) = (Counter::new(members), Vec::new());
        while let Some(&id) = all.get(next.fetch_add(1, Relaxed)) {
            let place = place_of[id as usize];
            // A pair of two that were asked for is counted once: from the later place.
            let end = place.unwrap_or(group.end).min(group.end);
            if end > group.start {
                counter.count(&Counted {
                    id,
                    list: lists.get(id, &mut buffer)?,
                    end: end - group.start,
                    best: place.map(|place| &best[place]),
                });
            }
        }
        Ok(())
    };
    let threads = (0..rayon::current_num_threads()).into_par_iter();
    threads.with_max_len(1).map(work).collect()
}

/// How the work is divided to stay in memory.
#[derive(Debug, PartialEq)]
struct Plan {
    /// Whether the lists asked for are held; else they are decoded as often as they are needed.
    hold: bool,
    /// Places of latents whose rows are copied together.
    groups: Vec<Range<usize>>,
}

fn plan(sizes: &[u64], n_rows: usize, top: usize, memory: u64) -> Result<Plan> {
    if n_rows >= u32::MAX as usize {
        return Err(Error::input(format!(
            "co-occurrence counts fewer than {} tokens or windows at once, and this index has \
             {n_rows}",
            u32::MAX
        )));
    }
    let total: u64 = sizes.iter().sum();
    let largest = sizes.first().copied().unwrap_or(0);
    let threads = rayon::current_num_threads() as u64;
    let per_thread = 4 * largest + 6 * PLACES as u64 + 8 * (PLACES.min(sizes.len()) as u64);
    let neighbours = (sizes.len() * top * size_of::<top::Neighbour>()) as u64;
    let fixed = 4 * n_rows as u64 + threads * per_thread + neighbours;
    let hold = fixed + 6 * total <= memory;
    let fixed = fixed
        + 4 * if hold {
            total
        } else {
            total.min(BATCH + largest)
        };
    if fixed + 2 * largest > memory {
        return Err(Error::input(format!(
            "co-occurrence over {n_rows} tokens or windows needs at least {} bytes of memory; \
             `memory` is {memory}",
            fixed + 2 * largest
        )));
    }
    let room = ((memory - fixed) / 2).min(u64::from(u32::MAX));
    let mut groups = Vec::new();
    let (mut start, mut entries) = (0, 0);
    for (place, &size) in sizes.iter().enumerate() {
        if entries + size > room || place - start == PLACES {
            groups.push(start..place);
            (start, entries) = (place, 0);
        }
        entries += size;
    }
    if start < sizes.len() {
        groups.push(start..sizes.len());
    }
    Ok(Plan { hold, groups })
}

/// The neighbours found, in the order in which they were asked for.
fn result(
    latents: &[u32],
    top: usize,
    lists: &Lists<'_>,
    place_of: &[Option<usize>],
    best: &[Mutex<Top>],
) -> Cooccurrence {
    let n = latents.len() * top;
    let mut result = Cooccurrence {
        neighbours: vec![NO_NEIGHBOUR; n],
        jaccard: vec![0.0; n],
        both: vec![0; n],
        given: vec![0.0; n],
        given_back: vec![0.0; n],
    };
    for (row, &latent) in latents.iter().enumerate() {
        let Some(place) = place_of[latent as usize] else {
            continue;
        };
        for (at, neighbour) in (row * top..).zip(lock(&best[place]).best()) {
            let share = |id| neighbour.both as f64 / lists.count(id) as f64;
            result.neighbours[at] = neighbour.latent;
            result.jaccard[at] = neighbour.jaccard;
            result.both[at] = neighbour.both;
            result.given[at] = share(latent);
            result.given_back[at] = share(neighbour.latent);
        }
    }
    result
}

#[cfg(test)]
mod tests;
