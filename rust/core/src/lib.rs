//! The complete activation index of a sparse coder, and what is drawn from it.
//!
//! `Writer` takes contexts with the activations of every latent and commits them segment by segment;
//! `Index` reads them back by latent and draws examples. The crate knows no Python.
//!
//! | module | the question it answers |
//! |---|---|
//! | `batch` | what may be added, and which row is refused |
//! | `writer` | how do contexts become segments, and what if the process is killed |
//! | `segment` | what is in a segment's files |
//! | `manifest` | what belongs to the index |
//! | `index` | what was stored |
//! | `windows` | where is a latent active, and how strongly, window by window |
//! | `sides` | which windows explain, which score, which are left out |
//! | `sampling` | which windows are drawn |
//! | `cooccurrence` | which latents are active together |
//! | `rules` | which predicate over tokens says when a latent is active |
//! | `random` | why the same ones everywhere |
#![deny(missing_docs)]

mod batch;
mod cooccurrence;
mod error;
mod index;
mod manifest;
mod random;
pub mod rules;
mod sampling;
mod segment;
mod sides;
#[cfg(test)]
mod testing;
mod windows;
mod writer;

pub use batch::{Activity, Batch, NO_DOCUMENT, NO_LATENT};
pub use cooccurrence::{Cooccurrence, NO_NEIGHBOUR, Unit};
pub use error::{Error, Result};
pub use index::{Contexts, Index, Postings};
pub use manifest::{Parameters, VERSION};
pub use random::document_side;
pub use sampling::{
    Examples, ExplainKind, ExplainPlan, NegativeKind, NegativePlan, Plan, Shortfall,
};
pub use segment::{Mask, Segment};
pub use sides::{NO_SIDE, RUN};
pub use windows::{BOUNDARIES, Summary, Windows};
pub use writer::{Writer, default_segment_contexts};
