//! The one place of this crate that maps files into memory.
#![allow(unsafe_code)] // mapping a file is unsafe by nature: another process could change it under us

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use crate::error::{Error, Result};

/// A file mapped read-only.
#[derive(Debug)]
pub(crate) struct Mapping(memmap2::Mmap);

impl Mapping {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        // SAFETY: the mapping is read-only and private to this value. Shards are written to a temporary folder and
        // renamed when complete, so this program never changes a file that is mapped; every byte read through the
        // mapping is a plain integer, for which any value is valid, and checksums are verified before use.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(Self(map))
    }
}

impl Deref for Mapping {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
