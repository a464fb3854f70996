//! A tiny vector trait and the dispatch over levels.
//!
//! A kernel is written once, generic over [`Simd`], and marked `#[inline(always)]` all the way down; a shell
//! per level, compiled with that level's target features, calls it. Two ways to write one:
//!
//! - the macro `simd_fn!` makes a function whose first argument is the [`Level`];
//! - a struct that implements [`Kernel`], for kernels with type parameters of their own, run by [`dispatch`].
//!
//! Closures are compiled without the shell's features unless they are inlined, so inner loops are loops, not
//! iterator chains with closures.
//!
//! Loops step by `S::LANES` and use [`Simd::load_at`] and [`Simd::store_at`], which turn into partial accesses at
//! the end: body and tail do the same arithmetic, so an element has the same bits wherever it stands.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use crate::level::Level;
use half::bf16;

#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use scalar::Scalar;
#[cfg(target_arch = "x86_64")]
pub use {avx2::Avx2, avx512::Avx512};

/// Vectors of `LANES` 32-bit lanes: `F` of f32, `U` of u32 (also i32 and pairs of bf16), masks `M`.
///
/// A value of an implementing type is the proof that the machine has the instructions, which makes the methods
/// safe; only shells make one.
#[allow(clippy::wrong_self_convention)] // `self` is the token, not the value that is converted
pub trait Simd: Copy + Send + Sync + 'static {
    /// `LANES` f32 values.
    type F: Copy;
    /// `LANES` 32-bit words.
    type U: Copy;
    /// One truth value per lane.
    type M: Copy;
    /// Lanes of a vector.
    const LANES: usize;
    /// The level that the vectors belong to.
    const LEVEL: Level;
    /// Rows of a tile of the matrix product: as many as the registers hold.
    const TILE_ROWS: usize;
    /// Vectors in a row of such a tile.
    const TILE_VECTORS: usize;

    /// Run a kernel as a function of its own, compiled for this level (not inlined into the caller).
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    /// Read `LANES` values.
    /// # Safety
    /// `src` is valid for reading `LANES` values; no alignment is needed.
    unsafe fn load_ptr(self, src: *const f32) -> Self::F;
    /// Write `LANES` values.
    /// # Safety
    /// `dst` is valid for writing `LANES` values; no alignment is needed.
    unsafe fn store_ptr(self, dst: *mut f32, v: Self::F);
    /// Read the first `n` values (at most `LANES`), the other lanes are 0.
    /// # Safety
    /// `src` is valid for reading `n` values.
    unsafe fn load_partial_ptr(self, src: *const f32, n: usize) -> Self::F;
    /// Write the first `n` lanes (at most `LANES`).
    /// # Safety
    /// `dst` is valid for writing `n` values.
    unsafe fn store_partial_ptr(self, dst: *mut f32, v: Self::F, n: usize);
    /// Read `LANES` bf16 values.
    /// # Safety
    /// `src` is valid for reading `LANES` values.
    unsafe fn load_bf16_ptr(self, src: *const bf16) -> Self::F;
    /// Round to nearest even and write `LANES` bf16 values.
    /// # Safety
    /// `dst` is valid for writing `LANES` values.
    unsafe fn store_bf16_ptr(self, dst: *mut bf16, v: Self::F);
    /// Read the first `n` bf16 values (at most `LANES`), the other lanes are 0.
    /// # Safety
    /// `src` is valid for reading `n` values.
    unsafe fn load_partial_bf16_ptr(self, src: *const bf16, n: usize) -> Self::F;
    /// Round the first `n` lanes (at most `LANES`) to bf16 and write them.
    /// # Safety
    /// `dst` is valid for writing `n` values.
    unsafe fn store_partial_bf16_ptr(self, dst: *mut bf16, v: Self::F, n: usize);
    /// Read `LANES` words.
    /// # Safety
    /// `src` is valid for reading `LANES` values.
    unsafe fn load_u32_ptr(self, src: *const u32) -> Self::U;
    /// Write `LANES` words.
    /// # Safety
    /// `dst` is valid for writing `LANES` values.
    unsafe fn store_u32_ptr(self, dst: *mut u32, v: Self::U);

    /// Bring the cache line at `p` closer. Any address is fine.
    #[inline(always)]
    fn prefetch<T>(self, p: *const T) {
        let _ = p;
    }

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`, rounded once where the level has FMA.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a · b`, rounded once where the level has FMA.
    fn neg_mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger; NaN if `b` is NaN, unspecified between `b` and NaN if `a` is.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; NaN if `b` is NaN, unspecified between `b` and NaN if `a` is.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// The square root.
    fn sqrt(self, a: Self::F) -> Self::F;
    /// To the nearest whole number, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `a · 2^n` for whole `n` in -252..=254; overflows to infinity, underflows gradually.
    fn scale(self, a: Self::F, n: Self::F) -> Self::F;
    /// `a < b`.
    fn lt(self, a: Self::F, b: Self::F) -> Self::M;
    /// `a <= b`.
    fn le(self, a: Self::F, b: Self::F) -> Self::M;
    /// `a == b`.
    fn eq(self, a: Self::F, b: Self::F) -> Self::M;
    /// `a` where the mask is set, else `b`.
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// The lanes' sum in an order fixed per level.
    fn reduce_add(self, a: Self::F) -> f32;
    /// The lanes' maximum.
    fn reduce_max(self, a: Self::F) -> f32;

    /// The bits of the floats.
    fn to_bits(self, a: Self::F) -> Self::U;
    /// The floats of the bits.
    fn from_bits(self, a: Self::U) -> Self::F;
    /// The float of a signed 32-bit number.
    fn from_i32(self, a: Self::U) -> Self::F;
    /// The nearest signed 32-bit number; any value out of range or for NaN.
    fn to_i32(self, a: Self::F) -> Self::U;
    /// All lanes `x`.
    fn splat_u32(self, x: u32) -> Self::U;
    /// 0, 1, 2, …
    fn iota_u32(self) -> Self::U;
    /// `a + b`, wrapping.
    fn add_u32(self, a: Self::U, b: Self::U) -> Self::U;
    /// `a - b`, wrapping.
    fn sub_u32(self, a: Self::U, b: Self::U) -> Self::U;
    /// The lower half of `a · b`.
    fn mul_lo_u32(self, a: Self::U, b: Self::U) -> Self::U;
    /// The upper half of the unsigned `a · b`.
    fn mul_hi_u32(self, a: Self::U, b: Self::U) -> Self::U;
    /// `a & b`.
    fn and_u32(self, a: Self::U, b: Self::U) -> Self::U;
    /// `a | b`.
    fn or_u32(self, a: Self::U, b: Self::U) -> Self::U;
    /// `a ^ b`.
    fn xor_u32(self, a: Self::U, b: Self::U) -> Self::U;
    /// `a << N`.
    fn shl_u32<const N: u32>(self, a: Self::U) -> Self::U;
    /// `a >> N`, filling with zeros.
    fn shr_u32<const N: u32>(self, a: Self::U) -> Self::U;
    /// Unsigned `a < b`.
    fn lt_u32(self, a: Self::U, b: Self::U) -> Self::M;

    /// `acc + a₀·b₀ + a₁·b₁` on pairs of bf16 (the even element in the lower half), summed in f32.
    #[inline(always)]
    fn dot_bf16(self, a: Self::U, b: Self::U, acc: Self::F) -> Self::F {
        let acc = self.mul_add(self.bf16_high(a), self.bf16_high(b), acc);
        self.mul_add(self.bf16_low(a), self.bf16_low(b), acc)
    }
    /// `acc + Σ aᵢ·bᵢ` over the four bytes of each word, those of `a` unsigned and those of `b` signed, without overflow
    /// on the way (the sum itself wraps at 32 bits).
    #[inline(always)]
    fn dot_bytes(self, a: Self::U, b: Self::U, acc: Self::U) -> Self::U {
        let byte = self.splat_u32(0xFF);
        let sign = self.splat_u32(0x80);
        // (b ^ 0x80) - 0x80 extends the sign of a byte.
        let signed = |b: Self::U| self.sub_u32(self.xor_u32(self.and_u32(b, byte), sign), sign);
        let unsigned = |a: Self::U| self.and_u32(a, byte);
        let acc = self.add_u32(acc, self.mul_lo_u32(unsigned(a), signed(b)));
        let (a1, b1) = (self.shr_u32::<8>(a), self.shr_u32::<8>(b));
        let acc = self.add_u32(acc, self.mul_lo_u32(unsigned(a1), signed(b1)));
        let (a2, b2) = (self.shr_u32::<16>(a), self.shr_u32::<16>(b));
        let acc = self.add_u32(acc, self.mul_lo_u32(unsigned(a2), signed(b2)));
        let (a3, b3) = (self.shr_u32::<24>(a), self.shr_u32::<24>(b));
        self.add_u32(acc, self.mul_lo_u32(a3, signed(b3)))
    }
    /// Write the signed numbers of each lane as bytes, those below 0 as 0 and those above 255 as 255.
    /// # Safety
    /// `dst` is valid for writing `LANES` bytes.
    #[inline(always)]
    unsafe fn store_bytes_ptr(self, dst: *mut u8, v: Self::U) {
        let mut words = [0u32; 16];
        // SAFETY: a vector has at most 16 lanes; the caller vouches for the bytes.
        unsafe {
            self.store_u32_ptr(words.as_mut_ptr(), v);
            for i in 0..Self::LANES {
                dst.add(i).write((words[i] as i32).clamp(0, 255) as u8);
            }
        }
    }
    /// [`Simd::store_bytes_ptr`] of four vectors, one after the other.
    /// # Safety
    /// `dst` is valid for writing `4 · LANES` bytes.
    #[inline(always)]
    unsafe fn store_four_bytes_ptr(self, dst: *mut u8, v: [Self::U; 4]) {
        for (i, v) in v.into_iter().enumerate() {
            // SAFETY: the caller vouches for the bytes.
            unsafe { self.store_bytes_ptr(dst.add(i * Self::LANES), v) }
        }
    }
    /// Bits of bf16, two in a word, as 16-bit numbers that are ordered as the values are; and back.
    #[inline(always)]
    fn bf16_order(self, pairs: Self::U) -> Self::U {
        // Numbers below zero have all their other bits turned round.
        let signs = self.and_u32(self.shr_u32::<15>(pairs), self.splat_u32(0x0001_0001));
        self.xor_u32(pairs, self.sub_u32(self.shl_u32::<15>(signs), signs))
    }
    /// The larger of signed 16-bit numbers, two in a word.
    fn max_i16(self, a: Self::U, b: Self::U) -> Self::U;
    /// The smaller of signed 16-bit numbers, two in a word.
    fn min_i16(self, a: Self::U, b: Self::U) -> Self::U;
    /// The even elements of pairs of bf16.
    #[inline(always)]
    fn bf16_low(self, pairs: Self::U) -> Self::F {
        self.from_bits(self.shl_u32::<16>(pairs))
    }
    /// The odd elements of pairs of bf16.
    #[inline(always)]
    fn bf16_high(self, pairs: Self::U) -> Self::F {
        self.from_bits(self.and_u32(pairs, self.splat_u32(0xFFFF_0000)))
    }
    /// Round both to bf16 and join them to pairs, `low` in the lower half.
    #[inline(always)]
    fn bf16_pairs(self, low: Self::F, high: Self::F) -> Self::U {
        let high = self.shl_u32::<16>(self.bf16_bits(high));
        self.or_u32(self.bf16_bits(low), high)
    }
    /// Round both to bf16 and lay them one after the other: neighbours share a word.
    #[inline(always)]
    fn bf16_consecutive(self, first: Self::F, second: Self::F) -> Self::U {
        let mut values = [bf16::ZERO; 32];
        // SAFETY: a vector has at most 16 lanes, so both halves fit.
        unsafe {
            self.store_bf16_ptr(values.as_mut_ptr(), first);
            self.store_bf16_ptr(values.as_mut_ptr().add(Self::LANES), second);
            self.load_u32_ptr(values.as_ptr().cast())
        }
    }
    /// Transpose `rows` × `LANES` words: `dst[c · dst_stride + r] = src[r · src_stride + c]`.
    /// # Safety
    /// All those elements are valid for reading and writing, and do not overlap.
    #[inline(always)]
    unsafe fn transpose(self, rows: usize, src: *const u32, src_stride: usize, dst: *mut u32, dst_stride: usize) {
        for c in 0..Self::LANES {
            for r in 0..rows {
                // SAFETY: the caller vouches for every element of the block.
                unsafe { dst.add(c * dst_stride + r).write(src.add(r * src_stride + c).read_unaligned()) };
            }
        }
    }
    /// The bits of the values rounded to bf16 (nearest even), in the lower half of each word.
    #[inline(always)]
    fn bf16_bits(self, a: Self::F) -> Self::U {
        let bits = self.to_bits(a);
        let odd = self.and_u32(self.shr_u32::<16>(bits), self.splat_u32(1));
        let rounded = self.shr_u32::<16>(self.add_u32(self.add_u32(bits, self.splat_u32(0x7FFF)), odd));
        // The carry could turn a NaN into an infinity: keep its head and set the quiet bit.
        let quiet = self.or_u32(self.shr_u32::<16>(bits), self.splat_u32(0x40));
        let is_number = self.eq(a, a);
        self.to_bits(self.select(is_number, self.from_bits(rounded), self.from_bits(quiet)))
    }

    /// `1 / a` within 2 ulp, for normal `a` with a normal reciprocal.
    #[inline(always)]
    fn reciprocal(self, a: Self::F) -> Self::F {
        self.div(self.splat(1.0), a)
    }
    /// All lanes 0.
    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }
    /// `-a`.
    #[inline(always)]
    fn neg(self, a: Self::F) -> Self::F {
        self.from_bits(self.xor_u32(self.to_bits(a), self.splat_u32(0x8000_0000)))
    }
    /// `|a|`.
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        self.from_bits(self.and_u32(self.to_bits(a), self.splat_u32(0x7FFF_FFFF)))
    }

    /// The first `LANES` values.
    #[inline(always)]
    fn load(self, src: &[f32]) -> Self::F {
        assert!(src.len() >= Self::LANES, "vector load past the end");
        // SAFETY: the length is checked above.
        unsafe { self.load_ptr(src.as_ptr()) }
    }
    /// Write the first `LANES` values.
    #[inline(always)]
    fn store(self, dst: &mut [f32], v: Self::F) {
        assert!(dst.len() >= Self::LANES, "vector store past the end");
        // SAFETY: the length is checked above.
        unsafe { self.store_ptr(dst.as_mut_ptr(), v) }
    }
    /// `src[i..]`, at most `LANES` values; the lanes past the end are 0.
    #[inline(always)]
    fn load_at<T: Lane>(self, src: &[T], i: usize) -> Self::F {
        assert!(i <= src.len(), "vector load past the end");
        let n = src.len() - i;
        // SAFETY: `n` values are left from `i` on.
        unsafe {
            let p = src.as_ptr().add(i);
            if n >= Self::LANES { T::load(self, p) } else { T::load_partial(self, p, n) }
        }
    }
    /// Write to `dst[i..]`, at most `LANES` values; the lanes past the end are dropped.
    #[inline(always)]
    fn store_at<T: Lane>(self, dst: &mut [T], i: usize, v: Self::F) {
        assert!(i <= dst.len(), "vector store past the end");
        let n = dst.len() - i;
        // SAFETY: `n` values are left from `i` on.
        unsafe {
            let p = dst.as_mut_ptr().add(i);
            if n >= Self::LANES { T::store(self, p, v) } else { T::store_partial(self, p, v, n) }
        }
    }
    /// `LANES` values where the lanes from `n` on are `fill` (for maxima and sums over a tail).
    #[inline(always)]
    fn keep_first(self, v: Self::F, n: usize, fill: f32) -> Self::F {
        if n >= Self::LANES {
            return v;
        }
        let inside = self.lt_u32(self.iota_u32(), self.splat_u32(n as u32));
        self.select(inside, v, self.splat(fill))
    }
}

/// An element type that vectors of f32 are loaded from and stored to: f32 or bf16.
pub trait Lane: Copy + Default + Send + Sync + bytemuck::Pod + 'static {
    /// Whether this is f32 itself.
    const IS_F32: bool;
    /// The value as f32.
    fn to_f32(self) -> f32;
    /// The value rounded to nearest even.
    fn from_f32(x: f32) -> Self;
    /// Read `LANES` values.
    /// # Safety
    /// `src` is valid for reading them.
    unsafe fn load<S: Simd>(s: S, src: *const Self) -> S::F;
    /// Read `n` values, the other lanes are 0.
    /// # Safety
    /// `src` is valid for reading them.
    unsafe fn load_partial<S: Simd>(s: S, src: *const Self, n: usize) -> S::F;
    /// Write `LANES` values.
    /// # Safety
    /// `dst` is valid for writing them.
    unsafe fn store<S: Simd>(s: S, dst: *mut Self, v: S::F);
    /// Write the first `n` lanes.
    /// # Safety
    /// `dst` is valid for writing them.
    unsafe fn store_partial<S: Simd>(s: S, dst: *mut Self, v: S::F, n: usize);
}

macro_rules! lane {
    ($t:ty, $to:expr, $from:expr, $load:ident, $load_partial:ident, $store:ident, $store_partial:ident) => {
        // SAFETY (whole impl): each method passes its own contract on unchanged.
        impl Lane for $t {
            const IS_F32: bool = size_of::<$t>() == 4;
            #[inline(always)]
            fn to_f32(self) -> f32 {
                $to(self)
            }
            #[inline(always)]
            fn from_f32(x: f32) -> Self {
                $from(x)
            }
            #[inline(always)]
            unsafe fn load<S: Simd>(s: S, src: *const Self) -> S::F {
                unsafe { s.$load(src) }
            }
            #[inline(always)]
            unsafe fn load_partial<S: Simd>(s: S, src: *const Self, n: usize) -> S::F {
                unsafe { s.$load_partial(src, n) }
            }
            #[inline(always)]
            unsafe fn store<S: Simd>(s: S, dst: *mut Self, v: S::F) {
                unsafe { s.$store(dst, v) }
            }
            #[inline(always)]
            unsafe fn store_partial<S: Simd>(s: S, dst: *mut Self, v: S::F, n: usize) {
                unsafe { s.$store_partial(dst, v, n) }
            }
        }
    };
}
lane!(f32, std::convert::identity, std::convert::identity, load_ptr, load_partial_ptr, store_ptr, store_partial_ptr);
lane!(bf16, bf16::to_f32, bf16::from_f32, load_bf16_ptr, load_partial_bf16_ptr, store_bf16_ptr, store_partial_bf16_ptr);

/// A piece of work that is generic over the vectors. Implementations mark `run`, and all that it calls,
/// `#[inline(always)]`.
pub trait Kernel {
    /// What the work gives back.
    type Output;
    /// The work, with the vectors of the chosen level.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Run a kernel with the vectors of `level`.
///
/// # Panics
/// If the machine lacks the level.
#[inline]
pub fn dispatch<K: Kernel>(level: Level, kernel: K) -> K::Output {
    // SAFETY: `checked` found the features of the level that each token stands for.
    match level.checked() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => unsafe { Avx512::<true>::assume() }.call(kernel),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { Avx512::<false>::assume() }.call(kernel),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { Avx2::assume() }.call(kernel),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { Neon::assume() }.call(kernel),
        _ => Scalar.call(kernel),
    }
}

/// Define functions over vectors: `simd_fn! { pub(crate) fn scale(s, x: &mut [f32], by: f32) { … } }` makes
/// `scale(level, x, by)`. In the body `s: S` is the vector token, `S: Simd`.
#[allow(unused_macros)] // used by the ops
macro_rules! simd_fn {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($s:ident $(, $arg:ident: $ty:ty)* $(,)?) $(-> $ret:ty)? $body:block)+) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(level: $crate::Level $(, $arg: $ty)*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, clippy::extra_unused_type_parameters)]
            fn body<S: $crate::simd::Simd>($s: S $(, $arg: $ty)*) $(-> $ret)? $body
            match level.checked() {
                #[cfg(target_arch = "x86_64")]
                $crate::Level::Avx512Bf16 => {
                    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
                    fn shell($($arg: $ty),*) $(-> $ret)? {
                        // SAFETY: the features are those of this function.
                        body(unsafe { $crate::simd::Avx512::<true>::assume() } $(, $arg)*)
                    }
                    // SAFETY: `checked` found the features.
                    unsafe { shell($($arg),*) }
                }
                #[cfg(target_arch = "x86_64")]
                $crate::Level::Avx512 => {
                    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
                    fn shell($($arg: $ty),*) $(-> $ret)? {
                        // SAFETY: the features are those of this function.
                        body(unsafe { $crate::simd::Avx512::<false>::assume() } $(, $arg)*)
                    }
                    // SAFETY: `checked` found the features.
                    unsafe { shell($($arg),*) }
                }
                #[cfg(target_arch = "x86_64")]
                $crate::Level::Avx2 => {
                    #[target_feature(enable = "avx2,fma")]
                    fn shell($($arg: $ty),*) $(-> $ret)? {
                        // SAFETY: the features are those of this function.
                        body(unsafe { $crate::simd::Avx2::assume() } $(, $arg)*)
                    }
                    // SAFETY: `checked` found the features.
                    unsafe { shell($($arg),*) }
                }
                #[cfg(target_arch = "aarch64")]
                // SAFETY: NEON is part of the base architecture.
                $crate::Level::Neon => body(unsafe { $crate::simd::Neon::assume() } $(, $arg)*),
                _ => body($crate::simd::Scalar $(, $arg)*),
            }
        }
    )+};
}
#[allow(unused_imports)] // used by the ops
pub(crate) use simd_fn;

/// Methods of a [`Simd`] implementation, one line each.
macro_rules! methods {
    ($(fn $name:ident($this:ident $(, $arg:ident: $ty:ty)*) $(-> $ret:ty)? = $body:expr;)+) => {$(
        #[inline(always)]
        #[allow(unused_unsafe)] // baseline instructions are safe to call
        fn $name($this $(, $arg: $ty)*) $(-> $ret)? {
            // SAFETY: the token proves that the machine has the instructions; they touch registers only.
            unsafe { $body }
        }
    )+};
}
/// Methods of a [`Simd`] implementation that read or write memory.
macro_rules! memory_methods {
    ($(fn $name:ident($this:ident $(, $arg:ident: $ty:ty)*) $(-> $ret:ty)? = $body:expr;)+) => {$(
        #[inline(always)]
        unsafe fn $name($this $(, $arg: $ty)*) $(-> $ret)? {
            // SAFETY: the token proves that the machine has the instructions; the caller vouches for the memory.
            unsafe { $body }
        }
    )+};
}
use {memory_methods, methods};

#[cfg(test)]
mod tests;
