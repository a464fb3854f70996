//! Gated activations: y = f(a) ⊙ b.

use cloze_tensor::ops::activation::Activation;
use cloze_tensor::ops::gated::GatedOp;
use cloze_tensor::{View, ViewMut};

use crate::backend::{Cpu, TASK, by_dtype, elements, elements_mut};
use crate::simd::{Kernel, Lane, Simd, dispatch, math};

/// f(x). The match does not depend on the data: it costs a predicted branch for each vector.
#[inline(always)]
pub(crate) fn value<S: Simd>(s: S, activation: Activation, x: S::F) -> S::F {
    match activation {
        Activation::Gelu => math::gelu(s, x),
        Activation::GeluTanh => math::gelu_tanh(s, x),
        Activation::Relu => math::relu(s, x),
        Activation::Silu => math::silu(s, x),
        Activation::Tanh => math::tanh(s, x),
    }
}

/// f′(x).
#[inline(always)]
pub(crate) fn derivative<S: Simd>(s: S, activation: Activation, x: S::F) -> S::F {
    match activation {
        Activation::Gelu => math::gelu_derivative(s, x),
        Activation::GeluTanh => math::gelu_tanh_derivative(s, x),
        Activation::Relu => math::relu_derivative(s, x),
        Activation::Silu => math::silu_derivative(s, x),
        Activation::Tanh => math::tanh_derivative_from_value(s, math::tanh(s, x)),
    }
}

impl GatedOp for Cpu {
    fn gated(&self, activation: Activation, x: View<Self>, mut y: ViewMut<Self>) {
        let inner = y.cols;
        by_dtype!(x.dtype, T => {
            let x = elements::<T>(x);
            self.threads().for_rows(elements_mut::<T>(&mut y), inner, TASK.div_ceil(8 * inner.max(1)), |first, y| {
                let x = &x[2 * first * inner..2 * (first * inner + y.len())];
                dispatch(self.level(), Forward { activation, inner, x, y });
            });
        });
    }

    fn gated_backward(&self, activation: Activation, x: View<Self>, dy: View<Self>, mut dx: ViewMut<Self>) {
        let inner = dy.cols;
        by_dtype!(x.dtype, T => {
            let (x, dy) = (elements::<T>(x), elements::<T>(dy));
            self.threads().for_rows(elements_mut::<T>(&mut dx), 2 * inner, TASK.div_ceil(8 * inner.max(1)), |first, dx| {
                let x = &x[2 * first * inner..][..dx.len()];
                let dy = &dy[first * inner..][..dx.len() / 2];
                dispatch(self.level(), Backward { activation, inner, x, dy, dx });
            });
        });
    }
}

struct Forward<'a, T> {
    activation: Activation,
    inner: usize,
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Lane> Kernel for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, y) in self.x.chunks_exact(2 * self.inner).zip(self.y.chunks_exact_mut(self.inner)) {
            let (a, b) = x.split_at(self.inner);
            for c in (0..y.len()).step_by(S::LANES) {
                s.store_at(y, c, s.mul(value(s, self.activation, s.load_at(a, c)), s.load_at(b, c)));
            }
        }
    }
}

struct Backward<'a, T> {
    activation: Activation,
    inner: usize,
    x: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
}

impl<T: Lane> Kernel for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.x.chunks_exact(2 * self.inner).zip(self.dy.chunks_exact(self.inner)).zip(self.dx.chunks_exact_mut(2 * self.inner));
        for ((x, dy), dx) in rows {
            let (a, b) = x.split_at(self.inner);
            let (da, db) = dx.split_at_mut(self.inner);
            for c in (0..dy.len()).step_by(S::LANES) {
                let (a, b, d) = (s.load_at(a, c), s.load_at(b, c), s.load_at(dy, c));
                s.store_at(da, c, s.mul(s.mul(d, b), derivative(s, self.activation, a)));
                s.store_at(db, c, s.mul(d, value(s, self.activation, a)));
            }
        }
    }
}
