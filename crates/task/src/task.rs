//! What a task is. One file each; command line, HTTP, training and docs derive from the list of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cloze_model::{Heads, Problem};
use serde_json::Value;

use crate::context::{Context, Options, Settings};
use crate::error::TaskError;
use crate::job::{Job, Sequence};
use crate::loss::Target;
use crate::paint::Paint;
use crate::rows::{Field, Row};

/// The part of a model that a task reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Labels of a sequence.
    Classifier,
    /// Labels of each token.
    Tokens,
    /// Start and end of a span.
    Span,
    /// One number for each choice.
    Choice,
    /// The vocabulary.
    MaskedLm,
    /// The body alone.
    Body,
}

impl Head {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Head::Classifier => "sequence classifier",
            Head::Tokens => "token classifier",
            Head::Span => "question-answering head",
            Head::Choice => "multiple-choice head",
            Head::MaskedLm => "masked-LM head",
            Head::Body => "encoder",
        }
    }
}

/// Figures of a model on labelled rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// By name; shares are from 0 to 1.
    pub values: BTreeMap<String, f64>,
    /// A table for people: classes, a confusion matrix.
    pub table: String,
    /// The same as data, such as labels and the confusion matrix.
    pub detail: Value,
}

/// A task: an input, an answer, and the way between.
pub trait Task: Send + Sync {
    /// Its name, as Hugging Face's pipelines have it.
    fn name(&self) -> &'static str;
    /// What it does, in a line.
    fn about(&self) -> &'static str;
    /// The path of its HTTP route, without the slash.
    fn route(&self) -> &'static str;
    /// The values of an input, and of a labelled row.
    fn fields(&self) -> &'static [Field];
    /// The part of a model that it reads.
    fn head(&self) -> Head;
    /// Whether a model with this head can do it, as far as its labels say.
    fn suits(&self, context: &Context) -> bool {
        let _ = context;
        true
    }
    /// An input, as documentation shows it.
    fn sample(&self) -> Value;

    /// From an input (an object with [`Task::fields`]; a plain string is its first field) to sequences.
    fn encode(&self, context: &Arc<Context>, input: &Value, options: &Options) -> Result<Job, TaskError>;

    /// An answer as a person reads it.
    fn text(&self, context: &Context, input: &Value, answer: &Value, paint: Paint) -> String;

    /// The options of answers that are measured: without those that only shorten an answer or show it another way, since figures are
    /// about the whole one.
    fn measured(&self, options: &Options) -> Options {
        Options { top_k: None, raw_scores: None, tokens: None, ..options.clone() }
    }

    /// Figures of answers against the rows they are for.
    fn figures(&self, context: &Context, rows: &[Row], answers: &[Value]) -> Result<Figures, TaskError>;

    /// Rows with the texts of a catalogue in the place of ids; tasks without catalogues refuse.
    fn joined(&self, rows: Vec<Row>, catalogue: &Path) -> Result<Vec<Row>, TaskError> {
        let _ = rows;
        Err(TaskError::Input { task: self.name(), problem: format!("it takes no catalogue, but {} was given", catalogue.display()) })
    }

    /// How it is learned; `None`: it is not trained.
    fn learning(&self) -> Option<&dyn Learning> {
        None
    }
}

/// A training row as sequences that share one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The sequences; they stay in one micro-batch.
    pub sequences: Vec<Sequence>,
    /// What is right.
    pub target: Target,
    /// Whether text was cut.
    pub cut: bool,
}

/// How a task is learned from labelled rows.
pub trait Learning {
    /// The heads that a model of these training rows has; settings may be found from the rows, too. `problem`: how
    /// sequence labels are meant, where the user says so.
    fn heads(&self, rows: &[Row], problem: Option<Problem>, settings: &mut Settings) -> Result<Heads, TaskError>;

    /// The examples of a row (several for a long context).
    fn examples(&self, context: &Context, row: &Row) -> Result<Vec<Example>, TaskError>;

    /// The labels of a row, for the balance of classes; none where rows have none.
    fn labels_of(&self, row: &Row) -> Vec<String> {
        let _ = row;
        Vec::new()
    }

    /// What a row's label says, in words, where its values alone do not read well.
    fn told(&self, row: &Row) -> Option<String> {
        let _ = row;
        None
    }

    /// What an answer says, in the same words: by default its likeliest label.
    fn said(&self, context: &Context, answer: &Value) -> Option<String> {
        let _ = context;
        let best = if let Value::Array(items) = answer { items.first()? } else { answer };
        let named = ["label", "answer", "choice"].into_iter().find_map(|key| best.get(key))?;
        Some(named.as_str().map_or_else(|| named.to_string(), str::to_owned))
    }

    /// The figure of these dev rows that chooses the best evaluation; more is better.
    fn goal(&self, context: &Context, dev: &[Row]) -> &'static str;

    /// All figures that may be chosen by.
    fn goals(&self) -> &'static [&'static str];
}
