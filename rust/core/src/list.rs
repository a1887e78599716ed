//! One latent's postings in one segment, as bytes.
//!
//! Windows stand in the order of their strength: by the code of their largest activation,
//! descending, and of equal codes by position. So a rank is found from the histogram of codes in the
//! header, and reading one window means decoding one block of [`BLOCK`] windows, however long the
//! list is. The windows of one code are a *run*; within it only the gaps between windows are stored.
//!
//! ```text
//! list    = header histogram skips blocks [exact]      no bytes at all without postings
//! header  = varint n             windows, at least 1
//!           varint hits - n
//!           varint hi            code of the strongest window
//!           varint hi - lo       lo: code of the weakest window
//!           varint lo - floor    floor: smallest code of a hit
//!           u8     params        bit 0 dense, bits 1-2 d, bits 3-7 h
//!           varint bytes         length of blocks
//!           u8     width         bits of an offset in skips; only if n > 128
//! histogram                      for each code from hi down to lo, c windows:
//!                                gamma((c >> h) + 1), then the low h bits of c
//! skips                          for each block but the first: bit offset in blocks (width),
//!                                the window before the block's first one, 0 at a run's start (w);
//!                                histogram and skips together are filled up to a whole byte
//! blocks  = block*               filled up to a whole byte
//! block   = for each window: low k bits of its gap
//!           for each window: the rest of its gap, unary
//!           dense ? for each window: its hits as a mask of W bits : counts
//!           for each window: offset of its peak (o)
//!           for each window: dense ? nothing : offsets of the other hits, ascending (o each)
//!           for each window, for each hit but the peak, ascending: code of the peak - its code (r)
//!           lossless ? for each window: low 3 bits of its peak, then of the others, ascending
//! counts  = 1 for each window: hits - 1, unary
//!         | 0 gamma(m + 1), m windows with several hits; for each: Rice(windows since the last such
//!           one, g), hits - 2 unary
//! exact   = n <= 200 ? 3 low bits of each window's maximum
//!         : gamma(e + 1), 3 low bits for each of ranks 0 to e - 1, gamma(x + 1), and x times:
//!           gamma(rank - the last rank), 3 low bits
//! ```
//!
//! The gap of a window is its number less that of the one before it in its run, less 1 (of a run's
//! first: its number). `k` follows from the run's length, see [`Shape::gap_bits`]. `w`, `o` and `r`
//! are the bits that the largest possible value needs: the segment's windows, `W - 1`, and the run's
//! code less `floor`. `g` is [`multi_bits`]. A unary number is that many zeros and a one; gamma is
//! Elias'; Rice(v, g) is `v >> g` unary and `g` low bits. The peak is the first hit with the window's
//! largest code. The low bits in `exact` are those of the window's largest bf16.

mod block;
mod divide;
mod encode;
mod found;
mod hits;
mod one;
mod order;
mod postings;
mod read;
mod strongest;
#[cfg(test)]
mod tests;
mod unpack;
#[cfg(target_arch = "x86_64")]
mod wide;
mod write;

pub use encode::Encoder;
pub use postings::Buffers;
pub(crate) use read::SLACK;
pub use read::{Hits, List};

use crate::bits::width_of;
use crate::code;

/// Windows in a block.
pub(crate) const BLOCK: u32 = 128;
/// The strongest windows of each side whose maxima are kept exactly.
pub const EXACT: u32 = 200;

/// What all lists of a segment share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Windows in the segment.
    pub n_windows: u32,
    /// Tokens in a window, `W`.
    pub window: u32,
    /// Whether every bf16 is kept.
    pub lossless: bool,
}

/// Why bytes are no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged(pub &'static str);

/// The windows of one code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Code of the windows' maxima.
    pub code: u16,
    /// Rank of the first, 0 the strongest of the list.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Low bits of a gap.
    gap_bits: u32,
}

impl Shape {
    /// The low bits of the gaps in a run of `count` windows: those that suit windows which are
    /// strewn evenly, less `narrower`.
    fn gap_bits(self, count: u32, narrower: u32) -> u32 {
        // Rice's parameter for geometric gaps of mean m is floor(log2(0.962 m)).
        let windows = u64::from(self.n_windows) * 31 / 32;
        log2_of_quotient(windows, u64::from(count) + 1).saturating_sub(narrower)
    }

    /// Bits of an offset in a window.
    fn offset_bits(self) -> u32 {
        width_of(self.window - 1)
    }

    /// Bits of a window's number.
    fn window_bits(self) -> u32 {
        width_of(self.n_windows)
    }

    /// The activation that a list's bf16 stands for.
    #[inline]
    #[must_use]
    pub fn activation(self, bf16: u16) -> f32 {
        if self.lossless {
            code::value(bf16)
        } else {
            code::decode(code::code(bf16))
        }
    }
}

/// `log2(dividend div divisor)`, rounded down, and 0 if that is below 1; without dividing.
fn log2_of_quotient(dividend: u64, divisor: u64) -> u32 {
    let bits = dividend.max(1).ilog2().saturating_sub(divisor.ilog2());
    // The quotient is below 2^(bits + 1), and it may be below 2^bits.
    bits.saturating_sub(u32::from(divisor << bits > dividend))
}

/// The low bits of the distances between `m` windows with several hits among `len`.
fn multi_bits(len: u32, m: u32) -> u32 {
    (len * 31 / 32 / (m + 1)).max(1).ilog2()
}
