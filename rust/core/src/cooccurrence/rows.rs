//! The row-major copy: which of some latents are active in a row (a token or a window).

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use memmap2::MmapMut;
use rayon::prelude::*;

use super::Lists;
use crate::error::{Error, Result};

/// Latents in one copy at most: their places are `u16`.
pub(super) const PLACES: usize = 1 << 16;
/// Postings that are decoded at a time.
pub(super) const BATCH: u64 = 1 << 24;
/// Rows that a thread takes on.
const RANGE: usize = 1 << 19;
/// Rows of them that it goes through at a time: what it writes stays in its cache.
const PART: usize = 1 << 16;

/// Of each row the places of its latents, ascending.
pub(super) struct Rows {
    /// Where each row begins in `places`, and the end of the last.
    starts: Buffer<u32>,
    places: Buffer<u16>,
}

impl Rows {
    /// Copies the lists of `members`; `entries`, at most `u32::MAX`, is their length together.
    pub(super) fn build(
        lists: &Lists<'_>,
        members: &[u32],
        n_rows: usize,
        entries: usize,
    ) -> Result<Self> {
        // What follows a row's number holds its length, then its start, then, once filled, its end.
        let mut starts = Buffer::<u32>::zeroed(n_rows + 1)?;
        let mut places = Buffer::<u16>::zeroed(entries)?;
        let cursors = starts.get_mut(1..).unwrap_or_default();
        lists.for_each_batch(members, |_, batch| {
            let ranges = cursors.par_chunks_mut(RANGE).enumerate();
            ranges.for_each(|(range, lengths)| {
                let first = range * RANGE;
                for_each_row(batch, first, |_, row| lengths[row - first] += 1);
            });
        })?;
        let mut sum = 0;
        for cursor in cursors.iter_mut() {
            (*cursor, sum) = (sum, sum + *cursor);
        }
        let mut edges: Vec<u32> = cursors.iter().step_by(RANGE).copied().collect();
        edges.push(sum);
        lists.for_each_batch(members, |first_place, batch| {
            let mut rest = &mut places[..];
            let mut tasks = Vec::with_capacity(edges.len());
            for (edge, cursors) in edges.windows(2).zip(cursors.chunks_mut(RANGE)) {
                let (inside, after) =
                    std::mem::take(&mut rest).split_at_mut((edge[1] - edge[0]) as usize);
                tasks.push((edge[0], inside, cursors));
                rest = after;
            }
            let tasks = tasks.into_par_iter().enumerate();
            tasks.for_each(|(range, (edge, inside, cursors))| {
                let first = range * RANGE;
                for_each_row(batch, first, |list, row| {
                    let cursor = &mut cursors[row - first];
                    inside[(*cursor - edge) as usize] = (first_place + list) as u16;
                    *cursor += 1;
                });
            });
        })?;
        Ok(Self { starts, places })
    }

    /// The places in a row.
    #[inline]
    pub(super) fn row(&self, row: u32) -> &[u16] {
        let row = row as usize;
        &self.places[self.starts[row] as usize..self.starts[row + 1] as usize]
    }

    /// Places in a row, on average, rounded up.
    pub(super) fn mean(&self) -> usize {
        self.places.len().div_ceil(self.starts.len())
    }

    /// Asks for where a row begins.
    #[inline]
    pub(super) fn fetch_start(&self, row: u32) {
        fetch(&raw const self.starts[row as usize]);
    }

    /// Asks for the first places of a row.
    #[inline]
    pub(super) fn fetch_row(&self, row: u32) {
        if let Some(first) = self.places.get(self.starts[row as usize] as usize) {
            fetch(&raw const *first);
        }
    }
}

/// Goes through the rows of ascending lists in the range from `first` on, part by part, in each by
/// the numbers of the lists.
#[inline]
fn for_each_row(lists: &[&[u32]], first: usize, mut take: impl FnMut(usize, usize)) {
    let rest = |list: &&[u32]| list.partition_point(|&row| (row as usize) < first);
    let mut cursors: Vec<usize> = lists.iter().map(rest).collect();
    for end in (first + PART..=first + RANGE).step_by(PART) {
        for (number, (list, cursor)) in lists.iter().zip(&mut cursors).enumerate() {
            while let Some(&row) = list.get(*cursor)
                && (row as usize) < end
            {
                take(number, row as usize);
                *cursor += 1;
            }
        }
    }
}

/// Asks for a cache line.
#[inline]
fn fetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing and cannot fault. Rows are far apart: without it the count
    // waits for memory at each.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Zeros in pages of the largest size: what is read at random misses the page tables less.
struct Buffer<T> {
    map: MmapMut,
    kind: PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    fn zeroed(length: usize) -> Result<Self> {
        let bytes = length * size_of::<T>();
        let map = MmapMut::map_anon(bytes).map_err(|error| {
            Error::input(format!(
                "{bytes} bytes of memory for co-occurrence cannot be had: {error}"
            ))
        })?;
        #[cfg(target_os = "linux")]
        // A wish: where it is refused, the pages are small.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self {
            map,
            kind: PhantomData,
        })
    }
}

impl<T: Pod> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.map)
    }
}

impl<T: Pod> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.map)
    }
}
