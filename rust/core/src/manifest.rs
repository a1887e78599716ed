//! The manifest: what an index is, and the only place where a segment becomes part of it.
//!
//! `manifest.json` holds the format's name and version, the parameters, every segment with the
//! path, the size and the hash of each of its files, and a checksum of all that. It is replaced as
//! one: written beside itself, synced, renamed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};

/// The format's name, first in every manifest.
const FORMAT: &str = "glossator-index";
/// The format version that this crate writes, and the newest that it reads.
pub const VERSION: u64 = 1;
/// The largest number of latents.
const MAX_LATENTS: u32 = 1 << 24;
/// The largest number of tokens in a window.
const MAX_WINDOW: u32 = 1 << 16;
/// The largest number of positions in a segment: a list's bits are counted in 32 bits.
const MAX_POSITIONS: u64 = 1 << 27;
/// The text's folder within the index folder.
pub(crate) const TEXT: &str = "text";
/// The text's folder beside the index folder.
pub(crate) const SHARED_TEXT: &str = "../text";
/// The manifest's name in the index folder.
pub(crate) const FILE_NAME: &str = "manifest.json";

/// What an index is built with; fixed when it is created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Number of latents `L`; ids run from 0.
    pub n_latents: u32,
    /// Tokens in a context, `S`.
    pub context_length: u32,
    /// Tokens in a window; divides `context_length`.
    pub window: u32,
    /// Number of the first context.
    pub first_context: u64,
    /// Segments end where the context number is a multiple of this.
    pub segment_contexts: u64,
    /// Seed of the division of documents into sides.
    pub split_seed: u64,
    /// Whether every bf16 is kept; otherwise the 8-bit codes, and the strongest peaks exactly.
    pub lossless: bool,
    /// The folder of the text, relative to the index folder: `text`, or `../text` where several
    /// hookpoints share it.
    pub text: String,
    /// Free text that describes the index: hookpoint, model, corpus.
    pub attributes: BTreeMap<String, String>,
}

/// The size and hash of one file of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileRecord {
    pub(crate) bytes: u64,
    /// xxh3-64 of the file's page hashes (see `mapped`), 16 hexadecimal digits.
    pub(crate) xxh3: String,
}

/// One committed segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SegmentRecord {
    pub(crate) first_context: u64,
    pub(crate) contexts: u64,
    /// Unmasked tokens.
    pub(crate) n_tokens: u64,
    pub(crate) nnz: u64,
    /// The folder of the lists, relative to the index folder.
    pub(crate) lists: String,
    /// The folder of the text, relative to the index folder.
    pub(crate) text: String,
    /// Every file of both, by its path relative to the index folder.
    pub(crate) files: BTreeMap<String, FileRecord>,
}

/// All that `manifest.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) parameters: Parameters,
    /// Whether the last build reached its end.
    pub(crate) complete: bool,
    pub(crate) segments: Vec<SegmentRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    format: String,
    version: u64,
    /// xxh3-64 of `index` in compact JSON.
    xxh3: String,
    index: Manifest,
}

/// The first two fields alone, which every version has.
#[derive(Deserialize)]
struct Header {
    format: String,
    version: u64,
}

pub(crate) fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

impl Parameters {
    /// Checks every limit; the text names the parameter.
    pub(crate) fn check(&self) -> Result<()> {
        if self.n_latents == 0 || self.n_latents > MAX_LATENTS {
            return Err(Error::input(format!(
                "`n_latents` is {}; it must be between 1 and {MAX_LATENTS}",
                self.n_latents
            )));
        }
        if self.window == 0 || self.context_length == 0 {
            return Err(Error::input(format!(
                "`context_length` is {} and `window` is {}; both must be at least 1",
                self.context_length, self.window
            )));
        }
        if self.window > MAX_WINDOW {
            return Err(Error::input(format!(
                "`window` is {}; it must be at most {MAX_WINDOW}",
                self.window
            )));
        }
        if !self.context_length.is_multiple_of(self.window) {
            return Err(Error::input(format!(
                "`context_length` {} is not a multiple of `window` {}",
                self.context_length, self.window
            )));
        }
        let positions = self
            .segment_contexts
            .checked_mul(u64::from(self.context_length));
        if self.segment_contexts == 0 || positions.is_none_or(|n| n > MAX_POSITIONS) {
            return Err(Error::input(format!(
                "`segment_contexts` is {}; a segment must hold between 1 context and \
                 {MAX_POSITIONS} tokens",
                self.segment_contexts
            )));
        }
        if self.text != TEXT && self.text != SHARED_TEXT {
            return Err(Error::input(format!(
                "`text` is `{}`; it must be `{TEXT}` or `{SHARED_TEXT}`",
                self.text
            )));
        }
        self.check_contexts(self.first_context)
    }

    /// Refuses a context number whose positions would not fit 64 bits.
    pub(crate) fn check_contexts(&self, end: u64) -> Result<()> {
        if end.checked_mul(u64::from(self.context_length)).is_none() {
            return Err(Error::input(format!(
                "context {end} of {} tokens has positions above 2^64",
                self.context_length
            )));
        }
        Ok(())
    }

    /// The end of the segment that `context` belongs to.
    pub(crate) fn cut_after(&self, context: u64) -> u64 {
        (context / self.segment_contexts + 1).saturating_mul(self.segment_contexts)
    }
}

impl SegmentRecord {
    /// Whether all its paths lie where an index keeps its files.
    fn is_inside(&self) -> bool {
        let plain = |name: &str| !name.is_empty() && name != ".." && !name.contains('/');
        let text = [TEXT, SHARED_TEXT].iter().any(|folder| {
            let rest = self
                .text
                .strip_prefix(folder)
                .and_then(|r| r.strip_prefix('/'));
            rest.is_some_and(plain)
        });
        let lists = self.lists.strip_prefix("segments/").is_some_and(plain);
        let inside = |path: &String| {
            let name = path
                .rsplit_once('/')
                .map(|(folder, name)| (folder, plain(name)));
            name == Some((self.text.as_str(), true)) || name == Some((self.lists.as_str(), true))
        };
        text && lists && self.files.keys().all(inside)
    }
}

impl Manifest {
    pub(crate) fn new(parameters: Parameters) -> Self {
        Self {
            parameters,
            complete: false,
            segments: Vec::new(),
        }
    }

    /// The first context that is not committed.
    pub(crate) fn end(&self) -> u64 {
        self.segments
            .last()
            .map_or(self.parameters.first_context, |s| {
                s.first_context + s.contexts
            })
    }

    /// Reads the manifest of the index at `index`; `None` where there is none.
    pub(crate) fn read(index: &Path) -> Result<Option<Self>> {
        let path = index.join(FILE_NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let corrupt = |problem: String| Error::Corrupt {
            index: index.to_owned(),
            place: format!("`{FILE_NAME}`"),
            problem,
        };
        let header: Header =
            serde_json::from_slice(&text).map_err(|e| corrupt(format!("cannot be read: {e}")))?;
        if header.format != FORMAT {
            return Err(corrupt(format!(
                "has format `{}`, not `{FORMAT}`",
                header.format
            )));
        }
        if header.version > VERSION {
            return Err(Error::input(format!(
                "the index `{}` has format version {}, and this glossator reads up to version \
                 {VERSION}; upgrade glossator",
                index.display(),
                header.version
            )));
        }
        if header.version < VERSION {
            return Err(Error::input(format!(
                "the index `{}` has format version {}, which this glossator no longer reads (it \
                 reads version {VERSION}); build the index again",
                index.display(),
                header.version
            )));
        }
        let envelope: Envelope =
            serde_json::from_slice(&text).map_err(|e| corrupt(format!("cannot be read: {e}")))?;
        if envelope.xxh3 != envelope.index.checksum(index)? {
            return Err(corrupt("does not match its checksum".to_owned()));
        }
        envelope
            .index
            .check()
            .map_err(|e| corrupt(format!("is not valid: {e}")))?;
        Ok(Some(envelope.index))
    }

    /// Replaces the manifest on disk by this one.
    ///
    /// Synced if `durable`: after a loss of power the old one or this one is there.
    pub(crate) fn write(&self, index: &Path, durable: bool) -> Result<()> {
        let envelope = Envelope {
            format: FORMAT.to_owned(),
            version: VERSION,
            xxh3: self.checksum(index)?,
            index: self.clone(),
        };
        let path = index.join(FILE_NAME);
        let mut text = serde_json::to_vec_pretty(&envelope)
            .map_err(|e| Error::io("write", &path)(e.into()))?;
        text.push(b'\n');
        let temporary = temporary(index);
        let write = |path: &Path| {
            let mut file = File::create(path)?;
            file.write_all(&text)?;
            if durable { file.sync_all() } else { Ok(()) }
        };
        if let Err(error) = write(&temporary) {
            // A full disk: the half of a manifest is in the way of everything else.
            let _ = fs::remove_file(&temporary);
            return Err(Error::io("write", &temporary)(error));
        }
        fs::rename(&temporary, &path).map_err(Error::io("rename to", &path))?;
        sync_folder(index, durable)
    }

    /// xxh3-64 of everything in the manifest, in compact JSON.
    pub(crate) fn checksum(&self, index: &Path) -> Result<String> {
        let text = serde_json::to_vec(self)
            .map_err(|e| Error::io("write", &index.join(FILE_NAME))(e.into()))?;
        Ok(hex(xxh3_64(&text)))
    }

    /// Segments must follow one another without a gap, and be of the sizes that they claim.
    fn check(&self) -> Result<()> {
        self.parameters.check()?;
        let mut next = self.parameters.first_context;
        for segment in &self.segments {
            let end = segment.first_context.checked_add(segment.contexts);
            if segment.first_context != next
                || segment.contexts == 0
                || !segment.is_inside()
                || end.is_none_or(|end| end > self.parameters.cut_after(next))
            {
                return Err(Error::input(format!(
                    "segment {} does not follow context {next}",
                    segment.first_context
                )));
            }
            next += segment.contexts;
            self.parameters.check_contexts(next)?;
        }
        Ok(())
    }
}

/// Where the next manifest is written before it takes the old one's place.
pub(crate) fn temporary(index: &Path) -> PathBuf {
    index.join(format!("{FILE_NAME}.tmp"))
}

/// Whether an error says that nothing is there.
pub(crate) fn is_missing(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
    )
}

/// Makes the names in a folder durable, if that is asked for.
pub(crate) fn sync_folder(folder: &Path, durable: bool) -> Result<()> {
    if !durable {
        return Ok(());
    }
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::io("sync", folder))
}
