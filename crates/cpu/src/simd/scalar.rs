//! Four lanes in plain Rust: the level of every machine.

use super::{Kernel, Simd};
use crate::level::Level;
use half::bf16;
use std::array::from_fn;

/// Plain Rust vectors of four lanes.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

type F = [f32; 4];
type U = [u32; 4];
type M = [bool; 4];

macro_rules! lanes {
    ($(fn $name:ident($this:ident $(, $arg:ident: $ty:ty)*) -> $ret:ty = |$i:ident| $body:expr;)+) => {$(
        #[inline(always)]
        fn $name($this $(, $arg: $ty)*) -> $ret {
            from_fn(|$i| $body)
        }
    )+};
}

/// To the nearest whole number, ties to even, for |x| < 2^22: adding 1.5 · 2^23 leaves no bits for a fraction.
#[inline(always)]
fn round(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    if x.abs() < 4_194_304.0 { (x + SHIFT) - SHIFT } else { x }
}

/// Both halves of two words, taken as signed numbers.
#[inline(always)]
fn halves(a: u32, b: u32, f: fn(i16, i16) -> i16) -> u32 {
    let low = f(a as i16, b as i16) as u16;
    let high = f((a >> 16) as i16, (b >> 16) as i16) as u16;
    u32::from(low) | u32::from(high) << 16
}

#[inline(always)]
fn power_of_two(n: f32) -> f32 {
    f32::from_bits(((n as i32 + 127) << 23) as u32)
}

impl Simd for Scalar {
    type F = F;
    type U = U;
    type M = M;
    const LANES: usize = 4;
    const LEVEL: Level = Level::Scalar;
    const TILE_ROWS: usize = 4;
    const TILE_VECTORS: usize = 2;

    #[inline(never)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    super::memory_methods! {
        fn load_ptr(self, src: *const f32) -> F = src.cast::<F>().read_unaligned();
        fn store_ptr(self, dst: *mut f32, v: F) = dst.cast::<F>().write_unaligned(v);
        fn load_partial_ptr(self, src: *const f32, n: usize) -> F = {
            let mut v = [0.0; 4];
            std::ptr::copy_nonoverlapping(src, v.as_mut_ptr(), n.min(4));
            v
        };
        fn store_partial_ptr(self, dst: *mut f32, v: F, n: usize) = std::ptr::copy_nonoverlapping(v.as_ptr(), dst, n.min(4));
        fn load_bf16_ptr(self, src: *const bf16) -> F = src.cast::<[bf16; 4]>().read_unaligned().map(bf16::to_f32);
        fn store_bf16_ptr(self, dst: *mut bf16, v: F) = dst.cast::<[bf16; 4]>().write_unaligned(v.map(bf16::from_f32));
        fn load_partial_bf16_ptr(self, src: *const bf16, n: usize) -> F = {
            let mut v = [bf16::ZERO; 4];
            std::ptr::copy_nonoverlapping(src, v.as_mut_ptr(), n.min(4));
            v.map(bf16::to_f32)
        };
        fn store_partial_bf16_ptr(self, dst: *mut bf16, v: F, n: usize) = {
            std::ptr::copy_nonoverlapping(v.map(bf16::from_f32).as_ptr(), dst, n.min(4))
        };
        fn load_u32_ptr(self, src: *const u32) -> U = src.cast::<U>().read_unaligned();
        fn store_u32_ptr(self, dst: *mut u32, v: U) = dst.cast::<U>().write_unaligned(v);
    }

    lanes! {
        fn splat(self, x: f32) -> F = |_i| x;
        fn add(self, a: F, b: F) -> F = |i| a[i] + b[i];
        fn sub(self, a: F, b: F) -> F = |i| a[i] - b[i];
        fn mul(self, a: F, b: F) -> F = |i| a[i] * b[i];
        fn div(self, a: F, b: F) -> F = |i| a[i] / b[i];
        fn mul_add(self, a: F, b: F, c: F) -> F = |i| a[i] * b[i] + c[i];
        fn neg_mul_add(self, a: F, b: F, c: F) -> F = |i| c[i] - a[i] * b[i];
        fn max(self, a: F, b: F) -> F = |i| if a[i] > b[i] { a[i] } else { b[i] };
        fn min(self, a: F, b: F) -> F = |i| if a[i] < b[i] { a[i] } else { b[i] };
        fn sqrt(self, a: F) -> F = |i| a[i].sqrt();
        fn round(self, a: F) -> F = |i| round(a[i]);
        fn scale(self, a: F, n: F) -> F = |i| {
            let half = round(n[i] * 0.5);
            a[i] * power_of_two(half) * power_of_two(n[i] - half)
        };
        fn lt(self, a: F, b: F) -> M = |i| a[i] < b[i];
        fn le(self, a: F, b: F) -> M = |i| a[i] <= b[i];
        fn eq(self, a: F, b: F) -> M = |i| a[i] == b[i];
        fn select(self, m: M, a: F, b: F) -> F = |i| if m[i] { a[i] } else { b[i] };
        fn to_bits(self, a: F) -> U = |i| a[i].to_bits();
        fn from_bits(self, a: U) -> F = |i| f32::from_bits(a[i]);
        fn from_i32(self, a: U) -> F = |i| a[i] as i32 as f32;
        fn to_i32(self, a: F) -> U = |i| round(a[i]) as i32 as u32;
        fn splat_u32(self, x: u32) -> U = |_i| x;
        fn iota_u32(self) -> U = |i| i as u32;
        fn add_u32(self, a: U, b: U) -> U = |i| a[i].wrapping_add(b[i]);
        fn sub_u32(self, a: U, b: U) -> U = |i| a[i].wrapping_sub(b[i]);
        fn mul_lo_u32(self, a: U, b: U) -> U = |i| a[i].wrapping_mul(b[i]);
        fn mul_hi_u32(self, a: U, b: U) -> U = |i| ((u64::from(a[i]) * u64::from(b[i])) >> 32) as u32;
        fn and_u32(self, a: U, b: U) -> U = |i| a[i] & b[i];
        fn or_u32(self, a: U, b: U) -> U = |i| a[i] | b[i];
        fn xor_u32(self, a: U, b: U) -> U = |i| a[i] ^ b[i];
        fn max_i16(self, a: U, b: U) -> U = |i| halves(a[i], b[i], i16::max);
        fn min_i16(self, a: U, b: U) -> U = |i| halves(a[i], b[i], i16::min);
        fn lt_u32(self, a: U, b: U) -> M = |i| a[i] < b[i];
    }

    #[inline(always)]
    fn shl_u32<const N: u32>(self, a: U) -> U {
        a.map(|x| x << N)
    }
    #[inline(always)]
    fn shr_u32<const N: u32>(self, a: U) -> U {
        a.map(|x| x >> N)
    }
    #[inline(always)]
    fn reduce_add(self, a: F) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    fn reduce_max(self, a: F) -> f32 {
        let larger = |x: f32, y: f32| if x > y || x.is_nan() { x } else { y };
        larger(larger(a[0], a[2]), larger(a[1], a[3]))
    }
}
