//! The entries of a sparse batch, in the order of their positions.

use crate::batch::Activity;
use crate::error::{Error, Result};

/// The entries of a sparse batch, grouped by position.
pub(super) struct ByPosition {
    /// Where each position's entries begin.
    pub(super) starts: Vec<usize>,
    /// Which entries they are; None where they came in this order.
    pub(super) order: Option<Vec<usize>>,
}

impl ByPosition {
    pub(super) fn of(
        activity: &Activity<'_>,
        n_rows: usize,
        length: usize,
        context: u64,
    ) -> Result<Option<Self>> {
        let Activity::Sparse { rows, offsets, .. } = *activity else {
            return Ok(None);
        };
        let mut starts = vec![0; n_rows * length + 1];
        let (mut sorted, mut last) = (true, 0);
        for (entry, (&row, &offset)) in rows.iter().zip(offsets).enumerate() {
            if row >= n_rows as u64 {
                return Err(Error::input(format!(
                    "entry {entry}: row {row} is not below the number of contexts {n_rows}"
                )));
            }
            if offset >= length as u64 {
                return Err(Error::input(format!(
                    "context {}: offset {offset} is not below the context length {length}",
                    context + row
                )));
            }
            let position = row as usize * length + offset as usize;
            sorted &= position >= last;
            last = position;
            starts[position + 1] += 1;
        }
        for position in 1..starts.len() {
            starts[position] += starts[position - 1];
        }
        if sorted {
            return Ok(Some(Self {
                starts,
                order: None,
            }));
        }
        let mut next = starts.clone();
        let mut order = vec![0; rows.len()];
        for (entry, (&row, &offset)) in rows.iter().zip(offsets).enumerate() {
            let place = &mut next[row as usize * length + offset as usize];
            order[*place] = entry;
            *place += 1;
        }
        Ok(Some(Self {
            starts,
            order: Some(order),
        }))
    }
}
