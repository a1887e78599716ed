//! Bounds of cosines from products of 8-bit integers, with AVX-512's instruction for those.
//!
//! A direction `w` is kept as `s · q + r`, with `q` of signed bytes and `r` what rounding left. Of two
//! of them, `w · v = s q · t p + (s q · u + r · v)`, and what stands in brackets is, by Cauchy and
//! Schwarz, at most `|s q| |u| + |r| |v|`: each norm is known, so the sum of the product and these
//! is an upper bound of the cosine. Columns that are much larger than the others, which would make
//! every byte's step coarse, are set apart and multiplied as float32.

use std::arch::asm;
#[allow(clippy::wildcard_imports)] // They are instructions, and have their own prefix.
use std::arch::x86_64::*;

use rayon::prelude::*;

use super::candidates::Slack;
use super::points::Points;
use super::{BLOCK, Estimate, Found, PANEL};

/// Rows of the tile whose sums stay in registers; its columns are a panel.
const ROWS: usize = 12;
/// Columns multiplied by one step of the product.
const DEPTH: usize = 4;
/// Wider rows could make a sum overflow 32 bits.
pub(super) const WIDEST: usize = 1 << 16;
/// At most so many columns are set apart.
const MOST_APART: usize = 16;
/// A column is, if its mean square is so many times the median one.
const LARGE: f64 = 16.0;
/// What rounding to float32 adds to each bound: of values up to 2, some operations.
const ROUNDING: f32 = 2e-6;

/// Whether this processor has the instructions.
pub(super) fn is_supported() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni")
}

/// The bytes of [`PANEL`] points that one step multiplies.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Step([[u8; DEPTH]; PANEL]);

/// Points as bytes.
struct Bytes {
    /// Steps of a panel.
    steps: usize,
    /// By panel, step, point: its bytes plus 128.
    panels: Vec<Step>,
    /// `s`; of points and those that fill the last block.
    scale: Vec<f32>,
    /// This point's part of the bound of what the product leaves out. NaN where there is no point:
    /// then nothing compares.
    slack: Vec<f32>,
    /// -128 times the sum of its bytes, which takes the others' 128 off again.
    correction: Vec<i32>,
    /// The columns set apart, one after the other.
    apart: Vec<f32>,
}

/// Two sets of points as bytes; one, if they are the same.
pub(super) struct Wide {
    from: Bytes,
    to: Option<Bytes>,
    n_apart: usize,
}

impl Wide {
    pub(super) fn new(from: &Points<'_>, to: Option<&Points<'_>>) -> Self {
        let sets: Vec<&Points<'_>> = std::iter::once(from).chain(to).collect();
        let apart = large_columns(&sets);
        let mut bytes: Vec<Bytes> = sets.iter().map(|set| Bytes::of(set, &apart)).collect();
        let largest = bytes
            .iter()
            .flat_map(|b| b.slack.iter().copied())
            .fold(0.0f32, f32::max);
        // `slack` holds the norms of what is left until here; NaN stays NaN.
        for bytes in &mut bytes {
            for slack in &mut bytes.slack {
                *slack = *slack * (1.0 + largest) + ROUNDING / 2.0;
            }
        }
        let to = (bytes.len() > 1).then(|| bytes.pop()).flatten();
        let from = bytes.swap_remove(0);
        Self {
            from,
            to,
            n_apart: apart.len(),
        }
    }

    fn to(&self) -> &Bytes {
        self.to.as_ref().unwrap_or(&self.from)
    }
}

/// The columns that are much larger than the others, ascending.
fn large_columns(sets: &[&Points<'_>]) -> Vec<usize> {
    const SAMPLE: usize = 4096;
    let width = sets[0].width;
    let mut squares = vec![0.0f64; width];
    for set in sets {
        for point in (0..set.n()).step_by(set.n().div_ceil(SAMPLE).max(1)) {
            let inverse = set.inverse(point);
            for (square, &value) in squares.iter_mut().zip(set.values(point)) {
                *square += (f64::from(value) * inverse).powi(2);
            }
        }
    }
    let mut sorted = squares.clone();
    let (_, &mut median, _) = sorted.select_nth_unstable_by(width / 2, f64::total_cmp);
    let mut large: Vec<usize> = (0..width)
        .filter(|&column| squares[column] > LARGE * median)
        .collect();
    large.sort_unstable_by(|&a, &b| squares[b].total_cmp(&squares[a]));
    large.truncate(MOST_APART);
    large.sort_unstable();
    large
}

impl Bytes {
    fn of(points: &Points<'_>, apart: &[usize]) -> Self {
        let padded = points.n().next_multiple_of(BLOCK);
        let steps = points.width.div_ceil(DEPTH);
        let mut bytes = Self {
            steps,
            panels: vec![Step([[128; DEPTH]; PANEL]); padded / PANEL * steps],
            scale: vec![0.0; padded],
            slack: vec![f32::NAN; padded],
            correction: vec![0; padded],
            apart: vec![0.0; apart.len() * padded],
        };
        bytes
            .panels
            .par_chunks_mut(steps)
            .zip(bytes.scale.par_chunks_mut(PANEL))
            .zip(bytes.slack.par_chunks_mut(PANEL))
            .zip(bytes.correction.par_chunks_mut(PANEL))
            .enumerate()
            .for_each_init(
                || vec![0.0f32; points.width],
                |row, (panel, (((steps, scale), slack), correction))| {
                    let first = panel * PANEL;
                    for at in 0..PANEL.min(points.n().saturating_sub(first)) {
                        row.copy_from_slice(points.values(first + at));
                        for &column in apart {
                            row[column] = 0.0;
                        }
                        let rounded = round(row, points.inverse(first + at), |column, byte| {
                            steps[column / DEPTH].0[at][column % DEPTH] =
                                byte.cast_unsigned() ^ 0x80;
                        });
                        (scale[at], slack[at], correction[at]) = rounded;
                    }
                },
            );
        for (column, values) in apart.iter().zip(bytes.apart.chunks_mut(padded)) {
            for (point, value) in values.iter_mut().enumerate().take(points.n()) {
                let given = f64::from(points.values(point)[*column]);
                *value = (given * points.inverse(point)) as f32;
            }
        }
        bytes
    }
}

/// Rounds a row to bytes and hands them over; returns the scale, the norm of what is left, and -128
/// times the sum of the bytes.
fn round(row: &mut [f32], inverse: f64, mut put: impl FnMut(usize, i8)) -> (f32, f32, i32) {
    let mut largest = 0.0f32;
    for value in row.iter_mut() {
        *value = (f64::from(*value) * inverse) as f32;
        largest = largest.max(value.abs());
    }
    let scale = largest / 127.0;
    let per_step = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    if !per_step.is_finite() {
        // Beside columns set apart there may be next to nothing.
        return (0.0, largest * (row.len() as f32).sqrt(), 0);
    }
    let (mut left, mut sum) = (0.0f64, 0);
    for (column, &value) in row.iter().enumerate() {
        let step = (value * per_step).round_ties_even().clamp(-127.0, 127.0);
        left += f64::from(value - step * scale).powi(2);
        sum += step as i32;
        put(column, step as i8);
    }
    // The rounding of the row itself to float32 is in the second term.
    (scale, left.sqrt() as f32 * 1.000_01 + 2e-7, -128 * sum)
}

impl Estimate for Wide {
    /// The bytes of a block, signed: by group of [`ROWS`], step, row.
    type Packed = Vec<[i8; DEPTH]>;

    fn slack(&self) -> Slack<'_> {
        Slack {
            from: &self.from.slack,
            to: &self.to().slack,
        }
    }

    fn pack(&self, block: usize, packed: &mut Self::Packed) {
        let steps = self.from.steps;
        packed.resize(BLOCK * steps, [0; DEPTH]);
        for (group, packed) in packed.chunks_exact_mut(ROWS * steps).enumerate() {
            for row in 0..ROWS {
                let point = block * BLOCK + group * ROWS + row;
                let panel = &self.from.panels[point / PANEL * steps..][..steps];
                for (step, bytes) in panel.iter().enumerate() {
                    packed[step * ROWS + row] =
                        bytes.0[point % PANEL].map(|byte| (byte ^ 0x80).cast_signed());
                }
            }
        }
    }

    fn panel(
        &self,
        packed: &Self::Packed,
        block: usize,
        panel: usize,
        least: (&[f32], &[f32]),
        found: &mut Vec<Found>,
    ) {
        // SAFETY: a `Wide` is made where `is_supported`, `packed` by `pack`.
        unsafe { self.compare(packed, block, panel, least, found) }
    }
}

impl Wide {
    /// # Safety
    /// The processor must have the instructions, and `packed` be of the block.
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn compare(
        &self,
        packed: &[[i8; DEPTH]],
        block: usize,
        panel: usize,
        (least_from, least_to): (&[f32], &[f32]),
        found: &mut Vec<Found>,
    ) {
        let (from, to) = (&self.from, self.to());
        let first = panel * PANEL;
        let columns = &to.panels[panel * to.steps..][..to.steps];
        let scale_to = halves(&to.scale[first..]);
        let slack_to = halves(&to.slack[first..]);
        let least_to = halves(least_to);
        let (padded_from, padded_to) = (from.scale.len(), to.scale.len());
        let mut sums = Sums([[0; PANEL]; ROWS]);
        for group in 0..BLOCK / ROWS {
            let start = block * BLOCK + group * ROWS;
            let rows = &packed[group * ROWS * from.steps..][..ROWS * from.steps];
            // SAFETY: rows and columns have as many steps.
            unsafe {
                product(
                    rows,
                    columns,
                    &from.correction[start..start + ROWS],
                    &mut sums,
                );
            };
            let ours = from.scale[start..start + ROWS]
                .iter()
                .zip(&from.slack[start..start + ROWS])
                .zip(&least_from[group * ROWS..][..ROWS]);
            for (row, (sums, ((&scale, &slack), &least))) in sums.0.iter().zip(ours).enumerate() {
                let scale = _mm512_set1_ps(scale);
                let mut bounds = slack_to;
                for half in 0..2 {
                    let sum = _mm512_cvtepi32_ps(integers(sums, half));
                    let scale = _mm512_mul_ps(scale, scale_to[half]);
                    bounds[half] = _mm512_fmadd_ps(sum, scale, bounds[half]);
                }
                for column in 0..self.n_apart {
                    let value = _mm512_set1_ps(from.apart[column * padded_from + start + row]);
                    let others = halves(&to.apart[column * padded_to + first..]);
                    for half in 0..2 {
                        bounds[half] = _mm512_fmadd_ps(value, others[half], bounds[half]);
                    }
                }
                let least = _mm512_set1_ps(least);
                let mut above = 0;
                for half in 0..2 {
                    bounds[half] = _mm512_add_ps(bounds[half], _mm512_set1_ps(slack));
                    let least = _mm512_min_ps(least, least_to[half]);
                    let mask = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(bounds[half], least);
                    above |= u32::from(mask) << (16 * half);
                }
                if above != 0 {
                    put(group * ROWS + row, above, &bytemuck::cast(bounds), found);
                }
            }
        }
    }
}

/// Appends the pairs of a row and the columns whose bits are set.
#[cold]
fn put(row: usize, mut columns: u32, bounds: &[f32; PANEL], found: &mut Vec<Found>) {
    while columns != 0 {
        let column = columns.trailing_zeros();
        columns &= columns - 1;
        found.push(Found {
            from: row as u16,
            to: column as u16,
            bound: bounds[column as usize],
        });
    }
}

/// The values of a panel's points.
fn halves(values: &[f32]) -> [__m512; 2] {
    let values: &[f32; PANEL] = values.first_chunk().unwrap_or(&[f32::NAN; PANEL]);
    bytemuck::cast(*values)
}

/// Half of the sums of a row.
#[inline]
fn integers(sums: &[i32; PANEL], half: usize) -> __m512i {
    let halves: [__m512i; 2] = bytemuck::cast(*sums);
    halves[half]
}

#[repr(C, align(64))]
struct Sums([[i32; PANEL]; ROWS]);

/// The products of [`ROWS`] rows and the columns of a panel.
///
/// In assembly, since compilers do not keep the 24 sums in registers: see `docs/LOG.md`.
///
/// # Safety
/// The processor must have the instructions; `rows` must hold as many steps as `columns`.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn product(rows: &[[i8; DEPTH]], columns: &[Step], correction: &[i32], sums: &mut Sums) {
    debug_assert_eq!(rows.len(), ROWS * columns.len());
    debug_assert_eq!(correction.len(), ROWS);
    macro_rules! begin {
        ($($row:literal $a:literal $b:literal,)*) => { concat!($(
            "vpbroadcastd zmm", $a, ", dword ptr [{sums} + ", $row, "*4]\n",
            "vmovdqa64 zmm", $b, ", zmm", $a, "\n",
        )*) };
    }
    macro_rules! step {
        ($($row:literal $a:literal $b:literal $t:literal,)*) => { concat!($(
            "vpbroadcastd zmm", $t, ", dword ptr [{rows} + ", $row, "*4]\n",
            "vpdpbusd zmm", $a, ", zmm0, zmm", $t, "\n",
            "vpdpbusd zmm", $b, ", zmm1, zmm", $t, "\n",
        )*) };
    }
    macro_rules! end {
        ($($row:literal $a:literal $b:literal,)*) => { concat!($(
            "vmovdqa64 zmmword ptr [{out} + ", $row, "*128], zmm", $a, "\n",
            "vmovdqa64 zmmword ptr [{out} + ", $row, "*128 + 64], zmm", $b, "\n",
        )*) };
    }
    // SAFETY: reads `rows`, `columns` and `correction` as far as they go and writes all of `sums`.
    unsafe {
        asm!(
            begin!(0 8 9, 1 10 11, 2 12 13, 3 14 15, 4 16 17, 5 18 19, 6 20 21, 7 22 23,
                   8 24 25, 9 26 27, 10 28 29, 11 30 31,),
            "2:",
            "vmovdqa64 zmm0, zmmword ptr [{columns}]",
            "vmovdqa64 zmm1, zmmword ptr [{columns} + 64]",
            step!(0 8 9 2, 1 10 11 3, 2 12 13 4, 3 14 15 5, 4 16 17 6, 5 18 19 7, 6 20 21 2,
                  7 22 23 3, 8 24 25 4, 9 26 27 5, 10 28 29 6, 11 30 31 7,),
            "add {rows}, 48",
            "add {columns}, 128",
            "dec {steps}",
            "jnz 2b",
            end!(0 8 9, 1 10 11, 2 12 13, 3 14 15, 4 16 17, 5 18 19, 6 20 21, 7 22 23,
                 8 24 25, 9 26 27, 10 28 29, 11 30 31,),
            rows = inout(reg) rows.as_ptr() => _,
            columns = inout(reg) columns.as_ptr() => _,
            steps = inout(reg) columns.len() => _,
            sums = in(reg) correction.as_ptr(),
            out = in(reg) sums,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _,
            out("zmm5") _, out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _,
            out("zmm10") _, out("zmm11") _, out("zmm12") _, out("zmm13") _, out("zmm14") _,
            out("zmm15") _, out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
            out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _, out("zmm24") _,
            out("zmm25") _, out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _,
            out("zmm30") _, out("zmm31") _,
            options(nostack),
        );
    }
}
