//! ERNIE (Sun et al. 2020): BERT with an embedding of the task, whose first row stands for all that a reader does.

use serde_json::{Map, Value, json};

use super::bert::head;
use super::layout::{bert_blueprint, bert_body, bert_config, one};
use crate::blueprint::Blueprint;
use crate::error::ModelError;
use crate::files::config::Config;
use crate::model::Model;
use crate::params::Spec;
use crate::registry::{Class, Copied, Family, TensorName};

/// The family.
pub static ERNIE: Family = Family {
    model_type: "ernie",
    class: "Ernie",
    classes: &[
        Class::Body,
        Class::PreTraining,
        Class::MaskedLm,
        Class::NextSentence,
        Class::Sequence,
        Class::Tokens,
        Class::Span,
        Class::Choice,
    ],
    prefix: "ernie.",
    blueprint,
    config,
    names,
    copies: &[(Copied::Untied, "mlm.bias", "cls.predictions.decoder.bias")],
    constants: |_| vec![],
};

fn blueprint(c: &Config) -> Result<Blueprint, ModelError> {
    let task_type_vocab_size = if c.flag_or("use_task_id", false)? { c.size_or("task_type_vocab_size", 3)? } else { 0 };
    Ok(Blueprint { task_type_vocab_size, ..bert_blueprint(c, 0, 2, 1e-12)? })
}

fn config(model: &Model) -> Map<String, Value> {
    let tasks = model.blueprint.task_type_vocab_size;
    let mut keys = bert_config(&model.blueprint);
    keys.insert("use_task_id".into(), json!(tasks > 0));
    keys.insert("task_type_vocab_size".into(), json!(if tasks > 0 { tasks } else { 3 }));
    keys
}

fn names(spec: &Spec, _: &Blueprint) -> Vec<TensorName> {
    let body = bert_body("ernie.", spec);
    match spec.name.rsplit_once('.') {
        Some((part, kind)) if body.is_empty() => head(part, kind).map(|name| one(spec, name)).unwrap_or_default(),
        _ => body,
    }
}
