//! The checkpoint doctor: what is odd about a model folder, and where two models part.

use std::collections::BTreeMap;
use std::path::Path;

use cloze_model::files::config::{Config, read_json};
use cloze_model::files::container::Container;
use cloze_model::files::sentence::SentenceModel;
use cloze_model::registry::family;
use cloze_model::{ModelError, load};
use cloze_tensor::ops::activation::Activation;
use cloze_text::Tokenizer;
use cloze_train::run::Precision;
use serde::Serialize;
use serde_json::Value;

use crate::{Device, Error, Pipeline};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// Good to know.
    Note,
    /// Answers may be worse than the checkpoint's.
    Warning,
    /// The folder does not work, or answers nonsense.
    Fault,
}

/// Something that a reader of a folder should know.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub weight: Weight,
    /// What it is, in a sentence.
    pub text: String,
}

/// What the doctor says about a folder.
#[derive(Clone, Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, weight: Weight, text: impl Into<String>) {
        self.0.push(Finding { weight, text: text.into() });
    }

    /// The findings, the gravest first.
    pub fn sorted(mut self) -> Vec<Finding> {
        self.0.sort_by_key(|f| std::cmp::Reverse(f.weight));
        self.0
    }
}

/// Examine a model folder. What cannot be read is a finding, not an error.
pub fn examine(folder: &Path) -> Vec<Finding> {
    let mut found = Findings::default();
    match load(folder) {
        Err(error) => {
            found.add(Weight::Fault, format!("the model cannot be loaded: {error}"));
            let elsewhere = |name: &str| folder.join(name).exists();
            if elsewhere("pytorch_model.bin") || elsewhere("bert_model.ckpt.index") || elsewhere("pytorch_model.bin.index.json") {
                let text = format!(
                    "the weights are another program's: cloze convert --from {} --out DIR makes a folder of them",
                    folder.display()
                );
                found.add(Weight::Note, text);
            }
        }
        Ok(loaded) => {
            let b = &loaded.model.blueprint;
            let new = &loaded.report.new;
            if !new.is_empty() {
                let text = format!("{} parameters are in no file and start anew: {}", new.len(), few(new));
                let body = new.iter().any(|n| n.starts_with("layer.") || n.starts_with("embeddings."));
                found.add(if body { Weight::Fault } else { Weight::Warning }, text);
            }
            let unused = &loaded.report.unused;
            if !unused.is_empty() {
                found.add(Weight::Note, format!("{} tensors have no use in this model: {}", unused.len(), few(unused)));
            }
            match b.hidden_act {
                Activation::Gelu => found.add(
                    Weight::Note,
                    "GELU by erf; a checkpoint of Google's TensorFlow code was trained with the tanh form (hidden_act \"gelu_new\")",
                ),
                Activation::GeluTanh => found.add(Weight::Note, "GELU by its tanh approximation"),
                _ => {}
            }
            tokenizer(folder, b.vocab_size, b.position.longest(), &mut found);
        }
    }
    if let Ok(container) = Container::of_safetensors(folder) {
        weights(folder, &container, &mut found);
    }
    match SentenceModel::read(folder) {
        Ok(None) => {}
        Ok(Some(folder)) => {
            let m = &folder.model;
            let dense = m.dense.iter().map(|d| format!(", dense {} → {}", d.in_features, d.out_features)).collect::<String>();
            let normalize = if m.normalize { ", normalised" } else { "" };
            let length = m.max_seq_length.map_or_else(|| "the model's own limit".into(), |n| format!("{n} tokens"));
            found.add(
                Weight::Note,
                format!("sentence embeddings: {} pooling{dense}{normalize}; texts are cut to {length}", m.pooling.name()),
            );
        }
        Err(error) => found.add(Weight::Fault, format!("sentence-transformers' description: {error}")),
    }
    found.sorted()
}

/// The first of many names.
fn few(names: &[String]) -> String {
    let shown = names.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 8 { format!("{shown}, and {} more", names.len() - 8) } else { shown }
}

fn tokenizer(folder: &Path, rows: usize, longest: usize, found: &mut Findings) {
    let tokenizer = match Tokenizer::load(folder) {
        Ok(tokenizer) => tokenizer,
        Err(cloze_text::TokenizerError::NoTokenizer { .. }) => return found.add(Weight::Warning, "the folder has no tokenizer"),
        Err(error) => return found.add(Weight::Fault, format!("the tokenizer cannot be read: {error}")),
    };
    let ids = tokenizer.vocab_size();
    if ids > rows {
        found.add(Weight::Fault, format!("the tokenizer has {ids} ids, the model {rows} rows: they do not belong together"));
    } else if ids < rows {
        let text = format!("the model has {rows} rows, the tokenizer {ids} ids: {} rows are never used", rows - ids);
        // Tables are often filled up to a multiple of 64 or 128; hundreds of rows more are another vocabulary's.
        found.add(if rows - ids > 1024 { Weight::Warning } else { Weight::Note }, text);
    }
    if let Some(max) = tokenizer.config().model_max_length.filter(|max| *max > longest) {
        found.add(
            Weight::Warning,
            format!("the tokenizer's model_max_length is {max}, the model takes {longest} tokens; longer texts are cut"),
        );
    }
    let special = tokenizer.special();
    if let Ok(config) = Config::read(&folder.join("config.json")) {
        for (key, id) in [("pad_token_id", special.pad), ("bos_token_id", special.cls), ("eos_token_id", special.sep)] {
            if let (Some(stated), Some(id)) = (config.get(key).and_then(Value::as_u64), id)
                && stated != u64::from(id)
            {
                found.add(Weight::Warning, format!("config.json says {key} {stated}, the tokenizer's is {id}"));
            }
        }
    }
    for (name, id) in [("unknown", special.unk), ("padding", special.pad), ("mask", special.mask)] {
        if id.is_none() {
            found.add(Weight::Note, format!("the tokenizer has no {name} token"));
        }
    }
}

fn weights(folder: &Path, container: &Container, found: &mut Findings) {
    let mut dtypes = BTreeMap::<String, usize>::new();
    let (mut broken, mut flat) = (Vec::new(), Vec::new());
    for name in container.names() {
        let Some((shape, dtype)) = container.describe(name) else { continue };
        *dtypes.entry(format!("{dtype:?}")).or_default() += 1;
        let Some(values) = container.f32(name) else { continue };
        let bad = values.iter().filter(|v| !v.is_finite()).count();
        if bad > 0 {
            broken.push(format!("{name} ({bad} of {})", values.len()));
        }
        // A matrix of one value has learned nothing; biases may be zero.
        if shape.len() > 1 && values.len() > 1 && values.iter().all(|v| *v == values[0]) {
            flat.push(name.to_owned());
        }
    }
    if !broken.is_empty() {
        found.add(Weight::Fault, format!("values that are no numbers (NaN or infinite): {}", few(&broken)));
    }
    if !flat.is_empty() {
        found.add(Weight::Warning, format!("matrices of one single value: {}", few(&flat)));
    }
    if dtypes.len() > 1 {
        let kinds = dtypes.iter().map(|(kind, n)| format!("{n} {kind}")).collect::<Vec<_>>().join(", ");
        found.add(Weight::Note, format!("tensors of several types: {kinds}"));
    }
    let Ok(config) = Config::read(&folder.join("config.json")) else { return };
    let tied = config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(true);
    let projection =
        container.names().find(|n| n.ends_with("decoder.weight") || n.ends_with("lm_head.weight") || n.ends_with("vocab_projector.weight"));
    let table = container.names().find(|n| n.ends_with("word_embeddings.weight") || n.ends_with("tok_embeddings.weight"));
    match (projection, table) {
        (Some(projection), Some(table)) => {
            let equal = container.bytes(projection) == container.bytes(table);
            match (tied, equal) {
                (true, true) => found.add(Weight::Note, format!("{projection} is tied to {table}, and equal to it")),
                (true, false) => found.add(
                    Weight::Warning,
                    format!("config.json ties the projection to the embeddings, but {projection} differs from {table}: it is not used"),
                ),
                (false, _) => found.add(Weight::Note, format!("{projection} is a table of its own, not tied to {table}")),
            }
        }
        (None, Some(table)) if tied && container.names().any(|n| n.ends_with("predictions.bias") || n.ends_with("decoder.bias")) => {
            found.add(Weight::Note, format!("the projection to the vocabulary is tied to {table}"));
        }
        _ => {}
    }
}

/// A number of one model beside that of another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// What is compared: a tensor, `embeddings`, `layer 3`, `logits`.
    pub name: String,
    /// The largest difference of two values.
    pub largest: f32,
    /// The same over the largest value of both.
    pub relative: f32,
}

impl Difference {
    fn of(name: impl Into<String>, a: &[f32], b: &[f32]) -> Self {
        let mut largest = 0.0f32;
        let mut scale = 0.0f32;
        for (a, b) in a.iter().zip(b) {
            let d = (a - b).abs();
            largest = if d.is_nan() { f32::INFINITY } else { largest.max(d) };
            scale = scale.max(a.abs()).max(b.abs());
        }
        Self { name: name.into(), largest, relative: if largest == 0.0 { 0.0 } else { largest / scale.max(f32::MIN_POSITIVE) } }
    }
}

/// The models on one text.
#[derive(Clone, Debug, Serialize)]
pub struct OnText {
    /// The text.
    pub text: String,
    /// Whether both tokenizers cut it alike. If not, both models get the first one's tokens.
    pub same_tokens: bool,
    /// Embeddings, every layer, logits, in the order of the computation.
    pub layers: Vec<Difference>,
    /// The first that differs by more than the bound.
    pub first_difference: Option<String>,
}

/// Where two models part.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Keys of config.json with different values: key, first, second.
    pub config: Vec<(String, String, String)>,
    /// Tensors that only the first has.
    pub only_first: Vec<String>,
    /// Tensors that only the second has.
    pub only_second: Vec<String>,
    /// Tensors of different shapes, with both.
    pub shapes: Vec<String>,
    /// Tensors of different values, the most different first.
    pub weights: Vec<Difference>,
    /// Tensors with equal values.
    pub equal: usize,
    /// The models on each text; empty where they cannot run side by side.
    pub texts: Vec<OnText>,
    /// Why not, where they cannot.
    pub not_run: Option<String>,
}

/// Relative difference from which on two layers differ: twice what two orders of summation make in f32.
pub const BOUND: f32 = 1e-4;

/// Compare two model folders: configuration, weights tensor by tensor, and both on the same texts layer by layer.
///
/// # Errors
/// When the weights of one cannot be read.
pub fn compare(device: &Device, first: &Path, second: &Path, texts: &[String]) -> Result<Comparison, Error> {
    let (a, b) = (Container::of_safetensors(first)?, Container::of_safetensors(second)?);
    let (names_a, names_b) = (plain_names(first, &a), plain_names(second, &b));
    let only = |x: &BTreeMap<String, &str>, y: &BTreeMap<String, &str>| -> Vec<String> {
        x.iter().filter(|(plain, _)| !y.contains_key(*plain)).map(|(_, name)| (*name).to_owned()).collect()
    };
    let mut c = Comparison {
        config: configs(first, second)?,
        only_first: only(&names_a, &names_b),
        only_second: only(&names_b, &names_a),
        shapes: vec![],
        weights: vec![],
        equal: 0,
        texts: vec![],
        not_run: None,
    };
    for (plain, name) in &names_a {
        let Some(other) = names_b.get(plain) else { continue };
        let (Some((x, _)), Some((y, _))) = (a.describe(name), b.describe(other)) else { continue };
        if x != y {
            c.shapes.push(format!("{name}: {x:?} and {y:?}"));
            continue;
        }
        let (Some(x), Some(y)) = (a.f32(name), b.f32(other)) else { continue };
        let difference = Difference::of(*name, &x, &y);
        if difference.largest == 0.0 { c.equal += 1 } else { c.weights.push(difference) }
    }
    c.weights.sort_by(|x, y| y.relative.total_cmp(&x.relative));
    drop((names_a, names_b));
    drop((a, b));
    let load = |folder: &Path| Pipeline::load(device, folder, Precision::F32, None);
    match (load(first), load(second)) {
        (Ok(a), Ok(b)) => {
            let shape = |p: &Pipeline| (p.model().blueprint.hidden_size, p.model().blueprint.vocab_size);
            if shape(&a) == shape(&b) {
                c.texts = texts.iter().map(|text| on_text(&a, &b, text)).collect::<Result<_, _>>()?;
            } else {
                c.not_run = Some("hidden or vocabulary sizes differ".into());
            }
        }
        (Err(error), _) | (_, Err(error)) => c.not_run = Some(error.to_string()),
    }
    Ok(c)
}

/// The tensors of a folder by what they are: without the body's prefix, which a body alone lacks, LayerNorm's parameters by their later names, and
/// without the buffers that hold no weights.
fn plain_names<'a>(folder: &Path, container: &'a Container) -> BTreeMap<String, &'a str> {
    let config = Config::read(&folder.join("config.json")).ok();
    let family = config.as_ref().and_then(|c| family(c.text("model_type").ok()?));
    let prefix = family.map_or("", |f| f.prefix);
    let weights = container.names().filter(|n| !n.ends_with("position_ids") && !n.ends_with("token_type_ids"));
    let plain = |name: &str| {
        let own = name.strip_prefix(prefix).unwrap_or(name);
        own.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    };
    weights.map(|name| (plain(name), name)).collect()
}

fn on_text(a: &Pipeline, b: &Pipeline, text: &str) -> Result<OnText, Error> {
    let (encoding, x) = a.states(text)?;
    let same_tokens = b.tokenizer().encode_truncated(text, encoding.len().max(3))?.ids == encoding.ids;
    let y = b.states_of(&encoding);
    let name = |i: usize| if i == 0 { "embeddings".into() } else { format!("layer {}", i - 1) };
    let mut layers: Vec<Difference> = x.hidden.iter().zip(&y.hidden).enumerate().map(|(i, (x, y))| Difference::of(name(i), x, y)).collect();
    for (name, x, y) in [("logits of the vocabulary", &x.logits, &y.logits), ("logits of the labels", &x.class_logits, &y.class_logits)] {
        if let (Some(x), Some(y)) = (x, y)
            && x.len() == y.len()
        {
            layers.push(Difference::of(name, x, y));
        }
    }
    let first_difference = layers.iter().find(|d| d.relative > BOUND).map(|d| d.name.clone());
    Ok(OnText { text: text.to_owned(), same_tokens, layers, first_difference })
}

/// Keys that are about the file, not about the model.
const OF_THE_FILE: [&str; 6] = ["_name_or_path", "transformers_version", "torch_dtype", "dtype", "label2id", "gradient_checkpointing"];

fn configs(first: &Path, second: &Path) -> Result<Vec<(String, String, String)>, Error> {
    let read = |folder: &Path| -> Result<Value, ModelError> { read_json(&folder.join("config.json")) };
    let (a, b) = (read(first)?, read(second)?);
    let keys = |v: &Value| v.as_object().map(|m| m.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut all: Vec<String> = keys(&a).into_iter().chain(keys(&b)).filter(|k| !OF_THE_FILE.contains(&k.as_str())).collect();
    all.sort();
    all.dedup();
    let told = |v: Option<&Value>| v.map_or_else(|| "not given".to_owned(), ToString::to_string);
    Ok(all.into_iter().filter(|k| a.get(k) != b.get(k)).map(|k| (k.clone(), told(a.get(&k)), told(b.get(&k)))).collect())
}
