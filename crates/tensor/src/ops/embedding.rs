//! `y[t] = word[ids[t]] + position[offset + place of t in its sequence] + segment[segments[t]]`.
//!
//! Backward adds dy\[t\] to the rows it came from; equal rows are added in token order, so the sum is the same bits
//! for every number of threads.

use crate::backend::{Backend, Packed, Storage};
use crate::conformance::{Case, Inputs};
use crate::dtype::Dtype;
use crate::plain::Plain;
use crate::sequences::Sequences;
use crate::tape::{Tape, Var};
use crate::tensor::{Param, Tensor, View, ViewMut, Weights};

/// The sum of up to three embedding tables.
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    /// By token id. // [V, H]
    pub word: Param,
    /// By place in the sequence. // [P, H]
    pub position: Option<Param>,
    /// Added to the place (RoBERTa counts from pad_id + 1).
    pub position_offset: usize,
    /// By segment id. // [segments, H]
    pub segment: Option<Param>,
}

/// The contract of [`Embedding`].
pub trait EmbeddingOp: Storage {
    /// ids \[T\], segments \[T\] (there exactly when there is a segment table) → y \[T, H\].
    fn embedding(
        &self,
        op: &Embedding,
        weights: &Weights<Self>,
        ids: &Self::Indices,
        segments: Option<&Self::Indices>,
        layout: &Packed<Self>,
        y: ViewMut<Self>,
    );

    /// Adds to the gradients of the tables.
    fn embedding_backward(
        &self,
        op: &Embedding,
        ids: &Self::Indices,
        segments: Option<&Self::Indices>,
        layout: &Packed<Self>,
        dy: View<Self>,
        gradients: &mut Self::Buffer,
    );
}

impl<'a, B: Backend> Tape<'a, B> {
    /// Sum of embeddings. `ids` and `segments` must be below the tables' rows (checked where they enter). // → [T, H]
    pub fn embedding(&mut self, ids: &B::Indices, segments: Option<&B::Indices>, layout: &Packed<B>, op: Embedding) -> Var<B> {
        let y = self.tensor(layout.sequences.tokens(), op.word.cols);
        self.embedding_into(y, ids, segments, layout, op)
    }

    /// Rows of a small table, in f32 whatever the tape's type: numbers that scores or losses take as they are learned.
    /// `ids` must be below the table's rows. // `[count]` → f32 [count, columns]
    pub fn table(&mut self, ids: &B::Indices, count: usize, table: Param) -> Var<B> {
        let layout = Packed::new(self.backend(), Sequences::from_lengths([count]));
        let y = Tensor::new(self.backend(), Dtype::F32, count, table.cols);
        self.embedding_into(y, ids, None, &layout, Embedding { word: table, position: None, position_offset: 0, segment: None })
    }

    fn embedding_into(
        &mut self,
        mut y: Tensor<B>,
        ids: &B::Indices,
        segments: Option<&B::Indices>,
        layout: &Packed<B>,
        op: Embedding,
    ) -> Var<B> {
        let hidden = op.word.cols;
        if let Some(p) = op.position {
            let need = layout.sequences.longest() + op.position_offset;
            assert!(p.cols == hidden && p.rows >= need, "embedding: positions up to {need}, the table is [{}, {}]", p.rows, p.cols);
        }
        assert_eq!(op.segment.is_some(), segments.is_some(), "embedding: a segment table needs segment ids, and the other way round");
        self.backend().embedding(&op, self.weights(), ids, segments, layout, y.view_mut());
        let y = self.var(y);
        let (ids, segments, layout, id) = (ids.clone(), segments.cloned(), layout.clone(), y.id());
        self.record(move |r| {
            let Some(dy) = r.take(id) else { return };
            r.setting.backend.embedding_backward(&op, &ids, segments.as_ref(), &layout, dy.view(), r.gradients);
        });
        y
    }
}

/// For each token: the rows of the flat buffers that are summed.
fn rows<'a>(
    op: &'a Embedding,
    ids: &'a [u32],
    segments: Option<&'a std::sync::Arc<[u32]>>,
    layout: &'a Packed<Plain>,
) -> impl Iterator<Item = (usize, Vec<usize>)> + 'a {
    let row = |p: Param, r: usize| p.offset + r * p.cols;
    layout.sequences.ranges().flat_map(move |sequence| {
        let first = sequence.start;
        sequence.map(move |t| {
            let mut rows = vec![row(op.word, ids[t] as usize)];
            rows.extend(op.position.map(|p| row(p, t - first + op.position_offset)));
            rows.extend(op.segment.zip(segments).map(|(p, s)| row(p, s[t] as usize)));
            (t, rows)
        })
    })
}

impl EmbeddingOp for Plain {
    fn embedding(
        &self,
        op: &Embedding,
        weights: &Weights<Self>,
        ids: &Self::Indices,
        segments: Option<&Self::Indices>,
        layout: &Packed<Self>,
        mut y: ViewMut<Self>,
    ) {
        for (t, rows) in rows(op, ids, segments, layout) {
            for c in 0..op.word.cols {
                y.row(t)[c] = rows.iter().map(|r| weights.of(Param { offset: r + c, rows: 1, cols: 1 })[0]).sum();
            }
        }
    }

    fn embedding_backward(
        &self,
        op: &Embedding,
        ids: &Self::Indices,
        segments: Option<&Self::Indices>,
        layout: &Packed<Self>,
        dy: View<Self>,
        gradients: &mut Self::Buffer,
    ) {
        let len = gradients.len(); // tables behind it are frozen
        for (t, rows) in rows(op, ids, segments, layout) {
            for r in rows.into_iter().filter(|r| r + op.word.cols <= len) {
                for c in 0..op.word.cols {
                    gradients[r + c] += dy.row(t)[c];
                }
            }
        }
    }
}

/// Tables present and absent; repeated ids.
pub fn cases() -> Vec<EmbeddingCase> {
    let mut cases = Vec::new();
    for (position, segment) in [(true, true), (false, false), (true, false)] {
        for hidden in [1, 33, 64] {
            cases.push(EmbeddingCase { lengths: vec![5, 1, 0, 33, 9], hidden, position, segment });
        }
    }
    cases.push(EmbeddingCase { lengths: vec![], hidden: 16, position: true, segment: true });
    cases
}

/// One case of [`cases`].
#[derive(Debug)]
pub struct EmbeddingCase {
    lengths: Vec<usize>,
    hidden: usize,
    position: bool,
    segment: bool,
}

impl Case for EmbeddingCase {
    fn params(&self) -> Vec<(usize, usize)> {
        vec![(11, self.hidden), (36, self.hidden), (2, self.hidden)]
    }

    fn inputs(&self) -> Vec<(usize, usize)> {
        vec![]
    }

    fn run<'a, B: Backend>(&self, tape: &mut Tape<'a, B>, i: &Inputs<B>) -> Vec<Var<B>> {
        let layout = Packed::new(tape.backend(), Sequences::from_lengths(self.lengths.iter().copied()));
        let tokens = layout.sequences.tokens() as u32;
        let ids = tape.backend().indices(&(0..tokens).map(|t| (t * t + 3) % 11).collect::<Vec<_>>());
        let segments = tape.backend().indices(&(0..tokens).map(|t| t % 3 / 2).collect::<Vec<_>>());
        let op = Embedding {
            word: i.params[0],
            position: self.position.then_some(i.params[1]),
            position_offset: if self.segment { 0 } else { 2 },
            segment: self.segment.then_some(i.params[2]),
        };
        vec![tape.embedding(&ids, self.segment.then_some(&segments), &layout, op)]
    }
}
