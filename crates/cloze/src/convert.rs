//! Checkpoints of other programs as Hugging Face folders: weights as safetensors, `config.json`, and the tokenizer's files beside them.

use std::path::{Path, PathBuf};

use cloze_model::ModelError;
use cloze_model::files::adapter::is_adapter;
use cloze_model::files::config::read_json;
use cloze_model::files::container::{Container, Dtype, Origin};
use cloze_model::files::join::safe_join;
use cloze_model::files::sentence::ENCODER_CONFIGS;
use cloze_task::context::SETTINGS_FILE;
use cloze_text::Tokenizer;
use serde_json::{Map, Value, json};

use crate::{Error, Source};

/// What to convert, and how.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// A folder, a weight file, or the prefix of a TensorFlow checkpoint.
    pub from: PathBuf,
    /// The folder to write. Made if need be; it must hold no weights yet.
    pub out: PathBuf,
    /// The type of floating-point weights in the new file; `None`: as they are.
    pub dtype: Option<Dtype>,
    /// Whether the configuration of a TensorFlow checkpoint says GELU by tanh, as Google's code computes it, instead of by erf, as
    /// transformers reads it.
    pub gelu_tanh: bool,
}

/// What a conversion did.
#[derive(Clone, Debug)]
pub struct Converted {
    /// Which program wrote the weights.
    pub origin: Origin,
    /// Tensors written.
    pub tensors: usize,
    /// Values written.
    pub values: usize,
    /// Files written, by their names in the new folder.
    pub files: Vec<String>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// Files that say how a model is used, beside its weights and its configuration.
pub(crate) const BESIDE: [&str; 13] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "tokenizer.model",
    "modules.json",
    "config_sentence_transformers.json",
];

/// Cloze's own settings, and files for people and for other programs, which are copied too.
const COPIED: [&str; 5] = [SETTINGS_FILE, "generation_config.json", "README.md", "LICENSE", "LICENSE.txt"];

/// Files of a module of sentence-transformers.
const MODULE_FILES: [&str; 2] = ["config.json", "README.md"];

/// Convert a checkpoint.
///
/// # Errors
/// When something of it cannot be read, or the new folder cannot be written. What is half written then has no `config.json`, so that it is no model folder.
pub fn convert(options: &ConvertOptions) -> Result<Converted, Error> {
    if is_adapter(&options.from) {
        return merge(options);
    }
    let folder = if options.from.is_dir() { options.from.clone() } else { options.from.parent().unwrap_or(Path::new("")).to_owned() };
    let mut container = Container::open(&options.from)?;
    let mut notes = container.notes().to_vec();
    let weights = options.out.join("model.safetensors");
    if weights.exists() || options.out.join("config.json").exists() {
        let cause = std::io::Error::new(std::io::ErrorKind::AlreadyExists, "the folder holds a model already; give a new one");
        return Err(ModelError::Io { path: options.out.clone(), action: "write", cause }.into());
    }
    let config = configuration(&folder, &container, options, &mut notes)?;
    std::fs::create_dir_all(&options.out).map_err(|cause| ModelError::Io { path: options.out.clone(), action: "make", cause })?;

    let copies = container.copies();
    if !copies.is_empty() {
        container.rename(|name| (!copies.iter().any(|copy| copy == name)).then(|| name.to_owned()));
        notes.push(format!(
            "{} share their values with others and were left out: whoever loads the folder ties them again",
            copies.join(", ")
        ));
    }
    container.write(&weights, options.dtype)?;
    let mut files = vec!["model.safetensors".to_owned()];
    for name in BESIDE.into_iter().chain(ENCODER_CONFIGS).chain(COPIED) {
        files.extend(copy(&folder, &options.out, name)?);
    }
    files.extend(modules(&folder, &options.out, options.dtype)?);
    match Tokenizer::load(&folder) {
        Ok(mut tokenizer) if !files.iter().any(|f| f == "tokenizer.json") => {
            // Where places count from 0, the table's length is the longest text's.
            let places = config.get("max_position_embeddings").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
            if let Some(places) = places.filter(|_| config["model_type"] == "bert") {
                tokenizer.set_model_max_length(places);
            }
            tokenizer.save(&options.out)?;
            files.push("tokenizer.json".into());
        }
        Ok(_) => {}
        Err(cloze_text::TokenizerError::NoTokenizer { .. }) => notes.push("no tokenizer's files stand beside the weights".into()),
        Err(fault) => notes.push(format!("the tokenizer's files were copied, but Cloze does not read them: {fault}")),
    }
    // Last: with it the folder is a model folder.
    let path = options.out.join("config.json");
    std::fs::write(&path, format!("{config:#}\n")).map_err(|cause| ModelError::Io { path, action: "write", cause })?;
    files.push("config.json".into());
    files.sort();
    let values = container.names().filter_map(|name| container.describe(name)).map(|(shape, _)| shape.iter().product::<usize>()).sum();
    Ok(Converted { origin: container.origin(), tensors: container.names().count(), values, files, notes })
}

/// An adapter, merged into the base that it names.
fn merge(options: &ConvertOptions) -> Result<Converted, Error> {
    let refuse = |kind, why: String| ModelError::Io { path: options.out.clone(), action: "write", cause: std::io::Error::new(kind, why) };
    // The new folder is put in the place of what is there: nothing may be.
    if std::fs::read_dir(&options.out).is_ok_and(|mut entries| entries.next().is_some()) {
        let model = options.out.join("config.json").exists() || options.out.join("model.safetensors").exists();
        let why = if model { "the folder holds a model already; give a new one" } else { "the folder is not empty; give a new one" };
        return Err(refuse(std::io::ErrorKind::AlreadyExists, why.into()).into());
    }
    if options.dtype.is_some_and(|dtype| dtype != Dtype::F32) {
        let why = "an adapter is merged in f32; convert the merged folder once more for another type".into();
        return Err(refuse(std::io::ErrorKind::Unsupported, why).into());
    }
    let source = Source::of(&options.from)?;
    let (tensors, values) = source.merge(&options.out)?;
    let names = |entry: std::io::Result<std::fs::DirEntry>| entry.ok().map(|e| e.file_name().to_string_lossy().into_owned());
    let list = std::fs::read_dir(&options.out).map_err(|cause| ModelError::Io { path: options.out.clone(), action: "read", cause })?;
    let mut files: Vec<String> = list.filter_map(names).collect();
    files.sort();
    let notes = vec![format!("the adapter was merged into {}", source.base.display())];
    Ok(Converted { origin: Origin::Safetensors, tensors, values, files, notes })
}

/// config.json of the new folder.
fn configuration(folder: &Path, container: &Container, options: &ConvertOptions, notes: &mut Vec<String>) -> Result<Value, Error> {
    let path = folder.join("config.json");
    let google = folder.join("bert_config.json");
    let (path, is_google) = match (path.exists(), google.exists()) {
        (true, _) => (path, false),
        (false, true) => (google, true),
        _ => return Err(ModelError::NotAModel { folder: folder.to_owned(), missing: "config.json" }.into()),
    };
    let value = read_json(&path)?;
    let Value::Object(mut config) = value else {
        return Err(
            ModelError::Key { path, key: "(top)", expected: "an object", found: value.to_string().chars().take(60).collect() }.into()
        );
    };
    if is_google || container.origin() == Origin::TensorFlow {
        let mut head = Map::new();
        head.insert("architectures".into(), json!([architecture(container)]));
        head.insert("model_type".into(), json!("bert"));
        head.extend(config);
        config = head;
        label_names(container, &mut config);
    }
    if container.origin() == Origin::TensorFlow && config.get("hidden_act").and_then(Value::as_str) == Some("gelu") {
        if options.gelu_tanh {
            config.insert("hidden_act".into(), json!("gelu_new"));
            notes.push("hidden_act is gelu_new, the tanh form of GELU that Google's code computes".into());
        } else {
            notes.push(
                "Google's code computes GELU by its tanh approximation. hidden_act stays \"gelu\" (by erf), as every published conversion has it; the values differ \
                 by some 1e-4. For Google's own numbers convert with --gelu-tanh"
                    .into(),
            );
        }
    }
    if let Some(dtype) = options.dtype {
        let name = match dtype {
            Dtype::F16 => "float16",
            Dtype::BF16 => "bfloat16",
            _ => "float32",
        };
        config.remove("dtype");
        config.insert("torch_dtype".into(), json!(name));
    }
    Ok(config.into())
}

/// The class of transformers that has the heads of a checkpoint by Google's code.
fn architecture(container: &Container) -> &'static str {
    let has = |name: &str| container.describe(name).is_some();
    match (has("cls.predictions.bias"), has("cls.seq_relationship.weight")) {
        (true, true) => "BertForPreTraining",
        (true, false) => "BertForMaskedLM",
        (false, true) => "BertForNextSentencePrediction",
        _ if has("qa_outputs.weight") => "BertForQuestionAnswering",
        _ if has("classifier.weight") => "BertForSequenceClassification",
        _ => "BertModel",
    }
}

/// Names for the labels of a fine-tuned classifier: its code kept them to itself.
fn label_names(container: &Container, config: &mut Map<String, Value>) {
    let Some((&[labels, _], _)) =
        container.describe("classifier.weight").map(|(shape, dtype)| (shape.first_chunk::<2>().unwrap_or(&[0, 0]), dtype))
    else {
        return;
    };
    let names = (0..labels.min(1 << 16)).map(|i| format!("LABEL_{i}"));
    config.insert("id2label".into(), names.clone().enumerate().map(|(i, n)| (i.to_string(), json!(n))).collect::<Map<_, _>>().into());
    config.insert("label2id".into(), names.enumerate().map(|(i, n)| (n, json!(i))).collect::<Map<_, _>>().into());
}

/// Copy a file where it is there; its name.
fn copy(from: &Path, to: &Path, name: &str) -> Result<Option<String>, Error> {
    let source = from.join(name);
    if !source.is_file() {
        return Ok(None);
    }
    std::fs::copy(&source, to.join(name)).map_err(|cause| ModelError::Io { path: source, action: "copy", cause })?;
    Ok(Some(name.to_owned()))
}

/// The folders of sentence-transformers' modules, their weights as safetensors.
fn modules(from: &Path, to: &Path, dtype: Option<Dtype>) -> Result<Vec<String>, Error> {
    let path = from.join("modules.json");
    if !path.exists() {
        return Ok(vec![]);
    }
    let value = read_json(&path)?;
    let mut files = Vec::new();
    for target in value.as_array().into_iter().flatten().filter_map(|m| m.get("path")?.as_str()).filter(|p| !p.is_empty()) {
        let (source, place) = (safe_join(from, target, &path, "path")?, safe_join(to, target, &path, "path")?);
        std::fs::create_dir_all(&place).map_err(|cause| ModelError::Io { path: place.clone(), action: "make", cause })?;
        for name in MODULE_FILES {
            files.extend(copy(&source, &place, name)?.map(|name| format!("{target}/{name}")));
        }
        if ["model.safetensors", "pytorch_model.bin"].iter().any(|name| source.join(name).exists()) {
            Container::open(&source)?.write(&place.join("model.safetensors"), dtype)?;
            files.push(format!("{target}/model.safetensors"));
        }
    }
    Ok(files)
}
