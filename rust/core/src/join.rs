//! One index of several, whose contexts follow one another, without writing their data again.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::link_folder;
use crate::folder::{compare, hookpoints, refuse_foreign, remove_leftovers, take_locks};
use crate::manifest::{Manifest, Parameters};
use crate::segment::{self, Segment};
use crate::writer::Options;

/// Joins finished indices of the same parameters, `first_context` apart, into a new one at `out`.
///
/// The parts may come in any order; their contexts must follow one another. Their files get a second
/// name in `out` where the file system can do that, and are copied where not; the parts stay as they
/// are. Parts that are folders of several hookpoints are joined hookpoint by hookpoint.
pub fn join(parts: &[PathBuf], out: &Path, options: Options) -> Result<()> {
    let Some(first) = parts.first() else {
        return Err(Error::input(
            "there are no parts to join; name at least one",
        ));
    };
    if Manifest::read(first)?.is_some() {
        refuse_foreign(out, &[])?;
        return join_one(parts, out, options);
    }
    let names = match fs::metadata(first) {
        Ok(_) => hookpoints(first)?,
        Err(_) => Vec::new(),
    };
    let names: Vec<String> = names.into_iter().map(|(name, _)| name).collect();
    if names.is_empty() {
        return Err(no_index(first));
    }
    for part in parts {
        let there = hookpoints(part)?.into_iter().map(|(name, _)| name);
        if there.collect::<Vec<_>>() != names {
            return Err(Error::input(format!(
                "the parts `{}` and `{}` have different hookpoints",
                first.display(),
                part.display()
            )));
        }
    }
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    refuse_foreign(out, &known)?;
    for name in &names {
        let parts: Vec<PathBuf> = parts.iter().map(|part| part.join(name)).collect();
        join_one(&parts, &out.join(name), options)?;
    }
    Ok(())
}

fn join_one(parts: &[PathBuf], out: &Path, options: Options) -> Result<()> {
    let mut found = Vec::new();
    for part in parts {
        let manifest = Manifest::read(part)?.ok_or_else(|| no_index(part))?;
        if !manifest.complete {
            return Err(Error::input(format!(
                "the index `{}` is not finished; run its build again, then join it",
                part.display()
            )));
        }
        found.push((part, manifest));
    }
    found.sort_by_key(|(_, manifest)| (manifest.parameters.first_context, manifest.end()));
    let parameters = found[0].1.parameters.clone();
    let mut joined = Manifest::new(parameters.clone());
    joined.complete = true;
    for (part, manifest) in &found {
        let moved = Parameters {
            first_context: parameters.first_context,
            ..manifest.parameters.clone()
        };
        compare(part, &moved, &parameters)?;
        let begins = manifest.parameters.first_context;
        let end = joined.end();
        if begins != end {
            let what = if begins > end {
                "are missing"
            } else {
                "are in two parts"
            };
            return Err(Error::input(format!(
                "contexts {} to {} {what}: the part `{}` begins at context {begins}",
                begins.min(end),
                begins.max(end),
                part.display()
            )));
        }
        joined.segments.extend(manifest.segments.iter().cloned());
    }
    let there = Manifest::read(out)?;
    if there.as_ref() == Some(&joined) {
        // Joined by the run before this one, which did not reach the other hookpoints.
        return Ok(());
    }
    if there.is_some() {
        return Err(Error::input(format!(
            "the folder `{}` holds an index already; name an empty or a new folder",
            out.display()
        )));
    }
    let folder = out.join(segment::FOLDER);
    fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    let text = out.join(&parameters.text);
    fs::create_dir_all(&text).map_err(Error::io("create", &text))?;
    let beside = text.join("..");
    let _locks = take_locks([out, beside.as_path()])?;
    remove_leftovers(out, &Manifest::new(parameters.clone()), u64::MAX)?;
    for (part, manifest) in &found {
        for record in &manifest.segments {
            // Before a file is linked: it must be what its manifest says.
            Segment::open(part, &manifest.parameters, record)?;
            for folder in [&record.lists, &record.text] {
                link_folder(&part.join(folder), &out.join(folder), options.durable)?;
            }
        }
    }
    joined.write(out, options.durable)
}

fn no_index(path: &Path) -> Error {
    Error::input(format!(
        "there is no index at `{}`; build one with `IndexWriter`",
        path.display()
    ))
}
