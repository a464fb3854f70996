//! Optimizer steps over the flat buffers.
//!
//! Every gradient is first multiplied by `gradient_scale` (clipping and averaging in one factor). The host knows that factor, or the device
//! finds it out itself ([`OptimizerOp::judge`]) and the host is told later.
//! AdamW (Loshchilov and Hutter 2019, algorithm 2), LAMB (You et al. 2020, algorithm 2),
//! Muon (Jordan et al. 2024: momentum orthogonalised by five Newton–Schulz steps).

use std::ops::Range;

use crate::backend::Storage;
use crate::dtype::Dtype;
use crate::later::Later;
use crate::plain::Plain;
use crate::tensor::{Param, View};

/// What multiplies the gradients of a step.
pub enum Scale<'a, B: Storage> {
    /// A number that the host knows.
    Known(f32),
    /// What the device has found out: a gate of [`OptimizerOp::judge`]. A gate that is shut lets the update change nothing.
    Judged(&'a B::Buffer),
}

impl<B: Storage> Clone for Scale<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Storage> Copy for Scale<'_, B> {}

impl<B: Storage> Scale<'_, B> {
    /// The number, on a backend that makes no gates.
    ///
    /// # Panics
    /// If there is a gate.
    pub fn known(&self) -> f32 {
        match self {
            Scale::Known(scale) => *scale,
            Scale::Judged(_) => panic!("optimizer: a gate on a backend that has none"),
        }
    }
}

/// What was found out about a step before its update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Σ g² in f64; NaN or infinite when an element of the gradient is.
    pub squares: f64,
    /// The first such element, counted from the start of the range.
    pub culprit: Option<usize>,
    /// Whether the gate is open.
    pub update: bool,
}

/// A step that was judged on the device.
pub struct Judged<B: Storage> {
    /// What the updates of the step read.
    pub gate: B::Buffer,
    /// What the host wants to know of it.
    pub verdict: Later<Verdict>,
}

/// What the step needs besides the buffers.
pub struct Adam<'a, B: Storage> {
    /// The learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// The number of this step, from 1: bias correction divides the moments by 1 − βᵗ.
    pub step: u64,
    /// Multiplies the gradients.
    pub gradient_scale: Scale<'a, B>,
}

impl<B: Storage> Clone for Adam<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Storage> Copy for Adam<'_, B> {}

/// Part of the flat buffers with its own weight decay (AdamW), or one tensor with its own trust ratio (LAMB).
#[derive(Clone, Debug)]
pub struct Group {
    /// Elements of the flat buffers.
    pub range: Range<usize>,
    /// Decoupled weight decay λ.
    pub weight_decay: f32,
    /// Multiplies the learning rate.
    pub lr_scale: f32,
}

/// What a Muon step needs besides the buffers.
pub struct Muon<'a, B: Storage> {
    /// The learning rate of this step.
    pub lr: f32,
    /// Momentum μ (Nesterov).
    pub momentum: f32,
    /// Decoupled weight decay λ.
    pub weight_decay: f32,
    /// Multiplies the gradients.
    pub gradient_scale: Scale<'a, B>,
    /// Element kind of the operands of the Newton–Schulz products; its authors take bf16.
    pub products: Dtype,
}

/// Newton–Schulz coefficients of Muon: X ← a·X + b·(X·Xᵀ)·X + c·(X·Xᵀ)²·X.
pub const NEWTON_SCHULZ: [f32; 3] = [3.4445, -4.7750, 2.0315];

/// Muon's step is scaled by 0.2·√max(rows, cols), which gives it the RMS of a typical AdamW step, so that both
/// can share a learning rate (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2).
pub fn muon_scale(rows: usize, cols: usize) -> f32 {
    0.2 * (rows.max(cols) as f32).sqrt()
}

/// The optimizers' contract. All buffers are f32 in the layout of the weights.
pub trait OptimizerOp: Storage {
    /// m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; w ← w − lr·(m̂ / (√v̂ + ε) + λw).
    fn adamw(
        &self,
        op: &Adam<Self>,
        groups: &[Group],
        weights: &mut Self::Buffer,
        gradients: &Self::Buffer,
        first: &mut Self::Buffer,
        second: &mut Self::Buffer,
    );

    /// r = m̂ / (√v̂ + ε) + λw; w ← w − lr · (‖w‖ / ‖r‖) · r, each group one tensor (ratio 1 where a norm is 0).
    fn lamb(
        &self,
        op: &Adam<Self>,
        groups: &[Group],
        weights: &mut Self::Buffer,
        gradients: &Self::Buffer,
        first: &mut Self::Buffer,
        second: &mut Self::Buffer,
    );

    /// b ← μb + (1−μ)g; u = (1−μ)g + μb; w ← w(1 − lr·λ) − lr · 0.2·√max(rows, cols) · NewtonSchulz₅(u / ‖u‖).
    fn muon(&self, op: &Muon<Self>, matrices: &[Param], weights: &mut Self::Buffer, gradients: &Self::Buffer, momentum: &mut Self::Buffer);

    /// average ← decay · average + (1 − decay) · weights; nothing where `gate` is shut.
    fn moving_average(&self, decay: f32, weights: &Self::Buffer, average: &mut Self::Buffer, gate: Option<&Self::Buffer>);

    /// Σ x² over the range, in f64 and a fixed order; NaN or infinite when an element is.
    fn sum_of_squares(&self, buffer: &Self::Buffer, range: Range<usize>) -> f64;

    /// Whether this backend judges a step by itself. Else the host asks for [`OptimizerOp::sum_of_squares`], and waits for it.
    fn judges(&self) -> bool {
        false
    }

    /// Decide a step where its gradient is, without the host: the gate is open when all `losses` and the gradients in `range` are finite and the
    /// gate of the step before (`after`) is open; the factor is min(1, clip / √Σg²), or 1 where `clip` is 0. So after a step that is no number
    /// nothing changes any more, however many steps are under way when the host hears of it.
    ///
    /// # Panics
    /// On a backend that does not judge.
    fn judge(
        &self,
        gradients: &Self::Buffer,
        range: Range<usize>,
        losses: &[View<Self>],
        clip: f64,
        after: Option<&Self::Buffer>,
    ) -> Judged<Self> {
        let _ = (gradients, range, losses, clip, after);
        panic!("optimizer: this backend leaves the judgement of a step to the host")
    }
}

/// One Adam direction m̂ / (√v̂ + ε), after both moments took the gradient in.
fn adam_direction(op: &Adam<Plain>, g: f64, m: &mut f64, v: &mut f64) -> f64 {
    let (b1, b2) = (f64::from(op.beta1), f64::from(op.beta2));
    *m = b1 * *m + (1.0 - b1) * g;
    *v = b2 * *v + (1.0 - b2) * g * g;
    let (m, v) = (*m / (1.0 - b1.powf(op.step as f64)), *v / (1.0 - b2.powf(op.step as f64)));
    m / (v.sqrt() + f64::from(op.eps))
}

impl OptimizerOp for Plain {
    fn adamw(
        &self,
        op: &Adam<Self>,
        groups: &[Group],
        weights: &mut Vec<f64>,
        gradients: &Vec<f64>,
        first: &mut Vec<f64>,
        second: &mut Vec<f64>,
    ) {
        for group in groups {
            for i in group.range.clone() {
                let g = gradients[i] * f64::from(op.gradient_scale.known());
                let direction = adam_direction(op, g, &mut first[i], &mut second[i]);
                let lr = f64::from(op.lr) * f64::from(group.lr_scale);
                weights[i] -= lr * (direction + f64::from(group.weight_decay) * weights[i]);
            }
        }
    }

    fn lamb(
        &self,
        op: &Adam<Self>,
        groups: &[Group],
        weights: &mut Vec<f64>,
        gradients: &Vec<f64>,
        first: &mut Vec<f64>,
        second: &mut Vec<f64>,
    ) {
        for group in groups {
            let update: Vec<f64> = group
                .range
                .clone()
                .map(|i| {
                    let g = gradients[i] * f64::from(op.gradient_scale.known());
                    adam_direction(op, g, &mut first[i], &mut second[i]) + f64::from(group.weight_decay) * weights[i]
                })
                .collect();
            let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
            let (w, r) = (norm(&weights[group.range.clone()]), norm(&update));
            let ratio = if w > 0.0 && r > 0.0 { w / r } else { 1.0 };
            for (w, u) in weights[group.range.clone()].iter_mut().zip(update) {
                *w -= f64::from(op.lr) * f64::from(group.lr_scale) * ratio * u;
            }
        }
    }

    fn muon(&self, op: &Muon<Self>, matrices: &[Param], weights: &mut Vec<f64>, gradients: &Vec<f64>, momentum: &mut Vec<f64>) {
        let mu = f64::from(op.momentum);
        for p in matrices {
            let mut u: Vec<f64> = p
                .range()
                .map(|i| {
                    let g = gradients[i] * f64::from(op.gradient_scale.known());
                    momentum[i] = mu * momentum[i] + (1.0 - mu) * g;
                    (1.0 - mu) * g + mu * momentum[i]
                })
                .collect();
            let norm = u.iter().map(|v| v * v).sum::<f64>().sqrt() + 1e-7;
            u.iter_mut().for_each(|v| *v /= norm);
            let step = newton_schulz(u, p.rows, p.cols);
            let lr = f64::from(op.lr);
            for (w, o) in weights[p.range()].iter_mut().zip(step) {
                *w -= lr * (f64::from(op.weight_decay) * *w + f64::from(muon_scale(p.rows, p.cols)) * o);
            }
        }
    }

    fn moving_average(&self, decay: f32, weights: &Vec<f64>, average: &mut Vec<f64>, _: Option<&Vec<f64>>) {
        for (a, w) in average.iter_mut().zip(weights) {
            *a = f64::from(decay) * *a + (1.0 - f64::from(decay)) * w;
        }
    }

    fn sum_of_squares(&self, buffer: &Vec<f64>, range: Range<usize>) -> f64 {
        buffer[range].iter().map(|v| v * v).sum()
    }
}

/// Five Newton–Schulz steps on X [rows, cols], in the orientation with fewer rows.
fn newton_schulz(x: Vec<f64>, rows: usize, cols: usize) -> Vec<f64> {
    let transpose =
        |x: &[f64], rows: usize, cols: usize| -> Vec<f64> { (0..rows * cols).map(|i| x[(i % rows) * cols + i / rows]).collect() };
    if rows > cols {
        let x = newton_schulz(transpose(&x, rows, cols), cols, rows);
        return transpose(&x, cols, rows);
    }
    let product = |a: &[f64], b: &[f64], m: usize, k: usize, n: usize| -> Vec<f64> {
        (0..m * n).map(|i| (0..k).map(|j| a[i / n * k + j] * b[j * n + i % n]).sum()).collect()
    };
    let [a, b, c] = NEWTON_SCHULZ.map(f64::from);
    let mut x = x;
    for _ in 0..5 {
        let gram = product(&x, &transpose(&x, rows, cols), rows, cols, rows);
        let square = product(&gram, &gram, rows, rows, rows);
        let mix: Vec<f64> = gram.iter().zip(&square).map(|(g, s)| b * g + c * s).collect();
        let step = product(&mix, &x, rows, rows, cols);
        x = x.iter().zip(step).map(|(x, s)| a * x + s).collect();
    }
    x
}
