//! Losses over few numbers, computed on the host from logits and handed to the tape as the gradient that backward
//! starts from. Losses over a vocabulary are fused with their projection instead
//! ([`cloze_tensor::ops::cross_entropy`]); here a batch has as many logits as it has labels, tokens or choices.

use std::ops::Range;

use cloze_tensor::{Backend, Dtype, Tape, Tensor, Var};

/// Where [`on_host`] has a loss computed.
pub struct Rows<'a> {
    /// The logits, row by row.
    pub logits: &'a [f32],
    /// The gradient of the step's loss by each of them; starts as zeros.
    pub gradient: &'a mut [f32],
    /// (loss, hit) of each answer.
    pub losses: &'a mut [[f32; 2]],
}

/// Compute the losses of `answers` answers from logits by `rule`, and have backward start from the gradient that it fills
/// in. Returns loss and hit of each answer. // logits [R, C] → f32 [answers, 2]
pub fn on_host<B: Backend>(tape: &mut Tape<'_, B>, logits: &Var<B>, answers: usize, rule: impl FnOnce(Rows)) -> Tensor<B> {
    let backend = tape.backend();
    let (rows, cols) = (logits.rows(), logits.cols());
    let values = logits.to_host(backend);
    let mut gradient = vec![0.0; values.len()];
    let mut losses = vec![[0.0; 2]; answers];
    rule(Rows { logits: &values, gradient: &mut gradient, losses: &mut losses });
    if tape.is_recording() {
        let gradient = Tensor::from_host(backend, logits.dtype(), rows, cols, &gradient);
        tape.seed(logits, gradient);
    }
    Tensor::from_host(backend, Dtype::F32, answers, 2, losses.as_flattened())
}

/// −ln softmax of the score `label` among `scores`, and whether it is the largest; the gradient, times `scale`, goes to `give`.
///
/// The label must be one of the scores.
pub fn softmax_one(scores: &[f32], label: usize, scale: f32, mut give: impl FnMut(usize, f32)) -> [f32; 2] {
    assert!(label < scores.len(), "loss: label {label} of {} scores", scores.len());
    let max = scores.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(f64::from(b)));
    let sum: f64 = scores.iter().map(|s| (f64::from(*s) - max).exp()).sum();
    let mut best = 0;
    for (i, s) in scores.iter().enumerate() {
        let p = (f64::from(*s) - max).exp() / sum;
        give(i, scale * (p - f64::from(u8::from(i == label))) as f32);
        if *s > scores[best] {
            best = i;
        }
    }
    [(max + sum.ln() - f64::from(scores[label])) as f32, f32::from(u8::from(best == label))]
}

/// Cross-entropy within groups of rows of a single column: group `g` holds the scores `groups[g]`, of which
/// `labels[g]` (counted within the group) is right. // logits [R, 1] → f32 [groups, 2]
pub fn choose<B: Backend>(tape: &mut Tape<'_, B>, logits: &Var<B>, groups: &[Range<usize>], labels: &[u32], scale: f32) -> Tensor<B> {
    assert_eq!((logits.cols(), groups.len()), (1, labels.len()), "choose: one column of scores, one label a group");
    on_host(tape, logits, groups.len(), |rows| {
        for ((group, &label), loss) in groups.iter().zip(labels).zip(rows.losses) {
            let gradient = &mut rows.gradient[group.clone()];
            *loss = softmax_one(&rows.logits[group.clone()], label as usize, scale, |i, g| gradient[i] = g);
        }
    })
}

/// Mean squared error of each row; no hits. // logits [S, C], targets [S · C] → f32 [S, 2]
pub fn squared<B: Backend>(tape: &mut Tape<'_, B>, logits: &Var<B>, targets: &[f32], scale: f32) -> Tensor<B> {
    let cols = logits.cols();
    assert_eq!(targets.len(), logits.rows() * cols, "squared: logits are [{}, {cols}], targets {}", logits.rows(), targets.len());
    on_host(tape, logits, logits.rows(), |rows| {
        for (i, (x, target)) in rows.logits.iter().zip(targets).enumerate() {
            let error = x - target;
            rows.losses[i / cols][0] += error * error / cols as f32;
            rows.gradient[i] = scale * 2.0 * error / cols as f32;
        }
    })
}

/// Binary cross-entropy of each row, the mean over its columns; a hit is a row whose every logit has the target's sign.
/// // logits [S, C], targets (0 to 1) [S · C] → f32 [S, 2]
pub fn binary<B: Backend>(tape: &mut Tape<'_, B>, logits: &Var<B>, targets: &[f32], scale: f32) -> Tensor<B> {
    let cols = logits.cols();
    assert_eq!(targets.len(), logits.rows() * cols, "binary: logits are [{}, {cols}], targets {}", logits.rows(), targets.len());
    on_host(tape, logits, logits.rows(), |rows| {
        for loss in rows.losses.iter_mut() {
            loss[1] = 1.0;
        }
        for (i, (x, target)) in rows.logits.iter().zip(targets).enumerate() {
            let (x, target) = (f64::from(*x), f64::from(*target));
            let loss = &mut rows.losses[i / cols];
            // max(x, 0) − x·t + ln(1 + exp(−|x|)), which no x overflows
            loss[0] += ((x.max(0.0) - x * target + (-x.abs()).exp().ln_1p()) / cols as f64) as f32;
            if (x > 0.0) != (target > 0.5) {
                loss[1] = 0.0;
            }
            rows.gradient[i] = (f64::from(scale) * (1.0 / (1.0 + (-x).exp()) - target) / cols as f64) as f32;
        }
    })
}
