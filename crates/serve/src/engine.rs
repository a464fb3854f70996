//! The compute side as the server sees it: text in, sequences out, packed sequences in, rows out. Nothing here knows a device.

use std::collections::BTreeMap;
use std::path::Path;

use cloze::attention::Attention;
use cloze::task::job::{Output, Sequence};
use cloze::task::text_classification::TextInput;
use cloze::text::Tokenizer;
use cloze::train::run::Precision;
use cloze::{Device, Pipeline};

/// What a model is, for /info and for routes that ask whether they can be served.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// `model_type` of its family.
    pub family: String,
    /// Element kind of its activations.
    pub dtype: String,
    /// Tokens of the longest input.
    pub max_length: usize,
    /// The labels of its classifier; empty: none.
    pub labels: Vec<String>,
    /// Whether it has a masked-LM head.
    pub masked_lm: bool,
    /// How token vectors become one: `cls`, `mean`, `max`.
    pub pooling: String,
    /// Length of an embedding.
    pub embedding_size: usize,
    /// Texts that may be put before an input, by name.
    pub prompts: BTreeMap<String, String>,
    /// The one that is put there when none is named.
    pub default_prompt: Option<String>,
    /// H.
    pub hidden_size: usize,
    /// Layers.
    pub layers: usize,
    /// Attention heads of a layer.
    pub heads: usize,
    /// Parameters.
    pub parameters: usize,
}

/// A model that runs packed sequences. Called by one thread at a time; text is cut into tokens on others meanwhile.
pub trait Engine: Send + Sync {
    /// What it is.
    fn card(&self) -> &Card;

    /// Its tokenizer.
    fn tokenizer(&self) -> &Tokenizer;

    /// Outputs of these sequences, in their order: one packed run. The bits of an output do not depend on its neighbours.
    ///
    /// # Errors
    /// What went wrong, in words.
    fn run(&self, sequences: &[&Sequence]) -> Result<Vec<Output>, String>;

    /// The attention of every layer and head for a text or a pair of at most `longest` tokens.
    ///
    /// # Errors
    /// What went wrong, in words; also for engines that do not show it.
    fn attention(&self, first: &str, second: Option<&str>, longest: usize) -> Result<Attention, String> {
        let _ = (first, second, longest);
        Err("this model does not show its attention".into())
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
        let pipeline = Pipeline::load(device, folder, precision, max_length)?;
        let model = pipeline.model();
        let card = Card {
            family: model.family.to_owned(),
            dtype: pipeline.dtype_name().to_owned(),
            max_length: pipeline.max_length(),
            labels: model.heads.labels.clone(),
            masked_lm: model.masked_lm().is_some(),
            pooling: "mean".to_owned(),
            embedding_size: model.blueprint.hidden_size,
            prompts: BTreeMap::new(),
            default_prompt: None,
            hidden_size: model.blueprint.hidden_size,
            layers: model.blueprint.num_hidden_layers,
            heads: model.blueprint.num_attention_heads,
            parameters: model.table().count(),
        };
        Ok(Self { pipeline, card })
    }
}

impl Engine for PipelineEngine {
    fn card(&self) -> &Card {
        &self.card
    }

    fn tokenizer(&self) -> &Tokenizer {
        self.pipeline.tokenizer()
    }

    fn run(&self, sequences: &[&Sequence]) -> Result<Vec<Output>, String> {
        self.pipeline.run(sequences).map_err(|e| e.to_string())
    }

    fn attention(&self, first: &str, second: Option<&str>, longest: usize) -> Result<Attention, String> {
        let input = TextInput { first: first.to_owned(), second: second.map(str::to_owned) };
        let found = self.pipeline.length(&input).map_err(|e| e.to_string())?;
        if found > longest {
            return Err(format!("{found} tokens; a text of at most {longest} is shown"));
        }
        self.pipeline.attention(&input).map_err(|e| e.to_string())
    }
}
