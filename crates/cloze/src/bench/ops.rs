//! Every op of a training step on its own: how long it takes, and what share that is of what the device can do.

use std::time::Instant;

use cloze_model::Blueprint;
use cloze_tensor::ops::activation::Activation;
use cloze_tensor::ops::attention::{Attention, Visibility};
use cloze_tensor::ops::cross_entropy::{CrossEntropy, CrossEntropyGradients};
use cloze_tensor::ops::embedding::Embedding;
use cloze_tensor::ops::linear::Linear;
use cloze_tensor::ops::norm::{Norm, NormKind};
use cloze_tensor::ops::optimizer::{Adam, Group, Scale};
use cloze_tensor::random::{Key, Stream};
use cloze_tensor::{Backend, Dropout, Dtype, Packed, Param, Sequences, Target, Tensor, Weights, Write};
use cloze_train::TrainError;
use cloze_train::run::Precision;

use super::{Shape, sizes};
use crate::device::on;
use crate::{Device, Error};

/// What an op took.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Timing {
    /// The op.
    pub op: &'static str,
    /// Of one call.
    pub seconds: f64,
    /// Floating-point operations of its products.
    pub flops: f64,
    /// Bytes that it must read and write at least; 0 where products are what counts.
    pub bytes: f64,
}

/// What the device can do, measured in the same run.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Ceilings {
    /// Products, FLOP/s.
    pub flops: f64,
    /// Memory, bytes/s read and written: the best of adding one large buffer to another.
    pub bandwidth: f64,
}

/// Time the ops of a training step of this shape. `runs`: calls of each, after one to warm up.
pub fn time(device: &Device, shape: &Shape, precision: Precision, runs: usize) -> Result<(Vec<Timing>, Ceilings), Error> {
    let (_, hidden, heads, intermediate) = sizes(shape)?;
    let blueprint = Blueprint::bert(shape.vocab_size, 1, hidden, heads, intermediate);
    if shape.length > blueprint.position.longest() {
        let expected = format!("at most {}", blueprint.position.longest());
        return Err(TrainError::Value { key: "--length", found: shape.length.to_string(), expected }.into());
    }
    let dtype = device.dtype(precision);
    let flops = device.peak_flops(dtype);
    let bench = Bench { shape, hidden, heads, intermediate, dtype, runs: runs.max(1) };
    Ok(on!(device, backend => {
        let bandwidth = bench.bandwidth(backend);
        (bench.all(backend), Ceilings { flops, bandwidth })
    }))
}

struct Bench<'a> {
    shape: &'a Shape,
    hidden: usize,
    heads: usize,
    intermediate: usize,
    dtype: Dtype,
    runs: usize,
}

/// Wait until the device has done everything: reading is what waits.
fn finish<B: Backend>(backend: &B, probe: &B::Buffer) {
    backend.read(probe, 0..1);
}

impl Bench<'_> {
    fn seconds<B: Backend>(&self, backend: &B, probe: &B::Buffer, mut call: impl FnMut()) -> f64 {
        call();
        finish(backend, probe);
        let begin = Instant::now();
        for _ in 0..self.runs {
            call();
        }
        finish(backend, probe);
        begin.elapsed().as_secs_f64() / self.runs as f64
    }

    fn tensor<B: Backend>(&self, backend: &B, rows: usize, cols: usize) -> Tensor<B> {
        let key = Key::new(1, Stream::Sampling, rows as u64, cols as u32);
        // A row of draws again and again: only their size matters.
        let row: Vec<f32> = (0..cols as u64).map(|i| 0.5 * key.normal(i)).collect();
        Tensor::from_host(backend, self.dtype, rows, cols, &row.repeat(rows))
    }

    fn bandwidth<B: Backend>(&self, backend: &B) -> f64 {
        let (rows, cols) = (8192, 4096);
        let (mut a, b, probe) = (self.tensor(backend, rows, cols), self.tensor(backend, rows, cols), backend.zeros(Dtype::F32, 1));
        let seconds = (0..3).map(|_| self.seconds(backend, &probe, || backend.accumulate(a.view_mut(), b.view()))).fold(f64::MAX, f64::min);
        (3 * rows * cols * self.dtype.size()) as f64 / seconds
    }

    fn all<B: Backend>(&self, backend: &B) -> Vec<Timing> {
        let (h, i, v, length) = (self.hidden, self.intermediate, self.shape.vocab_size, self.shape.length);
        let (t, size) = (self.shape.sequences * length, self.dtype.size());
        let mut len = 0;
        let mut param = |rows: usize, cols: usize| {
            let p = Param { offset: len, rows, cols };
            len = (len + rows * cols).next_multiple_of(16);
            p
        };
        let [word, position, segment] = [v, length, 2].map(|rows| param(rows, h));
        let [gain, bias] = [0, 1].map(|_| param(1, h));
        let linears = [("qkv", 3 * h, h), ("up", i, h), ("down", h, i)];
        let linears = linears.map(|(name, out, inner)| (name, param(out, inner), param(1, out)));
        let vocabulary_bias = param(1, v);
        let key = Key::new(2, Stream::Sampling, 0, 0);
        let values: Vec<f32> = (0..len as u64).map(|i| 0.02 * key.uniform(i)).collect();
        let weights = Weights::from_host(backend, &values);
        let [mut gradients, mut first, mut second, mut master] = [0; 4].map(|_| backend.zeros(Dtype::F32, len));
        let probe = backend.zeros(Dtype::F32, 1);
        let layout = Packed::new(backend, Sequences::from_lengths(std::iter::repeat_n(length, self.shape.sequences)));
        let dropout = |place| {
            (self.shape.dropout > 0.0).then(|| Dropout { probability: self.shape.dropout, key: Key::new(1, Stream::Dropout, 0, place) })
        };
        let mut timings = Vec::new();
        let mut add = |op, seconds, flops: usize, bytes: usize| {
            timings.push(Timing { op, seconds, flops: flops as f64, bytes: bytes as f64 });
        };

        for (name, weight, b) in linears {
            let op = Linear { weight, bias: Some(b), activation: (name == "up").then_some(Activation::Gelu) };
            let x = self.tensor(backend, t, weight.cols);
            let [mut y, mut pre, mut dy] = [0; 3].map(|_| self.tensor(backend, t, weight.rows));
            let mut dx = self.tensor(backend, t, weight.cols);
            let (forward, backward) = match name {
                "qkv" => ("linear: q, k, v", "linear: q, k, v, backward"),
                "up" => ("linear: up, gelu", "linear: up, gelu, backward"),
                _ => ("linear: down", "linear: down, backward"),
            };
            let flops = 2 * t * weight.len();
            let seconds = self.seconds(backend, &probe, || {
                backend.linear(&op, &weights, x.view(), y.view_mut(), op.activation.map(|_| pre.view_mut()));
            });
            add(forward, seconds, flops, 0);
            let seconds = self.seconds(backend, &probe, || {
                let target = Target { view: dx.view_mut(), write: Write::Over };
                let pre = op.activation.map(|_| pre.view());
                backend.linear_backward(&op, &weights, x.view(), pre, dy.view_mut(), target, &mut gradients);
            });
            add(backward, seconds, 2 * flops, 0);
        }

        let scale = 1.0 / ((h / self.heads) as f32).sqrt();
        let op = Attention { heads: self.heads, visibility: Visibility::All, rotary: None, scale, dropout: dropout(1) };
        let [qkv, mut dqkv] = [0; 2].map(|_| self.tensor(backend, t, 3 * h));
        let [mut y, dy] = [0; 2].map(|_| self.tensor(backend, t, h));
        let mut lse = Tensor::new(backend, Dtype::F32, t, self.heads);
        let flops = 4 * t * length * h;
        let seconds =
            self.seconds(backend, &probe, || backend.attention(&op, &layout, qkv.view(), None, y.view_mut(), Some(lse.view_mut())));
        add("attention", seconds, flops, 0);
        let seconds = self.seconds(backend, &probe, || {
            backend.attention_backward(&op, &layout, qkv.view(), None, y.view(), lse.view(), dy.view(), dqkv.view_mut());
        });
        add("attention, backward", seconds, flops * 5 / 2, 0);
        drop((qkv, dqkv, lse));

        let op = Norm { kind: NormKind::LayerNorm, gain, bias: Some(bias), eps: 1e-12, dropout: dropout(2) };
        let [x, residual] = [0; 2].map(|_| self.tensor(backend, t, h));
        let [mut sum, mut dx, mut dresidual] = [0; 3].map(|_| self.tensor(backend, t, h));
        let mut stats = Tensor::new(backend, Dtype::F32, t, 2);
        let seconds = self.seconds(backend, &probe, || {
            let (sum, stats) = (Some(sum.view_mut()), Some(stats.view_mut()));
            backend.norm(&op, &weights, x.view(), Some(residual.view()), y.view_mut(), sum, stats);
        });
        add("norm, residual, dropout", seconds, 0, 4 * t * h * size);
        let seconds = self.seconds(backend, &probe, || {
            let dx = Target { view: dx.view_mut(), write: Write::Over };
            let dresidual = Some(Target { view: dresidual.view_mut(), write: Write::Over });
            backend.norm_backward(&op, &weights, sum.view(), stats.view(), Some(dy.view()), None, dx, dresidual, &mut gradients);
        });
        add("norm, residual, dropout, backward", seconds, 0, 4 * t * h * size);

        let ids: Vec<u32> = (0..t as u64).map(|j| key.below(j, v as u32)).collect();
        let segments: Vec<u32> = (0..t).map(|j| u32::from(j % length > length / 2)).collect();
        let (ids, segments) = (backend.indices(&ids), backend.indices(&segments));
        let op = Embedding { word, position: Some(position), position_offset: 0, segment: Some(segment) };
        let seconds = self.seconds(backend, &probe, || backend.embedding(&op, &weights, &ids, Some(&segments), &layout, y.view_mut()));
        add("embedding", seconds, 0, t * h * (4 + size));
        let seconds = self.seconds(backend, &probe, || {
            backend.embedding_backward(&op, &ids, Some(&segments), &layout, dy.view(), &mut gradients);
        });
        add("embedding, backward", seconds, 0, t * h * (8 + 3 * size));

        let rows = (t * 3 / 20).max(1);
        let op = CrossEntropy { weight: word, bias: Some(vocabulary_bias), label_smoothing: 0.0 };
        let x = self.tensor(backend, rows, h);
        let mut dx = self.tensor(backend, rows, h);
        let mut losses = Tensor::new(backend, Dtype::F32, rows, 2);
        let labels: Vec<u32> = (0..rows as u64).map(|j| key.below(j + (1 << 32), v as u32)).collect();
        let labels = backend.indices(&labels);
        let seconds = self.seconds(backend, &probe, || {
            let back = CrossEntropyGradients { scale: 1e-3, dx: dx.view_mut(), gradients: &mut gradients };
            backend.cross_entropy(&op, &weights, x.view(), &labels, losses.view_mut(), Some(back));
        });
        add("vocabulary, cross-entropy, both halves", seconds, 6 * rows * h * v, 0);

        let adam = Adam { lr: 1e-4, beta1: 0.9, beta2: 0.98, eps: 1e-6, step: 10, gradient_scale: Scale::Known(1.0) };
        let groups = [Group { range: 0..len, weight_decay: 0.01, lr_scale: 1.0 }];
        let seconds = self.seconds(backend, &probe, || {
            backend.adamw(&adam, &groups, &mut master, &gradients, &mut first, &mut second);
        });
        add("adamw", seconds, 0, 28 * len);
        timings
    }
}
