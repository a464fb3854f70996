//! Multiple choice: each choice is a sequence of its own (question and choice), scored by one number.

use std::ops::Range;

use cloze_tensor::{Backend, Param, Tape, Tensor, Var};

use super::loss;
use crate::block::{Builder, Dense};
use crate::params::Role;

/// A linear map from pooled rows to a score, after dropout.
#[derive(Clone, Copy, Debug)]
pub struct MultipleChoice {
    dense: Dense,
    dropout: f32,
}

impl MultipleChoice {
    pub(crate) fn new(b: &mut Builder) -> Self {
        let h = b.blueprint.hidden_size;
        Self { dense: b.dense("choice", 1, h, true, Role::Table), dropout: b.blueprint.classifier_dropout }
    }

    /// What is added to all scores of a question alike: the softmax over them does not change with it.
    pub(crate) fn shift(&self) -> Option<Param> {
        self.dense.bias
    }

    /// The score of each choice. // [S, H] → [S, 1]
    pub fn logits<B: Backend>(&self, tape: &mut Tape<'_, B>, pooled: &Var<B>) -> Var<B> {
        tape.linear(pooled, self.dense.plain())
    }

    /// Loss and hit (f32 [questions, 2]). Question `q` has the choices (rows of `pooled`) `questions[q]`, of which
    /// `labels[q]`, counted from its first, is right.
    pub fn loss<B: Backend>(
        &self,
        tape: &mut Tape<'_, B>,
        pooled: &Var<B>,
        questions: &[Range<usize>],
        labels: &[u32],
        scale: f32,
    ) -> Tensor<B> {
        let dropout = tape.dropout_at(self.dropout);
        let pooled = tape.dropout(pooled, dropout);
        let logits = self.logits(tape, &pooled);
        loss::choose(tape, &logits, questions, labels, scale)
    }
}
