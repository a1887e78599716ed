//! Properties of the draws, against brute force.

mod ladder;
mod negatives;
mod plain;

use proptest::prelude::*;

use super::*;
use crate::testing::{Corpus, corpora};
use plain::{Plain, check_columns, rows};

/// No tables: random negatives need none.
const NONE: &Sources<'_> = &Sources {
    neighbours: None,
    nearest: None,
};

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
    let score = (0usize..3, 0usize..3, 1usize..6);
    let negatives = prop::collection::vec((0usize..30, 0usize..30), 0..3);
    let shown = prop_oneof![
        2 => Just((None, false)),
        1 => (prop::option::of(1usize..70), any::<bool>()),
    ];
    (explain, score, negatives, shown).prop_map(|(explain, score, negatives, shown)| {
        let (kind, n, pool, n_top) = explain;
        Plan {
            explain: ExplainPlan {
                kind,
                n: n + n_top,
                pool,
                n_top,
            },
            per_decile: score.0,
            per_bin: score.1,
            bins: score.2,
            negatives: negatives
                .into_iter()
                .map(|(n, margin)| NegativePlan {
                    kind: NegativeKind::Random,
                    n,
                    margin,
                    ranks: (1, 10),
                    pool: None,
                    even: false,
                })
                .collect(),
            length: shown.0,
            centred: shown.1,
        }
    })
}

/// A plan whose stretches fit into the corpus' contexts.
fn fit(mut plan: Plan, corpus: &Corpus) -> Plan {
    plan.length = plan.length.map(|length| 1 + (length - 1) % corpus.length());
    plan
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn examples_are_what_the_plan_says(corpus in corpora(), plan in plans(), seed: u64) {
        let plan = fit(plan, &corpus);
        let (_folder, index) = corpus.index();
        let latents: Vec<u32> = (0..index.n_latents()).collect();
        let examples = index.sample(&latents, &plan, seed, NONE).unwrap();
        for &latent in &latents {
            let plain = Plain::of(&corpus, &index, &plan, latent);
            plain.check_explain(&examples, latent)?;
            plain.check_score(&examples, latent)?;
        }
        check_columns(&corpus, &index, &plan, &examples)?;
        let found = |split, silent: bool, latent| rows(&examples, latent, split).iter()
            .filter(|&&r| (examples.decile[r] == 0) == silent).count();
        for short in &examples.shortfalls {
            prop_assert!(short.found < short.wanted);
            let all = match short.what {
                "explain" => found(0, false, short.latent),
                "score" | "bins" => found(1, false, short.latent),
                _ => found(1, true, short.latent),
            };
            prop_assert!(short.found <= all);
            if short.what == "explain" || (short.what == "score" && plan.per_bin == 0) {
                prop_assert_eq!(short.found, all);
            }
        }
    }

    #[test]
    fn a_draw_depends_on_nothing_but_index_latent_plan_and_seed(
        corpus in corpora(), plan in plans(), seed: u64, segment_contexts in 1u64..9,
    ) {
        let plan = fit(plan, &corpus);
        let (_folder, index) = corpus.index();
        let mut other = corpus.clone();
        other.parameters.segment_contexts = segment_contexts;
        let (_other_folder, other) = other.index();
        let latents: Vec<u32> = (0..index.n_latents()).collect();
        let whole = index.sample(&latents, &plan, seed, NONE).unwrap();
        let reversed: Vec<u32> = latents.iter().rev().chain(&latents).copied().collect();
        prop_assert_eq!(&whole, &other.sample(&reversed, &plan, seed, NONE).unwrap());
        let mut parts = Examples { length: whole.length, ..Examples::default() };
        for &latent in &latents {
            append(&mut parts, index.sample(&[latent], &plan, seed, NONE).unwrap());
        }
        prop_assert_eq!(&whole, &parts);
        for side in [None, Some(0), Some(1)] {
            prop_assert_eq!(index.top(&latents, 20, side).unwrap(), other.top(&latents, 20, side).unwrap());
        }
        prop_assert_eq!(index.summary().unwrap(), other.summary().unwrap());
        prop_assert_eq!(index.histogram(&latents).unwrap(), other.histogram(&latents).unwrap());
    }

    #[test]
    fn a_smaller_draw_begins_a_larger_one(
        corpus in corpora(), plan in plans(), seed: u64, less in 0usize..4,
    ) {
        let (_folder, index) = corpus.index();
        let mut plan = fit(plan, &corpus);
        plan.negatives.truncate(1);
        plan.per_bin = 0;
        let mut smaller = plan.clone();
        smaller.per_decile = smaller.per_decile.saturating_sub(less);
        smaller.explain.n -= less.min(plan.explain.n - plan.explain.n_top);
        for list in &mut smaller.negatives {
            list.n = list.n.saturating_sub(less);
        }
        let latents: Vec<u32> = (0..index.n_latents()).collect();
        let (few, many) = (
            index.sample(&latents, &smaller, seed, NONE).unwrap(),
            index.sample(&latents, &plan, seed, NONE).unwrap(),
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

fn append(examples: &mut Examples, other: Examples) {
    examples.latent.extend(other.latent);
    examples.start.extend(other.start);
    examples.tokens.extend(other.tokens);
    examples.activations.extend(other.activations);
    examples.decile.extend(other.decile);
    examples.split.extend(other.split);
    examples.kind.extend(other.kind);
    examples.source.extend(other.source);
    examples.rank.extend(other.rank);
    examples.document.extend(other.document);
    examples.document_start.extend(other.document_start);
    examples.mask.extend(other.mask);
    examples.shortfalls.extend(other.shortfalls);
}
