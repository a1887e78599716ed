//! Against a plain count of all pairs; and, asked for by name, the speed on synthetic data.

use std::collections::BTreeSet;
use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::testing::{Corpus, corpora};

/// Lists of anything.
#[derive(Debug)]
struct Plain {
    n_rows: usize,
    lists: Vec<Vec<u32>>,
}

impl Source for Plain {
    fn n_rows(&self) -> usize {
        self.n_rows
    }

    fn counts(&self) -> Result<Vec<u64>> {
        Ok(self.lists.iter().map(|list| list.len() as u64).collect())
    }

    fn rows(&self, latent: u32, out: &mut Vec<u32>) -> Result<()> {
        out.extend(&self.lists[latent as usize]);
        Ok(())
    }
}

/// The definition: all pairs of sets.
fn reference(sets: &[BTreeSet<u64>], latents: &[u32], top: usize) -> Cooccurrence {
    let mut result = Cooccurrence::default();
    for &latent in latents {
        let own = &sets[latent as usize];
        let mut pairs: Vec<(f64, u32, u64)> = (0..sets.len() as u32)
            .filter(|&other| other != latent)
            .map(|other| {
                let other_set = &sets[other as usize];
                let both = own.intersection(other_set).count();
                let either = own.union(other_set).count();
                (both as f64 / either as f64, other, both as u64)
            })
            .filter(|&(_, _, both)| both > 0)
            .collect();
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for place in 0..top {
            let found = pairs.get(place);
            let (jaccard, other, both) = found.map_or((0.0, NO_NEIGHBOUR, 0), |&found| found);
            let share =
                |id: u32| found.map_or(0.0, |_| both as f64 / sets[id as usize].len() as f64);
            result.neighbours.push(other);
            result.jaccard.push(jaccard);
            result.both.push(both);
            result.given.push(share(latent));
            result.given_back.push(share(other));
        }
    }
    result
}

fn sets(corpus: &Corpus, row_tokens: u64) -> Vec<BTreeSet<u64>> {
    let rows = |latent| {
        corpus
            .postings(latent)
            .into_iter()
            .map(|(p, _)| p / row_tokens)
    };
    (0..corpus.parameters.n_latents)
        .map(|latent| rows(latent).collect())
        .collect()
}

/// Lists of `n` latents over `n_rows` rows, of very unequal length, with many ties.
fn plain() -> impl Strategy<Value = Plain> {
    (1usize..60, 1usize..90, any::<u64>()).prop_map(|(n, n_rows, seed)| {
        let mut random = Random(seed);
        let lists = (0..n)
            .map(|_| {
                let share = random.unit().powi(3);
                (0..n_rows as u32)
                    .filter(|_| random.unit() < share)
                    .collect()
            })
            .collect();
        Plain { n_rows, lists }
    })
}

/// As little memory as is accepted.
fn least(lists: &Plain, latents: &[u32], top: usize) -> u64 {
    let mut sizes: Vec<u64> = latents
        .iter()
        .map(|&l| lists.lists[l as usize].len() as u64)
        .collect();
    sizes.retain(|&size| size > 0);
    sizes.sort_unstable();
    sizes.reverse();
    let (mut low, mut high) = (0, 1 << 40);
    while low + 1 < high {
        let middle = u64::midpoint(low, high);
        match plan(&sizes, lists.n_rows, top, middle) {
            Ok(_) => high = middle,
            Err(_) => low = middle,
        }
    }
    high
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn neighbours_of_an_index_equal_the_plain_ones(corpus in corpora(), top in 0usize..8) {
        let (_folder, index) = corpus.index();
        let latents: Vec<u32> = (0..index.n_latents()).rev().chain([0]).collect();
        let window = u64::from(corpus.parameters.window);
        for (unit, row_tokens) in [(Unit::Token, 1), (Unit::Window, window)] {
            let expected = reference(&sets(&corpus, row_tokens), &latents, top);
            let found = index.cooccurrence(&latents, top, unit, 1 << 30).unwrap();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn neither_memory_nor_who_else_is_asked_for_changes_a_neighbour(
        lists in plain(), top in 1usize..12, every in 1usize..4,
    ) {
        let latents: Vec<u32> = (0..lists.lists.len() as u32).step_by(every).collect();
        let sets: Vec<BTreeSet<u64>> = lists.lists.iter()
            .map(|list| list.iter().map(|&row| u64::from(row)).collect()).collect();
        let expected = reference(&sets, &latents, top);
        let least = least(&lists, &latents, top);
        for memory in [least, least + 100, 1 << 40] {
            let found = neighbours(&lists, &latents, top, memory).unwrap();
            prop_assert_eq!(found, expected.clone());
        }
        let refused = neighbours(&lists, &latents, top, least - 1);
        prop_assert!(refused.unwrap_err().to_string().contains("bytes of memory"));
    }
}

#[test]
fn long_lists_and_empty_ones_are_counted() {
    // Lists of more than 65,535 rows have wide counters, those of few rows are gone through twice.
    let n_rows = 70_000u32;
    let mut lists = vec![
        (0..n_rows).collect::<Vec<_>>(),
        (0..n_rows).skip(1).collect(),
        vec![],
    ];
    lists.extend((0..400).map(|latent| vec![latent, latent + 1]));
    let sets: Vec<BTreeSet<u64>> = lists
        .iter()
        .map(|list| list.iter().map(|&row| u64::from(row)).collect())
        .collect();
    let plain = Plain {
        n_rows: n_rows as usize,
        lists,
    };
    let latents = [0, 1, 2, 3, 50, 402];
    let found = neighbours(&plain, &latents, 4, 1 << 40).unwrap();
    assert_eq!(found, reference(&sets, &latents, 4));
}

/// The numbers of [`crate::random`] will not do: this is for volume.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// `k` distinct latents for each of `tokens` tokens, latents log-normally frequent (sigma 1.5); in
/// rows of `row_tokens` tokens.
fn synthetic(n_latents: usize, k: usize, tokens: usize, row_tokens: usize) -> Plain {
    let mut random = Random(7);
    let mut sum = 0.0;
    let ends: Vec<f64> = (0..n_latents)
        .map(|_| {
            sum += (1.5 * random.normal()).exp();
            sum
        })
        .collect();
    // A table from which a binary search needs few steps.
    let grid: Vec<usize> = (0..=65_536)
        .map(|cell| ends.partition_point(|&end| end <= sum * f64::from(cell) / 65_536.0))
        .collect();
    let mut lists = vec![Vec::new(); n_latents];
    let mut drawn = vec![];
    for token in 0..tokens {
        drawn.clear();
        while drawn.len() < k {
            let at = random.unit();
            let cell = (at * 65_536.0) as usize;
            let span = grid[cell]..(grid[cell + 1] + 1).min(n_latents);
            let latent = span.start + ends[span].partition_point(|&end| end <= at * sum);
            if !drawn.contains(&latent) {
                drawn.push(latent);
                let row = (token / row_tokens) as u32;
                if lists[latent].last() != Some(&row) {
                    lists[latent].push(row);
                }
            }
        }
    }
    let n_rows = tokens / row_tokens;
    Plain { n_rows, lists }
}

/// Seconds of processor time that this process has used; in steps of 10 ms.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, after) = stat.rsplit_once(')').unwrap();
    let ticks = after.split(' ').skip(12).take(2);
    ticks.map(|text| text.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// `TOKENS=1000000 cargo test --release -p glossator-core -- --ignored --nocapture speed_of_all`
#[test]
#[ignore = "a measurement"]
fn speed_of_all_neighbours() {
    let tokens = setting("TOKENS", 1_000_000);
    let row_tokens = setting("ROW_TOKENS", 1);
    let n_latents = setting("LATENTS", 32_768);
    let started = Instant::now();
    let plain = synthetic(n_latents, setting("K", 32), tokens, row_tokens);
    let entries: usize = plain.lists.iter().map(Vec::len).sum();
    eprintln!("{entries} entries drawn in {:.1?}", started.elapsed());
    let latents: Vec<u32> = (0..n_latents as u32).collect();
    let memory = setting("MEMORY", 1 << 40) as u64;
    for _ in 0..setting("TIMES", 2) {
        let (started, used) = (Instant::now(), processor());
        let found = neighbours(&plain, &latents, 10, memory).unwrap();
        let sum: f64 = found.jaccard.iter().sum();
        let used = processor() - used;
        let elapsed = started.elapsed();
        eprintln!("{elapsed:.2?} ({used:.2} s of processors), sum of Jaccards {sum:.6}");
    }
}
