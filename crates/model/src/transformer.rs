//! The body: embeddings, layers, and the norm at the end of a pre-norm body. One code for all blueprints.

use cloze_tensor::ops::embedding::Embedding;
use cloze_tensor::ops::norm::Norm;
use cloze_tensor::{Backend, Packed, Param, Sequences, Tape, Var};

use crate::block::{Block, Builder, Dense, Scale, Stream};
use crate::blueprint::{Blueprint, NormPlacement, Position};
use crate::params::{Init, Role};
use crate::relative::{Distances, RelativeBias};

/// A packed batch on the device, as the body takes it.
pub struct Input<B: Backend> {
    /// Token ids. // `[T]`
    pub ids: B::Indices,
    /// Segment ids; used where the model has segments. // `[T]`
    pub segments: B::Indices,
    /// The sequences.
    pub layout: Packed<B>,
}

impl<B: Backend> Input<B> {
    /// Bring a batch to the device. All slices have one element a token.
    pub fn new(backend: &B, ids: &[u32], segments: &[u32], sequences: Sequences) -> Self {
        assert_eq!((ids.len(), segments.len()), (sequences.tokens(), sequences.tokens()), "input: ids, segments and sequences disagree");
        Self { ids: backend.indices(ids), segments: backend.indices(segments), layout: Packed::new(backend, sequences) }
    }
}

/// The body of a model.
#[derive(Clone, Debug)]
pub struct Transformer {
    embedding: Embedding,
    /// Of which row 0 is added to every token.
    task: Option<Param>,
    embedding_norm: Option<Scale>,
    projection: Option<Dense>,
    /// Buckets of distances, and what they add to the scores of all layers. // [buckets, N]
    relative: Option<(RelativeBias, Param)>,
    /// In the order in which they run; the layers of a group are the same block.
    blocks: Vec<Block>,
    final_norm: Option<Scale>,
    blueprint: Blueprint,
}

impl Transformer {
    pub(crate) fn new(b: &mut Builder) -> Self {
        let blueprint = b.blueprint.clone();
        let (h, e) = (blueprint.hidden_size, blueprint.embedding_size);
        let init = Init::Normal(blueprint.initializer_range);
        let word = b.table.add("embeddings.word.weight", blueprint.vocab_size, e, init, Role::Table);
        let (position, position_offset) = match blueprint.position {
            Position::Learned { max, offset } => (Some(b.table.add("embeddings.position.weight", max, e, init, Role::Table)), offset),
            Position::Rotary { .. } => (None, 0),
        };
        let segment = (blueprint.type_vocab_size > 0)
            .then(|| b.table.add("embeddings.segment.weight", blueprint.type_vocab_size, e, init, Role::Table));
        let task = (blueprint.task_type_vocab_size > 0)
            .then(|| b.table.add("embeddings.task.weight", blueprint.task_type_vocab_size, e, init, Role::Table));
        let embedding_norm = blueprint.embedding_norm.then(|| b.scale("embeddings.norm", e));
        let projection = blueprint.embedding_projection.then(|| b.dense("embeddings.projection", h, e, true, Role::Table));
        let relative = blueprint.relative.map(|relative| {
            let heads = blueprint.num_attention_heads;
            (relative, b.table.add("embeddings.relative.weight", relative.buckets, heads, init, Role::Table))
        });
        let groups: Vec<Block> = (0..blueprint.num_hidden_groups).map(|i| Block::new(b, i)).collect();
        let blocks = (0..blueprint.num_hidden_layers).map(|i| groups[blueprint.group_of(i)]).collect();
        let final_norm = (blueprint.norm_placement == NormPlacement::Pre).then(|| b.scale("final_norm", h));
        let embedding = Embedding { word, position, position_offset, segment };
        Self { embedding, task, embedding_norm, projection, relative, blocks, final_norm, blueprint }
    }

    /// The word embedding table. // [V, E]
    pub fn word_embedding(&self) -> Param {
        self.embedding.word
    }

    /// The weight matrices that inference multiplies by.
    pub(crate) fn matrices(&self) -> Vec<Param> {
        let mut matrices: Vec<Param> = self.projection.iter().map(|p| p.weight).collect();
        for block in &self.blocks {
            // The layers of a group have the same matrices.
            matrices.extend(block.matrices().into_iter().filter(|m| !matrices.contains(m)).collect::<Vec<_>>());
        }
        matrices
    }

    /// Hidden states of the last layer. With `recompute`, layers keep nothing but their input for backward. // → [T, H]
    pub fn forward<'a, B: Backend>(&self, tape: &mut Tape<'a, B>, input: &Input<B>, recompute: bool) -> Var<B> {
        self.run(tape, input, recompute, &mut |_, _| ())
    }

    /// Hidden states after the embeddings and after every layer, the last as [`Transformer::forward`] gives it.
    /// // (layers + 1) × [T, H]
    pub fn hidden_states<'a, B: Backend>(&self, tape: &mut Tape<'a, B>, input: &Input<B>) -> Vec<Var<B>> {
        let mut states = Vec::new();
        let last = self.run(tape, input, false, &mut |tape, stream: &Stream<B>| {
            states.push(match &stream.pending {
                Some(pending) => tape.add(&stream.residual, pending),
                None => stream.residual.clone(),
            });
        });
        states.pop();
        states.push(last);
        states
    }

    fn run<'a, B: Backend>(
        &self,
        tape: &mut Tape<'a, B>,
        input: &Input<B>,
        recompute: bool,
        see: &mut dyn FnMut(&mut Tape<'a, B>, &Stream<B>),
    ) -> Var<B> {
        let segments = self.embedding.segment.is_some().then_some(&input.segments);
        let embedded = tape.embedding(&input.ids, segments, &input.layout, self.embedding);
        let embedded = match self.task {
            None => embedded,
            Some(word) => {
                let first = tape.backend().indices(&vec![0; embedded.rows()]);
                let op = Embedding { word, position: None, position_offset: 0, segment: None };
                let task = tape.embedding(&first, None, &input.layout, op);
                tape.add(&embedded, &task)
            }
        };
        let normed = match self.embedding_norm {
            Some(scale) => tape.norm(&embedded, self.norm(scale)),
            None => embedded.clone(),
        };
        drop(embedded);
        let dropout = tape.dropout_at(self.blueprint.hidden_dropout);
        let dropped = tape.dropout(&normed, dropout); // [T, E]
        drop(normed);
        let projected = match self.projection {
            Some(dense) => dense.run(tape, &dropped, None),
            None => dropped.clone(),
        };
        drop(dropped);
        let distances = self.relative.map(|(relative, table)| Distances::new(tape.backend(), relative, table));
        let mut stream = Stream { residual: projected, pending: None };
        see(tape, &stream);
        for &block in &self.blocks {
            stream = if recompute && tape.is_recording() {
                let (layout, distances) = (input.layout.clone(), distances.clone());
                let whole = tape.recompute(&stream.residual, move |tape, x| block.forward_whole(tape, x, &layout, distances.as_ref()));
                Stream { residual: whole, pending: None }
            } else {
                block.forward(tape, &stream, &input.layout, distances.as_ref())
            };
            see(tape, &stream);
        }
        match self.final_norm {
            None => stream.residual,
            Some(scale) => {
                let op = self.norm(scale);
                match &stream.pending {
                    Some(pending) => {
                        let dropout = tape.dropout_at(self.blueprint.hidden_dropout);
                        tape.norm_residual(pending, &stream.residual, Norm { dropout, ..op })
                    }
                    None => tape.norm(&stream.residual, op),
                }
            }
        }
    }

    fn norm(&self, scale: Scale) -> Norm {
        Norm { kind: self.blueprint.norm, gain: scale.gain, bias: scale.bias, eps: self.blueprint.layer_norm_eps, dropout: None }
    }
}
