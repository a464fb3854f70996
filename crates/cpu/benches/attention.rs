//! Attention, forward and backward, as a share of what the processor's f32 multiply-add units can do.
//!
//! `cargo bench -p cloze-cpu --bench attention [-- [--cpu-time] [--threads N] [--level NAME] WORD…]` prints the rows whose name holds every
//! WORD. Samples of the op and of the peak are taken in turn. Operations counted: 4·n·n·D forward, 10·n·n·D backward
//! (two and five products; the softmax and the draws of dropout are not counted). On a machine that others use at the
//! same time, `--cpu-time` counts the time that the threads really ran (it misses waiting).
#![allow(unsafe_code)] // one system call, for the clock of the process

use cloze_cpu::simd::{Kernel, Simd, dispatch};
use cloze_cpu::{Cpu, CpuOptions, Level};
use cloze_tensor::ops::attention::{Attention, AttentionOp, Visibility};
use cloze_tensor::random::{Key, Stream};
use cloze_tensor::{Dropout, Dtype, Packed, Sequences, Tensor};
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
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let clock = if self.cpu_time { libc::CLOCK_PROCESS_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
        // SAFETY: the call only writes to the structure.
        unsafe { libc::clock_gettime(clock, &mut time) };
        let seconds = time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9;
        if self.cpu_time { seconds / self.threads as f64 } else { seconds }
    }

    #[cfg(not(target_os = "linux"))]
    fn now(self) -> f64 {
        assert!(!self.cpu_time, "--cpu-time needs Linux, here with {} threads", self.threads);
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed().as_secs_f64()
    }
}

/// Independent chains of multiply-adds, enough to keep every unit busy.
struct Peak(usize);

impl Kernel for Peak {
    type Output = f64; // operations

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        const CHAINS: usize = 12;
        let mut acc = [s.splat(0.0); CHAINS];
        let (a, b) = (black_box(s.splat(1.0 + 1e-7)), black_box(s.splat(1e-9)));
        for _ in 0..self.0 {
            for chain in &mut acc {
                *chain = s.mul_add(a, b, *chain);
            }
        }
        let sum = acc.into_iter().fold(s.splat(0.0), |sum, chain| s.add(sum, chain));
        black_box(s.reduce_add(sum));
        (self.0 * CHAINS * S::LANES * 2) as f64
    }
}

/// GFLOP/s of all threads together.
fn peak(cpu: &Cpu, clock: Clock) -> f64 {
    const ROUNDS: usize = 200_000;
    let operations = dispatch(cpu.level(), Peak(1)) * ROUNDS as f64;
    let start = clock.now();
    cpu.threads().for_each(cpu.threads().count(), |_| {
        dispatch(cpu.level(), Peak(ROUNDS));
    });
    operations * cpu.threads().count() as f64 / (clock.now() - start) / 1e9
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Print a row: the time, the speed and its share of the peak, in median and at best.
fn row(cpu: &Cpu, clock: Clock, name: &str, operations: f64, mut work: impl FnMut()) {
    work();
    let start = clock.now();
    work();
    let repeats = (0.01 / (clock.now() - start).max(1e-7)).ceil() as usize;
    let (mut peaks, mut speeds) = (Vec::new(), Vec::new());
    for _ in 0..11 {
        peaks.push(peak(cpu, clock));
        let start = clock.now();
        for _ in 0..repeats {
            work();
        }
        speeds.push(operations * repeats as f64 / (clock.now() - start) / 1e9);
    }
    let best = speeds.iter().copied().fold(0.0, f64::max);
    let top = peaks.iter().copied().fold(0.0, f64::max);
    let (peak, speed) = (median(peaks), median(speeds));
    println!(
        "{name:<48} {:>8.3} ms {speed:>7.1} GFLOP/s {:>5.1} % of {peak:.0}   best {best:.1}, {:.1} % of {top:.0}",
        operations / speed / 1e6,
        100.0 * speed / peak,
        100.0 * best / top
    );
}

fn main() {
    let (mut threads, mut level, mut cpu_time, mut words) = (None, None, false, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {}
            "--cpu-time" => cpu_time = true,
            "--threads" => threads = Some(arguments.next().and_then(|n| n.parse().ok()).expect("--threads N")),
            "--level" => {
                let name = arguments.next().expect("--level NAME");
                level = Some(Level::available().into_iter().find(|l| l.name() == name).expect("a level of this machine"));
            }
            word => words.push(word.to_lowercase()),
        }
    }
    let cpu = Cpu::new(CpuOptions { threads, level });
    let clock = Clock { cpu_time, threads: cpu.threads().count() };
    println!("level {}, {} threads", cpu.level().name(), cpu.threads().count());
    const TOKENS: usize = 1024;
    for (heads, head_dim) in [(12, 64), (8, 32)] {
        for n in [16, 32, 128, 512] {
            for dropout in [0.0, 0.1] {
                for dtype in [Dtype::F32, Dtype::Bf16] {
                    let name = format!("{} x {n} tokens, {heads} x {head_dim}, dropout {dropout} {dtype:?}", TOKENS / n).to_lowercase();
                    let wanted = |half: &str| words.iter().all(|w| format!("{name} {half}").contains(w.as_str()));
                    if !wanted("forward") && !wanted("backward") {
                        continue;
                    }
                    let hidden = heads * head_dim;
                    let layout = Packed::new(&cpu, Sequences::from_lengths(vec![n; TOKENS / n]));
                    let op = Attention {
                        heads,
                        visibility: Visibility::All,
                        rotary: None,
                        scale: 1.0 / (head_dim as f32).sqrt(),
                        dropout: (dropout > 0.0).then(|| Dropout { probability: dropout, key: Key::new(1, Stream::Dropout, 0, 0) }),
                    };
                    let values = |place: u32, len: usize| -> Vec<f32> {
                        let key = Key::new(2, Stream::Sampling, 0, place);
                        (0..len as u64).map(|i| key.normal(i)).collect()
                    };
                    let tensor = |place: u32, cols: usize| Tensor::from_host(&cpu, dtype, TOKENS, cols, &values(place, TOKENS * cols));
                    let (qkv, dy) = (tensor(0, 3 * hidden), tensor(1, hidden));
                    let (mut y, mut dqkv) = (tensor(2, hidden), tensor(3, 3 * hidden));
                    let mut lse = Tensor::new(&cpu, Dtype::F32, TOKENS, heads);
                    let pairs = (TOKENS * n * hidden) as f64;
                    let mut forward = || cpu.attention(&op, &layout, qkv.view(), None, y.view_mut(), Some(lse.view_mut()));
                    forward();
                    if wanted("forward") {
                        row(&cpu, clock, &format!("{name} forward"), 4.0 * pairs, &mut forward);
                    }
                    if wanted("backward") {
                        row(&cpu, clock, &format!("{name} backward"), 10.0 * pairs, || {
                            cpu.attention_backward(&op, &layout, qkv.view(), None, y.view(), lse.view(), dy.view(), dqkv.view_mut());
                        });
                    }
                }
            }
        }
    }
}
