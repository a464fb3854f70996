//! The reference backend: every op as the plain loop of its formula, in f64.
//!
//! It is the specification. Other backends are checked against it, and its backward halves are checked against
//! finite differences. The ops' plain loops stand in the ops' own files.

use std::ops::Range;
use std::sync::Arc;

use crate::backend::Storage;
use crate::dtype::Dtype;
use crate::tensor::{Param, Target, View, ViewMut, Weights, Write};

/// Plain loops in f64; the dtype of a tensor is ignored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Storage for Plain {
    type Buffer = Vec<f64>;
    type Indices = Arc<[u32]>;
    type Packed = ();

    fn alloc(&self, _: Dtype, len: usize) -> Vec<f64> {
        vec![f64::NAN; len] // whoever reads what it did not write, sees it
    }

    fn zeros(&self, _: Dtype, len: usize) -> Vec<f64> {
        vec![0.0; len]
    }

    fn clear(&self, buffer: &mut Vec<f64>, range: Range<usize>) {
        buffer[range].fill(0.0);
    }

    fn write(&self, buffer: &mut Vec<f64>, offset: usize, values: &[f32]) {
        for (to, from) in buffer[offset..offset + values.len()].iter_mut().zip(values) {
            *to = f64::from(*from);
        }
    }

    fn read(&self, buffer: &Vec<f64>, range: Range<usize>) -> Vec<f32> {
        buffer[range].iter().map(|&v| v as f32).collect()
    }

    fn indices(&self, values: &[u32]) -> Arc<[u32]> {
        values.into()
    }

    fn leaves_out_frozen(&self) -> bool {
        true
    }
}

/// Whether a gradient buffer holds that of `param`; a frozen parameter stands behind its end.
pub(crate) fn learns(gradients: &[f64], param: Param) -> bool {
    param.range().end <= gradients.len()
}

impl<'a> View<'a, Plain> {
    /// Row `r`.
    pub(crate) fn row(&self, r: usize) -> &'a [f64] {
        &self.buffer[r * self.cols..(r + 1) * self.cols]
    }
}

impl ViewMut<'_, Plain> {
    /// Row `r`.
    pub(crate) fn row(&mut self, r: usize) -> &mut [f64] {
        &mut self.buffer[r * self.cols..(r + 1) * self.cols]
    }
}

impl Target<'_, Plain> {
    /// Write or add `value` at `[r, c]`.
    pub(crate) fn set(&mut self, r: usize, c: usize, value: f64) {
        let at = &mut self.view.row(r)[c];
        *at = if self.write == Write::Add { *at + value } else { value };
    }
}

impl Weights<Plain> {
    /// The elements of `param`.
    pub(crate) fn of(&self, param: Param) -> &[f64] {
        let (weights, param) = self.place(param);
        &weights.flat()[param.range()]
    }
}
