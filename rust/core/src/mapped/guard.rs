//! Mapped files that may shrink: reading a part that is gone gives zeros and a flag, not a signal.
//!
//! Where a file was cut off, the kernel answers a read of its mapping with `SIGBUS`. A handler for
//! the whole process, installed when the first file is mapped, looks for the address among the
//! mappings of this crate, sets that mapping's flag, lays zeros over all of it and returns: the read
//! is repeated and goes on. A `SIGBUS` from anywhere else goes to the handler that was there before.
//! (systemd and Firefox do the same for the files they map.)
//!
//! The handler takes no lock and allocates nothing. Two things can undo it: a thread that blocks
//! `SIGBUS` (the kernel then kills the process), and a handler that someone installs later
//! (`faulthandler.enable()` in a running Python, or its `disable()`). The next file that is mapped
//! and the next [`still_whole`](super::Mapped::still_whole) put ours in front of that one.
//!
//! The kernel tells nothing where a file is cut off within a page of memory: the rest of the page
//! turns to zeros. So every mapping has a sentinel, the last byte of the file that is not 0: whatever
//! is cut off takes the sentinel along, or was zeros anyway.

use std::fs::File;
use std::io;
use std::sync::atomic::{Ordering, compiler_fence, fence};

use memmap2::{Mmap, MmapOptions};

use super::PAGE;

use super::registry::Slot;
#[cfg(unix)]
use super::signal;

/// A mapping of at least one byte that is known to the handler.
pub(super) struct Guarded {
    map: Mmap,
    slot: &'static Slot,
    /// Where the sentinel stands, and what it was.
    sentinel: (usize, u8),
}

impl Guarded {
    /// Maps `len` bytes (not 0) of a file; reads the last page of it.
    pub(super) fn map(file: &File, len: usize) -> io::Result<Self> {
        Self::arm()?;
        // SAFETY: nothing in this process writes to the file, and the files of an index are never
        // changed once the manifest names them. Who cuts one off all the same is caught here; who
        // writes to it in place breaks what `&[u8]` promises, as with any mapped file, and may be
        // answered from old or from new bytes. Mapping is what lets an index be larger than memory.
        let map = unsafe { MmapOptions::new().len(len).map(file) }?;
        let slot = Slot::claim(map.as_ptr() as usize, len);
        let mut guarded = Self {
            map,
            slot,
            sentinel: (len - 1, 0),
        };
        // Pages of memory are at most PAGE long, so that zeros all over the last PAGE leave nothing
        // to lose in the last page of memory.
        let tail = (len - 1) / PAGE * PAGE;
        if let Some(place) = guarded.map[tail..].iter().rposition(|&byte| byte != 0) {
            let place = tail + place;
            guarded.sentinel = (place, guarded.map[place]);
        }
        Ok(guarded)
    }

    /// Sees to it that the handler is in place, in front of all others.
    pub(super) fn arm() -> io::Result<()> {
        #[cfg(unix)]
        signal::install()?;
        Ok(())
    }

    /// The bytes, as they are in the file, or zeros if it is no longer intact.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Whether all that was read before was there. False once means false for ever.
    #[inline]
    pub(super) fn intact(&self) -> bool {
        // What this thread has read from the file is read before the sentinel and the flag are.
        fence(Ordering::Acquire);
        let (place, byte) = self.sentinel;
        // SAFETY: `place` is below the length of the map. The read is volatile because the kernel
        // may have changed the byte since.
        let found = unsafe { self.map.as_ptr().add(place).read_volatile() };
        // The read of the sentinel may itself be what sets the flag.
        compiler_fence(Ordering::SeqCst);
        if found != byte {
            self.give_up();
        }
        !self.slot.is_lost()
    }

    /// Counts the file as lost from now on.
    #[cold]
    pub(super) fn give_up(&self) {
        self.slot.lose();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // Before the map itself goes: then its addresses may belong to anyone.
        self.slot.release();
    }
}
