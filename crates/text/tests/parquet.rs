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

/// A file of two row groups, compressed, with all that a page can have: the metadata of its end is what breaks.
#[test]
fn broken_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    write(&path, Compression::SNAPPY, &["one text".repeat(20).as_bytes(), "二".as_bytes(), b"three"]);
    let sound = std::fs::read(&path).unwrap();
    let n = sound.len();
    let footer = u32::from_le_bytes(sound[n - 8..n - 4].try_into().unwrap()) as usize;
    let patched = |at: usize, bytes: &[u8]| {
        let mut copy = sound.clone();
        copy[at..at + bytes.len()].copy_from_slice(bytes);
        copy
    };
    let meta = n - 8 - footer;
    let mut cases: Vec<Vec<u8>> = vec![
        vec![],
        b"PAR1".to_vec(),
        b"PAR1PAR1".to_vec(),
        b"PAR1\0\0\0\0PAR1".to_vec(),
        b"PAR1\xff\xff\xff\xffPAR1".to_vec(),
        b"PAR1\xff\xff\xff\x7fPAR1".to_vec(),
        b"PAR1\x01\0\0\0PAR1".to_vec(),
        b"PAR1\x15\x04\0\0\0PAR1".to_vec(),
        b"text,label\na,1\nb,0\n".to_vec(),
        b"{\"text\": \"a\"}\n".to_vec(),
        b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 30000\n".to_vec(),
        vec![0; 100],
        vec![0xff; 100],
        sound[1..].to_vec(),
        [&sound[..], b"\n"].concat(),
        patched(n - 4, b"PARE"),
        patched(n - 4, b"PAR2"),
        patched(n - 8, &0u32.to_le_bytes()),
        patched(n - 8, &(footer as u32 - 1).to_le_bytes()),
        patched(n - 8, &(footer as u32 + 1).to_le_bytes()),
        patched(n - 8, &(n as u32).to_le_bytes()),
        patched(n - 8, &u32::MAX.to_le_bytes()),
        patched(n - 8, &(1u32 << 31).to_le_bytes()),
        patched(meta, &[0xff; 4]),
        patched(meta, &[0; 4]),
        patched(meta + 4, &[0xff; 8]),
        patched(meta + footer / 2, &[0xff; 8]),
        patched(meta + footer / 2, &[0x19; 8]),
        patched(4, &[0xff; 12]),
        patched(4, &[0; 12]),
        patched(20, &[0xff; 16]),
    ];
    cases.extend([1, 3, 8, 12, n / 4, n / 2, n - 9, n - 1].map(|cut| sound[..cut].to_vec()));
    assert!(cases.len() >= 30);
    let mut told = 0;
    for (number, bytes) in cases.iter().enumerate() {
        std::fs::write(&path, bytes).unwrap();
        for documents in [false, true] {
            let error = if documents {
                Documents::open(&Source::new(&path), &ReadOptions::default(), Arc::default())
                    .and_then(|d| d.collect::<Result<Vec<_>, _>>())
                    .err()
            } else {
                Records::open(&path).and_then(|r| r.collect::<Result<Vec<_>, _>>()).err()
            };
            // A changed byte of a name or of a statistic may leave a sound file; all others are refused, and by name.
            if let Some(error) = error {
                assert!(error.to_string().contains("rows.parquet"), "case {number}: {error}");
                told += 1;
            }
        }
    }
    assert!(told >= 2 * (cases.len() - 4), "{told} of {} were refused", 2 * cases.len());
}

#[test]
fn mutants_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    for compression in [Compression::SNAPPY, Compression::UNCOMPRESSED, Compression::LZ4_RAW, Compression::GZIP(GzipLevel::default())] {
        write(&path, compression, &["one text".repeat(20).as_bytes(), "二".as_bytes(), b"three"]);
        let sound = std::fs::read(&path).unwrap();
        let mut state = 11u64;
        let mut random = |n: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % n
        };
        for _ in 0..300 {
            let mut bytes = sound.clone();
            for _ in 0..1 + random(3) {
                let at = random(bytes.len());
                match random(8) {
                    0 => drop(bytes.drain(at..(at + 9).min(bytes.len()))),
                    1 => bytes[at] = 0xff,
                    _ => bytes[at] ^= 1 << random(8),
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            let _ = Records::open(&path).map(|records| records.take(1000).count());
            let _ = Documents::open(&Source::new(&path), &ReadOptions::default(), Arc::default()).map(|d| d.take(1000).count());
        }
    }
}
