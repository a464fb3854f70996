//! Sums and dropout on their own.

use cloze_tensor::ops::elementwise::ElementwiseOp;
use cloze_tensor::{Dropout, View, ViewMut};

use crate::backend::{Cpu, TASK, by_dtype, elements, elements_mut};
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
