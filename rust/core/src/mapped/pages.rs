//! The hashes of a file, page by page.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// The bytes that share one hash; the last page of a file may be shorter.
pub(crate) const PAGE: usize = 65_536;

/// The xxh3-64 of each page; none for no bytes.
pub(crate) fn page_hashes(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks(PAGE).map(xxh3_64).collect()
}

/// The xxh3-64 of the page hashes, each as eight little-endian bytes.
pub(crate) fn root(hashes: &[u64]) -> u64 {
    let mut all = Xxh3::new();
    for hash in hashes {
        all.update(&hash.to_le_bytes());
    }
    all.digest()
}

/// [`page_hashes`] of a stream, whatever pieces it comes in.
pub(crate) struct PageHasher {
    hashes: Vec<u64>,
    /// Of the page that has begun.
    open: Xxh3,
    /// Bytes of the page that has begun; below [`PAGE`].
    filled: usize,
}

impl PageHasher {
    /// Nothing hashed yet.
    pub(crate) fn new() -> Self {
        Self {
            hashes: Vec::new(),
            open: Xxh3::new(),
            filled: 0,
        }
    }

    /// Takes the next bytes of the stream.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        if self.filled > 0 {
            let (head, rest) = bytes.split_at(bytes.len().min(PAGE - self.filled));
            self.open.update(head);
            self.filled += head.len();
            if self.filled < PAGE {
                return;
            }
            self.close();
            bytes = rest;
        }
        let pages = bytes.chunks_exact(PAGE);
        let rest = pages.remainder();
        self.hashes.extend(pages.map(xxh3_64));
        self.open.update(rest);
        self.filled = rest.len();
    }

    /// How many bytes there were, and the hash of each page.
    pub(crate) fn finish(mut self) -> (u64, Vec<u64>) {
        let bytes = self.hashes.len() as u64 * PAGE as u64 + self.filled as u64;
        if self.filled > 0 {
            self.close();
        }
        (bytes, self.hashes)
    }

    fn close(&mut self) {
        self.hashes.push(self.open.digest());
        self.open.reset();
        self.filled = 0;
    }
}
