//! The bias of scores by distance. A head's column of the table is spread out for a task, so that a row of scores finds its biases side by
//! side: key j of query i reads the place after the one of key j − 1, and the row of query i + 1 starts one place before that of query i.

use super::Threads;
use crate::threads::SharedMut;
use cloze_tensor::Sequences;

/// A table of biases. // f32 [2R + 1, N]
#[derive(Clone, Copy)]
pub(super) struct Bias<'a> {
    table: &'a [f32],
    heads: usize,
}

impl<'a> Bias<'a> {
    pub(super) fn new(table: &'a [f32], heads: usize) -> Self {
        let rows = table.len() / heads;
        assert!(rows % 2 == 1 && table.len() == rows * heads, "attention: {} biases are not [2 R + 1, {heads}]", table.len());
        Self { table, heads }
    }

    /// 2R + 1.
    fn rows(&self) -> usize {
        self.table.len() / self.heads
    }

    /// The distances that a sequence of `n` tokens has rows for: −r … r.
    fn reach(&self, n: usize) -> usize {
        (self.rows() / 2).min(n - 1)
    }

    /// What one head adds at the distances −`before`, 1 − `before`, … of a key from its query.
    ///
    /// # Safety
    /// `to` takes `count` values.
    pub(super) unsafe fn spread(&self, head: usize, before: isize, count: usize, to: *mut f32) {
        let reach = (self.rows() / 2) as isize;
        for place in 0..count {
            let row = (place as isize - before).clamp(-reach, reach) + reach;
            // SAFETY: the caller vouches for the places.
            unsafe { to.add(place).write(self.table[row as usize * self.heads + head]) };
        }
    }

    /// Where the partial gradients of a head of a sequence stand: 2r + 1 of them, of 2n. All take 2·T·N.
    pub(super) fn place(&self, sequence: &std::ops::Range<usize>, head: usize) -> std::ops::Range<usize> {
        let n = sequence.len();
        let start = 2 * (sequence.start * self.heads + head * n);
        start..start + 2 * self.reach(n) + 1
    }

    /// The gradients of spread biases of a sequence of `n` tokens, from distance −(n − 1) on, brought together to −r … r.
    pub(super) fn fold(&self, n: usize, spread: &[f32], partial: &mut [f32]) {
        let far = n - 1 - self.reach(n);
        partial.fill(0.0);
        for (place, d) in spread[..2 * n - 1].iter().enumerate() {
            partial[place.saturating_sub(far).min(partial.len() - 1)] += d;
        }
    }

    /// The sums over all sequences, in their order, of what [`Bias::fold`] left. // partials [2·T·N] → [2R + 1, N]
    pub(super) fn sum(&self, threads: &Threads, sequences: &Sequences, partials: &[f32], gradient: &mut [f32]) {
        let rows = self.rows();
        let gradient = SharedMut::new(gradient);
        threads.for_each(self.heads, |head| {
            let mut sums = vec![0.0f32; rows];
            for sequence in sequences.ranges().filter(|r| !r.is_empty()) {
                let first = rows / 2 - self.reach(sequence.len());
                let partial = &partials[self.place(&sequence, head)];
                sums[first..first + partial.len()].iter_mut().zip(partial).for_each(|(sum, d)| *sum += d);
            }
            for (row, sum) in sums.into_iter().enumerate() {
                let at = row * self.heads + head;
                // SAFETY: each column belongs to one task.
                unsafe { gradient.slice(at..at + 1)[0] = sum };
            }
        });
    }
}
