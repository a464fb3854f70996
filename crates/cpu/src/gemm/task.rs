//! One task: some rows and panels of C over a range of the depth, and the epilogue of its tiles.

use super::matrix::{Dtype, Matrix, MatrixMut, Source, Target};
use super::microkernel::{self, Element, Soon, TILE_WORDS};
use super::pack;
use super::scratch::Scratch;
use super::{Activation, Epilogue};
use crate::level::Level;
use crate::simd::{Kernel, Lane, Simd, dispatch, math};
use half::bf16;
use std::marker::PhantomData;
use std::ops::Range;

/// Rows of the level's tile.
pub(super) fn tile_rows(level: Level) -> usize {
    dispatch(level, Shape).0
}

/// (rows, vectors, lanes) of the level's tile.
struct Shape;

impl Kernel for Shape {
    type Output = (usize, usize, usize);
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Self::Output {
        (S::TILE_ROWS, S::TILE_VECTORS, S::LANES)
    }
}

/// How columns are grouped into panels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    /// Columns of a full panel.
    pub(super) width: usize,
    lanes: usize,
}

impl Columns {
    /// Panels of the level's tile, narrower if all columns fit in fewer vectors.
    pub(super) fn new(level: Level, n: usize) -> Self {
        let (_, vectors, lanes) = dispatch(level, Shape);
        Self { width: lanes * vectors.min(n.div_ceil(lanes).max(1)), lanes }
    }

    /// Panels that hold `n` columns.
    pub(super) fn panels(self, n: usize) -> usize {
        n.div_ceil(self.width)
    }

    /// Columns of those panels: the last is as narrow as whole vectors allow.
    pub(super) fn padded(self, n: usize) -> usize {
        n.next_multiple_of(self.lanes)
    }
}

/// C and what happens on the way into it, shared by the tasks.
#[derive(Debug)]
pub(super) struct Output<'a> {
    c: Raw,
    pre: Option<Raw>,
    columns: usize,
    accumulate: bool,
    bias: Option<&'a [f32]>,
    activation: Activation,
    owner: PhantomData<&'a mut ()>,
}

/// Where a row-major matrix of f32 or bf16 lies.
#[derive(Clone, Copy, Debug)]
struct Raw {
    start: *mut u8,
    dtype: Dtype,
    stride: usize,
}

// SAFETY: the pointers come from exclusive borrows that live as long as the output, and each task writes only
// the elements of its own rows and columns.
unsafe impl Sync for Output<'_> {}

impl Raw {
    fn new(matrix: MatrixMut<'_>) -> Self {
        let stride = matrix.stride();
        match matrix.into_target() {
            Target::F32(x) => Self { start: x.as_mut_ptr().cast(), dtype: Dtype::F32, stride },
            Target::Bf16(x) => Self { start: x.as_mut_ptr().cast(), dtype: Dtype::Bf16, stride },
        }
    }
}

impl Raw {
    /// `n` columns of rows from `row` on, to bring closer.
    #[inline(always)]
    fn soon(self, row: usize, column: usize, n: usize) -> Soon {
        let size = if self.dtype == Dtype::F32 { 4 } else { 2 };
        let start = self.start.cast_const().wrapping_add((row * self.stride + column) * size);
        Soon { start, stride: self.stride * size, length: n * size }
    }
}

impl<'a> Output<'a> {
    pub(super) fn new(c: MatrixMut<'a>, epilogue: Epilogue<'a>) -> Self {
        let columns = c.shape().1;
        let Epilogue { accumulate, bias, activation, pre_activation } = epilogue;
        Self { c: Raw::new(c), pre: pre_activation.map(Raw::new), columns, accumulate, bias, activation, owner: PhantomData }
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Whether sums over a part of the depth can wait in C itself.
    pub(super) fn keeps_sums(&self) -> bool {
        self.c.dtype == Dtype::F32
    }
}

/// A task. Words count the depth: one f32 or two bf16 each.
pub(super) struct Block<'a, E> {
    pub(super) a: Matrix<'a>,
    pub(super) output: &'a Output<'a>,
    pub(super) rows: Range<usize>,
    /// Columns of C; the first starts a panel.
    pub(super) columns: Range<usize>,
    /// The depth to sum over, a part of `all_words` that starts with a block.
    pub(super) words: Range<usize>,
    pub(super) all_words: usize,
    /// Words of a block of depth.
    pub(super) block: usize,
    /// B packed: blocks of the depth from `words.start` on, in each all panels.
    pub(super) packed: &'a [u32],
    /// Columns that are packed, with padding.
    pub(super) packed_columns: usize,
    /// Where the task's first column is among them.
    pub(super) packed_start: usize,
    pub(super) scratch: &'a mut Scratch,
    pub(super) element: PhantomData<E>,
}

/// Sums from earlier blocks of depth, and what becomes of a tile.
#[derive(Clone, Copy)]
enum Stage {
    /// More depth follows: keep the sums.
    Partial,
    /// The depth is complete: run the epilogue.
    Last,
}

#[repr(align(64))]
struct TileBuffer([f32; TILE_WORDS]);

impl<E: Element> Kernel for Block<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let m = self.rows.len();
        let width = (S::TILE_VECTORS * S::LANES).min(self.output.columns.next_multiple_of(S::LANES));
        let tail = m % S::TILE_ROWS;
        let last_rows = if tail == 0 { 0 } else { microkernel::tile_rows(tail, S::TILE_ROWS) };
        let padded_rows = m - tail + last_rows;
        let cut = self.words.len() < self.all_words || self.all_words > self.block;
        assert!(self.packed.len() >= self.words.len() * self.packed_columns);
        assert!(self.rows.end <= self.a.rows() && self.columns.end <= self.output.columns);

        self.scratch.rows.reserve(padded_rows * self.block);
        // Sums that wait for more depth stay in C if it is f32, else in scratch rows of the task's own columns.
        let sums_stride = self.columns.len().next_multiple_of(S::LANES);
        let in_scratch = cut && !self.output.keeps_sums();
        if in_scratch {
            self.scratch.sums.reserve(m * sums_stride);
        }
        let sums: *mut f32 = self.scratch.sums.words_mut().as_mut_ptr().cast();
        let packed_a = self.scratch.rows.words_mut().as_mut_ptr();
        let mut buffer = TileBuffer([0.0; TILE_WORDS]);

        let mut w0 = self.words.start;
        loop {
            let w1 = self.words.end.min(w0 + self.block);
            let words = w1 - w0;
            let (first, last) = (w0 == 0, w1 == self.all_words);
            let stage = if last { Stage::Last } else { Stage::Partial };
            // SAFETY: A has these rows and depths; room for them was made above.
            unsafe { self.pack_rows(s, (w0, w1), last_rows, packed_a) };
            // Block by block, all panels; inside a block panels follow one another.
            let block_start = (w0 - self.words.start) * self.packed_columns;
            let mut c0 = self.columns.start;
            while c0 < self.columns.end {
                let n = (self.columns.end - c0).min(width);
                let vectors = n.div_ceil(S::LANES);
                let place = self.packed_start + (c0 - self.columns.start);
                let b = &self.packed[block_start + place * words..][..words * vectors * S::LANES];
                let mut r = 0;
                while r < m {
                    let rows = if r + S::TILE_ROWS <= m { S::TILE_ROWS } else { last_rows };
                    // SAFETY: `packed_a` holds `padded_rows · words` words and `b` was sliced to size; C, the
                    // pre-activation and the sums have the rows and columns of the task, which are its own.
                    unsafe {
                        let a = packed_a.add(r * words).cast_const();
                        let soon = self.output.c.soon(self.rows.start + r, c0, n);
                        microkernel::tile::<S, E>(s, (rows, vectors), words, a, b.as_ptr(), buffer.0.as_mut_ptr(), soon);
                        let tile = Finish {
                            output: self.output,
                            row: self.rows.start + r,
                            column: c0,
                            rows: rows.min(m - r),
                            n,
                            tile: buffer.0.as_ptr(),
                            tile_stride: vectors * S::LANES,
                            sums: sums.add(if in_scratch { r * sums_stride + (c0 - self.columns.start) } else { 0 }),
                            sums_stride,
                            in_scratch,
                            first,
                        };
                        match self.output.c.dtype {
                            Dtype::F32 => tile.run::<S, f32>(s, stage),
                            Dtype::Bf16 => tile.run::<S, bf16>(s, stage),
                        }
                    }
                    r += rows;
                }
                c0 += n;
            }
            w0 = w1;
            if w0 >= self.words.end {
                break;
            }
        }
    }
}

impl<E: Element> Block<'_, E> {
    /// Pack the task's rows of A over words `w0..w1`.
    ///
    /// # Safety
    /// `to` has room for the padded rows times the words.
    #[inline(always)]
    unsafe fn pack_rows<S: Simd>(&self, s: S, (w0, w1): (usize, usize), last_rows: usize, to: *mut u32) {
        let (d0, d1) = (w0 * E::PER_WORD, self.a.columns().min(w1 * E::PER_WORD));
        if d0 >= d1 {
            return;
        }
        let m = self.rows.len();
        let shape = (S::TILE_ROWS, last_rows);
        // SAFETY: A has the rows and depths; the caller vouches for the room.
        unsafe {
            match self.a.source() {
                Source::F32(_) => pack::pack::<S, E, f32>(s, self.a.strided().from(self.rows.start, d0), m, d1 - d0, shape, to),
                Source::Bf16(_) => pack::pack::<S, E, bf16>(s, self.a.strided().from(self.rows.start, d0), m, d1 - d0, shape, to),
            }
        }
    }
}

/// A computed tile on its way into C.
struct Finish<'a> {
    output: &'a Output<'a>,
    row: usize,
    column: usize,
    rows: usize,
    n: usize,
    tile: *const f32,
    tile_stride: usize,
    sums: *mut f32,
    sums_stride: usize,
    in_scratch: bool,
    first: bool,
}

impl Finish<'_> {
    /// # Safety
    /// The pointers cover the tile's rows and columns, `T` is the dtype of C.
    #[inline(always)]
    unsafe fn run<S: Simd, T: Lane>(self, s: S, stage: Stage) {
        let Output { c, pre, accumulate, bias, activation, .. } = self.output;
        // SAFETY: see above; partial accesses never pass the `n` columns.
        unsafe {
            for r in 0..self.rows {
                let at = (self.row + r) * c.stride + self.column;
                let target = c.start.cast::<T>().add(at);
                let mut j = 0;
                while j < self.n {
                    let left = self.n - j;
                    let mut v = s.load_ptr(self.tile.add(r * self.tile_stride + j));
                    let waiting = self.sums.add(if self.in_scratch { r * self.sums_stride + j } else { 0 });
                    if self.first {
                        if *accumulate {
                            v = s.add(load(s, target.add(j), left), v);
                        }
                    } else if self.in_scratch {
                        v = s.add(s.load_ptr(waiting), v);
                    } else {
                        v = s.add(load(s, target.add(j), left), v);
                    }
                    match stage {
                        Stage::Partial if self.in_scratch => s.store_ptr(waiting, v),
                        Stage::Partial => store(s, target.add(j), v, left),
                        Stage::Last => {
                            if let Some(bias) = bias {
                                v = s.add(v, load(s, bias.as_ptr().add(self.column + j), left));
                            }
                            if let Some(pre) = pre {
                                let at = (self.row + r) * pre.stride + self.column + j;
                                store(s, pre.start.cast::<T>().add(at), v, left);
                            }
                            store(s, target.add(j), activate(s, *activation, v), left);
                        }
                    }
                    j += S::LANES;
                }
            }
        }
    }
}

#[inline(always)]
fn activate<S: Simd>(s: S, activation: Activation, v: S::F) -> S::F {
    match activation {
        Activation::None => v,
        Activation::Gelu => math::gelu(s, v),
        Activation::GeluTanh => math::gelu_tanh(s, v),
        Activation::Relu => math::relu(s, v),
        Activation::Silu => math::silu(s, v),
        Activation::Tanh => math::tanh(s, v),
    }
}

#[inline(always)]
unsafe fn load<S: Simd, T: Lane>(s: S, src: *const T, left: usize) -> S::F {
    // SAFETY: the caller vouches for `left` elements.
    unsafe { if left >= S::LANES { T::load(s, src) } else { T::load_partial(s, src, left) } }
}

#[inline(always)]
unsafe fn store<S: Simd, T: Lane>(s: S, dst: *mut T, v: S::F, left: usize) {
    // SAFETY: the caller vouches for `left` elements.
    unsafe { if left >= S::LANES { T::store(s, dst, v) } else { T::store_partial(s, dst, v, left) } }
}
