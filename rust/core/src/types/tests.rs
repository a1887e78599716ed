//! The figures, counted once more in the plainest way.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::code;
use crate::testing::{Corpus, TestResult, corpora};

/// What is found at some places: the thing at each place of the corpus that has one.
type Things = BTreeMap<usize, u64>;

fn information(corpus: &Corpus, active: &[usize]) -> f64 {
    let length = corpus.length();
    let live: Vec<usize> = (0..corpus.tokens.len())
        .filter(|&p| corpus.mask[p])
        .collect();
    let n = live.len() as f64;
    let mut joint: BTreeMap<(usize, bool), f64> = BTreeMap::new();
    for &place in &live {
        *joint
            .entry((place % length, active.binary_search(&place).is_ok()))
            .or_default() += 1.0 / n;
    }
    let offset = |o| {
        joint
            .iter()
            .filter(|((p, _), _)| *p == o)
            .map(|e| e.1)
            .sum::<f64>()
    };
    let state = |a| {
        joint
            .iter()
            .filter(|((_, b), _)| *b == a)
            .map(|e| e.1)
            .sum::<f64>()
    };
    joint
        .iter()
        .map(|(&(o, a), &p)| p * (p / (offset(o) * state(a))).ln())
        .sum()
}

/// The peaks of the strongest windows, as places in the corpus.
fn strongest(corpus: &Corpus, latent: u32, per_cent: usize) -> Vec<usize> {
    let window = u64::from(corpus.parameters.window);
    let ranked = corpus.ranked(latent);
    let wanted = (ranked.len() * per_cent).div_ceil(100).min(ranked.len());
    let peak = |&(start, max, _): &(u64, u16, u8)| {
        let mut inside = corpus.postings(latent).into_iter().filter(|(p, a)| {
            (start..start + window).contains(p) && code::code(code::bf16_of(*a)) == code::code(max)
        });
        (inside.next().unwrap().0 - corpus.base()) as usize
    };
    ranked[..wanted].iter().map(peak).collect()
}

fn compare(
    peaks: &Peaks,
    latent: usize,
    things: &Things,
    of_peaks: &[usize],
    active: &[usize],
    live: &[bool],
    (max_tokens, capped): (usize, bool),
) -> TestResult {
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for thing in of_peaks.iter().filter_map(|p| things.get(p)) {
        *counts.entry(*thing).or_default() += 1;
    }
    let few = counts.len() <= max_tokens;
    let most = if capped { max_tokens + 1 } else { usize::MAX };
    prop_assert_eq!(peaks.windows[latent], counts.values().sum::<u64>());
    prop_assert_eq!(peaks.distinct[latent], counts.len().min(most) as u64);
    let commonest = counts.values().copied().max().unwrap_or(0);
    prop_assert_eq!(
        peaks.commonest[latent],
        if few || !capped { commonest } else { 0 }
    );
    let mut expected: Vec<(u64, u64)> = counts.into_iter().filter(|_| few).collect();
    expected.sort_by_key(|&(key, count)| (std::cmp::Reverse(count), key));
    let span = peaks.starts[latent] as usize..peaks.starts[latent + 1] as usize;
    let found: Vec<(u64, u64)> = peaks.keys[span.clone()]
        .iter()
        .copied()
        .zip(peaks.counts[span].iter().copied())
        .collect();
    prop_assert_eq!(&found, &expected);
    let is_few = |p: usize| {
        things
            .get(&p)
            .is_some_and(|thing| expected.iter().any(|e| e.0 == *thing))
    };
    let among = active.iter().filter(|&&p| is_few(p)).count();
    prop_assert_eq!(peaks.active[latent], among as u64);
    let all = (0..live.len()).filter(|&p| live[p] && is_few(p)).count();
    prop_assert_eq!(peaks.occurrences[latent], all as u64);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn figures_equal_the_plain_ones(
        corpus in corpora(), max_tokens in 0usize..4, strongest_of in 1u64..101,
    ) {
        let (_folder, index) = corpus.index();
        let options = TypeOptions { max_tokens, strongest: strongest_of };
        let figures = index.figures(options).unwrap();
        prop_assert_eq!(&figures.summary, &index.summary().unwrap());
        let n = corpus.tokens.len();
        let own: Things = (0..n).map(|p| (p, u64::from(corpus.tokens[p]))).collect();
        let before: Things = (0..n).filter(|p| p % corpus.length() > 0)
            .map(|p| (p, u64::from(corpus.tokens[p - 1]))).collect();
        let pairs: Things = before.iter().map(|(&p, &b)| (p, own[&p] << 32 | b)).collect();
        for (token, &count) in figures.frequency.iter().enumerate() {
            let of = |things: &Things| things.iter()
                .filter(|(p, t)| corpus.mask[**p] && **t == token as u64).count() as u64;
            prop_assert_eq!(count, of(&own));
            prop_assert_eq!(figures.followed[token], of(&before));
        }
        for latent in 0..index.n_latents() {
            let at = latent as usize;
            let active: Vec<usize> = corpus.postings(latent).iter()
                .map(|(p, _)| (p - corpus.base()) as usize).collect();
            prop_assert_eq!(figures.summary.count[at], active.len() as u64);
            let expected = information(&corpus, &active);
            prop_assert!((figures.position_information[at] - expected).abs() < 1e-12);
            let peaks = strongest(&corpus, latent, strongest_of as usize);
            for (found, things, capped) in [
                (&figures.own, &own, false),
                (&figures.before, &before, false),
                (&figures.pairs, &pairs, true),
            ] {
                compare(found, at, things, &peaks, &active, &corpus.mask, (max_tokens, capped))?;
            }
        }
    }
}

#[test]
fn the_segments_make_no_difference() {
    let corpus = Corpus::long(5);
    let mut other = corpus.clone();
    other.parameters.segment_contexts = 170;
    let ((_a, one), (_b, many)) = (corpus.index(), other.index());
    assert!(many.segments().len() > 7);
    let options = TypeOptions {
        max_tokens: 20,
        strongest: 80,
    };
    assert_eq!(
        one.figures(options).unwrap(),
        many.figures(options).unwrap()
    );
}
