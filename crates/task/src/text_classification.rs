//! Text classification: one text or a pair → one of the labels.

use std::path::{Path, PathBuf};

use cloze_model::{Input, Model};
use cloze_tensor::{Backend, Dtype, Tape, Weights};
use cloze_text::read::Source;
use cloze_text::read::table::{Table, TableOptions};
use cloze_text::{Encoding, Tokenizer, pack};
use serde::Serialize;

use crate::error::TaskError;
use crate::metric::classification::Confusion;

/// A text, or a pair of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextInput {
    /// The text, or the first of a pair.
    pub first: String,
    /// The second of a pair.
    pub second: Option<String>,
}

/// A labelled row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The text or pair.
    pub input: TextInput,
    /// Its label as written.
    pub label: String,
    /// Its line in the file, from 1.
    pub line: u64,
}

/// The answer: all labels with their probabilities, the likeliest first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The likeliest label.
    pub label: String,
    /// Its probability.
    pub score: f32,
    /// All labels, the likeliest first.
    pub scores: Vec<(String, f32)>,
}

/// Which columns hold what; `None`: found by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Columns {
    /// The text, or the first of a pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The second of a pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pair: Option<String>,
    /// The label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// The usual names, most telling first.
const TEXT: [&str; 12] =
    ["text", "sentence", "sentence1", "text_a", "premise", "question", "question1", "query", "review", "content", "title", "column1"];
const PAIR: [&str; 6] = ["sentence2", "text_b", "hypothesis", "question2", "passage", "answer"];
const LABEL: [&str; 6] = ["label", "labels", "class", "category", "target", "gold_label"];

/// A labelled table on its way in.
pub struct Examples {
    path: PathBuf,
    table: Table,
    text: usize,
    pair: Option<usize>,
    label: Option<usize>,
    label_name: String,
}

impl Examples {
    /// Open a table; `labelled` tables must have a label column.
    pub fn open(path: &Path, columns: &Columns, labelled: bool) -> Result<Self, TaskError> {
        let table = Table::open(&Source::new(path), &TableOptions::default())?;
        let names: Vec<String> = table.columns().to_vec();
        let at = |given: &Option<String>, usual: &[&str], role, flag| -> Result<Option<usize>, TaskError> {
            let find = |name: &str| names.iter().position(|n| n.eq_ignore_ascii_case(name));
            match given {
                Some(name) => {
                    find(name).map(Some).ok_or_else(|| TaskError::Column { path: path.to_owned(), role, columns: names.clone(), flag })
                }
                None => Ok(usual.iter().find_map(|n| find(n))),
            }
        };
        let missing = |role, flag| TaskError::Column { path: path.to_owned(), role, columns: names.clone(), flag };
        let text = at(&columns.text, &TEXT, "text", "text-column")?.ok_or_else(|| missing("text", "text-column"))?;
        let pair = at(&columns.pair, &PAIR, "second text", "pair-column")?.filter(|p| *p != text);
        let mut label = at(&columns.label, &LABEL, "label", "label-column")?;
        // Two columns without names are a text and its label.
        if label.is_none() && names.len() == 2 && names[0] == "column1" {
            label = Some(1);
        }
        if labelled && label.is_none() {
            return Err(missing("label", "label-column"));
        }
        let label_name = label.map_or(String::new(), |l| names[l].clone());
        Ok(Self { path: path.to_owned(), table, text, pair, label, label_name })
    }

    /// All rows, every one labelled.
    pub fn read_all(path: &Path, columns: &Columns) -> Result<Vec<Example>, TaskError> {
        let examples: Vec<Example> = Self::open(path, columns, true)?.collect::<Result<_, _>>()?;
        if examples.is_empty() {
            return Err(TaskError::TooLittle { path: path.to_owned(), problem: "no rows; it needs at least one".into() });
        }
        Ok(examples)
    }
}

impl Iterator for Examples {
    type Item = Result<Example, TaskError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = match self.table.next()? {
            Ok(row) => row,
            Err(e) => return Some(Err(e.into())),
        };
        let mut fields = row.fields;
        let mut take = |i: usize| fields.get_mut(i).map(std::mem::take).unwrap_or_default();
        let label = self.label.map(&mut take).unwrap_or_default();
        let second = self.pair.map(&mut take);
        let first = take(self.text);
        if self.label.is_some() && label.trim().is_empty() {
            return Some(Err(TaskError::Empty { path: self.path.clone(), line: row.line, column: self.label_name.clone() }));
        }
        Some(Ok(Example { input: TextInput { first, second }, label: label.trim().to_owned(), line: row.line }))
    }
}

/// The labels of training rows: numbers in their order, everything else by the alphabet.
pub fn labels_of(examples: &[Example]) -> Vec<String> {
    let mut labels: Vec<String> = examples.iter().map(|e| e.label.clone()).collect::<std::collections::HashSet<_>>().into_iter().collect();
    if labels.iter().all(|l| l.parse::<i64>().is_ok()) {
        labels.sort_by_key(|l| l.parse::<i64>().unwrap_or(0));
    } else {
        labels.sort();
    }
    labels
}

/// The ids of the rows' labels.
pub fn label_ids(path: &Path, examples: &[Example], labels: &[String]) -> Result<Vec<u32>, TaskError> {
    let id = |e: &Example| {
        let found = labels.iter().position(|l| *l == e.label);
        found.map(|i| i as u32).ok_or_else(|| TaskError::Label {
            path: path.to_owned(),
            line: e.line,
            found: e.label.clone(),
            known: labels.to_vec(),
        })
    };
    examples.iter().map(id).collect()
}

/// Text to tokens, cut to `max_length`.
pub fn encode(tokenizer: &Tokenizer, input: &TextInput, max_length: usize) -> Result<Encoding, TaskError> {
    Ok(match &input.second {
        None => tokenizer.encode_truncated(&input.first, max_length)?,
        Some(second) => tokenizer.encode_pair(&input.first, second, Some(max_length))?,
    })
}

/// Logits of encoded inputs, in their order; packed by length within `batch_tokens`. // `[inputs][labels]`
pub fn logits<B: Backend>(
    backend: &B,
    model: &Model,
    weights: &Weights<B>,
    dtype: Dtype,
    encodings: &[Encoding],
    batch_tokens: usize,
) -> Result<Vec<Vec<f32>>, TaskError> {
    let mut all = vec![Vec::new(); encodings.len()];
    let Some(head) = model.classifier() else { return Ok(all) };
    for packed in pack(encodings, batch_tokens)? {
        let batch = packed.batch;
        let input = Input::new(backend, &batch.input_ids, &batch.token_type_ids, batch.sequences);
        let mut tape = Tape::inference(backend, weights, dtype);
        let hidden = model.hidden(&mut tape, &input, false);
        let Some(pooled) = model.pooled(&mut tape, &hidden, &input) else { return Ok(all) };
        let logits = head.logits(&mut tape, &pooled);
        for (row, &place) in logits.to_host(backend).chunks_exact(logits.cols()).zip(&packed.order) {
            all[place] = row.to_vec();
        }
    }
    Ok(all)
}

/// Logits to an answer.
pub fn decode(labels: &[String], logits: &[f32]) -> Answer {
    let probabilities = softmax(logits);
    let mut scores: Vec<(String, f32)> = labels.iter().cloned().zip(probabilities).collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1));
    let (label, score) = scores.first().cloned().unwrap_or_default();
    Answer { label, score, scores }
}

/// exp(x − max) / Σ.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let exps: Vec<f32> = logits.iter().map(|l| (l - max).exp()).collect();
    let sum: f32 = exps.iter().sum();
    exps.into_iter().map(|e| e / sum).collect()
}

/// The place of the largest logit, the first of equals.
pub fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, l) in logits.iter().enumerate() {
        if *l > logits[best] {
            best = i;
        }
    }
    best
}

/// Figures of a confusion matrix by name.
pub fn figures(confusion: &Confusion) -> std::collections::BTreeMap<String, f64> {
    [("accuracy", confusion.accuracy()), ("macro_f1", confusion.macro_f1()), ("micro_f1", confusion.micro_f1()), ("mcc", confusion.mcc())]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
