//! Matrix products at the shapes of BERT, as a share of what the processor's multiply-add units can do.
//!
//! `cargo bench -p cloze-cpu --bench gemm [-- [--cpu-time] [--threads N] [--level NAME] [--shape M K N] WORD…]` prints the rows whose name holds
//! every WORD. Samples of the product and of the peak are taken in turn, and medians compared. On a machine that
//! others use at the same time, `--cpu-time` counts the time that the threads really ran (it misses waiting).
#![allow(unsafe_code)] // one system call, for the clock of the process

use cloze_cpu::gemm::{Activation, Epilogue, Gemm, Matrix, MatrixMut, Precision};
use cloze_cpu::simd::{Kernel, Simd, dispatch};
use cloze_cpu::{Level, Threads};
use half::bf16;
use std::hint::black_box;

/// Seconds since some moment: on the wall, or of running, per thread.
#[derive(Clone, Copy)]
struct Clock {
    cpu_time: bool,
    threads: usize,
}

impl Clock {
    #[cfg(target_os = "linux")]
    fn now(self) -> f64 {
        #[repr(C)]
        struct Timespec {
            seconds: i64,
            nanoseconds: std::ffi::c_long,
        }
        unsafe extern "C" {
            fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
        }
        const MONOTONIC: i32 = 1;
        const PROCESS_CPU_TIME: i32 = 2;
        let mut time = Timespec { seconds: 0, nanoseconds: 0 };
        // SAFETY: the structure is the one of 64-bit Linux, and the call only writes to it.
        unsafe { clock_gettime(if self.cpu_time { PROCESS_CPU_TIME } else { MONOTONIC }, &mut time) };
        let seconds = time.seconds as f64 + time.nanoseconds as f64 * 1e-9;
        if self.cpu_time { seconds / self.threads as f64 } else { seconds }
    }

    #[cfg(not(target_os = "linux"))]
    fn now(self) -> f64 {
        assert!(!self.cpu_time, "--cpu-time needs Linux");
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed().as_secs_f64() / self.threads.min(1) as f64
    }
}

/// Independent chains of multiply-adds, enough to keep every unit busy.
struct Peak {
    precision: Precision,
    rounds: usize,
}

impl Kernel for Peak {
    type Output = f64; // operations

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        const CHAINS: usize = 12;
        let mut acc = [s.splat(0.0); CHAINS];
        let (a, b) = (black_box(s.splat(1.0 + 1e-7)), black_box(s.splat(1e-9)));
        let (x, y) = (s.to_bits(a), s.to_bits(b));
        for _ in 0..self.rounds {
            for chain in &mut acc {
                *chain = match self.precision {
                    Precision::F32 => s.mul_add(a, b, *chain),
                    Precision::Bf16 => s.dot_bf16(x, y, *chain),
                    Precision::Int8 => s.from_bits(s.dot_bytes(x, y, s.to_bits(*chain))),
                };
            }
        }
        let sum = acc.into_iter().fold(s.splat(0.0), |sum, chain| s.add(sum, chain));
        black_box(s.reduce_add(sum));
        let depth = match self.precision {
            Precision::F32 => 2,
            Precision::Bf16 => 4,
            Precision::Int8 => 8,
        };
        (self.rounds * CHAINS * S::LANES * depth) as f64
    }
}

/// GFLOP/s of all threads together.
fn peak(level: Level, threads: &Threads, precision: Precision, clock: Clock) -> f64 {
    let start = clock.now();
    let rounds = 400_000;
    let operations = dispatch(level, Peak { precision, rounds: 1 }) * rounds as f64;
    threads.for_each(threads.count(), |_| {
        dispatch(level, Peak { precision, rounds });
    });
    operations * threads.count() as f64 / (clock.now() - start) / 1e9
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn values(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32).map(|i| (i.wrapping_mul(0x9E37_79B9).wrapping_add(seed) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

struct Bench {
    level: Level,
    threads: Threads,
    gemm: Gemm,
    clock: Clock,
    words: Vec<String>,
}

impl Bench {
    fn row(&self, name: &str, precision: Precision, operations: f64, mut product: impl FnMut()) {
        let name = format!("{name} {precision:?}").to_lowercase();
        if !self.words.iter().all(|word| name.contains(word.as_str())) {
            return;
        }
        product();
        let once = {
            let start = self.clock.now();
            product();
            self.clock.now() - start
        };
        let repeats = (0.015 / once.max(1e-7)).ceil() as usize;
        let (mut peaks, mut speeds) = (Vec::new(), Vec::new());
        for _ in 0..15 {
            peaks.push(peak(self.level, &self.threads, precision, self.clock));
            let start = self.clock.now();
            for _ in 0..repeats {
                product();
            }
            speeds.push(operations * repeats as f64 / (self.clock.now() - start) / 1e9);
        }
        let best = speeds.iter().copied().fold(0.0, f64::max);
        let (peak, speed) = (median(peaks), median(speeds));
        let time = operations / speed / 1e6;
        println!("{name:<44} {time:>9.3} ms {speed:>8.1} GFLOP/s {:>6.1} % of {peak:.0}   best {best:.1}", 100.0 * speed / peak);
    }

    /// Y = X · B + bias with B packed before, as a served model computes it.
    fn packed(&self, precision: Precision, m: usize, k: usize, n: usize, activation: Activation) {
        let (x, w, bias) = (values(m * k, 1), values(n * k, 2), values(n, 3));
        let b = self.gemm.pack(Matrix::f32(&w, n, k).transposed(), precision);
        let operations = 2.0 * (m * k * n) as f64;
        let suffix = if activation == Activation::None { String::new() } else { format!(" {activation:?}") };
        let name = format!("packed {m} x {k} x {n}{suffix}");
        let epilogue = || Epilogue { bias: Some(&bias), activation, ..Default::default() };
        match precision {
            Precision::F32 => {
                let mut y = vec![0.0; m * n];
                self.row(&name, precision, operations, || {
                    self.gemm.multiply(Matrix::f32(&x, m, k), &b, MatrixMut::f32(&mut y, m, n), precision, epilogue());
                });
            }
            // Activations are bf16 between products of bytes, too.
            Precision::Bf16 | Precision::Int8 => {
                let x: Vec<bf16> = x.into_iter().map(bf16::from_f32).collect();
                let mut y = vec![bf16::ZERO; m * n];
                self.row(&name, precision, operations, || {
                    self.gemm.multiply(Matrix::bf16(&x, m, k), &b, MatrixMut::bf16(&mut y, m, n), precision, epilogue());
                });
            }
        }
    }

    /// The three products of a linear layer in training, nothing packed before: Y = X · Wᵀ, dX = dY · W, dW += dYᵀ · X.
    fn training(&self, precision: Precision, t: usize, k: usize, n: usize) {
        let operations = 2.0 * (t * k * n) as f64;
        let (x, w, dy) = (values(t * k, 1), values(n * k, 2), values(t * n, 3));
        let mut dw = vec![0.0; n * k];
        let accumulate = || Epilogue { accumulate: true, ..Default::default() };
        let name = |product: &str| format!("train {product} {t} x {k} x {n}");
        match precision {
            Precision::F32 => {
                let (mut y, mut dx) = (vec![0.0; t * n], vec![0.0; t * k]);
                self.row(&name("y"), precision, operations, || {
                    let w = Matrix::f32(&w, n, k).transposed();
                    self.gemm.multiply(Matrix::f32(&x, t, k), w, MatrixMut::f32(&mut y, t, n), precision, Epilogue::default());
                });
                self.row(&name("dx"), precision, operations, || {
                    let w = Matrix::f32(&w, n, k);
                    self.gemm.multiply(Matrix::f32(&dy, t, n), w, MatrixMut::f32(&mut dx, t, k), precision, Epilogue::default());
                });
                self.row(&name("dw"), precision, operations, || {
                    let dy = Matrix::f32(&dy, t, n).transposed();
                    self.gemm.multiply(dy, Matrix::f32(&x, t, k), MatrixMut::f32(&mut dw, n, k), precision, accumulate());
                });
            }
            Precision::Bf16 => {
                let narrow = |x: Vec<f32>| x.into_iter().map(bf16::from_f32).collect::<Vec<bf16>>();
                let (x, dy) = (narrow(x), narrow(dy));
                let (mut y, mut dx) = (vec![bf16::ZERO; t * n], vec![bf16::ZERO; t * k]);
                self.row(&name("y"), precision, operations, || {
                    let w = Matrix::f32(&w, n, k).transposed();
                    self.gemm.multiply(Matrix::bf16(&x, t, k), w, MatrixMut::bf16(&mut y, t, n), precision, Epilogue::default());
                });
                self.row(&name("dx"), precision, operations, || {
                    let w = Matrix::f32(&w, n, k);
                    self.gemm.multiply(Matrix::bf16(&dy, t, n), w, MatrixMut::bf16(&mut dx, t, k), precision, Epilogue::default());
                });
                self.row(&name("dw"), precision, operations, || {
                    let dy = Matrix::bf16(&dy, t, n).transposed();
                    self.gemm.multiply(dy, Matrix::bf16(&x, t, k), MatrixMut::f32(&mut dw, n, k), precision, accumulate());
                });
            }
            Precision::Int8 => unreachable!("bytes are for frozen weights"),
        }
    }
}

fn main() {
    let mut shape = None;
    let (mut threads, mut cpu_time, mut level, mut words) = (0, false, Level::detected(), Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {}
            "--cpu-time" => cpu_time = true,
            "--threads" => threads = arguments.next().and_then(|n| n.parse().ok()).expect("--threads N"),
            "--level" => {
                let name = arguments.next().expect("--level NAME");
                level = Level::available().into_iter().find(|l| l.name() == name).expect("a level of this machine");
            }
            "--shape" => {
                let mut next = || arguments.next().and_then(|n| n.parse().ok()).expect("--shape M K N");
                shape = Some((next(), next(), next()));
            }
            word => words.push(word.to_lowercase()),
        }
    }
    let threads = Threads::new(threads);
    println!("level {}, {} threads", level.name(), threads.count());
    let clock = Clock { cpu_time, threads: threads.count() };
    let bench = Bench { level, clock, gemm: Gemm::new(level, threads.clone()), threads, words };
    if let Some((m, k, n)) = shape {
        for precision in [Precision::F32, Precision::Bf16] {
            bench.packed(precision, m, k, n, Activation::None);
            bench.training(precision, m, k, n);
        }
        bench.packed(Precision::Int8, m, k, n, Activation::None);
        return;
    }
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        for (k, n) in [(768, 768), (768, 3072), (3072, 768)] {
            for m in [1, 16, 128, 512, 1024, 4096] {
                bench.packed(precision, m, k, n, Activation::None);
            }
        }
        bench.packed(precision, 1024, 768, 3072, Activation::Gelu);
        for (k, n) in [(128, 128), (128, 512), (256, 256), (256, 1024), (384, 1536), (512, 512)] {
            bench.packed(precision, 1024, k, n, Activation::None);
        }
        if precision == Precision::Int8 {
            continue;
        }
        for (k, n) in [(768, 768), (768, 3072), (3072, 768)] {
            for t in [1024, 4096] {
                bench.training(precision, t, k, n);
            }
        }
        for (k, n) in [(256, 256), (256, 1024), (1024, 256)] {
            bench.training(precision, 8192, k, n);
        }
    }
}
