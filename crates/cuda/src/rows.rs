//! Rows taken by index, and added back to where they came from: sorted on the host, summed without atomics.

use bytemuck::{Pod, Zeroable};
use cloze_tensor::ops::rows::RowsOp;
use cloze_tensor::{Dtype, Target, View, ViewMut, Write};

use crate::Cuda;
use crate::backend::Indices;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Gather {
    x: u64,
    rows: u64,
    y: u64,
    count: u64,
    cols: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Scatter {
    dy: u64,
    order: u64,
    pieces: u64,
    slots: u64,
    gradient: u64,
    dx: u64,
    count: u32,
    cols: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Combine {
    targets: u64,
    slots: u64,
    gradient: u64,
    dx: u64,
    count: u32,
    cols: u32,
}

/// Rows that one block adds up, at most: a frequent token is many pieces.
const PIECE: usize = 64;

/// No slot; NO_SLOT in kernels/rows.cu.
const NO_SLOT: u32 = u32::MAX;

/// Who is added to whom: rows sorted by their target, cut into pieces.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Rows, by target, then in their order.
    order: Vec<u32>,
    /// Target, first and last place in `order`, slot.
    pieces: Vec<[u32; 4]>,
    /// Targets of more than one piece: target, first and last slot, nothing.
    targets: Vec<[u32; 4]>,
}

impl Plan {
    /// Row `i` goes to `targets[i]`, below `rows`.
    pub(crate) fn new(targets: &[u32], rows: usize) -> Self {
        // A counting sort: stable, and linear in both.
        let mut ends = vec![0u32; rows + 1];
        for &t in targets {
            ends[t as usize + 1] += 1;
        }
        for i in 0..rows {
            ends[i + 1] += ends[i];
        }
        let mut next = ends.clone();
        let mut order = vec![0; targets.len()];
        for (i, &t) in targets.iter().enumerate() {
            order[next[t as usize] as usize] = i as u32;
            next[t as usize] += 1;
        }
        let mut plan = Self { order, ..Self::default() };
        let mut slots = 0;
        for target in 0..rows {
            let (first, last) = (ends[target], ends[target + 1]);
            let pieces = (last - first).div_ceil(PIECE as u32);
            for i in 0..pieces {
                let begin = first + i * PIECE as u32;
                let slot = if pieces == 1 { NO_SLOT } else { slots + i };
                plan.pieces.push([target as u32, begin, last.min(begin + PIECE as u32), slot]);
            }
            if pieces > 1 {
                plan.targets.push([target as u32, slots, slots + pieces, 0]);
                slots += pieces;
            }
        }
        plan
    }

    fn slots(&self) -> usize {
        self.targets.last().map_or(0, |t| t[2] as usize)
    }
}

/// Where sums go: f32 gradients, or a tensor of the activations' kind.
#[derive(Clone, Copy)]
pub(crate) enum Sums {
    /// Address of row 0.
    Gradient(u64),
    /// Address of row 0.
    Tensor(u64),
}

impl Cuda {
    /// Add the rows of dy to their targets, rows of `cols` elements.
    pub(crate) fn scatter(&self, plan: &Plan, dy: &View<Self>, to: Sums) {
        if plan.pieces.is_empty() || dy.cols == 0 {
            return;
        }
        let cols = dy.cols;
        let mut all: Vec<u32> = Vec::with_capacity(4 * (plan.pieces.len() + plan.targets.len()) + plan.order.len());
        all.extend(plan.pieces.iter().chain(&plan.targets).flatten());
        all.extend(&plan.order);
        let all = self.upload(bytemuck::cast_slice(&all));
        let slots = self.memory().buffer(Dtype::F32, plan.slots() * cols);
        let (gradient, dx) = match to {
            Sums::Gradient(address) => (address, 0),
            Sums::Tensor(address) => (0, address),
        };
        let (pieces, targets) = (plan.pieces.len(), plan.targets.len());
        let scatter = Scatter {
            dy: dy.buffer.address(),
            order: all.at(4 * (pieces + targets)),
            pieces: all.address(),
            slots: slots.address(),
            gradient,
            dx,
            count: pieces as u32,
            cols: cols as u32,
        };
        self.launch("rows", "scatter", dy.dtype, [pieces, cols.div_ceil(128), 1], 128, 0, &scatter);
        let (targets, at) = (targets as u32, all.at(4 * pieces));
        let combine = Combine { targets: at, slots: slots.address(), gradient, dx, count: targets, cols: cols as u32 };
        self.launch("rows", "combine", dy.dtype, [targets as usize, cols.div_ceil(128), 1], 128, 0, &combine);
    }
}

impl RowsOp for Cuda {
    fn gather(&self, x: View<Self>, rows: &Indices, y: ViewMut<Self>) {
        assert!(y.rows <= rows.host().len(), "gather: {} rows of {} indices", y.rows, rows.host().len());
        let (count, cols) = (y.rows as u64, y.cols as u32);
        let parameters = Gather { x: x.buffer.address(), rows: rows.address(), y: y.buffer.address(), count, cols, unused: 0 };
        self.launch("rows", "gather", x.dtype, [y.rows.div_ceil(4), 1, 1], 128, 0, &parameters);
    }

    fn gather_backward(&self, rows: &Indices, dy: View<Self>, dx: Target<Self>) {
        let view = dx.view;
        if dx.write == Write::Over {
            use cloze_tensor::Storage;
            self.clear(view.buffer, 0..view.rows * view.cols);
        }
        let plan = Plan::new(&rows.host()[..dy.rows], view.rows);
        self.scatter(&plan, &dy, Sums::Tensor(view.buffer.address()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_added_once_and_in_order() {
        let targets: Vec<u32> = (0..500u32).map(|i| if i % 3 == 0 { 2 } else { i * i % 11 }).collect();
        let plan = Plan::new(&targets, 12);
        let mut seen = vec![Vec::<u32>::new(); 12];
        for &[target, first, last, _] in &plan.pieces {
            assert!(first < last && last - first <= PIECE as u32);
            seen[target as usize].extend(&plan.order[first as usize..last as usize]);
        }
        for (target, rows) in seen.iter().enumerate() {
            let expected: Vec<u32> = (0..500).filter(|&i| targets[i as usize] == target as u32).collect();
            assert_eq!(rows, &expected);
        }
        let slots: Vec<u32> = plan.pieces.iter().map(|p| p[3]).filter(|&s| s != NO_SLOT).collect();
        assert_eq!(slots, (0..plan.slots() as u32).collect::<Vec<_>>());
        assert!(plan.targets.iter().any(|t| t[0] == 2) && plan.slots() > 2);
        assert_eq!(Plan::new(&[], 3), Plan::default());
    }
}
