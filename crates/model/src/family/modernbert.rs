//! ModernBERT (Warner et al. 2024): pre-norm, gated, rotary, without biases; of three layers one sees everything, two their
//! neighbourhood. With `global_attn_every_n_layers` 1 all layers see everything.

use cloze_tensor::ops::pool::Pool;
use serde_json::{Map, Value, json};

use super::layout::{decimal, layer, object, one, rope_theta, rows_of_positions, sizes, theta_of};
use crate::blueprint::{Blueprint, Local, Position};
use crate::error::ModelError;
use crate::files::config::{Config, act_name};
use crate::model::Model;
use crate::params::Spec;
use crate::registry::{Class, Family, TensorName};

/// The family.
pub static MODERNBERT: Family = Family {
    model_type: "modernbert",
    class: "ModernBert",
    classes: &[Class::Body, Class::MaskedLm, Class::Sequence, Class::Tokens, Class::Span, Class::Choice],
    prefix: "model.",
    blueprint,
    config,
    names,
    copies: &[],
    constants: |_| vec![],
};

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

fn blueprint(c: &Config) -> Result<Blueprint, ModelError> {
    for key in ["attention_bias", "mlp_bias", "norm_bias", "classifier_bias"] {
        c.refuse_unless_flag(key, false)?;
    }
    c.refuse_unless_flag("decoder_bias", true)?;
    let pooling = match c.get("classifier_pooling").map_or(Ok("cls"), |_| c.text("classifier_pooling"))? {
        "cls" => Pool::First,
        "mean" => Pool::Mean,
        other => return Err(c.unknown("classifier_pooling", other, "cls or mean")),
    };
    let layers = c.size("num_hidden_layers")?;
    let base = Blueprint::modern(
        c.size("vocab_size")?,
        layers,
        c.size("hidden_size")?,
        c.size("num_attention_heads")?,
        c.size("intermediate_size")?,
    );
    let global_every = global_every(c, layers)?;
    let local = (global_every != 1).then_some(Local {
        // The window is the width of both sides together.
        window: c.size_or("local_attention", 128)? / 2,
        theta: rope_theta(c, Some(SLIDING), "local_rope_theta", 10_000.0)?,
        global_every,
    });
    Ok(Blueprint {
        position: Position::Rotary {
            max: c.size_or("max_position_embeddings", 8192)?,
            theta: rope_theta(c, Some(FULL), "global_rope_theta", 160_000.0)?,
        },
        local,
        layer_norm_eps: c.number_or("norm_eps", 1e-5)?,
        hidden_act: c.activation_or("hidden_activation", "gelu")?,
        prediction_act: c.activation_or("classifier_activation", "gelu")?,
        hidden_dropout: c.share_or("mlp_dropout", 0.0)?,
        attention_dropout: c.share_or("attention_dropout", 0.0)?,
        classifier_dropout: c.share_or("classifier_dropout", 0.0)?,
        initializer_range: c.number_or("initializer_range", 0.02)?,
        pooling,
        tie_word_embeddings: c.flag_or("tie_word_embeddings", true)?,
        ..base
    })
}

/// Which layers are global: by `layer_types`, a list, or by `global_attn_every_n_layers`, the older key.
fn global_every(c: &Config, layers: usize) -> Result<usize, ModelError> {
    let Some(types) = c.get("layer_types") else { return c.size_or("global_attn_every_n_layers", 3) };
    let kinds: Option<Vec<bool>> = types.as_array().and_then(|list| {
        list.iter()
            .map(|v| match v.as_str() {
                Some(FULL) => Some(true),
                Some(SLIDING) => Some(false),
                _ => None,
            })
            .collect()
    });
    let every = kinds.as_ref().filter(|k| k.len() == layers && k.first() == Some(&true)).map(|k| {
        let second = k.iter().skip(1).position(|full| *full).map_or(layers, |i| i + 1);
        (second, (0..layers).all(|i| k[i] == i.is_multiple_of(second)))
    });
    match every {
        // A body of one layer has no second one to tell by.
        Some((_, true)) if layers == 1 => Ok(1),
        Some((every, true)) => Ok(every),
        _ => Err(c.unknown(
            "layer_types",
            &types.to_string(),
            "one full_attention, then the same number of sliding_attention, over and over",
        )),
    }
}

fn config(model: &Model) -> Map<String, Value> {
    let b = &model.blueprint;
    let theta = theta_of(b);
    let local = b.local.unwrap_or(Local { window: 64, theta, global_every: 1 });
    let mut keys = sizes(b);
    keys.extend(object(json!({
        "attention_bias": false,
        "attention_dropout": decimal(b.attention_dropout),
        "classifier_activation": act_name(b.prediction_act),
        "classifier_bias": false,
        "classifier_dropout": decimal(b.classifier_dropout),
        "classifier_pooling": if b.pooling == Pool::First { "cls" } else { "mean" },
        "decoder_bias": true,
        "embedding_dropout": decimal(b.hidden_dropout),
        "global_attn_every_n_layers": local.global_every,
        "global_rope_theta": decimal(theta),
        "hidden_activation": act_name(b.hidden_act),
        "initializer_range": decimal(b.initializer_range),
        "layer_norm_eps": decimal(b.layer_norm_eps),
        "local_attention": 2 * local.window,
        "local_rope_theta": decimal(local.theta),
        "max_position_embeddings": rows_of_positions(b),
        "mlp_bias": false,
        "mlp_dropout": decimal(b.hidden_dropout),
        "norm_bias": false,
        "norm_eps": decimal(b.layer_norm_eps),
    })));
    keys
}

fn names(spec: &Spec, _: &Blueprint) -> Vec<TensorName> {
    if let Some((index, part, kind)) = layer(&spec.name) {
        let ours = match part {
            "attention.qkv" => "attn.Wqkv",
            "attention.out" => "attn.Wo",
            "attention.norm" => "attn_norm",
            "mlp.up" => "mlp.Wi",
            "mlp.down" => "mlp.Wo",
            "mlp.norm" => "mlp_norm",
            _ => return vec![],
        };
        return one(spec, format!("model.layers.{index}.{ours}.{kind}"));
    }
    let Some((part, kind)) = spec.name.rsplit_once('.') else { return vec![] };
    let ours = match part {
        "embeddings.word" => "model.embeddings.tok_embeddings",
        "embeddings.norm" => "model.embeddings.norm",
        "final_norm" => "model.final_norm",
        "mlm.dense" => "head.dense",
        "mlm.norm" => "head.norm",
        "mlm.decoder" | "mlm" => "decoder",
        "classifier" | "tokens" | "choice" | "span" => "classifier",
        _ => return vec![],
    };
    one(spec, format!("{ours}.{kind}"))
}
