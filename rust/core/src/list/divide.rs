//! Division of many numbers by one.

/// Divides by a number that is known once, by multiplication.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Divider {
    /// `2^64 / divisor`, rounded up; 0 for a divisor of 1.
    reciprocal: u64,
}

impl Divider {
    pub(crate) fn by(divisor: u32) -> Self {
        // Exact for every u32 dividend, as the error of the reciprocal is below 2^-32.
        Self {
            reciprocal: (u64::MAX / u64::from(divisor)).wrapping_add(1),
        }
    }

    #[inline]
    pub(crate) fn of(self, dividend: u32) -> u32 {
        if self.reciprocal == 0 {
            return dividend;
        }
        ((u128::from(self.reciprocal) * u128::from(dividend)) >> 64) as u32
    }
}
