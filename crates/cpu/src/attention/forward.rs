//! The forward half: one block of queries against blocks of keys, with the online softmax.

use super::draws;
use super::pack::{Forms, Sizes, pack, prefetch};
use super::scratch::Scratch;
use super::tiles::{Element, F32, Left, Out, Right, panel_product, wide_product};
use super::{Call, DropRule, Span};
use crate::simd::{Kernel, Lane, Simd, math};
use crate::threads::SharedMut;
use half::bf16;
use std::ops::Range;

/// Queries that share one tile of scores.
const QUERIES: usize = 48;

/// Keys of a tile at most; a whole row of shorter sequences. The tile takes 96 KiB.
const KEYS: usize = 512;

/// Queries of one task at most: the keys are packed once for them.
pub(super) const TASK_QUERIES: usize = 16 * QUERIES;

/// Some queries of one head of one sequence.
pub(super) struct Forward<'a, T> {
    pub(super) call: &'a Call<'a, T>,
    pub(super) y: &'a SharedMut<'a, T>,
    pub(super) lse: Option<&'a SharedMut<'a, f32>>,
    pub(super) sequence: Range<usize>,
    pub(super) head: usize,
    pub(super) queries: Range<usize>,
    pub(super) scratch: &'a mut Scratch,
}

impl<T: Lane> Kernel for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        super::with_element!(S, T, E => forward::<S, E, T>(s, self))
    }
}

#[inline(always)]
fn forward<S: Simd, E: Element, T: Lane>(s: S, task: Forward<'_, T>) {
    let (call, head, n) = (task.call, task.head, task.sequence.len());
    let sizes = Sizes::new::<S, E>(call.head_dim);
    let see = call.op.visibility;
    let keys = Span::of(see, &task.queries, n);
    let tile_stride = keys.padded.min(KEYS) + 16;
    let blocks = tile_stride.div_ceil(8);
    let pieces = [
        sizes.transposed::<S>(keys.padded),
        sizes.columns::<E>(keys.padded),
        sizes.rows(QUERIES),
        16 * (sizes.staged + sizes.row),
        QUERIES * tile_stride,
        QUERIES * sizes.wide,
        if call.drop.is_some() { 4 * (QUERIES * blocks + draws::SLACK) } else { 0 },
        if call.bias.is_some() { keys.padded + task.queries.len() } else { 0 },
    ];
    let [kt, v, q, stage, tile, out, drawn, spread] = task.scratch.pieces(pieces);
    let (tile, out): (*mut f32, *mut f32) = (tile.cast(), out.cast());
    let source = |which: usize| call.source(&task.sequence, head, which);
    // SAFETY: every piece of scratch has the words that `Sizes` says; the products stay inside.
    unsafe {
        pack::<S, E, T>(s, &sizes, source(1), (keys.first, keys.count), Forms { transposed: kt, ..Forms::NONE }, stage, Some(source(2)));
        pack::<S, E, T>(s, &sizes, source(2), (keys.first, keys.count), Forms { columns: v, ..Forms::NONE }, stage, None);
        // The last query's bias of the first key stands first; what that key is for an earlier query, as much later.
        let spread: Option<*const f32> = call.bias.map(|bias| {
            let before = (task.queries.end - 1) as isize - keys.first as isize;
            bias.spread(head, before, keys.padded + task.queries.len(), spread.cast());
            spread.cast_const().cast()
        });
        for i in task.queries.clone().step_by(QUERIES) {
            let rows = (task.queries.end - i).min(QUERIES);
            pack::<S, E, T>(s, &sizes, source(0), (i, rows), Forms { rows: q, ..Forms::NONE }, stage, None);
            let y_start = task.sequence.start * call.hidden + head * call.head_dim;
            let y_start = task.y.slice(y_start..y_start + call.head_dim).as_ptr();
            prefetch(s, y_start, call.hidden, i..i + rows, call.head_dim);
            let after = i + rows..(i + 2 * QUERIES).clamp(i + rows, task.queries.end);
            prefetch(s, call.qkv.as_ptr().wrapping_add(source(0).start), 3 * call.hidden, after, call.head_dim);
            let span = Span::of(see, &(i..i + rows), n);
            let mut max = [f32::NEG_INFINITY; QUERIES];
            let mut sum = [0.0; QUERIES];
            for first in (span.first..span.first + span.count).step_by(KEYS) {
                let count = (span.first + span.count - first).min(KEYS);
                let vectors = count.div_ceil(S::LANES);
                let at = first - keys.first; // within the packed keys
                let scores = Out { start: tile, row_stride: tile_stride, add: false };
                let left = Left { start: q, row_stride: sizes.row, depth_stride: 1 };
                panel_product::<S, E>(s, rows, (at / S::LANES, vectors), sizes.depth, sizes.row, left, kt, scores);
                let columns = (vectors * S::LANES).div_ceil(8);
                if let Some(drop) = &call.drop {
                    let draw = call.op.draw(task.sequence.start + i, head, first) >> 3;
                    draws::fill(s, &drop.key, draw, call.draw_step(), rows, columns, drawn);
                }
                for r in 0..rows {
                    let seen = see.keys(i + r, n);
                    let seen = seen.start.max(first) - first..seen.end.min(first + count).saturating_sub(first);
                    let row = tile.add(r * tile_stride);
                    let drop = call.drop.as_ref().map(|d| (d, drawn.add(4 * r * columns).cast_const().cast()));
                    let bias = spread.map(|b| b.add(at + task.queries.end - 1 - (i + r)));
                    let before = max[r];
                    softmax::<S, E>(s, row, vectors, seen, call.op.scale, bias, &mut max[r], &mut sum[r], drop);
                    if first != span.first {
                        rescale(s, out.add(r * sizes.wide), sizes.wide, (before - max[r]).exp());
                    }
                }
                let left = Left { start: tile.cast(), row_stride: tile_stride, depth_stride: 1 };
                let right = Right { start: v.add(at / E::PER_WORD * sizes.wide), depth_stride: sizes.wide };
                let to = Out { start: out, row_stride: sizes.wide, add: first != span.first };
                wide_product::<S, E>(s, rows, sizes.vectors, count.div_ceil(E::PER_WORD), left, right, to);
            }
            let kept = call.drop.as_ref().map_or(1.0, |d| d.scale);
            for r in 0..rows {
                let t = task.sequence.start + i + r;
                let start = t * call.hidden + head * call.head_dim;
                // Each (row, head) belongs to one task.
                let y = task.y.slice(start..start + call.head_dim);
                let from = std::slice::from_raw_parts(out.add(r * sizes.wide), call.head_dim);
                let factor = s.splat(kept / sum[r]);
                for c in (0..call.head_dim).step_by(S::LANES) {
                    s.store_at(y, c, s.mul(s.load_at(from, c), factor));
                }
                if let Some(lse) = task.lse {
                    let at = t * call.op.heads + head;
                    lse.slice(at..at + 1)[0] = max[r] + sum[r].ln();
                }
            }
        }
    }
}

/// Multiply a row of sums whose maximum has grown.
#[inline(always)]
unsafe fn rescale<S: Simd>(s: S, row: *mut f32, len: usize, factor: f32) {
    if factor == 1.0 {
        return;
    }
    for c in (0..len).step_by(S::LANES) {
        // SAFETY: inside the row.
        unsafe { s.store_ptr(row.add(c), s.mul(s.load_ptr(row.add(c)), s.splat(factor))) };
    }
}

/// Scores of one row become exp(scale · score + bias − max), zero where dropped or not `seen`; `max` and `sum` go on.
/// The weights stand as words of `E` from the start of the row.
#[inline(always)]
unsafe fn softmax<S: Simd, E: Element>(
    s: S,
    row: *mut f32,
    vectors: usize,
    seen: Range<usize>,
    scale: f32,
    bias: Option<*const f32>,
    max: &mut f32,
    sum: &mut f32,
    drop: Option<(&DropRule, *const bf16)>,
) {
    let lanes = S::LANES;
    // Vectors with a visible key.
    let (begin, end) = if seen.is_empty() { (0, 0) } else { (seen.start / lanes, seen.end.div_ceil(lanes)) };
    // SAFETY: the row has `vectors` vectors, the biases and the draws are as many.
    unsafe {
        let highest = match bias {
            None => scores::<S, false>(s, row, begin..end, &seen, scale, std::ptr::null()),
            Some(bias) => scores::<S, true>(s, row, begin..end, &seen, scale, bias),
        };
        if begin < end {
            // In this order a NaN among the scores stays.
            let new = s.reduce_max(highest);
            let old = *max;
            *max = if new > old || new.is_nan() { new } else { old };
            if old > f32::NEG_INFINITY {
                *sum *= (old - *max).exp();
            }
        }
        let m = s.splat(*max);
        let mut total = s.zero();
        if E::PER_WORD == F32::PER_WORD {
            for v in 0..vectors {
                let e = if v < begin || v >= end { s.zero() } else { weight::<S, E>(s, row, v, m, &mut total, drop) };
                s.store_ptr(row.add(v * lanes), e);
            }
        } else {
            let words: *mut u32 = row.cast();
            for v in (0..vectors).step_by(2) {
                let first = if v < begin || v >= end { s.zero() } else { weight::<S, E>(s, row, v, m, &mut total, drop) };
                let second = if v + 1 < begin || v + 1 >= end { s.zero() } else { weight::<S, E>(s, row, v + 1, m, &mut total, drop) };
                s.store_u32_ptr(words.add(v / 2 * lanes), s.bf16_consecutive(first, second));
            }
        }
        *sum += s.reduce_add(total);
    }
}

/// The products of some vectors become scores, −∞ where not `seen`; the highest of each lane.
#[inline(always)]
unsafe fn scores<S: Simd, const BIASED: bool>(
    s: S,
    row: *mut f32,
    vectors: Range<usize>,
    seen: &Range<usize>,
    scale: f32,
    bias: *const f32,
) -> S::F {
    let (lanes, scale, lowest) = (S::LANES, s.splat(scale), s.splat(f32::NEG_INFINITY));
    let mut highest = lowest;
    for v in vectors {
        // SAFETY: the vector lies in the row, and has its biases.
        unsafe {
            let at = row.add(v * lanes);
            let mut x = s.load_ptr(at);
            x = if BIASED { s.mul_add(x, scale, s.load_ptr(bias.add(v * lanes))) } else { s.mul(x, scale) };
            if v * lanes < seen.start || (v + 1) * lanes > seen.end {
                x = s.select(inside(s, v * lanes, seen), x, lowest);
            }
            s.store_ptr(at, x);
            highest = s.max(x, highest);
        }
    }
    highest
}

/// exp(score − m) of vector `v`, added to `total`, then zero where dropped.
#[inline(always)]
unsafe fn weight<S: Simd, E: Element>(
    s: S,
    row: *mut f32,
    v: usize,
    m: S::F,
    total: &mut S::F,
    drop: Option<(&DropRule, *const bf16)>,
) -> S::F {
    // SAFETY: the vector lies in the row, and its draws exist.
    unsafe {
        let x = s.sub(s.load_ptr(row.add(v * S::LANES)), m);
        let e = if E::PER_WORD == F32::PER_WORD { math::exp(s, x) } else { math::exp_bf16(s, x) };
        *total = s.add(*total, e);
        match drop {
            Some((drop, draws)) => s.select(drop.dropped(s, draws.add(v * S::LANES)), s.zero(), e),
            None => e,
        }
    }
}

/// Which of the `LANES` keys from `at` on are `seen`.
#[inline(always)]
pub(super) fn inside<S: Simd>(s: S, at: usize, seen: &Range<usize>) -> S::M {
    let key = s.add_u32(s.iota_u32(), s.splat_u32((at as u32).wrapping_sub(seen.start as u32)));
    s.lt_u32(key, s.splat_u32(seen.len() as u32))
}
