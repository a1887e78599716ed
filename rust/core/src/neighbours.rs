//! The nearest rows of every row of a matrix, by cosine; exact.
//!
//! Directions are compared block by block: a cheap product gives an upper bound of each cosine (see
//! `wide` and `plain`), and whoever may still be among the nearest `k` of either of the two points
//! becomes a candidate (see `candidates`), whose cosine is computed in float32 and, where the `k`-th
//! place is closer than its rounding, in float64. Within one matrix each pair is multiplied once.
//! Memory grows with the rows, never with their square.

mod candidates;
mod plain;
mod points;
#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod wide;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use rayon::prelude::*;

use crate::cooccurrence::NO_NEIGHBOUR;
use crate::error::{Error, Result};
use candidates::{Between, Block, Slack};
use points::Points;

/// Points whose candidates are kept together.
const BLOCK: usize = 384;
/// Points that a block is multiplied by at once.
const PANEL: usize = 32;
/// Blocks that a packed block is multiplied by before another is packed.
const STRIP: usize = 8;
/// With so many candidates found they are handed on before more are looked for.
const MANY: usize = 4 * BLOCK;
/// How often the caller hears of the progress.
const PAUSE: Duration = Duration::from_millis(100);

/// The nearest rows of some rows, `k` for each, flat; the nearest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Nearest {
    /// Row numbers; [`NO_NEIGHBOUR`] where there are fewer than `k`.
    pub ids: Vec<u32>,
    /// Their cosines, rounded from float64; NaN where there is no neighbour.
    pub cosines: Vec<f32>,
}

/// With which instructions the pairs are compared; the results are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The fastest that the processor has.
    Fastest,
    /// Float32, as on any processor.
    Portable,
}

/// A pair of points that may be near: places in a block and in a panel.
struct Found {
    from: u16,
    to: u16,
    bound: f32,
}

/// Upper bounds of the cosines between two sets of points.
trait Estimate: Sync {
    /// A block of the first set, laid out for the product.
    type Packed: Default;

    /// How far bounds may lie above their cosines.
    fn slack(&self) -> Slack<'_>;

    /// Lays out a block.
    fn pack(&self, block: usize, packed: &mut Self::Packed);

    /// Appends the pairs of a block and a panel whose bound reaches the lesser of `least`: of the
    /// block's points, of the panel's.
    fn panel(
        &self,
        packed: &Self::Packed,
        block: usize,
        panel: usize,
        least: (&[f32], &[f32]),
        found: &mut Vec<Found>,
    );
}

/// The `k` nearest rows by cosine, of each row of `rows`: among the other rows, or among `others`.
///
/// Exact: the set that cosines in float64 give, of which those within 1e-12 count as equal; of rows
/// that are the same number by number the first is nearer. A row of zeros has no neighbours and is
/// none. `progress` is told how many pairs are done of how many, ten times a second, and says
/// whether to go on; if not, there is no result.
pub fn neighbours(
    rows: &[f32],
    others: Option<&[f32]>,
    width: usize,
    k: usize,
    compare: Compare,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Option<Nearest>> {
    let count = |values: &[f32]| values.len() / width.max(1);
    let (n, there) = (count(rows), others.map_or(count(rows), count));
    let most = if others.is_some() {
        there
    } else {
        there.saturating_sub(1)
    };
    if width == 0 || n == 0 || there == 0 {
        return Err(Error::input(
            "`decoder` has no rows or no columns".to_owned(),
        ));
    }
    if k == 0 || k > most {
        return Err(Error::input(format!(
            "`k` is {k}; each row has at most {most} neighbours, so it must be from 1 to {most}"
        )));
    }
    let from = Points::of("decoder", rows, width)?;
    let to = others
        .map(|others| Points::of("other", others, width))
        .transpose()?;
    let between = Between {
        from: &from,
        to: to.as_ref().unwrap_or(&from),
    };
    if from.n() == 0 || between.to.n() == 0 {
        return Ok(Some(no_neighbours(n, k)));
    }
    let search = Search {
        between,
        same: to.is_none(),
        k,
    };
    #[cfg(target_arch = "x86_64")]
    if compare == Compare::Fastest && width <= wide::WIDEST && wide::is_supported() {
        let estimate = wide::Wide::new(&from, to.as_ref());
        return Ok(search
            .run(&estimate, progress)
            .map(|lists| search.expand(n, lists)));
    }
    let _ = compare;
    let estimate = plain::Plain::new(&from, to.as_ref());
    Ok(search
        .run(&estimate, progress)
        .map(|lists| search.expand(n, lists)))
}

fn no_neighbours(n: usize, k: usize) -> Nearest {
    Nearest {
        ids: vec![NO_NEIGHBOUR; n * k],
        cosines: vec![f32::NAN; n * k],
    }
}

/// What is looked for.
struct Search<'a> {
    between: Between<'a>,
    /// Whether both sets are one.
    same: bool,
    k: usize,
}

/// The nearest points of a point, with their cosines.
type List = Vec<(u32, f64)>;

impl Search<'_> {
    /// The nearest points of every point; none if `progress` said to stop.
    fn run<E: Estimate>(
        &self,
        estimate: &E,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Option<Vec<List>> {
        let from = self.between.from;
        let (rounding, slack) = (from.rounding(), estimate.slack());
        let blocks: Vec<Mutex<Block<'_>>> = (0..from.n())
            .step_by(BLOCK)
            .map(|first| {
                let n = BLOCK.min(from.n() - first);
                Mutex::new(Block::new(first, n, self.k, rounding, slack))
            })
            .collect();
        let strips = self.strips();
        let total = strips.iter().map(|(_, strip)| strip.len() as u64).sum();
        let (next, done, stop) = (
            AtomicUsize::new(0),
            AtomicU64::new(0),
            AtomicBool::new(false),
        );
        let n_workers = rayon::current_num_threads();
        let (running, caller) = (AtomicUsize::new(n_workers), std::thread::current());
        let work = || {
            let _working = Working {
                running: &running,
                caller: &caller,
            };
            let mut hands = Hands::default();
            while !stop.load(Relaxed)
                && let Some(job) = strips.get(next.fetch_add(1, Relaxed))
            {
                self.strip(estimate, &blocks, job, &mut hands, &done, &stop);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..n_workers {
                scope.spawn(work);
            }
            while running.load(Relaxed) > 0 {
                std::thread::park_timeout(PAUSE);
                if !progress(done.load(Relaxed), total) {
                    stop.store(true, Relaxed);
                }
            }
        });
        if stop.load(Relaxed) {
            return None;
        }
        let lists: Vec<Vec<List>> = blocks
            .into_par_iter()
            .map(|block| {
                let mut block = block.into_inner().unwrap_or_else(PoisonError::into_inner);
                let n = block.least().len();
                (0..n).map(|at| block.nearest(self.between, at)).collect()
            })
            .collect();
        Some(lists.into_iter().flatten().collect())
    }

    /// What is multiplied together: a block of the first set and some blocks of the second.
    ///
    /// Within one set, first each block with itself: then every point has some candidates, and the
    /// bounds are sharp from the beginning.
    fn strips(&self) -> Vec<(usize, Range<usize>)> {
        let n_from = self.between.from.n().div_ceil(BLOCK);
        let n_to = self.between.to.n().div_ceil(BLOCK);
        if !self.same {
            return (0..n_to)
                .step_by(STRIP)
                .flat_map(|first| {
                    (0..n_from).map(move |block| (block, first..(first + STRIP).min(n_to)))
                })
                .collect();
        }
        let mut strips: Vec<_> = (0..n_from).map(|block| (block, block..block + 1)).collect();
        for distance in (1..n_to).step_by(STRIP) {
            for block in 0..n_to - distance {
                let first = block + distance;
                strips.push((block, first..(first + STRIP).min(n_to)));
            }
        }
        strips
    }

    /// Multiplies a block by some blocks.
    fn strip<E: Estimate>(
        &self,
        estimate: &E,
        blocks: &[Mutex<Block<'_>>],
        (block, strip): &(usize, Range<usize>),
        hands: &mut Hands<E::Packed>,
        done: &AtomicU64,
        stop: &AtomicBool,
    ) {
        let block = *block;
        estimate.pack(block, &mut hands.packed);
        for other in strip.clone() {
            if stop.load(Relaxed) {
                return;
            }
            let twice = self.same && other != block;
            hands.look(blocks, block, twice.then_some(other));
            for place in 0..BLOCK / PANEL {
                let least_to = &hands.least_to[place * PANEL..][..PANEL];
                let panel = other * (BLOCK / PANEL) + place;
                let least = (&hands.least_from[..], least_to);
                let before = hands.found.len();
                estimate.panel(&hands.packed, block, panel, least, &mut hands.found);
                for found in &mut hands.found[before..] {
                    found.to += (place * PANEL) as u16;
                }
                if hands.found.len() > MANY {
                    self.hand_on(blocks, block, other, &mut hands.found);
                    hands.look(blocks, block, twice.then_some(other));
                }
            }
            self.hand_on(blocks, block, other, &mut hands.found);
            done.fetch_add(1, Relaxed);
        }
    }

    /// Makes candidates of the pairs found between two blocks.
    fn hand_on(
        &self,
        blocks: &[Mutex<Block<'_>>],
        block: usize,
        other: usize,
        found: &mut Vec<Found>,
    ) {
        let mut of_block = lock(&blocks[block]);
        for pair in found.iter() {
            let (at, to) = (usize::from(pair.from), other * BLOCK + usize::from(pair.to));
            if !(self.same && to == block * BLOCK + at) {
                of_block.push(self.between, at, to as u32, pair.bound);
            }
        }
        drop(of_block);
        if self.same && other != block {
            let mut of_other = lock(&blocks[other]);
            for pair in found.iter() {
                let from = block * BLOCK + usize::from(pair.from);
                of_other.push(self.between, usize::from(pair.to), from as u32, pair.bound);
            }
        }
        found.clear();
    }

    /// The nearest rows of every row, from the nearest points of every point.
    fn expand(&self, n: usize, lists: Vec<List>) -> Nearest {
        let mut nearest = no_neighbours(n, self.k);
        let (from, to) = (self.between.from, self.between.to);
        let none = Vec::new();
        let all = |points: &Points<'_>, row: u32| {
            let others = points.repeated.get(&row).unwrap_or(&none).clone();
            std::iter::once(row).chain(others)
        };
        for (point, list) in lists.into_iter().enumerate() {
            let rows: Vec<(u32, f32)> = list
                .iter()
                .flat_map(|&(other, cosine)| {
                    all(to, to.row(other as usize)).map(move |row| (row, cosine as f32))
                })
                .take(self.k)
                .collect();
            for row in all(from, from.row(point)) {
                let twins = all(from, from.row(point))
                    .filter(|&twin| self.same && twin != row)
                    .map(|twin| (twin, 1.0));
                let slots = row as usize * self.k..(row as usize + 1) * self.k;
                for (slot, (id, cosine)) in slots.zip(twins.chain(rows.iter().copied())) {
                    (nearest.ids[slot], nearest.cosines[slot]) = (id, cosine);
                }
            }
        }
        nearest
    }
}

/// That a thread works: it wakes the caller as it ends, be it by a panic.
struct Working<'a> {
    running: &'a AtomicUsize,
    caller: &'a Thread,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Relaxed);
        self.caller.unpark();
    }
}

/// What one thread works with.
struct Hands<P> {
    packed: P,
    found: Vec<Found>,
    /// Bounds of the block's points and of the other block's; infinite where there is no point.
    least_from: [f32; BLOCK],
    least_to: [f32; BLOCK],
}

impl<P: Default> Default for Hands<P> {
    fn default() -> Self {
        Self {
            packed: P::default(),
            found: Vec::new(),
            least_from: [f32::INFINITY; BLOCK],
            least_to: [f32::INFINITY; BLOCK],
        }
    }
}

impl<P> Hands<P> {
    /// Looks up the bounds that two blocks have reached; of no other block, if it gets nothing.
    fn look(&mut self, blocks: &[Mutex<Block<'_>>], block: usize, other: Option<usize>) {
        let copy = |least: &mut [f32; BLOCK], of: Option<usize>| {
            least.fill(f32::INFINITY);
            if let Some(of) = of {
                let of = lock(&blocks[of]);
                least[..of.least().len()].copy_from_slice(of.least());
            }
        };
        copy(&mut self.least_from, Some(block));
        copy(&mut self.least_to, other);
    }
}

/// A thread that panicked left whole candidates behind; the panic itself is passed on at the join.
fn lock<'a, 'b>(block: &'a Mutex<Block<'b>>) -> MutexGuard<'a, Block<'b>> {
    block.lock().unwrap_or_else(PoisonError::into_inner)
}
