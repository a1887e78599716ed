//! The strata of a latent's silent windows: with one of its commonest peak tokens, or without.
//!
//! An explanation that names the right token errs on other windows than one that does not, and both
//! err where the token stands more often than elsewhere. So the two are sampled apart, and their
//! sizes say what each verdict stands for at the rate at which windows are met.

use rayon::prelude::*;

use super::negatives::{is_set, set};
use super::peaks::common_peak_tokens;
use super::words::Words;
use crate::error::Result;
use crate::index::Index;
use crate::ranked::Ranked;
use crate::sides::SCORE;

/// The silent windows of some latents that may be drawn for scoring, in two strata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SilentStrata {
    /// Commonest peak tokens of all latents, one latent after the other, the commonest first.
    pub tokens: Vec<u32>,
    /// How many of them each latent has.
    pub n_tokens: Vec<u64>,
    /// Windows that hold one, of each latent.
    pub holding: Vec<u64>,
    /// Windows that hold none.
    pub without: Vec<u64>,
}

impl Index {
    /// How many eligible score-side windows in which a latent is silent hold one of the commonest
    /// tokens of its explain-side peaks, and how many hold none; of each of some latents.
    ///
    /// Costs the windows of the latents and of their tokens, and once the list that
    /// [`NegativeKind::PeakToken`](crate::NegativeKind::PeakToken) needs.
    pub fn silent_strata(&self, latents: &[u32], seed: u64) -> Result<SilentStrata> {
        for &latent in latents {
            self.check_latent(latent)?;
        }
        let sides = self.drawable()?;
        let words = self.words()?;
        let scoring: u64 = sides.iter().map(|&side| u64::from(side == SCORE)).sum();
        let bits = || vec![0u64; sides.len().div_ceil(64)];
        let found: Vec<Result<(Vec<u32>, u64, u64)>> = latents
            .par_iter()
            .map_init(bits, |seen, &latent| {
                let mut ranked = Ranked::open(self, latent)?;
                let tokens = common_peak_tokens(self, &mut ranked, sides, seed)?;
                let mut silent = scoring;
                ranked.each_window(|window| {
                    silent -= u64::from(sides[window as usize] == SCORE);
                    set(seen, window);
                })?;
                let holding = unseen(words, &tokens, seen);
                seen.fill(0);
                Ok((tokens, holding, silent - holding))
            })
            .collect();
        let mut strata = SilentStrata::default();
        for one in found {
            let (tokens, holding, without) = one?;
            strata.n_tokens.push(tokens.len() as u64);
            strata.tokens.extend(tokens);
            strata.holding.push(holding);
            strata.without.push(without);
        }
        self.intact()?;
        Ok(strata)
    }

    /// Whether the windows that hold these positions hold one of some tokens, unmasked.
    pub fn holds(&self, tokens: &[u32], positions: &[u64]) -> Result<Vec<bool>> {
        let length = self.window();
        let mut here = Vec::with_capacity(length);
        let found = positions.iter().map(|&position| {
            self.check_position(position)?;
            let start = self.window_start(self.window_number(position) as u64);
            let (segment, context) = self.find_context(start / self.context_length() as u64)?;
            let first =
                context * self.context_length() + (start % self.context_length() as u64) as usize;
            let mask = segment.mask()?;
            here.clear();
            segment.tokens_into(first..first + length, &mut here)?;
            let mut live = (first..).zip(&here).filter(|&(place, _)| mask.get(place));
            Ok(live.any(|(_, token)| tokens.contains(token)))
        });
        let found = found.collect::<Result<Vec<bool>>>()?;
        self.intact()?;
        Ok(found)
    }
}

/// How many of the windows that hold one of some tokens are not seen yet; sees them.
fn unseen(words: &Words, tokens: &[u32], seen: &mut [u64]) -> u64 {
    let mut count = 0;
    for &token in tokens {
        for &window in words.windows(token) {
            let window = u64::from(window);
            count += u64::from(!is_set(seen, window));
            set(seen, window);
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::corpora;
    use crate::{ExplainKind, ExplainPlan, NegativeKind, NegativePlan, Plan, Sources};

    fn plan(n: usize) -> Plan {
        Plan {
            explain: ExplainPlan {
                kind: ExplainKind::Uniform,
                n: 0,
                pool: 0,
                n_top: 0,
            },
            per_decile: 0,
            per_bin: 0,
            bins: 1,
            negatives: vec![NegativePlan {
                kind: NegativeKind::PeakToken,
                n,
                margin: 0,
                ranks: (1, 1),
                pool: None,
                even: true,
            }],
            length: None,
            centred: false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn strata_are_disjoint_and_of_the_size_that_is_said(corpus in corpora(), seed in 0u64..5) {
            let (_folder, index) = corpus.index();
            let drawable = index.drawable().unwrap();
            let latents: Vec<u32> = (0..index.n_latents()).collect();
            let strata = index.silent_strata(&latents, seed).unwrap();
            let mut tokens = strata.tokens.as_slice();
            for &latent in &latents {
                let at = latent as usize;
                let (own, rest) = tokens.split_at(strata.n_tokens[at] as usize);
                tokens = rest;
                let active: Vec<u64> = index.windows(latent).unwrap().starts;
                let mut counts = [0, 0];
                let mut holding = Vec::new();
                for (window, &side) in drawable.iter().enumerate() {
                    let start = index.window_start(window as u64);
                    if side != SCORE || active.contains(&start) {
                        continue;
                    }
                    let span = window * index.window()..(window + 1) * index.window();
                    let holds = span.into_iter()
                        .any(|p| corpus.mask[p] && own.contains(&corpus.tokens[p]));
                    prop_assert_eq!(index.holds(own, &[start]).unwrap(), vec![holds]);
                    counts[usize::from(holds)] += 1;
                    if holds {
                        holding.push(start);
                    }
                }
                prop_assert_eq!([strata.without[at], strata.holding[at]], counts);
                let drawn = index.sample(&[latent], &plan(1000), seed, &Sources::default());
                let mut starts = drawn.unwrap().start;
                let few = index.sample(&[latent], &plan(2), seed, &Sources::default()).unwrap();
                prop_assert_eq!(&few.start[..], &starts[..starts.len().min(2)]);
                starts.sort_unstable();
                prop_assert_eq!(starts, holding);
            }
        }
    }
}
