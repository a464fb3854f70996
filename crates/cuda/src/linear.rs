//! Linear maps: products of cuBLASLt, with what their epilogues can do done there.
//!
//! cuBLASLt's GELU is the tanh form. The exact one, and every other activation, is a kernel after the product, in training and
//! in inference alike, so that both give the same bits.

use bytemuck::{Pod, Zeroable};
use cloze_tensor::ops::activation::Activation;
use cloze_tensor::ops::linear::{Linear, LinearOp};
use cloze_tensor::{Dtype, Param, Target, Tensor, View, ViewMut, Weights};

use crate::Cuda;
use crate::backend::{beta, matrix, matrix_mut};
use crate::driver::{Epilogue, Matrix, Product};
use crate::gated::number;
use crate::memory::Buffer;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Activate {
    z: u64,
    y: u64,
    n: u64,
    f: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct AddBias {
    y: u64,
    bias: u64,
    n: u64,
    cols: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ColumnSums {
    x: u64,
    partial: u64,
    pitch: u64,
    rows: u32,
    cols: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct AddPartials {
    partial: u64,
    out: u64,
    pitch: u64,
    chunks: u32,
    cols: u32,
}

/// Rows of a block of `column_sums`; CHUNK in kernels/sums.cu.
const CHUNK: usize = 256;

impl Cuda {
    /// out += the sums over `chunks` rows of partial sums, `pitch` apart.
    pub(crate) fn add_partials(&self, partial: u64, pitch: usize, chunks: usize, out: u64, cols: usize) {
        let parameters = AddPartials { partial, out, pitch: pitch as u64, chunks: chunks as u32, cols: cols as u32 };
        self.launch("sums", "add_partials", Dtype::F32, [cols.div_ceil(32), 1, 1], 256, 0, &parameters);
    }

    /// out += the sums over the rows of x [rows, cols], which are `pitch` apart.
    pub(crate) fn add_column_sums(&self, x: Matrix, out: u64) {
        let chunks = x.rows.div_ceil(CHUNK);
        if chunks == 0 {
            return;
        }
        let partial = self.memory().buffer(Dtype::F32, chunks * x.cols);
        let (rows, cols) = (x.rows as u32, x.cols as u32);
        let parameters = ColumnSums { x: x.address, partial: partial.address(), pitch: x.pitch as u64, rows, cols };
        self.launch("sums", "column_sums", x.dtype, [x.cols.div_ceil(256), chunks, 1], 256, 0, &parameters);
        self.add_partials(partial.address(), x.cols, chunks, out, x.cols);
    }

    /// z = x·Wᵀ + b into `z`; with `pre` given, that goes there and its GELU in the tanh form to `z`, in one call. False: nothing was done.
    fn product_with_gelu(&self, product: Product, bias: Option<u64>, pre: u64) -> bool {
        let Some(bias) = bias else { return false };
        let product = product.with(Epilogue::BiasGeluTanh { bias, pre });
        let supported = self.supports(&product);
        if supported {
            self.multiply(&product);
        }
        supported
    }

    fn product_with_bias(&self, op: &Linear, weights: &Weights<Self>, product: Product) {
        let Some(b) = op.bias else { return self.multiply(&product) };
        let fused = product.with(Epilogue::Bias(self.operand(weights, b, product.c.dtype)));
        if self.supports(&fused) {
            return self.multiply(&fused);
        }
        self.multiply(&product);
        let n = product.c.rows * product.c.cols;
        let (y, bias) = (product.c.address, weights.flat().at(b.offset));
        let parameters = AddBias { y, bias, n: n as u64, cols: product.c.cols as u32, unused: 0 };
        self.launch_over("linear", "add_bias", product.c.dtype, n, 1, &parameters);
    }

    fn activate(&self, name: &'static str, f: Activation, dtype: Dtype, z: u64, y: u64, n: usize) {
        self.launch_over("linear", name, dtype, n, 8, &Activate { z, y, n: n as u64, f: number(f), unused: 0 });
    }
}

impl LinearOp for Cuda {
    fn linear(&self, op: &Linear, weights: &Weights<Self>, x: View<Self>, y: ViewMut<Self>, pre: Option<ViewMut<Self>>) {
        let (out, n) = (op.weight.rows, y.rows * y.cols);
        if n == 0 {
            return;
        }
        let w = Matrix::new(self.operand(weights, op.weight, x.dtype), x.dtype, out, op.weight.cols).transposed();
        let product = Product::new(matrix(&x), w, matrix_mut(&y), 0.0);
        let Some(f) = op.activation else { return self.product_with_bias(op, weights, product) };
        if f == Activation::GeluTanh {
            // Inference takes the same call, so that it gives the same bits.
            let scratch = pre.is_none().then(|| Tensor::<Self>::new(self, y.dtype, y.rows, y.cols));
            let kept = pre.as_ref().map_or_else(|| scratch.as_ref().map_or(0, |s| s.view().buffer.address()), |p| p.buffer.address());
            let bias = op.bias.map(|b| self.operand(weights, b, y.dtype));
            if self.product_with_gelu(product, bias, kept) {
                return;
            }
        }
        let z = pre.as_ref().map_or(matrix_mut(&y), matrix_mut);
        self.product_with_bias(op, weights, Product { c: z, ..product });
        self.activate("activate", f, y.dtype, z.address, y.buffer.address(), n);
    }

    fn linear_backward(
        &self,
        op: &Linear,
        weights: &Weights<Self>,
        x: View<Self>,
        pre: Option<View<Self>>,
        dy: ViewMut<Self>,
        dx: Target<Self>,
        gradients: &mut Buffer,
    ) {
        let Param { offset, rows: out, cols: inner } = op.weight;
        let dz = matrix_mut(&dy);
        if x.rows == 0 {
            return;
        }
        if let (Some(f), Some(pre)) = (op.activation, &pre) {
            self.activate("activate_backward", f, dy.dtype, pre.buffer.address(), dz.address, dy.rows * dy.cols);
        }
        let w = Matrix::new(self.operand(weights, op.weight, x.dtype), x.dtype, out, inner);
        self.multiply(&Product::new(dz, w, matrix_mut(&dx.view), beta(dx.write)));

        let dw = Matrix::new(gradients.at(offset), Dtype::F32, out, inner);
        let product = Product::new(dz.transposed(), matrix(&x), dw, 1.0);
        let Some(b) = op.bias else { return self.multiply(&product) };
        let sums = self.memory().buffer(Dtype::F32, out);
        let fused = product.with(Epilogue::RowSums(sums.address()));
        if self.supports(&fused) {
            self.multiply(&fused);
            self.add_partials(sums.address(), out, 1, gradients.at(b.offset), out);
        } else {
            self.multiply(&product);
            self.add_column_sums(dz, gradients.at(b.offset));
        }
    }
}
