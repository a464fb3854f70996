//! Nomic BERT (Nussbaum et al. 2024): BERT with rotary positions and a gated feed-forward, without biases in its body.
//! Configurations come with BERT's keys and with GPT-2's.

use serde_json::{Map, Value, json};

use super::layout::{answers, bert_config, decimal, layer, one, rope_theta, rows_of_positions, stacked, theta_of};
use crate::blueprint::{Blueprint, Mlp, Position};
use crate::error::ModelError;
use crate::files::config::{Config, brief};
use crate::model::Model;
use crate::params::Spec;
use crate::registry::{Class, Copied, Family, TensorName};

/// The family.
pub static NOMIC_BERT: Family = Family {
    model_type: "nomic_bert",
    class: "NomicBert",
    classes: &[Class::Body, Class::MaskedLm, Class::Sequence, Class::Tokens],
    prefix: "nomic_bert.",
    blueprint,
    config,
    names,
    copies: &[(Copied::Untied, "mlm.bias", "cls.predictions.decoder.bias")],
    constants: |_| vec![],
};

fn blueprint(c: &Config) -> Result<Blueprint, ModelError> {
    for key in ["prenorm", "use_rms_norm", "qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "rotary_emb_interleaved", "causal"] {
        c.refuse_unless_flag(key, false)?;
    }
    if c.number_or("rotary_emb_fraction", 1.0)? != 1.0 {
        return Err(c.unknown("rotary_emb_fraction", "a part of the components", "1.0: all of them"));
    }
    if let Some(factor) = c.get("rotary_scaling_factor") {
        return Err(c.unknown("rotary_scaling_factor", &brief(factor), "null: angles that are not scaled"));
    }
    let key = |usual: &'static str, other: &'static str| if c.get(usual).is_some() { usual } else { other };
    let base = Blueprint::bert(
        c.size("vocab_size")?,
        c.size(key("num_hidden_layers", "n_layer"))?,
        c.size(key("hidden_size", "n_embd"))?,
        c.size(key("num_attention_heads", "n_head"))?,
        c.size(key("intermediate_size", "n_inner"))?,
    );
    if let Some(width) = c.get("head_dim")
        && width.as_u64() != Some(base.head_dim() as u64)
    {
        return Err(c.unknown("head_dim", &width.to_string(), "hidden_size / num_attention_heads"));
    }
    let gate = match c.get("activation_function").map(|_| c.text("activation_function")).transpose()? {
        None | Some("swiglu") => c.activation_or("hidden_act", "silu")?,
        Some("geglu") => c.activation_or("hidden_act", "gelu")?,
        Some(other) => return Err(c.unknown("activation_function", other, "swiglu or geglu")),
    };
    let hidden_dropout = c.share_or(key("hidden_dropout_prob", "resid_pdrop"), 0.0)?;
    Ok(Blueprint {
        type_vocab_size: c.size_or("type_vocab_size", 2)?,
        position: Position::Rotary {
            max: c.size_or(key("max_position_embeddings", "n_positions"), 2048)?,
            theta: rope_theta(c, None, "rotary_emb_base", 1000.0)?,
        },
        layer_norm_eps: c.number_or(key("layer_norm_eps", "layer_norm_epsilon"), 1e-12)?,
        linear_bias: false,
        up_bias: false,
        mlp: Mlp::Gated,
        hidden_act: gate,
        prediction_act: gate,
        hidden_dropout,
        attention_dropout: c.share_or(key("attention_probs_dropout_prob", "attn_pdrop"), 0.0)?,
        classifier_dropout: c.share_or("classifier_dropout", hidden_dropout)?,
        initializer_range: c.number_or("initializer_range", 0.02)?,
        tie_word_embeddings: c.flag_or("tie_word_embeddings", true)?,
        ..base
    })
}

fn config(model: &Model) -> Map<String, Value> {
    let b = &model.blueprint;
    let mut keys = bert_config(b);
    keys.remove("position_embedding_type");
    keys.remove("use_cache");
    keys.insert("head_dim".into(), json!(b.head_dim()));
    keys.insert("max_position_embeddings".into(), json!(rows_of_positions(b)));
    keys.insert("rope_parameters".into(), json!({ "rope_theta": decimal(theta_of(b)), "rope_type": "default" }));
    keys
}

fn names(spec: &Spec, _: &Blueprint) -> Vec<TensorName> {
    if let Some((index, part, kind)) = layer(&spec.name) {
        let at = |part: &str| format!("nomic_bert.encoder.layers.{index}.{part}.{kind}");
        return match part {
            "attention.qkv" => one(spec, at("attn.Wqkv")),
            "attention.out" => one(spec, at("attn.out_proj")),
            "attention.norm" => one(spec, at("norm1")),
            // The activation is on the second of its maps.
            "mlp.up" => stacked(spec, [at("mlp.fc12"), at("mlp.fc11")]),
            "mlp.down" => one(spec, at("mlp.fc2")),
            "mlp.norm" => one(spec, at("norm2")),
            _ => vec![],
        };
    }
    let Some((part, kind)) = spec.name.rsplit_once('.') else { return vec![] };
    let ours = match part {
        "embeddings.word" => "nomic_bert.embeddings.word_embeddings",
        "embeddings.segment" => "nomic_bert.embeddings.token_type_embeddings",
        "embeddings.norm" => "nomic_bert.emb_ln",
        "pooler" => "nomic_bert.pooler.dense",
        "mlm.dense" => "cls.predictions.transform.dense",
        "mlm.norm" => "cls.predictions.transform.layer_norm",
        "mlm.decoder" => "cls.predictions.decoder",
        "mlm" => "cls.predictions",
        _ => match answers(part) {
            Some(name) => name,
            None => return vec![],
        },
    };
    one(spec, format!("{ours}.{kind}"))
}
