//! Sums of embeddings, and their gradients without atomics: each row of a table is written by one block, its tokens in order.

use bytemuck::{Pod, Zeroable};
use cloze_tensor::ops::embedding::{Embedding, EmbeddingOp};
use cloze_tensor::{Packed, View, ViewMut, Weights};

use crate::Cuda;
use crate::backend::{Indices, master, starts};
use crate::memory::Buffer;
use crate::rows::{Plan, Sums};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Forward {
    word: u64,
    position: u64,
    segment: u64,
    ids: u64,
    segments: u64,
    starts: u64,
    y: u64,
    tokens: u32,
    cols: u32,
    sequences: u32,
    position_offset: u32,
}

impl EmbeddingOp for Cuda {
    fn embedding(
        &self,
        op: &Embedding,
        weights: &Weights<Self>,
        ids: &Indices,
        segments: Option<&Indices>,
        layout: &Packed<Self>,
        y: ViewMut<Self>,
    ) {
        let parameters = Forward {
            word: master(weights, Some(op.word)),
            position: master(weights, op.position),
            segment: master(weights, op.segment),
            ids: ids.address(),
            segments: segments.map_or(0, Indices::address),
            starts: starts(layout),
            y: y.buffer.address(),
            tokens: y.rows as u32,
            cols: y.cols as u32,
            sequences: layout.sequences.count() as u32,
            position_offset: op.position_offset as u32,
        };
        self.launch("embedding", "embedding", y.dtype, [y.rows.div_ceil(4), 1, 1], 128, 0, &parameters);
    }

    fn embedding_backward(
        &self,
        op: &Embedding,
        ids: &Indices,
        segments: Option<&Indices>,
        layout: &Packed<Self>,
        dy: View<Self>,
        gradients: &mut Buffer,
    ) {
        let tokens = dy.rows;
        self.scatter(&Plan::new(&ids.host()[..tokens], op.word.rows), &dy, Sums::Gradient(gradients.at(op.word.offset)));
        if let Some(p) = op.position {
            let places: Vec<u32> = layout.sequences.ranges().flat_map(|r| (0..r.len()).map(|i| (i + op.position_offset) as u32)).collect();
            self.scatter(&Plan::new(&places, p.rows), &dy, Sums::Gradient(gradients.at(p.offset)));
        }
        if let (Some(p), Some(segments)) = (op.segment, segments) {
            self.scatter(&Plan::new(&segments.host()[..tokens], p.rows), &dy, Sums::Gradient(gradients.at(p.offset)));
        }
    }
}
