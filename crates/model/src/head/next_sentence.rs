//! Two labels for a pair of segments from the pooled first token: next sentence (Devlin et al. 2018) or
//! sentence order (Lan et al. 2019). Label 0 is the true continuation or order.

use cloze_tensor::ops::cross_entropy::CrossEntropy;
use cloze_tensor::{Backend, Tape, Tensor, Var};

use crate::block::{Builder, Dense};
use crate::params::Role;

/// The head over two labels.
#[derive(Clone, Copy, Debug)]
pub struct NextSentence {
    dense: Dense,
}

impl NextSentence {
    pub(crate) fn new(b: &mut Builder) -> Self {
        let h = b.blueprint.hidden_size;
        Self { dense: b.dense("nsp", 2, h, true, Role::Table) }
    }

    /// Logits of pooled rows. // [S, H] → [S, 2]
    pub fn logits<B: Backend>(&self, tape: &mut Tape<'_, B>, pooled: &Var<B>) -> Var<B> {
        tape.linear(pooled, self.dense.plain())
    }

    /// Loss and hit (f32 [S, 2]) of pooled rows.
    pub fn loss<B: Backend>(&self, tape: &mut Tape<'_, B>, pooled: &Var<B>, labels: &B::Indices, scale: f32) -> Tensor<B> {
        let op = CrossEntropy { weight: self.dense.weight, bias: self.dense.bias, label_smoothing: 0.0 };
        tape.cross_entropy(pooled, labels, scale, op)
    }
}
