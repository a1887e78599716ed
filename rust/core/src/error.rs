//! The one error of the crate.

use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong when an index is built, read or sampled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that the caller can mend: an argument, a path, a row of a batch.
    #[error("{0}")]
    Input(String),

    /// A file of an index is not what its manifest says it is.
    #[error(
        "{place} of the index `{index}` {problem}; restore the file from a copy, \
         or remove the folder and build the index again"
    )]
    Corrupt {
        /// The index folder.
        index: PathBuf,
        /// The manifest, or a segment and one of its files.
        place: String,
        /// What is wrong with it.
        problem: String,
    },

    /// The operating system refused to read or write a file.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Input`] from anything that can be shown.
    pub fn input(message: impl Into<String>) -> Self {
        Self::Input(message.into())
    }

    /// A closure for `map_err` that names what was tried on which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
