//! Properties of the ladder of negatives, against brute force.

use proptest::prelude::*;

use super::ladder::{Checked, lists, tables, with_lists};
use super::plain::{check_columns, rows};
use super::{append, fit, plans};
use crate::testing::{Corpus, corpora};
use crate::{
    Examples, ExplainKind, ExplainPlan, NO_NEIGHBOUR, NearestTable, NegativeKind, NegativePlan,
    NeighbourTable, Plan, Sources,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn negatives_are_what_their_kinds_say(
        corpus in corpora(), plan in plans(), lists in lists(), tables in tables(), seed: u64,
    ) {
        let (_folder, index) = corpus.index();
        let tables = tables.fit(&index);
        let plan = with_lists(&fit(plan, &corpus), &lists, tables.k);
        let latents: Vec<u32> = (0..index.n_latents()).collect();
        let examples = index.sample(&latents, &plan, seed, &tables.sources()).unwrap();
        check_columns(&corpus, &index, &plan, &examples)?;
        for latent in latents {
            Checked::of(&corpus, &index, &plan, &tables, latent).check(&examples)?;
        }
        for row in 0..examples.latent.len() {
            let unfiltered = examples.kind[row] == NegativeKind::DecoderUnfiltered.code();
            let width = examples.length;
            let shown = &examples.activations[row * width..(row + 1) * width];
            if examples.decile[row] == 0 && !unfiltered {
                prop_assert!(shown.iter().all(|&activation| activation == 0.0));
            }
        }
    }

    #[test]
    fn negatives_depend_on_nothing_but_index_latent_plan_tables_and_seed(
        corpus in corpora(), plan in plans(), lists in lists(), tables in tables(), seed: u64,
        segment_contexts in 1u64..9,
    ) {
        let (_folder, index) = corpus.index();
        let mut other = corpus.clone();
        other.parameters.segment_contexts = segment_contexts;
        let (_other_folder, other) = other.index();
        let tables = tables.fit(&index);
        let plan = with_lists(&fit(plan, &corpus), &lists, tables.k);
        let latents: Vec<u32> = (0..index.n_latents()).collect();
        let whole = index.sample(&latents, &plan, seed, &tables.sources()).unwrap();
        prop_assert_eq!(&whole, &other.sample(&latents, &plan, seed, &tables.sources()).unwrap());
        let mut parts = Examples { length: whole.length, ..Examples::default() };
        for &latent in &latents {
            append(&mut parts, other.sample(&[latent], &plan, seed, &tables.sources()).unwrap());
        }
        prop_assert_eq!(&whole, &parts);
    }

    #[test]
    fn a_smaller_draw_of_negatives_begins_a_larger_one(
        corpus in corpora(), plan in plans(), lists in lists(), tables in tables(), seed: u64,
        less in 1usize..9,
    ) {
        let (_folder, index) = corpus.index();
        let tables = tables.fit(&index);
        let plan = with_lists(&fit(plan, &corpus), &lists[..1], tables.k);
        let mut smaller = plan.clone();
        smaller.negatives[0].n = plan.negatives[0].n.saturating_sub(less);
        let latents: Vec<u32> = (0..index.n_latents()).collect();
        let few = index.sample(&latents, &smaller, seed, &tables.sources()).unwrap();
        let many = index.sample(&latents, &plan, seed, &tables.sources()).unwrap();
        for latent in latents {
            let of = |examples: &Examples| -> Vec<(u64, u32, u32)> {
                rows(examples, latent, 1).into_iter()
                    .filter(|&r| examples.decile[r] == 0)
                    .map(|r| (examples.start[r], examples.source[r], examples.rank[r])).collect()
            };
            prop_assert!(of(&many).starts_with(&of(&few)));
        }
    }
}

fn plan_of(kind: NegativeKind, ranks: (usize, usize)) -> Plan {
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
            kind,
            n: 40,
            margin: 0,
            ranks,
            pool: None,
            even: false,
        }],
        length: None,
        centred: false,
    }
}

#[test]
fn what_is_missing_or_does_not_fit_is_refused() {
    let corpus = Corpus::long(3);
    let (_folder, index) = corpus.index();
    let n_windows = index.n_windows() as u64;
    let refused = |kind, ranks, sources: &Sources<'_>| {
        let drawn = index.sample(&[0], &plan_of(kind, ranks), 0, sources);
        drawn.unwrap_err().to_string()
    };
    let neighbours = |ids, relation, k| Sources {
        neighbours: Some(NeighbourTable { ids, relation, k }),
        nearest: None,
    };
    let nearest = |latents, windows, m| Sources {
        neighbours: None,
        nearest: Some(NearestTable {
            latents,
            windows,
            m,
        }),
    };
    let (ids, codes) = (&[1, 2, 0, 2, 0, 1], &[0; 6]);
    let whole = neighbours(ids, Some(codes), 2);
    for kind in [NegativeKind::Decoder, NegativeKind::DecoderUnfiltered] {
        let text = refused(kind, (1, 2), &Sources::default());
        assert!(text.contains("needs the latents' neighbours; give `neighbours="));
        let one = neighbours(&[1, 2, 0], Some(&[0; 3]), 1);
        for (ranks, sources) in [((0, 1), &whole), ((2, 1), &whole), ((1, 2), &one)] {
            assert!(refused(kind, ranks, sources).contains("`negatives[0].ranks` is ("));
        }
        // With every other latent as a neighbour there is no rank that the table lacks.
        index
            .sample(&[0], &plan_of(kind, (1, 3)), 0, &whole)
            .unwrap();
    }
    let bare = neighbours(ids, None, 2);
    let text = refused(NegativeKind::Decoder, (1, 2), &bare);
    assert!(text.contains("neighbours.with_index(index)"), "{text}");
    index
        .sample(
            &[0],
            &plan_of(NegativeKind::DecoderUnfiltered, (1, 2)),
            0,
            &bare,
        )
        .unwrap();
    let unfit = |sources| refused(NegativeKind::DecoderUnfiltered, (1, 2), &sources);
    assert!(unfit(neighbours(&ids[1..], None, 2)).contains("has 5 ids"));
    assert!(unfit(neighbours(ids, Some(&codes[1..]), 2)).contains("has 5 values for 6 ids"));
    let text = unfit(neighbours(&[1, 2, 3, 2, 0, 1], None, 2));
    assert!(
        text.contains("names latent 3 as a neighbour of latent 1"),
        "{text}"
    );

    let text = refused(NegativeKind::Embedding, (1, 1), &Sources::default());
    assert!(text.contains("give `nearest=nearest_windows("), "{text}");
    let unfit = |sources| refused(NegativeKind::Embedding, (1, 1), &sources);
    assert!(unfit(nearest(&[1, 2], &[1, 2], 1)).contains("no windows for latent 0"));
    assert!(unfit(nearest(&[1, 0], &[1, 2], 1)).contains("must ascend"));
    assert!(unfit(nearest(&[0, 1], &[1, 2, 3], 1)).contains("has 3 numbers"));
    assert!(unfit(nearest(&[0], &[n_windows], 1)).contains("names window 3000 for latent 0"));
}

#[test]
fn a_latent_whose_near_neighbours_are_its_kin_is_drawn_from_the_next_and_says_so() {
    let corpus = Corpus::long(3);
    let (_folder, index) = corpus.index();
    // Latent 0 is active everywhere, 2 nowhere: of latent 1's neighbours the second is its parent.
    let relation = [2, 2, 2, 2, 2, 0, 2, 2, 2];
    let sources = Sources {
        neighbours: Some(NeighbourTable {
            ids: &[
                NO_NEIGHBOUR,
                NO_NEIGHBOUR,
                NO_NEIGHBOUR,
                0,
                2,
                0,
                0,
                1,
                NO_NEIGHBOUR,
            ],
            relation: Some(&relation),
            k: 3,
        }),
        nearest: None,
    };
    let plan = plan_of(NegativeKind::Decoder, (1, 2));
    let examples = index.sample(&[1], &plan, 0, &sources).unwrap();
    assert_eq!(examples.rank, vec![3; 40]);
    assert_eq!(examples.source, vec![0; 40]);
    let short: Vec<_> = examples
        .shortfalls
        .iter()
        .map(|s| (s.what, s.wanted, s.found))
        .collect();
    assert_eq!(short, [("decoder_ranks", 40, 0)]);
    let plan = plan_of(NegativeKind::DecoderUnfiltered, (1, 1));
    let examples = index.sample(&[1], &plan, 0, &sources).unwrap();
    assert_eq!(examples.rank, vec![1; 40]);
    assert!(examples.shortfalls.is_empty());
}
