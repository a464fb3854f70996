//! Activation functions and their derivatives, by name.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// A pointwise nonlinearity. `Gelu` is the exact form with erf, `GeluTanh` the approximation; they are never swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x · Φ(x), Φ the normal distribution function (Hendrycks and Gimpel 2016).
    Gelu,
    /// 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))).
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// x · σ(x).
    Silu,
    /// tanh x.
    Tanh,
}

impl Activation {
    /// All of them, for tests.
    pub const ALL: [Activation; 5] = [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu, Activation::Tanh];

    /// f(x), in f64.
    pub fn value(self, x: f64) -> f64 {
        match self {
            Activation::Gelu => 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2)),
            Activation::GeluTanh => 0.5 * x * (1.0 + gelu_inner(x).tanh()),
            Activation::Relu => x.max(0.0),
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Tanh => x.tanh(),
        }
    }

    /// f′(x), in f64.
    pub fn derivative(self, x: f64) -> f64 {
        match self {
            Activation::Gelu => 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2)) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt(),
            Activation::GeluTanh => {
                let t = gelu_inner(x).tanh();
                let inner = (2.0 / PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
            }
            Activation::Relu => f64::from(x > 0.0),
            Activation::Silu => {
                let s = 1.0 / (1.0 + (-x).exp());
                s * (1.0 + x * (1.0 - s))
            }
            Activation::Tanh => 1.0 - x.tanh().powi(2),
        }
    }
}

fn gelu_inner(x: f64) -> f64 {
    (2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)
}

/// The error function to about 1e-15: its Maclaurin series for small |x|, a continued fraction of erfc beyond
/// (Abramowitz and Stegun 7.1.6 and 7.1.14).
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 3.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term > sum * 1e-17 && term > 0.0 {
            n += 1.0;
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            sum += term;
        }
        sum * 2.0 / PI.sqrt() * (-a * a).exp()
    } else if a < 6.0 {
        let mut fraction = a;
        for k in (1..=60).rev() {
            fraction = a + f64::from(k) / 2.0 / fraction;
        }
        1.0 - (-a * a).exp() / (PI.sqrt() * fraction)
    } else {
        1.0
    };
    value.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_has_its_known_values() {
        for (x, y) in [(0.0, 0.0), (0.5, 0.520_499_877_813_046_5), (1.0, 0.842_700_792_949_714_9), (3.5, 0.999_999_256_901_628)] {
            assert!((erf(x) - y).abs() < 1e-14 && (erf(-x) + y).abs() < 1e-14, "erf({x}) = {}", erf(x));
        }
    }

    #[test]
    fn derivatives_agree_with_differences() {
        for f in Activation::ALL {
            for i in -60..=60 {
                let x = f64::from(i) * 0.1 + 0.013;
                let d = (f.value(x + 1e-6) - f.value(x - 1e-6)) / 2e-6;
                assert!((d - f.derivative(x)).abs() < 1e-7, "{f:?} at {x}: {d} against {}", f.derivative(x));
            }
        }
    }
}
