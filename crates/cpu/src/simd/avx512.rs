//! Sixteen lanes of AVX-512, with or without the bfloat16 instructions.

use super::{Kernel, Simd};
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

/// Each quarter of the results is a column of four: of `v` rows r…r+3, result c holds columns c, c+4, c+8, c+12.
#[inline(always)]
unsafe fn transpose_quarters(v: [F; 4]) -> [F; 4] {
    // SAFETY: the caller has AVX-512.
    unsafe {
        let (ab_low, ab_high) = (_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
        let (cd_low, cd_high) = (_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
        [
            _mm512_shuffle_ps::<0b01_00_01_00>(ab_low, cd_low),
            _mm512_shuffle_ps::<0b11_10_11_10>(ab_low, cd_low),
            _mm512_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high),
            _mm512_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high),
        ]
    }
}

/// Transpose a 4 × 4 matrix of quarters: result q holds quarter q of each argument.
#[inline(always)]
unsafe fn gather_quarters(v: [F; 4]) -> [F; 4] {
    // SAFETY: the caller has AVX-512.
    unsafe {
        let (ab_even, ab_odd) = (_mm512_shuffle_f32x4::<0b10_00_10_00>(v[0], v[1]), _mm512_shuffle_f32x4::<0b11_01_11_01>(v[0], v[1]));
        let (cd_even, cd_odd) = (_mm512_shuffle_f32x4::<0b10_00_10_00>(v[2], v[3]), _mm512_shuffle_f32x4::<0b11_01_11_01>(v[2], v[3]));
        [
            _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_even, cd_even),
            _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_odd, cd_odd),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_even, cd_even),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_odd, cd_odd),
        ]
    }
}

/// Sixteen rows of sixteen words become their columns.
#[inline(always)]
unsafe fn transpose_16x16(src: *const u32, src_stride: usize, dst: *mut u32, dst_stride: usize) {
    // SAFETY: the caller has AVX-512 and vouches for the memory.
    unsafe {
        let row = |r: usize| _mm512_loadu_ps(src.add(r * src_stride).cast());
        let rows = [
            transpose_quarters([row(0), row(1), row(2), row(3)]),
            transpose_quarters([row(4), row(5), row(6), row(7)]),
            transpose_quarters([row(8), row(9), row(10), row(11)]),
            transpose_quarters([row(12), row(13), row(14), row(15)]),
        ];
        for c in 0..4 {
            let columns = gather_quarters([rows[0][c], rows[1][c], rows[2][c], rows[3][c]]);
            for q in 0..4 {
                _mm512_storeu_ps(dst.add((4 * q + c) * dst_stride).cast(), columns[q]);
            }
        }
    }
}

/// Eight rows of sixteen words become sixteen rows of eight, without gaps.
#[inline(always)]
unsafe fn transpose_8x16(src: *const u32, src_stride: usize, dst: *mut u32) {
    // SAFETY: the caller has AVX-512 and vouches for the memory.
    unsafe {
        let row = |r: usize| _mm512_loadu_ps(src.add(r * src_stride).cast());
        let upper = transpose_quarters([row(0), row(1), row(2), row(3)]);
        let lower = transpose_quarters([row(4), row(5), row(6), row(7)]);
        for pair in 0..2 {
            let c = 2 * pair;
            let columns = gather_quarters([upper[c], lower[c], upper[c + 1], lower[c + 1]]);
            for q in 0..4 {
                _mm512_storeu_ps(dst.add((4 * q + c) * 8).cast(), columns[q]);
            }
        }
    }
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    type F = F;
    type U = U;
    type M = M;
    const LANES: usize = 16;
    const LEVEL: Level = if BF16 { Level::Avx512Bf16 } else { Level::Avx512 };
    const TILE_ROWS: usize = 8;
    const TILE_VECTORS: usize = 3;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
        #[inline(never)]
        fn shell<K: Kernel>(kernel: K) -> K::Output {
            kernel.run(Avx512::<false>(()))
        }
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
        #[inline(never)]
        fn shell_bf16<K: Kernel>(kernel: K) -> K::Output {
            kernel.run(Avx512::<true>(()))
        }
        // SAFETY: the token proves that the machine has the features.
        unsafe { if BF16 { shell_bf16(kernel) } else { shell(kernel) } }
    }

    #[inline(always)]
    unsafe fn transpose(self, rows: usize, src: *const u32, src_stride: usize, dst: *mut u32, dst_stride: usize) {
        // SAFETY: the token proves that the machine has the instructions; the caller vouches for the memory.
        unsafe {
            match rows {
                16 => transpose_16x16(src, src_stride, dst, dst_stride),
                8 if dst_stride == 8 => transpose_8x16(src, src_stride, dst),
                _ => {
                    for r in 0..rows {
                        for c in 0..16 {
                            dst.add(c * dst_stride + r).write(src.add(r * src_stride + c).read_unaligned());
                        }
                    }
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
        fn load_ptr(self, src: *const f32) -> F = _mm512_loadu_ps(src);
        fn store_ptr(self, dst: *mut f32, v: F) = _mm512_storeu_ps(dst, v);
        // Half vectors, where the compiler knows that they are, go without a mask: masked stores are slow.
        fn load_partial_ptr(self, src: *const f32, n: usize) -> F = {
            if n == 8 { _mm512_zextps256_ps512(_mm256_loadu_ps(src)) } else { _mm512_maskz_loadu_ps(first(n), src) }
        };
        fn store_partial_ptr(self, dst: *mut f32, v: F, n: usize) = {
            if n == 8 { _mm256_storeu_ps(dst, _mm512_castps512_ps256(v)) } else { _mm512_mask_storeu_ps(dst, first(n), v) }
        };
        fn load_bf16_ptr(self, src: *const bf16) -> F = {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(src.cast()))))
        };
        fn load_partial_bf16_ptr(self, src: *const bf16, n: usize) -> F = {
            let half = if n == 8 {
                _mm256_zextsi128_si256(_mm_loadu_si128(src.cast()))
            } else {
                _mm256_maskz_loadu_epi16(first(n), src.cast())
            };
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
        };
        fn store_bf16_ptr(self, dst: *mut bf16, v: F) = _mm256_storeu_si256(dst.cast(), self.narrow(v));
        fn store_partial_bf16_ptr(self, dst: *mut bf16, v: F, n: usize) = _mm256_mask_storeu_epi16(dst.cast(), first(n), self.narrow(v));
        fn load_u32_ptr(self, src: *const u32) -> U = _mm512_loadu_si512(src.cast());
        fn store_u32_ptr(self, dst: *mut u32, v: U) = _mm512_storeu_si512(dst.cast(), v);
        fn store_bytes_ptr(self, dst: *mut u8, v: U) = {
            _mm_storeu_si128(dst.cast(), _mm512_cvtusepi32_epi8(_mm512_max_epi32(v, _mm512_setzero_si512())))
        };
        fn store_four_bytes_ptr(self, dst: *mut u8, v: [U; 4]) = {
            // Packing goes quarter by quarter: the words come out as quarters of the vectors in turn.
            let packed = _mm512_packus_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_storeu_si512(dst.cast(), _mm512_permutexvar_epi32(order, packed))
        };
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
        fn reciprocal(self, a: F) -> F = {
            // 14 bits, doubled by a step of Newton's method: r (2 - a r).
            let r = _mm512_rcp14_ps(a);
            _mm512_fmadd_ps(r, _mm512_fnmadd_ps(a, r, _mm512_set1_ps(1.0)), r)
        };
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
        fn max_i16(self, a: U, b: U) -> U = _mm512_max_epi16(a, b);
        fn min_i16(self, a: U, b: U) -> U = _mm512_min_epi16(a, b);
        fn bf16_order(self, pairs: U) -> U = {
            _mm512_xor_si512(pairs, _mm512_srli_epi16::<1>(_mm512_srai_epi16::<15>(pairs)))
        };
        fn lt_u32(self, a: U, b: U) -> M = _mm512_cmplt_epu32_mask(a, b);
        fn dot_bf16(self, a: U, b: U, acc: F) -> F = {
            if BF16 {
                _mm512_dpbf16_ps(acc, transmute::<U, __m512bh>(a), transmute::<U, __m512bh>(b))
            } else {
                let acc = self.mul_add(self.bf16_high(a), self.bf16_high(b), acc);
                self.mul_add(self.bf16_low(a), self.bf16_low(b), acc)
            }
        };
        fn dot_bytes(self, a: U, b: U, acc: U) -> U = {
            if BF16 {
                _mm512_dpbusd_epi32(acc, a, b)
            } else {
                // Even and odd bytes as 16-bit numbers: pairs of products fit 32 bits.
                let (a0, a1) = (_mm512_and_si512(a, _mm512_set1_epi16(0xFF)), _mm512_srli_epi16::<8>(a));
                let (b0, b1) = (_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(b)), _mm512_srai_epi16::<8>(b));
                _mm512_add_epi32(acc, _mm512_add_epi32(_mm512_madd_epi16(a0, b0), _mm512_madd_epi16(a1, b1)))
            }
        };
        fn bf16_consecutive(self, first: F, second: F) -> U = {
            if BF16 {
                transmute::<__m512bh, U>(_mm512_cvtne2ps_pbh(second, first))
            } else {
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(self.narrow(first)), self.narrow(second))
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
