//! Batches of contexts as a caller gives them; `check` looks at every number of one.

use std::ops::Range;

use crate::error::{Error, Result};

/// The latent id that means "no posting".
pub const NO_LATENT: u32 = u32::MAX;
/// The document id of padding; such a position must be masked.
pub const NO_DOCUMENT: u64 = u64::MAX;

/// Some contexts with their activations, borrowed from the caller.
///
/// `S` is the index's context length and `B` the number of contexts.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Token ids, `B * S`.
    pub tokens: &'a [u32],
    /// Document ids: one per context (`B`) or one per token (`B * S`).
    pub documents: &'a [u64],
    /// Which tokens count, `B * S`; all of them where it is not given.
    pub mask: Option<&'a [bool]>,
    /// The activations of each hookpoint, in the order in which the writer was given them.
    pub activities: &'a [Activity<'a>],
}

/// Activations in one of the two types that are taken as they are.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// Single precision; rounded to bf16.
    F32(&'a [f32]),
    /// The bits of bf16.
    Bf16(&'a [u16]),
}

/// The activations of a batch at one hookpoint.
///
/// An entry with latent [`NO_LATENT`], with activation 0, or at a masked position is no posting.
#[derive(Clone, Copy, Debug)]
pub enum Activity<'a> {
    /// `k` entries for every token, `B * S * k`.
    Dense {
        /// Entries per token.
        k: usize,
        /// Latent ids.
        latents: &'a [u32],
        /// Activations.
        activations: Values<'a>,
    },
    /// One entry per activation, in any order.
    Sparse {
        /// Row in the batch.
        rows: &'a [u64],
        /// Offset in the context.
        offsets: &'a [u64],
        /// Latent ids.
        latents: &'a [u32],
        /// Activations.
        activations: Values<'a>,
    },
    /// One list of positions per latent, as a GPU sorts them.
    Sorted {
        /// Where each latent's entries begin, `L + 1`.
        starts: &'a [u64],
        /// `row * S + offset`, ascending within a latent.
        positions: &'a [u32],
        /// Activations.
        activations: Values<'a>,
    },
}

impl Values<'_> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Some of them.
    pub(crate) fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::F32(values) => Self::F32(&values[range]),
            Self::Bf16(values) => Self::Bf16(&values[range]),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Batch<'_> {
    /// Compares all lengths; returns the number of contexts.
    pub(crate) fn check_shapes(&self, length: usize, n_latents: &[u32]) -> Result<usize> {
        let n_tokens = self.tokens.len();
        if !n_tokens.is_multiple_of(length) {
            return Err(Error::input(format!(
                "`tokens` holds {n_tokens} ids, which is no multiple of the context length {length}"
            )));
        }
        let n_rows = n_tokens / length;
        if self.documents.len() != n_rows && self.documents.len() != n_tokens {
            return Err(Error::input(format!(
                "`document_ids` holds {} ids; {n_rows} contexts of {length} tokens need one per \
                 context or one per token",
                self.documents.len()
            )));
        }
        if let Some(mask) = self.mask
            && mask.len() != n_tokens
        {
            return Err(Error::input(format!(
                "`mask` holds {} values and `tokens` {n_tokens}",
                mask.len()
            )));
        }
        if self.activities.len() != n_latents.len() {
            return Err(Error::input(format!(
                "the batch has activations of {} hookpoints; the writer has {}",
                self.activities.len(),
                n_latents.len()
            )));
        }
        for (activity, &n_latents) in self.activities.iter().zip(n_latents) {
            activity.check_lengths(n_tokens, n_latents as usize)?;
        }
        Ok(n_rows)
    }
}

impl Activity<'_> {
    fn check_lengths(&self, n_tokens: usize, n_latents: usize) -> Result<()> {
        match *self {
            Activity::Dense {
                k,
                latents,
                activations,
            } => {
                if latents.len() != n_tokens * k || activations.len() != latents.len() {
                    return Err(Error::input(format!(
                        "`latents` holds {} ids and `activations` {} values; {n_tokens} tokens \
                         with {k} each need {}",
                        latents.len(),
                        activations.len(),
                        n_tokens * k
                    )));
                }
            }
            Activity::Sparse {
                rows,
                offsets,
                latents,
                activations,
            } => {
                let n = rows.len();
                if offsets.len() != n || latents.len() != n || activations.len() != n {
                    return Err(Error::input(format!(
                        "`rows`, `offsets`, `latents` and `activations` hold {n}, {}, {} and {} \
                         values; they must be equally many",
                        offsets.len(),
                        latents.len(),
                        activations.len()
                    )));
                }
            }
            Activity::Sorted {
                starts,
                positions,
                activations,
            } => {
                let n = positions.len();
                if starts.len() != n_latents + 1 || activations.len() != n {
                    return Err(Error::input(format!(
                        "`starts`, `positions` and `activations` hold {}, {n} and {} values; \
                         `starts` must hold {}, one more than latents, and the others equally many",
                        starts.len(),
                        activations.len(),
                        n_latents + 1
                    )));
                }
                if starts.first() != Some(&0)
                    || starts.last() != Some(&(n as u64))
                    || !starts.is_sorted()
                {
                    return Err(Error::input(format!(
                        "`starts` must ascend from 0 to the number of positions {n}"
                    )));
                }
            }
        }
        Ok(())
    }
}
