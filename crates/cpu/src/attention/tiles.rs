//! Small matrix products on operands that lie in the first two caches.
//!
//! The left operand is read word by word and broadcast, so it may lie row by row or column by column; the right
//! one is read in vectors. Every output element is one chain of sums over the depth, whatever the tile's shape.

use crate::level::Level;
use crate::simd::{Kernel, Simd};
use std::marker::PhantomData;

/// What a word of an operand holds: 32 bits of consecutive depth.
pub(super) trait Element: Copy + Send + Sync + 'static {
    /// Elements along the depth in one word.
    const PER_WORD: usize;
    /// `acc + a · b`, summed over the elements of a word.
    fn step<S: Simd>(s: S, a: S::U, b: S::U, acc: S::F) -> S::F;
}

/// One f32 per word.
#[derive(Clone, Copy, Debug)]
pub(super) struct F32;

impl Element for F32 {
    const PER_WORD: usize = 1;
    #[inline(always)]
    fn step<S: Simd>(s: S, a: S::U, b: S::U, acc: S::F) -> S::F {
        s.mul_add(s.from_bits(a), s.from_bits(b), acc)
    }
}

/// Two bf16 per word, summed in f32.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bf16;

impl Element for Bf16 {
    const PER_WORD: usize = 2;
    #[inline(always)]
    fn step<S: Simd>(s: S, a: S::U, b: S::U, acc: S::F) -> S::F {
        s.dot_bf16(a, b, acc)
    }
}

/// Vectors in a panel of the right operand: with six rows they fill the registers.
pub(super) const fn panel_vectors<S: Simd>() -> usize {
    if S::LANES == 16 || matches!(S::LEVEL, Level::Neon) { 4 } else { 2 }
}

/// Rows of a tile of `vectors`.
const fn tile_rows<S: Simd>(vectors: usize) -> usize {
    match (panel_vectors::<S>(), vectors) {
        (4, 4) => 6,
        (4, _) => 8,
        (_, _) if S::LANES == 8 => 6,
        _ => 4,
    }
}

/// The left operand: element (row, depth word) is `start[row · row_stride + depth · depth_stride]`.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) start: *const u32,
    pub(super) row_stride: usize,
    pub(super) depth_stride: usize,
}

/// The right operand: vectors of columns, the words of one depth `depth_stride` after those of the depth before.
#[derive(Clone, Copy)]
pub(super) struct Right {
    pub(super) start: *const u32,
    pub(super) depth_stride: usize,
}

/// The output: rows of f32.
#[derive(Clone, Copy)]
pub(super) struct Out {
    pub(super) start: *mut f32,
    pub(super) row_stride: usize,
    /// Add to what is there.
    pub(super) add: bool,
}

struct Tile<E, const M: usize, const V: usize> {
    depth: usize,
    left: Left,
    right: Right,
    out: Out,
    element: PhantomData<E>,
}

impl<E: Element, const M: usize, const V: usize> Kernel for Tile<E, M, V> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { depth, left, right, out, .. } = self;
        let mut acc = [[s.zero(); V]; M];
        let (mut a, mut b) = (left.start, right.start);
        // SAFETY: the caller of `product` vouches for the extents of all three.
        unsafe {
            for _ in 0..depth {
                let mut columns = [s.splat_u32(0); V];
                for j in 0..V {
                    columns[j] = s.load_u32_ptr(b.add(j * S::LANES));
                }
                for i in 0..M {
                    let row = s.splat_u32(a.add(i * left.row_stride).read());
                    for j in 0..V {
                        acc[i][j] = E::step(s, row, columns[j], acc[i][j]);
                    }
                }
                a = a.wrapping_add(left.depth_stride);
                b = b.wrapping_add(right.depth_stride);
            }
            for i in 0..M {
                for j in 0..V {
                    let to = out.start.add(i * out.row_stride + j * S::LANES);
                    let sum = if out.add { s.add(s.load_ptr(to), acc[i][j]) } else { acc[i][j] };
                    s.store_ptr(to, sum);
                }
            }
        }
    }
}

/// `out[r, c] = Σ_d left[r, d] · right[d, c]` for `rows` rows and `vectors` (at most a panel) of columns, over
/// `depth` words.
///
/// # Safety
/// The operands and the output cover that much.
#[inline(always)]
pub(super) unsafe fn product<S: Simd, E: Element>(s: S, rows: usize, vectors: usize, depth: usize, left: Left, right: Right, out: Out) {
    macro_rules! shapes {
        ($m:expr, $left:expr, $out:expr, $(($rows:literal, $vectors:literal))+) => {
            match ($m, vectors) {
                $(($rows, $vectors) if const { $vectors <= panel_vectors::<S>() && $rows <= tile_rows::<S>($vectors) } => {
                    s.call(Tile::<E, $rows, $vectors> { depth, left: $left, right, out: $out, element: PhantomData })
                })+
                (m, v) => unreachable!("no tile of {m} rows and {v} vectors"),
            }
        };
    }
    let most = tile_rows::<S>(vectors);
    let mut r = 0;
    while r < rows {
        let m = (rows - r).min(most);
        // SAFETY: row `r` exists.
        let (left, out) = unsafe {
            let left = Left { start: left.start.add(r * left.row_stride), ..left };
            (left, Out { start: out.start.add(r * out.row_stride), ..out })
        };
        shapes!(
            m,
            left,
            out,
            (8, 1)(8, 2)(8, 3)(7, 1)(7, 2)(7, 3)(6, 1)(6, 2)(6, 3)(6, 4)(5, 1)(5, 2)(5, 3)(5, 4)(4, 1)(4, 2)(4, 3)(4, 4)(3, 1)(3, 2)(3, 3)(
                3, 4
            )(2, 1)(2, 2)(2, 3)(2, 4)(1, 1)(1, 2)(1, 3)(1, 4)
        );
        r += m;
    }
}

/// [`product`] over any number of `vectors` whose panels lie side by side in one row-major right operand.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
pub(super) unsafe fn wide_product<S: Simd, E: Element>(
    s: S,
    rows: usize,
    vectors: usize,
    depth: usize,
    left: Left,
    right: Right,
    out: Out,
) {
    let mut v = 0;
    while v < vectors {
        let some = (vectors - v).min(panel_vectors::<S>());
        // SAFETY: the columns of the panel exist in both.
        unsafe {
            let right = Right { start: right.start.add(v * S::LANES), ..right };
            let out = Out { start: out.start.add(v * S::LANES), ..out };
            product::<S, E>(s, rows, some, depth, left, right, out);
        }
        v += some;
    }
}

/// Products with a transposed operand of [`super::pack`]: `out[r, c] = Σ_d left[r, d] · right[d, first + c]` where
/// `right` lies in panels of `depth_rows` × `panel_vectors · LANES` words, and `first`, `count` count vectors.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
pub(super) unsafe fn panel_product<S: Simd, E: Element>(
    s: S,
    rows: usize,
    (first, count): (usize, usize),
    depth: usize,
    depth_rows: usize,
    left: Left,
    right: *const u32,
    out: Out,
) {
    let (per_panel, width) = (panel_vectors::<S>(), panel_vectors::<S>() * S::LANES);
    let mut v = first;
    while v < first + count {
        let inside = v % per_panel;
        let some = (per_panel - inside).min(first + count - v);
        // SAFETY: the panel and the output columns exist.
        unsafe {
            let start = right.add(v / per_panel * depth_rows * width + inside * S::LANES);
            let out = Out { start: out.start.add((v - first) * S::LANES), ..out };
            product::<S, E>(s, rows, some, depth, left, Right { start, depth_stride: width }, out);
        }
        v += some;
    }
}
