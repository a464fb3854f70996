//! Masked language modelling: linear, activation, norm, then the vocabulary through the tied embedding table
//! (Devlin et al. 2018, section 3.1). It runs on selected rows only.

use cloze_tensor::ops::activation::Activation;
use cloze_tensor::ops::cross_entropy::CrossEntropy;
use cloze_tensor::ops::linear::Linear;
use cloze_tensor::ops::norm::Norm;
use cloze_tensor::{Backend, Param, Tape, Tensor, Var};

use crate::block::{Builder, Dense};
use crate::params::{Init, Role};

/// The transform of the prediction head: norm(f(W x)), to the width of the embeddings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transform {
    dense: Dense,
    activation: Activation,
    norm: Norm,
}

impl Transform {
    pub(crate) fn new(b: &mut Builder) -> Self {
        let (h, e) = (b.blueprint.hidden_size, b.blueprint.embedding_size);
        let dense = b.dense("mlm.dense", e, h, b.blueprint.prediction_bias, Role::Table);
        let scale = b.scale("mlm.norm", e);
        Self { dense, activation: b.blueprint.prediction_act, norm: b.norm(scale) }
    }

    /// // [M, H] → [M, E]
    pub(crate) fn forward<B: Backend>(&self, tape: &mut Tape<'_, B>, rows: &Var<B>) -> Var<B> {
        let x = tape.linear(rows, self.dense.with(self.activation));
        tape.norm(&x, self.norm)
    }
}

/// The head over the vocabulary.
#[derive(Clone, Copy, Debug)]
pub struct MaskedLm {
    transform: Transform,
    decoder: Param,
    bias: Param,
}

impl MaskedLm {
    pub(crate) fn new(b: &mut Builder, word: Param, transform: Transform) -> Self {
        let (v, e, init) = (b.blueprint.vocab_size, b.blueprint.embedding_size, Init::Normal(b.blueprint.initializer_range));
        let tied = b.blueprint.tie_word_embeddings;
        let decoder = if tied { word } else { b.table.add("mlm.decoder.weight", v, e, init, Role::Table) };
        let bias = b.table.add("mlm.bias", 1, v, Init::Zeros, Role::Vector);
        Self { transform, decoder, bias }
    }

    /// Logits of selected hidden rows. // [M, H] → [M, V]
    pub fn logits<B: Backend>(&self, tape: &mut Tape<'_, B>, rows: &Var<B>) -> Var<B> {
        let x = self.transform.forward(tape, rows);
        tape.linear(&x, Linear { weight: self.decoder, bias: Some(self.bias), activation: None })
    }

    /// Loss and hit (f32 [M, 2]) of selected hidden rows; see [`Tape::cross_entropy`] for `scale`.
    pub fn loss<B: Backend>(&self, tape: &mut Tape<'_, B>, rows: &Var<B>, labels: &B::Indices, scale: f32) -> Tensor<B> {
        let x = self.transform.forward(tape, rows);
        let op = CrossEntropy { weight: self.decoder, bias: Some(self.bias), label_smoothing: 0.0 };
        tape.cross_entropy(&x, labels, scale, op)
    }

    /// The weight matrices that inference multiplies by.
    pub(crate) fn matrices(&self) -> [Param; 2] {
        [self.transform.dense.weight, self.decoder]
    }
}
