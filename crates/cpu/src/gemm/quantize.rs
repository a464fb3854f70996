//! Operands of 8 bits: four consecutive elements of the depth in a word, signed for weights, unsigned for activations.
//!
//! A row of activations has its own range, measured as it is packed: x ≈ s (q − z) with q in 0..=255, so that a token's
//! result does not depend on its neighbours. A column of weights is symmetric: w ≈ t p with p in -127..=127. Then
//! Σ x w ≈ s t (Σ q p − z Σ p): Σ q p is a sum of whole numbers in 32 bits without error (up to [`MOST_DEPTH`]), with one correction
//! and one factor at the end (Jacob et al. 2018, "Quantization and training of neural networks for efficient
//! integer-arithmetic-only inference", section 2.3).

use super::pack::load;
use crate::simd::{Kernel, Lane, Simd};
use half::bf16;

/// Elements of depth that cannot overflow: 255 · 127 · 66,000 < 2³¹.
pub(super) const MOST_DEPTH: usize = 66_000;

/// Elements in a word.
pub(super) const PER_WORD: usize = 4;

/// s and s z of a row of activations.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct RowScale {
    pub(super) scale: f32,
    pub(super) zero: f32,
}

/// Words of a staged row: whole vectors on every level.
pub(super) fn staged(depth: usize) -> usize {
    depth.div_ceil(PER_WORD).next_multiple_of(16)
}

/// Quantise `count` rows of `depth` elements, `stride` apart, into panels: full ones of `width` rows and one of `last`
/// (0 if there is none). Missing rows become zeros with a scale of zero.
///
/// # Safety
/// The rows exist; `stage` takes `width` staged rows; `dst` takes the words of all panels and `scales` their rows.
#[inline(always)]
pub(super) unsafe fn rows<S: Simd, T: Lane>(
    s: S,
    (src, stride): (*const T, usize),
    count: usize,
    depth: usize,
    (width, last): (usize, usize),
    stage: *mut u32,
    dst: *mut u32,
    scales: *mut RowScale,
) {
    let words = depth.div_ceil(PER_WORD);
    let row = staged(depth);
    let mut r0 = 0;
    // SAFETY: the caller vouches for the rows and for the room; a panel's words are `words · width`.
    unsafe {
        while r0 < count {
            let width = if count - r0 >= width || last == 0 { width } else { last };
            let inside = (count - r0).min(width);
            for r in 0..width {
                let staged = stage.add(r * row);
                let scale = if r < inside { one_row(s, src.add((r0 + r) * stride), depth, staged.cast()) } else { RowScale::default() };
                scales.add(r0 + r).write(scale);
                let filled = if r < inside { depth } else { 0 };
                std::ptr::write_bytes(staged.cast::<u8>().add(filled), 0, row * PER_WORD - filled);
            }
            turn(s, stage, row, words, width, dst.add(r0 * words));
            r0 += width;
        }
    }
}

/// `to[w · width + r] = from[r · row + w]`.
///
/// # Safety
/// `from` holds `width` rows of whole vectors, `to` takes `words · width` words.
#[inline(always)]
unsafe fn turn<S: Simd>(s: S, from: *const u32, row: usize, words: usize, width: usize, to: *mut u32) {
    let mut w = 0;
    // SAFETY: as the caller says.
    unsafe {
        while w < words {
            let some = (words - w).min(S::LANES);
            let mut r = 0;
            while r < width {
                let group = (width - r).min(S::LANES);
                if some == S::LANES {
                    s.transpose(group, from.add(r * row + w), row, to.add(w * width + r), width);
                } else {
                    for c in 0..some {
                        for i in 0..group {
                            to.add((w + c) * width + r + i).write(from.add((r + i) * row + w + c).read());
                        }
                    }
                }
                r += group;
            }
            w += some;
        }
    }
}

/// Quantise one row of activations to bytes.
///
/// # Safety
/// `depth` elements are read and as many bytes, rounded up to whole vectors, written.
#[inline(always)]
unsafe fn one_row<S: Simd, T: Lane>(s: S, src: *const T, depth: usize, to: *mut u8) -> RowScale {
    // SAFETY: as the caller says; what is written past the depth is cleared afterwards.
    unsafe {
        let (low, high) = range(s, src, depth);
        let scale = (high - low) / 255.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let inverse = if inverse.is_finite() { inverse } else { 0.0 }; // a range of denormals is as good as zero
        let zero = (-low * inverse).round_ties_even().clamp(0.0, 255.0);
        let (factor, shift) = (s.splat(inverse), s.splat(zero));
        let step = 4 * S::LANES;
        let mut d = 0;
        while d + step <= depth {
            let mut q = [s.splat_u32(0); 4];
            for j in 0..4 {
                q[j] = s.to_i32(s.mul_add(T::load(s, src.add(d + j * S::LANES)), factor, shift));
            }
            s.store_four_bytes_ptr(to.add(d), q);
            d += step;
        }
        while d < depth {
            let x = load(s, src.add(d), depth - d);
            s.store_bytes_ptr(to.add(d), s.to_i32(s.mul_add(x, factor, shift)));
            d += S::LANES;
        }
        // Of a row that holds an infinity or no number at all nothing is a number.
        let scale = match (low.is_finite() && high.is_finite(), inverse > 0.0) {
            (false, _) => f32::NAN,
            (true, false) => 0.0,
            (true, true) => scale,
        };
        RowScale { scale, zero: scale * zero }
    }
}

/// The least and the greatest element, at most and at least 0, as padding and the zero point want it; one of them is not finite
/// if an element is not.
///
/// # Safety
/// `depth` elements are read.
#[inline(always)]
unsafe fn range<S: Simd, T: Lane>(s: S, src: *const T, depth: usize) -> (f32, f32) {
    // SAFETY: as the caller says.
    unsafe { if T::IS_F32 { range_of_f32(s, src, depth) } else { range_of_bf16(s, src.cast(), depth) } }
}

/// [`range`] of f32.
///
/// # Safety
/// `depth` elements are read.
#[inline(always)]
unsafe fn range_of_f32<S: Simd, T: Lane>(s: S, src: *const T, depth: usize) -> (f32, f32) {
    let (mut low, mut high) = ([s.zero(); 4], [s.zero(); 4]);
    let mut unsound = s.zero(); // NaN as soon as an element is not finite
    let step = 4 * S::LANES;
    let mut d = 0;
    // SAFETY: as the caller says.
    unsafe {
        while d + step <= depth {
            for j in 0..4 {
                let x = T::load(s, src.add(d + j * S::LANES));
                low[j] = s.min(x, low[j]);
                high[j] = s.max(x, high[j]);
                unsound = s.mul_add(x, s.zero(), unsound);
            }
            d += step;
        }
        while d < depth {
            let x = load(s, src.add(d), depth - d);
            low[0] = s.min(x, low[0]);
            high[0] = s.max(x, high[0]);
            unsound = s.mul_add(x, s.zero(), unsound);
            d += S::LANES;
        }
    }
    let low = s.min(s.min(low[0], low[1]), s.min(low[2], low[3]));
    let high = s.reduce_max(s.max(s.max(high[0], high[1]), s.max(high[2], high[3])));
    (-s.reduce_max(s.neg(low)) + s.reduce_add(unsound), high)
}

/// [`range`] of bf16, two a word: compared as whole numbers, among which infinities and what is no number stand at the ends.
///
/// # Safety
/// `depth` elements are read.
#[inline(always)]
unsafe fn range_of_bf16<S: Simd>(s: S, src: *const bf16, depth: usize) -> (f32, f32) {
    let (mut low, mut high) = ([s.splat_u32(0); 2], [s.splat_u32(0); 2]);
    let mut ends = [[0i16; 32]; 2];
    let step = 4 * S::LANES;
    let mut d = 0;
    // SAFETY: as the caller says; a vector has at most 32 halves of words.
    unsafe {
        while d + step <= depth {
            for j in 0..2 {
                let x = s.bf16_order(s.load_u32_ptr(src.add(d + j * 2 * S::LANES).cast()));
                low[j] = s.min_i16(low[j], x);
                high[j] = s.max_i16(high[j], x);
            }
            d += step;
        }
        s.store_u32_ptr(ends[0].as_mut_ptr().cast(), s.min_i16(low[0], low[1]));
        s.store_u32_ptr(ends[1].as_mut_ptr().cast(), s.max_i16(high[0], high[1]));
        // The same order for one number.
        let turned = |bits: i16| bits ^ ((bits >> 15) as u16 >> 1) as i16;
        let (mut low, mut high) = (0, 0);
        for i in 0..32 {
            low = ends[0][i].min(low);
            high = ends[1][i].max(high);
        }
        while d < depth {
            let x = turned(src.add(d).read().to_bits() as i16);
            low = x.min(low);
            high = x.max(high);
            d += 1;
        }
        let value = |order: i16| bf16::from_bits(turned(order) as u16).to_f32();
        (value(low), value(high))
    }
}

/// The nearest whole number, ties to even, for |x| < 2²²: adding 1.5 · 2²³ leaves no room for a fraction. Compilers turn
/// this into vectors on any processor, which they do not do with `round_ties_even`.
#[inline]
fn nearest(x: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32
}

/// Weights of 8 bits, a row for each column of the product. // [N, K]
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// p, row by row. // [N, K]
    pub values: Vec<i8>,
    /// t of each row. // `[N]`
    pub scales: Vec<f32>,
}

impl Quantized {
    /// Quantise rows of `depth` weights, each to its own largest magnitude.
    pub fn new(weights: &[f32], depth: usize) -> Self {
        let depth = depth.max(1);
        let scales: Vec<f32> = weights.chunks_exact(depth).map(|row| row.iter().fold(0.0f32, |m, w| m.max(w.abs())) / 127.0).collect();
        let mut values = vec![0i8; weights.len()];
        for ((row, scale), to) in weights.chunks_exact(depth).zip(&scales).zip(values.chunks_exact_mut(depth)) {
            let inverse = if scale.is_normal() { 1.0 / scale } else { 0.0 };
            for (to, w) in to.iter_mut().zip(row) {
                *to = nearest(w * inverse) as i8;
            }
        }
        let scales = scales.into_iter().map(|t| if t.is_normal() { t } else { 0.0 }).collect();
        Self { values, scales }
    }

    /// The weights that the bytes stand for.
    pub fn to_f32(&self) -> Vec<f32> {
        let depth = self.values.len() / self.scales.len().max(1);
        self.values.chunks_exact(depth.max(1)).zip(&self.scales).flat_map(|(row, t)| row.iter().map(move |&p| f32::from(p) * t)).collect()
    }
}

/// Pack rows of weights as the columns of the product: panels of `width`, in each the words of one depth side by side.
pub(super) struct PackWeights<'a> {
    /// // [count, depth]
    pub(super) values: &'a [i8],
    pub(super) depth: usize,
    pub(super) width: usize,
    /// Columns with padding: `dst` takes `words` of each.
    pub(super) padded: usize,
    pub(super) dst: &'a mut [u32],
}

impl Kernel for PackWeights<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (depth, words, row) = (self.depth, self.depth.div_ceil(PER_WORD), staged(self.depth));
        let count = self.values.len().checked_div(depth).unwrap_or(0);
        assert!(self.dst.len() >= self.padded * words && self.padded >= count);
        let mut stage = vec![0u32; self.width * row];
        let mut c0 = 0;
        while c0 < self.padded {
            let width = (self.padded - c0).min(self.width);
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut stage);
            for c in 0..width {
                let to = &mut bytes[c * row * PER_WORD..][..depth];
                match self.values.get((c0 + c) * depth..(c0 + c + 1) * depth) {
                    Some(from) => to.copy_from_slice(bytemuck::cast_slice(from)),
                    None => to.fill(0),
                }
            }
            // SAFETY: the stage holds `width` rows and the panel starts at `c0 · words`; both sizes were checked.
            unsafe { turn(s, stage.as_ptr(), row, words, width, self.dst.as_mut_ptr().add(c0 * words)) };
            c0 += width;
        }
    }
}
