//! The summary of a sequence, and labels on it.

use cloze_tensor::ops::activation::Activation;
use cloze_tensor::ops::cross_entropy::CrossEntropy;
use cloze_tensor::ops::norm::Norm;
use cloze_tensor::ops::pool::Pool;
use cloze_tensor::{Backend, Packed, Tape, Tensor, Var};

use crate::block::{Builder, Dense, Scale};
use crate::blueprint;
use crate::params::Role;

/// One row for each sequence: pooled, then through the kind's map.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Summary {
    /// tanh(W x + b).
    Pooler(Dense),
    /// norm(f(W x)): the prediction head's transform.
    PredictionHead(Dense, Activation, Norm),
}

impl Summary {
    /// `shared` is the prediction head's transform, needed by that kind of summary.
    pub(crate) fn new(b: &mut Builder, shared: Option<(Dense, Scale)>) -> Self {
        let h = b.blueprint.hidden_size;
        match (b.blueprint.summary, shared) {
            (blueprint::Summary::PredictionHead, Some((dense, scale))) => {
                Summary::PredictionHead(dense, b.blueprint.hidden_act, super::masked_lm::norm(b, scale))
            }
            _ => Summary::Pooler(b.dense("pooler", h, h, true, Role::Table)),
        }
    }

    /// Hidden states → one row a sequence. // [T, H] → [S, H]
    pub(crate) fn pooled<B: Backend>(&self, tape: &mut Tape<'_, B>, hidden: &Var<B>, layout: &Packed<B>, pooling: Pool) -> Var<B> {
        let row = tape.pool(hidden, layout, pooling);
        match *self {
            Summary::Pooler(dense) => tape.linear(&row, dense.with(Activation::Tanh)),
            Summary::PredictionHead(dense, activation, norm) => {
                let x = tape.linear(&row, dense.with(activation));
                tape.norm(&x, norm)
            }
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
        Self { dense: b.dense("classifier", labels, h, true, Role::Table), dropout: b.blueprint.hidden_dropout }
    }

    /// Logits of pooled rows. // [S, H] → [S, labels]
    pub fn logits<B: Backend>(&self, tape: &mut Tape<'_, B>, pooled: &Var<B>) -> Var<B> {
        tape.linear(pooled, self.dense.plain())
    }

    /// Loss and hit (f32 [S, 2]) of pooled rows.
    pub fn loss<B: Backend>(
        &self,
        tape: &mut Tape<'_, B>,
        pooled: &Var<B>,
        labels: &B::Indices,
        scale: f32,
        label_smoothing: f32,
    ) -> Tensor<B> {
        let dropout = tape.dropout_at(self.dropout);
        let pooled = tape.dropout(pooled, dropout);
        let op = CrossEntropy { weight: self.dense.weight, bias: self.dense.bias, label_smoothing };
        tape.cross_entropy(&pooled, labels, scale, op)
    }
}
