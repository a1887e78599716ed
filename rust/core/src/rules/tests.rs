use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const WINDOW: usize = 4;
const LENGTH: usize = 8;

/// Activity kept as a list a latent.
struct Listed(Vec<Vec<u64>>);

impl Activity for Listed {
    type Error = Infallible;

    fn positions(&self, latent: u32) -> Result<Vec<u64>, Infallible> {
        Ok(self.0[latent as usize].clone())
    }

    fn deciles(&self, latent: u32) -> Result<(Vec<u64>, Vec<u8>), Infallible> {
        let mut starts: Vec<u64> = self.0[latent as usize]
            .iter()
            .map(|t| t - t % WINDOW as u64)
            .collect();
        starts.dedup();
        let deciles = (0..starts.len())
            .map(|i| (1 + 10 * i / starts.len()) as u8)
            .collect();
        Ok((starts, deciles))
    }
}

#[derive(Clone, Debug)]
struct Case {
    tokens: Vec<u32>,
    unmasked: Vec<bool>,
    documents: Vec<u64>,
    sides: Vec<u8>,
    eligible: Vec<bool>,
    active: Vec<u64>,
    other: Vec<u64>,
    rule: Rule,
}

impl Case {
    fn corpus(&self) -> Arc<Corpus> {
        Arc::new(Corpus::new(
            self.tokens.clone(),
            self.unmasked.clone(),
            &self.documents,
            LENGTH,
            WINDOW,
            &self.sides,
            &self.eligible,
        ))
    }

    fn fires(&self, t: usize) -> bool {
        let context = t / LENGTH;
        let near = |near: &Near| {
            (0..self.tokens.len()).any(|other| {
                other != t
                    && other / LENGTH == context
                    && other + near.before as usize >= t
                    && other <= t + near.after as usize
                    && self.unmasked[other]
                    && near.tokens.contains(&self.tokens[other])
            })
        };
        self.unmasked[t]
            && self.rule.tokens.contains(&self.tokens[t])
            && self.rule.require.as_ref().is_none_or(near)
            && !self.rule.exclude.as_ref().is_some_and(near)
    }

    fn scored(&self, w: usize) -> bool {
        self.sides[w] == SCORE && self.eligible[w] && self.first(w).is_some()
    }

    fn first(&self, w: usize) -> Option<usize> {
        (w * WINDOW..(w + 1) * WINDOW).find(|&t| self.unmasked[t])
    }
}

fn near(vocabulary: u32) -> impl Strategy<Value = Near> {
    (
        prop::collection::vec(0..vocabulary, 1..4),
        0_u32..4,
        0_u32..4,
    )
        .prop_map(|(tokens, before, after)| Near {
            tokens,
            before,
            after,
        })
}

fn rule(vocabulary: u32) -> impl Strategy<Value = Rule> {
    let clause = || prop::option::of(near(vocabulary));
    (
        prop::collection::vec(0..vocabulary + 3, 1..5),
        clause(),
        clause(),
    )
        .prop_map(|(tokens, require, exclude)| Rule {
            tokens,
            require,
            exclude,
        })
}

fn case() -> impl Strategy<Value = Case> {
    (1_usize..12, 1_u32..8).prop_flat_map(|(contexts, vocabulary)| {
        let n = contexts * LENGTH;
        let windows = n / WINDOW;
        (
            prop::collection::vec(0..vocabulary, n),
            prop::collection::vec(prop::bool::weighted(0.85), n),
            prop::collection::vec(0_u64..6, n),
            prop::collection::vec(0_u8..3, windows),
            prop::collection::vec(prop::bool::weighted(0.8), windows),
            prop::collection::vec(prop::bool::weighted(0.3), n),
            prop::collection::vec(prop::bool::weighted(0.3), n),
            rule(vocabulary),
        )
            .prop_map(
                |(tokens, unmasked, documents, sides, eligible, first, second, rule)| {
                    let listed = |flags: &[bool]| {
                        (0..flags.len())
                            .filter(|&t| flags[t] && unmasked[t])
                            .map(|t| t as u64)
                            .collect()
                    };
                    let (active, other) = (listed(&first), listed(&second));
                    Case {
                        tokens,
                        unmasked,
                        documents,
                        sides,
                        eligible,
                        active,
                        other,
                        rule,
                    }
                },
            )
    })
}

type Outcomes = BTreeMap<u64, [u64; 3]>;

fn count(outcomes: &mut Outcomes, document: u64, fired: bool, active: bool) {
    let tally = outcomes.entry(document).or_default();
    match (fired, active) {
        (true, true) => tally[0] += 1,
        (true, false) => tally[1] += 1,
        (false, true) => tally[2] += 1,
        (false, false) => {}
    }
}

fn unit(outcomes: &Outcomes, units: u64) -> Unit {
    let over = |f: &dyn Fn(&[u64; 3]) -> u64| outcomes.values().map(f).sum::<u64>();
    let any = |f: &dyn Fn(&[u64; 3]) -> bool| over(&|o| u64::from(f(o)));
    let [tp, fp, missed] = [0, 1, 2].map(|i| over(&|o| o[i]));
    Unit {
        tp,
        fp,
        r#fn: missed,
        tn: units - tp - fp - missed,
        tp_tp: over(&|o| o[0] * o[0]),
        fp_fp: over(&|o| o[1] * o[1]),
        fn_fn: over(&|o| o[2] * o[2]),
        tp_fp: over(&|o| o[0] * o[1]),
        tp_fn: over(&|o| o[0] * o[2]),
        fp_fn: over(&|o| o[1] * o[2]),
        documents_predicted: any(&|o| o[0] + o[1] > 0),
        documents_actual: any(&|o| o[0] + o[2] > 0),
        documents_any: any(&|o| o[0] + o[1] + o[2] > 0),
    }
}

fn brute_force(case: &Case) -> Check {
    let active: HashSet<u64> = case.active.iter().copied().collect();
    let (mut tokens, mut windows) = (Outcomes::new(), Outcomes::new());
    let (mut n_tokens, mut n_windows) = (0, 0);
    let mut check = Check::default();
    let (starts, deciles) = Listed(vec![case.active.clone()]).deciles(0).unwrap();
    let deciles: BTreeMap<u64, u8> = starts.into_iter().zip(deciles).collect();
    for w in (0..case.sides.len()).filter(|&w| case.scored(w)) {
        let span = || (w * WINDOW..(w + 1) * WINDOW).filter(|&t| case.unmasked[t]);
        for t in span() {
            n_tokens += 1;
            count(
                &mut tokens,
                case.documents[t],
                case.fires(t),
                active.contains(&(t as u64)),
            );
        }
        n_windows += 1;
        let fired = span().any(|t| case.fires(t));
        let is_active = span().any(|t| active.contains(&(t as u64)));
        count(
            &mut windows,
            case.documents[case.first(w).unwrap()],
            fired,
            is_active,
        );
        if let Some(&decile) = deciles.get(&((w * WINDOW) as u64)) {
            check.decile_windows[usize::from(decile) - 1] += 1;
            check.decile_hits[usize::from(decile) - 1] += u64::from(fired);
        }
    }
    Check {
        window: unit(&windows, n_windows),
        token: unit(&tokens, n_tokens),
        ..check
    }
}

fn options() -> Options {
    Options {
        look_ahead: true,
        reach: 3,
        ..Options::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn check_equals_brute_force(case in case()) {
        let corpus = case.corpus();
        let activity = Listed(vec![case.other.clone(), case.active.clone()]);
        let rules = [case.rule.clone(), case.rule.clone()];
        let checks = Checker::new(&corpus).check(&activity, &[0, 1], &rules).unwrap();
        prop_assert_eq!(checks[1], brute_force(&case));
    }

    #[test]
    fn what_a_latent_does_on_the_score_side_changes_no_rule(case in case()) {
        let corpus = case.corpus();
        let explain = |t: &u64| {
            let w = *t as usize / WINDOW;
            case.sides[w] == EXPLAIN && case.eligible[w]
        };
        let mut mixed: Vec<u64> = case.active.iter().copied().filter(explain).collect();
        mixed.extend(case.other.iter().copied().filter(|t| !explain(t)));
        mixed.sort_unstable();
        let activity = Listed(vec![case.active.clone(), mixed]);
        let rules = Learner::new(&corpus, options()).learn(&activity, &[0, 1]).unwrap();
        prop_assert_eq!(&rules[0], &rules[1]);
        prop_assert_eq!(rules[0].is_some(), case.active.iter().any(explain));
    }

    #[test]
    fn a_rule_uses_only_tokens_that_the_latent_is_active_on(case in case()) {
        let corpus = case.corpus();
        let activity = Listed(vec![case.active.clone()]);
        let rules = Learner::new(&corpus, options()).learn(&activity, &[0]).unwrap();
        if let Some(rule) = &rules[0] {
            prop_assert!(!rule.tokens.is_empty());
            for token in &rule.tokens {
                prop_assert!(case.active.iter().any(|&t| case.tokens[t as usize] == *token));
            }
            prop_assert_eq!(
                rule.tokens.len(),
                rule.tokens.iter().collect::<HashSet<_>>().len()
            );
        }
    }

    #[test]
    fn the_work_of_one_latent_leaves_no_trace_on_the_next(case in case()) {
        let corpus = case.corpus();
        let lists = vec![case.active.clone(), case.other.clone(), case.active.clone()];
        let learner = Learner::new(&corpus, options());
        let rules = learner.learn(&Listed(lists), &[0, 1, 2]).unwrap();
        let alone = learner.learn(&Listed(vec![case.other.clone()]), &[0]).unwrap();
        prop_assert_eq!(&rules[0], &rules[2]);
        prop_assert_eq!(&rules[1], &alone[0]);
    }

    #[test]
    fn a_rule_survives_json(rule in rule(9)) {
        let text = serde_json::to_string(&rule).unwrap();
        prop_assert_eq!(serde_json::from_str::<Rule>(&text).unwrap(), rule);
    }
}

/// A corpus of Zipf-like text, 400 documents of one context each, half of them explain side.
struct Planted {
    corpus: Arc<Corpus>,
    tokens: Vec<u32>,
}

const PLANTED_LENGTH: usize = 32;
const PLANTED_WINDOW: usize = 16;

fn noise(seed: u64, t: u64) -> f64 {
    let bits = xxhash_rust::xxh3::xxh3_64_with_seed(&t.to_le_bytes(), seed);
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

fn planted() -> Planted {
    let n = 400 * PLANTED_LENGTH;
    let token = |t: usize| (60.0 * noise(1, t as u64).powi(2)) as u32;
    let tokens: Vec<u32> = (0..n).map(token).collect();
    let documents: Vec<u64> = (0..n).map(|t| (t / PLANTED_LENGTH) as u64).collect();
    let sides: Vec<u8> = (0..n / PLANTED_WINDOW).map(|w| (w / 2 % 2) as u8).collect();
    let corpus = Corpus::new(
        tokens.clone(),
        vec![true; n],
        &documents,
        PLANTED_LENGTH,
        PLANTED_WINDOW,
        &sides,
        &vec![true; sides.len()],
    );
    Planted {
        corpus: Arc::new(corpus),
        tokens,
    }
}

impl Planted {
    /// Learns from what `truth` says of `(position, position in context)`, with one token in a
    /// thousand active besides and one activation in twenty lost.
    fn learn(&self, options: Options, truth: impl Fn(&[u32], usize) -> bool) -> Rule {
        let active = (0..self.tokens.len())
            .filter(|&t| {
                let context = t - t % PLANTED_LENGTH;
                let context = &self.tokens[context..context + PLANTED_LENGTH];
                let holds = truth(context, t % PLANTED_LENGTH);
                if holds {
                    noise(2, t as u64) > 0.05
                } else {
                    noise(3, t as u64) < 0.001
                }
            })
            .map(|t| t as u64)
            .collect();
        let learner = Learner::new(&self.corpus, options);
        learner
            .learn(&Listed(vec![active]), &[0])
            .unwrap()
            .remove(0)
            .unwrap()
    }
}

fn sorted(mut tokens: Vec<u32>) -> Vec<u32> {
    tokens.sort_unstable();
    tokens
}

#[test]
fn a_planted_token_set_is_found() {
    let rule = planted().learn(Options::default(), |c, t| [17, 30, 44].contains(&c[t]));
    assert_eq!(sorted(rule.tokens), [17, 30, 44]);
    assert_eq!((rule.require, rule.exclude), (None, None));
}

#[test]
fn a_planted_requirement_is_found() {
    let rule = planted().learn(Options::default(), |c, t| {
        t > 0 && c[t] == 5 && c[t - 1] < 4
    });
    assert_eq!(rule.tokens, [5]);
    let near = rule.require.unwrap();
    assert_eq!(
        (sorted(near.tokens), near.before, near.after),
        (vec![0, 1, 2, 3], 1, 0)
    );
    assert_eq!(rule.exclude, None);
}

#[test]
fn a_planted_exclusion_is_found() {
    let near = |c: &[u32], t: usize| c[t.saturating_sub(3)..t].contains(&0);
    let rule = planted().learn(Options::default(), |c, t| c[t] == 7 && !near(c, t));
    assert_eq!(rule.tokens, [7]);
    assert_eq!(rule.require, None);
    assert_eq!(
        rule.exclude,
        Some(Near {
            tokens: vec![0],
            before: 3,
            after: 0
        })
    );
}

#[test]
fn what_follows_is_looked_at_only_where_the_subject_does() {
    let truth = |c: &[u32], t: usize| c[t] == 3 && c.get(t + 1).is_some_and(|&next| next < 3);
    let ahead = Options {
        look_ahead: true,
        ..Options::default()
    };
    let rule = planted().learn(ahead, truth);
    let near = rule.require.unwrap();
    assert_eq!(
        (sorted(near.tokens), near.before, near.after),
        (vec![0, 1, 2], 0, 1)
    );
    let rule = planted().learn(Options::default(), truth);
    assert!(rule.require.is_none_or(|near| near.after == 0));
}

#[test]
fn bounds_on_tokens_and_reach_are_kept() {
    let options = Options {
        max_tokens: 2,
        max_context_tokens: 2,
        reach: 2,
        ..Options::default()
    };
    let rule = planted().learn(options, |c, t| {
        t > 1 && c[t] > 20 && (c[t - 1] < 4 || c[t - 2] < 4)
    });
    assert!(rule.tokens.len() <= 2);
    for near in [rule.require, rule.exclude].into_iter().flatten() {
        assert!(near.tokens.len() <= 2 && near.before <= 2 && near.after == 0);
    }
}

#[test]
fn a_latent_active_everywhere_and_one_active_once_have_rules() {
    let planted = planted();
    assert!(
        !planted
            .learn(Options::default(), |_, _| true)
            .tokens
            .is_empty()
    );
    let learner = Learner::new(&planted.corpus, Options::default());
    let rules = learner
        .learn(&Listed(vec![vec![0], vec![40], vec![]]), &[0, 1, 2])
        .unwrap();
    assert_eq!(rules[0].as_ref().unwrap().tokens, [planted.tokens[0]]);
    // The second context is on the score side.
    assert_eq!(&rules[1..], [None, None]);
}

mod choice {
    use super::super::cover::{Aim, Item, Value, cover};
    use super::*;

    fn aim(actual: f64, limit: usize) -> Aim {
        Aim {
            start: Value {
                numerator: 0.0,
                denominator: actual,
            },
            adverse: Value {
                numerator: 0.0,
                denominator: 1.0,
            },
            caution: 0.0,
            least: 0.0,
            limit,
        }
    }

    fn values(active: &[bool]) -> Vec<Value> {
        active
            .iter()
            .map(|&active| Value {
                numerator: if active { 2.0 } else { 0.0 },
                denominator: 1.0,
            })
            .collect()
    }

    fn f1(items: &[Item], active: &[bool], missed: f64, chosen: u32) -> f64 {
        let units: HashSet<u32> = items
            .iter()
            .enumerate()
            .filter(|(i, _)| chosen >> i & 1 == 1)
            .flat_map(|(_, item)| item.units.iter().copied())
            .collect();
        let right = units.iter().filter(|&&unit| active[unit as usize]).count() as f64;
        let actual = active.iter().filter(|&&a| a).count() as f64 + missed;
        if right == 0.0 {
            0.0
        } else {
            2.0 * right / (units.len() as f64 + actual)
        }
    }

    fn item(units: Vec<u32>) -> Item {
        Item {
            token: 0,
            units,
            per_document: 1.0,
        }
    }

    proptest! {
        #[test]
        fn tokens_that_share_no_window_give_the_best_set(
            sizes in prop::collection::vec(0_u32..6, 1..8),
            active in prop::collection::vec(any::<bool>(), 48),
            missed in 0_u32..5,
            limit in 1_usize..8,
        ) {
            let mut next = 0;
            let items: Vec<Item> = sizes
                .iter()
                .map(|&size| {
                    next += size;
                    item((next - size..next).collect())
                })
                .collect();
            let active = &active[..next as usize];
            let actual = active.iter().filter(|&&a| a).count() as f64 + f64::from(missed);
            let (chosen, reached) = cover(&items, &values(active), &aim(actual, limit));
            let best = (0_u32..1 << items.len())
                .filter(|set| set.count_ones() as usize <= limit)
                .map(|set| f1(&items, active, f64::from(missed), set))
                .fold(0.0, f64::max);
            let set = chosen.iter().fold(0, |set, i| set | 1 << i);
            prop_assert!((reached - best).abs() < 1e-9);
            prop_assert!((f1(&items, active, f64::from(missed), set) - best).abs() < 1e-9);
        }

        #[test]
        fn no_single_token_beats_the_set_and_what_it_claims_is_so(
            rows in prop::collection::vec(prop::collection::btree_set(0_u32..24, 0..12), 1..7),
            active in prop::collection::vec(any::<bool>(), 24),
            limit in 1_usize..7,
        ) {
            let items: Vec<Item> =
                rows.into_iter().map(|row| item(row.into_iter().collect())).collect();
            let actual = active.iter().filter(|&&a| a).count() as f64;
            let (chosen, reached) = cover(&items, &values(&active), &aim(actual, limit));
            let set = chosen.iter().fold(0, |set, i| set | 1 << i);
            prop_assert!(chosen.len() <= limit);
            prop_assert!((f1(&items, &active, 0.0, set) - reached).abs() < 1e-9);
            for i in 0..items.len() {
                prop_assert!(f1(&items, &active, 0.0, 1 << i) <= reached + 1e-9);
            }
        }
    }
}
