//! Cross-entropy fused with the projection onto the vocabulary (or onto labels): logits = x·Wᵀ + b,
//! loss\[m\] = Σ_v q_v · (ln Σ exp logits − logits_v), with q = (1 − ε) at the label plus ε / V everywhere.
//!
//! The gradient of a loss needs no gradient from above, so this op computes both in one pass, a block of rows at a
//! time: dlogits = scale · (softmax − q), dx = dlogits·W, dW += dlogitsᵀ·x, db += Σ dlogits. The logits of all rows are
//! never held at once.

use crate::backend::{Backend, Storage};
use crate::conformance::{Case, Inputs};
use crate::dtype::Dtype;
use crate::plain::{Plain, learns};
use crate::tape::{Tape, Var};
use crate::tensor::{Param, Tensor, View, ViewMut, Weights};

/// A projection with its cross-entropy.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy {
    /// W; the embedding table where it is tied. // [V, H]
    pub weight: Param,
    /// b. // [1, V]
    pub bias: Option<Param>,
    /// ε (Szegedy et al. 2016).
    pub label_smoothing: f32,
}

/// Where the gradients of [`CrossEntropyOp::cross_entropy`] go.
pub struct CrossEntropyGradients<'a, B: Storage> {
    /// Multiplies the gradient of each row's loss: 1 / (number of rows of the whole step) makes the step's loss a mean.
    pub scale: f32,
    /// Overwritten. // [M, H]
    pub dx: ViewMut<'a, B>,
    /// Added to. // f32, flat
    pub gradients: &'a mut B::Buffer,
}

/// The contract of [`CrossEntropy`]: both halves in one call.
pub trait CrossEntropyOp: Storage {
    /// x \[M, H\], labels \[M\] → `losses` (f32 \[M, 2\]): the loss of each row, and 1 where the largest logit is the label's.
    fn cross_entropy(
        &self,
        op: &CrossEntropy,
        weights: &Weights<Self>,
        x: View<Self>,
        labels: &Self::Indices,
        losses: ViewMut<Self>,
        backward: Option<CrossEntropyGradients<Self>>,
    );
}

impl<'a, B: Backend> Tape<'a, B> {
    /// The loss of each row of x and whether its label won (f32 [M, 2]); labels must be below V (checked where they enter).
    /// On a recording tape the gradient of `scale` · Σ loss is computed at once and waits for backward.
    pub fn cross_entropy(&mut self, x: &Var<B>, labels: &B::Indices, scale: f32, op: CrossEntropy) -> Tensor<B> {
        assert_eq!(x.cols(), op.weight.cols, "cross_entropy: x is [{}, {}], W has {} columns", x.rows(), x.cols(), op.weight.cols);
        let (backend, weights) = (self.backend(), self.weights());
        let mut losses = Tensor::new(backend, Dtype::F32, x.rows(), 2);
        let mut dx = self.is_recording().then(|| self.tensor(x.rows(), x.cols()));
        let backward = match (&mut dx, self.gradients()) {
            (Some(dx), Some(gradients)) => Some(CrossEntropyGradients { scale, dx: dx.view_mut(), gradients }),
            (Some(_), None) => panic!("cross_entropy: a loss cannot stand inside a recomputed segment"),
            _ => None,
        };
        backend.cross_entropy(&op, weights, x.view(), labels, losses.view_mut(), backward);
        if let Some(dx) = dx {
            self.root(x, dx);
        }
        losses
    }
}

impl CrossEntropyOp for Plain {
    fn cross_entropy(
        &self,
        op: &CrossEntropy,
        weights: &Weights<Self>,
        x: View<Self>,
        labels: &Self::Indices,
        mut losses: ViewMut<Self>,
        mut backward: Option<CrossEntropyGradients<Self>>,
    ) {
        let Param { offset, rows: v, cols: h } = op.weight;
        let (w, smoothing) = (weights.of(op.weight), f64::from(op.label_smoothing));
        for m in 0..x.rows {
            let logits: Vec<f64> = (0..v)
                .map(|o| op.bias.map_or(0.0, |b| weights.of(b)[o]) + (0..h).map(|i| x.row(m)[i] * w[o * h + i]).sum::<f64>())
                .collect();
            let max = logits.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
            let lse = max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
            let label = labels[m] as usize;
            let q = |o: usize| smoothing / v as f64 + if o == label { 1.0 - smoothing } else { 0.0 };
            losses.row(m)[0] = (0..v).map(|o| q(o) * (lse - logits[o])).sum();
            let first_best = logits.iter().position(|&l| l == max);
            losses.row(m)[1] = f64::from(first_best == Some(label));
            if let Some(back) = &mut backward {
                back.dx.row(m).fill(0.0);
                for o in 0..v {
                    let d = f64::from(back.scale) * ((logits[o] - lse).exp() - q(o));
                    for i in 0..h {
                        back.dx.row(m)[i] += d * w[o * h + i];
                        if learns(back.gradients, op.weight) {
                            back.gradients[offset + o * h + i] += d * x.row(m)[i];
                        }
                    }
                    if let Some(b) = op.bias.filter(|b| learns(back.gradients, *b)) {
                        back.gradients[b.offset + o] += d;
                    }
                }
            }
        }
    }
}

/// Vocabularies from 2 up, smoothing, no rows.
pub fn cases() -> Vec<CrossEntropyCase> {
    let case = |rows, hidden, vocab, bias, smoothing| CrossEntropyCase { rows, hidden, vocab, bias, smoothing };
    vec![
        case(1, 8, 2, true, 0.0),
        case(0, 8, 5, true, 0.0),
        case(33, 24, 3, true, 0.1),
        case(50, 33, 301, true, 0.0),
        case(19, 64, 1000, false, 0.0),
        case(150, 16, 517, true, 0.05),
    ]
}

/// One case of [`cases`].
#[derive(Debug)]
pub struct CrossEntropyCase {
    rows: usize,
    hidden: usize,
    vocab: usize,
    bias: bool,
    smoothing: f32,
}

impl Case for CrossEntropyCase {
    fn params(&self) -> Vec<(usize, usize)> {
        vec![(self.vocab, self.hidden), (1, self.vocab)]
    }

    fn inputs(&self) -> Vec<(usize, usize)> {
        vec![(self.rows, self.hidden)]
    }

    fn loss_scale(&self) -> Option<f32> {
        Some(0.7)
    }

    fn run<'a, B: Backend>(&self, tape: &mut Tape<'a, B>, i: &Inputs<B>) -> Vec<Var<B>> {
        let labels: Vec<u32> = (0..self.rows).map(|m| (m * 7 % self.vocab) as u32).collect();
        let labels = tape.backend().indices(&labels);
        let op = CrossEntropy { weight: i.params[0], bias: self.bias.then_some(i.params[1]), label_smoothing: self.smoothing };
        let losses = tape.cross_entropy(&i.vars[0], &labels, 0.7, op);
        vec![tape.var(losses)]
    }
}
