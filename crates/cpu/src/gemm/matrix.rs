//! Views of matrices: what a product reads and writes.

use super::pack::Strided;
use half::bf16;

/// The elements of a matrix that is read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// A matrix to read, plain or transposed, of f32 or bf16. // [rows, columns]
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    source: Source<'a>,
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix of f32.
    ///
    /// # Panics
    /// If `data` is not `rows · columns` long.
    pub fn f32(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert!(data.len() == rows * columns, "matrix: {} elements are not [{rows}, {columns}]", data.len());
        Self::new(Source::F32(data), data.len(), rows, columns, columns)
    }

    /// A row-major matrix of bf16.
    ///
    /// # Panics
    /// If `data` is not `rows · columns` long.
    pub fn bf16(data: &'a [bf16], rows: usize, columns: usize) -> Self {
        assert!(data.len() == rows * columns, "matrix: {} elements are not [{rows}, {columns}]", data.len());
        Self::new(Source::Bf16(data), data.len(), rows, columns, columns)
    }

    /// Rows of f32 that start `stride` elements apart: some columns of a wider matrix.
    ///
    /// # Panics
    /// If the last row reaches past the end of `data`, or rows overlap.
    pub fn f32_strided(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Self::new(Source::F32(data), data.len(), rows, columns, stride)
    }

    /// Rows of bf16 that start `stride` elements apart: some columns of a wider matrix.
    ///
    /// # Panics
    /// If the last row reaches past the end of `data`, or rows overlap.
    pub fn bf16_strided(data: &'a [bf16], rows: usize, columns: usize, stride: usize) -> Self {
        Self::new(Source::Bf16(data), data.len(), rows, columns, stride)
    }

    fn new(source: Source<'a>, len: usize, rows: usize, columns: usize, stride: usize) -> Self {
        check(len, rows, columns, stride);
        Self { source, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// The transposed matrix, without moving anything.
    pub fn transposed(self) -> Self {
        Self { source: self.source, rows: self.columns, columns: self.rows, row_stride: self.column_stride, column_stride: self.row_stride }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Whether the elements of a row follow one another.
    pub(super) fn is_row_major(&self) -> bool {
        self.column_stride == 1
    }

    /// All elements, row by row.
    pub(super) fn to_f32(self) -> Vec<f32> {
        let at = |r: usize, c: usize| r * self.row_stride + c * self.column_stride;
        let mut all = Vec::with_capacity(self.rows * self.columns);
        for r in 0..self.rows {
            match self.source {
                Source::F32(x) => all.extend((0..self.columns).map(|c| x[at(r, c)])),
                Source::Bf16(x) => all.extend((0..self.columns).map(|c| x[at(r, c)].to_f32())),
            }
        }
        all
    }

    pub(super) fn source(&self) -> Source<'a> {
        self.source
    }

    /// Rows across, columns along the depth. `T` is the type of the source's elements.
    pub(super) fn strided<T>(&self) -> Strided<T> {
        let (start, size) = match self.source {
            Source::F32(x) => (x.as_ptr().cast(), size_of::<f32>()),
            Source::Bf16(x) => (x.as_ptr().cast(), size_of::<bf16>()),
        };
        assert_eq!(size, size_of::<T>(), "the element type is the source's");
        Strided { start, across: self.row_stride, along: self.column_stride }
    }
}

fn check(len: usize, rows: usize, columns: usize, stride: usize) {
    assert!(stride >= columns, "matrix: rows of {columns} elements overlap at a stride of {stride}");
    let needed = if rows == 0 || columns == 0 { 0 } else { (rows - 1) * stride + columns };
    assert!(len >= needed, "matrix: [{rows}, {columns}] at stride {stride} needs {needed} elements, not {len}");
}

/// The elements of a matrix that is written.
#[derive(Debug)]
pub(super) enum Target<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
}

/// The type of a written matrix's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dtype {
    F32,
    Bf16,
}

/// A row-major matrix to write, of f32 or bf16. // [rows, columns]
#[derive(Debug)]
pub struct MatrixMut<'a> {
    target: Target<'a>,
    rows: usize,
    columns: usize,
    stride: usize,
}

impl<'a> MatrixMut<'a> {
    /// A matrix of f32.
    ///
    /// # Panics
    /// If `data` is not `rows · columns` long.
    pub fn f32(data: &'a mut [f32], rows: usize, columns: usize) -> Self {
        assert!(data.len() == rows * columns, "matrix: {} elements are not [{rows}, {columns}]", data.len());
        Self { target: Target::F32(data), rows, columns, stride: columns }
    }

    /// A matrix of bf16.
    ///
    /// # Panics
    /// If `data` is not `rows · columns` long.
    pub fn bf16(data: &'a mut [bf16], rows: usize, columns: usize) -> Self {
        assert!(data.len() == rows * columns, "matrix: {} elements are not [{rows}, {columns}]", data.len());
        Self { target: Target::Bf16(data), rows, columns, stride: columns }
    }

    /// Rows of f32 that start `stride` elements apart.
    ///
    /// # Panics
    /// If the last row reaches past the end of `data`, or rows overlap.
    pub fn f32_strided(data: &'a mut [f32], rows: usize, columns: usize, stride: usize) -> Self {
        check(data.len(), rows, columns, stride);
        Self { target: Target::F32(data), rows, columns, stride }
    }

    /// Rows of bf16 that start `stride` elements apart.
    ///
    /// # Panics
    /// If the last row reaches past the end of `data`, or rows overlap.
    pub fn bf16_strided(data: &'a mut [bf16], rows: usize, columns: usize, stride: usize) -> Self {
        check(data.len(), rows, columns, stride);
        Self { target: Target::Bf16(data), rows, columns, stride }
    }

    pub(super) fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    pub(super) fn dtype(&self) -> Dtype {
        match self.target {
            Target::F32(_) => Dtype::F32,
            Target::Bf16(_) => Dtype::Bf16,
        }
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    pub(super) fn into_target(self) -> Target<'a> {
        self.target
    }
}
