//! Building an index: contexts in, segments out.
//!
//! Contexts are checked, turned around in chunks, and spilled to disk. A segment is written when its
//! last context has been added, or at `finish`. Its bytes depend on its contexts alone: not on the
//! batches they came in, not on threads, not on when or where it was built. So a build that was killed
//! and is run again ends in the same bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::batch::Batch;
use crate::build::{self, Spilled, write_lists};
use crate::check::{Checker, Limits, Piece, Ready};
use crate::error::{Error, Result};
use crate::folder::{compare, refuse_foreign, remove_leftovers, take_locks};
use crate::manifest::{FileRecord, Manifest, Parameters, SHARED_TEXT, SegmentRecord, TEXT};
use crate::runs::{Chunk, Hook};
use crate::segment::{self, Segment, shape};
use crate::spill::{self, Held, Spill};
use crate::text::{TextWriter, WrittenText};

#[cfg(test)]
mod tests;

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
    /// Opens the index folder at `path`, which is made if it is not there.
    ///
    /// A folder that holds an index is gone on with if its parameters are the same, from where it was
    /// interrupted. What an interrupted writer left behind and cannot be used is removed. A second
    /// writer on one folder is refused.
    pub fn open(path: &Path, parameters: Parameters) -> Result<Self> {
        Self::open_with(path, parameters, Options::default())
    }

    /// [`Writer::open`] with options.
    pub fn open_with(path: &Path, parameters: Parameters, options: Options) -> Result<Self> {
        refuse_foreign(path, &[])?;
        Self::open_all(path, vec![(path.to_owned(), parameters)], options)
    }

    /// Opens the indices of several hookpoints, `path/<name>`, which share one text, `path/text`.
    ///
    /// They are added to at the same time. Their parameters may differ in the number of latents, in
    /// `lossless` and in attributes; `text` is set here.
    pub fn open_many(
        path: &Path,
        hookpoints: &[(String, Parameters)],
        options: Options,
    ) -> Result<Self> {
        let names: Vec<&str> = hookpoints.iter().map(|(name, _)| name.as_str()).collect();
        let Some((_, first)) = hookpoints.first() else {
            return Err(Error::input("there is no hookpoint; name at least one"));
        };
        for (at, (name, parameters)) in hookpoints.iter().enumerate() {
            let taken = ["", ".", "..", TEXT, spill::FOLDER, segment::FOLDER, "lock"];
            if taken.contains(&name.as_str()) || name.contains(['/', '\\', '\0']) {
                return Err(Error::input(format!(
                    "the hookpoint `{name}` cannot be the name of a folder of an index"
                )));
            }
            if names[..at].contains(&name.as_str()) {
                return Err(Error::input(format!(
                    "the hookpoint `{name}` is named twice"
                )));
            }
            let alike = Parameters {
                n_latents: first.n_latents,
                lossless: first.lossless,
                attributes: first.attributes.clone(),
                ..parameters.clone()
            };
            compare(path, first, &alike)?;
        }
        refuse_foreign(path, &names)?;
        for name in &names {
            refuse_foreign(&path.join(name), &[])?;
        }
        let all = hookpoints.iter().map(|(name, parameters)| {
            let text = SHARED_TEXT.to_owned();
            (
                path.join(name),
                Parameters {
                    text,
                    ..parameters.clone()
                },
            )
        });
        Self::open_all(path, all.collect(), options)
    }

    fn open_all(
        path: &Path,
        indices: Vec<(PathBuf, Parameters)>,
        options: Options,
    ) -> Result<Self> {
        for (_, parameters) in &indices {
            parameters.check()?;
        }
        for (index, _) in &indices {
            let folder = index.join(segment::FOLDER);
            fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        }
        let text = indices[0].0.join(&indices[0].1.text);
        fs::create_dir_all(&text).map_err(Error::io("create", &text))?;
        let beside = text.join("..");
        let folders = indices.iter().map(|(index, _)| index.as_path());
        let locks = take_locks(folders.chain([path, beside.as_path()]))?;
        let mut hooks = Vec::new();
        for (index, parameters) in indices {
            let manifest = match Manifest::read(&index)? {
                Some(manifest) => {
                    compare(&index, &manifest.parameters, &parameters)?;
                    manifest
                }
                None => Manifest::new(parameters),
            };
            hooks.push((index, manifest));
        }
        let first = hooks.iter().map(|(_, m)| m.end()).min().unwrap_or(0);
        for (index, manifest) in &hooks {
            remove_leftovers(index, manifest, first)?;
        }
        crate::folder::remove_old_spills(path, first)?;
        let mut states = Vec::new();
        for (path, manifest) in hooks {
            if manifest.segments.is_empty() && !manifest.complete {
                manifest.write(&path, options.durable)?;
            }
            let segments = manifest
                .segments
                .iter()
                .map(|record| Segment::open(&path, &manifest.parameters, record))
                .collect::<Result<_>>()?;
            states.push(IndexState {
                path,
                manifest,
                segments,
            });
        }
        let parameters = &states[0].manifest.parameters;
        let n_latents = states.iter().map(|hook| hook.manifest.parameters.n_latents);
        let names = states.iter().map(|hook| {
            let name = hook.path.file_name().unwrap_or_default().to_string_lossy();
            // A single index may be moved while it is built.
            let name = if states.len() == 1 { "".into() } else { name };
            format!("{name}/{}", hook.manifest.parameters.n_latents)
        });
        let mut texts: Vec<String> = names.collect();
        texts.push(format!("{first} {}", parameters.context_length));
        let mut writer = Self {
            path: path.to_owned(),
            text,
            durable: options.durable,
            limits: Limits::default(),
            #[cfg(test)]
            fail_at: None,
            identity: spill::identity(texts.iter().map(String::as_str)),
            checker: Checker::new(
                parameters.context_length,
                n_latents.collect(),
                Limits::default(),
            ),
            first,
            spill: None,
            waiting: Vec::new(),
            chunks: Vec::new(),
            held: Held::new(states.len()),
            positions: 0,
            cursor: parameters.first_context,
            hooks: states,
            locks,
        };
        writer.recover()?;
        Ok(writer)
    }

    /// Takes over what an interrupted writer spilled.
    fn recover(&mut self) -> Result<()> {
        if !Spill::is_there(&self.path, self.first) {
            return Ok(());
        }
        let mut spill = self.open_spill()?;
        let limit = self.end_of_segment(self.first) - self.first;
        if spill.contexts() > limit {
            return spill.remove();
        }
        self.held = std::mem::take(&mut spill.held);
        self.positions = spill.positions;
        let full = spill.contexts() == limit;
        self.spill = Some(spill);
        // It was killed between its last chunk and the commit.
        if full { self.commit_or_close() } else { Ok(()) }
    }

    fn open_spill(&self) -> Result<Spill> {
        let kept = |hook: &IndexState| Hook {
            n_latents: hook.manifest.parameters.n_latents,
            kept: hook.manifest.end() == self.first,
        };
        let hooks = self.hooks.iter().map(kept).collect();
        let length = self.parameters().context_length;
        Spill::open(&self.path, self.first, length, hooks, self.identity)
    }

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
        if groups.is_empty() {
            if let (Some(spill), true) = (&mut self.spill, all) {
                self.chunks.extend(spill.settle()?);
            }
            return Ok(());
        }
        if self.spill.is_none() {
            self.spill = Some(self.open_spill()?);
        }
        let length = u64::from(self.parameters().context_length);
        let threads = rayon::current_num_threads();
        let (first, waiting) = (self.first, &self.waiting);
        let Some(spill) = &mut self.spill else {
            return Ok(());
        };
        for some in groups.chunks(threads) {
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
        if all {
            self.chunks.extend(spill.settle()?);
        }
        let done = groups.last().map_or(0, |range| range.end);
        self.waiting.drain(..done);
        Ok(())
    }

    /// Commits what is left, marks the index complete, and lets go of the folder.
    pub fn finish(&mut self) -> Result<()> {
        self.check_open()?;
        self.commit_or_close()?;
        let completed = self.complete();
        self.abandon();
        completed
    }

    fn complete(&mut self) -> Result<()> {
        for hook in &mut self.hooks {
            if !hook.manifest.complete {
                hook.manifest.complete = true;
                hook.manifest.write(&hook.path, self.durable)?;
            }
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

    /// A failed commit leaves the writer closed; what was spilled stays.
    fn commit_or_close(&mut self) -> Result<()> {
        let committed = self.commit();
        if committed.is_err() {
            self.abandon();
        }
        committed
    }

    /// Writes the open segment: its text, then each hookpoint's lists and manifest; then the spill
    /// can go. Killed in between, the next writer finds the spill and does the rest.
    fn commit(&mut self) -> Result<()> {
        self.flush(true)?;
        let Some(mut spill) = self.spill.take() else {
            return Ok(());
        };
        let contexts = spill.contexts();
        self.step()?;
        if contexts > 0 {
            let text = self.write_text(&spill)?;
            self.step()?;
            for number in 0..self.hooks.len() {
                if self.hooks[number].manifest.end() == self.first {
                    self.write_segment(number, &spill, &text, contexts)?;
                    self.step()?;
                }
            }
        }
        spill.remove()?;
        self.first += contexts;
        self.positions = 0;
        self.held = Held::new(self.hooks.len());
        Ok(())
    }

    /// A point between two steps of a commit, where a test can have it fail.
    #[cfg_attr(
        not(test),
        allow(
            clippy::unused_self,
            clippy::unnecessary_wraps,
            clippy::needless_pass_by_ref_mut
        )
    )]
    fn step(&mut self) -> Result<()> {
        #[cfg(test)]
        if let Some(left) = &mut self.fail_at {
            if *left == 0 {
                return Err(Error::input("asked to fail"));
            }
            *left -= 1;
        }
        Ok(())
    }

    fn write_text(&self, spill: &Spill) -> Result<WrittenText> {
        let parameters = self.parameters();
        let mut text = TextWriter::create(
            &self.text,
            &segment::name(self.first),
            spill.largest_token > u32::from(u16::MAX),
            parameters.window,
            parameters.split_seed,
            self.durable,
        )?;
        spill.each_text(|part| text.push(part))?;
        text.finish(&self.held.text, parameters.text == SHARED_TEXT)
    }

    fn write_segment(
        &mut self,
        number: usize,
        spill: &Spill,
        text: &WrittenText,
        contexts: u64,
    ) -> Result<()> {
        let hook = &mut self.hooks[number];
        let parameters = &hook.manifest.parameters;
        let source = Spilled::new(spill, number);
        let files = write_lists(
            &hook.path,
            &segment::name(self.first),
            shape(parameters, contexts),
            &source,
            &text.sides,
            &self.held.hooks[number],
            self.durable,
        )?;
        let lists = build::folder(self.first);
        let texts = format!("{}/{}", parameters.text, segment::name(self.first));
        let mut all = with_folder(&lists, files);
        all.extend(with_folder(&texts, text.files.clone()));
        let record = SegmentRecord {
            first_context: self.first,
            contexts,
            n_tokens: text.n_tokens,
            nnz: spill.totals[number].iter().map(|&n| u64::from(n)).sum(),
            lists,
            text: texts,
            files: all,
        };
        #[cfg(test)]
        if self.fail_at == Some(1) {
            return Err(Error::input("asked to fail"));
        }
        let segment = Segment::open(&hook.path, parameters, &record)?;
        let mut manifest = hook.manifest.clone();
        manifest.segments.push(record);
        manifest.complete = false;
        manifest.write(&hook.path, self.durable)?;
        hook.manifest = manifest;
        hook.segments.push(segment);
        Ok(())
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

/// Files by their path relative to the index folder.
pub(crate) fn with_folder(
    folder: &str,
    files: BTreeMap<String, FileRecord>,
) -> BTreeMap<String, FileRecord> {
    let named = files
        .into_iter()
        .map(|(name, record)| (format!("{folder}/{name}"), record));
    named.collect()
}
