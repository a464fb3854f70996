//! Reading a checkpoint: nothing of it is used before all of it is compared with its checksums.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::manifest::{Entry, Manifest, check_name, hex};
use super::{CheckpointError, Damage, step_of};
use crate::files::{FileError, Operation};

/// A complete checkpoint: every file of it was compared with its checksum when it was opened.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    manifest: Manifest,
}

impl Checkpoint {
    /// Opens the checkpoint in a folder and reads every file of it once, to compare sizes and checksums.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] with the first thing that is wrong.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let damaged = |damage| CheckpointError::Damaged { path: path.to_owned(), damage };
        let manifest = Manifest::read(path).map_err(damaged)?;
        let checkpoint = Self { path: path.to_owned(), manifest };
        checkpoint.verify().map_err(damaged)?;
        Ok(checkpoint)
    }

    fn verify(&self) -> Result<(), Damage> {
        for entry in &self.manifest.files {
            check_name(&entry.name).map_err(|reason| Damage::Manifest(format!("file {:?}: {reason}", entry.name)))?;
        }
        let folder_step = self.path.file_name().and_then(|name| step_of(&name.to_string_lossy()));
        if let Some(folder) = folder_step
            && folder != self.manifest.step
        {
            return Err(Damage::Step { folder, manifest: self.manifest.step });
        }
        // sizes first: cheap, and they catch most damage
        for entry in &self.manifest.files {
            let found = match fs::metadata(self.path.join(&entry.name)) {
                Ok(metadata) => metadata.len(),
                Err(_) => return Err(Damage::Missing { file: entry.name.clone() }),
            };
            if found != entry.bytes {
                return Err(Damage::Size { file: entry.name.clone(), expected: entry.bytes, found });
            }
        }
        let largest = self.manifest.files.iter().map(|entry| entry.bytes).max().unwrap_or(0);
        let mut block = vec![0; largest.clamp(1, 1 << 20) as usize];
        for entry in &self.manifest.files {
            let path = self.path.join(&entry.name);
            let unreadable = |source| FileError::io(Operation::Read, &path, source);
            let mut file = File::open(&path).map_err(unreadable)?;
            let mut hash = Xxh3::new();
            loop {
                let count = file.read(&mut block).map_err(unreadable)?;
                if count == 0 {
                    break;
                }
                hash.update(&block[..count]);
            }
            if hex(&hash) != entry.xxh3 {
                return Err(Damage::Checksum { file: entry.name.clone() });
            }
        }
        Ok(())
    }

    /// Optimizer steps done.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// What kind of run wrote it: `pretrain`, `finetune`.
    pub fn kind(&self) -> &str {
        &self.manifest.kind
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.manifest.files.iter().map(|entry| entry.name.as_str())
    }

    /// Whether it holds a file of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.names().any(|held| held == name)
    }

    /// The size of all its files.
    pub fn bytes(&self) -> u64 {
        self.manifest.bytes()
    }

    fn entry(&self, name: &str) -> Result<&Entry, CheckpointError> {
        let found = self.manifest.files.iter().find(|entry| entry.name == name);
        found.ok_or_else(|| CheckpointError::NoSuchFile {
            path: self.path.clone(),
            name: name.to_owned(),
            held: self.names().collect::<Vec<_>>().join(", "),
        })
    }

    /// The place of a file, for readers that want a path.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchFile`].
    pub fn file(&self, name: &str) -> Result<PathBuf, CheckpointError> {
        Ok(self.path.join(&self.entry(name)?.name))
    }

    /// A whole file, compared with its checksum again.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchFile`], or the file changed since it was opened.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let mut bytes = Vec::new();
        let path = self.file(name)?;
        let read = self.reader(name)?.read_to_end(&mut bytes);
        read.map_err(|source| FileError::io(Operation::Read, path, source))?;
        Ok(bytes)
    }

    /// A buffered reader of a file that compares it with its checksum again and fails at the end if it differs:
    /// use nothing of it before the end was reached.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchFile`], or the file cannot be opened.
    pub fn reader(&self, name: &str) -> Result<CheckedReader, CheckpointError> {
        let entry = self.entry(name)?;
        let path = self.path.join(&entry.name);
        let file = File::open(&path).map_err(|source| FileError::io(Operation::Read, &path, source))?;
        let inner = BufReader::with_capacity(1 << 20, file);
        Ok(CheckedReader { inner, hash: Xxh3::new(), left: entry.bytes, expected: entry.xxh3.clone() })
    }
}

/// A reader that ends in an error when what it read is not what was written.
pub struct CheckedReader {
    inner: BufReader<File>,
    hash: Xxh3,
    left: u64,
    expected: String,
}

impl Read for CheckedReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let changed = || io::Error::new(io::ErrorKind::InvalidData, "the content changed after it was written");
        let count = self.inner.read(into)?;
        self.hash.update(&into[..count]);
        self.left = self.left.checked_sub(count as u64).ok_or_else(changed)?;
        // a caller that reads exactly the size never asks for the end: compare with the last byte
        if (self.left == 0 || (count == 0 && !into.is_empty())) && (self.left > 0 || hex(&self.hash) != self.expected) {
            return Err(changed());
        }
        Ok(count)
    }
}
