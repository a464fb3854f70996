//! Relative positions by buckets (Raffel et al. 2020, section 2.1): a score gets a learned number that depends on the head and on how far
//! the key stands from the query. Near distances have a bucket each, far ones share a bucket with their neighbours, ever wider.

use cloze_tensor::{Backend, Param, Tape, Var};

/// Buckets of distances in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelativeBias {
    /// How many; half of them for keys before the query and the query itself, half for keys behind it.
    pub buckets: usize,
    /// Distances from here on share the last bucket of their direction.
    pub max_distance: usize,
}

impl RelativeBias {
    /// The bucket of a key `distance` places after its query. With h = buckets / 2 and e = h / 2: |distance| below e is its own bucket,
    /// further ones have e + ⌊ln(|distance| / e) / ln(max_distance / e) · (h − e)⌋, h − 1 at most; h more for keys behind the query.
    pub fn bucket(&self, distance: isize) -> usize {
        let half = self.buckets / 2;
        let (exact, far) = (half / 2, distance.unsigned_abs());
        let within = if far < exact {
            far
        } else {
            let share = (far as f64 / exact as f64).ln() / (self.max_distance as f64 / exact as f64).ln();
            // Powers of two fall on the edges of buckets, which rounding must not take them below.
            let further = share * (half - exact) as f64 + 1e-6;
            (exact + further as usize).min(half - 1)
        };
        if distance > 0 { half + within } else { within }
    }

    /// The buckets of the distances −max_distance … max_distance: beyond them nothing changes. // `[2 max_distance + 1]`
    pub fn all(&self) -> Vec<u32> {
        let max = self.max_distance as isize;
        (-max..=max).map(|distance| self.bucket(distance) as u32).collect()
    }

    /// What is wrong with the numbers, in words; `None` when they fit together.
    pub(crate) fn fault(&self) -> Option<String> {
        let Self { buckets, max_distance } = *self;
        if buckets < 4 || !buckets.is_multiple_of(2) || buckets > 1 << 12 {
            return Some(format!("{buckets} buckets of distances; an even number from 4 to 4096 is needed"));
        }
        let wide_enough = max_distance > buckets / 4 && max_distance <= 1 << 16;
        (!wide_enough).then(|| format!("distances up to {max_distance} in {buckets} buckets"))
    }
}

/// The buckets on the device, and the table of what they add.
pub(crate) struct Distances<B: Backend> {
    /// // `[2 max_distance + 1]`
    buckets: B::Indices,
    count: usize,
    /// // [buckets, N]
    table: Param,
}

impl<B: Backend> Distances<B> {
    pub(crate) fn new(backend: &B, relative: RelativeBias, table: Param) -> Self {
        let buckets = relative.all();
        Self { buckets: backend.indices(&buckets), count: buckets.len(), table }
    }

    /// What every distance adds to the scores of every head. Gradients go back to the buckets. // → f32 [2 max_distance + 1, N]
    pub(crate) fn bias(&self, tape: &mut Tape<'_, B>) -> Var<B> {
        tape.table(&self.buckets, self.count, self.table)
    }
}

impl<B: Backend> Clone for Distances<B> {
    fn clone(&self) -> Self {
        Self { buckets: self.buckets.clone(), ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: from 8 on a bucket begins at the next whole number from 8 · 2^(k/2) on.
    #[test]
    fn buckets_are_ever_wider() {
        let relative = RelativeBias { buckets: 32, max_distance: 128 };
        let firsts = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91];
        for (bucket, &first) in firsts.iter().enumerate() {
            assert_eq!((relative.bucket(-first), relative.bucket(first)), (bucket, if first > 0 { 16 + bucket } else { 0 }));
            assert!(first == 0 || relative.bucket(1 - first) == bucket - 1);
        }
        assert_eq!((relative.bucket(-100_000), relative.bucket(100_000)), (15, 31));
        let all = relative.all();
        assert_eq!((all.len(), all[0], all[128], all[129], all[256]), (257, 15, 0, 17, 31));
    }

    #[test]
    fn numbers_that_do_not_fit_are_named() {
        let fault = |buckets, max_distance| RelativeBias { buckets, max_distance }.fault();
        assert!(fault(32, 128).is_none() && fault(4, 2).is_none());
        for (buckets, max_distance) in [(0, 128), (2, 128), (33, 128), (1 << 13, 1 << 14), (32, 8), (32, 1 << 20)] {
            assert!(fault(buckets, max_distance).is_some(), "{buckets} {max_distance}");
        }
    }
}
