//! A folder of data files, written beside its final place and then moved there.
//!
//! Every file is hashed in pages while it is written; `pages.u64` holds the page hashes of the
//! folder's files one after the other, in the order of their names.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::manifest::{FileRecord, hex, sync_folder};
use crate::mapped::{PageHasher, root};

/// The page hashes of a folder's other files.
pub(crate) const PAGES: &str = "pages.u64";
/// The end of the name of a folder that is being written.
pub(crate) const UNFINISHED: &str = ".tmp";
/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 18;

/// A file that is being written.
pub(crate) struct FileWriter {
    path: PathBuf,
    file: File,
    hasher: PageHasher,
    buffer: Vec<u8>,
}

impl FileWriter {
    fn create(path: PathBuf) -> Result<Self> {
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        Ok(Self {
            path,
            file,
            hasher: PageHasher::new(),
            buffer: Vec::new(),
        })
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() > BUFFER {
            return self.put(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(Error::io("write", &self.path))
    }

    fn flush(&mut self) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let done = self.put(&buffer);
        buffer.clear();
        self.buffer = buffer;
        done
    }

    /// Its size and hash, and the hashes of its pages.
    fn finish(mut self, durable: bool) -> Result<(FileRecord, Vec<u64>)> {
        self.flush()?;
        if durable {
            self.file
                .sync_all()
                .map_err(Error::io("write", &self.path))?;
        }
        let (bytes, hashes) = self.hasher.finish();
        let xxh3 = hex(root(&hashes));
        Ok((FileRecord { bytes, xxh3 }, hashes))
    }
}

/// A folder that is being written; removed again if it is dropped before it is finished.
pub(crate) struct FolderWriter {
    parent: PathBuf,
    name: String,
    durable: bool,
    files: BTreeMap<String, (FileRecord, Vec<u64>)>,
    finished: bool,
}

impl FolderWriter {
    /// Makes `parent/name.tmp`.
    pub(crate) fn create(parent: &Path, name: &str, durable: bool) -> Result<Self> {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        let writer = Self {
            parent: parent.to_owned(),
            name: name.to_owned(),
            durable,
            files: BTreeMap::new(),
            finished: false,
        };
        let folder = writer.unfinished();
        fs::create_dir(&folder).map_err(Error::io("create", &folder))?;
        Ok(writer)
    }

    fn unfinished(&self) -> PathBuf {
        self.parent.join(format!("{}{UNFINISHED}", self.name))
    }

    /// Begins a file.
    pub(crate) fn file(&self, name: &str) -> Result<FileWriter> {
        FileWriter::create(self.unfinished().join(name))
    }

    /// Ends a file.
    pub(crate) fn close(&mut self, name: &str, file: FileWriter) -> Result<()> {
        self.files
            .insert(name.to_owned(), file.finish(self.durable)?);
        Ok(())
    }

    /// Writes the page hashes, and moves the folder to its place; the records are by file name.
    ///
    /// Where a folder of that name stands already and says the same, it stays, if `shared`.
    pub(crate) fn finish(mut self, shared: bool) -> Result<BTreeMap<String, FileRecord>> {
        let mut pages = self.file(PAGES)?;
        for (_, hashes) in self.files.values() {
            pages.write(bytemuck::cast_slice(hashes))?;
        }
        self.close(PAGES, pages)?;
        let (unfinished, folder) = (self.unfinished(), self.parent.join(&self.name));
        if shared && folder.is_dir() {
            self.compare(&folder)?;
            fs::remove_dir_all(&unfinished).map_err(Error::io("remove", &unfinished))?;
        } else {
            sync_folder(&unfinished, self.durable)?;
            fs::rename(&unfinished, &folder).map_err(Error::io("rename to", &folder))?;
            sync_folder(&self.parent, self.durable)?;
        }
        self.finished = true;
        let files = std::mem::take(&mut self.files);
        Ok(files.into_iter().map(|(name, (r, _))| (name, r)).collect())
    }

    fn compare(&self, folder: &Path) -> Result<()> {
        let same = |name: &String, record: &FileRecord| -> std::io::Result<bool> {
            Ok(fs::metadata(folder.join(name))?.len() == record.bytes)
        };
        let mut equal =
            fs::read(folder.join(PAGES)).ok() == fs::read(self.unfinished().join(PAGES)).ok();
        for (name, (record, _)) in &self.files {
            equal &= same(name, record).unwrap_or(false);
        }
        if equal {
            return Ok(());
        }
        Err(Error::input(format!(
            "the folder `{}` holds another text under this number; the corpus changed: build into \
             another folder",
            folder.display()
        )))
    }
}

/// Makes the folder `to` of the files of the folder `from`: the same files under a second name where
/// the file system can do that, copies where not.
///
/// Where `to` stands already and says the same, it stays.
pub(crate) fn link_folder(from: &Path, to: &Path, durable: bool) -> Result<()> {
    let parent = to.parent().unwrap_or(to);
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = parent.join(format!("{name}{UNFINISHED}"));
    if to.is_dir() {
        let pages = |folder: &Path| fs::read(folder.join(PAGES)).ok();
        if pages(from) == pages(to) {
            return Ok(());
        }
        return Err(Error::input(format!(
            "the folder `{}` is there and holds something else",
            to.display()
        )));
    }
    fs::create_dir_all(&unfinished).map_err(Error::io("create", &unfinished))?;
    let link = || -> Result<()> {
        for entry in fs::read_dir(from).map_err(Error::io("read the folder", from))? {
            let entry = entry.map_err(Error::io("read the folder", from))?;
            let (source, target) = (entry.path(), unfinished.join(entry.file_name()));
            if fs::hard_link(&source, &target).is_err() {
                fs::copy(&source, &target).map_err(Error::io("write", &target))?;
                if durable {
                    File::open(&target)
                        .and_then(|file| file.sync_all())
                        .map_err(Error::io("write", &target))?;
                }
            }
        }
        sync_folder(&unfinished, durable)?;
        fs::rename(&unfinished, to).map_err(Error::io("rename to", to))?;
        sync_folder(parent, durable)
    };
    let linked = link();
    if linked.is_err() {
        // As a folder that was not finished.
        let _ = fs::remove_dir_all(&unfinished);
    }
    linked
}

impl Drop for FolderWriter {
    fn drop(&mut self) {
        if !self.finished {
            // On a full disk the half of a folder would be in the way of everything else; should it
            // not go either, the next writer removes it.
            let _ = fs::remove_dir_all(self.unfinished());
        }
    }
}
