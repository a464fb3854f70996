//! Normalisation with its residual connection: each row is read once from memory, the rest happens in L1.
//!
//! Gradients of gain and bias are sums over tokens: each block of [`BLOCK`] rows makes a partial sum, and the partial
//! sums are added in order, so the result does not depend on the threads.

use cloze_tensor::ops::norm::{Norm, NormKind, NormOp};
use cloze_tensor::{Dtype, Storage, Target, View, ViewMut, Weights, Write};

use crate::backend::{Cpu, TASK, by_dtype, elements, elements_mut, gradients_of, weights_of};
use crate::lanes::{for_lanes, put, take};
use crate::memory::Buffer;
use crate::philox;
use crate::simd::{Kernel, Lane, Simd, dispatch};
use crate::threads::SharedMut;

/// Rows of one partial sum.
const BLOCK: usize = 64;

impl NormOp for Cpu {
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
        let (rows, cols) = (x.rows, x.cols);
        if rows * cols == 0 {
            return;
        }
        let zeros; // adding 0 is cheaper than another kernel
        let bias = match op.bias {
            Some(bias) => weights_of(weights, bias),
            None => {
                zeros = vec![0.0; cols];
                &zeros
            }
        };
        let gain = weights_of(weights, op.gain);
        by_dtype!(x.dtype, T => {
            let (x, residual) = (elements::<T>(x), residual.map(elements::<T>));
            let y = SharedMut::new(elements_mut::<T>(&mut y));
            let sum = sum.as_mut().map(|s| SharedMut::new(elements_mut::<T>(s)));
            let stats = stats.as_mut().map(|s| SharedMut::new(elements_mut::<f32>(s)));
            self.threads().for_ranges(rows, TASK.div_ceil(cols), 1, |range| {
                let of = range.start * cols..range.end * cols;
                // SAFETY: the ranges of rows do not overlap.
                let (y, sum, stats) = unsafe {
                    let stats = stats.as_ref().map(|s| s.slice(2 * range.start..2 * range.end));
                    (y.slice(of.clone()), sum.as_ref().map(|s| s.slice(of.clone())), stats)
                };
                let residual = residual.map(|r| &r[of.clone()]);
                dispatch(self.level(), Forward { op, gain, bias, first: of.start as u64, x: &x[of], residual, y, sum, stats });
            });
        });
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
        gradients: &mut Buffer,
    ) {
        let (rows, cols) = (sum.rows, sum.cols);
        if rows * cols == 0 {
            return;
        }
        let gain = weights_of(weights, op.gain);
        let blocks = rows.div_ceil(BLOCK);
        let width = 2 * cols;
        let mut partials = self.alloc(Dtype::F32, if dy.is_some() { blocks * width } else { 0 });
        by_dtype!(sum.dtype, T => {
            let (sum, stats) = (elements::<T>(sum), elements::<f32>(stats));
            let (dy, dsum) = (dy.map(elements::<T>), dsum.map(elements::<T>));
            let (dx_write, dresidual_write) = (dx.write, dresidual.as_ref().map_or(Write::Over, |d| d.write));
            let dx = SharedMut::new(elements_mut::<T>(&mut dx.view));
            let dresidual = dresidual.as_mut().map(|d| SharedMut::new(elements_mut::<T>(&mut d.view)));
            let partials = SharedMut::new(partials.f32_mut());
            self.threads().for_each(blocks, |block| {
                let range = block * BLOCK..rows.min((block + 1) * BLOCK);
                let of = range.start * cols..range.end * cols;
                // SAFETY: each block has its own rows and its own partial sums.
                let (dx, dresidual, partial) = unsafe {
                    let partial = if dy.is_some() { block * width..(block + 1) * width } else { 0..0 };
                    (dx.slice(of.clone()), dresidual.as_ref().map(|d| d.slice(of.clone())), partials.slice(partial))
                };
                dispatch(self.level(), Backward {
                    op,
                    gain,
                    first: of.start as u64,
                    sum: &sum[of.clone()],
                    stats: &stats[2 * range.start..2 * range.end],
                    dy: dy.map(|d| &d[of.clone()]),
                    dsum: dsum.map(|d| &d[of]),
                    dx,
                    dx_write,
                    dresidual,
                    dresidual_write,
                    partial,
                });
            });
        });
        if dy.is_some() {
            let [dgain, dbias] = gradients_of(gradients, [Some(op.gain), op.bias]);
            self.add_partials(partials.f32(), width, 0, dgain);
            self.add_partials(partials.f32(), width, cols, dbias);
        }
    }
}

impl Cpu {
    /// `to[c] += Σ_block partials[block, from + c]`, blocks in order, for `partials` with rows of `width`.
    pub(crate) fn add_partials(&self, partials: &[f32], width: usize, from: usize, to: &mut [f32]) {
        let blocks = partials.len() / width;
        self.threads().for_rows(to, 1, TASK.div_ceil(blocks.max(1)), |first, to| {
            dispatch(self.level(), AddPartials { partials, width, from: from + first, to });
        });
    }
}

struct AddPartials<'a> {
    partials: &'a [f32],
    width: usize,
    from: usize,
    to: &'a mut [f32],
}

impl Kernel for AddPartials<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let sums = &mut vec![0.0; self.to.len()][..];
        for row in self.partials.chunks_exact(self.width) {
            let row = &row[self.from..self.from + sums.len()];
            for_lanes!(S, sums.len(), |c, n| {
                put(s, sums, c, n, s.add(take(s, sums, c, n), take(s, row, c, n)));
            });
        }
        for c in (0..sums.len()).step_by(S::LANES) {
            s.store_at(self.to, c, s.add(s.load_at(self.to, c), s.load_at(sums, c)));
        }
    }
}

struct Forward<'a, T> {
    op: &'a Norm,
    gain: &'a [f32],
    bias: &'a [f32],
    /// The index of the first element, for dropout.
    first: u64,
    x: &'a [T],
    residual: Option<&'a [T]>,
    y: &'a mut [T],
    sum: Option<&'a mut [T]>,
    stats: Option<&'a mut [f32]>,
}

/// The mean of (x − centre)² over a row.
#[inline(always)]
fn variance<S: Simd>(s: S, row: &[f32], centre: f32) -> f32 {
    let centre = s.splat(centre);
    let mut sum = s.zero();
    for_lanes!(S, row.len(), |c, n| {
        let v = s.keep_first(s.sub(take(s, row, c, n), centre), n, 0.0);
        sum = s.mul_add(v, v, sum);
    });
    s.reduce_add(sum) / row.len() as f32
}

impl<T: Lane> Kernel for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let cols = self.gain.len();
        let (gain, bias) = (self.gain, &self.bias[..cols]);
        let mut scratch = vec![0.0; 2 * cols];
        let (row, factors) = scratch.split_at_mut(cols);
        for t in 0..self.x.len() / cols {
            let of = t * cols..t * cols + cols;
            // s = residual + dropout(x)
            let x = &self.x[of.clone()];
            let residual = self.residual.map(|r| &r[of.clone()]);
            let mut to = self.sum.as_mut().map(|sum| &mut sum[of.clone()]);
            if let Some(dropout) = &self.op.dropout {
                philox::factors(s, dropout, self.first + of.start as u64, factors);
            }
            let mut sum = s.zero();
            for_lanes!(S, cols, |c, n| {
                let mut v = take(s, x, c, n);
                if self.op.dropout.is_some() {
                    v = s.mul(v, take(s, factors, c, n));
                }
                if let Some(residual) = residual {
                    v = s.add(v, take(s, residual, c, n));
                }
                if let Some(to) = &mut to {
                    put(s, to, c, n, v);
                }
                put(s, row, c, n, v);
                sum = s.add(sum, v);
            });
            let mean = if self.op.kind == NormKind::LayerNorm { s.reduce_add(sum) / cols as f32 } else { 0.0 };
            let r = 1.0 / (variance(s, row, mean) + self.op.eps).sqrt();
            if let Some(stats) = &mut self.stats {
                stats[2 * t] = mean;
                stats[2 * t + 1] = r;
            }
            let y = &mut self.y[of];
            let (mean, r) = (s.splat(mean), s.splat(r));
            for_lanes!(S, cols, |c, n| {
                let hat = s.mul(s.sub(take(s, row, c, n), mean), r);
                put(s, y, c, n, s.mul_add(hat, take(s, gain, c, n), take(s, bias, c, n)));
            });
        }
    }
}

struct Backward<'a, T> {
    op: &'a Norm,
    gain: &'a [f32],
    /// The index of the first element, for dropout.
    first: u64,
    sum: &'a [T],
    stats: &'a [f32],
    dy: Option<&'a [T]>,
    dsum: Option<&'a [T]>,
    dx: &'a mut [T],
    dx_write: Write,
    dresidual: Option<&'a mut [T]>,
    dresidual_write: Write,
    /// Sums of this block: dgain, then dbias. // [2 H]
    partial: &'a mut [f32],
}

impl<T: Lane> Kernel for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let cols = self.gain.len();
        let mut scratch = vec![0.0; 3 * cols];
        let (g, rest) = scratch.split_at_mut(cols); // dy ⊙ gain; stays 0 without dy, as does ŝ
        let (hat, factors) = rest.split_at_mut(cols);
        self.partial.fill(0.0);
        for t in 0..self.sum.len() / cols {
            let of = t * cols..t * cols + cols;
            let (mean, r) = (self.stats[2 * t], self.stats[2 * t + 1]);
            let (mut g_mean, mut g_hat) = (0.0, 0.0);
            if let Some(dy) = self.dy {
                let (dgain, dbias) = self.partial.split_at_mut(cols);
                let sums = gradient_row(s, &self.sum[of.clone()], &dy[of.clone()], self.gain, (mean, r), g, hat, dgain, dbias);
                g_mean = if self.op.kind == NormKind::LayerNorm { sums.0 / cols as f32 } else { 0.0 };
                g_hat = sums.1 / cols as f32;
            }
            if let Some(dropout) = &self.op.dropout {
                philox::factors(s, dropout, self.first + of.start as u64, factors);
            }
            let dsum = self.dsum.map(|d| &d[of.clone()]);
            let mut dresidual = self.dresidual.as_mut().map(|d| &mut d[of.clone()]);
            let dx = &mut self.dx[of];
            let (r, g_mean, g_hat) = (s.splat(r), s.splat(g_mean), s.splat(g_hat));
            for_lanes!(S, cols, |c, n| {
                let inner = s.neg_mul_add(take(s, hat, c, n), g_hat, s.sub(take(s, g, c, n), g_mean));
                let mut ds = s.mul(r, inner);
                if let Some(dsum) = dsum {
                    ds = s.add(ds, take(s, dsum, c, n));
                }
                if let Some(to) = &mut dresidual {
                    let old = if self.dresidual_write == Write::Add { take(s, to, c, n) } else { s.zero() };
                    put(s, to, c, n, s.add(old, ds));
                }
                if self.op.dropout.is_some() {
                    ds = s.mul(ds, take(s, factors, c, n));
                }
                let old = if self.dx_write == Write::Add { take(s, dx, c, n) } else { s.zero() };
                put(s, dx, c, n, s.add(old, ds));
            });
        }
    }
}

/// g = dy ⊙ gain and ŝ of one row; adds to dgain and dbias; gives Σ g and Σ g ⊙ ŝ.
#[inline(always)]
fn gradient_row<S: Simd, T: Lane>(
    s: S,
    sum: &[T],
    dy: &[T],
    gain: &[f32],
    (mean, r): (f32, f32),
    g: &mut [f32],
    hat: &mut [f32],
    dgain: &mut [f32],
    dbias: &mut [f32],
) -> (f32, f32) {
    let (mean, r) = (s.splat(mean), s.splat(r));
    let (mut g_sum, mut g_hat) = (s.zero(), s.zero());
    for_lanes!(S, gain.len(), |c, n| {
        let d = take(s, dy, c, n);
        let h = s.mul(s.sub(take(s, sum, c, n), mean), r);
        let v = s.mul(d, take(s, gain, c, n)); // 0 past the end, as dy is
        put(s, g, c, n, v);
        put(s, hat, c, n, h);
        put(s, dgain, c, n, s.mul_add(d, h, take(s, dgain, c, n)));
        put(s, dbias, c, n, s.add(d, take(s, dbias, c, n)));
        g_sum = s.add(g_sum, v);
        g_hat = s.mul_add(v, h, g_hat);
    });
    (s.reduce_add(g_sum), s.reduce_add(g_hat))
}
