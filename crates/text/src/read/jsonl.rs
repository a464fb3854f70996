//! One JSON object a line, with a text field.

use serde_json::{Map, Value};

use super::lines::Lines;
use super::{Document, Found, FoundFault, ReadOptions, TEXT_FIELDS};
use crate::error::FaultKind;

pub(crate) struct Texts {
    lines: Lines,
    field: Option<String>,
}

impl Texts {
    pub(crate) fn new(lines: Lines, options: &ReadOptions) -> Self {
        Self { lines, field: options.text_field.clone() }
    }
}

/// The object of a line.
pub(crate) fn object(line: &str) -> Result<Map<String, Value>, FaultKind> {
    match serde_json::from_str(line) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => {
            let reason = match other {
                Value::Array(_) => "a list",
                Value::String(_) => "a string",
                _ => "a single value",
            };
            Err(FaultKind::Json { reason: reason.to_owned() })
        }
        Err(e) => Err(FaultKind::Json { reason: e.to_string() }),
    }
}

/// The text of a value: a string, or a list of strings as paragraphs.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => items.iter().map(Value::as_str).collect::<Option<Vec<_>>>().map(|parts| parts.join("\n")),
        _ => None,
    }
}

fn names(map: &Map<String, Value>) -> String {
    let names: Vec<&str> = map.keys().take(20).map(String::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl Iterator for Texts {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            let (number, parsed) = match self.lines.next()? {
                Err(fault) => return Some(Err(fault)),
                Ok((_, line)) if line.trim().is_empty() => continue,
                Ok((number, line)) => (number, object(line)),
            };
            let bad = |kind| -> Option<Result<_, FoundFault>> { Some(Err(self.lines.fault(number, kind))) };
            let map = match parsed {
                Ok(map) => map,
                Err(kind) => return bad(kind),
            };
            // The first object decides the field for the whole file.
            let found = self.field.clone().or_else(|| TEXT_FIELDS.iter().find(|f| map.contains_key(**f)).map(|f| (*f).to_owned()));
            let Some(field) = found else {
                return bad(FaultKind::Field { wanted: TEXT_FIELDS.join(" or "), found: names(&map) });
            };
            let Some(value) = map.get(&field) else {
                return bad(FaultKind::Field { wanted: field, found: names(&map) });
            };
            let Some(text) = text_of(value) else {
                return bad(FaultKind::NotText { field });
            };
            self.field = Some(field);
            return Some(Ok(Document { line: number, text }));
        }
    }
}
