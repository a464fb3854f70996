//! The vocabulary projection with its loss and gradients, some rows at a time: the logits of all rows are never held.

use bytemuck::{Pod, Zeroable};
use cloze_tensor::ops::cross_entropy::{CrossEntropy, CrossEntropyGradients, CrossEntropyOp};
use cloze_tensor::{Dtype, Param, View, ViewMut, Weights};

use crate::Cuda;
use crate::backend::{Indices, master};
use crate::driver::{Matrix, Product};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    logits: u64,
    bias: u64,
    labels: u64,
    losses: u64,
    dlogits: u64,
    pitch: u64,
    rows: u32,
    vocabulary: u32,
    smoothing: f32,
    scale: f32,
}

impl CrossEntropyOp for Cuda {
    fn cross_entropy(
        &self,
        op: &CrossEntropy,
        weights: &Weights<Self>,
        x: View<Self>,
        labels: &Indices,
        losses: ViewMut<Self>,
        backward: Option<CrossEntropyGradients<Self>>,
    ) {
        let Param { offset, rows: vocabulary, cols: hidden } = op.weight;
        let (kind, size) = (x.dtype, x.dtype.size());
        assert!(x.rows <= labels.host().len(), "cross_entropy: {} rows, {} labels", x.rows, labels.host().len());
        if x.rows == 0 {
            return;
        }
        // Rows of logits start at 16 bytes, whatever the vocabulary: products are slow otherwise.
        let pitch = vocabulary.next_multiple_of(8);
        let chunk = (self.logits() / pitch).clamp(1, x.rows);
        let logits = self.memory().buffer(Dtype::F32, chunk * pitch);
        // In f32 the gradient takes the place of the logits.
        let own = (backward.is_some() && kind == Dtype::Bf16).then(|| self.memory().buffer(kind, chunk * pitch));
        let dlogits = own.as_ref().unwrap_or(&logits).address();
        let w = Matrix::new(self.operand(weights, op.weight, kind), kind, vocabulary, hidden);
        for first in (0..x.rows).step_by(chunk) {
            let rows = chunk.min(x.rows - first);
            let states = Matrix::new(x.buffer.at(first * hidden), kind, rows, hidden);
            let of = |address, dtype| Matrix::new(address, dtype, rows, vocabulary).with_pitch(pitch);
            self.multiply(&Product::new(states, w.transposed(), of(logits.address(), Dtype::F32), 0.0));
            let parameters = Parameters {
                logits: logits.address(),
                bias: master(weights, op.bias),
                labels: labels.address() + 4 * first as u64,
                losses: losses.buffer.at(2 * first),
                dlogits: if backward.is_some() { dlogits } else { 0 },
                pitch: pitch as u64,
                rows: rows as u32,
                vocabulary: vocabulary as u32,
                smoothing: op.label_smoothing,
                scale: backward.as_ref().map_or(0.0, |b| b.scale),
            };
            self.launch("cross_entropy", "cross_entropy", kind, [rows, 1, 1], 256, 0, &parameters);
            let Some(back) = &backward else { continue };
            let d = of(dlogits, kind);
            let dx = Matrix::new(back.dx.buffer.address() + (first * hidden * size) as u64, kind, rows, hidden);
            self.multiply(&Product::new(d, w, dx, 0.0));
            let dw = Matrix::new(back.gradients.at(offset), Dtype::F32, vocabulary, hidden);
            self.multiply(&Product::new(d.transposed(), states, dw, 1.0));
            if let Some(b) = op.bias {
                self.add_column_sums(d, back.gradients.at(b.offset));
            }
        }
    }
}
