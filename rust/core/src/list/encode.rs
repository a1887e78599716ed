//! Postings to bytes.

use super::divide::Divider;
use super::found::{Several, Window};
use super::write::{Hits, Others};
use super::{BLOCK, Run, Shape};
use crate::bits::{BitWriter, gamma_bits, low_mask, put_varint, width_of};
use crate::code::MAX_CODE;

/// Turns the postings of one latent after the other into lists; keeps its working memory.
#[derive(Debug)]
pub struct Encoder {
    pub(super) shape: Shape,
    pub(super) divide: Divider,
    /// Of each posting, where the window is no power of two; see [`Window::address`].
    addresses: Vec<u32>,
    /// By position: the windows, their codes, and the first posting of each.
    pub(super) found: Vec<Window>,
    pub(super) codes: Vec<u16>,
    pub(super) firsts: Vec<u32>,
    pub(super) several: Vec<Several>,
    /// By rank.
    pub(super) ranked: Vec<Window>,
    pub(super) gaps: Vec<u32>,
    /// Windows of each code; zeros between lists.
    histogram: Vec<u32>,
    pub(super) runs: Vec<Run>,
    /// The ranks of the strongest windows, ascending, and their low bits.
    pub(super) marked: Vec<u32>,
    pub(super) lows: Vec<u32>,
    pub(super) head: BitWriter,
    blocks: BitWriter,
    others: Others,
}

impl Encoder {
    /// An encoder for the lists of one segment.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            divide: Divider::by(shape.window),
            addresses: Vec::new(),
            found: Vec::new(),
            codes: Vec::new(),
            firsts: Vec::new(),
            several: Vec::new(),
            ranked: Vec::new(),
            gaps: Vec::new(),
            histogram: vec![0; MAX_CODE as usize + 1],
            runs: Vec::new(),
            marked: Vec::new(),
            lows: Vec::new(),
            head: BitWriter::default(),
            blocks: BitWriter::default(),
            others: Others::default(),
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
        let computed = std::mem::take(&mut self.addresses);
        let computed = self.address(positions, computed);
        let addresses = computed.as_deref().unwrap_or(positions);
        let floor = self.group(addresses, values);
        self.rank();
        let (narrower, gap_bits) = self.narrow_gaps();
        let n = self.ranked.len() as u32;
        let hits = positions.len() as u32;
        // A mask costs W bits, a list of offsets o for each hit but the peak and 1 for each count.
        let listed = u64::from(hits - n) * u64::from(self.shape.offset_bits()) + u64::from(hits);
        let dense = u64::from(n) * u64::from(self.shape.window) < listed;
        let order = self.histogram_order();
        self.write_histogram(order);
        let hits_of = Hits {
            addresses,
            values,
            floor,
            dense,
        };
        let skips = self.write_blocks(&hits_of, gap_bits);
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
        out.push(u8::from(dense) | (narrower as u8) << 1 | (order as u8) << 3);
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
        self.addresses = computed.unwrap_or_default();
    }

    /// Brings the windows into the order of their strength, and makes the runs.
    fn rank(&mut self) {
        let hi = self.codes.iter().copied().max().unwrap_or(0);
        let lo = self.codes.iter().copied().min().unwrap_or(0);
        let histogram = &mut self.histogram[usize::from(lo)..=usize::from(hi)];
        for &code in &self.codes {
            histogram[usize::from(code - lo)] += 1;
        }
        self.runs.clear();
        let mut first = 0;
        for (code, slot) in (lo..=hi).zip(histogram.iter_mut()).rev() {
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
        let ranked = &mut self.ranked[..];
        for (&window, &code) in self.found.iter().zip(&self.codes) {
            let next = &mut histogram[usize::from(code - lo)];
            ranked[*next as usize] = window;
            *next += 1;
        }
        histogram.fill(0);
    }

    /// Computes the gaps; sets the runs' `gap_bits`, as much narrower than for even gaps as is best,
    /// and returns how much that is, and the bits of all gaps.
    fn narrow_gaps(&mut self) -> (u32, u64) {
        let o = self.shape.offset_bits();
        self.gaps.clear();
        // Those from run to run are wrong, and mended below.
        self.gaps.push(0);
        self.gaps.extend(self.ranked.windows(2).map(|pair| {
            let (before, window) = (pair[0].address() >> o, pair[1].address() >> o);
            window.wrapping_sub(before).wrapping_sub(1)
        }));
        let mut bits = [self.gaps.len() as u64; 4];
        for run in &self.runs {
            let first = run.first as usize;
            self.gaps[first] = self.ranked[first].address() >> o;
            let widest = self.shape.gap_bits(run.count, 0);
            let widths = [0, 1, 2, 3].map(|narrower| widest.saturating_sub(narrower));
            let highs = high_parts(&self.gaps[first..first + run.count as usize], widths);
            for ((bits, high), k) in bits.iter_mut().zip(highs).zip(widths) {
                *bits += u64::from(high) + u64::from(k) * u64::from(run.count);
            }
        }
        let best = (0..4).min_by_key(|&narrower| bits[narrower]).unwrap_or(0);
        for run in &mut self.runs {
            run.gap_bits = self.shape.gap_bits(run.count, best as u32);
        }
        (best as u32, bits[best])
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

    /// Begins the head: how many windows have each code.
    fn write_histogram(&mut self, order: u32) {
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
    }

    /// Writes the blocks, whose gaps take so many bits; returns the bit offset of each but the first
    /// and the window before it.
    fn write_blocks(&mut self, hits: &Hits<'_>, gap_bits: u64) -> Vec<(u32, u32)> {
        let mut skips = Vec::new();
        let mut blocks = std::mem::take(&mut self.blocks);
        blocks.clear();
        let mut others = std::mem::take(&mut self.others);
        let n = self.ranked.len();
        let mut burst = blocks.burst(gap_bits + self.most_hit_bits(hits));
        let mut run = 0;
        for start in (0..n).step_by(BLOCK as usize) {
            let end = n.min(start + BLOCK as usize);
            while self.runs[run].first + self.runs[run].count <= start as u32 {
                run += 1;
            }
            if start > 0 {
                let within = self.runs[run].first < start as u32;
                let before = if within {
                    self.ranked[start - 1].address() >> self.shape.offset_bits()
                } else {
                    0
                };
                skips.push((burst.len() as u32, before));
            }
            self.write_gaps(&mut burst, run, start, end);
            self.write_hits(&mut burst, hits, &mut others, run, start, end);
        }
        burst.end();
        blocks.align();
        self.blocks = blocks;
        self.others = others;
        skips
    }
}

/// The sums of `gap >> width` over some gaps, which are below the segment's windows.
fn high_parts(gaps: &[u32], widths: [u32; 4]) -> [u32; 4] {
    let mut sums = [[0u32; 8]; 4];
    let mut chunks = gaps.chunks_exact(8);
    for eight in &mut chunks {
        for (sum, width) in sums.iter_mut().zip(widths) {
            for (sum, gap) in sum.iter_mut().zip(eight) {
                *sum += gap >> width;
            }
        }
    }
    let mut rest = [0; 8];
    rest[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    let mut highs = [0; 4];
    for ((high, sum), width) in highs.iter_mut().zip(sums).zip(widths) {
        *high = sum.iter().sum::<u32>() + rest.iter().map(|gap| gap >> width).sum::<u32>();
    }
    highs
}
