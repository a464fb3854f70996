//! Sentence similarity: how near texts are to one text, by the cosines of their embeddings.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::context::{Context, Options};
use crate::error::TaskError;
use crate::job::{Job, Step};
use crate::metric::correlation;
use crate::paint::Paint;
use crate::rows::{self, Field, Needed, Row, one_or_many};
use crate::sentence_embedding::{cosine, embed, vector};
use crate::task::{Figures, Head, Task};
use crate::text_classification::missing;

/// The task. Its answer is one cosine for each of the sentences.
pub struct SentenceSimilarity;

/// The values of a row.
pub static FIELDS: [Field; 3] = [
    Field {
        name: "source_sentence",
        about: "the text that is compared",
        usual: &["sentence1", "text_a", "text", "query", "anchor"],
        needed: Needed::Always,
    },
    Field {
        name: "sentences",
        about: "a text, or a list of texts, to compare it with",
        usual: &["sentence2", "text_b", "pair", "positive"],
        needed: Needed::Always,
    },
    Field { name: "score", about: "how near the two are", usual: &["similarity", "label"], needed: Needed::Labelled },
];

impl Task for SentenceSimilarity {
    fn name(&self) -> &'static str {
        "sentence-similarity"
    }
    fn about(&self) -> &'static str {
        "how near texts are to one text"
    }
    fn route(&self) -> &'static str {
        "similarity"
    }
    fn fields(&self) -> &'static [Field] {
        &FIELDS
    }
    fn head(&self) -> Head {
        Head::Body
    }
    fn sample(&self) -> Value {
        json!({"source_sentence": "A man is eating.", "sentences": ["Someone has lunch.", "It rains."]})
    }

    fn encode(&self, context: &Arc<Context>, input: &Value, options: &Options) -> Result<Job, TaskError> {
        let row = rows::input(self.name(), self.fields(), input)?;
        let source = row.value.get("source_sentence").and_then(Value::as_str).ok_or_else(|| missing(self.name(), "source_sentence"))?;
        let sentences = sentences(&row).ok_or_else(|| missing(self.name(), "sentences"))?;
        // The comparison is symmetric, so no text is a query: all get what sentence-transformers' `encode` puts before a text.
        let prefix = &context.settings.default_prefix;
        let mut sequences = vec![embed(context, prefix, source)?.0];
        for sentence in &sentences {
            sequences.push(embed(context, prefix, sentence)?.0);
        }
        let (context, options) = (Arc::clone(context), options.clone());
        Ok(Job::new(sequences, move |outputs| {
            let vectors: Vec<Vec<f32>> = outputs.iter().map(|o| vector(&context, o, &options)).collect();
            Step::answer(&vectors[1..].iter().map(|v| cosine(&vectors[0], v)).collect::<Vec<f32>>())
        }))
    }

    fn text(&self, _: &Context, input: &Value, answer: &Value, paint: Paint) -> String {
        let Ok(row) = rows::input(self.name(), self.fields(), input) else { return String::new() };
        let scores: Vec<f32> = serde_json::from_value(answer.clone()).unwrap_or_default();
        let mut out = row.value.get("source_sentence").and_then(Value::as_str).unwrap_or_default().to_owned();
        for (sentence, score) in sentences(&row).unwrap_or_default().iter().zip(scores) {
            out += &format!("\n  {}  {sentence}", paint.colour(0, &format!("{score:>7.4}")));
        }
        out
    }

    fn figures(&self, _: &Context, rows: &[Row], answers: &[Value]) -> Result<Figures, TaskError> {
        let gold: Vec<f64> = rows.iter().map(|r| r.number("score")).collect::<Result<_, _>>()?;
        let found: Vec<f64> = answers.iter().map(|a| a.get(0).and_then(Value::as_f64).unwrap_or(0.0)).collect();
        let mut figures = correlation::figures(&gold, &found);
        figures.values.remove("rmse"); // the scales differ
        Ok(figures)
    }
}

/// One text is a list of one.
fn sentences(row: &Row) -> Option<Vec<String>> {
    one_or_many(row.value.get("sentences")?)
}
