//! Building an index: contexts in, segments out.
//!
//! Contexts are checked, turned around in chunks, and spilled to disk. A segment is written when its
//! last context has been added, or at `finish`. Its bytes depend on its contexts alone: not on the
//! batches they came in, not on threads, not on when or where it was built. So a build that was killed
//! and is run again ends in the same bytes.

mod commit;
mod open;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

use rayon::prelude::*;

use crate::batch::Batch;
use crate::check::{Checker, Limits, Piece, Ready};
use crate::error::{Error, Result};
use crate::manifest::{Manifest, Parameters};
use crate::runs::Chunk;
use crate::segment::Segment;
use crate::spill::{Held, Spill};
pub(crate) use commit::with_folder;

/// Tokens in a segment where nothing else is asked for.
const SEGMENT_TOKENS: u64 = 1 << 24;

/// The number of contexts of a segment where nothing else is asked for.
#[must_use]
pub fn default_segment_contexts(context_length: u32) -> u64 {
    (SEGMENT_TOKENS / u64::from(context_length.max(1))).max(1)
}

/// How a writer works; nothing of it is seen in the index.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether what is committed survives a loss of power; without it, a crash of the process alone.
    pub durable: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { durable: true }
    }
}

/// Builds an index in a folder, or goes on with one; or those of several hookpoints at once.
#[derive(Debug)]
pub struct Writer {
    /// Where the spill is.
    path: PathBuf,
    text: PathBuf,
    durable: bool,
    hooks: Vec<IndexState>,
    /// What a spill must have been written for.
    identity: u64,
    limits: Limits,
    checker: Checker,
    /// The first context of the open segment.
    first: u64,
    /// None before anything of the segment was spilled.
    spill: Option<Spill>,
    /// Pieces that wait to be spilled.
    waiting: Vec<Piece>,
    chunks: Vec<Chunk>,
    /// Of the open segment's contexts.
    held: Held,
    /// Positions of the open segment, spilled or waiting.
    positions: u64,
    /// Where the next batch goes, unless it says so itself.
    cursor: u64,
    /// Held as long as the writer is open.
    locks: Vec<File>,
    /// The step of a commit that fails.
    #[cfg(test)]
    fail_at: Option<u32>,
}

/// The index of one hookpoint.
#[derive(Debug)]
struct IndexState {
    path: PathBuf,
    manifest: Manifest,
    segments: Vec<Segment>,
}

impl Writer {
    /// What the index is built with; of several, the first one's.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.hooks[0].manifest.parameters
    }

    /// The first context that the index has not been given yet.
    #[must_use]
    pub fn next_context(&self) -> u64 {
        self.first + self.positions / u64::from(self.parameters().context_length)
    }

    /// Where the next batch goes, unless it says so itself.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The end of the open segment that `context` would belong to: where the grid says so, or where a
    /// hookpoint that is ahead has it.
    fn end_of_segment(&self, context: u64) -> u64 {
        let ends = self.hooks.iter().flat_map(|hook| &hook.manifest.segments);
        let ends = ends.map(|s| s.first_context + s.contexts);
        ends.filter(|&end| end > context)
            .fold(self.parameters().cut_after(context), u64::min)
    }

    /// Adds contexts: those that follow the last batch, or those from number `context` on.
    ///
    /// The first batch of a writer begins at the index's first context. Contexts that the index
    /// holds already are compared with it by hash, and not added again. A batch with a bad row is
    /// refused whole.
    pub fn add(&mut self, batch: &Batch<'_>, context: Option<u64>) -> Result<()> {
        self.check_open()?;
        let first = context.unwrap_or(self.cursor);
        let next = self.next_context();
        if first > next || first < self.parameters().first_context {
            return Err(Error::input(format!(
                "context {first} cannot be added to the index `{}`, which begins at context {} \
                 and goes on at context {next}",
                self.path.display(),
                self.parameters().first_context,
            )));
        }
        let checker = std::mem::take(&mut self.checker);
        let added = checker
            .ready(batch, first)
            .and_then(|ready| self.add_ready(&ready, first));
        self.checker = checker;
        self.cursor = added?;
        Ok(())
    }

    fn add_ready(&mut self, ready: &Ready<'_>, first: u64) -> Result<u64> {
        let n_rows = ready.rows() as u64;
        let end = first.saturating_add(n_rows);
        self.parameters().check_contexts(end)?;
        let most = (self.limits.group / ready.entries_per_row().max(1)).max(1) as u64;
        let ranges = self.row_ranges(first, end, most);
        let rows =
            |range: &Range<u64>| (range.start - first) as usize..(range.end - first) as usize;
        let next = self.next_context();
        let mut kept = Vec::new();
        for range in &ranges {
            let pieces = ready.pieces(rows(range))?;
            self.compare_held(range.clone(), &pieces)?;
            if range.start >= next && n_rows <= most {
                kept.push(pieces);
            }
        }
        if n_rows <= most {
            for pieces in kept {
                self.push(pieces)?;
            }
            return Ok(end);
        }
        for range in ranges.iter().filter(|range| range.start >= next) {
            let pieces = ready.pieces(rows(range))?;
            self.push(pieces)?;
        }
        Ok(end)
    }

    /// Contexts `first..end` in ranges that are held or not, of one segment, and `most` at most.
    fn row_ranges(&self, first: u64, end: u64, most: u64) -> Vec<Range<u64>> {
        let next = self.next_context();
        let mut ranges = Vec::new();
        let mut at = first;
        while at < end {
            let cut = if at < next {
                next
            } else {
                self.end_of_segment(at)
            };
            let to = end.min(cut).min(at + most);
            ranges.push(at..to);
            at = to;
        }
        ranges
    }

    /// Refuses contexts that are not the ones that the index holds under their numbers.
    fn compare_held(&self, contexts: Range<u64>, pieces: &[Piece]) -> Result<()> {
        let known = self.hooks.iter().map(|hook| hook.manifest.end()).max();
        if contexts.start >= self.next_context().max(known.unwrap_or(0)) {
            return Ok(());
        }
        let mut found = Held::new(self.hooks.len());
        for piece in pieces {
            found.add_piece(contexts.start, piece);
        }
        for (row, context) in contexts.enumerate() {
            let mut same = true;
            for (number, hook) in self.hooks.iter().enumerate() {
                let hash = found.hooks[number][row];
                if context < hook.manifest.end() {
                    let (postings, text) = hook.hashes(context)?;
                    same &= postings == hash && text == found.text[row];
                } else if context < self.next_context() {
                    let at = (context - self.first) as usize;
                    same &= self.held.hooks[number][at] == hash;
                    same &= self.held.text[at] == found.text[row];
                }
            }
            if !same {
                return Err(Error::input(format!(
                    "context {context} is not the one that the index `{}` holds under this \
                     number; the corpus, the model or the coder changed: build into another folder",
                    self.path.display()
                )));
            }
        }
        Ok(())
    }

    /// Takes pieces of the open segment, which follow what it holds.
    fn push(&mut self, pieces: Vec<Piece>) -> Result<()> {
        for piece in pieces {
            self.held.add_piece(self.first, &piece);
            self.positions += piece.positions() as u64;
            self.waiting.push(piece);
        }
        if self.next_context() == self.end_of_segment(self.first) {
            return self.commit_or_close();
        }
        let threads = rayon::current_num_threads();
        let positions: usize = self.waiting.iter().map(Piece::positions).sum();
        let postings: usize = self.waiting.iter().map(Piece::postings).sum();
        if positions >= threads * self.limits.piece || postings >= threads * self.chunk_postings() {
            let flushed = self.flush(false);
            if flushed.is_err() {
                self.abandon();
            }
            return flushed;
        }
        Ok(())
    }

    /// So many that the table of where each latent begins is small beside them.
    fn chunk_postings(&self) -> usize {
        let latents = self
            .hooks
            .iter()
            .map(|hook| hook.manifest.parameters.n_latents);
        let latents = latents.max().unwrap_or(0) as usize;
        self.limits.chunk.max(self.limits.starts * latents)
    }

    /// Spills what waits; all of it, or full chunks alone.
    fn flush(&mut self, all: bool) -> Result<()> {
        let groups = self.groups(all);
        if let Some(last) = groups.last() {
            self.spill_groups(&groups)?;
            self.waiting.drain(..last.end);
        }
        if all && let Some(spill) = &mut self.spill {
            self.chunks.extend(spill.settle()?);
        }
        Ok(())
    }

    /// The pieces that wait, by the chunks that they make; without the last chunk, if not `all`.
    fn groups(&self, all: bool) -> Vec<Range<usize>> {
        let most = self.chunk_postings();
        let mut groups: Vec<Range<usize>> = Vec::new();
        let (mut begin, mut positions, mut postings) = (0, 0, 0);
        for (at, piece) in self.waiting.iter().enumerate() {
            let long = piece.offset > 0 || piece.positions() == self.limits.piece;
            if at > begin
                && (long
                    || positions + piece.positions() > self.limits.piece
                    || postings + piece.postings() > most)
            {
                groups.push(begin..at);
                (begin, positions, postings) = (at, 0, 0);
            }
            positions += piece.positions();
            postings += piece.postings();
        }
        if all && begin < self.waiting.len() {
            groups.push(begin..self.waiting.len());
        }
        groups
    }

    /// Fills a chunk with each group of pieces, a thread one, while those before them are written.
    fn spill_groups(&mut self, groups: &[Range<usize>]) -> Result<()> {
        if self.spill.is_none() {
            self.spill = Some(self.open_spill()?);
        }
        let length = u64::from(self.parameters().context_length);
        let (first, waiting) = (self.first, &self.waiting);
        let Some(spill) = &mut self.spill else {
            return Ok(());
        };
        for some in groups.chunks(rayon::current_num_threads()) {
            let missing = some.len().saturating_sub(self.chunks.len());
            self.chunks.extend((0..missing).map(|_| Chunk::default()));
            let mut filled: Vec<Chunk> = self.chunks.drain(..some.len()).collect();
            let hooks = &spill.hooks;
            filled.par_iter_mut().zip(some).for_each(|(chunk, range)| {
                let pieces = &waiting[range.clone()];
                let start = (pieces[0].context - first) * length + u64::from(pieces[0].offset);
                chunk.fill(pieces, start, hooks);
            });
            self.chunks.extend(spill.append(filled)?);
        }
        Ok(())
    }

    /// Drops what is still in memory, and lets go of the folder; writes nothing.
    ///
    /// What was spilled stays, and another writer goes on from there.
    pub fn abandon(&mut self) {
        self.waiting.clear();
        self.positions = self.spill.take().map_or(0, |mut spill| {
            // What did not get to the disk is not counted.
            let _ = spill.settle();
            spill.positions
        });
        self.locks.clear();
    }

    fn check_open(&self) -> Result<()> {
        if !self.locks.is_empty() {
            return Ok(());
        }
        Err(Error::input(format!(
            "the writer of the index `{}` is closed; open another one to go on",
            self.path.display()
        )))
    }
}

impl IndexState {
    /// The hashes of a committed context: of its postings and of its text.
    fn hashes(&self, context: u64) -> Result<(u64, u64)> {
        let after = self
            .segments
            .partition_point(|s| s.first_context() <= context);
        let segment = &self.segments[after - 1];
        let at = (context - segment.first_context()) as usize;
        let hashes = (segment.hashes()?[at], segment.text_hashes()?[at]);
        segment.intact()?;
        Ok(hashes)
    }
}
