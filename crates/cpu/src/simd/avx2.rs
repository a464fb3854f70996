//! Eight lanes of AVX2 with FMA.

use super::{Kernel, Simd};
use crate::level::Level;
use half::bf16;
use std::arch::x86_64::*;

/// AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

type F = __m256;
type U = __m256i;
type M = __m256;

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

impl Avx2 {
    /// # Safety
    /// The machine has AVX2 and FMA.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }

    /// All bits set in the first `n` lanes.
    #[inline(always)]
    fn first(self, n: usize) -> __m256i {
        // SAFETY: the token proves that the machine has the instructions.
        unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n.min(8) as i32), self.iota_u32()) }
    }

    #[inline(always)]
    fn narrow(self, v: F) -> __m128i {
        let words = self.bf16_bits(v);
        // SAFETY: the token proves that the machine has the instructions.
        unsafe { _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words)) }
    }
}

#[inline(always)]
unsafe fn widen(half: __m128i) -> F {
    // SAFETY: the caller has AVX2.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half))) }
}

/// Four rows of eight words become eight rows of four.
#[inline(always)]
unsafe fn transpose_4x8(src: *const u32, src_stride: usize, dst: *mut u32, dst_stride: usize) {
    // SAFETY: the caller has AVX2 and vouches for the memory.
    unsafe {
        let row = |r: usize| _mm256_loadu_ps(src.add(r * src_stride).cast());
        let (ab_low, ab_high) = (_mm256_unpacklo_ps(row(0), row(1)), _mm256_unpackhi_ps(row(0), row(1)));
        let (cd_low, cd_high) = (_mm256_unpacklo_ps(row(2), row(3)), _mm256_unpackhi_ps(row(2), row(3)));
        // Each holds column i in its lower half and column i + 4 in the upper.
        let columns = [
            _mm256_shuffle_ps::<0b01_00_01_00>(ab_low, cd_low),
            _mm256_shuffle_ps::<0b11_10_11_10>(ab_low, cd_low),
            _mm256_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high),
            _mm256_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high),
        ];
        for i in 0..4 {
            _mm_storeu_ps(dst.add(i * dst_stride).cast(), _mm256_castps256_ps128(columns[i]));
            _mm_storeu_ps(dst.add((i + 4) * dst_stride).cast(), _mm256_extractf128_ps::<1>(columns[i]));
        }
    }
}

impl Simd for Avx2 {
    type F = F;
    type U = U;
    type M = M;
    const LANES: usize = 8;
    const LEVEL: Level = Level::Avx2;
    const TILE_ROWS: usize = 4;
    const TILE_VECTORS: usize = 3;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma")]
        #[inline(never)]
        fn shell<K: Kernel>(kernel: K) -> K::Output {
            kernel.run(Avx2(()))
        }
        // SAFETY: the token proves that the machine has the features.
        unsafe { shell(kernel) }
    }

    #[inline(always)]
    unsafe fn transpose(self, rows: usize, src: *const u32, src_stride: usize, dst: *mut u32, dst_stride: usize) {
        // SAFETY: the token proves that the machine has the instructions; the caller vouches for the memory.
        unsafe {
            let mut done = 0;
            while done + 4 <= rows {
                transpose_4x8(src.add(done * src_stride), src_stride, dst.add(done), dst_stride);
                done += 4;
            }
            for r in done..rows {
                for c in 0..8 {
                    dst.add(c * dst_stride + r).write(src.add(r * src_stride + c).read_unaligned());
                }
            }
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, p: *const T) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    super::memory_methods! {
        fn load_ptr(self, src: *const f32) -> F = _mm256_loadu_ps(src);
        fn store_ptr(self, dst: *mut f32, v: F) = _mm256_storeu_ps(dst, v);
        fn load_partial_ptr(self, src: *const f32, n: usize) -> F = _mm256_maskload_ps(src, self.first(n));
        fn store_partial_ptr(self, dst: *mut f32, v: F, n: usize) = _mm256_maskstore_ps(dst, self.first(n), v);
        fn load_bf16_ptr(self, src: *const bf16) -> F = widen(_mm_loadu_si128(src.cast()));
        fn load_partial_bf16_ptr(self, src: *const bf16, n: usize) -> F = {
            let mut v = [bf16::ZERO; 8];
            std::ptr::copy_nonoverlapping(src, v.as_mut_ptr(), n.min(8));
            widen(_mm_loadu_si128(v.as_ptr().cast()))
        };
        fn store_bf16_ptr(self, dst: *mut bf16, v: F) = _mm_storeu_si128(dst.cast(), self.narrow(v));
        fn store_partial_bf16_ptr(self, dst: *mut bf16, v: F, n: usize) = {
            let mut all = [bf16::ZERO; 8];
            _mm_storeu_si128(all.as_mut_ptr().cast(), self.narrow(v));
            std::ptr::copy_nonoverlapping(all.as_ptr(), dst, n.min(8))
        };
        fn load_u32_ptr(self, src: *const u32) -> U = _mm256_loadu_si256(src.cast());
        fn store_u32_ptr(self, dst: *mut u32, v: U) = _mm256_storeu_si256(dst.cast(), v);
    }

    super::methods! {
        fn splat(self, x: f32) -> F = _mm256_set1_ps(x);
        fn add(self, a: F, b: F) -> F = _mm256_add_ps(a, b);
        fn sub(self, a: F, b: F) -> F = _mm256_sub_ps(a, b);
        fn mul(self, a: F, b: F) -> F = _mm256_mul_ps(a, b);
        fn div(self, a: F, b: F) -> F = _mm256_div_ps(a, b);
        fn mul_add(self, a: F, b: F, c: F) -> F = _mm256_fmadd_ps(a, b, c);
        fn neg_mul_add(self, a: F, b: F, c: F) -> F = _mm256_fnmadd_ps(a, b, c);
        fn max(self, a: F, b: F) -> F = _mm256_max_ps(a, b);
        fn min(self, a: F, b: F) -> F = _mm256_min_ps(a, b);
        fn sqrt(self, a: F) -> F = _mm256_sqrt_ps(a);
        fn round(self, a: F) -> F = _mm256_round_ps::<NEAREST>(a);
        fn scale(self, a: F, n: F) -> F = {
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let bias = _mm256_set1_epi32(127);
            let first = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
            let second = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias));
            _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second))
        };
        fn lt(self, a: F, b: F) -> M = _mm256_cmp_ps::<_CMP_LT_OQ>(a, b);
        fn le(self, a: F, b: F) -> M = _mm256_cmp_ps::<_CMP_LE_OQ>(a, b);
        fn eq(self, a: F, b: F) -> M = _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b);
        fn select(self, m: M, a: F, b: F) -> F = _mm256_blendv_ps(b, a, m);
        fn reduce_add(self, a: F) -> f32 = {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        };
        fn reduce_max(self, a: F) -> f32 = {
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        };
        fn to_bits(self, a: F) -> U = _mm256_castps_si256(a);
        fn from_bits(self, a: U) -> F = _mm256_castsi256_ps(a);
        fn from_i32(self, a: U) -> F = _mm256_cvtepi32_ps(a);
        fn to_i32(self, a: F) -> U = _mm256_cvtps_epi32(a);
        fn splat_u32(self, x: u32) -> U = _mm256_set1_epi32(x as i32);
        fn dot_bytes(self, a: U, b: U, acc: U) -> U = {
            // Even and odd bytes as 16-bit numbers: pairs of products fit 32 bits.
            let (a0, a1) = (_mm256_and_si256(a, _mm256_set1_epi16(0xFF)), _mm256_srli_epi16::<8>(a));
            let (b0, b1) = (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b)), _mm256_srai_epi16::<8>(b));
            _mm256_add_epi32(acc, _mm256_add_epi32(_mm256_madd_epi16(a0, b0), _mm256_madd_epi16(a1, b1)))
        };
        fn iota_u32(self) -> U = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        fn add_u32(self, a: U, b: U) -> U = _mm256_add_epi32(a, b);
        fn sub_u32(self, a: U, b: U) -> U = _mm256_sub_epi32(a, b);
        fn mul_lo_u32(self, a: U, b: U) -> U = _mm256_mullo_epi32(a, b);
        fn mul_hi_u32(self, a: U, b: U) -> U = {
            let even = _mm256_srli_epi64::<32>(_mm256_mul_epu32(a, b));
            let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b));
            _mm256_blend_epi32::<0b1010_1010>(even, odd)
        };
        fn and_u32(self, a: U, b: U) -> U = _mm256_and_si256(a, b);
        fn or_u32(self, a: U, b: U) -> U = _mm256_or_si256(a, b);
        fn xor_u32(self, a: U, b: U) -> U = _mm256_xor_si256(a, b);
        fn max_i16(self, a: U, b: U) -> U = _mm256_max_epi16(a, b);
        fn min_i16(self, a: U, b: U) -> U = _mm256_min_epi16(a, b);
        fn lt_u32(self, a: U, b: U) -> M = {
            // The signed comparison, with both ranges moved down by 2^31.
            let top = _mm256_set1_epi32(i32::MIN);
            _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_xor_si256(b, top), _mm256_xor_si256(a, top)))
        };
    }

    #[inline(always)]
    fn shl_u32<const N: u32>(self, a: U) -> U {
        // SAFETY: the token proves that the machine has the instructions.
        unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(N as i32)) }
    }
    #[inline(always)]
    fn shr_u32<const N: u32>(self, a: U) -> U {
        // SAFETY: the token proves that the machine has the instructions.
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(N as i32)) }
    }
}
