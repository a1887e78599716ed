//! The windows that were drawn, as columns.

use rayon::prelude::*;

use super::draw::OfOne;
use super::plan::Shortfall;
use super::stretch::Frame;
use crate::batch::{NO_DOCUMENT, NO_LATENT};
use crate::error::Result;
use crate::index::Index;
use crate::ranked::Ranked;

/// Windows drawn, as columns of `n` rows; `W` is [`Examples::length`].
///
/// Rows are ordered by latent, split, decile and order of drawing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Examples {
    /// Tokens shown of each window.
    pub length: usize,
    /// Latent.
    pub latent: Vec<u32>,
    /// Position of the first token shown.
    pub start: Vec<u64>,
    /// Token ids, `n * W`.
    pub tokens: Vec<u32>,
    /// Activations of the index's precision, `n * W`; 0 where the latent is silent.
    pub activations: Vec<f32>,
    /// Rank decile of the window over the whole index; 0: the latent is silent.
    pub decile: Vec<u8>,
    /// 0 explain, 1 score.
    pub split: Vec<u8>,
    /// Kind of negative: 0 none, else 1 and the place in [`NegativeKind`](crate::NegativeKind).
    pub kind: Vec<u8>,
    /// The latent of whose windows it is one, where it was drawn from a neighbour's;
    /// [`NO_LATENT`] elsewhere.
    pub source: Vec<u32>,
    /// That neighbour's rank, or the window's own in order of nearness, from 1 on; 0 elsewhere.
    pub rank: Vec<u32>,
    /// Document of the first unmasked token.
    pub document: Vec<u64>,
    /// Whether a token is the first of its document, `n * W`.
    pub document_start: Vec<bool>,
    /// Which tokens count, `n * W`.
    pub mask: Vec<bool>,
    /// Plans that could not be filled.
    pub shortfalls: Vec<Shortfall>,
}

/// The rows of one latent, to be filled.
struct Slots<'a> {
    latent: &'a mut [u32],
    start: &'a mut [u64],
    tokens: &'a mut [u32],
    activations: &'a mut [f32],
    decile: &'a mut [u8],
    split: &'a mut [u8],
    kind: &'a mut [u8],
    source: &'a mut [u32],
    rank: &'a mut [u32],
    document: &'a mut [u64],
    document_start: &'a mut [bool],
    mask: &'a mut [bool],
}

/// Takes the first `n` elements off a slice.
#[allow(clippy::mut_mut)] // the slice that is left is put in the place of the one there was
fn take<'a, T>(rest: &mut &'a mut [T], n: usize) -> &'a mut [T] {
    let (taken, left) = std::mem::take(rest).split_at_mut(n);
    *rest = left;
    taken
}

impl<'a> Slots<'a> {
    fn of(examples: &'a mut Examples) -> Self {
        Self {
            latent: &mut examples.latent,
            start: &mut examples.start,
            tokens: &mut examples.tokens,
            activations: &mut examples.activations,
            decile: &mut examples.decile,
            split: &mut examples.split,
            kind: &mut examples.kind,
            source: &mut examples.source,
            rank: &mut examples.rank,
            document: &mut examples.document,
            document_start: &mut examples.document_start,
            mask: &mut examples.mask,
        }
    }

    /// Takes the first `n` rows off.
    fn take(&mut self, n: usize, length: usize) -> Self {
        Self {
            latent: take(&mut self.latent, n),
            start: take(&mut self.start, n),
            tokens: take(&mut self.tokens, n * length),
            activations: take(&mut self.activations, n * length),
            decile: take(&mut self.decile, n),
            split: take(&mut self.split, n),
            kind: take(&mut self.kind, n),
            source: take(&mut self.source, n),
            rank: take(&mut self.rank, n),
            document: take(&mut self.document, n),
            document_start: take(&mut self.document_start, n * length),
            mask: take(&mut self.mask, n * length),
        }
    }
}

impl Examples {
    /// Reads what was drawn of some latents, each with its rows.
    pub(super) fn read(index: &Index, frame: Frame, drawn: &[OfOne]) -> Result<Self> {
        let n: usize = drawn.iter().map(|one| one.rows.len()).sum();
        let size = n * frame.length;
        let mut examples = Self {
            length: frame.length,
            latent: vec![0; n],
            start: vec![0; n],
            tokens: vec![0; size],
            activations: vec![0.0; size],
            decile: vec![0; n],
            split: vec![0; n],
            kind: vec![0; n],
            source: vec![NO_LATENT; n],
            rank: vec![0; n],
            document: vec![0; n],
            document_start: vec![false; size],
            mask: vec![false; size],
            shortfalls: Vec::new(),
        };
        let mut slots = Slots::of(&mut examples);
        let mut work: Vec<(&OfOne, Slots<'_>)> = drawn
            .iter()
            .map(|one| (one, slots.take(one.rows.len(), frame.length)))
            .collect();
        let fill = |(one, slots): &mut (&OfOne, Slots<'_>)| fill(index, frame, one, slots);
        if let [one] = work.as_mut_slice() {
            fill(one)?;
        } else {
            work.par_iter_mut().try_for_each(fill)?;
        }
        Ok(examples)
    }
}

fn fill(index: &Index, frame: Frame, one: &OfOne, slots: &mut Slots<'_>) -> Result<()> {
    let (latent, rows) = (one.latent, one.rows.as_slice());
    let length = frame.length;
    slots.latent.fill(latent);
    let mut text = Text::default();
    for (at, row) in rows.iter().enumerate() {
        slots.start[at] = row.start;
        slots.decile[at] = row.decile;
        slots.split[at] = row.split;
        slots.kind[at] = row.kind;
        (slots.source[at], slots.rank[at]) = row.from;
        let span = at * length..(at + 1) * length;
        slots.document[at] = text.read(
            index,
            row.start,
            &mut slots.tokens[span.clone()],
            &mut slots.mask[span.clone()],
            &mut slots.document_start[span],
        )?;
    }
    if !frame.on_grid() {
        slots.activations.copy_from_slice(&one.activations);
        return Ok(());
    }
    if !rows.iter().any(|row| row.rank.is_some()) {
        return Ok(());
    }
    let active = rows.iter().enumerate();
    let mut ranks: Vec<(u64, usize)> = active
        .filter_map(|(at, row)| row.rank.map(|rank| (rank, at)))
        .collect();
    ranks.sort_unstable();
    Ranked::open(index, latent)?.read_each(&ranks, |row, offset, activation| {
        slots.activations[row * length + offset] = activation;
    })
}

/// The text of stretches, read one after the other.
#[derive(Default)]
struct Text {
    tokens: Vec<u32>,
    documents: Vec<u64>,
}

impl Text {
    /// Reads the stretch from `start` on; returns the document of its first unmasked token.
    fn read(
        &mut self,
        index: &Index,
        start: u64,
        tokens: &mut [u32],
        mask: &mut [bool],
        document_start: &mut [bool],
    ) -> Result<u64> {
        let per_context = index.context_length() as u64;
        let (segment, context) = index.find_context(start / per_context)?;
        let first = context * per_context as usize + (start % per_context) as usize;
        let span = first..first + tokens.len();
        self.tokens.clear();
        segment.tokens_into(span.clone(), &mut self.tokens)?;
        tokens.copy_from_slice(&self.tokens);
        let bits = segment.mask()?;
        for (live, position) in mask.iter_mut().zip(span.clone()) {
            *live = bits.get(position);
        }
        // With the token before, which says whether the first one begins its document.
        self.documents.clear();
        if first == 0 && start > index.first_position() {
            let (segment, context) = index.find_context((start - 1) / per_context)?;
            let last = (context + 1) * per_context as usize - 1;
            self.documents.push(segment.document_of(last)?);
        }
        segment.documents_into(first.saturating_sub(1)..span.end, &mut self.documents)?;
        let here = self.documents.len() - tokens.len();
        let mut before = here.checked_sub(1).map(|at| self.documents[at]);
        let documents = &self.documents[here..];
        for (starts, &document) in document_start.iter_mut().zip(documents) {
            *starts = document != NO_DOCUMENT && before != Some(document);
            before = Some(document);
        }
        let live = mask.iter().position(|&live| live);
        Ok(live.map_or(NO_DOCUMENT, |at| documents[at]))
    }
}
