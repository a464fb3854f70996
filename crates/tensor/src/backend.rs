//! What a backend is: storage, and both halves of every op.

use std::ops::Range;

use crate::dtype::Dtype;
use crate::frozen::{Frozen, Operands};
use crate::later::Later;
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
    /// Weights in the form that this backend's products like best, made by [`Storage::freeze`].
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
    /// The same, as it stands now, without waiting for it where the device allows that.
    fn read_later(&self, buffer: &Self::Buffer, range: Range<usize>) -> Later<Vec<f32>> {
        Later::ready(self.read(buffer, range))
    }
    /// Copy indices to the device.
    fn indices(&self, values: &[u32]) -> Self::Indices;
    /// `len` f32 zeros for frozen weights: parts that are never written need take no memory.
    fn reserve(&self, len: usize) -> Self::Buffer {
        self.zeros(Dtype::F32, len)
    }
    /// Whether backward leaves out the gradients of parameters that stand behind the end of the gradient buffer: frozen ones,
    /// for which no memory is taken then. A device that does not is given a buffer for all of them.
    fn leaves_out_frozen(&self) -> bool {
        false
    }
    /// Keep the frozen `matrix` [out, in] of `param` in the form that this device's products like best. Afterwards only
    /// products read it: the flat buffer need not hold it. A device without such a form writes it there.
    fn freeze(&self, weights: &mut Weights<Self>, param: crate::Param, matrix: &Frozen<'_>, operands: Operands) {
        let _ = operands;
        // What other weights share stands in theirs.
        if param.range().end <= weights.len() {
            weights.set(self, param.offset, &matrix.values());
        }
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
