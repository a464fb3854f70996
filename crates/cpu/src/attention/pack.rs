//! Rows of one head, converted, turned and rearranged for the products.

use super::rotary::Turns;
use super::tiles::{Element, panel_vectors};
use crate::simd::{Lane, Simd};
use std::ops::Range;

/// Sizes of one head in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// D.
    pub(super) head_dim: usize,
    /// Words of depth when D is summed over.
    pub(super) depth: usize,
    /// `depth`, rounded up to whole vectors: the stride of a row of words.
    pub(super) row: usize,
    /// f32 of a staged row; zero from D on. // row · PER_WORD
    pub(super) staged: usize,
    /// Vectors of f32 that cover D.
    pub(super) vectors: usize,
    /// f32 of a row of outputs. // vectors · LANES
    pub(super) wide: usize,
}

impl Sizes {
    pub(super) fn new<S: Simd, E: Element>(head_dim: usize) -> Self {
        let depth = head_dim.div_ceil(E::PER_WORD);
        let row = depth.next_multiple_of(S::LANES);
        let vectors = head_dim.div_ceil(S::LANES);
        Self { head_dim, depth, row, staged: row * E::PER_WORD, vectors, wide: vectors * S::LANES }
    }

    /// Words of `count` packed rows.
    pub(super) fn rows(&self, count: usize) -> usize {
        count.next_multiple_of(16) * self.row
    }

    /// Words of `count` rows packed as columns to be summed over.
    pub(super) fn columns<E: Element>(&self, count: usize) -> usize {
        count.next_multiple_of(16) / E::PER_WORD * self.wide
    }

    /// Words of `count` transposed rows.
    pub(super) fn transposed<S: Simd>(&self, count: usize) -> usize {
        count.next_multiple_of(panel_vectors::<S>() * S::LANES) * self.row
    }
}

/// Where the rows of one head lie in a packed matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a, T> {
    /// The whole matrix.
    pub(super) data: &'a [T],
    /// Elements from one row to the next.
    pub(super) stride: usize,
    /// The element where the head's part of row 0 of the sequence starts.
    pub(super) start: usize,
    /// Turn by the position.
    pub(super) turns: Option<&'a Turns>,
}

impl<T> Source<'_, T> {
    /// The head's part of row `i` of the sequence.
    #[inline(always)]
    pub(super) fn row(&self, i: usize, head_dim: usize) -> &[T] {
        let at = self.start + i * self.stride;
        &self.data[at..at + head_dim]
    }
}

/// What to make of the rows; null pointers mean not wanted.
#[derive(Clone, Copy)]
pub(super) struct Forms {
    /// Row by row: `[count, row]` words.
    pub(super) rows: *mut u32,
    /// As columns to be summed over the rows: `[count / PER_WORD, wide]` words, neighbouring rows in one word.
    /// For f32 this is the same as `rows`, and not filled when `rows` is wanted too.
    pub(super) columns: *mut u32,
    /// Transposed, in panels of `[row, panel_vectors · LANES]` words.
    pub(super) transposed: *mut u32,
}

impl Forms {
    pub(super) const NONE: Self = Self { rows: std::ptr::null_mut(), columns: std::ptr::null_mut(), transposed: std::ptr::null_mut() };
}

/// Bring rows closer that will be packed or written soon: each lies on pages of its own.
#[inline(always)]
pub(super) fn prefetch<S: Simd, T: Lane>(s: S, data: *const T, stride: usize, rows: Range<usize>, len: usize) {
    let line = 64 / size_of::<T>();
    for r in rows {
        let row = data.wrapping_add(r * stride);
        for c in (0..len).step_by(line) {
            s.prefetch(row.wrapping_add(c));
        }
        s.prefetch(row.wrapping_add(len - 1));
    }
}

/// Pack rows `first..first + count` of a head; rows up to the next multiple of `LANES` become zeros.
/// `stage` holds `LANES` staged rows and as many packed ones; the same rows of `next` are brought closer.
///
/// # Safety
/// The wanted forms have the room that [`Sizes`] says.
#[inline(always)]
pub(super) unsafe fn pack<S: Simd, E: Element, T: Lane>(
    s: S,
    sizes: &Sizes,
    source: Source<'_, T>,
    (first, count): (usize, usize),
    forms: Forms,
    stage: *mut u32,
    next: Option<Source<'_, T>>,
) {
    let lanes = S::LANES;
    let (staged, row) = (sizes.staged, sizes.row);
    let width = panel_vectors::<S>() * lanes;
    let mut at = 0;
    // SAFETY: groups of LANES rows fit the forms, which are rounded up to more than that.
    unsafe {
        while at < count {
            // f32 rows need no conversion: they are staged where they belong.
            let direct = if E::PER_WORD == 2 {
                std::ptr::null_mut()
            } else if forms.rows.is_null() {
                forms.columns
            } else {
                forms.rows
            };
            let ahead = first + (at + lanes).min(count)..first + (at + 2 * lanes).min(count);
            prefetch(s, source.data.as_ptr().wrapping_add(source.start), source.stride, ahead, sizes.head_dim);
            if let Some(next) = next {
                let same = first + at..first + (at + lanes).min(count);
                prefetch(s, next.data.as_ptr().wrapping_add(next.start), next.stride, same, sizes.head_dim);
            }
            let from: *mut f32 = if direct.is_null() { stage.cast() } else { direct.add(at * row).cast() };
            for r in 0..lanes {
                let to = from.add(r * staged);
                if at + r < count {
                    load_row(s, sizes, source, first + at + r, to);
                } else {
                    clear(s, to, staged);
                }
            }
            let mut words: *const u32 = from.cast();
            if E::PER_WORD == 2 {
                let converted = if forms.rows.is_null() { stage.add(lanes * staged) } else { forms.rows.add(at * row) };
                for i in (0..lanes * row).step_by(lanes) {
                    let pair = s.bf16_consecutive(s.load_ptr(from.add(2 * i)), s.load_ptr(from.add(2 * i + lanes)));
                    s.store_u32_ptr(converted.add(i), pair);
                }
                words = converted;
                if !forms.columns.is_null() {
                    for r in (0..lanes).step_by(2) {
                        for c in (0..sizes.wide).step_by(lanes) {
                            let (low, high) = (s.load_ptr(from.add(r * staged + c)), s.load_ptr(from.add((r + 1) * staged + c)));
                            s.store_u32_ptr(forms.columns.add((at + r) / 2 * sizes.wide + c), s.bf16_pairs(low, high));
                        }
                    }
                }
            }
            if !forms.transposed.is_null() {
                let panel = forms.transposed.add(at / width * width * row + at % width);
                for d in (0..row).step_by(lanes) {
                    s.transpose(lanes, words.add(d), row, panel.add(d * width), width);
                }
            }
            at += lanes;
        }
    }
}

/// Row `i` as f32, turned, with zeros from D on.
#[inline(always)]
unsafe fn load_row<S: Simd, T: Lane>(s: S, sizes: &Sizes, source: Source<'_, T>, i: usize, to: *mut f32) {
    let from = source.row(i, sizes.head_dim);
    // SAFETY: `to` takes a staged row, of which D are filled and the rest cleared.
    unsafe {
        let mut c = 0;
        while c + S::LANES <= sizes.head_dim {
            s.store_ptr(to.add(c), T::load(s, from.as_ptr().add(c)));
            c += S::LANES;
        }
        if c < sizes.head_dim {
            s.store_ptr(to.add(c), T::load_partial(s, from.as_ptr().add(c), sizes.head_dim - c));
            c += S::LANES;
        }
        clear(s, to.add(c), sizes.staged - c);
        if let Some(turns) = source.turns {
            turns.turn(s, std::slice::from_raw_parts_mut(to, sizes.head_dim), i, false);
        }
    }
}

/// Zeros in `count` (a multiple of `LANES`) elements.
#[inline(always)]
unsafe fn clear<S: Simd>(s: S, to: *mut f32, count: usize) {
    for c in (0..count).step_by(S::LANES) {
        // SAFETY: inside the elements that the caller vouches for.
        unsafe { s.store_ptr(to.add(c), s.zero()) };
    }
}
