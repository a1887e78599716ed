//! Streams of bits: the first bit is the lowest of the first byte.

mod words;

pub(crate) use words::WordReader;

/// Appends fields of up to 32 bits.
#[derive(Debug, Default)]
pub(crate) struct BitWriter {
    /// What is written, and then whatever there is room for.
    buffer: Vec<u8>,
    /// Whole bytes that are written.
    n_bytes: usize,
    pending: u64,
    /// Bits in `pending`, below 8.
    n_pending: u32,
}

impl BitWriter {
    pub(crate) fn clear(&mut self) {
        self.n_bytes = 0;
        self.pending = 0;
        self.n_pending = 0;
    }

    /// The whole bytes; all of them after [`Self::align`].
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.n_bytes]
    }

    /// Appends the `width` bits of `value`, which has no others.
    #[inline]
    pub(crate) fn put(&mut self, value: u32, width: u32) {
        let mut burst = self.burst(u64::from(width));
        burst.put(u64::from(value), width);
        burst.end();
    }

    /// Begins a burst of up to `bits` bits, for which there is room then.
    #[inline]
    pub(crate) fn burst(&mut self, bits: u64) -> Burst<'_> {
        let needed = self.n_bytes + (bits / 8) as usize + 16;
        if needed > self.buffer.len() {
            self.buffer.resize(needed + needed / 2, 0);
        }
        Burst {
            buffer: &mut self.buffer,
            n_bytes: self.n_bytes,
            pending: self.pending,
            n_pending: self.n_pending,
            ends: (&mut self.n_bytes, &mut self.pending, &mut self.n_pending),
        }
    }

    /// Appends a number as [`Burst::gamma`] does.
    pub(crate) fn gamma(&mut self, value: u32) {
        let mut burst = self.burst(64);
        burst.gamma(value);
        burst.end();
    }

    /// Fills the last byte with zeros.
    pub(crate) fn align(&mut self) {
        self.put(0, (8 - self.n_pending) & 7);
    }
}

/// Fields appended one after the other, the state of the stream in registers; ended by `end`.
pub(crate) struct Burst<'a> {
    buffer: &'a mut [u8],
    n_bytes: usize,
    pending: u64,
    n_pending: u32,
    ends: (&'a mut usize, &'a mut u64, &'a mut u32),
}

impl Burst<'_> {
    /// Appends the `width` bits, up to 56, of `value`, which has no others.
    #[inline]
    pub(crate) fn put(&mut self, value: u64, width: u32) {
        debug_assert!(width <= 56 && value >> width == 0);
        // Written at every call, whole bytes or not: there is no branch to guess wrong.
        self.pending |= value << self.n_pending;
        self.n_pending += width;
        self.buffer[self.n_bytes..self.n_bytes + 8].copy_from_slice(&self.pending.to_le_bytes());
        self.n_bytes += (self.n_pending >> 3) as usize;
        self.pending >>= self.n_pending & !7;
        self.n_pending &= 7;
    }

    /// Appends `value` zeros and a one.
    #[inline]
    pub(crate) fn unary(&mut self, mut value: u32) {
        while value >= 55 {
            self.put(0, 55);
            value -= 55;
        }
        self.put(1 << value, value + 1);
    }

    /// Appends the low `width` bits, from 1 to 32, of each value.
    #[inline]
    pub(crate) fn fields(&mut self, values: &[u32], width: u32) {
        // As many at once as fit.
        match width {
            0..=7 => self.fields_by::<8>(values, width),
            8..=14 => self.fields_by::<4>(values, width),
            15..=28 => self.fields_by::<2>(values, width),
            _ => self.fields_by::<1>(values, width),
        }
    }

    #[inline]
    fn fields_by<const N: usize>(&mut self, values: &[u32], width: u32) {
        let mask = u64::from(low_mask(width));
        let word = |some: &[u32]| {
            let fields = (0u32..).zip(some);
            fields.fold(0, |word, (i, &value)| {
                word | (u64::from(value) & mask) << (i * width)
            })
        };
        let (whole, rest) = values.as_chunks::<N>();
        for some in whole {
            self.put(word(some), N as u32 * width);
        }
        self.put(word(rest), rest.len() as u32 * width);
    }

    /// Appends each value as so many zeros and a one.
    #[inline]
    pub(crate) fn unaries(&mut self, values: &[u32]) {
        let (whole, rest) = values.as_chunks::<4>();
        for &[a, b, c, d] in whole {
            let (b, c, d) = (a + b + 1, a + b + c + 2, a + b + c + d + 3);
            if d < 56 {
                self.put(1 << a | 1 << b | 1 << c | 1 << d, d + 1);
            } else {
                for one in [a, b - a - 1, c - b - 1, d - c - 1] {
                    self.unary(one);
                }
            }
        }
        for &value in rest {
            self.unary(value);
        }
    }

    /// Appends a number from 1 up: as many zeros as it has bits after the first, then its bits.
    #[inline]
    pub(crate) fn gamma(&mut self, value: u32) {
        let bits = value.ilog2();
        let after = u64::from(value - (1 << bits));
        if bits < 28 {
            self.put(1 << bits | after << (bits + 1), 2 * bits + 1);
        } else {
            self.unary(bits);
            self.put(after, bits);
        }
    }

    /// Appends a number in Golomb-Rice form: its high part unary, then its `k` low bits.
    #[inline]
    pub(crate) fn rice(&mut self, value: u32, k: u32) {
        self.unary(value >> k);
        self.put(u64::from(value & low_mask(k)), k);
    }

    /// Bits of the stream so far.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.n_bytes as u64 * 8 + u64::from(self.n_pending)
    }

    /// Leaves the stream after what was appended.
    #[inline]
    pub(crate) fn end(self) {
        *self.ends.0 = self.n_bytes;
        *self.ends.1 = self.pending;
        *self.ends.2 = self.n_pending;
    }
}

/// The length of [`BitWriter::gamma`].
pub(crate) fn gamma_bits(value: u32) -> u32 {
    2 * value.ilog2() + 1
}

/// The bits that numbers up to and including `largest` need.
#[inline]
pub(crate) fn width_of(largest: u32) -> u32 {
    u32::BITS - largest.leading_zeros()
}

#[inline]
pub(crate) fn low_mask(width: u32) -> u32 {
    ((1u64 << width) - 1) as u32
}

/// Bits of a word that [`Bits::load`] fills for certain, wherever it begins.
pub(crate) const WHOLE: u32 = 56;

/// Bytes read as bits; what lies beyond their end is 0, or what stands behind them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bits<'a> {
    /// The bytes, and some that only serve to load whole words near the end.
    pub(crate) bytes: &'a [u8],
    /// How many bytes there are without those.
    pub(crate) n_bytes: usize,
}

impl<'a> Bits<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            n_bytes: bytes.len(),
        }
    }

    /// At least 57 bits from `at` on.
    #[inline]
    pub(crate) fn load(self, at: u64) -> u64 {
        self.word((at >> 3) as usize) >> (at & 7)
    }

    /// The 64 bits from a byte on.
    #[inline]
    pub(crate) fn word(self, byte: usize) -> u64 {
        match self.bytes.get(byte..byte.wrapping_add(8)) {
            Some(eight) => u64::from_le_bytes(eight.try_into().unwrap_or_default()),
            None => self.load_at_the_end(byte),
        }
    }

    #[cold]
    fn load_at_the_end(self, byte: usize) -> u64 {
        let mut word = [0; 8];
        let rest = self.bytes.get(byte..).unwrap_or_default();
        let n = rest.len().min(8);
        word[..n].copy_from_slice(&rest[..n]);
        u64::from_le_bytes(word)
    }

    /// The field of `width` bits, up to 32, at `at`.
    #[inline]
    pub(crate) fn get(self, at: u64, width: u32) -> u32 {
        (self.load(at) as u32) & low_mask(width)
    }

    pub(crate) fn len(self) -> u64 {
        self.n_bytes as u64 * 8
    }
}

/// Reads one field after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BitReader<'a> {
    pub(crate) bits: Bits<'a>,
    pub(crate) at: u64,
}

impl BitReader<'_> {
    #[inline]
    pub(crate) fn get(&mut self, width: u32) -> u32 {
        let value = self.bits.get(self.at, width);
        self.at += u64::from(width);
        value
    }

    /// The zeros before the next one; None where the bytes end first.
    #[inline]
    pub(crate) fn unary(&mut self) -> Option<u32> {
        let mut zeros = 0;
        loop {
            let word = self.bits.load(self.at) & (u64::MAX >> 8);
            if word != 0 {
                let n = word.trailing_zeros();
                self.at += u64::from(n) + 1;
                return (self.at <= self.bits.len()).then_some(zeros + n);
            }
            self.at += 56;
            zeros += 56;
            if self.at >= self.bits.len() {
                return None;
            }
        }
    }

    pub(crate) fn gamma(&mut self) -> Option<u32> {
        let bits = self.unary()?;
        (bits < 32).then(|| (1u64 << bits) as u32 | self.get(bits))
    }

    pub(crate) fn rice(&mut self, k: u32) -> Option<u32> {
        let high = u64::from(self.unary()?);
        let value = high << k | u64::from(self.get(k));
        u32::try_from(value).ok()
    }
}

/// Appends a number, seven bits to a byte, the lowest first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number from the front; None where the bytes end first or it is above 2^63.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fields_are_read_as_written(
            fields in prop::collection::vec((0u32..=32, any::<u32>()), 0..80),
            numbers in prop::collection::vec((1u32..5_000, 0u32..12), 0..40),
            varints in prop::collection::vec(0u64..1 << 62, 0..20),
        ) {
            let mut writer = BitWriter::default();
            for &(width, value) in &fields {
                writer.put(value & low_mask(width), width);
            }
            for &(value, k) in &numbers {
                writer.gamma(value);
                let mut burst = writer.burst(6_000);
                burst.rice(value, k);
                burst.unary(value % 200);
                burst.end();
            }
            let values: Vec<u32> = fields.iter().map(|&(_, value)| value).collect();
            let zeros: Vec<u32> = numbers.iter().map(|&(value, k)| (value >> k) % 90).collect();
            let mut burst = writer.burst(33 * 33 * 80 + 40 * 91);
            (0..=32).for_each(|width| burst.fields(&values, width));
            burst.unaries(&zeros);
            let length = burst.len();
            burst.end();
            writer.align();
            prop_assert_eq!(writer.bytes().len() as u64, length.div_ceil(8));
            let mut reader = BitReader { bits: Bits::of(writer.bytes()), at: 0 };
            for &(width, value) in &fields {
                prop_assert_eq!(reader.get(width), value & low_mask(width));
            }
            let mut gammas = 0;
            for &(value, k) in &numbers {
                prop_assert_eq!(reader.gamma(), Some(value));
                prop_assert_eq!(reader.rice(k), Some(value));
                prop_assert_eq!(reader.unary(), Some(value % 200));
                gammas += gamma_bits(value);
            }
            for width in 0..=32 {
                for &value in &values {
                    prop_assert_eq!(reader.get(width), value & low_mask(width));
                }
            }
            for &zeros in &zeros {
                prop_assert_eq!(reader.unary(), Some(zeros));
            }
            prop_assert!(reader.at == length && u64::from(gammas) <= length);
            let mut bytes = Vec::new();
            for &value in &varints {
                put_varint(&mut bytes, value);
            }
            let mut rest = &bytes[..];
            for &value in &varints {
                prop_assert_eq!(take_varint(&mut rest), Some(value));
            }
            prop_assert_eq!(take_varint(&mut rest), None);
        }

        #[test]
        fn any_bytes_end_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), at in 0u64..400) {
            let mut reader = BitReader { bits: Bits::of(&bytes), at };
            while reader.unary().is_some() {}
            reader.at = at;
            while reader.gamma().is_some() {}
        }
    }
}
