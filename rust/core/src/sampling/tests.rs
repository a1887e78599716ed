//! Properties of the draws, against brute force.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::testing::{Corpus, TestResult, corpora};

fn plans() -> impl Strategy<Value = Plan> {
    let kinds = [
        ExplainKind::Uniform,
        ExplainKind::Top,
        ExplainKind::TopOf,
        ExplainKind::Deciles,
        ExplainKind::Mixture,
    ];
    let explain = (
        prop::sample::select(kinds.to_vec()),
        0usize..14,
        0usize..8,
        0usize..8,
    );
    let negatives = prop::collection::vec((0usize..30, 0usize..30), 0..3);
    (explain, 0usize..3, negatives).prop_map(|(explain, per_decile, negatives)| {
        let (kind, n, pool, n_top) = explain;
        Plan {
            explain: ExplainPlan {
                kind,
                n: n + n_top,
                pool,
                n_top,
            },
            per_decile,
            negatives: negatives
                .into_iter()
                .map(|(n, margin)| NegativePlan {
                    kind: NegativeKind::Random,
                    n,
                    margin,
                })
                .collect(),
        }
    })
}

/// The rows of one latent and split, in order.
fn rows(examples: &Examples, latent: u32, split: u8) -> Vec<usize> {
    (0..examples.latent.len())
        .filter(|&r| examples.latent[r] == latent && examples.split[r] == split)
        .collect()
}

fn check_explain(
    index: &Index,
    plan: &ExplainPlan,
    examples: &Examples,
    latent: u32,
) -> TestResult {
    let sides = index.sides().unwrap();
    let windows = index.windows(latent).unwrap();
    let ranked: Vec<u64> = windows
        .strongest_first()
        .into_iter()
        .map(|w| windows.starts[w])
        .filter(|&start| sides[index.window_number(start)] == 0)
        .collect();
    let drawn: BTreeSet<u64> = rows(examples, latent, 0)
        .into_iter()
        .map(|r| examples.start[r])
        .collect();
    prop_assert_eq!(drawn.len(), rows(examples, latent, 0).len());
    prop_assert!(drawn.iter().all(|start| ranked.contains(start)));
    let n = ranked.len();
    let pool = plan.pool.min(n);
    let in_pool = ranked[..pool].iter().filter(|s| drawn.contains(s)).count();
    match plan.kind {
        ExplainKind::Uniform => prop_assert_eq!(drawn.len(), plan.n.min(n)),
        ExplainKind::Top => {
            let top: BTreeSet<u64> = ranked.iter().take(plan.n).copied().collect();
            prop_assert_eq!(drawn, top);
        }
        ExplainKind::TopOf => {
            prop_assert_eq!(drawn.len(), plan.n.min(pool));
            prop_assert_eq!(in_pool, drawn.len());
        }
        ExplainKind::Mixture => {
            let top = plan.n_top.min(pool);
            prop_assert!(in_pool >= top);
            prop_assert_eq!(drawn.len(), top + (plan.n - plan.n_top).min(n - top));
        }
        ExplainKind::Deciles => {
            for tenth in 0..10 {
                let inside = |rank: usize| 10 * rank / n == tenth;
                let there = (0..n).filter(|&rank| inside(rank)).count();
                let found = (0..n)
                    .filter(|&rank| inside(rank) && drawn.contains(&ranked[n - 1 - rank]))
                    .count();
                let wanted = plan.n / 10 + usize::from(9 - tenth < plan.n % 10);
                prop_assert_eq!(found, wanted.min(there));
            }
        }
    }
    Ok(())
}

fn check_score(index: &Index, plan: &Plan, examples: &Examples, latent: u32) -> TestResult {
    let sides = index.sides().unwrap();
    let eligible = index.eligible().unwrap();
    let windows = index.windows(latent).unwrap();
    let usable = |start: u64| {
        let number = index.window_number(start);
        sides[number] == 1 && eligible[number]
    };
    let scored = rows(examples, latent, 1);
    for decile in 1..=10 {
        let drawn: Vec<usize> = scored
            .iter()
            .copied()
            .filter(|&r| examples.decile[r] == decile)
            .collect();
        let there = windows
            .starts
            .iter()
            .zip(&windows.deciles)
            .filter(|&(&start, &d)| d == decile && usable(start))
            .count();
        prop_assert_eq!(drawn.len(), plan.per_decile.min(there));
        for &r in &drawn {
            prop_assert!(usable(examples.start[r]));
            prop_assert_eq!(examples.kind[r], 0);
        }
    }
    let negatives: Vec<usize> = scored
        .into_iter()
        .filter(|&r| examples.decile[r] == 0)
        .collect();
    let distinct: BTreeSet<u64> = negatives.iter().map(|&r| examples.start[r]).collect();
    prop_assert_eq!(distinct.len(), negatives.len());
    let postings = index.postings(latent).unwrap();
    let silent = |start: u64, margin: usize| {
        let length = index.context_length() as u64;
        !postings.positions.iter().any(|&p| {
            p / length == start / length
                && p + margin as u64 >= start
                && p < start + index.window() as u64 + margin as u64
        })
    };
    let mut left: BTreeSet<u64> = (0..sides.len())
        .map(|w| index.first_position() + (w * index.window()) as u64)
        .filter(|&start| usable(start))
        .collect();
    let mut next = negatives.into_iter();
    for list in &plan.negatives {
        let there = left.iter().filter(|&&s| silent(s, list.margin)).count();
        for _ in 0..list.n.min(there) {
            let row = next.next().unwrap();
            prop_assert_eq!(examples.kind[row], 1);
            prop_assert!(silent(examples.start[row], list.margin));
            prop_assert!(left.remove(&examples.start[row]));
        }
    }
    prop_assert_eq!(next.next(), None);
    Ok(())
}

fn check_columns(corpus: &Corpus, index: &Index, examples: &Examples) -> TestResult {
    let width = index.window();
    for r in 0..examples.latent.len() {
        let windows = index.windows(examples.latent[r]).unwrap();
        let decile = windows
            .starts
            .binary_search(&examples.start[r])
            .map_or(0, |w| windows.deciles[w]);
        prop_assert_eq!(examples.decile[r], decile);
        let first = (examples.start[r] - corpus.base()) as usize;
        let live = (first..first + width).find(|&p| corpus.mask[p]).unwrap();
        prop_assert_eq!(examples.document[r], corpus.documents[live]);
        let postings = corpus.postings(examples.latent[r]);
        for t in 0..width {
            let (place, at) = (first + t, r * width + t);
            prop_assert_eq!(examples.tokens[at], corpus.tokens[place]);
            prop_assert_eq!(examples.mask[at], corpus.mask[place]);
            let position = corpus.base() + place as u64;
            let activation = postings.iter().find(|(p, _)| *p == position);
            prop_assert_eq!(examples.activations[at], activation.map_or(0.0, |a| a.1));
            let document = corpus.documents[place];
            let starts =
                document != NO_DOCUMENT && (place == 0 || corpus.documents[place - 1] != document);
            prop_assert_eq!(examples.document_start[at], starts);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn examples_are_what_the_plan_says(corpus in corpora(), plan in plans(), seed: u64) {
        let (_folder, index) = corpus.index();
        let latents: Vec<u32> = (0..index.n_latents()).collect();
        let examples = index.sample(&latents, &plan, seed).unwrap();
        for &latent in &latents {
            check_explain(&index, &plan.explain, &examples, latent)?;
            check_score(&index, &plan, &examples, latent)?;
        }
        check_columns(&corpus, &index, &examples)?;
        let found = |split, silent: bool, latent| rows(&examples, latent, split).iter()
            .filter(|&&r| (examples.decile[r] == 0) == silent).count();
        for shortfall in &examples.shortfalls {
            prop_assert!(shortfall.found < shortfall.wanted);
            match shortfall.what {
                "explain" => prop_assert_eq!(shortfall.found, found(0, false, shortfall.latent)),
                "score" => prop_assert_eq!(shortfall.found, found(1, false, shortfall.latent)),
                _ => prop_assert!(shortfall.found <= found(1, true, shortfall.latent)),
            }
        }
    }

    #[test]
    fn a_draw_depends_on_nothing_but_index_latent_plan_and_seed(
        corpus in corpora(), plan in plans(), seed: u64, segment_contexts in 1u64..9,
    ) {
        let (_folder, index) = corpus.index();
        let mut other = corpus.clone();
        other.parameters.segment_contexts = segment_contexts;
        let (_other_folder, other) = other.index();
        let latents: Vec<u32> = (0..index.n_latents()).collect();
        let whole = index.sample(&latents, &plan, seed).unwrap();
        let reversed: Vec<u32> = latents.iter().rev().chain(&latents).copied().collect();
        prop_assert_eq!(&whole, &other.sample(&reversed, &plan, seed).unwrap());
        let mut parts = Examples::default();
        for latent in latents {
            parts.append(index.sample(&[latent], &plan, seed).unwrap());
        }
        prop_assert_eq!(&whole, &parts);
    }

    #[test]
    fn a_smaller_draw_begins_a_larger_one(
        corpus in corpora(), plan in plans(), seed: u64, less in 0usize..4,
    ) {
        let (_folder, index) = corpus.index();
        let mut plan = plan;
        plan.negatives.truncate(1);
        let mut smaller = plan.clone();
        smaller.per_decile = smaller.per_decile.saturating_sub(less);
        smaller.explain.n -= less.min(plan.explain.n - plan.explain.n_top);
        for list in &mut smaller.negatives {
            list.n = list.n.saturating_sub(less);
        }
        let latents: Vec<u32> = (0..index.n_latents()).collect();
        let (few, many) = (
            index.sample(&latents, &smaller, seed).unwrap(),
            index.sample(&latents, &plan, seed).unwrap(),
        );
        let group = |examples: &Examples, latent, split, decile| -> Vec<u64> {
            rows(examples, latent, split).into_iter()
                .filter(|&r| examples.decile[r] == decile)
                .map(|r| examples.start[r]).collect()
        };
        for latent in latents {
            for (split, decile) in (0..2).flat_map(|s| (0..11).map(move |d| (s, d))) {
                let (a, b) = (group(&few, latent, split, decile), group(&many, latent, split, decile));
                prop_assert!(b.starts_with(&a), "{a:?} {b:?}");
            }
        }
    }
}
