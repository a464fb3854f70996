//! Comma-separated rows with quotes (RFC 4180), bounded.

use std::io::{self, BufRead, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{FoundFault, Source};
use crate::error::{Error, Fault, FaultKind, Result};

/// Gives out at most so many bytes before it is renewed: an open quote must not swallow a whole file.
struct Capped {
    reader: Box<dyn BufRead + Send>,
    left: Arc<AtomicUsize>,
}

impl Read for Capped {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(ErrorKind::FileTooLarge.into());
        }
        let n = out.len().min(left);
        let n = self.reader.read(&mut out[..n])?;
        self.left.store(left - n, Ordering::Relaxed);
        Ok(n)
    }
}

pub(crate) struct Rows {
    path: std::path::PathBuf,
    reader: ::csv::Reader<Capped>,
    left: Arc<AtomicUsize>,
    limit: usize,
    record: ::csv::ByteRecord,
    any: bool,
    crlf: bool,
    ended: bool,
}

impl Rows {
    pub(crate) fn open(source: &Source, limit: usize, bytes_read: Arc<AtomicU64>) -> Result<Self> {
        let left = Arc::new(AtomicUsize::new(limit));
        let mut reader = source.open(bytes_read)?;
        let start = reader.fill_buf().map_err(Error::io("read", source.path()))?;
        let marked = start.starts_with(b"\xef\xbb\xbf");
        let crlf = memchr::memchr(b'\n', start).is_some_and(|at| at > 0 && start[at - 1] == b'\r');
        if marked {
            reader.consume(3);
        }
        let reader = ::csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(Capped { reader, left: Arc::clone(&left) });
        Ok(Self {
            path: source.path().to_path_buf(),
            reader,
            left,
            limit,
            record: ::csv::ByteRecord::new(),
            any: false,
            crlf,
            ended: false,
        })
    }

    fn fault(&self, line: u64, kind: FaultKind) -> FoundFault {
        FoundFault::Bad(Fault { path: self.path.clone(), line, kind })
    }

    /// The next row's line and cells.
    pub(crate) fn next(&mut self) -> Option<Result<(u64, Vec<String>), FoundFault>> {
        if self.ended {
            return None;
        }
        self.left.store(self.limit, Ordering::Relaxed);
        // Of a record's CRLF the library takes the CR alone; the LF, which counts, comes with the next record.
        let behind = u64::from(self.crlf && self.any);
        let line = self.reader.position().line() + behind;
        match self.reader.read_byte_record(&mut self.record) {
            Ok(true) => {}
            Ok(false) => {
                self.ended = true;
                return (!self.any).then(|| Err(self.fault(0, FaultKind::Empty)));
            }
            Err(e) => {
                self.ended = true; // inside a quote there is no telling where the next row starts
                let kind = match e.kind() {
                    ::csv::ErrorKind::Io(e) if e.kind() == ErrorKind::FileTooLarge => FaultKind::LineTooLong { limit: self.limit },
                    _ => FaultKind::Stream { reason: e.to_string() },
                };
                return Some(Err(self.fault(line, kind)));
            }
        }
        self.any = true;
        let line = self.record.position().map_or(line, |place| place.line() + behind);
        let mut cells = Vec::with_capacity(self.record.len());
        for cell in &self.record {
            match std::str::from_utf8(cell) {
                Ok(cell) => cells.push(cell.to_owned()),
                Err(e) => return Some(Err(self.fault(line, FaultKind::Utf8 { at: e.valid_up_to() }))),
            }
        }
        Some(Ok((line, cells)))
    }
}
