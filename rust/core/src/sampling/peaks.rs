//! Where a latent peaks, and the tokens there and beside.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::draw::PEAKS;
use crate::code::{bf16_of, code};
use crate::error::Result;
use crate::index::Index;
use crate::random::{Shuffle, key};
use crate::ranked::Ranked;
use crate::sides::EXPLAIN;

/// The tokens of some peaks of a latent, in the order of a shuffle.
#[derive(Default)]
pub(super) struct PeakTokens {
    /// Of the peaks themselves.
    pub(super) own: Vec<u32>,
    /// Of the positions before and after them in their contexts, where those are not masked.
    pub(super) near: Vec<u32>,
}

/// The positions of the peaks of up to `n` windows: the first in the order of a keyed shuffle that
/// are `wanted`, in that order.
///
/// The peak of a window is the first of its largest activations, by code.
pub(crate) fn peaks(
    index: &Index,
    ranked: &mut Ranked<'_>,
    key: u64,
    n: usize,
    wanted: impl Fn(u64) -> bool,
) -> Result<Vec<u64>> {
    let (mut ranks, mut starts) = (Vec::new(), Vec::new());
    let mut shuffle = Shuffle::new(key, ranked.n());
    while starts.len() < n {
        let Some(rank) = shuffle.next() else { break };
        let window = ranked.window(rank)?;
        if wanted(window) {
            ranks.push((rank, starts.len()));
            starts.push(index.window_start(window));
        }
    }
    ranks.sort_unstable();
    let mut best = vec![(0, Reverse(usize::MAX)); starts.len()];
    ranked.read_each(&ranks, |at, offset, activation| {
        best[at] = best[at].max((code(bf16_of(activation)), Reverse(offset)));
    })?;
    let peaks = starts.into_iter().zip(best);
    Ok(peaks
        .filter(|(_, (_, Reverse(offset)))| *offset != usize::MAX)
        .map(|(start, (_, Reverse(offset)))| start + offset as u64)
        .collect())
}

/// Peaks of which the tokens are counted.
const COUNTED: usize = 256;
/// Tokens that are kept of those.
const COMMONEST: usize = 20;

/// The commonest tokens of a latent's peaks on the explain side, the commonest first and of equally
/// common ones the smaller: fixed by index, latent and seed.
pub(super) fn common_peak_tokens(
    index: &Index,
    ranked: &mut Ranked<'_>,
    sides: &[u8],
    seed: u64,
) -> Result<Vec<u32>> {
    let key = key(seed, ranked.latent(), PEAKS, 0);
    let explains = |window| sides[window as usize] == EXPLAIN;
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for peak in peaks(index, ranked, key, COUNTED, explains)? {
        if let Some(token) = token_at(index, peak)? {
            *counts.entry(token).or_default() += 1;
        }
    }
    let mut tokens: Vec<(u32, usize)> = counts.into_iter().collect();
    tokens.sort_by_key(|&(token, count)| (Reverse(count), token));
    tokens.truncate(COMMONEST);
    Ok(tokens.into_iter().map(|(token, _)| token).collect())
}

impl PeakTokens {
    pub(super) fn of(index: &Index, peaks: &[u64]) -> Result<Self> {
        let mut tokens = Self::default();
        let length = index.context_length() as u64;
        for &peak in peaks {
            tokens.own.extend(token_at(index, peak)?);
            let offset = peak % length;
            if offset > 0 {
                tokens.near.extend(token_at(index, peak - 1)?);
            }
            if offset + 1 < length {
                tokens.near.extend(token_at(index, peak + 1)?);
            }
        }
        Ok(tokens)
    }
}

/// The token at a position, unless it is masked.
pub(crate) fn token_at(index: &Index, position: u64) -> Result<Option<u32>> {
    let length = index.context_length() as u64;
    let (segment, context) = index.find_context(position / length)?;
    let place = context * length as usize + (position % length) as usize;
    if !segment.mask()?.get(place) {
        return Ok(None);
    }
    Ok(Some(segment.token(place)?))
}
