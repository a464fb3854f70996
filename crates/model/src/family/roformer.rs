//! RoFormer (Su et al. 2021): BERT with rotary positions. Its files turn neighbouring components of q and k, (0, 1), (2, 3) …; here
//! the pairs are (c, c + D/2). As q and k are only ever multiplied with each other, their rows are read in another order.

use serde_json::{Map, Value, json};

use super::bert::head;
use super::layout::{bert_blueprint, bert_body, bert_config, layer, one};
use crate::blueprint::{Blueprint, Position, Summary};
use crate::error::ModelError;
use crate::files::config::Config;
use crate::model::Model;
use crate::params::Spec;
use crate::registry::{Class, Constant, Copied, Family, TensorName};

/// The family. Its multiple choice reads the last token through no map, which the blueprint cannot say.
pub static ROFORMER: Family = Family {
    model_type: "roformer",
    class: "RoFormer",
    classes: &[Class::Body, Class::MaskedLm, Class::Sequence, Class::Tokens, Class::Span],
    prefix: "roformer.",
    blueprint,
    config,
    names,
    copies: &[(Copied::Untied, "mlm.bias", "cls.predictions.decoder.bias")],
    constants,
};

/// The base of the angles, which no configuration changes.
const THETA: f32 = 10_000.0;

fn blueprint(c: &Config) -> Result<Blueprint, ModelError> {
    c.refuse_unless_flag("rotary_value", false)?;
    let base = bert_blueprint(c, 0, 2, 1e-12)?;
    let embedding_size = c.size_or("embedding_size", base.hidden_size)?;
    Ok(Blueprint {
        position: Position::Rotary { max: c.size_or("max_position_embeddings", 1536)?, theta: THETA },
        embedding_size,
        embedding_projection: embedding_size != base.hidden_size,
        pooler: false,
        summary: Summary::Dense { activation: base.hidden_act, dropout_before: true },
        ..base
    })
}

fn config(model: &Model) -> Map<String, Value> {
    let mut keys = bert_config(&model.blueprint);
    keys.remove("position_embedding_type");
    keys.insert("embedding_size".into(), json!(model.blueprint.embedding_size));
    keys.insert("rotary_value".into(), json!(false));
    keys
}

fn names(spec: &Spec, b: &Blueprint) -> Vec<TensorName> {
    let mut body = bert_body("roformer.", spec);
    if let Some((_, "attention.qkv", _)) = layer(&spec.name) {
        let (h, d) = (b.hidden_size, b.head_dim());
        for (which, tensor) in body.iter_mut().take(2).enumerate() {
            // Component 2i stands at i of its head, component 2i + 1 at D/2 + i.
            let place = |row: usize| which * h + row / d * d + row % d / 2 + row % 2 * (d / 2);
            tensor.pieces = (0..h).map(|row| place(row)..place(row) + 1).collect();
        }
    }
    match spec.name.rsplit_once('.') {
        Some(("summary", kind)) => one(spec, format!("classifier.dense.{kind}")),
        Some(("classifier", kind)) => one(spec, format!("classifier.out_proj.{kind}")),
        Some((part, kind)) if body.is_empty() => head(part, kind).map(|name| one(spec, name)).unwrap_or_default(),
        _ => body,
    }
}

/// The sines and cosines of every position, sines first. // [positions, D]
fn constants(b: &Blueprint) -> Vec<Constant> {
    let Position::Rotary { max, theta } = b.position else { return vec![] };
    let d = b.head_dim();
    let angle = |position: usize, c: usize| position as f64 / f64::from(theta).powf(2.0 * c as f64 / d as f64);
    let row = |position: usize| {
        let sines = (0..d / 2).map(move |c| angle(position, c).sin() as f32);
        sines.chain((0..d / 2).map(move |c| angle(position, c).cos() as f32))
    };
    vec![Constant { name: "roformer.encoder.embed_positions.weight", shape: [max, d], values: (0..max).flat_map(row).collect() }]
}
