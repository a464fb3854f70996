//! s = residual + dropout(x); y = normalise(s) · gain + bias.
//!
//! LayerNorm (Ba et al. 2016): ŝ = (s − mean) / √(variance + eps), over each row.
//! RmsNorm (Zhang and Sennrich 2019): ŝ = s / √(mean(s²) + eps).
//!
//! Backward, with g = dy ⊙ gain and r = 1/√(…), for LayerNorm
//! ds = r (g − mean(g) − ŝ · mean(g ⊙ ŝ)), for RmsNorm ds = r (g − ŝ · mean(g ⊙ ŝ)); plus what reaches s directly.
//! dresidual = ds, dx = ds ⊙ the dropout factors, dgain += Σ_t dy ⊙ ŝ, dbias += Σ_t dy.

use crate::backend::{Backend, Storage};
use crate::conformance::{Case, Inputs};
use crate::dtype::Dtype;
use crate::plain::{Plain, learns};
use crate::random::{Key, Stream};
use crate::tape::{Dropout, Tape, Var};
use crate::tensor::{Param, Target, Tensor, View, ViewMut, Weights};

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// Mean and variance.
    LayerNorm,
    /// Root mean square only.
    RmsNorm,
}

/// A normalisation with its residual connection.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Which one.
    pub kind: NormKind,
    /// Multiplies. // [1, H]
    pub gain: Param,
    /// Added at the end. // [1, H]
    pub bias: Option<Param>,
    /// Added to the variance.
    pub eps: f32,
    /// Dropout of x before the residual is added; element index t·H + h.
    pub dropout: Option<Dropout>,
}

/// The contract of [`Norm`].
pub trait NormOp: Storage {
    /// x [T, H] (+ residual [T, H]) → y [T, H]. `sum` [T, H] receives s and `stats` (f32 [T, 2]) mean (0 for RmsNorm)
    /// and r = 1/√(…) when given.
    fn norm(
        &self,
        op: &Norm,
        weights: &Weights<Self>,
        x: View<Self>,
        residual: Option<View<Self>>,
        y: ViewMut<Self>,
        sum: Option<ViewMut<Self>>,
        stats: Option<ViewMut<Self>>,
    );

    /// `sum` and `stats` as forward left them. `dy` is the gradient of y (`None`: nothing reached it), `dsum` what reached
    /// s directly (pre-norm residual streams). Without a residual, `dresidual` is `None`.
    fn norm_backward(
        &self,
        op: &Norm,
        weights: &Weights<Self>,
        sum: View<Self>,
        stats: View<Self>,
        dy: Option<View<Self>>,
        dsum: Option<View<Self>>,
        dx: Target<Self>,
        dresidual: Option<Target<Self>>,
        gradients: &mut Self::Buffer,
    );
}

impl<'a, B: Backend> Tape<'a, B> {
    /// y = norm(x). // [T, H] → [T, H]
    pub fn norm(&mut self, x: &Var<B>, op: Norm) -> Var<B> {
        self.norm_parts(x, None, op, false).0
    }

    /// y = norm(residual + dropout(x)): the post-norm connection. // [T, H] → [T, H]
    pub fn norm_residual(&mut self, x: &Var<B>, residual: &Var<B>, op: Norm) -> Var<B> {
        self.norm_parts(x, Some(residual), op, false).0
    }

    /// (y, s) with s = residual + dropout(x) and y = norm(s): the pre-norm connection goes on with both.
    pub fn norm_residual_sum(&mut self, x: &Var<B>, residual: &Var<B>, op: Norm) -> (Var<B>, Var<B>) {
        let (y, s) = self.norm_parts(x, Some(residual), op, true);
        (y, s.expect("asked for"))
    }

    fn norm_parts(&mut self, x: &Var<B>, residual: Option<&Var<B>>, op: Norm, want_sum: bool) -> (Var<B>, Option<Var<B>>) {
        let (rows, cols) = (x.rows(), x.cols());
        assert_eq!(op.gain.len(), cols, "norm: x is [{rows}, {cols}], gain has {} elements", op.gain.len());
        if let Some(r) = residual {
            assert_ne!(r.id(), x.id(), "norm: x is its own residual; their gradients would be one");
            assert_eq!((r.rows(), r.cols()), (rows, cols), "norm: x is [{rows}, {cols}], residual [{}, {}]", r.rows(), r.cols());
        }
        // Without a residual and dropout s is x itself: no copy is kept.
        let sum_is_x = residual.is_none() && op.dropout.is_none();
        let mut y = self.tensor(rows, cols);
        let mut sum = ((self.is_recording() && !sum_is_x) || want_sum).then(|| self.tensor(rows, cols));
        let mut stats = self.is_recording().then(|| Tensor::new(self.backend(), Dtype::F32, rows, 2));
        self.backend().norm(
            &op,
            self.weights(),
            x.view(),
            residual.map(|r| r.view()),
            y.view_mut(),
            sum.as_mut().map(|s| s.view_mut()),
            stats.as_mut().map(|s| s.view_mut()),
        );
        let y = self.var(y);
        let sum = sum.map(|s| self.var(s));
        let (x, residual, kept, id) = (x.clone(), residual.cloned(), sum.clone(), y.id());
        self.record(move |r| {
            let dy = r.take(id);
            let dsum = kept.as_ref().and_then(|s| r.take(s.id()));
            if dy.is_none() && dsum.is_none() {
                return;
            }
            let mut dx = r.slot(&x);
            let mut dresidual = residual.as_ref().map(|v| r.slot(v));
            let setting = r.setting;
            setting.backend.norm_backward(
                &op,
                setting.weights,
                kept.as_ref().unwrap_or(&x).view(),
                stats.as_ref().expect("recorded").view(),
                dy.as_ref().map(|t| t.view()),
                dsum.as_ref().map(|t| t.view()),
                dx.target(),
                dresidual.as_mut().map(|d| d.target()),
                r.gradients,
            );
            r.put(dx);
            if let Some(d) = dresidual {
                r.put(d);
            }
        });
        (y, if want_sum { sum } else { None })
    }
}

impl NormOp for Plain {
    fn norm(
        &self,
        op: &Norm,
        weights: &Weights<Self>,
        x: View<Self>,
        residual: Option<View<Self>>,
        mut y: ViewMut<Self>,
        mut sum: Option<ViewMut<Self>>,
        mut stats: Option<ViewMut<Self>>,
    ) {
        let h = x.cols as f64;
        for t in 0..x.rows {
            let s: Vec<f64> = (0..x.cols)
                .map(|c| {
                    let factor = op.dropout.map_or(1.0, |d| f64::from(d.factor((t * x.cols + c) as u64)));
                    residual.map_or(0.0, |r| r.row(t)[c]) + factor * x.row(t)[c]
                })
                .collect();
            let mean = if op.kind == NormKind::LayerNorm { s.iter().sum::<f64>() / h } else { 0.0 };
            let variance = s.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / h;
            let r = 1.0 / (variance + f64::from(op.eps)).sqrt();
            for c in 0..x.cols {
                let normed = (s[c] - mean) * r * weights.of(op.gain)[c];
                y.row(t)[c] = normed + op.bias.map_or(0.0, |b| weights.of(b)[c]);
            }
            if let Some(sum) = &mut sum {
                sum.row(t).copy_from_slice(&s);
            }
            if let Some(stats) = &mut stats {
                stats.row(t).copy_from_slice(&[mean, r]);
            }
        }
    }

    fn norm_backward(
        &self,
        op: &Norm,
        weights: &Weights<Self>,
        sum: View<Self>,
        stats: View<Self>,
        dy: Option<View<Self>>,
        dsum: Option<View<Self>>,
        mut dx: Target<Self>,
        mut dresidual: Option<Target<Self>>,
        gradients: &mut Self::Buffer,
    ) {
        let h = sum.cols as f64;
        for t in 0..sum.rows {
            let (mean, r) = (stats.row(t)[0], stats.row(t)[1]);
            let hat: Vec<f64> = sum.row(t).iter().map(|v| (v - mean) * r).collect();
            let g: Vec<f64> = (0..sum.cols).map(|c| dy.map_or(0.0, |d| d.row(t)[c]) * weights.of(op.gain)[c]).collect();
            let g_mean = if op.kind == NormKind::LayerNorm { g.iter().sum::<f64>() / h } else { 0.0 };
            let g_hat = g.iter().zip(&hat).map(|(a, b)| a * b).sum::<f64>() / h;
            for c in 0..sum.cols {
                let ds = r * (g[c] - g_mean - hat[c] * g_hat) + dsum.map_or(0.0, |d| d.row(t)[c]);
                dx.set(t, c, ds * op.dropout.map_or(1.0, |d| f64::from(d.factor((t * sum.cols + c) as u64))));
                if let Some(dresidual) = &mut dresidual {
                    dresidual.set(t, c, ds);
                }
                if let Some(dy) = dy {
                    if learns(gradients, op.gain) {
                        gradients[op.gain.offset + c] += dy.row(t)[c] * hat[c];
                    }
                    if let Some(b) = op.bias.filter(|b| learns(gradients, *b)) {
                        gradients[b.offset + c] += dy.row(t)[c];
                    }
                }
            }
        }
    }
}

/// Kinds × residual × dropout × shapes.
pub fn cases() -> Vec<NormCase> {
    let mut cases = Vec::new();
    for kind in [NormKind::LayerNorm, NormKind::RmsNorm] {
        // Not two columns: there the gradient of a LayerNorm is nothing but rounding (the output is ±1 for every input).
        for (tokens, hidden) in [(1, 6), (0, 8), (7, 33), (33, 64), (5, 768), (100, 17)] {
            cases.push(NormCase { kind, tokens, hidden, bias: true, residual: true, sum: false, dropout: 0.0 });
        }
        cases.push(NormCase { kind, tokens: 9, hidden: 40, bias: false, residual: false, sum: false, dropout: 0.0 });
        cases.push(NormCase { kind, tokens: 9, hidden: 40, bias: true, residual: true, sum: true, dropout: 0.25 });
        cases.push(NormCase { kind, tokens: 21, hidden: 35, bias: true, residual: true, sum: false, dropout: 0.1 });
    }
    cases
}

/// One case of [`cases`].
#[derive(Debug)]
pub struct NormCase {
    kind: NormKind,
    tokens: usize,
    hidden: usize,
    bias: bool,
    residual: bool,
    sum: bool,
    dropout: f32,
}

impl Case for NormCase {
    fn params(&self) -> Vec<(usize, usize)> {
        vec![(1, self.hidden), (1, self.hidden)]
    }

    fn inputs(&self) -> Vec<(usize, usize)> {
        vec![(self.tokens, self.hidden); 2]
    }

    fn run<'a, B: Backend>(&self, tape: &mut Tape<'a, B>, i: &Inputs<B>) -> Vec<Var<B>> {
        let dropout = (self.dropout > 0.0).then(|| Dropout { probability: self.dropout, key: Key::new(5, Stream::Dropout, 1, 2) });
        let bias = self.bias.then_some(i.params[1]);
        let op = Norm { kind: self.kind, gain: i.params[0], bias, eps: 1e-5, dropout };
        match (self.residual, self.sum) {
            (false, _) => vec![tape.norm(&i.vars[0], op)],
            (true, false) => vec![tape.norm_residual(&i.vars[0], &i.vars[1], op)],
            (true, true) => {
                let (y, s) = tape.norm_residual_sum(&i.vars[0], &i.vars[1], op);
                vec![y, s]
            }
        }
    }
}
