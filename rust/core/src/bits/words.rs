//! Small numbers from one word.

use super::{BitReader, Bits, WHOLE, low_mask};

/// Reads small numbers one after the other, as many as it can from one word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WordReader<'a> {
    pub(crate) bits: Bits<'a>,
    /// Where the next number begins.
    pub(crate) at: u64,
    /// The bits from there on, of which `left` are certain.
    word: u64,
    left: u32,
}

impl<'a> WordReader<'a> {
    pub(crate) fn new(bits: Bits<'a>, at: u64) -> Self {
        let (word, left) = (bits.load(at), WHOLE);
        Self {
            bits,
            at,
            word,
            left,
        }
    }

    #[inline]
    fn load(&mut self) {
        (self.word, self.left) = (self.bits.load(self.at), WHOLE);
    }

    /// Goes on after `used` bits, of which `rest` is what follows.
    #[inline]
    fn skip(&mut self, used: u32, rest: u64) {
        self.at += u64::from(used);
        self.left -= used;
        self.word = rest;
    }

    /// A number in Elias' gamma form less 1, and a field of `width` bits, up to 31.
    #[inline]
    pub(crate) fn gamma_and_field(&mut self, width: u32) -> Option<(u32, u32)> {
        for _ in 0..2 {
            let high = self.word.trailing_zeros();
            let used = 2 * high + 1 + width;
            if used <= self.left {
                let low = self.word >> high >> 1;
                let rest = low >> high;
                let number = (1 << high) - 1 + (low & !(u64::MAX << high));
                self.skip(used, rest >> width);
                return Some((number as u32, rest as u32 & low_mask(width)));
            }
            self.load();
        }
        self.slowly(|reader| Some((reader.gamma()? - 1, reader.get(width))))
    }

    /// A number in Golomb-Rice form with `k` low bits, up to 25, and a unary one.
    #[inline]
    pub(crate) fn rice_and_unary(&mut self, k: u32) -> Option<(u32, u32)> {
        for _ in 0..2 {
            let high = self.word.trailing_zeros();
            // Of a word of zeros, whose shift is none, `used` is too large.
            let low = self.word.wrapping_shr(high) >> 1;
            let after = low >> k;
            let unary = after.trailing_zeros();
            let used = high + k + unary + 2;
            if used <= self.left {
                self.skip(used, after >> unary >> 1);
                return Some((high << k | low as u32 & low_mask(k), unary));
            }
            self.load();
        }
        self.slowly(|reader| Some((reader.rice(k)?, reader.unary()?)))
    }

    /// A field of up to 32 bits.
    #[inline]
    pub(crate) fn get(&mut self, width: u32) -> u32 {
        if width > self.left {
            self.load();
        }
        let value = self.word as u32 & low_mask(width);
        self.skip(width, self.word >> width);
        value
    }

    /// Numbers that are longer than a word, or run into the end.
    #[cold]
    fn slowly<T>(&mut self, read: impl FnOnce(&mut BitReader<'a>) -> Option<T>) -> Option<T> {
        let mut reader = BitReader {
            bits: self.bits,
            at: self.at,
        };
        let value = read(&mut reader);
        self.at = reader.at;
        self.load();
        value
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn words_hold_what_is_read_bit_by_bit(
            // Long rows of zeros too.
            bytes in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>(), 0u8..3], 0..80),
            at in 0u64..40,
            reads in prop::collection::vec((0u8..3, 0u32..=25), 0..80),
        ) {
            let bits = Bits::of(&bytes);
            let mut plain = BitReader { bits, at };
            let mut words = WordReader::new(bits, at);
            for (kind, width) in reads {
                let same = match kind {
                    0 => {
                        let gamma = plain.gamma().map(|number| (number - 1, plain.get(width)));
                        (gamma, words.gamma_and_field(width))
                    }
                    1 => {
                        let rice = plain.rice(width);
                        (rice.and_then(|number| Some((number, plain.unary()?))), words.rice_and_unary(width))
                    }
                    _ => (Some((plain.get(width), 0)), Some((words.get(width), 0))),
                };
                prop_assert_eq!(same.0, same.1);
                if same.0.is_none() {
                    break;
                }
                prop_assert_eq!(plain.at, words.at);
            }
        }
    }
}
