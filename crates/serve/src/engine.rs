//! The compute side as the server sees it: text in, sequences out, packed sequences in, rows out. Nothing here knows a device.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cloze::attention::{Ablation, Attention, HeadPlace};
use cloze::task::{Context, Options, Output, Runner, Sequence, Task};
use cloze::tensor::Dtype;
use cloze::text::Encoding;
use cloze::train::run::Precision;
use cloze::{Device, Encoders, Pipeline};
use serde_json::Value;

/// What a model is, for /info and for routes that ask whether they can be served.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// `model_type` of its family.
    pub family: String,
    /// Element kind of its activations, as other programs write it.
    pub dtype: &'static str,
    /// Whether it has a classifier of sequences; its labels stand in the context.
    pub classifies: bool,
    /// Length of an embedding.
    pub embedding_size: usize,
    /// Texts that may be put before an input, by name.
    pub prompts: BTreeMap<String, String>,
    /// H.
    pub hidden_size: usize,
    /// Layers.
    pub layers: usize,
    /// Attention heads of a layer.
    pub heads: usize,
    /// Parameters.
    pub parameters: usize,
}

/// A model that runs packed sequences. Text is cut into tokens on other threads meanwhile, with its context.
pub trait Engine: Send + Sync {
    /// What it is.
    fn card(&self) -> &Card;

    /// What encoding and decoding need: tokenizer, labels, lengths.
    fn context(&self) -> &Arc<Context>;

    /// Whether it has what a task reads.
    fn serves(&self, task: &dyn Task) -> bool;

    /// The hash of the encoder that it shares with models of the same one; `None` where it keeps its own.
    fn encoder(&self) -> Option<String> {
        None
    }

    /// Outputs of these sequences, in their order: one packed run. The bits of an output do not depend on its neighbours.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn run(&self, sequences: &[&Sequence]) -> Result<Vec<Output>, String>;

    /// A look into every attention for a text or a pair, with some heads switched off; `None` for engines that do not show it.
    fn attention(&self, encoding: &Encoding, off: &[HeadPlace]) -> Option<Result<Attention, cloze::Error>> {
        let _ = (encoding, off);
        None
    }

    /// What the model answers with all heads, without `off`, and, with `each`, without each head alone; `None` for engines that cannot
    /// switch heads off.
    fn ablation(&self, task: &dyn Task, input: &Value, off: &[HeadPlace], each: bool) -> Option<Result<Ablation, cloze::Error>> {
        let _ = (task, input, off, each);
        None
    }

    /// The task that [`Engine::ablation`] looks at where none is named.
    fn ablation_task(&self, text: &str) -> Option<&'static dyn Task> {
        let _ = text;
        None
    }
}

/// A model of ours.
pub struct PipelineEngine {
    pipeline: Pipeline<'static>,
    card: Card,
}

impl PipelineEngine {
    /// Load a model's folder.
    ///
    /// # Errors
    /// As [`Pipeline::load`].
    pub fn load(device: &'static Device, folder: &Path, precision: Precision, max_length: Option<usize>) -> Result<Self, cloze::Error> {
        Ok(Self::of(device, Pipeline::load(device, folder, precision, max_length)?, precision))
    }

    /// Load a model's or an adapter's folder on an encoder that is kept once for all models that have the same.
    ///
    /// # Errors
    /// As [`Pipeline::load_shared`].
    pub fn load_shared(
        device: &'static Device,
        folder: &Path,
        precision: Precision,
        max_length: Option<usize>,
        encoders: &Encoders,
    ) -> Result<Self, cloze::Error> {
        Ok(Self::of(device, Pipeline::load_shared(device, folder, precision, max_length, encoders)?, precision))
    }

    fn of(device: &Device, pipeline: Pipeline<'static>, precision: Precision) -> Self {
        let model = pipeline.model();
        let dtype = match device.dtype(precision) {
            Dtype::F32 => "float32",
            Dtype::Bf16 => "bfloat16",
        };
        let settings = &pipeline.context().settings;
        let prefixes = [("query", &settings.query_prefix), ("passage", &settings.passage_prefix), ("document", &settings.passage_prefix)];
        let mut prompts = settings.prompts.clone();
        // An empty one that is none of the folder's says that the default one does not stand there.
        let said = |text: &String| !text.is_empty() || !settings.default_prefix.is_empty();
        prompts.extend(prefixes.into_iter().filter(|(_, text)| said(text)).map(|(name, text)| (name.to_owned(), text.clone())));
        let card = Card {
            family: model.family.to_owned(),
            dtype,
            classifies: model.classifier().is_some(),
            embedding_size: model.blueprint.hidden_size,
            prompts,
            hidden_size: model.blueprint.hidden_size,
            layers: model.blueprint.num_hidden_layers,
            heads: model.blueprint.num_attention_heads,
            parameters: model.table().count(),
        };
        Self { pipeline, card }
    }
}

impl Engine for PipelineEngine {
    fn card(&self) -> &Card {
        &self.card
    }

    fn context(&self) -> &Arc<Context> {
        self.pipeline.context()
    }

    fn serves(&self, task: &dyn Task) -> bool {
        self.pipeline.serves(task)
    }

    fn encoder(&self) -> Option<String> {
        self.pipeline.encoder()
    }

    fn run(&self, sequences: &[&Sequence]) -> Result<Vec<Output>, String> {
        self.pipeline.run(sequences).map_err(|e| e.to_string())
    }

    fn attention(&self, encoding: &Encoding, off: &[HeadPlace]) -> Option<Result<Attention, cloze::Error>> {
        Some(self.pipeline.attention_without(encoding, off))
    }

    fn ablation(&self, task: &dyn Task, input: &Value, off: &[HeadPlace], each: bool) -> Option<Result<Ablation, cloze::Error>> {
        Some(self.pipeline.ablation(task, input, &Options::default(), off, each))
    }

    fn ablation_task(&self, text: &str) -> Option<&'static dyn Task> {
        self.pipeline.ablation_task(text)
    }
}
