//! Linear maps on the matrix product: bias and activation in its epilogue, weights packed once where they are frozen.

use cloze_tensor::ops::activation;
use cloze_tensor::ops::linear::{Linear, LinearOp};
use cloze_tensor::{Dtype, Param, Target, View, ViewMut, Weights, Write};

use crate::backend::{Cpu, by_dtype, elements, gradients_of, weights_of};
use crate::gated::derivative;
use crate::gemm::{Activation, Epilogue, Matrix, MatrixMut, Precision, Rhs};
use crate::memory::Buffer;
use crate::simd::{Kernel, Lane, Simd, dispatch};
use crate::threads::SharedMut;

/// Token rows whose gradients are summed one after the other; the blocks' sums are added in order.
pub(crate) const BLOCK: usize = 64;

/// The precision of products with activations of this dtype.
pub(crate) fn precision(dtype: Dtype) -> Precision {
    match dtype {
        Dtype::F32 => Precision::F32,
        Dtype::Bf16 => Precision::Bf16,
    }
}

/// A view as a matrix of the product.
pub(crate) fn matrix<'a>(view: View<'a, Cpu>) -> Matrix<'a> {
    match view.dtype {
        Dtype::F32 => Matrix::f32(elements(view), view.rows, view.cols),
        Dtype::Bf16 => Matrix::bf16(elements(view), view.rows, view.cols),
    }
}

/// A view as the result of a product.
pub(crate) fn matrix_mut<'a>(view: ViewMut<'a, Cpu>) -> MatrixMut<'a> {
    let (rows, cols) = (view.rows, view.cols);
    match view.dtype {
        Dtype::F32 => MatrixMut::f32(&mut view.buffer.of_mut()[..rows * cols], rows, cols),
        Dtype::Bf16 => MatrixMut::bf16(&mut view.buffer.of_mut()[..rows * cols], rows, cols),
    }
}

/// A weight matrix [out, in] as it stands in the flat buffer.
pub(crate) fn weight_matrix(weights: &Weights<Cpu>, param: Param) -> Matrix<'_> {
    Matrix::f32(weights_of(weights, param), param.rows, param.cols)
}

/// Wᵀ as the right operand and the precision of products with it: that of its packed form where it has one, else that
/// of the activations.
pub(crate) fn transposed_weight<'w>(weights: &'w Weights<Cpu>, param: Param, activations: Dtype) -> (Rhs<'w>, Precision) {
    let (place, shared) = weights.place(param);
    // A matrix that is multiplied by here alone (a tied table under a prediction head) has its form here, wherever it stands.
    match weights.packed.get(param).or_else(|| place.packed.get(shared)) {
        Some(packed) => (Rhs::Packed(packed), packed.precision()),
        None => (Rhs::Plain(weight_matrix(weights, param).transposed()), precision(activations)),
    }
}

fn fused(activation: Option<activation::Activation>) -> Activation {
    match activation {
        None => Activation::None,
        Some(activation::Activation::Gelu) => Activation::Gelu,
        Some(activation::Activation::GeluTanh) => Activation::GeluTanh,
        Some(activation::Activation::Relu) => Activation::Relu,
        Some(activation::Activation::Silu) => Activation::Silu,
        Some(activation::Activation::Tanh) => Activation::Tanh,
    }
}

impl LinearOp for Cpu {
    fn linear(&self, op: &Linear, weights: &Weights<Self>, x: View<Self>, y: ViewMut<Self>, pre: Option<ViewMut<Self>>) {
        let (weight, precision) = transposed_weight(weights, op.weight, x.dtype);
        let epilogue = Epilogue {
            accumulate: false,
            bias: op.bias.map(|b| weights_of(weights, b)),
            activation: fused(op.activation),
            pre_activation: pre.map(matrix_mut),
        };
        self.gemm().multiply(matrix(x), weight, matrix_mut(y), precision, epilogue);
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
        let precision = precision(x.dtype);
        let [dw, db] = gradients_of(gradients, [Some(op.weight), op.bias]);
        by_dtype!(x.dtype, T => {
            let pre = pre.map(elements::<T>);
            let cols = dy.cols;
            let dz = &mut dy.buffer.of_mut::<T>()[..dy.rows * cols];
            self.pre_activation_gradient(op.activation, pre, dz, cols, db);
        });
        let dz = View { buffer: &*dy.buffer, rows: dy.rows, cols: dy.cols, dtype: dy.dtype };
        let accumulate = dx.write == Write::Add;
        // dx = dz · W
        let plain = Epilogue { accumulate, ..Epilogue::default() };
        self.gemm().multiply(matrix(dz), weight_matrix(weights, op.weight), matrix_mut(dx.view), precision, plain);
        if dw.is_empty() {
            return; // frozen
        }
        // dW += dzᵀ · x
        let dw = MatrixMut::f32(dw, op.weight.rows, op.weight.cols);
        let add = Epilogue { accumulate: true, ..Epilogue::default() };
        self.gemm().multiply(matrix(dz).transposed(), matrix(x), dw, precision, add);
    }
}

impl Cpu {
    /// dz = dy ⊙ f′(z) in place, and db += Σ_t dz. `db` is empty where there is no bias. // [T, out]
    fn pre_activation_gradient<T: Lane>(
        &self,
        activation: Option<activation::Activation>,
        pre: Option<&[T]>,
        dz: &mut [T],
        cols: usize,
        db: &mut [f32],
    ) {
        if (activation.is_none() && db.is_empty()) || dz.is_empty() {
            return;
        }
        let rows = dz.len() / cols;
        let shared = SharedMut::new(dz);
        let block = |range: std::ops::Range<usize>| {
            let mut sums = vec![0.0; db.len()];
            let range = range.start * cols..range.end * cols;
            // SAFETY: each block of rows is taken by one task.
            let dz = unsafe { shared.slice(range.clone()) };
            dispatch(self.level(), Rows { activation, pre: pre.map(|p| &p[range]), dz, cols, sums: &mut sums });
            sums
        };
        let sums = self.threads().sum_chunks(rows, BLOCK, block, |sum, other| add(sum, &other));
        for (db, sum) in db.iter_mut().zip(sums) {
            *db += sum;
        }
    }
}

fn add(sum: &mut [f32], other: &[f32]) {
    for (s, o) in sum.iter_mut().zip(other) {
        *s += o;
    }
}

struct Rows<'a, T> {
    activation: Option<activation::Activation>,
    pre: Option<&'a [T]>,
    dz: &'a mut [T],
    cols: usize,
    sums: &'a mut [f32],
}

impl<T: Lane> Kernel for Rows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (r, dz) in self.dz.chunks_exact_mut(self.cols).enumerate() {
            for c in (0..self.cols).step_by(S::LANES) {
                let mut d = s.load_at(dz, c);
                if let (Some(activation), Some(pre)) = (self.activation, self.pre) {
                    let z = s.load_at(&pre[r * self.cols..][..self.cols], c);
                    d = s.mul(d, derivative(s, activation, z));
                    s.store_at(dz, c, d);
                }
                if !self.sums.is_empty() {
                    let sum = s.load_at(self.sums, c);
                    s.store_at(self.sums, c, s.add(sum, d));
                }
            }
        }
    }
}
