//! Which proposals of a row reach a bound: one look over all of them, and one at the groups that do.

#[cfg(target_arch = "x86_64")]
#[allow(clippy::wildcard_imports)] // They are instructions, and have their own prefix.
use std::arch::x86_64::*;

use super::margin::widen;

/// Columns compared at once.
const LANES: usize = 16;
/// At most so many steps of [`LANES`] columns make a stretch; a lane of it is a group.
const MOST_STEPS: usize = 16;
/// Groups for each of the `k` that are sought: two of these seldom share one.
const GROUPS: usize = 16;

/// Products as a library wrote them, row by row.
#[derive(Clone, Copy, Debug)]
pub enum Proposed<'a> {
    /// Of operands rounded to bf16, written as the bits of bf16.
    Bf16(&'a [u16]),
    /// Of the exact operands.
    Float32(&'a [f32]),
}

impl<'a> Proposed<'a> {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Bf16(values) => values.len(),
            Self::Float32(values) => values.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn is_rounded(&self) -> bool {
        matches!(self, Self::Bf16(_))
    }

    pub(super) fn at(&self, at: usize) -> f32 {
        match self {
            Self::Bf16(values) => widen(values[at]),
            Self::Float32(values) => values[at],
        }
    }

    pub(super) fn row(&self, row: usize, n: usize) -> Proposed<'a> {
        match self {
            Self::Bf16(values) => Self::Bf16(&values[row * n..][..n]),
            Self::Float32(values) => Self::Float32(&values[row * n..][..n]),
        }
    }
}

/// What one look over a row found.
#[derive(Default)]
pub(super) struct Scan {
    steps: usize,
    /// By stretch and lane: the largest proposal with its offset.
    groups: Vec<[f32; LANES]>,
}

impl Scan {
    /// Looks over a row; returns the largest absolute proposal.
    pub(super) fn look(
        &mut self,
        proposed: Proposed<'_>,
        offset: &[f32],
        k: usize,
        wide: bool,
    ) -> f32 {
        let n = offset.len();
        let most = (n / (GROUPS * k)).clamp(1, MOST_STEPS);
        self.steps = 1 << most.ilog2();
        self.groups.clear();
        #[cfg(target_arch = "x86_64")]
        if wide {
            // SAFETY: `wide` is set where the processor has the instructions.
            return unsafe { self.look_wide(proposed, offset) };
        }
        let _ = wide;
        match proposed {
            Proposed::Bf16(values) => self.look_plain(values, offset, widen),
            Proposed::Float32(values) => self.look_plain(values, offset, |value| value),
        }
    }

    fn look_plain<T: Copy>(&mut self, row: &[T], offset: &[f32], value: impl Fn(T) -> f32) -> f32 {
        let stretch = self.steps * LANES;
        let mut largest = [0.0f32; LANES];
        for (row, offset) in row.chunks(stretch).zip(offset.chunks(stretch)) {
            let mut group = [f32::NEG_INFINITY; LANES];
            let mut step = |row: &[T], offset: &[f32]| {
                for (lane, (&given, &offset)) in row.iter().zip(offset).enumerate() {
                    let given = value(given);
                    largest[lane] = largest[lane].max(given.abs());
                    group[lane] = group[lane].max(given + offset);
                }
            };
            let (rows, offsets) = (row.chunks_exact(LANES), offset.chunks_exact(LANES));
            let rest = (rows.remainder(), offsets.remainder());
            for (row, offset) in rows.zip(offsets) {
                step(&row[..LANES], &offset[..LANES]);
            }
            step(rest.0, rest.1);
            self.groups.push(group);
        }
        largest.into_iter().fold(0.0, f32::max)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn look_wide(&mut self, proposed: Proposed<'_>, offset: &[f32]) -> f32 {
        let stretch = self.steps * LANES;
        // Whole stretches without masks; what is left, one at most, with them.
        let mut largest = match proposed {
            Proposed::Bf16(row) => self.look_whole(row, offset, |part| {
                let bits: __m256i = bytemuck::cast(*part);
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
            }),
            Proposed::Float32(row) => self.look_whole(row, offset, |part| bytemuck::cast(*part)),
        };
        let whole = offset.len() / stretch * stretch;
        if whole < offset.len() {
            let mut group = _mm512_set1_ps(f32::NEG_INFINITY);
            for (step, offset) in offset[whole..].chunks(LANES).enumerate() {
                let (given, there) = sixteen(proposed, whole + step * LANES);
                let sum = _mm512_mask_add_ps(group, there, given, floats(offset));
                largest = _mm512_max_ps(largest, _mm512_abs_ps(given));
                group = _mm512_max_ps(group, sum);
            }
            self.groups.push(bytemuck::cast(group));
        }
        _mm512_reduce_max_ps(largest)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn look_whole<T>(
        &mut self,
        row: &[T],
        offset: &[f32],
        value: impl Fn(&[T; LANES]) -> __m512,
    ) -> __m512 {
        let stretch = self.steps * LANES;
        let mut largest = _mm512_setzero_ps();
        for (row, offset) in row.chunks_exact(stretch).zip(offset.chunks_exact(stretch)) {
            let mut group = _mm512_set1_ps(f32::NEG_INFINITY);
            for (row, offset) in row
                .as_chunks::<LANES>()
                .0
                .iter()
                .zip(offset.as_chunks::<LANES>().0)
            {
                let given = value(row);
                largest = _mm512_max_ps(largest, _mm512_abs_ps(given));
                group = _mm512_max_ps(group, _mm512_add_ps(given, bytemuck::cast(*offset)));
            }
            self.groups.push(bytemuck::cast(group));
        }
        largest
    }

    /// A lower bound of the `k`-th largest proposal, or 0 if that is not positive.
    pub(super) fn kth(&self, k: usize, wide: bool) -> f32 {
        let groups: &[f32] = self.groups.as_flattened();
        let count = |bound: f32| {
            #[cfg(target_arch = "x86_64")]
            if wide {
                // SAFETY: `wide` is set where the processor has the instructions.
                return unsafe { count_wide(&self.groups, bound) };
            }
            let _ = wide;
            let reach = |&value: &f32| u32::from(value >= bound);
            groups.iter().map(reach).sum::<u32>() as usize
        };
        let most = groups.iter().fold(0.0f32, |most, &value| most.max(value));
        // Positive floats are in the order of their bits; 11 of these are enough. It is seldom below
        // a quarter of the largest, so that is asked first.
        let (mut low, mut high) = (0, most.to_bits() + 1);
        let mut middle = (0.25 * most).to_bits();
        while high - low > 1 << 13 {
            let count = count(f32::from_bits(middle));
            if count >= k {
                low = middle;
            } else {
                high = middle;
            }
            if count == k {
                break;
            }
            middle = low + (high - low) / 2;
        }
        f32::from_bits(low)
    }

    /// Appends the latents whose proposal with its offset is at least so large, ascending.
    pub(super) fn gather(
        &self,
        proposed: Proposed<'_>,
        offset: &[f32],
        least: f32,
        wide: bool,
        found: &mut Vec<u32>,
    ) {
        let stretch = self.steps * LANES;
        #[cfg(target_arch = "x86_64")]
        if wide {
            // SAFETY: `wide` is set where the processor has the instructions.
            unsafe { gather_wide(&self.groups, stretch, proposed, offset, least, found) };
            return;
        }
        let _ = wide;
        for (at, group) in self.groups.iter().enumerate() {
            // Without a branch for each it is a few instructions for all.
            if group
                .iter()
                .map(|&value| u32::from(value >= least))
                .sum::<u32>()
                > 0
            {
                let first = at * stretch;
                for (at, &offset) in offset.iter().enumerate().skip(first).take(stretch) {
                    if proposed.at(at) + offset >= least {
                        found.push(at as u32);
                    }
                }
            }
        }
    }
}

/// How many groups reach a bound.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,popcnt")]
fn count_wide(groups: &[[f32; LANES]], bound: f32) -> usize {
    let bound = _mm512_set1_ps(bound);
    let reach = |group: &[f32; LANES]| {
        _mm512_cmp_ps_mask::<_CMP_GE_OQ>(bytemuck::cast(*group), bound).count_ones()
    };
    groups.iter().map(reach).sum::<u32>() as usize
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn gather_wide(
    groups: &[[f32; LANES]],
    stretch: usize,
    proposed: Proposed<'_>,
    offset: &[f32],
    least: f32,
    found: &mut Vec<u32>,
) {
    let bound = _mm512_set1_ps(least);
    for (at, group) in groups.iter().enumerate() {
        if _mm512_cmp_ps_mask::<_CMP_GE_OQ>(bytemuck::cast(*group), bound) == 0 {
            continue;
        }
        let first = at * stretch;
        let offset = &offset[first..offset.len().min(first + stretch)];
        for (step, offset) in offset.chunks(LANES).enumerate() {
            let at = first + step * LANES;
            let (given, there) = sixteen(proposed, at);
            let sum = _mm512_add_ps(given, floats(offset));
            let mut reach = _mm512_mask_cmp_ps_mask::<_CMP_GE_OQ>(there, sum, bound);
            while reach != 0 {
                found.push(at as u32 + reach.trailing_zeros());
                reach &= reach - 1;
            }
        }
    }
}

/// Sixteen proposals from a place on, 0 behind the end, and which of them there are.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn sixteen(proposed: Proposed<'_>, at: usize) -> (__m512, __mmask16) {
    let there = |n: usize| ((1u32 << n.min(LANES)) - 1) as __mmask16;
    match proposed {
        Proposed::Bf16(values) => {
            let row = &values[at..];
            let bits: __m256i = if let Some(bits) = row.first_chunk::<LANES>() {
                bytemuck::cast(*bits)
            } else {
                let mut bits = [0u16; LANES];
                bits[..row.len()].copy_from_slice(row);
                bytemuck::cast(bits)
            };
            let bits = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits));
            (_mm512_castsi512_ps(bits), there(row.len()))
        }
        Proposed::Float32(values) => (floats(&values[at..]), there(values.len() - at)),
    }
}

/// Sixteen numbers, filled with zeros.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn floats(values: &[f32]) -> __m512 {
    if let Some(values) = values.first_chunk::<LANES>() {
        return bytemuck::cast(*values);
    }
    let mut filled = [0.0f32; LANES];
    filled[..values.len()].copy_from_slice(values);
    bytemuck::cast(filled)
}
