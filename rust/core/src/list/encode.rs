//! Postings to bytes.

use super::divide::Divider;
use super::write::HitsOf;
use super::{BLOCK, EXACT, Run, Shape};
use crate::bits::{BitWriter, gamma_bits, low_mask, put_varint, width_of};
use crate::code::{self, LOW_BITS, MAX_CODE};

/// Turns the postings of one latent after the other into lists; keeps its working memory.
#[derive(Debug)]
pub struct Encoder {
    pub(super) shape: Shape,
    divide: Divider,
    /// By position.
    found: Vec<Window>,
    codes: Vec<u16>,
    pub(super) several: Vec<Several>,
    /// By rank.
    pub(super) ranked: Vec<Window>,
    pub(super) gaps: Vec<u32>,
    /// Windows of each code; zeros between lists.
    histogram: Vec<u32>,
    pub(super) runs: Vec<Run>,
    marked: Vec<(u32, u8)>,
    candidates: Vec<(u8, u32)>,
    head: BitWriter,
    blocks: BitWriter,
}

/// A window, from the top: 32 bits of its number; with one hit 16 of the hit's offset, 12 of nothing,
/// 3 of its bf16's low bits and a 0; with several, 31 of its place in `Encoder::several` and a 1.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window(pub(super) u64);

/// The hits of a window with several: `count` postings from `first` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Several {
    pub(super) first: u32,
    pub(super) count: u32,
    /// The posting of its peak, counted from `first`.
    pub(super) peak: u32,
    /// The low bits of its largest bf16.
    low: u8,
}

impl Window {
    #[inline]
    pub(super) fn number(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Where its hits are, of a window with several.
    #[inline]
    pub(super) fn place(self) -> usize {
        (self.0 as u32 >> 1) as usize
    }
}

impl Encoder {
    /// An encoder for the lists of one segment.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            divide: Divider::by(shape.window),
            found: Vec::new(),
            codes: Vec::new(),
            several: Vec::new(),
            ranked: Vec::new(),
            gaps: Vec::new(),
            histogram: vec![0; MAX_CODE as usize + 1],
            runs: Vec::new(),
            marked: Vec::new(),
            candidates: Vec::new(),
            head: BitWriter::default(),
            blocks: BitWriter::default(),
        }
    }

    /// Appends the list of these postings to `out`.
    ///
    /// `positions` ascend and are below `n_windows * window`; `values` are their bf16; `sides` has
    /// the side of each window of the segment: 0 explain, 1 score, others neither.
    pub fn encode(&mut self, positions: &[u32], values: &[u16], sides: &[u8], out: &mut Vec<u8>) {
        if positions.is_empty() {
            return;
        }
        let floor = self.group(positions, values);
        self.rank();
        let narrower = self.narrow_gaps();
        let n = self.ranked.len() as u32;
        let hits = positions.len() as u32;
        // A mask costs W bits, a list of offsets o for each hit but the peak and 1 for each count.
        let listed = u64::from(hits - n) * u64::from(self.shape.offset_bits()) + u64::from(hits);
        let hits_of = HitsOf {
            shape: self.shape,
            positions,
            values,
            floor,
            dense: u64::from(n) * u64::from(self.shape.window) < listed,
        };
        let order = self.histogram_order();
        self.head.clear();
        let mut before = self.runs[0].code + 1;
        for run in &self.runs {
            for _ in run.code + 1..before {
                self.head.gamma(1);
                self.head.put(0, order);
            }
            self.head.gamma((run.count >> order) + 1);
            self.head.put(run.count & low_mask(order), order);
            before = run.code;
        }
        let skips = self.write_blocks(&hits_of);
        let width = width_of(skips.last().map_or(0, |skip| skip.0));
        for &(offset, before) in &skips {
            self.head.put(offset, width);
            self.head.put(before, self.shape.window_bits());
        }
        self.head.align();
        let (hi, lo) = (self.runs[0].code, self.runs[self.runs.len() - 1].code);
        put_varint(out, u64::from(n));
        put_varint(out, u64::from(hits - n));
        put_varint(out, u64::from(hi));
        put_varint(out, u64::from(hi - lo));
        put_varint(out, u64::from(lo - floor));
        out.push(u8::from(hits_of.dense) | (narrower as u8) << 1 | (order as u8) << 3);
        put_varint(out, self.blocks.bytes().len() as u64);
        if n > BLOCK {
            out.push(width as u8);
        }
        out.extend_from_slice(self.head.bytes());
        out.extend_from_slice(self.blocks.bytes());
        if !self.shape.lossless {
            self.write_exact(sides);
            out.extend_from_slice(self.head.bytes());
        }
    }

    /// Finds the windows and the smallest code of a hit.
    fn group(&mut self, positions: &[u32], values: &[u16]) -> u16 {
        let mut floor = u16::MAX;
        self.found.clear();
        self.codes.clear();
        self.several.clear();
        self.found.reserve(positions.len());
        self.codes.reserve(positions.len());
        let w = self.shape.window;
        let mut posting = 0;
        while posting < positions.len() {
            let (position, bf16) = (positions[posting], values[posting]);
            let window = self.divide.of(position);
            let start = window * w;
            let mut code = code::code(bf16);
            floor = floor.min(code);
            let number = u64::from(window) << 32;
            let mut next = posting + 1;
            if next == positions.len() || positions[next] - start >= w {
                let hit = (position - start) << 16 | u32::from(code::low(bf16)) << 1;
                self.found.push(Window(number | u64::from(hit)));
            } else {
                let (mut peak, mut largest) = (0, bf16);
                while next < positions.len() && positions[next] - start < w {
                    let other = code::code(values[next]);
                    floor = floor.min(other);
                    largest = largest.max(values[next]);
                    // Of equal codes the first: the low bits do not decide, they may not be stored.
                    if other > code {
                        code = other;
                        peak = next - posting;
                    }
                    next += 1;
                }
                let place = self.several.len() as u64;
                self.found.push(Window(number | place << 1 | 1));
                self.several.push(Several {
                    first: posting as u32,
                    count: (next - posting) as u32,
                    peak: peak as u32,
                    low: code::low(largest),
                });
            }
            self.codes.push(code);
            posting = next;
        }
        floor
    }

    /// Brings the windows into the order of their strength, and makes the runs.
    fn rank(&mut self) {
        let (mut hi, mut lo) = (0, u16::MAX);
        for &code in &self.codes {
            self.histogram[usize::from(code)] += 1;
            hi = hi.max(code);
            lo = lo.min(code);
        }
        self.runs.clear();
        let mut first = 0;
        for code in (lo..=hi).rev() {
            let slot = &mut self.histogram[usize::from(code)];
            let count = std::mem::replace(slot, first);
            if count > 0 {
                self.runs.push(Run {
                    code,
                    first,
                    count,
                    gap_bits: 0,
                });
            }
            first += count;
        }
        self.ranked.resize(self.found.len(), Window::default());
        for (&window, &code) in self.found.iter().zip(&self.codes) {
            let next = &mut self.histogram[usize::from(code)];
            self.ranked[*next as usize] = window;
            *next += 1;
        }
        self.histogram[usize::from(lo)..=usize::from(hi)].fill(0);
    }

    /// Computes the gaps; sets the runs' `gap_bits`, as much narrower than for even gaps as is best.
    fn narrow_gaps(&mut self) -> u32 {
        self.gaps.clear();
        self.gaps.reserve(self.ranked.len());
        let mut bits = [0u64; 4];
        for run in &self.runs {
            let span = run.first as usize..(run.first + run.count) as usize;
            let windows = &self.ranked[span.clone()];
            self.gaps.push(windows[0].number());
            let pairs = windows.windows(2);
            self.gaps
                .extend(pairs.map(|pair| pair[1].number() - pair[0].number() - 1));
            let widest = self.shape.gap_bits(run.count, 0);
            for (narrower, bits) in (0..).zip(&mut bits) {
                let k = widest.saturating_sub(narrower);
                // The sum is below the segment's windows.
                let high: u32 = self.gaps[span.clone()].iter().map(|&gap| gap >> k).sum();
                *bits += u64::from(high) + u64::from(k) * u64::from(run.count);
            }
        }
        let best = (0..4).min_by_key(|&narrower| bits[narrower]).unwrap_or(0) as u32;
        for run in &mut self.runs {
            run.gap_bits = self.shape.gap_bits(run.count, best);
        }
        best
    }

    /// How many low bits of a code's count stand beside its gamma code.
    fn histogram_order(&self) -> u32 {
        let n_runs = self.runs.len() as u32;
        let codes = u32::from(self.runs[0].code - self.runs[self.runs.len() - 1].code) + 1;
        let cost = |order: u32| {
            let counted = self
                .runs
                .iter()
                .map(|run| gamma_bits((run.count >> order) + 1));
            counted.sum::<u32>() + (codes - n_runs) + codes * order
        };
        let top = width_of(self.ranked.len() as u32 / n_runs) + 1;
        (top.saturating_sub(4)..=top)
            .min_by_key(|&order| cost(order))
            .unwrap_or(0)
    }

    /// Writes the blocks; returns the bit offset of each but the first and the window before it.
    fn write_blocks(&mut self, hits_of: &HitsOf<'_>) -> Vec<(u32, u32)> {
        let mut skips = Vec::new();
        let mut blocks = std::mem::take(&mut self.blocks);
        blocks.clear();
        let n = self.ranked.len();
        let mut run = 0;
        for start in (0..n).step_by(BLOCK as usize) {
            let end = n.min(start + BLOCK as usize);
            while self.runs[run].first + self.runs[run].count <= start as u32 {
                run += 1;
            }
            if start > 0 {
                let within = self.runs[run].first < start as u32;
                let before = if within {
                    self.ranked[start - 1].number()
                } else {
                    0
                };
                skips.push((blocks.len() as u32, before));
            }
            self.write_gaps(&mut blocks, run, start, end);
            self.write_hits(&mut blocks, hits_of, run, start, end);
        }
        blocks.align();
        self.blocks = blocks;
        skips
    }

    /// Writes the low bits of the strongest windows of both sides into `head`.
    fn write_exact(&mut self, sides: &[u8]) {
        self.head.clear();
        let low = |window: Window| match window.0 & 1 {
            0 => (window.0 >> 1 & 7) as u8,
            _ => self.several[window.place()].low,
        };
        if self.ranked.len() <= EXACT as usize {
            for window in &self.ranked {
                self.head.put(u32::from(low(*window)), LOW_BITS);
            }
            self.head.align();
            return;
        }
        self.marked.clear();
        let mut wanted = [EXACT; 2];
        for run in &self.runs {
            if wanted == [0, 0] {
                break;
            }
            for side in 0..2u8 {
                let wanted = &mut wanted[usize::from(side)];
                if *wanted == 0 {
                    continue;
                }
                self.candidates.clear();
                for rank in run.first..run.first + run.count {
                    let window = self.ranked[rank as usize];
                    if sides[window.number() as usize] == side {
                        self.candidates.push((7 - low(window), rank));
                    }
                }
                let taken = (*wanted).min(self.candidates.len() as u32);
                if taken < self.candidates.len() as u32 {
                    self.candidates.sort_unstable();
                }
                let chosen = &self.candidates[..taken as usize];
                self.marked
                    .extend(chosen.iter().map(|&(weak, rank)| (rank, 7 - weak)));
                *wanted -= taken;
            }
        }
        self.marked.sort_unstable();
        let leading = (0u32..)
            .zip(&self.marked)
            .take_while(|(i, (rank, _))| i == rank)
            .count();
        let (prefix, rest) = self.marked.split_at(leading);
        self.head.gamma(leading as u32 + 1);
        for &(_, low) in prefix {
            self.head.put(u32::from(low), LOW_BITS);
        }
        self.head.gamma(rest.len() as u32 + 1);
        let mut next = leading as u32;
        for &(rank, low) in rest {
            self.head.gamma(rank + 1 - next);
            self.head.put(u32::from(low), LOW_BITS);
            next = rank + 1;
        }
        self.head.align();
    }
}

impl Several {
    /// Calls `visit` with each posting but the peak, ascending.
    pub(super) fn others(&self, mut visit: impl FnMut(u32)) {
        let peak = self.first + self.peak;
        (self.first..peak).for_each(&mut visit);
        (peak + 1..self.first + self.count).for_each(visit);
    }
}
