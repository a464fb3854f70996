use super::math;
use super::{Kernel, Lane, Simd, dispatch};
use crate::level::Level;
use half::bf16;

/// Apply a vector function to a slice, as kernels do: full vectors, then a partial one.
macro_rules! mapped {
    ($name:ident, $f:expr) => {
        struct $name<'a>(&'a [f32], &'a mut [f32]);
        impl Kernel for $name<'_> {
            type Output = ();
            #[inline(always)]
            fn run<S: Simd>(self, s: S) {
                for i in (0..self.0.len()).step_by(S::LANES) {
                    s.store_at(self.1, i, $f(s, s.load_at(self.0, i)));
                }
            }
        }
    };
}
mapped!(Exp, math::exp);
mapped!(Ln, math::ln);
mapped!(Tanh, math::tanh);
mapped!(Erf, math::erf);
mapped!(Sigmoid, math::sigmoid);
mapped!(Gelu, math::gelu);
mapped!(GeluBf16, math::gelu_for::<S, bf16>);
mapped!(ExpBf16, math::exp_bf16);
mapped!(GeluDerivative, math::gelu_derivative);
mapped!(GeluTanh, math::gelu_tanh);
mapped!(GeluTanhDerivative, math::gelu_tanh_derivative);
mapped!(Silu, math::silu);
mapped!(SiluDerivative, math::silu_derivative);
mapped!(Relu, math::relu);

fn grid() -> Vec<f32> {
    let mut x: Vec<f32> = (-40_000..=40_000).map(|i| i as f32 * 3e-4).collect();
    x.extend((-120..=30).flat_map(|e| [2f32.powi(e), -2f32.powi(e), 1.7 * 2f32.powi(e)]));
    x.extend((0..8000).map(|i| -104.0 + i as f32 * 0.024));
    x
}

/// erf in f64 by its Taylor series, or 1 - the continued fraction of erfc for large arguments.
fn erf64(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let a = x.abs();
    let mut fraction = a;
    for k in (1..=120).rev() {
        fraction = a + k as f64 / 2.0 / fraction;
    }
    x.signum() * (1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt()))
}

fn cdf(x: f64) -> f64 {
    0.5 * (1.0 + erf64(x / std::f64::consts::SQRT_2))
}

fn sigma(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Largest |got - want| / (absolute + relative · |want|) must be at most 1, and the tail has the body's bits.
macro_rules! check {
    ($kernel:ident, $reference:expr, absolute $absolute:expr, relative $relative:expr, $x:expr) => {
        for level in Level::available() {
            let x: Vec<f32> = $x;
            let mut got = vec![0.0; x.len()];
            dispatch(level, $kernel(&x, &mut got));
            for (i, (&x, &got)) in x.iter().zip(&got).enumerate() {
                let want: f64 = $reference(f64::from(x));
                if want.abs() > f64::from(f32::MAX) {
                    assert_eq!(got, want as f32, "{} {}({x})", level.name(), stringify!($kernel));
                    continue;
                }
                let error = (f64::from(got) - want).abs() / ($absolute + $relative * want.abs());
                assert!(error <= 1.0, "{} {}({x}) = {got}, not {want} (element {i}, error {error})", level.name(), stringify!($kernel));
            }
            for start in [1, 2, 3, 5, 7, 11, 13] {
                for length in [1usize, 3, 7, 15, 17, 33] {
                    let part = &x[start * 997..][..length];
                    let mut again = vec![0.0; length];
                    dispatch(level, $kernel(part, &mut again));
                    for j in 0..length {
                        assert_eq!(again[j].to_bits(), got[start * 997 + j].to_bits(), "{} tail", level.name());
                    }
                }
            }
            let mut nan = [0.0; 3];
            dispatch(level, $kernel(&[1.0, f32::NAN, 1.0], &mut nan));
            assert!(nan[1].is_nan() && !nan[0].is_nan(), "{} {} loses NaN", level.name(), stringify!($kernel));
        }
    };
}

const ULP: f64 = 1.2e-7;

#[test]
fn exponential() {
    check!(Exp, f64::exp, absolute 1.5e-45, relative 1.7 * ULP, grid());
    let falling = || grid().into_iter().map(|x| -x.abs()).collect::<Vec<f32>>();
    check!(ExpBf16, f64::exp, absolute 1.5e-45, relative 8e-6, falling());
    check!(Ln, f64::ln, absolute 1.5e-7, relative 2.0 * ULP, grid().into_iter().map(f32::abs).map(|x| x.max(1e-37)).collect());
}

#[test]
fn sigmoids() {
    check!(Tanh, f64::tanh, absolute 1e-30, relative 4e-7, grid());
    check!(Erf, erf64, absolute 1e-30, relative 4e-7, grid());
    check!(Sigmoid, sigma, absolute 1e-38, relative 4e-7, grid());
}

#[test]
fn activations() {
    let near = || grid().into_iter().filter(|x| x.abs() < 60.0).collect::<Vec<f32>>();
    let density = |x: f64| (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
    let inner = |x: f64| ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh();
    let inner_slope = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
    check!(Gelu, |x: f64| x * cdf(x), absolute 9e-7, relative 4e-7, near());
    let bf16_range = || grid().into_iter().filter(|x| x.abs() < 20.0).collect::<Vec<f32>>();
    check!(GeluBf16, |x: f64| x * cdf(x), absolute 1e-5, relative 0.0, bf16_range());
    check!(GeluDerivative, |x: f64| cdf(x) + x * density(x), absolute 6e-7, relative 0.0, near());
    check!(GeluTanh, |x: f64| 0.5 * x * (1.0 + inner(x)), absolute 1e-6, relative 4e-7, near());
    check!(
        GeluTanhDerivative,
        |x: f64| 0.5 * (1.0 + inner(x)) + 0.5 * x * (1.0 - inner(x).powi(2)) * inner_slope(x),
        absolute 2e-6, relative 0.0, near()
    );
    check!(Silu, |x: f64| x * sigma(x), absolute 1e-35, relative 5e-7, near());
    check!(SiluDerivative, |x: f64| sigma(x) * (1.0 + x * (1.0 - sigma(x))), absolute 1.5e-6, relative 0.0, near());
    check!(Relu, |x: f64| x.max(0.0), absolute 1e-45, relative 0.0, near());
}

struct Basics<'a>(&'a [f32], &'a [u32]);
impl Kernel for Basics<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Basics(x, w) = self;
        let n = S::LANES;
        let name = S::LEVEL.name();
        let (a, b) = (s.load(x), s.load(&x[n..]));
        let show = |v: S::F| {
            let mut out = vec![0.0; n];
            s.store(&mut out, v);
            out
        };
        let show_u = |v: S::U| {
            let mut out = vec![0u32; n];
            // SAFETY: `out` holds LANES words.
            unsafe { s.store_u32_ptr(out.as_mut_ptr(), v) };
            out
        };
        // SAFETY: `w` holds at least two vectors of the widest level.
        let (c, d) = unsafe { (s.load_u32_ptr(w.as_ptr()), s.load_u32_ptr(w.as_ptr().add(n))) };
        for i in 0..n {
            let (p, q, u, v) = (x[i], x[n + i], w[i], w[n + i]);
            assert_eq!(show(s.add(a, b))[i], p + q, "{name}");
            assert_eq!(show(s.sub(a, b))[i], p - q, "{name}");
            assert_eq!(show(s.mul(a, b))[i], p * q, "{name}");
            assert_eq!(show(s.div(a, b))[i], p / q, "{name}");
            let fused = (f64::from(p) * f64::from(q) + f64::from(q)) as f32;
            assert!((show(s.mul_add(a, b, b))[i] - fused).abs() <= 1e-5, "{name}");
            let fused = (f64::from(q) - f64::from(p) * f64::from(q)) as f32;
            assert!((show(s.neg_mul_add(a, b, b))[i] - fused).abs() <= 1e-5, "{name}");
            assert_eq!(show(s.max(a, b))[i], p.max(q), "{name}");
            assert_eq!(show(s.min(a, b))[i], p.min(q), "{name}");
            assert_eq!(show(s.sqrt(s.abs(a)))[i], p.abs().sqrt(), "{name}");
            assert_eq!(show(s.neg(a))[i], -p, "{name}");
            assert_eq!(show(s.round(a))[i], p.round_ties_even(), "{name}");
            assert_eq!(show(s.select(s.lt(a, b), a, b))[i], if p < q { p } else { q }, "{name}");
            assert_eq!(show(s.select(s.le(a, a), b, a))[i], q, "{name}");
            assert_eq!(show(s.from_i32(s.to_i32(a)))[i], p.round_ties_even(), "{name}");
            assert_eq!(show(s.keep_first(a, 3, -1.0))[i], if i < 3 { p } else { -1.0 }, "{name}");
            assert_eq!(show_u(s.iota_u32())[i], i as u32, "{name}");
            assert_eq!(show_u(s.add_u32(c, d))[i], u.wrapping_add(v), "{name}");
            assert_eq!(show_u(s.sub_u32(c, d))[i], u.wrapping_sub(v), "{name}");
            assert_eq!(show_u(s.mul_lo_u32(c, d))[i], u.wrapping_mul(v), "{name}");
            assert_eq!(show_u(s.mul_hi_u32(c, d))[i], ((u64::from(u) * u64::from(v)) >> 32) as u32, "{name}");
            assert_eq!(show_u(s.and_u32(c, d))[i], u & v, "{name}");
            assert_eq!(show_u(s.or_u32(c, d))[i], u | v, "{name}");
            assert_eq!(show_u(s.xor_u32(c, d))[i], u ^ v, "{name}");
            assert_eq!(show_u(s.shl_u32::<7>(c))[i], u << 7, "{name}");
            assert_eq!(show_u(s.shr_u32::<7>(c))[i], u >> 7, "{name}");
            assert_eq!(show(s.select(s.lt_u32(c, d), a, b))[i], if u < v { p } else { q }, "{name}");
            let (low, high) = (bf16::from_f32(p), bf16::from_f32(q));
            let pair = u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
            assert_eq!(show_u(s.bf16_pairs(a, b))[i], pair, "{name}");
            let dot = low.to_f32() * low.to_f32() + high.to_f32() * high.to_f32() + 1.0;
            let got = show(s.dot_bf16(s.bf16_pairs(a, b), s.bf16_pairs(a, b), s.splat(1.0)))[i];
            assert!((got - dot).abs() <= 1e-6 * dot, "{name}: {got} {dot}");
            let bytes: i32 = (0..4).map(|j| i32::from((u >> (8 * j)) as u8) * i32::from((v >> (8 * j)) as i8)).sum();
            assert_eq!(show_u(s.dot_bytes(c, d, s.splat_u32(7)))[i], (bytes + 7) as u32, "{name}");
            let extremes = show_u(s.dot_bytes(s.splat_u32(0xFFFF_FFFF), s.splat_u32(0x8080_8080), s.splat_u32(0)))[i];
            assert_eq!(extremes as i32, 4 * 255 * -128, "{name}: no saturation");
        }
        let half = |word: u32, upper: usize| (word >> (16 * upper)) as i16;
        for (i, (&u, &v)) in w[..n].iter().zip(&w[n..]).enumerate() {
            for upper in 0..2 {
                let (u, v) = (half(u, upper), half(v, upper));
                assert_eq!(half(show_u(s.max_i16(c, d))[i], upper), u.max(v), "{name}");
                assert_eq!(half(show_u(s.min_i16(c, d))[i], upper), u.min(v), "{name}");
                let (p, q) = (bf16::from_bits(u as u16), bf16::from_bits(v as u16));
                let order = |v: S::U| half(show_u(s.bf16_order(v))[i], upper);
                assert!(p.partial_cmp(&q).is_none_or(|o| o == order(c).cmp(&order(d))), "{name} {p} {q}");
            }
            assert_eq!(show_u(s.bf16_order(s.bf16_order(c)))[i], u, "{name}");
        }
        let mut bytes = [0u8; 64];
        // SAFETY: room for four times the lanes of every level.
        unsafe {
            let many = s.mul_lo_u32(s.iota_u32(), s.splat_u32(37));
            let shifted = |by: i32| s.add_u32(many, s.splat_u32(by as u32));
            s.store_four_bytes_ptr(bytes.as_mut_ptr(), [many, shifted(-100), shifted(70_000), shifted(-70_000)]);
        }
        for (i, &byte) in bytes[..4 * n].iter().enumerate() {
            let want = (i % n) as i32 * 37 + [0, -100, 70_000, -70_000][i / n];
            assert_eq!(i32::from(byte), want.clamp(0, 255), "{name} {i}");
        }
        let mut bytes = [0u8; 16];
        // SAFETY: room for the lanes of every level.
        unsafe { s.store_bytes_ptr(bytes.as_mut_ptr(), s.iota_u32()) };
        assert!(bytes[..n].iter().enumerate().all(|(i, &b)| usize::from(b) == i) && bytes[n..].iter().all(|&b| b == 0), "{name}");
        let sum: f64 = x[..n].iter().copied().map(f64::from).sum();
        assert!((f64::from(s.reduce_add(a)) - sum).abs() < 1e-4, "{name}");
        assert_eq!(s.reduce_max(a), x[..n].iter().copied().fold(f32::MIN, f32::max), "{name}");

        for length in 0..=2 * n {
            let mut f = vec![7.0f32; 2 * n + 1];
            let mut h = vec![bf16::from_f32(7.0); 2 * n + 1];
            let narrow: Vec<bf16> = x[..length].iter().map(|&v| bf16::from_f32(v)).collect();
            for i in (0..length).step_by(n) {
                s.store_at(&mut f[..length], i, s.load_at(&x[..length], i));
                s.store_at(&mut h[..length], i, s.load_at(&x[..length], i));
            }
            assert!(f[..length] == x[..length] && f[length..].iter().all(|&v| v == 7.0), "{name} {length}");
            assert!(h[..length] == narrow[..] && h[length..].iter().all(|v| v.to_f32() == 7.0), "{name} {length}");
            for i in (0..length).step_by(n) {
                s.store_at(&mut f[..length], i, s.load_at(&narrow, i));
            }
            assert!(f[..length].iter().zip(&narrow).all(|(a, b)| *a == b.to_f32()), "{name} {length}");
        }
    }
}

#[test]
fn every_operation_agrees_with_plain_rust() {
    let x: Vec<f32> = (0..64).map(|i| ((i * 37 % 61) as f32 - 30.0) * 0.37 + 0.01).collect();
    let w: Vec<u32> = (0..64u32).map(|i| i.wrapping_mul(0x9E37_79B9).rotate_left(i)).collect();
    for level in Level::available() {
        dispatch(level, Basics(&x, &w));
    }
}

#[test]
fn rounding_to_bf16() {
    struct Narrow<'a>(&'a [f32], &'a mut [bf16]);
    impl Kernel for Narrow<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for i in (0..self.0.len()).step_by(S::LANES) {
                s.store_at(self.1, i, s.load_at(self.0, i));
            }
        }
    }
    let mut x: Vec<f32> = (0..4096u32).map(|i| f32::from_bits(0x3F80_0000 + i * 0x1001)).collect();
    x.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::from_bits(0x3F80_8000), f32::from_bits(0x3F81_8000)]);
    for level in Level::available() {
        let mut got = vec![bf16::ZERO; x.len()];
        dispatch(level, Narrow(&x, &mut got));
        for (&x, &got) in x.iter().zip(&got) {
            assert_eq!(got.to_bits(), bf16::from_f32(x).to_bits(), "{} {x}", level.name());
        }
        let mut nan = [bf16::ZERO; 1];
        dispatch(level, Narrow(&[f32::from_bits(0x7F80_0001)], &mut nan));
        assert!(nan[0].is_nan(), "{}", level.name());
    }
}

simd_fn! {
    fn total(s, x: &[f32]) -> f32 {
        let mut sum = s.zero();
        for i in (0..x.len()).step_by(S::LANES) {
            sum = s.add(sum, s.load_at(x, i));
        }
        s.reduce_add(sum)
    }
}

#[test]
fn functions_over_levels() {
    let x: Vec<f32> = (0..101).map(|i| i as f32).collect();
    for level in Level::available() {
        assert_eq!(total(level, &x), 5050.0, "{}", level.name());
        assert_eq!(f32::from_f32(2.5).to_f32(), 2.5);
    }
}
