//! One vector for each sequence. A task takes whole sequences.

use std::ops::Range;

use cloze_tensor::ops::pool::{Pool, PoolOp};
use cloze_tensor::{Packed, Target, View, ViewMut, Write};

use crate::backend::{Cpu, by_dtype, elements, elements_mut, produce};
use crate::simd::{Kernel, Lane, Simd, dispatch};
use crate::threads::SharedMut;

impl PoolOp for Cpu {
    fn pool(&self, op: Pool, layout: &Packed<Self>, x: View<Self>, mut y: ViewMut<Self>) {
        let cols = x.cols;
        by_dtype!(x.dtype, T => {
            let x = elements::<T>(x);
            let y = SharedMut::new(elements_mut::<T>(&mut y));
            self.threads().for_each(layout.sequences.count(), |sequence| {
                // SAFETY: each sequence has its own row.
                let y = unsafe { y.slice(sequence * cols..(sequence + 1) * cols) };
                let tokens = layout.sequences.range(sequence);
                dispatch(self.level(), Forward { op, x: &x[tokens.start * cols..tokens.end * cols], y });
            });
        });
    }

    fn pool_backward(&self, op: Pool, layout: &Packed<Self>, x: View<Self>, dy: View<Self>, mut dx: Target<Self>) {
        let (cols, write) = (x.cols, dx.write);
        by_dtype!(x.dtype, T => {
            let (x, dy) = (elements::<T>(x), elements::<T>(dy));
            let dx = SharedMut::new(elements_mut::<T>(&mut dx.view));
            self.threads().for_each(layout.sequences.count(), |sequence| {
                let tokens: Range<usize> = layout.sequences.range(sequence);
                let of = tokens.start * cols..tokens.end * cols;
                // SAFETY: sequences do not overlap.
                let dx = unsafe { dx.slice(of.clone()) };
                dispatch(self.level(), Backward { op, x: &x[of], dy: &dy[sequence * cols..(sequence + 1) * cols], dx, write });
            });
        });
    }
}

/// The largest value of each column and the place of the earliest row that has it.
#[inline(always)]
fn maximum<S: Simd, T: Lane>(s: S, x: &[T], best: &mut [f32], place: &mut [f32]) {
    let cols = best.len();
    for (t, row) in x.chunks_exact(cols).enumerate() {
        let here = s.splat(t as f32);
        for c in (0..cols).step_by(S::LANES) {
            let (v, b) = (s.load_at(row, c), s.load_at(best, c));
            let larger = s.lt(b, v);
            let (b, p) = (s.select(larger, v, b), s.select(larger, here, s.load_at(place, c)));
            s.store_at(best, c, if t == 0 { v } else { b });
            s.store_at(place, c, if t == 0 { s.zero() } else { p });
        }
    }
}

struct Forward<'a, T> {
    op: Pool,
    /// One sequence. // [length, H]
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Lane> Kernel for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.y.len();
        if self.x.is_empty() {
            self.y.fill(T::default());
            return;
        }
        let mut row = vec![0.0; 2 * cols];
        let (row, place) = row.split_at_mut(cols);
        match self.op {
            Pool::First => return self.y.copy_from_slice(&self.x[..cols]),
            Pool::Mean => {
                for x in self.x.chunks_exact(cols) {
                    for c in (0..cols).step_by(S::LANES) {
                        s.store_at(row, c, s.add(s.load_at(row, c), s.load_at(x, c)));
                    }
                }
            }
            Pool::Max => maximum(s, self.x, row, place),
        }
        let scale = s.splat(if self.op == Pool::Mean { 1.0 / (self.x.len() / cols) as f32 } else { 1.0 });
        for c in (0..cols).step_by(S::LANES) {
            s.store_at(self.y, c, s.mul(s.load_at(row, c), scale));
        }
    }
}

struct Backward<'a, T> {
    op: Pool,
    /// One sequence. // [length, H]
    x: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
    write: Write,
}

impl<T: Lane> Kernel for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.dy.len();
        if self.x.is_empty() {
            return;
        }
        let mut scratch = vec![0.0; 2 * cols];
        let (best, place) = scratch.split_at_mut(cols);
        if self.op == Pool::Max {
            maximum(s, self.x, best, place);
        }
        let share = s.splat(1.0 / (self.x.len() / cols) as f32);
        for (t, dx) in self.dx.chunks_exact_mut(cols).enumerate() {
            if self.op == Pool::First && t > 0 {
                match self.write {
                    Write::Over => dx.fill(T::default()),
                    Write::Add => return,
                }
                continue;
            }
            let here = s.splat(t as f32);
            for c in (0..cols).step_by(S::LANES) {
                let d = s.load_at(self.dy, c);
                let d = match self.op {
                    Pool::First => d,
                    Pool::Mean => s.mul(d, share),
                    Pool::Max => s.select(s.eq(s.load_at(place, c), here), d, s.zero()),
                };
                produce(s, self.write, dx, c, d);
            }
        }
    }
}
