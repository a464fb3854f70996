//! Extractive summarization: the sentences of a text that say most of it (Liu and Lapata 2019, "BERTSum").
//!
//! Every sentence stands behind a first token of its own, in alternating segments; that token's label says whether the
//! sentence belongs to the summary.

use std::sync::Arc;

use cloze_model::{Heads, Problem};
use cloze_text::sentence::{Language, language, sentences};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::context::{Context, Options, Settings};
use crate::error::TaskError;
use crate::job::{Job, Sequence, Step, Want};
use crate::loss::Target;
use crate::metric::rouge::{rouge_l, rouge_n, words};
use crate::paint::Paint;
use crate::rows::{self, Field, Needed, Row, texts};
use crate::task::{Example, Figures, Head, Learning, Task};
use crate::text_classification::{is_cut, missing, softmax};

/// The task.
pub struct ExtractiveSummarization;

/// A sentence with its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sentence {
    /// Which of the text's sentences.
    pub index: usize,
    /// The probability that it belongs to the summary.
    pub score: f32,
    /// What it says.
    pub text: String,
}

/// The chosen sentences.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// They, one after the other.
    pub summary: String,
    /// They, in the order of the text.
    pub sentences: Vec<Sentence>,
}

/// The values of a row.
pub static FIELDS: [Field; 3] = [
    Field {
        name: "text",
        about: "the text, or a list of its sentences",
        usual: &["source", "sentences", "document", "article", "content"],
        needed: Needed::Always,
    },
    Field { name: "summary", about: "a summary in any words", usual: &["target", "highlights", "abstract"], needed: Needed::Gold },
    Field { name: "labels", about: "for each sentence 1 where it belongs to the summary", usual: &["source_labels"], needed: Needed::Gold },
];

/// The labels of a sentence.
const LABELS: [&str; 2] = ["other", "summary"];
/// Sentences of a summary.
const CHOSEN: usize = 3;

impl Task for ExtractiveSummarization {
    fn name(&self) -> &'static str {
        "extractive-summarization"
    }
    fn about(&self) -> &'static str {
        "the sentences of a text that say most of it"
    }
    fn route(&self) -> &'static str {
        "extract"
    }
    fn fields(&self) -> &'static [Field] {
        &FIELDS
    }
    fn head(&self) -> Head {
        Head::Tokens
    }
    fn sample(&self) -> Value {
        json!({"text": "The bridge was closed. It had been damaged by the flood. Repairs begin in May."})
    }

    /// How many sentences a summary has is a part of the question.
    fn measured(&self, options: &Options) -> Options {
        options.clone()
    }

    fn encode(&self, context: &Arc<Context>, input: &Value, options: &Options) -> Result<Job, TaskError> {
        let row = rows::input(self.name(), self.fields(), input)?;
        let Some(label) = context.labels.iter().position(|l| l == LABELS[1]) else {
            let problem = format!("the model's labels are {}; train it for this task", context.labels.join(", "));
            return Err(TaskError::Input { task: self.name(), problem });
        };
        let parts = parts(&row).ok_or_else(|| missing(self.name(), "text"))?;
        let (windows, cut) = windows(context, &parts)?;
        let top = options.top_k.unwrap_or(CHOSEN);
        let (sequences, order): (Vec<Sequence>, Vec<Vec<usize>>) = windows.into_iter().unzip();
        let mut job = Job::new(sequences, move |outputs| {
            let mut found: Vec<Sentence> = Vec::new();
            for (indices, output) in order.iter().zip(&outputs) {
                let scored = |(&index, logits): (&usize, &[f32])| Sentence {
                    index,
                    score: softmax(logits).get(label).copied().unwrap_or(0.0),
                    text: parts[index].clone(),
                };
                found.extend(indices.iter().zip(output.rows()).map(scored));
            }
            found.sort_by(|a, b| b.score.total_cmp(&a.score));
            found.truncate(top);
            found.sort_by_key(|s| s.index);
            let texts: Vec<&str> = found.iter().map(|s| s.text.trim()).collect();
            Step::answer(&Answer { summary: joined(&texts), sentences: found })
        });
        job.cut = cut;
        Ok(job)
    }

    fn text(&self, _: &Context, input: &Value, answer: &Value, paint: Paint) -> String {
        let Ok(row) = rows::input(self.name(), self.fields(), input) else { return String::new() };
        let answer: Answer = serde_json::from_value(answer.clone()).unwrap_or_default();
        let shown = parts(&row).unwrap_or_default().into_iter().enumerate().map(|(i, part)| {
            let chosen = answer.sentences.iter().any(|s| s.index == i);
            if chosen { paint.mark(0, part.trim()) } else { part.trim().to_owned() }
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    fn figures(&self, _: &Context, rows: &[Row], answers: &[Value]) -> Result<Figures, TaskError> {
        let (mut one, mut two, mut longest) = (0.0, 0.0, 0.0);
        for (row, answer) in rows.iter().zip(answers) {
            let answer: Answer = serde_json::from_value(answer.clone()).unwrap_or_default();
            let parts = parts(row).ok_or_else(|| row.fault("text", "a text or a list of sentences"))?;
            let reference = match row.get("summary") {
                Some(Value::String(text)) => text.clone(),
                Some(list) => joined(&texts(list).unwrap_or_default().iter().map(String::as_str).collect::<Vec<_>>()),
                None => joined(&parts.iter().zip(chosen(row, &parts)?).filter(|(_, c)| *c).map(|(p, _)| p.as_str()).collect::<Vec<_>>()),
            };
            let (reference, found) = (words(&reference), words(&answer.summary));
            one += rouge_n(&reference, &found, 1);
            two += rouge_n(&reference, &found, 2);
            longest += rouge_l(&reference, &found);
        }
        let n = rows.len().max(1) as f64;
        let values = [("rouge1", one / n), ("rouge2", two / n), ("rougeL", longest / n)].map(|(k, v)| (k.to_owned(), v));
        Ok(Figures { values: values.into(), ..Figures::default() })
    }

    fn learning(&self) -> Option<&dyn Learning> {
        Some(self)
    }
}

impl Learning for ExtractiveSummarization {
    fn heads(&self, _: &[Row], _: Option<Problem>, _: &mut Settings) -> Result<Heads, TaskError> {
        Ok(Heads::token_classification(LABELS.map(str::to_owned).to_vec()))
    }

    fn examples(&self, context: &Context, row: &Row) -> Result<Vec<Example>, TaskError> {
        let parts = parts(row).ok_or_else(|| row.fault("text", "a text or a list of sentences"))?;
        let chosen = chosen(row, &parts)?;
        let (windows, cut) = windows(context, &parts)?;
        let example = |(sequence, indices): (Sequence, Vec<usize>)| {
            let labels = indices.iter().map(|&i| u32::from(chosen[i])).collect();
            Example { sequences: vec![sequence], target: Target::Tokens(labels), cut }
        };
        Ok(windows.into_iter().map(example).collect())
    }

    fn said(&self, _: &Context, answer: &Value) -> Option<String> {
        answer.get("summary")?.as_str().map(str::to_owned)
    }

    fn goal(&self, _: &Context, _: &[Row]) -> &'static str {
        "rouge1"
    }

    fn goals(&self) -> &'static [&'static str] {
        &["rouge1", "rouge2", "rougeL"]
    }
}

/// The sentences of a row.
fn parts(row: &Row) -> Option<Vec<String>> {
    match row.value.get("text")? {
        cell @ Value::String(text) => {
            // A table's cell may hold a list as JSON; a text may begin with a bracket, too.
            let list = if text.trim_start().starts_with('[') { texts(cell) } else { None };
            Some(list.unwrap_or_else(|| sentences(text).into_iter().map(|range| text[range].to_owned()).collect()))
        }
        list => texts(list),
    }
}

/// Sentences one after the other; Chinese ones without spaces.
fn joined(parts: &[&str]) -> String {
    let chinese = parts.iter().any(|p| language(p) == Language::Zh);
    parts.join(if chinese { "" } else { " " })
}

/// Which sentences belong to the summary: as labelled, or those that greedily raise ROUGE-1 + ROUGE-2 against it most
/// (Nallapati et al. 2017).
fn chosen(row: &Row, parts: &[String]) -> Result<Vec<bool>, TaskError> {
    if row.get("labels").is_some() {
        let labels: Vec<bool> = row.list("labels")?.iter().map(|l| l != "0" && l != "0.0" && l != "false").collect();
        return if labels.len() == parts.len() { Ok(labels) } else { Err(row.fault("labels", "a label for each sentence")) };
    }
    let reference = words(row.text("summary")?);
    let mut chosen = vec![false; parts.len()];
    let mut best = 0.0;
    for _ in 0..CHOSEN {
        let score = |extra: usize| {
            let all = parts.iter().enumerate().filter(|(i, _)| chosen[*i] || *i == extra);
            let text: Vec<String> = all.flat_map(|(_, p)| words(p)).collect();
            rouge_n(&reference, &text, 1) + rouge_n(&reference, &text, 2)
        };
        let candidates = (0..parts.len()).filter(|&i| !chosen[i]).map(|i| (score(i), i));
        let Some((value, at)) = candidates.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))).filter(|(v, _)| *v > best) else { break };
        best = value;
        chosen[at] = true;
    }
    Ok(chosen)
}

/// Sequences of whole sentences, each with the indices of its sentences; and whether a sentence was cut.
type Windows = (Vec<(Sequence, Vec<usize>)>, bool);

fn windows(context: &Context, parts: &[String]) -> Result<Windows, TaskError> {
    let mut windows: Vec<(Sequence, Vec<usize>)> = Vec::new();
    let mut cut = false;
    // one sentence must not fill a window
    let longest = (context.max_length / 2).max(8).min(context.max_length);
    for (i, part) in parts.iter().enumerate() {
        let encoding = context.tokenizer.encode_truncated(part, longest)?;
        cut |= encoding.len() >= longest && is_cut(&encoding, [part, ""]);
        let fits = windows.last().is_some_and(|(s, _)| s.len() + encoding.len() <= context.max_length);
        if !fits {
            let empty = Sequence { ids: Vec::new(), segments: Vec::new(), want: Want::Tokens { rows: Vec::new() } };
            windows.push((empty, Vec::new()));
        }
        let Some((sequence, indices)) = windows.last_mut() else { continue };
        if let Want::Tokens { rows } = &mut sequence.want {
            rows.push(sequence.ids.len() as u32);
        }
        let segment = (indices.len() % 2) as u32;
        sequence.segments.resize(sequence.ids.len() + encoding.len(), segment);
        sequence.ids.extend(&encoding.ids);
        indices.push(i);
    }
    Ok((windows, cut))
}
