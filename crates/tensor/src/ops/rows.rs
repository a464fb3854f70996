//! `y[m] = x[rows[m]]`: a selection of rows. Backward adds `dy[m]` to `dx[rows[m]]`; rows may repeat.

use crate::backend::{Backend, Storage};
use crate::conformance::{Case, Inputs};
use crate::plain::Plain;
use crate::tape::{Tape, Var};
use crate::tensor::{Target, View, ViewMut, Write};

/// The contract of the row selection.
pub trait RowsOp: Storage {
    /// x \[T, H\], rows \[M\] → y \[M, H\].
    fn gather(&self, x: View<Self>, rows: &Self::Indices, y: ViewMut<Self>);

    /// dx [T, H]: overwritten (zero where no row was taken) or added to.
    fn gather_backward(&self, rows: &Self::Indices, dy: View<Self>, dx: Target<Self>);
}

impl<'a, B: Backend> Tape<'a, B> {
    /// The rows of x at `rows`, `count` of them, each below T (checked where they enter). // [T, H] → [M, H]
    pub fn gather(&mut self, x: &Var<B>, rows: &B::Indices, count: usize) -> Var<B> {
        let mut y = self.tensor(count, x.cols());
        self.backend().gather(x.view(), rows, y.view_mut());
        let y = self.var(y);
        let (x, rows, id) = (x.clone(), rows.clone(), y.id());
        self.record(move |r| {
            let Some(dy) = r.take(id) else { return };
            let mut dx = r.slot(&x);
            r.setting.backend.gather_backward(&rows, dy.view(), dx.target());
            r.put(dx);
        });
        y
    }
}

impl RowsOp for Plain {
    fn gather(&self, x: View<Self>, rows: &Self::Indices, mut y: ViewMut<Self>) {
        for (m, &row) in rows.iter().enumerate() {
            y.row(m).copy_from_slice(x.row(row as usize));
        }
    }

    fn gather_backward(&self, rows: &Self::Indices, dy: View<Self>, dx: Target<Self>) {
        let mut view = dx.view;
        if dx.write == Write::Over {
            view.buffer[..view.rows * view.cols].fill(0.0);
        }
        for (m, &row) in rows.iter().enumerate() {
            for c in 0..dy.cols {
                view.row(row as usize)[c] += dy.row(m)[c];
            }
        }
    }
}

/// Some rows, no rows, repeated rows; a second use of x makes the gradient accumulate.
pub fn cases() -> Vec<RowsCase> {
    vec![
        RowsCase { tokens: 9, hidden: 33, rows: vec![0, 3, 8] },
        RowsCase { tokens: 9, hidden: 33, rows: vec![] },
        RowsCase { tokens: 40, hidden: 64, rows: vec![5, 5, 1, 39, 5] },
    ]
}

/// One case of [`cases`].
#[derive(Debug)]
pub struct RowsCase {
    tokens: usize,
    hidden: usize,
    rows: Vec<u32>,
}

impl Case for RowsCase {
    fn params(&self) -> Vec<(usize, usize)> {
        vec![]
    }

    fn inputs(&self) -> Vec<(usize, usize)> {
        vec![(self.tokens, self.hidden)]
    }

    fn run<'a, B: Backend>(&self, tape: &mut Tape<'a, B>, i: &Inputs<B>) -> Vec<Var<B>> {
        let rows = tape.backend().indices(&self.rows);
        let all = tape.backend().indices(&(0..self.tokens as u32).collect::<Vec<_>>());
        vec![tape.gather(&i.vars[0], &rows, self.rows.len()), tape.gather(&i.vars[0], &all, self.tokens)]
    }
}
