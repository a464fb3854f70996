//! Matrix products: C = epilogue(op(A) · op(B)), blocked for the caches as in Goto and van de Geijn 2008
//! ("Anatomy of high-performance matrix multiplication"), with our own micro-kernels.
//!
//! ```text
//! for chunk of B that fits the last-level cache      packed by all threads (or once, as a PackedB)
//!   for task: rows × panels of C                     by whichever thread is free
//!     for block of depth                             A packed by the task, into the second-level cache
//!       for panel of B, for panel of A               one tile of C in registers
//! ```
//!
//! Sums run along the depth in one order that depends on the depth alone: an element of C has the same bits for
//! every number of threads and however many rows are computed with it.

mod blocking;
mod matrix;
mod microkernel;
mod pack;
mod quantize;
mod scratch;
mod task;
#[cfg(test)]
mod tests;

use crate::level::Level;
use crate::simd::{Kernel, Simd, dispatch};
use crate::threads::Threads;
use blocking::Grid;
use matrix::Source;
pub use matrix::{Matrix, MatrixMut};
use microkernel::{Bf16, Element, F32, Int8};
pub use quantize::Quantized;
use scratch::{Buffer, Pool};
use std::marker::PhantomData;
use task::{Block, Columns, Output};

/// What the products are computed in. Sums of f32 and bf16 are f32, those of int8 are whole numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Operands as f32.
    #[default]
    F32,
    /// Operands rounded to bf16, by the processor's dot products where it has them.
    Bf16,
    /// Weights in 8 bits with a scale a column, activations in 8 bits with a range a row ([`Quantized`]). For frozen
    /// weights: B is packed before, A is row-major.
    Int8,
}

impl Precision {
    pub(crate) fn per_word(self) -> usize {
        match self {
            Precision::F32 => F32::PER_WORD,
            Precision::Bf16 => Bf16::PER_WORD,
            Precision::Int8 => Int8::PER_WORD,
        }
    }
}

/// What is applied to an element of the product after the bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// x Φ(x), by erf.
    Gelu,
    /// The tanh approximation of gelu.
    GeluTanh,
    /// max(0, x).
    Relu,
    /// x σ(x).
    Silu,
    /// tanh x.
    Tanh,
}

/// What happens to the product on its way into C: C = activation(\[C +\] A · B + bias).
#[derive(Debug, Default)]
pub struct Epilogue<'a> {
    /// Add the previous C.
    pub accumulate: bool,
    /// One value per column. // `[N]`
    pub bias: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Activation,
    /// Where to store the argument of the activation: the shape and dtype of C. // [M, N]
    pub pre_activation: Option<MatrixMut<'a>>,
}

/// The right operand packed once, for many products: the weights of a served model. // [K, N]
#[derive(Debug)]
pub struct PackedB {
    data: Buffer,
    k: usize,
    n: usize,
    precision: Precision,
    level: Level,
    /// Of int8 alone: the scale of each column and the sum of its weights, padded with zeros.
    columns: ColumnScales,
}

/// t and t Σ p of the columns of quantised weights, as far as whole vectors reach. // `[padded N]`
#[derive(Debug, Default)]
struct ColumnScales {
    scales: Vec<f32>,
    sums: Vec<f32>,
}

impl PackedB {
    /// (K, N).
    pub fn shape(&self) -> (usize, usize) {
        (self.k, self.n)
    }

    /// What it was packed for.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        self.data.len() * 4 + self.columns.scales.len() * 8
    }
}

/// The right operand of a product.
#[derive(Clone, Copy, Debug)]
pub enum Rhs<'a> {
    /// Packed on the way.
    Plain(Matrix<'a>),
    /// Packed before.
    Packed(&'a PackedB),
}

impl<'a> From<Matrix<'a>> for Rhs<'a> {
    fn from(matrix: Matrix<'a>) -> Self {
        Rhs::Plain(matrix)
    }
}

impl<'a> From<&'a PackedB> for Rhs<'a> {
    fn from(packed: &'a PackedB) -> Self {
        Rhs::Packed(packed)
    }
}

/// Matrix products at a level, over threads, with scratch memory that is kept between products.
#[derive(Debug)]
pub struct Gemm {
    level: Level,
    threads: Threads,
    scratch: Pool,
}

impl Gemm {
    /// Products with the instructions of `level` on `threads`.
    ///
    /// # Panics
    /// If the machine lacks the level.
    pub fn new(level: Level, threads: Threads) -> Self {
        Self { level: level.checked(), threads, scratch: Pool::default() }
    }

    /// Pack `b` once for many products in `precision`.
    pub fn pack(&self, b: Matrix<'_>, precision: Precision) -> PackedB {
        let (k, n) = (b.rows(), b.columns());
        if precision == Precision::Int8 {
            let quantized = Quantized::new(&b.transposed().to_f32(), k);
            return self.pack_quantized(&quantized.values, &quantized.scales, k);
        }
        let columns = Columns::new(self.level, n);
        let words = blocking::words(k, precision);
        let mut data = Buffer::default();
        data.reserve(words * columns.padded(n));
        self.pack_chunk(b, precision, columns, (0, n), (0, words), &mut data);
        PackedB { data, k, n, precision, level: self.level, columns: ColumnScales::default() }
    }

    /// Pack quantised weights (see [`Quantized`]) of depth `k` for products in [`Precision::Int8`].
    ///
    /// # Panics
    /// If the depth is so large that sums could overflow, or values and scales disagree.
    pub fn pack_quantized(&self, values: &[i8], scales: &[f32], k: usize) -> PackedB {
        let n = scales.len();
        assert!(values.len() == n * k, "gemm: {} values are not [{n}, {k}]", values.len());
        assert!(k <= quantize::MOST_DEPTH, "gemm: sums of {k} products of bytes can overflow");
        let columns = Columns::new(self.level, n);
        let (words, padded) = (blocking::words(k, Precision::Int8), columns.padded(n));
        let mut data = Buffer::default();
        data.reserve(words * padded);
        let shared = crate::threads::SharedMut::new(data.words_mut());
        self.threads.for_each(columns.panels(n), |panel| {
            let (c0, c1) = (panel * columns.width, n.min((panel + 1) * columns.width));
            let padded = columns.padded(c1 - c0);
            // SAFETY: each panel has its own words.
            let dst = unsafe { shared.slice(c0 * words..(c0 + padded) * words) };
            let values = &values[c0 * k..c1 * k];
            dispatch(self.level, quantize::PackWeights { values, depth: k, width: columns.width, padded, dst });
        });
        let mut scales = scales.to_vec();
        scales.resize(padded, 0.0);
        let sum = |c: usize| values[c * k..(c + 1) * k].iter().map(|&p| i32::from(p)).sum::<i32>();
        let mut sums: Vec<f32> = (0..n).map(|c| sum(c) as f32 * scales[c]).collect();
        sums.resize(padded, 0.0);
        PackedB { data, k, n, precision: Precision::Int8, level: self.level, columns: ColumnScales { scales, sums } }
    }

    /// C = activation(\[C +\] A · B + bias).  A \[M, K\], B \[K, N\], C \[M, N\].
    ///
    /// # Panics
    /// If shapes disagree, or B was packed at another level or for another precision.
    pub fn multiply<'b>(&self, a: Matrix<'_>, b: impl Into<Rhs<'b>>, c: MatrixMut<'_>, precision: Precision, epilogue: Epilogue<'_>) {
        let b = b.into();
        let (m, k) = (a.rows(), a.columns());
        let (bk, n) = match b {
            Rhs::Plain(b) => (b.rows(), b.columns()),
            Rhs::Packed(p) => (p.k, p.n),
        };
        assert!(bk == k, "gemm: A is [{m}, {k}], but B is [{bk}, {n}]");
        assert!(c.shape() == (m, n), "gemm: the product is [{m}, {n}], but C is {:?}", c.shape());
        if let Some(bias) = epilogue.bias {
            assert!(bias.len() == n, "gemm: {n} columns, but {} biases", bias.len());
        }
        if let Some(pre) = &epilogue.pre_activation {
            assert!(pre.shape() == (m, n), "gemm: C is [{m}, {n}], but the pre-activation {:?}", pre.shape());
            assert!(pre.dtype() == c.dtype(), "gemm: C and the pre-activation have different dtypes");
        }
        if let Rhs::Packed(p) = b {
            assert!(p.level == self.level, "gemm: B was packed for {}, not {}", p.level.name(), self.level.name());
            assert!(p.precision == precision, "gemm: B was packed for {:?}, not {precision:?}", p.precision);
        }
        if m == 0 || n == 0 {
            return;
        }
        match (precision, b) {
            (Precision::F32, _) => self.blocked::<F32>(a, b, &Output::new(c, epilogue, None), precision),
            (Precision::Bf16, _) => self.blocked::<Bf16>(a, b, &Output::new(c, epilogue, None), precision),
            (Precision::Int8, Rhs::Plain(plain)) => self.multiply(a, &self.pack(plain, precision), c, precision, epilogue),
            (Precision::Int8, Rhs::Packed(p)) => {
                assert!(a.is_row_major(), "gemm: A of a product of bytes is row-major");
                self.blocked::<Int8>(a, b, &Output::new(c, epilogue, Some(&p.columns)), precision);
            }
        }
    }

    fn blocked<E: Element>(&self, a: Matrix<'_>, b: Rhs<'_>, output: &Output<'_>, precision: Precision) {
        let (m, k, n) = (a.rows(), a.columns(), output.columns());
        let words = blocking::words(k, precision);
        let block = blocking::depth_block(words, precision);
        let columns = Columns::new(self.level, n);
        let compute = |packed: &[u32], (n0, n1): (usize, usize), (w0, w1): (usize, usize), padded: usize| {
            let serial = m * (n1 - n0) * (w1 - w0).max(1) < blocking::SERIAL;
            let threads = if serial { 1 } else { self.threads.count() };
            let grid = Grid::new(m, columns.panels(n1 - n0), task::tile_rows(self.level), threads);
            let one = |scratch: &mut scratch::Lease<'_>, task: usize| {
                let (r, p) = (task % grid.down, task / grid.down);
                let rows = r * grid.rows..m.min((r + 1) * grid.rows);
                let from = n0 + p * grid.panels * columns.width;
                let to = n1.min(from + grid.panels * columns.width);
                let start = p * grid.panels * columns.width;
                dispatch(
                    self.level,
                    Block::<E> {
                        a,
                        output,
                        rows,
                        columns: from..to,
                        words: w0..w1,
                        all_words: words,
                        block,
                        packed,
                        packed_columns: padded,
                        packed_start: start,
                        scratch,
                        element: PhantomData,
                    },
                );
            };
            if serial {
                let mut scratch = self.scratch.lease();
                (0..grid.tasks()).for_each(|i| one(&mut scratch, i));
            } else {
                self.threads.for_each_with(grid.tasks(), || self.scratch.lease(), one);
            }
        };
        match b {
            Rhs::Packed(p) => compute(p.data.words(), (0, n), (0, words), columns.padded(n)),
            Rhs::Plain(b) => {
                let (width, depth) = blocking::packing_chunk(n, words, columns.width, block, !output.keeps_sums());
                let mut packed = self.scratch.lease_packed();
                let mut n0 = 0;
                while n0 < n {
                    let n1 = n.min(n0 + width);
                    let padded = columns.padded(n1 - n0);
                    let mut w0 = 0;
                    loop {
                        let w1 = words.min(w0 + depth);
                        packed.reserve((w1 - w0) * padded);
                        self.pack_chunk(b, precision, columns, (n0, n1), (w0, w1), &mut packed);
                        compute(packed.words(), (n0, n1), (w0, w1), padded);
                        w0 = w1;
                        if w0 >= words {
                            break;
                        }
                    }
                    n0 = n1;
                }
            }
        }
    }

    /// Pack columns `n0..n1` and words `w0..w1` of depth of `b`: block after block of depth, in each panel after panel.
    fn pack_chunk(
        &self,
        b: Matrix<'_>,
        precision: Precision,
        columns: Columns,
        (n0, n1): (usize, usize),
        (w0, w1): (usize, usize),
        to: &mut Buffer,
    ) {
        if n0 == n1 || w0 == w1 {
            return;
        }
        let block = blocking::depth_block(blocking::words(b.rows(), precision), precision);
        let padded = columns.padded(n1 - n0);
        let panels = columns.panels(n1 - n0);
        let blocks = (w1 - w0).div_ceil(block);
        let serial = (n1 - n0) * (w1 - w0) < 1 << 14;
        let group = if serial { panels } else { panels.div_ceil(2 * self.threads.count()).max(1) };
        let groups = panels.div_ceil(group);
        let size = (w1 - w0) * padded;
        let shared = crate::threads::SharedMut::new(&mut to.words_mut()[..size]);
        let one = |task: usize| {
            let (g, i) = (task % groups, task / groups);
            let (from, until) = (w0 + i * block, w1.min(w0 + (i + 1) * block));
            let (c0, c1) = (n0 + g * group * columns.width, n1.min(n0 + (g + 1) * group * columns.width));
            let start = (from - w0) * padded + (c0 - n0) * (until - from);
            // SAFETY: each task writes its own panels of its own block of depth.
            let dst = unsafe { shared.slice(start..start + (until - from) * columns.padded(c1 - c0)) };
            let piece = Piece { b, columns, c: (c0, c1), w: (from, until), dst };
            match precision {
                Precision::F32 => dispatch(self.level, PackColumns::<F32>(piece, PhantomData)),
                Precision::Bf16 => dispatch(self.level, PackColumns::<Bf16>(piece, PhantomData)),
                Precision::Int8 => unreachable!("quantised weights are packed by `pack_quantized`"),
            }
        };
        if serial {
            (0..groups * blocks).for_each(one);
        } else {
            self.threads.for_each(groups * blocks, one);
        }
    }
}

struct Piece<'a> {
    b: Matrix<'a>,
    columns: Columns,
    c: (usize, usize),
    w: (usize, usize),
    dst: &'a mut [u32],
}

struct PackColumns<'a, E>(Piece<'a>, PhantomData<E>);

impl<E: Element> Kernel for PackColumns<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Piece { b, columns, c: (c0, c1), w: (w0, w1), dst } = self.0;
        let (d0, d1) = (w0 * E::PER_WORD, b.rows().min(w1 * E::PER_WORD));
        let shape = (columns.width, columns.padded(c1 - c0) % columns.width);
        let b = b.transposed(); // its rows are the columns of B
        assert!(dst.len() >= (w1 - w0) * columns.padded(c1 - c0));
        // SAFETY: the matrix covers columns c0..c1 and depths d0..d1, `dst` was checked above.
        unsafe {
            match b.source() {
                Source::F32(_) => pack::pack::<S, E, f32>(s, b.strided::<f32>().from(c0, d0), c1 - c0, d1 - d0, shape, dst.as_mut_ptr()),
                Source::Bf16(_) => {
                    let from = b.strided::<half::bf16>().from(c0, d0);
                    pack::pack::<S, E, half::bf16>(s, from, c1 - c0, d1 - d0, shape, dst.as_mut_ptr());
                }
            }
        }
    }
}
