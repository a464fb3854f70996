//! Dropout factors, many blocks of Philox at once.
//!
//! The draws are those of [`cloze_tensor::random`]: element `i` takes 16 bits of block `i / 8`. A vector holds one
//! word of as many blocks as it has lanes, so a round is a handful of vector instructions; at the end the eight
//! draws of each block are brought into the order of the elements.

use cloze_tensor::Dropout;

use crate::simd::Simd;

const MUL: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// Draws in a block.
const DRAWS: usize = 8;
const MAX_LANES: usize = 16;

/// Blocks `first`, `first + 1`, …: word `w` of the block in lane `l` is `result[w][l]`.
#[inline(always)]
fn blocks<S: Simd>(s: S, key: [u32; 2], high: [u32; 2], first: u64) -> [S::U; 4] {
    let low = s.splat_u32(first as u32);
    let c0 = s.add_u32(low, s.iota_u32());
    let upper = (first >> 32) as u32;
    // The lower half of the counter may wrap inside the vector.
    let wrapped = s.select(s.lt_u32(c0, low), s.from_bits(s.splat_u32(1)), s.zero());
    let c1 = s.add_u32(s.splat_u32(upper), s.to_bits(wrapped));
    let mut c = [c0, c1, s.splat_u32(high[0]), s.splat_u32(high[1])];
    let mut k = key;
    let (m0, m1) = (s.splat_u32(MUL[0]), s.splat_u32(MUL[1]));
    for _ in 0..10 {
        let (low0, high0) = (s.mul_lo_u32(m0, c[0]), s.mul_hi_u32(c[0], m0));
        let (low1, high1) = (s.mul_lo_u32(m1, c[2]), s.mul_hi_u32(c[2], m1));
        c = [s.xor_u32(s.xor_u32(high1, c[1]), s.splat_u32(k[0])), low1, s.xor_u32(s.xor_u32(high0, c[3]), s.splat_u32(k[1])), low0];
        k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
    }
    c
}

/// The factors of the elements `start..start + out.len()`: 0 or the scale.
#[inline(always)]
pub(crate) fn factors<S: Simd>(s: S, op: &Dropout, start: u64, out: &mut [f32]) {
    let (key, high) = op.key.parts();
    let (threshold, scale) = (s.splat_u32(op.threshold()), s.splat(op.scale()));
    let group = DRAWS * S::LANES;
    let mut by_draw = [0u32; DRAWS * MAX_LANES]; // [8, LANES]
    let mut by_element = [0.0f32; DRAWS * MAX_LANES];
    let mut done = 0;
    while done < out.len() {
        let at = start + done as u64;
        let words = blocks(s, key, high, at / DRAWS as u64);
        for w in 0..4 {
            let draws = [s.and_u32(words[w], s.splat_u32(0xFFFF)), s.shr_u32::<16>(words[w])];
            for h in 0..2 {
                let factor = s.select(s.lt_u32(draws[h], threshold), s.zero(), scale);
                // SAFETY: row 2w + h of eight rows of at most sixteen.
                unsafe { s.store_u32_ptr(by_draw.as_mut_ptr().add((2 * w + h) * S::LANES), s.to_bits(factor)) };
            }
        }
        let skip = (at % DRAWS as u64) as usize;
        let count = (group - skip).min(out.len() - done);
        let whole = count == group;
        let to = if whole { out[done..done + group].as_mut_ptr() } else { by_element.as_mut_ptr() };
        // SAFETY: eight rows of `LANES` words are read, `group` words written; both buffers have as many.
        unsafe { s.transpose(DRAWS, by_draw.as_ptr(), S::LANES, to.cast(), DRAWS) };
        if !whole {
            out[done..done + count].copy_from_slice(&by_element[skip..skip + count]);
        }
        done += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;
    use cloze_tensor::random::{Key, Stream};

    crate::simd::simd_fn! {
        fn factors_at(s, op: &Dropout, start: u64, out: &mut [f32]) {
            factors(s, op, start, out);
        }
    }

    #[test]
    fn draws_are_those_of_the_contract() {
        for level in Level::available() {
            for (start, len) in [(0u64, 0usize), (0, 1), (3, 5), (8, 128), (7, 1000), (1 << 20, 517), ((1 << 35) - 40, 200), (1 << 40, 64)]
            {
                for probability in [0.0, 0.1, 0.5, 0.9] {
                    let op = Dropout { probability, key: Key::new(9, Stream::Dropout, start, 3) };
                    let mut out = vec![f32::NAN; len];
                    factors_at(level, &op, start, &mut out);
                    for (i, f) in out.iter().enumerate() {
                        assert_eq!(*f, op.factor(start + i as u64), "{} element {start} + {i}", level.name());
                    }
                }
            }
        }
    }
}
