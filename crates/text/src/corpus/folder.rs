//! The corpus folder: written beside its name, renamed when complete.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::dataset::{MANIFEST, Manifest};
use crate::error::{Error, Result};
use crate::report::Report;
use crate::tokenizer::Tokenizer;

/// Marks a folder as ours to remove; locked while a run writes there.
const MARKER: &str = ".cloze-prepare";

/// A corpus folder that is being written. Dropped before it is complete, it is removed.
pub(super) struct Folder {
    out: PathBuf,
    partial: PathBuf,
    overwrite: bool,
    complete: bool,
    lock: Option<File>,
}

fn beside(out: &Path, ending: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(out.file_name().unwrap_or_else(|| "corpus".as_ref()));
    name.push(ending);
    out.with_file_name(name)
}

fn is_empty_folder(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Bring a file, or the names in a folder, to the disk. Folders can only be opened on Unix; elsewhere renames are journaled.
fn sync(path: &Path) -> Result<()> {
    if cfg!(not(unix)) && path.is_dir() {
        return Ok(());
    }
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("sync", path))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let put = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    put().map_err(Error::io("write", path))
}

impl Folder {
    /// Claim `out`: refuse what is in the way, remove what a killed run left.
    pub(super) fn create(out: &Path, overwrite: bool) -> Result<Self> {
        let out = std::path::absolute(out).map_err(Error::io("find", out))?;
        let (partial, old) = (beside(&out, ".partial"), beside(&out, ".old"));
        // A run killed between its two renames: the old corpus is the last complete one.
        if !out.exists() && old.join(MANIFEST).is_file() {
            std::fs::rename(&old, &out).map_err(Error::io("rename", &old))?;
        }
        let ours = Manifest::read(&out).is_ok();
        if out.exists() && !is_empty_folder(&out) && !(overwrite && ours) {
            return Err(Error::OutputExists { path: out });
        }
        if partial.exists() {
            let marker = partial.join(MARKER);
            match File::open(&marker).map(|file| file.try_lock()) {
                // Locked by a run that is under way, or not ours at all.
                Ok(Err(TryLockError::WouldBlock)) => return Err(Error::OutputExists { path: partial }),
                Err(_) if !is_empty_folder(&partial) => return Err(Error::OutputExists { path: partial }),
                _ => std::fs::remove_dir_all(&partial).map_err(Error::io("remove", &partial))?,
            }
        }
        std::fs::create_dir_all(&partial).map_err(Error::io("create", &partial))?;
        let marker = partial.join(MARKER);
        let lock = File::create(&marker).map_err(Error::io("create", &marker))?;
        // Not every file system can lock; then two runs into one folder are the user's to avoid.
        let _ = lock.try_lock();
        Ok(Self { out, partial, overwrite, complete: false, lock: Some(lock) })
    }

    /// Where to write.
    pub(super) fn path(&self) -> &Path {
        &self.partial
    }

    /// Add tokenizer, report and, last, the manifest; bring all to the disk and give the folder its name.
    pub(super) fn complete(mut self, tokenizer: &Tokenizer, report: &Report, manifest: &Manifest) -> Result<()> {
        let json = |value: serde_json::Result<Vec<u8>>, path: &Path| {
            value.map_err(|e| Error::Io { action: "write", path: path.to_path_buf(), source: e.into() })
        };
        let tokenizer_folder = self.partial.join("tokenizer");
        tokenizer.save(&tokenizer_folder)?;
        for entry in std::fs::read_dir(&tokenizer_folder).map_err(Error::io("read", &tokenizer_folder))? {
            sync(&entry.map_err(Error::io("read", &tokenizer_folder))?.path())?;
        }
        sync(&tokenizer_folder)?;
        let path = self.partial.join("report.json");
        write(&path, &json(serde_json::to_vec_pretty(report), &path)?)?;
        let path = self.partial.join(MANIFEST);
        write(&path, &json(serde_json::to_vec_pretty(manifest), &path)?)?;
        self.lock = None;
        let marker = self.partial.join(MARKER);
        std::fs::remove_file(&marker).map_err(Error::io("remove", &marker))?;
        sync(&self.partial)?;
        let old = beside(&self.out, ".old");
        let replaces = self.out.exists() && !is_empty_folder(&self.out);
        if replaces && self.overwrite {
            if old.join(MANIFEST).is_file() {
                std::fs::remove_dir_all(&old).map_err(Error::io("remove", &old))?;
            }
            std::fs::rename(&self.out, &old).map_err(Error::io("rename", &self.out))?;
        }
        std::fs::rename(&self.partial, &self.out).map_err(Error::io("rename", &self.partial))?;
        self.complete = true;
        if let Some(parent) = self.out.parent() {
            sync(parent)?;
        }
        if replaces && self.overwrite {
            std::fs::remove_dir_all(&old).map_err(Error::io("remove", &old))?;
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.complete {
            self.lock = None;
            let _ = std::fs::remove_dir_all(&self.partial);
        }
    }
}
