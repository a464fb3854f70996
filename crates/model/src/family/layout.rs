//! What several families write alike: BERT's names of the body's tensors, sizes, numbers.

use std::ops::Range;

use serde_json::{Map, Value, json};

use crate::blueprint::{Blueprint, Position};
use crate::error::ModelError;
use crate::files::config::{Config, act_name, brief};
use crate::params::Spec;
use crate::registry::TensorName;

/// One tensor that holds the whole parameter.
pub(super) fn one(spec: &Spec, name: impl Into<String>) -> Vec<TensorName> {
    ordered(spec, name, std::iter::once(0..spec.units().0))
}

/// One tensor that holds these rows of the parameter in its own order.
pub(super) fn ordered(spec: &Spec, name: impl Into<String>, pieces: impl IntoIterator<Item = Range<usize>>) -> Vec<TensorName> {
    let tensor = TensorName { name: name.into(), pieces: pieces.into_iter().collect() };
    debug_assert_eq!(tensor.rows(), spec.units().0, "{}: {} does not hold all of it", spec.name, tensor.name);
    vec![tensor]
}

/// Tensors of equal size that stand on top of each other in the parameter.
pub(super) fn stacked(spec: &Spec, names: impl IntoIterator<Item = String, IntoIter: ExactSizeIterator>) -> Vec<TensorName> {
    let names = names.into_iter();
    let rows = spec.units().0 / names.len();
    names.enumerate().map(|(i, name)| TensorName { name, pieces: std::iter::once(i * rows..(i + 1) * rows).collect() }).collect()
}

/// `layer.3.mlp.up.weight` → (`3`, `mlp.up`, `weight`).
pub(super) fn layer(name: &str) -> Option<(&str, &str, &str)> {
    let (index, rest) = name.strip_prefix("layer.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    Some((index, part, kind))
}

/// BERT's names for the tensors of the body and its pooler, after `prefix`; empty for those of heads.
pub(super) fn bert_body(prefix: &str, spec: &Spec) -> Vec<TensorName> {
    if let Some((index, part, kind)) = layer(&spec.name) {
        let at = |part: &str| format!("{prefix}encoder.layer.{index}.{part}.{kind}");
        return match part {
            "attention.qkv" => stacked(spec, ["query", "key", "value"].map(|which| at(&format!("attention.self.{which}")))),
            "attention.out" => one(spec, at("attention.output.dense")),
            "attention.norm" => one(spec, at("attention.output.LayerNorm")),
            "mlp.up" => one(spec, at("intermediate.dense")),
            "mlp.down" => one(spec, at("output.dense")),
            "mlp.norm" => one(spec, at("output.LayerNorm")),
            _ => vec![],
        };
    }
    let Some((part, kind)) = spec.name.rsplit_once('.') else { return vec![] };
    let ours = match part {
        "embeddings.word" => "embeddings.word_embeddings",
        "embeddings.position" => "embeddings.position_embeddings",
        "embeddings.segment" => "embeddings.token_type_embeddings",
        "embeddings.task" => "embeddings.task_type_embeddings",
        "embeddings.norm" => "embeddings.LayerNorm",
        "embeddings.projection" => "embeddings_project",
        "pooler" => "pooler.dense",
        _ => return vec![],
    };
    one(spec, format!("{prefix}{ours}.{kind}"))
}

/// The names that nearly all families give to the last linear map of what they answer.
pub(super) fn answers(part: &str) -> Option<&'static str> {
    match part {
        "classifier" | "tokens" | "choice" => Some("classifier"),
        "span" => Some("qa_outputs"),
        _ => None,
    }
}

/// The names of RoBERTa's heads, which others took over with its layout.
pub(super) fn roberta_heads(part: &str) -> Option<&'static str> {
    match part {
        "mlm.dense" => Some("lm_head.dense"),
        "mlm.norm" => Some("lm_head.layer_norm"),
        "mlm.decoder" => Some("lm_head.decoder"),
        "mlm" => Some("lm_head"),
        "summary" => Some("classifier.dense"),
        "classifier" => Some("classifier.out_proj"),
        _ => answers(part),
    }
}

/// BERT's keys of config.json, read: sizes, segments, learned positions (counted from `offset`), dropout, activation.
pub(super) fn bert_blueprint(c: &Config, offset: usize, segments: usize, eps: f32) -> Result<Blueprint, ModelError> {
    c.refuse_unless("position_embedding_type", "absolute")?;
    c.refuse_unless_flag("is_decoder", false)?;
    c.refuse_unless_flag("add_cross_attention", false)?;
    let base = Blueprint::bert(
        c.size("vocab_size")?,
        c.size("num_hidden_layers")?,
        c.size("hidden_size")?,
        c.size("num_attention_heads")?,
        c.size("intermediate_size")?,
    );
    let hidden_act = c.activation_or("hidden_act", "gelu")?;
    let hidden_dropout = c.share_or("hidden_dropout_prob", 0.1)?;
    Ok(Blueprint {
        type_vocab_size: c.size_or("type_vocab_size", segments)?,
        position: Position::Learned { max: c.size_or("max_position_embeddings", 512)?, offset },
        layer_norm_eps: c.number_or("layer_norm_eps", eps)?,
        hidden_act,
        prediction_act: hidden_act,
        hidden_dropout,
        attention_dropout: c.share_or("attention_probs_dropout_prob", 0.1)?,
        classifier_dropout: c.share_or("classifier_dropout", hidden_dropout)?,
        initializer_range: c.number_or("initializer_range", 0.02)?,
        tie_word_embeddings: c.flag_or("tie_word_embeddings", true)?,
        ..base
    })
}

/// The base of the rotary angles: in `rope_parameters` (there under `kind`, where layers differ), or under the older key. Angles that are
/// scaled are refused under each key that says so: without the scale every answer would be another.
pub(super) fn rope_theta(c: &Config, kind: Option<&str>, key: &'static str, default: f32) -> Result<f32, ModelError> {
    if let Some(scaling) = c.get("rope_scaling") {
        let kinds = ["rope_type", "type"].map(|key| scaling.get(key));
        if !scaling.is_object() || kinds.into_iter().flatten().any(|kind| kind.as_str() != Some("default")) {
            return Err(c.unknown("rope_scaling", &brief(scaling), "null, or rope_type \"default\": angles that are not scaled"));
        }
    }
    let parameters = c.get("rope_parameters").and_then(|p| kind.map_or(Some(p), |kind| p.get(kind)));
    let Some(parameters) = parameters else { return c.number_or(key, default) };
    match parameters.get("rope_type").and_then(Value::as_str) {
        None | Some("default") => {}
        Some(other) => return Err(c.unknown("rope_parameters", other, "rope_type \"default\"")),
    }
    match parameters.get("rope_theta").map(|t| t.as_f64().filter(|t| t.is_finite() && *t > 0.0)) {
        None => c.number_or(key, default),
        Some(Some(theta)) => Ok(theta as f32),
        Some(None) => Err(c.unknown("rope_parameters", &parameters.to_string(), "a rope_theta above 0")),
    }
}

/// The base of the rotary angles of a body whose layers are alike; the usual one without.
pub(super) fn theta_of(b: &Blueprint) -> f32 {
    match b.position {
        Position::Rotary { theta, .. } => theta,
        Position::Learned { .. } => 10_000.0,
    }
}

/// BERT's keys of config.json, written.
pub(super) fn bert_config(b: &Blueprint) -> Map<String, Value> {
    let mut keys = sizes(b);
    keys.extend(object(json!({
        "attention_probs_dropout_prob": decimal(b.attention_dropout),
        "classifier_dropout": if b.classifier_dropout == b.hidden_dropout { Value::Null } else { decimal(b.classifier_dropout) },
        "hidden_act": act_name(b.hidden_act),
        "hidden_dropout_prob": decimal(b.hidden_dropout),
        "initializer_range": decimal(b.initializer_range),
        "layer_norm_eps": decimal(b.layer_norm_eps),
        "max_position_embeddings": rows_of_positions(b),
        "position_embedding_type": "absolute",
        "type_vocab_size": b.type_vocab_size,
        "use_cache": true,
    })));
    keys
}

/// The sizes by their usual keys.
pub(super) fn sizes(b: &Blueprint) -> Map<String, Value> {
    object(json!({
        "hidden_size": b.hidden_size,
        "num_hidden_layers": b.num_hidden_layers,
        "num_attention_heads": b.num_attention_heads,
        "intermediate_size": b.intermediate_size,
    }))
}

/// `max_position_embeddings`.
pub(super) fn rows_of_positions(b: &Blueprint) -> usize {
    match b.position {
        Position::Learned { max, .. } | Position::Rotary { max, .. } => max,
    }
}

/// The map of a JSON object.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// An f32 as the shortest decimal that reads back to it (0.1, not 0.10000000149).
pub(crate) fn decimal(v: f32) -> Value {
    v.to_string().parse::<f64>().map_or(Value::Null, |v| json!(v))
}
