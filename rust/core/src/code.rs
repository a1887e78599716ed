//! Activations as bf16, and the 8 of its bits that an index always keeps.
//!
//! An activation is rounded to bf16. Its *code* is the octave and the top four bits of the
//! mantissa: 16 codes to an octave, over every octave of bf16, so that equal order of codes is order
//! of values and no scale is needed. Three low bits of the mantissa remain; together they are the
//! bf16 again. Within a list, codes are stored relative to one another, in as few bits as they span.

/// Codes to an octave.
const PER_OCTAVE: u32 = 16;
/// Low bits of a bf16 that its code leaves out.
pub(crate) const LOW_BITS: u32 = 3;
/// Octaves of the subnormal bf16 numbers, the last seven bits below 2^-126.
const SUBNORMAL_OCTAVES: u32 = 7;
/// The code of the smallest normal bf16.
pub(crate) const NORMAL: u16 = (SUBNORMAL_OCTAVES * PER_OCTAVE) as u16;
/// The largest finite bf16.
const MAX: u16 = 0x7f7f;
/// The code of the largest finite bf16.
pub(crate) const MAX_CODE: u16 = code(MAX);

/// The bf16 nearest to a finite activation above 0; at least the smallest, at most the largest.
#[inline]
#[must_use]
pub fn bf16_of(activation: f32) -> u16 {
    let bits = activation.to_bits();
    let rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    (rounded as u16).clamp(1, MAX)
}

/// The value of a bf16.
#[inline]
#[must_use]
pub fn value(bf16: u16) -> f32 {
    f32::from_bits(u32::from(bf16) << 16)
}

/// The code of a positive finite bf16.
#[inline]
#[must_use]
pub const fn code(bf16: u16) -> u16 {
    let bits = bf16 as u32;
    if bits >= 0x80 {
        return ((bits >> LOW_BITS) + (SUBNORMAL_OCTAVES - 1) * PER_OCTAVE) as u16;
    }
    // Subnormal: the leading bit is the octave, and what follows it the mantissa.
    let octave = bits.ilog2();
    let mantissa = bits << (7 - octave) & 0x7f;
    (octave * PER_OCTAVE + (mantissa >> LOW_BITS)) as u16
}

/// The three bits of a bf16 below its code; 0 where the code says it all.
#[inline]
#[must_use]
pub fn low(bf16: u16) -> u8 {
    if bf16 >= 0x80 {
        return (bf16 & 7) as u8;
    }
    let octave = u32::from(bf16).ilog2();
    ((u32::from(bf16) << (7 - octave)) & 7) as u8
}

/// The bf16 with this code and these low bits.
#[inline]
#[must_use]
pub fn join(code: u16, low: u8) -> u16 {
    let code = u32::from(code);
    let normal = SUBNORMAL_OCTAVES * PER_OCTAVE;
    if code >= normal {
        let bits = (code - (SUBNORMAL_OCTAVES - 1) * PER_OCTAVE) << LOW_BITS | u32::from(low & 7);
        return bits as u16;
    }
    let octave = code / PER_OCTAVE;
    let mantissa = (code % PER_OCTAVE) << LOW_BITS | u32::from(low & 7);
    ((0x80 | mantissa) >> (7 - octave)) as u16
}

/// The value that stands for a code, within 1/32 of every activation that has it.
///
/// The middle of the bf16 numbers of the code: half a step below the middle of the interval, as
/// rounding moved the activations by half a step at most.
#[inline]
#[must_use]
pub fn decode(code: u16) -> f32 {
    if code >= NORMAL {
        return middle(join(code, 0));
    }
    let code = u32::from(code);
    let octave = code / PER_OCTAVE;
    let mantissa = 1.0 + (code % PER_OCTAVE) as f32 / PER_OCTAVE as f32;
    let below = if octave >= 4 { 3.5 / 128.0 } else { 0.0 };
    (mantissa + below) * f32::MIN_POSITIVE / (1u32 << (SUBNORMAL_OCTAVES - octave)) as f32
}

/// The value that stands for the code of a normal bf16, whose low bits are 0.
#[inline]
pub(crate) fn middle(bf16: u16) -> f32 {
    f32::from_bits(u32::from(bf16) << 16 | 0x3_8000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn codes_keep_the_order_and_join_with_their_low_bits() {
        let mut before = None;
        for bf16 in 1..=MAX {
            let code = code(bf16);
            assert!(before.is_none_or(|b| b <= code));
            before = Some(code);
            assert_eq!(join(code, low(bf16)), bf16);
            let error = (decode(code) / value(bf16) - 1.0).abs();
            assert!(error <= 3.5 / 128.0, "{bf16} {error}");
        }
        assert_eq!((code(1), MAX_CODE), (0, 4175));
    }

    proptest! {
        #[test]
        fn a_code_is_within_one_part_in_32(bits in 0x80_0000u32..0x7f7f_0000) {
            let activation = f32::from_bits(bits);
            let error = f64::from(decode(code(bf16_of(activation)))) / f64::from(activation) - 1.0;
            prop_assert!(error.abs() <= 1.0 / 32.0, "{} {}", activation, error);
        }

        #[test]
        fn rounding_to_bf16_is_to_the_nearest(bits in 1u32..0x7f80_0000) {
            let activation = f32::from_bits(bits);
            let bf16 = bf16_of(activation);
            let distance = |b: u16| (f64::from(value(b)) - f64::from(activation)).abs();
            for other in [bf16 - 1, bf16 + 1] {
                if (1..=MAX).contains(&other) {
                    prop_assert!(distance(bf16) <= distance(other));
                }
            }
        }
    }
}
