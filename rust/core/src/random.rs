//! Keyed hashes in place of a random number generator.
//!
//! A draw is "the smallest keys", and a key depends on nothing but what it is a key of. So a draw
//! is the same on every machine, for every order of the work and every division of the index into
//! segments, and a smaller draw is the beginning of a larger one.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The key of `value` among the draws for one `latent` and `purpose` under one `seed`.
pub(crate) fn key(seed: u64, latent: u32, purpose: u64, value: u64) -> u64 {
    let words = [seed, u64::from(latent), purpose, value].map(u64::to_le);
    xxh3_64(bytemuck::cast_slice(&words))
}

/// A number below `bound`, uniform to within `bound / 2^64`, from a key.
pub(crate) fn below(key: u64, bound: usize) -> usize {
    ((u128::from(key) * bound as u128) >> 64) as usize
}

/// The side of a document: 0 explain, 1 score; one bit of a hash of its id and the split's seed.
#[must_use]
pub fn document_side(document: u64, split_seed: u64) -> u8 {
    (xxh3_64_with_seed(&document.to_le_bytes(), split_seed) >> 63) as u8
}

#[cfg(test)]
mod tests {
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
        for value in 0..7_000 {
            seen[below(key(3, 5, 1, value), 7)] += 1;
        }
        assert!(seen.iter().all(|&n| (850..1_150).contains(&n)), "{seen:?}");
    }
}
