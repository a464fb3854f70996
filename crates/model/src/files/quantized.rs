//! Folders of frozen models: matrices of the body as bytes with a scale for each row, the rest in half precision.
//!
//! A quantised matrix `x.weight` [out, in] is stored as I8 with `x.weight_scale` F32 [out, 1] beside it, as the
//! compressed-tensors format has it (quant_method "compressed-tensors", format "int-quantized"), and `config.json` says
//! so in its `quantization_config`: weights of 8 bits symmetric by channel, activations of 8 bits by token as they come.

use std::path::Path;

use cloze_tensor::{Frozen, Operands};
use half::bf16;
use serde_json::json;

use super::config::read_json;
use super::hub_folder::Opened;
use super::safetensors::{OutTensor, OutValues, write};
use crate::error::ModelError;
use crate::params::{Role, Spec};

/// The tensor of the scales of a quantised one.
pub fn scale_name(name: &str) -> String {
    format!("{name}_scale")
}

/// A tensor with memory of its own.
enum Held {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    I8(Vec<i8>),
}

/// A matrix [out, in] and its number of columns → its bytes and the scale of each row.
pub type Quantize<'a> = &'a dyn Fn(&[f32], usize) -> (Vec<i8>, Vec<f32>);

/// Write the weights of an opened folder to another one, each parameter for products of the operands that `operands` says, and the
/// configuration with it. `quantize` turns a matrix [out, in] into bytes and scales. Vectors (biases, norms) stay f32. The
/// folder exists; other files of a model folder are the caller's.
pub fn save_frozen(
    opened: &Opened,
    from: &Path,
    to: &Path,
    operands: &dyn Fn(&Spec) -> Operands,
    quantize: Quantize,
) -> Result<(), ModelError> {
    let mut held: Vec<(String, Vec<usize>, Held)> = Vec::new();
    let mut whole = Vec::new(); // modules that are not quantised
    let mut any = false;
    for spec in opened.model.table().specs() {
        let parts = opened.parts_of(spec);
        if parts.is_empty() {
            continue; // what no file held is no knowledge to save
        }
        opened.lend(spec, &mut |stored| {
            let values = stored.values();
            let (_, width) = spec.units();
            for part in parts {
                let (name, shape) = (&part.name, opened.shape(&part.name));
                let own = part.take(&values, width);
                match (operands(spec), spec.role) {
                    (_, Role::Vector) | (Operands::F32, _) => held.push((name.clone(), shape, Held::F32(own))),
                    (Operands::Bf16, role) => {
                        if matches!(role, Role::Hidden { .. }) {
                            whole.push(name.trim_end_matches(".weight").to_owned());
                        }
                        held.push((name.clone(), shape, Held::Bf16(own.iter().map(|&v| bf16::from_f32(v)).collect())));
                    }
                    (Operands::Int8, _) => {
                        let (bytes, scales) = match stored {
                            // Bytes stay the bytes that they are.
                            Frozen::Int8 { values, scales } => (part.take(values, width), part.take(scales, 1)),
                            _ => quantize(&own, width),
                        };
                        any = true;
                        held.push((scale_name(name), vec![scales.len(), 1], Held::F32(scales)));
                        held.push((name.clone(), shape, Held::I8(bytes)));
                    }
                }
            }
        })?;
    }
    held.sort_by(|a, b| a.0.cmp(&b.0));
    let tensors: Vec<OutTensor> = held
        .iter()
        .map(|(name, shape, values)| OutTensor {
            name: name.clone(),
            shape: shape.clone(),
            values: match values {
                Held::F32(v) => OutValues::F32(v),
                Held::Bf16(v) => OutValues::Bf16(v),
                Held::I8(v) => OutValues::I8(v),
            },
        })
        .collect();
    write(&to.join("model.safetensors"), &tensors, &[("format", "pt".into())])?;
    let mut config = read_json(&from.join("config.json"))?;
    if let Some(map) = config.as_object_mut() {
        map.insert("torch_dtype".into(), json!("bfloat16"));
        map.remove("dtype");
        map.remove("quantization_config");
        if any {
            map.insert("quantization_config".into(), description(&whole));
        }
    }
    let path = to.join("config.json");
    let text = serde_json::to_string_pretty(&config).unwrap_or_default() + "\n";
    std::fs::write(&path, text).map_err(ModelError::io(&path, "write"))
}

/// What the compressed-tensors format says of weights by channel and activations by token.
fn description(whole: &[String]) -> serde_json::Value {
    let bits = |strategy: &str, dynamic: bool, symmetric: bool| json!({"num_bits": 8, "type": "int", "symmetric": symmetric, "strategy": strategy, "dynamic": dynamic});
    json!({
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {
            "targets": ["Linear"],
            "weights": bits("channel", false, true),
            "input_activations": bits("token", true, false),
        }},
        "ignore": whole,
    })
}
