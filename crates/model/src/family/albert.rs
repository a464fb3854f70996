//! ALBERT (Lan et al. 2019): layers that share their weights, narrow embeddings, sentence order instead of next sentence.

use serde_json::{Map, Value, json};

use super::layout::{answers, bert_blueprint, bert_config, decimal, layer, one, stacked};
use crate::blueprint::Blueprint;
use crate::error::ModelError;
use crate::files::config::Config;
use crate::model::Model;
use crate::params::Spec;
use crate::registry::{Class, Copied, Family, TensorName};

/// The family.
pub static ALBERT: Family = Family {
    model_type: "albert",
    class: "Albert",
    classes: &[Class::Body, Class::PreTraining, Class::MaskedLm, Class::Sequence, Class::Tokens, Class::Span, Class::Choice],
    prefix: "albert.",
    blueprint,
    config,
    names,
    copies: &[(Copied::Untied, "mlm.bias", "predictions.decoder.bias")],
    constants: |_| vec![],
};

fn blueprint(c: &Config) -> Result<Blueprint, ModelError> {
    c.refuse_unless_size("inner_group_num", 1)?;
    let base = bert_blueprint(c, 0, 2, 1e-12)?;
    let hidden_act = c.activation_or("hidden_act", "gelu_new")?;
    Ok(Blueprint {
        embedding_size: c.size_or("embedding_size", 128)?,
        embedding_projection: true,
        num_hidden_groups: c.size_or("num_hidden_groups", 1)?,
        hidden_act,
        prediction_act: hidden_act,
        hidden_dropout: c.share_or("hidden_dropout_prob", 0.0)?,
        attention_dropout: c.share_or("attention_probs_dropout_prob", 0.0)?,
        classifier_dropout: c.share_or("classifier_dropout_prob", 0.1)?,
        ..base
    })
}

fn config(model: &Model) -> Map<String, Value> {
    let b = &model.blueprint;
    let mut keys = bert_config(b);
    keys.remove("classifier_dropout");
    keys.remove("use_cache");
    keys.insert("classifier_dropout_prob".into(), decimal(b.classifier_dropout));
    keys.insert("embedding_size".into(), json!(b.embedding_size));
    keys.insert("inner_group_num".into(), json!(1));
    keys.insert("num_hidden_groups".into(), json!(b.num_hidden_groups));
    keys
}

fn names(spec: &Spec, _: &Blueprint) -> Vec<TensorName> {
    if let Some((group, part, kind)) = layer(&spec.name) {
        let at = |part: &str| format!("albert.encoder.albert_layer_groups.{group}.albert_layers.0.{part}.{kind}");
        return match part {
            "attention.qkv" => stacked(spec, ["query", "key", "value"].map(|which| at(&format!("attention.{which}")))),
            "attention.out" => one(spec, at("attention.dense")),
            "attention.norm" => one(spec, at("attention.LayerNorm")),
            "mlp.up" => one(spec, at("ffn")),
            "mlp.down" => one(spec, at("ffn_output")),
            "mlp.norm" => one(spec, at("full_layer_layer_norm")),
            _ => vec![],
        };
    }
    let Some((part, kind)) = spec.name.rsplit_once('.') else { return vec![] };
    let ours = match part {
        "embeddings.word" => "albert.embeddings.word_embeddings",
        "embeddings.position" => "albert.embeddings.position_embeddings",
        "embeddings.segment" => "albert.embeddings.token_type_embeddings",
        "embeddings.norm" => "albert.embeddings.LayerNorm",
        "embeddings.projection" => "albert.encoder.embedding_hidden_mapping_in",
        "pooler" => "albert.pooler",
        "mlm.dense" => "predictions.dense",
        "mlm.norm" => "predictions.LayerNorm",
        "mlm.decoder" => "predictions.decoder",
        "mlm" => "predictions",
        "nsp" => "sop_classifier.classifier",
        _ => match answers(part) {
            Some(name) => name,
            None => return vec![],
        },
    };
    one(spec, format!("{ours}.{kind}"))
}
