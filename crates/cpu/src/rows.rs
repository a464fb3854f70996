//! Selections of rows. Backward goes over the rows of x, so each is written by one task, with equal rows added in
//! the order in which they were taken.

use std::sync::Arc;

use cloze_tensor::ops::rows::RowsOp;
use cloze_tensor::{Target, View, ViewMut, Write};

use crate::backend::{Cpu, TASK, by_dtype, elements, elements_mut, produce};
use crate::simd::{Kernel, Lane, Simd, dispatch};

impl RowsOp for Cpu {
    fn gather(&self, x: View<Self>, rows: &Arc<[u32]>, mut y: ViewMut<Self>) {
        let cols = x.cols;
        assert!(rows.len() == y.rows, "gather: {} rows are taken to y of [{}, {}]", rows.len(), y.rows, y.cols);
        by_dtype!(x.dtype, T => {
            let x = elements::<T>(x);
            self.threads().for_rows(elements_mut::<T>(&mut y), cols, TASK.div_ceil(cols.max(1)), |first, y| {
                for (y, &row) in y.chunks_exact_mut(cols).zip(&rows[first..]) {
                    y.copy_from_slice(&x[row as usize * cols..][..cols]);
                }
            });
        });
    }

    fn gather_backward(&self, rows: &Arc<[u32]>, dy: View<Self>, mut dx: Target<Self>) {
        let (count, cols, write) = (dx.view.rows, dx.view.cols, dx.write);
        if let Some(row) = rows.iter().find(|&&row| row as usize >= count) {
            panic!("gather_backward: row {row} of dx, which is [{count}, {cols}]");
        }
        let order = order(rows);
        by_dtype!(dy.dtype, T => {
            let dy = elements::<T>(dy);
            self.threads().for_rows(elements_mut::<T>(&mut dx.view), cols, TASK.div_ceil(cols.max(1)), |first, dx| {
                dispatch(self.level(), Backward { cols, first, rows, order: &order, dy, dx, write });
            });
        });
    }
}

/// The places of `rows`, by row and among equal rows by place.
fn order(rows: &[u32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..rows.len() as u32).collect();
    if !rows.is_sorted() {
        order.sort_by_key(|&m| rows[m as usize]);
    }
    order
}

struct Backward<'a, T> {
    cols: usize,
    /// The row of x at which `dx` starts.
    first: usize,
    rows: &'a [u32],
    order: &'a [u32],
    dy: &'a [T],
    dx: &'a mut [T],
    write: Write,
}

impl<T: Lane> Kernel for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.cols;
        let row_of = |m: u32| self.rows[m as usize] as usize;
        let mut next = self.order.partition_point(|&m| row_of(m) < self.first);
        let sum = &mut vec![0.0; cols][..];
        for (t, dx) in self.dx.chunks_exact_mut(cols).enumerate() {
            let from = next;
            while next < self.order.len() && row_of(self.order[next]) == self.first + t {
                next += 1;
            }
            if from == next {
                if self.write == Write::Over {
                    dx.fill(T::default());
                }
                continue;
            }
            for (i, &m) in self.order[from..next].iter().enumerate() {
                let dy = &self.dy[m as usize * cols..][..cols];
                for c in (0..cols).step_by(S::LANES) {
                    let d = s.load_at(dy, c);
                    let d = if i == 0 { d } else { s.add(s.load_at(sum, c), d) };
                    s.store_at(sum, c, d);
                }
            }
            for c in (0..cols).step_by(S::LANES) {
                produce(s, self.write, dx, c, s.load_at(sum, c));
            }
        }
    }
}
