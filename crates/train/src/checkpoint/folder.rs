//! The folder of a run's checkpoints: finding the last complete one, writing the next, removing old ones.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::manifest::{Entry, FORMAT, MANIFEST, Manifest, check_name, hex};
use super::read::Checkpoint;
use super::{CheckpointError, PREFIX, VERSION, number, step_of};
use crate::figures::format_bytes;
use crate::files::{self, FileError, Operation, SyncedFile};

const BEST: &str = "best.json";
const PARTIAL: &str = ".partial-";
const OLD: &str = ".old-";
const TRASH: &str = ".trash-";

/// What [`latest_complete`] found.
#[derive(Debug, Default)]
pub struct Latest {
    /// The last complete checkpoint, if there is any.
    pub checkpoint: Option<Checkpoint>,
    /// The later ones that are damaged: say so to the user.
    pub skipped: Vec<CheckpointError>,
}

/// The last complete checkpoint in a folder. Damaged ones are passed over and told, never loaded in part.
///
/// # Errors
/// When the folder cannot be listed; no folder at all is an empty [`Latest`].
pub fn latest_complete(folder: &Path) -> Result<Latest, CheckpointError> {
    let mut latest = Latest::default();
    if !folder.exists() {
        return Ok(latest);
    }
    let mut candidates = Vec::new();
    for path in files::list(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(step) = step_of(&name) {
            candidates.push((step, true, path));
        } else if let Some(step) = name.strip_prefix(OLD).and_then(number) {
            // the replacement of a checkpoint was cut off between its two renames
            candidates.push((step, false, path));
        }
    }
    candidates.sort();
    for (_, in_place, path) in candidates.into_iter().rev() {
        match Checkpoint::open(&path) {
            Ok(checkpoint) => {
                latest.checkpoint = Some(checkpoint);
                break;
            }
            Err(error) if in_place => latest.skipped.push(error),
            Err(_) => {}
        }
    }
    Ok(latest)
}

/// The checkpoints of one run: the last few complete ones, and the best.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

/// What [`Checkpoints::save`] did.
#[derive(Debug)]
pub struct SavedCheckpoint {
    /// The folder of the checkpoint.
    pub path: PathBuf,
    /// The size of all its files.
    pub bytes: u64,
    /// The steps whose checkpoints were removed.
    pub removed: Vec<u64>,
    /// The checkpoint is safe, but an older one could not be removed.
    pub not_removed: Option<FileError>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Best {
    step: u64,
}

impl Checkpoints {
    /// The checkpoints in `folder`, which is made if it is not there; the last `keep` (at least one) are kept.
    /// Leftovers of a process that was killed are cleared.
    ///
    /// # Errors
    /// When the folder cannot be made or listed.
    pub fn open(folder: &Path, keep: usize) -> Result<Self, CheckpointError> {
        files::create_folder(folder)?;
        for path in files::list(folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(step) = name.strip_prefix(OLD).and_then(number) {
                let place = folder.join(format!("{PREFIX}{step}"));
                if place.exists() {
                    files::remove(&path)?;
                } else {
                    files::rename(&path, &place)?;
                    files::sync_folder(folder)?;
                }
            } else if name.starts_with(PARTIAL) || name.starts_with(TRASH) || name == ".best.json.partial" {
                files::remove(&path)?;
            }
        }
        Ok(Self { folder: folder.to_owned(), keep: keep.max(1) })
    }

    /// The folder that holds them.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The last complete one; see [`latest_complete`].
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn latest(&self) -> Result<Latest, CheckpointError> {
        latest_complete(&self.folder)
    }

    /// The steps of the checkpoints whose manifest and file sizes are right, in rising order.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn steps(&self) -> Result<Vec<u64>, CheckpointError> {
        let mut steps = Vec::new();
        for path in files::list(&self.folder)? {
            let Some(step) = path.file_name().and_then(|name| step_of(&name.to_string_lossy())) else {
                continue;
            };
            if let Ok(manifest) = Manifest::read(&path) {
                let size = |name: &str| fs::metadata(path.join(name)).map(|metadata| metadata.len()).ok();
                if manifest.files.iter().all(|entry| size(&entry.name) == Some(entry.bytes)) {
                    steps.push(step);
                }
            }
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Writes the checkpoint of `step`; `write` streams its files. When it returns, the checkpoint is on the
    /// disk, and the ones before the last `keep` are removed, except the best.
    ///
    /// # Errors
    /// When the disk fails or is full: nothing is left of the new checkpoint then, and the old ones are intact.
    pub fn save<F>(&mut self, step: u64, kind: &str, write: F) -> Result<SavedCheckpoint, CheckpointError>
    where
        F: FnOnce(&mut CheckpointWriter) -> Result<(), CheckpointError>,
    {
        let before = self.steps()?.last().copied();
        let partial = self.folder.join(format!("{PARTIAL}{step}"));
        let mut writer = CheckpointWriter { folder: partial.clone(), files: Vec::new(), names: BTreeSet::new() };
        let bytes = self.publish(step, kind, &mut writer, write).map_err(|error| {
            let written = writer.bytes();
            let _ = files::remove(&partial);
            self.explain(error, written, before)
        })?;
        let path = self.folder.join(format!("{PREFIX}{step}"));
        let mut saved = SavedCheckpoint { path, bytes, removed: Vec::new(), not_removed: None };
        self.retire(step, &mut saved);
        Ok(saved)
    }

    fn publish<F>(&self, step: u64, kind: &str, writer: &mut CheckpointWriter, write: F) -> Result<u64, CheckpointError>
    where
        F: FnOnce(&mut CheckpointWriter) -> Result<(), CheckpointError>,
    {
        let partial = writer.folder.clone();
        files::remove(&partial)?;
        files::create_folder(&partial)?;
        write(writer)?;
        let files = std::mem::take(&mut writer.files);
        let manifest = Manifest { format: FORMAT.to_owned(), version: VERSION, step, kind: kind.to_owned(), files, digest: String::new() };
        let manifest = manifest.sealed();
        writer.files.clone_from(&manifest.files);
        let path = partial.join(MANIFEST);
        let mut file = SyncedFile::create(&path)?;
        serde_json::to_writer_pretty(&mut file, &manifest).map_err(|error| FileError::io(Operation::Write, &path, error.into()))?;
        file.finish()?;
        files::sync_folder(&partial)?;

        let place = self.folder.join(format!("{PREFIX}{step}"));
        let old = self.folder.join(format!("{OLD}{step}"));
        let replaces = place.exists();
        if replaces {
            files::remove(&old)?;
            files::rename(&place, &old)?;
        }
        if let Err(error) = files::rename(&partial, &place) {
            if replaces {
                // should this fail too, `latest_complete` finds it under its waiting name
                let _ = files::rename(&old, &place);
            }
            return Err(error.into());
        }
        files::sync_folder(&self.folder)?;
        if replaces {
            // what is left of it is cleared by the next `open`
            let _ = files::remove(&old);
        }
        Ok(manifest.bytes())
    }

    fn explain(&self, error: CheckpointError, written: u64, before: Option<u64>) -> CheckpointError {
        let CheckpointError::File(error) = error else {
            return error;
        };
        let last = before.map(|step| self.folder.join(format!("{PREFIX}{step}")));
        let mut hint = String::new();
        if error.is_disk_full() {
            let needed = last.as_deref().and_then(|path| Manifest::read(path).ok()).map(|manifest| manifest.bytes());
            hint = format!("{} of the checkpoint were written, ", format_bytes(written));
            hint += &match needed {
                Some(needed) => format!("it needs about {} as the one before did; ", format_bytes(needed)),
                None => "it needs more; ".to_owned(),
            };
        }
        hint += &match last {
            Some(path) => format!("the last checkpoint, {}, is intact", path.display()),
            None => "there is no earlier checkpoint".to_owned(),
        };
        CheckpointError::File(error.and(&hint))
    }

    /// Removes what need not be kept. Never fails the save: the new checkpoint is safe already.
    fn retire(&self, newest: u64, saved: &mut SavedCheckpoint) {
        let best = match self.best() {
            Ok(best) => best,
            // a mark that is not readable might be any of them: remove none
            Err(_) => return,
        };
        let Ok(steps) = self.steps() else { return };
        // `newest` always stays: after a fall back from a damaged checkpoint, later ones may still lie there
        let mut kept: BTreeSet<u64> = steps.iter().rev().take(self.keep).copied().collect();
        kept.insert(newest);
        kept.extend(best);
        for step in steps.into_iter().filter(|step| !kept.contains(step)) {
            let place = self.folder.join(format!("{PREFIX}{step}"));
            let trash = self.folder.join(format!("{TRASH}{step}"));
            // out of the way in one move, so that a removal that is cut off leaves no damaged checkpoint
            let removed = files::rename(&place, &trash).and_then(|()| files::remove(&trash));
            match removed {
                Ok(()) => saved.removed.push(step),
                Err(error) => saved.not_removed = Some(error),
            }
        }
    }

    /// Marks the checkpoint of `step` as the best, which is kept however old it gets.
    ///
    /// # Errors
    /// When the mark cannot be written.
    pub fn mark_best(&mut self, step: u64) -> Result<(), CheckpointError> {
        let path = self.folder.join(BEST);
        Ok(files::replace_file(&path, |out| Ok(serde_json::to_writer(out, &Best { step })?))?)
    }

    /// The step of the checkpoint that is marked as the best.
    ///
    /// # Errors
    /// [`CheckpointError::BestMark`] when the mark is not readable.
    pub fn best(&self) -> Result<Option<u64>, CheckpointError> {
        let path = self.folder.join(BEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FileError::io(Operation::Read, path, source).into()),
        };
        let best: Result<Best, _> = serde_json::from_slice(&text);
        match best {
            Ok(best) => Ok(Some(best.step)),
            Err(error) => Err(CheckpointError::BestMark { path, message: error.to_string() }),
        }
    }

    /// Opens the checkpoint of `step`.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] when it is not complete or not there.
    pub fn get(&self, step: u64) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::open(&self.folder.join(format!("{PREFIX}{step}")))
    }
}

/// Takes the files of a checkpoint that is being written.
#[derive(Debug)]
pub struct CheckpointWriter {
    folder: PathBuf,
    files: Vec<Entry>,
    names: BTreeSet<String>,
}

impl CheckpointWriter {
    /// Streams one file; when it returns, the file is on the disk.
    ///
    /// # Errors
    /// When `write` or the disk fails, or the name is not a plain file name or is taken.
    pub fn write<F>(&mut self, name: &str, write: F) -> Result<(), CheckpointError>
    where
        F: FnOnce(&mut dyn Write) -> io::Result<()>,
    {
        let refuse = |reason| CheckpointError::Name { name: name.to_owned(), reason };
        check_name(name).map_err(refuse)?;
        if !self.names.insert(name.to_lowercase()) {
            return Err(refuse("the checkpoint has this file already"));
        }
        let path = self.folder.join(name);
        let mut file = HashedFile { file: SyncedFile::create(&path)?, hash: Xxh3::new(), bytes: 0 };
        let written = write(&mut file);
        self.files.push(Entry { name: name.to_owned(), bytes: file.bytes, xxh3: hex(&file.hash) });
        match written {
            Ok(()) => Ok(file.file.finish()?),
            Err(source) => {
                file.file.abandon();
                Err(FileError::io(Operation::Write, path, source).into())
            }
        }
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|entry| entry.bytes).sum()
    }
}

struct HashedFile {
    file: SyncedFile,
    hash: Xxh3,
    bytes: u64,
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
