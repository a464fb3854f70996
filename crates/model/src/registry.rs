//! The list of model families.

use crate::blueprint::Blueprint;
use crate::error::ModelError;
use crate::files::config::Config;
use crate::model::{Heads, Model};
use crate::params::Spec;

/// How a family writes its configuration and names its tensors.
pub struct Family {
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// What stands before the body's tensor names in files with a head; a bare body may leave it out.
    pub prefix: &'static str,
    /// The blueprint that a configuration describes.
    pub blueprint: fn(&Config) -> Result<Blueprint, ModelError>,
    /// The keys of config.json for a model, beyond those that all families share.
    pub config: fn(&Model) -> serde_json::Map<String, serde_json::Value>,
    /// The `architectures` entry that has these heads.
    pub architecture: fn(&Heads) -> &'static str,
    /// The heads that an architecture has; labels are filled in from id2label. `None`: not known.
    pub heads: fn(&str) -> Option<Heads>,
    /// The tensors that hold a parameter: names, and which rows of it (all of them when there is one name).
    pub names: fn(&Spec, &Blueprint) -> Vec<TensorName>,
}

/// A tensor of a file as part of one of our parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorName {
    /// Its name in files that Cloze writes.
    pub name: String,
    /// The rows (of a vector: the elements) of our parameter that it holds.
    pub rows: std::ops::Range<usize>,
}

/// All families.
pub static FAMILIES: [&Family; 2] = [&crate::family::bert::BERT, &crate::family::modernbert::MODERNBERT];

/// The family of that `model_type`.
pub fn family(model_type: &str) -> Option<&'static Family> {
    FAMILIES.into_iter().find(|f| f.model_type == model_type)
}
