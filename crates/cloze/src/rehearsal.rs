//! Whether a run fits a GPU's memory, known before its first step: a micro-batch is run on a device that computes nothing and counts.

use std::sync::Arc;

use cloze_cuda::{Cuda, Rehearsal};
use cloze_model::{Blueprint, Heads, Model};
use cloze_tensor::{Dtype, Sequences};
use cloze_text::objective::SentenceObjective;
use cloze_text::{Batch, Tokenizer};
use cloze_train::TrainError;
use cloze_train::pretrain::{MaskedLmLosses, PretrainRun};
use cloze_train::step::Trainer;

use crate::Error;

/// Kept free for the driver and for batches that are packed otherwise than the rehearsed one.
const SPARE: f64 = 0.03;

/// Refuse a pre-training whose micro-batches do not fit, and say which would.
pub(crate) fn check(cuda: &Cuda, run: &PretrainRun, dtype: Dtype) -> Result<(), Error> {
    run.check()?;
    let tokenizer = Tokenizer::load(run.data.dir.join("tokenizer"))?;
    let (family, blueprint) = run.blueprint(tokenizer.vocab_size())?;
    let (free, _) = cuda.device_memory()?;
    let room = (free as f64 * (1.0 - SPARE)) as usize;
    let needs = |tokens: usize| needs(family, &blueprint, run, dtype, tokens);
    let asked = run.train.micro_batch_tokens;
    let need = needs(asked);
    if need <= room {
        return Ok(());
    }
    let longest = run.train.sequence_length.max();
    // The largest number of whole sequences that fits, by bisection; none may.
    let (mut low, mut high) = (0, asked / longest);
    while low + 1 < high {
        let middle = low.midpoint(high);
        if needs(middle * longest) <= room {
            low = middle;
        } else {
            high = middle;
        }
    }
    let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
    let expected = match low {
        0 => format!("a smaller model: not one sequence fits {:.1} GiB of {}", gib(room), cuda.name()),
        _ => format!("at most {}: {asked} need {:.1} GiB, {:.1} are free on {}", low * longest, gib(need), gib(room), cuda.name()),
    };
    Err(TrainError::Value { key: "train.micro_batch_tokens", found: asked.to_string(), expected }.into())
}

/// Bytes that training with micro-batches of this many tokens takes.
fn needs(family: &'static str, blueprint: &Blueprint, run: &PretrainRun, dtype: Dtype, tokens: usize) -> usize {
    let sentences = run.objective.sentence_objective != SentenceObjective::None;
    let model = Model::new(family, blueprint.clone(), Heads::pretraining(sentences));
    let values = vec![0.0; model.table().flat_len()];
    let device = Cuda::with_driver(Arc::new(Rehearsal::default()));
    let mut trainer = Trainer::new(&device, model, &values, run.optimizer.clone(), dtype, run.seed, run.train.recompute);
    let length = run.train.sequence_length.max().max(1);
    let lengths = (0..tokens).step_by(length).map(|first| length.min(tokens - first));
    // As many masked rows as the objective takes at most: its share of the tokens, rounded up for each sequence.
    let share = f64::from(run.objective.mask_probability);
    let masked: Vec<u32> = (0..tokens as u32).filter(|&t| (f64::from(t + 1) * share).ceil() > (f64::from(t) * share).ceil()).collect();
    let batch = Batch {
        input_ids: vec![0; tokens],
        token_type_ids: vec![0; tokens],
        masked_labels: vec![0; masked.len()],
        masked_rows: masked,
        sequence_labels: if sentences { vec![0; tokens.div_ceil(length)] } else { vec![] },
        sequences: Sequences::from_lengths(lengths),
    };
    // Nothing is computed, so the step ends where it misses gradients: after everything that takes memory by the token.
    let _ = trainer.step(&MaskedLmLosses, &[batch], 0.0);
    device.memory_stats().peak
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_grows_with_tokens_and_shrinks_with_recompute() {
        let recipe = |recompute: bool| {
            let text = format!(
                r#"
                out = "out"
                data.dir = "data"
                model = {{ size = "tiny" }}
                train = {{ budget = "1 steps", batch_tokens = 512, sequence_length = 128, recompute = {recompute} }}
                "#
            );
            cloze_train::run::parse::<PretrainRun>(&text).unwrap()
        };
        let run = recipe(false);
        let (family, blueprint) = run.blueprint(1000).unwrap();
        let needs = |run: &PretrainRun, tokens| needs(family, &blueprint, run, Dtype::Bf16, tokens);
        let parameters = Model::new(family, blueprint.clone(), Heads::pretraining(true)).table().flat_len();
        // Weights, gradients, two moments in f32, and the weights in bf16.
        assert!(needs(&run, 128) > 18 * parameters);
        assert!(needs(&run, 4096) > needs(&run, 2048) + 1_000_000);
        assert!(needs(&recipe(true), 4096) < needs(&run, 4096));
    }
}
