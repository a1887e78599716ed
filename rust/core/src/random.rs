//! Keyed hashes in place of a random number generator.
//!
//! A draw walks a [`Shuffle`] of what may be drawn, and a shuffle depends on nothing but its key. So
//! a draw is the same on every machine, for every order of the work and every division of the index
//! into segments, and a smaller draw is the beginning of a larger one.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The key of one shuffle: of stratum `stratum` among the draws for one `latent` and `purpose` under
/// one `seed`.
pub(crate) fn key(seed: u64, latent: u32, purpose: u64, stratum: u64) -> u64 {
    let words = [seed, u64::from(latent), purpose, stratum].map(u64::to_le);
    xxh3_64(bytemuck::cast_slice(&words))
}

/// A number below `bound`, uniform to within `bound / 2^64`, from a hash.
fn below(hash: u64, bound: u64) -> u64 {
    ((u128::from(hash) * u128::from(bound)) >> 64) as u64
}

/// The `step`th number of the stream of a key: `SplitMix64`.
fn number(key: u64, step: u64) -> u64 {
    let mut z = key.wrapping_add(step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Up to this many numbers are shuffled in place.
const SMALL: u64 = 1024;
/// So many steps are expected.
const FEW: usize = 24;
/// Of more numbers, as many as one in so many are shuffled with a list of those that were moved.
const SPARSE: u64 = 8;

/// The numbers below `n` in a random order, each of the `n!` orders equally likely: the shuffle of
/// Fisher and Yates, as far as it is walked.
///
/// Step `i` swaps places `i` and `i + below(n - i)` and yields what is then in place `i`. A step
/// costs the same for every `n`; memory grows with the steps.
#[derive(Debug)]
pub(crate) struct Shuffle {
    key: u64,
    n: u64,
    step: u64,
    places: Places,
}

#[derive(Debug)]
enum Places {
    All(Vec<u32>),
    /// Those that do not hold their own number.
    Moved(HashMap<u64, u64, BuildHasherDefault<Scattered>>),
}

impl Shuffle {
    pub(crate) fn new(key: u64, n: u64) -> Self {
        let places = if n <= SMALL {
            Places::All((0..n as u32).collect())
        } else {
            Places::Moved(HashMap::with_capacity_and_hasher(
                FEW,
                BuildHasherDefault::default(),
            ))
        };
        Self {
            key,
            n,
            step: 0,
            places,
        }
    }

    /// Fills in the places that were not moved, once many were.
    #[cold]
    fn fill_in(&mut self) {
        if let (Places::Moved(moved), Ok(n)) = (&self.places, u32::try_from(self.n)) {
            let mut all: Vec<u32> = (0..n).collect();
            for (&place, &number) in moved {
                all[place as usize] = number as u32;
            }
            self.places = Places::All(all);
        }
    }
}

impl Iterator for Shuffle {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.step == self.n {
            return None;
        }
        let here = self.step;
        let there = here + below(number(self.key, here), self.n - here);
        self.step += 1;
        match &mut self.places {
            Places::All(all) => {
                all.swap(here as usize, there as usize);
                Some(u64::from(all[here as usize]))
            }
            Places::Moved(moved) => {
                let own = moved.remove(&here).unwrap_or(here);
                let drawn = if there == here {
                    own
                } else {
                    moved.insert(there, own).unwrap_or(there)
                };
                if self.step == self.n / SPARSE {
                    self.fill_in();
                }
                Some(drawn)
            }
        }
    }
}

/// Small numbers as keys of a table: one multiplication strews them.
#[derive(Default)]
struct Scattered(u64);

impl Hasher for Scattered {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, value: u64) {
        let wide = u128::from(value ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = (wide >> 64) as u64 ^ wide as u64;
    }
}

/// The side of a document: 0 explain, 1 score; one bit of a hash of its id and the split's seed.
#[must_use]
pub fn document_side(document: u64, split_seed: u64) -> u8 {
    (xxh3_64_with_seed(&document.to_le_bytes(), split_seed) >> 63) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sides_are_half_and_half_and_differ_between_seeds() {
        let score = |seed| (0..10_000u64).map(move |id| document_side(id, seed));
        let share: u64 = score(0).map(u64::from).sum();
        assert!((4_800..5_200).contains(&share), "{share}");
        let agreement = score(0).zip(score(1)).filter(|(a, b)| a == b).count();
        assert!((4_800..5_200).contains(&agreement), "{agreement}");
    }

    #[test]
    fn below_covers_its_range_and_never_reaches_the_bound() {
        assert_eq!(below(u64::MAX, 7), 6);
        assert_eq!(below(0, 7), 0);
        let mut seen = [0; 7];
        for step in 0..7_000 {
            seen[below(number(3, step), 7) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (850..1_150).contains(&n)), "{seen:?}");
    }

    #[test]
    fn every_order_of_four_is_equally_likely() {
        let mut seen = HashMap::<Vec<u64>, u32>::new();
        for seed in 0..24_000 {
            let order: Vec<u64> = Shuffle::new(key(seed, 1, 2, 3), 4).collect();
            *seen.entry(order).or_default() += 1;
        }
        assert_eq!(seen.len(), 24);
        assert!(seen.values().all(|n| (850..1_150).contains(n)), "{seen:?}");
    }

    #[test]
    fn the_first_of_many_are_spread_evenly() {
        let mut tenths = [0; 10];
        for seed in 0..1_000 {
            for drawn in Shuffle::new(key(seed, 0, 0, 0), 1_000_000).take(20) {
                tenths[drawn as usize / 100_000] += 1;
            }
        }
        assert!(
            tenths.iter().all(|n| (1_800..2_200).contains(n)),
            "{tenths:?}"
        );
    }

    proptest! {
        #[test]
        fn a_walk_equals_the_plain_shuffle(key: u64, n in 0u64..5_000) {
            let mut plain: Vec<u64> = (0..n).collect();
            for here in 0..n {
                let there = here + below(number(key, here), n - here);
                plain.swap(here as usize, there as usize);
            }
            let walked: Vec<u64> = Shuffle::new(key, n).collect();
            prop_assert_eq!(&walked, &plain);
            plain.sort_unstable();
            prop_assert!(plain.into_iter().eq(0..n));
        }
    }
}
