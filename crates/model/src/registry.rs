//! The list of model families.

use crate::blueprint::Blueprint;
use crate::error::ModelError;
use crate::files::config::Config;
use crate::model::{Heads, Model, Output};
use crate::params::Spec;

/// How a family writes its configuration and names its tensors.
pub struct Family {
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// What its names in `architectures` start with, as `Bert` in `BertForMaskedLM`.
    pub class: &'static str,
    /// What its names in `architectures` go on with.
    pub classes: &'static [Class],
    /// What stands before the body's tensor names in files with a head; a bare body may leave it out.
    pub prefix: &'static str,
    /// The blueprint that a configuration describes.
    pub blueprint: fn(&Config) -> Result<Blueprint, ModelError>,
    /// The keys of config.json for a model, beyond those that all families share.
    pub config: fn(&Model) -> serde_json::Map<String, serde_json::Value>,
    /// The tensors that hold a parameter: names, and which rows of it (all of them when there is one name).
    pub names: fn(&Spec, &Blueprint) -> Vec<TensorName>,
    /// Names under which readers of the family's files look for one more copy of a parameter: (when, parameter, name).
    pub copies: &'static [(Copied, &'static str, &'static str)],
    /// What its files hold beside the parameters.
    pub constants: fn(&Blueprint) -> Vec<Constant>,
}

/// When a file holds one more copy of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// Always.
    Always,
    /// Where the vocabulary projection is not the embedding table.
    Untied,
}

/// A tensor of a file as part of one of our parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorName {
    /// Its name in files that Cloze writes.
    pub name: String,
    /// The rows (of a vector: the elements) of our parameter that it holds, in its order.
    pub pieces: Vec<std::ops::Range<usize>>,
}

impl TensorName {
    /// How many rows it holds.
    pub fn rows(&self) -> usize {
        self.pieces.iter().map(std::ops::Range::len).sum()
    }

    /// Its rows, of `width` each, out of those of the parameter.
    pub fn take<T: Copy>(&self, parameter: &[T], width: usize) -> Vec<T> {
        self.pieces.iter().flat_map(|piece| &parameter[piece.start * width..piece.end * width]).copied().collect()
    }

    /// Its rows, of `width` each, to their places in the parameter.
    pub fn put<T: Copy>(&self, mut tensor: &[T], parameter: &mut [T], width: usize) {
        for piece in &self.pieces {
            let (rows, rest) = tensor.split_at(piece.len() * width);
            parameter[piece.start * width..piece.end * width].copy_from_slice(rows);
            tensor = rest;
        }
    }
}

/// A tensor that readers of a family's files expect although it follows from the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Its name.
    pub name: &'static str,
    /// Its shape.
    pub shape: [usize; 2],
    /// Its values.
    pub values: Vec<f32>,
}

/// What a name in `architectures` says of the heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The body alone.
    Body,
    /// Masked LM with next sentence or sentence order.
    PreTraining,
    /// Masked LM.
    MaskedLm,
    /// Next sentence.
    NextSentence,
    /// Replaced token detection.
    ReplacedToken,
    /// Labels, or numbers, of a sequence.
    Sequence,
    /// Labels of tokens.
    Tokens,
    /// Start and end of an answer.
    Span,
    /// Multiple choice.
    Choice,
}

impl Class {
    /// The end of its name.
    pub fn suffix(self) -> &'static str {
        match self {
            Class::Body => "Model",
            Class::PreTraining | Class::ReplacedToken => "ForPreTraining",
            Class::MaskedLm => "ForMaskedLM",
            Class::NextSentence => "ForNextSentencePrediction",
            Class::Sequence => "ForSequenceClassification",
            Class::Tokens => "ForTokenClassification",
            Class::Span => "ForQuestionAnswering",
            Class::Choice => "ForMultipleChoice",
        }
    }

    /// Its heads; labels are filled in from id2label.
    pub fn heads(self) -> Heads {
        match self {
            Class::Body => Heads::body(),
            Class::PreTraining => Heads::pretraining(true),
            Class::MaskedLm => Heads::pretraining(false),
            Class::NextSentence => Heads { summary: true, next_sentence: true, ..Heads::default() },
            Class::ReplacedToken => Heads { replaced_token: true, ..Heads::default() },
            Class::Sequence => Heads::classification(vec![]),
            Class::Tokens => Heads::token_classification(vec![]),
            Class::Span => Heads::question_answering(),
            Class::Choice => Heads::multiple_choice(),
        }
    }

    /// The class whose files hold these heads.
    fn of(heads: &Heads) -> Self {
        match heads {
            Heads { output: Output::Sequence, .. } => Class::Sequence,
            Heads { output: Output::Tokens, .. } => Class::Tokens,
            Heads { output: Output::Span, .. } => Class::Span,
            Heads { output: Output::Choice, .. } => Class::Choice,
            Heads { replaced_token: true, .. } => Class::ReplacedToken,
            Heads { masked_lm: true, next_sentence: true, .. } => Class::PreTraining,
            Heads { masked_lm: true, .. } => Class::MaskedLm,
            Heads { next_sentence: true, .. } => Class::NextSentence,
            _ => Class::Body,
        }
    }
}

impl Family {
    /// The heads that an entry of `architectures` announces; `None`: not known.
    pub fn heads(&self, architecture: &str) -> Option<Heads> {
        // Some checkpoints name the class of the family whose layout they took over.
        let suffix = std::iter::once(self.class)
            .chain(FAMILIES.iter().map(|f| f.class))
            .filter_map(|class| architecture.strip_prefix(class))
            .find(|rest| self.classes.iter().any(|c| c.suffix() == *rest))?;
        self.classes.iter().find(|c| c.suffix() == suffix).map(|c| c.heads())
    }

    /// Whether a file with these heads holds the body alone, whose names have no prefix then.
    pub fn is_bare(&self, heads: &Heads) -> bool {
        Class::of(heads) == Class::Body
    }

    /// The `architectures` entry for a model with these heads; `None` where the family has no such class.
    pub fn architecture(&self, heads: &Heads) -> Option<String> {
        let class = Class::of(heads);
        self.classes.contains(&class).then(|| format!("{}{}", self.class, class.suffix()))
    }
}

/// All families.
pub static FAMILIES: [&Family; 14] = [
    &crate::family::bert::BERT,
    &crate::family::roberta::ROBERTA,
    &crate::family::roberta::XLM_ROBERTA,
    &crate::family::roberta::CAMEMBERT,
    &crate::family::distilbert::DISTILBERT,
    &crate::family::electra::ELECTRA,
    &crate::family::albert::ALBERT,
    &crate::family::modernbert::MODERNBERT,
    &crate::family::ernie::ERNIE,
    &crate::family::megatron_bert::MEGATRON_BERT,
    &crate::family::roformer::ROFORMER,
    &crate::family::nomic_bert::NOMIC_BERT,
    &crate::family::gte::GTE,
    &crate::family::mpnet::MPNET,
];

/// The family of that `model_type`.
pub fn family(model_type: &str) -> Option<&'static Family> {
    FAMILIES.into_iter().find(|f| f.model_type == model_type)
}
