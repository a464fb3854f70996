//! Optimizer steps over the flat buffers: one launch for AdamW whatever the number of groups, three for LAMB.

use std::ops::Range;
use std::sync::{Arc, PoisonError};

use bytemuck::{Pod, Zeroable};
use cloze_tensor::ops::optimizer::{Adam, Group, Judged, Muon, NEWTON_SCHULZ, OptimizerOp, Scale, Verdict, muon_scale};
use cloze_tensor::{Dtype, Param, View};

use crate::Cuda;
use crate::backend::read_f64;
use crate::driver::{Matrix, Product};
use crate::memory::Buffer;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Piece {
    first: u64,
    last: u64,
    group: u32,
    unused: u32,
    weight_decay: f32,
    lr_scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Step {
    weights: u64,
    gradients: u64,
    first: u64,
    second: u64,
    pieces: u64,
    norms: u64,
    ratios: u64,
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    correction1: f32,
    correction2: f32,
    gradient_scale: f32,
    unused: u32,
    gate: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Ratios {
    norms: u64,
    groups: u64,
    ratios: u64,
    count: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Average {
    weights: u64,
    average: u64,
    n: u64,
    decay: f32,
    unused: u32,
    gate: u64,
}

/// Three addresses or counts: `Squares` and `Total` in kernels/optimizer.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Reduce {
    from: u64,
    to: u64,
    n: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Momentum {
    gradients: u64,
    momentum: u64,
    update: u64,
    n: u64,
    mu: f32,
    gradient_scale: f32,
    gate: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Normalise {
    update: u64,
    squares: u64,
    x: u64,
    n: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Mix {
    gram: u64,
    square: u64,
    mix: u64,
    n: u64,
    b: f32,
    c: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Apply {
    x: u64,
    weights: u64,
    n: u64,
    lr: f32,
    weight_decay: f32,
    scale: f32,
    unused: u32,
    gate: u64,
}

/// What was found out about a step; `Gate` in kernels/optimizer.cu.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Gate {
    squares: f64,
    culprit: u64,
    factor: f32,
    open: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Judge {
    gradients: u64,
    partial: u64,
    totals: u64,
    after: u64,
    gate: u64,
    n: u64,
    blocks: u64,
    clip: f64,
    losses: u32,
    unused: u32,
}

/// Elements that one block updates.
const PIECE: usize = 8192;

/// Elements of a block of `squares`; SQUARES in kernels/optimizer.cu.
const SQUARES: usize = 8192;

/// The pieces of some groups, on the device.
pub(crate) struct Pieces {
    groups: Vec<Group>,
    pieces: Buffer,
    count: usize,
    /// The first piece of each group, and the end.
    firsts: Buffer,
}

fn same(a: &[Group], b: &[Group]) -> bool {
    let bits = |g: &Group| (g.range.clone(), g.weight_decay.to_bits(), g.lr_scale.to_bits());
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| bits(a) == bits(b))
}

impl Cuda {
    fn pieces_of(&self, groups: &[Group]) -> Arc<Pieces> {
        let mut kept = self.pieces().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pieces) = kept.as_ref().filter(|p| same(&p.groups, groups)) {
            return Arc::clone(pieces);
        }
        let (mut pieces, mut firsts) = (Vec::new(), vec![0u32]);
        for (i, g) in groups.iter().enumerate() {
            for first in g.range.clone().step_by(PIECE) {
                let (first, last) = (first as u64, g.range.end.min(first + PIECE) as u64);
                pieces.push(Piece { first, last, group: i as u32, unused: 0, weight_decay: g.weight_decay, lr_scale: g.lr_scale });
            }
            firsts.push(pieces.len() as u32);
        }
        let made = Arc::new(Pieces {
            groups: groups.to_vec(),
            count: pieces.len(),
            pieces: self.upload(bytemuck::cast_slice(&pieces)),
            firsts: self.upload(bytemuck::cast_slice(&firsts)),
        });
        *kept = Some(Arc::clone(&made));
        made
    }

    /// Σ x² on the device, as one f64.
    fn squares(&self, x: u64, n: usize) -> Buffer {
        let total = self.memory().buffer(Dtype::F32, 2);
        self.squares_to(x, n, total.address());
        total
    }

    /// Σ x² as one f64 at `total`; the sums of its blocks are returned.
    fn squares_to(&self, x: u64, n: usize, total: u64) -> Buffer {
        let blocks = n.div_ceil(SQUARES);
        let partial = self.memory().buffer(Dtype::F32, 2 * blocks);
        let parameters = Reduce { from: x, to: partial.address(), n: n as u64 };
        self.launch("optimizer", "squares", Dtype::F32, [blocks, 1, 1], 256, 0, &parameters);
        let parameters = Reduce { from: partial.address(), to: total, n: blocks as u64 };
        self.launch("optimizer", "total", Dtype::F32, [1, 1, 1], 256, 0, &parameters);
        partial
    }
}

/// What the host knows of a factor, and the address of its gate.
fn scale(scale: &Scale<Cuda>) -> (f32, u64) {
    match scale {
        Scale::Known(factor) => (*factor, 0),
        Scale::Judged(gate) => (1.0, gate.address()),
    }
}

fn step(op: &Adam<Cuda>, weights: &Buffer, gradients: &Buffer, first: &Buffer, second: &Buffer, pieces: &Pieces) -> Step {
    let correction = |beta: f32| (1.0 - f64::from(beta).powf(op.step as f64)) as f32;
    let (gradient_scale, gate) = scale(&op.gradient_scale);
    Step {
        weights: weights.address(),
        gradients: gradients.address(),
        first: first.address(),
        second: second.address(),
        pieces: pieces.pieces.address(),
        norms: 0,
        ratios: 0,
        lr: op.lr,
        beta1: op.beta1,
        beta2: op.beta2,
        eps: op.eps,
        correction1: correction(op.beta1),
        correction2: correction(op.beta2),
        gradient_scale,
        unused: 0,
        gate,
    }
}

impl OptimizerOp for Cuda {
    fn adamw(&self, op: &Adam<Self>, groups: &[Group], weights: &mut Buffer, gradients: &Buffer, first: &mut Buffer, second: &mut Buffer) {
        let pieces = self.pieces_of(groups);
        let parameters = step(op, weights, gradients, first, second, &pieces);
        self.launch("optimizer", "adamw", Dtype::F32, [pieces.count, 1, 1], 256, 0, &parameters);
    }

    fn lamb(&self, op: &Adam<Self>, groups: &[Group], weights: &mut Buffer, gradients: &Buffer, first: &mut Buffer, second: &mut Buffer) {
        let pieces = self.pieces_of(groups);
        let norms = self.memory().buffer(Dtype::F32, 4 * pieces.count);
        let ratios = self.memory().buffer(Dtype::F32, groups.len());
        let (norms, ratios) = (norms.address(), ratios.address());
        let parameters = Step { norms, ratios, ..step(op, weights, gradients, first, second, &pieces) };
        self.launch("optimizer", "lamb_norms", Dtype::F32, [pieces.count, 1, 1], 256, 0, &parameters);
        let each = Ratios { norms, groups: pieces.firsts.address(), ratios, count: groups.len() as u32, unused: 0 };
        self.launch("optimizer", "lamb_ratios", Dtype::F32, [groups.len().div_ceil(32), 1, 1], 32, 0, &each);
        self.launch("optimizer", "lamb", Dtype::F32, [pieces.count, 1, 1], 256, 0, &parameters);
    }

    fn muon(&self, op: &Muon<Self>, matrices: &[Param], weights: &mut Buffer, gradients: &Buffer, momentum: &mut Buffer) {
        let kind = op.products;
        let [a, b, c] = NEWTON_SCHULZ;
        let (gradient_scale, gate) = scale(&op.gradient_scale);
        for p in matrices {
            let (n, small) = (p.len(), p.rows.min(p.cols));
            if n == 0 {
                continue;
            }
            let update = self.memory().buffer(Dtype::F32, n);
            let parameters = Momentum {
                gradients: gradients.at(p.offset),
                momentum: momentum.at(p.offset),
                update: update.address(),
                n: n as u64,
                mu: op.momentum,
                gradient_scale,
                gate,
            };
            self.launch_over("optimizer", "muon_momentum", Dtype::F32, n, 1, &parameters);
            let squares = self.squares(update.address(), n);
            let [mut x, mut next] = [0, 1].map(|_| self.memory().buffer(kind, n));
            let [gram, square, mix] = [0, 1, 2].map(|_| self.memory().buffer(kind, small * small));
            let normalise = Normalise { update: update.address(), squares: squares.address(), x: x.address(), n: n as u64 };
            self.launch_over("optimizer", "muon_normalise", kind, n, 1, &normalise);
            let side = |buffer: &Buffer| Matrix::new(buffer.address(), kind, small, small);
            for _ in 0..5 {
                // The products with the smaller side: X·Xᵀ, or Xᵀ·X where X has more rows.
                let of = |buffer: &Buffer| Matrix::new(buffer.address(), kind, p.rows, p.cols);
                let (left, right) = if p.rows <= p.cols { (of(&x), of(&x).transposed()) } else { (of(&x).transposed(), of(&x)) };
                self.multiply(&Product::new(left, right, side(&gram), 0.0));
                self.multiply(&Product::new(side(&gram), side(&gram), side(&square), 0.0));
                let n = (small * small) as u64;
                let parameters = Mix { gram: gram.address(), square: square.address(), mix: mix.address(), n, b, c };
                self.launch_over("optimizer", "muon_mix", kind, small * small, 1, &parameters);
                self.copy(x.address(), next.address(), p.len() * kind.size());
                let (left, right) = if p.rows <= p.cols { (side(&mix), of(&x)) } else { (of(&x), side(&mix)) };
                self.multiply(&Product::new(left, right, of(&next), a));
                std::mem::swap(&mut x, &mut next);
            }
            let (lr, weight_decay, scale) = (op.lr, op.weight_decay, muon_scale(p.rows, p.cols));
            let parameters = Apply { x: x.address(), weights: weights.at(p.offset), n: n as u64, lr, weight_decay, scale, unused: 0, gate };
            self.launch_over("optimizer", "muon_apply", kind, n, 1, &parameters);
        }
    }

    fn moving_average(&self, decay: f32, weights: &Buffer, average: &mut Buffer, gate: Option<&Buffer>) {
        let (n, gate) = (average.len(), gate.map_or(0, Buffer::address));
        let parameters = Average { weights: weights.address(), average: average.address(), n: n as u64, decay, unused: 0, gate };
        self.launch_over("optimizer", "moving_average", Dtype::F32, n, 1, &parameters);
    }

    fn sum_of_squares(&self, buffer: &Buffer, range: Range<usize>) -> f64 {
        assert!(range.end <= buffer.len(), "sum_of_squares: {range:?} of {} elements", buffer.len());
        read_f64(self, &self.squares(buffer.at(range.start), range.len()))
    }

    fn judges(&self) -> bool {
        true
    }

    fn judge(&self, gradients: &Buffer, range: Range<usize>, losses: &[View<Self>], clip: f64, after: Option<&Buffer>) -> Judged<Self> {
        assert!(range.end <= gradients.len(), "judge: {range:?} of {} elements", gradients.len());
        let totals = self.memory().buffer(Dtype::F32, 2 * (1 + losses.len()));
        let partial = self.squares_to(gradients.at(range.start), range.len(), totals.address());
        for (i, loss) in losses.iter().enumerate() {
            assert_eq!(loss.dtype, Dtype::F32, "judge: losses are f32");
            self.squares_to(loss.buffer.address(), loss.rows * loss.cols, totals.at(2 * (i + 1)));
        }
        let gate = self.memory().buffer(Dtype::F32, size_of::<Gate>() / 4);
        let parameters = Judge {
            gradients: gradients.at(range.start),
            partial: partial.address(),
            totals: totals.address(),
            after: after.map_or(0, Buffer::address),
            gate: gate.address(),
            n: range.len() as u64,
            blocks: range.len().div_ceil(SQUARES) as u64,
            clip,
            losses: losses.len() as u32,
            unused: 0,
        };
        self.launch("optimizer", "judge", Dtype::F32, [1, 1, 1], 256, 0, &parameters);
        let verdict = self.bytes_later(gate.address(), size_of::<Gate>()).map(|bytes| {
            let gate: Gate = bytemuck::pod_read_unaligned(&bytes);
            let culprit = usize::try_from(gate.culprit).ok().filter(|_| gate.culprit != u64::MAX);
            Verdict { squares: gate.squares, culprit, update: gate.open != 0 }
        });
        Judged { gate, verdict }
    }
}
