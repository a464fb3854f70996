//! One row for each sequence: its first token, the mean of its tokens, or their maximum.
//!
//! Backward: the first token gets dy; each token dy / length; the token that held the maximum (the earliest of
//! equals) dy. An empty sequence pools to zeros.

use crate::backend::{Backend, Packed, Storage};
use crate::conformance::{Case, Inputs};
use crate::plain::Plain;
use crate::sequences::Sequences;
use crate::tape::{Tape, Var};
use crate::tensor::{Target, View, ViewMut};

/// How a sequence becomes one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pool {
    /// Its first token (\[CLS\]).
    First,
    /// The mean over its tokens.
    Mean,
    /// The maximum over its tokens, by component.
    Max,
}

/// The contract of [`Pool`].
pub trait PoolOp: Storage {
    /// x [T, H] → y [S, H].
    fn pool(&self, op: Pool, layout: &Packed<Self>, x: View<Self>, y: ViewMut<Self>);

    /// dx [T, H]: overwritten or added to.
    fn pool_backward(&self, op: Pool, layout: &Packed<Self>, x: View<Self>, dy: View<Self>, dx: Target<Self>);
}

impl<'a, B: Backend> Tape<'a, B> {
    /// One row for each sequence. // [T, H] → [S, H]
    pub fn pool(&mut self, x: &Var<B>, layout: &Packed<B>, op: Pool) -> Var<B> {
        assert_eq!(layout.sequences.tokens(), x.rows(), "pool: the layout has {} tokens, x {}", layout.sequences.tokens(), x.rows());
        let mut y = self.tensor(layout.sequences.count(), x.cols());
        self.backend().pool(op, layout, x.view(), y.view_mut());
        let y = self.var(y);
        let (x, layout, id) = (x.clone(), layout.clone(), y.id());
        self.record(move |r| {
            let Some(dy) = r.take(id) else { return };
            let mut dx = r.slot(&x);
            r.setting.backend.pool_backward(op, &layout, x.view(), dy.view(), dx.target());
            r.put(dx);
        });
        y
    }
}

/// The earliest token of `sequence` with the largest component `c`.
fn argmax(x: &View<Plain>, sequence: std::ops::Range<usize>, c: usize) -> usize {
    let mut best = sequence.start;
    for t in sequence {
        if x.row(t)[c] > x.row(best)[c] {
            best = t;
        }
    }
    best
}

impl PoolOp for Plain {
    fn pool(&self, op: Pool, layout: &Packed<Self>, x: View<Self>, mut y: ViewMut<Self>) {
        for (s, sequence) in layout.sequences.ranges().enumerate() {
            for c in 0..x.cols {
                y.row(s)[c] = match op {
                    _ if sequence.is_empty() => 0.0,
                    Pool::First => x.row(sequence.start)[c],
                    Pool::Mean => sequence.clone().map(|t| x.row(t)[c]).sum::<f64>() / sequence.len() as f64,
                    Pool::Max => x.row(argmax(&x, sequence.clone(), c))[c],
                };
            }
        }
    }

    fn pool_backward(&self, op: Pool, layout: &Packed<Self>, x: View<Self>, dy: View<Self>, mut dx: Target<Self>) {
        for (s, sequence) in layout.sequences.ranges().enumerate() {
            for t in sequence.clone() {
                for c in 0..dy.cols {
                    let share = match op {
                        Pool::First => f64::from(t == sequence.start),
                        Pool::Mean => 1.0 / sequence.len() as f64,
                        Pool::Max => f64::from(t == argmax(&x, sequence.clone(), c)),
                    };
                    dx.set(t, c, share * dy.row(s)[c]);
                }
            }
        }
    }
}

/// Each kind, with an empty sequence between; a second use makes the gradient accumulate.
pub fn cases() -> Vec<PoolCase> {
    [Pool::First, Pool::Mean, Pool::Max].into_iter().flat_map(|op| [7, 64].map(|hidden| PoolCase { op, hidden })).collect()
}

/// One case of [`cases`].
#[derive(Debug)]
pub struct PoolCase {
    op: Pool,
    hidden: usize,
}

impl Case for PoolCase {
    fn params(&self) -> Vec<(usize, usize)> {
        vec![]
    }

    fn inputs(&self) -> Vec<(usize, usize)> {
        vec![(17, self.hidden)]
    }

    fn run<'a, B: Backend>(&self, tape: &mut Tape<'a, B>, i: &Inputs<B>) -> Vec<Var<B>> {
        let layout = Packed::new(tape.backend(), Sequences::from_lengths([1, 9, 0, 7]));
        vec![tape.pool(&i.vars[0], &layout, self.op), tape.pool(&i.vars[0], &layout, Pool::First)]
    }
}
