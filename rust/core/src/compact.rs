//! Merging the partial segments that additions and joins leave behind.
//!
//! What comes out has the bytes of one undisturbed build. Killed at any instant, the index is what it
//! was or has some segments merged already; `compact` run again does the rest.

use std::path::Path;

use crate::build::{Merged, folder, write_lists};
use crate::error::{Error, Result};
use crate::files::link_folder;
use crate::folder::{MERGED, hookpoints, remove_leftovers, take_locks};
use crate::manifest::{Manifest, SHARED_TEXT, SegmentRecord};
use crate::segment::{self, Segment, shape};
use crate::text::{TextWriter, WrittenText};
use crate::writer::{Options, with_folder};

/// Positions of text that are copied at a time.
const STEP: usize = 1 << 16;

/// Merges the adjacent segments of the index at `path` that belong to one segment of the grid; of a
/// folder of several hookpoints, those of each.
///
/// The new segment is written beside the old ones, which go when the manifest names the new one. The
/// index may be read meanwhile, and not be written to.
pub fn compact(path: &Path, options: Options) -> Result<()> {
    let mut indices = match Manifest::read(path)? {
        Some(manifest) if manifest.parameters.text == SHARED_TEXT => {
            return Err(Error::input(format!(
                "the index `{}` shares its text with its neighbours; compact the folder above it",
                path.display()
            )));
        }
        Some(manifest) => vec![(path.to_owned(), manifest)],
        None if path.is_dir() => {
            let found = hookpoints(path)?.into_iter();
            found.map(|(name, m)| (path.join(name), m)).collect()
        }
        None => Vec::new(),
    };
    if indices.is_empty() {
        return Err(Error::input(format!(
            "there is no index at `{}`; build one with `IndexWriter`",
            path.display()
        )));
    }
    let folders = indices.iter().map(|(index, _)| index.as_path());
    let _locks = take_locks(folders.chain([path]))?;
    for (index, manifest) in &mut indices {
        // Another writer may have been at work until now.
        if let Some(now) = Manifest::read(index)? {
            *manifest = now;
        }
        remove_leftovers(index, manifest, manifest.end())?;
        merge_all(index, manifest, options)?;
    }
    for (index, manifest) in &indices {
        remove_leftovers(index, manifest, manifest.end())?;
    }
    for (index, manifest) in &mut indices {
        rename_all(index, manifest, options)?;
    }
    for (index, manifest) in &indices {
        remove_leftovers(index, manifest, manifest.end())?;
    }
    Ok(())
}

/// Merges every group of segments of one index.
fn merge_all(index: &Path, manifest: &mut Manifest, options: Options) -> Result<()> {
    let mut at = 0;
    while at < manifest.segments.len() {
        let cut = manifest
            .parameters
            .cut_after(manifest.segments[at].first_context);
        let group = manifest.segments[at..]
            .iter()
            .take_while(|segment| segment.first_context < cut)
            .count();
        if group > 1 {
            let merged = merge(index, manifest, &manifest.segments[at..at + group], options)?;
            let mut next = manifest.clone();
            next.segments.splice(at..at + group, [merged]);
            next.write(index, options.durable)?;
            *manifest = next;
        }
        at += 1;
    }
    Ok(())
}

fn merge(
    index: &Path,
    manifest: &Manifest,
    records: &[SegmentRecord],
    options: Options,
) -> Result<SegmentRecord> {
    let parameters = &manifest.parameters;
    let segments: Vec<Segment> = records
        .iter()
        .map(|record| Segment::open(index, parameters, record))
        .collect::<Result<_>>()?;
    let first_context = records[0].first_context;
    let contexts = records.iter().map(|record| record.contexts).sum();
    let name = format!("{}{MERGED}", segment::name(first_context));
    let text = merge_text(index, manifest, &segments, &name, options)?;
    let mut hashes = Vec::new();
    for segment in &segments {
        hashes.extend_from_slice(segment.hashes()?);
    }
    let source = Merged::new(&segments, parameters.n_latents)?;
    let shape = shape(parameters, contexts);
    let durable = options.durable;
    let files = write_lists(index, &name, shape, &source, &text.sides, &hashes, durable)?;
    segments.iter().try_for_each(Segment::intact)?;
    let lists = format!("{}{MERGED}", folder(first_context));
    let texts = format!("{}/{name}", parameters.text);
    let mut all = with_folder(&lists, files);
    all.extend(with_folder(&texts, text.files));
    Ok(SegmentRecord {
        first_context,
        contexts,
        n_tokens: text.n_tokens,
        nnz: records.iter().map(|record| record.nnz).sum(),
        lists,
        text: texts,
        files: all,
    })
}

fn merge_text(
    index: &Path,
    manifest: &Manifest,
    segments: &[Segment],
    name: &str,
    options: Options,
) -> Result<WrittenText> {
    let parameters = &manifest.parameters;
    let mut writer = TextWriter::create(
        &index.join(&parameters.text),
        name,
        segments.iter().any(|segment| segment.text().is_wide()),
        parameters.window,
        parameters.split_seed,
        options.durable,
    )?;
    let mut hashes = Vec::new();
    for segment in segments {
        let n = segment.n_positions();
        for start in (0..n).step_by(STEP) {
            writer.push(&segment.text().part(start..n.min(start + STEP))?)?;
        }
        hashes.extend_from_slice(segment.text_hashes()?);
    }
    writer.finish(&hashes, parameters.text == SHARED_TEXT)
}

/// Gives every merged segment the name of the first of those that it stands for.
fn rename_all(index: &Path, manifest: &mut Manifest, options: Options) -> Result<()> {
    let mut next = manifest.clone();
    for record in &mut next.segments {
        rename(index, record, options)?;
    }
    if next != *manifest {
        next.write(index, options.durable)?;
        *manifest = next;
    }
    Ok(())
}

fn rename(index: &Path, record: &mut SegmentRecord, options: Options) -> Result<()> {
    let mut files = std::mem::take(&mut record.files);
    for folder in [&mut record.lists, &mut record.text] {
        let Some(last) = folder.strip_suffix(MERGED) else {
            continue;
        };
        link_folder(&index.join(&*folder), &index.join(last), options.durable)?;
        let renamed = |path: String| match path.strip_prefix(&format!("{folder}/")) {
            Some(name) => format!("{last}/{name}"),
            None => path,
        };
        files = files
            .into_iter()
            .map(|(path, file)| (renamed(path), file))
            .collect();
        *folder = last.to_owned();
    }
    record.files = files;
    Ok(())
}
