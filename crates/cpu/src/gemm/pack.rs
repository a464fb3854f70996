//! Operands rearranged for the micro-kernel: panels of `width` rows of A (or columns of B), in each the words of
//! one depth side by side. Conversion to bf16 and transposition happen on the way.

use super::microkernel::Element;
use crate::simd::{Lane, Simd};

/// One operand as panels see it: `at(r, d) = start[r · across + d · along]`, where r runs over the rows of A or
/// the columns of B and d over the depth. One of the strides is 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strided<T> {
    pub(super) start: *const T,
    pub(super) across: usize,
    pub(super) along: usize,
}

impl<T> Strided<T> {
    /// The same operand from row or column `r` and depth `d` on.
    ///
    /// # Safety
    /// That element exists.
    #[inline(always)]
    pub(super) unsafe fn from(self, r: usize, d: usize) -> Self {
        // SAFETY: the caller vouches for the element.
        Self { start: unsafe { self.start.add(r * self.across + d * self.along) }, ..self }
    }
}

/// Words of depth that are copied for all panels before going on, so that source lines that two panels share are
/// read while they are in the first-level cache. Sources that are transposed are read along the depth instead.
const STRIP: usize = 16;

/// Pack `count` rows or columns and `depth` elements of depth as consecutive panels: full ones of `width`, the
/// last one of `last` (0 if there is none). Missing rows and depth become zeros.
///
/// # Safety
/// `src` covers `count` × `depth` elements, and `dst` takes `depth` in words times the summed widths.
#[inline(always)]
pub(super) unsafe fn pack<S: Simd, E: Element, T: Lane>(
    s: S,
    src: Strided<T>,
    count: usize,
    depth: usize,
    (width, last): (usize, usize),
    dst: *mut u32,
) {
    let words = depth.div_ceil(E::PER_WORD);
    let most = if src.along == 1 { words } else { STRIP };
    let full = if last == 0 { count.div_ceil(width) } else { count / width };
    let panels = full + usize::from(last != 0);
    // SAFETY: every piece below lies inside the source and the panels that the caller vouches for.
    unsafe {
        let mut w0 = 0;
        while w0 < words {
            let strip = most.min(words - w0);
            let d0 = w0 * E::PER_WORD;
            let elements = (depth - d0).min(strip * E::PER_WORD);
            for p in 0..panels {
                let this = if p < full { width } else { last };
                let r0 = p * width;
                let inside = (count - r0).min(this);
                let to = dst.add(r0 * words + w0 * this);
                let from = src.from(r0, d0);
                if src.along == 1 {
                    transposed::<S, E, T>(s, from, inside, elements, strip, this, to);
                } else if inside == S::TILE_ROWS && this == S::TILE_ROWS {
                    // The compiler unrolls the full panels, whose widths it knows.
                    copied::<S, E, T>(s, from, S::TILE_ROWS, elements, strip, S::TILE_ROWS, to);
                } else if inside == S::TILE_VECTORS * S::LANES && this == inside {
                    copied::<S, E, T>(s, from, S::TILE_VECTORS * S::LANES, elements, strip, S::TILE_VECTORS * S::LANES, to);
                } else {
                    copied::<S, E, T>(s, from, inside, elements, strip, this, to);
                }
            }
            w0 += strip;
        }
    }
}

/// A strip of one panel from a source whose depth is contiguous.
#[inline(always)]
unsafe fn transposed<S: Simd, E: Element, T: Lane>(
    s: S,
    src: Strided<T>,
    inside: usize,
    elements: usize,
    words: usize,
    width: usize,
    dst: *mut u32,
) {
    let lanes = S::LANES;
    // SAFETY: `inside` rows of `elements` are read; the staging areas hold LANES² ≤ 256 words.
    unsafe {
        let mut w = 0;
        while w < words {
            let some = (words - w).min(lanes);
            let d = w * E::PER_WORD;
            let left = (elements - d).min(lanes * E::PER_WORD);
            let mut group = 0;
            while group < width {
                let rows = (width - group).min(lanes);
                let real = inside.saturating_sub(group).min(rows);
                let to = dst.add(w * width + group);
                let from = src.start.add(group * src.across + d);
                let same = T::IS_F32 == (E::PER_WORD == 1) && src.across.is_multiple_of(E::PER_WORD);
                if same && real == rows && left == lanes * E::PER_WORD {
                    // The source already consists of such words.
                    s.transpose(rows, from.cast(), src.across / E::PER_WORD, to, width);
                } else {
                    let mut stage = Words([0; 256]);
                    for r in 0..real {
                        convert::<S, E, T>(s, from.add(r * src.across), left, stage.0.as_mut_ptr().add(r * lanes));
                    }
                    if some == lanes {
                        s.transpose(rows, stage.0.as_ptr(), lanes, to, width);
                    } else {
                        for c in 0..some {
                            for r in 0..rows {
                                to.add(c * width + r).write(stage.0[r * lanes + c]);
                            }
                        }
                    }
                }
                group += rows;
            }
            w += some;
        }
    }
}

/// `LANES` words from `n` consecutive elements, zeros after them.
#[inline(always)]
unsafe fn convert<S: Simd, E: Element, T: Lane>(s: S, src: *const T, n: usize, dst: *mut u32) {
    // SAFETY: the caller vouches for `n` elements and LANES words.
    unsafe {
        let first = load::<S, T>(s, src, n);
        if E::PER_WORD == 1 {
            s.store_ptr(dst.cast(), first);
        } else {
            let second = if n > S::LANES { load::<S, T>(s, src.add(S::LANES), n - S::LANES) } else { s.zero() };
            s.store_u32_ptr(dst, s.bf16_consecutive(first, second));
        }
    }
}

#[inline(always)]
pub(super) unsafe fn load<S: Simd, T: Lane>(s: S, src: *const T, n: usize) -> S::F {
    // SAFETY: the caller vouches for `n` elements.
    unsafe { if n >= S::LANES { T::load(s, src) } else { T::load_partial(s, src, n) } }
}

/// A strip of one panel from a source whose rows (of B) or columns (of A) are contiguous.
#[inline(always)]
unsafe fn copied<S: Simd, E: Element, T: Lane>(
    s: S,
    src: Strided<T>,
    inside: usize,
    elements: usize,
    words: usize,
    width: usize,
    dst: *mut u32,
) {
    // SAFETY: reads `inside` elements of each of `elements` depths, writes `width` words for each word of depth.
    unsafe {
        for w in 0..words {
            let d = w * E::PER_WORD;
            let row = src.start.add(d * src.along);
            let pair = E::PER_WORD == 2 && d + 1 < elements;
            let mut r = 0;
            while r < width {
                let real = inside.saturating_sub(r);
                let at = if real > 0 { r } else { 0 };
                let first = load::<S, T>(s, row.add(at), real);
                let bits = if E::PER_WORD == 1 {
                    s.to_bits(first)
                } else {
                    let second = if pair { load::<S, T>(s, row.add(src.along + at), real) } else { s.zero() };
                    s.bf16_pairs(first, second)
                };
                let to = dst.add(w * width + r);
                if width - r >= S::LANES {
                    s.store_u32_ptr(to, bits);
                } else {
                    s.store_partial_ptr(to.cast(), s.from_bits(bits), width - r);
                }
                r += S::LANES;
            }
        }
    }
}

#[repr(align(64))]
struct Words([u32; 256]);
