//! y = f(a) ⊙ b with x = [a | b] (Shazeer 2020, "GLU variants improve transformer").
//!
//! Backward: da = dy ⊙ b ⊙ f′(a), db = dy ⊙ f(a).

use super::activation::Activation;
use crate::backend::{Backend, Storage};
use crate::conformance::{Case, Inputs};
use crate::plain::Plain;
use crate::tape::{Tape, Var};
use crate::tensor::{Tensor, View, ViewMut};

/// The contract of the gated activation.
pub trait GatedOp: Storage {
    /// x [T, 2I] → y [T, I].
    fn gated(&self, activation: Activation, x: View<Self>, y: ViewMut<Self>);

    /// dx [T, 2I] is overwritten.
    fn gated_backward(&self, activation: Activation, x: View<Self>, dy: View<Self>, dx: ViewMut<Self>);
}

impl<'a, B: Backend> Tape<'a, B> {
    /// y = f(a) ⊙ b with x = [a | b]. // [T, 2I] → [T, I]
    pub fn gated(&mut self, x: &Var<B>, activation: Activation) -> Var<B> {
        assert!(x.cols().is_multiple_of(2), "gated: x is [{}, {}], the columns must be even", x.rows(), x.cols());
        let mut y = self.tensor(x.rows(), x.cols() / 2);
        self.backend().gated(activation, x.view(), y.view_mut());
        let y = self.var(y);
        let (x, id) = (x.clone(), y.id());
        self.record(move |r| {
            let Some(dy) = r.take(id) else { return };
            let mut dx = Tensor::new(r.setting.backend, x.dtype(), x.rows(), x.cols());
            r.setting.backend.gated_backward(activation, x.view(), dy.view(), dx.view_mut());
            r.add(&x, dx);
        });
        y
    }
}

impl GatedOp for Plain {
    fn gated(&self, activation: Activation, x: View<Self>, mut y: ViewMut<Self>) {
        for t in 0..y.rows {
            for c in 0..y.cols {
                y.row(t)[c] = activation.value(x.row(t)[c]) * x.row(t)[c + y.cols];
            }
        }
    }

    fn gated_backward(&self, activation: Activation, x: View<Self>, dy: View<Self>, mut dx: ViewMut<Self>) {
        for t in 0..dy.rows {
            for c in 0..dy.cols {
                let (a, b, d) = (x.row(t)[c], x.row(t)[c + dy.cols], dy.row(t)[c]);
                dx.row(t)[c] = d * b * activation.derivative(a);
                dx.row(t)[c + dy.cols] = d * activation.value(a);
            }
        }
    }
}

/// Every activation, odd widths.
pub fn cases() -> Vec<GatedCase> {
    let mut cases: Vec<_> = Activation::ALL.into_iter().map(|activation| GatedCase { tokens: 13, inner: 37, activation }).collect();
    cases.push(GatedCase { tokens: 0, inner: 8, activation: Activation::Gelu });
    cases.push(GatedCase { tokens: 3, inner: 1, activation: Activation::Silu });
    cases
}

/// One case of [`cases`].
#[derive(Debug)]
pub struct GatedCase {
    tokens: usize,
    inner: usize,
    activation: Activation,
}

impl Case for GatedCase {
    fn params(&self) -> Vec<(usize, usize)> {
        vec![]
    }

    fn inputs(&self) -> Vec<(usize, usize)> {
        vec![(self.tokens, 2 * self.inner)]
    }

    fn run<'a, B: Backend>(&self, tape: &mut Tape<'a, B>, i: &Inputs<B>) -> Vec<Var<B>> {
        vec![tape.gated(&i.vars[0], self.activation)]
    }
}
