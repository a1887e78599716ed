use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn found(rows: &[f32], others: Option<&[f32]>, width: usize, k: usize, how: Compare) -> Nearest {
    neighbours(rows, others, width, k, how, &mut |_, _| true)
        .unwrap()
        .unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum()
    };
    dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt())
}

/// Whether the result is what cosines in float64 say: the same sets but for ties.
fn check(rows: &[f32], others: Option<&[f32]>, width: usize, k: usize, nearest: &Nearest) {
    let row = |values: &'_ [f32], at: usize| values[at * width..][..width].to_vec();
    let there = others.unwrap_or(rows);
    let zero = |row: &[f32]| row.iter().all(|&value| value == 0.0);
    for at in 0..rows.len() / width {
        let this = row(rows, at);
        let (ids, cosines) = (&nearest.ids[at * k..][..k], &nearest.cosines[at * k..][..k]);
        let mut all: Vec<(f64, u32)> = (0..there.len() / width)
            .filter(|&other| others.is_some() || other != at)
            .map(|other| (row(there, other), other))
            .filter(|(other, _)| !zero(other) && !zero(&this))
            .map(|(other, id)| (cosine(&this, &other), id as u32))
            .collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let expected = all.len().min(k);
        assert!(
            ids[expected..].iter().all(|&id| id == NO_NEIGHBOUR),
            "row {at}"
        );
        assert!(cosines[expected..].iter().all(|cosine| cosine.is_nan()));
        let by_id: HashMap<u32, f64> = all.iter().map(|&(cosine, id)| (id, cosine)).collect();
        let mut last = f64::INFINITY;
        let mut seen = std::collections::HashSet::new();
        for (place, (&id, &given)) in ids.iter().zip(cosines).take(expected).enumerate() {
            assert!(seen.insert(id), "row {at} has {id} twice");
            let true_cosine = by_id[&id];
            assert!(
                (true_cosine - all[place].0).abs() < 1e-12,
                "row {at}, place {place}"
            );
            assert!((f64::from(given) - true_cosine).abs() < 1e-7);
            assert!(true_cosine <= last + 1e-12);
            last = true_cosine;
            // Of rows that are the same, the first come first.
            for &(_, other) in &all {
                let same = row(there, other as usize) == row(there, id as usize);
                assert!(
                    !same || other >= id || seen.contains(&other),
                    "row {at}: {id}, not {other}"
                );
            }
        }
    }
}

/// Rows with clusters, repetitions, multiples and zeros.
fn matrix(width: usize) -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![4 => -1.0f32..1.0, 1 => Just(0.0f32), 1 => Just(-0.0f32)];
    let rows = prop::collection::vec(prop::collection::vec(value, width), 1..24);
    let picks = prop::collection::vec(
        (any::<prop::sample::Index>(), 0u8..6, -1e-3f32..1e-3),
        2..60,
    );
    (rows, picks).prop_map(|(rows, picks)| {
        let mut values = Vec::new();
        for (pick, how, noise) in picks {
            let row = pick.get(&rows);
            values.extend(row.iter().enumerate().map(|(at, &value)| match how {
                0 => value,
                1 => value * 2.0,
                2 => value * 1e-20,
                3 => 0.0,
                4 => value + noise,
                _ => value + noise * (at % 7) as f32,
            }));
        }
        values
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn nearest_rows_are_those_of_brute_force(
        (width, rows, others) in (1usize..40).prop_flat_map(|w| (Just(w), matrix(w), matrix(w))),
        k in 1usize..70,
    ) {
        let (n, m) = (rows.len() / width, others.len() / width);
        for how in [Compare::Fastest, Compare::Portable] {
            let within = k.min(n - 1);
            check(&rows, None, width, within, &found(&rows, None, width, within, how));
            let between = k.min(m);
            check(&rows, Some(&others), width, between,
                  &found(&rows, Some(&others), width, between, how));
        }
    }
}

/// Numbers that look random, from -1 to 1.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    (0..n as u64)
        .map(|at| {
            let hash = xxhash_rust::xxh3::xxh3_64_with_seed(&at.to_le_bytes(), seed);
            (hash >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

#[test]
fn several_blocks_and_large_columns_are_exact_too() {
    let (n, width) = (3 * BLOCK + 17, 50);
    let mut rows = numbers(n * width, 1);
    check(
        &rows,
        None,
        width,
        10,
        &found(&rows, None, width, 10, Compare::Portable),
    );
    check(
        &rows,
        None,
        width,
        10,
        &found(&rows, None, width, 10, Compare::Fastest),
    );
    for row in rows.chunks_exact_mut(width) {
        row[7] *= 30.0;
        row[31] *= 30.0;
    }
    check(
        &rows,
        None,
        width,
        10,
        &found(&rows, None, width, 10, Compare::Fastest),
    );
    let others = numbers((BLOCK + 5) * width, 2);
    for how in [Compare::Fastest, Compare::Portable] {
        check(
            &rows,
            Some(&others),
            width,
            3,
            &found(&rows, Some(&others), width, 3, how),
        );
    }
}

#[test]
fn rows_that_float32_cannot_tell_apart_are_told_apart() {
    let width = 64;
    let base = numbers(width, 3);
    let rows: Vec<f32> = (0..600)
        .flat_map(|row| {
            let mut values = base.clone();
            values[row % width] *= 1.0 + 1e-6 * (1 + row / width) as f32;
            values
        })
        .collect();
    for how in [Compare::Fastest, Compare::Portable] {
        check(&rows, None, width, 5, &found(&rows, None, width, 5, how));
    }
}

#[test]
fn equal_rows_take_no_longer_than_one() {
    let width = 16;
    let rows = numbers(width, 4).repeat(20_000);
    let nearest = found(&rows, None, width, 2, Compare::Fastest);
    assert_eq!(&nearest.ids[..6], &[1, 2, 0, 2, 0, 1]);
    assert!(nearest.cosines.iter().all(|&cosine| cosine == 1.0));
}

#[test]
fn what_cannot_be_searched_is_refused_by_name() {
    let refused = |rows: &[f32], others: Option<&[f32]>, width, k| {
        let refused = neighbours(rows, others, width, k, Compare::Fastest, &mut |_, _| true);
        refused.unwrap_err().to_string()
    };
    let rows = numbers(12, 5);
    assert!(refused(&rows, None, 3, 4).contains("`k` is 4; each row has at most 3 neighbours"));
    assert!(refused(&rows, None, 3, 0).contains("from 1 to 3"));
    assert!(refused(&rows, None, 0, 1).contains("no rows or no columns"));
    let mut broken = rows.clone();
    broken[7] = f32::NAN;
    assert!(refused(&broken, None, 3, 1).contains("`decoder`: row 2 holds NaN"));
    assert!(refused(&rows, Some(&broken), 3, 1).contains("`other`: row 2 holds NaN"));
}

#[test]
fn a_caller_who_says_stop_gets_nothing() {
    let rows = numbers(4 * BLOCK * 200, 6);
    let stopped = neighbours(&rows, None, 200, 2, Compare::Portable, &mut |_, _| false);
    assert_eq!(stopped.unwrap(), None);
}
