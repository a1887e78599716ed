//! All postings of a list at once, in its own order or by position.

use super::block::Block;
use super::order::{Hit, bf16_of, hit, in_order, offset_of, position_of, with_bf16};
use super::unpack::{self, ROOM};
use super::{BLOCK, Damaged, List};
use crate::bits::WordReader;
use crate::code::{self, LOW_BITS};

/// Working memory of [`List::postings`].
#[derive(Debug, Default)]
pub struct Buffers {
    hits: Vec<Hit>,
    sorted: Vec<Hit>,
}

/// So many hits of working memory are kept.
const KEPT: usize = 1 << 20;

impl Buffers {
    /// Gives back the memory of a long list.
    pub(crate) fn shrink(&mut self) {
        if self.hits.len() > KEPT {
            *self = Self::default();
        }
    }
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
        let hits = self.by_position(&self.exact()?, buffers)?;
        positions.extend(hits.iter().map(|&hit| position_of(hit, self.shape.window)));
        values.extend(hits.iter().map(|&hit| bf16_of(hit)));
        Ok(())
    }

    /// Appends the position, counted from `base` and ascending, and the activation of every posting.
    pub(crate) fn activations(
        &self,
        buffers: &mut Buffers,
        base: u64,
        positions: &mut Vec<u64>,
        activations: &mut Vec<f32>,
    ) -> Result<(), Damaged> {
        // An activation is told by its code, so what is exact does not matter.
        let hits = self.by_position(&[], buffers)?;
        let window = self.shape.window;
        positions.extend(
            hits.iter()
                .map(|&hit| base + u64::from(position_of(hit, window))),
        );
        if self.shape.lossless {
            activations.extend(hits.iter().map(|&hit| code::value(bf16_of(hit))));
        } else if self.floor >= code::NORMAL {
            activations.extend(hits.iter().map(|&hit| code::middle(bf16_of(hit))));
        } else {
            activations.extend(hits.iter().map(|&hit| self.shape.activation(bf16_of(hit))));
        }
        Ok(())
    }

    fn by_position<'b>(
        &self,
        exact: &[(u32, u16)],
        buffers: &'b mut Buffers,
    ) -> Result<&'b [Hit], Damaged> {
        let Buffers { hits, sorted } = buffers;
        let n = self.collect(exact, hits)?;
        Ok(in_order(&mut hits[..n], sorted, self.shape.window_bits()))
    }

    /// Appends the window and the code of every posting in stored order, a window's peak first.
    pub fn stored(&self, windows: &mut Vec<u32>, codes: &mut Vec<u16>) -> Result<(), Damaged> {
        let (mut block, mut run, mut n) = (Block::empty(), 0, windows.len());
        let mut owners = Vec::new();
        for number in 0..self.n.div_ceil(BLOCK) {
            run = self.read_block(number, run, &mut block)?;
            let hits = block.hits();
            let (windows, codes) = (room(windows, n, hits), room(codes, n, hits));
            let firsts = block.firsts();
            block.spread(firsts.as_ref(), &block.windows, windows);
            block.spread(firsts.as_ref(), &block.codes_of, codes);
            let mut at = block.codes;
            for (place, &i) in (1..).zip(block.owners(&mut owners)) {
                let i = usize::from(i);
                let r = u32::from(block.rest_bits[i]);
                windows[i + place] = block.windows[i];
                codes[i + place] = block.codes_of[i].saturating_sub(self.blocks.get(at, r) as u16);
                at += u64::from(r);
            }
            n += hits;
        }
        windows.truncate(n);
        codes.truncate(n);
        Ok(())
    }

    /// Decodes all hits into the front of `out`, by rank, with these maxima; returns how many.
    fn collect(&self, exact: &[(u32, u16)], out: &mut Vec<Hit>) -> Result<usize, Damaged> {
        let (mut block, mut run, mut n) = (Block::empty(), 0, 0);
        let (mut peaks, mut firsts) = ([0; ROOM], [0; ROOM]);
        let (mut owners, mut offsets) = (Vec::new(), Vec::new());
        let mut exact = exact.iter().peekable();
        for number in 0..self.n.div_ceil(BLOCK) {
            run = self.read_block(number, run, &mut block)?;
            let out = room(out, n, block.hits());
            self.read_peaks(&block, &mut peaks)?;
            for i in 0..block.len {
                let bf16 = code::join(block.codes_of[i], 0);
                firsts[i] = hit(block.windows[i], peaks[i], bf16);
            }
            block.spread(block.firsts().as_ref(), &firsts, out);
            if block.others > 0 {
                let owners = block.owners(&mut owners);
                self.read_offsets(&block, &peaks, &mut offsets);
                self.place_others(&block, &peaks, owners, &offsets, out)?;
            }
            if self.shape.lossless {
                self.add_lows(&block, &peaks, out);
            }
            let end = block.first + block.len as u32;
            if exact.peek().is_some_and(|(rank, _)| *rank < end) {
                let mut at = 0;
                for (rank, &count) in (block.first..end).zip(&block.counts) {
                    let hits = at..at + count as usize;
                    at = hits.end;
                    if let Some((_, bf16)) = exact.next_if(|(exact, _)| *exact == rank) {
                        place_maximum(&mut out[hits], *bf16);
                    }
                }
            }
            n += block.hits();
        }
        Ok(n)
    }

    /// The offsets of a block's peaks.
    fn read_peaks(&self, block: &Block, peaks: &mut [u32; ROOM]) -> Result<(), Damaged> {
        let o = self.shape.offset_bits();
        unpack::fields(self.blocks, block.peaks, o, block.len, peaks);
        let largest = peaks[..block.len].iter().copied().max();
        if largest < Some(self.shape.window) {
            return Ok(());
        }
        Err(Damaged("has offsets that are out of range"))
    }

    /// The offsets of a block's other hits.
    fn read_offsets(&self, block: &Block, peaks: &[u32; ROOM], out: &mut Vec<u32>) {
        out.clear();
        if self.dense {
            for i in block.several() {
                let mut mask = self.mask(block, i);
                out.extend((1..block.counts[i]).map(|_| mask.next_but(peaks[i])));
            }
        } else {
            let o = self.shape.offset_bits();
            let at = |other| block.offsets + other * u64::from(o);
            out.extend((0..block.others).map(|other| self.blocks.get(at(other), o)));
        }
    }

    /// Puts the other hits of a block, of windows `owners`, into their places in `out`, where each
    /// window's peak is its first hit yet.
    fn place_others(
        &self,
        block: &Block,
        peaks: &[u32; ROOM],
        owners: &[u8],
        offsets: &[u32],
        out: &mut [Hit],
    ) -> Result<(), Damaged> {
        let mut codes_at = block.codes;
        let (mut last, mut good) = (None, true);
        for (place, (&i, &offset)) in owners.iter().zip(offsets).enumerate() {
            let i = usize::from(i);
            good &= last < Some((i, offset)) && offset != peaks[i] && offset < self.shape.window;
            last = Some((i, offset));
            let r = u32::from(block.rest_bits[i]);
            let less = self.blocks.get(codes_at, r) as u16;
            codes_at += u64::from(r);
            let bf16 = code::join(block.codes_of[i].saturating_sub(less), 0);
            let new = hit(block.windows[i], offset, bf16);
            // The peak goes up behind those that are before it.
            let before = out[i + place];
            out[i + place] = new.min(before);
            out[i + place + 1] = new.max(before);
        }
        if good {
            return Ok(());
        }
        Err(Damaged("has offsets that are out of range"))
    }

    /// Adds the low bits of a lossless block, of which each window's peak is the first.
    fn add_lows(&self, block: &Block, peaks: &[u32; ROOM], out: &mut [Hit]) {
        let mut low = WordReader::new(self.blocks, block.lows);
        let mut add = |hit: &mut Hit| {
            let code = code::code(bf16_of(*hit));
            *hit = with_bf16(*hit, code::join(code, low.get(LOW_BITS) as u8));
        };
        let mut from = 0;
        for (&count, &peak) in block.counts[..block.len].iter().zip(peaks) {
            let hits = &mut out[from..from + count as usize];
            from += count as usize;
            if let Some(hit) = hits.iter_mut().find(|hit| offset_of(**hit) == peak) {
                add(hit);
            }
            let others = hits.iter_mut().filter(|hit| offset_of(**hit) != peak);
            others.for_each(&mut add);
        }
    }
}

/// What follows the first `n` elements, with room for `more` and those written beyond them.
#[inline]
fn room<T: Copy + Default>(values: &mut Vec<T>, n: usize, more: usize) -> &mut [T] {
    let needed = n + more + ROOM;
    if values.len() < needed {
        values.resize(needed + needed / 2, T::default());
    }
    &mut values[n..needed]
}

/// Puts a window's largest bf16 where the first hit with its code stands.
fn place_maximum(hits: &mut [Hit], bf16: u16) {
    let code = code::code(bf16);
    if let Some(hit) = hits
        .iter_mut()
        .find(|hit| code::code(bf16_of(**hit)) == code)
    {
        *hit = with_bf16(*hit, bf16);
    }
}
