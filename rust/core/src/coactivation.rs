//! How often the latents of given pairs are active together: neighbours by direction, say.
//!
//! A pair is counted by marking the windows of the more frequent latent in a bitmap and walking
//! those of the rarer one; a pair that is asked for from both ends is counted once.

use rayon::prelude::*;

use crate::cooccurrence::NO_NEIGHBOUR;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::random::key;
use crate::ranked::Ranked;
use crate::sampling::{peaks, token_at};

/// Windows of a latent whose peak tokens are compared.
const N_PEAKS: usize = 64;
/// What keys the choice of those windows, which depends on nothing but index and latent.
const PURPOSE: u64 = 8;

/// What `k` neighbours of some latents have in common with them, flat; per window of the grid.
///
/// Where there is no neighbour `both` is 0 and all other figures are NaN; so is each figure that
/// would be 0/0: any but `both` of two latents that are never active, for one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Coactivation {
    /// Windows in which both are active; exact, as are all figures but `shared_tokens`.
    pub both: Vec<u64>,
    /// Windows of both over windows of either.
    pub jaccard: Vec<f64>,
    /// Normalised pointwise mutual information, over all windows of the index: -1 never together, 0
    /// as often as by chance, 1 only together (and where both are active in every window).
    pub npmi: Vec<f64>,
    /// Windows of both over the latent's: P(neighbour | latent).
    pub given: Vec<f64>,
    /// Windows of both over the neighbour's: P(latent | neighbour).
    pub given_back: Vec<f64>,
    /// Overlap of the distributions p of the two latents' peak tokens, the sum of min(p, p') over
    /// tokens: 0 none in common, 1 the same. From up to 64 windows of each, always the same ones.
    pub shared_tokens: Vec<f64>,
}

/// A pair to be counted: the more frequent latent, the rarer, and its place in the result.
type Pair = (u32, u32, usize);

/// Tokens and their shares.
type Distribution = Vec<(u32, f64)>;

impl Index {
    /// How often each of `latents` is active together with each of its `k` `neighbours`.
    ///
    /// Costs a walk through the windows of the rarer latent of every pair; with it the peaks of 64
    /// windows of each latent.
    pub fn coactivation(
        &self,
        latents: &[u32],
        neighbours: &[u32],
        k: usize,
    ) -> Result<Coactivation> {
        if neighbours.len() != latents.len() * k {
            return Err(Error::input(format!(
                "`neighbours` has {} ids; {} latents with {k} each have {}",
                neighbours.len(),
                latents.len(),
                latents.len() * k
            )));
        }
        let there = |&&id: &&u32| id != NO_NEIGHBOUR;
        let mut involved: Vec<u32> = neighbours.iter().filter(there).copied().collect();
        involved.extend(latents);
        involved.sort_unstable();
        involved.dedup();
        if let Some(&last) = involved.last() {
            self.check_latent(last)?;
        }
        let counts = self.window_counts()?;
        let shares = self.peak_tokens(&involved)?;
        let latent_of = |at: usize| latents[at / k];
        let mut pairs: Vec<Pair> = Vec::with_capacity(neighbours.len());
        for (at, &other) in neighbours.iter().enumerate() {
            if other != NO_NEIGHBOUR {
                let of = |id: u32| (counts[id as usize], id);
                let (rare, frequent) = (
                    of(latent_of(at)).min(of(other)).1,
                    of(latent_of(at)).max(of(other)).1,
                );
                pairs.push((frequent, rare, at));
            }
        }
        pairs.par_sort_unstable();
        let mut result = Coactivation::empty(neighbours.len());
        for (at, both) in self.count_pairs(&pairs)? {
            result.both[at] = both;
        }
        let n_windows = self.n_windows() as f64;
        let tokens = |id: u32| match involved.binary_search(&id) {
            Ok(place) => shares[place].as_slice(),
            Err(_) => &[],
        };
        for (_, _, at) in pairs {
            let (latent, other) = (latent_of(at), neighbours[at]);
            let own = [latent, other].map(|id| counts[id as usize] as f64);
            let both = result.both[at] as f64;
            result.jaccard[at] = both / (own[0] + own[1] - both);
            result.npmi[at] = npmi(both, own[0], own[1], n_windows);
            result.given[at] = both / own[0];
            result.given_back[at] = both / own[1];
            result.shared_tokens[at] = overlap(tokens(latent), tokens(other));
        }
        self.intact()?;
        Ok(result)
    }

    /// For each pair (sorted) its place and the windows of both.
    fn count_pairs(&self, pairs: &[Pair]) -> Result<Vec<(usize, u64)>> {
        let of_frequent: Vec<&[Pair]> = pairs.chunk_by(|a, b| a.0 == b.0).collect();
        let words = self.n_windows().div_ceil(64);
        let count = |marked: &mut Vec<u64>, group: &&[Pair]| -> Result<Vec<(usize, u64)>> {
            marked.resize(words, 0);
            let mut frequent = Ranked::open(self, group[0].0)?;
            frequent.each_window(|window| marked[window as usize / 64] |= 1 << (window % 64))?;
            let mut found = Vec::with_capacity(group.len());
            for same in group.chunk_by(|a, b| a.1 == b.1) {
                let mut both = 0;
                Ranked::open(self, same[0].1)?.each_window(|window| {
                    both += marked[window as usize / 64] >> (window % 64) & 1;
                })?;
                found.extend(same.iter().map(|&(_, _, at)| (at, both)));
            }
            frequent.each_window(|window| marked[window as usize / 64] = 0)?;
            Ok(found)
        };
        let found: Vec<Result<Vec<_>>> = of_frequent.par_iter().map_init(Vec::new, count).collect();
        let mut all = Vec::with_capacity(pairs.len());
        for part in found {
            all.extend(part?);
        }
        Ok(all)
    }

    /// The distribution of each latent's peak tokens, by token.
    fn peak_tokens(&self, latents: &[u32]) -> Result<Vec<Distribution>> {
        let one = |&latent: &u32| -> Result<Distribution> {
            let mut ranked = Ranked::open(self, latent)?;
            let key = key(0, latent, PURPOSE, 0);
            let mut tokens = Vec::new();
            for peak in peaks(self, &mut ranked, key, N_PEAKS, |_| true)? {
                tokens.extend(token_at(self, peak)?);
            }
            tokens.sort_unstable();
            let n = tokens.len() as f64;
            Ok(tokens
                .chunk_by(|a, b| a == b)
                .map(|same| (same[0], same.len() as f64 / n))
                .collect())
        };
        latents.par_iter().map(one).collect()
    }
}

impl Coactivation {
    fn empty(n: usize) -> Self {
        Self {
            both: vec![0; n],
            jaccard: vec![f64::NAN; n],
            npmi: vec![f64::NAN; n],
            given: vec![f64::NAN; n],
            given_back: vec![f64::NAN; n],
            shared_tokens: vec![f64::NAN; n],
        }
    }
}

/// ln(p(f, g) / (p(f) p(g))) / -ln p(f, g), for counts of `n` windows.
fn npmi(both: f64, first: f64, second: f64, n: f64) -> f64 {
    if first == 0.0 || second == 0.0 {
        f64::NAN
    } else if both == 0.0 {
        -1.0
    } else if both >= n {
        1.0
    } else {
        // Rounding alone can cross the ends.
        ((both / first * (n / second)).ln() / (n / both).ln()).clamp(-1.0, 1.0)
    }
}

fn overlap(first: &[(u32, f64)], second: &[(u32, f64)]) -> f64 {
    if first.is_empty() || second.is_empty() {
        return f64::NAN;
    }
    let share = |&(token, share): &(u32, f64)| match second.binary_search_by_key(&token, |s| s.0) {
        Ok(place) => share.min(second[place].1),
        Err(_) => 0.0,
    };
    first.iter().map(share).sum::<f64>().min(1.0)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Corpus, corpora};

    fn same(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-12 || (found.is_nan() && expected.is_nan())
    }

    /// The shares of the tokens on which a latent of up to 64 windows peaks.
    fn shares(corpus: &Corpus, latent: u32) -> BTreeMap<u32, f64> {
        let length = u64::from(corpus.parameters.window);
        let mut peaks: BTreeMap<u64, (u16, u64)> = BTreeMap::new();
        for (position, activation) in corpus.postings(latent) {
            let code = crate::code::code(crate::code::bf16_of(activation));
            let peak = peaks.entry(position / length).or_insert((code, position));
            if code > peak.0 {
                *peak = (code, position);
            }
        }
        let mut shares = BTreeMap::new();
        for &(_, position) in peaks.values() {
            let token = corpus.tokens[(position - corpus.base()) as usize];
            *shares.entry(token).or_insert(0.0) += 1.0 / peaks.len() as f64;
        }
        shares
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn counts_and_figures_equal_the_plain_ones(
            corpus in corpora(), picks in prop::collection::vec(0u32..7, 0..24), k in 1usize..5,
        ) {
            let (_folder, index) = corpus.index();
            let n_latents = index.n_latents();
            // 5 and 6 stand for none.
            let neighbours: Vec<u32> = picks[..picks.len() / k * k].iter()
                .map(|&id| if id < 5 { id % n_latents } else { NO_NEIGHBOUR }).collect();
            let latents: Vec<u32> = (0..(neighbours.len() / k) as u32).rev()
                .map(|row| row % n_latents).collect();
            let found = index.coactivation(&latents, &neighbours, k).unwrap();
            let windows = |latent| -> BTreeSet<u64> {
                corpus.ranked(latent).into_iter().map(|row| row.0).collect()
            };
            let n = (corpus.tokens.len() / index.window()) as f64;
            for (at, &other) in neighbours.iter().enumerate() {
                if other == NO_NEIGHBOUR {
                    prop_assert_eq!(found.both[at], 0);
                    prop_assert!(found.jaccard[at].is_nan() && found.npmi[at].is_nan());
                    prop_assert!(found.given[at].is_nan() && found.given_back[at].is_nan());
                    prop_assert!(found.shared_tokens[at].is_nan());
                    continue;
                }
                let (f, g) = (windows(latents[at / k]), windows(other));
                let both = f.intersection(&g).count();
                prop_assert_eq!(found.both[at], both as u64);
                let (p, p_f, p_g) = (both as f64 / n, f.len() as f64 / n, g.len() as f64 / n);
                prop_assert!(same(found.jaccard[at], both as f64 / f.union(&g).count() as f64));
                prop_assert!(same(found.given[at], both as f64 / f.len() as f64));
                prop_assert!(same(found.given_back[at], both as f64 / g.len() as f64));
                let npmi = if f.is_empty() || g.is_empty() {
                    f64::NAN
                } else if both == 0 {
                    -1.0
                } else if (p - 1.0).abs() < 1e-15 {
                    1.0
                } else {
                    (p / (p_f * p_g)).ln() / -p.ln()
                };
                prop_assert!(same(found.npmi[at], npmi), "{} {npmi}", found.npmi[at]);
                let (p, q) = (shares(&corpus, latents[at / k]), shares(&corpus, other));
                let expected: f64 = p.iter().map(|(token, share)| share.min(*q.get(token).unwrap_or(&0.0))).sum();
                let expected = if p.is_empty() || q.is_empty() { f64::NAN } else { expected };
                if f.len() <= N_PEAKS && g.len() <= N_PEAKS {
                    prop_assert!(same(found.shared_tokens[at], expected));
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let corpus = Corpus::long(3);
        let (_folder, index) = corpus.index();
        let refused = |latents: &[u32], neighbours: &[u32]| {
            index
                .coactivation(latents, neighbours, 2)
                .unwrap_err()
                .to_string()
        };
        assert!(refused(&[0], &[1]).contains("1 latents with 2 each have 2"));
        assert!(refused(&[3], &[1, 2]).contains("latent 3 is not in the index"));
        assert!(refused(&[0], &[1, 4]).contains("latent 4 is not in the index"));
    }
}
