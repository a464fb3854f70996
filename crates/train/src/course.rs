//! What a model is trained on: a source of batches with its losses and its evaluation.

use std::collections::BTreeMap;

use cloze_model::{Input, Model};
use cloze_tensor::{Backend, Dtype, Tape, Tensor, Weights};
use cloze_text::Batch;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// Sums of one loss over some rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    /// Σ loss.
    pub loss: f64,
    /// How many rows' label had the largest logit.
    pub hits: f64,
    /// Rows.
    pub rows: f64,
    /// Σ of the rows' weights: 1 each, where no class has a weight of its own.
    pub weight: f64,
}

impl Sum {
    /// The sums of a loss op's output (f32 [M, 2]).
    pub fn of<B: Backend>(backend: &B, losses: &Tensor<B>) -> Self {
        Self::of_rows(&losses.to_host(backend))
    }

    /// The sums of (loss, hit) row by row.
    pub fn of_rows(rows: &[f32]) -> Self {
        let mut sum = Self::default();
        for row in rows.chunks_exact(2) {
            sum.add(&Sum { loss: f64::from(row[0]), hits: f64::from(row[1]), rows: 1.0, weight: 1.0 });
        }
        sum
    }

    /// Take another in.
    pub fn add(&mut self, other: &Sum) {
        self.loss += other.loss;
        self.hits += other.hits;
        self.rows += other.rows;
        self.weight += other.weight;
    }

    /// Mean loss, weighted as PyTorch weights it; 0 without rows.
    pub fn mean(&self) -> f64 {
        if self.weight > 0.0 { self.loss / self.weight } else { 0.0 }
    }

    /// Share of hits; 0 without rows, NaN where targets are numbers.
    pub fn accuracy(&self) -> f64 {
        if self.rows > 0.0 { self.hits / self.rows } else { 0.0 }
    }
}

/// Sums of losses by name.
pub type Sums = BTreeMap<&'static str, Sum>;

/// A loss of a micro-batch.
pub enum Loss<B: Backend> {
    /// Summed on the host, where it was computed.
    Sum(Sum),
    /// What a loss op left on the device: nobody waits for it before he wants to know. // f32 [M, 2]
    Rows(Tensor<B>),
}

impl<B: Backend> Loss<B> {
    /// Its sums, waiting for them.
    pub fn sum(&self, backend: &B) -> Sum {
        match self {
            Loss::Sum(sum) => *sum,
            Loss::Rows(rows) => Sum::of(backend, rows),
        }
    }
}

/// The losses of a micro-batch by name.
pub type Found<B> = BTreeMap<&'static str, Loss<B>>;

/// Rows that a whole optimizer step counts, by loss: each loss is the mean over the step, however it is cut up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Masked tokens.
    pub masked: usize,
    /// Sequences with a label.
    pub sequences: usize,
}

impl Totals {
    /// Count the rows of a step's micro-batches.
    pub fn of(batches: &[Batch]) -> Self {
        let masked = batches.iter().map(|b| b.masked_rows.len()).sum();
        let sequences = batches.iter().map(|b| b.sequence_labels.len()).sum();
        Self { masked, sequences }
    }
}

/// How the losses of a micro-batch are run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass {
    /// The rows of the whole step.
    pub totals: Totals,
    /// Whether layers are computed again in backward instead of kept.
    pub recompute: bool,
    /// Whether the embeddings are moved for this pass: what it gives is learned from, and nothing else.
    pub perturbed: bool,
}

/// The losses of a micro-batch.
pub trait Losses {
    /// Run the losses of a micro-batch on a tape; a recording tape has their gradients afterwards.
    fn losses<'a, B: Backend>(&self, model: &Model, tape: &mut Tape<'a, B>, input: &Input<B>, batch: &Batch, pass: Pass) -> Found<B>;
}

/// Where the data of a course stands: enough, with the recipe, to go on exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cursor {
    /// Samples taken: of the present sequence length, where the course has one.
    pub samples: u64,
    /// The stretch of the run that this is in; absent where samples are the same for the whole run, and before the first step.
    pub stretch: Option<Stretch>,
}

/// A stretch of a run in which the sequence length stays the same. Another length cuts the text into other samples, so that their
/// number means nothing across stretches; passes over the text go on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stretch {
    /// Tokens of a sequence at most.
    pub sequence_length: usize,
    /// Samples taken when it began.
    pub samples: u64,
    /// Passes over the data when it began.
    pub epochs: f64,
}

/// A source of batches with its losses and its evaluation.
pub trait Course: Losses {
    /// The micro-batches of the next optimizer step, at `progress` (0 … 1) of the run; the position moves on.
    fn next(&mut self, progress: f64) -> Result<Vec<Batch>, TrainError>;

    /// Where the data stands.
    fn cursor(&self) -> Cursor;

    /// Go back to where it stood.
    fn seek(&mut self, cursor: Cursor);

    /// Passes over the data so far.
    fn epochs(&self) -> f64;

    /// Figures on held-out data; empty when there is none.
    fn evaluate<B: Backend>(
        &self,
        backend: &B,
        model: &Model,
        weights: &Weights<B>,
        dtype: Dtype,
    ) -> Result<BTreeMap<String, f64>, TrainError>;

    /// The figure that says which evaluation is best, and whether more is better.
    fn goal(&self) -> (&str, bool);
}
