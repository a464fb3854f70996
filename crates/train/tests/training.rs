//! Pre-training on the real backend: resumed = uninterrupted and one thread = many, bit for bit; what stops a run.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloze_cpu::{Cpu, CpuOptions};
use cloze_model::{Heads, Input, Model};
use cloze_tensor::random::{Key, Stream};
use cloze_tensor::{Backend, Dtype, Tape, Tensor};
use cloze_text::tokenizer::WordPieceOptions;
use cloze_text::{Batch, PrepareOptions, Tokenizer, prepare};
use cloze_train::TrainError;
use cloze_train::course::{Course, Cursor, Found, Losses, Pass};
use cloze_train::files::FileError;
use cloze_train::log::read_log;
use cloze_train::observer::{Control, Event, Observer, Observers, Reason};
use cloze_train::pretrain::{Device, MaskedLmLosses, PretrainRun, Pretraining, pretrain};
use cloze_train::ramp::Ramp;
use cloze_train::record::record;
use cloze_train::run::parse;
use cloze_train::step::Trainer;

const WORDS: &str = "the a old young sailor farmer child dog cat house boat river walked slept saw found near under with and quietly again";

/// A corpus of a few hundred short sentences; its tokenizer knows every word.
fn corpus(folder: &Path) -> PathBuf {
    let words: Vec<&str> = WORDS.split(' ').collect();
    let mut text = String::new();
    for document in 0..120 {
        let key = Key::new(5, Stream::World, document, 0);
        for sentence in 0..6 {
            for word in 0..7 {
                // later words lean on earlier ones, so that there is something to learn
                let draw = key.below(sentence * 7 + word, 6) + 3 * word as u32;
                text.push_str(words[draw as usize % words.len()]);
                text.push(' ');
            }
            text.push_str(".\n");
        }
        text.push('\n');
    }
    let input = folder.join("text.txt");
    std::fs::write(&input, text).unwrap();
    let pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] .".split(' ').chain(words).map(String::from).collect();
    let tokenizer = Tokenizer::from_pieces(pieces, WordPieceOptions::default()).unwrap();
    let out = folder.join("corpus");
    let options = PrepareOptions { inputs: vec![input.display().to_string()], out: out.clone(), holdout: 0.1, ..PrepareOptions::default() };
    prepare(&options, &tokenizer, &mut |_| ControlFlow::Continue(())).unwrap();
    out
}

const STEPS: u64 = 24;

/// Everything that could disturb a resume is on: dropout, ramps of batch and length, accumulation, recompute, a moving
/// average, sentence pairs.
fn recipe(corpus: &Path, out: &Path, rule: &str) -> PretrainRun {
    let text = format!(
        r#"
        out = {out:?}
        seed = 3
        data.dir = {corpus:?}
        [model]
        num_hidden_layers = 2
        hidden_size = 32
        num_attention_heads = 2
        intermediate_size = 64
        max_position_embeddings = 64
        dropout = 0.1
        [objective]
        masking = "whole_word"
        sentence_objective = "next_sentence"
        [train]
        budget = "{STEPS} steps"
        batch_tokens = {{ from = 200, to = 500, until = 0.6 }}
        micro_batch_tokens = 160
        sequence_length = [[0.0, 16], [0.5, 32]]
        precision = "f32"
        recompute = true
        [optimizer]
        rule = "{rule}"
        lr = 3e-3
        ema = 0.9
        [schedule]
        kind = "cosine"
        warmup = 4
        [evaluation]
        every = "6 steps"
        tokens = 300
        [checkpoint]
        every = "5 steps"
        "#
    );
    parse(&text).unwrap()
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

fn run(cpu: &Cpu, run: &PretrainRun, resume: bool, stop_after: Option<u64>) -> Result<Reason, TrainError> {
    let control = Arc::new(Control::default());
    let mut observers = Observers::new();
    record(&run.out, resume, &mut observers)?;
    if let Some(step) = stop_after {
        observers.add(StopAfter { step, control: Arc::clone(&control) });
    }
    let device = Device { name: "cpu".into(), peak_flops: None, dtype: Dtype::F32 };
    pretrain(cpu, run, device, resume, &mut observers, &control).map(|outcome| outcome.reason)
}

fn cpu(threads: usize) -> Cpu {
    Cpu::new(CpuOptions { threads: Some(threads), level: None })
}

/// What a run did, without its clock: each step's figures as bits, each evaluation, and the bytes of the model.
fn trace(out: &Path) -> (Vec<String>, Vec<u8>) {
    let events = read_log(&out.join("log.jsonl")).unwrap();
    let lines = events.iter().filter_map(|event| match event {
        Event::Step(r) => {
            let figures = [r.loss, r.grad_norm, r.learning_rate, r.progress, r.epoch, r.accuracy.unwrap()].map(f64::to_bits);
            Some(format!("step {} {figures:x?} {:?} {}", r.step, r.parts, r.tokens))
        }
        Event::Eval(e) => Some(format!("evaluation {} {:?} {}", e.step, e.metrics, e.best)),
        _ => None,
    });
    (lines.collect(), std::fs::read(out.join("model/model.safetensors")).unwrap())
}

fn assert_same(what: &str, (lines, model): &(Vec<String>, Vec<u8>), (other_lines, other_model): &(Vec<String>, Vec<u8>)) {
    for (line, other) in lines.iter().zip(other_lines) {
        assert_eq!(line, other, "{what}");
    }
    assert_eq!(lines.len(), other_lines.len(), "{what}");
    assert!(model == other_model, "{what}: the models differ");
}

#[test]
fn a_resumed_run_is_the_uninterrupted_run() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path());
    let cpu = cpu(2);
    for rule in ["adamw", "lamb", "muon"] {
        let whole = recipe(&corpus, &folder.path().join(format!("{rule}-whole")), rule);
        assert_eq!(run(&cpu, &whole, false, None).unwrap(), Reason::Completed);
        let expected = trace(&whole.out);
        assert_eq!(expected.0.iter().filter(|l| l.starts_with("step")).count(), STEPS as usize);
        assert_eq!(expected.0.iter().filter(|l| l.starts_with("evaluation")).count(), 4);

        let parts = recipe(&corpus, &folder.path().join(format!("{rule}-parts")), rule);
        assert_eq!(run(&cpu, &parts, false, Some(3)).unwrap(), Reason::Stopped);
        assert_eq!(run(&cpu, &parts, true, Some(13)).unwrap(), Reason::Stopped);
        assert_eq!(run(&cpu, &parts, true, None).unwrap(), Reason::Completed);
        assert_same(rule, &trace(&parts.out), &expected);
    }
}

/// The files of a run that is over stay as they are, to the byte.
#[test]
fn resuming_a_finished_run_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = recipe(&corpus(folder.path()), &folder.path().join("run"), "adamw");
    recipe.train.budget = "3 steps".parse().unwrap();
    let cpu = cpu(2);
    assert_eq!(run(&cpu, &recipe, false, None).unwrap(), Reason::Completed);
    let files = || {
        let boards = std::fs::read_dir(recipe.out.join("tensorboard")).unwrap().count();
        (["log.jsonl", "curve.svg"].map(|name| std::fs::read_to_string(recipe.out.join(name)).unwrap()), boards)
    };
    let before = files();
    for _ in 0..2 {
        assert_eq!(run(&cpu, &recipe, true, None).unwrap(), Reason::Completed);
        assert_eq!(files(), before);
    }
    // A larger budget goes on in the same files.
    recipe.train.budget = "4 steps".parse().unwrap();
    assert_eq!(run(&cpu, &recipe, true, None).unwrap(), Reason::Completed);
    let log = read_log(&recipe.out.join("log.jsonl")).unwrap();
    let steps: Vec<u64> = log.iter().filter_map(|e| if let Event::Step(r) = e { Some(r.step) } else { None }).collect();
    assert_eq!(steps, [1, 2, 3, 4]);
    assert_eq!(log.iter().filter(|e| matches!(e, Event::Start(_))).count(), 2);
}

/// A budget in passes over the text while the sequence length, and with it the number of samples, changes.
#[test]
fn passes_are_counted_across_sequence_lengths() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path());
    let cpu = cpu(2);
    let of = |name: &str| {
        let mut recipe = recipe(&corpus, &folder.path().join(name), "adamw");
        recipe.train.sequence_length = Ramp::Points(vec![(0.0, 14), (0.5, 56)]);
        recipe.train.budget = "2 epochs".parse().unwrap();
        recipe
    };
    let whole = of("whole");
    assert_eq!(run(&cpu, &whole, false, None).unwrap(), Reason::Completed);
    let events = read_log(&whole.out.join("log.jsonl")).unwrap();
    let passes: Vec<f64> = events.iter().filter_map(|e| if let Event::Step(r) = e { Some(r.epoch) } else { None }).collect();
    let steps: Vec<f64> = passes.windows(2).map(|p| p[1] - p[0]).collect();
    assert!(steps.iter().all(|step| *step > 0.0 && *step < 0.15), "no step is a larger part of the text: {passes:?}");
    let last = passes[passes.len() - 1];
    assert!((2.0..2.15).contains(&last), "the run ends after two passes, not after {last}");

    let ramp = passes.iter().position(|p| *p >= 1.0).unwrap() as u64 + 1;
    let parts = of("parts");
    for (resume, stop) in [(false, 3), (true, ramp), (true, ramp + 3)] {
        assert_eq!(run(&cpu, &parts, resume, Some(stop)).unwrap(), Reason::Stopped);
    }
    assert_eq!(run(&cpu, &parts, true, None).unwrap(), Reason::Completed);
    assert_same("resumed", &trace(&parts.out), &trace(&whole.out));
}

/// The cursor is all that a course of another process needs, whatever the length does; checkpoints from before there were stretches have
/// the number of samples alone.
#[test]
fn a_cursor_is_enough_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = recipe(&corpus(folder.path()), &folder.path().join("run"), "adamw");
    let tokenizer = Tokenizer::load(recipe.data.dir.join("tokenizer")).unwrap();
    recipe.train.sequence_length = Ramp::Line { from: 14, to: 40, until: 0.8 };
    let mut course = Pretraining::open(&recipe, &tokenizer).unwrap();
    let (mut tokens, text) = (0, course.sampler().dataset().tokens());
    while course.epochs() < 2.0 {
        let mut other = Pretraining::open(&recipe, &tokenizer).unwrap();
        other.seek(course.cursor());
        let progress = course.epochs() / 2.0;
        let batches = course.next(progress).unwrap();
        assert!(batches == other.next(progress).unwrap());
        assert_eq!((course.cursor(), course.epochs()), (other.cursor(), other.epochs()));
        tokens += batches.iter().map(Batch::tokens).sum::<usize>();
    }
    // special tokens and second sentences from elsewhere come on top
    let passes = tokens as f64 / text as f64;
    assert!((2.0..4.0).contains(&passes), "{tokens} of {text} tokens are two passes");

    recipe.train.sequence_length = Ramp::from(16);
    let (mut course, mut other) = (Pretraining::open(&recipe, &tokenizer).unwrap(), Pretraining::open(&recipe, &tokenizer).unwrap());
    course.next(0.0).unwrap();
    other.seek(Cursor { samples: course.cursor().samples, stretch: None });
    assert!(course.next(0.1).unwrap() == other.next(0.1).unwrap());
    assert_eq!((course.cursor(), course.epochs()), (other.cursor(), other.epochs()));
}

#[test]
fn threads_change_no_bit_of_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path());
    let traces = [1, 2, 3].map(|threads| {
        let recipe = recipe(&corpus, &folder.path().join(format!("{threads}")), "muon");
        run(&cpu(threads), &recipe, false, None).unwrap();
        trace(&recipe.out)
    });
    assert_same("two threads", &traces[1], &traces[0]);
    assert_same("three threads", &traces[2], &traces[0]);
}

#[test]
fn training_learns() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = recipe(&corpus(folder.path()), &folder.path().join("run"), "adamw");
    recipe.train.budget = "120 steps".parse().unwrap();
    recipe.optimizer.ema = 0.0;
    run(&cpu(2), &recipe, false, None).unwrap();
    let events = read_log(&recipe.out.join("log.jsonl")).unwrap();
    let losses: Vec<f64> = events.iter().filter_map(|e| if let Event::Step(r) = e { Some(r.parts["mlm"]) } else { None }).collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, last) = (mean(&losses[..5]), mean(&losses[losses.len() - 10..]));
    // 3.1 is what the words' frequencies alone give
    assert!(last < 2.8, "the masked-LM loss went from {first:.3} to {last:.3}");
}

/// A rate that throws the weights out of f32: the run ends with the step and the loss named, and what it saved loads.
#[test]
fn a_loss_that_is_no_number_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = recipe(&corpus(folder.path()), &folder.path().join("run"), "adamw");
    recipe.checkpoint.every = "1 steps".parse().unwrap();
    recipe.optimizer.clip = 0.0;
    recipe.optimizer.lr = 1e36;
    let error = run(&cpu(2), &recipe, false, None).unwrap_err();
    let TrainError::NotFinite { step, .. } = error else { panic!("{error}") };
    assert!((2..=10).contains(&step), "step {step}");
    let said = error.to_string();
    assert!(said.contains(&format!("step {step}:")) && said.contains("were not updated") && said.contains("optimizer.lr"), "{said}");
    let latest = cloze_train::checkpoint::latest_complete(&recipe.out.join("checkpoints")).unwrap();
    assert_eq!(latest.checkpoint.unwrap().step(), step - 1);
    assert!(latest.skipped.is_empty());
    assert!(!recipe.out.join("model").exists(), "a run that failed leaves no model");
}

/// A trainer with NSP head on batches of the corpus, as a run makes it.
fn trainer<'b>(cpu: &'b Cpu, recipe: &PretrainRun) -> (Trainer<'b, Cpu>, Pretraining) {
    let tokenizer = Tokenizer::load(recipe.data.dir.join("tokenizer")).unwrap();
    let (family, blueprint) = recipe.blueprint(tokenizer.vocab_size()).unwrap();
    let model = Model::new(family, blueprint, Heads::pretraining(true));
    let values = model.table().init(1);
    let trainer = Trainer::new(cpu, model, &values, recipe.optimizer.clone(), Dtype::F32, 1, false);
    (trainer, Pretraining::open(recipe, &tokenizer).unwrap())
}

/// The losses of pre-training; an overflow in backward at one loss.
struct Overflowing;

impl Losses for Overflowing {
    fn losses<'a, B: Backend>(&self, model: &Model, tape: &mut Tape<'a, B>, input: &Input<B>, batch: &Batch, pass: Pass) -> Found<B> {
        let hidden = model.hidden(tape, input, false);
        let gradient = vec![f32::INFINITY; hidden.rows() * hidden.cols()];
        let gradient = Tensor::from_host(tape.backend(), Dtype::F32, hidden.rows(), hidden.cols(), &gradient);
        tape.seed(&hidden, gradient);
        MaskedLmLosses.losses(model, tape, input, batch, pass)
    }
}

#[test]
fn a_gradient_that_is_no_number_leaves_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(&corpus(folder.path()), &folder.path().join("run"), "adamw");
    let cpu = cpu(2);
    let (mut trainer, mut course) = trainer(&cpu, &recipe);
    let batches = course.next(0.0).unwrap();
    assert!(batches.len() > 1, "a step of several micro-batches");
    trainer.step(&MaskedLmLosses, &batches, 1e-3).unwrap();
    let before = trainer.values();
    let error = trainer.step(&Overflowing, &batches, 1e-3).unwrap_err();
    let TrainError::NotFinite { step: 2, what, .. } = &error else { panic!("{error}") };
    assert!(what.starts_with("the gradient of "), "{what}");
    assert!(trainer.values() == before, "the weights were touched");
    assert_eq!(trainer.steps(), 1);
    // what was no number is gone from the sums
    let result = trainer.step(&MaskedLmLosses, &batches, 1e-3).unwrap();
    assert!(result.grad_norm.is_finite() && trainer.values() != before);
}

/// Only the masked-LM loss, whatever heads there are.
struct WithoutSentences;

impl Losses for WithoutSentences {
    fn losses<'a, B: Backend>(&self, model: &Model, tape: &mut Tape<'a, B>, input: &Input<B>, batch: &Batch, pass: Pass) -> Found<B> {
        let batch = Batch { sequence_labels: vec![], ..batch.clone() };
        MaskedLmLosses.losses(model, tape, input, &batch, pass)
    }
}

#[test]
fn a_parameter_without_gradient_is_told_at_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(&corpus(folder.path()), &folder.path().join("run"), "adamw");
    let cpu = cpu(1);
    let (mut trainer, mut course) = trainer(&cpu, &recipe);
    let batches = course.next(0.0).unwrap();
    let before = trainer.values();
    let error = trainer.step(&WithoutSentences, &batches, 1e-3).unwrap_err();
    let TrainError::NoGradient { parameters } = &error else { panic!("{error}") };
    assert_eq!(parameters, &["pooler.weight", "pooler.bias", "nsp.weight", "nsp.bias"]);
    assert!(trainer.values() == before);
    trainer.step(&MaskedLmLosses, &batches, 1e-3).unwrap();
}

#[test]
fn lower_layers_learn_slower_under_muon_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = recipe(&corpus(folder.path()), &folder.path().join("run"), "muon");
    recipe.optimizer.weight_decay = 0.0;
    let cpu = cpu(1);
    let mut step = |layer_decay: f64| {
        recipe.optimizer.layer_decay = layer_decay;
        let (mut trainer, mut course) = trainer(&cpu, &recipe);
        let before = trainer.model().table().init(1);
        let batches = course.next(0.0).unwrap();
        trainer.step(&MaskedLmLosses, &batches, 1e-3).unwrap();
        let after = trainer.model().table().clone();
        let weights = trainer.values();
        move |name: &str| {
            let range = after.get(name).unwrap().param.range();
            let moved = range.map(|i| f64::from(weights[i] - before[i]).powi(2)).sum::<f64>();
            moved.sqrt()
        }
    };
    let (level, falling) = (step(1.0), step(0.5));
    for (name, share) in [("layer.0.mlp.up.weight", 0.25), ("layer.1.attention.qkv.weight", 0.5), ("mlm.dense.weight", 1.0)] {
        let found = falling(name) / level(name);
        assert!((found - share).abs() < 1e-3, "{name} moves {found} of what it does without decay");
    }
}

#[test]
fn a_folder_that_holds_a_run_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path());
    let recipe = recipe(&corpus, &folder.path().join("run"), "adamw");
    let cpu = cpu(2);
    assert!(matches!(run(&cpu, &recipe, true, None), Err(TrainError::NothingToResume { .. })));
    std::fs::remove_dir_all(&recipe.out).unwrap();
    run(&cpu, &recipe, false, Some(1)).unwrap();
    assert!(matches!(run(&cpu, &recipe, false, None), Err(TrainError::Occupied { .. })));
    // another model does not go on from its checkpoint
    let mut other = recipe.clone();
    other.model.hidden_size = Some(48);
    let error = run(&cpu, &other, true, None).unwrap_err();
    assert!(matches!(error, TrainError::OtherRun { .. }), "{error}");
}

#[test]
fn a_damaged_heldout_shard_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(&corpus(folder.path()), &folder.path().join("run"), "adamw");
    let tokenizer = Tokenizer::load(recipe.data.dir.join("tokenizer")).unwrap();
    let shard = recipe.data.dir.join("heldout-00000.shard");
    let mut bytes = std::fs::read(&shard).unwrap();
    bytes[40] ^= 1; // a count of the header
    std::fs::write(&shard, bytes).unwrap();
    let error = Pretraining::open(&recipe, &tokenizer).err().unwrap().to_string();
    assert!(error.contains("heldout-00000.shard"), "{error}");
}
