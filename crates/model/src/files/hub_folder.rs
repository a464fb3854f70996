//! A model folder as Hugging Face has it: config.json, model.safetensors, and the tokenizer's files beside them.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use cloze_tensor::{Frozen, Param};

use serde_json::{Map, Value, json};

use super::adapter::{ADAPTER_CONFIG, is_adapter};
use super::config::Config;
use super::quantized;
use super::safetensors::{OutTensor, OutValues, TensorFiles, write};
use super::sentence::MODULES;
use crate::error::ModelError;
use crate::model::{Heads, Model, Output, Problem};
use crate::params::{Init, Role, Spec};
use crate::registry::{Copied, FAMILIES, Family, TensorName, family};

/// A model with its values.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The model.
    pub model: Model,
    /// The values of its parameters, in the layout of its table. // `f32 [flat_len]`
    pub values: Vec<f32>,
    /// What the files did and did not hold.
    pub report: LoadReport,
}

/// What a loader met: it never invents a weight in silence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Our parameters that no file held; they start anew.
    pub new: Vec<String>,
    /// Tensors of the files that the model has no use for.
    pub unused: Vec<String>,
}

/// Labels at most that a configuration may ask for without naming them.
const LABELS: usize = 1 << 16;

/// The heads that a folder's config.json announces.
pub fn announced(config: &Config) -> Result<(&'static Family, Heads), ModelError> {
    let model_type = config.text("model_type")?;
    let known = || FAMILIES.map(|f| f.model_type).join(", ");
    let family = family(model_type).ok_or_else(|| config.unknown("model_type", model_type, &known()))?;
    let mut heads = match config.architecture() {
        Some(name) => family.heads(name).ok_or_else(|| {
            let known = family.classes.iter().map(|c| format!("{}{}", family.class, c.suffix())).collect::<Vec<_>>();
            config.unknown("architectures", name, &known.join(", "))
        })?,
        None => Heads::default(),
    };
    if matches!(heads.output, Output::Sequence | Output::Tokens) {
        heads.labels = config.labels()?;
        if heads.labels.is_empty() {
            let count = config.size_or("num_labels", 2)?; // two, where nothing is said
            if count == 0 || count > LABELS {
                return Err(config.unknown("num_labels", &count.to_string(), &format!("1 to {LABELS} labels")));
            }
            heads.labels = (0..count).map(|i| format!("LABEL_{i}")).collect();
        }
    }
    if heads.output == Output::Sequence {
        heads.problem = match config.get("problem_type").map(|_| config.text("problem_type")).transpose()? {
            Some("single_label_classification") => Problem::SingleLabel,
            Some("multi_label_classification") => Problem::MultiLabel,
            Some("regression") => Problem::Regression,
            Some(other) => {
                let known = "single_label_classification, multi_label_classification, regression";
                return Err(config.unknown("problem_type", other, known));
            }
            // One logit is a number: no choice can be made among one label.
            None if heads.labels.len() == 1 => Problem::Regression,
            None => Problem::SingleLabel,
        };
    }
    Ok((family, heads))
}

/// Load a folder with the heads that it announces.
pub fn load(folder: &Path) -> Result<Loaded, ModelError> {
    load_with(folder, None, 0)
}

/// Load a folder with other heads than it announces (fine-tuning a pre-trained body). Parameters that no file holds
/// start anew from `seed`, and are named in the report.
pub fn load_with(folder: &Path, heads: Option<Heads>, seed: u64) -> Result<Loaded, ModelError> {
    let opened = open(folder, heads, seed)?;
    let mut values = vec![0.0; opened.model.table().flat_len()];
    for spec in opened.model.table().specs() {
        opened.lend(spec, &mut |stored| values[spec.param.range()].copy_from_slice(&stored.values()))?;
    }
    Ok(Loaded { model: opened.model, values, report: opened.report })
}

/// A folder that was looked through: its model, and where the values of each parameter stand. They are read one by one.
pub struct Opened {
    /// The model.
    pub model: Model,
    /// What the files hold and do not hold.
    pub report: LoadReport,
    files: TensorFiles,
    /// The tensors of each parameter, by their names in the files; none where it starts anew.
    places: HashMap<Param, Vec<TensorName>>,
    seed: u64,
}

/// Open a folder, with other heads than it announces if given; see [`load_with`].
pub fn open(folder: &Path, heads: Option<Heads>, seed: u64) -> Result<Opened, ModelError> {
    let path = folder.join("config.json");
    if is_adapter(folder) {
        return Err(ModelError::IsAdapter { folder: folder.to_owned(), file: ADAPTER_CONFIG });
    }
    if !path.exists() {
        return Err(ModelError::NotAModel { folder: folder.to_owned(), missing: "config.json" });
    }
    let config = Config::read(&path)?;
    let (family, own) = announced(&config)?;
    let blueprint = (family.blueprint)(&config)?;
    if let Some(fault) = blueprint.fault() {
        return Err(ModelError::Sizes { path, fault });
    }
    let files = TensorFiles::of_folder(folder)?;
    let held = |heads: &Heads, name: &str| {
        let model = Model::new(family.model_type, blueprint.clone(), heads.clone());
        let found = |spec: &Spec| (family.names)(spec, &blueprint).iter().all(|part| find(&files, family, spec, part).is_some());
        model.table().get(name).is_some_and(found)
    };
    // sentence-transformers loads the body alone, whatever class it came from: config.json may go on to announce a prediction head.
    let of_sentences = || [Some(folder), folder.parent()].into_iter().flatten().any(|f| f.join(MODULES).exists());
    let mut heads = match heads {
        Some(heads) => heads,
        None if own == Heads::pretraining(false) && of_sentences() && !held(&own, "mlm.dense.weight") => Heads::body(),
        None => own,
    };
    if heads == Heads::body() && blueprint.pooler {
        // A pooler that is asked for by nobody and stands in no file is no part of the model.
        heads.summary = held(&heads, "pooler.weight");
    }
    let model = Model::new(family.model_type, blueprint, heads);
    check_shapes(folder, &path, family, &model, &files)?;
    let mut report = LoadReport::default();
    let mut places = HashMap::new();
    let mut used = HashSet::new();
    for spec in model.table().specs() {
        let parts = (family.names)(spec, &model.blueprint);
        let found = |part: TensorName| find(&files, family, spec, &part).map(|name| TensorName { name, ..part });
        match parts.into_iter().map(found).collect::<Option<Vec<_>>>() {
            Some(parts) => {
                used.extend(parts.iter().map(|p| p.name.clone()));
                used.extend(parts.iter().map(|p| quantized::scale_name(&p.name)));
                places.insert(spec.param, parts);
            }
            None => report.new.push(spec.name.clone()),
        }
    }
    // Buffers and the copies that tied weights leave behind are no loss.
    let constants = (family.constants)(&model.blueprint);
    let tied = (family.names)(&decoder_of(&model), &model.blueprint);
    let ignored = |n: &String| {
        n.ends_with("position_ids")
            || n.ends_with("token_type_ids")
            || n.ends_with("decoder.weight")
            || n.ends_with("decoder.bias")
            || (model.heads.masked_lm && tied.iter().any(|t| t.name == *n))
            || constants.iter().any(|c| c.name == *n || c.name.strip_prefix(family.prefix) == Some(n))
    };
    report.unused = files.names().iter().filter(|n| !used.contains(*n) && !ignored(n)).cloned().collect();
    Ok(Opened { model, report, files, places, seed })
}

impl Opened {
    /// Show the values of a parameter to `take`: the mapped file itself where it holds them as they are, else what they are
    /// joined from, or new ones. The file's pages are given back afterwards, so that a large model is never in memory twice.
    pub fn lend(&self, spec: &Spec, take: &mut dyn FnMut(&Frozen<'_>)) -> Result<(), ModelError> {
        let Some(parts) = self.places.get(&spec.param) else {
            take(&Frozen::F32(spec.initial(self.seed).into()));
            return Ok(());
        };
        let tensors = parts.iter().map(|part| self.tensor(&part.name)).collect::<Result<Vec<_>, _>>()?;
        let joined = join(spec, parts, tensors);
        assert_eq!(joined.len(), spec.param.len(), "{}: shapes were checked before", spec.name);
        take(&joined);
        parts.iter().for_each(|part| self.files.release(&part.name));
        Ok(())
    }

    /// The values of one tensor: as they are, or bytes with the scales of their rows beside them.
    fn tensor(&self, name: &str) -> Result<Frozen<'_>, ModelError> {
        let Some(values) = self.files.bytes(name) else {
            let Some(values) = self.files.values(name)? else { unreachable!("it was found") };
            return Ok(values);
        };
        let path = || self.files.path_of(name).unwrap_or(Path::new("")).to_owned();
        let scale_name = quantized::scale_name(name);
        let Some((_, scales)) = self.files.read(&scale_name)? else {
            let fault = format!("`{name}` holds bytes, but there are no scales `{scale_name}` of its rows");
            return Err(ModelError::Tensors { path: path(), fault });
        };
        let rows = self.files.describe(name).and_then(|(shape, _)| shape.first().copied()).unwrap_or(0);
        if scales.len() != rows {
            let fault = format!("`{name}` has {rows} rows, but `{scale_name}` {} scales", scales.len());
            return Err(ModelError::Tensors { path: path(), fault });
        }
        Ok(Frozen::Int8 { values: Cow::Borrowed(values), scales: scales.into() })
    }

    /// Whether a matrix stands in the files as bytes.
    pub fn is_bytes(&self, spec: &Spec) -> bool {
        let parts = self.parts_of(spec);
        !parts.is_empty() && parts.iter().all(|part| self.files.describe(&part.name).is_some_and(|(_, kind)| kind == "I8"))
    }

    /// The tensors of a parameter; none where no file holds it.
    pub(crate) fn parts_of(&self, spec: &Spec) -> &[TensorName] {
        self.places.get(&spec.param).map_or(&[], Vec::as_slice)
    }

    /// The shape of a tensor of the files.
    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        self.files.describe(name).map(|(shape, _)| shape).unwrap_or_default()
    }
}

/// A parameter out of its tensors: bytes if all are, else what they stand for.
fn join<'f>(spec: &Spec, parts: &[TensorName], mut tensors: Vec<Frozen<'f>>) -> Frozen<'f> {
    let (rows, width) = spec.units();
    if let [part] = parts
        && part.pieces.len() == 1
    {
        return tensors.remove(0);
    }
    if tensors.iter().all(|t| matches!(t, Frozen::Int8 { .. })) {
        let (mut all, mut all_scales) = (vec![0; rows * width], vec![0.0; rows]);
        for (part, tensor) in parts.iter().zip(&tensors) {
            if let Frozen::Int8 { values, scales } = tensor {
                part.put(values, &mut all, width);
                part.put(scales, &mut all_scales, 1);
            }
        }
        return Frozen::Int8 { values: all.into(), scales: all_scales.into() };
    }
    if tensors.iter().all(|t| matches!(t, Frozen::Bf16(_))) {
        let mut all = vec![half::bf16::ZERO; rows * width];
        for (part, tensor) in parts.iter().zip(&tensors) {
            if let Frozen::Bf16(values) = tensor {
                part.put(values, &mut all, width);
            }
        }
        return Frozen::Bf16(all.into());
    }
    let mut all = vec![0.0; rows * width];
    for (part, tensor) in parts.iter().zip(&tensors) {
        part.put(&tensor.values(), &mut all, width);
    }
    Frozen::F32(all.into())
}

/// What the vocabulary projection would be, were it not the embedding table.
fn decoder_of(model: &Model) -> Spec {
    let word = model.body().word_embedding();
    Spec { name: "mlm.decoder.weight".into(), param: word, init: Init::Zeros, role: Role::Table }
}

/// Every tensor has the shape that the configuration says, before memory is taken for any: config.json must not ask for
/// more than the files can fill, save a head.
fn check_shapes(folder: &Path, config: &Path, family: &Family, model: &Model, files: &TensorFiles) -> Result<(), ModelError> {
    let mut held = 0;
    for spec in model.table().specs() {
        for part in (family.names)(spec, &model.blueprint) {
            let Some(name) = find(files, family, spec, &part) else { continue };
            let Some((found, _)) = files.describe(&name) else { continue };
            let expected = shape_of(spec, &part);
            if found != expected {
                let path = files.path_of(&name).unwrap_or(folder).to_owned();
                return Err(ModelError::Shape { path, name, found, expected });
            }
            held += expected.iter().product::<usize>();
        }
    }
    let described = model.table().count();
    // The largest head, an untied projection, is no larger than the word embeddings.
    if held < described / 2 {
        let fault = format!("they describe {described} parameters, of which the tensor files hold {held}");
        return Err(ModelError::Sizes { path: config.to_owned(), fault });
    }
    Ok(())
}

/// The name of a tensor in the files: its own, without the body's prefix, that of old TensorFlow conversions, or that of
/// its copy.
fn find(files: &TensorFiles, family: &Family, spec: &Spec, part: &TensorName) -> Option<String> {
    candidates(family, spec, part).into_iter().find(|candidate| files.path_of(candidate).is_some())
}

/// The names under which a tensor may stand in files.
pub(super) fn candidates(family: &Family, spec: &Spec, part: &TensorName) -> Vec<String> {
    let name = part.name.as_str();
    let old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
    let mut candidates = vec![name.to_owned(), old.clone()];
    candidates.extend([name, &old].iter().filter_map(|n| n.strip_prefix(family.prefix)).map(str::to_owned));
    candidates.extend(family.copies.iter().filter(|(_, parameter, _)| *parameter == spec.name).map(|(.., copy)| (*copy).to_owned()));
    candidates
}

/// The shape of a tensor that holds `part` of a parameter.
pub(super) fn shape_of(spec: &Spec, part: &TensorName) -> Vec<usize> {
    match spec.role {
        Role::Vector => vec![part.rows()],
        _ => vec![part.rows(), spec.param.cols],
    }
}

/// Write config.json and model.safetensors of a model into `folder`, which must exist. `token_ids` are keys such as
/// `pad_token_id` for config.json.
pub fn save(folder: &Path, model: &Model, values: &[f32], token_ids: &[(&str, u32)]) -> Result<(), ModelError> {
    assert_eq!(values.len(), model.table().flat_len(), "values of another model");
    let Some(family) = family(model.family) else { unreachable!("a model is made by a family of the registry") };
    let bare = family.is_bare(&model.heads);
    let written = |name: &str| name.strip_prefix(family.prefix).filter(|_| bare).unwrap_or(name).to_owned();
    let mut tensors: Vec<(String, Vec<usize>, Cow<[f32]>)> = Vec::new();
    for spec in model.table().specs() {
        let (_, width) = spec.units();
        let own = &values[spec.param.range()];
        for part in (family.names)(spec, &model.blueprint) {
            let held = match part.pieces.as_slice() {
                [piece] => Cow::Borrowed(&own[piece.start * width..piece.end * width]),
                _ => Cow::Owned(part.take(own, width)),
            };
            tensors.push((written(&part.name), shape_of(spec, &part), held));
        }
        let untied = !model.blueprint.tie_word_embeddings;
        for (when, parameter, name) in family.copies {
            if *parameter == spec.name && (*when == Copied::Always || untied) {
                let held = &values[spec.param.range()];
                tensors.push(((*name).into(), vec![held.len()], Cow::Borrowed(held)));
            }
        }
    }
    for constant in (family.constants)(&model.blueprint) {
        tensors.push((written(constant.name), constant.shape.to_vec(), Cow::Owned(constant.values)));
    }
    let tensors: Vec<OutTensor> = tensors
        .iter()
        .map(|(name, shape, held)| OutTensor { name: name.clone(), shape: shape.clone(), values: OutValues::F32(held) })
        .collect();
    write(&folder.join("model.safetensors"), &tensors, &[("format", "pt".into())])?;
    let path = folder.join("config.json");
    let text = serde_json::to_string_pretty(&config_json(family, model, token_ids)).unwrap_or_default() + "\n";
    std::fs::write(&path, text).map_err(ModelError::io(&path, "write"))
}

pub(super) fn config_json(family: &Family, model: &Model, token_ids: &[(&str, u32)]) -> Value {
    let b = &model.blueprint;
    let mut map = Map::new();
    map.insert("architectures".into(), json!(family.architecture(&model.heads).map(|name| vec![name])));
    map.insert("model_type".into(), json!(family.model_type));
    map.insert("vocab_size".into(), json!(b.vocab_size));
    map.extend(token_ids.iter().map(|(k, v)| ((*k).to_owned(), json!(v))));
    // What the family says last: its pad_token_id may be where places start to count.
    map.extend((family.config)(model));
    if !model.heads.labels.is_empty() {
        let labels = &model.heads.labels;
        map.insert("id2label".into(), labels.iter().enumerate().map(|(i, l)| (i.to_string(), json!(l))).collect::<Map<_, _>>().into());
        map.insert("label2id".into(), labels.iter().enumerate().map(|(i, l)| (l.clone(), json!(i))).collect::<Map<_, _>>().into());
    }
    if model.heads.output == Output::Sequence {
        let problem = match model.heads.problem {
            Problem::SingleLabel => "single_label_classification",
            Problem::MultiLabel => "multi_label_classification",
            Problem::Regression => "regression",
        };
        map.insert("problem_type".into(), json!(problem));
    }
    map.insert("tie_word_embeddings".into(), json!(b.tie_word_embeddings));
    map.insert("torch_dtype".into(), json!("float32"));
    map.insert("transformers_version".into(), json!("4.46.0"));
    Value::Object(map)
}
