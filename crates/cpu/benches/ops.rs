//! Ops that are bound by memory, beside the copy bandwidth of the machine.
//!
//! `cargo bench -p cloze-cpu --bench ops [-- [--threads N] [--level NAME] [WORD…]]` prints the rows whose name holds
//! every WORD. GB/s count each operand once: what an op must read and write at least. The copy is measured right
//! beside each op, because other load on the machine changes both; of each the best of several samples counts.

use std::hint::black_box;
use std::time::Instant;

use cloze_cpu::{Cpu, CpuOptions, Level};
use cloze_tensor::ops::activation::Activation;
use cloze_tensor::ops::elementwise::ElementwiseOp;
use cloze_tensor::ops::embedding::{Embedding, EmbeddingOp};
use cloze_tensor::ops::gated::GatedOp;
use cloze_tensor::ops::norm::{Norm, NormKind, NormOp};
use cloze_tensor::ops::optimizer::{Adam, Group, OptimizerOp, Scale};
use cloze_tensor::ops::pool::{Pool, PoolOp};
use cloze_tensor::ops::rows::RowsOp;
use cloze_tensor::random::{Key, Stream};
use cloze_tensor::{Dropout, Dtype, Packed, Param, Sequences, Storage, Target, Tensor, Weights, Write};

const TOKENS: usize = 8192;
const LENGTH: usize = 128;
const VOCABULARY: usize = 30_000;
const SAMPLES: usize = 12;

struct Bench {
    cpu: Cpu,
    words: Vec<String>,
    from: Vec<f32>,
    to: Vec<f32>,
}

impl Bench {
    /// Best seconds of the op and of copying `to` from `from`, samples in turn.
    fn row(&mut self, name: &str, bytes: usize, mut op: impl FnMut(&Cpu)) {
        if !self.words.iter().all(|w| name.contains(w.as_str())) {
            return;
        }
        op(&self.cpu); // memory and caches as in a steady step
        let (mut best, mut copy) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..SAMPLES {
            let start = Instant::now();
            op(&self.cpu);
            best = best.min(start.elapsed().as_secs_f64());
            let start = Instant::now();
            let from = &self.from;
            self.cpu.threads().for_rows(&mut self.to, 1, 1 << 16, |first, to| to.copy_from_slice(&from[first..first + to.len()]));
            copy = copy.min(start.elapsed().as_secs_f64());
            black_box(&self.to);
        }
        let rate = bytes as f64 / best / 1e9;
        let limit = (self.from.len() * 8) as f64 / copy / 1e9;
        println!("{name:<44} {:>8.0} µs {rate:>7.1} GB/s {limit:>7.1} copy {:>5.0} %", best * 1e6, 100.0 * rate / limit);
    }
}

fn tensor(cpu: &Cpu, dtype: Dtype, rows: usize, cols: usize) -> Tensor<Cpu> {
    let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919) % 2003) as f32 / 1000.0 - 1.0).collect();
    Tensor::from_host(cpu, dtype, rows, cols, &values)
}

fn activations(bench: &mut Bench, dtype: Dtype, hidden: usize) {
    let e = dtype.size();
    let n = TOKENS * hidden; // elements of an activation
    let at = |op: &str| format!("{op} [{TOKENS}, {hidden}] {dtype:?}").to_lowercase();
    let word = Param { offset: 0, rows: VOCABULARY, cols: hidden };
    let position = Param { offset: word.len(), rows: 512, cols: hidden };
    let segment = Param { offset: position.range().end, rows: 2, cols: hidden };
    let gain = Param { offset: segment.range().end, rows: 1, cols: hidden };
    let bias = Param { offset: gain.range().end, rows: 1, cols: hidden };
    let len = bias.range().end;
    let weights = Weights::from_host(&bench.cpu, &vec![0.5; len]);
    let mut gradients = bench.cpu.zeros(Dtype::F32, len);
    let layout = Packed::new(&bench.cpu, Sequences::from_lengths(vec![LENGTH; TOKENS / LENGTH]));
    let key = Key::new(1, Stream::Sampling, 0, 0);
    let dropout = Dropout { probability: 0.1, key };
    let (x, r) = (tensor(&bench.cpu, dtype, TOKENS, hidden), tensor(&bench.cpu, dtype, TOKENS, hidden));
    let mut y = tensor(&bench.cpu, dtype, TOKENS, hidden);
    let mut s = tensor(&bench.cpu, dtype, TOKENS, hidden);
    let mut stats = tensor(&bench.cpu, Dtype::F32, TOKENS, 2);
    for (name, dropout) in [("", None), (" dropout", Some(dropout))] {
        let op = Norm { kind: NormKind::LayerNorm, gain, bias: Some(bias), eps: 1e-12, dropout };
        bench.row(&at(&format!("norm{name}")), 4 * n * e, |cpu| {
            cpu.norm(&op, &weights, x.view(), Some(r.view()), y.view_mut(), Some(s.view_mut()), Some(stats.view_mut()));
        });
        let (mut dx, mut dr) = (tensor(&bench.cpu, dtype, TOKENS, hidden), tensor(&bench.cpu, dtype, TOKENS, hidden));
        bench.row(&at(&format!("norm backward{name}")), 4 * n * e, |cpu| {
            let dx = Target { view: dx.view_mut(), write: Write::Over };
            let dr = Target { view: dr.view_mut(), write: Write::Over };
            cpu.norm_backward(&op, &weights, s.view(), stats.view(), Some(x.view()), None, dx, Some(dr), &mut gradients);
        });
    }
    bench.row(&at("dropout"), 2 * n * e, |cpu| cpu.dropout(&dropout, x.view(), y.view_mut()));
    bench.row(&at("accumulate"), 3 * n * e, |cpu| cpu.accumulate(y.view_mut(), x.view()));

    let wide = tensor(&bench.cpu, dtype, TOKENS, 2 * hidden);
    let mut dwide = tensor(&bench.cpu, dtype, TOKENS, 2 * hidden);
    bench.row(&at("gated gelu"), 3 * n * e, |cpu| cpu.gated(Activation::Gelu, wide.view(), y.view_mut()));
    bench.row(&at("gated gelu backward"), 5 * n * e, |cpu| cpu.gated_backward(Activation::Gelu, wide.view(), x.view(), dwide.view_mut()));

    // Cubes of draws: frequent and rare words.
    let ids: Vec<u32> = (0..TOKENS as u64).map(|t| (VOCABULARY as f32 * key.uniform(t).powi(3)) as u32).collect();
    let (ids, segments) = (bench.cpu.indices(&ids), bench.cpu.indices(&(0..TOKENS as u32).map(|t| t / 64 % 2).collect::<Vec<_>>()));
    let op = Embedding { word, position: Some(position), position_offset: 0, segment: Some(segment) };
    bench.row(&at("embedding"), n * (4 + e), |cpu| cpu.embedding(&op, &weights, &ids, Some(&segments), &layout, y.view_mut()));
    bench.row(&at("embedding backward"), n * (8 + e), |cpu| {
        cpu.embedding_backward(&op, &ids, Some(&segments), &layout, x.view(), &mut gradients);
    });

    let chosen = bench.cpu.indices(&(0..TOKENS as u32).filter(|t| t % 7 == 3).collect::<Vec<_>>());
    let mut taken = tensor(&bench.cpu, dtype, chosen.len(), hidden);
    bench.row(&at("gather"), 2 * chosen.len() * hidden * e, |cpu| cpu.gather(x.view(), &chosen, taken.view_mut()));
    bench.row(&at("gather backward"), (n + chosen.len() * hidden) * e, |cpu| {
        cpu.gather_backward(&chosen, taken.view(), Target { view: y.view_mut(), write: Write::Over });
    });
    let mut pooled = tensor(&bench.cpu, dtype, layout.sequences.count(), hidden);
    bench.row(&at("pool mean"), n * e, |cpu| cpu.pool(Pool::Mean, &layout, x.view(), pooled.view_mut()));
    bench.row(&at("pool mean backward"), n * e, |cpu| {
        cpu.pool_backward(Pool::Mean, &layout, x.view(), pooled.view(), Target { view: y.view_mut(), write: Write::Over });
    });
}

fn optimizers(bench: &mut Bench, len: usize) {
    let mut buffers = [0, 1, 2, 3].map(|_| bench.cpu.zeros(Dtype::F32, len));
    bench.cpu.write(&mut buffers[1], 0, &vec![0.01; len]);
    let [w, g, m, v] = &mut buffers;
    let op = Adam { lr: 1e-4, beta1: 0.9, beta2: 0.98, eps: 1e-6, step: 3, gradient_scale: Scale::Known(1.0) };
    let groups: Vec<Group> =
        (0..16).map(|i| Group { range: i * len / 16..(i + 1) * len / 16, weight_decay: 0.01, lr_scale: 1.0 }).collect();
    let at = |op: &str| format!("{op} [{len}] f32");
    bench.row(&at("adamw"), 7 * 4 * len, |cpu| cpu.adamw(&op, &groups, w, g, m, v));
    bench.row(&at("lamb"), 10 * 4 * len, |cpu| cpu.lamb(&op, &groups, w, g, m, v));
    bench.row(&at("moving average"), 3 * 4 * len, |cpu| cpu.moving_average(0.999, w, m, None));
    bench.row(&at("sum of squares"), 4 * len, |cpu| {
        black_box(cpu.sum_of_squares(g, 0..len));
    });
}

fn main() {
    let mut options = CpuOptions::default();
    let mut words = Vec::new();
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--threads" => options.threads = args.next().and_then(|n| n.parse().ok()),
            "--level" => {
                let name = args.next().unwrap_or_default();
                options.level = Level::available().into_iter().find(|l| l.name() == name);
                assert!(options.level.is_some(), "--level {name}: not one of this machine's");
            }
            _ => words.push(arg),
        }
    }
    const COPY: usize = 16 << 20; // beyond the caches
    let mut bench = Bench { cpu: Cpu::new(options), words, from: vec![1.0; COPY], to: vec![0.0; COPY] };
    println!("{} on {} threads", bench.cpu.level().name(), bench.cpu.threads().count());
    for hidden in [768, 256] {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            activations(&mut bench, dtype, hidden);
        }
    }
    optimizers(&mut bench, 24_000_000);
}
