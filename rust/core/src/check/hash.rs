//! Hashes of contexts: what a writer knows a context by that is added again.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::text::TextPart;

/// What a posting adds to the hash of its context: the sum does not depend on their order.
#[inline]
pub(super) fn mix(latent: u32, offset: u32, bf16: u16) -> u64 {
    let mut x = (u64::from(latent) << 32 | u64::from(offset))
        .wrapping_add(u64::from(bf16).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    x = (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    x = (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    x ^ (x >> 32)
}

/// The hash of each context's text, or of the part of one that begins at `offset`.
pub(super) fn text_hashes(part: &TextPart, length: usize, offset: usize) -> Vec<u64> {
    let n = part.tokens.len();
    let mut run = 0;
    let mut documents: Vec<u64> = Vec::new();
    let contexts = (0..n).step_by(length).map(|start| {
        let end = n.min(start + length);
        documents.clear();
        while part
            .starts
            .get(run + 1)
            .is_some_and(|&s| s as usize <= start)
        {
            run += 1;
        }
        for at in run..part.starts.len() {
            let begins = part.starts[at] as usize;
            if begins >= end {
                break;
            }
            documents.push(begins.saturating_sub(start) as u64);
            documents.push(part.ids[at]);
        }
        let words = [
            xxh3_64(bytemuck::cast_slice(&part.tokens[start..end])),
            xxh3_64(bytemuck::cast_slice(&documents)),
            xxh3_64(bytemuck::cast_slice(&part.mask[start..end])),
        ];
        xxh3_64_with_seed(bytemuck::cast_slice(&words), offset as u64)
    });
    contexts.collect()
}
