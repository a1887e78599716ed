//! The postings of a piece at one hookpoint, entry by entry: what is kept, and what is refused.
//!
//! Pieces in which every entry is a posting go through `plain`; the loops here take all others, and
//! find the entry that a refusal names.

use std::ops::Range;

use super::hash::mix;
use super::plain::{self, LastSeen};
use super::{Bad, Entries, HookPiece, Ready};
use crate::batch::{Activity, NO_LATENT, Values};
use crate::code::bf16_of;

type Checked<T> = std::result::Result<T, Bad>;

impl Ready<'_> {
    /// The postings of the positions `span` at a hookpoint.
    pub(super) fn hook(&self, hook: usize, span: Range<usize>) -> Checked<HookPiece> {
        if let Some(piece) = self.plain(hook, &span) {
            return Ok(piece);
        }
        let activity = &self.batch.activities[hook];
        let (Activity::Dense { activations, .. }
        | Activity::Sparse { activations, .. }
        | Activity::Sorted { activations, .. }) = *activity;
        // One loop per type, so that nothing is asked for each number.
        match activations {
            Values::F32(values) => self.hook_of(hook, span, |entry| values[entry]),
            Values::Bf16(values) => self.hook_of(hook, span, |entry| {
                f32::from_bits(u32::from(values[entry]) << 16)
            }),
        }
    }

    /// The same in one go, where every entry is a posting and stands where it belongs.
    fn plain(&self, hook: usize, span: &Range<usize>) -> Option<HookPiece> {
        if !span.clone().all(|position| self.live(position)) {
            return None;
        }
        let length = self.checker.context_length;
        match self.batch.activities[hook] {
            Activity::Dense {
                k,
                latents,
                activations,
            } if k > 0 => {
                let entries = span.start * k..span.end * k;
                let tokens = plain::Tokens {
                    latents: &latents[entries.clone()],
                    activations: activations.slice(entries),
                    k,
                    length,
                    offset: span.start % length,
                };
                let mut seen = self.take_scratch();
                let piece = tokens.piece(self.checker.n_latents[hook], &mut seen);
                self.give_scratch(seen);
                piece
            }
            Activity::Sorted {
                starts,
                positions,
                activations,
            } if span.len() == self.batch.tokens.len() => plain::Sorted {
                starts,
                positions,
                activations,
                n_positions: span.len(),
                length,
            }
            .piece(),
            _ => None,
        }
    }

    fn hook_of(
        &self,
        hook: usize,
        span: Range<usize>,
        value: impl Fn(usize) -> f32,
    ) -> Checked<HookPiece> {
        let n_latents = self.checker.n_latents[hook];
        match (&self.batch.activities[hook], &self.by_position[hook]) {
            (Activity::Dense { k, latents, .. }, _) => {
                let entries = |position| position * k..(position + 1) * k;
                self.by_token(n_latents, span, entries, |entry| latents[entry], value)
            }
            (Activity::Sparse { latents, .. }, Some(by)) => {
                let starts = &by.starts;
                let entries = |position| starts[position]..starts[position + 1];
                match &by.order {
                    None => self.by_token(n_latents, span, entries, |entry| latents[entry], value),
                    Some(order) => self.by_token(
                        n_latents,
                        span,
                        entries,
                        |entry| latents[order[entry]],
                        |entry| value(order[entry]),
                    ),
                }
            }
            (
                &Activity::Sorted {
                    starts, positions, ..
                },
                _,
            ) => self.by_latent(span, starts, positions, value),
            (Activity::Sparse { .. }, None) => Err(Bad {
                position: span.start,
                text: "is refused".to_owned(),
            }),
        }
    }

    fn by_token(
        &self,
        n_latents: u32,
        span: Range<usize>,
        entries: impl Fn(usize) -> Range<usize>,
        latent_of: impl Fn(usize) -> u32,
        value: impl Fn(usize) -> f32,
    ) -> Checked<HookPiece> {
        let length = self.checker.context_length;
        let mut seen = self.take_scratch();
        seen.begin(n_latents as usize);
        let room = entries(span.end - 1).end - entries(span.start).start;
        let mut starts = Vec::with_capacity(span.len() + 1);
        let (mut latents, mut values) = (Vec::with_capacity(room), Vec::with_capacity(room));
        let mut hashes = Vec::with_capacity(span.len() / length + 1);
        starts.push(0);
        let mut at = span.start;
        while at < span.end {
            let end = (at / length + 1) * length;
            let mut hash = 0u64;
            for position in at..end.min(span.end) {
                let mark = seen.next();
                let offset = (position % length) as u32;
                let entries = if self.live(position) {
                    entries(position)
                } else {
                    0..0
                };
                for entry in entries {
                    let latent = latent_of(entry);
                    if latent == NO_LATENT {
                        continue;
                    }
                    if latent >= n_latents {
                        return Err(Bad {
                            position,
                            text: format!("latent {latent} is not below `n_latents` {n_latents}"),
                        });
                    }
                    let activation = value(entry);
                    if !(activation >= 0.0 && activation.is_finite()) {
                        return Err(refused_value(position, latent, activation));
                    }
                    if activation > 0.0 {
                        if seen.again(latent, mark) {
                            return Err(twice(position, latent));
                        }
                        let bf16 = bf16_of(activation);
                        hash = hash.wrapping_add(mix(latent, offset, bf16));
                        latents.push(latent);
                        values.push(bf16);
                    }
                }
                starts.push(latents.len() as u32);
            }
            hashes.push(hash);
            at = end;
        }
        self.give_scratch(seen);
        Ok(HookPiece {
            entries: Entries::Tokens {
                starts,
                latents,
                values,
            },
            hashes,
        })
    }

    fn by_latent(
        &self,
        span: Range<usize>,
        starts: &[u64],
        positions: &[u32],
        value: impl Fn(usize) -> f32,
    ) -> Checked<HookPiece> {
        let length = self.checker.context_length;
        let whole = span.len() == self.batch.tokens.len();
        let n_contexts = (span.end - 1) / length - span.start / length + 1;
        let mut hashes = vec![0u64; n_contexts];
        // Exact for what is below 2^16 by a divisor up to 2^16.
        let reciprocal = (1u64 << 32).div_ceil(length as u64);
        let start_offset = (span.start % length) as u32;
        let mut run_starts = Vec::with_capacity(starts.len());
        let mut pairs = Vec::with_capacity(positions.len() * span.len() / self.batch.tokens.len());
        run_starts.push(0u32);
        let mut bad: Option<Bad> = None;
        let mut note = |found: Bad| {
            if bad.as_ref().is_none_or(|b| found.position < b.position) {
                bad = Some(found);
            }
        };
        for (latent, edges) in (0u32..).zip(starts.windows(2)) {
            let mut range = edges[0] as usize..edges[1] as usize;
            if !whole {
                let all = &positions[range.clone()];
                let low = all.partition_point(|&p| (p as usize) < span.start);
                // What follows the last piece is out of range, and that piece must say so.
                let high = if span.end == self.batch.tokens.len() {
                    all.len()
                } else {
                    all.partition_point(|&p| (p as usize) < span.end)
                };
                range = range.start + low..range.start + high.max(low);
            }
            let mut next = span.start;
            for entry in range {
                let position = positions[entry] as usize;
                if position < next || position >= span.end {
                    let position = position.min(self.batch.tokens.len() - 1);
                    note(self.disorder(position, latent, &positions[..=entry]));
                    continue;
                }
                next = position + 1;
                if !self.live(position) {
                    continue;
                }
                let activation = value(entry);
                if !(activation >= 0.0 && activation.is_finite()) {
                    note(refused_value(position, latent, activation));
                    continue;
                }
                if activation > 0.0 {
                    let inside = (position - span.start) as u32;
                    let bf16 = bf16_of(activation);
                    let (context, offset) = if length > self.checker.limits.piece {
                        (0, start_offset + inside)
                    } else {
                        let context = ((u64::from(inside) * reciprocal) >> 32) as u32;
                        (context, inside - context * length as u32)
                    };
                    let hash = &mut hashes[context as usize];
                    *hash = hash.wrapping_add(mix(latent, offset, bf16));
                    pairs.push(inside | u32::from(bf16) << 16);
                }
            }
            run_starts.push(pairs.len() as u32);
        }
        match bad {
            Some(bad) => Err(bad),
            None => Ok(HookPiece {
                entries: Entries::Sorted {
                    starts: run_starts,
                    pairs,
                },
                hashes,
            }),
        }
    }

    /// What is wrong with the last of some positions of a latent.
    fn disorder(&self, position: usize, latent: u32, positions: &[u32]) -> Bad {
        let n = self.batch.tokens.len();
        let text = match *positions {
            [.., last] if last as usize >= n => {
                format!("latent {latent} has position {last}, which is not below {n}")
            }
            [.., before, last] if before == last => return twice(position, latent),
            _ => format!("the positions of latent {latent} do not ascend"),
        };
        Bad { position, text }
    }

    fn take_scratch(&self) -> LastSeen {
        let taken = self
            .checker
            .scratch
            .lock()
            .ok()
            .and_then(|mut all| all.pop());
        taken.unwrap_or_default()
    }

    fn give_scratch(&self, seen: LastSeen) {
        if let Ok(mut all) = self.checker.scratch.lock() {
            all.push(seen);
        }
    }
}

fn refused_value(position: usize, latent: u32, activation: f32) -> Bad {
    Bad {
        position,
        text: format!(
            "latent {latent} has activation {activation}; activations must be finite and not \
             negative"
        ),
    }
}

fn twice(position: usize, latent: u32) -> Bad {
    Bad {
        position,
        text: format!("latent {latent} is given twice; a token has one activation of a latent"),
    }
}
