//! One latent's windows over all segments, by rank.
//!
//! Rank 0 is the strongest: by the code of the window's largest activation, descending, and of equal
//! codes by position. Every segment keeps its windows in this order and says how many there are of
//! each code, so which segment holds a rank, and where, follows from those numbers alone.

use std::ops::Range;

use crate::code;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::list::{Buffers, Damaged, Hits, List};
use crate::segment::Segment;

/// Looking up one window decodes a block of the list: after as many look-ups as decode this part of
/// the list, all windows are decoded, so that the cost of many is bounded.
const LOOK_UP: u64 = 64;

/// The windows of one latent. Opening it costs as much as its lists have runs.
pub(crate) struct Ranked<'a> {
    index: &'a Index,
    latent: u32,
    parts: Vec<Part<'a>>,
    pieces: Vec<Piece>,
    n: u64,
    looked_up: u64,
}

/// What one segment has of the latent.
struct Part<'a> {
    segment: &'a Segment,
    list: List<'a>,
    /// The number of the segment's first window in the index.
    first: u64,
    /// All windows by rank, once they are decoded.
    windows: Vec<u32>,
}

/// The windows of one code in one segment.
#[derive(Clone, Copy)]
struct Piece {
    code: u16,
    part: u32,
    /// Rank of its first window, in the index and in the segment.
    first: u64,
    local: u32,
    count: u32,
}

/// The windows of one code in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) code: u16,
    pub(crate) first: u64,
    pub(crate) count: u64,
}

impl<'a> Ranked<'a> {
    pub(crate) fn open(index: &'a Index, latent: u32) -> Result<Self> {
        index.check_latent(latent)?;
        let mut parts = Vec::with_capacity(index.segments().len());
        let mut pieces = Vec::new();
        for segment in index.segments() {
            let list = segment.list(latent)?;
            if list.n_windows() == 0 {
                continue;
            }
            let part = parts.len() as u32;
            pieces.extend(list.runs().iter().map(|run| Piece {
                code: run.code,
                part,
                first: 0,
                local: run.first,
                count: run.count,
            }));
            parts.push(Part {
                segment,
                list,
                first: index.window_number(index.segment_position(segment)) as u64,
                windows: Vec::new(),
            });
        }
        if parts.len() > 1 {
            // Stable: of one code, the earlier segment goes first.
            pieces.sort_by_key(|piece| std::cmp::Reverse(piece.code));
        }
        let mut n = 0;
        for piece in &mut pieces {
            piece.first = n;
            n += u64::from(piece.count);
        }
        Ok(Self {
            index,
            latent,
            parts,
            pieces,
            n,
            looked_up: 0,
        })
    }

    /// Whose windows they are.
    pub(crate) fn latent(&self) -> u32 {
        self.latent
    }

    /// How many windows there are.
    pub(crate) fn n(&self) -> u64 {
        self.n
    }

    /// Whether every activation is known in bf16.
    pub(crate) fn lossless(&self) -> bool {
        self.index.lossless()
    }

    /// Its postings.
    pub(crate) fn n_postings(&self) -> u64 {
        self.parts.iter().map(|part| part.list.n_postings()).sum()
    }

    /// The windows of each code, the strongest first.
    pub(crate) fn levels(&self) -> impl Iterator<Item = Level> {
        self.pieces
            .chunk_by(|a, b| a.code == b.code)
            .map(|pieces| Level {
                code: pieces[0].code,
                first: pieces[0].first,
                count: pieces.iter().map(|piece| u64::from(piece.count)).sum(),
            })
    }

    /// The ranks whose decile is `decile`, 1 to 10.
    pub(crate) fn decile_ranks(&self, decile: u8) -> Range<u64> {
        let tenths = |tenths: u8| (u128::from(tenths) * u128::from(self.n)).div_ceil(10) as u64;
        self.n - tenths(decile)..self.n - tenths(decile - 1)
    }

    /// The decile of a rank below `n`.
    pub(crate) fn decile(&self, rank: u64) -> u8 {
        (1 + 10 * u128::from(self.n - 1 - rank) / u128::from(self.n)) as u8
    }

    /// The code of a rank below `n`.
    pub(crate) fn code(&self, rank: u64) -> u16 {
        self.piece(rank).code
    }

    /// The number in the index of the window with a rank below `n`.
    pub(crate) fn window(&mut self, rank: u64) -> Result<u64> {
        if self.looked_up == self.n / LOOK_UP {
            self.decode()?;
        }
        self.looked_up += 1;
        let (part, local) = self.place(rank);
        let window = match part.windows.get(local as usize) {
            Some(&window) => window,
            None => part
                .list
                .window_at(local)
                .map_err(|d| self.damaged(part, d))?,
        };
        Ok(part.first + u64::from(window))
    }

    /// Calls `visit` with the item of each rank (ranks ascending), and the offset and activation of
    /// each hit of its window.
    pub(crate) fn read_each(
        &self,
        ranks: &[(u64, usize)],
        mut visit: impl FnMut(usize, usize, f32),
    ) -> Result<()> {
        let mut of_part: Vec<(u32, u32, usize)> = ranks
            .iter()
            .map(|&(rank, item)| {
                let piece = self.piece(rank);
                (piece.part, piece.local + (rank - piece.first) as u32, item)
            })
            .collect();
        if self.parts.len() > 1 {
            of_part.sort_unstable();
        }
        let mut local = Vec::new();
        for wanted in of_part.chunk_by(|a, b| a.0 == b.0) {
            let part = &self.parts[wanted[0].0 as usize];
            let shape = part.list.shape();
            let mut outside = false;
            local.clear();
            local.extend(wanted.iter().map(|wanted| wanted.1));
            let read = part.list.read_each(&local, |at, hits| {
                for (&offset, &bf16) in hits.offsets.iter().zip(&hits.values) {
                    if offset < shape.window {
                        visit(wanted[at].2, offset as usize, shape.activation(bf16));
                    } else {
                        outside = true;
                    }
                }
            });
            read.map_err(|d| self.damaged(part, d))?;
            if outside {
                return Err(self.damaged(part, Damaged("has an offset that is out of range")));
            }
        }
        Ok(())
    }

    /// Decodes the windows of all ranks, if they are not.
    pub(crate) fn decode(&mut self) -> Result<()> {
        for at in 0..self.parts.len() {
            if self.parts[at].windows.is_empty() {
                let mut windows = Vec::with_capacity(self.parts[at].list.n_windows() as usize);
                let decoded = self.parts[at].list.windows(&mut windows);
                decoded.map_err(|d| self.damaged(&self.parts[at], d))?;
                self.parts[at].windows = windows;
            }
        }
        Ok(())
    }

    /// Calls `visit` with the number of every window, in no order.
    pub(crate) fn each_window(&mut self, mut visit: impl FnMut(u64)) -> Result<()> {
        self.decode()?;
        for part in &self.parts {
            part.windows
                .iter()
                .for_each(|&window| visit(part.first + u64::from(window)));
        }
        Ok(())
    }

    /// Every window by position, with its rank.
    pub(crate) fn by_position(&mut self) -> Result<Vec<(u64, u64)>> {
        self.decode()?;
        let mut windows: Vec<(u64, u64)> = Vec::with_capacity(self.n as usize);
        for piece in &self.pieces {
            let part = &self.parts[piece.part as usize];
            let span = piece.local as usize..(piece.local + piece.count) as usize;
            let numbers = part.windows[span]
                .iter()
                .map(|&w| part.first + u64::from(w));
            windows.extend(numbers.zip(piece.first..));
        }
        windows.sort_unstable();
        Ok(windows)
    }

    /// The ranks of some windows (ascending) among those in which the latent is active, each with
    /// its place in `wanted`; in no order.
    pub(crate) fn ranks_of(&mut self, wanted: &[u64]) -> Result<Vec<(u64, usize)>> {
        self.decode()?;
        let mut found = Vec::with_capacity(wanted.len());
        for piece in &self.pieces {
            let part = &self.parts[piece.part as usize];
            let span = piece.local as usize..(piece.local + piece.count) as usize;
            for (&window, rank) in part.windows[span].iter().zip(piece.first..) {
                if let Ok(place) = wanted.binary_search(&(part.first + u64::from(window))) {
                    found.push((rank, place));
                }
            }
        }
        Ok(found)
    }

    /// The ranks whose maxima are known in bf16 beyond their code, ascending, with that bf16.
    ///
    /// Each rank of a lossless index; of others the strongest of either side.
    pub(crate) fn exact(&self) -> Result<Vec<(u64, u16)>> {
        let mut found = Vec::new();
        for (at, part) in self.parts.iter().enumerate() {
            let exact = if part.list.shape().lossless {
                let mut maxima = Vec::with_capacity(part.list.n_windows() as usize);
                let peak = |hits: &Hits| hits.values.iter().copied().max().unwrap_or(0);
                let read = part
                    .list
                    .for_each(|rank, _, hits| maxima.push((rank, peak(hits))));
                read.map(|()| maxima)
            } else {
                part.list.exact()
            };
            let exact = exact.map_err(|d| self.damaged(part, d))?;
            let own = self.pieces.iter().filter(|piece| piece.part as usize == at);
            let mut exact = exact.into_iter().peekable();
            // A segment's own ranks ascend as its pieces do.
            for piece in own {
                let end = piece.local + piece.count;
                while let Some((rank, bf16)) = exact.next_if(|&(rank, _)| rank < end) {
                    found.push((piece.first + u64::from(rank - piece.local), bf16));
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Calls `visit` for each segment with its first position and the latent's postings there.
    pub(crate) fn each_postings(
        &self,
        buffers: &mut Buffers,
        mut visit: impl FnMut(&'a Segment, u64, &[u32], &[u16]) -> Result<()>,
    ) -> Result<()> {
        let (mut positions, mut values) = (Vec::new(), Vec::new());
        for part in &self.parts {
            positions.clear();
            values.clear();
            let read = part.list.postings(buffers, &mut positions, &mut values);
            read.map_err(|d| self.damaged(part, d))?;
            if positions
                .last()
                .is_some_and(|&last| last as usize >= part.segment.n_positions())
            {
                return Err(self.damaged(part, Damaged("has a position that is out of range")));
            }
            visit(
                part.segment,
                self.index.segment_position(part.segment),
                &positions,
                &values,
            )?;
        }
        Ok(())
    }

    /// Appends the positions and the activations of all postings.
    pub(crate) fn postings(
        &self,
        buffers: &mut Buffers,
        positions: &mut Vec<u64>,
        activations: &mut Vec<f32>,
    ) -> Result<()> {
        self.parts.iter().try_for_each(|part| {
            let base = self.index.segment_position(part.segment);
            let read = part.list.activations(buffers, base, positions, activations);
            read.map_err(|d| self.damaged(part, d))
        })
    }

    fn piece(&self, rank: u64) -> Piece {
        self.pieces[self.pieces.partition_point(|piece| piece.first <= rank) - 1]
    }

    /// The segment that holds a rank, and the rank there.
    fn place(&self, rank: u64) -> (&Part<'a>, u32) {
        let piece = self.piece(rank);
        let local = piece.local + (rank - piece.first) as u32;
        (&self.parts[piece.part as usize], local)
    }

    fn damaged(&self, part: &Part<'_>, damaged: Damaged) -> Error {
        part.segment.damaged(self.latent, damaged)
    }
}

/// The activation that stands for a code.
pub(crate) fn activation(code: u16) -> f32 {
    code::decode(code)
}
