//! Masked-LM scoring: the pseudo-log-likelihood of a text, and which of two texts a model finds likelier.
//!
//! PLL(w) = Σ ln p(wₜ | w without wₜ), each token masked on its own (Salazar et al. 2020).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::context::{Context, Options};
use crate::error::TaskError;
use crate::job::{Job, Output, Sequence, Step, Want};
use crate::paint::Paint;
use crate::rows::{self, Field, Needed, Row};
use crate::task::{Figures, Head, Task};
use crate::text_classification::{TextInput, encode, missing};

/// The task.
pub struct MaskedLmScoring;

/// How likely a text is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Likelihood {
    /// Σ ln p of its tokens.
    pub score: f32,
    /// How many tokens.
    pub tokens: usize,
    /// exp(−score / tokens).
    pub perplexity: f32,
}

/// Two texts, and the likelier one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// `good` or `bad`.
    pub better: String,
    /// The first.
    pub good: Likelihood,
    /// The second.
    pub bad: Likelihood,
}

/// The values of a row: one text, or a pair.
pub static FIELDS: [Field; 4] = [
    Field {
        name: "text",
        about: "the text; of a pair the good one",
        usual: &["good", "sentence_good", "sentence"],
        needed: Needed::Always,
    },
    Field { name: "bad", about: "the text that should be less likely", usual: &["sentence_bad"], needed: Needed::Labelled },
    Field { name: "paradigm", about: "figures are told for each of them, too", usual: &["uid", "UID"], needed: Needed::Gold },
    Field { name: "field", about: "likewise", usual: &["linguistics_term", "phenomenon"], needed: Needed::Gold },
];

impl Task for MaskedLmScoring {
    fn name(&self) -> &'static str {
        "masked-lm-scoring"
    }
    fn about(&self) -> &'static str {
        "how likely a text is, or which of two is likelier"
    }
    fn route(&self) -> &'static str {
        "score"
    }
    fn fields(&self) -> &'static [Field] {
        &FIELDS
    }
    fn head(&self) -> Head {
        Head::MaskedLm
    }
    fn sample(&self) -> Value {
        json!({"text": "The cats sleep.", "bad": "The cats sleeps."})
    }

    fn encode(&self, context: &Arc<Context>, input: &Value, _: &Options) -> Result<Job, TaskError> {
        let row = rows::input(self.name(), self.fields(), input)?;
        let text = row.value.get("text").and_then(Value::as_str).ok_or_else(|| missing(self.name(), "text"))?;
        let (mut sequences, mut cut) = masked(context, text)?;
        let first = sequences.len();
        let bad = row.get("bad").and_then(Value::as_str);
        if let Some(bad) = bad {
            let (others, short) = masked(context, bad)?;
            sequences.extend(others);
            cut |= short;
        }
        let pair = bad.is_some();
        let mut job = Job::new(sequences, move |outputs| {
            let (good, bad) = (likelihood(&outputs[..first]), likelihood(&outputs[first..]));
            if pair {
                let better = if good.score > bad.score { "good" } else { "bad" };
                Step::answer(&Comparison { better: better.into(), good, bad })
            } else {
                Step::answer(&good)
            }
        });
        job.cut = cut;
        Ok(job)
    }

    fn text(&self, _: &Context, input: &Value, answer: &Value, paint: Paint) -> String {
        let text = |field: &str| input.get(field).and_then(Value::as_str).unwrap_or_default();
        let line = |l: Likelihood, text: &str| {
            format!("{:>9.3} {}  {text}", l.score, paint.faint(&format!("({:.2} a token)", l.score / l.tokens.max(1) as f32)))
        };
        match serde_json::from_value::<Comparison>(answer.clone()) {
            Ok(c) => format!("{}\n{}", line(c.good, text("text")), line(c.bad, text("bad"))),
            Err(_) => line(serde_json::from_value(answer.clone()).unwrap_or_default(), input.as_str().unwrap_or(text("text"))),
        }
    }

    fn figures(&self, _: &Context, rows: &[Row], answers: &[Value]) -> Result<Figures, TaskError> {
        let mut groups: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for (row, answer) in rows.iter().zip(answers) {
            let right = f64::from(u8::from(answer.get("better").and_then(Value::as_str) == Some("good")));
            let named = ["field", "paradigm"].into_iter().filter_map(|f| row.written(f).ok());
            for name in named.chain(["accuracy".to_owned()]) {
                let group = groups.entry(name).or_default();
                *group = (group.0 + right, group.1 + 1.0);
            }
        }
        let values: BTreeMap<String, f64> = groups.into_iter().map(|(name, (right, all))| (name, right / all)).collect();
        Ok(Figures { values, ..Figures::default() })
    }
}

/// The text once for each of its tokens, with that one masked; and whether it was cut.
fn masked(context: &Context, text: &str) -> Result<(Vec<Sequence>, bool), TaskError> {
    let Some(mask) = context.tokenizer.special().mask else {
        return Err(TaskError::Input { task: "masked-lm-scoring", problem: "the tokenizer has no mask token".into() });
    };
    let (encoding, cut) = encode(context, &TextInput { first: text.to_owned(), second: None })?;
    let of = |t: usize| {
        let mut ids = encoding.ids.clone();
        let id = std::mem::replace(&mut ids[t], mask);
        Sequence { ids, segments: encoding.token_type_ids.clone(), want: Want::Likelihoods { rows: vec![t as u32], ids: vec![id] } }
    };
    Ok((encoding.parts[0].clone().map(of).collect(), cut))
}

fn likelihood(outputs: &[Output]) -> Likelihood {
    let score: f64 = outputs.iter().flat_map(|o| o.values()).map(|&v| f64::from(v)).sum();
    Likelihood { score: score as f32, tokens: outputs.len(), perplexity: (-score / outputs.len().max(1) as f64).exp() as f32 }
}
