//! A row of draws from one key.

use cloze_tensor::random::Key;

/// Draws taken one after the other from a key; the key alone decides all of them.
pub(crate) struct Draws {
    key: Key,
    block: [u32; 4],
    next: u64,
}

impl Draws {
    pub(crate) fn new(key: Key) -> Self {
        Self { key, block: [0; 4], next: 0 }
    }

    fn u32(&mut self) -> u32 {
        if self.next.is_multiple_of(4) {
            self.block = self.key.block(self.next / 4);
        }
        let word = self.block[(self.next % 4) as usize];
        self.next += 1;
        word
    }

    /// Uniform in [0, 1).
    pub(crate) fn uniform(&mut self) -> f32 {
        (self.u32() >> 8) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// Uniform in `0..n`, `n > 0`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        let word = u64::from(self.u32()) << 32 | u64::from(self.u32());
        ((u128::from(word) * u128::from(n)) >> 64) as u64
    }

    /// One step of Fisher–Yates: the next of a random order of `order`, of which the first `done` are drawn.
    pub(crate) fn deal<T: Copy>(&mut self, order: &mut [T], done: usize) -> T {
        let other = done + self.below((order.len() - done) as u64) as usize;
        order.swap(done, other);
        order[done]
    }
}
