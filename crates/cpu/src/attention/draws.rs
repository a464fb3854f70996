//! The 16-bit draws of dropped probabilities, many Philox blocks at a time.

use crate::simd::Simd;
use cloze_tensor::random::Key;

const MUL: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Lanes are filled four batches at a time, so that one transposition of 16 × `LANES` words puts them in order.
const BATCHES: usize = 4;

/// Blocks of a group on the widest level: what [`fill`] may write beyond the blocks asked for.
pub(super) const SLACK: usize = BATCHES * 16;

/// Blocks `first + r · row_step + c` for `rows` rows of `columns`, each block 16 bytes, one after the other at `out`.
///
/// # Safety
/// `out` takes `rows · columns + SLACK` blocks of four words.
#[inline(always)]
pub(super) unsafe fn fill<S: Simd>(s: S, key: &Key, first: u64, row_step: u64, rows: usize, columns: usize, out: *mut u32) {
    let (key, high) = key.parts();
    let group = BATCHES * S::LANES;
    let total = rows * columns;
    let (mut row_start, mut column) = (first, 0);
    let mut done = 0;
    while done < total {
        // Lane l of batch b takes block b + 4 l of the group.
        let mut low = [0u32; SLACK];
        let mut upper = [0u32; SLACK];
        for i in 0..group {
            let block = row_start.wrapping_add(column as u64);
            let at = i % BATCHES * S::LANES + i / BATCHES;
            low[at] = block as u32;
            upper[at] = (block >> 32) as u32;
            column += 1;
            if column == columns {
                column = 0;
                row_start = row_start.wrapping_add(row_step);
            }
        }
        let mut words = [0u32; 16 * 16];
        // SAFETY: a vector has at most 16 lanes; `out` has room for the whole group.
        unsafe {
            for b in 0..BATCHES {
                let c = [
                    s.load_u32_ptr(low.as_ptr().add(b * S::LANES)),
                    s.load_u32_ptr(upper.as_ptr().add(b * S::LANES)),
                    s.splat_u32(high[0]),
                    s.splat_u32(high[1]),
                ];
                let c = philox(s, c, key);
                for (w, &word) in c.iter().enumerate() {
                    s.store_u32_ptr(words.as_mut_ptr().add((4 * b + w) * S::LANES), word);
                }
            }
            s.transpose(4 * BATCHES, words.as_ptr(), S::LANES, out.add(done * 4), 4 * BATCHES);
        }
        done += group;
    }
}

/// Philox4x32-10 on `LANES` counters.
#[inline(always)]
fn philox<S: Simd>(s: S, mut c: [S::U; 4], mut key: [u32; 2]) -> [S::U; 4] {
    let (m0, m1) = (s.splat_u32(MUL[0]), s.splat_u32(MUL[1]));
    let mut round = 0;
    while round < 10 {
        let (k0, k1) = (s.splat_u32(key[0]), s.splat_u32(key[1]));
        let (low0, high0) = (s.mul_lo_u32(m0, c[0]), s.mul_hi_u32(m0, c[0]));
        let (low1, high1) = (s.mul_lo_u32(m1, c[2]), s.mul_hi_u32(m1, c[2]));
        c = [s.xor_u32(s.xor_u32(high1, c[1]), k0), low1, s.xor_u32(s.xor_u32(high0, c[3]), k1), low0];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        round += 1;
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::Level;
    use crate::simd::{Kernel, dispatch};
    use cloze_tensor::random::Stream;

    struct Fill<'a>(&'a Key, u64, u64, usize, usize, &'a mut [u32]);
    impl Kernel for Fill<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Fill(key, first, step, rows, columns, out) = self;
            assert!(out.len() >= 4 * (rows * columns + SLACK));
            // SAFETY: the length is checked above.
            unsafe { fill(s, key, first, step, rows, columns, out.as_mut_ptr()) }
        }
    }

    #[test]
    fn blocks_are_those_of_the_key() {
        let key = Key::new(9, Stream::Dropout, 2, 7);
        for (rows, columns) in [(1, 1), (3, 5), (7, 16), (48, 3)] {
            let (first, step) = ((1u64 << 32) - 6, 12 << 17);
            for level in Level::available() {
                let mut out = vec![0; 4 * (rows * columns + SLACK)];
                dispatch(level, Fill(&key, first, step, rows, columns, &mut out));
                for r in 0..rows {
                    for c in 0..columns {
                        let at = 4 * (r * columns + c);
                        assert_eq!(out[at..at + 4], key.block(first + r as u64 * step + c as u64), "{} {r} {c}", level.name());
                    }
                }
            }
        }
    }
}
