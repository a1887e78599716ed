//! The rows as directions: checked, each distinct one once, and what their cosines are.

use std::collections::HashMap;

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use crate::error::{Error, Result};

/// Float32 products of rows whose norms lie between these neither overflow nor vanish.
const TAME: std::ops::Range<f64> = 1e-15..1e15;
/// Accumulators of [`Points::cosine`].
const LANES: usize = 32;
/// Relative rounding of one float32 operation.
const ROUNDING: f64 = 1.0 / (1u64 << 24) as f64;

/// The distinct directions among some rows: rows of zeros and repetitions are left out.
pub(super) struct Points<'a> {
    values: &'a [f32],
    pub(super) width: usize,
    /// The row of each point (of rows that are the same, the first), ascending.
    rows: Vec<u32>,
    /// One over its norm.
    inverse: Vec<f64>,
    /// Other rows of the same point, ascending; of points that have some.
    pub(super) repeated: HashMap<u32, Vec<u32>>,
    tame: bool,
}

impl<'a> Points<'a> {
    /// Checks the rows and finds those that are different; `name` is what the caller calls them.
    pub(super) fn of(name: &str, values: &'a [f32], width: usize) -> Result<Self> {
        let n = values.len() / width.max(1);
        // Ids and a flag share 32 bits.
        if n > 1 << 31 {
            return Err(Error::input(format!(
                "`{name}` has {n} rows; at most 2^31 are compared"
            )));
        }
        let norms: Vec<f64> = values.par_chunks_exact(width).map(norm).collect();
        if let Some(row) = norms.iter().position(|norm| !norm.is_finite()) {
            return Err(Error::input(format!(
                "`{name}`: row {row} holds NaN or infinity; every number of a decoder is finite"
            )));
        }
        let (rows, repeated) = distinct(values, width, &norms);
        let inverse: Vec<f64> = rows.iter().map(|&row| 1.0 / norms[row as usize]).collect();
        Ok(Self {
            values,
            width,
            tame: rows.iter().all(|&row| TAME.contains(&norms[row as usize])),
            rows,
            inverse,
            repeated,
        })
    }

    pub(super) fn n(&self) -> usize {
        self.rows.len()
    }

    /// The row that a point stands for.
    pub(super) fn row(&self, point: usize) -> u32 {
        self.rows[point]
    }

    /// The numbers of a point as they were given.
    pub(super) fn values(&self, point: usize) -> &'a [f32] {
        let first = self.rows[point] as usize * self.width;
        &self.values[first..first + self.width]
    }

    /// One over the norm of a point.
    pub(super) fn inverse(&self, point: usize) -> f64 {
        self.inverse[point]
    }

    /// How far [`Points::cosine`] can be from the truth.
    ///
    /// A sum of products in float32 is off by at most one rounding for each step of its longest
    /// chain, relative to the sum of the products' sizes, which is at most the product of the norms.
    pub(super) fn rounding(&self) -> f32 {
        let chain = (self.width / LANES + 8) as f64;
        (1.01 * chain * ROUNDING) as f32
    }

    /// The cosine of a point and a point of `other`, within [`Points::rounding`].
    #[inline]
    pub(super) fn cosine(&self, point: usize, other: &Points<'_>, of: usize) -> f32 {
        if !(self.tame && other.tame) {
            return self.exact_cosine(point, other, of) as f32;
        }
        let dot = float_dot(self.values(point), other.values(of));
        dot * (self.inverse[point] * other.inverse[of]) as f32
    }

    /// Asks for the numbers of a point to be brought near: into the second cache, which waits for
    /// more lines at a time than the first (12 % of a search).
    #[inline]
    pub(super) fn prefetch(&self, point: usize) {
        #[cfg(target_arch = "x86_64")]
        for line in self.values(point).chunks(16) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: a hint, of memory that is there.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
        }
    }

    /// The cosine in float64, of exact products.
    pub(super) fn exact_cosine(&self, point: usize, other: &Points<'_>, of: usize) -> f64 {
        let dot = dot(self.values(point), other.values(of));
        dot * self.inverse[point] * other.inverse[of]
    }
}

/// A sum of products in float32.
fn float_dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    let rest: f64 = rest.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] = a[lane].mul_add(b[lane], sums[lane]);
        }
    }
    (sums.iter().map(|&sum| f64::from(sum)).sum::<f64>() + rest) as f32
}

fn norm(row: &[f32]) -> f64 {
    dot(row, row).sqrt()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0f64; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..16 {
            sums[lane] = f64::from(a[lane]).mul_add(f64::from(b[lane]), sums[lane]);
        }
    }
    let rest: f64 = a_rest
        .iter()
        .zip(b_rest)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum();
    sums.iter().sum::<f64>() + rest
}

/// The first row of each distinct one that is not zero, and the later rows of those that have some.
fn distinct(values: &[f32], width: usize, norms: &[f64]) -> (Vec<u32>, HashMap<u32, Vec<u32>>) {
    let row = |row: u32| &values[row as usize * width..][..width];
    let mut hashed: Vec<(u128, u32)> = (0..norms.len() as u32)
        .into_par_iter()
        .filter(|&at| norms[at as usize] > 0.0)
        .map(|at| (hash(row(at)), at))
        .collect();
    hashed.par_sort_unstable();
    let mut rows = Vec::with_capacity(hashed.len());
    let mut repeated = HashMap::new();
    for same in hashed.chunk_by(|a, b| a.0 == b.0) {
        let first = same[0].1;
        rows.push(first);
        // What only hashes alike would be compared as one; at 128 bits it does not happen.
        if same.len() > 1 {
            repeated.insert(first, same[1..].iter().map(|&(_, at)| at).collect());
        }
    }
    rows.sort_unstable();
    (rows, repeated)
}

fn hash(row: &[f32]) -> u128 {
    // 0 and -0 are one number with two patterns of bits.
    if row
        .iter()
        .any(|&value| value.to_bits() == (-0.0f32).to_bits())
    {
        let same: Vec<f32> = row.iter().map(|&value| value + 0.0).collect();
        return xxh3_128(bytemuck::cast_slice(&same));
    }
    xxh3_128(bytemuck::cast_slice(row))
}
