//! Every family of the registry with every head that it can be saved with, against what transformers computes
//! (fixtures/families.py): hidden states of every layer, logits, losses, gradients; and the names of the tensors.

mod golden_support;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use cloze_model::blueprint::Position;
use cloze_model::files::safetensors::{OutTensor, OutValues, TensorFiles, write};
use cloze_model::registry::{Class, FAMILIES, Family};
use cloze_model::{Input, Loaded, Model, load};
use cloze_tensor::plain::Plain;
use cloze_tensor::{Backend, Dtype, Packed, Sequences, Tape, Tensor, Var, Weights};
use golden_support::{close, cpus, fixture};
use serde_json::{Value, json};

/// One class of one family: its files, and a model folder made of them as transformers would write it.
struct Golden {
    family: &'static Family,
    class: Class,
    common: TensorFiles,
    own: Option<TensorFiles>,
    names: Vec<String>,
    folder: tempfile::TempDir,
}

impl Golden {
    fn of(family: &'static Family, class: Class) -> Self {
        let at = fixture("families").join(family.model_type);
        let open = |name: &str| TensorFiles::open(vec![at.join(name)]).unwrap_or_else(|e| panic!("{}: {e}", family.model_type));
        let own = at.join(format!("{}.safetensors", class.suffix()));
        let own = own.exists().then(|| TensorFiles::open(vec![own]).unwrap());
        let names: BTreeMap<String, Vec<String>> = serde_json::from_slice(&std::fs::read(at.join("names.json")).unwrap()).unwrap();
        let names = names.get(class.suffix()).unwrap_or_else(|| panic!("{} {}: no fixture", family.model_type, class.suffix())).clone();
        let golden = Self { family, class, common: open("golden.safetensors"), own, names, folder: tempfile::tempdir().unwrap() };
        golden.compose(&at, &open("body.safetensors"));
        golden
    }

    fn compose(&self, at: &Path, body: &TensorFiles) {
        let find = |name: &String| {
            let head = self.own.as_ref().and_then(|own| own.read(&format!("weight.{name}")).unwrap());
            let with_prefix = || body.read(&format!("{}{name}", self.family.prefix)).unwrap();
            head.or_else(|| body.read(name).unwrap()).or_else(with_prefix).unwrap_or_else(|| panic!("{name} is in no file"))
        };
        let tensors: Vec<(Vec<usize>, Vec<f32>)> = self.names.iter().map(find).collect();
        let out = self.names.iter().zip(&tensors).map(|(name, (shape, values))| OutTensor {
            name: name.clone(),
            shape: shape.clone(),
            values: OutValues::F32(values),
        });
        write(&self.folder.path().join("model.safetensors"), &out.collect::<Vec<_>>(), &[]).unwrap();
        let mut config: Value = serde_json::from_slice(&std::fs::read(at.join("config.json")).unwrap()).unwrap();
        config["architectures"] = json!([format!("{}{}", self.family.class, self.class.suffix())]);
        let labels = match self.class {
            Class::Sequence => 3,
            Class::Tokens => 5,
            _ => 2,
        };
        config["id2label"] = (0..labels).map(|i| (i.to_string(), json!(format!("label {i}")))).collect::<serde_json::Map<_, _>>().into();
        std::fs::write(self.folder.path().join("config.json"), config.to_string()).unwrap();
    }

    fn what(&self) -> String {
        format!("{}{}", self.family.class, self.class.suffix())
    }

    fn own(&self) -> &TensorFiles {
        self.own.as_ref().unwrap_or_else(|| panic!("{} has no file", self.what()))
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.own().read(name).unwrap().unwrap_or_else(|| panic!("{}: no {name}", self.what())).1
    }

    fn u32(&self, name: &str) -> Vec<u32> {
        self.own().read_u32(name).unwrap_or_else(|| panic!("{}: no {name}", self.what()))
    }

    fn input<B: Backend>(&self, backend: &B) -> Input<B> {
        let read = |name: &str| self.common.read_u32(name).unwrap();
        let starts = read("starts");
        let sequences = Sequences::from_lengths(starts.windows(2).map(|w| (w[1] - w[0]) as usize));
        Input::new(backend, &read("input_ids"), &read("token_type_ids"), sequences)
    }

    fn close<B: Backend>(&self, backend: &B, name: &str, ours: &Var<B>, bound: f32) {
        close(&format!("{} {name}", self.what()), &ours.to_host(backend), &self.f32(name), bound);
    }

    /// The golden gradient of a parameter, put together from its tensors; `None` where it is not kept.
    fn gradient(&self, loaded: &Loaded, spec: &cloze_model::params::Spec) -> Option<Vec<f32>> {
        let (_, width) = spec.units();
        let mut all = vec![0.0; spec.param.len()];
        for part in (self.family.names)(spec, &loaded.model.blueprint) {
            let name = format!("grad.{}", part.name);
            let own = self.own.as_ref().and_then(|f| f.read(&name).unwrap());
            let common = || (self.class == Class::MaskedLm).then(|| self.common.read(&name).unwrap()).flatten();
            let (_, values) = own.or_else(common)?;
            part.put(&values, &mut all, width);
        }
        Some(all)
    }
}

fn all() -> impl Iterator<Item = (&'static Family, Class)> {
    FAMILIES.into_iter().flat_map(|family| family.classes.iter().map(move |class| (family, *class)))
}

/// Hidden states and logits.
fn forward<B: Backend>(g: &Golden, loaded: &Loaded, backend: &B, dtype: Dtype, bound: f32) {
    let model = &loaded.model;
    let weights = model.frozen(backend, &loaded.values, dtype);
    let mut tape = Tape::inference(backend, &weights, dtype);
    let input = g.input(backend);
    let states = model.body().hidden_states(&mut tape, &input);
    for (i, state) in states.iter().enumerate() {
        let expected = g.common.read(&format!("hidden.{i}")).unwrap().unwrap_or_else(|| panic!("{}: no hidden.{i}", g.what())).1;
        close(&format!("{} hidden state {i}", g.what()), &state.to_host(backend), &expected, bound);
    }
    assert!(g.common.read(&format!("hidden.{}", states.len())).unwrap().is_none(), "{}: more layers in the fixture", g.what());
    let hidden = &states[states.len() - 1];
    let pooled = model.pooled(&mut tape, hidden, &input);
    if let Some(head) = model.masked_lm() {
        g.close(backend, "mlm_logits", &head.logits(&mut tape, hidden), bound);
    }
    if let Some(head) = model.next_sentence() {
        g.close(backend, "nsp_logits", &head.logits(&mut tape, pooled.as_ref().unwrap()), bound);
    }
    let logits = match g.class {
        Class::Sequence => model.classifier().unwrap().logits(&mut tape, &pooled.unwrap()),
        Class::Choice => model.multiple_choice().unwrap().logits(&mut tape, &pooled.unwrap()),
        Class::Tokens => model.token_classifier().unwrap().logits(&mut tape, hidden),
        Class::Span => model.question_answering().unwrap().logits(&mut tape, hidden),
        Class::ReplacedToken => model.replaced_token().unwrap().logits(&mut tape, hidden),
        Class::Body if g.own.is_some() && model.heads.summary => return g.close(backend, "pooled", &pooled.unwrap(), bound),
        Class::Body | Class::PreTraining | Class::MaskedLm | Class::NextSentence => return,
    };
    g.close(backend, "logits", &logits, bound);
}

/// Σ loss of a class, mean over its rows, with the gradients added up.
fn loss<'a, B: Backend>(g: &Golden, model: &Model, tape: &mut Tape<'a, B>, hidden: &Var<B>, input: &Input<B>) -> f32 {
    let backend = tape.backend();
    let indices = |name: &str| (backend.indices(&g.u32(name)), g.u32(name).len());
    let mean = |losses: Tensor<B>| {
        let rows = losses.to_host(backend);
        rows.chunks(2).map(|row| row[0]).sum::<f32>() / losses.rows() as f32
    };
    let layout: &Packed<B> = &input.layout;
    let pooled = model.pooled(tape, hidden, input);
    let mut total = 0.0;
    if let Some(head) = model.masked_lm() {
        let ((rows, m), (labels, _)) = (indices("masked_rows"), indices("masked_labels"));
        let rows = tape.gather(hidden, &rows, m);
        total += mean(head.loss(tape, &rows, &labels, 1.0 / m as f32));
    }
    if let Some(head) = model.next_sentence() {
        let (labels, s) = indices("nsp_labels");
        total += mean(head.loss(tape, pooled.as_ref().unwrap(), &labels, 1.0 / s as f32));
    }
    if let Some(head) = model.replaced_token() {
        let replaced = g.f32("replaced");
        total += mean(head.loss(tape, hidden, &replaced, 1.0 / replaced.len() as f32));
    }
    if let Some(head) = model.classifier() {
        let (labels, s) = indices("labels");
        total += mean(head.loss(tape, pooled.as_ref().unwrap(), &labels, 1.0 / s as f32, 0.0));
    }
    if let Some(head) = model.token_classifier() {
        let ((rows, m), (labels, _)) = (indices("rows"), indices("labels"));
        let rows = tape.gather(hidden, &rows, m);
        total += mean(head.loss(tape, &rows, &labels, 1.0 / m as f32, 0.0));
    }
    if let Some(head) = model.question_answering() {
        let (begins, ends) = (g.u32("begins"), g.u32("ends"));
        total += mean(head.loss(tape, hidden, layout, &begins, &ends, 1.0 / begins.len() as f32));
    }
    if let Some(head) = model.multiple_choice() {
        let questions = [0..2, 2..layout.sequences.count()];
        total += mean(head.loss(tape, pooled.as_ref().unwrap(), &questions, &g.u32("labels"), 0.5));
    }
    total
}

fn backward<B: Backend>(g: &Golden, loaded: &Loaded, backend: &B, bound: f32) {
    let model = &loaded.model;
    let weights = Weights::from_host(backend, &loaded.values);
    for recompute in [false, true] {
        let mut gradients = backend.zeros(Dtype::F32, weights.len());
        let mut tape = Tape::training(backend, &weights, Dtype::F32, &mut gradients, None);
        let input = g.input(backend);
        let hidden = model.hidden(&mut tape, &input, recompute);
        let loss = loss(g, model, &mut tape, &hidden, &input);
        tape.backward();
        close(&format!("{} loss", g.what()), &[loss], &g.f32("loss"), bound);
        let mut compared = 0;
        for spec in model.table().specs() {
            let mut ours = backend.read(&gradients, spec.param.range());
            let Some(mut expected) = g.gradient(loaded, spec) else {
                assert!(g.class != Class::MaskedLm, "{}: no gradient of {}", g.what(), spec.name);
                continue;
            };
            // Without rotary positions the key's bias has a true gradient of 0: noise, compared by absolute error.
            if spec.name.ends_with("qkv.bias") && matches!(model.blueprint.position, Position::Learned { .. }) {
                let key = ours.len() / 3..ours.len() / 3 * 2;
                assert!(ours[key.clone()].iter().all(|v| v.abs() < 1e-5), "{}: the key's bias has a gradient", spec.name);
                ours[key.clone()].fill(0.0);
                expected[key].fill(0.0);
            }
            let what = format!("{} gradient of {}", g.what(), spec.name);
            if expected.iter().all(|v| v.abs() < 1e-9) {
                // A true gradient of 0, as of the last norm's bias under scores that are compared among tokens.
                assert!(ours.iter().all(|v| v.abs() < 1e-5), "{what}: {ours:?} instead of zeros");
            } else {
                close(&what, &ours, &expected, bound);
            }
            compared += 1;
        }
        assert!(compared > 5, "{}: {compared} gradients compared", g.what());
    }
}

fn everything<B: Backend>(backend: &B, bound: f32) {
    for (family, class) in all() {
        let g = Golden::of(family, class);
        let loaded = load(g.folder.path()).unwrap_or_else(|e| panic!("{}: {e}", g.what()));
        assert!(loaded.report.new.is_empty() && loaded.report.unused.is_empty(), "{}: {:?}", g.what(), loaded.report);
        forward(&g, &loaded, backend, Dtype::F32, bound);
        if class != Class::Body {
            backward(&g, &loaded, backend, 5.0 * bound);
        }
    }
}

/// Near and far, beyond the last bucket, too.
#[test]
fn distances_fall_into_the_buckets_of_transformers() {
    let mut compared = 0;
    for family in FAMILIES {
        let g = Golden::of(family, Class::MaskedLm);
        let blueprint = load(g.folder.path()).unwrap().model.blueprint;
        let expected = g.common.read_u32("buckets");
        assert_eq!(blueprint.relative.is_some(), expected.is_some(), "{}", family.model_type);
        let Some((relative, expected)) = blueprint.relative.zip(expected) else { continue };
        let far = (expected.len() / 2) as isize;
        let ours: Vec<u32> = (-far..=far).map(|distance| relative.bucket(distance) as u32).collect();
        assert_eq!(ours, expected, "{}", family.model_type);
        compared += 1;
    }
    assert!(compared > 0);
}

/// transformers computes rotary angles in f32, whatever the model's type: this is its error, not the reference's.
#[test]
fn the_reference_equals_transformers() {
    everything(&Plain, 4e-6);
}

/// The promise to users is 1e-4.
#[test]
fn every_level_of_the_cpu_equals_transformers() {
    for cpu in cpus() {
        println!("{}", cpu.level().name());
        everything(&cpu, 2e-5);
    }
}

/// With CLOZE_KEEP set to a folder the saved models stay there, for fixtures/check_families.py.
#[test]
fn saved_folders_have_transformers_names_and_load_back_bit_for_bit() {
    let keep = std::env::var_os("CLOZE_KEEP").map(PathBuf::from);
    for (family, class) in all() {
        let g = Golden::of(family, class);
        let loaded = load(g.folder.path()).unwrap();
        let temporary = tempfile::tempdir().unwrap();
        let folder = match &keep {
            Some(keep) => keep.join(family.model_type).join(class.suffix()),
            None => temporary.path().to_owned(),
        };
        std::fs::create_dir_all(&folder).unwrap();
        let config: Value = serde_json::from_slice(&std::fs::read(g.folder.path().join("config.json")).unwrap()).unwrap();
        let ids: Vec<(&str, u32)> = ["pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"]
            .into_iter()
            .filter_map(|key| Some((key, config[key].as_u64()? as u32)))
            .collect();
        cloze_model::save(&folder, &loaded.model, &loaded.values, &ids).unwrap();
        let names = TensorFiles::of_folder(&folder).unwrap().names().to_vec();
        assert_eq!(names, g.names, "{}", g.what());
        let again = load(&folder).unwrap();
        assert!(again.report.new.is_empty() && again.report.unused.is_empty(), "{}: {:?}", g.what(), again.report);
        assert_eq!(again.model.blueprint, loaded.model.blueprint, "{}", g.what());
        assert_eq!(again.model.heads, loaded.model.heads, "{}", g.what());
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&again.values), bits(&loaded.values), "{}", g.what());
        let second = tempfile::tempdir().unwrap();
        cloze_model::save(second.path(), &again.model, &again.values, &ids).unwrap();
        for file in ["config.json", "model.safetensors"] {
            let read = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
            assert!(read(second.path()) == read(&folder), "{}: {file} changes from save to save", g.what());
        }
    }
}

/// A body with the pooler of its family, and one whose file has none; a head that no file holds is named.
#[test]
fn what_no_file_holds_is_named_and_never_made_up() {
    for family in FAMILIES {
        let g = Golden::of(family, Class::MaskedLm);
        let path = g.folder.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["architectures"] = json!([format!("{}Model", family.class)]);
        std::fs::write(&path, config.to_string()).unwrap();
        let loaded = load(g.folder.path()).unwrap();
        assert!(loaded.report.new.is_empty(), "{}: {:?}", family.model_type, loaded.report.new);
        assert!(!loaded.model.heads.summary || !loaded.model.blueprint.pooler);
        assert!(!loaded.report.unused.is_empty(), "{}: the prediction head is not used", family.model_type);
        let heads = cloze_model::Heads::token_classification(vec!["O".into(), "B".into()]);
        let report = cloze_model::load_with(g.folder.path(), Some(heads), 1).unwrap().report;
        let new: HashSet<&str> = report.new.iter().map(String::as_str).collect();
        assert!(new.contains("tokens.weight") && new.contains("tokens.bias") && new.len() == 2, "{}: {new:?}", family.model_type);
    }
}
