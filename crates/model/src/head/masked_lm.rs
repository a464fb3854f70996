//! Masked language modelling: linear, activation, norm, then the vocabulary through the tied embedding table
//! (Devlin et al. 2018, section 3.1). It runs on selected rows only.

use cloze_tensor::ops::cross_entropy::CrossEntropy;
use cloze_tensor::ops::linear::Linear;
use cloze_tensor::ops::norm::Norm;
use cloze_tensor::{Backend, Param, Tape, Tensor, Var};

use crate::block::{Builder, Dense, Scale};
use crate::params::{Init, Role};

/// The head over the vocabulary.
#[derive(Clone, Copy, Debug)]
pub struct MaskedLm {
    transform: Dense,
    norm: Norm,
    activation: cloze_tensor::ops::activation::Activation,
    decoder: Param,
    bias: Param,
}

impl MaskedLm {
    /// `shared` is the transform (dense, norm) where a summary has made it already.
    pub(crate) fn new(b: &mut Builder, word: Param, shared: Option<(Dense, Scale)>) -> Self {
        let (transform, scale) = shared.unwrap_or_else(|| transform(b));
        let (v, h, init) = (b.blueprint.vocab_size, b.blueprint.hidden_size, Init::Normal(b.blueprint.initializer_range));
        let tied = b.blueprint.tie_word_embeddings;
        let decoder = if tied { word } else { b.table.add("mlm.decoder.weight", v, h, init, Role::Table) };
        let bias = b.table.add("mlm.bias", 1, v, Init::Zeros, Role::Vector);
        Self { transform, norm: norm(b, scale), activation: b.blueprint.hidden_act, decoder, bias }
    }

    /// Hidden rows → rows that the vocabulary projection takes. // [M, H] → [M, H]
    fn transformed<B: Backend>(&self, tape: &mut Tape<'_, B>, rows: &Var<B>) -> Var<B> {
        let x = tape.linear(rows, self.transform.with(self.activation));
        tape.norm(&x, self.norm)
    }

    /// Logits of selected hidden rows. // [M, H] → [M, V]
    pub fn logits<B: Backend>(&self, tape: &mut Tape<'_, B>, rows: &Var<B>) -> Var<B> {
        let x = self.transformed(tape, rows);
        tape.linear(&x, Linear { weight: self.decoder, bias: Some(self.bias), activation: None })
    }

    /// Loss and hit (f32 [M, 2]) of selected hidden rows; see [`Tape::cross_entropy`] for `scale`.
    pub fn loss<B: Backend>(&self, tape: &mut Tape<'_, B>, rows: &Var<B>, labels: &B::Indices, scale: f32) -> Tensor<B> {
        let x = self.transformed(tape, rows);
        let op = CrossEntropy { weight: self.decoder, bias: Some(self.bias), label_smoothing: 0.0 };
        tape.cross_entropy(&x, labels, scale, op)
    }

    /// The weight matrices that inference multiplies by.
    pub(crate) fn matrices(&self) -> [Param; 2] {
        [self.transform.weight, self.decoder]
    }
}

/// The transform of the prediction head.
pub(crate) fn transform(b: &mut Builder) -> (Dense, Scale) {
    let h = b.blueprint.hidden_size;
    let dense = b.dense("mlm.dense", h, h, b.blueprint.linear_bias, Role::Table);
    (dense, b.scale("mlm.norm"))
}

pub(crate) fn norm(b: &Builder, scale: Scale) -> Norm {
    Norm { kind: b.blueprint.norm, gain: scale.gain, bias: scale.bias, eps: b.blueprint.layer_norm_eps, dropout: None }
}
