//! ModernBERT (Warner et al. 2024), with every layer attending globally.

use cloze_tensor::ops::pool::Pool;
use serde_json::{Map, Value, json};

use super::bert::decimal;
use crate::blueprint::{Blueprint, Position};
use crate::error::ModelError;
use crate::files::config::{Config, act_name};
use crate::model::{Heads, Model};
use crate::params::Spec;
use crate::registry::{Family, TensorName};

/// The family.
pub static MODERNBERT: Family = Family { model_type: "modernbert", prefix: "model.", blueprint, config, architecture, heads, names };

fn blueprint(c: &Config) -> Result<Blueprint, ModelError> {
    c.refuse_unless_size("global_attn_every_n_layers", 1)?;
    for key in ["attention_bias", "mlp_bias", "norm_bias", "classifier_bias"] {
        c.refuse_unless_flag(key, false)?;
    }
    let pooling = match c.get("classifier_pooling").map_or(Ok("cls"), |_| c.text("classifier_pooling"))? {
        "cls" => Pool::First,
        "mean" => Pool::Mean,
        other => return Err(c.unknown("classifier_pooling", other, "cls or mean")),
    };
    let base = Blueprint::modern(
        c.size("vocab_size")?,
        c.size("num_hidden_layers")?,
        c.size("hidden_size")?,
        c.size("num_attention_heads")?,
        c.size("intermediate_size")?,
    );
    Ok(Blueprint {
        position: Position::Rotary {
            max: c.size_or("max_position_embeddings", 8192)?,
            theta: c.number_or("global_rope_theta", 160_000.0)?,
        },
        layer_norm_eps: c.number_or("norm_eps", 1e-5)?,
        hidden_act: c.activation_or("hidden_activation", "gelu")?,
        hidden_dropout: c.share_or("mlp_dropout", 0.0)?,
        attention_dropout: c.share_or("attention_dropout", 0.0)?,
        initializer_range: c.number_or("initializer_range", 0.02)?,
        pooling,
        tie_word_embeddings: c.flag_or("tie_word_embeddings", true)?,
        ..base
    })
}

fn config(model: &Model) -> Map<String, Value> {
    let b = &model.blueprint;
    let (max, theta) = match b.position {
        Position::Rotary { max, theta } => (max, theta),
        Position::Learned { max, .. } => (max, 10_000.0),
    };
    let keys = json!({
        "attention_bias": false,
        "attention_dropout": decimal(b.attention_dropout),
        "classifier_activation": act_name(b.hidden_act),
        "classifier_bias": false,
        "classifier_dropout": decimal(b.hidden_dropout),
        "classifier_pooling": if b.pooling == Pool::First { "cls" } else { "mean" },
        "decoder_bias": true,
        "embedding_dropout": decimal(b.hidden_dropout),
        "global_attn_every_n_layers": 1,
        "global_rope_theta": decimal(theta),
        "hidden_activation": act_name(b.hidden_act),
        "initializer_range": decimal(b.initializer_range),
        "layer_norm_eps": decimal(b.layer_norm_eps),
        "local_attention": 128,
        "local_rope_theta": decimal(theta),
        "max_position_embeddings": max,
        "mlp_bias": false,
        "mlp_dropout": decimal(b.hidden_dropout),
        "norm_bias": false,
        "norm_eps": decimal(b.layer_norm_eps),
    });
    match keys {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn architecture(heads: &Heads) -> &'static str {
    match heads {
        Heads { labels, .. } if !labels.is_empty() => "ModernBertForSequenceClassification",
        Heads { masked_lm: true, .. } => "ModernBertForMaskedLM",
        _ => "ModernBertModel",
    }
}

fn heads(architecture: &str) -> Option<Heads> {
    Some(match architecture {
        "ModernBertModel" => Heads::default(),
        "ModernBertForMaskedLM" => Heads::pretraining(false),
        "ModernBertForSequenceClassification" => Heads { summary: true, ..Heads::default() },
        _ => return None,
    })
}

fn names(spec: &Spec, _: &Blueprint) -> Vec<TensorName> {
    let rows = spec.units().0;
    let one = |name: String| vec![TensorName { name, rows: 0..rows }];
    let Some((part, kind)) = spec.name.rsplit_once('.') else { return vec![] };
    if let Some(rest) = part.strip_prefix("layer.") {
        let Some((index, part)) = rest.split_once('.') else { return vec![] };
        let ours = match part {
            "attention.qkv" => "attn.Wqkv",
            "attention.out" => "attn.Wo",
            "attention.norm" => "attn_norm",
            "mlp.up" => "mlp.Wi",
            "mlp.down" => "mlp.Wo",
            "mlp.norm" => "mlp_norm",
            _ => return vec![],
        };
        return one(format!("model.layers.{index}.{ours}.{kind}"));
    }
    one(match (part, kind) {
        ("embeddings.word", _) => "model.embeddings.tok_embeddings.weight".into(),
        ("embeddings.norm", _) => format!("model.embeddings.norm.{kind}"),
        ("final_norm", _) => format!("model.final_norm.{kind}"),
        ("mlm.dense", _) => format!("head.dense.{kind}"),
        ("mlm.norm", _) => format!("head.norm.{kind}"),
        ("mlm.decoder", _) => "decoder.weight".into(),
        ("mlm", "bias") => "decoder.bias".into(),
        ("classifier", _) => format!("classifier.{kind}"),
        _ => return vec![],
    })
}
