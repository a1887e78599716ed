//! Lists beside a plain model of what they hold.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Postings by position, and the sides of the segment's windows.
#[derive(Clone, Debug)]
struct Plain {
    shape: Shape,
    postings: BTreeMap<u32, u16>,
    sides: Vec<u8>,
}

fn plain() -> impl Strategy<Value = Plain> {
    let window = prop::sample::select(vec![1u32, 2, 4, 20, 32, 33, 64, 100]);
    let spread = prop::sample::select(vec![0u16, 1, 3, 40, 400, 0x7f7e]);
    let density = prop::sample::select(vec![0.0001, 0.002, 0.02, 0.2, 1.0]);
    let shape = (window, 1u32..3_000, any::<bool>());
    (shape, spread, density, any::<u64>(), 0u8..4).prop_map(
        |((window, n_windows, lossless), spread, density, seed, sides)| {
            let mut state = seed;
            let mut word = move || {
                state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let mut z = state;
                z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                z ^ (z >> 31)
            };
            let middle = 1 + (word() % u64::from(0x7f7e - spread + 1)) as u16;
            let mut postings = BTreeMap::new();
            let n = (n_windows * window).min(40_000);
            // Bursts: the density changes along the segment.
            let mut rate = density;
            for position in 0..n {
                if word() % 500 == 0 {
                    rate = [density, 0.0, 0.5 * density][(word() % 3) as usize];
                }
                if ((word() >> 11) as f64) / ((1u64 << 53) as f64) < rate {
                    let more = if spread == 0 {
                        0
                    } else {
                        (word() % u64::from(spread)) as u16
                    };
                    postings.insert(position, (middle + more).min(0x7f7f));
                }
            }
            let sides = (0..n_windows)
                .map(|_| (word() % u64::from(sides.max(1))) as u8)
                .collect();
            let shape = Shape {
                n_windows,
                window,
                lossless,
            };
            Plain {
                shape,
                postings,
                sides,
            }
        },
    )
}

impl Plain {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let positions: Vec<u32> = self.postings.keys().copied().collect();
        let values: Vec<u16> = self.postings.values().copied().collect();
        Encoder::new(self.shape).encode(&positions, &values, &self.sides, &mut out);
        out
    }

    /// By rank: window, and its hits.
    fn ranked(&self) -> Vec<(u32, Vec<(u32, u16)>)> {
        let mut windows: BTreeMap<u32, Vec<(u32, u16)>> = BTreeMap::new();
        for (&position, &bf16) in &self.postings {
            let window = windows.entry(position / self.shape.window).or_default();
            window.push((position % self.shape.window, bf16));
        }
        let mut windows: Vec<_> = windows.into_iter().collect();
        windows.sort_by_key(|(window, hits)| (std::cmp::Reverse(top_code(hits)), *window));
        windows
    }
}

fn top_code(hits: &[(u32, u16)]) -> u16 {
    hits.iter()
        .map(|&(_, bf16)| code::code(bf16))
        .max()
        .unwrap()
}

fn top(hits: &[(u32, u16)]) -> u16 {
    hits.iter().map(|&(_, bf16)| bf16).max().unwrap()
}

/// What reading gives of a bf16 whose low bits are not kept.
fn coarse(shape: Shape, bf16: u16) -> u16 {
    if shape.lossless {
        bf16
    } else {
        code::join(code::code(bf16), 0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn lists_are_read_as_they_were_given(plain in plain()) {
        let bytes = plain.bytes();
        let list = List::open(&bytes, plain.shape).unwrap();
        let ranked = plain.ranked();
        prop_assert_eq!(list.n_windows() as usize, ranked.len());
        prop_assert_eq!(list.n_postings() as usize, plain.postings.len());
        let mut windows = Vec::new();
        list.windows(&mut windows).unwrap();
        prop_assert_eq!(windows, ranked.iter().map(|(window, _)| *window).collect::<Vec<_>>());
        let mut visited = 0;
        list.for_each(|rank, window, hits| {
            let (expected, given) = &ranked[rank as usize];
            assert_eq!((window, rank), (*expected, visited));
            let offsets: Vec<u32> = given.iter().map(|&(offset, _)| offset).collect();
            let values: Vec<u16> = given.iter().map(|&(_, b)| coarse(plain.shape, b)).collect();
            assert_eq!((&hits.offsets, &hits.values), (&offsets, &values));
            let first = given.iter().position(|&(_, b)| code::code(b) == top_code(given));
            assert_eq!(Some(hits.peak), first);
            visited += 1;
        }).unwrap();
        prop_assert_eq!(visited as usize, ranked.len());
        let mut hits = Hits::default();
        for rank in (0..ranked.len() as u32).step_by(1 + ranked.len() / 40) {
            let window = list.read(rank, &mut hits).unwrap();
            prop_assert_eq!(window, list.window_at(rank).unwrap());
            let (expected, given) = &ranked[rank as usize];
            prop_assert_eq!(window, *expected);
            prop_assert_eq!(list.code_at(rank), top_code(given));
            let offsets: Vec<u32> = given.iter().map(|&(offset, _)| offset).collect();
            prop_assert_eq!(&hits.offsets, &offsets);
            let values: Vec<u16> = given.iter().map(|&(_, b)| coarse(plain.shape, b)).collect();
            prop_assert_eq!(&hits.values, &values);
        }
        for step in [1, 3, 100, 500] {
            let ranks: Vec<u32> = (0..ranked.len() as u32).step_by(step).collect();
            let mut visited = 0;
            list.read_each(&ranks, |at, hits| {
                assert_eq!(at, visited);
                let (_, given) = &ranked[ranks[at] as usize];
                let found: Vec<(u32, u16)> =
                    hits.offsets.iter().copied().zip(hits.values.iter().copied()).collect();
                let given: Vec<(u32, u16)> =
                    given.iter().map(|&(o, b)| (o, coarse(plain.shape, b))).collect();
                assert_eq!(found, given);
                visited += 1;
            }).unwrap();
            prop_assert_eq!(visited, ranks.len());
        }
        let runs = list.runs();
        prop_assert!(runs.windows(2).all(|r| r[0].code > r[1].code
            && r[0].first + r[0].count == r[1].first));
        let (mut stored, mut codes) = (Vec::new(), Vec::new());
        list.stored(&mut stored, &mut codes).unwrap();
        let mut expected: Vec<(u32, u16)> = plain.postings.iter()
            .map(|(&p, &b)| (p / plain.shape.window, code::code(b))).collect();
        let mut found: Vec<(u32, u16)> = stored.into_iter().zip(codes).collect();
        expected.sort_unstable();
        found.sort_unstable();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn the_strongest_of_each_side_are_exact(plain in plain()) {
        let bytes = plain.bytes();
        let list = List::open(&bytes, plain.shape).unwrap();
        let ranked = plain.ranked();
        let exact: BTreeMap<u32, u16> = list.exact().unwrap().into_iter().collect();
        for (&rank, &bf16) in &exact {
            prop_assert_eq!(bf16, top(&ranked[rank as usize].1));
        }
        if !plain.shape.lossless {
            for side in 0..2u8 {
                let mut order: Vec<usize> = (0..ranked.len())
                    .filter(|&r| plain.sides[ranked[r].0 as usize] == side).collect();
                order.sort_by_key(|&r| (std::cmp::Reverse(top(&ranked[r].1)), ranked[r].0));
                let strongest = &order[..order.len().min(EXACT as usize)];
                prop_assert!(strongest.iter().all(|&r| exact.contains_key(&(r as u32))));
            }
            if ranked.len() > 2 * EXACT as usize + 10 {
                prop_assert!(exact.len() <= 2 * EXACT as usize);
            }
        }
    }

    #[test]
    fn postings_come_by_position_and_encode_to_the_same_bytes(plain in plain()) {
        let bytes = plain.bytes();
        let list = List::open(&bytes, plain.shape).unwrap();
        let (mut positions, mut values) = (Vec::new(), Vec::new());
        list.postings(&mut Buffers::default(), &mut positions, &mut values).unwrap();
        let expected: Vec<u32> = plain.postings.keys().copied().collect();
        prop_assert_eq!(&positions, &expected);
        for (&value, &bf16) in values.iter().zip(plain.postings.values()) {
            prop_assert_eq!(code::code(value), code::code(bf16));
            prop_assert!(!plain.shape.lossless || value == bf16);
        }
        let mut again = Vec::new();
        Encoder::new(plain.shape).encode(&positions, &values, &plain.sides, &mut again);
        prop_assert_eq!(again, bytes);
    }

    #[test]
    fn damaged_bytes_never_panic(plain in plain(), changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4), cut: usize) {
        let mut bytes = plain.bytes();
        if bytes.is_empty() { return Ok(()); }
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        exercise(&bytes, plain.shape);
        bytes.truncate(cut % bytes.len());
        exercise(&bytes, plain.shape);
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), n_windows in 1u32..100_000, window in 1u32..70, lossless: bool) {
        exercise(&bytes, Shape { n_windows, window, lossless });
    }
}

/// Reads whatever can be read.
fn exercise(bytes: &[u8], shape: Shape) {
    let Ok(list) = List::open(bytes, shape) else {
        return;
    };
    let (mut positions, mut values) = (Vec::new(), Vec::new());
    if list
        .postings(&mut Buffers::default(), &mut positions, &mut values)
        .is_ok()
    {
        let end = u64::from(shape.n_windows) * u64::from(shape.window);
        assert!(positions.iter().all(|&p| u64::from(p) < end));
    }
    let _ = list.stored(&mut positions, &mut values);
    let _ = list.exact();
    let mut hits = Hits::default();
    for rank in (0..list.n_windows()).step_by(1 + list.n_windows() as usize / 5) {
        let _ = list.read(rank, &mut hits);
        if let Ok(window) = list.window_at(rank) {
            assert!(window < shape.n_windows);
        }
    }
    let ranks: Vec<u32> = (0..list.n_windows()).step_by(3).collect();
    let _ = list.read_each(&ranks, |_, _| {});
}

#[test]
fn division_by_multiplication_is_exact() {
    for divisor in (1..100).chain([127, 255, 1000, 65_535, 65_536]) {
        let by = divide::Divider::by(divisor);
        for dividend in (0..1000).chain([
            u32::MAX - 1,
            u32::MAX,
            1 << 31,
            divisor * 7,
            divisor * 7 - 1,
        ]) {
            assert_eq!(by.of(dividend), dividend / divisor);
        }
    }
}
