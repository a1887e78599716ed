//! The strongest windows of a latent, in exact order.
//!
//! A window's code is 8 bits, so that the first hundreds would be ties; of the [`EXACT`] strongest of
//! either side an index keeps the maxima in bf16.

use std::cmp::Reverse;

use rayon::prelude::*;

use crate::code;
use crate::error::Result;
use crate::index::Index;
use crate::list::EXACT;
use crate::ranked::Ranked;

/// The strongest windows of some latents, as columns; by latent, the strongest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Top {
    /// Latent.
    pub latent: Vec<u32>,
    /// Position of the window's first token.
    pub start: Vec<u64>,
    /// The window's largest activation.
    pub activation: Vec<f32>,
    /// Whether it is exact in bf16, and its place in the order with it; else it is the one that
    /// stands for its code, and of equal codes the earlier window goes first.
    pub exact: Vec<bool>,
}

/// One of the strongest windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strong {
    pub(crate) rank: u64,
    pub(crate) window: u64,
    /// The largest activation, where it is known and decides the order.
    pub(crate) exact: Option<u16>,
}

/// Latent, start, activation, and whether it is exact.
type Row = (u32, u64, f32, bool);

impl Index {
    /// The `n` strongest windows of each latent, of one side (0 explain, 1 score) or of all.
    ///
    /// The first 200 of a side are in the order of their bf16, ties by position; all are in a
    /// lossless index. The others follow in the order of their codes, as [`Top::exact`] says; so do
    /// windows of neither side among those of all. Costs about as much as there are windows up to
    /// the last one's code.
    pub fn top(&self, latents: &[u32], n: usize, side: Option<u8>) -> Result<Top> {
        let sides = self.sides()?;
        let wanted = |window: u64| side.is_none_or(|side| sides[window as usize] == side);
        let one = |&latent: &u32| -> Result<Vec<Row>> {
            let mut ranked = Ranked::open(self, latent)?;
            let strongest = ranked.strongest(n, sides, wanted)?;
            let row = |strong: &Strong| {
                let middle = crate::ranked::activation(ranked.code(strong.rank));
                (
                    latent,
                    self.window_start(strong.window),
                    strong.exact.map_or(middle, code::value),
                    strong.exact.is_some(),
                )
            };
            Ok(strongest.iter().map(row).collect())
        };
        let parts: Vec<Result<Vec<Row>>> = latents.par_iter().map(one).collect();
        let mut top = Top::default();
        for part in parts {
            for (latent, start, activation, exact) in part? {
                top.latent.push(latent);
                top.start.push(start);
                top.activation.push(activation);
                top.exact.push(exact);
            }
        }
        self.intact()?;
        Ok(top)
    }
}

impl Ranked<'_> {
    /// The `n` strongest windows that are `wanted`.
    ///
    /// Which maxima count as known does not depend on the segments: of each side the first 200 of
    /// the whole index, wanted or not.
    pub(crate) fn strongest(
        &mut self,
        n: usize,
        sides: &[u8],
        wanted: impl Fn(u64) -> bool,
    ) -> Result<Vec<Strong>> {
        let mut strongest = Vec::with_capacity(n.min(self.n() as usize));
        if n == 0 {
            return Ok(strongest);
        }
        let known = self.exact()?;
        let mut left = if self.lossless() {
            [usize::MAX; 3]
        } else {
            [EXACT as usize, EXACT as usize, 0]
        };
        let levels: Vec<_> = self.levels().collect();
        for level in levels {
            let mut found = Vec::new();
            for rank in level.first..level.first + level.count {
                let window = self.window(rank)?;
                let exact = known
                    .binary_search_by_key(&rank, |k| k.0)
                    .ok()
                    .map(|at| known[at].1);
                found.push(Strong {
                    rank,
                    window,
                    exact,
                });
            }
            found.sort_by_key(|strong| Reverse(strong.exact));
            let mut rest = Vec::new();
            for mut strong in found {
                let left = &mut left[usize::from(sides[strong.window as usize])];
                if *left == 0 || strong.exact.is_none() {
                    strong.exact = None;
                    rest.push(strong);
                    continue;
                }
                *left -= 1;
                if wanted(strong.window) {
                    strongest.push(strong);
                }
            }
            rest.sort_unstable_by_key(|strong| strong.rank);
            strongest.extend(rest.into_iter().filter(|strong| wanted(strong.window)));
            if strongest.len() >= n {
                strongest.truncate(n);
                break;
            }
        }
        Ok(strongest)
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sides::NO_SIDE;
    use crate::testing::{Corpus, corpora};

    #[test]
    fn beyond_200_of_a_side_the_order_is_of_codes_in_any_segments() {
        let corpus = Corpus::long(3);
        let (_folder, index) = corpus.index();
        let mut other = corpus.clone();
        other.parameters.segment_contexts = 170;
        let (_other_folder, other) = other.index();
        assert!(other.segments().len() > 7);
        let latents = [0, 1, 2];
        for side in [None, Some(0), Some(1)] {
            let top = index.top(&latents, usize::MAX, side).unwrap();
            assert_eq!(top, other.top(&latents, usize::MAX, side).unwrap());
        }
        let side_of = |start: u64| index.sides().unwrap()[index.window_number(start)];
        let mut expected: Vec<_> = corpus
            .ranked(0)
            .into_iter()
            .filter(|row| side_of(row.0) == 1)
            .collect();
        assert!(expected.len() > 400);
        expected.sort_by_key(|&(start, max, _)| (Reverse(max), start));
        expected[200..].sort_by_key(|&(start, max, _)| (Reverse(code::code(max)), start));
        let top = index.top(&[0], usize::MAX, Some(1)).unwrap();
        assert_eq!(
            top.start,
            expected.iter().map(|row| row.0).collect::<Vec<_>>()
        );
        for (row, &(_, max, _)) in expected.iter().enumerate() {
            assert_eq!(top.exact[row], row < 200);
            let middle = code::decode(code::code(max));
            assert_eq!(
                top.activation[row],
                if row < 200 { code::value(max) } else { middle }
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_strongest_equal_the_plain_ones(corpus in corpora(), n in 0usize..40) {
            let (_folder, index) = corpus.index();
            let sides = index.sides().unwrap();
            let lossless = index.lossless();
            for latent in 0..index.n_latents() {
                for side in [None, Some(0), Some(1)] {
                    let side_of = |start| sides[index.window_number(start)];
                    let mut expected: Vec<_> = corpus.ranked(latent).into_iter()
                        .filter(|row| side.is_none_or(|side| side_of(row.0) == side))
                        .map(|(start, max, _)| {
                            let known = lossless || side_of(start) != NO_SIDE;
                            (Reverse(code::code(max)), Reverse(known.then_some(max)), start)
                        })
                        .collect();
                    expected.sort_unstable();
                    expected.truncate(n);
                    let top = index.top(&[latent], n, side).unwrap();
                    prop_assert_eq!(&top.start, &expected.iter().map(|r| r.2).collect::<Vec<_>>());
                    for (row, (Reverse(code), Reverse(known), _)) in expected.into_iter().enumerate() {
                        prop_assert_eq!(top.exact[row], known.is_some());
                        let activation = known.map_or(code::decode(code), code::value);
                        prop_assert_eq!(top.activation[row], activation);
                    }
                }
            }
        }
    }
}
