//! ELECTRA (Clark et al. 2020): generator and discriminator, embeddings that may be narrower than the body.

use cloze_tensor::ops::activation::Activation;
use serde_json::{Map, Value, json};

use super::layout::{answers, bert_blueprint, bert_body, bert_config, one};
use crate::blueprint::{Blueprint, Summary};
use crate::error::ModelError;
use crate::files::config::Config;
use crate::model::Model;
use crate::params::Spec;
use crate::registry::{Class, Family, TensorName};

/// The family.
pub static ELECTRA: Family = Family {
    model_type: "electra",
    class: "Electra",
    classes: &[Class::Body, Class::ReplacedToken, Class::MaskedLm, Class::Sequence, Class::Tokens, Class::Span, Class::Choice],
    prefix: "electra.",
    blueprint,
    config,
    names,
    copies: &[],
    constants: |_| vec![],
};

fn blueprint(c: &Config) -> Result<Blueprint, ModelError> {
    // The map before multiple choice, beyond what the blueprint can say.
    c.refuse_unless("summary_type", "first")?;
    c.refuse_unless("summary_activation", "gelu")?;
    c.refuse_unless_flag("summary_use_proj", true)?;
    let base = bert_blueprint(c, 0, 2, 1e-12)?;
    let embedding_size = c.size_or("embedding_size", 128)?;
    Ok(Blueprint {
        embedding_size,
        embedding_projection: embedding_size != base.hidden_size,
        // GELU whatever the body's, as the authors have it.
        prediction_act: Activation::Gelu,
        pooler: false,
        summary: Summary::Dense { activation: Activation::Gelu, dropout_before: true },
        ..base
    })
}

fn config(model: &Model) -> Map<String, Value> {
    let mut keys = bert_config(&model.blueprint);
    keys.insert("embedding_size".into(), json!(model.blueprint.embedding_size));
    keys.insert("summary_activation".into(), json!("gelu"));
    keys.insert("summary_last_dropout".into(), json!(0.1));
    keys.insert("summary_type".into(), json!("first"));
    keys.insert("summary_use_proj".into(), json!(true));
    keys
}

fn names(spec: &Spec, _: &Blueprint) -> Vec<TensorName> {
    let body = bert_body("electra.", spec);
    if !body.is_empty() {
        return body;
    }
    let Some((part, kind)) = spec.name.rsplit_once('.') else { return vec![] };
    let ours = match part {
        "mlm.dense" => "generator_predictions.dense",
        "mlm.norm" => "generator_predictions.LayerNorm",
        "mlm.decoder" | "mlm" => "generator_lm_head",
        "replaced.dense" => "discriminator_predictions.dense",
        "replaced.score" => "discriminator_predictions.dense_prediction",
        "summary" => "classifier.dense",
        "classifier" => "classifier.out_proj",
        "choice.summary" => "sequence_summary.summary",
        _ => match answers(part) {
            Some(name) => name,
            None => return vec![],
        },
    };
    one(spec, format!("{ours}.{kind}"))
}
