//! Postings to bytes.

use super::divide::Divider;
use super::write::Hits;
use super::{BLOCK, EXACT, Run, Shape};
use crate::bits::{BitWriter, gamma_bits, low_mask, put_varint, width_of};
use crate::code::{self, LOW_BITS, MAX_CODE};

/// The smallest bf16 that is not subnormal.
const NORMAL: u16 = 0x80;

/// Turns the postings of one latent after the other into lists; keeps its working memory.
#[derive(Debug)]
pub struct Encoder {
    pub(super) shape: Shape,
    divide: Divider,
    /// Of each posting, where the window is no power of two; see [`Window::address`].
    addresses: Vec<u32>,
    /// By position: the windows, their codes, and the first posting of each.
    found: Vec<Window>,
    codes: Vec<u16>,
    firsts: Vec<u32>,
    pub(super) several: Vec<Several>,
    /// By rank.
    pub(super) ranked: Vec<Window>,
    pub(super) gaps: Vec<u32>,
    /// Windows of each code; zeros between lists.
    histogram: Vec<u32>,
    pub(super) runs: Vec<Run>,
    /// The ranks of the strongest windows, ascending, and their low bits.
    marked: Vec<u32>,
    lows: Vec<u32>,
    head: BitWriter,
    blocks: BitWriter,
}

/// A window, from the top: 32 bits of the address of its peak; 3 low bits of its largest bf16; with
/// one hit 12 bits of nothing, 16 of its bf16 and a 0; with several, 28 of its place in
/// `Encoder::several` and a 1.
///
/// An address is the number of the window and below it, in as many bits as that needs, an offset in
/// the window: the position itself, where the window is a power of two.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window(u64);

/// The hits of a window with several: `count` postings from `first` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Several {
    pub(super) first: u32,
    pub(super) count: u32,
    /// The posting of its peak, counted from `first`.
    pub(super) peak: u32,
}

impl Window {
    /// Of a bf16 that is not subnormal; see [`Window::with_low`].
    #[inline]
    fn single(address: u32, bf16: u16) -> Self {
        let low = u64::from(bf16) & u64::from(low_mask(LOW_BITS));
        Self(u64::from(address) << 32 | low << 29 | u64::from(bf16) << 1)
    }

    #[inline]
    fn several(self, address: u32, place: usize) -> Self {
        let low = self.0 & 0xe000_0000;
        Self(u64::from(address) << 32 | low | (place as u64) << 1 | 1)
    }

    /// The same with these low bits.
    fn with_low(self, low: u8) -> Self {
        Self(self.0 & !0xe000_0000 | u64::from(low) << 29)
    }

    #[inline]
    pub(super) fn address(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The low bits of its largest bf16.
    #[inline]
    fn low(self) -> u32 {
        self.0 as u32 >> 29
    }

    #[inline]
    pub(super) fn has_several(self) -> bool {
        self.0 & 1 == 1
    }

    /// Where its hits are, of a window with several.
    #[inline]
    pub(super) fn place(self) -> usize {
        (self.0 as u32 >> 1 & 0x0fff_ffff) as usize
    }

    /// Its bf16, of a window with one hit.
    #[inline]
    pub(super) fn bf16(self) -> u16 {
        (self.0 >> 1) as u16
    }
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

    /// The addresses of positions, where they are others.
    fn address(&self, positions: &[u32], mut addresses: Vec<u32>) -> Option<Vec<u32>> {
        if self.shape.window.is_power_of_two() {
            return None;
        }
        let (w, o) = (self.shape.window, self.shape.offset_bits());
        addresses.clear();
        addresses.extend(positions.iter().map(|&position| {
            let window = self.divide.of(position);
            window << o | (position - window * w)
        }));
        Some(addresses)
    }

    /// Finds the windows, their codes and the smallest code of a hit, which is returned.
    fn group(&mut self, addresses: &[u32], values: &[u16]) -> u16 {
        let o = self.shape.offset_bits();
        let n = addresses.len();
        self.found.resize(n, Window::default());
        self.firsts.resize(n + 1, 0);
        // Whether a posting begins a window is a guess that is often wrong: both cases are computed,
        // and what belongs to the last window is written at every posting.
        let (found, firsts) = (&mut self.found[..n], &mut self.firsts[..n]);
        let mut next = 0;
        let (mut window, mut first, mut address, mut largest) = (u32::MAX, 0, 0, 0);
        for (posting, (&at, &bf16)) in (0u32..).zip(addresses.iter().zip(values)) {
            let begins = at >> o != window;
            window = at >> o;
            next += usize::from(begins);
            first = if begins { posting } else { first };
            address = if begins { at } else { address };
            largest = if begins { bf16 } else { bf16.max(largest) };
            found[next - 1] = Window::single(address, largest);
            firsts[next - 1] = first;
        }
        self.found.truncate(next);
        self.firsts.truncate(next + 1);
        self.firsts[next] = n as u32;
        let floor = values.iter().copied().min().unwrap_or(0);
        self.codes.clear();
        let largest = self.found.iter().map(|window| window.bf16());
        if floor >= NORMAL {
            // The same as below, without a question: many at a time.
            let normal = |bf16| (bf16 >> LOW_BITS) + (code::code(NORMAL) - (NORMAL >> LOW_BITS));
            self.codes.extend(largest.map(normal));
        } else {
            self.codes.extend(largest.map(code::code));
            for window in &mut self.found {
                *window = window.with_low(code::low(window.bf16()));
            }
        }
        self.gather_several(addresses, values);
        code::code(floor)
    }

    /// Notes the hits of the windows with several, and puts their peaks in their places.
    fn gather_several(&mut self, addresses: &[u32], values: &[u16]) {
        self.several.clear();
        let n = self.found.len();
        if n == addresses.len() {
            return;
        }
        // The gaps are not needed yet. The places of those windows are listed without a branch.
        let mut places = std::mem::take(&mut self.gaps);
        places.resize(n + 1, 0);
        let mut m = 0;
        for (at, edges) in (0u32..).zip(self.firsts.windows(2)) {
            places[m] = at;
            m += usize::from(edges[1] - edges[0] > 1);
        }
        for &at in &places[..m] {
            let at = at as usize;
            let (first, end) = (self.firsts[at], self.firsts[at + 1]);
            let span = first as usize..end as usize;
            let own = self.codes[at];
            // Of equal codes the first: the low bits do not decide, they may not be stored.
            let peak = values[span.clone()]
                .iter()
                .position(|&bf16| code::code(bf16) == own)
                .unwrap_or(0);
            let address = addresses[span.start + peak];
            self.found[at] = self.found[at].several(address, self.several.len());
            self.several.push(Several {
                first,
                count: end - first,
                peak: peak as u32,
            });
        }
        self.gaps = places;
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
            self.write_hits(&mut burst, hits, run, start, end);
        }
        burst.end();
        blocks.align();
        self.blocks = blocks;
        skips
    }

    /// Writes the low bits of the strongest windows of both sides into `head`.
    fn write_exact(&mut self, sides: &[u8]) {
        self.head.clear();
        let n = self.ranked.len() as u32;
        if n <= EXACT {
            self.lows.clear();
            let lows = self.ranked.iter().map(|window| window.low());
            self.lows.extend(lows);
            let mut burst = self.head.burst(u64::from(n * LOW_BITS));
            burst.fields(&self.lows, LOW_BITS);
            burst.end();
            self.head.align();
            return;
        }
        self.mark(sides);
        let leading = (0u32..)
            .zip(&self.marked)
            .take_while(|(i, rank)| i == *rank)
            .count();
        let (prefix, lows) = self.lows.split_at(leading);
        let most = u64::from(gamma_bits(n + 1) + LOW_BITS);
        let mut burst = self.head.burst(most * (self.lows.len() as u64 + 2));
        burst.gamma(leading as u32 + 1);
        burst.fields(prefix, LOW_BITS);
        burst.gamma(lows.len() as u32 + 1);
        let mut next = leading as u32;
        for (&rank, &low) in self.marked[leading..].iter().zip(lows) {
            burst.gamma(rank + 1 - next);
            burst.put(u64::from(low), LOW_BITS);
            next = rank + 1;
        }
        burst.end();
        self.head.align();
    }

    /// Marks the strongest windows of both sides, in the order of their ranks.
    fn mark(&mut self, sides: &[u8]) {
        let o = self.shape.offset_bits();
        let (marked, lows) = (&mut self.marked, &mut self.lows);
        marked.clear();
        lows.clear();
        let mut wanted = [EXACT; 2];
        for run in &self.runs {
            if wanted == [0, 0] {
                break;
            }
            let windows = &self.ranked[run.first as usize..][..run.count as usize];
            let each = || {
                let side = |window: Window| usize::from(sides[(window.address() >> o) as usize]);
                let ranks = run.first..;
                ranks
                    .zip(windows)
                    .map(move |(rank, window)| (rank, window.low(), side(*window)))
                    .filter(|&(_, _, side)| side < 2)
            };
            if run.count <= wanted[0].min(wanted[1]) {
                // There is room for all.
                for (rank, low, side) in each() {
                    wanted[side] -= 1;
                    marked.push(rank);
                    lows.push(low);
                }
                continue;
            }
            // How many there are of each side and low bits, and then how many of them are wanted.
            let mut keep = [[0u32; 1 << LOW_BITS]; 2];
            for (_, low, side) in each() {
                keep[side][low as usize] += 1;
            }
            for (keep, wanted) in keep.iter_mut().zip(&mut wanted) {
                for kept in keep.iter_mut().rev() {
                    *kept = (*kept).min(*wanted);
                    *wanted -= *kept;
                }
            }
            for (rank, low, side) in each() {
                let left = &mut keep[side][low as usize];
                if *left > 0 {
                    *left -= 1;
                    marked.push(rank);
                    lows.push(low);
                }
            }
        }
    }
}

impl Several {
    /// Calls `visit` with each posting but the peak, ascending.
    #[inline]
    pub(super) fn others(&self, mut visit: impl FnMut(u32)) {
        let peak = self.first + self.peak;
        (self.first..peak).for_each(&mut visit);
        (peak + 1..self.first + self.count).for_each(visit);
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
