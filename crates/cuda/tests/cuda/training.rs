//! Training: the losses are those of the processor, a run repeats itself bit for bit, and goes on on another device.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloze_cpu::{Cpu, CpuOptions};
use cloze_cuda::{Cuda, Rehearsal};
use cloze_model::{Blueprint, Heads, Model};
use cloze_tensor::random::{Key, Stream};
use cloze_tensor::{Backend, Dtype, Sequences};
use cloze_text::tokenizer::WordPieceOptions;
use cloze_text::{Batch, PrepareOptions, Tokenizer, prepare};
use cloze_train::files::FileError;
use cloze_train::log::read_log;
use cloze_train::observer::{Control, Event, Observer, Observers};
use cloze_train::optimizer::{OptimizerConfig, Rule};
use cloze_train::pretrain::{Device, MaskedLmLosses, PretrainRun, pretrain};
use cloze_train::record::record;
use cloze_train::run::parse;
use cloze_train::step::Trainer;

pub(crate) const VOCABULARY: u32 = 60;

/// A batch of packed sequences; each step has its own.
pub(crate) fn batch(step: u64) -> Batch {
    let lengths = [9, 17, 1, 12];
    let tokens: usize = lengths.iter().sum();
    let key = Key::new(1, Stream::Sampling, step, 0);
    let ids: Vec<u32> = (0..tokens as u64).map(|i| 5 + key.below(i, 20) + key.below(1000 + i, 20)).collect();
    let masked: Vec<u32> = (0..tokens as u32).filter(|t| (t + step as u32).is_multiple_of(5)).collect();
    Batch {
        token_type_ids: (0..tokens).map(|t| u32::from(t % 9 > 4)).collect(),
        sequences: Sequences::from_lengths(lengths),
        masked_labels: masked.iter().map(|&t| ids[t as usize]).collect(),
        masked_rows: masked,
        input_ids: ids,
        sequence_labels: vec![],
    }
}

pub(crate) fn trainer<B: Backend>(backend: &B, rule: Rule, dtype: Dtype) -> Trainer<'_, B> {
    let mut blueprint = Blueprint::bert(VOCABULARY as usize, 2, 32, 2, 64);
    (blueprint.hidden_dropout, blueprint.attention_dropout) = (0.1, 0.1);
    let model = Model::new("bert", blueprint, Heads::pretraining(false));
    let values = model.table().init(0);
    let optimizer = OptimizerConfig { rule, ..OptimizerConfig::default() };
    Trainer::new(backend, model, &values, optimizer, dtype, 7, false)
}

/// Twenty steps with dropout, clipping and the optimizer: the loss and the norm of the gradient in each, the weights at the end.
fn losses<B: Backend>(backend: &B, rule: Rule, dtype: Dtype) -> (Vec<[f64; 2]>, Vec<f32>) {
    let mut trainer = trainer(backend, rule, dtype);
    let mut losses = Vec::new();
    for step in 0..20 {
        let batch = batch(step);
        let lr = 1e-3 * (step + 1) as f64 / 20.0;
        let result = trainer.step(&MaskedLmLosses, std::slice::from_ref(&batch), lr).unwrap();
        let mlm = result.sums["mlm"];
        losses.push([mlm.loss / batch.masked_rows.len() as f64, result.grad_norm]);
    }
    (losses, trainer.values())
}

pub(crate) fn cpu() -> Cpu {
    Cpu::new(CpuOptions { threads: Some(1), level: None })
}

pub(crate) fn the_first_losses_are_those_of_the_cpu(device: &Cuda) {
    for (rule, dtype, bound) in [(Rule::Adamw, Dtype::F32, 1e-4), (Rule::Lamb, Dtype::F32, 1e-4), (Rule::Adamw, Dtype::Bf16, 2e-2)] {
        let (ours, reference) = (losses(device, rule, dtype).0, losses(&cpu(), rule, dtype).0);
        for (step, (a, b)) in ours.iter().zip(&reference).enumerate() {
            let error = (a[0] - b[0]).abs() / b[0];
            assert!(error <= bound, "{rule:?} {dtype:?}, step {}: a loss of {} where the processor has {}", step + 1, a[0], b[0]);
        }
        let (first, last) = (reference[0][0], reference[19][0]);
        assert!(first != last, "nothing was learnt");
    }
}

pub(crate) fn a_second_run_has_the_same_bits(device: &Cuda) {
    for (rule, dtype) in [(Rule::Muon, Dtype::F32), (Rule::Adamw, Dtype::Bf16)] {
        let (first, second) = (losses(device, rule, dtype), losses(device, rule, dtype));
        assert_eq!(first.0, second.0, "{rule:?} {dtype:?}");
        assert!(first.1.iter().zip(&second.1).all(|(a, b)| a.to_bits() == b.to_bits()), "{rule:?} {dtype:?}");
    }
}

/// A step on the device that computes nothing asks for as much memory as one that does.
pub(crate) fn a_rehearsal_takes_the_memory_of_the_step(device: &Cuda) {
    let step = |cuda: &Cuda| {
        let mut trainer = trainer(cuda, Rule::Adamw, Dtype::Bf16);
        // Without figures a step ends before its update: what it has asked for until then is what counts.
        let _ = trainer.step(&MaskedLmLosses, &[batch(0)], 1e-3);
        cuda.memory_stats().peak
    };
    device.trim_memory();
    let before = device.memory_stats();
    assert_eq!(before.held, 0);
    let rehearsed = step(&Cuda::with_driver(Arc::new(Rehearsal::default())));
    let real = step(device);
    assert!(rehearsed > 100_000, "{rehearsed} bytes");
    assert!(rehearsed.abs_diff(real) <= real / 20, "rehearsed {rehearsed} bytes, needed {real}");
}

const WORDS: &str = "the a old young sailor farmer child dog cat house boat river walked slept saw found near under with and";

/// A corpus of short sentences; its tokenizer knows every word.
fn corpus(folder: &Path) -> PathBuf {
    let words: Vec<&str> = WORDS.split(' ').collect();
    let sentence = |document: u64, i: u64| {
        let key = Key::new(5, Stream::World, document, i as u32);
        (0..7).map(|w| words[key.below(w, words.len() as u32) as usize]).collect::<Vec<_>>().join(" ") + " .\n"
    };
    let text: String = (0..60).map(|d| (0..4).map(|i| sentence(d, i)).collect::<String>() + "\n").collect();
    let input = folder.join("text.txt");
    std::fs::write(&input, text).unwrap();
    let pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] .".split(' ').chain(words.iter().copied()).map(String::from).collect();
    let tokenizer = Tokenizer::from_pieces(pieces, WordPieceOptions::default()).unwrap();
    let out = folder.join("corpus");
    let options = PrepareOptions { inputs: vec![input.display().to_string()], out: out.clone(), holdout: 0.1, ..PrepareOptions::default() };
    prepare(&options, &tokenizer, &mut |_| ControlFlow::Continue(())).unwrap();
    out
}

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

/// A run of six steps, or a part of it.
fn pretrain_on<B: Backend>(backend: &B, corpus: &Path, out: &Path, resume: bool, stop_after: Option<u64>) -> Vec<f64> {
    let text = format!(
        r#"
        out = {out:?}
        seed = 3
        data.dir = {corpus:?}
        model = {{ num_hidden_layers = 1, hidden_size = 16, num_attention_heads = 2, intermediate_size = 32, max_position_embeddings = 32, dropout = 0.1 }}
        train = {{ budget = "6 steps", batch_tokens = 96, micro_batch_tokens = 48, sequence_length = 16, precision = "f32" }}
        checkpoint = {{ every = "2 steps" }}
        "#
    );
    let run: PretrainRun = parse(&text).unwrap();
    let control = Arc::new(Control::default());
    let mut observers = Observers::new();
    record(&run.out, resume, &mut observers).unwrap();
    if let Some(step) = stop_after {
        observers.add(StopAfter { step, control: Arc::clone(&control) });
    }
    let device = Device { name: "test".into(), peak_flops: None, dtype: Dtype::F32 };
    pretrain(backend, &run, device, resume, &mut observers, &control).unwrap();
    let events = read_log(&run.out.join("log.jsonl")).unwrap();
    events.iter().filter_map(|e| if let Event::Step(r) = e { Some(r.loss) } else { None }).collect()
}

pub(crate) fn a_run_goes_on_where_it_was_and_on_another_device(device: &Cuda) {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path());
    let out = |name: &str| folder.path().join(name);
    let whole = pretrain_on(device, &corpus, &out("whole"), false, None);
    assert_eq!(whole.len(), 6);
    // Stopped and resumed on the same device: bit for bit.
    pretrain_on(device, &corpus, &out("same"), false, Some(3));
    assert_eq!(pretrain_on(device, &corpus, &out("same"), true, None), whole);
    // Begun here and ended on the processor, and the other way round: the same losses up to rounding.
    let close = |losses: Vec<f64>| losses.len() == 6 && losses.iter().zip(&whole).all(|(a, b)| (a - b).abs() <= 1e-4 * b);
    pretrain_on(device, &corpus, &out("there"), false, Some(3));
    assert!(close(pretrain_on(&cpu(), &corpus, &out("there"), true, None)));
    pretrain_on(&cpu(), &corpus, &out("back"), false, Some(3));
    assert!(close(pretrain_on(device, &corpus, &out("back"), true, None)));
}
