//! One file of an index, mapped for reading: every page is checked before it is used, and a file
//! that shrinks while it is open is an error.
//!
//! A file is hashed in pages of 64 KiB. The first time that a process touches a page, its hash is
//! compared; from then on a look at it costs a few nanoseconds. What is guaranteed:
//!
//! * Bytes are handed out only from pages whose hash matched in this process. A page that did not
//!   match stays bad: an error each time.
//! * A file that is cut off at any length, at any time, never kills the process (the signal is
//!   caught, see `guard`), and [`Mapped::bytes`] refuses it from then on. Bytes that were handed out
//!   before read as zeros where the file was cut off. So whoever used them asks [`Mapped::intact`]
//!   **after** the last use and before an answer leaves the crate; code that reads them must bear
//!   any bytes without a panic.
//! * A file that is deleted, or replaced by renaming another over it, stays readable as it was.
//! * A file that is written to in place, or cut off and grown again, is noticed by
//!   [`Mapped::still_whole`], as far as the file system's time of change tells; the pages used so far
//!   are then checked again.
//!
//! Mapped bytes belong in computations, not in system calls: `write(2)` from a page that was cut off
//! fails with `EFAULT` in place of the signal.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use bytemuck::Pod;
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::manifest::is_missing;

mod guard;
mod pages;
mod registry;
#[cfg(unix)]
mod signal;
#[cfg(test)]
mod tests;

use guard::Guarded;
pub(crate) use pages::{PAGE, PageHasher, page_hashes, root};

/// So many unchecked pages are worth a second core.
const PARALLEL_PAGES: usize = 16;

/// One bit per page.
struct Bits(Box<[AtomicU64]>);

impl Bits {
    fn new(pages: usize) -> Self {
        Self((0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    // The bits say something about the file, not about memory that this process wrote, so nothing
    // has to be ordered with them.

    fn get(&self, page: usize) -> bool {
        self.0[page / 64].load(Ordering::Relaxed) >> (page % 64) & 1 == 1
    }

    /// The first page of these without the bit.
    fn first_without(&self, pages: Range<usize>) -> Option<usize> {
        let mut page = pages.start;
        while page < pages.end {
            let without = !self.0[page / 64].load(Ordering::Relaxed) >> (page % 64);
            if without != 0 {
                page += without.trailing_zeros() as usize;
                return (page < pages.end).then_some(page);
            }
            page = (page / 64 + 1) * 64;
        }
        None
    }

    fn set(&self, page: usize) {
        self.0[page / 64].fetch_or(1 << (page % 64), Ordering::Relaxed);
    }

    fn clear(&self, page: usize) {
        self.0[page / 64].fetch_and(!(1 << (page % 64)), Ordering::Relaxed);
    }
}

/// A mapped file of an index.
pub(crate) struct Mapped {
    index: PathBuf,
    place: String,
    path: PathBuf,
    /// None for an empty file.
    map: Option<Guarded>,
    hashes: Vec<u64>,
    good: Bits,
    bad: Bits,
    /// Which file the path meant when it was opened.
    identity: (u64, u64),
    /// When it was last changed, in nanoseconds since 1970, as of the last comparison.
    changed: AtomicU64,
}

impl fmt::Debug for Mapped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Mapped")
            .field("path", &self.path)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Mapped {
    /// Maps the file at `path`, which has `bytes` bytes and these page hashes according to the
    /// manifest of `index`; `place` is what errors call it. No descriptor stays open.
    ///
    /// Reads the last page at most, and checks none. [`Error::Corrupt`] if the file is missing or
    /// of another size, or if the number of hashes is not that of its pages.
    pub(crate) fn open(
        index: &Path,
        place: String,
        path: &Path,
        bytes: u64,
        hashes: Vec<u64>,
    ) -> Result<Self> {
        let corrupt = |problem: String| corrupt(index, &place, problem);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if is_missing(&error) => return Err(corrupt("is missing".to_owned())),
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        let metadata = file.metadata().map_err(Error::io("read", path))?;
        if metadata.len() != bytes {
            return Err(corrupt(format!(
                "has {} bytes where the manifest says {bytes}",
                metadata.len()
            )));
        }
        let pages = bytes.div_ceil(PAGE as u64);
        if hashes.len() as u64 != pages {
            return Err(corrupt(format!(
                "has {} page hashes for {pages} pages",
                hashes.len()
            )));
        }
        let map = match usize::try_from(bytes) {
            Ok(0) => None,
            Ok(len) => Some(Guarded::map(&file, len).map_err(Error::io("map", path))?),
            Err(_) => return Err(corrupt("is too long for this machine".to_owned())),
        };
        let mapped = Self {
            index: index.to_owned(),
            place,
            // A later change of the working directory must not change what is meant.
            path: std::path::absolute(path).map_err(Error::io("read", path))?,
            map,
            good: Bits::new(hashes.len()),
            bad: Bits::new(hashes.len()),
            hashes,
            identity: identity(&metadata),
            changed: AtomicU64::new(changed(&metadata)),
        };
        mapped.intact()?;
        Ok(mapped)
    }

    /// The file's length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.map.as_ref().map_or(0, |map| map.bytes().len() as u64)
    }

    /// These bytes of the file, after every page that they touch has been checked once.
    ///
    /// Costs a few nanoseconds where all pages have been checked. [`Error::Corrupt`] if a page does
    /// not match its hash, if the range is not within the file, or if the file became shorter.
    /// Ask [`Mapped::intact`] after the last use.
    #[inline]
    pub(crate) fn bytes(&self, range: Range<u64>) -> Result<&[u8]> {
        if range.start > range.end || range.end > self.len() {
            return Err(self.outside(&range));
        }
        let Some(map) = &self.map else {
            return Ok(&[]);
        };
        if !map.intact() {
            return Err(self.lost());
        }
        // Within a mapping, so it fits.
        let range = range.start as usize..range.end as usize;
        if !range.is_empty() {
            let (first, last) = (range.start / PAGE, (range.end - 1) / PAGE);
            if first == last {
                if !self.good.get(first) {
                    self.check(first)?;
                }
            } else {
                self.check_all(first..last + 1)?;
            }
        }
        Ok(&map.bytes()[range])
    }

    /// These elements of the file, read as an array of `T`, as [`Mapped::bytes`].
    #[inline]
    pub(crate) fn values<T: Pod>(&self, range: Range<usize>) -> Result<&[T]> {
        const { assert!(size_of::<T>() > 0) };
        let size = size_of::<T>() as u64;
        // What overflows is beyond the end of any file.
        let byte = |element: usize| (element as u64).saturating_mul(size);
        let bytes = self.bytes(byte(range.start)..byte(range.end))?;
        if bytes.is_empty() {
            return Ok(&[]);
        }
        bytemuck::try_cast_slice(bytes).map_err(|error| self.unreadable(error))
    }

    /// The whole file as an array of `T`, as [`Mapped::bytes`]; [`Error::Corrupt`] if its length is
    /// not a multiple of `T`'s.
    pub(crate) fn all<T: Pod>(&self) -> Result<&[T]> {
        let bytes = self.bytes(0..self.len())?;
        if bytes.is_empty() {
            return Ok(&[]);
        }
        bytemuck::try_cast_slice(bytes).map_err(|error| self.unreadable(error))
    }

    /// Whether what was handed out so far was read from a whole file: [`Error::Corrupt`] if it
    /// became shorter. To be asked after the bytes have been used.
    ///
    /// No system call, a few nanoseconds. Exact, but for a cut within the file's last page of memory
    /// in the very moment in which the kernel clears its rest; [`Mapped::still_whole`] has no such
    /// gap.
    #[inline]
    pub(crate) fn intact(&self) -> Result<()> {
        match &self.map {
            Some(map) if !map.intact() => Err(self.lost()),
            _ => Ok(()),
        }
    }

    /// As [`Mapped::intact`], and asks the file system: two system calls, about two microseconds.
    ///
    /// If the file was changed since the last time, all pages that were checked so far are checked
    /// again, and those that were bad are an error. Also puts the handler of bus errors back in
    /// front where someone has replaced it since.
    pub(crate) fn still_whole(&self) -> Result<()> {
        let Some(map) = &self.map else {
            return Ok(());
        };
        Guarded::arm().map_err(Error::io("guard", &self.path))?;
        let now = match fs::metadata(&self.path) {
            Ok(now) => now,
            // The file that is mapped lives on without a name, and nobody can open it any more.
            Err(error) if is_missing(&error) => return self.intact(),
            Err(error) => return Err(Error::io("read", &self.path)(error)),
        };
        if identity(&now) != self.identity {
            return self.intact();
        }
        if now.len() < self.len() {
            map.give_up();
        }
        self.intact()?;
        let time = changed(&now);
        if time != self.changed.load(Ordering::Acquire) {
            // Only a success is remembered: who read a changed page at the same time must see it too.
            self.first_error(0..self.hashes.len(), |page| {
                self.good.get(page) || self.bad.get(page)
            })?;
            self.changed.store(time, Ordering::Release);
        }
        Ok(())
    }

    /// Checks every page, also those that have been checked before; the error names the first that
    /// does not match.
    pub(crate) fn verify(&self) -> Result<()> {
        self.still_whole()?;
        self.first_error(0..self.hashes.len(), |_| true)
    }

    /// Checks those pages of a range that have not been checked.
    #[inline]
    fn check_all(&self, pages: Range<usize>) -> Result<()> {
        let Some(first) = self.good.first_without(pages.clone()) else {
            return Ok(());
        };
        self.first_error(first..pages.end, |page| !self.good.get(page))
    }

    /// Compares the hashes of those pages that are `wanted`; the error of the first that has one.
    fn first_error(
        &self,
        mut pages: Range<usize>,
        wanted: impl Fn(usize) -> bool + Sync,
    ) -> Result<()> {
        let error = |page| wanted(page).then(|| self.check(page).err()).flatten();
        let first = if pages.len() < PARALLEL_PAGES {
            pages.find_map(error)
        } else {
            pages.into_par_iter().find_map_first(error)
        };
        first.map_or(Ok(()), Err)
    }

    /// Compares the hash of one page, whatever is known of it, and notes the outcome.
    #[cold]
    fn check(&self, page: usize) -> Result<()> {
        let Some(map) = &self.map else {
            return Ok(());
        };
        let bytes = map.bytes();
        let range = page * PAGE..bytes.len().min((page + 1) * PAGE);
        let same = xxh3_64(&bytes[range.clone()]) == self.hashes[page];
        if !map.intact() {
            return Err(self.lost());
        }
        if same && !self.bad.get(page) {
            self.good.set(page);
            return Ok(());
        }
        self.bad.set(page);
        self.good.clear(page);
        Err(self.corrupt(format!(
            "does not match its checksum in page {page}, bytes {} to {}",
            range.start, range.end
        )))
    }

    #[cold]
    fn lost(&self) -> Error {
        // The signal says that a part is gone, not why; a disk that fails looks the same.
        let whole = fs::metadata(&self.path)
            .is_ok_and(|now| identity(&now) == self.identity && now.len() >= self.len());
        let problem = if whole {
            "changed or could not be read while it was open"
        } else {
            "became shorter while it was open"
        };
        self.corrupt(problem.to_owned())
    }

    #[cold]
    fn outside(&self, range: &Range<u64>) -> Error {
        self.corrupt(format!(
            "is asked for bytes {} to {} of {}",
            range.start,
            range.end,
            self.len()
        ))
    }

    #[cold]
    fn unreadable(&self, error: bytemuck::PodCastError) -> Error {
        self.corrupt(format!("cannot be read as numbers: {error}"))
    }

    fn corrupt(&self, problem: String) -> Error {
        corrupt(&self.index, &self.place, problem)
    }
}

fn corrupt(index: &Path, place: &str, problem: String) -> Error {
    Error::Corrupt {
        index: index.to_owned(),
        place: place.to_owned(),
        problem,
    }
}

/// When a file was last changed, in nanoseconds since 1970, modulo 2^64.
fn changed(metadata: &Metadata) -> u64 {
    let since = |time| match UNIX_EPOCH.duration_since(time) {
        Ok(before) => (before.as_nanos() as u64).wrapping_neg(),
        Err(after) => after.duration().as_nanos() as u64,
    };
    metadata.modified().map_or(0, since)
}

/// Device and number of a file: the same for all its names, another for its successor.
#[cfg(unix)]
fn identity(metadata: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> (u64, u64) {
    (0, 0)
}
