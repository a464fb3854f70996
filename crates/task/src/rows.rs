//! Rows of a task's data file: its values under the names that the task knows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloze_text::read::records::{Record, Records};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::TaskError;

/// When a value must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needed {
    /// In every row.
    Always,
    /// In labelled rows.
    Labelled,
    /// One of several ways to label a row.
    Gold,
    /// Never.
    Optional,
}

/// One value of a row.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The name that the task knows.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// The names it usually has in files, the most telling first.
    pub usual: &'static [&'static str],
    /// When it must be there.
    pub needed: Needed,
}

/// Which columns hold which values; found by their usual names where not given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Columns(pub BTreeMap<String, String>);

impl Columns {
    /// Whether nothing is given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Say which column holds a value.
    pub fn with(mut self, field: &str, column: &str) -> Self {
        self.0.insert(field.into(), column.into());
        self
    }
}

/// One row of data.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The file.
    pub path: Arc<Path>,
    /// The line, from 1.
    pub line: u64,
    /// Its values: an object.
    pub value: Value,
}

impl Row {
    /// A row from a program, not from a file.
    pub fn new(value: Value) -> Self {
        Self { path: Arc::from(Path::new("row")), line: 0, value }
    }

    /// A value of the row; empty text and null count as absent.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.value.get(field).filter(|v| !v.is_null() && v.as_str().is_none_or(|s| !s.trim().is_empty()))
    }

    /// A text of the row.
    pub fn text(&self, field: &'static str) -> Result<&str, TaskError> {
        self.get(field).and_then(Value::as_str).ok_or_else(|| self.fault(field, "a text"))
    }

    /// A value as it would be written: numbers and booleans as their text.
    pub fn written(&self, field: &'static str) -> Result<String, TaskError> {
        match self.get(field) {
            Some(Value::String(text)) => Ok(text.trim().to_owned()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
            _ => Err(self.fault(field, "a text or a number")),
        }
    }

    /// A number of the row.
    pub fn number(&self, field: &'static str) -> Result<f64, TaskError> {
        let text = self.written(field)?;
        text.parse::<f64>().ok().filter(|n| n.is_finite()).ok_or_else(|| self.fault(field, "a number"))
    }

    /// A list of texts: a JSON list, in a table its JSON text, or words between spaces.
    pub fn list(&self, field: &'static str) -> Result<Vec<String>, TaskError> {
        let value = self.get(field).ok_or_else(|| self.fault(field, "a list"))?;
        texts(value).ok_or_else(|| self.fault(field, "a list of texts"))
    }

    /// The input without its labels, as one string: rows with equal ones are repetitions.
    pub fn fingerprint(&self, fields: &[Field]) -> String {
        let input = fields.iter().filter(|f| matches!(f.needed, Needed::Always | Needed::Optional));
        input.filter_map(|f| self.value.get(f.name)).map(Value::to_string).collect::<Vec<_>>().join("\u{1}")
    }

    /// What is wrong with a value, with its place.
    pub fn fault(&self, field: &'static str, expected: &'static str) -> TaskError {
        let found = self.value.get(field).map_or("nothing".into(), brief);
        TaskError::Value { path: self.path.to_path_buf(), line: self.line, field, expected, found }
    }
}

/// A list of texts out of a JSON list, its text, or words between spaces.
pub fn texts(value: &Value) -> Option<Vec<String>> {
    let written = |v: &Value| match v {
        Value::String(s) => Some(s.clone()),
        Value::Number(_) | Value::Bool(_) => Some(v.to_string()),
        _ => None,
    };
    match value {
        Value::Array(items) => items.iter().map(written).collect(),
        Value::String(text) if text.trim_start().starts_with('[') => match serde_json::from_str(text).ok()? {
            Value::Array(items) => items.iter().map(written).collect(),
            _ => None,
        },
        Value::String(text) => Some(text.split_whitespace().map(str::to_owned).collect()),
        _ => None,
    }
}

/// One text or several: a list, in a table its JSON text, or a text alone, which may begin with a bracket, too.
pub fn one_or_many(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => {
            let list = if text.trim_start().starts_with('[') { texts(value) } else { None };
            Some(list.unwrap_or_else(|| vec![text.clone()]))
        }
        list => texts(list),
    }
}

/// A value in at most 60 characters.
pub(crate) fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The rows of a file, one after the other.
pub struct Rows {
    path: Arc<Path>,
    records: std::iter::Peekable<Records>,
    fields: &'static [Field],
    names: Vec<(&'static Field, String)>,
    labelled: bool,
}

impl Rows {
    /// Open a file. Columns are found by the first record; `labelled` rows must have their labels.
    pub fn open(path: &Path, fields: &'static [Field], columns: &Columns, labelled: bool) -> Result<Self, TaskError> {
        let mut records = Records::open(path)?.peekable();
        let first = match records.next_if(Result::is_err) {
            Some(fault) => return Err(fault.err().map_or_else(|| unreachable!("it was an error"), TaskError::from)),
            None => records.peek().and_then(|r| r.as_ref().ok()).map(|r| r.fields.clone()).unwrap_or_default(),
        };
        let there: Vec<String> = first.keys().cloned().collect();
        if let Some(unknown) = columns.0.keys().find(|k| !fields.iter().any(|f| f.name == k.as_str())) {
            let known = fields.iter().map(|f| f.name).collect::<Vec<_>>().join(", ");
            return Err(TaskError::UnknownField { field: unknown.clone(), known });
        }
        let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
        let hint = match there.len() {
            1 if name.contains(".csv") => " (one column; are its cells parted by commas?)",
            1 if name.contains(".tsv") => " (one column; are its cells parted by tabs?)",
            _ => "",
        };
        let missing = |field: &Field| TaskError::Column { path: path.to_owned(), role: field.name, columns: there.clone(), hint };
        let mut names: Vec<(&'static Field, String)> = Vec::new();
        for field in fields {
            let find = |name: &str| there.iter().find(|n| n.eq_ignore_ascii_case(name)).cloned();
            let free = |name: &String| !names.iter().any(|(_, taken)| taken == name);
            let found = match columns.0.get(field.name) {
                Some(name) => Some(find(name).ok_or_else(|| missing(field))?),
                None => std::iter::once(&field.name).chain(field.usual).filter_map(|n| find(n)).find(free),
            };
            let needed = field.needed == Needed::Always || labelled && field.needed == Needed::Labelled;
            match found {
                Some(name) => names.push((field, name)),
                // Two columns without names are a text and its label.
                None if field.needed == Needed::Labelled && there.len() == 2 && there[0] == "column1" => {
                    names.push((field, there[1].clone()))
                }
                None if needed && !there.is_empty() => return Err(missing(field)),
                None => {}
            }
        }
        Ok(Self { path: Arc::from(path), records, fields, names, labelled })
    }

    /// All rows; at least one.
    pub fn read_all(path: &Path, fields: &'static [Field], columns: &Columns, labelled: bool) -> Result<Vec<Row>, TaskError> {
        let rows: Vec<Row> = Self::open(path, fields, columns, labelled)?.collect::<Result<_, _>>()?;
        if rows.is_empty() {
            return Err(TaskError::TooLittle { path: PathBuf::from(path), problem: "no rows; it needs at least one".into() });
        }
        Ok(rows)
    }

    fn row(&self, record: Record) -> Result<Row, TaskError> {
        let mut fields = record.fields;
        let mut value = Map::new();
        for (field, name) in &self.names {
            value.insert(field.name.into(), fields.remove(name).unwrap_or(Value::Null));
        }
        // what the first record did not have, under the task's own name
        for field in self.fields.iter().filter(|f| !value.contains_key(f.name)).map(|f| f.name).collect::<Vec<_>>() {
            if let Some(found) = fields.remove(field) {
                value.insert(field.into(), found);
            }
        }
        if let Some(id) = fields.remove("id").filter(|_| !value.contains_key("id")) {
            value.insert("id".into(), id);
        }
        let row = Row { path: Arc::clone(&self.path), line: record.line, value: Value::Object(value) };
        // A text to be answered may be empty; a label may not.
        let absent = |f: &Field| match f.needed {
            Needed::Always => row.value.get(f.name).is_none_or(Value::is_null),
            Needed::Labelled => self.labelled && row.get(f.name).is_none(),
            Needed::Gold | Needed::Optional => false,
        };
        match self.names.iter().find(|(f, _)| absent(f)) {
            Some((_, column)) => Err(TaskError::Empty { path: self.path.to_path_buf(), line: row.line, column: column.clone() }),
            None => Ok(row),
        }
    }
}

impl Iterator for Rows {
    type Item = Result<Row, TaskError>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.records.next()?;
        Some(record.map_err(TaskError::from).and_then(|record| self.row(record)))
    }
}

/// The first value of an input that no field is for: a name that was mistaken, or an option that stands in the wrong place.
pub fn unknown<'v>(fields: &[Field], input: &'v Value) -> Option<&'v str> {
    let names = input.as_object().into_iter().flat_map(Map::keys);
    names.map(String::as_str).find(|name| !fields.iter().any(|f| f.name == *name))
}

/// An input of a task from a program or a request: an object, or a plain text as its first field.
pub fn input(task: &'static str, fields: &'static [Field], value: &Value) -> Result<Row, TaskError> {
    let object = match value {
        Value::Object(_) => value.clone(),
        Value::String(text) => {
            let name = fields.first().map_or("text", |f| f.name);
            Value::Object(Map::from_iter([(name.to_owned(), Value::String(text.clone()))]))
        }
        other => return Err(TaskError::Input { task, problem: format!("{} is neither an object nor a text", brief(other)) }),
    };
    Ok(Row::new(object))
}
