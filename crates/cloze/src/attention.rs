//! A look inside attention: the probabilities of every layer and head, and one head's way to them in numbers.
//!
//! The kernels never form the probabilities (see [`cloze_tensor::ops::attention`]); here they are computed from the very q and k that the
//! model made, in f64, by the formula: p = softmax(scale · q·kᵀ + bias) over the visible keys. [`ablation`] switches heads off, [`page`] shows
//! all of it in a browser.

pub mod ablation;
pub mod page;

use cloze_model::{Input, Model};
use cloze_tensor::ops::attention::{Attention as Op, distance_row};
use cloze_tensor::{Backend, Dtype, Sequences, Tape, Watched, Weights};
use cloze_text::Encoding;
use serde::Serialize;

pub use ablation::{Ablation, AblationError, HeadPlace, Measure};

/// q and k of every layer for one text, as the model computed them.
#[derive(Clone, Debug)]
pub struct Attention {
    /// The tokens. // `[T]`
    pub tokens: Vec<String>,
    layers: Vec<Layer>,
}

/// The attention of a layer and what it got.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    op: Op,
    /// // `[T, 3H]`
    qkv: Vec<f32>,
    /// The bias by distance, where the model has one. // [2R + 1, N]
    bias: Option<Vec<f32>>,
}

/// One head's attention, step by step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeadSteps {
    /// Its layer, from 0.
    pub layer: usize,
    /// Its place in the layer, from 0.
    pub head: usize,
    /// What the products are multiplied by: usually 1/√D.
    pub scale: f64,
    /// Queries, turned by their position where the model has rotary positions. // [T, D]
    pub q: Vec<Vec<f64>>,
    /// Keys, likewise. // [T, D]
    pub k: Vec<Vec<f64>>,
    /// q·k for each query (row) and key. // [T, T]
    pub products: Vec<Vec<f64>>,
    /// What the distance of the key from the query adds, from −(T − 1) to T − 1; empty where the model has no such bias. // [2T − 1]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bias: Vec<f64>,
    /// scale · q·k, and the bias. // [T, T]
    pub scores: Vec<Vec<f64>>,
    /// softmax of the scores over the visible keys; each row sums to 1. // [T, T]
    pub weights: Vec<Vec<f64>>,
}

/// Run a text alone and keep what its attentions got.
pub(crate) fn watch<B: Backend>(
    backend: &B,
    model: &Model,
    weights: &Weights<B>,
    dtype: Dtype,
    encoding: &Encoding,
    off: &[(usize, usize)],
) -> Vec<Layer> {
    let input = Input::new(backend, &encoding.ids, &encoding.token_type_ids, Sequences::from_lengths([encoding.len()]));
    let mut tape = Tape::inference(backend, weights, dtype);
    tape.watch_attention();
    tape.switch_off(off);
    model.hidden(&mut tape, &input, false);
    let host = |seen: Watched<B>| Layer { op: seen.op, qkv: seen.qkv.to_host(backend), bias: seen.bias.map(|b| b.to_host(backend)) };
    tape.watched_attention().into_iter().map(host).collect()
}

impl Attention {
    pub(crate) fn new(tokens: Vec<String>, layers: Vec<Layer>) -> Self {
        Self { tokens, layers }
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Heads of a layer; 0 where there is no such layer.
    pub fn heads(&self, layer: usize) -> usize {
        self.layers.get(layer).map_or(0, |l| l.op.heads)
    }

    /// Which keys the queries of a layer see, and what its products are multiplied by; `None` where there is no such layer.
    pub fn rules(&self, layer: usize) -> Option<(cloze_tensor::ops::attention::Visibility, f64)> {
        self.layers.get(layer).map(|l| (l.op.visibility, f64::from(l.op.scale)))
    }

    /// One head, step by step; `None` where there is no such head.
    pub fn head(&self, layer: usize, head: usize) -> Option<HeadSteps> {
        let Layer { op, qkv, bias } = self.layers.get(layer)?;
        if head >= op.heads {
            return None;
        }
        let tokens = self.tokens.len();
        let width = qkv.len() / tokens.max(1); // 3H
        let d = width / 3 / op.heads;
        let part = |which: usize, t: usize| {
            let at = t * width + which * width / 3 + head * d;
            let mut x: Vec<f64> = qkv[at..at + d].iter().map(|&x| f64::from(x)).collect();
            turn(op, &mut x, t);
            x
        };
        let q: Vec<Vec<f64>> = (0..tokens).map(|t| part(0, t)).collect();
        let k: Vec<Vec<f64>> = (0..tokens).map(|t| part(1, t)).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum();
        let products: Vec<Vec<f64>> = q.iter().map(|q| k.iter().map(|k| dot(q, k)).collect()).collect();
        let scale = f64::from(op.scale);
        let distances = 0..(2 * tokens).saturating_sub(1);
        let bias: Vec<f64> = bias.as_ref().map_or(Vec::new(), |table| {
            let row = |place| distance_row(table.len() / op.heads, tokens - 1, place);
            distances.map(|place| f64::from(table[row(place) * op.heads + head])).collect()
        });
        let added = |i: usize, j: usize| bias.get(tokens - 1 + j - i).copied().unwrap_or(0.0);
        let score = |i: usize| move |(j, x): (usize, &f64)| x * scale + added(i, j);
        let scores: Vec<Vec<f64>> = products.iter().enumerate().map(|(i, row)| row.iter().enumerate().map(score(i)).collect()).collect();
        let weights = scores.iter().enumerate().map(|(i, row)| softmax(row, op.visibility.keys(i, tokens))).collect();
        Some(HeadSteps { layer, head, scale, q, k, products, bias, scores, weights })
    }

    /// The probabilities of every layer and head. // `[layers][N][T][T]`
    pub fn weights(&self) -> Vec<Vec<Vec<Vec<f64>>>> {
        let head = |layer, head| self.head(layer, head).map(|steps| steps.weights);
        (0..self.layers()).map(|l| (0..self.heads(l)).filter_map(|h| head(l, h)).collect()).collect()
    }
}

/// Rotate the pairs (c, c + D/2) by position · θ^(−2c/D) (Su et al. 2021), where the model has rotary positions.
fn turn(op: &Op, x: &mut [f64], position: usize) {
    let Some(theta) = op.rotary else { return };
    let half = x.len() / 2;
    for c in 0..half {
        let angle = position as f64 * f64::from(theta).powf(-2.0 * c as f64 / x.len() as f64);
        let (a, b) = (x[c], x[c + half]);
        x[c] = a * angle.cos() - b * angle.sin();
        x[c + half] = b * angle.cos() + a * angle.sin();
    }
}

/// exp(s − max) / Σ over the visible keys; 0 for the others.
fn softmax(scores: &[f64], visible: std::ops::Range<usize>) -> Vec<f64> {
    let seen = &scores[visible.clone()];
    let max = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = seen.iter().map(|s| (s - max).exp()).sum();
    let weight = |(j, s): (usize, &f64)| if visible.contains(&j) { (s - max).exp() / sum } else { 0.0 };
    scores.iter().enumerate().map(weight).collect()
}

#[cfg(test)]
mod tests {
    use cloze_model::relative::RelativeBias;
    use cloze_model::{Blueprint, Heads};
    use cloze_tensor::ops::attention::Visibility;
    use cloze_tensor::plain::Plain;
    use cloze_tensor::{Packed, Tensor};

    use super::*;

    /// What the ops make of these q and k must follow from the weights that are shown.
    #[test]
    fn the_weights_shown_are_those_that_the_op_uses() {
        let relative = Some(RelativeBias { buckets: 8, max_distance: 5 });
        let biased = Blueprint { relative, ..Blueprint::bert(40, 2, 16, 4, 32) };
        for (family, blueprint) in
            [("bert", Blueprint::bert(40, 2, 16, 4, 32)), ("modernbert", Blueprint::modern(40, 2, 16, 2, 32)), ("mpnet", biased)]
        {
            let rotary = matches!(blueprint.position, cloze_model::blueprint::Position::Rotary { .. });
            let model = Model::new(family, Blueprint { initializer_range: 0.5, ..blueprint }, Heads::default());
            let weights = Weights::from_host(&Plain, &model.table().init(3));
            let ids: Vec<u32> = (5..14).collect();
            let encoding = Encoding { token_type_ids: vec![0; ids.len()], ids, ..Encoding::default() };
            let layers = watch(&Plain, &model, &weights, Dtype::F32, &encoding, &[]);
            let seen = Attention::new(vec![String::new(); encoding.len()], layers.clone());
            assert_eq!((seen.layers(), layers[0].op.rotary.is_some()), (2, rotary));
            for (layer, Layer { op, qkv, bias }) in layers.iter().enumerate() {
                assert_eq!(bias.is_some(), family == "mpnet");
                let (t, h) = (encoding.len(), qkv.len() / encoding.len() / 3);
                let x = Tensor::from_host(&Plain, Dtype::F32, t, 3 * h, qkv);
                let mut y = Tensor::new(&Plain, Dtype::F32, t, h);
                let layout = Packed::new(&Plain, Sequences::from_lengths([t]));
                let table = |b: &Vec<f32>| Tensor::from_host(&Plain, Dtype::F32, b.len() / op.heads, op.heads, b);
                let bias = bias.as_ref().map(table);
                cloze_tensor::ops::attention::AttentionOp::attention(
                    &Plain,
                    op,
                    &layout,
                    x.view(),
                    bias.as_ref().map(|b| b.view()),
                    y.view_mut(),
                    None,
                );
                let y = y.to_host(&Plain);
                for head in 0..seen.heads(layer) {
                    let steps = seen.head(layer, head).unwrap();
                    let d = h / op.heads;
                    for (i, row) in steps.weights.iter().enumerate() {
                        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                        for c in 0..d {
                            let v = |j: usize| f64::from(qkv[j * 3 * h + 2 * h + head * d + c]);
                            let expected: f64 = row.iter().enumerate().map(|(j, p)| p * v(j)).sum();
                            let found = f64::from(y[i * h + head * d + c]);
                            assert!((expected - found).abs() < 1e-5, "layer {layer} head {head}: {expected} {found}");
                        }
                    }
                }
            }
            assert!(seen.head(0, 99).is_none() && seen.head(9, 0).is_none());
        }
    }

    #[test]
    fn keys_that_are_not_visible_get_nothing() {
        assert_eq!(softmax(&[1.0, 1.0, 9.0], Visibility::Causal.keys(1, 3)), [0.5, 0.5, 0.0]);
    }
}
