//! Elementary functions and activations on vectors, with their derivatives.
//!
//! Polynomials and rational functions were fitted for this file by iteratively reweighted least squares (towards
//! the minimax fit) and checked in f32 against f64 at every level; the tests hold the bounds stated here.
//! NaN stays NaN.

use super::{Lane, Simd};

const LOG2_E: f32 = std::f32::consts::LOG2_E;
// ln 2 in two parts; the first has few enough bits that n · LN2_HIGH is exact for |n| < 2^9.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
const SQRT_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;
/// 1/√(2π)
const NORMAL_PEAK: f32 = 0.398_942_3;
/// √(2/π)
const TANH_SLOPE: f32 = 0.797_884_6;
const TANH_CUBE: f32 = 0.044_715;

/// c₀ + c₁x + c₂x² + … by Horner's rule.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::F, c: [f32; N]) -> S::F {
    let mut sum = s.splat(c[N - 1]);
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        sum = s.mul_add(sum, x, s.splat(c[i]));
    }
    sum
}

/// `x` limited to ±`bound`; NaN stays.
#[inline(always)]
fn clamp<S: Simd>(s: S, x: S::F, low: f32, high: f32) -> S::F {
    s.max(s.splat(low), s.min(s.splat(high), x))
}

/// eˣ within 2 ulp: x = n ln 2 + r, eˣ = 2ⁿ (1 + r + r² q(r)). 0 below -104, infinity above 88.73.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let x = clamp(s, x, -105.0, 89.0);
    let n = s.round(s.mul(x, s.splat(LOG2_E)));
    let r = s.neg_mul_add(n, s.splat(LN2_HIGH), x);
    let r = s.neg_mul_add(n, s.splat(LN2_LOW), r);
    let q = polynomial(s, r, [0.499_999_93, 0.166_665_2, 0.041_668_39, 0.008_368_717, 0.001_381_459_8]);
    let p = s.add(s.mul_add(s.mul(r, r), q, r), s.splat(1.0));
    s.scale(p, n)
}

/// 2ᶠ for |f| ≤ ½ within 3e-6.
const POWER: [f32; 5] = [0.999_999_3, 0.693_121_8, 0.240_247_46, 0.055_917_863, 0.009_570_051];

/// eˣ within 8e-6 for x ≤ 0, for values that become bf16: 2ⁿ 2ᶠ with x log₂ e = n + f. 0 below -104.
#[inline(always)]
pub fn exp_bf16<S: Simd>(s: S, x: S::F) -> S::F {
    let x = s.max(s.splat(-105.0), x);
    let n = s.round(s.mul(x, s.splat(LOG2_E)));
    let f = s.mul_add(x, s.splat(LOG2_E), s.neg(n));
    s.scale(polynomial(s, f, POWER), n)
}

/// tanh x within 4e-7 (relative): x · P(x²) / Q(x²) up to ±9, then ±1.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let sign = clamp(s, x, -1.0, 1.0);
    let far = s.le(s.splat(9.0), s.abs(x));
    let x = clamp(s, x, -9.0, 9.0);
    let t = s.mul(x, x);
    let p = polynomial(s, t, [0.999_999_98, 0.133_797_32, 0.003_494_05, 2.058_370_3e-5, 1.331_932_3e-8]);
    let q = polynomial(s, t, [1.0, 0.467_130_47, 0.025_871_133, 3.283_116_6e-4, 7.762_134e-7]);
    s.select(far, sign, clamp(s, s.div(s.mul(x, p), q), -1.0, 1.0))
}

/// erf x within 4e-7 (relative): x · P(x²) / Q(x²) cut to ±1, which it exceeds at the bound of x.
#[inline(always)]
pub fn erf<S: Simd>(s: S, x: S::F) -> S::F {
    let x = clamp(s, x, -4.04, 4.04);
    let t = s.mul(x, x);
    let p =
        polynomial(s, t, [std::f32::consts::FRAC_2_SQRT_PI, 0.190_404_8, 0.052_748_406, 0.003_765_514_6, 2.848_751_4e-4, 2.050_033_2e-6]);
    let q = polynomial(s, t, [1.0, 0.502_074_6, 0.114_108_33, 0.014_969_022, 0.001_162_500_5, 3.809_075_4e-5]);
    clamp(s, s.mul(s.mul(x, p), s.reciprocal(q)), -1.0, 1.0)
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.neg(x))))
}

/// ln x within 3 ulp for normal x > 0; -infinity at 0, NaN below.
/// x = 2ⁿ m with m in [√½, √2), ln x = n ln 2 + 2 artanh((m - 1) / (m + 1)).
#[inline(always)]
pub fn ln<S: Simd>(s: S, x: S::F) -> S::F {
    let bits = s.to_bits(x);
    // Moving the bits by those of √½ makes the exponent field count from there.
    let moved = s.sub_u32(bits, s.splat_u32(0x3F35_04F3));
    let mantissa = s.add_u32(s.and_u32(moved, s.splat_u32(0x007F_FFFF)), s.splat_u32(0x3F35_04F3));
    let m = s.from_bits(mantissa);
    // The exponent is signed: shift it as unsigned after adding 256, then take 256 off.
    let exponent = s.shr_u32::<23>(s.add_u32(moved, s.splat_u32(128 << 23)));
    let n = s.sub(s.from_i32(exponent), s.splat(128.0));
    let one = s.splat(1.0);
    let u = s.div(s.sub(m, one), s.add(m, one));
    let t = s.mul(u, u);
    // 2 artanh u = 2u + u³ (2/3 + 2/5 u² + 2/7 u⁴ + 2/9 u⁶), |u| ≤ 0.1716
    let tail = polynomial(s, t, [2.0 / 3.0, 2.0 / 5.0, 2.0 / 7.0, 2.0 / 9.0, 2.0 / 11.0]);
    let small = s.mul_add(s.mul(t, u), tail, s.mul(n, s.splat(LN2_LOW)));
    let value = s.mul_add(n, s.splat(LN2_HIGH), s.add(s.add(u, u), small));
    let value = s.select(s.eq(x, s.zero()), s.splat(f32::NEG_INFINITY), value);
    let value = s.select(s.lt(x, s.zero()), s.splat(f32::NAN), value);
    let value = s.select(s.eq(x, s.splat(f32::INFINITY)), x, value);
    s.select(s.eq(x, x), value, x)
}

/// Φ(x) = (1 + erf(x/√2)) / 2.
#[inline(always)]
fn normal_cdf<S: Simd>(s: S, x: S::F) -> S::F {
    let half = s.splat(0.5);
    s.mul_add(erf(s, s.mul(x, s.splat(SQRT_HALF))), half, half)
}

/// gelu(x) = x Φ(x) (Hendrycks and Gimpel 2016), by erf.
#[inline(always)]
pub fn gelu<S: Simd>(s: S, x: S::F) -> S::F {
    s.mul(x, normal_cdf(s, x))
}

/// [`gelu`] within 1e-5, which bf16 does not hold from 0.005 on: Φ(x) = ½ + x P(x²) / Q(x²) up to ±4.8, where it is 0 and 1.
#[inline(always)]
fn gelu_bf16<S: Simd>(s: S, x: S::F) -> S::F {
    let near = clamp(s, x, -4.8, 4.8);
    let t = s.mul(near, near);
    let p = polynomial(s, t, [0.398_905_5, 0.028_416_06, 0.003_786_484, 3.147_866_3e-5]);
    let q = polynomial(s, t, [1.0, 0.237_720_53, 0.024_211_315, 0.001_126_474]);
    s.mul(x, s.mul_add(s.mul(near, p), s.reciprocal(q), s.splat(0.5)))
}

/// [`gelu`] on its way into storage of `T`: as exact as that holds.
#[inline(always)]
pub fn gelu_for<S: Simd, T: Lane>(s: S, x: S::F) -> S::F {
    if T::IS_F32 { gelu(s, x) } else { gelu_bf16(s, x) }
}

/// gelu'(x) = Φ(x) + x e^(-x²/2) / √(2π).
#[inline(always)]
pub fn gelu_derivative<S: Simd>(s: S, x: S::F) -> S::F {
    let density = s.mul(exp(s, s.mul(s.mul(x, x), s.splat(-0.5))), s.splat(NORMAL_PEAK));
    s.mul_add(x, density, normal_cdf(s, x))
}

/// 2√(2/π) (x + 0.044715 x³): gelu_tanh(x) is x σ of this, since (1 + tanh u)/2 = σ(2u).
#[inline(always)]
fn gelu_tanh_inner<S: Simd>(s: S, x: S::F) -> S::F {
    let slope = s.mul_add(s.mul(x, x), s.splat(2.0 * TANH_SLOPE * TANH_CUBE), s.splat(2.0 * TANH_SLOPE));
    s.mul(x, slope)
}

/// The tanh approximation of gelu: x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2.
#[inline(always)]
pub fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    s.mul(x, sigmoid(s, gelu_tanh_inner(s, x)))
}

/// With v the inner cubic: σ(v) + x σ(v) σ(-v) v', v' = 2√(2/π) (1 + 3 · 0.044715 x²).
#[inline(always)]
pub fn gelu_tanh_derivative<S: Simd>(s: S, x: S::F) -> S::F {
    let v = gelu_tanh_inner(s, x);
    // σ(-|v|) = e/(1 + e) and σ(|v|) = 1/(1 + e), both without cancellation.
    let e = exp(s, s.neg(s.abs(v)));
    let high = s.div(s.splat(1.0), s.add(s.splat(1.0), e));
    let low = s.mul(e, high);
    let slope = s.mul_add(s.mul(x, x), s.splat(6.0 * TANH_SLOPE * TANH_CUBE), s.splat(2.0 * TANH_SLOPE));
    // For huge |x| σ(-|v|) is 0 and the slope may overflow; 0 · infinity must not make a NaN.
    let wing = s.select(s.eq(low, s.zero()), s.zero(), s.mul(s.mul(x, slope), s.mul(low, high)));
    s.add(s.select(s.lt(v, s.zero()), low, high), wing)
}

/// silu(x) = x σ(x).
#[inline(always)]
pub fn silu<S: Simd>(s: S, x: S::F) -> S::F {
    s.mul(x, sigmoid(s, x))
}

/// silu'(x) = σ(x) (1 + x (1 - σ(x))).
#[inline(always)]
pub fn silu_derivative<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    let sigma = sigmoid(s, x);
    s.mul(sigma, s.mul_add(x, s.sub(one, sigma), one))
}

/// max(0, x).
#[inline(always)]
pub fn relu<S: Simd>(s: S, x: S::F) -> S::F {
    s.max(s.zero(), x)
}

/// 1 for x > 0, else 0.
#[inline(always)]
pub fn relu_derivative<S: Simd>(s: S, x: S::F) -> S::F {
    s.select(s.lt(s.zero(), x), s.splat(1.0), s.zero())
}

/// 1 - y² for y = tanh(x): takes the value, not the argument.
#[inline(always)]
pub fn tanh_derivative_from_value<S: Simd>(s: S, y: S::F) -> S::F {
    s.neg_mul_add(y, y, s.splat(1.0))
}
