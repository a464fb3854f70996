//! DistilBERT (Sanh et al. 2019): BERT without segments and pooler, under names and keys of its own.

use cloze_tensor::ops::activation::Activation;
use serde_json::{Map, Value, json};

use super::layout::{answers, decimal, layer, object, one, rows_of_positions, stacked};
use crate::blueprint::{Blueprint, Position, Summary};
use crate::error::ModelError;
use crate::files::config::{Config, act_name};
use crate::model::Model;
use crate::params::Spec;
use crate::registry::{Class, Family, TensorName};

/// The family.
pub static DISTILBERT: Family = Family {
    model_type: "distilbert",
    class: "DistilBert",
    classes: &[Class::Body, Class::MaskedLm, Class::Sequence, Class::Tokens, Class::Span, Class::Choice],
    prefix: "distilbert.",
    blueprint,
    config,
    names,
    copies: &[],
    constants: |_| vec![],
};

fn blueprint(c: &Config) -> Result<Blueprint, ModelError> {
    let base = Blueprint::bert(c.size("vocab_size")?, c.size("n_layers")?, c.size("dim")?, c.size("n_heads")?, c.size("hidden_dim")?);
    let hidden_act = c.activation_or("activation", "gelu")?;
    Ok(Blueprint {
        type_vocab_size: 0,
        position: Position::Learned { max: c.size_or("max_position_embeddings", 512)?, offset: 0 },
        hidden_act,
        prediction_act: hidden_act,
        pooler: false,
        summary: Summary::Dense { activation: Activation::Relu, dropout_before: false },
        hidden_dropout: c.share_or("dropout", 0.1)?,
        attention_dropout: c.share_or("attention_dropout", 0.1)?,
        classifier_dropout: c.share_or("seq_classif_dropout", 0.2)?,
        initializer_range: c.number_or("initializer_range", 0.02)?,
        tie_word_embeddings: c.flag_or("tie_word_embeddings", true)?,
        ..base
    })
}

fn config(model: &Model) -> Map<String, Value> {
    let b = &model.blueprint;
    object(json!({
        "activation": act_name(b.hidden_act),
        "attention_dropout": decimal(b.attention_dropout),
        "dim": b.hidden_size,
        "dropout": decimal(b.hidden_dropout),
        "hidden_dim": b.intermediate_size,
        "initializer_range": decimal(b.initializer_range),
        "max_position_embeddings": rows_of_positions(b),
        "n_heads": b.num_attention_heads,
        "n_layers": b.num_hidden_layers,
        "qa_dropout": 0.1,
        "seq_classif_dropout": decimal(b.classifier_dropout),
        "sinusoidal_pos_embds": false,
    }))
}

fn names(spec: &Spec, _: &Blueprint) -> Vec<TensorName> {
    if let Some((index, part, kind)) = layer(&spec.name) {
        let at = |part: &str| format!("distilbert.transformer.layer.{index}.{part}.{kind}");
        return match part {
            "attention.qkv" => stacked(spec, ["q_lin", "k_lin", "v_lin"].map(|which| at(&format!("attention.{which}")))),
            "attention.out" => one(spec, at("attention.out_lin")),
            "attention.norm" => one(spec, at("sa_layer_norm")),
            "mlp.up" => one(spec, at("ffn.lin1")),
            "mlp.down" => one(spec, at("ffn.lin2")),
            "mlp.norm" => one(spec, at("output_layer_norm")),
            _ => vec![],
        };
    }
    let Some((part, kind)) = spec.name.rsplit_once('.') else { return vec![] };
    let ours = match part {
        "embeddings.word" => "distilbert.embeddings.word_embeddings",
        "embeddings.position" => "distilbert.embeddings.position_embeddings",
        "embeddings.norm" => "distilbert.embeddings.LayerNorm",
        "mlm.dense" => "vocab_transform",
        "mlm.norm" => "vocab_layer_norm",
        "mlm.decoder" | "mlm" => "vocab_projector",
        "summary" | "choice.summary" => "pre_classifier",
        _ => match answers(part) {
            Some(name) => name,
            None => return vec![],
        },
    };
    one(spec, format!("{ours}.{kind}"))
}
