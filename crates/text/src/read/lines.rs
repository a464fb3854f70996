//! Lines of an input, numbered, checked and bounded.

use std::io::{BufRead, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::{FoundFault, Source};
use crate::error::{Error, Fault, FaultKind, Result};

/// Lines without their ends. A byte-order mark at the start and a carriage return at a line's end are dropped.
pub(crate) struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    buffer: Vec<u8>,
    line: u64,
    limit: usize,
    ended: bool,
}

impl Lines {
    pub(crate) fn open(source: &Source, limit: usize, bytes_read: Arc<AtomicU64>) -> Result<Self> {
        Ok(Self { path: source.path().to_path_buf(), reader: source.open(bytes_read)?, buffer: Vec::new(), line: 0, limit, ended: false })
    }

    pub(crate) fn fault(&self, line: u64, kind: FaultKind) -> FoundFault {
        FoundFault::Bad(Fault { path: self.path.clone(), line, kind })
    }

    /// The next line and its number, from 1; `None` at the end. After a bad line the next one follows.
    pub(crate) fn next(&mut self) -> Option<Result<(u64, &str), FoundFault>> {
        if self.ended {
            return None;
        }
        let fits = match self.read() {
            Ok(Some(fits)) => fits,
            Ok(None) => {
                self.ended = true;
                return (self.line == 0).then(|| Err(self.fault(0, FaultKind::Empty)));
            }
            Err(e) => {
                self.ended = true;
                return Some(Err(match e.kind() {
                    ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof | ErrorKind::Other => {
                        self.fault(self.line + 1, FaultKind::Stream { reason: e.to_string() })
                    }
                    _ => Error::io("read", &self.path)(e).into(),
                }));
            }
        };
        self.line += 1;
        if !fits {
            return Some(Err(self.fault(self.line, FaultKind::LineTooLong { limit: self.limit })));
        }
        if self.buffer.last() == Some(&b'\r') {
            self.buffer.pop();
        }
        let bytes = if self.line == 1 { self.buffer.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.buffer) } else { &self.buffer };
        Some(match std::str::from_utf8(bytes) {
            Ok(text) => Ok((self.line, text)),
            Err(e) => Err(self.fault(self.line, FaultKind::Utf8 { at: e.valid_up_to() })),
        })
    }

    /// Read one line into the buffer; `Some(false)` if it passed the limit and was thrown away.
    fn read(&mut self) -> std::io::Result<Option<bool>> {
        self.buffer.clear();
        let (mut any, mut fits) = (false, true);
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if chunk.is_empty() {
                return Ok(any.then_some(fits));
            }
            any = true;
            let end = memchr::memchr(b'\n', chunk);
            let part = &chunk[..end.unwrap_or(chunk.len())];
            if self.buffer.len() + part.len() > self.limit {
                fits = false;
                self.buffer = Vec::new();
            }
            if fits {
                self.buffer.extend_from_slice(part);
            }
            let used = end.map_or(chunk.len(), |end| end + 1);
            self.reader.consume(used);
            if end.is_some() {
                return Ok(Some(fits));
            }
        }
    }
}
