//! Contexts that were spilled become a segment.

use std::collections::BTreeMap;

use super::Writer;
use crate::build::{self, Spilled, write_lists};
#[cfg(test)]
use crate::error::Error;
use crate::error::Result;
use crate::manifest::{FileRecord, SHARED_TEXT, SegmentRecord};
use crate::segment::{self, Segment, shape};
use crate::spill::{Held, Spill};
use crate::text::{TextWriter, WrittenText};

impl Writer {
    /// Commits what is left, marks the index complete, and lets go of the folder.
    pub fn finish(&mut self) -> Result<()> {
        self.check_open()?;
        self.commit_or_close()?;
        let completed = self.complete();
        self.abandon();
        completed
    }

    fn complete(&mut self) -> Result<()> {
        for hook in &mut self.hooks {
            if !hook.manifest.complete {
                hook.manifest.complete = true;
                hook.manifest.write(&hook.path, self.durable)?;
            }
        }
        Ok(())
    }

    /// A failed commit leaves the writer closed; what was spilled stays.
    pub(super) fn commit_or_close(&mut self) -> Result<()> {
        let committed = self.commit();
        if committed.is_err() {
            self.abandon();
        }
        committed
    }

    /// Writes the open segment: its text, then each hookpoint's lists and manifest; then the spill
    /// can go. Killed in between, the next writer finds the spill and does the rest.
    fn commit(&mut self) -> Result<()> {
        self.flush(true)?;
        // Encoding takes as much again.
        self.chunks = Vec::new();
        let Some(spill) = self.spill.take() else {
            return Ok(());
        };
        let contexts = spill.contexts();
        self.step()?;
        if contexts > 0 {
            let text = self.write_text(&spill)?;
            self.step()?;
            for number in 0..self.hooks.len() {
                if self.hooks[number].manifest.end() == self.first {
                    self.write_segment(number, &spill, &text, contexts)?;
                    self.step()?;
                }
            }
        }
        spill.remove()?;
        self.first += contexts;
        self.positions = 0;
        self.held = Held::new(self.hooks.len());
        Ok(())
    }

    /// A point between two steps of a commit, where a test can have it fail.
    #[cfg_attr(
        not(test),
        allow(
            clippy::unused_self,
            clippy::unnecessary_wraps,
            clippy::needless_pass_by_ref_mut
        )
    )]
    fn step(&mut self) -> Result<()> {
        #[cfg(test)]
        if let Some(left) = &mut self.fail_at {
            if *left == 0 {
                return Err(Error::input("asked to fail"));
            }
            *left -= 1;
        }
        Ok(())
    }

    fn write_text(&self, spill: &Spill) -> Result<WrittenText> {
        let parameters = self.parameters();
        let mut text = TextWriter::create(
            &self.text,
            &segment::name(self.first),
            spill.largest_token > u32::from(u16::MAX),
            parameters.window,
            parameters.split_seed,
            self.durable,
        )?;
        spill.each_text(|part| text.push(part))?;
        text.finish(&self.held.text, parameters.text == SHARED_TEXT)
    }

    fn write_segment(
        &mut self,
        number: usize,
        spill: &Spill,
        text: &WrittenText,
        contexts: u64,
    ) -> Result<()> {
        let hook = &mut self.hooks[number];
        let parameters = &hook.manifest.parameters;
        let source = Spilled::new(spill, number);
        let files = write_lists(
            &hook.path,
            &segment::name(self.first),
            shape(parameters, contexts),
            &source,
            &text.sides,
            &self.held.hooks[number],
            self.durable,
        )?;
        let lists = build::folder(self.first);
        let texts = format!("{}/{}", parameters.text, segment::name(self.first));
        let mut all = with_folder(&lists, files);
        all.extend(with_folder(&texts, text.files.clone()));
        let record = SegmentRecord {
            first_context: self.first,
            contexts,
            n_tokens: text.n_tokens,
            nnz: spill.totals[number].iter().map(|&n| u64::from(n)).sum(),
            lists,
            text: texts,
            files: all,
        };
        #[cfg(test)]
        if self.fail_at == Some(1) {
            return Err(Error::input("asked to fail"));
        }
        let segment = Segment::open(&hook.path, parameters, &record)?;
        let mut manifest = hook.manifest.clone();
        manifest.segments.push(record);
        manifest.complete = false;
        manifest.write(&hook.path, self.durable)?;
        hook.manifest = manifest;
        hook.segments.push(segment);
        Ok(())
    }
}

/// Files by their path relative to the index folder.
pub(crate) fn with_folder(
    folder: &str,
    files: BTreeMap<String, FileRecord>,
) -> BTreeMap<String, FileRecord> {
    let named = files
        .into_iter()
        .map(|(name, record)| (format!("{folder}/{name}"), record));
    named.collect()
}
