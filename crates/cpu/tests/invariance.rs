//! One thread, two and five: the same bits, through every op, forward and backward, and the optimizers.

use cloze_cpu::{Cpu, CpuOptions, Level};
use cloze_tensor::ops::activation::Activation;
use cloze_tensor::ops::attention::{Attention, Visibility};
use cloze_tensor::ops::cross_entropy::CrossEntropy;
use cloze_tensor::ops::embedding::Embedding;
use cloze_tensor::ops::linear::Linear;
use cloze_tensor::ops::norm::{Norm, NormKind};
use cloze_tensor::ops::optimizer::{Adam, Group, Muon, OptimizerOp, Scale};
use cloze_tensor::ops::pool::Pool;
use cloze_tensor::random::{Key, Stream};
use cloze_tensor::{Dtype, Packed, Param, Sequences, Storage, Tape, Tensor, Weights};

const HIDDEN: usize = 96;
const VOCABULARY: usize = 500;
const LENGTHS: [usize; 6] = [301, 1, 0, 64, 257, 130];

/// Handles of all parameters, and how many elements they have.
struct Layout {
    params: Vec<Param>,
    len: usize,
}

fn layout() -> Layout {
    let shapes = [
        (VOCABULARY, HIDDEN), // words
        (512, HIDDEN),        // positions
        (2, HIDDEN),          // segments
        (1, HIDDEN),          // gain
        (1, HIDDEN),          // bias
        (3 * HIDDEN, HIDDEN), // qkv
        (1, 3 * HIDDEN),      // its bias
        (4 * HIDDEN, HIDDEN), // gate and value
        (HIDDEN, 2 * HIDDEN), // output
        (1, VOCABULARY),      // bias of the vocabulary
        (8, 3),               // what kinds of distance add
    ];
    let mut len = 0;
    let params = shapes.map(|(rows, cols)| {
        len += rows * cols;
        Param { offset: len - rows * cols, rows, cols }
    });
    Layout { params: params.into(), len }
}

fn draws(place: u32, len: usize) -> Vec<f32> {
    let key = Key::new(4, Stream::Sampling, 0, place);
    (0..len as u64).map(|i| 0.2 * key.normal(i)).collect()
}

/// One training step; everything that it computes.
fn step(cpu: &Cpu, dtype: Dtype) -> Vec<(&'static str, Vec<f32>)> {
    let Layout { params, len } = layout();
    let mut weights = Weights::from_host(cpu, &draws(0, len));
    let mut gradients = cpu.zeros(Dtype::F32, len);
    let mut results = Vec::new();
    {
        let mut tape = Tape::training(cpu, &weights, dtype, &mut gradients, Some((1, 2)));
        let packed = Packed::new(cpu, Sequences::from_lengths(LENGTHS));
        let tokens = packed.sequences.tokens();
        let key = Key::new(4, Stream::Sampling, 1, 0);
        // Cubes of draws: a few ids are frequent, many are rare, as words are.
        let ids: Vec<u32> = (0..tokens as u64).map(|t| (VOCABULARY as f32 * key.uniform(t).powi(3)) as u32).collect();
        let segments: Vec<u32> = (0..tokens as u64).map(|t| key.below(t, 2)).collect();
        let chosen: Vec<u32> = (0..tokens as u32).filter(|t| t % 3 == 1).collect();
        let labels: Vec<u32> = chosen.iter().map(|&t| ids[t as usize]).collect();

        let op = Embedding { word: params[0], position: Some(params[1]), position_offset: 2, segment: Some(params[2]) };
        let x = tape.embedding(&cpu.indices(&ids), Some(&cpu.indices(&segments)), &packed, op);
        let dropout = tape.dropout_at(0.1);
        let x = tape.dropout(&x, dropout);
        let norm = |dropout| Norm { kind: NormKind::LayerNorm, gain: params[3], bias: Some(params[4]), eps: 1e-5, dropout };
        let x = tape.norm(&x, norm(None));
        let qkv = tape.linear(&x, Linear { weight: params[5], bias: Some(params[6]), activation: None });
        let dropout = tape.dropout_at(0.1);
        let op = Attention { heads: 3, visibility: Visibility::All, rotary: Some(1e4), scale: 0.2, dropout };
        let y = tape.attention(&qkv, None, &packed, op);
        let kinds: Vec<u32> = (0..101).map(|d| d * d % 8).collect();
        let bias = tape.table(&cpu.indices(&kinds), kinds.len(), params[10]);
        let biased = tape.attention(&qkv, Some(&bias), &packed, Attention { rotary: None, ..op });
        let y = tape.add(&y, &biased);
        let dropout = tape.dropout_at(0.1);
        let (y, sum) = tape.norm_residual_sum(&y, &x, norm(dropout));
        let y = tape.linear(&y, Linear { weight: params[7], bias: None, activation: None });
        let y = tape.gated(&y, Activation::Gelu);
        let y = tape.linear(&y, Linear { weight: params[8], bias: None, activation: Some(Activation::Silu) });
        let y = tape.add(&y, &sum);
        let pooled = [Pool::First, Pool::Mean, Pool::Max].map(|op| tape.pool(&y, &packed, op));
        let rows = tape.gather(&y, &cpu.indices(&chosen), chosen.len());
        let op = CrossEntropy { weight: params[0], bias: Some(params[9]), label_smoothing: 0.1 };
        let losses = tape.cross_entropy(&rows, &cpu.indices(&labels), 1.0 / chosen.len() as f32, op);
        results.push(("hidden states", y.to_host(cpu)));
        results.push(("losses", losses.to_host(cpu)));
        for (i, p) in pooled.iter().enumerate() {
            results.push(("pooled", p.to_host(cpu)));
            let seed = Tensor::from_host(cpu, dtype, p.rows(), p.cols(), &draws(9 + i as u32, p.rows() * p.cols()));
            tape.seed(p, seed);
        }
        tape.backward();
    }
    results.push(("gradients", cpu.read(&gradients, 0..len)));
    let square = cpu.sum_of_squares(&gradients, 0..len);
    assert!(square.is_finite() && square > 0.0);
    results.push(("sum of squares", vec![square as f32, (square - f64::from(square as f32)) as f32]));

    let (mut first, mut second) = (cpu.zeros(Dtype::F32, len), cpu.zeros(Dtype::F32, len));
    let groups: Vec<Group> = params.iter().map(|p| Group { range: p.range(), weight_decay: 0.1, lr_scale: 1.0 }).collect();
    let adam = Adam { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, step: 1, gradient_scale: Scale::Known(0.7) };
    cpu.adamw(&adam, &groups, weights.flat_mut(), &gradients, &mut first, &mut second);
    cpu.lamb(&Adam { step: 2, ..adam }, &groups, weights.flat_mut(), &gradients, &mut first, &mut second);
    let muon = Muon { lr: 0.1, momentum: 0.9, weight_decay: 0.1, gradient_scale: Scale::Known(1.0), products: Dtype::Bf16 };
    cpu.muon(&muon, &params[5..9], weights.flat_mut(), &gradients, &mut first);
    cpu.moving_average(0.9, &gradients, weights.flat_mut(), None);
    for (name, buffer) in [("weights", weights.flat()), ("first moment", &first), ("second moment", &second)] {
        results.push((name, cpu.read(buffer, 0..len)));
    }
    results
}

#[test]
fn results_do_not_depend_on_the_threads() {
    for level in [Level::Scalar, Level::detected()] {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let run = |threads| step(&Cpu::new(CpuOptions { threads: Some(threads), level: Some(level) }), dtype);
            let one = run(1);
            for (name, values) in &one {
                assert!(values.iter().all(|v| v.is_finite()), "{name} are not all numbers at {}", level.name());
            }
            for threads in [2, 5] {
                for ((name, one), (_, many)) in one.iter().zip(run(threads)) {
                    let differs = one.iter().zip(&many).position(|(a, b)| a.to_bits() != b.to_bits());
                    assert_eq!(differs, None, "{name} with {threads} threads at {} in {dtype:?}", level.name());
                }
            }
        }
    }
}

#[test]
fn a_second_step_needs_no_new_memory() {
    let cpu = Cpu::default();
    step(&cpu, Dtype::F32);
    let held = cpu.memory_stats().held;
    step(&cpu, Dtype::F32);
    assert_eq!((cpu.memory_stats().held, cpu.memory_stats().current), (held, 0));
}
