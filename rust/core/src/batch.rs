//! Rows of contexts as a caller gives them, checked and brought into one form.

use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3;

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
    /// The activations.
    pub activity: Activity<'a>,
}

/// The activations of a batch.
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
        activations: &'a [f32],
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
        activations: &'a [f32],
    },
}

/// One context, checked.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) tokens: Vec<u32>,
    pub(crate) documents: Vec<u64>,
    pub(crate) mask: Vec<bool>,
    /// Ordered by latent, then offset.
    pub(crate) postings: Vec<RowPosting>,
    pub(crate) hash: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct RowPosting {
    pub(crate) latent: u32,
    pub(crate) offset: u32,
    pub(crate) activation: f32,
}

/// Checks a batch whose first context is number `context`; refuses it whole at its first bad row.
pub(crate) fn rows(
    batch: &Batch<'_>,
    context: u64,
    context_length: u32,
    n_latents: u32,
) -> Result<Vec<Row>> {
    let length = context_length as usize;
    let n_rows = batch.check_shapes(length)?;
    let by_row = batch.activity.by_row(n_rows, length, context)?;
    let rows: Vec<Result<Row>> = (0..n_rows)
        .into_par_iter()
        .map(|row| {
            let at = Place {
                context: context + row as u64,
                n_latents,
            };
            at.row(batch, row, length, by_row.as_ref())
        })
        .collect();
    // One after the other, so that the first bad row is named whatever the threads did.
    rows.into_iter().collect()
}

impl Batch<'_> {
    /// Compares all lengths; returns the number of contexts.
    fn check_shapes(&self, length: usize) -> Result<usize> {
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
        match self.activity {
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
        }
        Ok(n_rows)
    }
}

/// The entries of a sparse batch, grouped by row.
struct ByRow {
    starts: Vec<usize>,
    entries: Vec<usize>,
}

impl Activity<'_> {
    fn by_row(&self, n_rows: usize, length: usize, context: u64) -> Result<Option<ByRow>> {
        let Activity::Sparse { rows, offsets, .. } = *self else {
            return Ok(None);
        };
        let mut starts = vec![0; n_rows + 1];
        for (entry, (&row, &offset)) in rows.iter().zip(offsets).enumerate() {
            if row >= n_rows as u64 {
                return Err(Error::input(format!(
                    "entry {entry}: row {row} is not below the number of contexts {n_rows}"
                )));
            }
            if offset >= length as u64 {
                return Err(Error::input(format!(
                    "context {}: offset {offset} is not below the context length {length}",
                    context + row
                )));
            }
            starts[row as usize + 1] += 1;
        }
        for row in 0..n_rows {
            starts[row + 1] += starts[row];
        }
        let mut next = starts.clone();
        let mut entries = vec![0; rows.len()];
        for (entry, &row) in rows.iter().enumerate() {
            entries[next[row as usize]] = entry;
            next[row as usize] += 1;
        }
        Ok(Some(ByRow { starts, entries }))
    }
}

/// Where a row stands, for the texts of its errors.
struct Place {
    context: u64,
    n_latents: u32,
}

impl Place {
    fn row(
        &self,
        batch: &Batch<'_>,
        row: usize,
        length: usize,
        by_row: Option<&ByRow>,
    ) -> Result<Row> {
        let span = row * length..(row + 1) * length;
        let tokens = batch.tokens[span.clone()].to_vec();
        let documents = if batch.documents.len() == batch.tokens.len() {
            batch.documents[span.clone()].to_vec()
        } else {
            vec![batch.documents[row]; length]
        };
        let mask = batch
            .mask
            .map_or_else(|| vec![true; length], |mask| mask[span].to_vec());
        for offset in 0..length {
            if mask[offset] && documents[offset] == NO_DOCUMENT {
                return Err(self.refuse(
                    offset,
                    "a position without a document must be masked: set `mask` to False there",
                ));
            }
        }
        let mut postings = Vec::new();
        match batch.activity {
            Activity::Dense {
                k,
                latents,
                activations,
            } => {
                for (offset, _) in mask.iter().enumerate().filter(|&(_, &live)| live) {
                    let first = (row * length + offset) * k;
                    for entry in first..first + k {
                        self.push(&mut postings, offset, latents[entry], activations[entry])?;
                    }
                }
            }
            Activity::Sparse {
                offsets,
                latents,
                activations,
                ..
            } => {
                let entries = by_row.map_or(&[][..], |by| {
                    &by.entries[by.starts[row]..by.starts[row + 1]]
                });
                for &entry in entries {
                    let offset = offsets[entry] as usize;
                    if mask[offset] {
                        self.push(&mut postings, offset, latents[entry], activations[entry])?;
                    }
                }
            }
        }
        postings.sort_unstable_by_key(|p| (p.latent, p.offset));
        if let Some(twice) = postings
            .windows(2)
            .find(|p| (p[0].latent, p[0].offset) == (p[1].latent, p[1].offset))
        {
            let latent = twice[0].latent;
            return Err(self.refuse(
                twice[0].offset as usize,
                &format!("latent {latent} is given twice; a token has one activation of a latent"),
            ));
        }
        let mut row = Row {
            tokens,
            documents,
            mask,
            postings,
            hash: 0,
        };
        row.hash = row.content_hash();
        Ok(row)
    }

    fn push(
        &self,
        postings: &mut Vec<RowPosting>,
        offset: usize,
        latent: u32,
        activation: f32,
    ) -> Result<()> {
        if latent == NO_LATENT {
            return Ok(());
        }
        if latent >= self.n_latents {
            return Err(self.refuse(
                offset,
                &format!(
                    "latent {latent} is not below `n_latents` {}",
                    self.n_latents
                ),
            ));
        }
        if !activation.is_finite() || activation < 0.0 {
            return Err(self.refuse(
                offset,
                &format!(
                    "latent {latent} has activation {activation}; activations must be finite and \
                     not negative"
                ),
            ));
        }
        if activation > 0.0 {
            postings.push(RowPosting {
                latent,
                offset: offset as u32,
                activation,
            });
        }
        Ok(())
    }

    fn refuse(&self, offset: usize, what: &str) -> Error {
        Error::input(format!("context {}, offset {offset}: {what}", self.context))
    }
}

impl Row {
    /// A hash of all that the index keeps of a context.
    fn content_hash(&self) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(bytemuck::cast_slice(&self.tokens));
        hash.update(bytemuck::cast_slice(&self.documents));
        let mask: Vec<u8> = self.mask.iter().map(|&live| u8::from(live)).collect();
        hash.update(&mask);
        for posting in &self.postings {
            hash.update(&posting.latent.to_le_bytes());
            hash.update(&posting.offset.to_le_bytes());
            hash.update(&posting.activation.to_le_bytes());
        }
        hash.digest()
    }
}
