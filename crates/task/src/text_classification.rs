//! Text classification: a text or a pair → one of the labels, any number of them, or a number.

use std::collections::HashSet;
use std::sync::Arc;

use cloze_model::{Heads, Problem};
use cloze_text::Encoding;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::context::{Context, Options, Settings};
use crate::error::TaskError;
use crate::job::{Job, Sequence, Step, Want};
use crate::loss::Target;
use crate::metric::classification::{Confusion, multi_label};
use crate::metric::correlation;
use crate::paint::Paint;
use crate::rows::{self, Field, Needed, Row};
use crate::task::{Example, Figures, Head, Learning, Task};

/// The task.
pub struct TextClassification;

/// A text, or a pair of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TextInput {
    /// The text, or the first of a pair.
    #[serde(rename = "text")]
    pub first: String,
    /// The second of a pair.
    #[serde(rename = "pair", skip_serializing_if = "Option::is_none")]
    pub second: Option<String>,
}

impl TextInput {
    /// The text or pair of a row.
    ///
    /// # Errors
    /// When one of them is no text.
    pub fn of(row: &Row) -> Result<Self, TaskError> {
        let text = |field: &'static str| match row.value.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(row.fault(field, "a text")),
        };
        Ok(Self { first: text("text")?.unwrap_or_default(), second: text("pair")? })
    }
}

/// A label with its probability; of a regression, the name of the number and the number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The label.
    pub label: String,
    /// Its probability (its logit, where asked for).
    pub score: f32,
}

/// All labels, the likeliest first.
pub type Answer = Vec<Scored>;

/// The values of a row.
pub static FIELDS: [Field; 3] = [
    Field {
        name: "text",
        about: "the text, or the first of a pair",
        usual: &["sentence", "sentence1", "text_a", "premise", "question", "question1", "query", "review", "content", "title", "column1"],
        needed: Needed::Always,
    },
    Field {
        name: "pair",
        about: "the second text of a pair",
        usual: &["sentence2", "text_b", "hypothesis", "question2", "passage", "answer"],
        needed: Needed::Optional,
    },
    Field {
        name: "label",
        about: "the label; several as a list; a number for a regression",
        usual: &["labels", "class", "category", "target", "gold_label", "score"],
        needed: Needed::Labelled,
    },
];

impl Task for TextClassification {
    fn name(&self) -> &'static str {
        "text-classification"
    }
    fn about(&self) -> &'static str {
        "a text or a pair → one of the labels, any number of them, or a number"
    }
    fn route(&self) -> &'static str {
        "classify"
    }
    fn fields(&self) -> &'static [Field] {
        &FIELDS
    }
    fn head(&self) -> Head {
        Head::Classifier
    }
    fn sample(&self) -> Value {
        json!({"text": "a moving film"})
    }

    fn encode(&self, context: &Arc<Context>, input: &Value, options: &Options) -> Result<Job, TaskError> {
        let row = rows::input(self.name(), self.fields(), input)?;
        row.value.get("text").filter(|v| !v.is_null()).ok_or_else(|| missing(self.name(), "text"))?;
        let (sequence, cut) = sequence(context, &TextInput::of(&row)?)?;
        let (context, options) = (Arc::clone(context), options.clone());
        let mut job = Job::new(vec![sequence], move |outputs| Step::answer(&decode(&context, outputs[0].values(), &options)));
        job.cut = cut;
        Ok(job)
    }

    fn text(&self, context: &Context, input: &Value, answer: &Value, paint: Paint) -> String {
        let first = input.as_str().or_else(|| input.get("text").and_then(Value::as_str)).unwrap_or_default();
        let text = input.get("pair").and_then(Value::as_str).map_or_else(|| first.to_owned(), |second| format!("{first} | {second}"));
        let answer: Answer = serde_json::from_value(answer.clone()).unwrap_or_default();
        let Some(best) = answer.first() else { return text };
        let likely = |s: &Scored| format!("{} {:>6.1}%", paint.colour(0, &format!("{:<12}", s.label)), 100.0 * s.score);
        let logits = answer.iter().any(|s| !(0.0..=1.0).contains(&s.score));
        match context.problem {
            // a number is no probability
            _ if logits || context.problem == Problem::Regression => format!("{:<12} {:>7.3}  {text}", best.label, best.score),
            Problem::MultiLabel => {
                let on: Vec<String> = answer.iter().filter(|s| s.score >= LIKELY).map(likely).collect();
                if on.is_empty() { format!("{:<20}  {text}", "no label") } else { format!("{}  {text}", on.join("  ")) }
            }
            // more than the likeliest, where some were asked for
            _ if answer.len() > 1 && answer.len() < context.labels.len() => answer.iter().fold(text, |out, s| out + "\n  " + &likely(s)),
            _ => format!("{}  {text}", likely(best)),
        }
    }

    fn figures(&self, context: &Context, rows: &[Row], answers: &[Value]) -> Result<Figures, TaskError> {
        let answers: Vec<Answer> = answers.iter().map(|a| serde_json::from_value(a.clone()).unwrap_or_default()).collect();
        match context.problem {
            Problem::SingleLabel => single(context, rows, &answers),
            Problem::MultiLabel => multi(context, rows, &answers),
            Problem::Regression => {
                let gold: Vec<f64> = rows.iter().map(|r| r.number("label")).collect::<Result<_, _>>()?;
                let found: Vec<f64> = answers.iter().map(|a| a.first().map_or(0.0, |s| f64::from(s.score))).collect();
                Ok(correlation::figures(&gold, &found))
            }
        }
    }

    fn learning(&self) -> Option<&dyn Learning> {
        Some(self)
    }
}

impl Learning for TextClassification {
    fn heads(&self, rows: &[Row], problem: Option<Problem>, _: &mut Settings) -> Result<Heads, TaskError> {
        let problem = problem.unwrap_or_else(|| guess(rows));
        if problem == Problem::Regression {
            rows.iter().try_for_each(|r| r.number("label").map(drop))?;
            return Ok(Heads::regression("score"));
        }
        let mut seen = HashSet::new();
        for row in rows {
            match problem {
                Problem::MultiLabel => seen.extend(labels(row)?),
                _ => {
                    seen.insert(row.written("label")?);
                }
            }
        }
        let labels = in_order(seen);
        if labels.len() < 2 && problem == Problem::SingleLabel {
            let only = labels.first().cloned().unwrap_or_default();
            let problem = format!("all rows have the label {only:?}; a classifier needs at least two");
            return Err(TaskError::TooLittle { path: rows.first().map_or_else(Default::default, |r| r.path.to_path_buf()), problem });
        }
        Ok(if problem == Problem::MultiLabel { Heads::multi_label(labels) } else { Heads::classification(labels) })
    }

    fn examples(&self, context: &Context, row: &Row) -> Result<Vec<Example>, TaskError> {
        let target = match context.problem {
            Problem::SingleLabel => Target::Class(label_id(row, &row.written("label")?, &context.labels)?),
            Problem::Regression => Target::Value(row.number("label")? as f32),
            Problem::MultiLabel => {
                let mut wanted = vec![0.0; context.labels.len()];
                for label in labels(row)? {
                    wanted[label_id(row, &label, &context.labels)? as usize] = 1.0;
                }
                Target::Classes(wanted)
            }
        };
        let (sequence, cut) = sequence(context, &TextInput::of(row)?)?;
        Ok(vec![Example { sequences: vec![sequence], target, cut }])
    }

    fn labels_of(&self, row: &Row) -> Vec<String> {
        labels(row).unwrap_or_default()
    }

    fn said(&self, context: &Context, answer: &Value) -> Option<String> {
        let answer: Answer = serde_json::from_value(answer.clone()).ok()?;
        match context.problem {
            Problem::SingleLabel => answer.first().map(|s| s.label.clone()),
            Problem::Regression => answer.first().map(|s| format!("{:.3}", s.score)),
            Problem::MultiLabel => {
                let on: Vec<String> = answer.into_iter().filter(|s| s.score >= LIKELY).map(|s| s.label).collect();
                Some(if on.is_empty() { "no label".into() } else { on.join(", ") })
            }
        }
    }

    fn goal(&self, context: &Context, _: &[Row]) -> &'static str {
        match context.problem {
            Problem::SingleLabel => "accuracy",
            Problem::MultiLabel => "micro_f1",
            Problem::Regression => "spearman",
        }
    }

    fn goals(&self) -> &'static [&'static str] {
        &["accuracy", "macro_f1", "micro_f1", "mcc", "f1", "pearson", "spearman"]
    }
}

/// The probability from which a label of several counts as given.
const LIKELY: f32 = 0.5;

/// An input that lacks a value.
pub(crate) fn missing(task: &'static str, field: &'static str) -> TaskError {
    let sample = crate::registry::task(task).map(|t| format!("; an input is an object such as {}", t.sample())).unwrap_or_default();
    TaskError::Input { task, problem: format!("the input has no `{field}`{sample}") }
}

/// Text to tokens, cut to the longest length; whether it was cut.
pub(crate) fn encode(context: &Context, input: &TextInput) -> Result<(Encoding, bool), TaskError> {
    let encoding = match &input.second {
        None => context.tokenizer.encode_truncated(&input.first, context.max_length)?,
        Some(second) => context.tokenizer.encode_pair(&input.first, second, Some(context.max_length))?,
    };
    let cut = encoding.len() >= context.max_length && is_cut(&encoding, [&input.first, input.second.as_deref().unwrap_or_default()]);
    Ok((encoding, cut))
}

/// Whether something of the texts stands before or behind the tokens. One that is full may fit exactly.
pub(crate) fn is_cut(encoding: &Encoding, texts: [&str; 2]) -> bool {
    encoding.parts.iter().zip(texts).any(|(part, text)| {
        let covered = encoding.offsets.get(part.clone()).unwrap_or_default();
        let (start, end) = covered.first().zip(covered.last()).map_or((0, 0), |(first, last)| (first.0 as usize, last.1 as usize));
        [text.get(..start), text.get(end..)].into_iter().flatten().any(|left| !left.trim().is_empty())
    })
}

fn sequence(context: &Context, input: &TextInput) -> Result<(Sequence, bool), TaskError> {
    let (encoding, cut) = encode(context, input)?;
    Ok((Sequence::new(&encoding, Want::Labels), cut))
}

/// Logits to labels with probabilities, the likeliest first.
pub fn decode(context: &Context, logits: &[f32], options: &Options) -> Answer {
    let scores = match context.problem {
        _ if options.raw_scores == Some(true) => logits.to_vec(),
        Problem::Regression => logits.to_vec(),
        Problem::MultiLabel => logits.iter().map(|l| sigmoid(*l)).collect(),
        Problem::SingleLabel => softmax(logits),
    };
    let mut answer: Answer = context.labels.iter().cloned().zip(scores).map(|(label, score)| Scored { label, score }).collect();
    if context.problem != Problem::Regression {
        answer.sort_by(|a, b| b.score.total_cmp(&a.score));
    }
    answer.truncate(options.top_k.unwrap_or(usize::MAX));
    answer
}

/// Sorted: numbers in their order, everything else by the alphabet.
pub(crate) fn in_order(seen: HashSet<String>) -> Vec<String> {
    let mut labels: Vec<String> = seen.into_iter().collect();
    if labels.iter().all(|l| l.parse::<i64>().is_ok()) {
        labels.sort_by_key(|l| l.parse::<i64>().unwrap_or(0));
    } else {
        labels.sort();
    }
    labels
}

/// The id of a label that a model knows.
pub(crate) fn label_id(row: &Row, label: &str, known: &[String]) -> Result<u32, TaskError> {
    known.iter().position(|l| l == label).map(|i| i as u32).ok_or_else(|| TaskError::Label {
        path: row.path.to_path_buf(),
        line: row.line,
        found: label.to_owned(),
        known: known.to_vec(),
    })
}

/// The labels of a row: a list, or a text cut at `|`, `;` or `,`.
fn labels(row: &Row) -> Result<Vec<String>, TaskError> {
    match row.get("label") {
        Some(Value::String(text)) if !text.trim_start().starts_with('[') => {
            let cut = ['|', ';', ','].into_iter().find(|c| text.contains(*c)).unwrap_or('|');
            Ok(text.split(cut).map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect())
        }
        Some(Value::Number(n)) => Ok(vec![n.to_string()]),
        None => Ok(Vec::new()), // a row without any label
        Some(_) => row.list("label"),
    }
}

/// How the labels of rows are meant: lists are many labels; numbers of which some have a fraction are a regression.
fn guess(rows: &[Row]) -> Problem {
    let list = |r: &Row| match r.get("label") {
        Some(Value::Array(_)) => true,
        Some(Value::String(s)) => s.starts_with('[') && s.ends_with(']'),
        _ => false,
    };
    if rows.iter().any(list) {
        return Problem::MultiLabel;
    }
    let written: Vec<String> = rows.iter().filter_map(|r| r.written("label").ok()).collect();
    let numbers = written.iter().all(|l| l.parse::<f64>().is_ok());
    if numbers && written.iter().any(|l| l.parse::<f64>().is_ok_and(|n| n.fract() != 0.0)) {
        Problem::Regression
    } else {
        Problem::SingleLabel
    }
}

fn single(context: &Context, rows: &[Row], answers: &[Answer]) -> Result<Figures, TaskError> {
    let mut confusion = Confusion::new(context.labels.len());
    let mut loss = 0.0;
    for (row, answer) in rows.iter().zip(answers) {
        let label = row.written("label")?;
        let gold = label_id(row, &label, &context.labels)? as usize;
        let found = answer.first().and_then(|best| context.labels.iter().position(|l| *l == best.label)).unwrap_or(0);
        confusion.add(gold, found);
        let p = answer.iter().find(|s| s.label == label).map_or(0.0, |s| s.score);
        loss -= f64::from(p.max(f32::MIN_POSITIVE)).ln();
    }
    let mut figures = Figures { table: confusion.table(&context.labels), ..Figures::default() };
    figures.values = confusion.figures();
    figures.values.insert("loss".into(), loss / rows.len().max(1) as f64);
    figures.detail = json!({"labels": context.labels, "confusion": confusion});
    Ok(figures)
}

fn multi(context: &Context, rows: &[Row], answers: &[Answer]) -> Result<Figures, TaskError> {
    let mut pairs = Vec::new();
    for (row, answer) in rows.iter().zip(answers) {
        let mut gold = vec![false; context.labels.len()];
        for label in labels(row)? {
            gold[label_id(row, &label, &context.labels)? as usize] = true;
        }
        let on = |l: &String| answer.iter().any(|s| s.label == *l && s.score >= LIKELY);
        pairs.push((gold, context.labels.iter().map(on).collect()));
    }
    Ok(Figures { values: multi_label(&pairs), ..Figures::default() })
}

/// exp(x − max) / Σ.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let exps: Vec<f32> = logits.iter().map(|l| (l - max).exp()).collect();
    let sum: f32 = exps.iter().sum();
    exps.into_iter().map(|e| e / sum).collect()
}

/// 1 / (1 + exp(−x)).
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
