//! Sums, dropout and activations that no other op has taken in.
//!
//! Columns: y = a, then y[:, first..first + n] += scale · x; backward da = dy, dx = scale · dy[:, first..first + n].
//! Activation: y = f(x); backward dx = dy ⊙ f′(x).

use super::activation::Activation;
use crate::backend::{Backend, Storage};
use crate::conformance::{Case, Inputs};
use crate::plain::Plain;
use crate::random::{Key, Stream};
use crate::tape::{Dropout, Tape, Var};
use crate::tensor::{Tensor, View, ViewMut};

/// Where columns are added, and how much of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Columns {
    /// The first of them.
    pub first: usize,
    /// What is added is multiplied by this.
    pub scale: f32,
}

/// The contract of the elementwise ops. Those with a body here are rare: a device without kernels for them has the host
/// compute them.
pub trait ElementwiseOp: Storage {
    /// sum += x, of one shape and dtype.
    fn accumulate(&self, sum: ViewMut<Self>, x: View<Self>);

    /// y = x ⊙ factors. Dropout is its own backward: dx = dy ⊙ the same factors. Element index r·cols + c.
    fn dropout(&self, op: &Dropout, x: View<Self>, y: ViewMut<Self>);

    /// y[:, first..first + n] += scale · x. // x [T, n], y [T, C]
    fn add_columns(&self, op: Columns, x: View<Self>, y: ViewMut<Self>) {
        let (values, mut sums) = (self.read(x.buffer, 0..x.rows * x.cols), self.read(y.buffer, 0..y.rows * y.cols));
        for (x, y) in values.chunks_exact(x.cols.max(1)).zip(sums.chunks_exact_mut(y.cols.max(1))) {
            y[op.first..][..x.len()].iter_mut().zip(x).for_each(|(y, x)| *y += op.scale * x);
        }
        self.write(y.buffer, 0, &sums);
    }

    /// x = scale · y[:, first..first + n]. // y [T, C], x [T, n]
    fn take_columns(&self, op: Columns, y: View<Self>, x: ViewMut<Self>) {
        let from = self.read(y.buffer, 0..y.rows * y.cols);
        let taken = from.chunks_exact(y.cols.max(1)).flat_map(|y| y[op.first..][..x.cols].iter().map(|y| op.scale * y));
        let taken: Vec<f32> = taken.collect();
        self.write(x.buffer, 0, &taken);
    }

    /// y = f(x), of one shape.
    fn activate(&self, f: Activation, x: View<Self>, y: ViewMut<Self>) {
        let values: Vec<f32> = self.read(x.buffer, 0..x.rows * x.cols).iter().map(|&x| f.value(f64::from(x)) as f32).collect();
        self.write(y.buffer, 0, &values);
    }

    /// dx = dy ⊙ f′(x), of one shape.
    fn activate_backward(&self, f: Activation, x: View<Self>, dy: View<Self>, dx: ViewMut<Self>) {
        let (values, above) = (self.read(x.buffer, 0..x.rows * x.cols), self.read(dy.buffer, 0..dy.rows * dy.cols));
        let gradient: Vec<f32> = values.iter().zip(above).map(|(&x, d)| d * f.derivative(f64::from(x)) as f32).collect();
        self.write(dx.buffer, 0, &gradient);
    }
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
        let all = self.backend().indices(&(0..rows as u32).collect::<Vec<_>>());
        let mut y = self.copy(a);
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

    /// The values of `x` once more: the rows taken in order, which is one kernel less for rare ops.
    fn copy(&self, x: &Var<B>) -> Tensor<B> {
        let all = self.backend().indices(&(0..x.rows() as u32).collect::<Vec<_>>());
        let mut y = self.tensor(x.rows(), x.cols());
        self.backend().gather(x.view(), &all, y.view_mut());
        y
    }

    /// `a` with `scale` · x added to its columns from `first` on. `a` is changed in place where nothing else needs it.
    /// // [T, C], [T, n] → [T, C]
    pub fn add_columns(&mut self, a: Var<B>, x: &Var<B>, op: Columns) -> Var<B> {
        let (rows, cols, taken, from) = (a.rows(), a.cols(), x.cols(), a.id());
        assert!(
            x.rows() == rows && op.first + taken <= cols,
            "add_columns: a is [{rows}, {cols}], x is [{}, {taken}], from column {}",
            x.rows(),
            op.first
        );
        let mut y = a.into_tensor().unwrap_or_else(|shared| self.copy(&shared));
        self.backend().add_columns(op, x.view(), y.view_mut());
        let y = self.var(y);
        let (x, id) = (x.clone(), y.id());
        self.record(move |r| {
            let Some(dy) = r.take(id) else { return };
            let mut dx = Tensor::new(r.setting.backend, dy.dtype(), rows, taken);
            r.setting.backend.take_columns(op, dy.view(), dx.view_mut());
            r.add(&x, dx);
            r.add_id(from, dy);
        });
        y
    }

    /// f(x), where a sum stands between a linear map and its activation. // [T, I] → [T, I]
    pub fn activate(&mut self, x: &Var<B>, f: Activation) -> Var<B> {
        let mut y = self.tensor(x.rows(), x.cols());
        self.backend().activate(f, x.view(), y.view_mut());
        let y = self.var(y);
        let (x, id) = (x.clone(), y.id());
        self.record(move |r| {
            let Some(dy) = r.take(id) else { return };
            let mut dx = Tensor::new(r.setting.backend, x.dtype(), x.rows(), x.cols());
            r.setting.backend.activate_backward(f, x.view(), dy.view(), dx.view_mut());
            r.add(&x, dx);
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

    fn add_columns(&self, op: Columns, x: View<Self>, mut y: ViewMut<Self>) {
        for t in 0..x.rows {
            for (y, x) in y.row(t)[op.first..].iter_mut().zip(x.row(t)) {
                *y += f64::from(op.scale) * x;
            }
        }
    }

    fn take_columns(&self, op: Columns, y: View<Self>, mut x: ViewMut<Self>) {
        for t in 0..y.rows {
            for (x, y) in x.row(t).iter_mut().zip(&y.row(t)[op.first..]) {
                *x = f64::from(op.scale) * y;
            }
        }
    }

    fn activate(&self, f: Activation, x: View<Self>, y: ViewMut<Self>) {
        for (y, x) in y.buffer.iter_mut().zip(x.buffer) {
            *y = f.value(*x);
        }
    }

    fn activate_backward(&self, f: Activation, x: View<Self>, dy: View<Self>, dx: ViewMut<Self>) {
        for ((dx, x), dy) in dx.buffer.iter_mut().zip(x.buffer).zip(dy.buffer) {
            *dx = dy * f.derivative(*x);
        }
    }
}

/// Odd sizes, every activation.
pub fn cases() -> Vec<ElementwiseCase> {
    let sizes = [(0, 4), (1, 1), (9, 33), (40, 64), (3, 70)];
    sizes.into_iter().zip(Activation::ALL).map(|((tokens, hidden), f)| ElementwiseCase { tokens, hidden, f }).collect()
}

/// One case of [`cases`].
#[derive(Debug)]
pub struct ElementwiseCase {
    tokens: usize,
    hidden: usize,
    f: Activation,
}

impl Case for ElementwiseCase {
    fn params(&self) -> Vec<(usize, usize)> {
        vec![]
    }

    fn inputs(&self) -> Vec<(usize, usize)> {
        vec![(self.tokens, self.hidden), (self.tokens, self.hidden), (self.tokens, self.hidden.div_ceil(3))]
    }

    fn run<'a, B: Backend>(&self, tape: &mut Tape<'a, B>, i: &Inputs<B>) -> Vec<Var<B>> {
        let dropped = tape.dropout(&i.vars[0], Some(Dropout { probability: 0.3, key: Key::new(1, Stream::Dropout, 9, 9) }));
        let sum = tape.add(&dropped, &i.vars[1]);
        let twice = tape.add(&sum, &i.vars[0]);
        // once on a tensor that is needed elsewhere, once in place
        let last = self.hidden - self.hidden.div_ceil(3);
        let kept = tape.add_columns(i.vars[1].clone(), &i.vars[2], Columns { first: last, scale: 1.5 });
        let changed = tape.add_columns(kept, &i.vars[2], Columns { first: last / 2, scale: -0.5 });
        let active = tape.activate(&changed, self.f);
        vec![dropped, twice, active]
    }
}
