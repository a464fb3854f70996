//! Data files of tasks that are not what they should be, format by format: an error that names the file and the cause, never a panic, and never a
//! row that is quietly left out.

use cloze_model::Problem;
use cloze_task::{Columns, Context, Rows, Settings, require};
use cloze_text::Tokenizer;
use cloze_text::tokenizer::WordPieceOptions;
use serde_json::{Value, json};

const CLASSES: &str = "text-classification";
const TAGS: &str = "token-classification";
const ANSWERS: &str = "question-answering";

/// Read rows, find their heads, make their examples, as a fine-tuning does: how many rows there were, or the error.
fn learned(task: &str, name: &str, bytes: &[u8]) -> Result<usize, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let task = require(task).unwrap();
    let learning = task.learning().unwrap();
    let rows = Rows::read_all(&path, task.fields(), &Columns::default(), true).map_err(|e| e.to_string())?;
    let heads = learning.heads(&rows, None, &mut Settings::default()).map_err(|e| e.to_string())?;
    let pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] a b c good bad".split(' ').map(String::from).collect();
    let tokenizer = Tokenizer::from_pieces(pieces, WordPieceOptions::default()).unwrap();
    let (labels, problem) = (heads.labels, if heads.problem == Problem::Regression { heads.problem } else { Problem::SingleLabel });
    let context = Context { tokenizer, labels, problem, max_length: 32, settings: Settings::default() };
    rows.iter().try_for_each(|row| learning.examples(&context, row).map(drop)).map_err(|e| e.to_string())?;
    Ok(rows.len())
}

/// Every case is refused in its own words, and at least thirty are tried.
fn refused(name: &str, cases: &[(&str, &[u8], &str)]) {
    let mut wrong = String::new();
    for (task, bytes, said) in cases {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
        match learned(task, name, bytes) {
            Ok(rows) => wrong += &format!("{shown:?} was read as {rows} rows; \"{said}\" should be said\n"),
            Err(error) if !error.contains(name) => wrong += &format!("{shown:?}: {name} is not named in: {error}\n"),
            Err(error) if !error.contains(said) => wrong += &format!("{shown:?}: \"{said}\" is not said in: {error}\n"),
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(cases.len() >= 30, "{} cases of {name}", cases.len());
}

/// A value too long to be held for one row.
fn long(start: &str, of: &str) -> Vec<u8> {
    let mut bytes = start.as_bytes().to_vec();
    bytes.extend(of.as_bytes().iter().cycle().take((64 << 20) + (1 << 17)));
    bytes
}

/// What befalls every kind of file.
const STRANGE: [(&str, &[u8], &str); 6] = [
    (CLASSES, b"", "the file is empty"),
    (CLASSES, b"\xef\xbb\xbf", ""),
    (CLASSES, b"\xff\xfet\0e\0x\0t\0", "UTF-8"),
    (CLASSES, b"\x1f\x8b\x08\0\0\0\0\0\0\x03garbage garbage garbage", "deflate"),
    (CLASSES, b"\x28\xb5\x2f\xfd\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "read"),
    (CLASSES, b"\x1f\x8b", "unexpected end of file"),
];

#[test]
fn csv_files() {
    let quote = long("text,label\n\"", "x");
    let mut cases: Vec<(&str, &[u8], &str)> = STRANGE.to_vec();
    cases.extend([
        (CLASSES, b"text,label\n".as_slice(), "no rows"),
        (CLASSES, b"\n\n\n", "the file is empty"),
        (CLASSES, b"text\na\nb\n", "no column for `label`"),
        (CLASSES, b"body,label\na,1\nb,0\n", "no column for `text`"),
        (CLASSES, b"text,label\na,1\nb\n", ":3: a row of 1 cells, expected 2"),
        (CLASSES, b"text,label\na,1,2\nb,0\n", ":2: a row of 3 cells, expected 2"),
        (CLASSES, b"text,label\na,1\n\"b,0\nc,1\n", ":3: a row of 1 cells"),
        (CLASSES, b"text;label\na;1\nb;0\n", "parted by commas?"),
        (CLASSES, b"text\tlabel\na\t1\nb\t0\n", "parted by commas?"),
        (CLASSES, b"text,label\na,\nb,0\n", "line 2: column `label` is empty"),
        (CLASSES, b"text,label\na,1\nb,   \n", "line 3: column `label` is empty"),
        (CLASSES, b"text,label\na,1\nb,1\n", "all rows have the label \"1\""),
        (CLASSES, b"text,label\na,0.5\nb,nan\n", "a number"),
        (CLASSES, b"text,label\na,0.5\nb,inf\n", "a number"),
        (CLASSES, b"text,label\na,0.5\nb,1e999\n", "a number"),
        (CLASSES, b"text,label\na,\xff\nb,0\n", ":2: invalid UTF-8"),
        (CLASSES, b"text,label\na,1\n\xe4\xb8,0\n", ":3: invalid UTF-8"),
        (CLASSES, b"text,label\ra,1\rb,0\n\xff", "UTF-8"),
        (CLASSES, &quote, ":2: a line longer than"),
        (TAGS, b"tokens,tags\na b,O B-X\na b c,O O\n", "line 3: `tags`"),
        (TAGS, b"tokens,tags\n\"[\"\"a\"\"\",O\nb,B-X\n", "a list"),
        (TAGS, b"tokens,tags\na b,O O\n", "fewer than two tags"),
        (TAGS, b"tokens,tags\na b,\"[1\"\n", "line 2: `tags`"),
        (ANSWERS, b"question,context\na,b\n", "no question has an answer"),
        (ANSWERS, b"question,answers\na,b\n", "no column for `context`"),
        (ANSWERS, b"question,context,answers\na,b c,[b\n", "line 2: `answers`"),
        (ANSWERS, b"question,context,answers\na,b c,{}\n", "line 2: `answers`"),
        ("multiple-choice", b"question,choices,label\na,\"[\"\"b\"\",\"\"c\"\"]\",7\n", "one of the choices"),
        ("sentence-embedding", b"text,pair,score\na,b,much\n", "a number"),
    ]);
    refused("rows.csv", &cases);
}

#[test]
fn tsv_files() {
    let line = long("text\tlabel\n", "x");
    let mut cases: Vec<(&str, &[u8], &str)> = STRANGE.to_vec();
    cases.extend([
        (CLASSES, b"text\tlabel\n".as_slice(), "no rows"),
        (CLASSES, b"\n\n\n", "no rows"),
        (CLASSES, b"text\na\nb\n", "no column for `label`"),
        (CLASSES, b"body\tlabel\na\t1\n", "no column for `text`"),
        (CLASSES, b"text,label\na,1\nb,0\n", "parted by tabs?"),
        (CLASSES, b"text label\na 1\nb 0\n", "no column for `text`"),
        (CLASSES, b"text\tlabel\na\t1\nb\n", ":3: a row of 1 cells, expected 2"),
        (CLASSES, b"text\tlabel\na\t1\t2\n", ":2: a row of 3 cells, expected 2"),
        (CLASSES, b"text\tlabel\n\"a\nb\"\t1\nc\t0\n", ":2: a row of 1 cells"),
        (CLASSES, b"text\tlabel\na\t\nb\t0\n", "line 2: column `label` is empty"),
        (CLASSES, b"text\tlabel\na\t1\nb\t1\n", "all rows have the label \"1\""),
        (CLASSES, b"text\tlabel\na\t0.5\nb\tNaN\n", "a number"),
        (CLASSES, b"text\tlabel\na\t0.5\nb\t-inf\n", "a number"),
        (CLASSES, b"text\tlabel\n\xff\t1\n", ":2: invalid UTF-8 at byte 0"),
        (CLASSES, b"te\xffxt\tlabel\na\t1\n", ":1: invalid UTF-8 at byte 2"),
        (CLASSES, b"text\tlabel\na\t1\nb\t\xf0\x9f\x98\n", ":3: invalid UTF-8 at byte 2"),
        (CLASSES, &line, ":2: a line longer than"),
        (TAGS, b"tokens\ttags\na b\tO B-X\na\tO O\n", "line 3: `tags`"),
        (TAGS, b"tokens\ttags\na b\t\n", "line 2: `tags`"),
        (TAGS, b"text\tentities\na b\t[{]\n", "`entities`"),
        (TAGS, b"text\tentities\na b\t[{\"start\": 0}]\n", "`entities`"),
        (ANSWERS, b"question\tcontext\tanswers\na\tb\t[3]\n", "line 2: `answers`"),
        (ANSWERS, b"question\tcontext\tanswers\na\tb\t{\"text\": 3}\n", "line 2: `answers`"),
        ("multiple-choice", b"context\tquestion\tchoices\tlabel\na\tb\t[\"c\"\t0\n", "`choices`"),
        ("multiple-choice", b"context\tquestion\tchoices\tlabel\na\tb\t[\"a\",\"b\"]\t-1\n", "one of the choices"),
        ("rerank", b"query\ttexts\tlabel\na\t[\"b\",\"c\"]\t[1]\n", "a label for each text"),
    ]);
    refused("rows.tsv", &cases);
}

#[test]
fn jsonl_files() {
    let deep = [b"{\"text\": ".as_slice(), &b"[".repeat(100_000)].concat();
    let line = long("{\"text\": \"", "x");
    let mut cases: Vec<(&str, &[u8], &str)> = STRANGE.to_vec();
    cases.extend([
        (CLASSES, b"\n\n".as_slice(), "no rows"),
        (CLASSES, b"{}\n", "line 1: "),
        (CLASSES, b"[]\n", ":1: not a JSON object"),
        (CLASSES, b"null\n", ":1: not a JSON object"),
        (CLASSES, b"\"text\"\n", ":1: not a JSON object"),
        (CLASSES, b"{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\", \"label\": 0\n", ":2: not a JSON object"),
        (CLASSES, b"{\"text\": \"a\", \"label\": 1} {\"text\": \"b\", \"label\": 0}\n", ":1: not a JSON object: trailing"),
        (CLASSES, b"{\n  \"text\": \"a\",\n  \"label\": 1\n}\n", ":1: not a JSON object"),
        (CLASSES, b"[{\"text\": \"a\", \"label\": 1},\n{\"text\": \"b\", \"label\": 0}]\n", ":1: not a JSON object"),
        (CLASSES, b"{'text': 'a', 'label': 1}\n", ":1: not a JSON object"),
        (CLASSES, b"{\"text\": NaN, \"label\": 1}\n", ":1: not a JSON object"),
        (CLASSES, b"{\"text\": \"\\ud800\", \"label\": 1}\n", ":1: not a JSON object"),
        (CLASSES, b"{\"text\": \"a\xff\", \"label\": 1}\n", ":1: invalid UTF-8"),
        (CLASSES, &deep, ":1: not a JSON object"),
        (CLASSES, &line, ":1: a line longer than"),
        (CLASSES, b"{\"text\": null, \"label\": 1}\n", "line 1: column `text` is empty"),
        (CLASSES, b"{\"text\": true, \"label\": 1}\n{\"text\": \"b\", \"label\": 0}\n", "line 1: `text` is true; expected a text"),
        (CLASSES, b"{\"text\": [\"a\"], \"label\": 1}\n{\"text\": \"b\", \"label\": 0}\n", "line 1: `text` is [\"a\"]; expected a text"),
        (
            CLASSES,
            b"{\"text\": \"a\", \"pair\": {}, \"label\": 1}\n{\"text\": \"b\", \"label\": 0}\n",
            "line 1: `pair` is {}; expected a text",
        ),
        (CLASSES, b"{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\"}\n", "line 2: column `label` is empty"),
        (CLASSES, b"{\"text\": \"a\", \"label\": 1}\n{\"label\": 0}\n", "line 2: column `text` is empty"),
        (CLASSES, b"{\"text\": \"a\", \"label\": {\"x\": 1}}\n", "line 1: `label`"),
        (CLASSES, b"{\"text\": \"a\", \"label\": [[1]]}\n", "line 1: `label`"),
        (
            CLASSES,
            b"{\"text\": \"a\", \"label\": 1.5}\n{\"text\": \"b\", \"label\": \"x\"}\n{\"text\": \"b\", \"label\": [1]}\n",
            "`label`",
        ),
        (TAGS, b"{\"tokens\": [\"a\", \"b\"], \"tags\": [\"O\"]}\n{\"tokens\": [\"a\"], \"tags\": [\"B-X\"]}\n", "line 1: `tags`"),
        (TAGS, b"{\"tokens\": {\"0\": \"a\"}, \"tags\": [\"O\", \"B-X\"]}\n", "line 1: `tokens`"),
        (TAGS, b"{\"tokens\": [null], \"tags\": [\"O\", \"B-X\"]}\n", "line 1: `tokens`"),
        (TAGS, b"{\"text\": \"a b\", \"entities\": {\"start\": 0}}\n", "line 1: `entities`"),
        (TAGS, b"{\"text\": \"a b\", \"entities\": [{\"start\": -1, \"end\": 1, \"label\": \"X\"}]}\n", "line 1: `entities`"),
        (TAGS, b"{\"text\": \"a b\", \"entities\": [{\"start\": 1, \"end\": 0, \"label\": \"X\"}]}\n", "line 1: `entities`"),
        (TAGS, b"{\"text\": \"a b\", \"entities\": [{\"start\": 0, \"end\": 9, \"label\": \"X\"}]}\n", "line 1: `entities`"),
        (ANSWERS, b"{\"question\": \"a\", \"context\": \"b\", \"answers\": 3}\n", "line 1: `answers`"),
        (ANSWERS, b"{\"question\": 1, \"context\": \"b\", \"answers\": \"b\"}\n", "line 1: `question`"),
        (ANSWERS, b"{\"question\": \"a\", \"context\": [], \"answers\": \"b\"}\n", "line 1: `context`"),
        ("multiple-choice", b"{\"question\": \"a\", \"choices\": [], \"label\": 0}\n", "line 1: `"),
        ("multiple-choice", b"{\"question\": \"a\", \"choices\": [\"a\", \"b\"], \"label\": 2}\n", "line 1: `label`"),
        ("rerank", b"{\"query\": \"a\", \"texts\": 3}\n", "line 1: `texts`"),
        ("rerank", b"{\"query\": \"a\", \"texts\": [\"b\"], \"negatives\": 3}\n", "line 1: `negatives`"),
        (
            "rerank",
            b"{\"query\": \"a\", \"texts\": [\"b\"]}\n{\"query\": \"b\", \"texts\": [\"c\"]}\n",
            "give texts that do not as `negatives`",
        ),
        ("rerank", b"{\"query\": \"a\", \"texts\": [\"b\", \"c\"], \"label\": [0, 0]}\n", "no text answers its query"),
        ("rerank", b"{\"query\": \"a\", \"texts\": [\"b\"], \"label\": [1, 0]}\n", "line 1: `label`"),
        ("recommendation", b"{\"history\": \"\", \"item\": \"a\"}\n", "line 1: "),
        ("recommendation", b"{\"history\": [{}], \"item\": \"a\"}\n", "line 1: `history`"),
        ("extractive-summarization", b"{\"text\": 3, \"summary\": \"a\"}\n", "line 1: `text`"),
        ("extractive-summarization", b"{\"text\": [\"a\", \"b\"], \"labels\": [1]}\n", "line 1: `labels`"),
        ("sentence-embedding", b"{\"text\": \"a\", \"pair\": \"b\", \"negatives\": 3}\n", "line 1: `negatives`"),
    ]);
    refused("rows.jsonl", &cases);
}

#[test]
fn conll_files() {
    let line = long("a O\n", "x");
    let mut cases: Vec<(&str, &[u8], &str)> = STRANGE.iter().map(|(_, bytes, said)| (TAGS, *bytes, *said)).collect();
    cases.extend([
        (TAGS, b"\n\n\n".as_slice(), "no rows"),
        (TAGS, b"-DOCSTART- -X- O O\n\n", "no rows"),
        (TAGS, b"a\nb\n", ""),
        (TAGS, b"a O\nb\n", ":2: a row of 1 cells, expected 2"),
        (TAGS, b"a B-X\nb O\n\nc\n", ":4: a row of 1 cells, expected 2"),
        (TAGS, b"a O\nb B-X I-X\n", ":2: a row of 3 cells, expected 2"),
        (TAGS, b"a O\n\nb\tB-X\tB-X\n", ":3: a row of 3 cells, expected 2"),
        (TAGS, b"a O\nb O\n", "fewer than two tags"),
        (TAGS, b"a O\n\xff B-X\n", ":2: invalid UTF-8"),
        (TAGS, b"a O\nb B-\xe4\xb8\n", ":2: invalid UTF-8"),
        (TAGS, b"\xe4\xb8 O\n", ":1: invalid UTF-8"),
        (TAGS, &line, ":2: a line longer than"),
        (TAGS, b"{\"tokens\": [\"a\"]}\n", ""),
        (TAGS, b"[\n", ""),
        (TAGS, b"a O\n\n b\n", ":3: a row of 1 cells"),
        (TAGS, b"a O x\nb B-X\n", ":2: a row of 2 cells, expected 3"),
        (TAGS, b"a\0b\n", ""),
        (TAGS, b"a O\r\nb\r\n", ":2: a row of 1 cells"),
    ]);
    refused("rows.conll", &[cases, conll()].concat());
    let strange = STRANGE.iter().map(|(_, bytes, said)| (TAGS, *bytes, *said));
    refused("rows.conllu", &strange.chain(universal()).collect::<Vec<_>>());
}

/// Sentences that break off, or of other shapes than the first.
fn conll() -> Vec<(&'static str, &'static [u8], &'static str)> {
    vec![
        (TAGS, b"a O\nb B-X\n\nc O\nd\n", ":5: a row of 1 cells, expected 2"),
        (TAGS, b"a NOUN B-X\nb NOUN O\n\nc O\n", ":4: a row of 2 cells, expected 3"),
        (TAGS, b"a\tO\nb c\tB-X\tO\n", ":2: a row of 3 cells, expected 2"),
        (TAGS, b"a O\nb\xc2\xa0B-X\n \xff", ":3: invalid UTF-8"),
        (TAGS, b"a O\nb B-X\n<html>\n", ":3: a row of 1 cells"),
        (TAGS, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3 x\n", ":3: a row of 3 cells"),
        (TAGS, b"a,O\nb,B-X\n", "line 1: `tags` is nothing"),
    ]
}

/// Ten columns between tabs.
fn universal() -> Vec<(&'static str, &'static [u8], &'static str)> {
    vec![
        (TAGS, b"# text = a\n", "no rows"),
        (TAGS, b"1\ta\n", ":1: a row of 2 cells, expected 10"),
        (TAGS, b"1 a a NOUN _ _ 0 root _ _\n", ":1: a row of 1 cells, expected 10"),
        (TAGS, b"1\ta\ta\tNOUN\t_\t_\t0\troot\t_\t_\t_\n", ":1: a row of 11 cells, expected 10"),
        (TAGS, b"1\ta\ta\tNOUN\t_\t_\t0\troot\t_\n", ":1: a row of 9 cells, expected 10"),
        (TAGS, b"1\ta\ta\tNOUN\t_\t_\t0\troot\t_\t_\n2\tb\n", ":2: a row of 2 cells"),
        (TAGS, b"1\ta\ta\tNOUN\t_\t_\t0\troot\t_\t_\n\n# x\n1\tb\n", ":4: a row of 2 cells"),
        (TAGS, b"1\ta\ta\tNOUN\t_\t_\t0\troot\t_\t_\n", "fewer than two tags"),
        (TAGS, b"1\t\xff\ta\tNOUN\t_\t_\t0\troot\t_\t_\n", ":1: invalid UTF-8"),
        (TAGS, b"# \xff\n1\ta\ta\tNOUN\t_\t_\t0\troot\t_\t_\n", ":1: invalid UTF-8"),
        (TAGS, b"1-2\tab\t_\t_\t_\t_\t_\t_\t_\t_\n", "no rows"),
        (TAGS, b"1.1\tab\t_\t_\t_\t_\t_\t_\t_\t_\n", "no rows"),
        (TAGS, b"{}\n", ":1: a row of 1 cells"),
        (TAGS, b"<html>\n", ":1: a row of 1 cells"),
        (TAGS, b"text,label\na,1\n", ":1: a row of 1 cells"),
        (TAGS, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ":1: a row of 1 cells, expected 10"),
        (TAGS, b"\t\n", "no rows"),
        (TAGS, b"\t\t\t\t\t\t\t\t\t\n", "no rows"),
        (TAGS, b"a\t\t\t\t\t\t\t\t\t\n", ""),
        (TAGS, b"1\ta\ta\tNOUN\t_\t_\t0\troot\t_\t_\r\n2\r\n", ":2: a row of 1 cells"),
        (TAGS, b"\xef\xbb\xbf1\ta\n", ":1: a row of 2 cells"),
        (TAGS, b"1\ta\ta\tNOUN\t_\t_\t0\troot\t_\t_\n---\n", ":2: "),
        (TAGS, b"1\ta\ta\tNOUN\t_\t_\t0\troot\t_\t_\nword\n", ":2: a row of 1 cells"),
        (TAGS, b"1\ta\ta\t\t_\t_\t0\troot\t_\t_\n", "fewer than two tags"),
    ]
}

#[test]
fn squad_files() {
    let article = |paragraphs: Value| json!({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}).to_string();
    let asked = |qas: Value| article(json!([{"context": "a b c", "qas": qas}]));
    let with = |answers: Value| asked(json!([{"id": "1", "question": "a", "answers": answers}]));
    let deep = "[".repeat(100_000);
    let cases: Vec<(String, &str)> = vec![
        ("{\"version\": \"1.1\"}".into(), "without a list `data`"),
        ("{\"data\": {}}".into(), "without a list `data`"),
        ("{\"data\": []}".into(), "the file is empty"),
        ("{\"data\": [1]}".into(), "item 1 is no object"),
        ("[]".into(), "the file is empty"),
        ("[null]".into(), "item 1 is no object"),
        ("3".into(), "neither a list nor an object"),
        ("null".into(), "neither a list nor an object"),
        ("\"data\"".into(), "neither a list nor an object"),
        ("{".into(), "not a JSON object"),
        ("{} {}".into(), "not a JSON object"),
        (deep, "not a JSON object"),
        ("version https://git-lfs.github.com/spec/v1\n".into(), "not a JSON object"),
        ("<!doctype html>".into(), "not a JSON object"),
        (article(json!({})), "item 1: `paragraphs` is no list"),
        (article(json!([])), "the file is empty"),
        (article(json!([3])), "item 1: paragraph 1 is no object"),
        (article(json!([{"context": "a"}])), "item 1: paragraph 1 has no list `qas`"),
        (article(json!([{"context": "a", "qas": {}}])), "item 1: paragraph 1 has no list `qas`"),
        (article(json!([{"context": "a", "qas": []}])), "the file is empty"),
        (asked(json!([7])), "item 1: question 1 of paragraph 1 is no object"),
        (asked(json!([{"id": "1", "answers": []}])), "no column for `question`"),
        (asked(json!([{"id": "1", "question": 3, "answers": ["a"]}])), "line 1: `question` is 3"),
        (asked(json!([{"id": "1", "question": "a"}])), "no question has an answer"),
        (article(json!([{"qas": [{"question": "a", "answers": ["a"]}]}])), "line 1: column `context` is empty"),
        (article(json!([{"context": 3, "qas": [{"question": "a", "answers": ["a"]}]}])), "line 1: `context` is 3"),
        (with(json!(3)), "line 1: `answers` is 3"),
        (with(json!([3])), "line 1: `answers` is [3]"),
        (with(json!([{"answer_start": 0}])), "line 1: `answers`"),
        (with(json!([{"text": ["a"]}])), "line 1: `answers`"),
        (with(json!({"text": [1], "answer_start": [0]})), "line 1: `answers`"),
        (with(json!({"text": 1})), "line 1: `answers`"),
        (with(json!([])), "no question has an answer"),
        (with(json!([{"text": "", "answer_start": 0}])), "no question has an answer"),
        (json!([{"context_id": "1", "context_text": "a", "qas": 3}]).to_string(), "item 1: paragraph 1 has no list `qas`"),
        (json!([{"context_id": "1", "context_text": "a", "qas": [3]}]).to_string(), "item 1: question 1 of paragraph 1 is no object"),
        (json!([{"context_id": "1", "context_text": 3, "qas": [{"query_text": "a", "answers": ["a"]}]}]).to_string(), "`context` is 3"),
        (json!([{"context_id": "1", "context_text": "a", "qas": [{"query_text": 3, "answers": ["a"]}]}]).to_string(), "`question` is 3"),
    ];
    let mut cases: Vec<(&str, &[u8], &str)> = cases.iter().map(|(text, said)| (ANSWERS, text.as_bytes(), *said)).collect();
    cases.extend([
        (ANSWERS, b"".as_slice(), "not a JSON object"),
        (ANSWERS, b"\xef\xbb\xbf", "not a JSON object"),
        (ANSWERS, b"\xff\xfe{\0}\0", "not a JSON object"),
        (ANSWERS, b"{\"data\": [{\"context\": \"\xff\"}]}", "not a JSON object"),
        (ANSWERS, b"\x1f\x8b\x08\0\0\0\0\0\0\x03garbage garbage garbage", "rows.json"),
    ]);
    refused("rows.json", &cases);
}
