//! Sums of embeddings. Backward turns the scatter around: tokens are sorted by the row they came from, and each row
//! is written by one task that adds its tokens in order. No atomics, the same bits for every number of threads.

use std::ops::Range;
use std::sync::Arc;

use cloze_tensor::ops::embedding::{Embedding, EmbeddingOp};
use cloze_tensor::{Packed, Param, Sequences, View, ViewMut, Weights};

use crate::backend::{Cpu, TASK, by_dtype, elements, elements_mut, weights_of};
use crate::lanes::{for_lanes, put, take};
use crate::memory::Buffer;
use crate::simd::{Kernel, Lane, Simd, dispatch};
use crate::threads::SharedMut;

/// Columns that a task of backward takes: frequent tokens (`[MASK]`, `the`) are shared by several tasks.
const COLUMNS: usize = 256;

impl EmbeddingOp for Cpu {
    fn embedding(
        &self,
        op: &Embedding,
        weights: &Weights<Self>,
        ids: &Arc<[u32]>,
        segments: Option<&Arc<[u32]>>,
        layout: &Packed<Self>,
        mut y: ViewMut<Self>,
    ) {
        let cols = op.word.cols;
        let table = |param: Option<Param>| param.map(|p| weights_of(weights, p));
        let (word, position, segment) = (weights_of(weights, op.word), table(op.position), table(op.segment));
        by_dtype!(y.dtype, T => {
            self.threads().for_rows(elements_mut::<T>(&mut y), cols, TASK.div_ceil(2 * cols.max(1)), |first, y| {
                let sequences = &layout.sequences;
                let offset = op.position_offset;
                dispatch(self.level(), Forward { cols, first, word, position, offset, segment, ids, segments, sequences, y });
            });
        });
    }

    fn embedding_backward(
        &self,
        op: &Embedding,
        ids: &Arc<[u32]>,
        segments: Option<&Arc<[u32]>>,
        layout: &Packed<Self>,
        dy: View<Self>,
        gradients: &mut Buffer,
    ) {
        let tokens = layout.sequences.tokens();
        let gradients = gradients.f32_mut();
        let len = gradients.len();
        let learns = |p: &Param| p.range().end <= len; // frozen tables stand behind the end
        by_dtype!(dy.dtype, T => {
            let dy = elements::<T>(dy);
            if learns(&op.word) {
                self.add_rows(&mut gradients[op.word.range()], op.word.cols, &Groups::by_row(&ids[..tokens], op.word.rows), dy);
            }
            if let Some(p) = op.position.filter(learns) {
                self.add_rows(&mut gradients[p.range()], p.cols, &Groups::by_place(&layout.sequences, op.position_offset), dy);
            }
            if let (Some(p), Some(segments)) = (op.segment.filter(learns), segments) {
                self.add_rows(&mut gradients[p.range()], p.cols, &Groups::by_row(&segments[..tokens], p.rows), dy);
            }
        });
    }
}

impl Cpu {
    /// Add the rows of `dy` to the rows of `table` that the groups name.
    fn add_rows<T: Lane>(&self, table: &mut [f32], cols: usize, groups: &Groups, dy: &[T]) {
        if cols == 0 {
            return;
        }
        let pieces = cols.div_ceil(COLUMNS);
        // Groups in runs of about as many tokens each, so that rare tokens do not make tiny tasks.
        let runs = groups.runs((TASK / COLUMNS).max(groups.tokens.len() / (8 * self.threads().count())));
        let shared = SharedMut::new(table);
        self.threads().for_each(runs.len() * pieces, |task| {
            let (run, piece) = (runs[task / pieces].clone(), task % pieces);
            let columns = piece * COLUMNS..cols.min((piece + 1) * COLUMNS);
            for group in run {
                let row = groups.rows[group] as usize * cols;
                // SAFETY: each row stands in one group, each group in one run, each column in one piece.
                let to = unsafe { shared.slice(row + columns.start..row + columns.end) };
                let tokens = &groups.tokens[groups.starts[group] as usize..groups.starts[group + 1] as usize];
                dispatch(self.level(), AddRows { tokens, cols, column: columns.start, dy, to });
            }
        });
    }
}

/// Tokens that share a row, row by row; the tokens of a row in order.
struct Groups {
    rows: Vec<u32>,
    starts: Vec<u32>, // [rows + 1]
    tokens: Vec<u32>,
}

impl Groups {
    /// By the row that each token names: a counting sort.
    fn by_row(row_of: &[u32], count: usize) -> Self {
        let mut next = vec![0u32; count + 1];
        for &row in row_of {
            next[row as usize + 1] += 1;
        }
        let (mut rows, mut starts) = (Vec::new(), vec![0]);
        for row in 0..count {
            if next[row + 1] > 0 {
                rows.push(row as u32);
            }
            next[row + 1] += next[row];
            if rows.last() == Some(&(row as u32)) {
                starts.push(next[row + 1]);
            }
        }
        let mut tokens = vec![0; row_of.len()];
        for (t, &row) in row_of.iter().enumerate() {
            let at = &mut next[row as usize];
            tokens[*at as usize] = t as u32;
            *at += 1;
        }
        Self { rows, starts, tokens }
    }

    /// By the place in the sequence.
    fn by_place(sequences: &Sequences, offset: usize) -> Self {
        let (mut rows, mut starts, mut tokens) = (Vec::new(), vec![0], Vec::new());
        for place in 0..sequences.longest() {
            tokens.extend(sequences.ranges().filter(|r| place < r.len()).map(|r| (r.start + place) as u32));
            rows.push((offset + place) as u32);
            starts.push(tokens.len() as u32);
        }
        Self { rows, starts, tokens }
    }

    /// Consecutive groups with at least `least` tokens together.
    fn runs(&self, least: usize) -> Vec<Range<usize>> {
        let mut runs = Vec::new();
        let mut from = 0;
        for group in 0..self.rows.len() {
            if (self.starts[group + 1] - self.starts[from]) as usize >= least || group + 1 == self.rows.len() {
                runs.push(from..group + 1);
                from = group + 1;
            }
        }
        runs
    }
}

struct AddRows<'a, T> {
    tokens: &'a [u32],
    cols: usize,
    /// The first column.
    column: usize,
    dy: &'a [T],
    to: &'a mut [f32],
}

impl<T: Lane> Kernel for AddRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for &t in self.tokens {
            let dy = &self.dy[t as usize * self.cols + self.column..][..self.to.len()];
            for_lanes!(S, dy.len(), |c, n| {
                put(s, self.to, c, n, s.add(take(s, self.to, c, n), take(s, dy, c, n)));
            });
        }
    }
}

struct Forward<'a, T> {
    cols: usize,
    /// The first token.
    first: usize,
    word: &'a [f32],
    position: Option<&'a [f32]>,
    offset: usize,
    segment: Option<&'a [f32]>,
    ids: &'a [u32],
    segments: Option<&'a Arc<[u32]>>,
    sequences: &'a Sequences,
    y: &'a mut [T],
}

impl<T: Lane> Kernel for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.cols;
        let row = |table: &[f32], r: usize| -> Range<usize> {
            assert!((r + 1) * cols <= table.len(), "embedding: row {r} of a table of {} rows", table.len() / cols);
            r * cols..(r + 1) * cols
        };
        let starts = self.sequences.starts();
        let mut sequence = starts.partition_point(|&start| start as usize <= self.first);
        for (i, y) in self.y.chunks_exact_mut(cols).enumerate() {
            let t = self.first + i;
            while starts[sequence] as usize <= t {
                sequence += 1; // its end is here: the next one, past empty ones
            }
            let word = &self.word[row(self.word, self.ids[t] as usize)];
            let place = t - starts[sequence - 1] as usize;
            let position = self.position.map(|table| &table[row(table, place + self.offset)]);
            let segment = self.segment.zip(self.segments).map(|(table, segments)| &table[row(table, segments[t] as usize)]);
            for_lanes!(S, cols, |c, n| {
                let mut sum = take(s, word, c, n);
                if let Some(position) = position {
                    sum = s.add(sum, take(s, position, c, n));
                }
                if let Some(segment) = segment {
                    sum = s.add(sum, take(s, segment, c, n));
                }
                put(s, y, c, n, sum);
            });
        }
    }
}
