//! Attention against the plain loops of its contract, on shapes that cross tiles; what must not change a bit.

use cloze_cuda::Cuda;
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
    let biased = bias().map(|b| (b, dbias.view_mut()));
    backend.attention_backward(&op, &layout, qkv.view(), biased, y.view(), lse.view(), dy.view(), dqkv.view_mut());
    [y, lse, dqkv, dbias].map(|t| t.to_host(backend))
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

pub(crate) fn agrees_with_the_plain_loops(device: &Cuda) {
    let mut cases = vec![Case::new(&[], 2, 16), Case::new(&[0, 1, 0], 1, 64)];
    for head_dim in [32, 64, 128] {
        cases.push(Case::new(&[1, 65, 0, 33, 64, 129], 1, head_dim));
    }
    for head_dim in [8, 24, 33, 80, 136] {
        cases.push(Case::new(&[9, 70], 2, head_dim)); // tiles that are not full, and the plain kernel
    }
    for visibility in [Visibility::Causal, Visibility::Window(0), Visibility::Window(20), Visibility::Window(100)] {
        cases.push(Case { visibility, ..Case::new(&[3, 150, 1, 64, 17], 1, 32) });
    }
    cases.push(Case { rotary: Some(10_000.0), ..Case::new(&[21, 1, 70], 2, 64) });
    cases.push(Case { dropout: 0.1, ..Case::new(&[9, 60, 2, 130], 2, 32) });
    let window = Visibility::Window(9);
    cases.push(Case { dropout: 0.5, visibility: window, rotary: Some(1e4), ..Case::new(&[2, 129], 1, 16) });
    cases.push(Case { dropout: 0.3, visibility: Visibility::Causal, ..Case::new(&[9, 100], 3, 48) });
    cases.push(Case { scale: -0.3, ..Case::new(&[40, 5], 2, 24) });
    cases.push(Case { scale: 0.0, visibility: Visibility::Causal, ..Case::new(&[40, 5], 2, 24) });
    for (reach, visibility) in [(1, Visibility::All), (9, Visibility::All), (200, Visibility::Causal), (30, Visibility::Window(20))] {
        cases.push(Case { reach: Some(reach), visibility, ..Case::new(&[3, 150, 1, 64, 17], 2, 32) });
    }
    cases.push(Case { reach: Some(12), dropout: 0.3, ..Case::new(&[9, 129], 3, 20) });
    for case in &cases {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let (qkv, dy) = case.inputs(dtype);
            let (ours, reference) = (run(device, case, dtype, &qkv, &dy), run(&Plain, case, dtype, &qkv, &dy));
            for (name, (ours, reference)) in ["y", "lse", "dqkv", "dbias"].into_iter().zip(ours.iter().zip(&reference)) {
                let largest = reference.iter().fold(0.0f64, |a, &b| a.max(f64::from(b.abs())));
                for (i, (a, b)) in ours.iter().zip(reference).enumerate() {
                    let error = f64::from((a - b).abs()) / (largest + 1e-6);
                    assert!(error <= bound(dtype), "{case:?} {dtype:?}: {name}[{i}] is {a}, the reference {b} ({error:.1e})");
                }
            }
        }
    }
}

/// Scores of ±10^4 overflow exp in f32, and a row's weight sits on one key.
pub(crate) fn large_scores_do_not_overflow(device: &Cuda) {
    let case = Case { scale: 2000.0, ..Case::new(&[60, 150], 1, 16) };
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let (qkv, dy) = case.inputs(dtype);
        let [y, lse, dqkv, _] = run(device, &case, dtype, &qkv, &dy);
        assert!(lse.iter().any(|l| l.abs() > 1e4));
        assert!([&y, &lse, &dqkv].into_iter().flatten().all(|v| v.is_finite()), "{dtype:?}");
    }
}

pub(crate) fn a_sequence_alone_has_the_bits_of_a_batch(device: &Cuda) {
    let rotary = Case { rotary: Some(1e4), ..Case::new(&[35, 128, 1, 70], 2, 32) };
    let biased = Case { reach: Some(50), rotary: None, ..rotary.clone() };
    for (case, dtype) in [(&rotary, Dtype::F32), (&rotary, Dtype::Bf16), (&biased, Dtype::F32), (&biased, Dtype::Bf16)] {
        let hidden = case.heads * case.head_dim;
        let (qkv, dy) = case.inputs(dtype);
        let together = run(device, case, dtype, &qkv, &dy);
        let mut start = 0;
        for &length in &case.lengths {
            let end = start + length;
            let one = Case { lengths: vec![length], ..case.clone() };
            let alone = run(device, &one, dtype, &qkv[start * 3 * hidden..end * 3 * hidden], &dy[start * hidden..end * hidden]);
            for (alone, together, width) in
                [(&alone[0], &together[0], hidden), (&alone[1], &together[1], case.heads), (&alone[2], &together[2], 3 * hidden)]
            {
                assert_eq!(bits(alone), bits(&together[start * width..end * width]), "{dtype:?} {length}");
            }
            start = end;
        }
    }
}
