//! The summary of a sequence, and labels on it.

use cloze_tensor::ops::activation::Activation;
use cloze_tensor::ops::cross_entropy::CrossEntropy;
use cloze_tensor::ops::pool::Pool;
use cloze_tensor::{Backend, Packed, Tape, Tensor, Var};

use super::loss;
use super::masked_lm::Transform;
use crate::block::{Builder, Dense};
use crate::blueprint;
use crate::params::Role;

/// One row for each sequence: pooled, then through the kind's map.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Summary {
    /// f(W x + b), after dropout where there is any.
    Dense { dense: Dense, activation: Activation, dropout: f32 },
    /// norm(f(W x)): the prediction head's transform.
    PredictionHead(Transform),
}

impl Summary {
    /// The pooler of the body: tanh(W x + b).
    pub(crate) fn pooler(b: &mut Builder) -> Self {
        let h = b.blueprint.hidden_size;
        Summary::Dense { dense: b.dense("pooler", h, h, true, Role::Table), activation: Activation::Tanh, dropout: 0.0 }
    }

    /// What labels are read from, named `name` where it is a map of its own. `transform` is the prediction head's.
    pub(crate) fn of_labels(b: &mut Builder, name: &str, transform: Option<Transform>) -> Self {
        let h = b.blueprint.hidden_size;
        match (b.blueprint.summary, transform) {
            (blueprint::Summary::Dense { activation, dropout_before }, _) => Summary::Dense {
                dense: b.dense(name, h, h, true, Role::Table),
                activation,
                dropout: if dropout_before { b.blueprint.classifier_dropout } else { 0.0 },
            },
            (blueprint::Summary::PredictionHead, Some(transform)) => Summary::PredictionHead(transform),
            _ => Self::pooler(b),
        }
    }

    /// Hidden states → one row a sequence. // [T, H] → [S, H]
    pub(crate) fn pooled<B: Backend>(&self, tape: &mut Tape<'_, B>, hidden: &Var<B>, layout: &Packed<B>, pooling: Pool) -> Var<B> {
        let row = tape.pool(hidden, layout, pooling);
        match *self {
            Summary::Dense { dense, activation, dropout } => {
                let row = if dropout > 0.0 {
                    let dropout = tape.dropout_at(dropout);
                    tape.dropout(&row, dropout)
                } else {
                    row
                };
                tape.linear(&row, dense.with(activation))
            }
            Summary::PredictionHead(transform) => transform.forward(tape, &row),
        }
    }
}

/// A linear map from pooled rows to labels, after dropout.
#[derive(Clone, Copy, Debug)]
pub struct Classifier {
    dense: Dense,
    dropout: f32,
}

impl Classifier {
    pub(crate) fn new(b: &mut Builder, labels: usize) -> Self {
        let h = b.blueprint.hidden_size;
        Self { dense: b.dense("classifier", labels, h, true, Role::Table), dropout: b.blueprint.classifier_dropout }
    }

    fn dropped<B: Backend>(&self, tape: &mut Tape<'_, B>, pooled: &Var<B>) -> Var<B> {
        let dropout = tape.dropout_at(self.dropout);
        tape.dropout(pooled, dropout)
    }

    /// Logits of pooled rows. // [S, H] → [S, labels]
    pub fn logits<B: Backend>(&self, tape: &mut Tape<'_, B>, pooled: &Var<B>) -> Var<B> {
        tape.linear(pooled, self.dense.plain())
    }

    /// Loss and hit (f32 [S, 2]) of pooled rows, one label each.
    pub fn loss<B: Backend>(
        &self,
        tape: &mut Tape<'_, B>,
        pooled: &Var<B>,
        labels: &B::Indices,
        scale: f32,
        label_smoothing: f32,
    ) -> Tensor<B> {
        let pooled = self.dropped(tape, pooled);
        let op = CrossEntropy { weight: self.dense.weight, bias: self.dense.bias, label_smoothing };
        tape.cross_entropy(&pooled, labels, scale, op)
    }

    /// Mean squared error (f32 [S, 2], no hits) of pooled rows against numbers. // targets [S · labels]
    pub fn regression_loss<B: Backend>(&self, tape: &mut Tape<'_, B>, pooled: &Var<B>, targets: &[f32], scale: f32) -> Tensor<B> {
        let pooled = self.dropped(tape, pooled);
        let logits = self.logits(tape, &pooled);
        loss::squared(tape, &logits, targets, scale)
    }

    /// Binary cross-entropy (f32 [S, 2]; a hit is a row with every label right), any number of labels a row.
    /// // targets, 0 to 1, [S · labels]
    pub fn multi_label_loss<B: Backend>(&self, tape: &mut Tape<'_, B>, pooled: &Var<B>, targets: &[f32], scale: f32) -> Tensor<B> {
        let pooled = self.dropped(tape, pooled);
        let logits = self.logits(tape, &pooled);
        loss::binary(tape, &logits, targets, scale)
    }
}
