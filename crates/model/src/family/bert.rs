//! BERT (Devlin et al. 2018), and whatever else is saved as `model_type: bert` (Chinese RoBERTa-wwm, RBT).

use super::layout::{answers, bert_blueprint, bert_body, bert_config, one};
use crate::blueprint::Blueprint;
use crate::params::Spec;
use crate::registry::{Class, Copied, Family, TensorName};

/// The family.
pub static BERT: Family = Family {
    model_type: "bert",
    class: "Bert",
    classes: &[
        Class::Body,
        Class::PreTraining,
        Class::MaskedLm,
        Class::NextSentence,
        Class::Sequence,
        Class::Tokens,
        Class::Span,
        Class::Choice,
    ],
    prefix: "bert.",
    blueprint: |c| bert_blueprint(c, 0, 2, 1e-12),
    config: |model| bert_config(&model.blueprint),
    names,
    // An untied projection of the library that reads this has a bias of its own, equal to the head's.
    copies: &[(Copied::Untied, "mlm.bias", "cls.predictions.decoder.bias")],
    constants: |_| vec![],
};

fn names(spec: &Spec, _: &Blueprint) -> Vec<TensorName> {
    let body = bert_body("bert.", spec);
    match spec.name.rsplit_once('.') {
        Some((part, kind)) if body.is_empty() => head(part, kind).map(|name| one(spec, name)).unwrap_or_default(),
        _ => body,
    }
}

/// BERT's names for the tensors of heads.
pub(super) fn head(part: &str, kind: &str) -> Option<String> {
    let ours = match part {
        "mlm.dense" => "cls.predictions.transform.dense",
        "mlm.norm" => "cls.predictions.transform.LayerNorm",
        "mlm.decoder" => "cls.predictions.decoder",
        "mlm" => "cls.predictions",
        "nsp" => "cls.seq_relationship",
        _ => answers(part)?,
    };
    Some(format!("{ours}.{kind}"))
}
