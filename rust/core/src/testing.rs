//! Random small corpora and their plain description, for the property tests of all modules.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;

use crate::code::{self, bf16_of, value};
use crate::{Activity, Batch, Index, NO_DOCUMENT, Parameters, Values, Writer};

pub(crate) type TestResult = Result<(), TestCaseError>;

/// A corpus with few latents, few tokens and short documents, so that everything collides.
#[derive(Clone, Debug)]
pub(crate) struct Corpus {
    pub(crate) parameters: Parameters,
    pub(crate) tokens: Vec<u32>,
    pub(crate) documents: Vec<u64>,
    pub(crate) mask: Vec<bool>,
    /// (place in the corpus, latent, activation); no two of one place and latent.
    pub(crate) entries: Vec<(usize, u32, f32)>,
}

/// The forms in which a batch can be given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Form {
    Sparse,
    SparseBf16,
    Sorted,
    Dense,
}

impl Form {
    pub(crate) const ALL: [Self; 4] = [Self::Sparse, Self::Sorted, Self::Dense, Self::SparseBf16];
}

/// What a corpus looks like, before its numbers are drawn.
#[derive(Clone, Debug)]
struct Shape {
    contexts: usize,
    window: usize,
    windows: usize,
    n_latents: u32,
    vocabulary: u32,
    document_tokens: usize,
    masked: f64,
    density: f64,
    segment_contexts: u64,
    first_context: u64,
    split_seed: u64,
    lossless: bool,
    seed: u64,
}

pub(crate) fn corpora() -> impl Strategy<Value = Corpus> {
    let sizes = (
        0usize..9,
        prop::sample::select(vec![1usize, 4, 16, 20]),
        1usize..4,
        1u32..6,
    );
    let text = (
        1u32..4,
        1usize..40,
        prop::sample::select(vec![0.0, 0.1, 0.9]),
    );
    let rest = (
        prop::sample::select(vec![0.05, 0.3, 1.0]),
        1u64..6,
        0u64..3,
        0u64..3,
        any::<u64>(),
    );
    (sizes, text, rest).prop_map(|(sizes, text, rest)| {
        let (contexts, window, windows, n_latents) = sizes;
        let (vocabulary, document_tokens, masked) = text;
        let (density, segment_contexts, first_context, split_seed, seed) = rest;
        Shape {
            contexts,
            window,
            windows,
            n_latents,
            vocabulary,
            document_tokens,
            masked,
            density,
            segment_contexts,
            first_context,
            split_seed,
            lossless: seed % 2 == 0,
            seed,
        }
        .draw()
    })
}

impl Shape {
    fn draw(&self) -> Corpus {
        let mut state = self.seed;
        let mut word = move || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        let mut other_word = word;
        let mut chance = move |p: f64| (other_word() >> 11) as f64 / (1u64 << 53) as f64 >= 1.0 - p;
        let context_length = self.window * self.windows;
        let n = self.contexts * context_length;
        let mask: Vec<bool> = (0..n).map(|_| !chance(self.masked)).collect();
        let documents = (0..n)
            .map(|p| {
                if mask[p] || p % 2 == 1 {
                    (p / self.document_tokens) as u64
                } else {
                    NO_DOCUMENT
                }
            })
            .collect();
        let mut entries = Vec::new();
        for place in 0..n {
            // Latent 0 is active everywhere, the last one nowhere if there are others.
            for latent in 0..(self.n_latents - 1).max(1) {
                if latent == 0 || chance(self.density) {
                    let strength = match word() % 6 {
                        0 => 0.0,
                        1 => f32::from_bits(1), // the smallest subnormal
                        2 => f32::from_bits(0x3f80_0000 + word() as u32 % 0x100_0000), // 1 to 4
                        _ => (word() % 4) as f32 + 0.5,
                    };
                    entries.push((place, latent, strength));
                }
            }
        }
        Corpus {
            parameters: Parameters {
                n_latents: self.n_latents,
                context_length: context_length as u32,
                window: self.window as u32,
                first_context: self.first_context,
                segment_contexts: self.segment_contexts,
                split_seed: self.split_seed,
                lossless: self.lossless,
                text: "text".to_owned(),
                attributes: BTreeMap::from([("hookpoint".to_owned(), "h.0".to_owned())]),
            },
            // One text over and over with few changes, so that both sides share runs of it.
            tokens: (0..n)
                .map(|p| {
                    let changed = if chance(0.03) { word() } else { 0 };
                    ((p % context_length) as u64 + changed) as u32 % self.vocabulary
                })
                .collect(),
            documents,
            mask,
            entries,
        }
    }
}

impl Corpus {
    pub(crate) fn length(&self) -> usize {
        self.parameters.context_length as usize
    }

    pub(crate) fn contexts(&self) -> usize {
        self.tokens.len() / self.length()
    }

    pub(crate) fn base(&self) -> u64 {
        self.parameters.first_context * self.length() as u64
    }

    /// The postings that were added: (position, activation in bf16) of one latent.
    pub(crate) fn postings(&self, latent: u32) -> Vec<(u64, f32)> {
        self.entries
            .iter()
            .filter(|&&(place, l, activation)| l == latent && activation > 0.0 && self.mask[place])
            .map(|&(place, _, activation)| (self.base() + place as u64, value(bf16_of(activation))))
            .collect()
    }

    /// The same as an index gives them, of its precision.
    pub(crate) fn kept(&self, latent: u32) -> Vec<(u64, f32)> {
        let shown = |activation| self.shape().activation(code::bf16_of(activation));
        let postings = self.postings(latent).into_iter();
        postings
            .map(|(position, activation)| (position, shown(activation)))
            .collect()
    }

    /// A window of one latent as its rank says: start, largest bf16, and decile.
    ///
    /// The strongest first: by code, and of equal codes by position.
    pub(crate) fn ranked(&self, latent: u32) -> Vec<(u64, u16, u8)> {
        let length = u64::from(self.parameters.window);
        let mut maxima: BTreeMap<u64, u16> = BTreeMap::new();
        for (position, activation) in self.postings(latent) {
            let max = maxima.entry(position / length * length).or_insert(0);
            *max = code::bf16_of(activation).max(*max);
        }
        let mut ranked: Vec<(u64, u16)> = maxima.into_iter().collect();
        ranked.sort_by_key(|&(start, max)| (std::cmp::Reverse(code::code(max)), start));
        let n = ranked.len();
        let decile = |rank: usize| (1 + 10 * (n - 1 - rank) / n) as u8;
        let rows = ranked.into_iter().enumerate();
        rows.map(|(rank, (start, max))| (start, max, decile(rank)))
            .collect()
    }

    pub(crate) fn shape(&self) -> crate::list::Shape {
        crate::list::Shape {
            n_windows: (self.tokens.len() / self.parameters.window as usize) as u32,
            window: self.parameters.window,
            lossless: self.parameters.lossless,
        }
    }

    /// Adds contexts `from..to` as one batch.
    pub(crate) fn add(&self, writer: &mut Writer, from: usize, to: usize) -> crate::Result<()> {
        self.add_as(writer, from, to, Form::Sparse)
    }

    /// Adds contexts `from..to` as one batch of one form.
    pub(crate) fn add_as(
        &self,
        writer: &mut Writer,
        from: usize,
        to: usize,
        form: Form,
    ) -> crate::Result<()> {
        self.with_batch(from, to, form, |batch| writer.add(batch, None))
    }

    /// Calls `visit` with contexts `from..to` as one batch.
    pub(crate) fn with_batch<T>(
        &self,
        from: usize,
        to: usize,
        form: Form,
        visit: impl FnOnce(&Batch<'_>) -> T,
    ) -> T {
        let length = self.length();
        let span = from * length..to * length;
        let inside = self.entries.iter().filter(|(p, _, _)| span.contains(p));
        // Backwards: the order of entries must not matter.
        let mut entries: Vec<_> = inside
            .rev()
            .map(|&(p, l, a)| (p - span.start, l, a))
            .collect();
        if form == Form::Sorted {
            entries.sort_by_key(|&(place, latent, _)| (latent, place));
        }
        let rows: Vec<u64> = entries.iter().map(|e| (e.0 / length) as u64).collect();
        let offsets: Vec<u64> = entries.iter().map(|e| (e.0 % length) as u64).collect();
        let latents: Vec<u32> = entries.iter().map(|e| e.1).collect();
        let activations: Vec<f32> = entries.iter().map(|e| e.2).collect();
        let bits: Vec<u16> = activations
            .iter()
            .map(|&a| if a > 0.0 { bf16_of(a) } else { 0 })
            .collect();
        let positions: Vec<u32> = entries.iter().map(|e| e.0 as u32).collect();
        let mut starts = vec![0u64; self.parameters.n_latents as usize + 1];
        for &latent in &latents {
            starts[latent as usize + 1] += 1;
        }
        for latent in 1..starts.len() {
            starts[latent] += starts[latent - 1];
        }
        let k = self.parameters.n_latents as usize;
        let mut dense = vec![(crate::NO_LATENT, 0.0); span.len() * k];
        for &(place, latent, activation) in &entries {
            dense[place * k + k - 1 - latent as usize] = (latent, activation);
        }
        let dense_latents: Vec<u32> = dense.iter().map(|e| e.0).collect();
        let dense_activations: Vec<f32> = dense.iter().map(|e| e.1).collect();
        let activity = match form {
            Form::Sparse => Activity::Sparse {
                rows: &rows,
                offsets: &offsets,
                latents: &latents,
                activations: Values::F32(&activations),
            },
            Form::SparseBf16 => Activity::Sparse {
                rows: &rows,
                offsets: &offsets,
                latents: &latents,
                activations: Values::Bf16(&bits),
            },
            Form::Sorted => Activity::Sorted {
                starts: &starts,
                positions: &positions,
                activations: Values::F32(&activations),
            },
            Form::Dense => Activity::Dense {
                k,
                latents: &dense_latents,
                activations: Values::F32(&dense_activations),
            },
        };
        visit(&Batch {
            tokens: &self.tokens[span.clone()],
            documents: &self.documents[span.clone()],
            mask: Some(&self.mask[span]),
            activities: &[activity],
        })
    }

    /// A corpus whose lists are long, with many activations of each code; not lossless.
    pub(crate) fn long(seed: u64) -> Self {
        let shape = Shape {
            contexts: 1500,
            window: 4,
            windows: 2,
            n_latents: 3,
            vocabulary: 9,
            document_tokens: 24,
            masked: 0.1,
            density: 0.5,
            segment_contexts: 1200,
            first_context: 0,
            split_seed: seed,
            lossless: false,
            seed,
        };
        let mut corpus = shape.draw();
        for (place, latent, activation) in &mut corpus.entries {
            let place = *place as u64 + u64::from(*latent) * 77;
            *activation = 1.0 + (place.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44) as f32 / 3e6;
        }
        corpus
    }

    /// Builds the whole index, `batch` contexts at a time.
    pub(crate) fn build(&self, path: &Path, batch: usize) -> crate::Result<()> {
        let mut writer = Writer::open(path, self.parameters.clone())?;
        for from in (0..self.contexts()).step_by(batch) {
            self.add(&mut writer, from, (from + batch).min(self.contexts()))?;
        }
        writer.finish()
    }

    /// The index, built in a folder of its own.
    pub(crate) fn index(&self) -> (tempfile::TempDir, Index) {
        let folder = scratch();
        let path = folder.path().join("index");
        self.build(&path, 3).unwrap();
        let index = Index::open(&path, false).unwrap();
        (folder, index)
    }
}

/// A folder in memory where the machine has such a place: nothing waits for a disk.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// Every file under a folder, by name.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_str().unwrap().to_owned();
        if entry.path().is_dir() {
            for (inner, content) in files(&entry.path()) {
                found.insert(format!("{name}/{inner}"), content);
            }
        } else {
            found.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    found
}
