//! The innermost loop: one tile of C in registers.

use crate::simd::{Kernel, Simd};
use std::marker::PhantomData;

/// The largest tile of any level, in words.
pub(super) const TILE_WORDS: usize = 8 * 48;

/// Words of B that are brought closer before they are needed, where a panel is read by one tile only. The hardware's own
/// look-ahead ends with each page, and a product of few rows would wait for memory there.
const AHEAD: usize = 2304;

/// What the words of packed operands hold and how two of them multiply.
///
/// A packed word is 32 bits of consecutive depth of one row or column: one f32, two bf16, or four bytes.
pub(super) trait Element: Copy + Send + Sync + 'static {
    /// Elements along the depth in one word.
    const PER_WORD: usize;
    /// Whether the sums are whole numbers in the bits of the lanes, and rows of A are quantised as they are packed.
    const QUANTIZED: bool = false;
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

/// Four bytes per word, unsigned in A and signed in B, summed as whole numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Int8;

impl Element for Int8 {
    const PER_WORD: usize = super::quantize::PER_WORD;
    const QUANTIZED: bool = true;
    #[inline(always)]
    fn step<S: Simd>(s: S, a: S::U, b: S::U, acc: S::F) -> S::F {
        s.from_bits(s.dot_bytes(a, b, s.to_bits(acc)))
    }
}

/// Rows that are read after the tile is computed: brought closer while it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Soon {
    pub(super) start: *const u8,
    /// Bytes between rows.
    pub(super) stride: usize,
    /// Bytes in a row.
    pub(super) length: usize,
}

/// Parts of B that are brought closer while a tile is computed: the next panel, spread evenly over the tiles that read
/// this one, so that memory is busy all the time and not only while the first tile waits for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    start: *const u8,
    /// Bytes from one step of the depth to the next.
    pace: usize,
    /// Bytes between the lines of one step.
    apart: usize,
    /// Whether a step brings one line for each vector of columns, or just one.
    dense: bool,
}

impl Ahead {
    /// The panel's own words: for its only tile, or its first while nothing was brought before.
    pub(super) fn same(panel: *const u32, vectors: usize, lanes: usize) -> Self {
        Self { start: panel.wrapping_add(AHEAD).cast(), pace: 4 * vectors * lanes, apart: 4 * lanes, dense: true }
    }

    /// The share of tile `i` of `tiles` in the panel `next` of `depth` words, `vectors` vectors wide.
    pub(super) fn share(next: *const u32, (i, tiles): (usize, usize), depth: usize, vectors: usize, lanes: usize) -> Self {
        let dense = tiles < vectors;
        let streams = if dense { vectors } else { 1 };
        // A line is at least half a vector: slower than a quarter of a line a step has no use.
        let pace = (4 * vectors * lanes).div_ceil(streams * tiles).max(16);
        Self { start: next.cast::<u8>().wrapping_add(i * depth * pace), pace, apart: 4 * lanes * depth, dense }
    }
}

/// `out[r, c] = Σ_d a[d, r] · b[d, c]` for `M` rows and `V` vectors of columns, d over `depth` words.
///
/// Every element is one chain of sums in the order of d, whatever the tile's shape: a row has the same bits
/// in a tile of one as in a tile of eight.
struct Tile<E, const M: usize, const V: usize> {
    depth: usize,
    a: *const u32, // [depth, M]
    b: *const u32, // [depth, V · LANES]
    out: *mut f32, // [M, V · LANES]
    soon: Soon,
    ahead: Ahead,
    element: PhantomData<E>,
}

impl<E: Element, const M: usize, const V: usize> Tile<E, M, V> {
    /// The sums, with `P` lines brought closer at each step.
    ///
    /// # Safety
    /// The caller of `tile` vouches for the sizes.
    #[inline(always)]
    unsafe fn sums<S: Simd, const P: usize>(&self, s: S) -> [[S::F; V]; M] {
        let (mut a, mut b, mut far) = (self.a, self.b, self.ahead.start);
        let Ahead { pace, apart, .. } = self.ahead;
        let mut acc = [[s.zero(); V]; M];
        for _ in 0..self.depth {
            for j in 0..P {
                s.prefetch(far.wrapping_add(j * apart));
            }
            far = far.wrapping_add(pace);
            // SAFETY: as the caller says.
            unsafe {
                let mut columns = [s.splat_u32(0); V];
                for j in 0..V {
                    columns[j] = s.load_u32_ptr(b.add(j * S::LANES));
                }
                for i in 0..M {
                    let row = s.splat_u32(a.add(i).read());
                    for j in 0..V {
                        acc[i][j] = E::step(s, row, columns[j], acc[i][j]);
                    }
                }
                a = a.add(M);
                b = b.add(V * S::LANES);
            }
        }
        acc
    }
}

impl<E: Element, const M: usize, const V: usize> Kernel for Tile<E, M, V> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Soon { start, stride, length } = self.soon;
        for i in 0..M {
            let row = start.wrapping_add(i * stride);
            let mut at = 0;
            while at < length {
                s.prefetch(row.wrapping_add(at));
                at += 64;
            }
        }
        // SAFETY: the caller of `tile` vouches for the sizes in the comments above.
        unsafe {
            let acc = if self.ahead.dense { self.sums::<S, V>(s) } else { self.sums::<S, 1>(s) };
            for i in 0..M {
                for j in 0..V {
                    s.store_ptr(self.out.add((i * V + j) * S::LANES), acc[i][j]);
                }
            }
        }
    }
}

/// Rows of the smallest tile that holds `rows` of them.
pub(super) fn tile_rows(rows: usize, most: usize) -> usize {
    rows.next_power_of_two().min(most)
}

/// Compute a tile of `rows` × `vectors` (1, 2, 4, 8 and 1 to 3) into `out`.
///
/// # Safety
/// `a` holds `depth · rows` words, `b` `depth · vectors · LANES`, and `out` takes `rows · vectors · LANES` values.
#[inline(always)]
pub(super) unsafe fn tile<S: Simd, E: Element>(
    s: S,
    (rows, vectors): (usize, usize),
    depth: usize,
    a: *const u32,
    b: *const u32,
    out: *mut f32,
    soon: Soon,
    ahead: Ahead,
) {
    macro_rules! shapes {
        ($(($m:literal, $v:literal))+) => {
            match (rows, vectors) {
                $(($m, $v) if $m <= S::TILE_ROWS && $v <= S::TILE_VECTORS => {
                    s.call(Tile::<E, $m, $v> { depth, a, b, out, soon, ahead, element: PhantomData })
                })+
                _ => unreachable!("no tile of {rows} rows and {vectors} vectors"),
            }
        };
    }
    shapes!((8, 3)(8, 2)(8, 1)(4, 3)(4, 2)(4, 1)(2, 3)(2, 2)(2, 1)(1, 3)(1, 2)(1, 1))
}
