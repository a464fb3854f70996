//! Labels on tokens: named entities, parts of speech.

use cloze_tensor::ops::cross_entropy::CrossEntropy;
use cloze_tensor::{Backend, Tape, Tensor, Var};

use super::masked_lm::Transform;
use crate::block::{Builder, Dense};
use crate::params::Role;

/// A linear map from hidden rows to labels, after dropout; behind the prediction head's transform where the blueprint's
/// summary is that.
#[derive(Clone, Copy, Debug)]
pub struct TokenClassifier {
    transform: Option<Transform>,
    dense: Dense,
    dropout: f32,
}

impl TokenClassifier {
    pub(crate) fn new(b: &mut Builder, labels: usize, transform: Option<Transform>) -> Self {
        let h = b.blueprint.hidden_size;
        Self { transform, dense: b.dense("tokens", labels, h, true, Role::Table), dropout: b.blueprint.classifier_dropout }
    }

    fn rows<B: Backend>(&self, tape: &mut Tape<'_, B>, hidden: &Var<B>) -> Var<B> {
        self.transform.map_or_else(|| hidden.clone(), |t| t.forward(tape, hidden))
    }

    /// Logits of hidden rows. // [M, H] → [M, labels]
    pub fn logits<B: Backend>(&self, tape: &mut Tape<'_, B>, hidden: &Var<B>) -> Var<B> {
        let rows = self.rows(tape, hidden);
        tape.linear(&rows, self.dense.plain())
    }

    /// Loss and hit (f32 [M, 2]) of the hidden rows that have a label: gather them first ([`Tape::gather`]), so that
    /// special tokens and later pieces of a word cost nothing.
    pub fn loss<B: Backend>(
        &self,
        tape: &mut Tape<'_, B>,
        hidden: &Var<B>,
        labels: &B::Indices,
        scale: f32,
        label_smoothing: f32,
    ) -> Tensor<B> {
        let rows = self.rows(tape, hidden);
        let dropout = tape.dropout_at(self.dropout);
        let rows = tape.dropout(&rows, dropout);
        let op = CrossEntropy { weight: self.dense.weight, bias: self.dense.bias, label_smoothing };
        tape.cross_entropy(&rows, labels, scale, op)
    }
}
