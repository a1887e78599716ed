//! Which addresses are mapped files of this crate: a list that a signal handler may read.
//!
//! Slots stand in blocks that are linked and never freed; a slot is taken again when its mapping has
//! gone. Nothing locks, so that neither a signal nor a `fork` can meet a lock that is held.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};

/// Slots per block.
const BLOCK: usize = 128;

static FIRST: Block = Block::new();

struct Block {
    slots: [Slot; BLOCK],
    next: AtomicPtr<Block>,
}

/// One mapping.
pub(super) struct Slot {
    taken: AtomicBool,
    /// Odd while `start` and `end` are being changed.
    version: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
    lost: AtomicBool,
}

impl Block {
    const fn new() -> Self {
        Self {
            slots: [const { Slot::new() }; BLOCK],
            next: AtomicPtr::new(ptr::null_mut()),
        }
    }

    fn next(&self) -> Option<&'static Self> {
        // SAFETY: null, or a block that was leaked by `grow` and is whole, for it was stored with
        // `Release`.
        unsafe { self.next.load(Ordering::Acquire).as_ref() }
    }

    /// Adds a block behind this one, unless another thread was first; the block that follows.
    fn grow(&self) -> &'static Self {
        let new = Box::into_raw(Box::new(Self::new()));
        let swap =
            self.next
                .compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire);
        match swap {
            // SAFETY: `new` came from a box, and nobody frees it now that it is linked.
            Ok(_) => unsafe { &*new },
            Err(other) => {
                // SAFETY: `new` came from a box and was not linked; `other` is as in `next`.
                unsafe {
                    drop(Box::from_raw(new));
                    &*other
                }
            }
        }
    }
}

impl Slot {
    const fn new() -> Self {
        Self {
            taken: AtomicBool::new(false),
            version: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        }
    }

    /// Takes a slot for the mapping of `len` bytes at the address `start`.
    pub(super) fn claim(start: usize, len: usize) -> &'static Self {
        let mut block = &FIRST;
        loop {
            let free = block.slots.iter().find(|slot| {
                !slot.taken.load(Ordering::Relaxed) && !slot.taken.swap(true, Ordering::Acquire)
            });
            if let Some(slot) = free {
                slot.lost.store(false, Ordering::Relaxed);
                slot.place(start, start + len);
                return slot;
            }
            block = block.next().unwrap_or_else(|| block.grow());
        }
    }

    /// Gives the slot back, before its mapping goes.
    pub(super) fn release(&self) {
        self.place(0, 0);
        self.taken.store(false, Ordering::Release);
    }

    /// Marks the mapping: it no longer shows its file.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::Release);
    }

    /// Whether it was marked.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Only who has taken the slot calls this, so there is one writer.
    fn place(&self, start: usize, end: usize) {
        let version = self.version.load(Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(2), Ordering::Release);
    }

    /// The addresses, if nobody is changing them.
    fn range(&self) -> Option<(usize, usize)> {
        let version = self.version.load(Ordering::Acquire);
        let range = (
            self.start.load(Ordering::Relaxed),
            self.end.load(Ordering::Relaxed),
        );
        fence(Ordering::Acquire);
        let same = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        same.then_some(range)
    }
}

/// The mapping that holds an address, with its first and its last address plus one.
///
/// The mapping must not go away meanwhile; a thread that reads from it holds it. Others may come and
/// go: half of an old and half of a new range are never taken for a range.
pub(super) fn find(address: usize) -> Option<(&'static Slot, usize, usize)> {
    let mut block = Some(&FIRST);
    while let Some(Block { slots, next: _ }) = block {
        for slot in slots {
            match slot.range() {
                Some((start, end)) if (start..end).contains(&address) => {
                    return Some((slot, start, end));
                }
                _ => {}
            }
        }
        block = block.and_then(Block::next);
    }
    None
}

/// How many slots there are, taken or free.
#[cfg(test)]
pub(super) fn capacity() -> usize {
    std::iter::successors(Some(&FIRST), |block| block.next()).count() * BLOCK
}
