//! What can be said of a latent without reading its windows: figures that tell its type.
//!
//! How often and where in its contexts it is active, on how few tokens it peaks, after how few, and
//! how often it is active where those stand. One pass over the lists; a second one over those few latents that
//! peak on, or after, few tokens. Which figure makes which type is decided by whoever asks.

mod peaks;
mod surroundings;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

use crate::error::Result;
use crate::index::Index;
use crate::list::Buffers;
use crate::ranked::Ranked;
use crate::summary::{Counts, Summary, Tally};
use peaks::{Counted, Few, Marks};
use surroundings::{Surroundings, pair};

/// Which peaks are looked at.
#[derive(Clone, Copy, Debug)]
pub struct TypeOptions {
    /// Tokens that are still few: only those of latents that peak on no more are listed.
    pub max_tokens: usize,
    /// So many per cent of a latent's windows count, the strongest, rounded up.
    pub strongest: u64,
}

/// Figures of every latent; each a list over latents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// As `Index::summary`.
    pub summary: Summary,
    /// Mutual information of being active and the offset in the context, in nats, over unmasked
    /// tokens.
    pub position_information: Vec<f64>,
    /// The tokens on which it peaks.
    pub own: Peaks,
    /// The tokens before those; a peak on the first token of a context has none.
    pub before: Peaks,
    /// Both together: `own << 32 | before`.
    pub pairs: Peaks,
    /// Unmasked tokens at each offset.
    pub offsets: Vec<u64>,
    /// Unmasked occurrences of each token.
    pub frequency: Vec<u64>,
    /// Unmasked tokens after each token.
    pub followed: Vec<u64>,
}

/// What stands at, before or around the peaks of the strongest windows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peaks {
    /// Windows whose peak has one.
    pub windows: Vec<u64>,
    /// Distinct ones; of pairs not more than `max_tokens + 1` are counted.
    pub distinct: Vec<u64>,
    /// Windows of the commonest; 0 of pairs that are not few.
    pub commonest: Vec<u64>,
    /// Postings where one of the few is found; 0 where they are not few, as all that follows.
    pub active: Vec<u64>,
    /// Unmasked tokens where one of the few is found.
    pub occurrences: Vec<u64>,
    /// Where each latent's few begin in the two lists below, and the end of the last.
    pub starts: Vec<u64>,
    /// The few: the commonest first, of equally common ones the smaller.
    pub keys: Vec<u64>,
    /// Windows of each of them.
    pub counts: Vec<u64>,
}

/// What is counted of one latent.
#[derive(Default)]
struct Row {
    counts: Counts,
    position_information: f64,
    /// Own, before, pairs.
    kinds: [Counted; 3],
}

/// Working memory of one thread.
#[derive(Default)]
struct Scratch {
    buffers: Buffers,
    /// Postings at each offset.
    offsets: Vec<u64>,
    own: Marks,
    before: Marks,
    pairs: Few,
    /// The peaks of a segment, and the tokens there and before.
    peaks: Vec<u32>,
    tokens: Vec<(u32, u32)>,
}

/// What every latent is compared with.
struct Frame<'a> {
    index: &'a Index,
    options: TypeOptions,
    text: Surroundings<'a>,
    drawable: &'a [u8],
}

impl Index {
    /// The figures of every latent; costs a decoding of the whole index and few tokens of memory.
    pub fn figures(&self, options: TypeOptions) -> Result<Figures> {
        let frame = Frame {
            index: self,
            options,
            text: Surroundings::of(self)?,
            drawable: self.drawable()?,
        };
        let rows: Vec<Result<Row>> = (0..self.n_latents())
            .into_par_iter()
            .map_init(Scratch::default, |scratch, latent| {
                frame.row(latent, scratch)
            })
            .collect();
        let mut figures = Figures::default();
        for peaks in [&mut figures.own, &mut figures.before, &mut figures.pairs] {
            peaks.starts.push(0);
        }
        for row in rows {
            let row = row?;
            figures.summary.push(&row.counts);
            figures.position_information.push(row.position_information);
            let [own, before, pairs] = row.kinds;
            figures.own.push(own);
            figures.before.push(before);
            figures.pairs.push(pairs);
        }
        frame.text.count_pairs(&mut figures.pairs);
        let Surroundings {
            offsets,
            frequency,
            followed,
            ..
        } = frame.text;
        (figures.offsets, figures.frequency) = (offsets, frequency);
        figures.followed = followed;
        self.intact()?;
        Ok(figures)
    }
}

impl Frame<'_> {
    fn row(&self, latent: u32, scratch: &mut Scratch) -> Result<Row> {
        let ranked = Ranked::open(self.index, latent)?;
        let mut row = Row::default();
        if ranked.n() == 0 {
            return Ok(row);
        }
        let most = self.options.max_tokens;
        scratch.fit(&self.text, most);
        row.counts = self.read(&ranked, scratch)?;
        row.position_information = self.text.information(&scratch.offsets, row.counts.count);
        let mut kinds = [
            scratch.own.counted(most),
            scratch.before.counted(most),
            scratch.pairs.counted(),
        ];
        if kinds.iter().any(|kind| !kind.few.is_empty()) {
            self.recall(&ranked, scratch, &mut kinds)?;
        }
        for (kind, of) in kinds
            .iter_mut()
            .zip([&self.text.frequency, &self.text.followed])
        {
            kind.occurrences = kind.few.iter().map(|few| of[few.0 as usize]).sum();
        }
        scratch.clear();
        row.kinds = kinds;
        Ok(row)
    }

    /// Counts all postings and their offsets, and what is found at the peaks of the strongest windows.
    fn read(&self, ranked: &Ranked<'_>, scratch: &mut Scratch) -> Result<Counts> {
        // Ranks go by code, and of equal codes by position: so do the windows as they are read here.
        let wanted = (u128::from(ranked.n()) * u128::from(self.options.strongest)).div_ceil(100);
        let wanted = wanted.min(u128::from(ranked.n())) as u64;
        let mut weakest = (u16::MAX, 0);
        for level in ranked.levels().take_while(|level| level.first < wanted) {
            weakest = (level.code, wanted - level.first);
        }
        let Scratch {
            buffers,
            offsets,
            own,
            before,
            pairs,
            peaks,
            tokens,
        } = scratch;
        let mut tally = Tally::default();
        ranked.each_postings(buffers, |segment, base, positions, values| {
            tally.add(self.index, self.drawable, segment, base, positions, values)?;
            for &position in positions {
                offsets[self.text.offset(position)] += 1;
            }
            peaks.clear();
            peaks::for_each_peak(
                positions,
                values,
                |p| self.text.window(p),
                |peak, code| {
                    if code < weakest.0 || code == weakest.0 && weakest.1 == 0 {
                        return;
                    }
                    weakest.1 -= u64::from(code == weakest.0);
                    peaks.push(peak);
                },
            );
            // In a loop of their own: each of them is far from the last, and does not wait for it.
            tokens.clear();
            self.text.tokens(segment).around(peaks, tokens);
            for (&peak, &(token, other)) in peaks.iter().zip(&*tokens) {
                own.add(token);
                if self.text.offset(peak) > 0 {
                    before.add(other);
                    pairs.add(pair(token, other));
                }
            }
            Ok(())
        })?;
        buffers.shrink();
        Ok(tally.counts(ranked))
    }

    /// Counts the postings where one of the few is found.
    fn recall(
        &self,
        ranked: &Ranked<'_>,
        scratch: &mut Scratch,
        kinds: &mut [Counted; 3],
    ) -> Result<()> {
        let few = [0, 1, 2].map(|kind: usize| !kinds[kind].few.is_empty());
        let Scratch {
            buffers,
            own,
            before,
            pairs,
            ..
        } = scratch;
        ranked.each_postings(buffers, |segment, _, positions, _| {
            let tokens = self.text.tokens(segment);
            for &position in positions {
                let token = tokens.get(position as usize);
                kinds[0].active += u64::from(few[0] && own.has(token));
                if self.text.offset(position) > 0 {
                    let other = tokens.get(position as usize - 1);
                    kinds[1].active += u64::from(few[1] && before.has(other));
                    kinds[2].active += u64::from(few[2] && pairs.has(pair(token, other)));
                }
            }
            Ok(())
        })
    }
}

impl Scratch {
    fn fit(&mut self, text: &Surroundings<'_>, max_tokens: usize) {
        self.offsets.resize(text.offsets.len(), 0);
        self.own.fit(text.frequency.len());
        self.before.fit(text.frequency.len());
        self.pairs.fit(max_tokens);
    }

    fn clear(&mut self) {
        self.offsets.fill(0);
        self.own.clear();
        self.before.clear();
        self.pairs.clear();
    }
}

impl Peaks {
    fn push(&mut self, counted: Counted) {
        self.windows.push(counted.windows);
        self.distinct.push(counted.distinct);
        self.commonest.push(counted.commonest);
        self.active.push(counted.active);
        self.occurrences.push(counted.occurrences);
        for (key, count) in counted.few {
            self.keys.push(key);
            self.counts.push(count);
        }
        self.starts.push(self.keys.len() as u64);
    }
}
