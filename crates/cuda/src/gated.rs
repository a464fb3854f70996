//! Gated activations.

use bytemuck::{Pod, Zeroable};
use cloze_tensor::ops::activation::Activation;
use cloze_tensor::ops::gated::GatedOp;
use cloze_tensor::{View, ViewMut};

use crate::Cuda;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Gated {
    x: u64,
    dy: u64,
    out: u64,
    rows: u64,
    inner: u32,
    f: u32,
}

/// The number of an activation in kernels/device.cuh.
pub(crate) fn number(activation: Activation) -> u32 {
    match activation {
        Activation::Gelu => 0,
        Activation::GeluTanh => 1,
        Activation::Relu => 2,
        Activation::Silu => 3,
        Activation::Tanh => 4,
    }
}

/// Elements that a thread takes where rows have this many.
fn each(cols: usize) -> usize {
    if cols.is_multiple_of(8) { 8 } else { 1 }
}

impl GatedOp for Cuda {
    fn gated(&self, activation: Activation, x: View<Self>, y: ViewMut<Self>) {
        let (rows, inner) = (y.rows as u64, y.cols as u32);
        let parameters = Gated { x: x.buffer.address(), dy: 0, out: y.buffer.address(), rows, inner, f: number(activation) };
        self.launch_over("gated", "gated", x.dtype, y.rows * y.cols, each(y.cols), &parameters);
    }

    fn gated_backward(&self, activation: Activation, x: View<Self>, dy: View<Self>, dx: ViewMut<Self>) {
        let (rows, inner) = (dy.rows as u64, dy.cols as u32);
        let (x, out) = (x.buffer.address(), dx.buffer.address());
        let parameters = Gated { x, dy: dy.buffer.address(), out, rows, inner, f: number(activation) };
        self.launch_over("gated", "gated_backward", dy.dtype, dy.rows * dy.cols, each(dy.cols), &parameters);
    }
}
