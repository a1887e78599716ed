//! The spill: what was added to the segment that is still open, on disk.
//!
//! One file of chunks (see `runs`), appended by a thread of its own, so that the next chunks are
//! filled while the last are written. It is never synced: a chunk that was torn is known by its
//! hashes, and the next writer keeps those before it. So a build that was killed goes on where its
//! last chunk ended.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use xxhash_rust::xxh3::xxh3_64;

use crate::check::Piece;
use crate::error::{Error, Result};
use crate::runs::{Chunk, HEAD, Head, Hook, Run, read_u64s, runs};
use crate::segment;
use crate::text::TextPart;

/// The folder of the spill within the index.
pub(crate) const FOLDER: &str = "building";
const FILE: &str = "spill.bin";

/// The spill of one open segment.
#[derive(Debug)]
pub(crate) struct Spill {
    folder: PathBuf,
    path: PathBuf,
    file: Arc<File>,
    /// The thread that writes what was appended last.
    writing: Option<JoinHandle<Written>>,
    /// Bytes that are valid once it has ended.
    end: u64,
    context_length: u64,
    pub(crate) hooks: Vec<Hook>,
    chunks: Vec<Placed>,
    /// Positions that the chunks hold.
    pub(crate) positions: u64,
    pub(crate) largest_token: u32,
    /// The hashes of the contexts that an interrupted writer left.
    pub(crate) held: Held,
    /// By hookpoint, of each latent: its postings.
    pub(crate) totals: Vec<Vec<u32>>,
}

/// Chunks that were to be written, and the first that was not.
type Written = (Vec<Chunk>, Option<(usize, std::io::Error)>);

/// A chunk in the file.
#[derive(Debug)]
struct Placed {
    /// Where it begins, in bytes.
    at: u64,
    head: Head,
    runs: Vec<Option<Run>>,
}

/// One run of a chunk, for reading a part of it.
pub(crate) struct RunReader<'a> {
    spill: &'a Spill,
    at: u64,
    run: Run,
    /// The segment's position of the chunk's first.
    pub(crate) start: u32,
}

impl Spill {
    /// Opens the spill of the segment that begins at `first_context`, with what an interrupted
    /// writer left in it; `identity` is of all that must be the same for that.
    pub(crate) fn open(
        index: &Path,
        first_context: u64,
        context_length: u32,
        hooks: Vec<Hook>,
        identity: u64,
    ) -> Result<Self> {
        let folder = index.join(FOLDER).join(segment::name(first_context));
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let path = folder.join(FILE);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let n = hooks.len();
        let mut spill = Self {
            folder,
            file: Arc::new(file),
            writing: None,
            end: 0,
            context_length: u64::from(context_length),
            chunks: Vec::new(),
            positions: 0,
            largest_token: 0,
            held: Held::new(n),
            totals: hooks
                .iter()
                .map(|hook| vec![0; hook.n_latents as usize])
                .collect(),
            hooks,
            path,
        };
        spill.recover(identity)?;
        Ok(spill)
    }

    /// Whether there is one of the segment that begins at `first_context`.
    pub(crate) fn is_there(index: &Path, first_context: u64) -> bool {
        index
            .join(FOLDER)
            .join(segment::name(first_context))
            .join(FILE)
            .is_file()
    }

    /// Contexts that it holds whole.
    pub(crate) fn contexts(&self) -> u64 {
        self.positions / self.context_length
    }

    /// Begins to append chunks, in their order; returns those before them, which are written.
    ///
    /// Nothing of these may be read before [`Spill::settle`].
    pub(crate) fn append(&mut self, chunks: Vec<Chunk>) -> Result<Vec<Chunk>> {
        let before = self.settle()?;
        let kept = self.chunks.len();
        for chunk in &chunks {
            let Some((head, runs)) = self.parse(&chunk.words) else {
                return Err(Error::input("a chunk cannot be read back"));
            };
            self.take(head, runs, &chunk.words);
        }
        let file = Arc::clone(&self.file);
        let write = move || {
            let failed = chunks.iter().enumerate().find_map(|(at, chunk)| {
                let written = (&*file).write_all(bytemuck::cast_slice(&chunk.words));
                Some((at, written.err()?))
            });
            (chunks, failed)
        };
        match thread::Builder::new().spawn(write) {
            Ok(writing) => self.writing = Some(writing),
            Err(error) => return Err(self.forget(kept, error)),
        }
        Ok(before)
    }

    /// Waits until all that was appended stands in the file; returns the chunks.
    ///
    /// An error leaves the file as it was before the chunk that did not fit.
    pub(crate) fn settle(&mut self) -> Result<Vec<Chunk>> {
        let Some(writing) = self.writing.take() else {
            return Ok(Vec::new());
        };
        let Ok((chunks, failed)) = writing.join() else {
            return Err(Error::input(format!(
                "the thread that writes `{}` ended early",
                self.path.display()
            )));
        };
        let Some((at, error)) = failed else {
            return Ok(chunks);
        };
        let kept = self.chunks.len() - (chunks.len() - at);
        Err(self.forget(kept, error))
    }

    /// Notes that the chunks from the one at `kept` on could not be written.
    fn forget(&mut self, kept: usize, error: std::io::Error) -> Error {
        if let Some(first) = self.chunks.drain(kept..).next() {
            self.end = first.at;
            self.positions = first.head.start;
        }
        // On a full disk the half of a chunk only takes room; its hash would give it away.
        let _ = self.file.set_len(self.end);
        Error::io("write", &self.path)(error)
    }

    /// The hashes of the contexts in a chunk that stands in the file, which the writer keeps.
    fn take_hashes(&mut self, head: &Head, runs: &[Option<Run>], words: &[u32]) {
        let first = (head.start / self.context_length) as usize;
        let hashes = |start: u64| read_u64s(&words[start as usize..][..2 * head.contexts]);
        self.held.add_text(first, &hashes(head.text_hashes().start));
        for (hook, run) in runs.iter().enumerate() {
            let none = || vec![0; head.contexts];
            self.held.add(
                hook,
                first,
                &run.map_or_else(none, |run| hashes(run.hashes)),
            );
        }
    }

    fn parse(&self, words: &[u32]) -> Option<(Head, Vec<Option<Run>>)> {
        let head = Head::read(words.first_chunk::<HEAD>()?)?;
        let runs = runs(&head, words, &self.hooks)?;
        Some((head, runs))
    }

    /// Notes a chunk that stands at the end of the file.
    fn take(&mut self, head: Head, runs: Vec<Option<Run>>, words: &[u32]) {
        for (totals, run) in self.totals.iter_mut().zip(&runs) {
            let Some(run) = run else { continue };
            let starts = &words[run.starts as usize..][..=totals.len()];
            for (total, edges) in totals.iter_mut().zip(starts.windows(2)) {
                *total += edges[1] - edges[0];
            }
        }
        self.positions = head.start + head.positions as u64;
        self.largest_token = self.largest_token.max(head.largest_token);
        let at = self.end;
        self.end += 4 * words.len() as u64;
        self.chunks.push(Placed { at, head, runs });
    }

    /// Finds the chunks that an interrupted writer left, and cuts off what follows the last whole
    /// context.
    fn recover(&mut self, identity: u64) -> Result<()> {
        let io = |error| Error::io("read", &self.path.clone())(error);
        let length = self.file.metadata().map_err(io)?.len();
        let mut found = [0u8; 8];
        let known = length >= 8 && {
            self.file.read_exact_at(&mut found, 0).map_err(io)?;
            u64::from_le_bytes(found) == identity
        };
        if !known {
            self.file
                .set_len(0)
                .map_err(Error::io("write", &self.path))?;
            let mut file = &*self.file;
            file.write_all(&identity.to_le_bytes())
                .map_err(Error::io("write", &self.path))?;
            self.end = 8;
            return Ok(());
        }
        self.end = 8;
        // What follows the last whole context is found first, so that nothing of it is noted.
        let mut whole = (0, self.end);
        let mut chunks = Vec::new();
        let (mut at, mut position) = (self.end, 0);
        while let Some(words) = self.read_chunk(at, length)? {
            let Some((head, runs)) = self.parse(&words) else {
                break;
            };
            if head.start != position
                || runs
                    .iter()
                    .zip(&self.hooks)
                    .any(|(r, h)| h.kept && r.is_none())
            {
                break;
            }
            position += head.positions as u64;
            at += 4 * words.len() as u64;
            chunks.push((head, runs, at));
            if position.is_multiple_of(self.context_length) {
                whole = (chunks.len(), at);
            }
        }
        chunks.truncate(whole.0);
        for (head, runs, end) in chunks {
            let begin = self.end;
            if let Some(words) = self.read_chunk(begin, end)? {
                self.take_hashes(&head, &runs, &words);
                self.take(head, runs, &words);
            }
        }
        self.file
            .set_len(self.end)
            .map_err(Error::io("write", &self.path))?;
        let mut file = &*self.file;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(self.end))
            .map_err(Error::io("write", &self.path))?;
        Ok(())
    }

    /// The words of the chunk at `at`; None if no valid one is there.
    fn read_chunk(&self, at: u64, length: u64) -> Result<Option<Vec<u32>>> {
        if length < at + 4 * HEAD as u64 {
            return Ok(None);
        }
        let mut head = [0u32; HEAD];
        self.read(at, &mut head)?;
        let Some(head) = Head::read(&head) else {
            return Ok(None);
        };
        let words = HEAD as u64 + head.words;
        if words > (length - at) / 4 {
            return Ok(None);
        }
        let mut all = vec![0u32; words as usize];
        self.read(at, &mut all)?;
        Ok(head.matches(&all[HEAD..]).then_some(all))
    }

    fn read(&self, at: u64, words: &mut [u32]) -> Result<()> {
        self.file
            .read_exact_at(bytemuck::cast_slice_mut(words), at)
            .map_err(Error::io("read", &self.path))
    }

    /// Gives each chunk's text, in order.
    pub(crate) fn each_text(&self, mut visit: impl FnMut(&TextPart) -> Result<()>) -> Result<()> {
        let mut words = Vec::new();
        for chunk in &self.chunks {
            let range = chunk.head.text();
            words.resize((range.end - range.start) as usize, 0);
            self.read(chunk.at + 4 * range.start, &mut words)?;
            visit(&chunk.head.read_text(&words))?;
        }
        Ok(())
    }

    /// The runs of one hookpoint, in the order of their positions.
    pub(crate) fn runs(&self, hook: usize) -> impl Iterator<Item = RunReader<'_>> {
        self.chunks.iter().filter_map(move |chunk| {
            Some(RunReader {
                spill: self,
                at: chunk.at,
                run: chunk.runs[hook]?,
                start: chunk.head.start as u32,
            })
        })
    }

    /// Removes it from the disk.
    pub(crate) fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.folder).map_err(Error::io("remove", &self.folder))?;
        if let Some(parent) = self.folder.parent() {
            // Not if another segment's is in it.
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        // What could not be written, the next writer of the folder finds missing.
        let _ = self.settle();
    }
}

impl RunReader<'_> {
    /// Reads the starts of latents `from..=to` into `starts` and appends the pairs between them.
    pub(crate) fn read(
        &self,
        from: usize,
        to: usize,
        starts: &mut [u32],
        pairs: &mut Vec<u32>,
    ) -> Result<()> {
        let at = |word: u64| self.at + 4 * word;
        self.spill.read(at(self.run.starts + from as u64), starts)?;
        let (first, last) = (starts[0], starts[to - from]);
        if last < first || last > self.run.postings {
            return Err(Error::input(format!(
                "`{}` changed while it was read",
                self.spill.path.display()
            )));
        }
        let begin = pairs.len();
        pairs.resize(begin + (last - first) as usize, 0);
        self.spill
            .read(at(self.run.pairs + u64::from(first)), &mut pairs[begin..])
    }
}

/// The hashes of the contexts of an open segment.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Of each context's text.
    pub(crate) text: Vec<u64>,
    /// By hookpoint, of each context's postings.
    pub(crate) hooks: Vec<Vec<u64>>,
}

impl Held {
    pub(crate) fn new(hooks: usize) -> Self {
        Self {
            text: Vec::new(),
            hooks: vec![Vec::new(); hooks],
        }
    }

    /// Adds hashes of the text of contexts `first..`: the parts of a long context add up.
    pub(crate) fn add_text(&mut self, first: usize, hashes: &[u64]) {
        add_hashes(&mut self.text, first, hashes);
    }

    /// Adds hashes of the postings of contexts `first..`.
    pub(crate) fn add(&mut self, hook: usize, first: usize, hashes: &[u64]) {
        add_hashes(&mut self.hooks[hook], first, hashes);
    }

    /// Adds those of a piece, in a segment that begins at `base`.
    pub(crate) fn add_piece(&mut self, base: u64, piece: &Piece) {
        let first = (piece.context - base) as usize;
        self.add_text(first, &piece.hashes);
        for (hook, part) in piece.hooks.iter().enumerate() {
            self.add(hook, first, &part.hashes);
        }
    }
}

fn add_hashes(all: &mut Vec<u64>, first: usize, hashes: &[u64]) {
    all.resize(all.len().max(first + hashes.len()), 0);
    for (sum, &hash) in all[first..].iter_mut().zip(hashes) {
        *sum = sum.wrapping_add(hash);
    }
}

/// A number that stands for all of these texts.
pub(crate) fn identity<'a>(parts: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut all = Vec::new();
    for part in parts {
        all.extend_from_slice(&xxh3_64(part.as_bytes()).to_le_bytes());
    }
    xxh3_64(&all)
}
