//! What results must not depend on: the order of threads and blocks, epilogues, the size of the chunks of logits, the shared memory of a device.
//! On the emulated device alone: a real one does not let itself be asked.

use cloze_cuda::Cuda;
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

use crate::emulated::{Options, with};

const HIDDEN: usize = 64;
const VOCABULARY: usize = 150;
const LENGTHS: [usize; 4] = [70, 1, 0, 30];

fn draws(place: u32, len: usize) -> Vec<f32> {
    let key = Key::new(4, Stream::Sampling, 0, place);
    (0..len as u64).map(|i| 0.2 * key.normal(i)).collect()
}

/// A training step through every op, and every optimizer; everything that it computes.
fn step(cuda: &Cuda, dtype: Dtype) -> Vec<(&'static str, Vec<f32>)> {
    let shapes = [
        (VOCABULARY, HIDDEN), // words
        (80, HIDDEN),         // positions
        (2, HIDDEN),          // segments
        (1, HIDDEN),          // gain
        (1, HIDDEN),          // bias
        (3 * HIDDEN, HIDDEN), // qkv
        (1, 3 * HIDDEN),      // its bias
        (4 * HIDDEN, HIDDEN), // gate and value
        (HIDDEN, 2 * HIDDEN), // output
        (1, HIDDEN),          // its bias
        (1, VOCABULARY),      // bias of the vocabulary
        (8, 2),               // what kinds of distance add
    ];
    let mut len = 0;
    let params = shapes.map(|(rows, cols)| {
        len = (len + rows * cols).next_multiple_of(8);
        Param { offset: len - (rows * cols).next_multiple_of(8), rows, cols }
    });
    let mut weights = Weights::from_host(cuda, &draws(0, len));
    let mut gradients = cuda.zeros(Dtype::F32, len);
    let mut results = Vec::new();
    {
        let mut tape = Tape::training(cuda, &weights, dtype, &mut gradients, Some((1, 2)));
        let packed = Packed::new(cuda, Sequences::from_lengths(LENGTHS));
        let tokens = packed.sequences.tokens();
        let key = Key::new(4, Stream::Sampling, 1, 0);
        // Cubes of draws: a few ids are frequent, many are rare, as words are.
        let ids: Vec<u32> = (0..tokens as u64).map(|t| (VOCABULARY as f32 * key.uniform(t).powi(3)) as u32).collect();
        let segments: Vec<u32> = (0..tokens as u64).map(|t| u32::from(t > 95)).collect();
        let chosen: Vec<u32> = (0..tokens as u32).filter(|t| t % 3 == 1).collect();
        let labels: Vec<u32> = chosen.iter().map(|&t| ids[t as usize]).collect();

        let op = Embedding { word: params[0], position: Some(params[1]), position_offset: 2, segment: Some(params[2]) };
        let x = tape.embedding(&cuda.indices(&ids), Some(&cuda.indices(&segments)), &packed, op);
        let dropout = tape.dropout_at(0.1);
        let x = tape.dropout(&x, dropout);
        let norm = |dropout| Norm { kind: NormKind::LayerNorm, gain: params[3], bias: Some(params[4]), eps: 1e-5, dropout };
        let x = tape.norm(&x, norm(None));
        let qkv = tape.linear(&x, Linear { weight: params[5], bias: Some(params[6]), activation: None });
        let dropout = tape.dropout_at(0.1);
        let op = Attention { heads: 2, visibility: Visibility::All, rotary: Some(1e4), scale: 0.2, dropout };
        let y = tape.attention(&qkv, None, &packed, op);
        let kinds: Vec<u32> = (0..101).map(|d| d * d % 8).collect();
        let bias = tape.table(&cuda.indices(&kinds), kinds.len(), params[11]);
        let biased = tape.attention(&qkv, Some(&bias), &packed, Attention { rotary: None, ..op });
        let y = tape.add(&y, &biased);
        let dropout = tape.dropout_at(0.1);
        let (y, sum) = tape.norm_residual_sum(&y, &x, norm(dropout));
        let y = tape.linear(&y, Linear { weight: params[7], bias: None, activation: None });
        let y = tape.gated(&y, Activation::Gelu);
        let y = tape.linear(&y, Linear { weight: params[8], bias: Some(params[9]), activation: Some(Activation::GeluTanh) });
        let y = tape.add(&y, &sum);
        let pooled = [Pool::First, Pool::Mean, Pool::Max].map(|op| tape.pool(&y, &packed, op));
        let rows = tape.gather(&y, &cuda.indices(&chosen), chosen.len());
        let op = CrossEntropy { weight: params[0], bias: Some(params[10]), label_smoothing: 0.1 };
        let losses = tape.cross_entropy(&rows, &cuda.indices(&labels), 1.0 / chosen.len() as f32, op);
        results.push(("hidden states", y.to_host(cuda)));
        results.push(("losses", losses.to_host(cuda)));
        for (i, p) in pooled.iter().enumerate() {
            results.push(("pooled", p.to_host(cuda)));
            let seed = Tensor::from_host(cuda, dtype, p.rows(), p.cols(), &draws(9 + i as u32, p.rows() * p.cols()));
            tape.seed(p, seed);
        }
        tape.backward();
    }
    results.push(("gradients", cuda.read(&gradients, 0..len)));
    results.push(("sum of squares", vec![cuda.sum_of_squares(&gradients, 0..len) as f32]));

    let (mut first, mut second) = (cuda.zeros(Dtype::F32, len), cuda.zeros(Dtype::F32, len));
    let groups: Vec<Group> = params.iter().map(|p| Group { range: p.range(), weight_decay: 0.1, lr_scale: 1.0 }).collect();
    let adam = Adam { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-3, step: 1, gradient_scale: Scale::Known(0.7) };
    cuda.adamw(&adam, &groups, weights.flat_mut(), &gradients, &mut first, &mut second);
    cuda.lamb(&Adam { step: 2, ..adam }, &groups, weights.flat_mut(), &gradients, &mut first, &mut second);
    let muon = Muon { lr: 0.1, momentum: 0.9, weight_decay: 0.1, gradient_scale: Scale::Known(1.0), products: dtype };
    cuda.muon(&muon, &params[7..9], weights.flat_mut(), &gradients, &mut first);
    cuda.moving_average(0.9, &gradients, weights.flat_mut(), None);
    for (name, buffer) in [("weights", weights.flat()), ("first moment", &first), ("second moment", &second)] {
        results.push((name, cuda.read(buffer, 0..len)));
    }
    results
}

fn close(a: &[f32], b: &[f32], bound: f32) -> bool {
    let largest = b.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= bound * (largest + 1e-6))
}

/// A missing barrier shows where threads run in another order: whoever reads what another thread writes, reads it too early.
#[test]
fn the_order_of_threads_changes_no_bit() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let Some(forward) = with(Options::default()) else { return };
        let Some(reversed) = with(Options { reversed: true, ..Options::default() }) else { return };
        for ((name, a), (_, b)) in step(&forward, dtype).iter().zip(step(&reversed, dtype)) {
            assert!(a.iter().all(|v| v.is_finite()), "{name} are not all numbers in {dtype:?}");
            let differs = a.iter().zip(&b).position(|(a, b)| a.to_bits() != b.to_bits());
            assert_eq!(differs, None, "{name} in {dtype:?}");
        }
    }
}

/// A device whose cuBLASLt lacks an epilogue, or that has too little shared memory for tiles, gives close results by other kernels.
#[test]
fn other_ways_lead_to_the_same() {
    let Some(usual) = with(Options::default()) else { return };
    let Some(other) = with(Options { epilogues: false, shared_limit: 48 << 10, ..Options::default() }) else { return };
    for (dtype, bound) in [(Dtype::F32, 1e-4), (Dtype::Bf16, 5e-2)] {
        // Up to the gradients: an optimizer's first step is a sign.
        for ((name, a), (_, b)) in step(&usual, dtype).iter().zip(step(&other, dtype)).take(6) {
            assert!(close(a, &b, bound), "{name} in {dtype:?}");
        }
    }
}

/// The logits of three rows at a time: the same losses bit for bit, the same gradients up to the order of their sums.
#[test]
fn chunks_of_logits_change_nothing() {
    let Some(whole) = with(Options::default()) else { return };
    let Some(chunks) = with(Options::default()).map(|c| c.with_logits(3 * 152)) else { return };
    let (whole, chunks) = (step(&whole, Dtype::F32), step(&chunks, Dtype::F32));
    assert_eq!(whole[1].0, "losses");
    assert_eq!(whole[1].1, chunks[1].1);
    assert_eq!(whole[5].0, "gradients");
    assert!(close(&whole[5].1, &chunks[5].1, 1e-5));
}

/// The emulation sees what it is for: a value out of place, a write beyond a buffer.
#[test]
fn the_emulation_sees_faults() {
    let Some(cuda) = with(Options::default()) else { return };
    // A sequence that ends beyond the tensor: its last token is written behind it.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        use cloze_tensor::ops::rows::RowsOp;
        let x = Tensor::from_host(&cuda, Dtype::F32, 4, 8, &[1.0; 32]);
        let mut y = Tensor::new(&cuda, Dtype::F32, 2, 8);
        let mut beyond = y.view_mut();
        beyond.rows = 3;
        cuda.gather(x.view(), &cuda.indices(&[0, 1, 2]), beyond);
        cuda.synchronize();
    }));
    assert!(result.is_err(), "a write beyond a buffer was not seen");
    let fresh = Tensor::new(&cuda, Dtype::F32, 1, 4).to_host(&cuda);
    assert!(fresh.iter().all(|v| v.is_nan()), "fresh memory is not NaN: {fresh:?}");
}
