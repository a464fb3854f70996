//! Inputs: every format, plain and compressed, good and bad.

mod corpus_support;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cloze_text::read::table::{Header, Table, TableOptions};
use cloze_text::read::{Document, Documents, Format, OnBad, ReadOptions, Source, expand};
use cloze_text::{Error, FaultKind};
use corpus_support::write;
use proptest::prelude::*;

fn read(path: &Path, options: &ReadOptions) -> (Vec<Document>, Option<Error>) {
    let mut documents = match Documents::open(&Source::new(path), options, Arc::default()) {
        Ok(documents) => documents,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut out = Vec::new();
    loop {
        match documents.next() {
            None => return (out, None),
            Some(Ok(document)) => out.push(document),
            Some(Err(error)) => {
                assert!(documents.next().is_none(), "nothing follows an error");
                return (out, Some(error));
            }
        }
    }
}

fn texts(path: &Path, options: &ReadOptions) -> Vec<(u64, String)> {
    let (documents, error) = read(path, options);
    assert!(error.is_none(), "{error:?}");
    documents.into_iter().map(|d| (d.line, d.text)).collect()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &str) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest)
}

const TEXT: &str = "one\ntwo\n\n\n \nthree\r\n\r\nfour";

#[test]
fn plain_text_gzip_and_zstd_give_the_same_documents() {
    let folder = tempfile::tempdir().unwrap();
    let expected = vec![(1, "one\ntwo".to_owned()), (6, "three".to_owned()), (8, "four".to_owned())];
    let two_frames = [zstd("one\ntwo\n\n"), b"\x50\x2a\x4d\x18\x03\x00\x00\x00xyz".to_vec(), zstd("\n \nthree\r\n\r\nfour")].concat();
    let two_members = [gzip("one\ntw"), gzip("o\n\n\n \nthree\r\n\r\nfour")].concat();
    let with_mark = format!("\u{feff}{TEXT}").into_bytes();
    let cases = [
        ("a.txt", TEXT.as_bytes().to_vec()),
        ("b.txt.gz", gzip(TEXT)),
        ("c.txt.zst", zstd(TEXT)),
        ("d.txt.zst", two_frames),
        ("e.txt.gz", two_members),
        ("f.txt", with_mark),
        ("g.txt", gzip(TEXT)), // told by its bytes, whatever the name
    ];
    for (name, bytes) in cases {
        let path = folder.path().join(name);
        write(&path, &bytes);
        assert_eq!(texts(&path, &ReadOptions::default()), expected, "{name}");
        let count = Arc::new(AtomicU64::new(0));
        let n = Documents::open(&Source::new(&path), &ReadOptions::default(), Arc::clone(&count)).unwrap().count();
        assert_eq!((n, count.load(Ordering::Relaxed)), (3, bytes.len() as u64), "{name}: every byte is counted");
    }
    let per_line = ReadOptions { document_per_line: true, ..ReadOptions::default() };
    assert_eq!(texts(&folder.path().join("a.txt"), &per_line).len(), 4);
}

#[test]
fn jsonl_csv_and_tsv_find_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &str| {
        let path = folder.path().join(name);
        write(&path, text);
        path
    };
    let default = ReadOptions::default();
    let named = |field: &str| ReadOptions { text_field: Some(field.into()), ..ReadOptions::default() };
    let expected = |lines: &[u64]| lines.iter().zip(["a \"b\", c", "二"]).map(|(&l, t)| (l, t.to_owned())).collect::<Vec<_>>();
    let json = at("a.jsonl", "{\"id\": 1, \"content\": \"a \\\"b\\\", c\"}\n\n{\"content\": \"二\", \"x\": [1]}\n");
    assert_eq!(texts(&json, &default), expected(&[1, 3]));
    let list = at("b.jsonl", "{\"paragraphs\": [\"a\", \"b\"]}\n");
    assert_eq!(texts(&list, &named("paragraphs")), [(1, "a\nb".to_owned())]);
    let csv = at("c.csv", "id,text\n1,\"a \"\"b\"\", c\"\n2,二\n");
    assert_eq!(texts(&csv, &default), expected(&[2, 3]));
    let tsv = at("d.tsv", "label\tbody\n1\ta \"b\", c\n0\t二\n");
    assert_eq!(texts(&tsv, &default), expected(&[2, 3]));
    assert_eq!(texts(&tsv, &named("label")).len(), 2);
    let error = read(&tsv, &named("nothing")).1.unwrap();
    assert_eq!(error.to_string(), format!("{}: no column named nothing; it has: label, body", tsv.display()));
    let forced = ReadOptions { format: Some(Format::Jsonl), ..ReadOptions::default() };
    let odd = at("e.data", "{\"text\": \"x\"}\n");
    assert!(matches!(read(&odd, &default).1, Some(Error::UnknownFormat { .. })));
    assert_eq!(texts(&odd, &forced).len(), 1);
}

#[test]
fn an_empty_table_is_skipped_whatever_its_column_is_called() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.csv", "a.tsv"] {
        let path = folder.path().join(name);
        std::fs::write(&path, "").unwrap();
        let options = ReadOptions { text_field: Some("body".into()), on_bad: OnBad::SkipAndCount, ..ReadOptions::default() };
        let mut documents = Documents::open(&Source::new(&path), &options, Arc::default()).unwrap();
        assert!(documents.next().is_none());
        assert_eq!(documents.faults().1.get("empty file"), Some(&1), "{name}");
    }
}

#[test]
fn bad_places_are_named_and_can_be_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let cut = |mut bytes: Vec<u8>, at: usize| {
        bytes.truncate(at);
        bytes
    };
    let long = "x".repeat(2000);
    let noise: String = (0..20_000u32).map(|i| char::from(b'a' + (i.wrapping_mul(2_654_435_761) >> 24) as u8 % 26)).collect();
    type Case = (&'static str, Vec<u8>, u64, fn(&FaultKind) -> bool, usize);
    let cases: Vec<Case> = vec![
        ("utf8.txt", b"good\n\nb\xffd\n\nmore".to_vec(), 3, |k| matches!(k, FaultKind::Utf8 { at: 1 }), 2),
        ("utf8.tsv", b"text\tlabel\nb\xffd\t1\nfine\t0\n".to_vec(), 2, |k| matches!(k, FaultKind::Utf8 { at: 1 }), 1),
        ("utf8.csv", b"text,label\nb\xffd,1\nfine,0\n".to_vec(), 2, |k| matches!(k, FaultKind::Utf8 { .. }), 1),
        ("empty.txt", Vec::new(), 0, |k| *k == FaultKind::Empty, 0),
        ("empty.jsonl", Vec::new(), 0, |k| *k == FaultKind::Empty, 0),
        ("empty.csv", Vec::new(), 0, |k| *k == FaultKind::Empty, 0),
        ("empty.tsv", Vec::new(), 0, |k| *k == FaultKind::Empty, 0),
        ("long.txt", format!("good\n\n{long}\n\nmore").into_bytes(), 3, |k| *k == FaultKind::LineTooLong { limit: 1000 }, 2),
        ("long.csv", format!("text,label\na,1\n\"{long}").into_bytes(), 3, |k| *k == FaultKind::LineTooLong { limit: 1000 }, 1),
        ("row.csv", b"text,label\na,1,2\nb,2\n".to_vec(), 2, |k| matches!(k, FaultKind::Cells { expected: 2, found: 3 }), 1),
        ("crlf.csv", b"text,label\r\na,1\r\nb,2,3\r\nc,1\r\n".to_vec(), 3, |k| matches!(k, FaultKind::Cells { expected: 2, found: 3 }), 2),
        ("row.tsv", b"text\tlabel\na\nb\t2\n".to_vec(), 2, |k| matches!(k, FaultKind::Cells { expected: 2, found: 1 }), 1),
        ("broken.jsonl", b"{\"text\": \"a\"}\n{\"text\": \n{\"text\": \"b\"}\n".to_vec(), 2, |k| matches!(k, FaultKind::Json { .. }), 2),
        ("list.jsonl", b"[1]\n{\"text\": \"b\"}\n".to_vec(), 1, |k| matches!(k, FaultKind::Json { .. }), 1),
        ("field.jsonl", b"{\"text\": \"a\"}\n{\"txt\": \"b\"}\n".to_vec(), 2, |k| matches!(k, FaultKind::Field { .. }), 1),
        ("number.jsonl", b"{\"text\": 3}\n{\"text\": \"b\"}\n".to_vec(), 1, |k| matches!(k, FaultKind::NotText { .. }), 1),
        ("cut.txt.gz", cut(gzip("good\n\nmore text that is cut off here"), 30), 3, |k| matches!(k, FaultKind::Stream { .. }), 1),
        (
            "cut.txt.zst",
            {
                let b = zstd(&noise);
                let n = b.len();
                cut(b, n - 9)
            },
            1,
            |k| matches!(k, FaultKind::Stream { .. }),
            0,
        ),
        ("noise.txt.zst", [zstd("good\n\nmore\n"), b"garbage".to_vec()].concat(), 4, |k| matches!(k, FaultKind::Stream { .. }), 2),
    ];
    for (name, bytes, line, kind, left) in cases {
        let path = folder.path().join(name);
        write(&path, bytes);
        let mut options = ReadOptions { line_limit: 1000, ..ReadOptions::default() };
        let error = read(&path, &options).1.unwrap_or_else(|| panic!("{name} is read without a fault"));
        let Error::Bad(fault) = &error else { panic!("{name}: {error}") };
        assert!(fault.path == path && fault.line == line && kind(&fault.kind), "{name}: {fault}");
        assert!(error.to_string().contains(name));
        options.on_bad = OnBad::SkipAndCount;
        let mut documents = Documents::open(&Source::new(&path), &options, Arc::default()).unwrap();
        let found = documents.by_ref().collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(found.len(), left, "{name}: documents left");
        let (faults, kinds) = documents.faults();
        assert_eq!((faults.len(), kinds.values().sum::<u64>()), (1, 1), "{name}");
        assert_eq!(&faults[0], fault);
    }
}

#[test]
fn a_flipped_bit_of_a_zstd_file_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt.zst");
    let noise: String = (0..50_000u32).map(|i| char::from(b'a' + (i.wrapping_mul(2_654_435_761) >> 24) as u8 % 26)).collect();
    let mut bytes = zstd(&noise);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    write(&path, bytes);
    assert!(matches!(read(&path, &ReadOptions::default()).1, Some(Error::Bad(_))));
}

#[test]
fn a_long_document_is_cut_at_a_paragraph() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    write(&path, "word\n".repeat(100));
    let options = ReadOptions { line_limit: 50, ..ReadOptions::default() };
    let found = texts(&path, &options);
    assert_eq!(found.len(), 10);
    assert!(found.iter().all(|(_, text)| text.len() == 49));
}

#[test]
fn folders_patterns_and_repeats() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("b/.hidden")).unwrap();
    for name in ["z.txt", "a.jsonl.gz", "b/m.tsv.zst", "b/skip.bin", "b/.hidden/x.txt", ".y.txt"] {
        write(&folder.path().join(name), "x");
    }
    let names = |inputs: &[String]| {
        let sources = expand(inputs).unwrap();
        let short = |s: &Source| s.path().strip_prefix(folder.path()).unwrap_or(s.path()).display().to_string();
        sources.iter().map(short).collect::<Vec<_>>()
    };
    let here = folder.path().display().to_string();
    assert_eq!(names(std::slice::from_ref(&here)), ["a.jsonl.gz", "b/m.tsv.zst", "z.txt"]);
    assert_eq!(names(&[format!("{here}/*.txt"), here.clone()]), ["z.txt", "a.jsonl.gz", "b/m.tsv.zst"]);
    assert_eq!(names(&["-".into()]), ["-"]);
    assert!(matches!(expand(&[format!("{here}/none*")]), Err(Error::NoInput { .. })));
    assert!(matches!(expand(&[format!("{here}/missing.txt")]), Err(Error::NoInput { .. })));
    assert!(matches!(expand(&[format!("{here}/***")]), Err(Error::BadPattern { .. })));
}

fn table(name: &str, text: &str, options: &TableOptions) -> (Vec<String>, Vec<(u64, Vec<String>)>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    write(&path, text);
    let mut table = Table::open(&Source::new(&path), options).unwrap();
    let columns = table.columns().to_vec();
    let rows = table.by_ref().map(|row| row.map(|row| (row.line, row.fields))).collect::<Result<_, _>>().unwrap();
    (columns, rows)
}

#[test]
fn tables_find_their_header() {
    let found = TableOptions::default();
    let (columns, rows) = table("a.tsv", "sentence\tlabel\nit 's \"good\t1\n", &found);
    assert_eq!((columns, rows), (vec!["sentence".into(), "label".into()], vec![(2, vec!["it 's \"good".into(), "1".into()])]));
    let (columns, rows) = table("b.tsv", "I love it.\t1\nI do not.\t0\n", &found);
    assert_eq!(columns, ["column1", "column2"]);
    assert_eq!(rows[0], (1, vec!["I love it.".into(), "1".into()]));
    assert_eq!(rows.len(), 2);
    let (columns, _) = table("c.csv", "评论,情感\n很好,正面\n", &found);
    assert_eq!(columns, ["评论", "情感"]);
    // One column: several words, or Chinese, are a text and not its name.
    for (first, is_name) in
        [("Great movie", false), ("今天很好", false), ("评论", true), ("review_body", true), ("text label", true), ("Text ", true)]
    {
        let (_, rows) = table("one.csv", &format!("{first}\nA text that is one.\n"), &found);
        assert_eq!(rows.len(), if is_name { 1 } else { 2 }, "{first}");
    }
    let named = TableOptions { header: Header::Names(vec!["a".into(), "b".into()]), ..TableOptions::default() };
    let (columns, rows) = table("d.csv", "x,y\nu,v\n", &named);
    assert_eq!((columns.len(), rows.len()), (2, 2));
    let (columns, rows) = table(
        "e.jsonl",
        "{\"text\": \"a\", \"label\": 1, \"f\": 0.5, \"n\": null}\n{\"label\": true, \"text\": \"b\", \"f\": [1], \"n\": \"\"}\n",
        &found,
    );
    assert_eq!(columns, ["text", "label", "f", "n"]);
    assert_eq!(rows[0].1, ["a", "1", "0.5", ""]);
    assert_eq!(rows[1].1, ["b", "true", "[1]", ""]);
}

#[test]
fn columns_are_found_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tsv.zst");
    write(&path, zstd("Sentence1\tsentence2\tlabel\na\tb\t0\n"));
    let mut table = Table::open(&Source::new(&path), &TableOptions::default()).unwrap();
    assert_eq!(table.find(&["text", "sentence1"]), Some(0));
    assert_eq!(table.find(&["text"]), None);
    let error = table.require(&["text", "body"]).unwrap_err().to_string();
    assert!(error.contains("text or body") && error.contains("Sentence1, sentence2, label"), "{error}");
    assert_eq!(table.next().unwrap().unwrap().fields, ["a", "b", "0"]);
}

#[test]
fn every_table_of_the_real_data_is_read() {
    let Ok(data) = std::env::var("CLOZE_DATA") else {
        println!("skipped: CLOZE_DATA is not set");
        return;
    };
    let mut tables = 0;
    for source in expand(&[data]).unwrap() {
        if matches!(source.format(None), Ok(Format::Tsv | Format::Csv | Format::Jsonl)) {
            let mut table = Table::open(&source, &TableOptions::default()).unwrap();
            assert!(!table.columns()[0].starts_with("column"), "{}: {:?}", source.path().display(), table.columns());
            let rows = table.by_ref().take_while(|row| row.as_ref().map_err(|e| panic!("{e}")).is_ok()).count();
            assert!(rows > 5, "{}", source.path().display());
            tables += 1;
        }
    }
    println!("{tables} tables");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Whatever the bytes and whatever they are said to be: documents, faults or an error, and an end; never a panic.
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(prop_oneof![
        4 => any::<u8>(), 3 => Just(b'\n'), 2 => Just(b'"'), 1 => Just(b','), 1 => Just(b'\t'), 1 => Just(b'{'), 1 => Just(b'}')
    ], 0..300), start in 0usize..4, name in prop_oneof![Just("x.txt"), Just("x.csv"), Just("x.tsv"), Just("x.jsonl")]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let start: &[u8] = [&b""[..], &[0x1f, 0x8b, 8], &[0x28, 0xb5, 0x2f, 0xfd], b"{\"text\": \"a\"}\n"][start];
        write(&path, [start, &bytes].concat());
        for on_bad in [OnBad::Fail, OnBad::SkipAndCount] {
            let options = ReadOptions { line_limit: 64, on_bad, ..ReadOptions::default() };
            let _ = read(&path, &options);
            if !name.ends_with("txt") {
                let options = TableOptions { line_limit: 64, on_bad, ..TableOptions::default() };
                if let Ok(table) = Table::open(&Source::new(&path), &options) {
                    prop_assert!(table.count() < 1000);
                }
            }
        }
    }
}
