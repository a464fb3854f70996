//! Parquet inputs; with `--features parquet`.
#![cfg(feature = "parquet")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cloze_text::read::{Documents, ReadOptions, Source};
use cloze_text::{Error, FaultKind};
use parquet::basic::{Compression, GzipLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
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
