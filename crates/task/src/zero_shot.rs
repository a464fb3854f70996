//! Zero-shot classification: which of labels given with the text fit, by a model of natural-language inference (Yin et al. 2019).

use std::sync::Arc;

use serde_json::{Value, json};

use crate::context::{Context, Options};
use crate::error::TaskError;
use crate::job::{Job, Sequence, Step, Want};
use crate::metric::classification::Confusion;
use crate::multiple_choice::within_reach;
use crate::paint::Paint;
use crate::rows::{self, Field, Needed, Row};
use crate::task::{Figures, Head, Task};
use crate::text_classification::{Scored, TextInput, encode, in_order, label_id, missing, softmax};

/// The task. Its answer is the labels with their probabilities, the likeliest first.
pub struct ZeroShot;

/// The values of a row.
pub static FIELDS: [Field; 3] = [
    Field { name: "text", about: "the text", usual: &["sentence", "sequence", "content", "premise", "review"], needed: Needed::Always },
    Field {
        name: "labels",
        about: "the labels to choose from, a list",
        usual: &["candidate_labels", "candidates"],
        needed: Needed::Always,
    },
    Field { name: "label", about: "the right one", usual: &["class", "category", "target"], needed: Needed::Labelled },
];

/// The hypothesis that a label fits.
const HYPOTHESIS: &str = "This example is {}.";

/// How the label begins that says that the hypothesis follows.
const ENTAILS: [&str; 2] = ["entail", "蕴含"];

/// The first label that begins with one of these.
fn label(context: &Context, wanted: &[&str]) -> Option<usize> {
    context.labels.iter().position(|l| wanted.iter().any(|w| l.to_lowercase().starts_with(w)))
}

/// The labels to choose from: a list, in a table its JSON text, or a text cut at commas, else at spaces.
fn choices(row: &Row) -> Result<Vec<String>, TaskError> {
    const COMMAS: [char; 3] = [',', '，', '、'];
    match row.get("labels") {
        Some(Value::String(text)) if !text.trim_start().starts_with('[') && text.contains(COMMAS) => {
            Ok(text.split(COMMAS).map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()).collect())
        }
        _ => row.list("labels"),
    }
}

impl Task for ZeroShot {
    fn name(&self) -> &'static str {
        "zero-shot-classification"
    }
    fn about(&self) -> &'static str {
        "which of labels given with the text fit, through an NLI model"
    }
    fn route(&self) -> &'static str {
        "zero-shot"
    }
    fn fields(&self) -> &'static [Field] {
        &FIELDS
    }
    fn head(&self) -> Head {
        Head::Classifier
    }
    fn suits(&self, context: &Context) -> bool {
        label(context, &ENTAILS).is_some()
    }
    fn sample(&self) -> Value {
        json!({"text": "The match ended two to one.", "labels": ["sport", "politics"]})
    }

    fn encode(&self, context: &Arc<Context>, input: &Value, options: &Options) -> Result<Job, TaskError> {
        let row = rows::input(self.name(), self.fields(), input)?;
        let text = row.value.get("text").and_then(Value::as_str).ok_or_else(|| missing(self.name(), "text"))?;
        let labels = choices(&row).map_err(|_| missing(self.name(), "labels"))?;
        let Some(entails) = label(context, &ENTAILS) else {
            let problem = format!("the model has no label `entailment`; it has {}; give a model of inference", context.labels.join(", "));
            return Err(TaskError::Input { task: self.name(), problem });
        };
        let contradicts = label(context, &["contradict", "not_entail", "矛盾"]);
        let template = options.hypothesis.as_deref().unwrap_or(HYPOTHESIS);
        // The hypothesis holds the label as often as the template says.
        let places = template.matches("{}").count();
        if places == 0 {
            let problem = format!("the hypothesis {template:?} has no {{}}, in whose place each label is put; all labels would be alike");
            return Err(TaskError::Input { task: self.name(), problem });
        }
        let hypothesis = |label: &String| template.len().saturating_add(places.saturating_mul(label.len()));
        within_reach(self.name(), "labels", text.len(), labels.iter().map(hypothesis))?;
        let mut sequences = Vec::new();
        let mut cut = false;
        for label in &labels {
            let (encoding, short) = encode(context, &TextInput { first: text.to_owned(), second: Some(template.replace("{}", label)) })?;
            cut |= short;
            sequences.push(Sequence::new(&encoding, Want::Labels));
        }
        let (many, top) = (options.multi_label == Some(true) || labels.len() == 1, options.top_k.unwrap_or(usize::MAX));
        let mut job = Job::new(sequences, move |outputs| {
            let logit = |o: &crate::job::Output, l: usize| o.values().get(l).copied().unwrap_or(0.0);
            let scores: Vec<f32> = if many {
                // entailment against contradiction, each label on its own
                let each = |o| {
                    contradicts
                        .map_or_else(|| softmax(crate::job::Output::values(o))[entails], |c| softmax(&[logit(o, c), logit(o, entails)])[1])
                };
                outputs.iter().map(each).collect()
            } else {
                softmax(&outputs.iter().map(|o| logit(o, entails)).collect::<Vec<_>>())
            };
            let mut answer: Vec<Scored> = labels.into_iter().zip(scores).map(|(label, score)| Scored { label, score }).collect();
            answer.sort_by(|a, b| b.score.total_cmp(&a.score));
            answer.truncate(top);
            Step::answer(&answer)
        });
        job.cut = cut;
        Ok(job)
    }

    fn text(&self, _: &Context, input: &Value, answer: &Value, paint: Paint) -> String {
        let answer: Vec<Scored> = serde_json::from_value(answer.clone()).unwrap_or_default();
        let mut out = input.get("text").and_then(Value::as_str).unwrap_or_default().to_owned();
        for (i, scored) in answer.iter().enumerate() {
            let shown = if i == 0 { paint.colour(0, &scored.label) } else { scored.label.clone() };
            out += &format!("\n  {:>5.1}%  {shown}", 100.0 * scored.score);
        }
        out
    }

    fn figures(&self, _: &Context, rows: &[Row], answers: &[Value]) -> Result<Figures, TaskError> {
        let mut seen = std::collections::HashSet::new();
        for row in rows {
            seen.extend(choices(row)?);
        }
        let labels = in_order(seen);
        let mut confusion = Confusion::new(labels.len());
        for (row, answer) in rows.iter().zip(answers) {
            let gold = label_id(row, &row.written("label")?, &labels)?;
            let best = answer.get(0).and_then(|s| s.get("label")).and_then(Value::as_str);
            let found = labels.iter().position(|l| Some(l.as_str()) == best).unwrap_or(0);
            confusion.add(gold as usize, found);
        }
        let table = confusion.table(&labels);
        Ok(Figures { values: confusion.figures(), table, detail: json!({"labels": labels, "confusion": confusion}) })
    }
}
