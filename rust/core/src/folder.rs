//! The folder of an index, as a writer finds it: whose it is, who else is at work on it, and what an
//! interrupted writer left behind.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::UNFINISHED;
use crate::manifest::{self, Manifest, Parameters, SHARED_TEXT, TEXT};
use crate::{segment, spill};

const LOCK: &str = "lock";
/// The end of the name of a folder that `compact` made, until it has the name of the first of those
/// that it stands for.
pub(crate) const MERGED: &str = ".merged";

/// A folder with files in it, none of them an index's, is somebody else's.
///
/// `hookpoints` are the names of folders that belong to it.
pub(crate) fn refuse_foreign(path: &Path, hookpoints: &[&str]) -> Result<()> {
    let ours = [
        manifest::FILE_NAME,
        "manifest.json.tmp",
        LOCK,
        segment::FOLDER,
        spill::FOLDER,
        TEXT,
    ];
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read the folder", path)(error)),
    };
    let mut foreign = None;
    for entry in entries {
        let name = entry
            .map_err(Error::io("read the folder", path))?
            .file_name();
        if name == manifest::FILE_NAME {
            return Ok(());
        }
        if !ours.iter().chain(hookpoints).any(|&our| name == our) {
            foreign = Some(name);
        }
    }
    foreign.map_or(Ok(()), |name| {
        Err(Error::input(format!(
            "the folder `{}` holds `{}` and no index; name an empty or a new folder",
            path.display(),
            name.display()
        )))
    })
}

/// The locks of some folders, each taken once; held as long as they are open.
pub(crate) fn take_locks<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Vec<File>> {
    let mut folders = BTreeSet::new();
    for path in paths {
        folders.insert(fs::canonicalize(path).map_err(Error::io("open", path))?);
    }
    folders.iter().map(|folder| take_lock(folder)).collect()
}

fn take_lock(path: &Path) -> Result<File> {
    let lock_path = path.join(LOCK);
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(Error::io("open", &lock_path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::input(format!(
            "another writer is at work on the index `{}`; wait for it or stop it",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &lock_path)(error)),
    }
}

/// Refuses parameters that are not those of the index that is there.
pub(crate) fn compare(path: &Path, found: &Parameters, asked: &Parameters) -> Result<()> {
    let differs = |name: &str, found: &dyn std::fmt::Display, asked: &dyn std::fmt::Display| {
        Err(Error::input(format!(
            "the index `{}` has `{name}` {found}, and {asked} is asked for; \
             ask for the same or build into another folder",
            path.display()
        )))
    };
    if found.n_latents != asked.n_latents {
        return differs("n_latents", &found.n_latents, &asked.n_latents);
    }
    if found.context_length != asked.context_length {
        return differs(
            "context_length",
            &found.context_length,
            &asked.context_length,
        );
    }
    if found.window != asked.window {
        return differs("window", &found.window, &asked.window);
    }
    if found.first_context != asked.first_context {
        return differs("first_context", &found.first_context, &asked.first_context);
    }
    if found.segment_contexts != asked.segment_contexts {
        return differs(
            "segment_contexts",
            &found.segment_contexts,
            &asked.segment_contexts,
        );
    }
    if found.split_seed != asked.split_seed {
        return differs("split_seed", &found.split_seed, &asked.split_seed);
    }
    if found.lossless != asked.lossless {
        return differs("lossless", &found.lossless, &asked.lossless);
    }
    if found.text != asked.text {
        return differs("text", &found.text, &asked.text);
    }
    let keys = found.attributes.keys().chain(asked.attributes.keys());
    for key in keys {
        let (found, asked) = (found.attributes.get(key), asked.attributes.get(key));
        if found != asked {
            let show = |value: Option<&String>| value.map_or("unset".into(), |v| format!("`{v}`"));
            return differs(&format!("attributes.{key}"), &show(found), &show(asked));
        }
    }
    Ok(())
}

/// Removes what was written and never committed, and the spill of every segment but the one at
/// `open`. The index's lock is held.
pub(crate) fn remove_leftovers(path: &Path, manifest: &Manifest, open: u64) -> Result<()> {
    let temporary = manifest::temporary(path);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("remove", &temporary)(error));
        }
        _ => {}
    }
    let lists = manifest.segments.iter().map(|record| record.lists.as_str());
    remove_unnamed(path, segment::FOLDER, &lists.collect())?;
    remove_old_spills(path, open)?;
    let texts = named_texts(path, manifest)?;
    let texts = texts.iter().map(String::as_str).collect();
    remove_unnamed(path, &manifest.parameters.text, &texts)
}

/// Removes the spill of every segment but the one at `open`.
pub(crate) fn remove_old_spills(path: &Path, open: u64) -> Result<()> {
    let open = format!("{}/{}", spill::FOLDER, segment::name(open));
    remove_unnamed(path, spill::FOLDER, &BTreeSet::from([open.as_str()]))
}

/// The folders of text that the index names, and those that its neighbours name if they share it.
fn named_texts(path: &Path, manifest: &Manifest) -> Result<BTreeSet<String>> {
    let texts = |manifest: &Manifest| -> Vec<String> {
        manifest.segments.iter().map(|r| r.text.clone()).collect()
    };
    let mut named: BTreeSet<String> = texts(manifest).into_iter().collect();
    if manifest.parameters.text == SHARED_TEXT {
        for (_, neighbour) in hookpoints(&path.join(".."))? {
            if neighbour.parameters.text == SHARED_TEXT {
                named.extend(texts(&neighbour));
            }
        }
    }
    Ok(named)
}

/// The indices in the folders of a folder, by the name of theirs.
pub(crate) fn hookpoints(parent: &Path) -> Result<Vec<(String, Manifest)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(parent).map_err(Error::io("read the folder", parent))? {
        let path = entry.map_err(Error::io("read the folder", parent))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(name) = name
            && let Some(manifest) = Manifest::read(&path)?
        {
            found.push((name.to_owned(), manifest));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Removes the folders in `path/folder` that look like a segment's and that are not named.
fn remove_unnamed(path: &Path, folder: &str, named: &BTreeSet<&str>) -> Result<()> {
    let parent = path.join(folder);
    let entries = match fs::read_dir(&parent) {
        Ok(entries) => entries,
        Err(error) if manifest::is_missing(&error) => return Ok(()),
        Err(error) => return Err(Error::io("read the folder", &parent)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(Error::io("read the folder", &parent))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let stem = name.strip_suffix(UNFINISHED).unwrap_or(name);
        let stem = stem.strip_suffix(MERGED).unwrap_or(stem);
        let ours = stem.len() == 20 && stem.bytes().all(|b| b.is_ascii_digit());
        if ours && !named.contains(format!("{folder}/{name}").as_str()) {
            let leftover: PathBuf = entry.path();
            fs::remove_dir_all(&leftover).map_err(Error::io("remove", &leftover))?;
        }
    }
    Ok(())
}
