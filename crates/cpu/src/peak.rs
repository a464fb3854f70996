//! The machine's limit: the rate of the products' instruction on registers alone.

use std::hint::black_box;
use std::time::Instant;

use cloze_tensor::Dtype;

use crate::backend::Cpu;
use crate::gemm::Precision;
use crate::simd::{Kernel, Simd, dispatch};

/// Independent chains of multiply-adds, enough to keep every unit busy.
struct Chains {
    precision: Precision,
    rounds: usize,
}

impl Kernel for Chains {
    type Output = f64; // operations

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        const CHAINS: usize = 12;
        let mut sums = [s.splat(0.0); CHAINS];
        let (a, b) = (black_box(s.splat(1.0 + 1e-7)), black_box(s.splat(1e-9)));
        let (x, y) = (s.to_bits(a), s.to_bits(b));
        for _ in 0..self.rounds {
            for sum in &mut sums {
                *sum = match self.precision {
                    Precision::F32 => s.mul_add(a, b, *sum),
                    Precision::Bf16 => s.dot_bf16(x, y, *sum),
                    Precision::Int8 => s.from_bits(s.dot_bytes(x, y, s.to_bits(*sum))),
                };
            }
        }
        let sum = sums.into_iter().fold(s.splat(0.0), |sum, chain| s.add(sum, chain));
        black_box(s.reduce_add(sum));
        let depth = 2 * self.precision.per_word();
        (self.rounds * CHAINS * S::LANES * depth) as f64
    }
}

impl Cpu {
    /// The most that products of this dtype can reach on these threads, in FLOP/s: the best of some short
    /// measurements, a twentieth of a second together.
    pub fn peak_flops(&self, dtype: Dtype) -> f64 {
        self.peak_of(crate::linear::precision(dtype))
    }

    /// The same for products of this precision; two operations a multiply-add.
    pub fn peak_of(&self, precision: Precision) -> f64 {
        let rounds = 200_000;
        let mut best = 0.0f64;
        let begin = Instant::now();
        while best == 0.0 || begin.elapsed().as_secs_f64() < 0.05 {
            let start = Instant::now();
            let operations = dispatch(self.level(), Chains { precision, rounds: 1 }) * rounds as f64;
            self.threads().for_each(self.threads().count(), |_| {
                dispatch(self.level(), Chains { precision, rounds });
            });
            best = best.max(operations * self.threads().count() as f64 / start.elapsed().as_secs_f64());
        }
        best
    }
}
