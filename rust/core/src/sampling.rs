//! Drawing examples: what an explainer reads, and what an explanation is scored on.
//!
//! What may be drawn is a range of ranks: the whole latent, a decile, a bin. A draw walks a shuffle
//! of that range (see `random`) whose key is made of seed, latent, purpose and range, and takes each
//! window that is of the wanted side, until it has enough. So it is the same on any machine, for any
//! division of the index into segments and any set of latents asked for together; a smaller draw is
//! the beginning of a larger one; and it costs as much as it looks at, not as the latent is long.

mod draw;
mod examples;
mod negatives;
mod peaks;
mod plan;
mod sources;
mod strata;
mod stretch;
#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests;
mod walk;
mod words;

use rayon::prelude::*;

pub use examples::Examples;
pub(crate) use peaks::{peaks, token_at};
pub use plan::{ExplainKind, ExplainPlan, NegativeKind, NegativePlan, Plan, Shortfall};
pub use sources::{NO_WINDOW, NearestTable, NeighbourTable, Sources};
pub use strata::SilentStrata;
pub(crate) use words::Words;

use crate::error::Result;
use crate::index::Index;
use draw::{Draw, OfOne};
use negatives::Marks;
use stretch::Frame;

impl Index {
    /// Draws the examples of some latents; a latent asked for twice is drawn once.
    ///
    /// `sources` holds what a kind of negatives needs beside the index.
    pub fn sample(
        &self,
        latents: &[u32],
        plan: &Plan,
        seed: u64,
        sources: &Sources<'_>,
    ) -> Result<Examples> {
        plan.check(self, sources)?;
        let mut latents = latents.to_vec();
        latents.sort_unstable();
        latents.dedup();
        if let Some(&last) = latents.last() {
            self.check_latent(last)?;
        }
        let frame = Frame::of(plan, self);
        let sides = if plan.scores() || !frame.on_grid() {
            self.drawable()?
        } else {
            self.sides()?
        };
        let draw = Draw {
            index: self,
            plan,
            seed,
            sides,
            frame,
            sources,
        };
        // One latent is not worth waking the other threads.
        let drawn: Vec<Result<_>> = match latents.as_slice() {
            &[latent] => vec![draw.latent(latent, &mut Marks::default())],
            latents => latents
                .par_iter()
                .map_init(Marks::default, |marks, &latent| draw.latent(latent, marks))
                .collect(),
        };
        let drawn: Vec<OfOne> = drawn.into_iter().collect::<Result<_>>()?;
        let mut examples = Examples::read(self, frame, &drawn)?;
        examples.shortfalls = drawn.into_iter().flat_map(|one| one.shortfalls).collect();
        self.intact()?;
        Ok(examples)
    }
}
