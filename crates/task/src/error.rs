//! What can be wrong with a task's data.

use std::path::PathBuf;

/// A fault of a task's data. Each says which file, which line, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The table cannot be read.
    #[error(transparent)]
    Text(#[from] cloze_text::Error),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] cloze_text::TokenizerError),
    /// The model's files.
    #[error(transparent)]
    Model(#[from] cloze_model::ModelError),
    /// The file has no column for a value.
    #[error("{}: no column for `{role}`; it has {}{hint}; name one with --column {role}=NAME", path.display(), columns.join(", "))]
    Column {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        role: &'static str,
        /// The columns that are there.
        columns: Vec<String>,
        /// What may be the matter.
        hint: &'static str,
    },
    /// A column was named for a value that the task does not have.
    #[error("the task has no value `{field}`; it has {known}")]
    UnknownField {
        /// What was given.
        field: String,
        /// What it has.
        known: String,
    },
    /// A row lacks a value.
    #[error("{}: line {line}: column `{column}` is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The column.
        column: String,
    },
    /// A value of a row is not what the task takes.
    #[error("{}: line {line}: `{field}` is {found}; expected {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The value.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A label that the training data does not have.
    #[error("{}: line {line}: label {found:?} is not one of {}", path.display(), known.join(", "))]
    Label {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The label.
        found: String,
        /// The labels that the model has.
        known: Vec<String>,
    },
    /// Too few rows or labels to train on.
    #[error("{}: {problem}", path.display())]
    TooLittle {
        /// The file.
        path: PathBuf,
        /// What is missing.
        problem: String,
    },
    /// The model does not have what the task needs.
    #[error("the model has no {head}, which {task} needs; it is made for {made_for}; `cloze finetune --task {task}` makes one")]
    Head {
        /// The head.
        head: &'static str,
        /// The task.
        task: &'static str,
        /// What it can do.
        made_for: String,
    },
    /// A text for fill-mask without a mask.
    #[error("\"{text}\" has no {mask}; put {mask} where the word is to be found")]
    NoMask {
        /// The text.
        text: String,
        /// The mask token.
        mask: String,
    },
    /// The tokenizer gives an id that the model's table of embeddings has no row for.
    #[error(
        "the tokenizer gives {what} id {id}, and config.json says {key} {rows}, so that ids are below {rows}; use the tokenizer's files that belong to the model"
    )]
    NoRow {
        /// `token` or `segment`.
        what: &'static str,
        /// The id.
        id: u32,
        /// The key of config.json that says how many there are.
        key: &'static str,
        /// How many there are.
        rows: usize,
    },
    /// An input that the task cannot take.
    #[error("{task}: {problem}")]
    Input {
        /// The task.
        task: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The settings beside a model cannot be read or written.
    #[error("{}: {problem}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// An answer that does not have the task's shape.
    #[error("an answer could not be read: {problem}")]
    Answer {
        /// What is wrong.
        problem: String,
    },
    /// A task that is not in the list.
    #[error("there is no task {found:?}; there are {known}")]
    UnknownTask {
        /// What was asked for.
        found: String,
        /// The tasks.
        known: String,
    },
}
