//! The training step on random tokens, for timing.

use cloze_model::{Blueprint, Heads, Model};
use cloze_tensor::Sequences;
use cloze_tensor::random::{Key, Stream};
use cloze_text::Batch;
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
    trainer: Trainer<'d, cloze_cpu::Cpu>,
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
