//! Work that comes again is replayed, and has the bits that it has call by call. On the emulated device alone, which lets itself be asked how
//! often it replayed; on a GPU every other check runs through graphs.

use std::sync::Arc;

use cloze_cuda::Cuda;
use cloze_model::{Blueprint, Heads, Input, Model};
use cloze_tensor::{Dtype, Sequences, Tape, Weights};
use cloze_train::optimizer::Rule;
use cloze_train::pretrain::MaskedLmLosses;

use crate::emulated::{Emulated, Options, device};
use crate::training::{VOCABULARY, batch, trainer};

/// The same device with graphs and without.
fn devices() -> Option<(Arc<Emulated>, Cuda, Cuda)> {
    let with = device(Options::default())?;
    let without = device(Options { graphs: false, ..Options::default() })?;
    Some((Arc::clone(&with), Cuda::with_driver(with), Cuda::with_driver(without)))
}

#[test]
fn texts_of_one_length_are_one_graph() {
    let Some((device, with, without)) = devices() else { return };
    let model = Model::new("bert", Blueprint::bert(VOCABULARY as usize, 3, 32, 2, 64), Heads::pretraining(false));
    let values = model.table().init(0);
    let run = |cuda: &Cuda, weights: &Weights<Cuda>, length: usize, seed: usize| {
        let ids: Vec<u32> = (0..length).map(|i| ((i * i + 7 * seed) % VOCABULARY as usize) as u32).collect();
        let input = Input::new(cuda, &ids, &vec![0; length], Sequences::from_lengths([length]));
        let mut tape = Tape::inference(cuda, weights, Dtype::Bf16);
        model.hidden(&mut tape, &input, false).to_host(cuda)
    };
    let [ours, theirs] = [&with, &without].map(|cuda| Weights::from_host(cuda, &values));
    let mut seen = Vec::new();
    // At first blocks of memory are still added, which moves others: what was captured with the old addresses is not used again.
    let lengths = [13, 13, 13, 29, 29, 29].into_iter().chain([13, 29].into_iter().cycle().take(12));
    for (i, length) in lengths.enumerate() {
        let found = run(&with, &ours, length, i);
        assert!(found == run(&without, &theirs, length, i), "text {i}");
        seen.push(device.graphs());
    }
    let [[_, captured, before, _], [_, at_the_end, replayed, _]] = [seen[seen.len() - 5], seen[seen.len() - 1]];
    assert!(captured > 0 && at_the_end == captured, "nothing new is captured: {seen:?}");
    assert!(replayed >= before + 4, "every text is a replay: {seen:?}");
}

#[test]
fn steps_of_one_shape_are_replayed_with_their_own_draws_and_rates() {
    let Some((device, with, without)) = devices() else { return };
    for (rule, dtype) in [(Rule::Adamw, Dtype::Bf16), (Rule::Muon, Dtype::F32)] {
        let before = device.graphs();
        let (mut ours, mut theirs) = (trainer(&with, rule, dtype), trainer(&without, rule, dtype));
        for step in 0..8u64 {
            // Other ids and other draws; the same places are masked.
            let (same, next) = (batch(3), batch(step));
            let batch = cloze_text::Batch { input_ids: next.input_ids, ..same };
            let lr = 1e-3 * (step + 1) as f64;
            let [a, b] = [&mut ours, &mut theirs].map(|t| t.step(&MaskedLmLosses, std::slice::from_ref(&batch), lr).unwrap());
            assert_eq!(a.grad_norm.to_bits(), b.grad_norm.to_bits(), "{rule:?}, step {step}");
        }
        assert!(ours.values() == theirs.values(), "{rule:?}");
        let after = device.graphs();
        assert!(after[2] >= before[2] + 8, "{rule:?}: replayed {} times", after[2] - before[2]);
        assert!(after[3] > before[3], "{rule:?}: nothing was changed, and draws are other ones in each step");
    }
}
