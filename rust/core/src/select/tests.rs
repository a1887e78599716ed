use proptest::prelude::*;

use super::margin::{Margin, widen};
use super::*;

/// The dot in its order, and everything else, written down as it is defined.
fn dot(x: &[f32], w: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 32];
    for (at, (x, w)) in x.iter().zip(w).enumerate() {
        lanes[at % 32] = x.mul_add(*w, lanes[at % 32]);
    }
    for half in [16, 8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

fn twin(x: &[f32], w: &[f32], bias: &[f32], width: usize, rule: Rule<'_>) -> Vec<Vec<(u32, f32)>> {
    x.chunks(width)
        .map(|x| {
            let mut found: Vec<(u32, f32)> = w
                .chunks(width)
                .zip(bias)
                .enumerate()
                .filter_map(|(at, (w, &bias))| {
                    let dot = dot(x, w);
                    let pre = dot + bias;
                    let value = match rule {
                        Rule::TopK(_) => pre,
                        Rule::Threshold(values) => (pre > values[at]).then_some(pre)?,
                        Rule::Gated { scale, magnitude } => {
                            (pre > 0.0).then_some(dot.mul_add(scale[at], magnitude[at]))?
                        }
                    };
                    (value > 0.0).then_some((at as u32, value))
                })
                .collect();
            found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            if let Rule::TopK(k) = rule {
                found.truncate(k);
            }
            found
        })
        .collect()
}

fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if f64::from(value.abs()) > 3.39e38 {
        return (bits >> 31 << 15) as u16 | 0x7f80;
    }
    let (down, up) = ((bits >> 16) as u16, (bits >> 16) as u16 + 1);
    let off = |to: u16| (f64::from(widen(to)) - f64::from(value)).abs();
    match off(down).total_cmp(&off(up)) {
        Ordering::Less => down,
        Ordering::Greater => up,
        Ordering::Equal => down + (down & 1),
    }
}

/// A product of bf16 as a careless library computes it: backwards, tiny numbers as 0, stored as bf16.
fn bf16_product(x: &[f32], w: &[f32], width: usize) -> Vec<u16> {
    let flushed = |v: f32| if v.abs() < f32::MIN_POSITIVE { 0.0 } else { v };
    let rounded = |v: f32| flushed(widen(to_bf16(v)));
    x.chunks(width)
        .flat_map(|x| {
            w.chunks(width).map(move |w| {
                let terms = x.iter().zip(w).rev();
                let sum = terms.fold(0.0f32, |sum, (&x, &w)| {
                    flushed(sum + flushed(rounded(x) * rounded(w)))
                });
                to_bf16(sum)
            })
        })
        .collect()
}

fn float32_product(x: &[f32], w: &[f32], width: usize) -> Vec<f32> {
    x.chunks(width)
        .flat_map(|x| {
            w.chunks(width)
                .map(move |w| x.iter().zip(w).map(|(x, w)| x * w).sum())
        })
        .collect()
}

fn check(x: &[f32], w: &[f32], bias: &[f32], width: usize, rule: Rule<'_>) {
    let rounded: Vec<u16> = w.iter().map(|&v| to_bf16(v)).collect();
    let products = (bf16_product(x, w, width), float32_product(x, w, width));
    let expected = twin(x, w, bias, width, rule);
    let all_bf16 = w.iter().chain(x).all(|&v| widen(to_bf16(v)) == v);
    for proposed in [Proposed::Bf16(&products.0), Proposed::Float32(&products.1)] {
        for exact in [Exact::Float32(w), Exact::Bf16(&rounded)] {
            if matches!(exact, Exact::Bf16(_)) && !all_bf16 {
                continue;
            }
            for how in [Instructions::Fastest, Instructions::Portable] {
                let norms = norms(&exact, width, proposed.is_rounded());
                let selector = Selector::new(exact, bias, width, rule, norms, how).unwrap();
                let found = selector.select(x, proposed).unwrap();
                let mut at = 0;
                for (row, expected) in expected.iter().enumerate() {
                    let count = found.counts[row] as usize;
                    let pairs = found.latents[at..at + count].iter().copied();
                    let as_bits = |&(id, v): &(u32, f32)| (id, v.to_bits());
                    let ours: Vec<_> = pairs.zip(found.activations[at..].iter().copied()).collect();
                    at += count;
                    if found.refused.contains(&(row as u32)) {
                        let x = &x[row * width..][..width];
                        let overflows = w
                            .chunks(width)
                            .zip(bias)
                            .any(|(w, b)| !(dot(x, w) + b).is_finite());
                        assert!(overflows, "row {row} refused");
                        continue;
                    }
                    assert!(
                        ours.iter().map(as_bits).eq(expected.iter().map(as_bits)),
                        "row {row} {rule:?} {how:?}: {ours:?} instead of {expected:?}"
                    );
                }
            }
        }
    }
}

/// Numbers that tempt a margin: of one size, cancelling, of all sizes, tiny, on bf16's grid.
fn numbers(kind: u8, seed: u64, n: usize, width: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut values: Vec<f32> = (0..n * width)
        .map(|at| {
            let value = next() * 2.0 - 1.0;
            (match kind {
                1 => value * 10f64.powf(next() * 30.0 - 15.0),
                2 => value * 1e-38,
                3 => value * 10f64.powi(i32::try_from(at / width % 4).unwrap()), // norms differ by 1,000
                4 => (value * 4.0).round(),
                5 => 1.0 + value / 250.0, // every rounding in the same direction, or nearly
                6 => value * 1e19,
                7 => value * 1e-20,
                _ => value,
            }) as f32
        })
        .collect();
    if kind == 0 && seed.is_multiple_of(3) {
        // Cancelling: the second half undoes the first but for the last bits.
        for row in values.chunks_mut(width) {
            for at in width / 2..width {
                row[at] = row[at - width / 2] * if at % 2 == 0 { -1.0 } else { 1.000_1 };
            }
        }
    }
    values
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_selection_is_the_brute_force_one(
        rows in 1usize..4, latents in 1usize..700, width in 1usize..80, kinds in (0u8..8, 0u8..8),
        seed in any::<u64>(), share in 0.0f64..1.0, biased in 0u8..3, which in 0u8..3,
    ) {
        let x = numbers(kinds.0, seed, rows, width);
        let w = numbers(kinds.1, seed ^ 0x4d, latents, width);
        let size = dot(&x[..width], &w[..width]).abs().clamp(1e-30, 1e30);
        let bias: Vec<f32> = numbers(0, seed ^ 5, latents, 1).iter()
            .map(|v| v * f32::from(biased) * size).collect();
        let scale: Vec<f32> = numbers(5, seed ^ 9, latents, 1);
        // Thresholds on pre-activations themselves: the last bit decides.
        let values: Vec<f32> = w.chunks(width).zip(&bias).enumerate()
            .map(|(at, (w, b))| (dot(&x[at % rows * width..][..width], w) + b).max(0.0)).collect();
        let k = 1 + ((latents - 1) as f64 * share.powi(4)) as usize;
        check(&x, &w, &bias, width, match which {
            0 => Rule::TopK(k),
            1 if values.iter().all(|v| v.is_finite()) => Rule::Threshold(&values),
            1 => Rule::TopK(latents),
            _ => Rule::Gated { scale: &scale, magnitude: &bias },
        });
    }

    #[test]
    fn no_product_is_farther_from_the_defined_dot_than_the_margin(
        width in 1usize..300, kinds in (0u8..8, 0u8..8), seed in any::<u64>(), aligned in any::<bool>(),
    ) {
        let x = numbers(kinds.0, seed, 1, width);
        let mut w = numbers(kinds.1, seed ^ 0x4d, 16, width);
        if aligned { // what rounding leaves of one is parallel to the other: Cauchy and Schwarz are sharp
            for row in w.chunks_mut(width) {
                for (w, x) in row.iter_mut().zip(&x) { *w = x - widen(to_bf16(*x)); }
            }
        }
        let norms_of = |rounded| norms(&Exact::Float32(&w), width, rounded);
        let products = (bf16_product(&x, &w, width), float32_product(&x, &w, width));
        let wide = Margin::of(&x, &norms_of(true), true).unwrap();
        let narrow = Margin::of(&x, &norms_of(false), false).unwrap();
        for (at, w) in w.chunks(width).enumerate() {
            let defined = f64::from(dot(&x, w));
            for (given, margin) in [(widen(products.0[at]), &wide), (products.1[at], &narrow)] {
                if !margin.is_useless() {
                    let off = (f64::from(given) - defined).abs();
                    prop_assert!(off <= f64::from(margin.around(given.abs())), "{off} at {given}");
                }
            }
        }
    }
}

#[test]
fn equal_latents_go_by_their_numbers() {
    let (width, n) = (40, 3_000);
    let x = numbers(0, 1, 2, width);
    let w: Vec<f32> = x[..width].repeat(n);
    for k in [1, 31, n - 1, n] {
        check(&x, &w, &vec![0.0; n], width, Rule::TopK(k));
    }
}

fn top<'a>(
    exact: Exact<'a>,
    bias: &'a [f32],
    width: usize,
    k: usize,
    rounded: bool,
) -> Selector<'a> {
    let norms = norms(&exact, width, rounded);
    Selector::new(
        exact,
        bias,
        width,
        Rule::TopK(k),
        norms,
        Instructions::Fastest,
    )
    .unwrap()
}

#[test]
fn a_row_with_nan_is_refused_and_its_neighbours_are_not() {
    let (width, n) = (33, 100);
    let mut x = numbers(0, 1, 3, width);
    let w = numbers(0, 2, n, width);
    let proposed = float32_product(&x, &w, width);
    let bias = vec![0.0; n];
    let exact = Exact::Float32(&w);
    let selector = top(exact, &bias, width, 3, false);
    let clean = selector.select(&x, Proposed::Float32(&proposed)).unwrap();
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        x[width + 5] = broken;
        let found = selector.select(&x, Proposed::Float32(&proposed)).unwrap();
        assert_eq!(found.refused, [1]);
        let ((ids, values), (clean_ids, clean_values)) = (found.rows(3), clean.rows(3));
        assert_eq!((&ids[..3], &ids[6..]), (&clean_ids[..3], &clean_ids[6..]));
        assert_eq!(
            (&values[..3], &values[6..]),
            (&clean_values[..3], &clean_values[6..])
        );
        assert_eq!(&ids[3..6], &[NO_LATENT; 3]);
    }
}

#[test]
fn few_pre_activations_are_computed_again() {
    let (width, n, rows) = (256, 8_192, 8);
    let x = numbers(0, 1, rows, width);
    let w = numbers(0, 2, n, width);
    let bias = vec![0.0; n];
    let exact = Exact::Float32(&w);
    let selector = top(exact, &bias, width, 32, true);
    let found = selector
        .select(&x, Proposed::Bf16(&bf16_product(&x, &w, width)))
        .unwrap();
    assert!(
        found.rescored <= (2 * 32 * rows) as u64,
        "{}",
        found.rescored
    );
}
