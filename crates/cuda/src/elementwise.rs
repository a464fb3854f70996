//! Sums and dropout.

use bytemuck::{Pod, Zeroable};
use cloze_tensor::ops::elementwise::ElementwiseOp;
use cloze_tensor::{Dropout, View, ViewMut};

use crate::Cuda;
use crate::backend::Draws;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Accumulate {
    sum: u64,
    x: u64,
    n: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Dropped {
    x: u64,
    y: u64,
    n: u64,
    draws: Draws,
}

impl ElementwiseOp for Cuda {
    fn accumulate(&self, sum: ViewMut<Self>, x: View<Self>) {
        let n = sum.rows * sum.cols;
        let parameters = Accumulate { sum: sum.buffer.address(), x: x.buffer.address(), n: n as u64 };
        self.launch_over("elementwise", "accumulate", sum.dtype, n, 8, &parameters);
    }

    fn dropout(&self, op: &Dropout, x: View<Self>, y: ViewMut<Self>) {
        let n = x.rows * x.cols;
        let parameters = Dropped { x: x.buffer.address(), y: y.buffer.address(), n: n as u64, draws: Draws::of(Some(*op)) };
        self.launch_over("elementwise", "dropout", x.dtype, n, 8, &parameters);
    }
}
