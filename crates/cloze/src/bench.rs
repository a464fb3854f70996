//! What is timed: the training step on random tokens, the forward pass of a model folder.

use std::path::Path;

use cloze_cpu::Cpu;
use cloze_model::{Blueprint, Heads, Input, Model};
use cloze_tensor::ops::pool::Pool;
use cloze_tensor::random::{Key, Stream};
use cloze_tensor::{Dtype, Operands, Sequences, Tape, Weights};
use cloze_text::{Batch, pack_lengths};
use cloze_train::TrainError;
use cloze_train::optimizer::OptimizerConfig;
use cloze_train::pretrain::MaskedLmLosses;
use cloze_train::run::Precision;
use cloze_train::step::Trainer;

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

/// A training step of BERT with AdamW and clipping, 15 % of the tokens masked.
pub struct TrainStep<'d> {
    trainer: Trainer<'d, Cpu>,
    batch: Batch,
    flops: f64,
}

impl<'d> TrainStep<'d> {
    /// Lay out the model and its batch.
    pub fn new(device: &'d Device, shape: &Shape, precision: Precision) -> Result<Self, Error> {
        let Some((layers, hidden, heads, intermediate)) = Blueprint::named_size(&shape.size) else {
            let expected = "tiny, mini, small, medium, base or large".into();
            return Err(TrainError::Value { key: "--model", found: shape.size.clone(), expected }.into());
        };
        let mut blueprint = Blueprint::bert(shape.vocab_size, layers, hidden, heads, intermediate);
        (blueprint.hidden_dropout, blueprint.attention_dropout) = (shape.dropout, shape.dropout);
        let model = Model::new("bert", blueprint, Heads::pretraining(false));
        let values = model.table().init(0);
        let Device::Cpu(cpu) = device;
        let dtype = device.dtype(precision);
        let trainer = Trainer::new(&**cpu, model, &values, OptimizerConfig::default(), dtype, 0, shape.recompute);
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
        let result = self.trainer.step(&MaskedLmLosses, std::slice::from_ref(&self.batch), 1e-4)?;
        self.flops = result.flops;
        Ok(())
    }

    /// Floating-point operations of the last step's products.
    pub fn flops(&self) -> f64 {
        self.flops
    }
}

/// The body of a model, ready to run.
pub struct Forward<'d> {
    cpu: &'d Cpu,
    model: Model,
    weights: Weights<Cpu>,
    dtype: Dtype,
    batch_tokens: usize,
}

impl<'d> Forward<'d> {
    /// Load a folder's body. `batch_tokens`: tokens that run at once, at most.
    pub fn load(device: &'d Device, folder: &Path, operands: Operands, batch_tokens: usize) -> Result<Self, Error> {
        let Device::Cpu(cpu) = device;
        let opened = cloze_model::open(folder, Some(Heads::default()), 0)?;
        let weights = opened.model.freeze(&**cpu, |_| operands, |spec, take| opened.lend(spec, take))?;
        let (model, dtype) = (opened.model, device.activations(operands));
        Ok(Self { cpu, model, weights, dtype, batch_tokens })
    }

    /// The mean of the last hidden states of each text, in their order; packed as a [`crate::Pipeline`] packs. // \[texts\]\[H\]
    pub fn run(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Error> {
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        let tokens = self.batch_tokens.max(lengths.iter().copied().max().unwrap_or(0));
        let mut means = vec![Vec::new(); texts.len()];
        for order in pack_lengths(&lengths, tokens)? {
            let ids: Vec<u32> = order.iter().flat_map(|&i| &texts[i]).copied().collect();
            let segments = vec![0; ids.len()];
            let sequences = Sequences::from_lengths(order.iter().map(|&i| lengths[i]));
            let input = Input::new(self.cpu, &ids, &segments, sequences);
            let mut tape = Tape::inference(self.cpu, &self.weights, self.dtype);
            let hidden = self.model.hidden(&mut tape, &input, false);
            let mean = tape.pool(&hidden, &input.layout, Pool::Mean);
            for (row, place) in mean.to_host(self.cpu).chunks_exact(mean.cols()).zip(order) {
                means[place] = row.to_vec();
            }
        }
        Ok(means)
    }
}
