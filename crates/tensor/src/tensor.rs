//! Dense row-major tensors, views of them, and the flat buffer that holds all parameters.

use std::ops::Range;
use std::sync::Arc;

use crate::backend::Storage;
use crate::dtype::Dtype;
use crate::later::Later;

/// A dense row-major matrix on a device. There are no strides and no broadcasting.
pub struct Tensor<B: Storage> {
    buffer: B::Buffer,
    rows: usize,
    cols: usize,
    dtype: Dtype,
}

impl<B: Storage> Tensor<B> {
    /// `[rows, cols]` with unspecified contents.
    pub fn new(backend: &B, dtype: Dtype, rows: usize, cols: usize) -> Self {
        Self { buffer: backend.alloc(dtype, rows * cols), rows, cols, dtype }
    }

    /// `[rows, cols]` from host values.
    pub fn from_host(backend: &B, dtype: Dtype, rows: usize, cols: usize, values: &[f32]) -> Self {
        assert_eq!(values.len(), rows * cols, "tensor [{rows}, {cols}] from {} values", values.len());
        let mut t = Self::new(backend, dtype, rows, cols);
        backend.write(&mut t.buffer, 0, values);
        t
    }

    /// Copy to the host.
    pub fn to_host(&self, backend: &B) -> Vec<f32> {
        backend.read(&self.buffer, 0..self.rows * self.cols)
    }

    /// Copy to the host without waiting for it.
    pub fn to_host_later(&self, backend: &B) -> Later<Vec<f32>> {
        backend.read_later(&self.buffer, 0..self.rows * self.cols)
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The element kind.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// All of it, to read.
    pub fn view(&self) -> View<'_, B> {
        View { buffer: &self.buffer, rows: self.rows, cols: self.cols, dtype: self.dtype }
    }

    /// All of it, to write.
    pub fn view_mut(&mut self) -> ViewMut<'_, B> {
        ViewMut { buffer: &mut self.buffer, rows: self.rows, cols: self.cols, dtype: self.dtype }
    }
}

/// A tensor to read.
pub struct View<'a, B: Storage> {
    /// The memory; the tensor starts at its first element.
    pub buffer: &'a B::Buffer,
    /// The number of rows.
    pub rows: usize,
    /// The number of columns.
    pub cols: usize,
    /// The element kind.
    pub dtype: Dtype,
}

impl<B: Storage> Clone for View<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Storage> Copy for View<'_, B> {}

/// A tensor to overwrite, whatever it held before.
pub struct ViewMut<'a, B: Storage> {
    /// The memory; the tensor starts at its first element.
    pub buffer: &'a mut B::Buffer,
    /// The number of rows.
    pub rows: usize,
    /// The number of columns.
    pub cols: usize,
    /// The element kind.
    pub dtype: Dtype,
}

/// How a [`Target`] is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// What was there is lost.
    Over,
    /// The result is added to what is there.
    Add,
}

/// A gradient to produce: where, and whether something already stands there.
pub struct Target<'a, B: Storage> {
    /// Where the gradient goes.
    pub view: ViewMut<'a, B>,
    /// Overwrite or accumulate.
    pub write: Write,
}

/// A parameter: a matrix `[rows, cols]` at `offset` of the flat buffers. Vectors have one row.
///
/// The same handle addresses weights, gradients and optimizer moments; using it twice ties weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Param {
    /// First element in the flat buffers.
    pub offset: usize,
    /// Rows (output features of a linear map).
    pub rows: usize,
    /// Columns (input features of a linear map).
    pub cols: usize,
}

impl Param {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its elements in the flat buffers.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// All weights of a model: one flat f32 buffer (master weights), and what the backend derived from it. Frozen weights may end in a second
/// part that other models use, too.
pub struct Weights<B: Storage> {
    flat: B::Buffer,
    len: usize,
    /// The backend's packed forms; empty unless [`Storage::freeze`] was called.
    pub packed: B::Packed,
    shared: Option<Arc<Weights<B>>>,
}

impl<B: Storage> Weights<B> {
    /// Weights from host values (f32).
    pub fn from_host(backend: &B, values: &[f32]) -> Self {
        let mut flat = backend.alloc(Dtype::F32, values.len());
        backend.write(&mut flat, 0, values);
        Self { flat, len: values.len(), packed: B::Packed::default(), shared: None }
    }

    /// Room for `len` frozen values, all zero so far.
    pub fn reserved(backend: &B, len: usize) -> Self {
        Self { flat: backend.reserve(len), len, packed: B::Packed::default(), shared: None }
    }

    /// These weights with others behind them: parameters from their end on stand in `shared`, which is kept once however many use it.
    pub fn with_shared(self, shared: Arc<Weights<B>>) -> Self {
        Self { shared: Some(shared), ..self }
    }

    /// The weights in which a parameter stands, and its handle there.
    pub fn place(&self, param: Param) -> (&Self, Param) {
        match &self.shared {
            Some(shared) if param.offset >= self.len => (shared, Param { offset: param.offset - self.len, ..param }),
            _ => (self, param),
        }
    }

    /// Write frozen values from element `offset` on. Packed forms stay: they are of other elements.
    pub fn set(&mut self, backend: &B, offset: usize, values: &[f32]) {
        backend.write(&mut self.flat, offset, values);
    }

    /// The flat buffer, without what is shared. // `f32 [len]`
    pub fn flat(&self) -> &B::Buffer {
        &self.flat
    }

    /// The flat buffer, to change; packed forms are dropped because they would be stale.
    pub fn flat_mut(&mut self) -> &mut B::Buffer {
        self.packed = B::Packed::default();
        &mut self.flat
    }

    /// The number of elements, without those that are shared.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the model has no parameters.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
