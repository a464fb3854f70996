//! Recommendation: the next item of a user, by two towers that share one encoder: a history of item texts, and an item's text
//! (Covington et al. 2016; with texts instead of ids, so that new items need no training).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use cloze_model::{Heads, Problem};
use cloze_text::read::records::Records;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::context::{Context, Options, Settings};
use crate::error::TaskError;
use crate::job::{Job, Sequence, Step, Want};
use crate::loss::Target;
use crate::metric::ranking;
use crate::paint::Paint;
use crate::rows::{self, Field, Needed, Row, texts};
use crate::sentence_embedding::{cosine, embed, vector};
use crate::task::{Example, Figures, Head, Learning, Task};
use crate::text_classification::missing;

/// The task.
pub struct Recommendation;

/// An item with its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recommended {
    /// Which of the candidates.
    pub index: usize,
    /// The cosine of user and item.
    pub score: f32,
    /// The item's text.
    pub text: String,
}

/// The candidates, the best first; without candidates the vectors of user and item.
pub type Answer = Vec<Recommended>;

/// The values of a row.
pub static FIELDS: [Field; 3] = [
    Field {
        name: "history",
        about: "the texts of a user's items, the last one last",
        usual: &["items", "sequence"],
        needed: Needed::Always,
    },
    Field { name: "item", about: "the text of the next item", usual: &["next", "target", "label"], needed: Needed::Gold },
    Field { name: "candidates", about: "item texts to choose from", usual: &["texts"], needed: Needed::Optional },
];

impl Task for Recommendation {
    fn name(&self) -> &'static str {
        "recommendation"
    }
    fn about(&self) -> &'static str {
        "the items that a user will like next, by the texts of items"
    }
    fn route(&self) -> &'static str {
        "recommend"
    }
    fn fields(&self) -> &'static [Field] {
        &FIELDS
    }
    fn head(&self) -> Head {
        Head::Body
    }
    fn sample(&self) -> Value {
        json!({"history": ["Alien (1979)", "Blade Runner (1982)"], "candidates": ["Solaris (1972)", "Notting Hill (1999)"]})
    }

    fn encode(&self, context: &Arc<Context>, input: &Value, options: &Options) -> Result<Job, TaskError> {
        let row = rows::input(self.name(), self.fields(), input)?;
        let history = row.value.get("history").and_then(texts).ok_or_else(|| missing(self.name(), "history"))?;
        let candidates = row.get("candidates").and_then(texts);
        let item = row.get("item").and_then(Value::as_str);
        let mut sequences = vec![user(context, &history)?];
        for text in candidates.iter().flatten().map(String::as_str).chain(item.filter(|_| candidates.is_none())) {
            sequences.push(embed(context, &context.settings.passage_prefix, text)?.0);
        }
        let (context, options) = (Arc::clone(context), options.clone());
        Ok(Job::new(sequences, move |outputs| {
            let vectors: Vec<Vec<f32>> = outputs.iter().map(|o| vector(&context, o, &options)).collect();
            let Some(candidates) = candidates else { return Step::answer(&vectors) };
            let scores: Vec<f32> = vectors[1..].iter().map(|v| cosine(&vectors[0], v)).collect();
            let top = options.top_k.unwrap_or(usize::MAX);
            let ranked = ranking::order(&scores).into_iter().take(top);
            let answer: Answer = ranked.map(|index| Recommended { index, score: scores[index], text: candidates[index].clone() }).collect();
            Step::answer(&answer)
        }))
    }

    fn text(&self, _: &Context, input: &Value, answer: &Value, paint: Paint) -> String {
        let history = input.get("history").and_then(texts).unwrap_or_default();
        let answer: Answer = serde_json::from_value(answer.clone()).unwrap_or_default();
        let mut out = history.join(" · ");
        for item in &answer {
            out += &format!("\n  {:>7.4}  {}", item.score, paint.colour(0, &item.text));
        }
        out
    }

    fn figures(&self, _: &Context, rows: &[Row], answers: &[Value]) -> Result<Figures, TaskError> {
        // each user looks for the next item among the row's own candidates, or else among the distinct items of all such rows, without those of
        // the history
        let mut pairs: Vec<[Vec<f32>; 2]> = Vec::with_capacity(rows.len());
        let mut ranked: Vec<Option<Answer>> = Vec::with_capacity(rows.len());
        for (row, answer) in rows.iter().zip(answers) {
            let own = row.get("candidates").is_some();
            ranked.push(own.then(|| serde_json::from_value(answer.clone()).unwrap_or_default()));
            pairs.push(if own { Default::default() } else { serde_json::from_value(answer.clone()).unwrap_or_default() });
        }
        let mut items: HashMap<&str, &[f32]> = HashMap::new();
        let mut wanted: Vec<(&str, Vec<String>)> = Vec::with_capacity(rows.len());
        for ((row, pair), ranked) in rows.iter().zip(&pairs).zip(&ranked) {
            wanted.push((row.text("item")?, row.list("history")?));
            if ranked.is_none() {
                items.insert(row.text("item")?, &pair[1]);
            }
        }
        let mut names: Vec<&str> = items.keys().copied().collect();
        names.sort_unstable();
        let values = ranking::of_queries(rows.len(), |q| {
            let (wanted, history) = &wanted[q];
            if let Some(answer) = &ranked[q] {
                return answer.iter().map(|r| r.text == *wanted).collect();
            }
            let open: Vec<&str> = names.iter().copied().filter(|n| n == wanted || !history.iter().any(|h| h == n)).collect();
            let scores: Vec<f32> = open.iter().map(|n| cosine(&pairs[q][0], items[n])).collect();
            ranking::order(&scores).into_iter().map(|i| open[i] == *wanted).collect()
        });
        let mut figures = Figures { values, ..Figures::default() };
        let own: usize = ranked.iter().map(|r| r.as_ref().map_or(names.len(), Vec::len)).sum();
        figures.values.insert("candidates".into(), own as f64 / rows.len().max(1) as f64);
        Ok(figures)
    }

    fn learning(&self) -> Option<&dyn Learning> {
        Some(self)
    }

    fn joined(&self, rows: Vec<Row>, catalogue: &Path) -> Result<Vec<Row>, TaskError> {
        join(rows, catalogue)
    }
}

impl Learning for Recommendation {
    fn heads(&self, _: &[Row], _: Option<Problem>, settings: &mut Settings) -> Result<Heads, TaskError> {
        settings.normalize = true;
        Ok(Heads::default())
    }

    fn examples(&self, context: &Context, row: &Row) -> Result<Vec<Example>, TaskError> {
        let history = row.list("history")?;
        let (item, cut) = embed(context, &context.settings.passage_prefix, row.text("item")?)?;
        Ok(vec![Example { sequences: vec![user(context, &history)?, item], target: Target::Contrast, cut }])
    }

    fn goal(&self, _: &Context, _: &[Row]) -> &'static str {
        "ndcg@10"
    }

    fn goals(&self) -> &'static [&'static str] {
        &["ndcg@10", "recall@10", "recall@1", "mrr@10", "map"]
    }
}

/// A user: the items that fit, the last one first, so that what is cut is what is oldest.
fn user(context: &Context, history: &[String]) -> Result<Sequence, TaskError> {
    let text = history.iter().rev().map(String::as_str).collect::<Vec<_>>().join("; ");
    let (mut sequence, _) = embed(context, &context.settings.query_prefix, &text)?;
    sequence.want = Want::Embedding;
    Ok(sequence)
}

/// Rows of item ids with the texts of a catalogue (`item_id`, then the columns of its text) in their place. A history entry may
/// be an id, or a list that begins with one. Rows without an `item` give their last one.
fn join(rows: Vec<Row>, catalogue: &Path) -> Result<Vec<Row>, TaskError> {
    let mut items: HashMap<String, String> = HashMap::new();
    let written = |v: &Value| match v {
        Value::Array(_) => texts(v).unwrap_or_default().join(", "),
        other => other.as_str().map_or_else(|| other.to_string(), str::to_owned),
    };
    for record in Records::open(catalogue)? {
        let record = record?;
        let named = ["item_id", "id", "item"].into_iter().find(|name| record.fields.contains_key(*name));
        let Some(key) = named.or_else(|| record.fields.keys().next().map(String::as_str)) else { continue };
        let others = record.fields.iter().filter(|(name, _)| *name != key);
        let parts = others.map(|(_, v)| written(v)).filter(|t| !t.is_empty() && t != "null");
        items.insert(written(&record.fields[key]), parts.collect::<Vec<_>>().join(" | "));
    }
    let text_of = |row: &Row, field: &'static str, v: &Value| -> Result<String, TaskError> {
        let id = written(v.get(0).unwrap_or(v));
        items.get(&id).cloned().ok_or_else(|| row.fault(field, "ids that the catalogue has"))
    };
    // A table's cell holds a list as its JSON text, or ids between spaces.
    let all_of = |row: &Row, field: &'static str| -> Result<Vec<String>, TaskError> {
        match row.value.get(field) {
            Some(Value::Array(ids)) => ids.iter().map(|v| text_of(row, field, v)).collect(),
            _ => row.list(field)?.into_iter().map(|id| text_of(row, field, &Value::String(id))).collect(),
        }
    };
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        let mut history = all_of(&row, "history")?;
        let item = match row.get("item") {
            Some(id) => Some(text_of(&row, "item", id)?),
            None => history.pop(),
        };
        let Some(item) = item.filter(|_| !history.is_empty()) else { continue };
        let mut value = json!({"history": history, "item": item});
        if row.get("candidates").is_some() {
            value["candidates"] = json!(all_of(&row, "candidates")?);
        }
        out.push(Row { value, ..row });
    }
    Ok(out)
}
