//! Reranking: texts in the order in which they answer a query, by a cross-encoder that reads both together.

use std::collections::HashMap;
use std::sync::Arc;

use cloze_model::{Heads, Problem};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::context::{Context, Options, Settings};
use crate::error::TaskError;
use crate::job::{Job, Output, Sequence, Step, Want};
use crate::loss::Target;
use crate::metric::ranking;
use crate::paint::Paint;
use crate::rows::{self, Field, Needed, Row, one_or_many};
use crate::task::{Example, Figures, Head, Learning, Task};
use crate::text_classification::{TextInput, encode, missing, sigmoid, softmax};

/// The task.
pub struct Rerank;

/// A text with its place in the input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    /// Which of the texts.
    pub index: usize,
    /// How well it answers: a probability, or the logit where asked for.
    pub score: f32,
}

/// All texts, the best first.
pub type Answer = Vec<Ranked>;

/// The values of a row: a query with texts, of which the first ones are relevant, or one text with its label.
pub static FIELDS: [Field; 4] = [
    Field { name: "query", about: "the query", usual: &["question", "text", "anchor", "text_a", "sentence1"], needed: Needed::Always },
    Field {
        name: "texts",
        about: "a text, or a list of texts, to be ordered",
        usual: &["text", "passage", "passages", "documents", "positive", "answer", "text_b", "sentence2"],
        needed: Needed::Always,
    },
    Field {
        name: "negatives",
        about: "texts that do not answer; then `texts` are those that do",
        usual: &["negative"],
        needed: Needed::Gold,
    },
    Field { name: "label", about: "for each text 1 (it answers) or 0", usual: &["labels", "relevant"], needed: Needed::Gold },
];

impl Task for Rerank {
    fn name(&self) -> &'static str {
        "rerank"
    }
    fn about(&self) -> &'static str {
        "texts in the order in which they answer a query"
    }
    fn route(&self) -> &'static str {
        "rerank"
    }
    fn fields(&self) -> &'static [Field] {
        &FIELDS
    }
    fn head(&self) -> Head {
        Head::Classifier
    }
    fn sample(&self) -> Value {
        json!({"query": "capital of France", "texts": ["Paris is the capital.", "Lyon lies on the Rhône."]})
    }

    fn encode(&self, context: &Arc<Context>, input: &Value, options: &Options) -> Result<Job, TaskError> {
        let row = rows::input(self.name(), self.fields(), input)?;
        let query = row.value.get("query").and_then(Value::as_str).ok_or_else(|| missing(self.name(), "query"))?;
        let mut all = list(&row, "texts")?.ok_or_else(|| missing(self.name(), "texts"))?;
        all.extend(list(&row, "negatives")?.unwrap_or_default());
        let mut cut = false;
        let mut sequences = Vec::new();
        for text in all {
            let (sequence, short) = pair(context, query, text)?;
            cut |= short;
            sequences.push(sequence);
        }
        let (raw, top) = (options.raw_scores == Some(true), options.top_k.unwrap_or(usize::MAX));
        let mut job = Job::new(sequences, move |outputs| {
            let scores: Vec<f32> = outputs.iter().map(|o| score(o, raw)).collect();
            let ranked = ranking::order(&scores).into_iter().take(top).map(|index| Ranked { index, score: scores[index] });
            Step::answer(&ranked.collect::<Answer>())
        });
        job.cut = cut;
        Ok(job)
    }

    fn text(&self, _: &Context, input: &Value, answer: &Value, paint: Paint) -> String {
        let Ok(row) = rows::input(self.name(), self.fields(), input) else { return String::new() };
        let of = |field| list(&row, field).ok().flatten().unwrap_or_default();
        let all = [of("texts"), of("negatives")].concat();
        let answer: Answer = serde_json::from_value(answer.clone()).unwrap_or_default();
        let mut out = row.value.get("query").and_then(Value::as_str).unwrap_or_default().to_owned();
        for ranked in answer {
            let text = all.get(ranked.index).map(String::as_str).unwrap_or_default();
            out += &format!("\n  {} {:>7.4}  {text}", paint.colour(0, &format!("{:>3}", ranked.index)), ranked.score);
        }
        out
    }

    fn figures(&self, _: &Context, rows: &[Row], answers: &[Value]) -> Result<Figures, TaskError> {
        // rows with one text each are the candidates of their query
        let mut queries: Vec<Vec<(f32, bool)>> = Vec::new();
        let mut place: HashMap<&str, usize> = HashMap::new();
        for (row, answer) in rows.iter().zip(answers) {
            let answer: Answer = serde_json::from_value(answer.clone()).unwrap_or_default();
            let relevant = relevance(row)?;
            let at = *place.entry(row.text("query")?).or_insert_with(|| {
                queries.push(Vec::new());
                queries.len() - 1
            });
            queries[at].extend(answer.iter().map(|r| (r.score, relevant.get(r.index).copied().unwrap_or(false))));
        }
        let hits: Vec<Vec<bool>> = queries
            .iter()
            .filter(|q| q.iter().any(|(_, r)| *r))
            .map(|q| ranking::order(&q.iter().map(|c| c.0).collect::<Vec<_>>()).into_iter().map(|i| q[i].1).collect())
            .collect();
        Ok(Figures { values: ranking::figures(&hits), ..Figures::default() })
    }

    fn learning(&self) -> Option<&dyn Learning> {
        Some(self)
    }
}

impl Learning for Rerank {
    fn heads(&self, rows: &[Row], _: Option<Problem>, _: &mut Settings) -> Result<Heads, TaskError> {
        let (mut good, mut bad) = (false, false);
        for row in rows {
            for relevant in relevance(row)? {
                good |= relevant;
                bad |= !relevant;
            }
        }
        if !(good && bad) {
            let path = rows.first().map(|r| r.path.to_path_buf()).unwrap_or_default();
            let problem = if good {
                "every text answers its query, so nothing can be told apart; give texts that do not as `negatives`, or a `label` of 0"
            } else {
                "no text answers its query; those that do stand in `texts`, with a `label` above 0 where there are labels"
            };
            return Err(TaskError::TooLittle { path, problem: problem.into() });
        }
        Ok(Heads::multi_label(vec!["relevant".into()]))
    }

    fn examples(&self, context: &Context, row: &Row) -> Result<Vec<Example>, TaskError> {
        let query = row.text("query")?;
        let mut all = list(row, "texts")?.ok_or_else(|| row.fault("texts", "a text or a list of texts"))?;
        all.extend(list(row, "negatives")?.unwrap_or_default());
        let relevant = relevance(row)?;
        let example = |(text, relevant): (String, bool)| {
            let (sequence, cut) = pair(context, query, text)?;
            Ok(Example { sequences: vec![sequence], target: Target::Classes(vec![f32::from(u8::from(relevant))]), cut })
        };
        all.into_iter().zip(relevant).map(example).collect()
    }

    fn told(&self, row: &Row) -> Option<String> {
        let right: Vec<String> = relevance(row).ok()?.iter().enumerate().filter(|(_, r)| **r).map(|(i, _)| format!("text {i}")).collect();
        Some(if right.is_empty() { "no text".into() } else { right.join(", ") })
    }

    fn said(&self, _: &Context, answer: &Value) -> Option<String> {
        let best: Answer = serde_json::from_value(answer.clone()).ok()?;
        best.first().map(|b| format!("text {}", b.index))
    }

    fn goal(&self, _: &Context, _: &[Row]) -> &'static str {
        "mrr@10"
    }

    fn goals(&self) -> &'static [&'static str] {
        &["mrr@10", "recall@1", "recall@10", "map", "ndcg@10"]
    }
}

/// One text is a list of one. `None`: there is nothing; what is no text and no list is refused.
fn list(row: &Row, field: &'static str) -> Result<Option<Vec<String>>, TaskError> {
    match row.value.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(list) => one_or_many(list).map(Some).ok_or_else(|| row.fault(field, "a text or a list of texts")),
    }
}

/// Whether each text of a row answers, its negatives last.
fn relevance(row: &Row) -> Result<Vec<bool>, TaskError> {
    let count = list(row, "texts")?.map_or(0, |t| t.len());
    let negatives = list(row, "negatives")?.map_or(0, |t| t.len());
    let label = match row.get("label") {
        Some(Value::String(text)) if text.trim_start().starts_with('[') => serde_json::from_str(text).ok(),
        other => other.cloned(),
    };
    let mut relevant: Vec<bool> = match label {
        None => vec![true; count],
        Some(Value::Array(items)) => items.iter().map(|i| i.as_f64().is_some_and(|l| l > 0.0) || i.as_bool() == Some(true)).collect(),
        Some(_) => vec![row.number("label")? > 0.0; count],
    };
    if relevant.len() != count {
        return Err(row.fault("label", "a label for each text"));
    }
    relevant.extend(vec![false; negatives]);
    Ok(relevant)
}

fn pair(context: &Context, query: &str, text: String) -> Result<(Sequence, bool), TaskError> {
    let (encoding, cut) = encode(context, &TextInput { first: query.to_owned(), second: Some(text) })?;
    Ok((Sequence::new(&encoding, Want::Labels), cut))
}

/// How well a text answers: of one logit its sigmoid, of several the probability of the last label.
fn score(output: &Output, raw: bool) -> f32 {
    match output.values() {
        [] => 0.0,
        [logit] => {
            if raw {
                *logit
            } else {
                sigmoid(*logit)
            }
        }
        logits => {
            if raw {
                logits[logits.len() - 1]
            } else {
                softmax(logits).pop().unwrap_or(0.0)
            }
        }
    }
}
