//! One row for each sequence.

use bytemuck::{Pod, Zeroable};
use cloze_tensor::ops::pool::{Pool, PoolOp};
use cloze_tensor::{Packed, Target, View, ViewMut, Write};

use crate::Cuda;
use crate::backend::starts;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    x: u64,
    starts: u64,
    y: u64,
    dx: u64,
    cols: u32,
    kind: u32,
    add: u32,
    unused: u32,
}

fn kind(op: Pool) -> u32 {
    match op {
        Pool::First => 0,
        Pool::Mean => 1,
        Pool::Max => 2,
    }
}

impl PoolOp for Cuda {
    fn pool(&self, op: Pool, layout: &Packed<Self>, x: View<Self>, y: ViewMut<Self>) {
        let (cols, kind) = (x.cols as u32, kind(op));
        let (starts, y_at) = (starts(layout), y.buffer.address());
        let parameters = Parameters { x: x.buffer.address(), starts, y: y_at, dx: 0, cols, kind, add: 0, unused: 0 };
        self.launch("pool", "pool", x.dtype, [y.rows, x.cols.div_ceil(128), 1], 128, 0, &parameters);
    }

    fn pool_backward(&self, op: Pool, layout: &Packed<Self>, x: View<Self>, dy: View<Self>, dx: Target<Self>) {
        let (cols, kind, add) = (x.cols as u32, kind(op), u32::from(dx.write == Write::Add));
        let (x_at, y, dx) = (x.buffer.address(), dy.buffer.address(), dx.view.buffer.address());
        let parameters = Parameters { x: x_at, starts: starts(layout), y, dx, cols, kind, add, unused: 0 };
        self.launch("pool", "pool_backward", x.dtype, [dy.rows, x.cols.div_ceil(128), 1], 128, 0, &parameters);
    }
}
