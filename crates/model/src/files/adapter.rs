//! Adapters as PEFT writes them: `adapter_config.json` says what they were put on, `adapter_model.safetensors` holds A and B of every
//! low-rank update and the modules that were trained whole (heads). Read onto their base, with the products added up; written for
//! PEFT and for Cloze.
//!
//! Tensors are named `base_model.model.{module}.lora_A.weight` [r, in] and `….lora_B.weight` [out, r], with the module's name in the
//! library's model; those of whole modules `base_model.model.{tensor}`. Beside them Cloze writes the `config.json` of the adapted model,
//! which PEFT leaves out: labels and heads stand in it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use cloze_tensor::{Frozen, Param};
use serde_json::{Map, Value, json};

use super::config::{Config, brief};
use super::hub_folder::{LoadReport, Opened, announced, candidates, config_json, open, shape_of};
use super::safetensors::{OutTensor, OutValues, TensorFiles, write};
use crate::adaptation::{Adaptation, Rank, add_product, end, means, modules};
use crate::error::ModelError;
use crate::family::layout::decimal;
use crate::model::{Heads, Model, Output, Problem};
use crate::params::{Role, Spec};
use crate::registry::{Class, Family, TensorName, family};

/// The file that makes a folder an adapter.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// Its tensors.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// What stands before every name.
const PREFIX: &str = "base_model.model.";

/// Whether a folder is an adapter: it may hold a `config.json`, too, which says what the adapted model is.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(ADAPTER_CONFIG).exists() && !folder.join("model.safetensors").exists()
}

/// An adapter's files, looked through.
pub struct Adapter {
    folder: PathBuf,
    base: Option<String>,
    revision: Option<String>,
    task_type: Option<String>,
    files: TensorFiles,
    /// Module → its update.
    updates: BTreeMap<String, Rank>,
    /// Tensor of the model → its name in the file.
    whole: BTreeMap<String, String>,
}

impl Adapter {
    /// Look through an adapter's folder.
    ///
    /// # Errors
    /// Names the file and the key or tensor. What changes the result and is not computed here (DoRA, biases of B, embeddings of low rank)
    /// is refused by name.
    pub fn read(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join(ADAPTER_CONFIG);
        if !path.exists() {
            return Err(ModelError::NotAModel { folder: folder.to_owned(), missing: ADAPTER_CONFIG });
        }
        let config = Config::read(&path)?;
        let kind = config.text("peft_type")?;
        if kind != "LORA" {
            return Err(config.unknown("peft_type", kind, "LORA"));
        }
        for key in ["use_dora", "fan_in_fan_out", "lora_bias", "use_qalora"] {
            config.refuse_unless_flag(key, false)?;
        }
        let text = |key: &'static str| config.get(key).map(|_| config.text(key).map(str::to_owned)).transpose();
        let (base, revision, task_type) = (text("base_model_name_or_path")?, text("revision")?, text("task_type")?);
        let weights = folder.join(ADAPTER_WEIGHTS);
        if !weights.exists() {
            return Err(ModelError::NotAModel { folder: folder.to_owned(), missing: ADAPTER_WEIGHTS });
        }
        let files = TensorFiles::open(vec![weights.clone()])?;
        let (mut ranks, mut whole) = (BTreeMap::new(), BTreeMap::new());
        for name in files.names() {
            let fault = |fault: String| ModelError::Tensors { path: weights.clone(), fault };
            let own =
                name.strip_prefix(PREFIX).ok_or_else(|| fault(format!("tensor `{name}` is not named `{PREFIX}…`, as PEFT names them")))?;
            let own = own.replace(".base_layer.", ".").replace(".modules_to_save.", ".");
            let low = own.strip_suffix(".lora_A.weight").map(|m| (m, 0)).or_else(|| own.strip_suffix(".lora_B.weight").map(|m| (m, 1)));
            match low {
                Some((module, which)) => {
                    let shape = files.describe(name).map(|(shape, _)| shape).unwrap_or_default();
                    let &[rows, cols] = shape.as_slice() else {
                        return Err(fault(format!("tensor `{name}` of shape {shape:?} is no matrix")));
                    };
                    let rank = if which == 0 { rows } else { cols };
                    ranks.entry(module.to_owned()).or_insert([None; 2])[which] = Some(rank);
                }
                None if own.contains(".lora_") => {
                    return Err(fault(format!("tensor `{name}` is of a kind of LoRA that Cloze does not read")));
                }
                None => {
                    whole.insert(own, name.clone());
                }
            }
        }
        let mut updates = BTreeMap::new();
        for (module, found) in ranks {
            let [Some(a), Some(b)] = found else {
                let missing = if found[0].is_none() { "A" } else { "B" };
                let fault = format!("module `{module}` has no lora_{missing}");
                return Err(ModelError::Tensors { path: weights, fault });
            };
            if a != b || a == 0 {
                let fault = format!("module `{module}`: A is of rank {a}, B of rank {b}");
                return Err(ModelError::Tensors { path: weights, fault });
            }
            let scale = scale(&config, &module, a)?;
            updates.insert(module, Rank { rank: a, scale });
        }
        Ok(Self { folder: folder.to_owned(), base, revision, task_type, files, updates, whole })
    }

    /// The model that it was made for: a folder, or a name on the hub, with its revision where one is given.
    ///
    /// # Errors
    /// [`ModelError::NoBase`] where the configuration names none.
    pub fn base(&self) -> Result<PathBuf, ModelError> {
        let base = self.base.as_deref().filter(|b| !b.is_empty());
        let base = base.ok_or_else(|| ModelError::NoBase { path: self.folder.join(ADAPTER_CONFIG) })?;
        match &self.revision {
            Some(revision) if !Path::new(base).exists() => Ok(format!("{base}@{revision}").into()),
            _ => Ok(base.into()),
        }
    }

    /// Its low-rank updates, by module.
    pub fn updates(&self) -> &BTreeMap<String, Rank> {
        &self.updates
    }

    /// The tensors that it holds whole, by their names in the model.
    pub fn whole(&self) -> impl Iterator<Item = &str> {
        self.whole.keys().map(String::as_str)
    }

    /// The heads of the adapted model: what the folder's own config.json says, else what the kind of task and the saved modules say.
    fn heads(&self, base: &Config) -> Result<Heads, ModelError> {
        let path = self.folder.join("config.json");
        let (family, own) = announced(base)?;
        if path.exists() {
            let config = Config::read(&path)?;
            let (other, heads) = announced(&config)?;
            if other.model_type != family.model_type {
                return Err(config.unknown("model_type", other.model_type, &format!("an adapter of its base, {}", family.model_type)));
            }
            return Ok(heads);
        }
        let mut heads = match self.task_type.as_deref() {
            Some("SEQ_CLS") => Class::Sequence.heads(),
            Some("TOKEN_CLS") => Class::Tokens.heads(),
            Some("QUESTION_ANS") => return Ok(Class::Span.heads()),
            Some("FEATURE_EXTRACTION") => return Ok(Class::Body.heads()),
            _ => return Ok(own),
        };
        let count = self.labels(family, base, &heads)?;
        if own.output == heads.output && count.is_none_or(|n| n == own.labels.len()) {
            return Ok(own);
        }
        let count = count.unwrap_or(2);
        heads.labels = (0..count).map(|i| format!("LABEL_{i}")).collect();
        if heads.output == Output::Sequence && count == 1 {
            heads.problem = Problem::Regression;
        }
        Ok(heads)
    }

    /// How many labels the saved head has.
    fn labels(&self, family: &'static Family, base: &Config, heads: &Heads) -> Result<Option<usize>, ModelError> {
        let blueprint = (family.blueprint)(base)?;
        let head = if heads.output == Output::Tokens { "tokens.weight" } else { "classifier.weight" };
        let spec =
            Spec { name: head.into(), param: Param { offset: 0, rows: 1, cols: 1 }, init: crate::params::Init::Zeros, role: Role::Table };
        let names = (family.names)(&spec, &blueprint);
        let shape =
            names.iter().flat_map(|part| candidates(family, &spec, part)).find_map(|name| self.files.describe(self.whole.get(&name)?));
        Ok(shape.and_then(|(shape, _)| shape.first().copied()))
    }

    fn path(&self) -> PathBuf {
        self.folder.join(ADAPTER_WEIGHTS)
    }

    /// A and B of a module.
    fn pair(&self, module: &str) -> Result<(Vec<f32>, Vec<f32>), ModelError> {
        let read = |which: &str| -> Result<Vec<f32>, ModelError> {
            let found =
                self.files.names().iter().find(|name| name.replace(".base_layer.", ".") == format!("{PREFIX}{module}.lora_{which}.weight"));
            Ok(found.map(|name| self.files.read(name)).transpose()?.flatten().map(|(_, values)| values).unwrap_or_default())
        };
        Ok((read("A")?, read("B")?))
    }
}

/// alpha / r, or alpha / √r with rank-stabilised LoRA (Kalajdzievski 2023).
fn scale(config: &Config, module: &str, rank: usize) -> Result<f32, ModelError> {
    let mut alpha = config.number_or("lora_alpha", 8.0)?;
    if let Some(patterns) = config.get("alpha_pattern") {
        let patterns =
            patterns.as_object().ok_or_else(|| config.unknown("alpha_pattern", &brief(patterns), "an object of modules to numbers"))?;
        for (pattern, value) in patterns {
            if !pattern.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
                return Err(config.unknown("alpha_pattern", pattern, "ends of module names"));
            }
            if means(pattern, module) {
                alpha = value.as_f64().map(|v| v as f32).ok_or_else(|| config.unknown("alpha_pattern", &brief(value), "numbers"))?;
            }
        }
    }
    let by = if config.flag_or("use_rslora", false)? { (rank as f32).sqrt() } else { rank as f32 };
    let scale = alpha / by;
    if scale.is_finite() { Ok(scale) } else { Err(config.unknown("lora_alpha", &alpha.to_string(), "a number")) }
}

/// What an adapter does to a parameter.
enum Change {
    /// A tensor stands in for the base's.
    Whole(TensorName, String),
    /// A product is added to a matrix.
    LowRank(TensorName, String),
}

/// A base with an adapter on it, or a model alone: its model, and where the values of each parameter stand.
pub struct Adapted {
    /// The model, its updates merged.
    pub model: Model,
    /// What the files hold and do not hold.
    pub report: LoadReport,
    opened: Opened,
    adapter: Option<Adapter>,
    changes: HashMap<Param, Vec<Change>>,
}

impl Adapted {
    /// Open a base, with an adapter if given, and with other heads than these announce if given; see [`open`].
    ///
    /// # Errors
    /// As [`open`], and where a tensor of the adapter has no place or another shape.
    pub fn open(base: &Path, adapter: Option<Adapter>, heads: Option<Heads>, seed: u64) -> Result<Self, ModelError> {
        let Some(adapter) = adapter else {
            let opened = open(base, heads, seed)?;
            let (model, report) = (opened.model.clone(), opened.report.clone());
            return Ok(Self { model, report, opened, adapter: None, changes: HashMap::new() });
        };
        let path = base.join("config.json");
        let heads = match heads {
            Some(heads) => heads,
            None if path.exists() => adapter.heads(&Config::read(&path)?)?,
            None => return Err(ModelError::NotAModel { folder: base.to_owned(), missing: "config.json" }),
        };
        let opened = open(base, Some(heads), seed)?;
        let (model, mut report) = (opened.model.clone(), opened.report.clone());
        let Some(family) = family(model.family) else { unreachable!("a model is made by a family of the registry") };
        let mut changes: HashMap<Param, Vec<Change>> = HashMap::new();
        let mut used: BTreeSet<&str> = BTreeSet::new();
        for spec in model.table().specs() {
            let parts = (family.names)(spec, &model.blueprint);
            let count = parts.len();
            let mut found = Vec::new();
            for part in parts {
                let names = candidates(family, spec, &part);
                let expected = shape_of(spec, &part);
                let whole = names.iter().find_map(|name| adapter.whole.get_key_value(name));
                let module = names.iter().find_map(|name| adapter.updates.get_key_value(name.strip_suffix(".weight")?));
                if let Some((tensor, name)) = whole {
                    let shape = adapter.files.describe(name).map(|(shape, _)| shape).unwrap_or_default();
                    if shape != expected {
                        return Err(ModelError::Shape { path: adapter.path(), name: name.clone(), found: shape, expected });
                    }
                    used.insert(tensor);
                    found.push(Change::Whole(part.clone(), name.clone()));
                }
                if let Some((module, rank)) = module {
                    let (a, b) = adapter.pair(module)?;
                    let found_shape = vec![b.len() / rank.rank, a.len() / rank.rank];
                    if found_shape != expected {
                        let name = format!("{module}.lora_B · lora_A");
                        return Err(ModelError::Shape { path: adapter.path(), name, found: found_shape, expected });
                    }
                    used.insert(module);
                    found.push(Change::LowRank(part, module.clone()));
                }
            }
            if count > 0 && found.iter().filter(|c| matches!(c, Change::Whole(..))).count() == count {
                report.new.retain(|name| *name != spec.name);
            }
            if !found.is_empty() {
                changes.insert(spec.param, found);
            }
        }
        let ignored = |name: &str| name.ends_with("position_ids") || name.ends_with("token_type_ids");
        let unplaced = adapter.whole.keys().chain(adapter.updates.keys()).find(|name| !used.contains(name.as_str()) && !ignored(name));
        if let Some(name) = unplaced {
            let heads = family.architecture(&model.heads).unwrap_or_else(|| "these heads".into());
            return Err(ModelError::NotOfBase { path: adapter.path(), name: name.clone(), family: model.family, heads });
        }
        Ok(Self { model, report, opened, adapter: Some(adapter), changes })
    }

    /// Show the values of a parameter to `take`, products added; see [`Opened::lend`].
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn lend(&self, spec: &Spec, take: &mut dyn FnMut(&Frozen<'_>)) -> Result<(), ModelError> {
        self.lend_with(spec, true, take)
    }

    /// The same without the products, where they are computed beside their matrices.
    fn lend_with(&self, spec: &Spec, products: bool, take: &mut dyn FnMut(&Frozen<'_>)) -> Result<(), ModelError> {
        let (Some(changes), Some(adapter)) = (self.changes.get(&spec.param), &self.adapter) else { return self.opened.lend(spec, take) };
        let changed = |c: &Change| products || matches!(c, Change::Whole(..));
        if !changes.iter().any(changed) {
            return self.opened.lend(spec, take);
        }
        let (_, width) = spec.units();
        let mut all = Vec::new();
        self.opened.lend(spec, &mut |base| all = base.values().into_owned())?;
        for change in changes.iter().filter(|c| changed(c)) {
            match change {
                Change::Whole(part, name) => {
                    let values = adapter.files.read(name)?.map(|(_, values)| values).unwrap_or_default();
                    part.put(&values, &mut all, width);
                }
                Change::LowRank(part, module) => {
                    let (a, b) = adapter.pair(module)?;
                    let Rank { rank, scale } = adapter.updates[module];
                    let mut taken = part.take(&all, width);
                    add_product(rank, &a, &b, scale, &mut taken);
                    part.put(&taken, &mut all, width);
                }
            }
        }
        take(&Frozen::F32(all.into()));
        Ok(())
    }

    /// Whether a matrix stands in the files as bytes and is multiplied as such.
    pub fn is_bytes(&self, spec: &Spec) -> bool {
        self.opened.is_bytes(spec) && !self.changes.contains_key(&spec.param)
    }

    /// All values. // `f32 [flat_len]`
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn values(&self) -> Result<Vec<f32>, ModelError> {
        let mut values = vec![0.0; self.model.table().flat_len()];
        for spec in self.model.table().specs() {
            self.lend(spec, &mut |held| values[spec.param.range()].copy_from_slice(&held.values()))?;
        }
        Ok(values)
    }
}

/// What an adapter's configuration says beside its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterCard<'a> {
    /// The base: a folder, or a name on the hub.
    pub base: &'a str,
    /// r.
    pub rank: usize,
    /// alpha; the scale is alpha / r.
    pub alpha: f32,
    /// Dropout before A, while it was trained.
    pub dropout: f32,
    /// The targets as they were asked for.
    pub targets: &'a [String],
}

/// Write an adapted model as an adapter into `folder`, which must exist: its updates, and whole what else is its own.
///
/// # Errors
/// When a file cannot be written.
pub fn save_adapter(folder: &Path, model: &Model, values: &[f32], card: &AdapterCard, token_ids: &[(&str, u32)]) -> Result<(), ModelError> {
    assert_eq!(values.len(), model.table().flat_len(), "values of another model");
    let Some(family) = family(model.family) else { unreachable!("a model is made by a family of the registry") };
    let bare = family.is_bare(&model.heads);
    let inner = |name: &str| name.strip_prefix(family.prefix).unwrap_or(name).to_owned();
    let written = |name: &str| if bare { inner(name) } else { name.to_owned() };
    let mut tensors: Vec<(String, Vec<usize>, Cow<[f32]>)> = Vec::new();
    for update in model.updates() {
        let module = written(&update.module);
        let (a, b) = (update.a(values), update.b(values));
        let (inner, outer) = (a.len() / update.rank(), b.len() / update.rank());
        tensors.push((format!("{PREFIX}{module}.lora_A.weight"), vec![update.rank(), inner], a.into()));
        tensors.push((format!("{PREFIX}{module}.lora_B.weight"), vec![outer, update.rank()], b.into()));
    }
    let updated: Vec<Param> = model.updates().iter().flat_map(|u| u.params()).collect();
    let mut whole: BTreeSet<String> = BTreeSet::new();
    for spec in model.table().specs().iter().filter(|s| model.table().is_own(s.param) && !updated.contains(&s.param)) {
        let (_, width) = spec.units();
        for part in (family.names)(spec, &model.blueprint) {
            let held = part.take(&values[spec.param.range()], width);
            tensors.push((format!("{PREFIX}{}", written(&part.name)), shape_of(spec, &part), held.into()));
            whole.extend(inner(&part.name).split('.').next().map(str::to_owned));
        }
    }
    let out: Vec<OutTensor> = tensors
        .iter()
        .map(|(name, shape, held)| OutTensor { name: name.clone(), shape: shape.clone(), values: OutValues::F32(held) })
        .collect();
    write(&folder.join(ADAPTER_WEIGHTS), &out, &[("format", "pt".into())])?;
    // What differs from the card's size stands in patterns by module.
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    for update in model.updates() {
        let alpha = update.scale() * update.rank() as f32;
        if update.rank() != card.rank {
            ranks.insert(written(&update.module), json!(update.rank()));
        }
        if (alpha - card.alpha).abs() > 1e-6 * card.alpha.abs() {
            alphas.insert(written(&update.module), decimal(alpha));
        }
    }
    let config = json!({
        "alpha_pattern": alphas,
        "auto_mapping": null,
        "base_model_name_or_path": card.base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": decimal(card.alpha),
        "lora_dropout": decimal(card.dropout),
        "modules_to_save": if whole.is_empty() { Value::Null } else { json!(whole) },
        "peft_type": "LORA",
        "r": card.rank,
        "rank_pattern": ranks,
        "revision": null,
        "target_modules": target_modules(model, card.targets, &written),
        "task_type": task_type(&model.heads),
        "use_dora": false,
        "use_rslora": false,
    });
    for (name, value) in [(ADAPTER_CONFIG, &config), ("config.json", &config_json(family, model, token_ids))] {
        let path = folder.join(name);
        let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
        std::fs::write(&path, text).map_err(ModelError::io(&path, "write"))?;
    }
    Ok(())
}

/// The targets as PEFT understands them: as asked for where they mean just the updated modules, else by the ends of their names, else by
/// their whole names.
fn target_modules(model: &Model, targets: &[String], written: &dyn Fn(&str) -> String) -> Vec<String> {
    let updated: BTreeSet<&str> = model.updates().iter().map(|u| u.module.as_str()).collect();
    let all = modules(model, |_| true);
    let just = |targets: &[String]| {
        let meant: BTreeSet<&str> = all.iter().map(String::as_str).filter(|name| targets.iter().any(|t| means(t, name))).collect();
        meant == updated
    };
    let ends: BTreeSet<String> = updated.iter().map(|name| end(name).to_owned()).collect();
    let ends: Vec<String> = ends.into_iter().collect();
    match () {
        () if just(targets) => targets.to_vec(),
        () if just(&ends) => ends,
        () => updated.into_iter().map(written).collect(),
    }
}

/// PEFT's name of what a model answers.
fn task_type(heads: &Heads) -> Option<&'static str> {
    match heads.output {
        Output::Sequence => Some("SEQ_CLS"),
        Output::Tokens => Some("TOKEN_CLS"),
        Output::Span => Some("QUESTION_ANS"),
        Output::Choice => None,
        Output::None if heads.masked_lm => None,
        Output::None => Some("FEATURE_EXTRACTION"),
    }
}

impl Adapted {
    /// The same model with its updates beside the body's matrices instead of in them, and the values of its parameters: those of the body
    /// are the base's own.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn beside(&self) -> Result<Beside<'_>, ModelError> {
        let with =
            |adaptation: &Adaptation| Model::adapted(self.model.family, self.model.blueprint.clone(), self.model.heads.clone(), adaptation);
        let plain = with(&Adaptation::default());
        let Some(adapter) = &self.adapter else { return Ok(Beside { adapted: self, model: plain }) };
        let Some(family) = family(self.model.family) else { unreachable!("a model is made by a family of the registry") };
        let mut chosen = BTreeMap::new();
        // The projection of the embeddings, too: it is no layer's, but the body's. What is the model's own is merged; see [`Beside::lend`].
        for spec in plain.body_specs().filter(|s| s.role != Role::Vector) {
            for part in (family.names)(spec, &self.model.blueprint) {
                let names = candidates(family, spec, &part);
                let rank = names.iter().find_map(|name| adapter.updates.get(name.strip_suffix(".weight")?));
                if let (Some(rank), Some(module)) = (rank, part.name.strip_suffix(".weight")) {
                    chosen.insert(module.to_owned(), *rank);
                }
            }
        }
        let model = with(&Adaptation { dropout: 0.0, modules: chosen });
        Ok(Beside { adapted: self, model })
    }
}

/// An adapted model whose updates stand beside its body's matrices.
pub struct Beside<'a> {
    adapted: &'a Adapted,
    /// The model; its table has two parts.
    pub model: Model,
}

impl Beside<'_> {
    /// Show the values of a parameter of the model to `take`; see [`Opened::lend`].
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn lend(&self, spec: &Spec, take: &mut dyn FnMut(&Frozen<'_>)) -> Result<(), ModelError> {
        if let Some(update) = self.model.updates().iter().find(|u| u.params().contains(&spec.param)) {
            let Some(adapter) = &self.adapted.adapter else { unreachable!("updates come from an adapter") };
            let module = self.module(adapter, &update.module);
            let (a, b) = adapter.pair(module)?;
            let held = if update.params()[0] == spec.param { a } else { update.own_b(&b) };
            take(&Frozen::F32(held.into()));
            return Ok(());
        }
        let Some(own) = self.adapted.model.table().get(&spec.name) else { unreachable!("{} is a parameter of both", spec.name) };
        // Products on what is the model's own (its pooler) are merged; those on the body stand beside it.
        self.adapted.lend_with(own, self.model.table().is_own(spec.param), take)
    }

    /// All values. // `f32 [flat_len]`
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn values(&self) -> Result<Vec<f32>, ModelError> {
        let mut values = vec![0.0; self.model.table().flat_len()];
        for spec in self.model.table().specs() {
            self.lend(spec, &mut |held| values[spec.param.range()].copy_from_slice(&held.values()))?;
        }
        Ok(values)
    }

    /// A module by its name in the adapter's file.
    fn module<'m>(&self, adapter: &'m Adapter, module: &'m str) -> &'m str {
        let bare = family(self.model.family).and_then(|f| module.strip_prefix(f.prefix));
        if adapter.updates.contains_key(module) { module } else { bare.unwrap_or(module) }
    }

    /// Whether a matrix stands in the files as bytes.
    pub fn is_bytes(&self, spec: &Spec) -> bool {
        self.adapted
            .model
            .table()
            .get(&spec.name)
            .is_some_and(|own| self.adapted.opened.is_bytes(own) && !self.model.table().is_own(spec.param))
    }
}
