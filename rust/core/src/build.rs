//! Postings by latent to a segment's folder of lists, on all threads and in bounded memory.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use rayon::prelude::*;

use crate::error::Result;
use crate::files::FolderWriter;
use crate::list::{Buffers, Encoder, Shape};
use crate::manifest::FileRecord;
use crate::segment::{FOLDER, HASHES, LISTS, OFFSETS, Segment, name};
use crate::spill::{RunReader, Spill};

/// Postings that a thread takes at a time, unless a single latent has more: few enough that they
/// stay near the processor, and so many that reading them from every chunk costs little.
const RANGE: u64 = 1 << 18;
/// Of them, the fewest for each part: what is read at once from one.
const PART: u64 = 1 << 11;
/// Postings that are encoded before they are written: so many that no thread waits long for the
/// last, in two to three bytes each.
const GROUP: usize = 3 << 21;
/// Numbers of starts that a thread holds at a time.
const STARTS: usize = 1 << 21;

/// Where the postings of a new segment come from.
pub(crate) trait Postings: Sync {
    /// Postings of each latent.
    fn totals(&self) -> &[u32];

    /// In how many parts a latent's postings lie.
    fn parts(&self) -> usize;

    /// Gives each latent's positions, ascending, and their bf16.
    fn read(
        &self,
        latents: Range<usize>,
        memory: &mut Memory,
        visit: &mut dyn FnMut(&[u32], &[u16]),
    ) -> Result<()>;
}

/// What a thread reads into.
#[derive(Default)]
pub(crate) struct Memory {
    starts: Vec<u32>,
    pairs: Vec<u32>,
    begins: Vec<usize>,
    positions: Vec<u32>,
    values: Vec<u16>,
    buffers: Buffers,
}

/// A thread's encoder and memory.
struct Worker {
    encoder: Encoder,
    memory: Memory,
}

/// The lists of some latents.
#[derive(Default)]
struct Encoded {
    bytes: Vec<u8>,
    /// Where each list ends.
    ends: Vec<u64>,
}

/// Writes the folder of lists of the segment at `first_context` under its name; the files by name.
///
/// `sides` has the side of every window, `hashes` one hash per context.
pub(crate) fn write_lists(
    index: &Path,
    folder_name: &str,
    shape: Shape,
    source: &impl Postings,
    sides: &[u8],
    hashes: &[u64],
    durable: bool,
) -> Result<BTreeMap<String, FileRecord>> {
    let mut folder = FolderWriter::create(&index.join(FOLDER), folder_name, durable)?;
    let mut lists = folder.file(LISTS)?;
    let mut offsets = folder.file(OFFSETS)?;
    let workers: Mutex<Vec<Worker>> = Mutex::default();
    let encode = |range: Range<usize>| -> Result<Encoded> {
        let taken = workers.lock().ok().and_then(|mut all| all.pop());
        let mut worker = taken.unwrap_or_else(|| Worker {
            encoder: Encoder::new(shape),
            memory: Memory::default(),
        });
        let postings = sum(&source.totals()[range.clone()]);
        let mut out = Encoded {
            // About what they take; two bytes a posting, a header for each latent.
            bytes: Vec::with_capacity(5 * postings / 2 + 128 * range.len()),
            ends: Vec::with_capacity(range.len()),
        };
        let encoder = &mut worker.encoder;
        source.read(range, &mut worker.memory, &mut |positions, values| {
            encoder.encode(positions, values, sides, &mut out.bytes);
            out.ends.push(out.bytes.len() as u64);
        })?;
        if let Ok(mut all) = workers.lock() {
            all.push(worker);
        }
        Ok(out)
    };
    let mut end = 0u64;
    offsets.write(&end.to_le_bytes())?;
    let mut write = |group: Vec<Encoded>| -> Result<()> {
        for encoded in group {
            lists.write(&encoded.bytes)?;
            for list in encoded.ends {
                offsets.write(&(end + list).to_le_bytes())?;
            }
            end += encoded.bytes.len() as u64;
        }
        Ok(())
    };
    let ranges = ranges(source);
    let group = GROUP * ranges.len() / sum(source.totals()).max(1);
    let group = group.max(2 * rayon::current_num_threads());
    let mut before = Vec::new();
    for group in ranges.chunks(group) {
        // While one group is encoded, the one before it is written, in order.
        let (written, encoded) = rayon::join(
            || write(std::mem::take(&mut before)),
            || {
                let group = group.to_vec().into_par_iter().map(&encode);
                group.collect::<Vec<Result<Encoded>>>()
            },
        );
        written?;
        before = encoded.into_iter().collect::<Result<_>>()?;
    }
    write(before)?;
    let mut file = folder.file(HASHES)?;
    file.write(bytemuck::cast_slice(hashes))?;
    folder.close(HASHES, file)?;
    folder.close(LISTS, lists)?;
    folder.close(OFFSETS, offsets)?;
    folder.finish(false)
}

fn sum(totals: &[u32]) -> usize {
    totals.iter().map(|&n| n as usize).sum()
}

/// Ranges of latents that are about equally much work.
fn ranges(source: &impl Postings) -> Vec<Range<usize>> {
    let totals = source.totals();
    let usual = RANGE.max(PART * source.parts() as u64);
    let most = (STARTS / source.parts().max(1)).max(1);
    let mut ranges = Vec::new();
    let (mut first, mut sum) = (0, 0);
    for (latent, &total) in totals.iter().enumerate() {
        if latent > first && (sum + u64::from(total) > usual || latent - first >= most) {
            ranges.push(first..latent);
            (first, sum) = (latent, 0);
        }
        sum += u64::from(total);
    }
    ranges.push(first..totals.len());
    ranges
}

/// The postings of one hookpoint in the spill.
pub(crate) struct Spilled<'a> {
    runs: Vec<RunReader<'a>>,
    totals: &'a [u32],
}

impl<'a> Spilled<'a> {
    pub(crate) fn new(spill: &'a Spill, hook: usize) -> Self {
        Self {
            runs: spill.runs(hook).collect(),
            totals: &spill.totals[hook],
        }
    }
}

impl Postings for Spilled<'_> {
    fn totals(&self) -> &[u32] {
        self.totals
    }

    fn parts(&self) -> usize {
        self.runs.len()
    }

    fn read(
        &self,
        latents: Range<usize>,
        memory: &mut Memory,
        visit: &mut dyn FnMut(&[u32], &[u16]),
    ) -> Result<()> {
        let width = latents.len() + 1;
        memory.starts.resize(self.runs.len() * width, 0);
        memory.pairs.clear();
        memory
            .pairs
            .reserve_exact(sum(&self.totals[latents.clone()]));
        memory.begins.clear();
        for (run, starts) in self.runs.iter().zip(memory.starts.chunks_exact_mut(width)) {
            memory.begins.push(memory.pairs.len());
            run.read(latents.start, latents.end, starts, &mut memory.pairs)?;
        }
        for latent in 0..latents.len() {
            let postings = self.totals[latents.start + latent] as usize;
            memory.positions.clear();
            memory.positions.reserve_exact(postings);
            memory.values.clear();
            memory.values.reserve_exact(postings);
            let parts = memory.starts.chunks_exact(width).zip(&memory.begins);
            for (run, (starts, &begin)) in self.runs.iter().zip(parts) {
                let from = begin + (starts[latent] - starts[0]) as usize;
                let to = begin + (starts[latent + 1] - starts[0]) as usize;
                let pairs = &memory.pairs[from..to];
                memory
                    .positions
                    .extend(pairs.iter().map(|&pair| run.start + (pair & 0xffff)));
                memory
                    .values
                    .extend(pairs.iter().map(|&pair| (pair >> 16) as u16));
            }
            visit(&memory.positions, &memory.values);
        }
        Ok(())
    }
}

/// The postings of segments that follow one another.
pub(crate) struct Merged<'a> {
    segments: &'a [Segment],
    totals: Vec<u32>,
}

impl<'a> Merged<'a> {
    pub(crate) fn new(segments: &'a [Segment], n_latents: u32) -> Result<Self> {
        let totals = (0..n_latents).map(|latent| {
            let counts = segments
                .iter()
                .map(|segment| Ok(segment.list(latent)?.n_postings() as u32));
            counts.sum::<Result<u32>>()
        });
        Ok(Self {
            segments,
            totals: totals.collect::<Result<_>>()?,
        })
    }
}

impl Postings for Merged<'_> {
    fn totals(&self) -> &[u32] {
        &self.totals
    }

    fn parts(&self) -> usize {
        self.segments.len()
    }

    // In a list that is not lossless the low bits of a bf16 are 0 where they were not kept. The bytes
    // still come out as those of one build: codes are exact, and low bits are stored for the 200
    // strongest windows of a side alone. Each of these is among the 200 strongest of its own segment,
    // so its peak is known exactly. A window whose peak is not known has 200 windows of its side and
    // segment before it, all exactly known; with low bits 0 it is taken for no stronger than it is,
    // and of equals the earlier comes first as it did, so these 200 stay before it.
    fn read(
        &self,
        latents: Range<usize>,
        memory: &mut Memory,
        visit: &mut dyn FnMut(&[u32], &[u16]),
    ) -> Result<()> {
        for latent in latents {
            memory.positions.clear();
            memory.values.clear();
            let mut base = 0;
            for segment in self.segments {
                let begin = memory.positions.len();
                segment
                    .list(latent as u32)?
                    .postings(
                        &mut memory.buffers,
                        &mut memory.positions,
                        &mut memory.values,
                    )
                    .map_err(|damaged| segment.damaged(latent as u32, damaged))?;
                for position in &mut memory.positions[begin..] {
                    *position += base;
                }
                base += segment.n_positions() as u32;
            }
            visit(&memory.positions, &memory.values);
        }
        Ok(())
    }
}

/// The name of the folder of lists of a segment.
pub(crate) fn folder(first_context: u64) -> String {
    format!("{FOLDER}/{}", name(first_context))
}
