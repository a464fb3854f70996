//! Checkpoints that are complete or not there: the container of a run's state.
//!
//! A checkpoint is a folder `checkpoint-<step>/` of named files and a `manifest.json` with the size and the
//! XXH3 checksum of each. It is written as `.partial-<step>/`, every file synced, the manifest last, and then
//! renamed into its place. A folder without a whole manifest is no checkpoint; one whose files do not match
//! their checksums is never loaded, the one before it is.
//!
//! ```
//! # let folder = tempfile::tempdir().unwrap();
//! use cloze_train::checkpoint::Checkpoints;
//! let mut checkpoints = Checkpoints::open(folder.path(), 2).unwrap();
//! checkpoints.save(100, "pretrain", |out| out.write("state.json", |file| file.write_all(b"{}"))).unwrap();
//! let latest = checkpoints.latest().unwrap();
//! assert_eq!(latest.checkpoint.unwrap().read("state.json").unwrap(), b"{}");
//! ```

mod folder;
mod manifest;
mod read;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use crate::files::FileError;

pub use folder::{CheckpointWriter, Checkpoints, Latest, SavedCheckpoint, latest_complete};
pub use read::{CheckedReader, Checkpoint};

/// The version that this program writes, and the last that it reads.
const VERSION: u32 = 1;
/// What the folder of a checkpoint is called, before its step.
const PREFIX: &str = "checkpoint-";

/// A checkpoint that could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The disk failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A checkpoint that is not whole.
    #[error("{} cannot be loaded: {damage}", path.display())]
    Damaged {
        /// Its folder.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
    /// The checkpoint has no file of this name.
    #[error("{} holds no {name:?}; it holds {held}", path.display())]
    NoSuchFile {
        /// Its folder.
        path: PathBuf,
        /// The name asked for.
        name: String,
        /// The names that are there.
        held: String,
    },
    /// A name that no file of a checkpoint can have, or that is taken.
    #[error("{name:?} cannot be a file of a checkpoint: {reason}")]
    Name {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// The mark of the best checkpoint is not readable.
    #[error("{} is not readable ({message}); it only marks the best checkpoint: delete it to go on", path.display())]
    BestMark {
        /// The mark's file.
        path: PathBuf,
        /// What the parser said.
        message: String,
    },
}

/// Why a folder is not a complete checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// The writing was cut off: the marker of completeness is not there.
    #[error("its manifest.json is missing, so it was never finished")]
    NoManifest,
    /// The manifest is not what was written.
    #[error("its manifest.json is damaged: {0}")]
    Manifest(String),
    /// Written by a later version.
    #[error("its format is version {found}, this program reads up to {VERSION}: use a newer Cloze")]
    Version {
        /// The version found.
        found: u32,
    },
    /// The folder was renamed, or the manifest is another's.
    #[error("its folder says step {folder}, its manifest says {manifest}")]
    Step {
        /// The step in the folder's name.
        folder: u64,
        /// The step in the manifest.
        manifest: u64,
    },
    /// A file is not there.
    #[error("{file} is missing")]
    Missing {
        /// Its name.
        file: String,
    },
    /// A file was cut or grew.
    #[error("{file} has {found} bytes instead of {expected}")]
    Size {
        /// Its name.
        file: String,
        /// Bytes in the manifest.
        expected: u64,
        /// Bytes on the disk.
        found: u64,
    },
    /// A file's content changed.
    #[error("the checksum of {file} does not match: its content changed after it was written")]
    Checksum {
        /// Its name.
        file: String,
    },
    /// A file cannot be read at all.
    #[error(transparent)]
    Unreadable(#[from] FileError),
}

/// The step in a folder's name.
fn step_of(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX).and_then(number)
}

/// Digits as we write them: no sign, no leading zero.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}
