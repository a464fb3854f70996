//! One task: some rows and panels of C over a range of the depth, and the epilogue of its tiles.

use super::matrix::{Dtype, Matrix, MatrixMut, Source, Target};
use super::microkernel::{self, Ahead, Element, Soon, TILE_WORDS};
use super::pack;
use super::quantize::{self, RowScale};
use super::scratch::Scratch;
use super::{Activation, ColumnScales, Epilogue};
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
    /// Of quantised weights.
    scales: Option<&'a ColumnScales>,
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
    pub(super) fn new(c: MatrixMut<'a>, epilogue: Epilogue<'a>, scales: Option<&'a ColumnScales>) -> Self {
        let columns = c.shape().1;
        let Epilogue { accumulate, bias, activation, pre_activation } = epilogue;
        Self { c: Raw::new(c), pre: pre_activation.map(Raw::new), columns, accumulate, bias, activation, scales, owner: PhantomData }
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Whether sums over a part of the depth can wait in C itself.
    pub(super) fn keeps_sums(&self) -> bool {
        self.c.dtype == Dtype::F32
    }
}

/// A task. Words count the depth: one f32, two bf16 or four bytes each.
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
        let row_scales: *mut RowScale = if E::QUANTIZED {
            self.scratch.stage.reserve(S::TILE_ROWS * quantize::staged(self.a.columns()));
            self.scratch.scales.reserve(2 * padded_rows);
            self.scratch.scales.words_mut().as_mut_ptr().cast()
        } else {
            std::ptr::null_mut()
        };
        let stage = self.scratch.stage.words_mut().as_mut_ptr();
        let mut buffer = TileBuffer([0.0; TILE_WORDS]);

        let tiles = m.div_ceil(S::TILE_ROWS);
        let mut cold = true; // nothing was brought closer for the first panel

        let mut w0 = self.words.start;
        loop {
            let w1 = self.words.end.min(w0 + self.block);
            let words = w1 - w0;
            let (first, last) = (w0 == 0, w1 == self.all_words);
            // SAFETY: A has these rows and depths; room for them was made above.
            unsafe {
                if E::QUANTIZED {
                    self.quantize_rows(s, last_rows, stage, packed_a, row_scales);
                } else {
                    self.pack_rows(s, (w0, w1), last_rows, packed_a);
                }
            }
            // Block by block, all panels; inside a block panels follow one another.
            let block_start = (w0 - self.words.start) * self.packed_columns;
            let mut c0 = self.columns.start;
            while c0 < self.columns.end {
                let n = (self.columns.end - c0).min(width);
                let vectors = n.div_ceil(S::LANES);
                let place = self.packed_start + (c0 - self.columns.start);
                let b = &self.packed[block_start + place * words..][..words * vectors * S::LANES];
                // The panel after this one, or where the next block of depth begins.
                let next = if c0 + n < self.columns.end {
                    b.as_ptr_range().end
                } else {
                    self.packed.as_ptr().wrapping_add((w1 - self.words.start) * self.packed_columns + self.packed_start * words)
                };
                let own = Ahead::same(b.as_ptr(), vectors, S::LANES);
                let alone = usize::from(cold);
                cold = false;
                let (mut r, mut i) = (0, 0);
                while r < m {
                    let rows = if r + S::TILE_ROWS <= m { S::TILE_ROWS } else { last_rows };
                    // SAFETY: `packed_a` holds `padded_rows · words` words and `b` was sliced to size; C, the
                    // pre-activation and the sums have the rows and columns of the task, which are its own.
                    unsafe {
                        let a = packed_a.add(r * words).cast_const();
                        let soon = self.output.c.soon(self.rows.start + r, c0, n);
                        let ahead = if tiles == 1 || i < alone {
                            own
                        } else {
                            Ahead::share(next, (i - alone, tiles - alone), words, vectors, S::LANES)
                        };
                        microkernel::tile::<S, E>(s, (rows, vectors), words, a, b.as_ptr(), buffer.0.as_mut_ptr(), soon, ahead);
                        let tile = Finish {
                            output: self.output,
                            row: self.rows.start + r,
                            column: c0,
                            rows: rows.min(m - r),
                            n,
                            tile: buffer.0.as_ptr(),
                            sums: in_scratch.then(|| sums.add(r * sums_stride + (c0 - self.columns.start))),
                            sums_stride,
                            scales: row_scales.wrapping_add(r),
                            first,
                            last,
                        };
                        match (self.output.c.dtype, vectors) {
                            (Dtype::F32, 1) => tile.run::<S, E, f32, 1>(s),
                            (Dtype::F32, 2) => tile.run::<S, E, f32, 2>(s),
                            (Dtype::F32, _) => tile.run::<S, E, f32, 3>(s),
                            (Dtype::Bf16, 1) => tile.run::<S, E, bf16, 1>(s),
                            (Dtype::Bf16, 2) => tile.run::<S, E, bf16, 2>(s),
                            (Dtype::Bf16, _) => tile.run::<S, E, bf16, 3>(s),
                        }
                    }
                    r += rows;
                    i += 1;
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

impl<E: Element> Block<'_, E> {
    /// Quantise the task's rows of A over the whole depth.
    ///
    /// # Safety
    /// `stage` has room for a panel of rows, `to` for the padded rows, `scales` for one of each.
    #[inline(always)]
    unsafe fn quantize_rows<S: Simd>(&self, s: S, last_rows: usize, stage: *mut u32, to: *mut u32, scales: *mut RowScale) {
        let (m, depth, shape) = (self.rows.len(), self.a.columns(), (S::TILE_ROWS, last_rows));
        // SAFETY: A has the rows and is row-major; the caller vouches for the room.
        unsafe {
            match self.a.source() {
                Source::F32(_) => {
                    let a = self.a.strided::<f32>().from(self.rows.start, 0);
                    quantize::rows::<S, f32>(s, (a.start, a.across), m, depth, shape, stage, to, scales);
                }
                Source::Bf16(_) => {
                    let a = self.a.strided::<bf16>().from(self.rows.start, 0);
                    quantize::rows::<S, bf16>(s, (a.start, a.across), m, depth, shape, stage, to, scales);
                }
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
    /// Where earlier sums wait if not in C.
    sums: Option<*mut f32>,
    sums_stride: usize,
    /// Of quantised rows: of the tile's first.
    scales: *const RowScale,
    first: bool,
    last: bool,
}

impl Finish<'_> {
    /// # Safety
    /// The pointers cover the tile's rows and columns, `V` vectors hold its columns, `T` is the dtype of C.
    #[inline(always)]
    unsafe fn run<S: Simd, E: Element, T: Lane, const V: usize>(self, s: S) {
        let Output { c, pre, accumulate, bias, activation, .. } = self.output;
        let whole = self.n == V * S::LANES;
        // Decisions are made once a row; the vectors of a row are then handled without branches.
        // SAFETY: see above; partial accesses never pass the `n` columns.
        unsafe {
            let biased = bias.is_some();
            let bias = match bias {
                Some(bias) if self.last => row_load::<S, f32, V>(s, bias.as_ptr().add(self.column), self.n, whole),
                _ => [s.zero(); V],
            };
            for r in 0..self.rows {
                let target = c.start.cast::<T>().add((self.row + r) * c.stride + self.column);
                let sums = self.sums.map(|sums| sums.add(r * self.sums_stride));
                let mut row = row_load::<S, f32, V>(s, self.tile.add(r * V * S::LANES), 0, true);
                if E::QUANTIZED {
                    row = self.scaled::<S, V>(s, r, row, bias); // always the whole depth
                }
                match sums {
                    Some(sums) if !self.first => row = row_add(s, row_load::<S, f32, V>(s, sums, 0, true), row),
                    _ if !self.first || *accumulate => row = row_add(s, row_load::<S, T, V>(s, target, self.n, whole), row),
                    _ => {}
                }
                if !self.last {
                    match sums {
                        Some(sums) => row_store(s, sums, row, 0, true),
                        None => row_store(s, target, row, self.n, whole),
                    }
                    continue;
                }
                if !E::QUANTIZED && biased {
                    row = row_add(s, row, bias);
                }
                if let Some(pre) = pre {
                    let at = (self.row + r) * pre.stride + self.column;
                    row_store(s, pre.start.cast::<T>().add(at), row, self.n, whole);
                }
                row_store(s, target, activate::<S, T, V>(s, *activation, row), self.n, whole);
            }
        }
    }
}

impl Finish<'_> {
    /// s t Σ q p − (s z) (t Σ p) + bias from the whole numbers Σ q p in the bits of row `r`.
    ///
    /// # Safety
    /// The output has scales of whole vectors of columns, and row `r` has its own.
    #[inline(always)]
    unsafe fn scaled<S: Simd, const V: usize>(&self, s: S, r: usize, mut row: [S::F; V], bias: [S::F; V]) -> [S::F; V] {
        let Some(columns) = self.output.scales else { unreachable!("products of bytes have scales") };
        // SAFETY: columns are padded to whole vectors.
        unsafe {
            let RowScale { scale, zero } = *self.scales.add(r);
            let (scale, zero) = (s.splat(scale), s.splat(zero));
            for j in 0..V {
                let at = self.column + j * S::LANES;
                let shift = s.neg_mul_add(zero, s.load_ptr(columns.sums.as_ptr().add(at)), bias[j]);
                let factor = s.mul(scale, s.load_ptr(columns.scales.as_ptr().add(at)));
                row[j] = s.mul_add(s.from_i32(s.to_bits(row[j])), factor, shift);
            }
        }
        row
    }
}

/// `V` vectors, all of them if `whole`, else the first `n` elements and zeros.
#[inline(always)]
unsafe fn row_load<S: Simd, T: Lane, const V: usize>(s: S, src: *const T, n: usize, whole: bool) -> [S::F; V] {
    let mut row = [s.zero(); V];
    // SAFETY: the caller vouches for the elements.
    unsafe {
        if whole {
            for j in 0..V {
                row[j] = T::load(s, src.add(j * S::LANES));
            }
        } else {
            for j in 0..V {
                row[j] = load(s, src.add(j * S::LANES), n - j * S::LANES);
            }
        }
    }
    row
}

/// The opposite of [`row_load`].
#[inline(always)]
unsafe fn row_store<S: Simd, T: Lane, const V: usize>(s: S, dst: *mut T, row: [S::F; V], n: usize, whole: bool) {
    // SAFETY: the caller vouches for the elements.
    unsafe {
        if whole {
            for j in 0..V {
                T::store(s, dst.add(j * S::LANES), row[j]);
            }
        } else {
            for j in 0..V {
                store(s, dst.add(j * S::LANES), row[j], n - j * S::LANES);
            }
        }
    }
}

#[inline(always)]
fn row_add<S: Simd, const V: usize>(s: S, a: [S::F; V], b: [S::F; V]) -> [S::F; V] {
    let mut sum = a;
    for j in 0..V {
        sum[j] = s.add(a[j], b[j]);
    }
    sum
}

#[inline(always)]
fn activate<S: Simd, T: Lane, const V: usize>(s: S, activation: Activation, mut row: [S::F; V]) -> [S::F; V] {
    macro_rules! each {
        ($function:path) => {
            for j in 0..V {
                row[j] = $function(s, row[j]);
            }
        };
    }
    match activation {
        Activation::None => {}
        Activation::Gelu => each!(math::gelu_for::<S, T>),
        Activation::GeluTanh => each!(math::gelu_tanh),
        Activation::Relu => each!(math::relu),
        Activation::Silu => each!(math::silu),
        Activation::Tanh => each!(math::tanh),
    }
    row
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
