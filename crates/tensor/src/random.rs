//! Randomness as a function: Philox4x32-10, a counter-based generator
//! (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3).
//!
//! A draw depends only on a [`Key`] and an index. Nothing is advanced, so masks, shuffles and initial
//! weights are the same for every thread count and every machine, and a resumed run repeats them exactly.

/// What a stream of randomness is for. Part of the key, so that two uses never share draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Stream {
    /// Initial values of the parameters.
    Init = 1,
    /// Dropout of activations and of attention probabilities.
    Dropout = 2,
    /// Which tokens an objective masks and what it puts in their place.
    Masking = 3,
    /// The order in which samples are visited.
    Shuffle = 4,
    /// Choice of sentences, lengths and other sampling in the text pipeline.
    Sampling = 5,
    /// Generated corpora and other made-up data.
    World = 6,
}

/// The key of one stream: (seed, stream, step, place).
///
/// `step` is the training step (or sample number), `place` tells places of one step apart (layer, sequence, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    key: [u32; 2],
    high: [u32; 2],
}

const MUL: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds of Philox4x32 on `counter` under `key`.
#[inline]
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for _ in 0..10 {
        let p0 = u64::from(MUL[0]) * u64::from(c[0]);
        let p1 = u64::from(MUL[1]) * u64::from(c[2]);
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
        k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
    }
    c
}

impl Key {
    /// The key of `place` at `step` in `stream` of the run seeded with `seed`.
    pub fn new(seed: u64, stream: Stream, step: u64, place: u32) -> Self {
        // The stream and the seed form the Philox key after one mixing round, so that close seeds are unrelated.
        let mixed = philox4x32([seed as u32, (seed >> 32) as u32, stream as u32, 0], [0x436c_6f7a, 0x6500_0001]);
        let high = philox4x32([step as u32, (step >> 32) as u32, place, 1], [mixed[0], mixed[1]]);
        Self { key: [mixed[2] ^ high[2], mixed[3] ^ high[3]], high: [high[0], high[1]] }
    }

    /// The Philox key and the upper half of the counter, for backends that draw many values at once.
    /// Block `b` of the stream is `philox4x32([b as u32, (b >> 32) as u32, high[0], high[1]], key)`.
    pub fn parts(&self) -> ([u32; 2], [u32; 2]) {
        (self.key, self.high)
    }

    /// Block `b` of the stream: four independent 32-bit words.
    #[inline]
    pub fn block(&self, b: u64) -> [u32; 4] {
        philox4x32([b as u32, (b >> 32) as u32, self.high[0], self.high[1]], self.key)
    }

    /// The 32-bit draw at `index`.
    #[inline]
    pub fn u32(&self, index: u64) -> u32 {
        self.block(index >> 2)[(index & 3) as usize]
    }

    /// The 64-bit draw at `index`.
    #[inline]
    pub fn u64(&self, index: u64) -> u64 {
        let b = self.block(index >> 1);
        let half = 2 * (index & 1) as usize;
        u64::from(b[half]) | u64::from(b[half + 1]) << 32
    }

    /// The 16-bit draw at `index`; eight of them share one block. Dropout uses these.
    #[inline]
    pub fn u16(&self, index: u64) -> u16 {
        let word = self.block(index >> 3)[((index >> 1) & 3) as usize];
        (word >> (16 * (index & 1))) as u16
    }

    /// Uniform in [0, 1) with 24 bits.
    #[inline]
    pub fn uniform(&self, index: u64) -> f32 {
        (self.u32(index) >> 8) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// Uniform in `0..n` (`n > 0`), by multiply-shift.
    #[inline]
    pub fn below(&self, index: u64, n: u32) -> u32 {
        ((u64::from(self.u32(index)) * u64::from(n)) >> 32) as u32
    }

    /// Standard normal at `index` (Box–Muller).
    pub fn normal(&self, index: u64) -> f32 {
        let b = self.block(index >> 1);
        let half = 2 * (index & 1) as usize;
        let u = (f64::from(b[half]) + 1.0) / 4_294_967_297.0; // in (0, 1]
        let v = f64::from(b[half + 1]) / 4_294_967_296.0;
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }
}

/// A random permutation of `0..n`, as a function: `at(i)` costs O(1) and no memory.
///
/// A four-round Feistel network over the next even power of two, with cycle walking
/// (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", section 3).
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    key: Key,
    n: u64,
    half_bits: u32,
}

impl Permutation {
    /// The permutation of `0..n` that `key` names.
    pub fn new(key: Key, n: u64) -> Self {
        let bits = 64 - n.saturating_sub(1).leading_zeros();
        Self { key, n, half_bits: bits.div_ceil(2).max(1) }
    }

    /// Where `i` (below `n`) goes.
    pub fn at(&self, i: u64) -> u64 {
        assert!(i < self.n, "permutation: index {i} out of {}", self.n);
        let mask = (1u64 << self.half_bits) - 1;
        let mut x = i;
        loop {
            let (mut left, mut right) = (x >> self.half_bits, x & mask);
            for round in 0..4u64 {
                let f = u64::from(self.key.u32((round << 40) | right)) & mask;
                (left, right) = (right, left ^ f);
            }
            x = (left << self.half_bits) | right;
            if x < self.n {
                return x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Philox4x32-10 from the Random123 distribution (kat_vectors).
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn permutation_is_a_bijection() {
        for n in [1u64, 2, 3, 7, 64, 65, 1000, 4097] {
            let p = Permutation::new(Key::new(3, Stream::Shuffle, n, 0), n);
            let mut seen = vec![false; n as usize];
            for i in 0..n {
                let j = p.at(i) as usize;
                assert!(!std::mem::replace(&mut seen[j], true), "n {n}: {j} twice");
            }
        }
    }

    #[test]
    fn draws_have_the_right_moments() {
        let key = Key::new(7, Stream::Init, 0, 0);
        let n = 1 << 16;
        let mean = (0..n).map(|i| f64::from(key.normal(i))).sum::<f64>() / n as f64;
        let var = (0..n).map(|i| f64::from(key.normal(i)).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.02 && (var - 1.0).abs() < 0.03, "mean {mean} variance {var}");
        let low = (0..n).filter(|&i| key.u16(i) < 6554).count() as f64 / n as f64;
        assert!((low - 0.1).abs() < 0.006, "share below a tenth: {low}");
        assert!((0..n).all(|i| key.below(i, 10) < 10));
    }

    #[test]
    fn keys_differ_in_every_part() {
        let base = Key::new(1, Stream::Init, 1, 1);
        for other in [
            Key::new(2, Stream::Init, 1, 1),
            Key::new(1, Stream::Dropout, 1, 1),
            Key::new(1, Stream::Init, 2, 1),
            Key::new(1, Stream::Init, 1, 2),
        ] {
            assert_ne!(base.u64(0), other.u64(0));
        }
    }
}
