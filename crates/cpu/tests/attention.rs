//! Attention against the plain loops of its contract, at every level of this machine, and what must not change a bit.

use cloze_cpu::{Cpu, CpuOptions, Level};
use cloze_tensor::conformance::bound;
use cloze_tensor::ops::attention::{Attention, AttentionOp, Visibility};
use cloze_tensor::plain::Plain;
use cloze_tensor::random::{Key, Stream};
use cloze_tensor::{Dropout, Dtype, Packed, Sequences, Tensor};

#[derive(Clone, Debug)]
struct Case {
    lengths: Vec<usize>,
    heads: usize,
    head_dim: usize,
    visibility: Visibility,
    rotary: Option<f32>,
    dropout: f32,
    scale: f32,
    /// R of a bias by distance.
    reach: Option<usize>,
}

impl Case {
    fn new(lengths: &[usize], heads: usize, head_dim: usize) -> Self {
        let scale = 1.0 / (head_dim as f32).sqrt();
        Self { lengths: lengths.to_vec(), heads, head_dim, visibility: Visibility::All, rotary: None, dropout: 0.0, scale, reach: None }
    }

    fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn op(&self) -> Attention {
        let key = Key::new(5, Stream::Dropout, 3, 4);
        Attention {
            heads: self.heads,
            visibility: self.visibility,
            rotary: self.rotary,
            scale: self.scale,
            dropout: (self.dropout > 0.0).then_some(Dropout { probability: self.dropout, key }),
        }
    }

    /// qkv and dy.
    fn inputs(&self, dtype: Dtype) -> (Vec<f32>, Vec<f32>) {
        let hidden = self.heads * self.head_dim;
        (values(dtype, 0, self.tokens() * 3 * hidden), values(dtype, 1, self.tokens() * hidden))
    }
}

fn values(dtype: Dtype, place: u32, len: usize) -> Vec<f32> {
    let key = Key::new(3, Stream::Sampling, 0, place);
    let round = |v: f32| if dtype == Dtype::Bf16 { half::bf16::from_f32(v).to_f32() } else { v };
    (0..len as u64).map(|i| round(0.8 * key.normal(i))).collect()
}

fn cpu(level: Level, threads: usize) -> Cpu {
    Cpu::new(CpuOptions { level: Some(level), threads: Some(threads) })
}

/// y, lse, dqkv, the gradient of the bias.
fn run<B: AttentionOp>(backend: &B, case: &Case, dtype: Dtype, qkv: &[f32], dy: &[f32]) -> [Vec<f32>; 4] {
    let (tokens, hidden, op) = (case.tokens(), case.heads * case.head_dim, case.op());
    let layout = Packed::new(backend, Sequences::from_lengths(case.lengths.iter().copied()));
    let qkv = Tensor::from_host(backend, dtype, tokens, 3 * hidden, qkv);
    let dy = Tensor::from_host(backend, dtype, tokens, hidden, dy);
    let rows = case.reach.map_or(0, |reach| 2 * reach + 1);
    let table = Tensor::from_host(backend, Dtype::F32, rows, case.heads, &values(Dtype::F32, 2, rows * case.heads));
    let mut dbias = Tensor::new(backend, Dtype::F32, rows, case.heads);
    let bias = || case.reach.map(|_| table.view());
    let mut y = Tensor::new(backend, dtype, tokens, hidden);
    let mut lse = Tensor::new(backend, Dtype::F32, tokens, case.heads);
    let mut dqkv = Tensor::new(backend, dtype, tokens, 3 * hidden);
    backend.attention(&op, &layout, qkv.view(), bias(), y.view_mut(), Some(lse.view_mut()));
    let mut again = Tensor::new(backend, dtype, tokens, hidden);
    backend.attention(&op, &layout, qkv.view(), bias(), again.view_mut(), None);
    assert_eq!(bits(&y.to_host(backend)), bits(&again.to_host(backend)), "{case:?}: inference and training differ");
    let biased = bias().map(|b| (b, dbias.view_mut()));
    backend.attention_backward(&op, &layout, qkv.view(), biased, y.view(), lse.view(), dy.view(), dqkv.view_mut());
    [y, lse, dqkv, dbias].map(|t| t.to_host(backend))
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

fn agree(case: &Case, dtype: Dtype, bound: f64) {
    let (qkv, dy) = case.inputs(dtype);
    let reference = run(&Plain, case, dtype, &qkv, &dy);
    for level in Level::available() {
        let ours = run(&cpu(level, 2), case, dtype, &qkv, &dy);
        for (name, (ours, reference)) in ["y", "lse", "dqkv", "dbias"].into_iter().zip(ours.iter().zip(&reference)) {
            let largest = reference.iter().fold(0.0f64, |a, &b| a.max(f64::from(b.abs())));
            for (i, (a, b)) in ours.iter().zip(reference).enumerate() {
                let error = f64::from((a - b).abs()) / (largest + 1e-6);
                assert!(error <= bound, "{case:?} {dtype:?} {}: {name}[{i}] is {a}, the reference {b} ({error:.1e})", level.name());
            }
        }
    }
}

#[test]
fn agrees_with_the_plain_loops() {
    let mut cases = vec![Case::new(&[], 2, 16), Case::new(&[0, 1, 0], 1, 64), Case::new(&[129, 16, 31], 2, 64)];
    for head_dim in [1, 2, 5, 8, 16, 17, 24, 32, 33, 40, 48, 64, 80, 96, 100, 128, 192, 256] {
        cases.push(Case::new(&[1, 7, 0, 33, 50], 2, head_dim));
    }
    for visibility in [Visibility::Causal, Visibility::Window(0), Visibility::Window(1), Visibility::Window(20)] {
        cases.push(Case { visibility, ..Case::new(&[3, 130, 1, 64, 17], 2, 32) });
    }
    for (rotary, head_dim) in [(10_000.0, 64), (160_000.0, 10), (100.0, 34), (500.0, 2)] {
        cases.push(Case { rotary: Some(rotary), ..Case::new(&[21, 1, 70], 2, head_dim) });
    }
    cases.push(Case { dropout: 0.1, ..Case::new(&[9, 60, 2, 129], 3, 32) });
    cases.push(Case { dropout: 0.5, visibility: Visibility::Window(9), rotary: Some(1e4), ..Case::new(&[9, 60, 2, 129], 3, 20) });
    cases.push(Case { scale: -0.3, ..Case::new(&[40, 5], 2, 24) });
    cases.push(Case { scale: 0.0, visibility: Visibility::Causal, ..Case::new(&[40, 5], 2, 24) });
    for (reach, visibility) in [(1, Visibility::All), (9, Visibility::All), (200, Visibility::Causal), (30, Visibility::Window(20))] {
        cases.push(Case { reach: Some(reach), visibility, ..Case::new(&[3, 130, 1, 64, 17, 0, 33], 2, 32) });
    }
    cases.push(Case { reach: Some(12), dropout: 0.3, rotary: Some(1e4), ..Case::new(&[9, 60, 2, 129], 3, 20) });
    for case in &cases {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            agree(case, dtype, bound(dtype));
        }
    }
}

#[test]
fn long_sequences_and_windows() {
    let long = |visibility, dropout| Case { visibility, dropout, ..Case::new(&[700, 530], 1, 32) };
    for case in [
        long(Visibility::All, 0.0),
        long(Visibility::All, 0.2),
        long(Visibility::Causal, 0.1),
        long(Visibility::Window(64), 0.1),
        long(Visibility::Window(300), 0.0),
        Case::new(&[1601], 1, 8), // more than one task
        Case { reach: Some(128), ..Case::new(&[1601, 300], 1, 8) },
        Case { reach: Some(1000), ..long(Visibility::Window(64), 0.1) },
        Case { reach: Some(700), ..long(Visibility::Causal, 0.0) },
    ] {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            agree(&case, dtype, bound(dtype));
        }
    }
}

/// Scores of ±10^4 overflow exp in f32, and a row's weight sits on one key.
#[test]
fn large_scores_do_not_overflow() {
    let case = Case { scale: 2000.0, ..Case::new(&[60, 600], 1, 16) };
    let (qkv, dy) = case.inputs(Dtype::F32);
    let reference = run(&Plain, &case, Dtype::F32, &qkv, &dy);
    assert!(reference[1].iter().any(|l| l.abs() > 1e4));
    for level in Level::available() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let ours = run(&cpu(level, 1), &case, dtype, &qkv, &dy);
            assert!(ours.iter().flatten().all(|v| v.is_finite()), "{} {dtype:?}", level.name());
            if dtype == Dtype::F32 {
                let error = ours[0].iter().zip(&reference[0]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(error < 0.02, "{}: {error}", level.name());
            }
        }
    }
}

#[test]
fn nan_is_not_hidden() {
    let case = Case::new(&[5, 40], 1, 16);
    let (mut qkv, dy) = case.inputs(Dtype::F32);
    qkv[20 * 48 + 16 + 3] = f32::NAN; // a key of the second sequence
    for level in Level::available() {
        let [y, lse, dqkv, _] = run(&cpu(level, 1), &case, Dtype::F32, &qkv, &dy);
        assert!(y[..5 * 16].iter().chain(&dqkv[..5 * 48]).all(|v| v.is_finite()), "{}: NaN spread to another sequence", level.name());
        assert!(y[5 * 16..].iter().chain(&lse[5..]).all(|v| v.is_nan()), "{}: a NaN key gave numbers", level.name());
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let lengths = [200, 3, 0, 77, 900, 31, 16];
    for (visibility, reach) in [(Visibility::All, None), (Visibility::Window(40), None), (Visibility::All, Some(128))] {
        let case = Case { visibility, reach, dropout: 0.1, rotary: Some(1e4), ..Case::new(&lengths, 2, 32) };
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let (qkv, dy) = case.inputs(dtype);
            for level in Level::available() {
                let one = run(&cpu(level, 1), &case, dtype, &qkv, &dy);
                for threads in [2, 3] {
                    let more = run(&cpu(level, threads), &case, dtype, &qkv, &dy);
                    for (a, b) in one.iter().zip(&more) {
                        assert_eq!(bits(a), bits(b), "{} {dtype:?}: {threads} threads", level.name());
                    }
                }
            }
        }
    }
}

#[test]
fn a_sequence_alone_has_the_bits_of_a_batch() {
    let rotary = Case { rotary: Some(1e4), ..Case::new(&[35, 128, 1, 560, 18], 2, 64) };
    let biased = Case { reach: Some(128), rotary: None, ..rotary.clone() };
    for (case, dtype) in [(&rotary, Dtype::F32), (&rotary, Dtype::Bf16), (&biased, Dtype::F32), (&biased, Dtype::Bf16)] {
        let hidden = case.heads * case.head_dim;
        let (qkv, dy) = case.inputs(dtype);
        for level in Level::available() {
            let cpu = cpu(level, 2);
            let together = run(&cpu, case, dtype, &qkv, &dy);
            let mut start = 0;
            for &length in &case.lengths {
                let end = start + length;
                let one = Case { lengths: vec![length], ..case.clone() };
                let alone = run(&cpu, &one, dtype, &qkv[start * 3 * hidden..end * 3 * hidden], &dy[start * hidden..end * hidden]);
                for (alone, together, width) in
                    [(&alone[0], &together[0], hidden), (&alone[1], &together[1], case.heads), (&alone[2], &together[2], 3 * hidden)]
                {
                    assert_eq!(bits(alone), bits(&together[start * width..end * width]), "{} {dtype:?} {length}", level.name());
                }
                start = end;
            }
        }
    }
}
