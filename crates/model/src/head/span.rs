//! Extractive question answering: where in its sequence an answer starts and ends (Devlin et al. 2018, section 4.2).

use cloze_tensor::{Backend, Packed, Param, Tape, Tensor, Var};

use super::loss::{on_host, softmax_one};
use super::masked_lm::Transform;
use crate::block::{Builder, Dense};
use crate::params::Role;

/// A linear map from hidden rows to the scores of starting and of ending there.
#[derive(Clone, Copy, Debug)]
pub struct QuestionAnswering {
    transform: Option<Transform>,
    dense: Dense,
}

impl QuestionAnswering {
    pub(crate) fn new(b: &mut Builder, transform: Option<Transform>) -> Self {
        let h = b.blueprint.hidden_size;
        Self { transform, dense: b.dense("span", 2, h, true, Role::Table) }
    }

    /// What is added to the scores of all tokens alike: the softmax over them does not change with it.
    pub(crate) fn shift(&self) -> Option<Param> {
        self.dense.bias
    }

    /// Scores of starting (column 0) and ending (column 1) at each token. // [T, H] → [T, 2]
    pub fn logits<B: Backend>(&self, tape: &mut Tape<'_, B>, hidden: &Var<B>) -> Var<B> {
        let rows = self.transform.map_or_else(|| hidden.clone(), |t| t.forward(tape, hidden));
        tape.linear(&rows, self.dense.plain())
    }

    /// Loss (half the cross-entropies of start and end over the tokens of the sequence) and hit (both right), f32 [S, 2].
    /// `starts` and `ends` are places within their sequence; a question without an answer has 0, the place of the
    /// first special token. No sequence may be empty.
    pub fn loss<B: Backend>(
        &self,
        tape: &mut Tape<'_, B>,
        hidden: &Var<B>,
        layout: &Packed<B>,
        starts: &[u32],
        ends: &[u32],
        scale: f32,
    ) -> Tensor<B> {
        let count = layout.sequences.count();
        assert_eq!((starts.len(), ends.len()), (count, count), "span loss: a start and an end for each of {count} sequences");
        let logits = self.logits(tape, hidden);
        on_host(tape, &logits, count, |rows| {
            for (s, sequence) in layout.sequences.ranges().enumerate() {
                let mut loss = [0.0, 1.0];
                for (column, place) in [(0, starts[s]), (1, ends[s])] {
                    let scores: Vec<f32> = sequence.clone().map(|t| rows.logits[2 * t + column]).collect();
                    let gradient = &mut rows.gradient[2 * sequence.start..];
                    let [l, hit] = softmax_one(&scores, place as usize, 0.5 * scale, |i, g| gradient[2 * i + column] = g);
                    loss = [loss[0] + 0.5 * l, loss[1] * hit];
                }
                rows.losses[s] = loss;
            }
        })
    }
}
