//! Records of named values: the rows that tasks learn from and answer.
//!
//! | name ends with | one record is |
//! |---|---|
//! | `.csv`, `.tsv` | a row; every value is a string |
//! | `.jsonl`, `.ndjson` | the object of a line |
//! | `.json` | an object of a list, or of `data`; SQuAD's and CMRC's articles are taken apart into one record a question |
//! | `.conll`, `.conllu`, `.bio`, `.iob` | a sentence: `tokens`, and a list for each further column (`column2` …; in CoNLL-U by name) |
//! | `.txt` | a line, as `text` |
//! | `.parquet` | a row; numbers, lists and structs as in JSON. With the cargo feature `parquet` |
//!
//! Any of them but parquet, which compresses its own pages, may be compressed (.gz, .zst).

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::jsonl::object;
use super::lines::Lines;
use super::table::{Table, TableOptions};
use super::{FoundFault, Source};
use crate::error::{Error, Fault, FaultKind, Result};

/// One record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The line it starts at, from 1; in a `.json` file its number.
    pub line: u64,
    /// Its values by name.
    pub fields: Map<String, Value>,
}

enum Kind {
    Table(Box<Table>),
    Jsonl(Lines),
    Conll {
        lines: Lines,
        names: Vec<String>,
    },
    Text(Lines),
    Read(std::vec::IntoIter<Record>),
    #[cfg(feature = "parquet")]
    Parquet(Box<super::parquet::Rows>),
}

/// The records of a file, one after the other.
pub struct Records {
    path: PathBuf,
    kind: Kind,
    ended: bool,
}

/// Most bytes of a line.
const LINE_LIMIT: usize = 64 << 20;
/// Most bytes of a `.json` file after decompression: it is read whole.
const JSON_LIMIT: u64 = 2 << 30;

/// The columns of CoNLL-U (universaldependencies.org/format.html).
const CONLLU: [&str; 10] = ["id", "tokens", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc"];

impl Records {
    /// Open a file; `-` is standard input, read as JSON lines.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(path).map_err(strict)
    }

    fn of(path: &Path) -> Result<Self> {
        let source = Source::new(path);
        let lines = || Lines::open(&source, LINE_LIMIT, Arc::default());
        let ending = if source.is_stdin() { "jsonl".to_owned() } else { ending(path) };
        let kind = match ending.as_str() {
            "csv" | "tsv" | "tab" => {
                Kind::Table(Box::new(Table::open(&source, &TableOptions { line_limit: LINE_LIMIT, ..Default::default() })?))
            }
            "jsonl" | "ndjson" => Kind::Jsonl(lines()?),
            "conllu" => Kind::Conll { lines: lines()?, names: CONLLU.map(str::to_owned).to_vec() },
            "conll" | "bio" | "iob" | "bioes" => Kind::Conll { lines: lines()?, names: Vec::new() },
            "txt" | "text" => Kind::Text(lines()?),
            "json" => Kind::Read(whole(&source)?.into_iter()),
            #[cfg(feature = "parquet")]
            "parquet" => Kind::Parquet(Box::new(super::parquet::Rows::open(&source)?)),
            #[cfg(not(feature = "parquet"))]
            "parquet" => return Err(Error::FormatNotBuilt { path: path.to_owned(), format: "parquet", feature: "parquet" }),
            _ => return Err(Error::UnknownFormat { path: path.to_owned() }),
        };
        Ok(Self { path: path.to_owned(), kind, ended: false })
    }

    fn step(&mut self) -> Option<Result<Record, FoundFault>> {
        match &mut self.kind {
            Kind::Read(records) => records.next().map(Ok),
            #[cfg(feature = "parquet")]
            Kind::Parquet(rows) => rows.next(),
            Kind::Table(table) => {
                let row = match table.next()? {
                    Ok(row) => row,
                    Err(e) => return Some(Err(FoundFault::Fatal(e))),
                };
                let fields = table.columns().iter().cloned().zip(row.fields.into_iter().map(Value::String)).collect();
                Some(Ok(Record { line: row.line, fields }))
            }
            Kind::Jsonl(lines) => loop {
                let (line, parsed) = match lines.next()? {
                    Err(fault) => return Some(Err(fault)),
                    Ok((_, text)) if text.trim().is_empty() => continue,
                    Ok((line, text)) => (line, object(text)),
                };
                return Some(parsed.map(|fields| Record { line, fields }).map_err(|kind| lines.fault(line, kind)));
            },
            Kind::Text(lines) => match lines.next()? {
                Err(fault) => Some(Err(fault)),
                Ok((line, text)) => {
                    let fields = Map::from_iter([("text".to_owned(), Value::String(text.to_owned()))]);
                    Some(Ok(Record { line, fields }))
                }
            },
            Kind::Conll { lines, names } => sentence(lines, names),
        }
    }
}

/// Rows are never skipped: a fault does not speak of that.
fn strict(error: Error) -> Error {
    match error {
        Error::Bad(fault) => Error::BadRow(fault),
        other => other,
    }
}

/// The ending that tells the format, compression aside.
fn ending(path: &Path) -> String {
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let bare = [".gz", ".zst"].iter().find_map(|e| name.strip_suffix(e)).unwrap_or(&name);
    bare.rsplit_once('.').map_or(String::new(), |(_, e)| e.to_owned())
}

impl Iterator for Records {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let found = self.step();
        self.ended = !matches!(found, Some(Ok(_)));
        Some(found?.map_err(|fault| match fault {
            FoundFault::Bad(fault) => Error::BadRow(fault),
            FoundFault::Fatal(error) => strict(error),
        }))
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The next sentence of a column file. Cells stand between tabs, or else between spaces; blank lines part sentences;
/// `#` comments of CoNLL-U, its ranges (`1-2`), its empty words (`1.1`) and `-DOCSTART-` are left out.
fn sentence(lines: &mut Lines, names: &mut Vec<String>) -> Option<Result<Record, FoundFault>> {
    let universal = names.first().is_some_and(|n| n == "id");
    let mut columns: Vec<Vec<Value>> = Vec::new();
    let mut start = 0;
    loop {
        let bad = match lines.next() {
            None if columns.is_empty() => return None,
            None => break,
            Some(Err(fault)) => return Some(Err(fault)),
            Some(Ok((_, text))) if text.trim().is_empty() || text.starts_with("-DOCSTART-") => {
                if columns.is_empty() {
                    continue;
                }
                break;
            }
            Some(Ok((_, text))) if universal && text.starts_with('#') => continue,
            Some(Ok((line, text))) => {
                let tabs = universal || text.contains('\t');
                let cells: Vec<&str> = if tabs { text.split('\t').collect() } else { text.split_whitespace().collect() };
                if universal && is_range(cells[0]) {
                    continue;
                }
                if names.is_empty() {
                    names.extend((1..=cells.len()).map(|i| if i == 1 { "tokens".to_owned() } else { format!("column{i}") }));
                }
                if columns.is_empty() {
                    columns = vec![Vec::new(); names.len()];
                    start = line;
                }
                if cells.len() == names.len() {
                    columns.iter_mut().zip(cells).for_each(|(column, cell)| column.push(Value::String(cell.to_owned())));
                    None
                } else {
                    Some((line, FaultKind::Cells { expected: names.len(), found: cells.len() }))
                }
            }
        };
        if let Some((line, kind)) = bad {
            return Some(Err(lines.fault(line, kind)));
        }
    }
    let fields = names.iter().cloned().zip(columns.into_iter().map(Value::Array)).collect();
    Some(Ok(Record { line: start, fields }))
}

/// Whether a CoNLL-U id is one of several words (`1-2`) or of an empty one (`1.1`).
fn is_range(id: &str) -> bool {
    let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    id.split_once(['-', '.']).is_some_and(|(first, second)| number(first) && number(second))
}

/// The records of a `.json` file.
fn whole(source: &Source) -> Result<Vec<Record>> {
    let path = source.path();
    let bad = |reason: String| Error::Bad(Fault { path: path.to_owned(), line: 0, kind: FaultKind::Json { reason } });
    let mut text = Vec::new();
    source.open(Arc::default())?.take(JSON_LIMIT + 1).read_to_end(&mut text).map_err(Error::io("read", path))?;
    if text.len() as u64 > JSON_LIMIT {
        return Err(bad(format!("more than {JSON_LIMIT} bytes; give it as JSON lines")));
    }
    let bytes = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let value: Value = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
    let items = match value {
        Value::Array(items) => items,
        Value::Object(mut map) => match map.remove("data") {
            Some(Value::Array(items)) => items,
            _ => return Err(bad("an object without a list `data`; expected a list of objects, or SQuAD's layout".into())),
        },
        _ => return Err(bad("neither a list nor an object".into())),
    };
    let mut records = Vec::new();
    let mut push = |fields: Map<String, Value>| records.push(Record { line: records.len() as u64 + 1, fields });
    for (at, item) in items.into_iter().enumerate() {
        let item_of = |fault: String| bad(format!("item {}{fault}", at + 1));
        let Value::Object(mut article) = item else { return Err(item_of(" is no object".into())) };
        let (paragraphs, title) = match (article.get("paragraphs"), article.contains_key("context_text")) {
            (Some(Value::Array(paragraphs)), _) => (paragraphs.clone(), article.get("title").cloned().unwrap_or(Value::Null)),
            (Some(_), _) => return Err(item_of(": `paragraphs` is no list".into())),
            // CMRC 2018's first layout: one context an article, `context_text` and `qas` beside it.
            (None, true) => {
                let context = article.remove("context_text").unwrap_or(Value::Null);
                article.insert("context".into(), context);
                (vec![Value::Object(article)], Value::Null)
            }
            (None, false) => {
                push(article);
                continue;
            }
        };
        for (number, paragraph) in (1..).zip(&paragraphs) {
            let Value::Object(paragraph) = paragraph else { return Err(item_of(format!(": paragraph {number} is no object"))) };
            let Some(Value::Array(questions)) = paragraph.get("qas") else {
                return Err(item_of(format!(": paragraph {number} has no list `qas`")));
            };
            let context = paragraph.get("context").cloned().unwrap_or(Value::Null);
            for (asked, fields) in (1..).zip(questions) {
                let Value::Object(fields) = fields else {
                    return Err(item_of(format!(": question {asked} of paragraph {number} is no object")));
                };
                push(question(fields, &context, &title));
            }
        }
    }
    if records.is_empty() {
        return Err(Error::Bad(Fault { path: path.to_owned(), line: 0, kind: FaultKind::Empty }));
    }
    Ok(records)
}

/// One question of SQuAD's layout, with its context.
fn question(asked: &Map<String, Value>, context: &Value, title: &Value) -> Map<String, Value> {
    let mut fields = asked.clone();
    for (theirs, ours) in [("query_text", "question"), ("query_id", "id")] {
        if let Some(value) = fields.remove(theirs) {
            fields.insert(ours.into(), value);
        }
    }
    fields.insert("context".into(), context.clone());
    if !title.is_null() {
        fields.insert("title".into(), title.clone());
    }
    fields
}
