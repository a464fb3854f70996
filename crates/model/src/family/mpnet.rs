//! MPNet (Song et al. 2020): RoBERTa's layout without segments, and a bias of attention's scores by distance that all layers share.

use cloze_tensor::ops::activation::Activation;
use serde_json::{Map, Value, json};

use super::layout::{bert_blueprint, bert_body, bert_config, layer, one, roberta_heads, stacked};
use crate::blueprint::{Blueprint, Summary};
use crate::error::ModelError;
use crate::files::config::Config;
use crate::model::Model;
use crate::params::Spec;
use crate::registry::{Class, Copied, Family, TensorName};
use crate::relative::RelativeBias;

/// The family.
pub static MPNET: Family = Family {
    model_type: "mpnet",
    class: "MPNet",
    classes: &[Class::Body, Class::MaskedLm, Class::Sequence, Class::Tokens, Class::Span, Class::Choice],
    prefix: "mpnet.",
    blueprint,
    config,
    names,
    copies: &[(Copied::Untied, "mlm.bias", "lm_head.decoder.bias")],
    constants: |_| vec![],
};

/// The row of padding, whatever `pad_token_id` says: places count from the one after it.
const PADDING: usize = 1;
/// The library that these files come from sorts distances into so many buckets, whatever the size of the table.
const BUCKETS: usize = 32;
/// Its bound, which no configuration changes.
const MAX_DISTANCE: usize = 128;

fn blueprint(c: &Config) -> Result<Blueprint, ModelError> {
    c.refuse_unless_size("relative_attention_num_buckets", BUCKETS)?;
    Ok(Blueprint {
        type_vocab_size: 0,
        relative: Some(RelativeBias { buckets: BUCKETS, max_distance: MAX_DISTANCE }),
        // The head's activation is part of the family, whatever the body's.
        prediction_act: Activation::Gelu,
        summary: Summary::Dense { activation: Activation::Tanh, dropout_before: true },
        ..bert_blueprint(c, PADDING + 1, 0, 1e-12)?
    })
}

fn config(model: &Model) -> Map<String, Value> {
    let mut keys = bert_config(&model.blueprint);
    for key in ["position_embedding_type", "type_vocab_size", "use_cache"] {
        keys.remove(key);
    }
    keys.insert("pad_token_id".into(), json!(PADDING));
    keys.insert("relative_attention_num_buckets".into(), json!(BUCKETS));
    keys
}

fn names(spec: &Spec, _: &Blueprint) -> Vec<TensorName> {
    if let Some((index, part, kind)) = layer(&spec.name) {
        let at = |part: &str| format!("mpnet.encoder.layer.{index}.attention.{part}.{kind}");
        match part {
            "attention.qkv" => return stacked(spec, ["q", "k", "v"].map(|which| at(&format!("attn.{which}")))),
            "attention.out" => return one(spec, at("attn.o")),
            "attention.norm" => return one(spec, at("LayerNorm")),
            _ => {}
        }
    }
    let body = bert_body("mpnet.", spec);
    if !body.is_empty() {
        return body;
    }
    let Some((part, kind)) = spec.name.rsplit_once('.') else { return vec![] };
    let ours = if part == "embeddings.relative" { Some("mpnet.encoder.relative_attention_bias") } else { roberta_heads(part) };
    ours.map_or_else(Vec::new, |ours| one(spec, format!("{ours}.{kind}")))
}
