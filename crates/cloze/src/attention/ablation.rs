//! What the model's answer loses without a head: its output is taken as zero before the output projection (Michel et al. 2019, "Are
//! sixteen heads really better than one?", section 2.3), and the answer is measured against that of the whole model.

use std::fmt;
use std::str::FromStr;

use cloze_model::Problem;
use cloze_task::text_classification::{sigmoid, softmax};
use cloze_task::{Options, Output, Sequence, Task, TaskError, Want, answers};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::pipeline::Pipeline;

/// A head: its layer and its place in the layer, both from 0. Written `2.3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "[usize; 2]", into = "[usize; 2]")]
pub struct HeadPlace {
    /// Its layer.
    pub layer: usize,
    /// Its place in the layer.
    pub head: usize,
}

impl From<[usize; 2]> for HeadPlace {
    fn from([layer, head]: [usize; 2]) -> Self {
        Self { layer, head }
    }
}

impl From<HeadPlace> for [usize; 2] {
    fn from(place: HeadPlace) -> Self {
        [place.layer, place.head]
    }
}

impl fmt::Display for HeadPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.layer, self.head)
    }
}

impl FromStr for HeadPlace {
    type Err = AblationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.trim().split_once('.').and_then(|(layer, head)| Some((layer.parse().ok()?, head.parse().ok()?)));
        let (layer, head) = parts.ok_or_else(|| AblationError::Place { found: text.to_owned() })?;
        Ok(Self { layer, head })
    }
}

/// Why heads cannot be switched off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AblationError {
    /// Not a head's place.
    #[error("{found:?} is no head; write LAYER.HEAD, both from 0, such as 2.3")]
    Place {
        /// What was given.
        found: String,
    },
    /// A head that the model does not have.
    #[error("there is no head {place}; the model has layers 0 to {}, heads 0 to {}", layers - 1, heads - 1)]
    NoHead {
        /// What was asked for.
        place: HeadPlace,
        /// Layers of the model.
        layers: usize,
        /// Heads of a layer.
        heads: usize,
    },
    /// An input that gives nothing to measure.
    #[error("the input gives no answer to measure; give a text of at least one token")]
    Nothing,
}

/// What an answer is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Mean −ln p of the words that are looked for; grows as the answer gets worse.
    Loss,
    /// The probability of what the whole model answers; the mean of them where it answers several times.
    Probability,
    /// The number that the model answers.
    Number,
    /// The cosine with the vector of the whole model; the mean over vectors.
    Cosine,
}

impl Measure {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Loss => "loss, −ln p",
            Measure::Probability => "probability of the whole model's answer",
            Measure::Number => "the model's number",
            Measure::Cosine => "cosine with the whole model's vector",
        }
    }

    /// How much worse `value` is than that of the whole model: above 0 where what is missing served the answer. For a number it is how
    /// far it moved, because neither direction is worse.
    pub fn harm(self, whole: f64, value: f64) -> f64 {
        match self {
            Measure::Loss => value - whole,
            Measure::Probability | Measure::Cosine => whole - value,
            Measure::Number => (value - whole).abs(),
        }
    }
}

/// What an answer is with all heads and without some.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ablation {
    /// The task whose answer is looked at.
    pub task: &'static str,
    /// What it is measured by.
    pub measure: Measure,
    /// The measure with all heads.
    pub whole: f64,
    /// The answer with all heads.
    pub answer: Value,
    /// The heads that are off together.
    pub off: Vec<HeadPlace>,
    /// The measure without them; `None` where none is off.
    pub value: Option<f64>,
    /// The answer without them.
    pub answer_without: Option<Value>,
    /// The measure without each head alone, by layer and head; empty where it was not asked for. // `[layers][N]`
    pub each: Vec<Vec<f64>>,
}

impl Ablation {
    /// Every head with the harm of its absence, the worst first; needs `each`.
    pub fn ranked(&self) -> Vec<(HeadPlace, f64)> {
        let of = |(layer, row): (usize, &Vec<f64>)| -> Vec<(HeadPlace, f64)> {
            row.iter().enumerate().map(|(head, v)| (HeadPlace { layer, head }, self.measure.harm(self.whole, *v))).collect()
        };
        let mut all: Vec<(HeadPlace, f64)> = self.each.iter().enumerate().flat_map(of).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all
    }
}

/// What the outputs of a job's sequences are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Likelihoods,
    Labels(Problem),
    Choices,
    Tokens,
    Span,
    Vectors,
}

impl Kind {
    /// The measure of outputs. `whole` are those of the model with all heads: they say which answer is looked at.
    fn measure(self, whole: &[Output], now: &[Output]) -> Option<(Measure, f64)> {
        let pairs = || whole.iter().zip(now);
        let mean = |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
        let p = |a: &[f32], b: &[f32]| f64::from(softmax(b).get(largest(a)).copied().unwrap_or(0.0));
        Some(match self {
            Kind::Likelihoods => (Measure::Loss, mean(now.iter().flat_map(|o| o.values()).map(|&v| -f64::from(v)).collect())?),
            // one logit is a number, not a choice between labels
            Kind::Labels(Problem::Regression) => (Measure::Number, mean(now.iter().flat_map(Output::values).map(|&v| v.into()).collect())?),
            Kind::Labels(_) if whole.first()?.values().len() == 1 => {
                (Measure::Number, mean(now.iter().flat_map(Output::values).map(|&v| v.into()).collect())?)
            }
            Kind::Labels(Problem::MultiLabel) => {
                let of = |(a, b): (&Output, &Output)| f64::from(sigmoid(b.values().get(largest(a.values())).copied().unwrap_or(0.0)));
                (Measure::Probability, mean(pairs().map(of).collect())?)
            }
            Kind::Labels(Problem::SingleLabel) => (Measure::Probability, mean(pairs().map(|(a, b)| p(a.values(), b.values())).collect())?),
            Kind::Choices => {
                let logits = |outputs: &[Output]| outputs.iter().flat_map(Output::values).copied().collect::<Vec<f32>>();
                (Measure::Probability, mean(vec![p(&logits(whole), &logits(now))])?)
            }
            Kind::Tokens => {
                let of = |(a, b): (&Output, &Output)| a.rows().zip(b.rows()).map(|(a, b)| p(a, b)).collect::<Vec<f64>>();
                (Measure::Probability, mean(pairs().flat_map(of).collect())?)
            }
            Kind::Span => {
                let column = |o: &Output, c: usize| o.rows().filter_map(|r| r.get(c).copied()).collect::<Vec<f32>>();
                let of = |(a, b): (&Output, &Output)| (0..2).map(|c| p(&column(a, c), &column(b, c))).product::<f64>();
                (Measure::Probability, mean(pairs().map(of).collect())?)
            }
            Kind::Vectors => {
                let of = |(a, b): (&Output, &Output)| a.rows().zip(b.rows()).map(|(a, b)| cosine(a, b)).collect::<Vec<f64>>();
                (Measure::Cosine, mean(pairs().flat_map(of).collect())?)
            }
        })
    }
}

fn largest(values: &[f32]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}

/// Sequences that are run again and again, with what the whole model makes of them.
struct Probe {
    sequences: Vec<Sequence>,
    kind: Kind,
    whole: Vec<Output>,
}

impl Probe {
    fn new(pipeline: &Pipeline, sequences: Vec<Sequence>) -> Result<Self, crate::Error> {
        let run = |s: &[Sequence]| pipeline.run_without(&s.iter().collect::<Vec<_>>(), &[]);
        let first = run(&sequences)?;
        // The likeliest words of the whole model are the ones whose probability is followed.
        let follow = |(mut sequence, output): (Sequence, &Output)| {
            if let Want::Candidates { rows, .. } = &sequence.want {
                let ids = output.candidates().iter().map(|row| row.first().map_or(0, |c| c.0)).collect();
                sequence.want = Want::Likelihoods { rows: rows.clone(), ids };
            }
            sequence
        };
        let sequences: Vec<Sequence> = sequences.into_iter().zip(&first).map(follow).collect();
        let model = pipeline.model();
        let kind = match sequences.first().map(|s| &s.want) {
            None => return Err(AblationError::Nothing.into()),
            Some(Want::Labels) if model.multiple_choice().is_some() => Kind::Choices,
            Some(Want::Labels) => Kind::Labels(model.heads.problem),
            Some(Want::Tokens { .. }) if model.question_answering().is_some() => Kind::Span,
            Some(Want::Tokens { .. }) => Kind::Tokens,
            Some(Want::Candidates { .. } | Want::Likelihoods { .. }) => Kind::Likelihoods,
            Some(Want::Embedding | Want::Hidden) => Kind::Vectors,
        };
        let whole = if kind == Kind::Likelihoods { run(&sequences)? } else { first };
        Ok(Self { sequences, kind, whole })
    }

    fn measure(&self, pipeline: &Pipeline, off: &[HeadPlace]) -> Result<(Measure, f64), crate::Error> {
        let now = match off {
            [] => self.whole.clone(),
            off => pipeline.run_without(&self.sequences.iter().collect::<Vec<_>>(), off)?,
        };
        Ok(self.kind.measure(&self.whole, &now).ok_or(AblationError::Nothing)?)
    }
}

/// A pipeline with some heads switched off.
struct Without<'p, 'd> {
    pipeline: &'p Pipeline<'d>,
    off: &'p [HeadPlace],
}

impl cloze_task::Runner for Without<'_, '_> {
    fn run(&self, sequences: &[&Sequence]) -> Result<Vec<Output>, TaskError> {
        self.pipeline.run_without(sequences, self.off)
    }
}

impl Pipeline<'_> {
    /// The task whose answer to a plain text shows what heads are for: masks are filled, text without masks is scored word by word, a
    /// classifier classifies; where the model's task needs more than a text, the text's vector is looked at.
    pub fn ablation_task(&self, text: &str) -> Option<&'static dyn Task> {
        let own = self.task()?;
        let mask = self.tokenizer().special().mask.and_then(|id| self.tokenizer().id_to_token(id));
        let needed = own.fields().iter().filter(|f| f.needed == cloze_task::rows::Needed::Always).count();
        match own.name() {
            "fill-mask" if !mask.is_some_and(|mask| text.contains(&mask)) => cloze_task::task("masked-lm-scoring"),
            _ if needed > 1 => cloze_task::task("sentence-embedding"),
            _ => Some(own),
        }
    }

    /// What a task's answer is with all heads, without `off`, and, with `each`, without every head alone: layers × N runs.
    ///
    /// # Errors
    /// Where a head of `off` is not there, or the task cannot take the input.
    pub fn ablation(
        &self,
        task: &dyn Task,
        input: &Value,
        options: &Options,
        off: &[HeadPlace],
        each: bool,
    ) -> Result<Ablation, crate::Error> {
        let (layers, heads) = (self.model().blueprint.num_hidden_layers, self.model().blueprint.num_attention_heads);
        if let Some(&place) = off.iter().find(|p| p.layer >= layers || p.head >= heads) {
            return Err(AblationError::NoHead { place, layers, heads }.into());
        }
        let answer = |off: &[HeadPlace]| -> Result<Value, crate::Error> {
            let job = self.encode(task, input, options)?;
            Ok(answers(&Without { pipeline: self, off }, vec![job])?.pop().unwrap_or_default())
        };
        let probe = Probe::new(self, self.encode(task, input, options)?.sequences)?;
        let (measure, whole) = probe.measure(self, &[])?;
        let some = !off.is_empty();
        let value = some.then(|| probe.measure(self, off).map(|m| m.1)).transpose()?;
        let answer_without = some.then(|| answer(off)).transpose()?;
        let alone = |layer, head| probe.measure(self, &[HeadPlace { layer, head }]).map(|m| m.1);
        let row = |layer| (0..heads).map(|head| alone(layer, head)).collect::<Result<Vec<f64>, _>>();
        let each = if each { (0..layers).map(row).collect::<Result<_, _>>()? } else { Vec::new() };
        Ok(Ablation { task: task.name(), measure, whole, answer: answer(&[])?, off: off.to_vec(), value, answer_without, each })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_written_as_layer_and_place() {
        assert_eq!("2.3".parse(), Ok(HeadPlace { layer: 2, head: 3 }));
        assert_eq!(HeadPlace { layer: 10, head: 0 }.to_string(), "10.0");
        for wrong in ["", "2", "2.", ".3", "a.b", "2,3", "-1.0", "1.2.3"] {
            assert_eq!(wrong.parse::<HeadPlace>(), Err(AblationError::Place { found: wrong.into() }), "{wrong:?}");
        }
    }

    #[test]
    fn measures_are_their_formulas() {
        let rows = |width, values: &[f32]| Output::Rows { width, values: values.to_vec() };
        let label = Kind::Labels(Problem::SingleLabel);
        let found = label.measure(&[rows(2, &[0.0, 1.0])], &[rows(2, &[0.0, 3f32.ln()])]).unwrap();
        assert!(found.0 == Measure::Probability && (found.1 - 0.75).abs() < 1e-6, "p of the label that the whole model chose: {found:?}");
        let choices = Kind::Choices.measure(&[rows(1, &[2.0]), rows(1, &[0.0])], &[rows(1, &[0.0]), rows(1, &[0.0])]).unwrap();
        assert!((choices.1 - 0.5).abs() < 1e-6);
        let vectors = Kind::Vectors.measure(&[rows(2, &[1.0, 0.0])], &[rows(2, &[1.0, 1.0])]).unwrap();
        assert!((vectors.1 - 0.5f64.sqrt()).abs() < 1e-9);
        let loss = Kind::Likelihoods.measure(&[], &[Output::Likelihoods(vec![-1.0, -2.0])]).unwrap();
        assert_eq!(loss, (Measure::Loss, 1.5));
        assert_eq!(Kind::Likelihoods.measure(&[], &[]), None);
        let number = Kind::Labels(Problem::Regression).measure(&[rows(1, &[1.0])], &[rows(1, &[-2.0])]).unwrap();
        assert_eq!(number, (Measure::Number, -2.0));
        assert_eq!(number.0.harm(1.0, -2.0), 3.0);
        assert_eq!((Measure::Loss.harm(1.0, 3.0), Measure::Cosine.harm(1.0, 0.25)), (2.0, 0.75));
        let span = Kind::Span.measure(&[rows(2, &[9.0, 0.0, 0.0, 9.0])], &[rows(2, &[0.0, 0.0, 0.0, 0.0])]).unwrap();
        assert!((span.1 - 0.25).abs() < 1e-6, "one half for the start times one half for the end");
    }
}
