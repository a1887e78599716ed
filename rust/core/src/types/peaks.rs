//! The peaks of one latent's windows, and how many different things are found there.

use std::cmp::Reverse;

use crate::code;

/// What is found at the peaks of one latent.
#[derive(Default)]
pub(super) struct Counted {
    /// Peaks where something is.
    pub(super) windows: u64,
    pub(super) distinct: u64,
    /// Peaks of the commonest.
    pub(super) commonest: u64,
    pub(super) active: u64,
    pub(super) occurrences: u64,
    /// The things and their peaks, where they are few.
    pub(super) few: Vec<(u64, u64)>,
}

/// Calls `visit` with the peak of each window and its code: the first of its strongest hits, by code.
///
/// `positions` ascend; `window` gives the number of a position's window.
#[inline]
pub(super) fn for_each_peak(
    positions: &[u32],
    values: &[u16],
    window: impl Fn(u32) -> u32,
    mut visit: impl FnMut(u32, u16),
) {
    let mut hits = positions
        .iter()
        .zip(values)
        .map(|(&position, &bf16)| (position, code::code(bf16)));
    let Some(mut peak) = hits.next() else {
        return;
    };
    let mut current = window(peak.0);
    for hit in hits {
        let own = window(hit.0);
        if own != current {
            visit(peak.0, peak.1);
            (peak, current) = (hit, own);
        } else if hit.1 > peak.1 {
            peak = hit;
        }
    }
    visit(peak.0, peak.1);
}

/// Counts of tokens, in memory that is used again.
#[derive(Default)]
pub(super) struct Marks {
    /// Of each token of the vocabulary; 32 bits, so that they stay in the cache.
    counts: Vec<u32>,
    seen: Vec<u32>,
    windows: u64,
    /// The largest count.
    most: u32,
}

impl Marks {
    pub(super) fn fit(&mut self, vocabulary: usize) {
        self.counts.resize(vocabulary, 0);
    }

    #[inline]
    pub(super) fn add(&mut self, token: u32) {
        let count = &mut self.counts[token as usize];
        if *count == 0 {
            self.seen.push(token);
        }
        *count = count.saturating_add(1);
        self.most = self.most.max(*count);
        self.windows += 1;
    }

    #[inline]
    pub(super) fn has(&self, token: u32) -> bool {
        self.counts[token as usize] > 0
    }

    /// With the tokens, if they are not more than `most`.
    pub(super) fn counted(&self, most: usize) -> Counted {
        let count = |&token: &u32| (u64::from(token), u64::from(self.counts[token as usize]));
        Counted {
            windows: self.windows,
            distinct: self.seen.len() as u64,
            commonest: u64::from(self.most),
            few: if self.seen.len() <= most {
                in_order(self.seen.iter().map(count).collect())
            } else {
                Vec::new()
            },
            ..Counted::default()
        }
    }

    pub(super) fn clear(&mut self) {
        for token in self.seen.drain(..) {
            self.counts[token as usize] = 0;
        }
        (self.windows, self.most) = (0, 0);
    }
}

/// Counts of keys, as long as they are few.
#[derive(Default)]
pub(super) struct Few {
    /// By key; one more than are few, and nothing is counted any longer.
    counts: Vec<(u64, u64)>,
    most: usize,
    windows: u64,
}

impl Few {
    pub(super) fn fit(&mut self, most: usize) {
        self.most = most;
    }

    #[inline]
    pub(super) fn add(&mut self, key: u64) {
        self.windows += 1;
        if self.counts.len() > self.most {
            return;
        }
        match self.find(key) {
            Ok(at) => self.counts[at].1 += 1,
            Err(at) => self.counts.insert(at, (key, 1)),
        }
    }

    #[inline]
    pub(super) fn has(&self, key: u64) -> bool {
        self.find(key).is_ok()
    }

    fn find(&self, key: u64) -> Result<usize, usize> {
        self.counts.binary_search_by_key(&key, |count| count.0)
    }

    pub(super) fn counted(&self) -> Counted {
        let are_few = self.counts.len() <= self.most;
        let few = if are_few {
            in_order(self.counts.clone())
        } else {
            Vec::new()
        };
        Counted {
            windows: self.windows,
            distinct: self.counts.len() as u64,
            commonest: few.first().map_or(0, |few| few.1),
            few,
            ..Counted::default()
        }
    }

    pub(super) fn clear(&mut self) {
        self.counts.clear();
        self.windows = 0;
    }
}

fn in_order(mut counts: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    counts.sort_unstable_by_key(|&(key, count)| (Reverse(count), key));
    counts
}
