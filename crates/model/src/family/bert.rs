//! BERT (Devlin et al. 2018), and whatever else is saved as `model_type: bert` (Chinese RoBERTa-wwm, RBT).

use serde_json::{Map, Value, json};

use crate::blueprint::{Blueprint, Position};
use crate::error::ModelError;
use crate::files::config::{Config, act_name};
use crate::model::{Heads, Model};
use crate::params::Spec;
use crate::registry::{Family, TensorName};

/// The family.
pub static BERT: Family = Family { model_type: "bert", prefix: "bert.", blueprint, config, architecture, heads, names };

fn blueprint(c: &Config) -> Result<Blueprint, ModelError> {
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
    Ok(Blueprint {
        type_vocab_size: c.size_or("type_vocab_size", 2)?,
        position: Position::Learned { max: c.size_or("max_position_embeddings", 512)?, offset: 0 },
        layer_norm_eps: c.number_or("layer_norm_eps", 1e-12)?,
        hidden_act: c.activation_or("hidden_act", "gelu")?,
        hidden_dropout: c.share_or("hidden_dropout_prob", 0.1)?,
        attention_dropout: c.share_or("attention_probs_dropout_prob", 0.1)?,
        initializer_range: c.number_or("initializer_range", 0.02)?,
        tie_word_embeddings: c.flag_or("tie_word_embeddings", true)?,
        ..base
    })
}

fn config(model: &Model) -> Map<String, Value> {
    let b = &model.blueprint;
    let max = match b.position {
        Position::Learned { max, .. } | Position::Rotary { max, .. } => max,
    };
    let keys = json!({
        "attention_probs_dropout_prob": decimal(b.attention_dropout),
        "classifier_dropout": null,
        "hidden_act": act_name(b.hidden_act),
        "hidden_dropout_prob": decimal(b.hidden_dropout),
        "initializer_range": decimal(b.initializer_range),
        "layer_norm_eps": decimal(b.layer_norm_eps),
        "max_position_embeddings": max,
        "position_embedding_type": "absolute",
        "type_vocab_size": b.type_vocab_size,
        "use_cache": true,
    });
    match keys {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// An f32 as the shortest decimal that reads back to it (0.1, not 0.10000000149).
pub(crate) fn decimal(v: f32) -> Value {
    v.to_string().parse::<f64>().map_or(Value::Null, |v| json!(v))
}

fn architecture(heads: &Heads) -> &'static str {
    match heads {
        Heads { labels, .. } if !labels.is_empty() => "BertForSequenceClassification",
        Heads { masked_lm: true, next_sentence: true, .. } => "BertForPreTraining",
        Heads { masked_lm: true, .. } => "BertForMaskedLM",
        Heads { next_sentence: true, .. } => "BertForNextSentencePrediction",
        _ => "BertModel",
    }
}

fn heads(architecture: &str) -> Option<Heads> {
    let none = Heads::default();
    Some(match architecture {
        "BertModel" => Heads { summary: true, ..none },
        "BertForPreTraining" => Heads::pretraining(true),
        "BertForMaskedLM" => Heads::pretraining(false),
        "BertForNextSentencePrediction" => Heads { summary: true, next_sentence: true, ..none },
        "BertForSequenceClassification" => Heads { summary: true, ..none },
        _ => return None,
    })
}

fn names(spec: &Spec, blueprint: &Blueprint) -> Vec<TensorName> {
    let h = blueprint.hidden_size;
    let rows = spec.units().0;
    let one = |name: String| vec![TensorName { name, rows: 0..rows }];
    let Some((part, kind)) = spec.name.rsplit_once('.') else { return vec![] };
    if let Some(rest) = part.strip_prefix("layer.") {
        let Some((index, part)) = rest.split_once('.') else { return vec![] };
        let layer = |part: &str| format!("bert.encoder.layer.{index}.{part}.{kind}");
        return match part {
            // A fused vector is one row of 3H elements: its parts are counted in elements.
            "attention.qkv" => ["query", "key", "value"]
                .iter()
                .enumerate()
                .map(|(i, which)| TensorName { name: layer(&format!("attention.self.{which}")), rows: i * h..(i + 1) * h })
                .collect(),
            "attention.out" => one(layer("attention.output.dense")),
            "attention.norm" => one(layer("attention.output.LayerNorm")),
            "mlp.up" => one(layer("intermediate.dense")),
            "mlp.down" => one(layer("output.dense")),
            "mlp.norm" => one(layer("output.LayerNorm")),
            _ => vec![],
        };
    }
    one(match (part, kind) {
        ("embeddings.word", _) => "bert.embeddings.word_embeddings.weight".into(),
        ("embeddings.position", _) => "bert.embeddings.position_embeddings.weight".into(),
        ("embeddings.segment", _) => "bert.embeddings.token_type_embeddings.weight".into(),
        ("embeddings.norm", _) => format!("bert.embeddings.LayerNorm.{kind}"),
        ("pooler", _) => format!("bert.pooler.dense.{kind}"),
        ("mlm.dense", _) => format!("cls.predictions.transform.dense.{kind}"),
        ("mlm.norm", _) => format!("cls.predictions.transform.LayerNorm.{kind}"),
        ("mlm.decoder", _) => "cls.predictions.decoder.weight".into(),
        ("mlm", "bias") => "cls.predictions.bias".into(),
        ("nsp", _) => format!("cls.seq_relationship.{kind}"),
        ("classifier", _) => format!("classifier.{kind}"),
        _ => return vec![],
    })
}
