//! Which windows hold a token: an inverted list of the windows that may be drawn for scoring.
//!
//! An index is ordered by latent, so that this list is made from the text, once for an open index
//! and when first asked for. It keeps 4 bytes for each pair of a token and an eligible score-side
//! window that holds it, so at most 4 bytes for each of their tokens.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::index::Index;
use crate::sides::{Chunk, SCORE};

/// The windows that hold each token.
#[derive(Debug, Default)]
pub(crate) struct Words {
    /// The tokens that there are, ascending.
    tokens: Vec<u32>,
    /// Where the windows of each begin, and the end.
    starts: Vec<usize>,
    /// Window numbers; of each token ascending.
    windows: Vec<u32>,
}

impl Words {
    /// The windows that hold a token, ascending.
    pub(crate) fn windows(&self, token: u32) -> &[u32] {
        match self.tokens.binary_search(&token) {
            Ok(place) => &self.windows[self.starts[place]..self.starts[place + 1]],
            Err(_) => &[],
        }
    }
}

impl Index {
    /// The eligible score-side windows that hold each token; made when first asked for.
    pub(crate) fn words(&self) -> Result<&Words> {
        if let Some(words) = self.derived.words.get() {
            return Ok(words);
        }
        let words = self.make_words()?;
        self.intact()?;
        Ok(self.derived.words.get_or_init(|| words))
    }

    fn make_words(&self) -> Result<Words> {
        if self.n_windows() >= u32::MAX as usize {
            return Err(Error::input(format!(
                "negatives by token are drawn from fewer than {} windows, and this index has {}",
                u32::MAX,
                self.n_windows()
            )));
        }
        let sides = self.drawable()?;
        let mut counted: Vec<(u32, usize)> = self.in_chunks(|chunk| {
            let mut found = Vec::new();
            self.each_word(chunk, sides, |token, _| found.push(token))?;
            found.sort_unstable();
            Ok(found
                .chunk_by(|a, b| a == b)
                .map(|same| (same[0], same.len()))
                .collect())
        })?;
        counted.par_sort_unstable_by_key(|&(token, _)| token);
        let (mut tokens, mut starts, mut end) = (Vec::new(), Vec::new(), 0);
        for same in counted.chunk_by(|a, b| a.0 == b.0) {
            tokens.push(same[0].0);
            starts.push(end);
            end += same.iter().map(|&(_, count)| count).sum::<usize>();
        }
        starts.push(end);
        drop(counted);
        let next: Vec<AtomicUsize> = starts
            .iter()
            .map(|&start| AtomicUsize::new(start))
            .collect();
        let windows: Vec<AtomicU32> = (0..end).map(|_| AtomicU32::new(0)).collect();
        self.in_chunks(|chunk| {
            self.each_word(chunk, sides, |token, window| {
                if let Ok(place) = tokens.binary_search(&token)
                    && let Some(slot) = windows.get(next[place].fetch_add(1, Relaxed))
                {
                    slot.store(window, Relaxed);
                }
            })?;
            Ok(Vec::<u8>::new())
        })?;
        let mut windows: Vec<u32> = windows.into_iter().map(AtomicU32::into_inner).collect();
        // The threads took their slots in any order.
        let mut rest = windows.as_mut_slice();
        let mut lists = Vec::with_capacity(tokens.len());
        for edges in starts.windows(2) {
            let (list, left) = std::mem::take(&mut rest).split_at_mut(edges[1] - edges[0]);
            lists.push(list);
            rest = left;
        }
        lists.into_par_iter().for_each(<[u32]>::sort_unstable);
        Ok(Words {
            tokens,
            starts,
            windows,
        })
    }

    /// Calls `visit` with each token of each window of a chunk that may be drawn for scoring, once a
    /// window.
    fn each_word(
        &self,
        chunk: &Chunk<'_>,
        sides: &[u8],
        mut visit: impl FnMut(u32, u32),
    ) -> Result<()> {
        let length = self.window();
        let mask = chunk.segment.mask()?;
        let mut tokens = Vec::with_capacity(chunk.span.len());
        chunk.segment.tokens_into(chunk.span.clone(), &mut tokens)?;
        let base = self.segment_position(chunk.segment);
        let mut own = Vec::with_capacity(length);
        for (start, tokens) in (chunk.span.start..)
            .step_by(length)
            .zip(tokens.chunks(length))
        {
            let window = self.window_number(base + start as u64);
            if sides[window] != SCORE {
                continue;
            }
            own.clear();
            let live = (start..).zip(tokens).filter(|&(place, _)| mask.get(place));
            own.extend(live.map(|(_, &token)| token));
            own.sort_unstable();
            own.dedup();
            for &token in &own {
                visit(token, window as u32);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use crate::testing::corpora;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_token_has_the_windows_that_hold_it(corpus in corpora()) {
            let (_folder, index) = corpus.index();
            let drawable = index.drawable().unwrap();
            let mut expected: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
            for place in (0..corpus.tokens.len()).filter(|&place| corpus.mask[place]) {
                let window = place / index.window();
                let list = expected.entry(corpus.tokens[place]).or_default();
                if drawable[window] == 1 && list.last() != Some(&(window as u32)) {
                    list.push(window as u32);
                }
            }
            for token in 0..9 {
                let windows = expected.get(&token).map_or(&[][..], |list| list);
                prop_assert_eq!(index.words().unwrap().windows(token), windows);
            }
        }
    }
}
