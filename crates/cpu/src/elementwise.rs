//! Sums, dropout and activations on their own.

use cloze_tensor::ops::activation::Activation;
use cloze_tensor::ops::elementwise::{Columns, ElementwiseOp};
use cloze_tensor::{Dropout, View, ViewMut};

use crate::backend::{Cpu, TASK, by_dtype, elements, elements_mut};
use crate::gated::{derivative, value};
use crate::philox;
use crate::simd::{Kernel, Lane, Simd, dispatch};

impl ElementwiseOp for Cpu {
    fn accumulate(&self, mut sum: ViewMut<Self>, x: View<Self>) {
        by_dtype!(x.dtype, T => {
            let x = elements::<T>(x);
            self.threads().for_rows(elements_mut::<T>(&mut sum), 1, TASK, |first, sum| {
                dispatch(self.level(), Accumulate { x: &x[first..first + sum.len()], sum });
            });
        });
    }

    fn dropout(&self, op: &Dropout, x: View<Self>, mut y: ViewMut<Self>) {
        by_dtype!(x.dtype, T => {
            let x = elements::<T>(x);
            self.threads().for_rows(elements_mut::<T>(&mut y), 1, TASK, |first, y| {
                dispatch(self.level(), Drop { op, first: first as u64, x: &x[first..first + y.len()], y });
            });
        });
    }

    fn add_columns(&self, op: Columns, x: View<Self>, mut y: ViewMut<Self>) {
        let (inner, outer) = (x.cols, y.cols);
        by_dtype!(x.dtype, T => {
            let x = elements::<T>(x);
            self.threads().for_rows(elements_mut::<T>(&mut y), outer, TASK.div_ceil(outer.max(1)), |first, y| {
                let x = &x[first * inner..][..y.len() / outer.max(1) * inner];
                dispatch(self.level(), AddColumns { op, inner, outer, x, y });
            });
        });
    }

    fn take_columns(&self, op: Columns, y: View<Self>, mut x: ViewMut<Self>) {
        let (inner, outer) = (x.cols, y.cols);
        by_dtype!(y.dtype, T => {
            let y = elements::<T>(y);
            self.threads().for_rows(elements_mut::<T>(&mut x), inner, TASK.div_ceil(inner.max(1)), |first, x| {
                let y = &y[first * outer..][..x.len() / inner.max(1) * outer];
                dispatch(self.level(), TakeColumns { op, inner, outer, y, x });
            });
        });
    }

    fn activate(&self, f: Activation, x: View<Self>, mut y: ViewMut<Self>) {
        by_dtype!(x.dtype, T => {
            let x = elements::<T>(x);
            self.threads().for_rows(elements_mut::<T>(&mut y), 1, TASK / 8, |first, y| {
                dispatch(self.level(), Activate { f, x: &x[first..first + y.len()], y });
            });
        });
    }

    fn activate_backward(&self, f: Activation, x: View<Self>, dy: View<Self>, mut dx: ViewMut<Self>) {
        by_dtype!(x.dtype, T => {
            let (x, dy) = (elements::<T>(x), elements::<T>(dy));
            self.threads().for_rows(elements_mut::<T>(&mut dx), 1, TASK / 8, |first, dx| {
                let of = first..first + dx.len();
                dispatch(self.level(), ActivateBackward { f, x: &x[of.clone()], dy: &dy[of], dx });
            });
        });
    }
}

struct AddColumns<'a, T> {
    op: Columns,
    inner: usize,
    outer: usize,
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Lane> Kernel for AddColumns<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = s.splat(self.op.scale);
        for (x, y) in self.x.chunks_exact(self.inner).zip(self.y.chunks_exact_mut(self.outer)) {
            let y = &mut y[self.op.first..][..x.len()];
            for c in (0..x.len()).step_by(S::LANES) {
                s.store_at(y, c, s.mul_add(scale, s.load_at(x, c), s.load_at(y, c)));
            }
        }
    }
}

struct TakeColumns<'a, T> {
    op: Columns,
    inner: usize,
    outer: usize,
    y: &'a [T],
    x: &'a mut [T],
}

impl<T: Lane> Kernel for TakeColumns<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = s.splat(self.op.scale);
        for (y, x) in self.y.chunks_exact(self.outer).zip(self.x.chunks_exact_mut(self.inner)) {
            let y = &y[self.op.first..][..x.len()];
            for c in (0..x.len()).step_by(S::LANES) {
                s.store_at(x, c, s.mul(scale, s.load_at(y, c)));
            }
        }
    }
}

struct Activate<'a, T> {
    f: Activation,
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Lane> Kernel for Activate<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in (0..self.x.len()).step_by(S::LANES) {
            s.store_at(self.y, i, value(s, self.f, s.load_at(self.x, i)));
        }
    }
}

struct ActivateBackward<'a, T> {
    f: Activation,
    x: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
}

impl<T: Lane> Kernel for ActivateBackward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in (0..self.x.len()).step_by(S::LANES) {
            s.store_at(self.dx, i, s.mul(s.load_at(self.dy, i), derivative(s, self.f, s.load_at(self.x, i))));
        }
    }
}

struct Accumulate<'a, T> {
    x: &'a [T],
    sum: &'a mut [T],
}

impl<T: Lane> Kernel for Accumulate<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in (0..self.sum.len()).step_by(S::LANES) {
            s.store_at(self.sum, i, s.add(s.load_at(self.sum, i), s.load_at(self.x, i)));
        }
    }
}

struct Drop<'a, T> {
    op: &'a Dropout,
    first: u64,
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Lane> Kernel for Drop<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const PIECE: usize = 1024;
        let mut factors = [0.0; PIECE];
        for start in (0..self.x.len()).step_by(PIECE) {
            let end = self.x.len().min(start + PIECE);
            let (x, y, factors) = (&self.x[start..end], &mut self.y[start..end], &mut factors[..end - start]);
            philox::factors(s, self.op, self.first + start as u64, factors);
            for i in (0..x.len()).step_by(S::LANES) {
                s.store_at(y, i, s.mul(s.load_at(x, i), s.load_at(factors, i)));
            }
        }
    }
}
