//! What can go wrong between outside text and a batch.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::tokenizer::TokenizerError;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A fault of the text side. Every variant says where it happened and carries what was expected and found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb: "read", "write", "rename".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A path, folder or pattern gave no file.
    #[error("no input file matches {pattern}; give files, folders, patterns such as 'data/*.txt', or - for standard input")]
    NoInput {
        /// What was asked for.
        pattern: String,
    },
    /// A pattern cannot be understood.
    #[error("{pattern} is not a file pattern: {reason}")]
    BadPattern {
        /// The pattern.
        pattern: String,
        /// Why not.
        reason: String,
    },
    /// A file whose format is neither given nor told by its name.
    #[error("cannot tell the format of {}; name it: txt, jsonl, csv, tsv or parquet; rows of tasks may be json, conll or conllu, too", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// A format this build cannot read.
    #[error("{}: this build does not read {format}; rebuild with --features {feature}", path.display())]
    FormatNotBuilt {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: &'static str,
        /// The cargo feature that adds it.
        feature: &'static str,
    },
    /// Bad content of an input under the policy [`OnBad::Fail`](crate::read::OnBad::Fail).
    #[error("{0}; fix the file, or skip such places with --skip-bad")]
    Bad(Fault),
    /// Bad content of a file of rows, where none may be left out.
    #[error("{0}")]
    BadRow(Fault),
    /// A table lacks a column.
    #[error("{}: no column named {}; it has: {}", path.display(), wanted.join(" or "), found.join(", "))]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The names that would have done.
        wanted: Vec<String>,
        /// The names that are there.
        found: Vec<String>,
    },
    /// No document was left to write.
    #[error("no document is left of {files} input file(s): {dropped}")]
    NoDocuments {
        /// How many files were read.
        files: usize,
        /// What was dropped and why.
        dropped: String,
    },
    /// The output of `prepare` is in the way.
    #[error("{} exists; choose another folder or allow overwriting", path.display())]
    OutputExists {
        /// The folder.
        path: PathBuf,
    },
    /// The caller asked to stop.
    #[error("interrupted; nothing was left behind, start again to prepare the corpus")]
    Interrupted,
    /// A setting out of its range.
    #[error("{key} = {found}: expected {expected}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// What was given.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// A prepared corpus without manifest, or with one that cannot be read.
    #[error("{} is not a prepared corpus: {reason}; make one with `cloze prepare`", path.display())]
    Manifest {
        /// The folder or manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A shard is damaged.
    #[error("{}: at byte {offset}: {fault}; prepare the corpus again", path.display())]
    Shard {
        /// The shard.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What is wrong.
        fault: ShardFault,
    },
    /// The corpus was prepared with another vocabulary than the one in use.
    #[error(
        "the corpus was prepared with {corpus} token ids and the vocabulary in use has {vocabulary}; use the tokenizer in the corpus folder"
    )]
    VocabularyDiffers {
        /// Vocabulary size of the corpus.
        corpus: u64,
        /// Vocabulary size in use.
        vocabulary: u64,
    },
    /// The data cannot feed the objective.
    #[error("{objective} needs at least {needed} {unit}; the corpus has {found}")]
    TooLittleData {
        /// The objective.
        objective: &'static str,
        /// What it counts.
        unit: &'static str,
        /// How many it needs.
        needed: u64,
        /// How many there are.
        found: u64,
    },
    /// One encoding does not fit a batch.
    #[error("sequence {index} has {tokens} tokens, more than the {limit} of a batch; truncate it or raise the limit")]
    SequenceTooLong {
        /// Which encoding, by input order.
        index: usize,
        /// Its length.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// A document could not be tokenised.
    #[error("{}:{line}: {source}", path.display())]
    Encode {
        /// The input.
        path: PathBuf,
        /// Line of the document's start.
        line: u64,
        /// The tokenizer's reason.
        source: Box<TokenizerError>,
    },
    /// The tokenizer could not be loaded, trained or saved.
    #[error(transparent)]
    Tokenizer(#[from] Box<TokenizerError>),
    /// A tokenizer without a token that pre-training needs.
    #[error("the tokenizer has no {token} token; pre-training needs it")]
    NoSpecialToken {
        /// What it is for.
        token: &'static str,
    },
    /// A worker thread died.
    #[error("a worker thread of {place} stopped unexpectedly")]
    Worker {
        /// Which one.
        place: &'static str,
    },
}

impl From<TokenizerError> for Error {
    fn from(error: TokenizerError) -> Self {
        Self::Tokenizer(Box::new(error))
    }
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

/// Bad content at one place of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The input, as named by the user (`-` is standard input).
    pub path: PathBuf,
    /// Line, from 1; for parquet the row. 0 speaks of the whole file.
    pub line: u64,
    /// What is wrong.
    pub kind: FaultKind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.kind)
    }
}

/// The kinds of bad content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// Bytes that are not UTF-8.
    #[error("invalid UTF-8 at byte {at} of the line")]
    Utf8 {
        /// Offset in the line, from 0.
        at: usize,
    },
    /// Nothing in the file.
    #[error("the file is empty")]
    Empty,
    /// A line (or quoted cell) over the cap.
    #[error("a line longer than {limit} bytes")]
    LineTooLong {
        /// The cap.
        limit: usize,
    },
    /// A row with another number of cells than the header.
    #[error("a row of {found} cells, expected {expected}")]
    Cells {
        /// Cells of the header.
        expected: usize,
        /// Cells of the row.
        found: usize,
    },
    /// A line that is no JSON object.
    #[error("not a JSON object: {reason}")]
    Json {
        /// The parser's words.
        reason: String,
    },
    /// A JSON object without the field.
    #[error("no field {wanted}; it has: {found}")]
    Field {
        /// The names that would have done.
        wanted: String,
        /// The names that are there.
        found: String,
    },
    /// A field that holds no text.
    #[error("field {field} holds no text")]
    NotText {
        /// The field.
        field: String,
    },
    /// A file that breaks off or does not decompress.
    #[error("cannot be read further: {reason}")]
    Stream {
        /// The reader's words.
        reason: String,
    },
}

impl FaultKind {
    /// A short fixed name, for counts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Utf8 { .. } => "invalid UTF-8",
            Self::Empty => "empty file",
            Self::LineTooLong { .. } => "line too long",
            Self::Cells { .. } => "broken row",
            Self::Json { .. } => "not JSON",
            Self::Field { .. } => "field missing",
            Self::NotText { .. } => "field without text",
            Self::Stream { .. } => "unreadable rest of a file",
        }
    }
}

/// The kinds of damage that a shard can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShardFault {
    /// The file is shorter or longer than its header says.
    #[error("the file has {found} bytes, expected {expected}")]
    Length {
        /// Bytes by the header.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// Not a shard.
    #[error("not a shard (wrong signature)")]
    Signature,
    /// Written by another version.
    #[error("shard version {found}, this program reads {expected}")]
    Version {
        /// What we read.
        expected: u32,
        /// What it is.
        found: u32,
    },
    /// A checksum differs.
    #[error("checksum of the {part} differs: expected {expected:016x}, found {found:016x}")]
    Checksum {
        /// Header, index or token block.
        part: &'static str,
        /// As written.
        expected: u64,
        /// As read.
        found: u64,
    },
    /// Numbers of the header that contradict each other.
    #[error("{what} is {found}, expected {expected}")]
    Layout {
        /// The header's field.
        what: &'static str,
        /// What follows from the other fields.
        expected: u64,
        /// What it says.
        found: u64,
    },
    /// Offsets that run backwards or out of the shard.
    #[error("{what} {index} points to {found}, allowed are {low} to {high}")]
    Offset {
        /// Sentence or document.
        what: &'static str,
        /// Which one.
        index: u64,
        /// Smallest allowed value.
        low: u64,
        /// Largest allowed value.
        high: u64,
        /// The value.
        found: u64,
    },
    /// A token id outside of the vocabulary.
    #[error("token id {id}, the vocabulary ends at {vocabulary}")]
    TokenId {
        /// The id.
        id: u32,
        /// The vocabulary's size.
        vocabulary: u64,
    },
}
