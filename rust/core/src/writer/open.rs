//! Opening a folder to build in: what is there, and what an interrupted writer left.

use std::fs;
use std::path::{Path, PathBuf};

use super::{IndexState, Options, Writer};
use crate::check::{Checker, Limits};
use crate::error::{Error, Result};
use crate::folder::{compare, refuse_foreign, remove_leftovers, take_locks};
use crate::manifest::{Manifest, Parameters, SHARED_TEXT, TEXT};
use crate::runs::Hook;
use crate::segment::{self, Segment};
use crate::spill::{self, Held, Spill};

impl Writer {
    /// Opens the index folder at `path`, which is made if it is not there.
    ///
    /// A folder that holds an index is gone on with if its parameters are the same, from where it was
    /// interrupted. What an interrupted writer left behind and cannot be used is removed. A second
    /// writer on one folder is refused.
    pub fn open(path: &Path, parameters: Parameters) -> Result<Self> {
        Self::open_with(path, parameters, Options::default())
    }

    /// [`Writer::open`] with options.
    pub fn open_with(path: &Path, parameters: Parameters, options: Options) -> Result<Self> {
        refuse_foreign(path, &[])?;
        Self::open_all(path, vec![(path.to_owned(), parameters)], options)
    }

    /// Opens the indices of several hookpoints, `path/<name>`, which share one text, `path/text`.
    ///
    /// They are added to at the same time. Their parameters may differ in the number of latents, in
    /// `lossless` and in attributes; `text` is set here.
    pub fn open_many(
        path: &Path,
        hookpoints: &[(String, Parameters)],
        options: Options,
    ) -> Result<Self> {
        let names: Vec<&str> = hookpoints.iter().map(|(name, _)| name.as_str()).collect();
        let Some((_, first)) = hookpoints.first() else {
            return Err(Error::input("there is no hookpoint; name at least one"));
        };
        for (at, (name, parameters)) in hookpoints.iter().enumerate() {
            let taken = ["", ".", "..", TEXT, spill::FOLDER, segment::FOLDER, "lock"];
            if taken.contains(&name.as_str()) || name.contains(['/', '\\', '\0']) {
                return Err(Error::input(format!(
                    "the hookpoint `{name}` cannot be the name of a folder of an index"
                )));
            }
            if names[..at].contains(&name.as_str()) {
                return Err(Error::input(format!(
                    "the hookpoint `{name}` is named twice"
                )));
            }
            let alike = Parameters {
                n_latents: first.n_latents,
                lossless: first.lossless,
                attributes: first.attributes.clone(),
                ..parameters.clone()
            };
            compare(path, first, &alike)?;
        }
        refuse_foreign(path, &names)?;
        for name in &names {
            refuse_foreign(&path.join(name), &[])?;
        }
        let all = hookpoints.iter().map(|(name, parameters)| {
            let text = SHARED_TEXT.to_owned();
            (
                path.join(name),
                Parameters {
                    text,
                    ..parameters.clone()
                },
            )
        });
        Self::open_all(path, all.collect(), options)
    }

    fn open_all(
        path: &Path,
        indices: Vec<(PathBuf, Parameters)>,
        options: Options,
    ) -> Result<Self> {
        for (_, parameters) in &indices {
            parameters.check()?;
        }
        for (index, _) in &indices {
            let folder = index.join(segment::FOLDER);
            fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        }
        let text = indices[0].0.join(&indices[0].1.text);
        fs::create_dir_all(&text).map_err(Error::io("create", &text))?;
        let beside = text.join("..");
        let folders = indices.iter().map(|(index, _)| index.as_path());
        let locks = take_locks(folders.chain([path, beside.as_path()]))?;
        let mut hooks = Vec::new();
        for (index, parameters) in indices {
            let manifest = match Manifest::read(&index)? {
                Some(manifest) => {
                    compare(&index, &manifest.parameters, &parameters)?;
                    manifest
                }
                None => Manifest::new(parameters),
            };
            hooks.push((index, manifest));
        }
        let first = hooks.iter().map(|(_, m)| m.end()).min().unwrap_or(0);
        for (index, manifest) in &hooks {
            remove_leftovers(index, manifest, first)?;
        }
        crate::folder::remove_old_spills(path, first)?;
        let mut states = Vec::new();
        for (path, manifest) in hooks {
            if manifest.segments.is_empty() && !manifest.complete {
                manifest.write(&path, options.durable)?;
            }
            let segments = manifest
                .segments
                .iter()
                .map(|record| Segment::open(&path, &manifest.parameters, record))
                .collect::<Result<_>>()?;
            states.push(IndexState {
                path,
                manifest,
                segments,
            });
        }
        let parameters = &states[0].manifest.parameters;
        let n_latents = states.iter().map(|hook| hook.manifest.parameters.n_latents);
        let names = states.iter().map(|hook| {
            let name = hook.path.file_name().unwrap_or_default().to_string_lossy();
            // A single index may be moved while it is built.
            let name = if states.len() == 1 { "".into() } else { name };
            format!("{name}/{}", hook.manifest.parameters.n_latents)
        });
        let mut texts: Vec<String> = names.collect();
        texts.push(format!("{first} {}", parameters.context_length));
        let mut writer = Self {
            path: path.to_owned(),
            text,
            durable: options.durable,
            limits: Limits::default(),
            #[cfg(test)]
            fail_at: None,
            identity: spill::identity(texts.iter().map(String::as_str)),
            checker: Checker::new(
                parameters.context_length,
                n_latents.collect(),
                Limits::default(),
            ),
            first,
            spill: None,
            waiting: Vec::new(),
            chunks: Vec::new(),
            held: Held::new(states.len()),
            positions: 0,
            cursor: parameters.first_context,
            hooks: states,
            locks,
        };
        writer.recover()?;
        Ok(writer)
    }

    /// Takes over what an interrupted writer spilled.
    fn recover(&mut self) -> Result<()> {
        if !Spill::is_there(&self.path, self.first) {
            return Ok(());
        }
        let mut spill = self.open_spill()?;
        let limit = self.end_of_segment(self.first) - self.first;
        if spill.contexts() > limit {
            return spill.remove();
        }
        self.held = std::mem::take(&mut spill.held);
        self.positions = spill.positions;
        let full = spill.contexts() == limit;
        self.spill = Some(spill);
        // It was killed between its last chunk and the commit.
        if full { self.commit_or_close() } else { Ok(()) }
    }

    pub(super) fn open_spill(&self) -> Result<Spill> {
        let kept = |hook: &IndexState| Hook {
            n_latents: hook.manifest.parameters.n_latents,
            kept: hook.manifest.end() == self.first,
        };
        let hooks = self.hooks.iter().map(kept).collect();
        let length = self.parameters().context_length;
        Spill::open(&self.path, self.first, length, hooks, self.identity)
    }
}
