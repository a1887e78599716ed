//! Pieces in which every entry is a posting: the usual case, in loops that ask nothing.
//!
//! Anything out of the ordinary (a masked position, an entry that is no posting, a value that is
//! refused) gives None, and `postings` goes through the piece again, entry by entry.

use super::hash::mix;
use super::{Entries, HookPiece};
use crate::batch::Values;
use crate::code::bf16_of;

/// For each latent, the mark of the last position that had it.
#[derive(Debug, Default)]
pub(super) struct LastSeen {
    /// 16 bits a latent, so that the table of many latents stays near the processor.
    seen: Vec<u16>,
    mark: u16,
}

impl LastSeen {
    /// Makes room for so many latents.
    pub(super) fn begin(&mut self, n_latents: usize) {
        if self.seen.len() < n_latents {
            self.seen.resize(n_latents, 0);
        }
    }

    /// The mark of the next position; never 0, which no latent has.
    #[inline]
    pub(super) fn next(&mut self) -> u16 {
        if self.mark == u16::MAX {
            self.seen.fill(0);
            self.mark = 0;
        }
        self.mark += 1;
        self.mark
    }

    /// Whether the position had this latent before.
    #[inline]
    pub(super) fn again(&mut self, latent: u32, mark: u16) -> bool {
        std::mem::replace(&mut self.seen[latent as usize], mark) == mark
    }
}

/// Entries by position, `k` for each.
pub(super) struct Tokens<'a> {
    pub(super) latents: &'a [u32],
    pub(super) activations: Values<'a>,
    pub(super) k: usize,
    /// Positions in a context.
    pub(super) length: usize,
    /// Of the first position in its context.
    pub(super) offset: usize,
}

impl Tokens<'_> {
    pub(super) fn piece(&self, n_latents: u32, seen: &mut LastSeen) -> Option<HookPiece> {
        if self.latents.iter().fold(0, |a, &b| a.max(b)) >= n_latents {
            return None;
        }
        let values = postings(self.activations)?;
        seen.begin(n_latents as usize);
        let mut twice = false;
        let n_positions = self.latents.len() / self.k;
        let mut hashes = Vec::with_capacity(n_positions / self.length + 1);
        let mut from = 0;
        let mut offset = self.offset;
        while from < n_positions {
            let to = n_positions.min(from + self.length - offset);
            let entries = from * self.k..to * self.k;
            let latents = self.latents[entries.clone()].chunks_exact(self.k);
            let values = values[entries].chunks_exact(self.k);
            let mut hash = 0u64;
            for ((offset, latents), values) in (offset as u32..).zip(latents).zip(values) {
                let mark = seen.next();
                for (&latent, &bf16) in latents.iter().zip(values) {
                    twice |= seen.again(latent, mark);
                    hash = hash.wrapping_add(mix(latent, offset, bf16));
                }
            }
            hashes.push(hash);
            (from, offset) = (to, 0);
        }
        let k = self.k as u32;
        (!twice).then(|| HookPiece {
            entries: Entries::Tokens {
                starts: (0..=n_positions as u32)
                    .map(|position| position * k)
                    .collect(),
                latents: self.latents.to_vec(),
                values,
            },
            hashes,
        })
    }
}

/// Entries by latent, of all the positions of a batch.
pub(super) struct Sorted<'a> {
    pub(super) starts: &'a [u64],
    pub(super) positions: &'a [u32],
    pub(super) activations: Values<'a>,
    pub(super) n_positions: usize,
    /// Positions in a context.
    pub(super) length: usize,
}

impl Sorted<'_> {
    pub(super) fn piece(&self) -> Option<HookPiece> {
        let values = postings(self.activations)?;
        let n_contexts = self.n_positions / self.length;
        let mut hashes = vec![0u64; n_contexts];
        // Exact for what is below 2^16 by a divisor up to 2^16.
        let reciprocal = (1u64 << 32).div_ceil(self.length as u64);
        let length = self.length as u32;
        for (latent, edges) in (0u32..).zip(self.starts.windows(2)) {
            let entries = edges[0] as usize..edges[1] as usize;
            let positions = &self.positions[entries.clone()];
            let Some(&last) = positions.last() else {
                continue;
            };
            // Counted, as a question of each pair would be slower.
            let wrong = positions.windows(2).filter(|pair| pair[0] >= pair[1]);
            if wrong.count() > 0 || last as usize >= self.n_positions {
                return None;
            }
            for (&position, &bf16) in positions.iter().zip(&values[entries]) {
                let context = ((u64::from(position) * reciprocal) >> 32) as u32;
                let hash = &mut hashes[context as usize];
                *hash = hash.wrapping_add(mix(latent, position - context * length, bf16));
            }
        }
        let pairs = self.positions.iter().zip(&values);
        Some(HookPiece {
            entries: Entries::Sorted {
                starts: self.starts.iter().map(|&start| start as u32).collect(),
                pairs: pairs
                    .map(|(&position, &bf16)| position | u32::from(bf16) << 16)
                    .collect(),
            },
            hashes,
        })
    }
}

/// The bf16 of activations, if all are postings: above 0 and finite.
fn postings(activations: Values<'_>) -> Option<Vec<u16>> {
    match activations {
        Values::F32(values) => {
            let largest = f32::INFINITY.to_bits() - 1;
            let wrong = |value: &f32| value.to_bits().wrapping_sub(1) >= largest;
            let none = !values.iter().fold(false, |any, value| any | wrong(value));
            none.then(|| values.iter().map(|&value| bf16_of(value)).collect())
        }
        Values::Bf16(values) => {
            let largest = (f32::INFINITY.to_bits() >> 16) as u16 - 1;
            let wrong = |value: &u16| value.wrapping_sub(1) >= largest;
            let none = !values.iter().fold(false, |any, value| any | wrong(value));
            none.then(|| values.to_vec())
        }
    }
}
