//! Optimizer steps: one pass over weights, gradients and moments, in pieces of [`PIECE`] elements.
//!
//! Sums (norms) are f64, one per piece, added in order: the same bits for every number of threads.

use std::ops::Range;

use cloze_tensor::ops::optimizer::{Adam, Group, Muon, NEWTON_SCHULZ, OptimizerOp, muon_scale};
use cloze_tensor::{Dtype, Param, Storage};

use crate::backend::Cpu;
use crate::gemm::{Epilogue, Matrix, MatrixMut, Precision};
use crate::memory::Buffer;
use crate::simd::{Kernel, Simd, dispatch};
use crate::threads::SharedMut;

/// Elements of a task and of a partial sum.
const PIECE: usize = 1 << 14;
/// Newton–Schulz steps of Muon.
const STEPS: usize = 5;

/// A piece of a group.
struct Piece {
    group: usize,
    range: Range<usize>,
}

/// The groups in pieces.
///
/// # Panics
/// If two groups overlap: pieces are written at the same time.
fn pieces<'a>(ranges: impl Iterator<Item = &'a Range<usize>> + Clone) -> Vec<Piece> {
    let mut sorted: Vec<&Range<usize>> = ranges.clone().filter(|r| !r.is_empty()).collect();
    sorted.sort_by_key(|r| r.start);
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].end > pair[1].start) {
        panic!("optimizer: the groups {:?} and {:?} overlap", pair[0], pair[1]);
    }
    let cut = |(group, range): (usize, &Range<usize>)| {
        let range = range.clone();
        let starts = range.clone().step_by(PIECE);
        starts.map(move |start| Piece { group, range: start..range.end.min(start + PIECE) })
    };
    ranges.enumerate().flat_map(cut).collect()
}

impl OptimizerOp for Cpu {
    fn adamw(&self, op: &Adam<Self>, groups: &[Group], weights: &mut Buffer, gradients: &Buffer, first: &mut Buffer, second: &mut Buffer) {
        let pieces = pieces(groups.iter().map(|g| &g.range));
        let (weights, first, second) = (shared(weights), shared(first), shared(second));
        self.threads().for_each(pieces.len(), |i| {
            let Piece { group, range } = &pieces[i];
            let group = &groups[*group];
            let g = &gradients.f32()[range.clone()];
            // SAFETY: pieces do not overlap.
            let (w, m, v) = unsafe { (weights.slice(range.clone()), first.slice(range.clone()), second.slice(range.clone())) };
            dispatch(self.level(), AdamW { adam: Scalars::new(op), lr: op.lr * group.lr_scale, decay: group.weight_decay, w, g, m, v });
        });
    }

    fn lamb(&self, op: &Adam<Self>, groups: &[Group], weights: &mut Buffer, gradients: &Buffer, first: &mut Buffer, second: &mut Buffer) {
        let pieces = pieces(groups.iter().map(|g| &g.range));
        let mut squares = vec![(0.0f64, 0.0f64); pieces.len()]; // of w and r, by piece
        {
            let (first, second, sums) = (shared(first), shared(second), SharedMut::new(&mut squares));
            let weights = weights.f32();
            self.threads().for_each(pieces.len(), |i| {
                let Piece { group, range } = &pieces[i];
                let (w, g) = (&weights[range.clone()], &gradients.f32()[range.clone()]);
                // SAFETY: pieces do not overlap, each has its own sums.
                let (m, v, sums) = unsafe { (first.slice(range.clone()), second.slice(range.clone()), sums.slice(i..i + 1)) };
                sums[0] = dispatch(self.level(), LambNorms { adam: Scalars::new(op), decay: groups[*group].weight_decay, w, g, m, v });
            });
        }
        let mut norms = vec![(0.0f64, 0.0f64); groups.len()];
        for (piece, (w, r)) in pieces.iter().zip(&squares) {
            norms[piece.group].0 += w;
            norms[piece.group].1 += r;
        }
        let (weights, first, second) = (shared(weights), first.f32(), second.f32());
        self.threads().for_each(pieces.len(), |i| {
            let Piece { group, range } = &pieces[i];
            let (w2, r2) = norms[*group];
            let ratio = if w2 > 0.0 && r2 > 0.0 { (w2 / r2).sqrt() } else { 1.0 };
            let group = &groups[*group];
            let lr = (f64::from(op.lr) * f64::from(group.lr_scale) * ratio) as f32;
            // SAFETY: pieces do not overlap.
            let w = unsafe { weights.slice(range.clone()) };
            let (m, v) = (&first[range.clone()], &second[range.clone()]);
            dispatch(self.level(), LambStep { adam: Scalars::new(op), lr, decay: group.weight_decay, w, m, v });
        });
    }

    fn muon(&self, op: &Muon<Self>, matrices: &[Param], weights: &mut Buffer, gradients: &Buffer, momentum: &mut Buffer) {
        for p in matrices.iter().filter(|p| !p.is_empty()) {
            let mut update = self.alloc(Dtype::F32, p.len());
            {
                let (b, u) = (shared(momentum), shared(&mut update));
                self.in_pieces(p.len(), |range| {
                    let of = p.offset + range.start..p.offset + range.end;
                    // SAFETY: pieces do not overlap.
                    let (b, u) = unsafe { (b.slice(of.clone()), u.slice(range)) };
                    dispatch(
                        self.level(),
                        Momentum { momentum: op.momentum, scale: op.gradient_scale.known(), g: &gradients.f32()[of], b, u },
                    );
                });
            }
            let norm = self.sum_of_squares(&update, 0..p.len()).sqrt() + 1e-7;
            {
                let u = shared(&mut update);
                self.in_pieces(p.len(), |range| {
                    // SAFETY: pieces do not overlap.
                    let u = unsafe { u.slice(range) };
                    dispatch(self.level(), Scale { by: (1.0 / norm) as f32, x: u });
                });
            }
            let step = self.newton_schulz(update, p.rows, p.cols, crate::linear::precision(op.products));
            let w = shared(weights);
            self.in_pieces(p.len(), |range| {
                // SAFETY: pieces do not overlap.
                let w = unsafe { w.slice(p.offset + range.start..p.offset + range.end) };
                let keep = 1.0 - op.lr * op.weight_decay;
                dispatch(self.level(), Blend { keep, add: -op.lr * muon_scale(p.rows, p.cols), x: &step.f32()[range], to: w });
            });
        }
    }

    fn moving_average(&self, decay: f32, weights: &Buffer, average: &mut Buffer, _: Option<&Buffer>) {
        let len = average.len();
        assert!(weights.len() == len, "moving average of {len} elements, but {} weights", weights.len());
        let average = shared(average);
        self.in_pieces(len, |range| {
            // SAFETY: pieces do not overlap.
            let to = unsafe { average.slice(range.clone()) };
            dispatch(self.level(), Blend { keep: decay, add: 1.0 - decay, x: &weights.f32()[range], to });
        });
    }

    fn sum_of_squares(&self, buffer: &Buffer, range: Range<usize>) -> f64 {
        let x = &buffer.f32()[range];
        self.threads().sum_chunks(x.len(), PIECE, |r| dispatch(self.level(), Squares(&x[r])), |sum, piece| *sum += piece)
    }
}

fn shared(buffer: &mut Buffer) -> SharedMut<'_, f32> {
    SharedMut::new(buffer.f32_mut())
}

impl Cpu {
    fn in_pieces(&self, len: usize, task: impl Fn(Range<usize>) + Sync) {
        self.threads().for_each(len.div_ceil(PIECE), |i| task(i * PIECE..len.min((i + 1) * PIECE)));
    }

    /// X ← (a + b·G + c·G²)·X, five times, with G = X·Xᵀ (the smaller of the two Gram matrices): X [rows, cols].
    fn newton_schulz(&self, mut x: Buffer, rows: usize, cols: usize, precision: Precision) -> Buffer {
        let small = rows.min(cols);
        let [a, b, c] = NEWTON_SCHULZ;
        let mut gram = self.alloc(Dtype::F32, small * small);
        let mut mix = self.alloc(Dtype::F32, small * small);
        let mut next = self.alloc(Dtype::F32, rows * cols);
        for _ in 0..STEPS {
            let now = Matrix::f32(x.f32(), rows, cols);
            let (left, right) = if rows <= cols { (now, now.transposed()) } else { (now.transposed(), now) };
            self.gemm().multiply(left, right, MatrixMut::f32(gram.f32_mut(), small, small), precision, Epilogue::default());
            let g = Matrix::f32(gram.f32(), small, small);
            self.gemm().multiply(g, g, MatrixMut::f32(mix.f32_mut(), small, small), precision, Epilogue::default());
            {
                let mix = shared(&mut mix);
                self.in_pieces(small * small, |range| {
                    // SAFETY: pieces do not overlap.
                    let to = unsafe { mix.slice(range.clone()) };
                    dispatch(self.level(), Blend { keep: c, add: b, x: &gram.f32()[range], to });
                });
            }
            for i in 0..small {
                mix.f32_mut()[i * small + i] += a;
            }
            let mix = Matrix::f32(mix.f32(), small, small); // symmetric
            let (left, right) = if rows <= cols { (mix, now) } else { (now, mix) };
            self.gemm().multiply(left, right, MatrixMut::f32(next.f32_mut(), rows, cols), precision, Epilogue::default());
            std::mem::swap(&mut x, &mut next);
        }
        x
    }
}

/// The constants of an Adam step.
#[derive(Clone, Copy)]
struct Scalars {
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    /// 1 / (1 − β₁ᵗ).
    correction1: f32,
    /// 1 / (1 − β₂ᵗ).
    correction2: f32,
    eps: f32,
    gradient_scale: f32,
}

impl Scalars {
    fn new(op: &Adam<Cpu>) -> Self {
        let (b1, b2) = (f64::from(op.beta1), f64::from(op.beta2));
        let correction = |beta: f64| (1.0 / (1.0 - beta.powf(op.step as f64))) as f32;
        Self {
            beta1: op.beta1,
            beta2: op.beta2,
            one_minus_beta1: (1.0 - b1) as f32,
            one_minus_beta2: (1.0 - b2) as f32,
            correction1: correction(b1),
            correction2: correction(b2),
            eps: op.eps,
            gradient_scale: op.gradient_scale.known(),
        }
    }

    /// The moments with the gradient taken in.
    #[inline(always)]
    fn moments<S: Simd>(&self, s: S, g: S::F, m: S::F, v: S::F) -> (S::F, S::F) {
        let g = s.mul(g, s.splat(self.gradient_scale));
        let m = s.mul_add(m, s.splat(self.beta1), s.mul(g, s.splat(self.one_minus_beta1)));
        let v = s.mul_add(v, s.splat(self.beta2), s.mul(s.mul(g, s.splat(self.one_minus_beta2)), g));
        (m, v)
    }

    /// m̂ / (√v̂ + ε) + λw.
    #[inline(always)]
    fn direction<S: Simd>(&self, s: S, m: S::F, v: S::F, decay: f32, w: S::F) -> S::F {
        let root = s.sqrt(s.mul(v, s.splat(self.correction2)));
        let step = s.div(s.mul(m, s.splat(self.correction1)), s.add(root, s.splat(self.eps)));
        s.mul_add(w, s.splat(decay), step)
    }
}

struct AdamW<'a> {
    adam: Scalars,
    lr: f32,
    decay: f32,
    w: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Kernel for AdamW<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { adam, lr, decay, w, g, m, v } = self;
        let lr = s.splat(lr);
        for i in (0..w.len()).step_by(S::LANES) {
            let (m1, v1) = adam.moments(s, s.load_at(g, i), s.load_at(m, i), s.load_at(v, i));
            let old = s.load_at(w, i);
            let direction = adam.direction(s, m1, v1, decay, old);
            s.store_at(m, i, m1);
            s.store_at(v, i, v1);
            s.store_at(w, i, s.neg_mul_add(lr, direction, old));
        }
    }
}

/// The moments of a LAMB step; gives Σw² and Σr².
struct LambNorms<'a> {
    adam: Scalars,
    decay: f32,
    w: &'a [f32],
    g: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Kernel for LambNorms<'_> {
    type Output = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f64, f64) {
        const STRIDE: usize = 512;
        let Self { adam, decay, w, g, m, v } = self;
        let mut updates = [0.0; STRIDE];
        let mut sums = (0.0, 0.0);
        for start in (0..w.len()).step_by(STRIDE) {
            let of = start..w.len().min(start + STRIDE);
            let (w, g, m, v) = (&w[of.clone()], &g[of.clone()], &mut m[of.clone()], &mut v[of.clone()]);
            let updates = &mut updates[..of.len()];
            for i in (0..w.len()).step_by(S::LANES) {
                let (m1, v1) = adam.moments(s, s.load_at(g, i), s.load_at(m, i), s.load_at(v, i));
                s.store_at(m, i, m1);
                s.store_at(v, i, v1);
                s.store_at(updates, i, adam.direction(s, m1, v1, decay, s.load_at(w, i)));
            }
            sums.0 += squares(w);
            sums.1 += squares(updates);
        }
        sums
    }
}

/// w ← w − lr · r, with r from the moments again: cheaper than keeping it.
struct LambStep<'a> {
    adam: Scalars,
    lr: f32,
    decay: f32,
    w: &'a mut [f32],
    m: &'a [f32],
    v: &'a [f32],
}

impl Kernel for LambStep<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { adam, lr, decay, w, m, v } = self;
        for i in (0..w.len()).step_by(S::LANES) {
            let old = s.load_at(w, i);
            let direction = adam.direction(s, s.load_at(m, i), s.load_at(v, i), decay, old);
            s.store_at(w, i, s.neg_mul_add(s.splat(lr), direction, old));
        }
    }
}

/// b ← μb + (1−μ)g; u = (1−μ)g + μb.
struct Momentum<'a> {
    momentum: f32,
    scale: f32,
    g: &'a [f32],
    b: &'a mut [f32],
    u: &'a mut [f32],
}

impl Kernel for Momentum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mu, rest) = (s.splat(self.momentum), s.splat((1.0 - f64::from(self.momentum)) as f32 * self.scale));
        for i in (0..self.b.len()).step_by(S::LANES) {
            let g = s.mul(s.load_at(self.g, i), rest);
            let b = s.mul_add(s.load_at(self.b, i), mu, g);
            s.store_at(self.b, i, b);
            s.store_at(self.u, i, s.mul_add(b, mu, g));
        }
    }
}

/// x ← x · by.
struct Scale<'a> {
    by: f32,
    x: &'a mut [f32],
}

impl Kernel for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in (0..self.x.len()).step_by(S::LANES) {
            s.store_at(self.x, i, s.mul(s.load_at(self.x, i), s.splat(self.by)));
        }
    }
}

/// to ← keep · to + add · x.
struct Blend<'a> {
    keep: f32,
    add: f32,
    x: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for Blend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (keep, add) = (s.splat(self.keep), s.splat(self.add));
        for i in (0..self.to.len()).step_by(S::LANES) {
            let old = s.load_at(self.to, i);
            s.store_at(self.to, i, s.mul_add(old, keep, s.mul(s.load_at(self.x, i), add)));
        }
    }
}

/// Σ x² of a piece.
struct Squares<'a>(&'a [f32]);

impl Kernel for Squares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f64 {
        squares(self.0)
    }
}

/// Σ x² in f64: plain lanes, which the compiler turns into vectors of the shell's level.
#[inline(always)]
fn squares(x: &[f32]) -> f64 {
    const LANES: usize = 32;
    let mut sums = [0.0f64; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for i in 0..LANES {
            sums[i] += f64::from(chunk[i]) * f64::from(chunk[i]);
        }
    }
    for (i, v) in chunks.remainder().iter().enumerate() {
        sums[i] += f64::from(*v) * f64::from(*v);
    }
    sums.iter().sum()
}
