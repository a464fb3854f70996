//! TensorFlow's checkpoints (the "tensor bundle": `tensorflow/core/protobuf/tensor_bundle.proto`) of google-research/bert, under the names and in the
//! layout of Hugging Face: kernels are transposed, embeddings are not, the optimizer's variables are left out.

use std::path::{Path, PathBuf};

use prost::Message;
use safetensors::Dtype;

use super::table;
use super::{Container, Origin, Stored, dense, map, width};
use crate::error::ModelError;

const FORMAT: &str = "TensorFlow checkpoint";
/// The longest index that is read; that of BERT-large has 20 KB.
const INDEX_LIMIT: u64 = 64 << 20;

/// What the index says about the whole checkpoint.
#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(int32, tag = "1")]
    num_shards: i32,
    /// 0: little, 1: big.
    #[prost(int32, tag = "2")]
    endianness: i32,
}

/// What the index says about a variable.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
    #[prost(int32, tag = "3")]
    shard_id: i32,
    #[prost(int64, tag = "4")]
    offset: i64,
    #[prost(int64, tag = "5")]
    size: i64,
    #[prost(fixed32, tag = "6")]
    crc32c: u32,
    /// Pieces of a partitioned variable; never looked into.
    #[prost(bytes = "vec", repeated, tag = "7")]
    slices: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "2")]
    dim: Vec<Dim>,
    #[prost(bool, tag = "3")]
    unknown_rank: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Dim {
    #[prost(int64, tag = "1")]
    size: i64,
}

/// `tensorflow/core/framework/types.proto`.
fn dtype_of(number: i32) -> Option<Dtype> {
    Some(match number {
        1 => Dtype::F32,
        2 => Dtype::F64,
        3 => Dtype::I32,
        9 => Dtype::I64,
        14 => Dtype::BF16,
        19 => Dtype::F16,
        _ => return None,
    })
}

/// The checkpoint of a folder by its prefix: `bert_model.ckpt` where it is, else the one with the most steps.
pub(super) fn prefix_in(folder: &Path) -> Result<Option<PathBuf>, ModelError> {
    let usual = folder.join("bert_model.ckpt");
    if folder.join("bert_model.ckpt.index").exists() {
        return Ok(Some(usual));
    }
    let mut prefixes = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(ModelError::io(folder, "list"))? {
        let name = entry.map_err(ModelError::io(folder, "list"))?.file_name();
        if let Some(prefix) = name.to_str().and_then(|n| n.strip_suffix(".index")).filter(|p| p.contains("ckpt")) {
            let step = prefix.rsplit_once('-').and_then(|(_, step)| step.parse::<u64>().ok());
            prefixes.push((step, folder.join(prefix)));
        }
    }
    prefixes.sort();
    Ok(prefixes.pop().map(|(_, prefix)| prefix))
}

fn with(prefix: &Path, suffix: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Open the checkpoint whose files begin with `prefix`.
pub(super) fn open(prefix: &Path) -> Result<Container, ModelError> {
    let path = with(prefix, ".index");
    let size = std::fs::metadata(&path).map_err(ModelError::io(&path, "read"))?.len();
    if size > INDEX_LIMIT {
        return Err(ModelError::TooLarge { path, bytes: size, limit: INDEX_LIMIT });
    }
    let index = std::fs::read(&path).map_err(ModelError::io(&path, "read"))?;
    let fault = |fault: String| ModelError::Container { path: path.clone(), format: FORMAT, fault };
    let entries = table::entries(&index).map_err(fault)?;
    let mut entries = entries.into_iter();
    let header = entries.next().filter(|(key, _)| key.is_empty()).ok_or_else(|| fault("the index has no header".into()))?;
    let header = Header::decode(header.1).map_err(|e| fault(format!("the header: {e}")))?;
    if header.endianness != 0 {
        return Err(fault("its numbers are big-endian; save it on a little-endian machine".into()));
    }
    if !(1..=4096).contains(&header.num_shards) {
        return Err(fault(format!("{} data files", header.num_shards)));
    }
    let mut all = Container::new(Origin::TensorFlow);
    for shard in 0..header.num_shards {
        let data = with(prefix, &format!(".data-{shard:05}-of-{:05}", header.num_shards));
        let file = map(&data).map_err(ModelError::io(&data, "read"))?;
        all.add_file(data, file);
    }
    let (mut skipped, mut unknown) = (0, Vec::new());
    for (key, value) in entries {
        let name = std::str::from_utf8(&key).map_err(|_| fault("a variable whose name is not UTF-8".into()))?;
        let entry = Entry::decode(value).map_err(|e| fault(format!("variable `{name}`: {e}")))?;
        if is_of_training(name) {
            skipped += 1;
            continue;
        }
        let Some((ours, transposed)) = name_of(name) else {
            unknown.push(name.to_owned());
            continue;
        };
        let stored = stored(&all, &entry, transposed).map_err(|what| fault(format!("variable `{name}`: {what}")))?;
        all.add(ours, stored)?;
    }
    if !all.tensors.keys().any(|name| name.starts_with("bert.")) {
        return Err(fault("it holds no variables of BERT (bert/…)".into()));
    }
    if skipped > 0 {
        all.notes.push(format!("{skipped} variables of the training (moments, step) were left out"));
    }
    if !unknown.is_empty() {
        all.notes.push(format!("no tensor is known for the variables {}", unknown.join(", ")));
    }
    Ok(all)
}

/// Moments and counters: nothing of the model.
fn is_of_training(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    let counters = ["global_step", "beta1_power", "beta2_power", "bad_steps", "good_steps", "loss_scale", "current_loss_scale"];
    ["adam_m", "adam_v", "Adam", "Adam_1", "lamb_m", "lamb_v"].contains(&last)
        || counters.contains(&name)
        || ["_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter"].iter().any(|n| name.starts_with(n))
}

/// A variable's name in Hugging Face's files, and whether it is transposed there.
fn name_of(name: &str) -> Option<(String, bool)> {
    let plain = |name: &str| Some((name.to_owned(), false));
    match name {
        "cls/predictions/output_bias" => return plain("cls.predictions.bias"),
        "cls/seq_relationship/output_weights" => return plain("cls.seq_relationship.weight"),
        "cls/seq_relationship/output_bias" => return plain("cls.seq_relationship.bias"),
        "cls/squad/output_weights" => return plain("qa_outputs.weight"),
        "cls/squad/output_bias" => return plain("qa_outputs.bias"),
        "output_weights" => return plain("classifier.weight"),
        "output_bias" => return plain("classifier.bias"),
        _ => {}
    }
    if !name.starts_with("bert/") && !name.starts_with("cls/predictions/transform/") {
        return None;
    }
    let mut parts: Vec<String> = Vec::new();
    for part in name.split('/') {
        match part.strip_prefix("layer_") {
            Some(index) if index.bytes().all(|b| b.is_ascii_digit()) && !index.is_empty() => parts.extend(["layer".into(), index.into()]),
            _ => parts.push(part.into()),
        }
    }
    let last = parts.pop()?;
    let (kind, transposed) = match last.as_str() {
        "kernel" => ("weight", true),
        "gamma" => ("weight", false),
        "bias" | "beta" => ("bias", false),
        "word_embeddings" | "position_embeddings" | "token_type_embeddings" => {
            parts.push(last);
            ("weight", false)
        }
        _ => return None,
    };
    Some((format!("{}.{kind}", parts.join(".")), transposed))
}

fn stored(all: &Container, entry: &Entry, transposed: bool) -> Result<Stored, String> {
    if !entry.slices.is_empty() {
        return Err("it is partitioned; save the checkpoint without partitions".into());
    }
    let dtype = dtype_of(entry.dtype).ok_or_else(|| format!("element type {} is not read", entry.dtype))?;
    let no_shape = || "it has no sound shape".to_string();
    let dims = entry.shape.as_ref().filter(|s| !s.unknown_rank && s.dim.len() <= 16).ok_or_else(no_shape)?;
    let mut shape = dims.dim.iter().map(|d| usize::try_from(d.size).ok()).collect::<Option<Vec<_>>>().ok_or_else(no_shape)?;
    let bytes = shape.iter().try_fold(width(dtype), |a, &b| a.checked_mul(b)).ok_or_else(no_shape)?;
    if usize::try_from(entry.size) != Ok(bytes) {
        return Err(format!("shape {shape:?} needs {bytes} bytes, the index says {}", entry.size));
    }
    let file =
        usize::try_from(entry.shard_id).ok().filter(|i| *i < all.files.len()).ok_or_else(|| format!("data file {}", entry.shard_id))?;
    let (path, data) = &all.files[file];
    let start = usize::try_from(entry.offset).ok();
    let values = start.and_then(|start| data.get(start..start.checked_add(bytes)?));
    let (Some(start), Some(values)) = (start, values) else {
        return Err(format!("it reaches beyond the end of {}", path.display()));
    };
    let found = table::masked(crc32c::crc32c(values));
    if found != entry.crc32c {
        return Err(format!("its values in {} have checksum {found:08x}, the index says {:08x}", path.display(), entry.crc32c));
    }
    let mut strides = dense(&shape);
    if transposed {
        if shape.len() != 2 {
            return Err(format!("a kernel of shape {shape:?}"));
        }
        shape.reverse();
        strides.reverse();
    }
    Ok(Stored { shape, dtype, file, start, strides })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated() {
        let cases = [
            ("bert/embeddings/word_embeddings", "bert.embeddings.word_embeddings.weight", false),
            ("bert/embeddings/LayerNorm/gamma", "bert.embeddings.LayerNorm.weight", false),
            ("bert/encoder/layer_11/attention/self/query/kernel", "bert.encoder.layer.11.attention.self.query.weight", true),
            ("bert/encoder/layer_0/output/LayerNorm/beta", "bert.encoder.layer.0.output.LayerNorm.bias", false),
            ("bert/pooler/dense/bias", "bert.pooler.dense.bias", false),
            ("cls/predictions/transform/dense/kernel", "cls.predictions.transform.dense.weight", true),
            ("cls/predictions/output_bias", "cls.predictions.bias", false),
            ("cls/seq_relationship/output_weights", "cls.seq_relationship.weight", false),
        ];
        for (theirs, ours, transposed) in cases {
            assert_eq!(name_of(theirs), Some((ours.to_owned(), transposed)));
        }
        assert_eq!(name_of("electra/embeddings/word_embeddings"), None);
        assert!(
            is_of_training("bert/pooler/dense/kernel/adam_m")
                && is_of_training("global_step")
                && !is_of_training("bert/pooler/dense/kernel")
        );
    }
}
