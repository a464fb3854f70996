//! Which files are read, and their bytes after decompression.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::Format;
use crate::error::{Error, Result};

/// Bytes that are read at a time.
const BUFFER: usize = 1 << 16;

/// One input: a file, or `-` for standard input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    path: PathBuf,
}

/// The files behind `inputs`: files as given, patterns and folders sorted by name, each file once.
///
/// Of a folder, all files whose name tells a format are taken, in subfolders too; hidden ones are left out.
pub fn expand<S: AsRef<str>>(inputs: &[S]) -> Result<Vec<Source>> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for input in inputs {
        let input = input.as_ref();
        let path = Path::new(input);
        let before = paths.len();
        if input == "-" || path.is_file() {
            paths.push(path.to_path_buf());
        } else if path.is_dir() {
            folder(path, &mut paths)?;
        } else if input.contains(['*', '?', '[']) {
            let bad = |reason: String| Error::BadPattern { pattern: input.to_owned(), reason };
            let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::default() };
            let mut found = glob::glob_with(input, options)
                .map_err(|e| bad(e.to_string()))?
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| bad(e.to_string()))?;
            found.sort();
            for path in found {
                if path.is_dir() {
                    folder(&path, &mut paths)?;
                } else {
                    paths.push(path);
                }
            }
        } else if path.exists() {
            paths.push(path.to_path_buf()); // a pipe or a device
        }
        if paths.len() == before {
            return Err(Error::NoInput { pattern: input.to_owned() });
        }
    }
    let mut seen = std::collections::HashSet::new();
    paths.retain(|path| seen.insert(path.clone()));
    Ok(paths.into_iter().map(|path| Source { path }).collect())
}

fn folder(path: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(path).map_err(Error::io("read", path))?;
    let mut names = entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(Error::io("read", path))?;
    names.sort();
    for name in names {
        let hidden = name.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        // A linked folder is not followed: it could lead back up.
        let link = name.symlink_metadata().is_ok_and(|m| m.is_symlink());
        if hidden || (link && name.is_dir()) {
            continue;
        }
        if name.is_dir() {
            folder(&name, out)?;
        } else if Format::of(&name).is_some() {
            out.push(name);
        }
    }
    Ok(())
}

impl Source {
    /// The source at `path`; `-` is standard input.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is standard input.
    pub fn is_stdin(&self) -> bool {
        self.path == Path::new("-")
    }

    /// Size of the file before decompression; `None` for standard input and pipes.
    pub fn bytes(&self) -> Option<u64> {
        std::fs::metadata(&self.path).ok().filter(std::fs::Metadata::is_file).map(|m| m.len())
    }

    /// The forced format, or the one the name tells; standard input is plain text.
    pub fn format(&self, forced: Option<Format>) -> Result<Format> {
        let told = || if self.is_stdin() { Some(Format::Txt) } else { Format::of(&self.path) };
        forced.or_else(told).ok_or_else(|| Error::UnknownFormat { path: self.path.clone() })
    }

    /// Its bytes after decompression; gzip and zstd are known by their first bytes, whatever the name.
    pub(crate) fn open(&self, bytes_read: Arc<AtomicU64>) -> Result<Box<dyn BufRead + Send>> {
        let raw: Box<dyn Read + Send> =
            if self.is_stdin() { Box::new(io::stdin()) } else { Box::new(File::open(&self.path).map_err(Error::io("open", &self.path))?) };
        unpacked(Counted { raw, bytes_read }).map_err(Error::io("read", &self.path))
    }
}

fn unpacked(mut raw: Counted) -> io::Result<Box<dyn BufRead + Send>> {
    let start = peek(&mut raw)?;
    let first = [0, 1, 2, 3].map(|i| start.get(i).copied().unwrap_or(0));
    let bytes = BufReader::with_capacity(BUFFER, io::Cursor::new(start).chain(raw));
    Ok(match first {
        [0x1f, 0x8b, ..] => Box::new(BufReader::with_capacity(BUFFER, flate2::bufread::MultiGzDecoder::new(bytes))),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(BufReader::with_capacity(BUFFER, Zstd::new(bytes))),
        [low, 0x2a, 0x4d, 0x18] if low & 0xf0 == 0x50 => Box::new(BufReader::with_capacity(BUFFER, Zstd::new(bytes))),
        _ => Box::new(bytes),
    })
}

/// The first bytes, enough to tell what they are. A pipe may give them one by one, and a terminal no more than a short line: what cannot become
/// the start of a packed file is not waited for.
fn peek(raw: &mut impl Read) -> io::Result<Vec<u8>> {
    let undecided = |start: &[u8]| {
        matches!(
            start,
            [] | [0x1f | 0x28 | 0x50..=0x5f] | [0x28, 0xb5] | [0x28, 0xb5, 0x2f] | [0x50..=0x5f, 0x2a] | [0x50..=0x5f, 0x2a, 0x4d]
        )
    };
    let (mut start, mut len) = (vec![0; BUFFER], 0);
    while undecided(&start[..len]) {
        match raw.read(&mut start[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    start.truncate(len);
    Ok(start)
}

struct Counted {
    raw: Box<dyn Read + Send>,
    bytes_read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.raw.read(out)?;
        self.bytes_read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// A zstd file: any number of frames one after the other, skippable ones among them, with their checksums verified.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        Self { source, decoder: FrameDecoder::new(), in_frame: false }
    }

    /// Go to the next frame; false at the end of the file.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?;
                    if skipped < u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(e) => return Err(io::Error::new(io::ErrorKind::InvalidData, e)),
            }
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if self.in_frame {
                while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                    self.decoder
                        .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBytes(1 << 16))
                        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                }
                let n = self.decoder.read(out)?;
                if n > 0 {
                    return Ok(n);
                }
                let (stored, computed) = (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
                if let (Some(stored), Some(computed)) = (stored, computed)
                    && stored != computed
                {
                    let reason = format!("zstd checksum differs: expected {stored:08x}, found {computed:08x}");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
                }
            }
            self.in_frame = self.next_frame()?;
            if !self.in_frame {
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a byte at a time.
    struct Slow(io::Cursor<Vec<u8>>);

    impl Read for Slow {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let n = out.len().min(1);
            self.0.read(&mut out[..n])
        }
    }

    #[test]
    fn pipes_may_be_slow() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        io::Write::write_all(&mut gz, b"a text\n").unwrap();
        let zstd = ruzstd::encoding::compress_to_vec(&b"a text\n"[..], ruzstd::encoding::CompressionLevel::Fastest);
        // A skippable frame before the one with the text.
        let skipped = [&[0x5e, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 7, 7], &zstd[..]].concat();
        for packed in [gz.finish().unwrap(), zstd, skipped, b"a text\n".to_vec()] {
            let raw = Counted { raw: Box::new(Slow(io::Cursor::new(packed.clone()))), bytes_read: Arc::default() };
            let bytes_read = Arc::clone(&raw.bytes_read);
            let mut text = String::new();
            unpacked(raw).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "a text\n");
            assert_eq!(bytes_read.load(Ordering::Relaxed), packed.len() as u64);
        }
        for (bytes, taken) in [("", 0), ("P", 1), ("P\na", 2), ("(a", 2), ("X*\na", 3), ("no\n", 1)] {
            let start = peek(&mut Slow(io::Cursor::new(bytes.into()))).unwrap();
            assert_eq!(start, &bytes.as_bytes()[..taken], "{bytes:?}");
        }
    }
}
