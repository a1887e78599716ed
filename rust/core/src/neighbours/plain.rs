//! Bounds of cosines from products in float32, for any processor.

use rayon::prelude::*;

use super::candidates::Slack;
use super::points::Points;
use super::{BLOCK, Estimate, Found, PANEL};

/// Rows and columns of the tile whose sums stay in registers.
const ROWS: usize = 6;
const COLUMNS: usize = 16;

/// Two sets of directions in float32; one, if they are the same.
pub(super) struct Plain {
    width: usize,
    from: Vec<f32>,
    to: Option<Vec<f32>>,
    n: (usize, usize),
    /// Of a pair.
    slack: f32,
    /// Half of it, for every point of the larger set.
    slacks: Vec<f32>,
}

impl Plain {
    pub(super) fn new(from: &Points<'_>, to: Option<&Points<'_>>) -> Self {
        let width = from.width;
        // One rounding a step, of the running sum, at most 1; and those of both rows.
        let slack = (width + 8) as f32 / (1u32 << 23) as f32;
        let n = (from.n(), to.map_or(from.n(), Points::n));
        Self {
            width,
            from: panels(from),
            to: to.map(panels),
            n,
            slack,
            slacks: vec![slack / 2.0; n.0.max(n.1)],
        }
    }
}

/// By panel of [`COLUMNS`], column of the row, point: its direction.
fn panels(points: &Points<'_>) -> Vec<f32> {
    let width = points.width;
    let mut panels = vec![0.0; points.n().next_multiple_of(BLOCK) * width];
    panels
        .par_chunks_mut(COLUMNS * width)
        .enumerate()
        .for_each(|(panel, values)| {
            let first = panel * COLUMNS;
            for at in 0..COLUMNS.min(points.n().saturating_sub(first)) {
                let inverse = points.inverse(first + at);
                for (column, &value) in points.values(first + at).iter().enumerate() {
                    values[column * COLUMNS + at] = (f64::from(value) * inverse) as f32;
                }
            }
        });
    panels
}

impl Estimate for Plain {
    /// The directions of a block: by group of [`ROWS`], column, row.
    type Packed = Vec<f32>;

    fn slack(&self) -> Slack<'_> {
        let (from, to) = self.n;
        Slack {
            from: &self.slacks[..from],
            to: &self.slacks[..to],
        }
    }

    fn pack(&self, block: usize, packed: &mut Self::Packed) {
        let width = self.width;
        packed.resize(BLOCK * width, 0.0);
        for (group, packed) in packed.chunks_exact_mut(ROWS * width).enumerate() {
            for row in 0..ROWS {
                let point = block * BLOCK + group * ROWS + row;
                let panel = &self.from[point / COLUMNS * COLUMNS * width..];
                for column in 0..width {
                    packed[column * ROWS + row] = panel[column * COLUMNS + point % COLUMNS];
                }
            }
        }
    }

    fn panel(
        &self,
        packed: &Self::Packed,
        block: usize,
        panel: usize,
        (least_from, least_to): (&[f32], &[f32]),
        found: &mut Vec<Found>,
    ) {
        let width = self.width;
        let to = self.to.as_ref().unwrap_or(&self.from);
        let rows = BLOCK.min(self.n.0.saturating_sub(block * BLOCK));
        for half in 0..PANEL / COLUMNS {
            let first = panel * PANEL + half * COLUMNS;
            let columns = COLUMNS.min(self.n.1.saturating_sub(first));
            if columns == 0 {
                break;
            }
            let values = &to[first * width..][..COLUMNS * width];
            let least_to = &least_to[half * COLUMNS..];
            for (group, packed) in packed.chunks_exact(ROWS * width).enumerate() {
                let sums = product(packed, values);
                for (row, sums) in sums.iter().enumerate() {
                    let from = group * ROWS + row;
                    if from >= rows {
                        break;
                    }
                    for (at, &sum) in sums.iter().enumerate().take(columns) {
                        let bound = sum + self.slack;
                        if bound >= least_from[from].min(least_to[at]) {
                            found.push(Found {
                                from: from as u16,
                                to: (half * COLUMNS + at) as u16,
                                bound,
                            });
                        }
                    }
                }
            }
        }
    }
}

/// The products of [`ROWS`] rows and [`COLUMNS`] columns.
#[inline]
fn product(rows: &[f32], columns: &[f32]) -> [[f32; COLUMNS]; ROWS] {
    let mut sums = [[0.0f32; COLUMNS]; ROWS];
    for (rows, columns) in rows.chunks_exact(ROWS).zip(columns.chunks_exact(COLUMNS)) {
        for (sums, &row) in sums.iter_mut().zip(rows) {
            for (sum, &column) in sums.iter_mut().zip(columns) {
                *sum = row.mul_add(column, *sum);
            }
        }
    }
    sums
}
