//! Work between text and answer, free of any device: sequences to run, what is wanted of each, and what follows.

use serde_json::Value;

use crate::error::TaskError;

/// What a task wants to know of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// The logits of the sequence classifier (or of the choice head). // `[1, labels]`
    Labels,
    /// The logits of the token head at these tokens of the sequence. // `[rows, labels]`
    Tokens {
        /// Token places within the sequence.
        rows: Vec<u32>,
    },
    /// The likeliest words of the vocabulary at these tokens.
    Candidates {
        /// Token places within the sequence.
        rows: Vec<u32>,
        /// How many for each.
        top: usize,
        /// Only these ids, when not empty.
        only: Vec<u32>,
    },
    /// ln p of one id at each of these tokens.
    Likelihoods {
        /// Token places within the sequence.
        rows: Vec<u32>,
        /// The id looked at for each.
        ids: Vec<u32>,
    },
    /// The pooled vector, as the model's folder says how. // `[1, H]`
    Embedding,
    /// The vector of every token. // `[len, H]`
    Hidden,
}

/// Token ids and what is wanted of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Segment of each token.
    pub segments: Vec<u32>,
    /// What is wanted.
    pub want: Want,
}

impl Sequence {
    /// An encoded text with what is wanted of it.
    pub fn new(encoding: &cloze_text::Encoding, want: Want) -> Self {
        Self { ids: encoding.ids.clone(), segments: encoding.token_type_ids.clone(), want }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// What a run found for a sequence; its kind is that of the want.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// For [`Want::Labels`], [`Want::Tokens`], [`Want::Embedding`], [`Want::Hidden`]. // `[rows, width]`
    Rows {
        /// Values of a row.
        width: usize,
        /// Row after row.
        values: Vec<f32>,
    },
    /// For [`Want::Candidates`]: ids with their ln p, the likeliest first, for each row.
    Candidates(Vec<Vec<(u32, f32)>>),
    /// For [`Want::Likelihoods`]: ln p for each row.
    Likelihoods(Vec<f32>),
}

impl Output {
    /// All values; empty for candidates.
    pub fn values(&self) -> &[f32] {
        match self {
            Output::Rows { values, .. } | Output::Likelihoods(values) => values,
            Output::Candidates(_) => &[],
        }
    }

    /// The rows; none for candidates.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        let width = match self {
            Output::Rows { width, .. } => *width,
            _ => 1,
        };
        self.values().chunks_exact(width.max(1))
    }

    /// The candidates of each row; none for other kinds.
    pub fn candidates(&self) -> &[Vec<(u32, f32)>] {
        match self {
            Output::Candidates(candidates) => candidates,
            _ => &[],
        }
    }
}

/// What follows when the sequences of a job have run.
pub type Finish = Box<dyn FnOnce(Vec<Output>) -> Result<Step, TaskError> + Send>;

/// The work for one input: run the sequences, then call `finish` with their outputs in the same order.
pub struct Job {
    /// What has to be run; may be empty.
    pub sequences: Vec<Sequence>,
    /// Whether text was cut to the longest length.
    pub cut: bool,
    /// What follows.
    pub finish: Finish,
}

impl Job {
    /// A job that ends when its sequences have run.
    pub fn new(sequences: Vec<Sequence>, finish: impl FnOnce(Vec<Output>) -> Result<Step, TaskError> + Send + 'static) -> Self {
        Self { sequences, cut: false, finish: Box::new(finish) }
    }

    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(Sequence::len).sum()
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("sequences", &self.sequences).field("cut", &self.cut).finish_non_exhaustive()
    }
}

/// An answer, or more to run first (a beam fills one mask a round).
#[derive(Debug)]
pub enum Step {
    /// The answer, in the task's shape.
    Answer(Value),
    /// Another round.
    Again(Job),
}

impl Step {
    /// A typed answer.
    pub fn answer(answer: &impl serde::Serialize) -> Result<Self, TaskError> {
        let mut value = serde_json::to_value(answer).map_err(|e| TaskError::Answer { problem: e.to_string() })?;
        shorten(&mut value);
        Ok(Step::Answer(value))
    }
}

/// Single-precision numbers with the digits that they need, not with those of their double.
fn shorten(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(map) => map.values_mut().for_each(shorten),
        Value::Number(number) if number.is_f64() => {
            let wide = number.as_f64().unwrap_or(0.0);
            let short = (wide as f32).to_string().parse::<f64>().ok().filter(|s| *s as f32 == wide as f32);
            if let Some(short) = short.and_then(serde_json::Number::from_f64) {
                *number = short;
            }
        }
        _ => {}
    }
}

/// Whoever runs sequences: a pipeline, a training run that looks at its dev rows, a server's batcher.
pub trait Runner {
    /// Outputs of these sequences, in their order.
    fn run(&self, sequences: &[&Sequence]) -> Result<Vec<Output>, TaskError>;
}

/// Run jobs to their answers, in their order; all of them share the packed runs.
pub fn answers(runner: &dyn Runner, jobs: Vec<Job>) -> Result<Vec<Value>, TaskError> {
    let mut answers = vec![Value::Null; jobs.len()];
    let mut open: Vec<(usize, Job)> = jobs.into_iter().enumerate().collect();
    while !open.is_empty() {
        let sequences: Vec<&Sequence> = open.iter().flat_map(|(_, job)| &job.sequences).collect();
        let mut outputs = if sequences.is_empty() { Vec::new() } else { runner.run(&sequences)? }.into_iter();
        let mut next = Vec::new();
        for (at, job) in open {
            let own: Vec<Output> = outputs.by_ref().take(job.sequences.len()).collect();
            match (job.finish)(own)? {
                Step::Answer(answer) => answers[at] = answer,
                Step::Again(job) => next.push((at, job)),
            }
        }
        open = next;
    }
    Ok(answers)
}
