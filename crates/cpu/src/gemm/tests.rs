use super::*;
use half::bf16;

/// Values in ±1 from a hash, exactly representable in bf16 when `narrow`.
fn values(n: usize, seed: u32, narrow: bool) -> Vec<f32> {
    (0..n as u32)
        .map(|i| {
            let mut h = (i + 1).wrapping_mul(0x9E37_79B9) ^ seed.wrapping_mul(0x85EB_CA6B);
            h = (h ^ (h >> 15)).wrapping_mul(0xC2B2_AE35);
            h ^= h >> 13;
            let x = (h >> 8) as f32 / (1 << 23) as f32 - 1.0;
            if narrow { bf16::from_f32(x).to_f32() } else { x }
        })
        .collect()
}

fn narrowed(x: &[f32]) -> Vec<bf16> {
    x.iter().map(|&x| bf16::from_f32(x)).collect()
}

fn activation(a: Activation, x: f64) -> f64 {
    match a {
        Activation::None => x,
        Activation::Gelu => x * normal_cdf(x),
        Activation::GeluTanh => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
    }
}

/// Φ by Simpson's rule on the density from 0.
fn normal_cdf(x: f64) -> f64 {
    let x = x.clamp(-9.0, 9.0);
    let (n, density) = (2000, |t: f64| (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt());
    let h = x / n as f64;
    let inner: f64 = (1..n).map(|i| density(i as f64 * h) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    0.5 + (density(0.0) + inner + density(x)) * h / 3.0
}

/// One case; B and A are stored transposed if asked.
#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    k: usize,
    n: usize,
    a_transposed: bool,
    b_transposed: bool,
    a_bf16: bool,
    b_bf16: bool,
    c_bf16: bool,
    precision: Precision,
    packed: bool,
    accumulate: bool,
    bias: bool,
    pre: bool,
    activation: Activation,
}

const PLAIN: Case = Case {
    m: 33,
    k: 100,
    n: 50,
    a_transposed: false,
    b_transposed: false,
    a_bf16: false,
    b_bf16: false,
    c_bf16: false,
    precision: Precision::F32,
    packed: false,
    accumulate: false,
    bias: false,
    pre: false,
    activation: Activation::None,
};

/// The results of a case as f32: C and the pre-activation.
fn compute(gemm: &Gemm, case: Case) -> (Vec<f32>, Vec<f32>) {
    let Case { m, k, n, precision, .. } = case;
    let (a, b) = (values(m * k, 1, case.a_bf16), values(k * n, 2, case.b_bf16));
    let (a16, b16) = (narrowed(&a), narrowed(&b));
    let a_view = match (case.a_bf16, case.a_transposed) {
        (false, false) => Matrix::f32(&a, m, k),
        (false, true) => Matrix::f32(&a, k, m).transposed(),
        (true, false) => Matrix::bf16(&a16, m, k),
        (true, true) => Matrix::bf16(&a16, k, m).transposed(),
    };
    let b_view = match (case.b_bf16, case.b_transposed) {
        (false, false) => Matrix::f32(&b, k, n),
        (false, true) => Matrix::f32(&b, n, k).transposed(),
        (true, false) => Matrix::bf16(&b16, k, n),
        (true, true) => Matrix::bf16(&b16, n, k).transposed(),
    };
    let bias = values(n, 3, false);
    let start = values(m * n, 4, true);
    let packed = case.packed.then(|| gemm.pack(b_view, precision));
    let rhs = packed.as_ref().map_or(Rhs::Plain(b_view), Rhs::Packed);
    let shape = |pre| Epilogue {
        accumulate: case.accumulate,
        bias: case.bias.then_some(bias.as_slice()),
        activation: case.activation,
        pre_activation: pre,
    };
    if case.c_bf16 {
        let mut c = if case.accumulate { narrowed(&start) } else { vec![bf16::NAN; m * n] };
        let mut pre = vec![bf16::NAN; m * n];
        let target = case.pre.then(|| MatrixMut::bf16(&mut pre, m, n));
        gemm.multiply(a_view, rhs, MatrixMut::bf16(&mut c, m, n), precision, shape(target));
        let widen = |x: Vec<bf16>| x.into_iter().map(bf16::to_f32).collect();
        (widen(c), widen(pre))
    } else {
        let mut c = if case.accumulate { start } else { vec![f32::NAN; m * n] };
        let mut pre = vec![f32::NAN; m * n];
        let target = case.pre.then(|| MatrixMut::f32(&mut pre, m, n));
        gemm.multiply(a_view, rhs, MatrixMut::f32(&mut c, m, n), precision, shape(target));
        (c, pre)
    }
}

/// Compare with the plain loop in f64.
fn check(gemm: &Gemm, case: Case) {
    let Case { m, k, n, .. } = case;
    let rounded = |x: Vec<f32>| if case.precision == Precision::Bf16 { x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect() } else { x };
    let (a, b) = (rounded(values(m * k, 1, case.a_bf16)), rounded(values(k * n, 2, case.b_bf16)));
    let (bias, start) = (values(n, 3, false), values(m * n, 4, true));
    let (c, pre) = compute(gemm, case);
    let at = |x: &[f32], t: bool, r: usize, c: usize, rows: usize, columns: usize| {
        f64::from(if t { x[c * rows + r] } else { x[r * columns + c] })
    };
    let stored = if case.c_bf16 { 1.0 / 256.0 } else { 1.2e-7 };
    for i in 0..m {
        for j in 0..n {
            let (mut sum, mut size) = (0.0, 1e-30);
            for d in 0..k {
                let product = at(&a, case.a_transposed, i, d, m, k) * at(&b, case.b_transposed, d, j, k, n);
                sum += product;
                size += product.abs();
            }
            if case.accumulate {
                sum += f64::from(start[i * n + j]);
            }
            if case.bias {
                sum += f64::from(bias[j]);
            }
            // The error of a sum of K products grows at most with K, in practice with its square root.
            let bound = |want: f64| 2e-7 * (2.0 + (k as f64).sqrt()) * (size + 2.0) + stored * want.abs();
            if case.pre {
                let got = f64::from(pre[i * n + j]);
                assert!((got - sum).abs() <= bound(sum), "pre-activation [{i}, {j}] is {got}, not {sum}: {case:?}");
            }
            let (got, want) = (f64::from(c[i * n + j]), activation(case.activation, sum));
            assert!((got - want).abs() <= 1.2 * bound(want), "[{i}, {j}] is {got}, not {want}: {case:?} {}", gemm.level.name());
        }
    }
}

fn every_level(threads: usize, mut test: impl FnMut(&Gemm)) {
    for level in Level::available() {
        test(&Gemm::new(level, Threads::new(threads)));
    }
}

#[test]
fn odd_shapes() {
    every_level(2, |gemm| {
        for m in [0, 1, 3, 7, 8, 33] {
            for k in [0, 1, 2, 7, 33, 100] {
                for n in [0, 1, 2, 15, 16, 33, 49, 100] {
                    for precision in [Precision::F32, Precision::Bf16] {
                        for packed in [false, true] {
                            check(gemm, Case { m, k, n, precision, packed, ..PLAIN });
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn layouts_and_dtypes() {
    every_level(2, |gemm| {
        for bits in 0..64u32 {
            let bit = |i: u32| bits >> i & 1 == 1;
            for (m, k, n) in [(33, 67, 50), (16, 64, 48), (5, 31, 95)] {
                let case = Case { m, k, n, a_transposed: bit(0), b_transposed: bit(1), a_bf16: bit(2), b_bf16: bit(3), ..PLAIN };
                let precision = if bit(5) { Precision::Bf16 } else { Precision::F32 };
                check(gemm, Case { c_bf16: bit(4), precision, packed: bits % 3 == 0, ..case });
            }
        }
    });
}

#[test]
fn epilogues() {
    use Activation::*;
    every_level(2, |gemm| {
        for activation in [None, Gelu, GeluTanh, Relu, Silu, Tanh] {
            for bits in 0..16u32 {
                let bit = |i: u32| bits >> i & 1 == 1;
                let case = Case { m: 9, k: 40, n: 35, accumulate: bit(0), bias: bit(1), pre: bit(2), c_bf16: bit(3), ..PLAIN };
                check(gemm, Case { activation, ..case });
            }
        }
    });
}

/// Depths of several blocks, rows of several tasks, and depths that are packed in several chunks.
#[test]
fn blocks() {
    every_level(2, |gemm| {
        if gemm.level == Level::Scalar {
            return; // the same blocking, only slower
        }
        for c_bf16 in [false, true] {
            for accumulate in [false, true] {
                for precision in [Precision::F32, Precision::Bf16] {
                    let case = Case { c_bf16, accumulate, precision, bias: true, pre: true, activation: Activation::Relu, ..PLAIN };
                    check(gemm, Case { m: 401, k: 900, n: 70, ..case });
                    check(gemm, Case { m: 20, k: 1700, n: 130, a_transposed: true, packed: true, ..case });
                }
            }
        }
    });
    let gemm = Gemm::new(Level::detected(), Threads::new(2));
    check(&gemm, Case { m: 3, k: 4500, n: 1500, a_transposed: true, accumulate: true, ..PLAIN });
    check(&gemm, Case { m: 3, k: 9100, n: 1500, b_transposed: true, precision: Precision::Bf16, ..PLAIN });
    check(&gemm, Case { m: 10, k: 30, n: 5000, b_transposed: true, ..PLAIN });
}

#[test]
fn threads_and_neighbours_do_not_change_bits() {
    for precision in [Precision::F32, Precision::Bf16] {
        for c_bf16 in [false, true] {
            let case = Case { m: 203, k: 1000, n: 130, precision, c_bf16, activation: Activation::Gelu, bias: true, ..PLAIN };
            let one = compute(&Gemm::new(Level::detected(), Threads::new(1)), case).0;
            for threads in [2, 3, 5] {
                let many = compute(&Gemm::new(Level::detected(), Threads::new(threads)), case).0;
                assert!(one.iter().zip(&many).all(|(a, b)| a.to_bits() == b.to_bits()), "{threads} threads");
            }
            // The first rows alone.
            for m in [1, 2, 5, 9, 64] {
                let few = compute(&Gemm::new(Level::detected(), Threads::new(2)), Case { m, ..case }).0;
                assert!(few.iter().zip(&one).all(|(a, b)| a.to_bits() == b.to_bits()), "{m} rows");
            }
            let packed = compute(&Gemm::new(Level::detected(), Threads::new(2)), Case { packed: true, ..case }).0;
            assert_eq!(packed, one);
        }
    }
}

/// What the bytes of an int8 product stand for: each row of A with its own range, each column of B with its own scale.
fn dequantized(a: &[f32], b: &Quantized, k: usize) -> (Vec<f64>, Vec<f64>) {
    let mut rows = Vec::new();
    for row in a.chunks_exact(k) {
        let (low, high) = row.iter().fold((0.0f32, 0.0f32), |(l, h), &x| (l.min(x), h.max(x)));
        let scale = (high - low) / 255.0;
        let zero = (-low / scale).round_ties_even();
        rows.extend(row.iter().map(|x| f64::from(scale) * f64::from((x / scale + zero).round_ties_even().clamp(0.0, 255.0) - zero)));
    }
    (rows, b.to_f32().into_iter().map(f64::from).collect())
}

#[test]
fn int8_is_exact_in_its_bytes_and_close_to_the_product() {
    every_level(2, |gemm| {
        for (m, k, n) in [(1, 1, 1), (3, 5, 7), (9, 64, 48), (17, 100, 50), (33, 770, 130), (8, 3072, 20), (200, 33, 65)] {
            let (a, w) = (values(m * k, 1, false), values(n * k, 2, false));
            let quantized = Quantized::new(&w, k);
            let packed = gemm.pack_quantized(&quantized.values, &quantized.scales, k);
            let bias = values(n, 3, false);
            let mut c = vec![f32::NAN; m * n];
            let epilogue = || Epilogue { bias: Some(&bias), ..Epilogue::default() };
            gemm.multiply(Matrix::f32(&a, m, k), &packed, MatrixMut::f32(&mut c, m, n), Precision::Int8, epilogue());
            let (qa, qw) = dequantized(&a, &quantized, k);
            for i in 0..m {
                for j in 0..n {
                    let dot = |x: &[f64], y: &[f64]| (0..k).map(|d| x[i * k + d] * y[j * k + d]).sum::<f64>();
                    let (a, w): (Vec<f64>, Vec<f64>) = (a.iter().map(|&x| x.into()).collect(), w.iter().map(|&x| x.into()).collect());
                    let (bytes, true_product) = (dot(&qa, &qw) + f64::from(bias[j]), dot(&a, &w) + f64::from(bias[j]));
                    let got = f64::from(c[i * n + j]);
                    let level = gemm.level.name();
                    // A value that falls between two bytes may round either way.
                    assert!((got - bytes).abs() <= 0.012 + 2e-6 * k as f64, "[{i}, {j}] {got} {bytes} {level} {m} {k} {n}");
                    assert!((got - true_product).abs() <= 0.02 * (2.0 + (k as f64).sqrt()), "[{i}, {j}] {got} {true_product} {level}");
                }
                if m * n * k > 200_000 && i > 2 {
                    break;
                }
            }
            // From f32 weights as they are, the same bits; and activations of bf16 into bf16.
            let mut again = vec![f32::NAN; m * n];
            let b = Matrix::f32(&w, n, k).transposed();
            gemm.multiply(Matrix::f32(&a, m, k), b, MatrixMut::f32(&mut again, m, n), Precision::Int8, epilogue());
            assert_eq!(c, again);
            let a16 = narrowed(&a);
            let mut c16 = vec![bf16::NAN; m * n];
            gemm.multiply(Matrix::bf16(&a16, m, k), &packed, MatrixMut::bf16(&mut c16, m, n), Precision::Int8, epilogue());
            let far = c16.iter().zip(&c).find(|(x, y)| (x.to_f32() - **y).abs() > 0.02 * (2.0 + (k as f32).sqrt()));
            assert!(far.is_none(), "{far:?} {m} {k} {n}");
        }
    });
}

#[test]
fn int8_rows_have_the_same_bits_alone_and_together() {
    let case =
        Case { m: 203, k: 1000, n: 130, precision: Precision::Int8, packed: true, activation: Activation::Gelu, bias: true, ..PLAIN };
    let mut of_levels = Vec::new();
    for level in Level::available() {
        let one = compute(&Gemm::new(level, Threads::new(1)), case).0;
        for threads in [2, 3] {
            assert_eq!(compute(&Gemm::new(level, Threads::new(threads)), case).0, one, "{threads} threads");
        }
        for m in [1, 2, 5, 9, 64] {
            let few = compute(&Gemm::new(level, Threads::new(2)), Case { m, ..case }).0;
            assert!(few.iter().zip(&one).all(|(a, b)| a.to_bits() == b.to_bits()), "{m} rows");
        }
        of_levels.push(one);
    }
    // Sums of whole numbers are the same on every level; only the range and the activation may round differently.
    for level in &of_levels {
        assert!(level.iter().zip(&of_levels[0]).all(|(a, b)| (a - b).abs() < 0.05));
    }
}

#[test]
fn int8_shows_what_is_not_finite() {
    every_level(1, |gemm| {
        let mut a = values(5 * 40, 1, false);
        (a[40 + 3], a[3 * 40 + 39]) = (f32::NAN, f32::INFINITY);
        a[4 * 40..].fill(0.0);
        let packed = gemm.pack(Matrix::f32(&values(40 * 20, 2, false), 40, 20), Precision::Int8);
        let mut c = vec![1.0; 5 * 20];
        gemm.multiply(Matrix::f32(&a, 5, 40), &packed, MatrixMut::f32(&mut c, 5, 20), Precision::Int8, Epilogue::default());
        for (i, row) in c.chunks(20).enumerate() {
            assert!(row.iter().all(|x| x.is_nan()) == (i == 1 || i == 3), "row {i}: {row:?}");
        }
        assert!(c[4 * 20..].iter().all(|&x| x == 0.0));
        for (at, sound) in [(0, 1.0), (3, f32::NAN), (17, f32::INFINITY), (39, f32::NEG_INFINITY), (39, -f32::NAN)] {
            let mut a = narrowed(&values(2 * 40, 1, false));
            a[at] = bf16::from_f32(sound);
            gemm.multiply(Matrix::bf16(&a, 2, 40), &packed, MatrixMut::f32(&mut c[..40], 2, 20), Precision::Int8, Epilogue::default());
            assert!(c[..20].iter().all(|x| x.is_nan() != sound.is_finite()) && c[20..40].iter().all(|x| x.is_finite()), "{sound}");
        }
    });
}

#[test]
fn strided_views() {
    every_level(2, |gemm| {
        let (m, k, n) = (13, 21, 18);
        let wide_a = values(m * 40, 5, false);
        let wide_b = values(k * 30, 6, false);
        let mut wide_c = vec![9.0f32; m * 25];
        let a = Matrix::f32_strided(&wide_a[7..], m, k, 40);
        let b = Matrix::f32_strided(&wide_b[2..], k, n, 30);
        gemm.multiply(a, b, MatrixMut::f32_strided(&mut wide_c[3..], m, n, 25), Precision::F32, Epilogue::default());
        for i in 0..m {
            for j in 0..25 {
                let got = wide_c[i * 25 + j];
                if (3..3 + n).contains(&j) {
                    let want: f64 = (0..k).map(|d| f64::from(wide_a[7 + i * 40 + d]) * f64::from(wide_b[2 + d * 30 + j - 3])).sum();
                    assert!((f64::from(got) - want).abs() < 1e-5, "{i} {j}: {got} {want}");
                } else {
                    assert_eq!(got, 9.0, "{i} {j} lies outside");
                }
            }
        }
    });
}

#[test]
fn nan_reaches_exactly_its_row_or_column() {
    every_level(2, |gemm| {
        for precision in [Precision::F32, Precision::Bf16] {
            let (m, k, n) = (17, 30, 50);
            let (mut a, mut b) = (values(m * k, 1, false), values(k * n, 2, false));
            a[4 * k + 29] = f32::NAN;
            b[7 * n + 49] = f32::NAN;
            let mut c = vec![0.0; m * n];
            for activation in [Activation::None, Activation::Gelu, Activation::Relu, Activation::Tanh] {
                let epilogue = Epilogue { activation, ..Default::default() };
                gemm.multiply(Matrix::f32(&a, m, k), Matrix::f32(&b, k, n), MatrixMut::f32(&mut c, m, n), precision, epilogue);
                for (i, x) in c.iter().enumerate() {
                    assert_eq!(x.is_nan(), i / n == 4 || i % n == 49, "{activation:?} [{}, {}] {}", i / n, i % n, gemm.level.name());
                }
            }
        }
    });
}

#[test]
fn disagreeing_shapes_are_refused() {
    let gemm = Gemm::new(Level::Scalar, Threads::new(1));
    let x = [1.0; 12];
    let refused = |f: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
    assert!(refused(&|| _ = Matrix::f32(&x, 3, 5)));
    assert!(refused(&|| _ = Matrix::f32_strided(&x, 4, 3, 4)));
    assert!(refused(&|| {
        let mut c = [0.0; 9];
        gemm.multiply(Matrix::f32(&x, 3, 4), Matrix::f32(&x, 3, 4), MatrixMut::f32(&mut c, 3, 3), Precision::F32, Epilogue::default());
    }));
    assert!(refused(&|| {
        let mut c = [0.0; 8];
        let b = Matrix::f32(&x, 3, 4).transposed();
        gemm.multiply(Matrix::f32(&x, 3, 4), b, MatrixMut::f32(&mut c, 2, 4), Precision::F32, Epilogue::default());
    }));
}
