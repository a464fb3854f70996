//! What a backend is: storage, and both halves of every op.

use std::ops::Range;

use crate::dtype::Dtype;
use crate::ops::{
    attention::AttentionOp, cross_entropy::CrossEntropyOp, elementwise::ElementwiseOp, embedding::EmbeddingOp, gated::GatedOp,
    linear::LinearOp, norm::NormOp, optimizer::OptimizerOp, pool::PoolOp, rows::RowsOp,
};
use crate::sequences::Sequences;
use crate::tensor::Weights;

/// Memory of a device and how the host reaches it.
pub trait Storage: Sized + Send + Sync + 'static {
    /// A run of elements of one [`Dtype`] on the device.
    type Buffer: Send + Sync;
    /// A run of u32 on the device; cloning is cheap.
    type Indices: Clone + Send + Sync;
    /// Weights in the form that this backend's products like best, made by [`Storage::pack`].
    type Packed: Default + Send + Sync;

    /// `len` elements with unspecified contents.
    fn alloc(&self, dtype: Dtype, len: usize) -> Self::Buffer;
    /// `len` zeros.
    fn zeros(&self, dtype: Dtype, len: usize) -> Self::Buffer;
    /// Set a range of elements to zero.
    fn clear(&self, buffer: &mut Self::Buffer, range: Range<usize>);
    /// Copy host values in, rounding to the buffer's dtype.
    fn write(&self, buffer: &mut Self::Buffer, offset: usize, values: &[f32]);
    /// Copy a range of elements to the host.
    fn read(&self, buffer: &Self::Buffer, range: Range<usize>) -> Vec<f32>;
    /// Copy indices to the device.
    fn indices(&self, values: &[u32]) -> Self::Indices;
    /// Prepare the products of frozen weights (`params`: matrices [out, in]). A backend without such a form does nothing.
    fn pack(&self, weights: &mut Weights<Self>, params: &[crate::Param], dtype: Dtype) {
        let _ = (weights, params, dtype);
    }
}

/// A backend supplies every op, forward and backward; half an op does not compile.
pub trait Backend:
    Storage + LinearOp + NormOp + AttentionOp + EmbeddingOp + GatedOp + RowsOp + PoolOp + CrossEntropyOp + ElementwiseOp + OptimizerOp
{
}

impl<B> Backend for B where
    B: Storage + LinearOp + NormOp + AttentionOp + EmbeddingOp + GatedOp + RowsOp + PoolOp + CrossEntropyOp + ElementwiseOp + OptimizerOp
{
}

/// The layout of a packed batch, on the host and on the device.
pub struct Packed<B: Storage> {
    /// Where the sequences start.
    pub sequences: Sequences,
    /// The same starts on the device. // [S + 1]
    pub starts: B::Indices,
}

impl<B: Storage> Packed<B> {
    /// Bring `sequences` to the device.
    pub fn new(backend: &B, sequences: Sequences) -> Self {
        let starts = backend.indices(sequences.starts());
        Self { sequences, starts }
    }
}

impl<B: Storage> Clone for Packed<B> {
    fn clone(&self) -> Self {
        Self { sequences: self.sequences.clone(), starts: self.starts.clone() }
    }
}
