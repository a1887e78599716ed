//! Every number of a batch, looked at before any of it is kept.
//!
//! A batch is taken apart into pieces of whole contexts (or, where a context is longer than
//! [`PIECE`], of a part of one). A piece holds what will be kept of it: postings as (latent, bf16)
//! per position, or already by latent where the caller had them so, and its text. The first bad row
//! is named, whatever the threads do.

mod by_position;
mod hash;
mod plain;
mod postings;

use std::ops::Range;
use std::sync::Mutex;

use rayon::prelude::*;

use crate::batch::{Activity, Batch, NO_DOCUMENT};
use crate::error::{Error, Result};
use crate::text::TextPart;
use by_position::ByPosition;
use hash::text_hashes;
use plain::LastSeen;

/// How much is held at a time; nothing of it is seen in the index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The most positions of a piece, at most [`PIECE`].
    pub(crate) piece: usize,
    /// Postings of a chunk: few enough to be ordered within the processor's cache.
    pub(crate) chunk: usize,
    /// The fewest postings of a chunk for each latent, which has a number in its table.
    pub(crate) starts: usize,
    /// Entries of a batch that are held in memory; a larger batch is looked at twice.
    pub(crate) group: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            piece: PIECE,
            chunk: 1 << 20,
            starts: 4,
            group: 1 << 23,
        }
    }
}

/// The most positions of a piece: their numbers within it have 16 bits.
const PIECE: usize = 1 << 16;
/// The positions of a piece where contexts are short: enough to be worth a thread.
const USUAL: usize = 1 << 13;

/// Some positions of a batch, checked.
#[derive(Debug)]
pub(crate) struct Piece {
    /// The number of its first context.
    pub(crate) context: u64,
    /// Where in that context it begins: 0, save in the middle of a long one.
    pub(crate) offset: u32,
    pub(crate) text: TextPart,
    /// One for each of its contexts; the parts of a long context add up.
    pub(crate) hashes: Vec<u64>,
    /// One per hookpoint.
    pub(crate) hooks: Vec<HookPiece>,
}

/// A piece's postings at one hookpoint.
#[derive(Debug)]
pub(crate) struct HookPiece {
    pub(crate) entries: Entries,
    /// As the piece's.
    pub(crate) hashes: Vec<u64>,
}

/// Postings of a piece; positions count from its first.
#[derive(Debug)]
pub(crate) enum Entries {
    /// By position: those of position `p` are `starts[p]..starts[p + 1]`.
    Tokens {
        starts: Vec<u32>,
        latents: Vec<u32>,
        values: Vec<u16>,
    },
    /// By latent, then position: pairs of position (low half) and bf16 (high half).
    Sorted { starts: Vec<u32>, pairs: Vec<u32> },
}

impl Piece {
    pub(crate) fn positions(&self) -> usize {
        self.text.tokens.len()
    }

    /// The most postings at one hookpoint.
    pub(crate) fn postings(&self) -> usize {
        self.hooks
            .iter()
            .map(|h| h.entries.len())
            .max()
            .unwrap_or(0)
    }
}

impl Entries {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Tokens { latents, .. } => latents.len(),
            Self::Sorted { pairs, .. } => pairs.len(),
        }
    }
}

/// Why a row is refused.
struct Bad {
    position: usize,
    text: String,
}

/// Checks batches.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    context_length: usize,
    n_latents: Vec<u32>,
    limits: Limits,
    scratch: Mutex<Vec<LastSeen>>,
}

/// A batch, ready to be checked piece by piece.
pub(crate) struct Ready<'a> {
    checker: &'a Checker,
    batch: &'a Batch<'a>,
    /// The number of the first context.
    context: u64,
    /// The sparse activities' entries, by position.
    by_position: Vec<Option<ByPosition>>,
}

impl Checker {
    pub(crate) fn new(context_length: u32, n_latents: Vec<u32>, limits: Limits) -> Self {
        Self {
            context_length: context_length as usize,
            n_latents,
            limits,
            scratch: Mutex::default(),
        }
    }

    /// Compares the lengths of a batch and groups its entries; `context` numbers its first context.
    pub(crate) fn ready<'a>(&'a self, batch: &'a Batch<'a>, context: u64) -> Result<Ready<'a>> {
        let n_rows = batch.check_shapes(self.context_length, &self.n_latents)?;
        let by_position = batch
            .activities
            .iter()
            .map(|activity| ByPosition::of(activity, n_rows, self.context_length, context));
        Ok(Ready {
            checker: self,
            batch,
            context,
            by_position: by_position.collect::<Result<_>>()?,
        })
    }
}

impl Ready<'_> {
    /// The number of contexts.
    pub(crate) fn rows(&self) -> usize {
        self.batch.tokens.len() / self.checker.context_length
    }

    /// About how many entries a context has.
    pub(crate) fn entries_per_row(&self) -> usize {
        let entries = |activity: &Activity<'_>| match activity {
            Activity::Dense { latents, .. } | Activity::Sparse { latents, .. } => latents.len(),
            Activity::Sorted { positions, .. } => positions.len(),
        };
        let all: usize = self.batch.activities.iter().map(entries).sum();
        all / self.rows().max(1)
    }

    /// Checks some rows; the error is that of the first bad one.
    pub(crate) fn pieces(&self, rows: Range<usize>) -> Result<Vec<Piece>> {
        let length = self.checker.context_length;
        let mut spans = Vec::new();
        let most = self.checker.limits.piece;
        if length > most {
            for row in rows {
                let end = (row + 1) * length;
                spans.extend(
                    (row * length..end)
                        .step_by(most)
                        .map(|at| at..end.min(at + most)),
                );
            }
        } else {
            let step = (self.usual(rows.len()).min(most) / length).max(1);
            let ends = rows.clone().step_by(step);
            spans.extend(ends.map(|row| row * length..rows.end.min(row + step) * length));
        }
        let pieces: Vec<std::result::Result<Piece, Bad>> =
            spans.into_par_iter().map(|span| self.piece(span)).collect();
        // One after the other, so that the first bad row is named whatever the threads did.
        let pieces: std::result::Result<Vec<Piece>, Bad> = pieces.into_iter().collect();
        pieces.map_err(|bad| {
            Error::input(format!(
                "context {}, offset {}: {}",
                self.context + (bad.position / length) as u64,
                bad.position % length,
                bad.text
            ))
        })
    }

    /// The positions of a piece of so many rows, where contexts are short.
    fn usual(&self, rows: usize) -> usize {
        let sorted = |activity: &Activity<'_>| matches!(activity, Activity::Sorted { .. });
        if self.batch.activities.iter().any(sorted) {
            // Each piece looks for its part of every latent's list: one for each thread, then.
            let share = rows.div_ceil(rayon::current_num_threads());
            return USUAL.max(share * self.checker.context_length);
        }
        USUAL
    }

    fn piece(&self, span: Range<usize>) -> std::result::Result<Piece, Bad> {
        let length = self.checker.context_length;
        let mut first_bad: Option<Bad> = None;
        // Of one row the text's fault comes first, then the hookpoints' in their order.
        let mut note = |bad: Bad| {
            if first_bad
                .as_ref()
                .is_none_or(|b| bad.position / length < b.position / length)
            {
                first_bad = Some(bad);
            }
        };
        let text = self.text(span.clone()).map_err(&mut note);
        let mut hooks = Vec::with_capacity(self.batch.activities.len());
        for hook in 0..self.batch.activities.len() {
            match self.hook(hook, span.clone()) {
                Ok(piece) => hooks.push(piece),
                Err(bad) => note(bad),
            }
        }
        match (first_bad, text) {
            (None, Ok(text)) => Ok(Piece {
                context: self.context + (span.start / length) as u64,
                offset: (span.start % length) as u32,
                hashes: text_hashes(&text, length, span.start % length),
                text,
                hooks,
            }),
            (Some(bad), _) => Err(bad),
            (None, Err(())) => Err(Bad {
                position: span.start,
                text: "is refused".to_owned(),
            }),
        }
    }

    fn live(&self, position: usize) -> bool {
        self.batch.mask.is_none_or(|mask| mask[position])
    }

    fn text(&self, span: Range<usize>) -> std::result::Result<TextPart, Bad> {
        let batch = self.batch;
        let mut part = TextPart {
            tokens: batch.tokens[span.clone()].to_vec(),
            mask: batch.mask.map_or_else(
                || vec![true; span.len()],
                |mask| mask[span.clone()].to_vec(),
            ),
            ..TextPart::default()
        };
        let per_token = batch.documents.len() == batch.tokens.len();
        let length = self.checker.context_length;
        let step = if per_token { 1 } else { length };
        let mut at = span.start;
        while at < span.end {
            let id = batch.documents[at / step];
            let end = if per_token {
                at + 1
            } else {
                (at / length + 1) * length
            };
            let end = end.min(span.end);
            if part.ids.last() != Some(&id) {
                part.starts.push((at - span.start) as u32);
                part.ids.push(id);
            }
            if id == NO_DOCUMENT
                && let Some(position) = (at..end).find(|&position| self.live(position))
            {
                return Err(Bad {
                    position,
                    text: "a position without a document must be masked: set `mask` to False there"
                        .to_owned(),
                });
            }
            at = end;
        }
        Ok(part)
    }
}
