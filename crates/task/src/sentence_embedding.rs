//! Sentence embeddings: a text → a vector whose cosines say what belongs together.

use std::sync::Arc;

use cloze_model::{Heads, Problem};
use serde_json::{Value, json};

use crate::context::{Context, Options, Settings};
use crate::error::TaskError;
use crate::job::{Job, Output, Sequence, Step, Want};
use crate::loss::Target;
use crate::metric::{correlation, ranking};
use crate::paint::Paint;
use crate::rows::{self, Field, Needed, Row, one_or_many};
use crate::task::{Example, Figures, Head, Learning, Task};
use crate::text_classification::{TextInput, encode, missing};

/// The task.
pub struct SentenceEmbedding;

/// The vector of a text; of a row with a second text, both vectors in a list.
pub type Answer = Vec<f32>;

/// The values of a row.
pub static FIELDS: [Field; 5] = [
    Field {
        name: "text",
        about: "the text; in pairs the query",
        usual: &["anchor", "query", "sentence1", "text_a", "question", "premise", "sentence", "content", "title"],
        needed: Needed::Always,
    },
    Field {
        name: "pair",
        about: "the text that belongs to it",
        usual: &["positive", "sentence2", "text_b", "passage", "answer", "hypothesis"],
        needed: Needed::Labelled,
    },
    Field { name: "negatives", about: "a text, or a list of texts, that do not belong to it", usual: &["negative"], needed: Needed::Gold },
    Field {
        name: "score",
        about: "how near the two are: 0 to 1, or to 5, 10 or 100, by the largest of the rows",
        usual: &["similarity"],
        needed: Needed::Gold,
    },
    Field {
        name: "label",
        about: "1 or entailment: the two belong together; other rows are no positives",
        usual: &["labels", "is_duplicate"],
        needed: Needed::Gold,
    },
];

impl Task for SentenceEmbedding {
    fn name(&self) -> &'static str {
        "sentence-embedding"
    }
    fn about(&self) -> &'static str {
        "a text → a vector; near vectors mean alike"
    }
    fn route(&self) -> &'static str {
        "embed"
    }
    fn fields(&self) -> &'static [Field] {
        &FIELDS
    }
    fn head(&self) -> Head {
        Head::Body
    }
    fn sample(&self) -> Value {
        json!({"text": "How do I reset my password?"})
    }

    fn encode(&self, context: &Arc<Context>, input: &Value, options: &Options) -> Result<Job, TaskError> {
        let row = rows::input(self.name(), self.fields(), input)?;
        let text = row.value.get("text").and_then(Value::as_str).ok_or_else(|| missing(self.name(), "text"))?;
        let settings = &context.settings;
        let pair = row.get("pair").and_then(Value::as_str);
        // A text alone is no query: it gets what sentence-transformers' `encode` puts before it, which is nothing for most models.
        let prefix = if pair.is_some() { &settings.query_prefix } else { &settings.default_prefix };
        let (first, cut) = embed(context, prefix, text)?;
        let mut sequences = vec![first];
        if let Some(pair) = pair {
            sequences.push(embed(context, &settings.passage_prefix, pair)?.0);
        }
        let (context, options) = (Arc::clone(context), options.clone());
        let mut job = Job::new(sequences, move |outputs| {
            let mut vectors: Vec<Answer> = outputs.iter().map(|o| vector(&context, o, &options)).collect();
            if vectors.len() == 1 { Step::answer(&vectors.remove(0)) } else { Step::answer(&vectors) }
        });
        job.cut = cut;
        Ok(job)
    }

    fn text(&self, _: &Context, input: &Value, answer: &Value, paint: Paint) -> String {
        let text = input.as_str().or_else(|| input.get("text").and_then(Value::as_str)).unwrap_or_default();
        let vector: Vec<f32> = serde_json::from_value(answer.clone()).unwrap_or_default();
        let shown: Vec<String> = vector.iter().take(6).map(|v| format!("{v:.4}")).collect();
        format!(
            "[{}{}] {}  {text}",
            shown.join(", "),
            if vector.len() > 6 { ", …" } else { "" },
            paint.faint(&format!("({})", vector.len()))
        )
    }

    fn figures(&self, _: &Context, rows: &[Row], answers: &[Value]) -> Result<Figures, TaskError> {
        let pairs: Vec<[Vec<f32>; 2]> = answers.iter().map(|a| serde_json::from_value(a.clone()).unwrap_or_default()).collect();
        if rows.iter().any(|r| r.get("score").is_some()) {
            let gold: Vec<f64> = rows.iter().map(|r| r.number("score")).collect::<Result<_, _>>()?;
            let found: Vec<f64> = pairs.iter().map(|[a, b]| f64::from(cosine(a, b))).collect();
            let mut figures = correlation::figures(&gold, &found);
            figures.values.remove("rmse"); // the scales differ
            return Ok(figures);
        }
        // each text looks for its own among the distinct texts of all rows
        let positive: Vec<usize> = (0..rows.len()).filter(|&i| belongs(&rows[i])).collect();
        let mut names: Vec<&str> = Vec::new();
        let mut candidates: Vec<&[f32]> = Vec::new();
        let mut place = std::collections::HashMap::new();
        for (row, pair) in rows.iter().zip(&pairs) {
            let text = row.text("pair")?;
            place.entry(text).or_insert_with(|| {
                names.push(text);
                candidates.push(&pair[1]);
                names.len() - 1
            });
        }
        let mut relevant: std::collections::HashMap<&str, Vec<usize>> = std::collections::HashMap::new();
        for &i in &positive {
            relevant.entry(rows[i].text("text")?).or_default().push(place[rows[i].text("pair")?]);
        }
        let mut asked = std::collections::HashSet::new();
        let mut queries: Vec<(&[f32], &[usize])> = Vec::new();
        for &i in &positive {
            let text = rows[i].text("text")?;
            if asked.insert(text) {
                queries.push((&pairs[i][0], &relevant[text]));
            }
        }
        let values = ranking::of_queries(queries.len(), |q| {
            let (vector, relevant) = queries[q];
            let scores: Vec<f32> = candidates.iter().map(|c| cosine(vector, c)).collect();
            ranking::order(&scores).into_iter().map(|c| relevant.contains(&c)).collect()
        });
        let mut figures = Figures { values, ..Figures::default() };
        figures.values.insert("candidates".into(), candidates.len() as f64);
        Ok(figures)
    }

    fn learning(&self) -> Option<&dyn Learning> {
        Some(self)
    }
}

impl Learning for SentenceEmbedding {
    fn heads(&self, rows: &[Row], _: Option<Problem>, settings: &mut Settings) -> Result<Heads, TaskError> {
        settings.normalize = true;
        settings.score_scale = score_scale(rows)?;
        Ok(Heads::default())
    }

    fn examples(&self, context: &Context, row: &Row) -> Result<Vec<Example>, TaskError> {
        let settings = &context.settings;
        let (anchor, cut) = embed(context, &settings.query_prefix, row.text("text")?)?;
        let (positive, cut_too) = embed(context, &settings.passage_prefix, row.text("pair")?)?;
        let mut sequences = vec![anchor, positive];
        if row.get("score").is_some() {
            let score = row.number("score")? / f64::from(context.settings.score_scale.unwrap_or(1.0));
            return Ok(vec![Example { sequences, target: Target::Similarity(score as f32), cut: cut || cut_too }]);
        }
        if !belongs(row) {
            return Ok(Vec::new());
        }
        let negatives = match row.get("negatives") {
            None => Vec::new(),
            Some(list) => one_or_many(list).ok_or_else(|| row.fault("negatives", "a text or a list of texts"))?,
        };
        for negative in &negatives {
            sequences.push(embed(context, &settings.passage_prefix, negative)?.0);
        }
        Ok(vec![Example { sequences, target: Target::Contrast, cut: cut || cut_too }])
    }

    fn goal(&self, _: &Context, dev: &[Row]) -> &'static str {
        if dev.iter().any(|r| r.get("score").is_some()) { "spearman" } else { "mrr@10" }
    }

    fn goals(&self) -> &'static [&'static str] {
        &["mrr@10", "recall@1", "recall@10", "map", "ndcg@10", "spearman", "pearson"]
    }
}

/// What the scores of rows are divided by: the end of their scale, which the largest tells. `None`: they have none.
fn score_scale(rows: &[Row]) -> Result<Option<f32>, TaskError> {
    let mut largest: Option<(f64, &Row)> = None;
    for row in rows.iter().filter(|r| r.get("score").is_some()) {
        let score = row.number("score")?;
        if largest.is_none_or(|(l, _)| score > l) {
            largest = Some((score, row));
        }
    }
    let Some((largest, row)) = largest else { return Ok(None) };
    let scale = [1.0f32, 5.0, 10.0, 100.0].into_iter().find(|&s| largest <= f64::from(s));
    scale.map(Some).ok_or_else(|| row.fault("score", "a number of a scale from 0 to 1, 5, 10 or 100"))
}

/// Whether the two texts of a row belong together: a label, where there is one, says so.
fn belongs(row: &Row) -> bool {
    row.written("label").map_or(true, |l| matches!(l.to_lowercase().as_str(), "1" | "true" | "entailment" | "yes" | "positive"))
}

/// A text as a sequence whose vector is wanted; whether it was cut.
pub fn embed(context: &Context, prefix: &str, text: &str) -> Result<(Sequence, bool), TaskError> {
    let (encoding, cut) = encode(context, &TextInput { first: format!("{prefix}{text}"), second: None })?;
    Ok((Sequence::new(&encoding, Want::Embedding), cut))
}

/// The vector of an output: cut to the wanted length, then to length 1 where the model or the caller says so.
pub fn vector(context: &Context, output: &Output, options: &Options) -> Vec<f32> {
    let mut vector = output.values().to_vec();
    vector.truncate(options.dimensions.unwrap_or(usize::MAX).max(1));
    if options.normalize.unwrap_or(context.settings.normalize) && !vector.is_empty() {
        let width = vector.len();
        cloze_model::head::pooling::normalize(&mut vector, width);
    }
    vector
}

/// a · b / (|a| |b|); 0 where one of them is 0.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let (mut ab, mut aa, mut bb) = (0f64, 0f64, 0f64);
    for (x, y) in a.iter().zip(b) {
        ab += f64::from(x * y);
        aa += f64::from(x * x);
        bb += f64::from(y * y);
    }
    if aa > 0.0 && bb > 0.0 { (ab / (aa * bb).sqrt()) as f32 } else { 0.0 }
}
