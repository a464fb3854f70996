//! What is timed: the training step on random tokens, its ops one by one, the forward pass of a model folder.

pub mod ops;

use std::path::Path;

use cloze_model::{Blueprint, Heads, Input, Model};
use cloze_tensor::ops::pool::Pool;
use cloze_tensor::random::{Key, Stream};
use cloze_tensor::{Backend, Dtype, Operands, Sequences, Tape, Weights};
use cloze_text::{Batch, pack_lengths};
use cloze_train::TrainError;
use cloze_train::optimizer::OptimizerConfig;
use cloze_train::pretrain::MaskedLmLosses;
use cloze_train::run::Precision;
use cloze_train::step::Trainer;

use crate::device::on;
use crate::{Device, Error};

/// What is timed.
#[derive(Clone, Debug)]
pub struct Shape {
    /// A size by name.
    pub size: String,
    /// Sequences of a step.
    pub sequences: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// V.
    pub vocab_size: usize,
    /// Dropout of embeddings, sublayers and attention.
    pub dropout: f32,
    /// Compute layers again in backward.
    pub recompute: bool,
}

/// Layers, H, N, I.
fn sizes(shape: &Shape) -> Result<(usize, usize, usize, usize), TrainError> {
    Blueprint::named_size(&shape.size).ok_or_else(|| {
        let expected = "tiny, mini, small, medium, base or large".into();
        TrainError::Value { key: "--model", found: shape.size.clone(), expected }
    })
}

/// A trainer, whatever its device.
trait Steps {
    /// One step; the floating-point operations of its products.
    fn step(&mut self, batch: &Batch) -> Result<f64, TrainError>;
}

impl<B: Backend> Steps for Trainer<'_, B> {
    fn step(&mut self, batch: &Batch) -> Result<f64, TrainError> {
        Ok(Trainer::step(self, &MaskedLmLosses, std::slice::from_ref(batch), 1e-4)?.flops)
    }
}

/// A training step of BERT with AdamW and clipping, 15 % of the tokens masked.
pub struct TrainStep<'d> {
    trainer: Box<dyn Steps + 'd>,
    batch: Batch,
    flops: f64,
}

impl<'d> TrainStep<'d> {
    /// Lay out the model and its batch.
    pub fn new(device: &'d Device, shape: &Shape, precision: Precision) -> Result<Self, Error> {
        let (layers, hidden, heads, intermediate) = sizes(shape)?;
        let mut blueprint = Blueprint::bert(shape.vocab_size, layers, hidden, heads, intermediate);
        (blueprint.hidden_dropout, blueprint.attention_dropout) = (shape.dropout, shape.dropout);
        let model = Model::new("bert", blueprint, Heads::pretraining(false));
        let values = model.table().init(0);
        let dtype = device.dtype(precision);
        let trainer: Box<dyn Steps + 'd> = on!(device, backend => {
            Box::new(Trainer::new(backend, model, &values, OptimizerConfig::default(), dtype, 0, shape.recompute))
        });
        let tokens = shape.sequences * shape.length;
        let key = Key::new(0, Stream::Sampling, 0, 0);
        let id = |i: u64| 5 + key.below(i, shape.vocab_size as u32 - 5);
        let batch = Batch {
            input_ids: (0..tokens as u64).map(id).collect(),
            token_type_ids: (0..tokens).map(|t| u32::from(t % shape.length > shape.length / 2)).collect(),
            sequences: Sequences::from_lengths(std::iter::repeat_n(shape.length, shape.sequences)),
            masked_rows: (0..tokens as u32).filter(|t| t * 3 % 20 < 3).collect(),
            masked_labels: (0..tokens as u32).filter(|t| t * 3 % 20 < 3).map(|t| id(u64::from(t) + (1 << 32))).collect(),
            sequence_labels: vec![],
        };
        Ok(Self { trainer, batch, flops: 0.0 })
    }

    /// One step.
    pub fn run(&mut self) -> Result<(), Error> {
        self.flops = self.trainer.step(&self.batch)?;
        Ok(())
    }

    /// Floating-point operations of the last step's products.
    pub fn flops(&self) -> f64 {
        self.flops
    }
}

/// The body of a model, ready to run.
pub struct Forward<'d> {
    body: Box<dyn Body + 'd>,
    batch_tokens: usize,
}

/// A body on its device.
trait Body {
    /// The means of the last hidden states of some sequences, side by side, and H.
    fn means(&self, ids: &[u32], sequences: Sequences) -> (Vec<f32>, usize);
}

struct Loaded<'d, B: Backend> {
    backend: &'d B,
    model: Model,
    weights: Weights<B>,
    dtype: Dtype,
}

impl<B: Backend> Body for Loaded<'_, B> {
    fn means(&self, ids: &[u32], sequences: Sequences) -> (Vec<f32>, usize) {
        let input = Input::new(self.backend, ids, &vec![0; ids.len()], sequences);
        let mut tape = Tape::inference(self.backend, &self.weights, self.dtype);
        let hidden = self.model.hidden(&mut tape, &input, false);
        let mean = tape.pool(&hidden, &input.layout, Pool::Mean);
        (mean.to_host(self.backend), mean.cols())
    }
}

impl<'d> Forward<'d> {
    /// Load a folder's body. `batch_tokens`: tokens that run at once, at most.
    pub fn load(device: &'d Device, folder: &Path, operands: Operands, batch_tokens: usize) -> Result<Self, Error> {
        let opened = cloze_model::open(folder, Some(Heads::default()), 0)?;
        let dtype = device.activations(operands);
        let body: Box<dyn Body + 'd> = on!(device, backend => {
            let weights = opened.model.freeze(backend, |_| operands, |spec, take| opened.lend(spec, take))?;
            Box::new(Loaded { backend, model: opened.model, weights, dtype })
        });
        Ok(Self { body, batch_tokens })
    }

    /// The mean of the last hidden states of each text, in their order; packed as a [`crate::Pipeline`] packs. // \[texts\]\[H\]
    pub fn run(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Error> {
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        let tokens = self.batch_tokens.max(lengths.iter().copied().max().unwrap_or(0));
        let mut means = vec![Vec::new(); texts.len()];
        for order in pack_lengths(&lengths, tokens)? {
            let ids: Vec<u32> = order.iter().flat_map(|&i| &texts[i]).copied().collect();
            let (values, width) = self.body.means(&ids, Sequences::from_lengths(order.iter().map(|&i| lengths[i])));
            for (row, place) in values.chunks_exact(width).zip(order) {
                means[place] = row.to_vec();
            }
        }
        Ok(means)
    }
}
