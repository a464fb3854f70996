//! y = f(x·Wᵀ + b).
//!
//! Backward, with z = x·Wᵀ + b: dz = dy ⊙ f′(z), dx = dz·W, dW += dzᵀ·x, db += Σ_t dz.
//! On a tape of bf16 activations the operands of the products are bf16 (weights are rounded as they are read) and
//! sums are f32; parameter gradients are f32 always.

use super::activation::Activation;
use crate::backend::{Backend, Storage};
use crate::conformance::{Case, Inputs};
use crate::plain::{Plain, learns};
use crate::tape::{Tape, Var};
use crate::tensor::{Param, Target, View, ViewMut, Weights};

/// A linear map with its bias and activation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// W. // [out, in]
    pub weight: Param,
    /// b. // [1, out]
    pub bias: Option<Param>,
    /// f; none is the identity.
    pub activation: Option<Activation>,
}

/// The contract of [`Linear`].
pub trait LinearOp: Storage {
    /// x [T, in] → y [T, out]; z goes to `pre` [T, out] when given.
    fn linear(&self, op: &Linear, weights: &Weights<Self>, x: View<Self>, y: ViewMut<Self>, pre: Option<ViewMut<Self>>);

    /// `pre` is there exactly when there is an activation. `dy` is used up: dz may overwrite it.
    fn linear_backward(
        &self,
        op: &Linear,
        weights: &Weights<Self>,
        x: View<Self>,
        pre: Option<View<Self>>,
        dy: ViewMut<Self>,
        dx: Target<Self>,
        gradients: &mut Self::Buffer,
    );
}

impl<'a, B: Backend> Tape<'a, B> {
    /// y = f(x·Wᵀ + b). // [T, in] → [T, out]
    pub fn linear(&mut self, x: &Var<B>, op: Linear) -> Var<B> {
        let Param { rows: out, cols: inner, .. } = op.weight;
        assert_eq!(x.cols(), inner, "linear: x is [{}, {}], W is [{out}, {inner}]", x.rows(), x.cols());
        if let Some(b) = op.bias {
            assert_eq!(b.len(), out, "linear: b has {} elements, W is [{out}, {inner}]", b.len());
        }
        let mut y = self.tensor(x.rows(), out);
        let mut pre = (self.is_recording() && op.activation.is_some()).then(|| self.tensor(x.rows(), out));
        self.backend().linear(&op, self.weights(), x.view(), y.view_mut(), pre.as_mut().map(|p| p.view_mut()));
        let y = self.var(y);
        let (x, id) = (x.clone(), y.id());
        self.record(move |r| {
            let Some(mut dy) = r.take(id) else { return };
            let mut dx = r.slot(&x);
            let setting = r.setting;
            setting.backend.linear_backward(
                &op,
                setting.weights,
                x.view(),
                pre.as_ref().map(|p| p.view()),
                dy.view_mut(),
                dx.target(),
                r.gradients,
            );
            r.put(dx);
        });
        y
    }
}

impl LinearOp for Plain {
    fn linear(&self, op: &Linear, weights: &Weights<Self>, x: View<Self>, mut y: ViewMut<Self>, mut pre: Option<ViewMut<Self>>) {
        let w = weights.of(op.weight);
        for t in 0..x.rows {
            for o in 0..op.weight.rows {
                let mut z = op.bias.map_or(0.0, |b| weights.of(b)[o]);
                for i in 0..op.weight.cols {
                    z += x.row(t)[i] * w[o * op.weight.cols + i];
                }
                if let Some(pre) = &mut pre {
                    pre.row(t)[o] = z;
                }
                y.row(t)[o] = op.activation.map_or(z, |f| f.value(z));
            }
        }
    }

    fn linear_backward(
        &self,
        op: &Linear,
        weights: &Weights<Self>,
        x: View<Self>,
        pre: Option<View<Self>>,
        mut dy: ViewMut<Self>,
        mut dx: Target<Self>,
        gradients: &mut Self::Buffer,
    ) {
        let Param { offset, rows: out, cols: inner } = op.weight;
        let w = weights.of(op.weight);
        for t in 0..x.rows {
            for o in 0..out {
                if let (Some(f), Some(pre)) = (op.activation, &pre) {
                    dy.row(t)[o] *= f.derivative(pre.row(t)[o]);
                }
                let dz = dy.row(t)[o];
                if learns(gradients, op.weight) {
                    for i in 0..inner {
                        gradients[offset + o * inner + i] += dz * x.row(t)[i];
                    }
                }
                if let Some(b) = op.bias.filter(|b| learns(gradients, *b)) {
                    gradients[b.offset + o] += dz;
                }
            }
            for i in 0..inner {
                let sum = (0..out).map(|o| dy.row(t)[o] * w[o * inner + i]).sum();
                dx.set(t, i, sum);
            }
        }
    }
}

/// Shapes × activations, with and without bias.
pub fn cases() -> Vec<LinearCase> {
    let mut cases = Vec::new();
    for (tokens, inner, out) in [(1, 1, 1), (0, 8, 8), (7, 33, 5), (33, 64, 48), (5, 100, 130), (128, 32, 96), (65, 257, 2), (40, 512, 64)]
    {
        cases.push(LinearCase { tokens, inner, out, bias: true, activation: None });
    }
    for f in Activation::ALL {
        cases.push(LinearCase { tokens: 19, inner: 24, out: 37, bias: true, activation: Some(f) });
    }
    cases.push(LinearCase { tokens: 9, inner: 40, out: 50, bias: false, activation: None });
    cases.push(LinearCase { tokens: 9, inner: 40, out: 50, bias: false, activation: Some(Activation::Gelu) });
    cases
}

/// One case of [`cases`].
#[derive(Debug)]
pub struct LinearCase {
    tokens: usize,
    inner: usize,
    out: usize,
    bias: bool,
    activation: Option<Activation>,
}

impl Case for LinearCase {
    fn params(&self) -> Vec<(usize, usize)> {
        vec![(self.out, self.inner), (1, self.out)]
    }

    fn inputs(&self) -> Vec<(usize, usize)> {
        vec![(self.tokens, self.inner)]
    }

    fn run<'a, B: Backend>(&self, tape: &mut Tape<'a, B>, i: &Inputs<B>) -> Vec<Var<B>> {
        let bias = self.bias.then_some(i.params[1]);
        vec![tape.linear(&i.vars[0], Linear { weight: i.params[0], bias, activation: self.activation })]
    }
}
