//! What tasks know of the model they answer with, and what a caller may ask for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cloze_model::Problem;
use cloze_model::files::sentence::{SentenceDense, SentenceModel, SentencePooling};
use cloze_model::head::pooling::Pooling;
use cloze_text::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::TaskError;

/// What a model's folder says of its task, beyond its configuration: `cloze_task.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The task that it was trained for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// How the vectors of a sequence become its embedding: `cls`, `mean`, `max` or `lasttoken`.
    #[serde(with = "pooling_name")]
    pub pooling: Pooling,
    /// Whether embeddings have length 1.
    pub normalize: bool,
    /// Linear maps between pooling and normalising; sentence-transformers' folders have them in files of their own.
    #[serde(skip)]
    pub dense: Vec<SentenceDense>,
    /// Prefix lengths that embeddings were trained to be cut to, the longest first (Kusupati et al. 2022); empty: whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dimensions: Vec<usize>,
    /// Put before a text that is neither a query nor searched: one whose vector is asked for alone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub default_prefix: String,
    /// Put before queries.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub query_prefix: String,
    /// Put before texts that are searched.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub passage_prefix: String,
    /// What else its folder has to put before texts, by name: for whoever asks for one of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub prompts: BTreeMap<String, String>,
    /// Question answering: whether it was trained on questions without an answer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_answer: bool,
    /// The longest sequence it was trained on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// Sentence embedding: what the scores of training rows are divided by; found from the rows.
    #[serde(skip)]
    pub score_scale: Option<f32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            task: None,
            pooling: Pooling::Mean,
            normalize: true,
            dense: Vec::new(),
            dimensions: Vec::new(),
            default_prefix: String::new(),
            query_prefix: String::new(),
            passage_prefix: String::new(),
            prompts: BTreeMap::new(),
            no_answer: false,
            max_length: None,
            score_scale: None,
        }
    }
}

/// A pooling by its name.
mod pooling_name {
    use cloze_model::head::pooling::Pooling;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(pooling: &Pooling, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(pooling.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Pooling, D::Error> {
        let name = String::deserialize(deserializer)?;
        Pooling::of_name(&name).ok_or_else(|| serde::de::Error::custom(format!("pooling {name:?}: cls, mean, max or lasttoken")))
    }
}

/// The file of [`Settings`] in a model's folder.
pub const SETTINGS_FILE: &str = "cloze_task.json";

impl Settings {
    /// The settings of a model's folder: its own file, else what a sentence-transformers layout says.
    pub fn read(folder: &Path) -> Result<Self, TaskError> {
        let path = folder.join(SETTINGS_FILE);
        if path.exists() {
            return serde_json::from_value(json(&path)?).map_err(|e| TaskError::Settings { path, problem: e.to_string() });
        }
        let mut settings = Self::default();
        settings.sentence_transformers(folder)?;
        Ok(settings)
    }

    /// Pooling, linear maps and normalising as sentence-transformers writes them.
    fn sentence_transformers(&mut self, folder: &Path) -> Result<(), TaskError> {
        let fault = |problem: String| TaskError::Settings { path: folder.join("modules.json"), problem };
        let Some(found) = SentenceModel::read(folder).map_err(|e| fault(e.to_string()))? else { return Ok(()) };
        self.task = Some("sentence-embedding".into());
        self.pooling = match found.model.pooling {
            SentencePooling::Cls => Pooling::Cls,
            SentencePooling::Mean => Pooling::Mean,
            SentencePooling::Max => Pooling::Max,
            SentencePooling::Last => Pooling::Last,
            other => return Err(fault(format!("pooling \"{}\"; Cloze pools by cls, mean, max or lasttoken", other.name()))),
        };
        self.normalize = found.model.normalize;
        self.max_length = found.model.max_seq_length;
        // As `encode`, `encode_query` and `encode_document` choose: the prompt of that name, else the default one.
        let prompts = &found.model.prompts;
        let default = found.model.default_prompt.as_ref().and_then(|name| prompts.get(name)).cloned().unwrap_or_default();
        let named = |names: &[&str]| names.iter().find_map(|name| prompts.get(*name)).unwrap_or(&default).clone();
        self.query_prefix = named(&["query"]);
        self.passage_prefix = named(&["document", "passage", "corpus"]);
        self.default_prefix = default;
        self.dense = found.model.dense;
        let written = self.sentences().map(|model| model.prompts).unwrap_or_default();
        self.prompts = found.model.prompts.into_iter().filter(|(name, text)| written.get(name) != Some(text)).collect();
        Ok(())
    }

    /// The same in the layout of sentence-transformers; `None` for tasks without embeddings.
    fn sentences(&self) -> Option<SentenceModel> {
        let pooling = match self.pooling {
            Pooling::Cls => SentencePooling::Cls,
            Pooling::Mean => SentencePooling::Mean,
            Pooling::Max => SentencePooling::Max,
            Pooling::Last => SentencePooling::Last,
        };
        // Where there is a default prompt, a use without one says so.
        let written = |text: &String| !text.is_empty() || !self.default_prefix.is_empty();
        let mut prompts = self.prompts.clone();
        let own = [("query", &self.query_prefix), ("document", &self.passage_prefix)].into_iter().filter(|(_, text)| written(text));
        prompts.extend(own.map(|(name, text)| (name.to_owned(), text.clone())));
        let default_prompt = (!self.default_prefix.is_empty()).then(|| {
            let among = prompts.iter().find(|(_, text)| **text == self.default_prefix).map(|(name, _)| name.clone());
            among.unwrap_or_else(|| {
                prompts.insert("default".into(), self.default_prefix.clone());
                "default".into()
            })
        });
        let embeds = matches!(self.task.as_deref(), Some("sentence-embedding" | "recommendation"));
        embeds.then(|| SentenceModel {
            pooling,
            normalize: self.normalize,
            max_seq_length: self.max_length,
            prompts,
            default_prompt,
            ..SentenceModel::default()
        })
    }

    /// Write the settings into a model's folder; those of embeddings also in the layout of sentence-transformers. `hidden` is the
    /// width of the encoder.
    pub fn write(&self, folder: &Path, hidden: usize) -> Result<(), TaskError> {
        if let Some(model) = self.sentences() {
            model.write(folder, hidden)?;
        }
        let path = folder.join(SETTINGS_FILE);
        let text = serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        std::fs::write(&path, text).map_err(|e| TaskError::Settings { path, problem: e.to_string() })
    }
}

fn json(path: &Path) -> Result<Value, TaskError> {
    let fault = |problem: String| TaskError::Settings { path: PathBuf::from(path), problem };
    let bytes = std::fs::read(path).map_err(|e| fault(e.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|e| fault(e.to_string()))
}

/// What tasks need of a model to encode and decode: everything but its weights.
#[derive(Debug)]
pub struct Context {
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The labels of its head, in the order of their ids.
    pub labels: Vec<String>,
    /// How sequence labels are meant.
    pub problem: Problem,
    /// Tokens of the longest sequence.
    pub max_length: usize,
    /// What its folder says.
    pub settings: Settings,
}

/// What a caller may ask for; a task takes what it knows. Absent values are the task's defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// How many candidates, labels, answers or hits; all by default where that is few.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Question answering: added to the scores of spans before they are compared with that of no answer (0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// Logits instead of probabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_scores: Option<bool>,
    /// Question answering: tokens that two windows of a long context share (128).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride: Option<usize>,
    /// Question answering: tokens of the longest answer (30).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_answer_tokens: Option<usize>,
    /// Question answering: whether "no answer" may be the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_answer: Option<bool>,
    /// Token classification: every token's label instead of entities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<bool>,
    /// Fill-mask: all masks together, by a beam, instead of each on its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joint: Option<bool>,
    /// Fill-mask: width of the beam (10).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beams: Option<usize>,
    /// Fill-mask: only these words, of any number of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<String>>,
    /// Fill-mask: whole words of up to this many tokens for each mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub word_tokens: Option<usize>,
    /// Embeddings: cut to this length before normalising.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<usize>,
    /// Embeddings: length 1, or as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalize: Option<bool>,
    /// Zero-shot: the hypothesis, with `{}` for the label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypothesis: Option<String>,
    /// Zero-shot: each label on its own instead of one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multi_label: Option<bool>,
}
