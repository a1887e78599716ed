//! Pieces of a batch, turned around: one chunk of positions, its postings ordered by latent.
//!
//! A chunk is what the spill (see `spill`) is made of. In 32-bit words:
//!
//! ```text
//! chunk   = head text run*                 a run for each hookpoint
//! head    = magic(2) start(2) positions contexts documents largest-token words(2) hash(2) hash(2)
//! text    = token(positions) start(documents) id(2 documents) mask(bytes, filled up) hash(2 contexts)
//! run     = written postings [hash(2 contexts) start(L + 1) pair(postings)]
//! pair    = position in the chunk (low half) | bf16 (high half)
//! ```
//!
//! `words` counts what follows the head, the first hash is of that, and the second of the head before
//! it: a chunk that was torn is known by them.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use crate::check::{Entries, HookPiece, Piece};
use crate::text::TextPart;

/// Words of a chunk's head.
pub(crate) const HEAD: usize = 14;
const MAGIC: u64 = u64::from_le_bytes(*b"gl-chunk");

/// What a chunk's head says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Head {
    /// Its first position in the segment.
    pub(crate) start: u64,
    pub(crate) positions: usize,
    /// Contexts, or 1 for a part of one.
    pub(crate) contexts: usize,
    pub(crate) documents: usize,
    pub(crate) largest_token: u32,
    /// Words after the head.
    pub(crate) words: u64,
    hash: u64,
}

/// Where one hookpoint's run lies in a chunk, in words from the chunk's begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) hashes: u64,
    pub(crate) starts: u64,
    pub(crate) pairs: u64,
    pub(crate) postings: u32,
}

fn u64_at(words: &[u32], at: usize) -> u64 {
    u64::from(words[at]) | u64::from(words[at + 1]) << 32
}

fn put_u64(words: &mut Vec<u32>, value: u64) {
    words.extend([value as u32, (value >> 32) as u32]);
}

impl Head {
    /// None if these words are no head.
    pub(crate) fn read(words: &[u32; HEAD]) -> Option<Self> {
        let hash = xxh3_64(bytemuck::cast_slice(&words[..HEAD - 2]));
        (u64_at(words, 0) == MAGIC && u64_at(words, HEAD - 2) == hash).then(|| Self {
            start: u64_at(words, 2),
            positions: words[4] as usize,
            contexts: words[5] as usize,
            documents: words[6] as usize,
            largest_token: words[7],
            words: u64_at(words, 8),
            hash: u64_at(words, 10),
        })
    }

    /// Whether the words after the head are the ones that were written.
    pub(crate) fn matches(&self, body: &[u32]) -> bool {
        body.len() as u64 == self.words && xxh3_64(bytemuck::cast_slice(body)) == self.hash
    }

    fn write(&self, words: &mut [u32]) {
        let mut head = Vec::with_capacity(HEAD);
        put_u64(&mut head, MAGIC);
        put_u64(&mut head, self.start);
        head.extend([
            self.positions as u32,
            self.contexts as u32,
            self.documents as u32,
            self.largest_token,
        ]);
        put_u64(&mut head, self.words);
        put_u64(&mut head, self.hash);
        let hash = xxh3_64(bytemuck::cast_slice(&head));
        put_u64(&mut head, hash);
        words[..HEAD].copy_from_slice(&head);
    }

    /// The words of the text, from the chunk's begin.
    pub(crate) fn text(&self) -> Range<u64> {
        let words = self.positions + 3 * self.documents + self.positions.div_ceil(4);
        HEAD as u64..(HEAD + words) as u64
    }

    /// The words of the text's hashes.
    pub(crate) fn text_hashes(&self) -> Range<u64> {
        let start = self.text().end;
        start..start + 2 * self.contexts as u64
    }

    /// Reads a text back from its words.
    pub(crate) fn read_text(&self, words: &[u32]) -> TextPart {
        let (tokens, rest) = words.split_at(self.positions);
        let (starts, rest) = rest.split_at(self.documents);
        let (ids, mask) = rest.split_at(2 * self.documents);
        let mask: &[u8] = bytemuck::cast_slice(mask);
        TextPart {
            tokens: tokens.to_vec(),
            starts: starts.to_vec(),
            ids: ids.chunks_exact(2).map(|id| u64_at(id, 0)).collect(),
            mask: mask[..self.positions]
                .iter()
                .map(|&live| live == 1)
                .collect(),
        }
    }
}

/// 64-bit numbers from their words.
pub(crate) fn read_u64s(words: &[u32]) -> Vec<u64> {
    words.chunks_exact(2).map(|pair| u64_at(pair, 0)).collect()
}

/// One hookpoint, as a chunk needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hook {
    pub(crate) n_latents: u32,
    /// Whether its postings are kept; those of a hookpoint that has this segment are not.
    pub(crate) kept: bool,
}

/// A chunk in the making.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) words: Vec<u32>,
    next: Vec<u32>,
}

impl Chunk {
    /// Fills it with the pieces, which follow one another from position `start` of the segment on.
    pub(crate) fn fill(&mut self, pieces: &[Piece], start: u64, hooks: &[Hook]) -> Head {
        let mut text = TextPart::default();
        for piece in pieces {
            text.append(&piece.text);
        }
        let words = &mut self.words;
        words.clear();
        words.resize(HEAD, 0);
        words.extend_from_slice(&text.tokens);
        words.extend_from_slice(&text.starts);
        for &id in &text.ids {
            put_u64(words, id);
        }
        for four in text.mask.chunks(4) {
            let mut bytes = [0u8; 4];
            for (byte, &live) in bytes.iter_mut().zip(four) {
                *byte = u8::from(live);
            }
            words.push(u32::from_le_bytes(bytes));
        }
        let mut contexts = 0;
        for &hash in pieces.iter().flat_map(|piece| &piece.hashes) {
            put_u64(words, hash);
            contexts += 1;
        }
        for (number, hook) in hooks.iter().enumerate() {
            let parts: Vec<(u32, &HookPiece)> = pieces
                .iter()
                .scan(0, |base, piece| {
                    let at = *base;
                    *base += piece.positions() as u32;
                    Some((at, &piece.hooks[number]))
                })
                .collect();
            self.run(&parts, *hook);
        }
        let body = &self.words[HEAD..];
        let head = Head {
            start,
            positions: text.tokens.len(),
            contexts,
            documents: text.ids.len(),
            largest_token: text.tokens.iter().copied().max().unwrap_or(0),
            words: body.len() as u64,
            hash: xxh3_64(bytemuck::cast_slice(body)),
        };
        head.write(&mut self.words);
        head
    }

    /// Appends one hookpoint's postings, ordered by latent and then by position.
    fn run(&mut self, parts: &[(u32, &HookPiece)], hook: Hook) {
        let Self { words, next } = self;
        if !hook.kept {
            words.extend([0, 0]);
            return;
        }
        let postings: usize = parts.iter().map(|(_, part)| part.entries.len()).sum();
        words.extend([1, postings as u32]);
        for &hash in parts.iter().flat_map(|(_, part)| &part.hashes) {
            put_u64(words, hash);
        }
        if let [(0, only)] = parts
            && let Entries::Sorted { starts, pairs } = &only.entries
        {
            words.extend_from_slice(starts);
            words.extend_from_slice(pairs);
            return;
        }
        let starts_at = words.len();
        words.resize(starts_at + hook.n_latents as usize + 1, 0);
        let counts = &mut words[starts_at + 1..];
        for (_, part) in parts {
            match &part.entries {
                Entries::Tokens { latents, .. } => {
                    for &latent in latents {
                        counts[latent as usize] += 1;
                    }
                }
                Entries::Sorted { starts, .. } => {
                    for (count, edges) in counts.iter_mut().zip(starts.windows(2)) {
                        *count += edges[1] - edges[0];
                    }
                }
            }
        }
        next.clear();
        let mut sum = 0;
        for count in counts {
            next.push(sum);
            sum += *count;
            *count = sum;
        }
        let pairs_at = words.len();
        words.resize(pairs_at + postings, 0);
        let pairs = &mut words[pairs_at..];
        for &(base, part) in parts {
            scatter(&part.entries, base, next, pairs);
        }
    }
}

/// Puts each posting where its latent's next one belongs.
fn scatter(entries: &Entries, base: u32, next: &mut [u32], pairs: &mut [u32]) {
    match entries {
        Entries::Tokens {
            starts,
            latents,
            values,
        } => {
            for (position, edges) in (base..).zip(starts.windows(2)) {
                let range = edges[0] as usize..edges[1] as usize;
                for (&latent, &value) in latents[range.clone()].iter().zip(&values[range]) {
                    let place = &mut next[latent as usize];
                    pairs[*place as usize] = position | u32::from(value) << 16;
                    *place += 1;
                }
            }
        }
        Entries::Sorted {
            starts,
            pairs: from,
        } => {
            for (place, edges) in next.iter_mut().zip(starts.windows(2)) {
                for &pair in &from[edges[0] as usize..edges[1] as usize] {
                    pairs[*place as usize] = pair + base;
                    *place += 1;
                }
            }
        }
    }
}

/// The runs of a chunk whose words these are; None where they are of other hookpoints.
pub(crate) fn runs(head: &Head, words: &[u32], hooks: &[Hook]) -> Option<Vec<Option<Run>>> {
    let mut at = head.text_hashes().end as usize;
    let mut runs = Vec::with_capacity(hooks.len());
    for hook in hooks {
        let &[written, postings] = words.get(at..at + 2)? else {
            return None;
        };
        at += 2;
        if written == 0 {
            runs.push(None);
            continue;
        }
        let starts = at + 2 * head.contexts;
        let pairs = starts + hook.n_latents as usize + 1;
        runs.push(Some(Run {
            hashes: at as u64,
            starts: starts as u64,
            pairs: pairs as u64,
            postings,
        }));
        if *words.get(pairs.checked_sub(1)?)? != postings {
            return None;
        }
        at = pairs + postings as usize;
    }
    (at == words.len()).then_some(runs)
}
