//! Steps that are begun before the one before is done: the same bits, and nothing changes after one that is no number.

use cloze_cuda::Cuda;
use cloze_model::{Blueprint, Heads, Input, Model};
use cloze_tensor::{Backend, Dtype, Storage, Tape, Tensor};
use cloze_text::Batch;
use cloze_train::TrainError;
use cloze_train::course::{Found, Loss, Losses, Pass};
use cloze_train::optimizer::{OptimizerConfig, Rule};
use cloze_train::pretrain::MaskedLmLosses;
use cloze_train::step::{StepResult, Trainer};

use crate::training::{VOCABULARY, batch, cpu};

/// The losses of pre-training, and something wrong with them.
struct Faulty {
    /// Backward overflows; else the loss itself is no number.
    backward: bool,
}

impl Losses for Faulty {
    fn losses<'a, B: Backend>(&self, model: &Model, tape: &mut Tape<'a, B>, input: &Input<B>, batch: &Batch, pass: Pass) -> Found<B> {
        if self.backward {
            let hidden = model.hidden(tape, input, false);
            let gradient = vec![f32::INFINITY; hidden.rows() * hidden.cols()];
            let gradient = Tensor::from_host(tape.backend(), Dtype::F32, hidden.rows(), hidden.cols(), &gradient);
            tape.seed(&hidden, gradient);
        }
        let mut found = MaskedLmLosses.losses(model, tape, input, batch, pass);
        if !self.backward {
            let rows = Tensor::from_host(tape.backend(), Dtype::F32, 2, 2, &[1.0, 0.0, f32::NAN, 1.0]);
            found.insert("mlm", Loss::Rows(rows));
        }
        found
    }
}

/// More than the staging memory holds, before anything is read: what comes later must not stand where what came before is still to be read.
pub(crate) fn values_arrive_however_many_are_on_their_way(device: &Cuda) {
    let len = 300_000;
    let values = |i: usize| (0..len).map(|j| (i * len + j) as f32).collect::<Vec<_>>();
    let buffers: Vec<_> = (0..12).map(|i| Tensor::from_host(device, Dtype::F32, 1, len, &values(i))).collect();
    let later: Vec<_> = buffers.iter().map(|b| b.to_host_later(device)).collect();
    // What is read later is what stands there now.
    let mut buffers = buffers.into_iter();
    let mut first = buffers.next().unwrap();
    device.clear(first.view_mut().buffer, 0..len);
    // Each has a place of its own until it is asked for, in whatever order.
    for (i, later) in later.into_iter().enumerate().rev() {
        assert!(later.get() == values(i), "{i}");
    }
    assert!(first.to_host(device).iter().all(|v| *v == 0.0));
    assert!(buffers.enumerate().all(|(i, b)| b.to_host(device) == values(i + 1)));
}

/// Without dropout, whose draws count the micro-batches of steps that failed, too; with a moving average.
fn trainer<B: Backend>(backend: &B, rule: Rule) -> Trainer<'_, B> {
    let mut blueprint = Blueprint::bert(VOCABULARY as usize, 2, 32, 2, 64);
    (blueprint.hidden_dropout, blueprint.attention_dropout) = (0.0, 0.0);
    let model = Model::new("bert", blueprint, Heads::pretraining(false));
    let values = model.table().init(0);
    let optimizer = OptimizerConfig { rule, ema: 0.9, clip: 0.5, ..OptimizerConfig::default() };
    Trainer::new(backend, model, &values, optimizer, Dtype::F32, 7, false)
}

/// Every figure of a step to the last bit.
fn bits(result: &StepResult) -> [u64; 3] {
    let mlm = result.sums["mlm"];
    [mlm.loss.to_bits(), mlm.hits.to_bits(), result.grad_norm.to_bits()]
}

pub(crate) fn steps_ahead_have_the_bits_of_steps_in_turn(device: &Cuda) {
    for rule in [Rule::Adamw, Rule::Lamb, Rule::Muon] {
        let (mut ahead, mut in_turn) = (trainer(device, rule), trainer(device, rule));
        let mut figures = Vec::new();
        for step in 0..6 {
            ahead.begin(&MaskedLmLosses, &[batch(step), batch(step + 100)], 1e-3).unwrap();
            // The first one is looked at by the host; then one is always under way.
            assert_eq!(ahead.under_way(), usize::from(step > 0) + usize::from(step > 1));
            if step != 1 {
                figures.push(bits(&ahead.finish().unwrap()));
            }
        }
        figures.push(bits(&ahead.finish().unwrap()));
        for (step, figures) in figures.iter().enumerate() {
            let step = step as u64;
            let expected = in_turn.step(&MaskedLmLosses, &[batch(step), batch(step + 100)], 1e-3).unwrap();
            assert_eq!(*figures, bits(&expected), "{rule:?}, step {step}");
            assert!(expected.grad_norm > 0.5, "{rule:?}: a norm of {} is not clipped", expected.grad_norm);
        }
        assert!(ahead.values() == in_turn.values(), "{rule:?}");
    }
}

pub(crate) fn after_a_step_that_is_no_number_nothing_changes(device: &Cuda) {
    let reference = cpu();
    for (rule, backward) in [(Rule::Adamw, true), (Rule::Lamb, true), (Rule::Muon, true), (Rule::Adamw, false)] {
        let (mut with, mut without, mut there) = (trainer(device, rule), trainer(device, rule), trainer(&reference, rule));
        for trainer in [&mut with, &mut without] {
            trainer.step(&MaskedLmLosses, &[batch(0)], 1e-3).unwrap();
        }
        there.step(&MaskedLmLosses, &[batch(0)], 1e-3).unwrap();
        // Two more steps are under way when the host hears of it.
        with.begin(&Faulty { backward }, &[batch(1)], 1e-3).unwrap();
        with.begin(&MaskedLmLosses, &[batch(2)], 1e-3).unwrap();
        with.begin(&MaskedLmLosses, &[batch(3)], 1e-3).unwrap();
        let error = with.finish().unwrap_err();
        assert!(matches!(error, TrainError::NotFinite { step: 2, micro_batch: 1, .. }), "{error}");
        // The processor, which looks before it updates, names the same.
        assert_eq!(error.to_string(), there.step(&Faulty { backward }, &[batch(1)], 1e-3).unwrap_err().to_string());
        assert_eq!((with.steps(), with.under_way()), (1, 0));
        assert!(with.values() == without.values(), "{rule:?}: the average of the weights was touched");
        // Weights and moments are as they were, too: both go on alike.
        for step in 4..7 {
            let [a, b] = [&mut with, &mut without].map(|t| bits(&t.step(&MaskedLmLosses, &[batch(step)], 1e-3).unwrap()));
            assert_eq!(a, b, "{rule:?}, step {step}");
        }
        assert!(with.values() == without.values(), "{rule:?}");
    }
}
