//! Multiple choice: which of several choices answers a question about a context.

use std::sync::Arc;

use cloze_model::{Heads, Problem};
use serde_json::{Value, json};

use crate::context::{Context, Options, Settings};
use crate::error::TaskError;
use crate::job::{Job, Sequence, Step, Want};
use crate::loss::Target;
use crate::paint::Paint;
use crate::rows::{self, Field, Needed, Row};
use crate::task::{Example, Figures, Head, Learning, Task};
use crate::text_classification::{Scored, TextInput, encode, missing, softmax};

/// The task. Its answer is the choices with their probabilities, the likeliest first.
pub struct MultipleChoice;

/// The values of a row.
pub static FIELDS: [Field; 4] = [
    Field {
        name: "context",
        about: "the text that the question is about",
        usual: &["passage", "article", "sent1", "text"],
        needed: Needed::Optional,
    },
    Field {
        name: "question",
        about: "the question, or the beginning of what the choices go on with",
        usual: &["query", "sent2"],
        needed: Needed::Always,
    },
    Field { name: "choices", about: "the choices, a list of texts", usual: &["options", "choice", "endings"], needed: Needed::Always },
    Field {
        name: "label",
        about: "the right choice: its number from 0, its letter, or its text",
        usual: &["answer", "labels"],
        needed: Needed::Labelled,
    },
];

impl Task for MultipleChoice {
    fn name(&self) -> &'static str {
        "multiple-choice"
    }
    fn about(&self) -> &'static str {
        "which of several choices answers a question"
    }
    fn route(&self) -> &'static str {
        "choose"
    }
    fn fields(&self) -> &'static [Field] {
        &FIELDS
    }
    fn head(&self) -> Head {
        Head::Choice
    }
    fn sample(&self) -> Value {
        json!({"context": "It was raining.", "question": "What did she take?", "choices": ["an umbrella", "sunglasses"]})
    }

    fn encode(&self, context: &Arc<Context>, input: &Value, options: &Options) -> Result<Job, TaskError> {
        let row = rows::input(self.name(), self.fields(), input)?;
        row.value.get("question").and_then(Value::as_str).ok_or_else(|| missing(self.name(), "question"))?;
        let choices = row.list("choices").map_err(|_| missing(self.name(), "choices"))?;
        let shared = ["question", "context"].iter().filter_map(|field| row.value.get(field)?.as_str()).map(str::len).sum();
        within_reach(self.name(), "choices", shared, choices.iter().map(String::len))?;
        let (sequences, cut) = sequences(context, &row, &choices)?;
        let top = options.top_k.unwrap_or(usize::MAX);
        let mut job = Job::new(sequences, move |outputs| {
            let logits: Vec<f32> = outputs.iter().map(|o| o.values().first().copied().unwrap_or(0.0)).collect();
            let mut answer: Vec<Scored> = choices.into_iter().zip(softmax(&logits)).map(|(label, score)| Scored { label, score }).collect();
            answer.sort_by(|a, b| b.score.total_cmp(&a.score));
            answer.truncate(top);
            Step::answer(&answer)
        });
        job.cut = cut;
        Ok(job)
    }

    fn text(&self, _: &Context, input: &Value, answer: &Value, paint: Paint) -> String {
        let answer: Vec<Scored> = serde_json::from_value(answer.clone()).unwrap_or_default();
        let mut out = input.get("question").and_then(Value::as_str).unwrap_or_default().to_owned();
        for (i, choice) in answer.iter().enumerate() {
            let shown = if i == 0 { paint.colour(0, &choice.label) } else { choice.label.clone() };
            out += &format!("\n  {:>5.1}%  {shown}", 100.0 * choice.score);
        }
        out
    }

    fn figures(&self, _: &Context, rows: &[Row], answers: &[Value]) -> Result<Figures, TaskError> {
        let mut right = 0usize;
        for (row, answer) in rows.iter().zip(answers) {
            let choices = row.list("choices")?;
            let gold = right_choice(row, &choices)?;
            let answer: Vec<Scored> = serde_json::from_value(answer.clone()).unwrap_or_default();
            right += usize::from(answer.first().is_some_and(|a| a.label == choices[gold]));
        }
        let accuracy = right as f64 / rows.len().max(1) as f64;
        Ok(Figures { values: [("accuracy".to_owned(), accuracy)].into(), ..Figures::default() })
    }

    fn learning(&self) -> Option<&dyn Learning> {
        Some(self)
    }
}

impl Learning for MultipleChoice {
    fn heads(&self, _: &[Row], _: Option<Problem>, _: &mut Settings) -> Result<Heads, TaskError> {
        Ok(Heads::multiple_choice())
    }

    fn examples(&self, context: &Context, row: &Row) -> Result<Vec<Example>, TaskError> {
        let choices = row.list("choices")?;
        let right = right_choice(row, &choices)?;
        let (sequences, cut) = sequences(context, row, &choices)?;
        Ok(vec![Example { sequences, target: Target::Choice(right as u32), cut }])
    }

    fn told(&self, row: &Row) -> Option<String> {
        let choices = row.list("choices").ok()?;
        let right = right_choice(row, &choices).ok()?;
        choices.into_iter().nth(right)
    }

    fn goal(&self, _: &Context, _: &[Row]) -> &'static str {
        "accuracy"
    }

    fn goals(&self) -> &'static [&'static str] {
        &["accuracy"]
    }
}

/// Bytes of text that one input may have cut into tokens, what all its choices share counted once for each.
const INPUT_BYTES: usize = 16 << 20;
/// Choices of one input: each is a sequence of its own.
const MOST_CHOICES: usize = 10_000;

/// Refuse an input whose choices (or labels) are so many, beside so long a text, that cutting it into tokens would take minutes:
/// what all share is cut once for each. `own`: the bytes that each adds.
pub(crate) fn within_reach(
    task: &'static str,
    what: &'static str,
    shared: usize,
    own: impl Iterator<Item = usize>,
) -> Result<(), TaskError> {
    let (mut count, mut bytes) = (0usize, 0usize);
    for own in own {
        count += 1;
        bytes = bytes.saturating_add(shared).saturating_add(own);
    }
    if count <= MOST_CHOICES && bytes <= INPUT_BYTES {
        return Ok(());
    }
    let problem = format!(
        "{count} {what}, each with the whole text, make {bytes} bytes to cut into tokens; at most {MOST_CHOICES} {what} and {INPUT_BYTES} bytes are \
         taken: give fewer {what}, or a shorter text"
    );
    Err(TaskError::Input { task, problem })
}

/// One sequence a choice: the context and then question with choice; without a context question and choice.
fn sequences(context: &Context, row: &Row, choices: &[String]) -> Result<(Vec<Sequence>, bool), TaskError> {
    let question = row.value.get("question").and_then(Value::as_str).unwrap_or_default();
    let passage = row.get("context").and_then(Value::as_str);
    let mut cut = false;
    let mut sequences = Vec::new();
    for choice in choices {
        let input = match passage {
            Some(passage) => TextInput { first: passage.to_owned(), second: Some(format!("{question} {choice}")) },
            None => TextInput { first: question.to_owned(), second: Some(choice.clone()) },
        };
        let (encoding, short) = encode(context, &input)?;
        cut |= short;
        sequences.push(Sequence::new(&encoding, Want::Labels));
    }
    Ok((sequences, cut))
}

/// The right choice: a number from 0, a letter from A, or the choice's own text.
fn right_choice(row: &Row, choices: &[String]) -> Result<usize, TaskError> {
    let label = row.written("label")?;
    // A number of jsonl is a place, even where the choices are numbers.
    if let Some(Value::Number(place)) = row.get("label")
        && let Some(place) = place.as_u64().and_then(|p| usize::try_from(p).ok()).filter(|&p| p < choices.len())
    {
        return Ok(place);
    }
    let by_text = choices.iter().position(|c| *c == label);
    let by_number = || label.parse::<usize>().ok();
    let by_letter = || match label.as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
        _ => None,
    };
    by_text.or_else(by_number).or_else(by_letter).filter(|&i| i < choices.len()).ok_or_else(|| row.fault("label", "one of the choices"))
}
