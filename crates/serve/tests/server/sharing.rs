//! One encoder for several models: adapters over one base and heads on one frozen encoder are each right, together and after a reload, and the
//! encoder is in memory once.

use std::path::Path;
use std::sync::Arc;

use cloze::model::adaptation::{Adaptation, Rank};
use cloze::model::files::adapter::{AdapterCard, save_adapter};
use cloze::model::{Heads, Model};
use cloze::task::text_classification::TextInput;
use cloze::train::run::Precision;
use cloze::{Device, DeviceChoice, Encoders, Pipeline};
use cloze_serve::{Engine, Models, PipelineEngine};
use serde_json::{Value, json};

use crate::world::{World, brisk, classifier, write_model};

/// Every model of these tests that is not an adapter starts from this seed: a parameter's start is a function of the seed and its name, so
/// their encoders are equal.
const SEED: u64 = 7;

/// An adapter over `base` with these labels, its matrices drawn from `seed`.
fn write_adapter(folder: &Path, base: &Path, labels: &[&str], rank: usize, seed: u64) {
    let plain = cloze::model::load(base).unwrap();
    let targets: Vec<String> = ["query", "value", "intermediate.dense"].map(str::to_owned).into();
    let adaptation = Adaptation::new(&plain.model, &targets, Rank { rank, scale: 2.0 }, 0.0).unwrap();
    let model = Model::adapted("bert", plain.model.blueprint.clone(), classifier(labels), &adaptation);
    let mut values = plain.model.moved(&plain.values, &model);
    let drawn = model.table().init(seed);
    for spec in model.table().specs().iter().filter(|s| model.table().is_own(s.param)) {
        values[spec.param.range()].copy_from_slice(&drawn[spec.param.range()]);
    }
    for update in model.updates() {
        let [_, b] = update.params();
        values[b.range()].iter_mut().enumerate().for_each(|(i, v)| *v = 0.1 * ((i as u64 * 7 + seed) % 11) as f32 - 0.5);
    }
    std::fs::create_dir_all(folder).unwrap();
    let base = base.display().to_string();
    let card = AdapterCard { base: &base, rank, alpha: 2.0 * rank as f32, dropout: 0.0, targets: &targets };
    save_adapter(folder, &model, &values, &card, &[("pad_token_id", 0)]).unwrap();
}

/// Folders of a base, two heads on its encoder, two adapters over it, and a stranger.
fn write(folder: &Path) -> Vec<(&'static str, std::path::PathBuf)> {
    let at = |name: &str| folder.join(name);
    write_model(&at("base"), Heads::pretraining(false), SEED);
    write_model(&at("mood"), classifier(&["bad", "good", "mixed"]), SEED);
    write_model(&at("names"), Heads::token_classification(["O", "B-PER", "I-PER"].map(str::to_owned).into()), SEED);
    write_adapter(&at("left"), &at("base"), &["no", "yes"], 2, 1);
    write_adapter(&at("right"), &at("base"), &["a", "b", "c"], 4, 2);
    write_model(&at("stranger"), classifier(&["bad", "good"]), SEED + 1);
    ["base", "mood", "names", "left", "right", "stranger"].map(|name| (name, at(name))).into()
}

const TEXTS: [&str; 4] = ["the cat sat on the mat", "a dog ran to sea", "猫 坐 在 垫 子 上", "un ##aff ##able"];

#[test]
fn models_over_one_encoder_answer_as_they_do_alone() {
    let folder = tempfile::tempdir().unwrap();
    let folders = write(folder.path());
    let device: &'static Device = Box::leak(Box::new(Device::open(DeviceChoice::Cpu, Some(2)).unwrap()));
    let encoders = Arc::new(Encoders::default());
    let kept = Arc::clone(&encoders);
    let load = move |path: &Path| -> Result<Arc<dyn Engine>, cloze::Error> {
        Ok(Arc::new(PipelineEngine::load_shared(device, path, Precision::F32, None, &kept)?))
    };
    let models = Models::load(folders.iter().map(|(name, path)| ((*name).to_owned(), path.clone())).collect(), Box::new(load)).unwrap();
    let hashes: Vec<Option<String>> = models.all().iter().map(|m| m.engine.encoder()).collect();
    assert!(hashes[..5].iter().all(|hash| hash.is_some() && *hash == hashes[0]) && hashes[5] != hashes[0], "{hashes:?}");
    assert_eq!(encoders.count(), 2);
    let world = World::serving(brisk(), folder, models);
    let path = |name: &str| world.folder.path().join(name);
    let scores = |answer: &Value| -> Vec<(String, f64)> {
        answer.as_array().unwrap().iter().map(|a| (a["label"].as_str().unwrap().to_owned(), a["score"].as_f64().unwrap())).collect()
    };
    let compare = || {
        std::thread::scope(|scope| {
            for name in ["left", "right", "mood", "stranger"] {
                let (world, path, scores) = (&world, path(name), &scores);
                scope.spawn(move || {
                    // merged into its base, by a pipeline of its own
                    let alone = Pipeline::load(device, &path, Precision::F32, None).unwrap();
                    for text in TEXTS {
                        let served = scores(&world.post(&format!("/classify?model={name}"), &json!({ "text": text })).good());
                        let input = TextInput { first: text.into(), second: None };
                        for own in alone.classify(&[input]).unwrap().remove(0) {
                            let (_, score) = served.iter().find(|(label, _)| *label == own.label).expect("the same labels");
                            assert!((score - f64::from(own.score)).abs() < 1e-5, "{name}, {text:?}: {score} instead of {own:?}");
                        }
                    }
                });
            }
        });
    };
    compare();
    // Two adapters say different things of one text: each was asked.
    let of = |name: &str| scores(&world.post(&format!("/classify?model={name}"), &json!({ "text": TEXTS[0] })).good());
    assert_ne!(of("left").len(), of("right").len());
    // The prediction head multiplies by the shared table.
    let fill = world.post("/fill-mask?model=base", &json!({ "text": "the cat [MASK] on the mat" })).good();
    let alone = Pipeline::load(device, &path("base"), Precision::F32, None).unwrap();
    let task = cloze::task::require("fill-mask").unwrap();
    let own = alone.answer(task, &[json!({ "text": "the cat [MASK] on the mat" })], &Default::default()).unwrap();
    assert_eq!(fill, own[0]);
    // A reloaded adapter finds the encoder that is there; with other weights it says other things.
    write_adapter(&path("left"), &path("base"), &["no", "yes"], 3, 5);
    let before = of("left");
    world.post("/models/left/reload", &json!({})).good();
    assert_eq!(encoders.count(), 2);
    assert_ne!(of("left"), before);
    compare();
}

#[test]
fn an_encoder_is_in_memory_once() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::open(DeviceChoice::Cpu, Some(1)).unwrap();
    let Device::Cpu(cpu) = &device else { unreachable!("the processor was opened") };
    let mut encoder = None;
    let (mut apart, mut shared, mut one) = (0, 0, 0);
    for (name, path) in &write(folder.path())[..5] {
        let source = cloze::Source::of(path).unwrap();
        let adapter = source.adapter.as_deref().map(|at| cloze::model::files::adapter::Adapter::read(at).unwrap());
        let adapted = cloze::model::files::adapter::Adapted::open(&source.base, adapter, None, 0).unwrap();
        let beside = adapted.beside().unwrap();
        let f32s = |_: &cloze::model::params::Spec| cloze::tensor::Operands::F32;
        let whole = beside.model.freeze(&**cpu, f32s, |spec, take| beside.lend(spec, take)).unwrap();
        let whole = whole.packed.bytes() + 4 * whole.len();
        let body = encoder.get_or_insert_with(|| {
            let body = Arc::new(beside.model.freeze_body(&**cpu, f32s, |spec, take| beside.lend(spec, take)).unwrap());
            shared += body.packed.bytes() + 4 * body.len();
            one = shared;
            body
        });
        let own = beside.model.freeze_own(&**cpu, f32s, |spec, take| beside.lend(spec, take), Arc::clone(body)).unwrap();
        let own = own.packed.bytes() + 4 * own.len();
        assert!(own < whole / 2, "{name}: {own} bytes of its own, {whole} with the encoder");
        apart += whole;
        shared += own;
    }
    // five models: what is added to the encoder is heads and updates
    assert!(apart > 5 * one && shared < 2 * one, "the encoder {one}, five models apart {apart}, on one encoder {shared}");
}
