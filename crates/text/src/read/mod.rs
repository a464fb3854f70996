//! Inputs to documents and to rows: files, patterns, folders, standard input; plain, gzip or zstd.
//!
//! Everything streams: memory is bounded by the longest line or document allowed, never by the file.

mod csv;
mod jsonl;
mod lines;
#[cfg(feature = "parquet")]
mod parquet;
pub mod records;
mod source;
pub mod table;
mod txt;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Fault, Result};
pub use source::{Source, expand};

/// What to do with bad content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBad {
    /// Stop and say where.
    #[default]
    Fail,
    /// Leave it out and count it.
    SkipAndCount,
}

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Plain text: blank lines between documents, one paragraph a line.
    Txt,
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated with quotes and a header.
    Csv,
    /// Tab-separated with a header; quotes are ordinary characters.
    Tsv,
    /// Parquet; needs the cargo feature `parquet`.
    Parquet,
}

impl Format {
    /// The format that the file's name tells, compression endings aside; `None` for unknown endings.
    pub fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_lowercase();
        let bare = [".gz", ".zst"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
        match bare.rsplit_once('.')?.1 {
            "txt" | "text" | "md" => Some(Self::Txt),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "csv" => Some(Self::Csv),
            "tsv" | "tab" => Some(Self::Tsv),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// How inputs are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadOptions {
    /// The format of every input, instead of the one its name tells.
    pub format: Option<Format>,
    /// The field or column that holds the text, instead of the first that is named `text`, `content`, ….
    pub text_field: Option<String>,
    /// Plain text: every line is a document.
    pub document_per_line: bool,
    /// Most bytes of a line (16 MiB); a longer one is bad content. Longer documents are cut at a paragraph.
    pub line_limit: usize,
    /// What to do with bad content.
    pub on_bad: OnBad,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { format: None, text_field: None, document_per_line: false, line_limit: 16 << 20, on_bad: OnBad::Fail }
    }
}

/// Names under which text is looked for, in this order.
pub const TEXT_FIELDS: [&str; 12] =
    ["text", "content", "body", "document", "article", "passage", "raw_content", "story", "paragraph", "sentence", "review", "abstract"];

/// A document as it stood in the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Line (for parquet, row) of its start, from 1.
    pub line: u64,
    /// Its text; paragraphs are lines.
    pub text: String,
}

/// One document, or the fault that stands in its place.
pub(crate) type Found = Result<Document, FoundFault>;

/// A fault while reading: content that can be skipped, or an end.
#[derive(Debug)]
pub(crate) enum FoundFault {
    /// Bad content; reading can go on behind it.
    Bad(Fault),
    /// Reading cannot go on.
    Fatal(Error),
}

impl From<Error> for FoundFault {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

/// The documents of one input, in order.
pub struct Documents {
    inner: Box<dyn Iterator<Item = Found> + Send>,
    on_bad: OnBad,
    faults: Vec<Fault>,
    kinds: BTreeMap<&'static str, u64>,
    failed: bool,
}

/// Faults kept word for word; further ones are only counted.
const KEPT_FAULTS: usize = 20;

impl Documents {
    /// Open `source`. `bytes_read` grows with the bytes taken from the file, before decompression.
    pub fn open(source: &Source, options: &ReadOptions, bytes_read: Arc<AtomicU64>) -> Result<Self> {
        let format = source.format(options.format)?;
        let inner: Box<dyn Iterator<Item = Found> + Send> = match format {
            Format::Txt => Box::new(txt::Paragraphs::new(lines::Lines::open(source, options.line_limit, bytes_read)?, options)),
            Format::Jsonl => Box::new(jsonl::Texts::new(lines::Lines::open(source, options.line_limit, bytes_read)?, options)),
            Format::Csv | Format::Tsv => Box::new(table::Texts::open(source, format, options, bytes_read)?),
            #[cfg(feature = "parquet")]
            Format::Parquet => Box::new(parquet::Texts::open(source, options, bytes_read)?),
            #[cfg(not(feature = "parquet"))]
            Format::Parquet => {
                return Err(Error::FormatNotBuilt { path: source.path().to_path_buf(), format: "parquet", feature: "parquet" });
            }
        };
        Ok(Self { inner, on_bad: options.on_bad, faults: Vec::new(), kinds: BTreeMap::new(), failed: false })
    }

    /// The first faults that were skipped, word for word, and how many there were of each kind.
    pub fn faults(&self) -> (&[Fault], &BTreeMap<&'static str, u64>) {
        (&self.faults, &self.kinds)
    }
}

impl Iterator for Documents {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            match self.inner.next()? {
                Ok(document) => return Some(Ok(document)),
                Err(FoundFault::Bad(fault)) if self.on_bad == OnBad::SkipAndCount => {
                    *self.kinds.entry(fault.kind.name()).or_default() += 1;
                    if self.faults.len() < KEPT_FAULTS {
                        self.faults.push(fault);
                    }
                }
                Err(FoundFault::Bad(fault)) => {
                    self.failed = true;
                    return Some(Err(Error::Bad(fault)));
                }
                Err(FoundFault::Fatal(error)) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl std::fmt::Debug for Documents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Documents").field("on_bad", &self.on_bad).field("faults", &self.kinds).finish_non_exhaustive()
    }
}
