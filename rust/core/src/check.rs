//! Every number of a batch, looked at before any of it is kept.
//!
//! A batch is taken apart into pieces of whole contexts (or, where a context is longer than
//! [`PIECE`], of a part of one). A piece holds what will be kept of it: postings as (latent, bf16)
//! per position, or already by latent where the caller had them so, and its text. The first bad row
//! is named, whatever the threads do.

use std::ops::Range;
use std::sync::Mutex;

use rayon::prelude::*;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::batch::{Activity, Batch, NO_DOCUMENT, NO_LATENT, Values};
use crate::code::bf16_of;
use crate::error::{Error, Result};
use crate::text::TextPart;

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

/// What a posting adds to the hash of its context: the sum does not depend on their order.
#[inline]
fn mix(latent: u32, offset: u32, bf16: u16) -> u64 {
    let mut x = (u64::from(latent) << 32 | u64::from(offset))
        .wrapping_add(u64::from(bf16).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    x = (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    x = (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    x ^ (x >> 32)
}

/// Why a row is refused.
struct Bad {
    position: usize,
    text: String,
}

/// For each latent, the last position that had it; positions go on counting from piece to piece, so
/// that nothing has to be cleared.
#[derive(Debug, Default)]
pub(crate) struct LastSeen {
    seen: Vec<u32>,
    next: u32,
}

impl LastSeen {
    /// Makes room for `positions` positions; returns the number of the first.
    fn begin(&mut self, n_latents: usize, positions: usize) -> u32 {
        if self.seen.len() < n_latents {
            self.seen.resize(n_latents, 0);
        }
        if self.next > u32::MAX - 1 - positions as u32 {
            self.seen.fill(0);
            self.next = 0;
        }
        // 0 is never.
        let first = self.next + 1;
        self.next += positions as u32;
        first
    }
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
            let step = (USUAL.min(most) / length).max(1);
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

    fn hook(&self, hook: usize, span: Range<usize>) -> std::result::Result<HookPiece, Bad> {
        let activity = &self.batch.activities[hook];
        let (Activity::Dense { activations, .. }
        | Activity::Sparse { activations, .. }
        | Activity::Sorted { activations, .. }) = *activity;
        // One loop per type, so that nothing is asked for each number.
        match activations {
            Values::F32(values) => self.hook_of(hook, span, |entry| values[entry]),
            Values::Bf16(values) => self.hook_of(hook, span, |entry| {
                f32::from_bits(u32::from(values[entry]) << 16)
            }),
        }
    }

    fn hook_of(
        &self,
        hook: usize,
        span: Range<usize>,
        value: impl Fn(usize) -> f32,
    ) -> std::result::Result<HookPiece, Bad> {
        let n_latents = self.checker.n_latents[hook];
        match (&self.batch.activities[hook], &self.by_position[hook]) {
            (Activity::Dense { k, latents, .. }, _) => {
                let entries = |position| position * k..(position + 1) * k;
                self.by_token(n_latents, span, entries, |entry| latents[entry], value)
            }
            (Activity::Sparse { latents, .. }, Some(by)) => {
                let starts = &by.starts;
                let entries = |position| starts[position]..starts[position + 1];
                match &by.order {
                    None => self.by_token(n_latents, span, entries, |entry| latents[entry], value),
                    Some(order) => self.by_token(
                        n_latents,
                        span,
                        entries,
                        |entry| latents[order[entry]],
                        |entry| value(order[entry]),
                    ),
                }
            }
            (
                &Activity::Sorted {
                    starts, positions, ..
                },
                _,
            ) => self.by_latent(span, starts, positions, value),
            (Activity::Sparse { .. }, None) => Err(Bad {
                position: span.start,
                text: "is refused".to_owned(),
            }),
        }
    }

    fn by_token(
        &self,
        n_latents: u32,
        span: Range<usize>,
        entries: impl Fn(usize) -> Range<usize>,
        latent_of: impl Fn(usize) -> u32,
        value: impl Fn(usize) -> f32,
    ) -> std::result::Result<HookPiece, Bad> {
        let length = self.checker.context_length;
        let mut seen = self.take_scratch();
        let first = seen.begin(n_latents as usize, span.len());
        let room = entries(span.end - 1).end - entries(span.start).start;
        let mut starts = Vec::with_capacity(span.len() + 1);
        let (mut latents, mut values) = (Vec::with_capacity(room), Vec::with_capacity(room));
        let mut hashes = Vec::with_capacity(span.len() / length + 1);
        starts.push(0);
        let mut at = span.start;
        while at < span.end {
            let end = (at / length + 1) * length;
            let mut hash = 0u64;
            for position in at..end.min(span.end) {
                let mark = first + (position - span.start) as u32;
                let offset = (position % length) as u32;
                let entries = if self.live(position) {
                    entries(position)
                } else {
                    0..0
                };
                for entry in entries {
                    let latent = latent_of(entry);
                    if latent == NO_LATENT {
                        continue;
                    }
                    if latent >= n_latents {
                        return Err(Bad {
                            position,
                            text: format!("latent {latent} is not below `n_latents` {n_latents}"),
                        });
                    }
                    let activation = value(entry);
                    if !(activation >= 0.0 && activation.is_finite()) {
                        return Err(refused_value(position, latent, activation));
                    }
                    if activation > 0.0 {
                        let last = &mut seen.seen[latent as usize];
                        if *last == mark {
                            return Err(twice(position, latent));
                        }
                        *last = mark;
                        let bf16 = bf16_of(activation);
                        hash = hash.wrapping_add(mix(latent, offset, bf16));
                        latents.push(latent);
                        values.push(bf16);
                    }
                }
                starts.push(latents.len() as u32);
            }
            hashes.push(hash);
            at = end;
        }
        self.give_scratch(seen);
        Ok(HookPiece {
            entries: Entries::Tokens {
                starts,
                latents,
                values,
            },
            hashes,
        })
    }

    fn by_latent(
        &self,
        span: Range<usize>,
        starts: &[u64],
        positions: &[u32],
        value: impl Fn(usize) -> f32,
    ) -> std::result::Result<HookPiece, Bad> {
        let length = self.checker.context_length;
        let whole = span.len() == self.batch.tokens.len();
        let n_contexts = (span.end - 1) / length - span.start / length + 1;
        let mut hashes = vec![0u64; n_contexts];
        // Exact for what is below 2^16 by a divisor up to 2^16.
        let reciprocal = (1u64 << 32).div_ceil(length as u64);
        let start_offset = (span.start % length) as u32;
        let mut run_starts = Vec::with_capacity(starts.len());
        let mut pairs = Vec::with_capacity(positions.len() * span.len() / self.batch.tokens.len());
        run_starts.push(0u32);
        let mut bad: Option<Bad> = None;
        let mut note = |found: Bad| {
            if bad.as_ref().is_none_or(|b| found.position < b.position) {
                bad = Some(found);
            }
        };
        for (latent, edges) in (0u32..).zip(starts.windows(2)) {
            let mut range = edges[0] as usize..edges[1] as usize;
            if !whole {
                let all = &positions[range.clone()];
                let low = all.partition_point(|&p| (p as usize) < span.start);
                // What follows the last piece is out of range, and that piece must say so.
                let high = if span.end == self.batch.tokens.len() {
                    all.len()
                } else {
                    all.partition_point(|&p| (p as usize) < span.end)
                };
                range = range.start + low..range.start + high.max(low);
            }
            let mut next = span.start;
            for entry in range {
                let position = positions[entry] as usize;
                if position < next || position >= span.end {
                    let position = position.min(self.batch.tokens.len() - 1);
                    note(self.disorder(position, latent, &positions[..=entry]));
                    continue;
                }
                next = position + 1;
                if !self.live(position) {
                    continue;
                }
                let activation = value(entry);
                if !(activation >= 0.0 && activation.is_finite()) {
                    note(refused_value(position, latent, activation));
                    continue;
                }
                if activation > 0.0 {
                    let inside = (position - span.start) as u32;
                    let bf16 = bf16_of(activation);
                    let (context, offset) = if length > self.checker.limits.piece {
                        (0, start_offset + inside)
                    } else {
                        let context = (u64::from(inside) * reciprocal >> 32) as u32;
                        (context, inside - context * length as u32)
                    };
                    let hash = &mut hashes[context as usize];
                    *hash = hash.wrapping_add(mix(latent, offset, bf16));
                    pairs.push(inside | u32::from(bf16) << 16);
                }
            }
            run_starts.push(pairs.len() as u32);
        }
        match bad {
            Some(bad) => Err(bad),
            None => Ok(HookPiece {
                entries: Entries::Sorted {
                    starts: run_starts,
                    pairs,
                },
                hashes,
            }),
        }
    }

    /// What is wrong with the last of some positions of a latent.
    fn disorder(&self, position: usize, latent: u32, positions: &[u32]) -> Bad {
        let n = self.batch.tokens.len();
        let text = match *positions {
            [.., last] if last as usize >= n => {
                format!("latent {latent} has position {last}, which is not below {n}")
            }
            [.., before, last] if before == last => return twice(position, latent),
            _ => format!("the positions of latent {latent} do not ascend"),
        };
        Bad { position, text }
    }

    fn take_scratch(&self) -> LastSeen {
        let taken = self
            .checker
            .scratch
            .lock()
            .ok()
            .and_then(|mut all| all.pop());
        taken.unwrap_or_default()
    }

    fn give_scratch(&self, seen: LastSeen) {
        if let Ok(mut all) = self.checker.scratch.lock() {
            all.push(seen);
        }
    }
}

fn refused_value(position: usize, latent: u32, activation: f32) -> Bad {
    Bad {
        position,
        text: format!(
            "latent {latent} has activation {activation}; activations must be finite and not \
             negative"
        ),
    }
}

fn twice(position: usize, latent: u32) -> Bad {
    Bad {
        position,
        text: format!("latent {latent} is given twice; a token has one activation of a latent"),
    }
}

/// The hash of each context's text, or of the part of one that begins at `offset`.
fn text_hashes(part: &TextPart, length: usize, offset: usize) -> Vec<u64> {
    let n = part.tokens.len();
    let mut run = 0;
    let mut documents: Vec<u64> = Vec::new();
    let contexts = (0..n).step_by(length).map(|start| {
        let end = n.min(start + length);
        documents.clear();
        while part
            .starts
            .get(run + 1)
            .is_some_and(|&s| s as usize <= start)
        {
            run += 1;
        }
        for at in run..part.starts.len() {
            let begins = part.starts[at] as usize;
            if begins >= end {
                break;
            }
            documents.push(begins.saturating_sub(start) as u64);
            documents.push(part.ids[at]);
        }
        let words = [
            xxh3_64(bytemuck::cast_slice(&part.tokens[start..end])),
            xxh3_64(bytemuck::cast_slice(&documents)),
            xxh3_64(bytemuck::cast_slice(&part.mask[start..end])),
        ];
        xxh3_64_with_seed(bytemuck::cast_slice(&words), offset as u64)
    });
    contexts.collect()
}

/// The entries of a sparse batch, grouped by position.
struct ByPosition {
    /// Where each position's entries begin.
    starts: Vec<usize>,
    /// Which entries they are; None where they came in this order.
    order: Option<Vec<usize>>,
}

impl ByPosition {
    fn of(
        activity: &Activity<'_>,
        n_rows: usize,
        length: usize,
        context: u64,
    ) -> Result<Option<Self>> {
        let Activity::Sparse { rows, offsets, .. } = *activity else {
            return Ok(None);
        };
        let mut starts = vec![0; n_rows * length + 1];
        let (mut sorted, mut last) = (true, 0);
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
            let position = row as usize * length + offset as usize;
            sorted &= position >= last;
            last = position;
            starts[position + 1] += 1;
        }
        for position in 1..starts.len() {
            starts[position] += starts[position - 1];
        }
        if sorted {
            return Ok(Some(Self {
                starts,
                order: None,
            }));
        }
        let mut next = starts.clone();
        let mut order = vec![0; rows.len()];
        for (entry, (&row, &offset)) in rows.iter().zip(offsets).enumerate() {
            let place = &mut next[row as usize * length + offset as usize];
            order[*place] = entry;
            *place += 1;
        }
        Ok(Some(Self {
            starts,
            order: Some(order),
        }))
    }
}
