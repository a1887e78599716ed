//! The windows that a list of negatives tries, in the order in which it tries them.

use super::draw::Draw;
use super::stretch::Stretches;
use crate::error::Result;
use crate::random::Shuffle;
use crate::ranked::Ranked;
use crate::sides::SCORE;

/// The windows that hold a token, in the order of a shuffle.
pub(super) struct TokenWalk<'a> {
    token: u32,
    windows: &'a [u32],
    shuffle: Shuffle,
}

impl<'a> TokenWalk<'a> {
    pub(super) fn new(token: u32, windows: &'a [u32], key: u64) -> Self {
        Self {
            token,
            windows,
            shuffle: Shuffle::new(key, windows.len() as u64),
        }
    }

    pub(super) fn next(&mut self) -> Option<u64> {
        let place = self.shuffle.next()?;
        Some(u64::from(self.windows[place as usize]))
    }

    /// Whether what is shown from `start` on holds the token too.
    pub(super) fn is_shown(&self, draw: &Draw<'_>, start: u64) -> Result<bool> {
        if draw.frame.on_grid() {
            return Ok(true);
        }
        let index = draw.index;
        let length = index.context_length() as u64;
        let (segment, context) = index.find_context(start / length)?;
        let first = context * length as usize + (start % length) as usize;
        let mask = segment.mask()?;
        let mut tokens = Vec::with_capacity(draw.frame.length);
        segment.tokens_into(first..first + draw.frame.length, &mut tokens)?;
        let mut live = (first..).zip(tokens).filter(|&(place, _)| mask.get(place));
        Ok(live.any(|(_, token)| token == self.token))
    }
}

/// The eligible windows of a neighbour, in the order of a shuffle.
pub(super) struct NeighbourWalk<'a> {
    /// The neighbour and its rank.
    pub(super) from: (u32, u32),
    pub(super) ranked: Ranked<'a>,
    /// The strongest, if only those are wanted.
    pool: Option<Vec<u64>>,
    shuffle: Shuffle,
    /// Where its text begins is the neighbour's affair: that holds its activation.
    stretches: Option<Stretches>,
}

impl<'a> NeighbourWalk<'a> {
    pub(super) fn new(
        draw: &Draw<'a>,
        mut ranked: Ranked<'a>,
        from: (u32, u32),
        pool: Option<usize>,
        key: u64,
    ) -> Result<Self> {
        let stretches = if draw.frame.on_grid() {
            None
        } else {
            Some(Stretches::of(draw.index, from.0, draw.frame)?)
        };
        let pool = match pool {
            None => None,
            Some(n) => {
                let wanted = |window| draw.start(stretches.as_ref(), window, SCORE).is_some();
                let n = n.min(ranked.n() as usize);
                let strongest = ranked.strongest(n, draw.sides, wanted)?;
                Some(strongest.iter().map(|strong| strong.window).collect())
            }
        };
        let n = pool
            .as_ref()
            .map_or(ranked.n(), |p: &Vec<u64>| p.len() as u64);
        Ok(Self {
            from,
            ranked,
            pool,
            shuffle: Shuffle::new(key, n),
            stretches,
        })
    }

    /// The next window, and where its text begins.
    pub(super) fn next(&mut self, draw: &Draw<'_>) -> Result<Option<(u64, u64)>> {
        for place in self.shuffle.by_ref() {
            let window = match &self.pool {
                Some(pool) => pool[place as usize],
                None => self.ranked.window(place)?,
            };
            if let Some(start) = draw.start(self.stretches.as_ref(), window, SCORE) {
                return Ok(Some((window, start)));
            }
        }
        Ok(None)
    }
}
