//! RoBERTa (Liu et al. 2019), and the families that share its layout: XLM-RoBERTa (Conneau et al. 2020) and
//! CamemBERT (Martin et al. 2020). Places count from pad_token_id + 1; a classifier has a dense layer of its own.

use cloze_tensor::ops::activation::Activation;
use serde_json::{Map, Value, json};

use super::layout::{bert_blueprint, bert_body, bert_config, one, roberta_heads};
use crate::blueprint::{Blueprint, Position, Summary};
use crate::error::ModelError;
use crate::files::config::Config;
use crate::model::Model;
use crate::params::Spec;
use crate::registry::{Class, Copied, Family, TensorName};

/// The family.
pub static ROBERTA: Family = of("roberta", "Roberta");

/// The same layout over another vocabulary, in a hundred languages.
pub static XLM_ROBERTA: Family = of("xlm-roberta", "XLMRoberta");

/// The same layout over another vocabulary, in French.
pub static CAMEMBERT: Family = of("camembert", "Camembert");

const fn of(model_type: &'static str, class: &'static str) -> Family {
    Family {
        model_type,
        class,
        classes: &[Class::Body, Class::MaskedLm, Class::Sequence, Class::Tokens, Class::Span, Class::Choice],
        prefix: "roberta.",
        blueprint,
        config,
        names,
        copies: &[(Copied::Untied, "mlm.bias", "lm_head.decoder.bias")],
        constants: |_| vec![],
    }
}

fn blueprint(c: &Config) -> Result<Blueprint, ModelError> {
    let offset = c.size_or("pad_token_id", 1)? + 1;
    Ok(Blueprint {
        // The head's activation is part of the family, whatever the body's.
        prediction_act: Activation::Gelu,
        summary: Summary::Dense { activation: Activation::Tanh, dropout_before: true },
        ..bert_blueprint(c, offset, 2, 1e-12)?
    })
}

fn config(model: &Model) -> Map<String, Value> {
    let mut keys = bert_config(&model.blueprint);
    if let Position::Learned { offset, .. } = model.blueprint.position {
        keys.insert("pad_token_id".into(), json!(offset.saturating_sub(1)));
    }
    keys
}

fn names(spec: &Spec, _: &Blueprint) -> Vec<TensorName> {
    let body = bert_body("roberta.", spec);
    if !body.is_empty() {
        return body;
    }
    let Some((part, kind)) = spec.name.rsplit_once('.') else { return vec![] };
    roberta_heads(part).map_or_else(Vec::new, |ours| one(spec, format!("{ours}.{kind}")))
}
