//! Attention over packed sequences: tiles of scores that stay in the first caches, and the online softmax.
//!
//! A task is some queries of one head of one sequence. It packs the keys it can see, transposed, and walks its
//! queries in blocks against blocks of keys: scores, softmax in place, product with the values. What is computed,
//! and in which order, depends on the length of the sequence alone: a sequence has the same bits in every batch
//! and on any number of threads. Memory grows linearly with the length and belongs to the threads.
//!
//! Where the level multiplies bf16 itself and the storage is bf16, the operands of all products are bf16 (sums,
//! softmax and gradients under construction stay f32); otherwise they are f32.

mod backward;
mod bias;
mod draws;
mod forward;
mod pack;
mod rotary;
mod scratch;
mod tiles;

use crate::backend::{Cpu, by_dtype};
use crate::level::Level;
use crate::simd::{Lane, Simd, dispatch};
use crate::threads::{SharedMut, Threads};
use bias::Bias;
use cloze_tensor::ops::attention::{Attention, AttentionOp, Visibility};
use cloze_tensor::random::Key;
use cloze_tensor::{Dropout, Dtype, Packed, Sequences, Storage, View, ViewMut};
use half::bf16;
use rotary::Turns;
use scratch::Scratch;
use std::ops::Range;
use std::sync::Arc;

/// Multiplications below which waking other threads takes longer than the work.
const SERIAL: usize = 1 << 19;

/// Choose the element of the products by level and storage.
macro_rules! with_element {
    ($simd:ty, $storage:ty, $element:ident => $body:expr) => {
        // In a constant, so that the other branch is not even compiled.
        if const { matches!(<$simd as Simd>::LEVEL, $crate::Level::Avx512Bf16) && !<$storage as Lane>::IS_F32 } {
            type $element = super::tiles::Bf16;
            $body
        } else {
            type $element = super::tiles::F32;
            $body
        }
    };
}
use with_element;

/// What all tasks of a call share.
struct Call<'a, T> {
    op: &'a Attention,
    qkv: &'a [T],
    hidden: usize,
    head_dim: usize,
    drop: Option<DropRule>,
    turns: Option<Arc<Turns>>,
    bias: Option<Bias<'a>>,
}

impl<'a, T: Lane> Call<'a, T> {
    fn new(op: &'a Attention, sequences: &Sequences, qkv: &'a [T], bias: Option<&'a [f32]>, hidden: usize) -> Self {
        assert_eq!(qkv.len(), sequences.tokens() * 3 * hidden, "attention: qkv is not [{}, 3 × {hidden}]", sequences.tokens());
        assert!(op.heads > 0 && hidden.is_multiple_of(op.heads), "attention: {hidden} columns are not {} heads", op.heads);
        let head_dim = hidden / op.heads;
        let turns = op.rotary.map(|theta| Turns::of(theta, head_dim, sequences.longest()));
        let bias = bias.map(|table| Bias::new(table, op.heads));
        Self { op, qkv, hidden, head_dim, drop: op.dropout.as_ref().map(DropRule::new), turns, bias }
    }

    /// q, k or v (`which` 0, 1, 2) of one head of a sequence.
    fn source(&self, sequence: &Range<usize>, head: usize, which: usize) -> pack::Source<'_, T> {
        let start = sequence.start * 3 * self.hidden + which * self.hidden + head * self.head_dim;
        pack::Source { data: self.qkv, stride: 3 * self.hidden, start, turns: if which < 2 { self.turns.as_deref() } else { None } }
    }

    /// Blocks of draws from one query to the next.
    fn draw_step(&self) -> u64 {
        (self.op.draw(1, 0, 0) - self.op.draw(0, 0, 0)) >> 3
    }
}

/// Dropout of probabilities.
struct DropRule {
    key: Key,
    /// Draws below this are dropped; both in the upper half of a word.
    threshold: u32,
    scale: f32,
}

impl DropRule {
    fn new(dropout: &Dropout) -> Self {
        let threshold = u64::from(dropout.threshold()) << 16;
        Self { key: dropout.key, threshold: u32::try_from(threshold).unwrap_or(u32::MAX), scale: dropout.scale() }
    }

    /// Which of `LANES` probabilities are dropped by the 16-bit draws at `draws`.
    ///
    /// # Safety
    /// The draws exist.
    #[inline(always)]
    unsafe fn dropped<S: Simd>(&self, s: S, draws: *const bf16) -> S::M {
        // Widening bf16 is moving 16 bits into the upper half of a word, whatever they mean.
        // SAFETY: the caller vouches for the draws.
        let draws = s.to_bits(unsafe { s.load_bf16_ptr(draws) });
        s.lt_u32(draws, s.splat_u32(self.threshold))
    }
}

/// Keys that some queries see between them.
struct Span {
    /// The first, rounded down to whole vectors.
    first: usize,
    count: usize,
    /// `count`, rounded up to whole vectors.
    padded: usize,
}

impl Span {
    fn of(visibility: Visibility, queries: &Range<usize>, n: usize) -> Self {
        let first = visibility.keys(queries.start, n).start & !15;
        let count = visibility.keys(queries.end - 1, n).end - first;
        Self { first, count, padded: count.next_multiple_of(16) }
    }
}

/// Every (sequence, head, queries) with at most `most` queries a task; long sequences first, so that no thread
/// is left with one at the end.
fn tasks(sequences: &Sequences, heads: usize, most: usize) -> Vec<(Range<usize>, usize, Range<usize>)> {
    let mut ranges: Vec<_> = sequences.ranges().filter(|r| !r.is_empty()).collect();
    ranges.sort_by_key(|r| std::cmp::Reverse(r.len()));
    let mut tasks = Vec::with_capacity(ranges.len() * heads);
    for range in ranges {
        for head in 0..heads {
            for first in (0..range.len()).step_by(most.min(range.len())) {
                let end = (first.saturating_add(most)).min(range.len());
                tasks.push((range.clone(), head, first..end));
            }
        }
    }
    tasks
}

fn run(threads: &Threads, sequences: &Sequences, hidden: usize, tasks: usize, task: impl Fn(usize) + Sync) {
    let work: usize = sequences.ranges().map(|r| r.len() * r.len() * hidden * 2).sum();
    if work < SERIAL {
        (0..tasks).for_each(task);
    } else {
        threads.for_each(tasks, task);
    }
}

/// qkv [T, 3H] → y [T, H], lse [T, N]: [`AttentionOp::attention`] on slices.
fn forward<T: Lane>(
    level: Level,
    threads: &Threads,
    op: &Attention,
    sequences: &Sequences,
    qkv: &[T],
    bias: Option<&[f32]>,
    y: &mut [T],
    lse: Option<&mut [f32]>,
) {
    let tokens = sequences.tokens();
    if tokens == 0 {
        return;
    }
    let call = Call::new(op, sequences, qkv, bias, y.len() / tokens);
    let tasks = tasks(sequences, op.heads, forward::TASK_QUERIES);
    let (y, lse) = (SharedMut::new(y), lse.map(SharedMut::new));
    run(threads, sequences, call.hidden, tasks.len(), |i| {
        let (sequence, head, queries) = tasks[i].clone();
        Scratch::with(|scratch| {
            let (call, y, lse) = (&call, &y, lse.as_ref());
            dispatch(level, forward::Forward { call, y, lse, sequence, head, queries, scratch })
        })
    });
}

/// The gradient of qkv, and of a bias its partial sums: [`AttentionOp::attention_backward`] on slices.
fn backward<T: Lane>(
    level: Level,
    threads: &Threads,
    op: &Attention,
    sequences: &Sequences,
    qkv: &[T],
    bias: Option<(&[f32], &mut [f32], &mut [f32])>,
    y: &[T],
    lse: &[f32],
    dy: &[T],
    dqkv: &mut [T],
) {
    let tokens = sequences.tokens();
    let (table, gradient, partials) = match bias {
        Some((table, gradient, partials)) => (Some(table), Some(gradient), partials),
        None => (None, None, &mut [][..]),
    };
    if tokens == 0 {
        gradient.into_iter().for_each(|g| g.fill(0.0));
        return;
    }
    let call = Call::new(op, sequences, qkv, table, y.len() / tokens);
    assert!(
        dy.len() == y.len() && dqkv.len() == qkv.len() && lse.len() == tokens * op.heads,
        "attention: dy has {} elements, dqkv {}, lse {} for {tokens} tokens",
        dy.len(),
        dqkv.len(),
        lse.len()
    );
    // The gradients of keys and values are sums over all queries, so a sequence's head is one task.
    let tasks = tasks(sequences, op.heads, usize::MAX);
    let (dqkv, shared) = (SharedMut::new(dqkv), SharedMut::new(partials));
    run(threads, sequences, call.hidden, tasks.len(), |i| {
        let (sequence, head, _) = tasks[i].clone();
        Scratch::with(|scratch| {
            let (call, dqkv, partials) = (&call, &dqkv, &shared);
            dispatch(level, backward::Backward { call, y, lse, dy, dqkv, partials, sequence, head, scratch })
        })
    });
    if let (Some(bias), Some(gradient)) = (&call.bias, gradient) {
        bias.sum(threads, sequences, partials, gradient);
    }
}

/// The elements of an f32 view.
fn f32s(view: View<'_, Cpu>) -> &[f32] {
    &view.buffer.f32()[..view.rows * view.cols]
}

impl AttentionOp for Cpu {
    fn attention(
        &self,
        op: &Attention,
        layout: &Packed<Self>,
        qkv: View<Self>,
        bias: Option<View<Self>>,
        y: ViewMut<Self>,
        lse: Option<ViewMut<Self>>,
    ) {
        let lse = lse.map(|l| &mut l.buffer.f32_mut()[..l.rows * l.cols]);
        by_dtype!(qkv.dtype, T => {
            let qkv = &qkv.buffer.of::<T>()[..qkv.rows * qkv.cols];
            let y = &mut y.buffer.of_mut::<T>()[..y.rows * y.cols];
            forward(self.level(), self.threads(), op, &layout.sequences, qkv, bias.map(f32s), y, lse);
        });
    }

    fn attention_backward(
        &self,
        op: &Attention,
        layout: &Packed<Self>,
        qkv: View<Self>,
        bias: Option<(View<Self>, ViewMut<Self>)>,
        y: View<Self>,
        lse: View<Self>,
        dy: View<Self>,
        dqkv: ViewMut<Self>,
    ) {
        let mut partials = bias.as_ref().map(|_| self.alloc(Dtype::F32, 2 * qkv.rows * op.heads));
        let bias = bias.zip(partials.as_mut()).map(|((table, gradient), partials)| {
            (f32s(table), &mut gradient.buffer.f32_mut()[..gradient.rows * gradient.cols], partials.f32_mut())
        });
        by_dtype!(qkv.dtype, T => {
            let [qkv, y, dy] = [qkv, y, dy].map(|v| &v.buffer.of::<T>()[..v.rows * v.cols]);
            let dqkv = &mut dqkv.buffer.of_mut::<T>()[..dqkv.rows * dqkv.cols];
            backward(self.level(), self.threads(), op, &layout.sequences, qkv, bias, y, f32s(lse), dy, dqkv);
        });
    }
}
