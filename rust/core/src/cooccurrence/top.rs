//! The best neighbours of one latent so far.

use std::cmp::Ordering;

/// A neighbour and how well it overlaps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Neighbour {
    pub(super) jaccard: f64,
    pub(super) latent: u32,
    pub(super) both: u64,
}

impl Neighbour {
    /// Two latents with `a` and `b` rows, of which `both` are common.
    pub(super) fn new(latent: u32, a: u64, b: u64, both: u64) -> Self {
        let jaccard = both as f64 / (a + b - both) as f64;
        Self {
            jaccard,
            latent,
            both,
        }
    }

    /// The larger Jaccard first, and of equals the smaller id: nothing depends on the order of
    /// offers.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        let by_jaccard = other.jaccard.total_cmp(&self.jaccard);
        by_jaccard.then(self.latent.cmp(&other.latent))
    }
}

/// Up to `most` neighbours, the best first.
#[derive(Debug)]
pub(super) struct Top {
    most: usize,
    best: Vec<Neighbour>,
}

impl Top {
    pub(super) fn new(most: usize) -> Self {
        let best = Vec::new();
        Self { most, best }
    }

    /// As many, and none yet.
    pub(super) fn empty(&self) -> Self {
        Self::new(self.most)
    }

    pub(super) fn best(&self) -> &[Neighbour] {
        &self.best
    }

    pub(super) fn offer(&mut self, neighbour: Neighbour) {
        if self.best.len() == self.most {
            match self.best.last() {
                Some(last) if neighbour.order(last).is_lt() => self.best.pop(),
                _ => return,
            };
        }
        let place = self
            .best
            .partition_point(|other| other.order(&neighbour).is_lt());
        self.best.insert(place, neighbour);
    }

    /// A factor f: who has fewer than f (a + b) rows in common cannot enter.
    ///
    /// A Jaccard of J is J / (1 + J) of the sum of the sizes. A little less is returned, for the
    /// rounding of whoever compares in 32 bits.
    pub(super) fn bar(&self) -> f32 {
        match self.best.last() {
            Some(last) if self.best.len() == self.most => {
                (last.jaccard / (1.0 + last.jaccard) * (1.0 - 1e-6)) as f32
            }
            _ => 0.0,
        }
    }
}
