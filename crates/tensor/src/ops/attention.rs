//! Multi-head self-attention over packed sequences (Vaswani et al. 2017, section 3.2).
//!
//! For each sequence and head: p = softmax(scale · q·kᵀ) over the visible keys, y = dropout(p)·v.
//! Backward: dv = dropout(p)ᵀ·dy, dp = factors ⊙ (dy·vᵀ), ds = p ⊙ (dp − Σ dp ⊙ p), dq = scale · ds·k, dk = scale · dsᵀ·q.
//! Since Σ_j dp·p = Σ_d dy·y, backward needs only y and the log-sum-exp of each row. A kernel walks the keys in tiles
//! with the online softmax (Milakov and Gimelshein 2018; Dao et al. 2022): memory is linear in the length.

use crate::backend::{Backend, Packed, Storage};
use crate::conformance::{Case, Inputs};
use crate::dtype::Dtype;
use crate::plain::Plain;
use crate::random::{Key, Stream};
use crate::sequences::Sequences;
use crate::tape::{Dropout, Tape, Var};
use crate::tensor::{Tensor, View, ViewMut};

/// Which keys a query sees, within its own sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// All of them.
    All,
    /// Those at or before it.
    Causal,
    /// Those at most this many tokens away, on either side.
    Window(usize),
}

impl Visibility {
    /// The keys that query `i` of a sequence of `n` tokens sees.
    pub fn keys(self, i: usize, n: usize) -> std::ops::Range<usize> {
        match self {
            Visibility::All => 0..n,
            Visibility::Causal => 0..i + 1,
            Visibility::Window(w) => i.saturating_sub(w)..(i + w + 1).min(n),
        }
    }
}

/// Multi-head self-attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// N; the head dimension D is H / N.
    pub heads: usize,
    /// Which keys a query sees.
    pub visibility: Visibility,
    /// The base θ of rotary positions (Su et al. 2021): components (d, d + D/2) of q and k at position i of their
    /// sequence are turned by i · θ^(−2d/D). `None`: no rotation.
    pub rotary: Option<f32>,
    /// Multiplies q·k; usually 1/√D.
    pub scale: f32,
    /// Dropout of the probabilities; see [`Attention::draw`] for the index.
    pub dropout: Option<Dropout>,
}

impl Attention {
    /// The dropout index of the probability of key `j` (within the sequence) for packed query row `t` and head `n`.
    /// Keys are the fastest: eight neighbours share one Philox block.
    pub fn draw(&self, t: usize, n: usize, j: usize) -> u64 {
        (((t * self.heads + n) as u64) << 20) + j as u64
    }
}

/// The contract of [`Attention`].
pub trait AttentionOp: Storage {
    /// qkv [T, 3H] (q, k, v side by side, heads side by side in each) → y [T, H]. `lse` (f32 [T, N]) receives
    /// ln Σ_j exp(scale · q·k_j) when given. A sequence of no tokens is nothing.
    fn attention(&self, op: &Attention, layout: &Packed<Self>, qkv: View<Self>, y: ViewMut<Self>, lse: Option<ViewMut<Self>>);

    /// dqkv [T, 3H] is overwritten.
    fn attention_backward(
        &self,
        op: &Attention,
        layout: &Packed<Self>,
        qkv: View<Self>,
        y: View<Self>,
        lse: View<Self>,
        dy: View<Self>,
        dqkv: ViewMut<Self>,
    );
}

impl<'a, B: Backend> Tape<'a, B> {
    /// Self-attention of fused qkv. // [T, 3H] → [T, H]
    pub fn attention(&mut self, qkv: &Var<B>, layout: &Packed<B>, op: Attention) -> Var<B> {
        let (rows, hidden) = (qkv.rows(), qkv.cols() / 3);
        assert!(
            qkv.cols() == 3 * hidden && hidden % op.heads == 0,
            "attention: qkv is [{rows}, {}], not 3 × {} heads × D",
            qkv.cols(),
            op.heads
        );
        assert_eq!(layout.sequences.tokens(), rows, "attention: the layout has {} tokens, qkv {rows}", layout.sequences.tokens());
        assert!(layout.sequences.longest() <= 1 << 20, "attention: a sequence is longer than 2^20 tokens");
        assert!(op.rotary.is_none() || (hidden / op.heads).is_multiple_of(2), "attention: rotary positions need an even head dimension");
        let off = self.see_attention(op, qkv);
        let mut y = self.tensor(rows, hidden);
        let mut lse = self.is_recording().then(|| Tensor::new(self.backend(), Dtype::F32, rows, op.heads));
        self.backend().attention(&op, layout, qkv.view(), y.view_mut(), lse.as_mut().map(|l| l.view_mut()));
        let d = hidden / op.heads;
        for (t, n) in (0..rows).flat_map(|t| off.iter().map(move |n| (t, n))) {
            self.backend().clear(y.view_mut().buffer, t * hidden + n * d..t * hidden + (n + 1) * d);
        }
        let y = self.var(y);
        let (qkv, layout, out) = (qkv.clone(), layout.clone(), y.clone());
        self.record(move |r| {
            let Some(dy) = r.take(out.id()) else { return };
            let mut dqkv = Tensor::new(r.setting.backend, qkv.dtype(), qkv.rows(), qkv.cols());
            let lse = lse.expect("recorded");
            r.setting.backend.attention_backward(&op, &layout, qkv.view(), out.view(), lse.view(), dy.view(), dqkv.view_mut());
            r.add(&qkv, dqkv);
        });
        y
    }
}

/// q, k or v (`which` 0, 1, 2) of one head of row `t`, turned by its position where rotary asks for it.
fn part(op: &Attention, qkv: &View<Plain>, t: usize, position: usize, which: usize, n: usize) -> Vec<f64> {
    let d = qkv.cols / 3 / op.heads;
    let at = which * qkv.cols / 3 + n * d;
    let mut x = qkv.row(t)[at..at + d].to_vec();
    if which < 2 {
        turn(op, &mut x, position as f64);
    }
    x
}

/// Rotate the pairs (c, c + D/2) of `x` by `position` · θ^(−2c/D).
fn turn(op: &Attention, x: &mut [f64], position: f64) {
    let Some(theta) = op.rotary else { return };
    let half = x.len() / 2;
    for c in 0..half {
        let angle = position * f64::from(theta).powf(-2.0 * c as f64 / x.len() as f64);
        let (a, b) = (x[c], x[c + half]);
        x[c] = a * angle.cos() - b * angle.sin();
        x[c + half] = b * angle.cos() + a * angle.sin();
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

impl AttentionOp for Plain {
    fn attention(&self, op: &Attention, layout: &Packed<Self>, qkv: View<Self>, mut y: ViewMut<Self>, mut lse: Option<ViewMut<Self>>) {
        let d = y.cols / op.heads;
        for sequence in layout.sequences.ranges() {
            let (first, len) = (sequence.start, sequence.len());
            for n in 0..op.heads {
                for i in 0..len {
                    let keys = op.visibility.keys(i, len);
                    let q = part(op, &qkv, first + i, i, 0, n);
                    let score = |j: usize| f64::from(op.scale) * dot(&q, &part(op, &qkv, first + j, j, 1, n));
                    let scores: Vec<f64> = keys.clone().map(score).collect();
                    let max = scores.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
                    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                    let mut out = vec![0.0; d];
                    for (s, j) in scores.iter().zip(keys) {
                        let kept = op.dropout.map_or(1.0, |x| f64::from(x.factor(op.draw(first + i, n, j))));
                        let p = kept * (s - max).exp() / sum;
                        for (o, v) in out.iter_mut().zip(part(op, &qkv, first + j, j, 2, n)) {
                            *o += p * v;
                        }
                    }
                    y.row(first + i)[n * d..(n + 1) * d].copy_from_slice(&out);
                    if let Some(lse) = &mut lse {
                        lse.row(first + i)[n] = max + sum.ln();
                    }
                }
            }
        }
    }

    fn attention_backward(
        &self,
        op: &Attention,
        layout: &Packed<Self>,
        qkv: View<Self>,
        y: View<Self>,
        lse: View<Self>,
        dy: View<Self>,
        mut dqkv: ViewMut<Self>,
    ) {
        let (hidden, d) = (y.cols, y.cols / op.heads);
        dqkv.buffer[..dqkv.rows * dqkv.cols].fill(0.0);
        for sequence in layout.sequences.ranges() {
            let (first, len) = (sequence.start, sequence.len());
            for n in 0..op.heads {
                let head = n * d..(n + 1) * d;
                for i in 0..len {
                    let t = first + i;
                    let q = part(op, &qkv, t, i, 0, n);
                    let dout = &dy.row(t)[head.clone()];
                    let delta = dot(dout, &y.row(t)[head.clone()]);
                    for j in op.visibility.keys(i, len) {
                        let u = first + j;
                        let (k, v) = (part(op, &qkv, u, j, 1, n), part(op, &qkv, u, j, 2, n));
                        let p = (f64::from(op.scale) * dot(&q, &k) - lse.row(t)[n]).exp();
                        let kept = op.dropout.map_or(1.0, |x| f64::from(x.factor(op.draw(t, n, j))));
                        let ds = p * (kept * dot(dout, &v) - delta) * f64::from(op.scale);
                        // The gradient of a turned vector is turned back.
                        let mut dq: Vec<f64> = k.iter().map(|x| ds * x).collect();
                        let mut dk: Vec<f64> = q.iter().map(|x| ds * x).collect();
                        turn(op, &mut dq, -(i as f64));
                        turn(op, &mut dk, -(j as f64));
                        for c in 0..d {
                            dqkv.row(t)[n * d + c] += dq[c];
                            dqkv.row(u)[hidden + n * d + c] += dk[c];
                            dqkv.row(u)[2 * hidden + n * d + c] += kept * p * dout[c];
                        }
                    }
                }
            }
        }
    }
}

/// Lengths × visibility × rotary × dropout × head dimensions.
pub fn cases() -> Vec<AttentionCase> {
    let base =
        AttentionCase { lengths: vec![1, 7, 0, 33, 12], heads: 2, head_dim: 16, visibility: Visibility::All, rotary: None, dropout: 0.0 };
    vec![
        base.clone(),
        AttentionCase { lengths: vec![], ..base.clone() },
        AttentionCase { lengths: vec![130], heads: 1, head_dim: 64, ..base.clone() },
        AttentionCase { lengths: vec![70, 65, 3], heads: 3, head_dim: 32, ..base.clone() },
        AttentionCase { head_dim: 6, ..base.clone() },
        AttentionCase { head_dim: 48, heads: 1, ..base.clone() },
        AttentionCase { visibility: Visibility::Causal, ..base.clone() },
        AttentionCase { visibility: Visibility::Window(4), ..base.clone() },
        AttentionCase { lengths: vec![90, 5], visibility: Visibility::Window(16), ..base.clone() },
        AttentionCase { rotary: Some(10_000.0), ..base.clone() },
        AttentionCase { rotary: Some(160_000.0), visibility: Visibility::Causal, head_dim: 10, ..base.clone() },
        AttentionCase { dropout: 0.2, ..base.clone() },
        AttentionCase { dropout: 0.1, rotary: Some(100.0), visibility: Visibility::Window(7), lengths: vec![40, 9], ..base },
    ]
}

/// One case of [`cases`].
#[derive(Clone, Debug)]
pub struct AttentionCase {
    lengths: Vec<usize>,
    heads: usize,
    head_dim: usize,
    visibility: Visibility,
    rotary: Option<f32>,
    dropout: f32,
}

impl Case for AttentionCase {
    fn params(&self) -> Vec<(usize, usize)> {
        vec![]
    }

    fn inputs(&self) -> Vec<(usize, usize)> {
        vec![(self.lengths.iter().sum(), 3 * self.heads * self.head_dim)]
    }

    fn run<'a, B: Backend>(&self, tape: &mut Tape<'a, B>, i: &Inputs<B>) -> Vec<Var<B>> {
        let layout = Packed::new(tape.backend(), Sequences::from_lengths(self.lengths.iter().copied()));
        let dropout = (self.dropout > 0.0).then(|| Dropout { probability: self.dropout, key: Key::new(5, Stream::Dropout, 3, 4) });
        let op = Attention {
            heads: self.heads,
            visibility: self.visibility,
            rotary: self.rotary,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            dropout,
        };
        vec![tape.attention(&i.vars[0], &layout, op)]
    }
}
