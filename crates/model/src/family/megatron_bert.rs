//! Megatron-BERT (Shoeybi et al. 2019, section 3): BERT with norms before the sublayers, none on the embeddings, one at the end.

use super::bert::head;
use super::layout::{bert_blueprint, bert_body, bert_config, layer, one};
use crate::blueprint::{Blueprint, NormPlacement};
use crate::params::Spec;
use crate::registry::{Class, Copied, Family, TensorName};

/// The family.
pub static MEGATRON_BERT: Family = Family {
    model_type: "megatron-bert",
    class: "MegatronBert",
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
    blueprint: |c| {
        let base = bert_blueprint(c, 0, 2, 1e-12)?;
        Ok(Blueprint { norm_placement: NormPlacement::Pre, embedding_norm: false, ..base })
    },
    config: |model| bert_config(&model.blueprint),
    names,
    copies: &[(Copied::Untied, "mlm.bias", "cls.predictions.decoder.bias")],
    constants: |_| vec![],
};

fn names(spec: &Spec, _: &Blueprint) -> Vec<TensorName> {
    match layer(&spec.name) {
        Some((index, "attention.norm", kind)) => return one(spec, format!("bert.encoder.layer.{index}.attention.ln.{kind}")),
        Some((index, "mlp.norm", kind)) => return one(spec, format!("bert.encoder.layer.{index}.ln.{kind}")),
        _ => {}
    }
    let body = bert_body("bert.", spec);
    match spec.name.rsplit_once('.') {
        Some(("final_norm", kind)) => one(spec, format!("bert.encoder.ln.{kind}")),
        Some((part, kind)) if body.is_empty() => head(part, kind).map(|name| one(spec, name)).unwrap_or_default(),
        _ => body,
    }
}
