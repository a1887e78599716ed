//! What rules read of an index.

use super::{Activity, Corpus};
use crate::error::{Error, Result};
use crate::index::Index;
use crate::list::Buffers;
use crate::ranked::Ranked;

/// An index, its positions counted from its first context.
#[derive(Debug)]
pub struct OfIndex<'a> {
    index: &'a Index,
    first: u64,
}

impl<'a> OfIndex<'a> {
    /// Reads `index` as [`Activity`].
    #[must_use]
    pub fn new(index: &'a Index) -> Self {
        let first = index.first_position();
        Self { index, first }
    }
}

impl Activity for OfIndex<'_> {
    type Error = Error;

    fn positions(&self, latent: u32) -> Result<Vec<u64>> {
        let ranked = Ranked::open(self.index, latent)?;
        let mut found = Vec::with_capacity(ranked.n_postings() as usize);
        ranked.each_postings(&mut Buffers::default(), |_, base, positions, _| {
            found.extend(positions.iter().map(|&p| base - self.first + u64::from(p)));
            Ok(())
        })?;
        self.index.intact()?;
        Ok(found)
    }

    fn deciles(&self, latent: u32) -> Result<(Vec<u64>, Vec<u8>)> {
        let mut windows = self.index.windows(latent)?;
        for start in &mut windows.starts {
            *start -= self.first;
        }
        Ok((windows.starts, windows.deciles))
    }
}

impl Corpus {
    /// Reads the whole text of an index.
    ///
    /// Refused above 2³² tokens: rules keep the text in memory and number it in 32 bits.
    pub fn of(index: &Index) -> Result<Self> {
        let length = index.context_length();
        let size = index.n_contexts() as usize * length;
        if u32::try_from(size).is_err() {
            return Err(Error::input(format!(
                "the index `{}` has {size} tokens, and rules are learned and checked on at most \
                 {}; build an index of fewer contexts for them",
                index.path().display(),
                u32::MAX
            )));
        }
        let (mut tokens, mut unmasked) = (Vec::with_capacity(size), Vec::with_capacity(size));
        let mut documents = Vec::with_capacity(size);
        for segment in index.segments() {
            let mask = segment.mask()?;
            segment.tokens_into(0..segment.n_positions(), &mut tokens)?;
            segment.documents_into(0..segment.n_positions(), &mut documents)?;
            unmasked.extend((0..segment.n_positions()).map(|p| mask.get(p)));
        }
        index.intact()?;
        let (sides, eligible) = (index.sides()?, index.eligible()?);
        Ok(Self::new(
            tokens,
            unmasked,
            &documents,
            length,
            index.window(),
            sides,
            &eligible,
        ))
    }
}
