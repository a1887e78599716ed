//! All postings of a list at once, in its own order or by position.

use super::block::Block;
use super::read::Hits;
use super::{BLOCK, Damaged, List};
use crate::code;

/// Hits below which comparing is the quicker way to sort.
const FEW: usize = 192;
/// The most bits that one pass of the sort orders by.
const RADIX_BITS: u32 = 11;

/// Working memory of [`List::postings`].
#[derive(Debug, Default)]
pub struct Buffers {
    /// From the top: 32 bits of window, 16 of offset, 16 of bf16.
    hits: Vec<u64>,
    sorted: Vec<u64>,
}

impl List<'_> {
    /// Appends the position (relative to the segment, ascending) and the bf16 of every posting.
    ///
    /// In a list that is not lossless the low bits are 0, save those of the maxima that are kept
    /// exactly.
    pub fn postings(
        &self,
        buffers: &mut Buffers,
        positions: &mut Vec<u32>,
        values: &mut Vec<u16>,
    ) -> Result<(), Damaged> {
        self.collect(&mut buffers.hits)?;
        sort_by_window(buffers, self.shape.window_bits());
        let window = self.shape.window;
        let position = |hit: &u64| (hit >> 32) as u32 * window + ((hit >> 16) as u32 & 0xffff);
        positions.extend(buffers.hits.iter().map(position));
        values.extend(buffers.hits.iter().map(|&hit| hit as u16));
        Ok(())
    }

    /// Appends the window and the code of every posting in stored order, a window's peak first.
    pub fn stored(&self, windows: &mut Vec<u32>, codes: &mut Vec<u16>) -> Result<(), Damaged> {
        let mut block = Block::empty();
        for number in 0..self.n.div_ceil(BLOCK) {
            self.read_block(number, &mut block)?;
            let mut codes_at = block.codes;
            let mut several = block.several[..block.n_several]
                .iter()
                .map(|&i| usize::from(i));
            let mut next = several.next();
            self.each_part(&block, |code, mut at, end| {
                while let Some(i) = next.filter(|&i| i < end) {
                    windows.extend_from_slice(&block.windows[at..=i]);
                    codes.resize(codes.len() + i + 1 - at, code);
                    for _ in 1..block.counts[i] {
                        let r = u32::from(block.rest_bits[i]);
                        windows.push(block.windows[i]);
                        codes.push(code.saturating_sub(self.blocks.get(codes_at, r) as u16));
                        codes_at += u64::from(r);
                    }
                    at = i + 1;
                    next = several.next();
                }
                windows.extend_from_slice(&block.windows[at..end]);
                codes.resize(codes.len() + end - at, code);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Calls `visit(code, from, to)` for every stretch of a block that is of one run.
    fn each_part(
        &self,
        block: &Block,
        mut visit: impl FnMut(u16, usize, usize) -> Result<(), Damaged>,
    ) -> Result<(), Damaged> {
        let mut from = 0;
        for run in &self.runs[self.run_of(block.first)..] {
            if from == block.len {
                break;
            }
            let to = ((run.first + run.count - block.first) as usize).min(block.len);
            visit(run.code, from, to)?;
            from = to;
        }
        Ok(())
    }

    /// Decodes all hits, by rank.
    fn collect(&self, out: &mut Vec<u64>) -> Result<(), Damaged> {
        let damaged = Damaged("has offsets that are out of range");
        out.clear();
        let o = self.shape.offset_bits();
        let exact = self.exact()?;
        let mut exact = exact.iter().peekable();
        let mut block = Block::empty();
        let mut hits = Hits::default();
        for number in 0..self.n.div_ceil(BLOCK) {
            self.read_block(number, &mut block)?;
            let mut skipped = (0, 0);
            let mut several = block.several[..block.n_several]
                .iter()
                .map(|&i| usize::from(i));
            let mut next = several.next();
            let from = out.len();
            // Without low bits to read, a window with one hit is its number, its peak and its code.
            self.each_part(&block, |code, mut at, end| {
                while at < end {
                    let single = if self.shape.lossless {
                        at
                    } else {
                        next.unwrap_or(end).min(end)
                    };
                    let bf16 = u64::from(code::join(code, 0));
                    let mut largest = 0;
                    for i in at..single {
                        let peak = self.blocks.get(block.peaks + i as u64 * u64::from(o), o);
                        largest = largest.max(peak);
                        out.push(u64::from(block.windows[i]) << 32 | u64::from(peak) << 16 | bf16);
                    }
                    if largest >= self.shape.window {
                        return Err(damaged);
                    }
                    at = single;
                    if at == end {
                        break;
                    }
                    self.read_hits(&block, at, skipped, &mut hits)?;
                    let window = u64::from(block.windows[at]) << 32;
                    out.extend(
                        hits.offsets
                            .iter()
                            .zip(&hits.values)
                            .map(|(&offset, &bf16)| {
                                window | u64::from(offset) << 16 | u64::from(bf16)
                            }),
                    );
                    block.skip(at, &mut skipped);
                    if next == Some(at) {
                        next = several.next();
                    }
                    at += 1;
                }
                Ok(())
            })?;
            let end = block.first + block.len as u32;
            if exact.peek().is_some_and(|(rank, _)| *rank < end) {
                let mut hit = from;
                for at in 0..block.len {
                    let count = block.counts[at] as usize;
                    if let Some((_, bf16)) = exact.next_if(|(r, _)| *r == block.first + at as u32) {
                        place_maximum(&mut out[hit..hit + count], *bf16);
                    }
                    hit += count;
                }
            }
        }
        Ok(())
    }
}

/// Puts a window's largest bf16 where the first hit with its code stands.
fn place_maximum(hits: &mut [u64], bf16: u16) {
    let code = code::code(bf16);
    if let Some(hit) = hits.iter_mut().find(|hit| code::code(**hit as u16) == code) {
        *hit = *hit & !0xffff | u64::from(bf16);
    }
}

/// Sorts by the window, which has `bits` bits; the hits of one window stay in their order.
fn sort_by_window(buffers: &mut Buffers, bits: u32) {
    let Buffers { hits, sorted } = buffers;
    if hits.len() < FEW {
        hits.sort_unstable();
        return;
    }
    let passes = bits.div_ceil(RADIX_BITS).max(1);
    let width = bits.div_ceil(passes).max(1);
    let mask = (1u64 << width) - 1;
    sorted.resize(hits.len(), 0);
    let mut starts = vec![0u32; 1 << width];
    for pass in 0..passes {
        let shift = 32 + pass * width;
        starts.fill(0);
        for &hit in &*hits {
            starts[(hit >> shift & mask) as usize] += 1;
        }
        let mut next = 0;
        for start in &mut starts {
            next += std::mem::replace(start, next);
        }
        for &hit in &*hits {
            let start = &mut starts[(hit >> shift & mask) as usize];
            sorted[*start as usize] = hit;
            *start += 1;
        }
        std::mem::swap(hits, sorted);
    }
}
