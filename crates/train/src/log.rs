//! The log of a run: one [`Event`] a line, as JSON, in a file that only grows and outlives the process.
//!
//! A resumed run first drops the lines after the step it goes on from, and a last line that was torn by a
//! crash, so that no step stands in the log twice.
//!
//! ```
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("log.jsonl");
//! use cloze_train::log::{JsonlLog, read_log};
//! use cloze_train::observer::{Event, Observer};
//! let mut log = JsonlLog::create(&path).unwrap();
//! log.event(&Event::note(1, "hello")).unwrap();
//! assert_eq!(read_log(&path).unwrap(), [Event::note(1, "hello")]);
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::files::{self, FileError, Operation};
use crate::observer::{Event, Observer};

/// A longer line is not ours: it is dropped, not read into memory.
const LINE_LIMIT: usize = 16 << 20;

/// Writes the events of a run, each in one system call.
#[derive(Debug)]
pub struct JsonlLog {
    path: PathBuf,
    file: File,
    line: Vec<u8>,
}

impl JsonlLog {
    /// A new log; what was at `path` before is dropped.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> Result<Self, FileError> {
        let file = File::create(path).map_err(|source| FileError::io(Operation::Create, path, source))?;
        Ok(Self { path: path.to_owned(), file, line: Vec::new() })
    }

    /// Goes on with the log of a run that is resumed after `step`: later lines and damaged ones are dropped.
    /// No log at all is a new one.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn resume(path: &Path, step: u64) -> Result<Self, FileError> {
        if !path.exists() {
            return Self::create(path);
        }
        let mut kept = 0;
        let mut all = 0;
        each_line(path, |line, whole| {
            all += 1;
            kept += usize::from(whole && is_up_to(line, step));
            Ok(())
        })?;
        if kept < all {
            files::replace_file(path, |out| {
                let copied = each_line(path, |line, _| {
                    if is_up_to(line, step) {
                        out.write_all(line)?;
                        out.write_all(b"\n")?;
                    }
                    Ok(())
                });
                copied.map_err(|error| match error {
                    FileError::Io { source, .. } => source,
                    other => io::Error::other(other.to_string()),
                })
            })?;
        }
        let file = OpenOptions::new().append(true).open(path);
        let file = file.map_err(|source| FileError::io(Operation::Write, path, source))?;
        Ok(Self { path: path.to_owned(), file, line: Vec::new() })
    }
}

impl Observer for JsonlLog {
    fn event(&mut self, event: &Event) -> Result<(), FileError> {
        let error = |source| FileError::io(Operation::Write, &self.path, source);
        self.line.clear();
        serde_json::to_writer(&mut self.line, event).map_err(|source| error(source.into()))?;
        self.line.push(b'\n');
        self.file.write_all(&self.line).map_err(error)?;
        if matches!(event, Event::Checkpoint(_) | Event::Finished(_)) {
            // a log never ends before the checkpoint it belongs to
            self.file.sync_data().map_err(|source| FileError::io(Operation::Sync, &self.path, source))?;
        }
        Ok(())
    }
}

/// Any event, known to this version or not, is a JSON object with a step.
fn is_up_to(line: &[u8], step: u64) -> bool {
    #[derive(Deserialize)]
    struct Step {
        step: u64,
    }
    serde_json::from_slice::<Step>(line).is_ok_and(|found| found.step <= step)
}

/// Passes every line without its newline, and whether it had one.
fn each_line(path: &Path, mut take: impl FnMut(&[u8], bool) -> io::Result<()>) -> Result<(), FileError> {
    let error = |source| FileError::io(Operation::Read, path, source);
    let mut reader = BufReader::with_capacity(1 << 18, File::open(path).map_err(error)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut over = false;
        loop {
            let block = reader.fill_buf().map_err(error)?;
            let end = block.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(block.len(), |at| at + 1);
            over |= line.len() + taken > LINE_LIMIT;
            if !over {
                line.extend_from_slice(&block[..taken]);
            }
            reader.consume(taken);
            if end.is_some() || taken == 0 {
                break;
            }
        }
        if over {
            line.clear();
            line.push(b'\n');
        }
        if line.is_empty() {
            return Ok(());
        }
        let whole = line.pop_if(|last| *last == b'\n').is_some();
        take(&line, whole).map_err(error)?;
    }
}

/// The events of a log; damaged lines and events of later versions are passed over.
///
/// # Errors
/// When the file cannot be read.
pub fn read_log(path: &Path) -> Result<Vec<Event>, FileError> {
    let mut events = Vec::new();
    each_line(path, |line, _| {
        events.extend(serde_json::from_slice::<Event>(line));
        Ok(())
    })?;
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observer::{Eval, Record, Start};
    use std::fs;

    fn step(step: u64) -> Event {
        Event::Step(Record { step, loss: 1.0 / step as f64, ..Record::default() })
    }

    fn written(path: &Path, steps: std::ops::RangeInclusive<u64>) {
        let mut log = JsonlLog::create(path).unwrap();
        log.event(&Event::Start(Start::default())).unwrap();
        for n in steps {
            log.event(&step(n)).unwrap();
        }
    }

    #[test]
    fn every_line_is_on_the_disk_when_the_event_returns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = JsonlLog::create(&path).unwrap();
        for n in 1..4 {
            log.event(&step(n)).unwrap();
            assert_eq!(read_log(&path).unwrap().len() as u64, n);
        }
    }

    #[test]
    fn a_crash_at_any_byte_leaves_a_log_that_goes_on_without_doubles() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        written(&path, 1..=6);
        let uninterrupted = read_log(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        let fourth = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(4).unwrap().0;
        for cut in fourth..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut log = JsonlLog::resume(&path, 4).unwrap();
            for n in [5, 6] {
                log.event(&step(n)).unwrap();
            }
            assert_eq!(read_log(&path).unwrap(), uninterrupted, "cut at byte {cut}");
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn damage_is_dropped_and_unknown_events_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let eval = serde_json::to_string(&Event::Eval(Eval { step: 2, ..Eval::default() })).unwrap();
        let later = "{\"event\":\"hologram\",\"step\":2}";
        let lines = [eval.as_str(), "\u{0}\u{0}\u{0}", later, "", "{\"event\":\"step\"}", "{\"event\":\"step\",\"step\":3}", "{\"ev"];
        fs::write(&path, lines.join("\n")).unwrap();
        JsonlLog::resume(&path, 2).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{eval}\n{later}\n"));
        assert_eq!(read_log(&path).unwrap().len(), 1);
        assert!(read_log(&folder.path().join("none")).is_err());
        JsonlLog::resume(&folder.path().join("none"), 7).unwrap();
    }

    #[test]
    fn an_endless_line_takes_no_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let long = vec![b'x'; LINE_LIMIT + 10];
        fs::write(&path, [&long[..], b"\n{\"event\":\"step\",\"step\":1}\n"].concat()).unwrap();
        assert_eq!(read_log(&path).unwrap().len(), 1);
        JsonlLog::resume(&path, 1).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 100);
    }
}
