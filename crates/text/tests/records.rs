//! Records of every format: what they hold, and what broken files say.

use std::path::{Path, PathBuf};

use cloze_text::read::records::{Record, Records};
use serde_json::{Value, json};

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn read(name: &str, text: &str) -> Vec<Record> {
    let folder = tempfile::tempdir().unwrap();
    Records::open(&file(folder.path(), name, text)).unwrap().collect::<Result<_, _>>().unwrap()
}

fn values(name: &str, text: &str) -> Vec<Value> {
    read(name, text).into_iter().map(|r| Value::Object(r.fields)).collect()
}

#[test]
fn every_format_gives_named_values() {
    assert_eq!(values("a.csv", "text,label\n\"a, b\",1\n"), [json!({"text": "a, b", "label": "1"})]);
    assert_eq!(values("a.tsv", "text\tlabel\na \"b\"\t1\n"), [json!({"text": "a \"b\"", "label": "1"})]);
    let lines = read("a.jsonl", "{\"a\": [1]}\n\n{\"b\": {\"c\": null}}\n");
    assert_eq!((lines[1].line, &lines[1].fields["b"]), (3, &json!({"c": null})), "objects may differ");
    assert_eq!(values("a.txt", "one\n\ntwo\n"), [json!({"text": "one"}), json!({"text": ""}), json!({"text": "two"})]);
    assert_eq!(values("a.json", "[{\"text\": \"x\"}]"), [json!({"text": "x"})]);
    assert_eq!(values("a.json", "{\"data\": [{\"text\": \"x\"}]}"), [json!({"text": "x"})]);
}

#[test]
fn column_files_give_sentences() {
    let found = read("a.conll", "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n\nPeter NNP B-PER\n");
    assert_eq!(found.len(), 2);
    assert_eq!(
        Value::Object(found[0].fields.clone()),
        json!({"tokens": ["EU", "rejects"], "column2": ["NNP", "VBZ"], "column3": ["B-ORG", "O"]})
    );
    assert_eq!(found[1].line, 7);
    let columns = |id: &str, form: &str, upos: &str| format!("{id}\t{form}\t_\t{upos}\t_\t_\t_\t_\t_\t_\n");
    let text = format!(
        "# sent_id = 1\n{}{}{}{}\n",
        columns("1-2", "don't", "_"),
        columns("1", "do", "AUX"),
        columns("2", "n't", "PART"),
        columns("2.1", "x", "X")
    );
    let found = values("a.conllu", &text);
    assert_eq!((&found[0]["tokens"], &found[0]["upos"]), (&json!(["do", "n't"]), &json!(["AUX", "PART"])));
}

#[test]
fn articles_are_taken_apart_into_questions() {
    let squad = json!({"version": "v2.0", "data": [{"title": "T", "paragraphs": [{"context": "c", "qas": [
        {"id": "1", "question": "q?", "answers": [{"text": "c", "answer_start": 0}], "is_impossible": false},
        {"id": "2", "question": "r?", "answers": [], "is_impossible": true},
    ]}]}]});
    let found = values("a.json", &squad.to_string());
    assert_eq!(found.len(), 2);
    assert_eq!((&found[1]["question"], &found[1]["context"], &found[1]["title"]), (&json!("r?"), &json!("c"), &json!("T")));
    let cmrc =
        json!([{"context_id": "T_0", "context_text": "上下文", "qas": [{"query_id": "Q", "query_text": "问？", "answers": ["上"]}]}]);
    let found = values("a.json", &cmrc.to_string());
    assert_eq!(found, [json!({"answers": ["上"], "question": "问？", "id": "Q", "context": "上下文"})]);
}

#[test]
fn broken_files_name_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text, says) in [
        ("a.conll", "EU NNP B-ORG\nrejects\n", "2"),
        ("a.jsonl", "{}\n[1]\n", "2"),
        ("a.json", "{\"version\": 1}", "data"),
        ("a.json", "[1, 2]", "item 1"),
        ("a.json", "[", "JSON"),
        ("a.json", "[]", "empty"),
        ("a.bin", "x", "format"),
        ("a.csv", "text,label\na\n", "cells"),
    ] {
        let path = file(folder.path(), name, text);
        let fault = match Records::open(&path) {
            Err(e) => e.to_string(),
            Ok(records) => records.filter_map(Result::err).next().unwrap_or_else(|| panic!("{name} {text:?} was read")).to_string(),
        };
        assert!(fault.contains(name) && fault.contains(says), "{fault}");
    }
}

#[cfg(not(feature = "parquet"))]
#[test]
fn parquet_without_its_feature_names_the_feature() {
    let folder = tempfile::tempdir().unwrap();
    let error = Records::open(&file(folder.path(), "rows.parquet", "PAR1")).unwrap_err();
    assert!(matches!(&error, cloze_text::Error::FormatNotBuilt { feature: "parquet", .. }), "{error}");
    assert!(error.to_string().contains("rows.parquet") && error.to_string().contains("--features parquet"), "{error}");
}
