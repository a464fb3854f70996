//! Normalisations with their residual connections, one pass over memory each way.

use bytemuck::{Pod, Zeroable};
use cloze_tensor::ops::norm::{Norm, NormKind, NormOp};
use cloze_tensor::{Dtype, Target, View, ViewMut, Weights, Write};

use crate::Cuda;
use crate::backend::{Draws, address, address_mut, master};
use crate::memory::Buffer;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Forward {
    x: u64,
    residual: u64,
    y: u64,
    sum: u64,
    stats: u64,
    gain: u64,
    bias: u64,
    draws: Draws,
    rows: u32,
    cols: u32,
    centred: u32,
    eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Backward {
    sum: u64,
    stats: u64,
    dy: u64,
    dsum: u64,
    dx: u64,
    dresidual: u64,
    gain: u64,
    partial: u64,
    draws: Draws,
    rows: u32,
    cols: u32,
    centred: u32,
    add_dx: u32,
    add_dresidual: u32,
    unused: u32,
}

/// Rows of a block of the backward half; ROWS in kernels/norm.cu.
const ROWS: usize = 64;

/// Shared memory that every device gives without being asked.
const SHARED: usize = 48 << 10;

/// Warps of a block where each needs this many floats of shared memory.
fn warps(floats: usize) -> usize {
    let warps = SHARED / (4 * floats.max(1));
    assert!(warps > 0, "norm: rows that need {floats} floats of shared memory are too wide for this backend");
    warps.min(4)
}

impl NormOp for Cuda {
    fn norm(
        &self,
        op: &Norm,
        weights: &Weights<Self>,
        x: View<Self>,
        residual: Option<View<Self>>,
        y: ViewMut<Self>,
        sum: Option<ViewMut<Self>>,
        stats: Option<ViewMut<Self>>,
    ) {
        let warps = warps(x.cols);
        let parameters = Forward {
            x: x.buffer.address(),
            residual: address(residual.as_ref()),
            y: y.buffer.address(),
            sum: address_mut(sum.as_ref()),
            stats: address_mut(stats.as_ref()),
            gain: master(weights, Some(op.gain)),
            bias: master(weights, op.bias),
            draws: Draws::of(op.dropout),
            rows: x.rows as u32,
            cols: x.cols as u32,
            centred: u32::from(op.kind == NormKind::LayerNorm),
            eps: op.eps,
        };
        self.launch("norm", "norm_forward", x.dtype, [x.rows.div_ceil(warps), 1, 1], 32 * warps, 4 * warps * x.cols, &parameters);
    }

    fn norm_backward(
        &self,
        op: &Norm,
        weights: &Weights<Self>,
        sum: View<Self>,
        stats: View<Self>,
        dy: Option<View<Self>>,
        dsum: Option<View<Self>>,
        dx: Target<Self>,
        dresidual: Option<Target<Self>>,
        gradients: &mut Buffer,
    ) {
        let (rows, cols) = (sum.rows, sum.cols);
        let (warps, blocks) = (warps(2 * cols), rows.div_ceil(ROWS));
        let partial = self.memory().buffer(Dtype::F32, blocks * 2 * cols);
        let adds = |write: Write| u32::from(write == Write::Add);
        let parameters = Backward {
            sum: sum.buffer.address(),
            stats: stats.buffer.address(),
            dy: address(dy.as_ref()),
            dsum: address(dsum.as_ref()),
            dx: dx.view.buffer.address(),
            dresidual: dresidual.as_ref().map_or(0, |d| d.view.buffer.address()),
            gain: master(weights, Some(op.gain)),
            partial: partial.address(),
            draws: Draws::of(op.dropout),
            rows: rows as u32,
            cols: cols as u32,
            centred: u32::from(op.kind == NormKind::LayerNorm),
            add_dx: adds(dx.write),
            add_dresidual: dresidual.as_ref().map_or(0, |d| adds(d.write)),
            unused: 0,
        };
        self.launch("norm", "norm_backward", sum.dtype, [blocks, 1, 1], 32 * warps, 8 * warps * cols, &parameters);
        if dy.is_none() || blocks == 0 {
            return;
        }
        self.add_partials(partial.address(), 2 * cols, blocks, gradients.at(op.gain.offset), cols);
        if let Some(b) = op.bias {
            self.add_partials(partial.at(cols), 2 * cols, blocks, gradients.at(b.offset), cols);
        }
    }
}
