//! Which points may still be among the nearest of a point: bounded lists, pruned as they fill.
//!
//! A candidate comes with an upper bound of its cosine, twice the slack above a lower one. When a
//! list is full, the `k`-th lower bound is one of the `k`-th cosine, and whoever cannot reach it
//! goes. Where too many stay, the likely nearest are computed in float32, which raises that bound.
//! So no neighbour is ever lost, and few cosines are computed.

use super::points::Points;

/// Set in a candidate's id once its bound is of its cosine in float32.
const KNOWN: u32 = 1 << 31;
/// How many rows ahead memory is asked for: they lie anywhere.
const AHEAD: usize = 2;

/// A point that may be near.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    /// An upper bound of the cosine.
    value: f32,
}

impl Candidate {
    fn is_known(self) -> bool {
        self.id & KNOWN != 0
    }

    fn point(self) -> usize {
        (self.id & !KNOWN) as usize
    }
}

/// Of which candidates the cosines are computed.
#[derive(Clone, Copy, PartialEq)]
enum Which {
    None,
    /// Those that are the nearest `k` if each bound lies above its cosine by its slack.
    Likely,
    All,
}

/// Two sets of points, between which cosines are asked for.
#[derive(Clone, Copy)]
pub(super) struct Between<'a> {
    pub(super) from: &'a Points<'a>,
    pub(super) to: &'a Points<'a>,
}

/// By point of either set, how far bounds of its cosines may lie above them: a pair's bound by as
/// much as both points' slack, and by as much below.
#[derive(Clone, Copy)]
pub(super) struct Slack<'a> {
    pub(super) from: &'a [f32],
    pub(super) to: &'a [f32],
}

/// The candidates of a block of points.
pub(super) struct Block<'a> {
    /// The number of its first point.
    first: usize,
    k: usize,
    room: usize,
    lists: Vec<Candidate>,
    counts: Vec<u32>,
    /// For each point a lower bound of the cosine of its `k`-th neighbour.
    least: Vec<f32>,
    rounding: f32,
    slack: Slack<'a>,
    scratch: Vec<f32>,
    /// Places of candidates to be computed.
    wanted: Vec<usize>,
}

/// How many candidates a list holds.
pub(super) fn room(k: usize) -> usize {
    (3 * k + 32).max(128)
}

impl<'a> Block<'a> {
    pub(super) fn new(first: usize, n: usize, k: usize, rounding: f32, slack: Slack<'a>) -> Self {
        let room = room(k);
        Self {
            first,
            k,
            room,
            lists: vec![Candidate { id: 0, value: 0.0 }; n * room],
            counts: vec![0; n],
            least: vec![f32::NEG_INFINITY; n],
            rounding,
            slack,
            scratch: Vec::new(),
            wanted: Vec::new(),
        }
    }

    /// Lower bounds of the `k`-th cosines, by point.
    pub(super) fn least(&self) -> &[f32] {
        &self.least
    }

    /// Adds a candidate of the `at`-th point of the block with an upper bound of its cosine.
    #[inline]
    pub(super) fn push(&mut self, between: Between<'_>, at: usize, id: u32, bound: f32) {
        if bound < self.least[at] {
            return;
        }
        if self.counts[at] as usize == self.room {
            self.prune(between, at);
            if bound < self.least[at] {
                return;
            }
        }
        self.lists[at * self.room + self.counts[at] as usize] = Candidate { id, value: bound };
        self.counts[at] += 1;
    }

    /// Leaves the candidates that may be among the nearest `k`, in at most three quarters of the room.
    #[cold]
    fn prune(&mut self, between: Between<'_>, at: usize) {
        self.compute(between, at, Which::None);
        if 2 * self.counts[at] as usize > self.room {
            self.compute(between, at, Which::Likely);
        }
        if self.is_crowded(at) {
            self.compute(between, at, Which::All);
        }
        if self.is_crowded(at) {
            self.keep_exact(between, at);
        }
    }

    fn is_crowded(&self, at: usize) -> bool {
        4 * self.counts[at] as usize > 3 * self.room
    }

    /// Computes some candidates, and drops all those that cannot be among the nearest.
    fn compute(&mut self, between: Between<'_>, at: usize, which: Which) {
        let count = self.counts[at] as usize;
        if count < self.k {
            return;
        }
        let point = self.first + at;
        let list = &mut self.lists[at * self.room..][..count];
        let own = self.slack.from[point];
        let slack = |c: &Candidate| {
            if c.is_known() {
                self.rounding
            } else {
                own + self.slack.to[c.point()]
            }
        };
        if which != Which::None {
            let likely = |c: &Candidate| c.value - slack(c);
            let kth = match which {
                Which::Likely => kth(&mut self.scratch, list.iter().map(likely), self.k),
                _ => f32::NEG_INFINITY,
            };
            self.wanted.clear();
            let wanted = |(place, c): (usize, &Candidate)| {
                (!c.is_known() && likely(c) >= kth).then_some(place)
            };
            self.wanted
                .extend(list.iter().enumerate().filter_map(wanted));
            for (nth, &place) in self.wanted.iter().enumerate() {
                if let Some(&ahead) = self.wanted.get(nth + AHEAD) {
                    between.to.prefetch(list[ahead].point());
                }
                let candidate = &mut list[place];
                candidate.value = between.from.cosine(point, between.to, candidate.point());
                candidate.value += self.rounding;
                candidate.id |= KNOWN;
            }
        }
        let lower = list.iter().map(|c| c.value - 2.0 * slack(c));
        self.least[at] = self.least[at].max(kth(&mut self.scratch, lower, self.k));
        let least = self.least[at];
        let mut kept = 0;
        for place in 0..count {
            // Without a branch: every other guess would be wrong.
            list[kept] = list[place];
            kept += usize::from(list[place].value >= least);
        }
        self.counts[at] = kept as u32;
    }

    /// Of candidates that float32 cannot tell apart, keeps the nearest `k`.
    fn keep_exact(&mut self, between: Between<'_>, at: usize) {
        let nearest = self.exact(between, at);
        let list = &mut self.lists[at * self.room..];
        for (slot, (id, cosine)) in list.iter_mut().zip(&nearest) {
            *slot = Candidate {
                id: id | KNOWN,
                value: *cosine as f32 + self.rounding,
            };
        }
        self.counts[at] = nearest.len() as u32;
    }

    /// The nearest `k` of the `at`-th point: ids and cosines in float64, the nearest first.
    pub(super) fn nearest(&mut self, between: Between<'_>, at: usize) -> Vec<(u32, f64)> {
        self.compute(between, at, Which::Likely);
        self.compute(between, at, Which::All);
        self.exact(between, at)
    }

    /// The nearest `k` among the candidates, by their cosines in float64.
    fn exact(&self, between: Between<'_>, at: usize) -> Vec<(u32, f64)> {
        let list = &self.lists[at * self.room..][..self.counts[at] as usize];
        let mut nearest: Vec<(u32, f64)> = list
            .iter()
            .map(|c| {
                let cosine = between
                    .from
                    .exact_cosine(self.first + at, between.to, c.point());
                (c.point() as u32, cosine)
            })
            .collect();
        nearest.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        nearest.truncate(self.k);
        nearest
    }
}

/// The `k`-th largest of at least `k` values.
fn kth(scratch: &mut Vec<f32>, values: impl Iterator<Item = f32>, k: usize) -> f32 {
    scratch.clear();
    scratch.extend(values);
    let (_, kth, _) = scratch.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    *kth
}
