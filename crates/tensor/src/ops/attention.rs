//! Multi-head self-attention over packed sequences (Vaswani et al. 2017, section 3.2).
//!
//! For each sequence and head: p = softmax(scale · q·kᵀ + b) over the visible keys, y = dropout(p)·v. The bias b of a score, where a
//! model has one, is a number for each head and each distance of the key from the query (Raffel et al. 2020, section 2.1).
//! Backward: dv = dropout(p)ᵀ·dy, dp = factors ⊙ (dy·vᵀ), ds = p ⊙ (dp − Σ dp ⊙ p), dq = scale · ds·k, dk = scale · dsᵀ·q; the
//! gradient of a distance's bias is the sum of ds over all scores at that distance.
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

/// The row of a table of `rows` = 2R + 1 distances that key `j` has for query `i`: that of j − i, cut at ±R.
pub fn distance_row(rows: usize, i: usize, j: usize) -> usize {
    let reach = rows / 2;
    if j < i { reach - (i - j).min(reach) } else { reach + (j - i).min(reach) }
}

/// The contract of [`Attention`].
pub trait AttentionOp: Storage {
    /// qkv [T, 3H] (q, k, v side by side, heads side by side in each) → y [T, H]. `bias` (f32 [2R + 1, N], whatever the type of qkv) is
    /// added to the scores: row R + d for a key d places after its query, d cut at ±R; see [`distance_row`]. `lse` (f32 [T, N])
    /// receives ln Σ_j exp(scale · q·k_j + b_j) when given. A sequence of no tokens is nothing.
    fn attention(
        &self,
        op: &Attention,
        layout: &Packed<Self>,
        qkv: View<Self>,
        bias: Option<View<Self>>,
        y: ViewMut<Self>,
        lse: Option<ViewMut<Self>>,
    );

    /// dqkv [T, 3H] is overwritten, and so is the gradient of the bias (f32 [2R + 1, N]), which comes with the bias.
    fn attention_backward(
        &self,
        op: &Attention,
        layout: &Packed<Self>,
        qkv: View<Self>,
        bias: Option<(View<Self>, ViewMut<Self>)>,
        y: View<Self>,
        lse: View<Self>,
        dy: View<Self>,
        dqkv: ViewMut<Self>,
    );
}

impl<'a, B: Backend> Tape<'a, B> {
    /// Self-attention of fused qkv, with a bias by distance where one is given. // [T, 3H], f32 [2R + 1, N] → [T, H]
    pub fn attention(&mut self, qkv: &Var<B>, bias: Option<&Var<B>>, layout: &Packed<B>, op: Attention) -> Var<B> {
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
        if let Some(bias) = bias {
            let (rows, cols, dtype) = (bias.rows(), bias.cols(), bias.dtype());
            let fits = rows % 2 == 1 && cols == op.heads && dtype == Dtype::F32;
            assert!(fits, "attention: the bias is {dtype:?} [{rows}, {cols}], not f32 [2 R + 1, {} heads]", op.heads);
        }
        let off = self.see_attention(op, qkv, bias);
        let mut y = self.tensor(rows, hidden);
        let mut lse = self.is_recording().then(|| Tensor::new(self.backend(), Dtype::F32, rows, op.heads));
        let table = bias.map(|b| b.view());
        self.backend().attention(&op, layout, qkv.view(), table, y.view_mut(), lse.as_mut().map(|l| l.view_mut()));
        let d = hidden / op.heads;
        for (t, n) in (0..rows).flat_map(|t| off.iter().map(move |n| (t, n))) {
            self.backend().clear(y.view_mut().buffer, t * hidden + n * d..t * hidden + (n + 1) * d);
        }
        let y = self.var(y);
        let (qkv, bias, layout, out) = (qkv.clone(), bias.cloned(), layout.clone(), y.clone());
        self.record(move |r| {
            let Some(dy) = r.take(out.id()) else { return };
            let mut dqkv = Tensor::new(r.setting.backend, qkv.dtype(), qkv.rows(), qkv.cols());
            let lse = lse.expect("recorded");
            let mut dbias = bias.as_ref().map(|b| Tensor::new(r.setting.backend, Dtype::F32, b.rows(), b.cols()));
            let biased = bias.as_ref().map(|b| b.view()).zip(dbias.as_mut().map(|d| d.view_mut()));
            r.setting.backend.attention_backward(&op, &layout, qkv.view(), biased, out.view(), lse.view(), dy.view(), dqkv.view_mut());
            r.add(&qkv, dqkv);
            if let Some((bias, dbias)) = bias.as_ref().zip(dbias) {
                r.add(bias, dbias);
            }
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

/// The bias of key `j` for query `i` in head `n`; 0 without a table.
fn biased(bias: &Option<View<Plain>>, i: usize, j: usize, n: usize) -> f64 {
    bias.as_ref().map_or(0.0, |b| b.row(distance_row(b.rows, i, j))[n])
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

impl AttentionOp for Plain {
    fn attention(
        &self,
        op: &Attention,
        layout: &Packed<Self>,
        qkv: View<Self>,
        bias: Option<View<Self>>,
        mut y: ViewMut<Self>,
        mut lse: Option<ViewMut<Self>>,
    ) {
        let d = y.cols / op.heads;
        for sequence in layout.sequences.ranges() {
            let (first, len) = (sequence.start, sequence.len());
            for n in 0..op.heads {
                for i in 0..len {
                    let keys = op.visibility.keys(i, len);
                    let q = part(op, &qkv, first + i, i, 0, n);
                    let score = |j: usize| f64::from(op.scale) * dot(&q, &part(op, &qkv, first + j, j, 1, n)) + biased(&bias, i, j, n);
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
        bias: Option<(View<Self>, ViewMut<Self>)>,
        y: View<Self>,
        lse: View<Self>,
        dy: View<Self>,
        mut dqkv: ViewMut<Self>,
    ) {
        let (hidden, d) = (y.cols, y.cols / op.heads);
        dqkv.buffer[..dqkv.rows * dqkv.cols].fill(0.0);
        let (bias, mut dbias) = bias.unzip();
        if let Some(dbias) = &mut dbias {
            dbias.buffer[..dbias.rows * dbias.cols].fill(0.0);
        }
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
                        let p = (f64::from(op.scale) * dot(&q, &k) + biased(&bias, i, j, n) - lse.row(t)[n]).exp();
                        let kept = op.dropout.map_or(1.0, |x| f64::from(x.factor(op.draw(t, n, j))));
                        let ds = p * (kept * dot(dout, &v) - delta);
                        if let Some(dbias) = &mut dbias {
                            dbias.row(distance_row(dbias.rows, i, j))[n] += ds;
                        }
                        let ds = ds * f64::from(op.scale);
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

/// Lengths × visibility × rotary × dropout × bias × head dimensions.
pub fn cases() -> Vec<AttentionCase> {
    let base = AttentionCase {
        lengths: vec![1, 7, 0, 33, 12],
        heads: 2,
        head_dim: 16,
        visibility: Visibility::All,
        rotary: None,
        dropout: 0.0,
        reach: None,
    };
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
        AttentionCase { dropout: 0.1, rotary: Some(100.0), visibility: Visibility::Window(7), lengths: vec![40, 9], ..base.clone() },
        AttentionCase { reach: Some(40), ..base.clone() },
        AttentionCase { reach: Some(1), ..base.clone() },
        AttentionCase { reach: Some(5), lengths: vec![], ..base.clone() },
        AttentionCase { reach: Some(20), lengths: vec![130, 2, 67], heads: 3, head_dim: 32, ..base.clone() },
        AttentionCase { reach: Some(11), visibility: Visibility::Causal, head_dim: 10, ..base.clone() },
        AttentionCase { reach: Some(30), visibility: Visibility::Window(16), lengths: vec![90, 5], ..base.clone() },
        AttentionCase { reach: Some(3), dropout: 0.2, rotary: Some(100.0), lengths: vec![40, 9, 1], ..base },
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
    /// R of a bias by distance.
    reach: Option<usize>,
}

impl Case for AttentionCase {
    /// Kinds of distance, and what each adds.
    fn params(&self) -> Vec<(usize, usize)> {
        self.reach.map(|_| (7, self.heads)).into_iter().collect()
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
        let bias = self.reach.map(|reach| {
            let kinds = tape.backend().indices(&(0..2 * reach as u32 + 1).map(|d| d * d % 7).collect::<Vec<_>>());
            tape.table(&kinds, 2 * reach + 1, i.params[0])
        });
        vec![tape.attention(&i.vars[0], bias.as_ref(), &layout, op)]
    }
}
