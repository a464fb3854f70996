//! A model ready to answer, whatever its device.

use std::path::Path;

use cloze_model::Model;
use cloze_task::text_classification::{self as classification, TextInput};
use cloze_task::{TaskError, fill_mask};
use cloze_tensor::{Backend, Dtype, Tape, Weights};
use cloze_text::{Encoding, Tokenizer};
use cloze_train::run::Precision;

use crate::{Device, Error};

/// A loaded model with its tokenizer on a device.
pub struct Pipeline<'d> {
    engine: Box<dyn Engine + 'd>,
    model: Model,
    tokenizer: Tokenizer,
    max_length: usize,
    new: Vec<String>,
}

/// What a device does for a pipeline.
trait Engine {
    fn logits(&self, model: &Model, encodings: &[Encoding]) -> Result<Vec<Vec<f32>>, TaskError>;
    fn fill(&self, model: &Model, tokenizer: &Tokenizer, text: &str, top_k: usize) -> Result<fill_mask::Answer, TaskError>;
    fn states(&self, model: &Model, encoding: &Encoding) -> States;
}

/// What a model computes for one text, for comparison with other implementations.
#[derive(Clone, Debug, Default)]
pub struct States {
    /// Embeddings and every layer. // (layers + 1) × [len, H]
    pub hidden: Vec<Vec<f32>>,
    /// Logits of the prediction head. // [len, V]
    pub logits: Option<Vec<f32>>,
    /// Logits of the classifier. // `[labels]`
    pub class_logits: Option<Vec<f32>>,
}

struct Loaded<'b, B: Backend> {
    backend: &'b B,
    weights: Weights<B>,
    dtype: Dtype,
    batch_tokens: usize,
}

impl<B: Backend> Engine for Loaded<'_, B> {
    fn logits(&self, model: &Model, encodings: &[Encoding]) -> Result<Vec<Vec<f32>>, TaskError> {
        classification::logits(self.backend, model, &self.weights, self.dtype, encodings, self.batch_tokens)
    }

    fn fill(&self, model: &Model, tokenizer: &Tokenizer, text: &str, top_k: usize) -> Result<fill_mask::Answer, TaskError> {
        fill_mask::fill(self.backend, model, &self.weights, self.dtype, tokenizer, text, top_k)
    }

    fn states(&self, model: &Model, encoding: &Encoding) -> States {
        let sequences = cloze_tensor::Sequences::from_lengths([encoding.len()]);
        let input = cloze_model::Input::new(self.backend, &encoding.ids, &encoding.token_type_ids, sequences);
        let mut tape = Tape::inference(self.backend, &self.weights, self.dtype);
        let states = model.body().hidden_states(&mut tape, &input);
        let last = &states[states.len() - 1];
        let logits = model.masked_lm().map(|head| head.logits(&mut tape, last).to_host(self.backend));
        let pooled = model.pooled(&mut tape, last, &input);
        let class_logits = model.classifier().zip(pooled).map(|(head, pooled)| head.logits(&mut tape, &pooled).to_host(self.backend));
        States { hidden: states.iter().map(|s| s.to_host(self.backend)).collect(), logits, class_logits }
    }
}

/// Tokens that one forward pass of a pipeline holds.
const BATCH_TOKENS: usize = 8192;

impl<'d> Pipeline<'d> {
    /// Load a model folder, or a model of the hub by its name. `max_length`: longer texts are cut; the model's own limit when `None`.
    pub fn load(device: &'d Device, folder: &Path, precision: Precision, max_length: Option<usize>) -> Result<Self, Error> {
        let folder = &crate::hub::model_folder(folder, &mut |_| ())?;
        let loaded = cloze_model::load(folder)?;
        let tokenizer = Tokenizer::load(folder)?;
        let longest = loaded.model.blueprint.position.longest();
        let max_length = max_length.map_or(longest.min(512), |m| m.clamp(3, longest));
        let dtype = device.dtype(precision);
        let Device::Cpu(cpu) = device;
        let weights = loaded.model.frozen(&**cpu, &loaded.values, dtype);
        let engine = Loaded { backend: &**cpu, weights, dtype, batch_tokens: BATCH_TOKENS.max(max_length) };
        Ok(Self { engine: Box::new(engine), model: loaded.model, tokenizer, max_length, new: loaded.report.new })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Parameters that no file held.
    pub fn newly_initialised(&self) -> &[String] {
        &self.new
    }

    /// The task that the model's heads serve.
    pub fn task(&self) -> Option<&'static str> {
        if self.model.classifier().is_some() { Some("text-classification") } else { self.model.masked_lm().map(|_| "fill-mask") }
    }

    /// Classify texts or pairs, in their order.
    pub fn classify(&self, inputs: &[TextInput]) -> Result<Vec<classification::Answer>, Error> {
        let encodings: Vec<Encoding> =
            inputs.iter().map(|i| classification::encode(&self.tokenizer, i, self.max_length)).collect::<Result<_, _>>()?;
        let logits = self.engine.logits(&self.model, &encodings)?;
        Ok(logits.iter().map(|row| classification::decode(&self.model.heads.labels, row)).collect())
    }

    /// The `top_k` likeliest tokens for each mask of a text.
    pub fn fill_mask(&self, text: &str, top_k: usize) -> Result<fill_mask::Answer, Error> {
        Ok(self.engine.fill(&self.model, &self.tokenizer, text, top_k)?)
    }

    /// Everything that the model computes for one text.
    pub fn states(&self, text: &str) -> Result<(Encoding, States), Error> {
        let encoding = self.tokenizer.encode_truncated(text, self.max_length)?;
        let states = self.states_of(&encoding);
        Ok((encoding, states))
    }

    /// The same for tokens that are there already; their ids must be below the size of the vocabulary.
    pub fn states_of(&self, encoding: &Encoding) -> States {
        self.engine.states(&self.model, encoding)
    }
}
