//! The run as TensorBoard event files, written without TensorBoard.
//!
//! An event file is a row of TFRecords: length (u64), masked CRC-32C of the length, the bytes of a protocol
//! buffer `Event`, masked CRC-32C of the bytes, all little-endian (tensorflow/core/lib/io/record_writer.h). Of
//! the protocol buffers only the few fields that carry scalars and text are needed, encoded here by hand
//! (event.proto, summary.proto, tensor.proto).

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::files::{self, FileError, Operation};
use crate::observer::{Eval, Event, Level, Observer, Record};

/// Writes the events of a run for TensorBoard.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: File,
}

impl TensorBoard {
    /// Opens a new event file in `folder`, which is made if it is not there. A run that is resumed after `step`
    /// gives it, and TensorBoard then forgets what earlier files hold after that step.
    ///
    /// # Errors
    /// When the folder or the file cannot be made.
    pub fn create(folder: &Path, resumed_after: Option<u64>) -> Result<Self, FileError> {
        files::create_folder(folder)?;
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host: String = host.trim().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let host = if host.is_empty() { "local" } else { &host };
        let process = std::process::id();
        // TensorBoard reads the files of a folder in the order of their names
        let stem = format!("events.out.tfevents.{:010}.{host}.{process}", unix_time() as u64);
        let mut number = 0;
        let (path, file) = loop {
            let path = folder.join(format!("{stem}.{number}"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => break (path, file),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(source) => return Err(FileError::io(Operation::Create, path, source)),
            }
        };
        let mut board = Self { path, file };
        board.record(0, |event| event.text(proto::FILE_VERSION, "brain.Event:2"))?;
        if let Some(step) = resumed_after {
            board.record(step + 1, |event| event.message(proto::SESSION_LOG, |log| log.integer(1, proto::SESSION_START)))?;
        }
        Ok(board)
    }

    fn record(&mut self, step: u64, fill: impl FnOnce(&mut Proto)) -> Result<(), FileError> {
        let mut event = Proto::default();
        event.double(proto::WALL_TIME, unix_time());
        event.integer(proto::STEP, step);
        fill(&mut event);
        self.file.write_all(&frame(&event.0)).map_err(|source| FileError::io(Operation::Write, &self.path, source))
    }

    fn scalars(&mut self, step: u64, values: &[(String, f64)]) -> Result<(), FileError> {
        self.record(step, |event| {
            event.message(proto::SUMMARY, |summary| {
                for (tag, value) in values.iter().filter(|(_, value)| value.is_finite()) {
                    summary.message(1, |entry| {
                        entry.text(proto::TAG, tag);
                        entry.float(proto::SIMPLE_VALUE, *value as f32);
                    });
                }
            });
        })
    }

    fn text(&mut self, step: u64, tag: &str, markdown: &str) -> Result<(), FileError> {
        self.record(step, |event| {
            event.message(proto::SUMMARY, |summary| {
                summary.message(1, |entry| {
                    entry.text(proto::TAG, tag);
                    entry.message(proto::TENSOR, |tensor| {
                        tensor.integer(1, proto::DT_STRING);
                        // shape [1]
                        tensor.message(2, |shape| shape.message(2, |dimension| dimension.integer(1, 1)));
                        tensor.text(8, markdown);
                    });
                    entry.message(proto::METADATA, |metadata| {
                        metadata.message(1, |plugin| plugin.text(1, "text"));
                        metadata.integer(4, proto::DATA_CLASS_TENSOR);
                    });
                });
            });
        })
    }
}

impl Observer for TensorBoard {
    fn event(&mut self, event: &Event) -> Result<(), FileError> {
        match event {
            Event::Start(start) if !start.config.is_null() => {
                let config = serde_json::to_string_pretty(&start.config).unwrap_or_default();
                let text = format!("{} · {} parameters\n\n```json\n{config}\n```", start.device, start.parameters);
                self.text(start.step, "config", &text)
            }
            Event::Step(record) => self.scalars(record.step, &step_scalars(record)),
            Event::Eval(eval) => self.scalars(eval.step, &eval_scalars(eval)),
            Event::Message(message) if message.level == Level::Example => {
                self.text(message.step, "examples", &format!("```\n{}\n```", message.text))
            }
            Event::Start(_) | Event::Message(_) | Event::Checkpoint(_) | Event::Finished(_) => Ok(()),
        }
    }
}

/// TensorBoard puts tags with the same first word in one section, so training and held-out data share one.
fn step_scalars(record: &Record) -> Vec<(String, f64)> {
    let optional =
        [("accuracy/train", record.accuracy), ("perplexity/train", record.perplexity), ("speed/share_of_peak", record.share_of_peak)];
    let always = [
        ("loss/train", record.loss),
        ("optimizer/learning_rate", record.learning_rate),
        ("optimizer/gradient_norm", record.grad_norm),
        ("speed/tokens_per_second", record.tokens_per_second),
        ("memory/resident_mb", record.memory_mb),
        ("memory/peak_mb", record.memory_peak_mb),
        ("data/epoch", record.epoch),
        ("data/tokens", record.tokens as f64),
    ];
    let parts = record.parts.iter().map(|(name, value)| (format!("loss/train_{name}"), *value));
    let optional = optional.into_iter().filter_map(|(tag, value)| Some((tag.to_owned(), value?)));
    always.into_iter().map(|(tag, value)| (tag.to_owned(), value)).chain(optional).chain(parts).collect()
}

fn eval_scalars(eval: &Eval) -> Vec<(String, f64)> {
    eval.metrics.iter().map(|(metric, value)| (format!("{metric}/{}", eval.name), *value)).collect()
}

fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// One TFRecord.
fn frame(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let crc = |bytes: &[u8]| masked(crc32c::crc32c(bytes)).to_le_bytes();
    [&length[..], &crc(&length), bytes, &crc(bytes)].concat()
}

/// A CRC over bytes that hold CRCs is weak, so stored ones are rotated and shifted (tensorflow's crc32c::Mask).
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The numbers of the fields and enums that are used.
mod proto {
    pub(super) const WALL_TIME: u32 = 1;
    pub(super) const STEP: u32 = 2;
    pub(super) const FILE_VERSION: u32 = 3;
    pub(super) const SUMMARY: u32 = 5;
    pub(super) const SESSION_LOG: u32 = 7;
    pub(super) const SESSION_START: u64 = 1;
    pub(super) const TAG: u32 = 1;
    pub(super) const SIMPLE_VALUE: u32 = 2;
    pub(super) const TENSOR: u32 = 8;
    pub(super) const METADATA: u32 = 9;
    pub(super) const DT_STRING: u64 = 7;
    pub(super) const DATA_CLASS_TENSOR: u64 = 2;
}

/// A protocol buffer message being written: each field is `number << 3 | wire type`, then its bytes.
#[derive(Default)]
struct Proto(Vec<u8>);

impl Proto {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn integer(&mut self, field: u32, value: u64) {
        self.varint(u64::from(field << 3));
        self.varint(value);
    }

    fn double(&mut self, field: u32, value: f64) {
        self.varint(u64::from(field << 3 | 1));
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u32, value: f32) {
        self.varint(u64::from(field << 3 | 5));
        self.0.extend(value.to_le_bytes());
    }

    fn text(&mut self, field: u32, text: &str) {
        self.varint(u64::from(field << 3 | 2));
        self.varint(text.len() as u64);
        self.0.extend(text.as_bytes());
    }

    fn message(&mut self, field: u32, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.varint(u64::from(field << 3 | 2));
        self.varint(inner.0.len() as u64);
        self.0.extend(inner.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observer::Start;
    use std::collections::BTreeMap;

    /// Reads the framing back and checks both sums of every record.
    fn records(path: &Path) -> Vec<Vec<u8>> {
        let bytes = fs::read(path).unwrap();
        let mut rest = &bytes[..];
        let mut records = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_at(8);
            let (length_crc, after) = after.split_at(4);
            let count = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            let (payload, after) = after.split_at(count);
            let (payload_crc, after) = after.split_at(4);
            assert_eq!(length_crc, masked(crc32c::crc32c(length)).to_le_bytes());
            assert_eq!(payload_crc, masked(crc32c::crc32c(payload)).to_le_bytes());
            records.push(payload.to_vec());
            rest = after;
        }
        records
    }

    /// The fields of a message: (number, varint or fixed bytes, or the bytes of a length-delimited field).
    fn fields(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let (byte, rest) = bytes.split_first().unwrap();
                *bytes = rest;
                value |= u64::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            value
        }
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let value = match key & 7 {
                0 => varint(&mut bytes).to_le_bytes().to_vec(),
                wire => {
                    let count = match wire {
                        1 => 8,
                        5 => 4,
                        _ => varint(&mut bytes) as usize,
                    };
                    let (value, rest) = bytes.split_at(count);
                    bytes = rest;
                    value.to_vec()
                }
            };
            fields.push(((key >> 3) as u32, value));
        }
        fields
    }

    fn field(bytes: &[u8], number: u32) -> Vec<u8> {
        fields(bytes).into_iter().find(|(found, _)| *found == number).unwrap().1
    }

    #[test]
    fn the_sum_is_tensorflows() {
        // CRC-32C of "123456789" is 0xE3069283 (RFC 3720, B.4); masked as record_writer does
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked(0xe306_9283), 0xc78a_b0e5);
    }

    #[test]
    fn scalars_and_text_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::create(folder.path(), None).unwrap();
        let config = serde_json::json!({ "seed": 1 });
        board.event(&Event::Start(Start { config, device: "cpu".into(), ..Start::default() })).unwrap();
        let parts = BTreeMap::from([("mlm".to_owned(), 2.5)]);
        let record = Record { step: 300, loss: 2.5, parts, grad_norm: f64::NAN, ..Record::default() };
        board.event(&Event::Step(record)).unwrap();
        board
            .event(&Event::Eval(Eval { step: 300, name: "dev".into(), metrics: [("loss".into(), 2.75)].into(), ..Eval::default() }))
            .unwrap();

        let records = records(&board.path);
        assert_eq!(field(&records[0], proto::FILE_VERSION), b"brain.Event:2");
        let config = field(&field(&records[1], proto::SUMMARY), 1);
        assert_eq!(field(&config, proto::TAG), b"config");
        assert!(String::from_utf8(field(&field(&config, proto::TENSOR), 8)).unwrap().contains("\"seed\": 1"));
        let scalars = |record: &[u8]| -> BTreeMap<String, f32> {
            assert_eq!(field(record, proto::STEP), 300u64.to_le_bytes());
            let values = fields(&field(record, proto::SUMMARY)).into_iter().map(|(_, value)| {
                let bytes: [u8; 4] = field(&value, proto::SIMPLE_VALUE).try_into().unwrap();
                (String::from_utf8(field(&value, proto::TAG)).unwrap(), f32::from_le_bytes(bytes))
            });
            values.collect()
        };
        let step = scalars(&records[2]);
        assert_eq!((step["loss/train"], step["loss/train_mlm"]), (2.5, 2.5));
        assert!(!step.contains_key("optimizer/gradient_norm"), "NaN is not drawn");
        assert_eq!(scalars(&records[3])["loss/dev"], 2.75);
    }

    #[test]
    fn a_resumed_run_starts_a_second_file_and_a_new_session() {
        let folder = tempfile::tempdir().unwrap();
        let first = TensorBoard::create(folder.path(), None).unwrap();
        let second = TensorBoard::create(folder.path(), Some(7)).unwrap();
        assert_ne!(first.path, second.path);
        let records = records(&second.path);
        assert_eq!(field(&records[1], proto::STEP), 8u64.to_le_bytes());
        assert_eq!(field(&field(&records[1], proto::SESSION_LOG), 1), proto::SESSION_START.to_le_bytes());
    }
}
