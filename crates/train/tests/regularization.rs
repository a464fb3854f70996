//! R-Drop and adversarial training: what they do to a step, and that runs with them learn and go on exactly.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloze_cpu::{Cpu, CpuOptions};
use cloze_model::{Blueprint, Heads, Input, Model};
use cloze_tensor::random::{Key, Stream};
use cloze_tensor::{Backend, Dtype, Tape, Weights};
use cloze_text::tokenizer::WordPieceOptions;
use cloze_text::{Batch, Tokenizer};
use cloze_train::TrainError;
use cloze_train::budget::Budget;
use cloze_train::course::{Course, Cursor, Found, Losses, Pass};
use cloze_train::files::FileError;
use cloze_train::finetune::{FinetuneRun, Finetuned, finetune};
use cloze_train::observer::{Control, Event, Observer, Observers, Reason};
use cloze_train::optimizer::OptimizerConfig;
use cloze_train::pretrain::{Device, MaskedLmLosses};
use cloze_train::run::Precision;
use cloze_train::step::Trainer;

fn cpu() -> Cpu {
    Cpu::new(CpuOptions { threads: Some(1), level: None })
}

/// The same batch at each step; keeps the losses that it saw.
#[derive(Default)]
struct Watched(RefCell<Vec<(bool, f64)>>);

impl Losses for Watched {
    fn losses<'a, B: Backend>(&self, model: &Model, tape: &mut Tape<'a, B>, input: &Input<B>, batch: &Batch, pass: Pass) -> Found<B> {
        let backend = tape.backend();
        let found = MaskedLmLosses.losses(model, tape, input, batch, pass);
        self.0.borrow_mut().push((pass.perturbed, found["mlm"].sum(backend).mean()));
        found
    }
}

impl Course for Watched {
    fn next(&mut self, _: f64) -> Result<Vec<Batch>, TrainError> {
        Ok(batches())
    }
    fn cursor(&self) -> Cursor {
        Cursor::default()
    }
    fn seek(&mut self, _: Cursor) {}
    fn epochs(&self) -> f64 {
        0.0
    }
    fn evaluate<B: Backend>(&self, _: &B, _: &Model, _: &Weights<B>, _: Dtype) -> Result<BTreeMap<String, f64>, TrainError> {
        Ok(BTreeMap::new())
    }
    fn goal(&self) -> (&str, bool) {
        ("score", true)
    }
}

fn batches() -> Vec<Batch> {
    let mut batch = Batch { masked_rows: vec![1, 4], masked_labels: vec![5, 6], ..Batch::default() };
    batch.push(&[1, 2, 3], &[0, 1, 1]);
    batch.push(&[4, 2, 7], &[0, 0, 1]);
    vec![batch]
}

/// The losses of a step at ε, in order, and the weights before and after it.
fn step(epsilon: f32, lr: f64) -> (Vec<(bool, f64)>, Vec<f32>, Vec<f32>) {
    let cpu = cpu();
    let mut blueprint = Blueprint::bert(8, 1, 16, 1, 16);
    (blueprint.hidden_dropout, blueprint.attention_dropout, blueprint.initializer_range) = (0.0, 0.0, 0.5);
    let model = Model::new("bert", blueprint, Heads::pretraining(false));
    let values = model.table().init(1);
    let optimizer = OptimizerConfig { lr, weight_decay: 0.0, ..OptimizerConfig::default() };
    let mut trainer = Trainer::new(&cpu, model, &values, optimizer, Dtype::F32, 1, false);
    if epsilon > 0.0 {
        trainer = trainer.adversarial(epsilon);
    }
    let course = Watched::default();
    trainer.step(&course, &batches(), lr).unwrap();
    (course.0.into_inner(), values, trainer.values())
}

#[test]
fn moved_embeddings_have_a_larger_loss_in_proportion_and_are_put_back() {
    let (plain, before, after) = step(0.0, 0.0);
    assert_eq!((plain.len(), &before), (1, &after), "a learning rate of 0 changes nothing");
    let mut rises = Vec::new();
    for epsilon in [1e-3, 2e-3] {
        let (seen, before, after) = step(epsilon, 0.0);
        assert!(before.iter().zip(&after).all(|(a, b)| a.to_bits() == b.to_bits()), "moved embeddings were not put back");
        let [(false, clean), (true, moved)] = seen[..] else { panic!("{seen:?}") };
        assert_eq!(clean.to_bits(), plain[0].1.to_bits());
        rises.push(moved - clean);
    }
    // The loss rises by ε · ‖g‖, and to first order twice as much at twice the ε.
    assert!(rises[0] > 0.0 && (rises[1] / rises[0] - 2.0).abs() < 0.05, "{rises:?}");
    assert_ne!(step(0.5, 1e-2).2, step(0.0, 1e-2).2, "what the second pass gives is learned from");
}

const ANIMALS: [&str; 4] = ["cat", "dog", "cow", "hen"];
const OTHER: [&str; 12] = ["paris", "london", "rome", "oslo", "the", "a", "old", "young", "slept", "ran", "near", "again"];

/// A random model with dropout, its tokenizer, and rows that say whether there is an animal in a text.
fn world(folder: &Path) -> FinetuneRun {
    let pieces = "[PAD] [UNK] [CLS] [SEP] [MASK]".split(' ').chain(ANIMALS).chain(OTHER);
    let tokenizer = Tokenizer::from_pieces(pieces.map(String::from).collect(), WordPieceOptions::default()).unwrap();
    let mut blueprint = Blueprint::bert(tokenizer.vocab_size(), 2, 32, 2, 64);
    blueprint.initializer_range = 0.1;
    let model = Model::new("bert", blueprint, Heads::body());
    std::fs::create_dir(folder.join("model")).unwrap();
    cloze_model::save(&folder.join("model"), &model, &model.table().init(3), &[]).unwrap();
    tokenizer.save(folder.join("model")).unwrap();
    let file = |name: &str, rows: std::ops::Range<u64>| -> PathBuf {
        let line = |row: u64| {
            let key = Key::new(11, Stream::World, row, 0);
            let mut words: Vec<&str> = (0..4).map(|i| OTHER[key.below(i, OTHER.len() as u32) as usize]).collect();
            let animal = key.below(5, 2) == 0;
            if animal {
                words.insert(key.below(6, 5) as usize, ANIMALS[key.below(7, 4) as usize]);
            }
            serde_json::json!({"text": words.join(" "), "label": if animal { "animal" } else { "none" }}).to_string() + "\n"
        };
        let path = folder.join(name);
        std::fs::write(&path, rows.map(line).collect::<String>()).unwrap();
        path
    };
    let (train, dev) = (file("train.jsonl", 0..240), file("dev.jsonl", 1000..1060));
    let mut run = FinetuneRun::new("text-classification", folder.join("model"), train, dev, folder.join("run"));
    (run.budget, run.batch_size, run.max_length, run.micro_batch_tokens) = (Budget::Epochs(10.0), 16, 16, 128);
    (run.optimizer.lr, run.precision) = (3e-3, Precision::F32);
    (run.r_drop, run.adversarial) = (1.0, 0.3);
    run
}

/// Asks for the end after a step.
struct StopAfter(u64, Arc<Control>);

impl Observer for StopAfter {
    fn event(&mut self, event: &Event) -> Result<(), FileError> {
        if matches!(event, Event::Step(step) if step.step == self.0) {
            self.1.request_stop();
        }
        Ok(())
    }
}

fn tune(run: &FinetuneRun, resume: bool, stop_after: u64) -> Result<Finetuned, TrainError> {
    let (mut observers, control) = (Observers::new(), Arc::new(Control::default()));
    observers.add(StopAfter(stop_after, Arc::clone(&control)));
    let device = Device { name: "test".into(), peak_flops: None, dtype: Dtype::F32 };
    finetune(&cpu(), run, device, resume, &mut observers, &control)
}

#[test]
fn a_run_with_both_learns_and_goes_on_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let whole = world(folder.path());
    let done = tune(&whole, false, u64::MAX).unwrap();
    assert!(done.figures.values["accuracy"] > 0.95, "{:?}", done.figures.values);
    let parts = FinetuneRun { out: folder.path().join("parts"), ..whole.clone() };
    assert_eq!(tune(&parts, false, 23).unwrap().outcome.reason, Reason::Stopped);
    tune(&parts, true, u64::MAX).unwrap();
    let weights = |run: &FinetuneRun| std::fs::read(run.out.join("model/model.safetensors")).unwrap();
    assert!(weights(&whole) == weights(&parts));
    let once = FinetuneRun { out: folder.path().join("once"), r_drop: 0.0, ..whole.clone() };
    let tokens = |done: &Finetuned| done.outcome.spent.tokens;
    assert_eq!(tokens(&done), 2 * tokens(&tune(&once, false, u64::MAX).unwrap()), "each example is run twice");
}

#[test]
fn what_neither_can_do_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = world(folder.path());
    let says = |change: &dyn Fn(&mut FinetuneRun)| {
        let mut run = FinetuneRun { out: folder.path().join("refused"), ..run.clone() };
        change(&mut run);
        let error = tune(&run, false, u64::MAX).err().map(|e| e.to_string()).unwrap_or_default();
        std::fs::remove_dir_all(&run.out).ok();
        error
    };
    let error = says(&|r| r.dropout = Some(0.0));
    assert!(error.contains("r_drop") && error.contains("dropout"), "{error}");
    let error = says(&|r| r.r_drop = -1.0);
    assert!(error.contains("r_drop") && error.contains("at least 0"), "{error}");
    let error = says(&|r| r.adversarial = f32::NAN);
    assert!(error.contains("adversarial") && error.contains("at least 0"), "{error}");
    let lora = Some(cloze_train::lora::LoraConfig::default());
    let error = says(&|r| r.lora = lora.clone());
    assert!(error.contains("adversarial") && error.contains("not trained"), "{error}");
    let pairs = folder.path().join("pairs.tsv");
    std::fs::write(&pairs, "text_a\ttext_b\nthe cat\ta cat\nthe dog\ta dog\n").unwrap();
    let error = says(&|r| (r.task, r.train, r.dev, r.adversarial) = ("sentence-embedding".into(), pairs.clone(), pairs.clone(), 0.0));
    assert!(error.contains("r_drop") && error.contains("sentence-embedding"), "{error}");
}
