//! Reading an index: its texts and postings, across its segments.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::list::Buffers;
use crate::manifest::{Manifest, Parameters};
use crate::ranked::Ranked;
use crate::segment::Segment;
use crate::sides::Derived;

thread_local! {
    /// Working memory of [`Index::postings`].
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// An open index.
///
/// Opening maps the files and compares their sizes. A file's checksum is compared when it is first
/// looked at. What is derived (sides, eligibility) is computed once, when first asked for.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    manifest: Manifest,
    segments: Vec<Segment>,
    pub(crate) derived: Derived,
}

/// The postings of one latent over the whole index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Postings {
    /// Positions (`context * S + offset`), ascending.
    pub positions: Vec<u64>,
    /// Activations, above 0, of the index's precision.
    pub activations: Vec<f32>,
}

/// The text of some contexts, one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contexts {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Document ids.
    pub documents: Vec<u64>,
    /// Which tokens count.
    pub mask: Vec<bool>,
}

impl Index {
    /// Opens the index at `path`; one whose build has not reached its end only if `unfinished`.
    ///
    /// Beside a writer that merges segments, those of the newest manifest are opened.
    pub fn open(path: &Path, unfinished: bool) -> Result<Self> {
        let mut manifest = Self::manifest(path, unfinished)?;
        loop {
            let opened = manifest
                .segments
                .iter()
                .map(|record| Segment::open(path, &manifest.parameters, record))
                .collect::<Result<_>>();
            // The files of a manifest that was replaced meanwhile may be gone.
            let newer = match &opened {
                Ok(_) => None,
                Err(_) => Some(Self::manifest(path, unfinished)?).filter(|new| *new != manifest),
            };
            match newer {
                Some(newer) => manifest = newer,
                None => {
                    return Ok(Self {
                        path: path.to_owned(),
                        segments: opened?,
                        manifest,
                        derived: Derived::default(),
                    });
                }
            }
        }
    }

    fn manifest(path: &Path, unfinished: bool) -> Result<Manifest> {
        let manifest = Manifest::read(path)?.ok_or_else(|| {
            Error::input(format!(
                "there is no index at `{}`; build one with `IndexWriter`",
                path.display()
            ))
        })?;
        if !manifest.complete && !unfinished {
            return Err(Error::input(format!(
                "the index `{}` is not finished: it is committed up to context {}; run the same \
                 build again, or open it with `unfinished=True`",
                path.display(),
                manifest.end()
            )));
        }
        Ok(manifest)
    }

    /// The index folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it was built with.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.manifest.parameters
    }

    /// Whether its build reached the end.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.manifest.complete
    }

    /// A hash of the whole content: of the parameters and of every file's checksum.
    pub fn hash(&self) -> Result<String> {
        self.manifest.checksum(&self.path)
    }

    /// The segments, in the order of their contexts.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Number of latents.
    #[must_use]
    pub fn n_latents(&self) -> u32 {
        self.parameters().n_latents
    }

    /// Tokens in a context.
    #[must_use]
    pub fn context_length(&self) -> usize {
        self.parameters().context_length as usize
    }

    /// Tokens in a window.
    #[must_use]
    pub fn window(&self) -> usize {
        self.parameters().window as usize
    }

    /// Number of contexts.
    #[must_use]
    pub fn n_contexts(&self) -> u64 {
        self.manifest.end() - self.parameters().first_context
    }

    /// Number of windows, those without an unmasked token included.
    #[must_use]
    pub fn n_windows(&self) -> usize {
        self.n_contexts() as usize * (self.context_length() / self.window())
    }

    /// Number of unmasked tokens.
    #[must_use]
    pub fn n_tokens(&self) -> u64 {
        self.manifest.segments.iter().map(|s| s.n_tokens).sum()
    }

    /// Number of postings.
    #[must_use]
    pub fn nnz(&self) -> u64 {
        self.manifest.segments.iter().map(|s| s.nnz).sum()
    }

    /// The position of the first token.
    #[must_use]
    pub fn first_position(&self) -> u64 {
        self.parameters().first_context * self.context_length() as u64
    }

    /// The position after the last token.
    #[must_use]
    pub fn end_position(&self) -> u64 {
        self.manifest.end() * self.context_length() as u64
    }

    /// The position of a segment's first token.
    #[must_use]
    pub fn segment_position(&self, segment: &Segment) -> u64 {
        segment.first_context() * self.context_length() as u64
    }

    /// Whether every activation is kept in bf16; else in 8 bits, within 1/32.
    #[must_use]
    pub fn lossless(&self) -> bool {
        self.parameters().lossless
    }

    /// Postings of each latent; decodes none.
    pub fn counts(&self) -> Result<Vec<u64>> {
        let counts: Result<_> = (0..self.n_latents())
            .into_par_iter()
            .map(|latent| Ok(Ranked::open(self, latent)?.n_postings()))
            .collect();
        self.intact()?;
        counts
    }

    /// All postings of one latent.
    pub fn postings(&self, latent: u32) -> Result<Postings> {
        let ranked = Ranked::open(self, latent)?;
        let mut postings = Postings::default();
        BUFFERS.with_borrow_mut(|buffers| {
            ranked.postings(buffers, &mut postings.positions, &mut postings.activations)?;
            buffers.shrink();
            Ok(())
        })?;
        self.intact()?;
        Ok(postings)
    }

    /// Decodes the window and the code of every posting of some latents, in stored order, into
    /// buffers that are used again; returns how many. For measuring.
    pub fn decode(&self, latents: &[u32]) -> Result<u64> {
        let (mut windows, mut codes, mut n) = (Vec::new(), Vec::new(), 0);
        for &latent in latents {
            self.check_latent(latent)?;
            for segment in &self.segments {
                windows.clear();
                codes.clear();
                let stored = segment.list(latent)?.stored(&mut windows, &mut codes);
                stored.map_err(|damaged| segment.damaged(latent, damaged))?;
                n += codes.len() as u64;
            }
        }
        Ok(n)
    }

    /// The text of the contexts with these numbers.
    pub fn contexts(&self, ids: &[u64]) -> Result<Contexts> {
        let length = self.context_length();
        let mut contexts = Contexts::default();
        for &id in ids {
            let (segment, row) = self.find_context(id)?;
            let span = row * length..(row + 1) * length;
            let mask = segment.mask()?;
            segment.tokens_into(span.clone(), &mut contexts.tokens)?;
            segment.documents_into(span.clone(), &mut contexts.documents)?;
            contexts.mask.extend(span.map(|p| mask.get(p)));
        }
        self.intact()?;
        Ok(contexts)
    }

    /// The activations of one latent on `length` tokens from each position on: `n * length` values,
    /// 0 where it is silent.
    ///
    /// A stretch must lie within one context.
    pub fn activations(&self, latent: u32, starts: &[u64], length: usize) -> Result<Vec<f32>> {
        let per_context = self.context_length();
        for &start in starts {
            self.check_position(start)?;
            let offset = (start % per_context as u64) as usize;
            if length > per_context - offset {
                return Err(Error::input(format!(
                    "{length} tokens from position {start} on reach beyond their context of \
                     {per_context}"
                )));
            }
        }
        let postings = self.postings(latent)?;
        let mut values = vec![0.0; starts.len() * length];
        if length > 0 {
            for (row, &start) in values.chunks_exact_mut(length).zip(starts) {
                postings.fill(start, row);
            }
        }
        Ok(values)
    }

    /// Compares the checksum of every file.
    pub fn verify(&self) -> Result<()> {
        self.segments.iter().try_for_each(Segment::verify)
    }

    /// [`Index::verify`] of one segment, by its place.
    pub fn verify_segment(&self, segment: usize) -> Result<()> {
        self.segments.get(segment).map_or(Ok(()), Segment::verify)
    }

    /// Whether every file is as long as it was; to be asked before an answer is given.
    pub(crate) fn intact(&self) -> Result<()> {
        self.segments.iter().try_for_each(Segment::intact)
    }

    /// Refuses a latent id that the index does not have.
    pub fn check_latent(&self, latent: u32) -> Result<()> {
        if latent < self.n_latents() {
            return Ok(());
        }
        Err(Error::input(format!(
            "latent {latent} is not in the index `{}`, which has {} latents",
            self.path.display(),
            self.n_latents()
        )))
    }

    /// Refuses a position that the index does not have.
    pub(crate) fn check_position(&self, position: u64) -> Result<()> {
        if (self.first_position()..self.end_position()).contains(&position) {
            return Ok(());
        }
        Err(Error::input(format!(
            "position {position} is not in the index, which holds positions {} to {}",
            self.first_position(),
            self.end_position()
        )))
    }

    /// The segment that holds a context, and the context's row in it.
    pub(crate) fn find_context(&self, id: u64) -> Result<(&Segment, usize)> {
        let after = self.segments.partition_point(|s| s.first_context() <= id);
        if let Some(segment) = after.checked_sub(1).map(|at| &self.segments[at]) {
            let row = (id - segment.first_context()) as usize;
            if row < segment.contexts() {
                return Ok((segment, row));
            }
        }
        Err(Error::input(format!(
            "context {id} is not in the index `{}`, which holds contexts {} to {}",
            self.path.display(),
            self.parameters().first_context,
            self.manifest.end()
        )))
    }
}

impl Postings {
    /// Where the postings at `position` and after begin.
    #[must_use]
    pub fn rank(&self, position: u64) -> usize {
        self.positions.partition_point(|&p| p < position)
    }

    /// Writes the activations of the tokens from `start` on into `row`, which holds zeros.
    pub fn fill(&self, start: u64, row: &mut [f32]) {
        let end = start + row.len() as u64;
        for posting in self.rank(start)..self.positions.len() {
            let position = self.positions[posting];
            if position >= end {
                break;
            }
            row[(position - start) as usize] = self.activations[posting];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::testing::corpora;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_added_is_read_back(corpus in corpora()) {
            let (_folder, index) = corpus.index();
            let counts = index.counts().unwrap();
            for latent in 0..index.n_latents() {
                let expected = corpus.kept(latent);
                let postings = index.postings(latent).unwrap();
                prop_assert_eq!(counts[latent as usize], expected.len() as u64);
                let found: Vec<_> = postings.positions.into_iter().zip(postings.activations).collect();
                prop_assert_eq!(&found, &expected);
                let starts: Vec<u64> = (0..corpus.contexts() as u64)
                    .map(|c| corpus.base() + c * corpus.length() as u64).collect();
                let values = index.activations(latent, &starts, corpus.length()).unwrap();
                let mut plain = vec![0.0; corpus.tokens.len()];
                for (position, activation) in expected {
                    plain[(position - corpus.base()) as usize] = activation;
                }
                prop_assert_eq!(values, plain);
            }
            let first = corpus.parameters.first_context;
            let ids: Vec<u64> = (first..first + corpus.contexts() as u64).collect();
            let text = index.contexts(&ids).unwrap();
            prop_assert_eq!(text.tokens, corpus.tokens);
            prop_assert_eq!(text.documents, corpus.documents);
            prop_assert_eq!(index.n_tokens(), corpus.mask.iter().filter(|&&m| m).count() as u64);
            prop_assert_eq!(text.mask, corpus.mask);
            index.verify().unwrap();
        }
    }
}
