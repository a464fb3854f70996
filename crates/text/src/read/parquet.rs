//! Parquet files: their text column as documents, their rows as records.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::reader::RowIter;
use ::parquet::record::{Field, Row};
use ::parquet::schema::types::Type;
use serde_json::{Map, Number, Value};

use super::records::Record;
use super::{Document, Found, FoundFault, ReadOptions, Source, TEXT_FIELDS};
use crate::error::{Error, Fault, FaultKind, Result};

pub(crate) struct Texts {
    path: PathBuf,
    rows: RowIter<'static>,
    row: u64,
    total: u64,
    bytes: u64,
    counted: u64,
    bytes_read: Arc<AtomicU64>,
    ended: bool,
}

impl Texts {
    pub(crate) fn open(source: &Source, options: &ReadOptions, bytes_read: Arc<AtomicU64>) -> Result<Self> {
        let path = source.path().to_path_buf();
        let bad = |reason: String| Error::Bad(Fault { path: path.clone(), line: 0, kind: FaultKind::Stream { reason } });
        let reader = open(source)?;
        let metadata = reader.metadata().file_metadata();
        let (schema, total) = (metadata.schema().clone(), metadata.num_rows().max(0) as u64);
        let fields = schema.get_fields();
        let wanted: Vec<&str> = match &options.text_field {
            Some(field) => vec![field.as_str()],
            None => TEXT_FIELDS.to_vec(),
        };
        let Some(field) = wanted.iter().find_map(|name| fields.iter().find(|field| field.name().eq_ignore_ascii_case(name))) else {
            let found = fields.iter().map(|field| field.name().to_owned()).collect();
            return Err(Error::MissingColumn { path, wanted: wanted.iter().map(|&w| w.to_owned()).collect(), found });
        };
        let projection =
            Type::group_type_builder(schema.name()).with_fields(vec![Arc::clone(field)]).build().map_err(|e| bad(e.to_string()))?;
        let rows = guarded(|| RowIter::from_file_into(Box::new(reader)).project(Some(projection))).map_err(bad)?;
        let bytes = source.bytes().unwrap_or(0);
        Ok(Self { path, rows, row: 0, total, bytes, counted: 0, bytes_read, ended: false })
    }

    fn fault(&self, kind: FaultKind) -> FoundFault {
        FoundFault::Bad(Fault { path: self.path.clone(), line: self.row, kind })
    }

    fn text(&self, row: &Row) -> Result<String, FoundFault> {
        match row.get_column_iter().next() {
            Some((_, Field::Str(text))) => Ok(text.clone()),
            Some((_, Field::Bytes(bytes))) => match std::str::from_utf8(bytes.data()) {
                Ok(text) => Ok(text.to_owned()),
                Err(e) => Err(self.fault(FaultKind::Utf8 { at: e.valid_up_to() })),
            },
            Some((name, _)) => Err(self.fault(FaultKind::NotText { field: name.clone() })),
            None => Err(self.fault(FaultKind::NotText { field: "text".to_owned() })),
        }
    }
}

impl Iterator for Texts {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if self.ended {
            return None;
        }
        let Some(row) = step(&mut self.rows) else {
            self.ended = true;
            self.bytes_read.fetch_add(self.bytes - self.counted, Ordering::Relaxed);
            return (self.row == 0).then(|| Err(self.fault(FaultKind::Empty)));
        };
        self.row += 1;
        let done = (u128::from(self.bytes) * u128::from(self.row) / u128::from(self.total.max(self.row))) as u64;
        self.bytes_read.fetch_add(done - self.counted, Ordering::Relaxed);
        self.counted = done;
        Some(match row {
            Ok(row) => self.text(&row).map(|text| Document { line: self.row, text }),
            Err(e) => {
                self.ended = true;
                Err(self.fault(FaultKind::Stream { reason: e }))
            }
        })
    }
}

/// The rows of a file with all their columns.
pub(crate) struct Rows {
    path: PathBuf,
    rows: RowIter<'static>,
    row: u64,
}

impl Rows {
    pub(crate) fn open(source: &Source) -> Result<Self> {
        let rows = open(source)?;
        let rows = guarded(|| Ok(RowIter::from_file_into(Box::new(rows)))).map_err(|e| broken(source, e))?;
        Ok(Self { path: source.path().to_path_buf(), rows, row: 0 })
    }
}

impl Iterator for Rows {
    type Item = Result<Record, FoundFault>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = step(&mut self.rows)?;
        self.row += 1;
        let fault = |kind| FoundFault::Bad(Fault { path: self.path.clone(), line: self.row, kind });
        Some(match row {
            Ok(row) => object(&row).map(|fields| Record { line: self.row, fields }).map_err(fault),
            Err(reason) => Err(fault(FaultKind::Stream { reason })),
        })
    }
}

/// A file whose end says what it holds, and holds it.
fn open(source: &Source) -> Result<SerializedFileReader<File>> {
    let file = File::open(source.path()).map_err(Error::io("open", source.path()))?;
    let len = file.metadata().map_err(Error::io("read", source.path()))?.len();
    let reader = guarded(|| SerializedFileReader::new(file)).map_err(|e| broken(source, e))?;
    for (number, group) in reader.metadata().row_groups().iter().enumerate() {
        for column in group.columns() {
            let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            let inside = |start: i64, bytes: i64| Some(u64::try_from(start).ok()?.checked_add(u64::try_from(bytes).ok()?)? <= len);
            let bytes = column.compressed_size();
            if inside(start, bytes) != Some(true) || inside(column.data_page_offset(), 0) != Some(true) || column.num_values() < 0 {
                let name = column.column_path();
                let reason = format!("row group {number}: column {name} stands at {start} with {bytes} bytes, in a file of {len} bytes");
                return Err(broken(source, reason));
            }
        }
        if group.num_rows() < 0 {
            return Err(broken(source, format!("row group {number} has {} rows", group.num_rows())));
        }
    }
    Ok(reader)
}

fn broken(source: &Source, reason: String) -> Error {
    Error::Bad(Fault { path: source.path().to_path_buf(), line: 0, kind: FaultKind::Stream { reason } })
}

/// The next row.
fn step(rows: &mut RowIter<'static>) -> Option<Result<Row, String>> {
    guarded(|| rows.next().transpose()).transpose()
}

/// What the library answers; where it gives up with a panic (it holds some of a file's numbers for sound), that is an error like others.
fn guarded<T>(ask: impl FnOnce() -> Result<T, ::parquet::errors::ParquetError>) -> Result<T, String> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(ask)) {
        Ok(answer) => answer.map_err(|e| e.to_string()),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("the file contradicts itself: {}", said.unwrap_or("no reason is given")))
        }
    }
}

fn object(row: &Row) -> Result<Map<String, Value>, FaultKind> {
    row.get_column_iter().map(|(name, field)| Ok((name.clone(), value(field)?))).collect()
}

/// A cell as JSON: text, numbers, truth values, lists and structs as they are, dates and decimals as their text.
fn value(field: &Field) -> Result<Value, FaultKind> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(b) => Value::Bool(*b),
        Field::Byte(n) => Value::from(*n),
        Field::Short(n) => Value::from(*n),
        Field::Int(n) => Value::from(*n),
        Field::Long(n) => Value::from(*n),
        Field::UByte(n) => Value::from(*n),
        Field::UShort(n) => Value::from(*n),
        Field::UInt(n) => Value::from(*n),
        Field::ULong(n) => Value::from(*n),
        // not a number and the infinities have no JSON
        Field::Float16(n) => Number::from_f64(f64::from(f32::from(*n))).map_or(Value::Null, Value::Number),
        Field::Float(n) => Number::from_f64(f64::from(*n)).map_or(Value::Null, Value::Number),
        Field::Double(n) => Number::from_f64(*n).map_or(Value::Null, Value::Number),
        Field::Str(text) => Value::String(text.clone()),
        Field::Bytes(bytes) => {
            let text = std::str::from_utf8(bytes.data()).map_err(|e| FaultKind::Utf8 { at: e.valid_up_to() })?;
            Value::String(text.to_owned())
        }
        Field::Group(row) => Value::Object(object(row)?),
        Field::ListInternal(list) => list.elements().iter().map(value).collect::<Result<_, _>>()?,
        Field::MapInternal(map) => {
            let entry = |(key, field): &(Field, Field)| match value(key)? {
                Value::String(key) => Ok((key, value(field)?)),
                key => Ok((key.to_string(), value(field)?)),
            };
            Value::Object(map.entries().iter().map(entry).collect::<Result<_, _>>()?)
        }
        other => Value::String(other.to_string()),
    })
}
