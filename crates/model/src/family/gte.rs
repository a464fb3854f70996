//! GTE (Zhang et al. 2024, "mGTE"): BERT with rotary positions and a gated feed-forward, whose first map has no bias.

use cloze_tensor::ops::activation::Activation;
use serde_json::{Map, Value, json};

use super::layout::{answers, bert_blueprint, bert_config, decimal, layer, one, ordered, rope_theta, theta_of};
use crate::blueprint::{Blueprint, Mlp, Position};
use crate::error::ModelError;
use crate::files::config::Config;
use crate::model::Model;
use crate::params::Spec;
use crate::registry::{Class, Family, TensorName};

/// The family. Dropout of the gated activation, which its authors train with, is not applied.
pub static GTE: Family = Family {
    model_type: "gte",
    class: "Gte",
    classes: &[Class::Body, Class::MaskedLm, Class::Sequence, Class::Tokens],
    prefix: "gte.",
    blueprint,
    config,
    names,
    copies: &[],
    constants: |_| vec![],
};

fn blueprint(c: &Config) -> Result<Blueprint, ModelError> {
    let base = bert_blueprint(c, 0, 1, 1e-12)?;
    Ok(Blueprint {
        position: Position::Rotary {
            max: c.size_or("max_position_embeddings", 8192)?,
            theta: rope_theta(c, None, "rope_theta", 160_000.0)?,
        },
        mlp: Mlp::Gated,
        up_bias: false,
        prediction_act: Activation::Gelu,
        attention_dropout: c.share_or("attention_probs_dropout_prob", 0.0)?,
        ..base
    })
}

fn config(model: &Model) -> Map<String, Value> {
    let b = &model.blueprint;
    let mut keys = bert_config(b);
    keys.remove("position_embedding_type");
    keys.remove("use_cache");
    keys.insert("rope_parameters".into(), json!({ "rope_theta": decimal(theta_of(b)), "rope_type": "default" }));
    keys
}

fn names(spec: &Spec, b: &Blueprint) -> Vec<TensorName> {
    if let Some((index, part, kind)) = layer(&spec.name) {
        let at = |part: &str| format!("gte.encoder.layer.{index}.{part}.{kind}");
        let i = b.intermediate_size;
        return match part {
            "attention.qkv" => one(spec, at("attention.qkv_proj")),
            "attention.out" => one(spec, at("attention.o_proj")),
            "attention.norm" => one(spec, at("attn_ln")),
            // The map without an activation comes first there.
            "mlp.up" => ordered(spec, at("mlp.up_gate_proj"), [i..2 * i, 0..i]),
            "mlp.down" => one(spec, at("mlp.down_proj")),
            "mlp.norm" => one(spec, at("mlp_ln")),
            _ => vec![],
        };
    }
    let Some((part, kind)) = spec.name.rsplit_once('.') else { return vec![] };
    let ours = match part {
        "embeddings.word" => "gte.embeddings.word_embeddings",
        "embeddings.segment" => "gte.embeddings.token_type_embeddings",
        "embeddings.norm" => "gte.embeddings.LayerNorm",
        "pooler" => "gte.pooler.dense",
        "mlm.dense" => "lm_head.dense",
        "mlm.norm" => "lm_head.norm",
        "mlm.decoder" | "mlm" => "lm_head.decoder",
        _ => match answers(part) {
            Some(name) => name,
            None => return vec![],
        },
    };
    one(spec, format!("{ours}.{kind}"))
}
