//! Parquet inputs; with `--features parquet`.
#![cfg(feature = "parquet")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cloze_text::read::records::Records;
use cloze_text::read::{Documents, ReadOptions, Source};
use cloze_text::{Error, FaultKind};
use parquet::basic::{Compression, GzipLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

fn write(path: &Path, compression: Compression, texts: &[&[u8]]) {
    let schema = Arc::new(parse_message_type("message m { required binary title (UTF8); required binary text; }").unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut writer = SerializedFileWriter::new(std::fs::File::create(path).unwrap(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for column in 0..2 {
        let values: Vec<ByteArray> =
            texts.iter().map(|text| ByteArray::from(if column == 0 { b"title".to_vec() } else { text.to_vec() })).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn the_text_column_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let gzip = Compression::GZIP(GzipLevel::default());
    for (name, compression) in
        [("plain", Compression::UNCOMPRESSED), ("snappy", Compression::SNAPPY), ("gzip", gzip), ("lz4", Compression::LZ4_RAW)]
    {
        let path = folder.path().join(format!("{name}.parquet"));
        write(&path, compression, &["one".as_bytes(), "二".as_bytes()]);
        let bytes = Arc::new(AtomicU64::new(0));
        let documents = Documents::open(&Source::new(&path), &ReadOptions::default(), Arc::clone(&bytes)).unwrap();
        let found: Vec<(u64, String)> = documents.map(|d| d.map(|d| (d.line, d.text)).unwrap()).collect();
        assert_eq!(found, [(1, "one".to_owned()), (2, "二".to_owned())], "{name}");
        assert_eq!(bytes.load(Ordering::Relaxed), std::fs::metadata(&path).unwrap().len());
    }
}

#[test]
fn bad_files_and_rows_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write(&path, Compression::UNCOMPRESSED, &[b"fine", b"b\xffd"]);
    let options = ReadOptions::default();
    let mut documents = Documents::open(&Source::new(&path), &options, Arc::default()).unwrap();
    documents.next().unwrap().unwrap();
    match documents.next().unwrap().unwrap_err() {
        Error::Bad(fault) => assert!(fault.line == 2 && matches!(fault.kind, FaultKind::Utf8 { at: 1 }), "{fault}"),
        other => panic!("{other}"),
    }
    let named = ReadOptions { text_field: Some("body".into()), ..options.clone() };
    assert!(matches!(Documents::open(&Source::new(&path), &named, Arc::default()), Err(Error::MissingColumn { .. })));
    let good = std::fs::read(&path).unwrap();
    for cut in [0, 3, good.len() / 2, good.len() - 1] {
        std::fs::write(&path, &good[..cut]).unwrap();
        assert!(Documents::open(&Source::new(&path), &options, Arc::default()).is_err(), "cut at {cut}");
    }
}

#[test]
fn rows_are_records_with_their_types() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let schema = "message m { required binary text (UTF8); required int64 label; optional double score; \
                  required group tags (LIST) { repeated group list { required binary element (UTF8); } } }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(std::fs::File::create(&path).unwrap(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let bytes = |texts: &[&str]| texts.iter().map(|t| ByteArray::from(*t)).collect::<Vec<_>>();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&bytes(&["one", "二"]), None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&[1, 0], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<DoubleType>().write_batch(&[0.5], Some(&[1, 0]), None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&bytes(&["a", "b", "c"]), Some(&[1, 1, 1]), Some(&[0, 1, 0])).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    let found: Vec<(u64, serde_json::Value)> =
        Records::open(&path).unwrap().map(|r| r.map(|r| (r.line, serde_json::Value::Object(r.fields))).unwrap()).collect();
    let json = |text| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(found[0], (1, json(r#"{"text": "one", "label": 1, "score": 0.5, "tags": ["a", "b"]}"#)));
    assert_eq!(found[1], (2, json(r#"{"text": "二", "label": 0, "score": null, "tags": ["c"]}"#)));
    write(&path, Compression::SNAPPY, &[b"fine", b"b\xffd"]);
    let mut records = Records::open(&path).unwrap();
    records.next().unwrap().unwrap();
    match records.next().unwrap().unwrap_err() {
        Error::BadRow(fault) => assert!(fault.line == 2 && matches!(fault.kind, FaultKind::Utf8 { at: 1 }), "{fault}"),
        other => panic!("{other}"),
    }
    assert!(records.next().is_none());
    let good = std::fs::read(&path).unwrap();
    for cut in [0, 3, good.len() / 2, good.len() - 1] {
        std::fs::write(&path, &good[..cut]).unwrap();
        assert!(Records::open(&path).is_err(), "cut at {cut}");
    }
}
