//! Sixteen lanes of AVX-512, with or without the bfloat16 instructions.

use super::Simd;
use crate::level::Level;
use half::bf16;
use std::arch::x86_64::*;
use std::mem::transmute;

/// AVX-512 F, BW, DQ and VL; with `BF16` also the dot products and conversions of bfloat16.
#[derive(Clone, Copy, Debug)]
pub struct Avx512<const BF16: bool>(());

type F = __m512;
type U = __m512i;
type M = __mmask16;

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

impl<const BF16: bool> Avx512<BF16> {
    /// # Safety
    /// The machine has AVX2, FMA, AVX-512 F, BW, DQ and VL, and AVX512_BF16 if `BF16`.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }

    #[inline(always)]
    fn narrow(self, v: F) -> __m256i {
        // SAFETY: the token proves that the machine has the instructions.
        unsafe { if BF16 { transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)) } else { _mm512_cvtepi32_epi16(self.bf16_bits(v)) } }
    }
}

#[inline(always)]
fn first(n: usize) -> __mmask16 {
    if n >= 16 { !0 } else { (1u16 << n) - 1 }
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    type F = F;
    type U = U;
    type M = M;
    const LANES: usize = 16;
    const LEVEL: Level = if BF16 { Level::Avx512Bf16 } else { Level::Avx512 };

    super::memory_methods! {
        fn load_ptr(self, src: *const f32) -> F = _mm512_loadu_ps(src);
        fn store_ptr(self, dst: *mut f32, v: F) = _mm512_storeu_ps(dst, v);
        fn load_partial_ptr(self, src: *const f32, n: usize) -> F = _mm512_maskz_loadu_ps(first(n), src);
        fn store_partial_ptr(self, dst: *mut f32, v: F, n: usize) = _mm512_mask_storeu_ps(dst, first(n), v);
        fn load_bf16_ptr(self, src: *const bf16) -> F = {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(src.cast()))))
        };
        fn load_partial_bf16_ptr(self, src: *const bf16, n: usize) -> F = {
            let half = _mm256_maskz_loadu_epi16(first(n), src.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
        };
        fn store_bf16_ptr(self, dst: *mut bf16, v: F) = _mm256_storeu_si256(dst.cast(), self.narrow(v));
        fn store_partial_bf16_ptr(self, dst: *mut bf16, v: F, n: usize) = _mm256_mask_storeu_epi16(dst.cast(), first(n), self.narrow(v));
        fn load_u32_ptr(self, src: *const u32) -> U = _mm512_loadu_si512(src.cast());
        fn store_u32_ptr(self, dst: *mut u32, v: U) = _mm512_storeu_si512(dst.cast(), v);
    }

    super::methods! {
        fn splat(self, x: f32) -> F = _mm512_set1_ps(x);
        fn add(self, a: F, b: F) -> F = _mm512_add_ps(a, b);
        fn sub(self, a: F, b: F) -> F = _mm512_sub_ps(a, b);
        fn mul(self, a: F, b: F) -> F = _mm512_mul_ps(a, b);
        fn div(self, a: F, b: F) -> F = _mm512_div_ps(a, b);
        fn mul_add(self, a: F, b: F, c: F) -> F = _mm512_fmadd_ps(a, b, c);
        fn neg_mul_add(self, a: F, b: F, c: F) -> F = _mm512_fnmadd_ps(a, b, c);
        fn max(self, a: F, b: F) -> F = _mm512_max_ps(a, b);
        fn min(self, a: F, b: F) -> F = _mm512_min_ps(a, b);
        fn sqrt(self, a: F) -> F = _mm512_sqrt_ps(a);
        fn round(self, a: F) -> F = _mm512_roundscale_ps::<NEAREST>(a);
        fn scale(self, a: F, n: F) -> F = _mm512_scalef_ps(a, n);
        fn lt(self, a: F, b: F) -> M = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
        fn le(self, a: F, b: F) -> M = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b);
        fn eq(self, a: F, b: F) -> M = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b);
        fn select(self, m: M, a: F, b: F) -> F = _mm512_mask_blend_ps(m, b, a);
        fn reduce_add(self, a: F) -> f32 = _mm512_reduce_add_ps(a);
        fn reduce_max(self, a: F) -> f32 = _mm512_reduce_max_ps(a);
        fn to_bits(self, a: F) -> U = _mm512_castps_si512(a);
        fn from_bits(self, a: U) -> F = _mm512_castsi512_ps(a);
        fn from_i32(self, a: U) -> F = _mm512_cvtepi32_ps(a);
        fn to_i32(self, a: F) -> U = _mm512_cvtps_epi32(a);
        fn splat_u32(self, x: u32) -> U = _mm512_set1_epi32(x as i32);
        fn iota_u32(self) -> U = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        fn add_u32(self, a: U, b: U) -> U = _mm512_add_epi32(a, b);
        fn sub_u32(self, a: U, b: U) -> U = _mm512_sub_epi32(a, b);
        fn mul_lo_u32(self, a: U, b: U) -> U = _mm512_mullo_epi32(a, b);
        fn mul_hi_u32(self, a: U, b: U) -> U = {
            let even = _mm512_srli_epi64::<32>(_mm512_mul_epu32(a, b));
            let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
            _mm512_mask_blend_epi32(0xAAAA, even, odd)
        };
        fn and_u32(self, a: U, b: U) -> U = _mm512_and_si512(a, b);
        fn or_u32(self, a: U, b: U) -> U = _mm512_or_si512(a, b);
        fn xor_u32(self, a: U, b: U) -> U = _mm512_xor_si512(a, b);
        fn lt_u32(self, a: U, b: U) -> M = _mm512_cmplt_epu32_mask(a, b);
        fn dot_bf16(self, a: U, b: U, acc: F) -> F = {
            if BF16 {
                _mm512_dpbf16_ps(acc, transmute::<U, __m512bh>(a), transmute::<U, __m512bh>(b))
            } else {
                let acc = self.mul_add(self.bf16_high(a), self.bf16_high(b), acc);
                self.mul_add(self.bf16_low(a), self.bf16_low(b), acc)
            }
        };
        fn bf16_pairs(self, low: F, high: F) -> U = {
            if BF16 {
                // The lower 16 words are `low`, the upper `high`: interleave them.
                let halves = transmute::<__m512bh, U>(_mm512_cvtne2ps_pbh(high, low));
                _mm512_permutexvar_epi16(INTERLEAVE.vector(), halves)
            } else {
                self.or_u32(self.bf16_bits(low), self.shl_u32::<16>(self.bf16_bits(high)))
            }
        };
    }

    #[inline(always)]
    fn shl_u32<const N: u32>(self, a: U) -> U {
        // SAFETY: the token proves that the machine has the instructions.
        unsafe { _mm512_slli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn shr_u32<const N: u32>(self, a: U) -> U {
        // SAFETY: the token proves that the machine has the instructions.
        unsafe { _mm512_srli_epi32::<N>(a) }
    }
}

#[repr(align(64))]
struct Words([u16; 32]);

impl Words {
    #[inline(always)]
    fn vector(&self) -> U {
        // SAFETY: 64 aligned bytes; only called from code that has AVX-512.
        unsafe { _mm512_load_si512(self.0.as_ptr().cast()) }
    }
}

static INTERLEAVE: Words = Words({
    let mut order = [0; 32];
    let mut i = 0;
    while i < 16 {
        order[2 * i] = i as u16;
        order[2 * i + 1] = 16 + i as u16;
        i += 1;
    }
    order
});
