//! The marker of completeness: what files a checkpoint has, and their checksums.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::{Damage, VERSION};
use crate::figures::format_bytes;
use crate::files::{FileError, Operation};

/// Its file; written last.
pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const FORMAT: &str = "cloze-checkpoint";
/// A manifest is a few kilobytes; a larger one is not ours and is not read into memory.
const LIMIT: u64 = 16 << 20;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) format: String,
    pub(super) version: u32,
    pub(super) step: u64,
    pub(super) kind: String,
    pub(super) files: Vec<Entry>,
    /// XXH3 of this manifest with `digest` empty, so that no flipped bit passes for another step or size.
    pub(super) digest: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) xxh3: String,
}

impl Manifest {
    pub(super) fn sealed(mut self) -> Self {
        self.digest = self.seal();
        self
    }

    fn seal(&self) -> String {
        let open = Self { digest: String::new(), ..self.clone() };
        let mut hash = Xxh3::new();
        // a struct of strings and integers always serialises
        let _ = serde_json::to_writer(HashWriter(&mut hash), &open);
        hex(&hash)
    }

    pub(super) fn read(folder: &Path) -> Result<Self, Damage> {
        let path = folder.join(MANIFEST);
        let unreadable = |source| Damage::Unreadable(FileError::io(Operation::Read, &path, source));
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Damage::NoManifest),
            opened => opened.map_err(unreadable)?,
        };
        let mut text = Vec::new();
        file.take(LIMIT + 1).read_to_end(&mut text).map_err(unreadable)?;
        if text.len() as u64 > LIMIT {
            return Err(Damage::Manifest(format!("it is larger than {}", format_bytes(LIMIT))));
        }
        let damaged = |message: &dyn fmt::Display| Damage::Manifest(message.to_string());
        // the version first: a later one may have other fields
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head = serde_json::from_slice(&text).map_err(|error| damaged(&error))?;
        if head.format != FORMAT {
            return Err(damaged(&format_args!("its format is {:?}, not {FORMAT:?}", head.format)));
        }
        let manifest: Result<Self, _> = serde_json::from_slice(&text);
        match manifest {
            Ok(manifest) if manifest.digest != manifest.seal() => Err(damaged(&"its own checksum does not match")),
            Ok(manifest) if manifest.version == VERSION => Ok(manifest),
            _ if head.version > VERSION => Err(Damage::Version { found: head.version }),
            Ok(manifest) => Err(damaged(&format_args!("there never was a version {}", manifest.version))),
            Err(error) => Err(damaged(&error)),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|entry| entry.bytes).fold(0, u64::saturating_add)
    }
}

pub(super) fn hex(hash: &Xxh3) -> String {
    format!("{:016x}", hash.digest())
}

struct HashWriter<'a>(&'a mut Xxh3);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match name {
        "" => Err("it is empty"),
        MANIFEST => Err("the manifest has this name"),
        _ if name.starts_with('.') => Err("it begins with a dot"),
        _ if name.len() > 200 => Err("it is longer than 200 bytes"),
        _ if !name.chars().all(allowed) => Err("only ASCII letters, digits, '.', '-' and '_' may stand in it"),
        _ => Ok(()),
    }
}
