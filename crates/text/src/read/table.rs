//! Tables with named columns: csv, tsv and jsonl as streams of rows.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::lines::Lines;
use super::{Document, Format, Found, FoundFault, OnBad, ReadOptions, Source, TEXT_FIELDS, csv, jsonl};
use crate::error::{Error, Fault, FaultKind, Result};

/// Names that mark a first row as a header, beside those that a caller asks for.
const KNOWN_NAMES: [&str; 16] = [
    "text",
    "sentence",
    "sentence1",
    "sentence2",
    "label",
    "labels",
    "question",
    "premise",
    "hypothesis",
    "text_a",
    "text_b",
    "id",
    "idx",
    "index",
    "content",
    "review",
];

/// Whether the first row of a csv or tsv file names the columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Header {
    /// Look at it: known names, or short distinct cells of which none is a number.
    #[default]
    Found,
    /// It does.
    First,
    /// It does not; these are the names.
    Names(Vec<String>),
}

/// How a table is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableOptions {
    /// The format, instead of the one the name tells.
    pub format: Option<Format>,
    /// Where the column names are.
    pub header: Header,
    /// Most bytes of a row (16 MiB).
    pub line_limit: usize,
    /// What to do with bad rows.
    pub on_bad: OnBad,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self { format: None, header: Header::Found, line_limit: 16 << 20, on_bad: OnBad::Fail }
    }
}

/// One row; `fields` stand in the order of [`Table::columns`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Line of its start, from 1.
    pub line: u64,
    /// Its cells.
    pub fields: Vec<String>,
}

enum Rows {
    Csv(csv::Rows),
    Tsv(Lines),
    Jsonl(Lines),
}

/// A table, read row by row.
pub struct Table {
    path: PathBuf,
    rows: Rows,
    columns: Vec<String>,
    first: Option<Row>, // read to find the names, and not yet given out
    on_bad: OnBad,
    faults: Vec<Fault>,
    failed: bool,
}

impl Table {
    /// Open `source` and find its columns.
    ///
    /// In tsv files quotes are ordinary characters. In jsonl files the columns are the keys of the first object;
    /// numbers, booleans and nested values become their JSON text and null an empty cell.
    pub fn open(source: &Source, options: &TableOptions) -> Result<Self> {
        Self::open_counted(source, options, Arc::default())
    }

    /// [`open`](Self::open), with `bytes_read` growing by the bytes taken from the file, before decompression.
    pub fn open_counted(source: &Source, options: &TableOptions, bytes_read: Arc<AtomicU64>) -> Result<Self> {
        let limit = options.line_limit;
        let rows = match source.format(options.format)? {
            Format::Csv => Rows::Csv(csv::Rows::open(source, limit, bytes_read)?),
            Format::Tsv => Rows::Tsv(Lines::open(source, limit, bytes_read)?),
            Format::Jsonl => Rows::Jsonl(Lines::open(source, limit, bytes_read)?),
            Format::Txt | Format::Parquet => {
                let found = "txt or parquet".to_owned();
                return Err(Error::Setting { key: "format", found, expected: "a table: csv, tsv or jsonl" });
            }
        };
        let path = source.path().to_path_buf();
        let mut table = Self { path, rows, columns: Vec::new(), first: None, on_bad: options.on_bad, faults: Vec::new(), failed: false };
        table.find_columns(&options.header)?;
        Ok(table)
    }

    fn find_columns(&mut self, header: &Header) -> Result<()> {
        if let Header::Names(names) = header {
            self.columns.clone_from(names);
            return Ok(());
        }
        if matches!(self.rows, Rows::Jsonl(_)) {
            // Bad lines before the first object are met again by nobody: report or count them here.
            loop {
                let Rows::Jsonl(lines) = &mut self.rows else { return Ok(()) };
                match next_object(lines) {
                    None => return Ok(()),
                    Some(Ok((line, map))) => {
                        self.columns = map.keys().cloned().collect();
                        let fields = map.values().map(cell_of).collect();
                        self.first = Some(Row { line, fields });
                        return Ok(());
                    }
                    Some(Err(fault)) => self.admit(fault)?,
                }
            }
        }
        let (line, cells) = loop {
            match self.next_cells() {
                None => return Ok(()),
                Some(Ok(row)) => break row,
                Some(Err(fault)) => self.admit(fault)?,
            }
        };
        if *header == Header::First || is_header(&cells) {
            self.columns = cells.iter().map(|cell| cell.trim().to_owned()).collect();
        } else {
            self.columns = (1..=cells.len()).map(|i| format!("column{i}")).collect();
            self.first = Some(Row { line, fields: cells });
        }
        Ok(())
    }

    /// Count a fault, or raise it.
    fn admit(&mut self, fault: FoundFault) -> Result<()> {
        match fault {
            FoundFault::Bad(fault) if self.on_bad == OnBad::SkipAndCount => {
                self.faults.push(fault);
                Ok(())
            }
            FoundFault::Bad(fault) => Err(Error::Bad(fault)),
            FoundFault::Fatal(error) => Err(error),
        }
    }

    fn next_cells(&mut self) -> Option<Result<(u64, Vec<String>), FoundFault>> {
        match &mut self.rows {
            Rows::Csv(rows) => rows.next(),
            Rows::Tsv(lines) => loop {
                match lines.next()? {
                    Ok((_, "")) => {}
                    Ok((number, line)) => return Some(Ok((number, line.split('\t').map(str::to_owned).collect()))),
                    Err(fault) => return Some(Err(fault)),
                }
            },
            Rows::Jsonl(lines) => match next_object(lines)? {
                Err(fault) => Some(Err(fault)),
                Ok((line, map)) => {
                    let mut cells = Vec::with_capacity(self.columns.len());
                    for column in &self.columns {
                        let Some(value) = map.get(column) else {
                            let found = map.keys().cloned().collect::<Vec<_>>().join(", ");
                            return Some(Err(lines.fault(line, FaultKind::Field { wanted: column.clone(), found })));
                        };
                        cells.push(cell_of(value));
                    }
                    Some(Ok((line, cells)))
                }
            },
        }
    }

    fn next_found(&mut self) -> Option<Result<Row, FoundFault>> {
        if let Some(row) = self.first.take() {
            return Some(Ok(row));
        }
        Some(self.next_cells()?.and_then(|(line, fields)| {
            let (expected, found) = (self.columns.len(), fields.len());
            if expected == found {
                return Ok(Row { line, fields });
            }
            Err(FoundFault::Bad(Fault { path: self.path.clone(), line, kind: FaultKind::Cells { expected, found } }))
        }))
    }

    /// The column names, in file order.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The first column that has one of these names (in this order of preference), letter case aside.
    pub fn find(&self, names: &[&str]) -> Option<usize> {
        names.iter().find_map(|name| self.columns.iter().position(|column| column.eq_ignore_ascii_case(name)))
    }

    /// [`find`](Self::find), or an error that lists the columns there are.
    pub fn require(&self, names: &[&str]) -> Result<usize> {
        self.find(names).ok_or_else(|| Error::MissingColumn {
            path: self.path.clone(),
            wanted: names.iter().map(|name| (*name).to_owned()).collect(),
            found: self.columns.clone(),
        })
    }

    /// The faults skipped so far.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}

impl Iterator for Table {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            match self.next_found()? {
                Ok(row) => return Some(Ok(row)),
                Err(fault) => {
                    if let Err(error) = self.admit(fault) {
                        self.failed = true;
                        return Some(Err(error));
                    }
                }
            }
        }
        None
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("path", &self.path).field("columns", &self.columns).finish_non_exhaustive()
    }
}

type Object = serde_json::Map<String, serde_json::Value>;

fn next_object(lines: &mut Lines) -> Option<Result<(u64, Object), FoundFault>> {
    loop {
        let (number, parsed) = match lines.next()? {
            Err(fault) => return Some(Err(fault)),
            Ok((_, line)) if line.trim().is_empty() => continue,
            Ok((number, line)) => (number, jsonl::object(line)),
        };
        return Some(parsed.map(|map| (number, map)).map_err(|kind| lines.fault(number, kind)));
    }
}

fn cell_of(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn is_header(cells: &[String]) -> bool {
    let known = |cell: &str| KNOWN_NAMES.iter().chain(&TEXT_FIELDS).any(|name| cell.trim().eq_ignore_ascii_case(name));
    if cells.iter().any(|cell| known(cell)) {
        return true;
    }
    // A lone cell of several words, or in Chinese, is as likely a text, which would be lost; unless the words are names, parted by something else.
    if let [cell] = cells
        && !cell.trim().bytes().all(|b| b.is_ascii_graphic())
    {
        return cell.split_whitespace().all(known) || ["文本", "内容", "正文", "句子", "评论", "标题"].contains(&cell.trim());
    }
    let mut seen = std::collections::HashSet::new();
    cells.iter().all(|cell| {
        let cell = cell.trim();
        let plain = cell.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | ' ' | '.' | '#'));
        let words = cell.split_whitespace().count();
        let number = cell.parse::<f64>().is_ok();
        plain && (1..=3).contains(&words) && cell.chars().count() <= 32 && !number && seen.insert(cell.to_lowercase())
    })
}

/// The text column of a table as documents.
pub(crate) struct Texts {
    table: Table,
    column: usize,
}

impl Texts {
    pub(crate) fn open(source: &Source, format: Format, options: &ReadOptions, bytes_read: Arc<AtomicU64>) -> Result<Self> {
        let table_options = TableOptions {
            format: Some(format),
            header: if options.text_field.is_some() { Header::First } else { Header::Found },
            line_limit: options.line_limit,
            on_bad: options.on_bad,
        };
        let table = Table::open_counted(source, &table_options, bytes_read)?;
        let column = match &options.text_field {
            _ if table.columns.is_empty() => 0, // an empty file: its fault was counted or raised above
            Some(field) => table.require(&[field.as_str()])?,
            None if table.columns.len() == 1 => 0,
            None => table.require(&TEXT_FIELDS)?,
        };
        Ok(Self { table, column })
    }
}

impl Iterator for Texts {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        // Faults met while the columns were looked for come first.
        if let Some(fault) = self.table.faults.pop() {
            return Some(Err(FoundFault::Bad(fault)));
        }
        let found = self.table.next_found()?;
        Some(found.map(|mut row| Document { line: row.line, text: row.fields.swap_remove(self.column) }))
    }
}

/// The named table file in `path`; see [`Table::open`].
pub fn open(path: &Path, options: &TableOptions) -> Result<Table> {
    Table::open(&Source::new(path), options)
}
