//! Fine-tuning by low-rank updates, from a teacher, and after masked language modelling on text of the domain: what is learned, what stays as it
//! was, that a stopped run goes on bit for bit, and what is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloze_cpu::{Cpu, CpuOptions};
use cloze_model::files::adapter::{Adapted, Adapter, is_adapter};
use cloze_model::{Blueprint, Heads, Model};
use cloze_tensor::Dtype;
use cloze_tensor::random::{Key, Stream};
use cloze_text::Tokenizer;
use cloze_text::tokenizer::WordPieceOptions;
use cloze_train::TrainError;
use cloze_train::adapt::{self, AdaptConfig};
use cloze_train::budget::Budget;
use cloze_train::files::FileError;
use cloze_train::finetune::{FinetuneRun, Finetuned, finetune};
use cloze_train::fit::Every;
use cloze_train::lora::{Keep, LoraConfig};
use cloze_train::observer::{Control, Event, Observer, Observers, Reason};
use cloze_train::pretrain::{Device, PretrainRun, pretrain};
use cloze_train::run::{Precision, from_defaults, parse};
use cloze_train::teacher::DistillConfig;
use serde_json::json;

const ANIMALS: [&str; 4] = ["cat", "dog", "cow", "hen"];
const PLACES: [&str; 4] = ["paris", "london", "rome", "oslo"];
const OTHER: [&str; 8] = ["the", "a", "old", "young", "slept", "ran", "near", "again"];

/// A folder with a random model of these layers and its tokenizer, whose words stand in order or the other way round.
fn model(folder: &Path, name: &str, layers: usize, backwards: bool) -> PathBuf {
    let mut words: Vec<&str> = ANIMALS.into_iter().chain(PLACES).chain(OTHER).collect();
    if backwards {
        words.reverse();
    }
    let pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] . yes no".split(' ').chain(words).map(String::from).collect();
    let tokenizer = Tokenizer::from_pieces(pieces, WordPieceOptions::default()).unwrap();
    let mut blueprint = Blueprint::bert(tokenizer.vocab_size(), layers, 32, 2, 64);
    blueprint.position = cloze_model::blueprint::Position::Learned { max: 64, offset: 0 };
    (blueprint.hidden_dropout, blueprint.attention_dropout, blueprint.classifier_dropout) = (0.05, 0.05, 0.0);
    blueprint.initializer_range = 0.15;
    let model = Model::new("bert", blueprint, Heads::pretraining(true));
    let path = folder.join(name);
    std::fs::create_dir(&path).unwrap();
    cloze_model::save(&path, &model, &model.table().init(3), &[]).unwrap();
    tokenizer.save(&path).unwrap();
    path
}

/// Rows of a text with an animal or a place in it; with `noise` the labels say nothing.
fn rows(folder: &Path, name: &str, rows: std::ops::Range<u64>, noise: bool) -> PathBuf {
    let path = folder.join(name);
    let line = |row: u64| {
        let key = Key::new(11, Stream::World, row, 0);
        let below = |i: u64, n: usize| key.below(i, n as u32) as usize;
        let animal = below(0, 2) == 0;
        let mut words: Vec<&str> = (1..5).map(|i| OTHER[below(i, 8)]).collect();
        words.insert(below(9, 5), if animal { ANIMALS[below(10, 4)] } else { PLACES[below(10, 4)] });
        let says = if noise { below(11, 2) == 0 } else { animal };
        let tags: Vec<&str> = words.iter().map(|w| if ANIMALS.contains(w) { "B-ANI" } else { "O" }).collect();
        let text = words.join(" ");
        json!({"text": text, "label": if says { "animal" } else { "place" }, "tokens": words, "tags": tags}).to_string() + "\n"
    };
    std::fs::write(&path, rows.map(line).collect::<String>()).unwrap();
    path
}

fn run(folder: &Path, model: &Path, out: &str) -> FinetuneRun {
    let (train, dev) = (folder.join("train.jsonl"), folder.join("dev.jsonl"));
    if !train.exists() {
        rows(folder, "train.jsonl", 0..240, false);
        rows(folder, "noise.jsonl", 0..240, true);
        rows(folder, "dev.jsonl", 1000..1060, false);
    }
    let mut run = FinetuneRun::new("text-classification", model.into(), train, dev, folder.join(out));
    run.budget = Budget::Epochs(8.0);
    run.evaluate = Every::Amount(Budget::Epochs(2.0));
    run.batch_size = 16;
    run.max_length = 48;
    run.micro_batch_tokens = 128;
    run.optimizer.lr = 3e-3;
    run.precision = Precision::F32;
    run
}

/// Asks for the end after a step.
struct StopAfter {
    step: u64,
    control: Arc<Control>,
}

impl Observer for StopAfter {
    fn event(&mut self, event: &Event) -> Result<(), FileError> {
        if matches!(event, Event::Step(step) if step.step == self.step) {
            self.control.request_stop();
        }
        Ok(())
    }
}

fn stopping(step: Option<u64>) -> (Observers, Arc<Control>) {
    let (mut observers, control) = (Observers::new(), Arc::new(Control::default()));
    if let Some(step) = step {
        observers.add(StopAfter { step, control: Arc::clone(&control) });
    }
    (observers, control)
}

fn cpu() -> Cpu {
    Cpu::new(CpuOptions { threads: Some(1), level: None })
}

fn device() -> Device {
    Device { name: "test".into(), peak_flops: None, dtype: Dtype::F32 }
}

fn tune(run: &FinetuneRun, resume: bool, stop_after: Option<u64>) -> Result<Finetuned, TrainError> {
    let (mut observers, control) = stopping(stop_after);
    finetune(&cpu(), run, device(), resume, &mut observers, &control)
}

fn accuracy(done: &Finetuned) -> f64 {
    done.figures.values["accuracy"]
}

fn bytes(path: PathBuf) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn low_rank_updates_learn_while_the_base_stays() {
    let folder = tempfile::tempdir().unwrap();
    let base = model(folder.path(), "base", 2, false);
    let mut kept = run(folder.path(), &base, "kept");
    kept.lora = Some(LoraConfig { rank: 4, alpha: 8.0, keep: Keep::Adapter, dropout: 0.05, ..LoraConfig::default() });
    let done = tune(&kept, false, None).unwrap();
    assert!(accuracy(&done) > 0.95, "{:?}", done.figures.values);
    let at = kept.out.join("model");
    assert!(is_adapter(&at) && !at.join("model.safetensors").exists());
    let adapter = Adapter::read(&at).unwrap();
    assert_eq!(adapter.base().unwrap(), base.canonicalize().unwrap());
    let adapted = Adapted::open(&base, Some(adapter), None, 0).unwrap();
    assert_eq!(adapted.model.heads.labels, done.labels);
    // The body beside the updates is the base's, bit for bit; merged it is another.
    let (beside, plain) = (adapted.beside().unwrap(), cloze_model::load(&base).unwrap());
    let values = beside.values().unwrap();
    for spec in beside.model.body_specs() {
        let own = plain.model.table().get(&spec.name).unwrap();
        assert!(values[spec.param.range()] == plain.values[own.param.range()], "{} has changed", spec.name);
    }
    assert_eq!(beside.model.updates().len(), 12);
    assert!(beside.model.updates().iter().all(|u| u.b(&values).iter().any(|v| *v != 0.0)), "an update has learned nothing");
    // A checkpoint holds what is trained, and moments of no more.
    let own = 4 * beside.model.table().own_len();
    let checkpoints = std::fs::read_dir(kept.out.join("checkpoints")).unwrap().map(|e| e.unwrap().path());
    for checkpoint in checkpoints.filter(|p| p.is_dir()) {
        for name in ["weights.f32", "first_moment.f32", "second_moment.f32"] {
            assert_eq!(bytes(checkpoint.join(name)).len(), own, "{name}");
        }
    }
    assert!(own < 4 * plain.model.table().flat_len());
    // Kept merged, the same run is an ordinary folder with the same matrices.
    let mut merged = run(folder.path(), &base, "merged");
    merged.lora = kept.lora.clone().map(|lora| LoraConfig { keep: Keep::Merged, ..lora });
    tune(&merged, false, None).unwrap();
    let loaded = cloze_model::load(&merged.out.join("model")).unwrap();
    assert!(loaded.report.new.is_empty() && loaded.report.unused.is_empty(), "{:?}", loaded.report);
    let all = adapted.values().unwrap();
    assert_eq!(loaded.values.len(), all.len());
    assert!(loaded.values.iter().zip(&all).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn a_resumed_lora_run_is_the_uninterrupted_one() {
    let folder = tempfile::tempdir().unwrap();
    let base = model(folder.path(), "base", 2, false);
    let lora =
        LoraConfig { rank: 2, targets: vec!["query".into(), "value".into()], dropout: 0.1, keep: Keep::Adapter, ..LoraConfig::default() };
    let of = |out: &str| FinetuneRun { lora: Some(lora.clone()), budget: Budget::Epochs(4.0), ..run(folder.path(), &base, out) };
    let whole = of("whole");
    tune(&whole, false, None).unwrap();
    let parts = of("parts");
    let stopped = tune(&parts, false, Some(7)).unwrap();
    assert_eq!(stopped.outcome.reason, Reason::Stopped);
    assert!(stopped.figures.values.is_empty(), "nobody waits for figures of a run that is stopped");
    assert_eq!(tune(&parts, true, Some(31)).unwrap().outcome.reason, Reason::Stopped);
    tune(&parts, true, None).unwrap();
    let weights = |run: &FinetuneRun| bytes(run.out.join("model/adapter_model.safetensors"));
    assert!(weights(&whole) == weights(&parts));
}

#[test]
fn a_teacher_is_learned_from() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (large, small) = (model(at, "large", 2, true), model(at, "small", 1, false));
    let teacher = run(at, &large, "teacher");
    assert!(accuracy(&tune(&teacher, false, None).unwrap()) > 0.95);
    let teacher = teacher.out.join("model");
    // The rows' own labels are noise: what the student knows it has from the teacher, whose words have other ids.
    let noise = at.join("noise.jsonl");
    let student = |out: &str, distill: Option<DistillConfig>| FinetuneRun { train: noise.clone(), distill, ..run(at, &small, out) };
    let whole = DistillConfig { weight: 1.0, ..DistillConfig::new(teacher.clone()) };
    let alone = accuracy(&tune(&student("alone", None), false, None).unwrap());
    let taught = student("taught", Some(whole.clone()));
    let with = accuracy(&tune(&taught, false, None).unwrap());
    assert!(with > 0.95 && alone < 0.8, "with the teacher {with}, alone {alone}");
    // Stopped and resumed, the teacher says the same.
    let parts = student("parts", Some(whole.clone()));
    assert_eq!(tune(&parts, false, Some(9)).unwrap().outcome.reason, Reason::Stopped);
    tune(&parts, true, None).unwrap();
    let weights = |run: &FinetuneRun| bytes(run.out.join("model/model.safetensors"));
    assert!(weights(&taught) == weights(&parts));
    // A teacher whose labels stand in another order is asked by name.
    let mut turned = cloze_model::load(&teacher).unwrap();
    turned.model.heads.labels.reverse();
    for (name, width) in [("classifier.weight", 32), ("classifier.bias", 1)] {
        let range = turned.model.table().get(name).unwrap().param.range();
        let (first, second) = turned.values[range].split_at_mut(width);
        first.swap_with_slice(second);
    }
    let other = at.join("turned");
    std::fs::create_dir(&other).unwrap();
    cloze_model::save(&other, &turned.model, &turned.values, &[]).unwrap();
    Tokenizer::load(&teacher).unwrap().save(&other).unwrap();
    let by_name = student("turned-run", Some(DistillConfig { teacher: other, ..whole.clone() }));
    tune(&by_name, false, None).unwrap();
    assert!(weights(&by_name) == weights(&taught));
    // What cannot teach says why.
    let refused = |run: FinetuneRun| tune(&run, false, None).err().map(|e| e.to_string()).unwrap_or_default();
    let error = refused(student("a", Some(DistillConfig::new(large.clone()))));
    assert!(error.contains("no trained sequence classifier"), "{error}");
    let error = refused(student("b", Some(DistillConfig { temperature: 0.0, ..whole.clone() })));
    assert!(error.contains("distill.temperature"), "{error}");
    let error = refused(FinetuneRun { problem: Some("multi_label".into()), ..student("c", Some(whole)) });
    assert!(error.contains("one of the labels") && error.contains("any of the labels"), "{error}");
}

#[test]
fn what_answers_by_token_needs_a_teacher_with_the_same_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (large, small, other) = (model(at, "large", 2, false), model(at, "small", 1, false), model(at, "other", 1, true));
    let of = |model: &Path, out: &str| FinetuneRun { task: "token-classification".into(), ..run(at, model, out) };
    let teacher = of(&large, "teacher");
    assert!(tune(&teacher, false, None).unwrap().figures.values["f1"] > 0.95);
    let distill = Some(DistillConfig { weight: 0.9, temperature: 3.0, teacher: teacher.out.join("model") });
    let taught = FinetuneRun { distill: distill.clone(), ..of(&small, "taught") };
    assert!(tune(&taught, false, None).unwrap().figures.values["f1"] > 0.95);
    let error = tune(&FinetuneRun { distill, ..of(&other, "refused") }, false, None).err().unwrap().to_string();
    assert!(error.contains("same tokenizer") && error.contains("line 1"), "{error}");
}

/// Both phases of a run.
fn both(run: &FinetuneRun, resume: bool, stop: [Option<u64>; 2]) -> Option<Finetuned> {
    let (mut observers, control) = stopping(stop[0]);
    let first = adapt::adapt(&cpu(), run, device(), resume, &mut observers, &control).unwrap();
    first.map(|_| tune(run, resume && run.out.join("checkpoints").exists(), stop[1]).unwrap())
}

#[test]
fn a_model_is_adapted_to_its_domain_before_it_is_tuned() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let base = model(at, "base", 1, false);
    let of = |out: &str| {
        let mut run = FinetuneRun { budget: Budget::Epochs(3.0), ..run(at, &base, out) };
        let text = at.join("domain.txt");
        std::fs::write(&text, "the old cat slept near the young dog .\n\nthe cow ran again near rome .\n".repeat(30)).unwrap();
        let mut adapt = AdaptConfig::new(vec![text.display().to_string(), run.train.display().to_string()]);
        (adapt.budget, adapt.batch_tokens, adapt.sequence_length) = (Budget::Steps(24), 256, 32);
        run.adapt = Some(adapt);
        run
    };
    let whole = of("whole");
    let error = tune(&whole, false, None).err().unwrap().to_string();
    assert!(error.contains("no model in") && error.contains("adapt"), "{error}");
    assert_eq!(both(&whole, false, [None; 2]).unwrap().outcome.reason, Reason::Completed);
    // What came out of the first phase is the base with other weights, its heads and its tokenizer.
    let (adapted, plain) = (cloze_model::load(&whole.out.join("adapt/model")).unwrap(), cloze_model::load(&base).unwrap());
    assert_eq!((&adapted.model.heads, &adapted.model.blueprint), (&plain.model.heads, &plain.model.blueprint));
    assert_eq!(bytes(whole.out.join("adapt/model/tokenizer.json")), bytes(base.join("tokenizer.json")));
    let same = |name: &str| {
        let of = |l: &cloze_model::Loaded| l.values[l.model.table().get(name).unwrap().param.range()].to_vec();
        of(&adapted) == of(&plain)
    };
    assert!(same("pooler.weight") && same("nsp.weight") && !same("layer.0.mlp.up.weight") && !same("mlm.dense.weight"));
    // Stopped in each of its phases, it ends at the same bits.
    let parts = of("parts");
    assert!(both(&parts, false, [Some(5), None]).is_none());
    assert!(both(&parts, true, [Some(17), None]).is_none());
    assert_eq!(both(&parts, true, [None, Some(6)]).unwrap().outcome.reason, Reason::Stopped);
    assert_eq!(both(&parts, true, [None; 2]).unwrap().outcome.reason, Reason::Completed);
    let weights = |run: &FinetuneRun| bytes(run.out.join("model/model.safetensors"));
    assert!(weights(&whole) == weights(&parts));
    let corpus = whole.out.join("adapt/corpus");
    let recipe = |more: &str| -> Result<(), TrainError> {
        let text = format!(
            "out = {:?}\ndata.dir = {corpus:?}\n[train]\nbudget = \"1 steps\"\nbatch_tokens = 64\nsequence_length = 32\n[model]\n{more}",
            at.join("from")
        );
        let run: PretrainRun = parse(&text)?;
        pretrain(&cpu(), &run, device(), false, &mut Observers::new(), &Control::default()).map(drop)
    };
    let other = model(at, "other", 1, true);
    let error = recipe(&format!("from = {other:?}")).unwrap_err().to_string();
    assert!(error.contains("data.dir") && error.contains("--tokenizer"), "{error}");
    let error = recipe(&format!("from = {base:?}\nsize = \"tiny\"")).unwrap_err().to_string();
    assert!(error.contains("size = \"tiny\"") && error.contains("own shape"), "{error}");
}

#[test]
fn settings_are_read_and_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let base = model(folder.path(), "base", 1, false);
    let plain = run(folder.path(), &base, "run");
    let set = |changes: &[&str]| from_defaults(&plain, &changes.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>());
    let lora = set(&["lora.rank=4", "lora.targets=[\"query\"]", "lora.keep=adapter"]).unwrap().lora.unwrap();
    assert_eq!((lora.rank, lora.targets, lora.keep, lora.alpha), (4, vec!["query".to_owned()], Keep::Adapter, 16.0));
    let adapt = set(&["adapt.text=[\"a.txt\"]", "adapt.budget=2 epochs"]).unwrap().adapt.unwrap();
    assert_eq!((adapt.text, adapt.budget), (vec!["a.txt".to_owned()], Budget::Epochs(2.0)));
    let cases: [(&[&str], &str); 9] = [
        (&["lora.rank=0"], "lora.rank"),
        (&["lora.alpha=-1"], "lora.alpha"),
        (&["lora.dropout=1"], "lora.dropout"),
        (&["lora.targets=[]"], "lora.targets"),
        (&["lora.targets=[\"q_proj\"]"], "attention.self.query"),
        (&["lora.rank=2", "from_scratch=true"], "from_scratch"),
        (&["lora.rank=2", "optimizer.ema=0.9"], "optimizer.ema"),
        (&["lora.rank=2", "optimizer.freeze_layers=1"], "freeze_layers"),
        (&["adapt.text=[]"], "adapt.text"),
    ];
    for (changes, says) in cases {
        let error = set(changes).and_then(|run| tune(&run, false, None).map(drop)).unwrap_err().to_string();
        assert!(error.contains(says), "{changes:?}: {error:?} does not say {says:?}");
    }
    assert!(set(&["lora.ranks=2"]).unwrap_err().to_string().contains("unknown field"));
}
