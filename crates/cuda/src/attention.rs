//! Attention: on tensor cores where elements are bf16 and the head dimension fits their tiles, else by the plain kernel.

use std::sync::{Arc, PoisonError};

use bytemuck::{Pod, Zeroable};
use cloze_tensor::ops::attention::{Attention, AttentionOp, Visibility};
use cloze_tensor::{Dtype, Packed, Storage, Tensor, View, ViewMut};

use crate::Cuda;
use crate::backend::{Draws, address, address_mut, starts};
use crate::driver::Variant;
use crate::memory::Buffer;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    qkv: u64,
    y: u64,
    dy: u64,
    out: u64,
    lse: u64,
    delta: u64,
    starts: u64,
    tiles: u64,
    bias: u64,
    dbias: u64,
    draws: Draws,
    heads: u32,
    head_dim: u32,
    visibility: u32,
    window: u32,
    scale: f32,
    reach: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Rotary {
    from: u64,
    to: u64,
    turns: u64,
    starts: u64,
    tokens: u32,
    heads: u32,
    head_dim: u32,
    sequences: u32,
    sign: f32,
    unused: u32,
}

/// Rows of a tile; ROWS in kernels/attention.cuh.
const ROWS: usize = 64;

/// The largest D of the tensor-core kernels, and of the plain one.
const WIDEST: [usize; 2] = [128, 256];

/// A kernel, and what a block of it needs.
struct Choice {
    file: &'static str,
    variant: Variant,
    threads: usize,
    /// Bytes of shared memory: forward, each kernel of backward.
    shared: [usize; 2],
}

impl Cuda {
    fn choice(&self, dtype: Dtype, d: usize, biased: bool) -> Choice {
        let head_dim = d.next_multiple_of(16);
        // Backward keeps a tile of slopes where a bias learns.
        let slopes = |columns: usize| if biased { ROWS * (columns + 1) * 4 } else { 0 };
        // Tiles of bf16 with 8 elements of padding a row, and two stages of draws.
        let tiles = |n: usize| n * ROWS * (head_dim + 8) * 2 + 2 * ROWS * ROWS / 8;
        if dtype == Dtype::Bf16 && d.is_multiple_of(8) && d <= WIDEST[0] && tiles(6) + slopes(ROWS) <= self.shared_limit() {
            let variant = Variant { dtype, head_dim, biased };
            return Choice { file: "attention", variant, threads: 128, shared: [tiles(5), tiles(6) + slopes(ROWS)] };
        }
        assert!(d <= WIDEST[1], "attention: a head dimension of {d} is above {}, the most that this backend has a kernel for", WIDEST[1]);
        let rows = 2 * 32 * (d + 1) * 4;
        Choice { file: "attention_plain", variant: Variant { biased, ..dtype.into() }, threads: 256, shared: [rows, rows + slopes(32)] }
    }

    fn run(&self, choice: &Choice, name: &'static str, tiles: usize, shared: usize, parameters: &Parameters) {
        let grid = [tiles, parameters.heads as usize, 1];
        self.launch(choice.file, name, choice.variant, grid, choice.threads, shared, parameters);
    }

    /// cos and sin of position · θ^(−2c/D), computed in f64. // f32 [positions, D/2, 2]
    fn turns_for(&self, theta: f32, d: usize, positions: usize) -> Arc<Buffer> {
        let mut kept = self.turns().lock().unwrap_or_else(PoisonError::into_inner);
        let key = (theta.to_bits(), d);
        if let Some((held, buffer)) = kept.get(&key)
            && *held >= positions
        {
            return Arc::clone(buffer);
        }
        let positions = positions.next_power_of_two().max(128);
        let angle = |p: usize, c: usize| p as f64 * f64::from(theta).powf(-2.0 * c as f64 / d as f64);
        let turns: Vec<f32> = (0..positions)
            .flat_map(|p| {
                (0..d / 2).flat_map(move |c| {
                    let (sine, cosine) = angle(p, c).sin_cos();
                    [cosine as f32, sine as f32]
                })
            })
            .collect();
        let buffer = Arc::new(self.upload(bytemuck::cast_slice(&turns)));
        kept.insert(key, (positions, Arc::clone(&buffer)));
        buffer
    }

    /// Turn q and k by their positions: forward into another tensor, gradients back where they stand.
    fn turn(&self, op: &Attention, layout: &Packed<Self>, dtype: Dtype, from: u64, to: u64, d: usize, sign: f32) {
        let Some(theta) = op.rotary else { return };
        let turns = self.turns_for(theta, d, layout.sequences.longest());
        let tokens = layout.sequences.tokens();
        let parameters = Rotary {
            from,
            to,
            turns: turns.address(),
            starts: starts(layout),
            tokens: tokens as u32,
            heads: op.heads as u32,
            head_dim: d as u32,
            sequences: layout.sequences.count() as u32,
            sign,
            unused: 0,
        };
        self.launch("rotary", "rotary", dtype, [tokens.div_ceil(4), 1, 1], 128, 0, &parameters);
    }

    /// qkv turned by position where the model asks for it.
    fn turned(&self, op: &Attention, layout: &Packed<Self>, qkv: &View<Self>, d: usize) -> Option<Tensor<Self>> {
        op.rotary?;
        let mut turned = Tensor::new(self, qkv.dtype, qkv.rows, qkv.cols);
        let to = turned.view_mut().buffer.address();
        self.turn(op, layout, qkv.dtype, qkv.buffer.address(), to, d, 1.0);
        Some(turned)
    }
}

fn parameters(op: &Attention, layout: &Packed<Cuda>, d: usize, tiles: u64, qkv: u64, bias: Option<&View<Cuda>>) -> Parameters {
    let (visibility, window) = match op.visibility {
        Visibility::All => (0, 0),
        Visibility::Causal => (1, 0),
        // Wider than any sequence is all of it; the sum with a position must not overflow.
        Visibility::Window(w) => (2, w.min(1 << 30) as u32),
    };
    Parameters {
        qkv,
        y: 0,
        dy: 0,
        out: 0,
        lse: 0,
        delta: 0,
        starts: starts(layout),
        tiles,
        bias: address(bias),
        dbias: 0,
        draws: Draws::of(op.dropout),
        heads: op.heads as u32,
        head_dim: d as u32,
        visibility,
        window,
        scale: op.scale,
        reach: bias.map_or(0, |b| b.rows / 2) as u32,
    }
}

impl AttentionOp for Cuda {
    fn attention(
        &self,
        op: &Attention,
        layout: &Packed<Self>,
        qkv: View<Self>,
        bias: Option<View<Self>>,
        y: ViewMut<Self>,
        lse: Option<ViewMut<Self>>,
    ) {
        let d = y.cols / op.heads;
        let (tiles, count) = layout.starts.tiles(self, ROWS);
        let choice = self.choice(qkv.dtype, d, bias.is_some());
        let turned = self.turned(op, layout, &qkv, d);
        let qkv = turned.as_ref().map_or(qkv.buffer.address(), |t| t.view().buffer.address());
        let base = parameters(op, layout, d, tiles, qkv, bias.as_ref());
        let parameters = Parameters { out: y.buffer.address(), lse: address_mut(lse.as_ref()), ..base };
        let name = if choice.file == "attention" { "attention" } else { "attention_plain" };
        self.run(&choice, name, count, choice.shared[0], &parameters);
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
        dqkv: ViewMut<Self>,
    ) {
        let d = y.cols / op.heads;
        let (tiles, count) = layout.starts.tiles(self, ROWS);
        let choice = self.choice(qkv.dtype, d, bias.is_some());
        let (bias, dbias) = bias.unzip();
        // A block sums the slopes of its queries at every distance; the blocks' sums are added in order.
        let distances = bias.as_ref().map_or(0, |b| b.rows * b.cols);
        let partial = dbias.as_ref().map(|_| self.zeros(Dtype::F32, count * distances));
        let turned = self.turned(op, layout, &qkv, d);
        let from = turned.as_ref().map_or(qkv.buffer.address(), |t| t.view().buffer.address());
        let delta = self.alloc(Dtype::F32, y.rows * op.heads);
        let out = dqkv.buffer.address();
        let parameters = Parameters {
            y: address(Some(&y)),
            dy: address(Some(&dy)),
            out,
            lse: address(Some(&lse)),
            delta: delta.address(),
            dbias: partial.as_ref().map_or(0, Buffer::address),
            ..parameters(op, layout, d, tiles, from, bias.as_ref())
        };
        let names =
            if choice.file == "attention" { ["attention_dq", "attention_dkv"] } else { ["attention_plain_dq", "attention_plain_dkv"] };
        // The first leaves delta for the second.
        for name in names {
            self.run(&choice, name, count, choice.shared[1], &parameters);
        }
        self.turn(op, layout, qkv.dtype, out, out, d, -1.0);
        if let (Some(dbias), Some(partial)) = (dbias, partial) {
            self.clear(dbias.buffer, 0..distances);
            self.add_partials(partial.address(), distances, count, dbias.buffer.address(), distances);
        }
    }
}
