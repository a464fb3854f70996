//! Files mapped into memory: the one module of this crate with `unsafe`.
#![allow(unsafe_code)]

use std::path::Path;

/// Map a file for reading.
pub(super) fn map(path: &Path) -> std::io::Result<memmap2::Mmap> {
    let file = std::fs::File::open(path)?;
    // SAFETY: the map is only read. Should another process shorten the file meanwhile, the process gets a bus error
    // instead of data; model files are written by rename, never in place, so that a reader keeps the file it opened.
    unsafe { memmap2::Mmap::map(&file) }
}

/// Let go of the pages of a range of bytes; they come back from the file when they are read again.
pub(super) fn release(mapped: &memmap2::Mmap, bytes: std::ops::Range<usize>) {
    #[cfg(unix)]
    // SAFETY: the map is private, read-only and backed by the file, so that a page that is dropped comes back unchanged. A
    // system that refuses changes nothing.
    let _ = unsafe { mapped.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, bytes.start, bytes.len()) };
    #[cfg(not(unix))]
    let _ = (mapped, bytes);
}
