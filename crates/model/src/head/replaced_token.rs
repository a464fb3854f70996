//! Replaced token detection (Clark et al. 2020, "ELECTRA"): for each token, whether another stood there.

use cloze_tensor::ops::activation::Activation;
use cloze_tensor::{Backend, Tape, Tensor, Var};

use super::loss;
use crate::block::{Builder, Dense};
use crate::params::Role;

/// A linear map with activation, then one number a token.
#[derive(Clone, Copy, Debug)]
pub struct ReplacedToken {
    dense: Dense,
    activation: Activation,
    score: Dense,
}

impl ReplacedToken {
    pub(crate) fn new(b: &mut Builder) -> Self {
        let h = b.blueprint.hidden_size;
        let dense = b.dense("replaced.dense", h, h, true, Role::Table);
        Self { dense, activation: b.blueprint.hidden_act, score: b.dense("replaced.score", 1, h, true, Role::Table) }
    }

    /// Above 0 where the token is likelier another's. // [T, H] → [T, 1]
    pub fn logits<B: Backend>(&self, tape: &mut Tape<'_, B>, hidden: &Var<B>) -> Var<B> {
        let x = tape.linear(hidden, self.dense.with(self.activation));
        tape.linear(&x, self.score.plain())
    }

    /// Binary cross-entropy and hit (f32 [T, 2]) of each row; `replaced` is 1 where another token stands, else 0. // `[T]`
    pub fn loss<B: Backend>(&self, tape: &mut Tape<'_, B>, hidden: &Var<B>, replaced: &[f32], scale: f32) -> Tensor<B> {
        let logits = self.logits(tape, hidden);
        loss::binary(tape, &logits, replaced, scale)
    }
}
