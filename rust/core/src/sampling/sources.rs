//! What negatives are drawn from beside the index: neighbours of latents, windows near in meaning.

use crate::cooccurrence::NO_NEIGHBOUR;
use crate::error::{Error, Result};
use crate::index::Index;

/// The window number that means "no window".
pub const NO_WINDOW: u64 = u64::MAX;

/// The relation to a latent of a neighbour that is active wherever the latent is.
pub(super) const PARENT: u8 = 2;
/// The relation to a latent of a neighbour that is active nowhere else.
pub(super) const CHILD: u8 = 3;

/// Neighbours of every latent of the index, `k` for each; the nearest first.
#[derive(Clone, Copy, Debug)]
pub struct NeighbourTable<'a> {
    /// Latent ids, `L * k`; [`NO_NEIGHBOUR`] for none.
    pub ids: &'a [u32],
    /// How each is related to the latent, `L * k`: 2 parent, 3 child.
    pub relation: Option<&'a [u8]>,
    /// Neighbours of a latent.
    pub k: usize,
}

/// Windows near to some latents, `m` for each; the nearest first.
#[derive(Clone, Copy, Debug)]
pub struct NearestTable<'a> {
    /// Latents, ascending.
    pub latents: &'a [u32],
    /// Window numbers, `latents * m`; [`NO_WINDOW`] for none.
    pub windows: &'a [u64],
    /// Windows of a latent.
    pub m: usize,
}

/// What the kinds of negatives need that need more than the index.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources<'a> {
    /// For `decoder` and `decoder_unfiltered`.
    pub neighbours: Option<NeighbourTable<'a>>,
    /// For `embedding`.
    pub nearest: Option<NearestTable<'a>>,
}

impl NeighbourTable<'_> {
    /// A latent's neighbours and their relations to it.
    pub(super) fn of(&self, latent: u32) -> (&[u32], Option<&[u8]>) {
        let span = latent as usize * self.k..(latent as usize + 1) * self.k;
        (
            &self.ids[span.clone()],
            self.relation.map(|relation| &relation[span]),
        )
    }

    fn check(&self, index: &Index) -> Result<()> {
        let n = index.n_latents() as usize;
        if self.ids.len() != n * self.k {
            return Err(Error::input(format!(
                "`neighbours` has {} ids; the index's {n} latents with {} neighbours each have {}",
                self.ids.len(),
                self.k,
                n * self.k
            )));
        }
        if let Some(relation) = self.relation
            && relation.len() != self.ids.len()
        {
            return Err(Error::input(format!(
                "`neighbours.relation` has {} values for {} ids",
                relation.len(),
                self.ids.len()
            )));
        }
        let others = |&id: &u32| id != NO_NEIGHBOUR && id as usize >= n;
        if let Some(place) = self.ids.iter().position(others) {
            return Err(Error::input(format!(
                "`neighbours` names latent {} as a neighbour of latent {}; the index has {n}",
                self.ids[place],
                place / self.k
            )));
        }
        Ok(())
    }
}

impl NearestTable<'_> {
    /// The windows near to a latent.
    pub(super) fn of(&self, latent: u32) -> Result<&[u64]> {
        let Ok(row) = self.latents.binary_search(&latent) else {
            return Err(Error::input(format!(
                "`nearest` has no windows for latent {latent}; name it in `nearest_windows`"
            )));
        };
        Ok(&self.windows[row * self.m..(row + 1) * self.m])
    }

    fn check(&self, index: &Index) -> Result<()> {
        if !self.latents.is_sorted_by(|a, b| a < b) {
            return Err(Error::input("`nearest.latents` must ascend"));
        }
        if self.windows.len() != self.latents.len() * self.m {
            return Err(Error::input(format!(
                "`nearest.windows` has {} numbers; {} latents with {} windows each have {}",
                self.windows.len(),
                self.latents.len(),
                self.m,
                self.latents.len() * self.m
            )));
        }
        let n = index.n_windows() as u64;
        let others = |&window: &u64| window != NO_WINDOW && window >= n;
        if let Some(place) = self.windows.iter().position(others) {
            return Err(Error::input(format!(
                "`nearest` names window {} for latent {}; the index has {n} windows",
                self.windows[place],
                self.latents[place / self.m]
            )));
        }
        Ok(())
    }
}

impl Sources<'_> {
    /// Refuses tables that do not fit the index.
    pub(super) fn check(&self, index: &Index) -> Result<()> {
        if let Some(neighbours) = self.neighbours {
            neighbours.check(index)?;
        }
        if let Some(nearest) = self.nearest {
            nearest.check(index)?;
        }
        Ok(())
    }
}
