//! How often and how strongly is each latent active: sums that merge by addition.

use crate::batch::NO_LATENT;
use crate::error::{Error, Result};

/// Bins of a latent's histogram: 16 an octave, from 2⁻⁸ to 2⁸; the outer ones hold what lies beyond.
pub const BINS: usize = 256;
/// Bits dropped of a float32, so that 16 steps an octave stay, and the first bin's number.
const DROPPED: u32 = 19;
const FIRST: i64 = 119 << 4;
/// The unit of sums, and the activation from which on one counts as this one.
const UNIT: f64 = (1u32 << 20) as f64;
const LARGEST: f64 = (1u64 << 42) as f64;

/// Sums over activations, latent by latent.
#[derive(Debug)]
pub struct Statistics<'a> {
    /// By latent, [`BINS`] counts.
    pub histogram: &'a mut [u32],
    /// By latent.
    pub maximum: &'a mut [f32],
    /// By latent, in units of 2⁻²⁰, halves up, so that the order of addition does not matter.
    pub total: &'a mut [i64],
}

impl Statistics<'_> {
    /// Adds activations; those of [`NO_LATENT`] and those that are not positive are none.
    pub fn add(&mut self, latents: &[u32], activations: &[f32]) -> Result<()> {
        let n = self.maximum.len();
        if self.total.len() != n || self.histogram.len() != n * BINS {
            return Err(Error::input(format!(
                "`histogram`, `maximum` and `total` are not of the same latents: {}, {n} and {}",
                self.histogram.len() / BINS,
                self.total.len()
            )));
        }
        if latents.len() != activations.len() {
            return Err(Error::input(format!(
                "`latents` has {} entries and `activations` {}",
                latents.len(),
                activations.len()
            )));
        }
        let entries = || latents.iter().zip(activations).enumerate();
        let active = |latent: u32, value: f32| latent != NO_LATENT && value > 0.0;
        for (row, (&latent, &value)) in entries() {
            if active(latent, value) && (latent as usize >= n || value.is_infinite()) {
                return Err(Error::input(format!(
                    "entry {row}: latent {latent} of {n} with activation {value}"
                )));
            }
        }
        for (_, (&latent, &value)) in entries() {
            if active(latent, value) {
                let at = latent as usize;
                let bin = (i64::from(value.to_bits() >> DROPPED) - FIRST).clamp(0, 255) as usize;
                let count = &mut self.histogram[at * BINS + bin];
                *count = count.saturating_add(1);
                self.maximum[at] = self.maximum[at].max(value);
                let units = (f64::from(value).min(LARGEST) * UNIT + 0.5).floor() as i64;
                self.total[at] = self.total[at].wrapping_add(units);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;

    #[test]
    fn each_activation_is_in_its_bin_and_in_the_sums() {
        let (mut histogram, mut maximum, mut total) = (vec![0; 3 * BINS], vec![0.0; 3], vec![0; 3]);
        let mut statistics = Statistics {
            histogram: &mut histogram,
            maximum: &mut maximum,
            total: &mut total,
        };
        let latents = [0, 2, 2, NO_LATENT, 1, 2];
        let values = [1.0, 0.5, 1e-9, 7.0, 0.0, 1e30];
        statistics.add(&latents, &values).unwrap();
        statistics.add(&[0], &[1.03125]).unwrap();
        assert_eq!(
            statistics.add(&[3], &[1.0]).unwrap_err().to_string(),
            "entry 0: latent 3 of 3 with activation 1"
        );
        assert_eq!(
            (histogram[128], histogram[BINS..2 * BINS].iter().sum()),
            (2, 0u32)
        );
        let third = &histogram[2 * BINS..];
        assert_eq!((third[0], third[112], third[255]), (1, 1, 1));
        assert_eq!(maximum, [1.03125, 0.0, 1e30]);
        assert_eq!(total[0], (1 << 20) + 1_081_344);
        assert_eq!((total[1], total[2]), (0, (1 << 62) + (1 << 19)));
    }
}
