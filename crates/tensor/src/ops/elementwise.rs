//! Sums and dropout that no other op has taken in.

use crate::backend::{Backend, Storage};
use crate::conformance::{Case, Inputs};
use crate::plain::Plain;
use crate::random::{Key, Stream};
use crate::tape::{Dropout, Tape, Var};
use crate::tensor::{Tensor, View, ViewMut};

/// The contract of the elementwise ops.
pub trait ElementwiseOp: Storage {
    /// sum += x, of one shape and dtype.
    fn accumulate(&self, sum: ViewMut<Self>, x: View<Self>);

    /// y = x ⊙ factors. Dropout is its own backward: dx = dy ⊙ the same factors. Element index r·cols + c.
    fn dropout(&self, op: &Dropout, x: View<Self>, y: ViewMut<Self>);
}

impl<'a, B: Backend> Tape<'a, B> {
    /// x with dropout; x itself when `op` is `None`. // [T, H] → [T, H]
    pub fn dropout(&mut self, x: &Var<B>, op: Option<Dropout>) -> Var<B> {
        let Some(op) = op else { return x.clone() };
        let mut y = self.tensor(x.rows(), x.cols());
        self.backend().dropout(&op, x.view(), y.view_mut());
        let y = self.var(y);
        let (x, id) = (x.clone(), y.id());
        self.record(move |r| {
            let Some(dy) = r.take(id) else { return };
            let mut dx = Tensor::new(r.setting.backend, x.dtype(), x.rows(), x.cols());
            r.setting.backend.dropout(&op, dy.view(), dx.view_mut());
            r.add(&x, dx);
        });
        y
    }

    /// a + b. // [T, H], [T, H] → [T, H]
    pub fn add(&mut self, a: &Var<B>, b: &Var<B>) -> Var<B> {
        let (rows, cols) = (a.rows(), a.cols());
        assert_eq!((rows, cols), (b.rows(), b.cols()), "add: a is [{rows}, {cols}], b is [{}, {}]", b.rows(), b.cols());
        // A copy is a sum with the rows taken in order: one kernel less for a rare op.
        let all = self.backend().indices(&(0..rows as u32).collect::<Vec<_>>());
        let mut y = self.tensor(rows, cols);
        self.backend().gather(a.view(), &all, y.view_mut());
        self.backend().accumulate(y.view_mut(), b.view());
        let y = self.var(y);
        let (a, b, id) = (a.clone(), b.clone(), y.id());
        self.record(move |r| {
            let Some(dy) = r.take(id) else { return };
            let mut da = Tensor::new(r.setting.backend, dy.dtype(), rows, cols);
            r.setting.backend.gather(dy.view(), &all, da.view_mut());
            r.add(&a, da);
            r.add(&b, dy);
        });
        y
    }
}

impl ElementwiseOp for Plain {
    fn accumulate(&self, sum: ViewMut<Self>, x: View<Self>) {
        for (s, x) in sum.buffer.iter_mut().zip(x.buffer) {
            *s += x;
        }
    }

    fn dropout(&self, op: &Dropout, x: View<Self>, y: ViewMut<Self>) {
        for (i, (y, x)) in y.buffer.iter_mut().zip(x.buffer).enumerate() {
            *y = x * f64::from(op.factor(i as u64));
        }
    }
}

/// Odd sizes.
pub fn cases() -> Vec<ElementwiseCase> {
    [(0, 4), (1, 1), (9, 33), (40, 64)].map(|(tokens, hidden)| ElementwiseCase { tokens, hidden }).into()
}

/// One case of [`cases`].
#[derive(Debug)]
pub struct ElementwiseCase {
    tokens: usize,
    hidden: usize,
}

impl Case for ElementwiseCase {
    fn params(&self) -> Vec<(usize, usize)> {
        vec![]
    }

    fn inputs(&self) -> Vec<(usize, usize)> {
        vec![(self.tokens, self.hidden); 2]
    }

    fn run<'a, B: Backend>(&self, tape: &mut Tape<'a, B>, i: &Inputs<B>) -> Vec<Var<B>> {
        let dropped = tape.dropout(&i.vars[0], Some(Dropout { probability: 0.3, key: Key::new(1, Stream::Dropout, 9, 9) }));
        let sum = tape.add(&dropped, &i.vars[1]);
        let twice = tape.add(&sum, &i.vars[0]);
        vec![dropped, twice]
    }
}
