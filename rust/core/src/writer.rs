//! Building an index: contexts in, segments out.
//!
//! A segment is written when its last context has been added, or at `finish`. Its bytes depend on
//! its contexts alone: not on the batches they came in, not on threads, not on when or where it was
//! built. So a build that was killed and is run again ends in the same bytes.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crate::batch::{self, Batch, Row};
use crate::error::{Error, Result};
use crate::manifest::{self, Manifest, Parameters};
use crate::segment::{self, Segment, SegmentData};

const LOCK: &str = "lock";
/// Tokens in a segment where nothing else is asked for.
const SEGMENT_TOKENS: u64 = 65_536;

/// The number of contexts of a segment where nothing else is asked for.
#[must_use]
pub fn default_segment_contexts(context_length: u32) -> u64 {
    (SEGMENT_TOKENS / u64::from(context_length.max(1))).max(1)
}

/// Builds an index in a folder, or goes on with one.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    manifest: Manifest,
    /// The segments committed before this writer and by it.
    segments: Vec<Segment>,
    /// Contexts that wait for the rest of their segment.
    waiting: Vec<Row>,
    /// Where the next batch goes, unless it says so itself.
    cursor: u64,
    /// Held as long as the writer is open.
    lock: Option<File>,
}

impl Writer {
    /// Opens the index folder at `path`, which is made if it is not there.
    ///
    /// A folder that holds an index is gone on with if its parameters are the same. What an
    /// interrupted writer left behind is removed. A second writer on one folder is refused.
    pub fn open(path: &Path, parameters: Parameters) -> Result<Self> {
        parameters.check()?;
        refuse_foreign_folder(path)?;
        let folder = path.join(segment::FOLDER);
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let lock = take_lock(path)?;
        let manifest = match Manifest::read(path)? {
            Some(manifest) => {
                compare(path, &manifest.parameters, &parameters)?;
                manifest
            }
            None => Manifest::new(parameters),
        };
        remove_leftovers(path, &manifest)?;
        if manifest.segments.is_empty() && !manifest.complete {
            manifest.write(path)?;
        }
        let segments = manifest
            .segments
            .iter()
            .map(|record| Segment::open(path, &manifest.parameters, record))
            .collect::<Result<_>>()?;
        Ok(Self {
            path: path.to_owned(),
            cursor: manifest.parameters.first_context,
            manifest,
            segments,
            waiting: Vec::new(),
            lock: Some(lock),
        })
    }

    /// What the index is built with.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.manifest.parameters
    }

    /// The first context that the index has not been given yet.
    #[must_use]
    pub fn next_context(&self) -> u64 {
        self.manifest.end() + self.waiting.len() as u64
    }

    /// Where the next batch goes, unless it says so itself.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.cursor
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
        let length = self.parameters().context_length;
        let n_rows = batch.tokens.len() as u64 / u64::from(length);
        let end = first.saturating_add(n_rows);
        self.parameters().check_contexts(end)?;
        let rows = batch::rows(batch, first, length, self.parameters().n_latents)?;
        for (context, row) in (first..).zip(&rows).take_while(|(c, _)| *c < next) {
            if self.hash(context)? != row.hash {
                return Err(Error::input(format!(
                    "context {context} is not the one that the index `{}` holds under this \
                     number; the corpus, the model or the coder changed: build into another folder",
                    self.path.display()
                )));
            }
        }
        for (context, row) in (first..).zip(rows) {
            if context >= next {
                self.waiting.push(row);
                if context + 1 == self.parameters().cut_after(context) {
                    self.commit_or_close()?;
                }
            }
        }
        self.cursor = end;
        Ok(())
    }

    /// Commits what is left, marks the index complete, and lets go of the folder.
    pub fn finish(&mut self) -> Result<()> {
        self.check_open()?;
        if !self.waiting.is_empty() {
            self.commit_or_close()?;
        }
        if !self.manifest.complete {
            self.manifest.complete = true;
            self.manifest.write(&self.path)?;
        }
        self.abandon();
        Ok(())
    }

    /// Drops the contexts that are not committed, and lets go of the folder.
    ///
    /// The index stays as the last commit left it; another writer can go on from there.
    pub fn abandon(&mut self) {
        self.waiting.clear();
        self.lock = None;
    }

    fn check_open(&self) -> Result<()> {
        if self.lock.is_some() {
            return Ok(());
        }
        Err(Error::input(format!(
            "the writer of the index `{}` is closed; open another one to go on",
            self.path.display()
        )))
    }

    /// The hash of a context that the index holds, committed or waiting.
    fn hash(&self, context: u64) -> Result<u64> {
        let end = self.manifest.end();
        if context >= end {
            return Ok(self.waiting[(context - end) as usize].hash);
        }
        let after = self
            .segments
            .partition_point(|segment| segment.first_context() <= context);
        let segment = &self.segments[after - 1];
        Ok(segment.hashes()?[(context - segment.first_context()) as usize])
    }

    /// A failed commit leaves the writer closed: what it had not committed is given up.
    fn commit_or_close(&mut self) -> Result<()> {
        let committed = self.commit();
        if committed.is_err() {
            self.abandon();
        }
        committed
    }

    fn commit(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.waiting);
        let data = layout(&rows, self.manifest.end(), self.parameters());
        drop(rows);
        let record = data.write(&self.path)?;
        let segment = Segment::open(&self.path, self.parameters(), &record)?;
        let mut manifest = self.manifest.clone();
        manifest.segments.push(record);
        manifest.complete = false;
        manifest.write(&self.path)?;
        self.manifest = manifest;
        self.segments.push(segment);
        Ok(())
    }
}

/// Turns rows around: postings by latent, and by position within one.
fn layout(rows: &[Row], first_context: u64, parameters: &Parameters) -> SegmentData {
    let mut offsets = vec![0u64; parameters.n_latents as usize + 1];
    for posting in rows.iter().flat_map(|row| &row.postings) {
        offsets[posting.latent as usize + 1] += 1;
    }
    for latent in 1..offsets.len() {
        offsets[latent] += offsets[latent - 1];
    }
    let mut next = offsets.clone();
    let nnz = offsets[offsets.len() - 1] as usize;
    let mut positions = vec![0u32; nnz];
    let mut activations = vec![0f32; nnz];
    for (context, row) in (0u32..).zip(rows) {
        for posting in &row.postings {
            let slot = &mut next[posting.latent as usize];
            positions[*slot as usize] = context * parameters.context_length + posting.offset;
            activations[*slot as usize] = posting.activation;
            *slot += 1;
        }
    }
    SegmentData {
        first_context,
        tokens: rows.iter().flat_map(|row| &row.tokens).copied().collect(),
        documents: rows
            .iter()
            .flat_map(|row| &row.documents)
            .copied()
            .collect(),
        mask: rows.iter().flat_map(|row| &row.mask).copied().collect(),
        hashes: rows.iter().map(|row| row.hash).collect(),
        offsets,
        positions,
        activations,
    }
}

/// A folder with files in it, none of them an index's, is somebody else's.
fn refuse_foreign_folder(path: &Path) -> Result<()> {
    let ours = [
        manifest::FILE_NAME,
        "manifest.json.tmp",
        LOCK,
        segment::FOLDER,
    ];
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read the folder", path)(error)),
    };
    let mut foreign = None;
    for entry in entries {
        let name = entry
            .map_err(Error::io("read the folder", path))?
            .file_name();
        if name == manifest::FILE_NAME {
            return Ok(());
        }
        if !ours.iter().any(|&our| name == our) {
            foreign = Some(name);
        }
    }
    foreign.map_or(Ok(()), |name| {
        Err(Error::input(format!(
            "the folder `{}` holds `{}` and no index; name an empty or a new folder",
            path.display(),
            name.display()
        )))
    })
}

fn take_lock(path: &Path) -> Result<File> {
    let lock_path = path.join(LOCK);
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(Error::io("open", &lock_path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::input(format!(
            "another writer is at work on the index `{}`; wait for it or stop it",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &lock_path)(error)),
    }
}

fn compare(path: &Path, found: &Parameters, asked: &Parameters) -> Result<()> {
    let differs = |name: &str, found: &dyn std::fmt::Display, asked: &dyn std::fmt::Display| {
        Err(Error::input(format!(
            "the index `{}` has `{name}` {found}, and {asked} is asked for; \
             ask for the same or build into another folder",
            path.display()
        )))
    };
    if found.n_latents != asked.n_latents {
        return differs("n_latents", &found.n_latents, &asked.n_latents);
    }
    if found.context_length != asked.context_length {
        return differs(
            "context_length",
            &found.context_length,
            &asked.context_length,
        );
    }
    if found.window != asked.window {
        return differs("window", &found.window, &asked.window);
    }
    if found.first_context != asked.first_context {
        return differs("first_context", &found.first_context, &asked.first_context);
    }
    if found.segment_contexts != asked.segment_contexts {
        return differs(
            "segment_contexts",
            &found.segment_contexts,
            &asked.segment_contexts,
        );
    }
    if found.split_seed != asked.split_seed {
        return differs("split_seed", &found.split_seed, &asked.split_seed);
    }
    let keys = found.attributes.keys().chain(asked.attributes.keys());
    for key in keys {
        let (found, asked) = (found.attributes.get(key), asked.attributes.get(key));
        if found != asked {
            let show = |value: Option<&String>| value.map_or("unset".into(), |v| format!("`{v}`"));
            return differs(&format!("attributes.{key}"), &show(found), &show(asked));
        }
    }
    Ok(())
}

/// Removes what was written and never committed.
fn remove_leftovers(path: &Path, manifest: &Manifest) -> Result<()> {
    let temporary = manifest::temporary(path);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("remove", &temporary)(error));
        }
        _ => {}
    }
    let folder = path.join(segment::FOLDER);
    for entry in fs::read_dir(&folder).map_err(Error::io("read the folder", &folder))? {
        let entry = entry.map_err(Error::io("read the folder", &folder))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let stem = name.strip_suffix(segment::UNFINISHED).unwrap_or(name);
        let ours = stem.len() == 20 && stem.bytes().all(|b| b.is_ascii_digit());
        let committed = manifest
            .segments
            .iter()
            .any(|record| segment::name(record.first_context) == name);
        if ours && !committed {
            let leftover = entry.path();
            fs::remove_dir_all(&leftover).map_err(Error::io("remove", &leftover))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{corpora, files, scratch};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn bytes_do_not_depend_on_batches(corpus in corpora(), batch in 1usize..9) {
            let folder = scratch();
            let (whole, split) = (folder.path().join("whole"), folder.path().join("split"));
            corpus.build(&whole, corpus.contexts().max(1)).unwrap();
            corpus.build(&split, batch).unwrap();
            prop_assert!(files(&whole) == files(&split));
        }

        #[test]
        fn an_interrupted_build_run_again_ends_in_the_same_bytes(
            corpus in corpora(), reached in 0usize..9, batch in 1usize..4, jump: bool,
        ) {
            let folder = scratch();
            let (once, twice) = (folder.path().join("once"), folder.path().join("twice"));
            corpus.build(&once, 2).unwrap();
            {
                let mut writer = Writer::open(&twice, corpus.parameters.clone()).unwrap();
                corpus.add(&mut writer, 0, reached.min(corpus.contexts())).unwrap();
                writer.abandon();
            }
            if jump {
                let mut writer = Writer::open(&twice, corpus.parameters.clone()).unwrap();
                let from = (writer.next_context() - corpus.parameters.first_context) as usize;
                writer.cursor = writer.next_context();
                corpus.add(&mut writer, from, corpus.contexts()).unwrap();
                writer.finish().unwrap();
            } else {
                corpus.build(&twice, batch).unwrap();
            }
            prop_assert!(files(&once) == files(&twice));
            corpus.build(&twice, batch).unwrap();
            prop_assert!(files(&once) == files(&twice));
        }

        #[test]
        fn a_finished_index_can_be_extended(corpus in corpora(), reached in 0usize..9) {
            let folder = scratch();
            let path = folder.path().join("index");
            let mut writer = Writer::open(&path, corpus.parameters.clone()).unwrap();
            corpus.add(&mut writer, 0, reached.min(corpus.contexts())).unwrap();
            writer.finish().unwrap();
            corpus.build(&path, 2).unwrap();
            let index = crate::Index::open(&path, false).unwrap();
            prop_assert_eq!(index.n_contexts() as usize, corpus.contexts());
            for latent in 0..index.n_latents() {
                let postings = index.postings(latent).unwrap();
                let found: Vec<_> = postings.positions.into_iter().zip(postings.activations).collect();
                prop_assert_eq!(found, corpus.kept(latent));
            }
            for segment in index.segments() {
                let last = segment.first_context() + segment.contexts() as u64 - 1;
                prop_assert!(last < corpus.parameters.cut_after(segment.first_context()));
            }
        }
    }

    #[test]
    fn a_second_writer_is_refused_until_the_first_lets_go() {
        let folder = scratch();
        let parameters = Parameters {
            n_latents: 2,
            context_length: 4,
            window: 4,
            first_context: 0,
            segment_contexts: 2,
            split_seed: 0,
            attributes: std::collections::BTreeMap::new(),
        };
        let mut first = Writer::open(folder.path(), parameters.clone()).unwrap();
        let refused = Writer::open(folder.path(), parameters.clone()).unwrap_err();
        assert!(refused.to_string().contains("another writer"), "{refused}");
        first.abandon();
        Writer::open(folder.path(), parameters).unwrap();
    }
}
