//! Folders of sentence-transformers: `modules.json` and the folders of its modules, which say how token states become the embedding of a sentence
//! (Reimers and Gurevych 2019). Read in their old and their new form; written in the form that every version reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cloze_tensor::ops::activation::Activation;
use serde_json::{Map, Value, json};

use super::config::{brief, read_json};
use super::join::safe_join;
use super::safetensors::{OutTensor, OutValues, TensorFiles, write};
use crate::error::ModelError;

pub(super) const MODULES: &str = "modules.json";
const CONFIG: &str = "config.json";
/// What the module of the encoder calls its own file; older folders name it after the architecture.
pub const ENCODER_CONFIGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// How the states of a sequence's tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentencePooling {
    /// The first token's state.
    Cls,
    /// The mean over tokens.
    Mean,
    /// The maximum over tokens, by component.
    Max,
    /// The last token's state.
    Last,
    /// The sum over tokens, divided by the square root of their number.
    MeanSqrtLen,
    /// The mean, token i (from 1) weighing i.
    WeightedMean,
}

impl SentencePooling {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Cls, Self::Mean, Self::Max, Self::Last, Self::MeanSqrtLen, Self::WeightedMean];

    /// The name in a new `pooling_mode`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
            Self::Max => "max",
            Self::Last => "lasttoken",
            Self::MeanSqrtLen => "mean_sqrt_len_tokens",
            Self::WeightedMean => "weightedmean",
        }
    }

    /// The old flag that switches it on.
    fn flag(self) -> &'static str {
        match self {
            Self::Cls => "pooling_mode_cls_token",
            Self::Mean => "pooling_mode_mean_tokens",
            Self::Max => "pooling_mode_max_tokens",
            Self::Last => "pooling_mode_lasttoken",
            Self::MeanSqrtLen => "pooling_mode_mean_sqrt_len_tokens",
            Self::WeightedMean => "pooling_mode_weightedmean_tokens",
        }
    }
}

/// A linear map behind the pooling: y = f(W x + b).
#[derive(Clone, Debug, PartialEq)]
pub struct SentenceDense {
    /// Length of x.
    pub in_features: usize,
    /// Length of y.
    pub out_features: usize,
    /// f; `None` is the identity.
    pub activation: Option<Activation>,
    /// W. // `f32 [out_features, in_features]`
    pub weight: Vec<f32>,
    /// b. // `f32 [out_features]`
    pub bias: Option<Vec<f32>>,
}

/// What a folder of sentence-transformers says beyond the encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct SentenceModel {
    /// How token states become one vector.
    pub pooling: SentencePooling,
    /// Linear maps after it, in order.
    pub dense: Vec<SentenceDense>,
    /// Whether the result is brought to length 1.
    pub normalize: bool,
    /// Longer texts are cut to so many tokens, special ones included; `None`: the model's own limit.
    pub max_seq_length: Option<usize>,
    /// Text that is put before an input, by the name of its use (`query`, `document`).
    pub prompts: BTreeMap<String, String>,
    /// The prompt that is used when none is asked for.
    pub default_prompt: Option<String>,
}

impl Default for SentenceModel {
    /// What sentence-transformers makes of a plain encoder: the mean over tokens.
    fn default() -> Self {
        Self {
            pooling: SentencePooling::Mean,
            dense: vec![],
            normalize: false,
            max_seq_length: None,
            prompts: BTreeMap::new(),
            default_prompt: None,
        }
    }
}

/// A description together with the place of the encoder that it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct SentenceFolder {
    /// The folder with the encoder's `config.json`: the folder itself, or `0_Transformer` in it.
    pub encoder: PathBuf,
    /// The rest.
    pub model: SentenceModel,
}

impl SentenceModel {
    /// Read a folder; `None` when it has no `modules.json`, so that it is a plain encoder.
    ///
    /// # Errors
    /// Names the file and the key. Modules that are none of Transformer, Pooling, Dense, Normalize and Dropout are refused by name: they are code.
    pub fn read(folder: &Path) -> Result<Option<SentenceFolder>, ModelError> {
        let path = folder.join(MODULES);
        if !path.exists() {
            return Ok(None);
        }
        let fault = |fault: String| ModelError::Modules { path: path.clone(), fault };
        let value = read_json(&path)?;
        let modules = value.as_array().ok_or_else(|| fault(format!("expected a list of modules, found {}", brief(&value))))?;
        let mut encoder = None;
        let (mut pooling, mut pooling_config) = (None, path.clone());
        let mut model = SentenceModel::default();
        for (i, module) in modules.iter().enumerate() {
            let text = |key: &str| {
                let found = module.get(key).unwrap_or(&Value::Null);
                found.as_str().ok_or_else(|| fault(format!("module {i}: `{key}`: expected a string, found {}", brief(found))))
            };
            let (kind, place) = (text("type")?, text("path")?);
            let place = if place.is_empty() { folder.to_owned() } else { safe_join(folder, place, &path, "path")? };
            let out_of_order = |after: &str| fault(format!("module {i}: {kind} must stand after {after}"));
            match module_kind(kind) {
                Some("Transformer") if encoder.is_none() => {
                    model.max_seq_length = max_seq_length(&place)?;
                    encoder = Some(place);
                }
                Some("Pooling") if encoder.is_some() && pooling.is_none() => {
                    pooling_config = place.join(CONFIG);
                    pooling = Some(read_pooling(&pooling_config)?);
                }
                Some("Dense") if pooling.is_some() && !model.normalize => model.dense.push(SentenceDense::read(&place)?),
                Some("Normalize") if pooling.is_some() => model.normalize = true,
                Some("Dropout") => {}
                Some("Transformer") => return Err(fault(format!("module {i}: a second Transformer"))),
                Some("Pooling") if pooling.is_some() => return Err(fault(format!("module {i}: a second Pooling"))),
                Some("Pooling") => return Err(out_of_order("a Transformer")),
                Some("Dense") if model.normalize => return Err(fault(format!("module {i}: a Dense after Normalize is not supported"))),
                Some(_) => return Err(out_of_order("a Pooling")),
                None => {
                    let known = "Transformer, Pooling, Dense, Normalize and Dropout of sentence_transformers";
                    return Err(fault(format!("module {i} is of type \"{kind}\"; Cloze reads {known}")));
                }
            }
        }
        let encoder = encoder.ok_or_else(|| fault("no Transformer among the modules".into()))?;
        model.pooling = pooling.ok_or_else(|| fault("no Pooling among the modules".into()))?;
        let mut width = pooling_width(&encoder)?;
        for (i, dense) in model.dense.iter().enumerate() {
            if width.is_some_and(|w| w != dense.in_features) {
                let fault_text =
                    format!("Dense {i} takes {} values, what stands before it gives {}", dense.in_features, width.unwrap_or(0));
                return Err(fault(fault_text));
            }
            width = Some(dense.out_features);
        }
        model.read_prompts(&folder.join("config_sentence_transformers.json"))?;
        // Without it the tokens of a prompt are left out of the mean.
        let include = read_json(&pooling_config)?.get("include_prompt").and_then(Value::as_bool);
        if include == Some(false) && model.prompts.values().any(|text| !text.is_empty()) {
            let fault =
                "`include_prompt` is false, and config_sentence_transformers.json has prompts: Cloze pools the tokens of a prompt, too; \
                         take the prompts away, or say true where the model was trained so"
                    .into();
            return Err(ModelError::Modules { path: pooling_config, fault });
        }
        Ok(Some(SentenceFolder { encoder, model }))
    }

    fn read_prompts(&mut self, path: &Path) -> Result<(), ModelError> {
        if !path.exists() {
            return Ok(());
        }
        let value = read_json(path)?;
        let fault = |key: &str, found: &Value| ModelError::Modules {
            path: path.to_owned(),
            fault: format!("`{key}`: expected names and texts, found {}", brief(found)),
        };
        match value.get("prompts") {
            None | Some(Value::Null) => {}
            Some(Value::Object(map)) => {
                for (name, text) in map {
                    let text = text.as_str().ok_or_else(|| fault("prompts", text))?;
                    self.prompts.insert(name.clone(), text.to_owned());
                }
            }
            Some(other) => return Err(fault("prompts", other)),
        }
        self.default_prompt = value.get("default_prompt_name").and_then(Value::as_str).map(str::to_owned);
        if let Some(name) = self.default_prompt.as_ref().filter(|name| !self.prompts.contains_key(*name)) {
            return Err(fault("default_prompt_name", &json!(name)));
        }
        Ok(())
    }

    /// The length of an embedding, for an encoder of width `hidden`.
    pub fn width(&self, hidden: usize) -> usize {
        self.dense.last().map_or(hidden, |d| d.out_features)
    }

    /// Write the description into `folder`, beside the encoder's files that stand there already. `hidden` is the encoder's width.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path, hidden: usize) -> Result<(), ModelError> {
        let mut modules = Vec::new();
        let mut module = |path: &str, kind: &str| {
            let i = modules.len();
            modules.push(json!({"idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")}));
        };
        module("", "Transformer");
        module("1_Pooling", "Pooling");
        let mut pooling = Map::new();
        pooling.insert("word_embedding_dimension".into(), json!(hidden));
        for mode in SentencePooling::ALL {
            pooling.insert(mode.flag().into(), json!(mode == self.pooling));
        }
        pooling.insert("include_prompt".into(), json!(true));
        write_json(&made(folder, "1_Pooling")?.join(CONFIG), &pooling.into())?;
        for (i, dense) in self.dense.iter().enumerate() {
            let name = format!("{}_Dense", i + 2);
            dense.write(&made(folder, &name)?)?;
            module(&name, "Dense");
        }
        if self.normalize {
            let name = format!("{}_Normalize", self.dense.len() + 2);
            made(folder, &name)?;
            module(&name, "Normalize");
        }
        let mut encoder = Map::new();
        encoder.insert("max_seq_length".into(), json!(self.max_seq_length));
        encoder.insert("do_lower_case".into(), json!(false)); // the tokenizer's files say that
        write_json(&folder.join(ENCODER_CONFIGS[0]), &encoder.into())?;
        let general = json!({
            "__version__": {"sentence_transformers": "3.0.0", "transformers": "4.46.0", "pytorch": "2.4.0"},
            "prompts": self.prompts,
            "default_prompt_name": self.default_prompt,
            "similarity_fn_name": "cosine",
        });
        write_json(&folder.join("config_sentence_transformers.json"), &general)?;
        // Last: with it the folder is what it says.
        write_json(&folder.join(MODULES), &modules.into())
    }
}

/// The last part of a module's class, where the class is one of the library's own.
fn module_kind(class: &str) -> Option<&'static str> {
    if !class.starts_with("sentence_transformers.") {
        return None;
    }
    let last = class.rsplit('.').next()?;
    ["Transformer", "Pooling", "Dense", "Normalize", "Dropout"].into_iter().find(|kind| *kind == last)
}

/// `max_seq_length` of the encoder's module; newer folders leave it to the tokenizer's `model_max_length`.
fn max_seq_length(encoder: &Path) -> Result<Option<usize>, ModelError> {
    for path in ENCODER_CONFIGS.map(|name| encoder.join(name)) {
        if path.exists() {
            let value = read_json(&path)?;
            let found = value.get("max_seq_length").unwrap_or(&Value::Null);
            match found.as_u64() {
                Some(n) if n > 0 && n < 1 << 40 => return Ok(Some(n as usize)),
                _ if found.is_null() => break,
                _ => {
                    return Err(ModelError::Key {
                        path,
                        key: "max_seq_length",
                        expected: "a number of tokens, at least 1",
                        found: brief(found),
                    });
                }
            }
        }
    }
    let path = encoder.join("tokenizer_config.json");
    if !path.exists() {
        return Ok(None);
    }
    // Files that know no limit say 10^30.
    let limit = read_json(&path)?.get("model_max_length").and_then(Value::as_f64);
    Ok(limit.filter(|n| (1.0..1e9).contains(n)).map(|n| n as usize))
}

/// The encoder's width, where its configuration says it under the usual names.
fn pooling_width(encoder: &Path) -> Result<Option<usize>, ModelError> {
    let path = encoder.join(CONFIG);
    if !path.exists() {
        return Err(ModelError::NotAModel { folder: encoder.to_owned(), missing: CONFIG });
    }
    let value = read_json(&path)?;
    let width = ["hidden_size", "dim", "n_embd"].iter().find_map(|key| value.get(key)?.as_u64());
    Ok(width.and_then(|w| usize::try_from(w).ok()))
}

fn read_pooling(path: &Path) -> Result<SentencePooling, ModelError> {
    let value = read_json(path)?;
    let fault = |fault: String| ModelError::Modules { path: path.to_owned(), fault };
    let named = |name: &str| SentencePooling::ALL.into_iter().find(|mode| mode.name() == name);
    let known = SentencePooling::ALL.map(SentencePooling::name).join(", ");
    let modes: Vec<SentencePooling> = match value.get("pooling_mode") {
        None | Some(Value::Null) => {
            let mut on = Vec::new();
            let mut any = false;
            for mode in SentencePooling::ALL {
                if let Some(flag) = value.get(mode.flag()) {
                    any = true;
                    let flag = flag.as_bool();
                    let flag =
                        flag.ok_or_else(|| fault(format!("`{}`: expected true or false, found {}", mode.flag(), value[mode.flag()])))?;
                    on.extend(flag.then_some(mode));
                }
            }
            if !any {
                return Err(fault(format!("neither `pooling_mode` nor one of the flags `pooling_mode_…`; modes are {known}")));
            }
            on
        }
        Some(Value::String(name)) => vec![named(name).ok_or_else(|| fault(format!("`pooling_mode` is \"{name}\"; Cloze reads {known}")))?],
        Some(Value::Array(names)) => {
            let mode = |v: &Value| {
                v.as_str().and_then(named).ok_or_else(|| fault(format!("`pooling_mode` has {}; Cloze reads {known}", brief(v))))
            };
            names.iter().map(mode).collect::<Result<_, _>>()?
        }
        Some(other) => return Err(fault(format!("`pooling_mode`: expected a name, found {}", brief(other)))),
    };
    match modes[..] {
        [mode] => Ok(mode),
        [] => Err(fault("no pooling mode is switched on".into())),
        _ => Err(fault(format!("{} pooling modes at once, concatenated: Cloze reads folders with one", modes.len()))),
    }
}

/// The activation that a class of PyTorch computes; the inner `None` is the identity.
fn activation_of(class: &str) -> Option<Option<Activation>> {
    if !class.starts_with("torch.nn.") {
        return None;
    }
    Some(match class.rsplit('.').next()? {
        "Identity" => None,
        "Tanh" => Some(Activation::Tanh),
        "ReLU" => Some(Activation::Relu),
        "GELU" => Some(Activation::Gelu),
        "SiLU" => Some(Activation::Silu),
        _ => return None,
    })
}

fn class_of(activation: Option<Activation>) -> &'static str {
    match activation {
        None => "torch.nn.modules.linear.Identity",
        Some(Activation::Tanh) => "torch.nn.modules.activation.Tanh",
        Some(Activation::Relu) => "torch.nn.modules.activation.ReLU",
        Some(Activation::Silu) => "torch.nn.modules.activation.SiLU",
        Some(_) => "torch.nn.modules.activation.GELU",
    }
}

impl SentenceDense {
    /// f(W x + b), on the host: it is one small map a text. // `[in_features] → [out_features]`
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        assert_eq!(x.len(), self.in_features, "dense: it takes {} values, not {}", self.in_features, x.len());
        let row = |(o, w): (usize, &[f32])| {
            let sum: f32 = w.iter().zip(x).map(|(w, x)| w * x).sum();
            let y = sum + self.bias.as_ref().map_or(0.0, |b| b[o]);
            self.activation.map_or(y, |f| f.value(y.into()) as f32)
        };
        self.weight.chunks_exact(self.in_features).enumerate().map(row).collect()
    }

    fn read(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join(CONFIG);
        let value = read_json(&path)?;
        let fault = |fault: String| ModelError::Modules { path: path.clone(), fault };
        let size = |key: &str| {
            let found = value.get(key).unwrap_or(&Value::Null);
            let size = found.as_u64().filter(|n| (1..1 << 20).contains(n));
            size.map(|n| n as usize).ok_or_else(|| fault(format!("`{key}`: expected a size, found {}", brief(found))))
        };
        let (in_features, out_features) = (size("in_features")?, size("out_features")?);
        let has_bias = match value.get("bias") {
            None => true,
            Some(v) => v.as_bool().ok_or_else(|| fault(format!("`bias`: expected true or false, found {}", brief(v))))?,
        };
        let class = value.get("activation_function").map_or(Some("torch.nn.modules.activation.Tanh"), Value::as_str);
        let activation = class.and_then(activation_of).ok_or_else(|| {
            let found = value.get("activation_function").map_or_else(String::new, brief);
            fault(format!("`activation_function` is {found}; Cloze reads Identity, Tanh, ReLU, GELU and SiLU of torch.nn"))
        })?;
        if value.get("use_residual").and_then(Value::as_bool) == Some(true) {
            return Err(fault("`use_residual` is true, which Cloze does not have".into()));
        }
        let inputs = ["module_input_name", "module_output_name"];
        if let Some(key) = inputs.into_iter().find(|key| value.get(key).is_some_and(|v| v.as_str() != Some("sentence_embedding"))) {
            return Err(fault(format!("`{key}` is {}; Cloze reads \"sentence_embedding\"", brief(&value[key]))));
        }
        let files = TensorFiles::of_folder(folder)?;
        let tensor = |name: &str, expected: Vec<usize>| {
            let weights = files.path_of(name).unwrap_or(folder).to_owned();
            let Some((shape, _)) = files.describe(name) else {
                return Err(ModelError::Modules { path: folder.join("model.safetensors"), fault: format!("no tensor `{name}`") });
            };
            if shape != expected {
                return Err(ModelError::Shape { path: weights, name: name.into(), found: shape, expected });
            }
            Ok(files.read(name)?.map_or_else(Vec::new, |(_, values)| values))
        };
        let weight = tensor("linear.weight", vec![out_features, in_features])?;
        let bias = has_bias.then(|| tensor("linear.bias", vec![out_features])).transpose()?;
        Ok(Self { in_features, out_features, activation, weight, bias })
    }

    fn write(&self, folder: &Path) -> Result<(), ModelError> {
        let mut tensors = vec![OutTensor {
            name: "linear.weight".into(),
            shape: vec![self.out_features, self.in_features],
            values: OutValues::F32(&self.weight),
        }];
        if let Some(bias) = &self.bias {
            tensors.push(OutTensor { name: "linear.bias".into(), shape: vec![self.out_features], values: OutValues::F32(bias) });
        }
        write(&folder.join("model.safetensors"), &tensors, &[("format", "pt".into())])?;
        let config = json!({
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias.is_some(),
            "activation_function": class_of(self.activation),
        });
        write_json(&folder.join(CONFIG), &config)
    }
}

fn made(folder: &Path, name: &str) -> Result<PathBuf, ModelError> {
    let path = folder.join(name);
    std::fs::create_dir_all(&path).map_err(ModelError::io(&path, "make"))?;
    Ok(path)
}

fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    std::fs::write(path, format!("{value:#}\n")).map_err(ModelError::io(path, "write"))
}
