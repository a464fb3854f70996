//! The backward half: all of one head of one sequence, block of queries by block of keys.
//!
//! The probabilities are computed again from the scores and the log-sum-exp; five products share the two tiles.

use super::draws;
use super::forward::inside;
use super::pack::{Forms, Sizes, Source, pack, prefetch};
use super::scratch::Scratch;
use super::tiles::{Element, Left, Out, Right, panel_product, wide_product};
use super::{Call, DropRule, Span};
use crate::simd::{Kernel, Lane, Simd, math};
use crate::threads::SharedMut;
use half::bf16;
use std::ops::Range;

/// Queries that share the tiles.
const QUERIES: usize = 64;

/// Keys of a tile at most. Both tiles take 128 KiB.
const KEYS: usize = 256;

/// One head of one sequence.
pub(super) struct Backward<'a, T> {
    pub(super) call: &'a Call<'a, T>,
    pub(super) y: &'a [T],
    pub(super) lse: &'a [f32],
    pub(super) dy: &'a [T],
    pub(super) dqkv: &'a SharedMut<'a, T>,
    /// Partial gradients of a bias; see [`super::bias::Bias::place`].
    pub(super) partials: &'a SharedMut<'a, f32>,
    pub(super) sequence: Range<usize>,
    pub(super) head: usize,
    pub(super) scratch: &'a mut Scratch,
}

impl<T: Lane> Kernel for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        super::with_element!(S, T, E => backward::<S, E, T>(s, self))
    }
}

#[inline(always)]
fn backward<S: Simd, E: Element, T: Lane>(s: S, task: Backward<'_, T>) {
    let (call, head, n) = (task.call, task.head, task.sequence.len());
    let sizes = Sizes::new::<S, E>(call.head_dim);
    let see = call.op.visibility;
    let padded = n.next_multiple_of(16);
    let stride = padded.min(KEYS) + 16;
    let apart = E::PER_WORD == 2; // rows and columns are different forms
    let distances = (n + padded).next_multiple_of(16);
    let columns = |count: usize| if apart { sizes.columns::<E>(count) } else { 0 };
    let pieces = [
        sizes.transposed::<S>(padded),
        sizes.transposed::<S>(padded),
        sizes.columns::<E>(padded),
        sizes.rows(QUERIES),
        columns(QUERIES),
        sizes.rows(QUERIES),
        columns(QUERIES),
        16 * (sizes.staged + sizes.row),
        QUERIES * stride,
        QUERIES * stride,
        QUERIES * sizes.wide,
        padded * sizes.wide,
        padded * sizes.wide,
        if call.drop.is_some() { 4 * (QUERIES * stride.div_ceil(8) + draws::SLACK) } else { 0 },
        // The biases, and the gradients of those of even and of odd rows: a row does not wait for what the one before has just stored.
        if call.bias.is_some() { distances } else { 0 },
        if call.bias.is_some() { 2 * distances } else { 0 },
    ];
    let [kt, vt, k, q, q_columns, dy, dy_columns, stage, p, ds, dq, dk, dv, drawn, bias, dbias] = task.scratch.pieces(pieces);
    let (q_columns, dy_columns) = if apart { (q_columns, dy_columns) } else { (q, dy) };
    let (p, ds, dq, dk, dv): (*mut f32, *mut f32, *mut f32, *mut f32, *mut f32) = (p.cast(), ds.cast(), dq.cast(), dk.cast(), dv.cast());
    let source = |which: usize| call.source(&task.sequence, head, which);
    let (bias, dbias): (*mut f32, *mut f32) = (bias.cast(), dbias.cast());
    let start = task.sequence.start * call.hidden + head * call.head_dim;
    let of_y = |data| Source { data, stride: call.hidden, start, turns: None };
    let wide = sizes.wide;
    // SAFETY: every piece of scratch has the words that `Sizes` says; the products stay inside.
    unsafe {
        pack::<S, E, T>(s, &sizes, source(1), (0, n), Forms { transposed: kt, columns: k, ..Forms::NONE }, stage, Some(source(2)));
        pack::<S, E, T>(s, &sizes, source(2), (0, n), Forms { transposed: vt, ..Forms::NONE }, stage, None);
        for i in (0..padded * wide).step_by(S::LANES) {
            s.store_ptr(dk.add(i), s.zero());
            s.store_ptr(dv.add(i), s.zero());
        }
        if let Some(table) = &call.bias {
            table.spread(head, n as isize - 1, distances, bias);
            for i in (0..2 * distances).step_by(S::LANES) {
                s.store_ptr(dbias.add(i), s.zero());
            }
        }
        for i in (0..n).step_by(QUERIES) {
            let rows = (n - i).min(QUERIES);
            let forms = |rows, columns| Forms { rows, columns: if apart { columns } else { std::ptr::null_mut() }, ..Forms::NONE };
            pack::<S, E, T>(s, &sizes, source(0), (i, rows), forms(q, q_columns), stage, Some(of_y(task.dy)));
            pack::<S, E, T>(s, &sizes, of_y(task.dy), (i, rows), forms(dy, dy_columns), stage, Some(of_y(task.y)));
            let mut delta = [0.0; QUERIES];
            for r in 0..rows {
                delta[r] = dot(s, of_y(task.dy).row(i + r, call.head_dim), of_y(task.y).row(i + r, call.head_dim));
            }
            let span = Span::of(see, &(i..i + rows), n);
            for first in (span.first..span.first + span.count).step_by(KEYS) {
                let count = (span.first + span.count - first).min(KEYS);
                let vectors = count.div_ceil(S::LANES);
                let range = (first / S::LANES, vectors);
                let row_by_row = |start| Left { start, row_stride: sizes.row, depth_stride: 1 };
                let tile = |start| Out { start, row_stride: stride, add: false };
                panel_product::<S, E>(s, rows, range, sizes.depth, sizes.row, row_by_row(q), kt, tile(p));
                panel_product::<S, E>(s, rows, range, sizes.depth, sizes.row, row_by_row(dy), vt, tile(ds));
                let blocks = (vectors * S::LANES).div_ceil(8);
                if let Some(drop) = &call.drop {
                    let draw = call.op.draw(task.sequence.start + i, head, first) >> 3;
                    draws::fill(s, &drop.key, draw, call.draw_step(), rows, blocks, drawn);
                }
                for r in (0..rows).step_by(E::PER_WORD) {
                    let row = |r: usize| {
                        let seen = see.keys(i + r, n);
                        let distance = (first + n - 1).wrapping_sub(i + r);
                        Row {
                            bias: bias.wrapping_add(distance),
                            dbias: dbias.wrapping_add(r % 2 * distances).wrapping_add(distance),
                            p: p.wrapping_add(r * stride),
                            ds: ds.wrapping_add(r * stride),
                            seen: if r < rows {
                                seen.start.max(first) - first..seen.end.min(first + count).saturating_sub(first)
                            } else {
                                0..0
                            },
                            lse: if r < rows { task.lse[(task.sequence.start + i + r) * call.op.heads + head] } else { 0.0 },
                            delta: if r < rows { delta[r] } else { 0.0 },
                            drop: call.drop.as_ref().map(|d| (d, drawn.wrapping_add(4 * r * blocks).cast_const().cast())),
                        }
                    };
                    let scale = call.op.scale;
                    match (apart, call.bias.is_some()) {
                        (true, false) => weights_of_two::<S, false>(s, vectors, scale, &row(r), &row(r + 1)),
                        (true, true) => weights_of_two::<S, true>(s, vectors, scale, &row(r), &row(r + 1)),
                        (false, false) => weights_of_one::<S, false>(s, vectors, scale, &row(r)),
                        (false, true) => weights_of_one::<S, true>(s, vectors, scale, &row(r)),
                    }
                }
                // The rows of the tiles are the depth now: dv += pᵀ·dy, dk += dsᵀ·q.
                let turned = |start: *mut f32| Left { start: start.cast(), row_stride: 1, depth_stride: E::PER_WORD * stride };
                let by_columns = |start: *mut u32| Right { start, depth_stride: wide };
                let sum = |start: *mut f32| Out { start: start.wrapping_add(first * wide), row_stride: wide, add: true };
                let depth = rows.div_ceil(E::PER_WORD);
                let pairs = if apart { p.add(stride) } else { ds };
                wide_product::<S, E>(s, count, sizes.vectors, depth, turned(p), by_columns(dy_columns), sum(dv));
                wide_product::<S, E>(s, count, sizes.vectors, depth, turned(pairs), by_columns(q_columns), sum(dk));
                // dq = ds·k
                let left = Left { start: ds.cast(), row_stride: stride, depth_stride: 1 };
                let right = by_columns(k.add(first / E::PER_WORD * wide));
                let out = Out { start: dq, row_stride: wide, add: first != span.first };
                wide_product::<S, E>(s, rows, sizes.vectors, count.div_ceil(E::PER_WORD), left, right, out);
            }
            ahead(s, &task, i..i + rows, 0);
            for r in 0..rows {
                give(s, &task, i + r, 0, dq.add(r * wide), call.op.scale);
            }
        }
        if let Some(table) = &call.bias {
            let (even, odd) = (std::slice::from_raw_parts_mut(dbias, distances), dbias.add(distances).cast_const());
            for (i, sum) in even.iter_mut().enumerate() {
                *sum += odd.add(i).read();
            }
            // Each head of a sequence has a place of its own.
            table.fold(n, even, task.partials.slice(table.place(&task.sequence, head)));
        }
        let kept = call.drop.as_ref().map_or(1.0, |d| d.scale);
        for j in 0..n {
            ahead(s, &task, j + 8..(j + 9).min(n), 1);
            ahead(s, &task, j + 8..(j + 9).min(n), 2);
            give(s, &task, j, 1, dk.add(j * wide), call.op.scale);
            give(s, &task, j, 2, dv.add(j * wide), kept);
        }
    }
}

/// One row of the tiles.
struct Row<'a> {
    p: *mut f32,  // scores, then dropout(p)
    ds: *mut f32, // dy·vᵀ, then ds
    seen: Range<usize>,
    lse: f32,
    delta: f32,
    bias: *const f32,
    dbias: *mut f32, // added to
    drop: Option<(&'a DropRule, *const bf16)>,
}

/// dropout(p) and ds = p (dropout(dp) − delta) of vector `v`.
#[inline(always)]
unsafe fn weights<S: Simd, const BIASED: bool>(s: S, v: usize, scale: S::F, row: &Row<'_>) -> (S::F, S::F) {
    let at = v * S::LANES;
    if at + S::LANES <= row.seen.start || at >= row.seen.end {
        return (s.zero(), s.zero());
    }
    // SAFETY: the vector lies in the row, and its draws exist.
    unsafe {
        let score = s.load_ptr(row.p.add(at));
        let score = if BIASED { s.mul_add(score, scale, s.load_ptr(row.bias.add(at))) } else { s.mul(score, scale) };
        let mut p = math::exp(s, s.sub(score, s.splat(row.lse)));
        if at < row.seen.start || at + S::LANES > row.seen.end {
            p = s.select(inside(s, at, &row.seen), p, s.zero());
        }
        let dp = s.load_ptr(row.ds.add(at));
        let delta = s.splat(row.delta);
        let (p, ds) = match row.drop {
            Some((drop, draws)) => {
                let dropped = drop.dropped(s, draws.add(at));
                let kept = s.select(dropped, s.zero(), s.mul(dp, s.splat(drop.scale)));
                (s.select(dropped, s.zero(), p), s.mul(p, s.sub(kept, delta)))
            }
            None => (p, s.mul(p, s.sub(dp, delta))),
        };
        if BIASED {
            let sum = row.dbias.add(at);
            s.store_ptr(sum, s.add(s.load_ptr(sum), ds));
        }
        (p, ds)
    }
}

/// A row of f32: each result takes the place of what it was computed from.
#[inline(always)]
unsafe fn weights_of_one<S: Simd, const BIASED: bool>(s: S, vectors: usize, scale: f32, row: &Row<'_>) {
    let scale = s.splat(scale);
    for v in 0..vectors {
        // SAFETY: the rows have `vectors` vectors.
        unsafe {
            let (p, ds) = weights::<S, BIASED>(s, v, scale, row);
            s.store_ptr(row.p.add(v * S::LANES), p);
            s.store_ptr(row.ds.add(v * S::LANES), ds);
        }
    }
}

/// Two rows of bf16: p of both in pairs where the first row's scores were, ds in pairs where the second row's
/// were, and ds key by key where each row's dp was.
#[inline(always)]
unsafe fn weights_of_two<S: Simd, const BIASED: bool>(s: S, vectors: usize, scale: f32, first: &Row<'_>, second: &Row<'_>) {
    let (lanes, scale) = (S::LANES, s.splat(scale));
    let none = (s.zero(), s.zero());
    for v in (0..vectors).step_by(2) {
        let more = v + 1 < vectors;
        // SAFETY: the rows have `vectors` vectors; every place is read before it is written.
        unsafe {
            let (p00, ds00) = weights::<S, BIASED>(s, v, scale, first);
            let (p10, ds10) = weights::<S, BIASED>(s, v, scale, second);
            let (p01, ds01) = if more { weights::<S, BIASED>(s, v + 1, scale, first) } else { none };
            let (p11, ds11) = if more { weights::<S, BIASED>(s, v + 1, scale, second) } else { none };
            s.store_u32_ptr(first.p.add(v * lanes).cast(), s.bf16_pairs(p00, p10));
            s.store_u32_ptr(second.p.add(v * lanes).cast(), s.bf16_pairs(ds00, ds10));
            if more {
                s.store_u32_ptr(first.p.add((v + 1) * lanes).cast(), s.bf16_pairs(p01, p11));
                s.store_u32_ptr(second.p.add((v + 1) * lanes).cast(), s.bf16_pairs(ds01, ds11));
            }
            s.store_u32_ptr(first.ds.add(v / 2 * lanes).cast(), s.bf16_consecutive(ds00, ds01));
            s.store_u32_ptr(second.ds.add(v / 2 * lanes).cast(), s.bf16_consecutive(ds10, ds11));
        }
    }
}

/// Write row `i` of the gradient of q, k or v (`which` 0, 1, 2), turned back.
#[inline(always)]
unsafe fn give<S: Simd, T: Lane>(s: S, task: &Backward<'_, T>, i: usize, which: usize, row: *mut f32, factor: f32) {
    let call = task.call;
    let start = (task.sequence.start + i) * 3 * call.hidden + which * call.hidden + head_start(task);
    // SAFETY: the row holds D sums, and each (row, head) of dqkv belongs to one task.
    let (row, to) = unsafe { (std::slice::from_raw_parts_mut(row, call.head_dim), task.dqkv.slice(start..start + call.head_dim)) };
    if let (Some(turns), 0 | 1) = (&call.turns, which) {
        turns.turn(s, row, i, true);
    }
    for c in (0..call.head_dim).step_by(S::LANES) {
        s.store_at(to, c, s.mul(s.load_at(row, c), s.splat(factor)));
    }
}

/// Bring rows of the gradient closer that will be written soon.
#[inline(always)]
fn ahead<S: Simd, T: Lane>(s: S, task: &Backward<'_, T>, rows: Range<usize>, which: usize) {
    let stride = 3 * task.call.hidden;
    let start = task.sequence.start * stride + which * task.call.hidden + head_start(task);
    // SAFETY: the first row of this head, which belongs to this task.
    let start = unsafe { task.dqkv.slice(start..start + task.call.head_dim) }.as_ptr();
    prefetch(s, start, stride, rows, task.call.head_dim);
}

fn head_start<T>(task: &Backward<'_, T>) -> usize {
    task.head * task.call.head_dim
}

#[inline(always)]
fn dot<S: Simd, T: Lane>(s: S, a: &[T], b: &[T]) -> f32 {
    let mut sum = s.zero();
    for c in (0..a.len()).step_by(S::LANES) {
        sum = s.mul_add(s.load_at(a, c), s.load_at(b, c), sum);
    }
    s.reduce_add(sum)
}
