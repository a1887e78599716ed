//! The complete activation index of a sparse coder, and what is drawn from it.
//!
//! `Writer` takes contexts with the activations of every latent and commits them segment by segment;
//! `Index` reads them back by latent and draws examples. The crate knows no Python.
//!
//! | module | the question it answers |
//! |---|---|
//! | `code` | what is kept of an activation |
//! | `bits`, `list` | how do one latent's postings become bytes, and how is one window of them read |
//! | `mapped`, `files` | is a file what was written, and still there |
//! | `manifest` | what belongs to the index |
//! | `segment`, `text` | what is in a segment's files |
//! | `batch`, `check` | what may be added, and which row is refused |
//! | `runs`, `spill`, `build` | how do batches become lists in bounded memory |
//! | `writer` | how do contexts become segments, and what if the process is killed |
//! | `folder` | whose folder is it, and what was left in it |
//! | `join`, `compact` | how do parts become one index, and partial segments whole ones |
//! | `index` | what was stored |
//! | `ranked` | which window has a rank, and which rank a decile |
//! | `windows` | where is a latent active, and how strongly, window by window |
//! | `top` | which windows are the strongest, exactly |
//! | `summary` | how many windows and documents each latent has |
//! | `sides` | which windows explain, which score, which are left out |
//! | `sampling` | which windows are drawn |
//! | `cooccurrence` | which latents are active together |
//! | `neighbours` | which rows of a decoder point the same way |
//! | `select` | which latents are active, of products that are only nearly right |
//! | `statistics` | how often and how strongly is each latent active |
//! | `coactivation` | how often are the latents of given pairs |
//! | `rules` | which predicate over tokens says when a latent is active |
//! | `random` | why the same ones everywhere |
#![deny(missing_docs)]

mod batch;
mod bits;
mod build;
mod check;
mod coactivation;
pub mod code;
mod compact;
mod cooccurrence;
mod error;
mod files;
mod folder;
mod index;
mod join;
pub mod list;
mod manifest;
mod mapped;
mod neighbours;
mod random;
mod ranked;
pub mod rules;
mod runs;
mod sampling;
mod segment;
mod select;
mod sides;
mod spill;
mod statistics;
mod summary;
#[cfg(test)]
mod testing;
mod text;
mod top;
mod windows;
mod writer;

pub use batch::{Activity, Batch, NO_DOCUMENT, NO_LATENT, Values};
pub use coactivation::Coactivation;
pub use compact::compact;
pub use cooccurrence::{Cooccurrence, NO_NEIGHBOUR, Unit};
pub use error::{Error, Result};
pub use index::{Contexts, Index, Postings};
pub use join::join;
pub use manifest::{Parameters, VERSION};
pub use neighbours::{Compare, Nearest, neighbours};
pub use random::document_side;
pub use sampling::{
    Examples, ExplainKind, ExplainPlan, NO_WINDOW, NearestTable, NegativeKind, NegativePlan,
    NeighbourTable, Plan, Shortfall, SilentStrata, Sources,
};
pub use segment::Segment;
pub use select::{Exact, Instructions, Norms, Proposed, Rule, Selected, Selector, norms};
pub use sides::{NO_SIDE, RUN};
pub use statistics::{BINS, Statistics};
pub use summary::Summary;
pub use text::Mask;
pub use top::Top;
pub use windows::{BOUNDARIES, Histogram, Windows};
pub use writer::{Options, Writer, default_segment_contexts};
