//! Cross-entropy fused with the vocabulary projection, a block of rows at a time.

use cloze_tensor::ops::cross_entropy::{CrossEntropy, CrossEntropyGradients, CrossEntropyOp};
use cloze_tensor::{Dtype, View, ViewMut, Weights};

use crate::backend::{Cpu, elements, gradients_of, weights_of};
use crate::gemm::{Epilogue, Matrix, MatrixMut};
use crate::linear::{BLOCK, precision, transposed_weight, weight_matrix};
use crate::simd::{Kernel, Simd, dispatch, math};
use crate::threads::SharedMut;

/// Bytes of logits that are held at once: enough rows that packing the vocabulary's matrix for each block does not
/// weigh, few enough that they stay in the last cache.
const LOGIT_BYTES: usize = 24 << 20;

impl CrossEntropyOp for Cpu {
    fn cross_entropy(
        &self,
        op: &CrossEntropy,
        weights: &Weights<Self>,
        x: View<Self>,
        labels: &Self::Indices,
        losses: ViewMut<Self>,
        mut backward: Option<CrossEntropyGradients<Self>>,
    ) {
        let (vocab, hidden) = (op.weight.rows, op.weight.cols);
        let precision = precision(x.dtype);
        let bias = op.bias.map(|b| weights_of(weights, b));
        let at_once = (LOGIT_BYTES / 4 / vocab.max(1)).clamp(16, 4096).min(x.rows.max(1));
        let mut logits = self.memory().buffer(Dtype::F32, at_once * vocab);
        let losses = &mut losses.buffer.f32_mut()[..2 * x.rows];
        for first in (0..x.rows).step_by(at_once) {
            let rows = at_once.min(x.rows - first);
            let part = rows_of(x, first, rows);
            let logits = &mut logits.f32_mut()[..rows * vocab];
            let projection = Epilogue { bias, ..Epilogue::default() };
            let (weight, operands) = transposed_weight(weights, op.weight, x.dtype);
            self.gemm().multiply(part, weight, MatrixMut::f32(logits, rows, vocab), operands, projection);
            let losses = &mut losses[2 * first..2 * (first + rows)];
            let bias_sums = self.loss_rows(op, logits, &labels[first..first + rows], losses, backward.as_ref().map(|b| b.scale));
            let Some(back) = &mut backward else { continue };
            let d = Matrix::f32(logits, rows, vocab);
            // dx = dlogits · W
            let dx = match back.dx.dtype {
                Dtype::F32 => MatrixMut::f32(&mut back.dx.buffer.of_mut()[first * hidden..(first + rows) * hidden], rows, hidden),
                Dtype::Bf16 => MatrixMut::bf16(&mut back.dx.buffer.of_mut()[first * hidden..(first + rows) * hidden], rows, hidden),
            };
            self.gemm().multiply(d, weight_matrix(weights, op.weight), dx, precision, Epilogue::default());
            // dW += dlogitsᵀ · x
            let [dw, db] = gradients_of(back.gradients, [Some(op.weight), op.bias]);
            let add = Epilogue { accumulate: true, ..Epilogue::default() };
            if !dw.is_empty() {
                self.gemm().multiply(d.transposed(), part, MatrixMut::f32(dw, vocab, hidden), precision, add);
            }
            for (db, sum) in db.iter_mut().zip(bias_sums) {
                *db += sum;
            }
        }
    }
}

/// Rows `first..first + rows` of a view.
fn rows_of<'a>(x: View<'a, Cpu>, first: usize, rows: usize) -> Matrix<'a> {
    let range = first * x.cols..(first + rows) * x.cols;
    match x.dtype {
        Dtype::F32 => Matrix::f32(&elements(x)[range], rows, x.cols),
        Dtype::Bf16 => Matrix::bf16(&elements(x)[range], rows, x.cols),
    }
}

impl Cpu {
    /// Losses and hits of rows of logits; with a scale, the logits become their gradients, and their column sums are
    /// returned where there is a bias.
    fn loss_rows(&self, op: &CrossEntropy, logits: &mut [f32], labels: &[u32], losses: &mut [f32], scale: Option<f32>) -> Vec<f32> {
        let vocab = op.weight.rows;
        let rows = labels.len();
        let sums = if scale.is_some() && op.bias.is_some() { vocab } else { 0 };
        let (logits, losses) = (SharedMut::new(logits), SharedMut::new(losses));
        // Few rows over a large vocabulary still want all threads; the block does not depend on their number.
        let block = (BLOCK * 512 / vocab.max(1)).clamp(4, BLOCK);
        let one = |range: std::ops::Range<usize>| {
            let mut sums = vec![0.0; sums];
            // SAFETY: each block of rows is taken by one task.
            let (logits, losses) =
                unsafe { (logits.slice(range.start * vocab..range.end * vocab), losses.slice(2 * range.start..2 * range.end)) };
            let labels = &labels[range];
            dispatch(self.level(), Rows { smoothing: op.label_smoothing, vocab, logits, labels, losses, scale, sums: &mut sums });
            sums
        };
        let add = |sum: &mut Vec<f32>, other: Vec<f32>| sum.iter_mut().zip(other).for_each(|(s, o)| *s += o);
        self.threads().sum_chunks(rows, block, one, add)
    }
}

struct Rows<'a> {
    smoothing: f32,
    vocab: usize,
    logits: &'a mut [f32],
    labels: &'a [u32],
    losses: &'a mut [f32],
    scale: Option<f32>,
    sums: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.logits.chunks_exact_mut(self.vocab).zip(self.labels).zip(self.losses.chunks_exact_mut(2));
        for ((logits, &label), loss) in rows {
            let label = label as usize;
            let own = logits[label];
            let mut max = s.splat(f32::NEG_INFINITY);
            for c in (0..self.vocab).step_by(S::LANES) {
                let v = s.keep_first(s.load_at(logits, c), self.vocab - c, f32::NEG_INFINITY);
                max = s.max(max, v);
            }
            let max = s.reduce_max(max);
            let top = s.splat(max);
            let (mut sum, mut plain) = (s.zero(), s.zero());
            for c in (0..self.vocab).step_by(S::LANES) {
                let v = s.load_at(logits, c);
                let e = s.keep_first(math::exp(s, s.sub(v, top)), self.vocab - c, 0.0);
                sum = s.add(sum, e);
                plain = s.add(plain, s.keep_first(v, self.vocab - c, 0.0));
            }
            let sum = s.reduce_add(sum);
            let lse = max + sum.ln();
            let mean = s.reduce_add(plain) / self.vocab as f32;
            // Σ q (lse − logit) with q = ε / V everywhere and 1 − ε more at the label.
            loss[0] = (1.0 - self.smoothing) * (lse - own) + self.smoothing * (lse - mean);
            // The label wins when no logit before it is as large and none after it larger.
            loss[1] = f32::from(own == max && !logits[..label].contains(&max));
            if own.is_nan() || lse.is_nan() {
                loss[0] = f32::NAN;
            }
            let Some(scale) = self.scale else { continue };
            let (shift, by, even) = (s.splat(lse), s.splat(scale), s.splat(self.smoothing / self.vocab as f32));
            for c in (0..self.vocab).step_by(S::LANES) {
                let p = math::exp(s, s.sub(s.load_at(logits, c), shift));
                s.store_at(logits, c, s.mul(by, s.sub(p, even)));
            }
            logits[label] -= scale * (1.0 - self.smoothing);
            if !self.sums.is_empty() {
                for c in (0..self.vocab).step_by(S::LANES) {
                    s.store_at(self.sums, c, s.add(s.load_at(self.sums, c), s.load_at(logits, c)));
                }
            }
        }
    }
}
