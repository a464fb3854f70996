//! What can be wrong with a task's data.

use std::path::PathBuf;

/// A fault of a task's data. Each says which file, which line, and what to do.
#[derive(Debug, thiserror::Error)]
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
    /// The table has no column for an input.
    #[error("{}: no column for the {role}; it has {}; name one with --{flag}", path.display(), columns.join(", "))]
    Column {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        role: &'static str,
        /// The columns that are there.
        columns: Vec<String>,
        /// The option that names it.
        flag: &'static str,
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
    #[error("{}: the model has no {head}, which {task} needs; it is a {architecture}", folder.display())]
    Head {
        /// The model's folder.
        folder: PathBuf,
        /// The head.
        head: &'static str,
        /// The task.
        task: &'static str,
        /// What it is.
        architecture: String,
    },
    /// A text for fill-mask without a mask.
    #[error("\"{text}\" has no {mask}; put {mask} where the word is to be found")]
    NoMask {
        /// The text.
        text: String,
        /// The mask token.
        mask: String,
    },
}
