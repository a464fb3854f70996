//! Four lanes of NEON, part of every 64-bit ARM processor.

use super::{Kernel, Simd};
use crate::level::Level;
use half::bf16;
use std::arch::aarch64::*;

/// 64-bit ARM vectors.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

type F = float32x4_t;
type U = uint32x4_t;
type M = uint32x4_t;

impl Neon {
    /// # Safety
    /// None beyond the architecture: NEON is always there. Marked like the other levels.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }

    #[inline(always)]
    fn narrow(self, v: F) -> uint16x4_t {
        // SAFETY: the token proves that the machine has the instructions.
        unsafe { vmovn_u32(self.bf16_bits(v)) }
    }
}

impl Simd for Neon {
    type F = F;
    type U = U;
    type M = M;
    const LANES: usize = 4;
    const LEVEL: Level = Level::Neon;
    const TILE_ROWS: usize = 8;
    const TILE_VECTORS: usize = 3;

    #[inline(never)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    super::memory_methods! {
        fn load_ptr(self, src: *const f32) -> F = vld1q_f32(src);
        fn store_ptr(self, dst: *mut f32, v: F) = vst1q_f32(dst, v);
        fn load_partial_ptr(self, src: *const f32, n: usize) -> F = {
            let mut v = [0.0f32; 4];
            std::ptr::copy_nonoverlapping(src, v.as_mut_ptr(), n.min(4));
            vld1q_f32(v.as_ptr())
        };
        fn store_partial_ptr(self, dst: *mut f32, v: F, n: usize) = {
            let mut all = [0.0f32; 4];
            vst1q_f32(all.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(all.as_ptr(), dst, n.min(4))
        };
        fn load_bf16_ptr(self, src: *const bf16) -> F = vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(src.cast())));
        fn load_partial_bf16_ptr(self, src: *const bf16, n: usize) -> F = {
            let mut v = [0u16; 4];
            std::ptr::copy_nonoverlapping(src.cast::<u16>(), v.as_mut_ptr(), n.min(4));
            vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(v.as_ptr())))
        };
        fn store_bf16_ptr(self, dst: *mut bf16, v: F) = vst1_u16(dst.cast(), self.narrow(v));
        fn store_partial_bf16_ptr(self, dst: *mut bf16, v: F, n: usize) = {
            let mut all = [0u16; 4];
            vst1_u16(all.as_mut_ptr(), self.narrow(v));
            std::ptr::copy_nonoverlapping(all.as_ptr(), dst.cast::<u16>(), n.min(4))
        };
        fn load_u32_ptr(self, src: *const u32) -> U = vld1q_u32(src);
        fn store_u32_ptr(self, dst: *mut u32, v: U) = vst1q_u32(dst, v);
    }

    super::methods! {
        fn splat(self, x: f32) -> F = vdupq_n_f32(x);
        fn add(self, a: F, b: F) -> F = vaddq_f32(a, b);
        fn sub(self, a: F, b: F) -> F = vsubq_f32(a, b);
        fn mul(self, a: F, b: F) -> F = vmulq_f32(a, b);
        fn div(self, a: F, b: F) -> F = vdivq_f32(a, b);
        fn mul_add(self, a: F, b: F, c: F) -> F = vfmaq_f32(c, a, b);
        fn neg_mul_add(self, a: F, b: F, c: F) -> F = vfmsq_f32(c, a, b);
        fn max(self, a: F, b: F) -> F = vmaxq_f32(a, b);
        fn min(self, a: F, b: F) -> F = vminq_f32(a, b);
        fn sqrt(self, a: F) -> F = vsqrtq_f32(a);
        fn round(self, a: F) -> F = vrndnq_f32(a);
        fn scale(self, a: F, n: F) -> F = {
            let n = vcvtnq_s32_f32(n);
            let half = vshrq_n_s32::<1>(n);
            let bias = vdupq_n_s32(127);
            let first = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(half, bias)));
            let second = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vsubq_s32(n, half), bias)));
            vmulq_f32(vmulq_f32(a, first), second)
        };
        fn lt(self, a: F, b: F) -> M = vcltq_f32(a, b);
        fn le(self, a: F, b: F) -> M = vcleq_f32(a, b);
        fn eq(self, a: F, b: F) -> M = vceqq_f32(a, b);
        fn select(self, m: M, a: F, b: F) -> F = vbslq_f32(m, a, b);
        fn reduce_add(self, a: F) -> f32 = vaddvq_f32(a);
        fn reduce_max(self, a: F) -> f32 = vmaxvq_f32(a);
        fn to_bits(self, a: F) -> U = vreinterpretq_u32_f32(a);
        fn from_bits(self, a: U) -> F = vreinterpretq_f32_u32(a);
        fn from_i32(self, a: U) -> F = vcvtq_f32_s32(vreinterpretq_s32_u32(a));
        fn to_i32(self, a: F) -> U = vreinterpretq_u32_s32(vcvtnq_s32_f32(a));
        fn splat_u32(self, x: u32) -> U = vdupq_n_u32(x);
        fn iota_u32(self) -> U = vld1q_u32([0u32, 1, 2, 3].as_ptr());
        fn add_u32(self, a: U, b: U) -> U = vaddq_u32(a, b);
        fn sub_u32(self, a: U, b: U) -> U = vsubq_u32(a, b);
        fn mul_lo_u32(self, a: U, b: U) -> U = vmulq_u32(a, b);
        fn mul_hi_u32(self, a: U, b: U) -> U = {
            let low = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(a), vget_low_u32(b)));
            let high = vreinterpretq_u32_u64(vmull_high_u32(a, b));
            vuzp2q_u32(low, high)
        };
        fn and_u32(self, a: U, b: U) -> U = vandq_u32(a, b);
        fn or_u32(self, a: U, b: U) -> U = vorrq_u32(a, b);
        fn xor_u32(self, a: U, b: U) -> U = veorq_u32(a, b);
        fn max_i16(self, a: U, b: U) -> U = {
            vreinterpretq_u32_s16(vmaxq_s16(vreinterpretq_s16_u32(a), vreinterpretq_s16_u32(b)))
        };
        fn min_i16(self, a: U, b: U) -> U = {
            vreinterpretq_u32_s16(vminq_s16(vreinterpretq_s16_u32(a), vreinterpretq_s16_u32(b)))
        };
        fn lt_u32(self, a: U, b: U) -> M = vcltq_u32(a, b);
    }

    #[inline(always)]
    fn shl_u32<const N: u32>(self, a: U) -> U {
        // SAFETY: the token proves that the machine has the instructions.
        unsafe { vshlq_u32(a, vdupq_n_s32(N as i32)) }
    }
    #[inline(always)]
    fn shr_u32<const N: u32>(self, a: U) -> U {
        // SAFETY: the token proves that the machine has the instructions.
        unsafe { vshlq_u32(a, vdupq_n_s32(-(N as i32))) }
    }
}
