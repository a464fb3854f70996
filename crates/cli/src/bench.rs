//! `cloze bench`: the training step, its ops, and the forward pass, timed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use cloze::tensor::Operands;
use cloze::train::memory::Memory;
use cloze::train::run::Precision;

use crate::options::{Options, print_json, print_line};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Forward, backward and AdamW of masked-LM training on random tokens
    TrainStep(TrainStep),
    /// Each op of that step on its own, with its share of what the device can do
    Ops(TrainStep),
    /// The forward pass of a model folder on given token ids: {"case": [[ids of a text, …], …batches], …}
    Forward(Forward),
}

#[derive(clap::Args)]
pub(crate) struct Forward {
    /// Model folder
    #[arg(long)]
    model: PathBuf,
    /// JSON file of cases: each a list of batches, a batch a list of texts, a text a list of token ids
    #[arg(long)]
    cases: PathBuf,
    /// f32, bf16 or int8
    #[arg(long, default_value = "bf16", value_parser = parse_operands)]
    precision: Operands,
    /// Tokens that run at once, at most
    #[arg(long, default_value_t = 1024)]
    batch_tokens: usize,
    /// Runs of each case, after one to warm up
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Take the names of cases from standard input, one a line, and answer each with its seconds
    #[arg(long)]
    drive: bool,
    /// Write the mean hidden state of every text of every case to this JSON file
    #[arg(long)]
    dump: Option<PathBuf>,
}

fn parse_operands(text: &str) -> Result<Operands, String> {
    [Operands::F32, Operands::Bf16, Operands::Int8].into_iter().find(|o| o.name() == text).ok_or_else(|| "f32, bf16 or int8".to_owned())
}

type Cases = BTreeMap<String, Vec<Vec<Vec<u32>>>>;

fn forward(args: &Forward, options: &Options) -> anyhow::Result<u8> {
    let device = options.open()?;
    let begin = Instant::now();
    let forward = cloze::bench::Forward::load(&device, &args.model, args.precision, args.batch_tokens)?;
    let loading = begin.elapsed().as_secs_f64();
    let text = std::fs::read_to_string(&args.cases).with_context(|| format!("cannot read {}", args.cases.display()))?;
    let cases: Cases = serde_json::from_str(&text).with_context(|| format!("{} is no file of cases", args.cases.display()))?;
    let run = |batches: &[Vec<Vec<u32>>]| -> anyhow::Result<(f64, Vec<Vec<f32>>)> {
        let begin = Instant::now();
        let means: Vec<Vec<Vec<f32>>> = batches.iter().map(|batch| forward.run(batch)).collect::<Result<_, _>>()?;
        Ok((begin.elapsed().as_secs_f64(), means.into_iter().flatten().collect()))
    };
    if let Some(path) = &args.dump {
        let all: BTreeMap<&String, Vec<Vec<f32>>> =
            cases.iter().map(|(name, batches)| Ok((name, run(batches)?.1))).collect::<anyhow::Result<_>>()?;
        std::fs::write(path, serde_json::to_vec(&all)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.drive {
        for line in std::io::stdin().lines() {
            let line = line?;
            let batches = cases.get(line.trim()).with_context(|| format!("no case `{}` in {}", line.trim(), args.cases.display()))?;
            let seconds = run(batches)?.0;
            let peak = Memory::now().map_or(0.0, |m| m.peak_mb());
            print_json(&serde_json::json!({ "seconds": seconds, "peak_rss_mb": peak, "loading": loading }))?;
        }
        return Ok(0);
    }
    for (name, batches) in &cases {
        run(batches)?;
        let mut seconds: Vec<f64> = (0..args.runs.max(1)).map(|_| Ok(run(batches)?.0)).collect::<anyhow::Result<_>>()?;
        seconds.sort_by(f64::total_cmp);
        let (median, best) = (seconds[seconds.len() / 2], seconds[0]);
        let tokens: usize = batches.iter().flatten().map(Vec::len).sum();
        let peak = Memory::now().map_or(0.0, |m| m.peak_mb());
        if options.json {
            print_json(&serde_json::json!({ "case": name, "seconds": median, "best": best, "tokens": tokens, "peak_rss_mb": peak }))?;
        } else {
            print_line(format_args!(
                "{name:<24} {:>9.2} ms (best {:.2}) {:>9.0} tokens/s  {peak:.0} MB at most, {loading:.2} s to load",
                1e3 * median,
                1e3 * best,
                tokens as f64 / median
            ))?;
        }
    }
    Ok(0)
}

#[derive(clap::Args)]
pub(crate) struct TrainStep {
    /// A size by name: tiny, mini, small, medium, base, large
    #[arg(long, default_value = "mini")]
    model: String,
    /// f32, bf16 or auto
    #[arg(long, default_value = "auto", value_parser = parse_precision)]
    precision: Precision,
    /// Sequences of a step
    #[arg(long)]
    sequences: Option<usize>,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 128)]
    length: usize,
    /// V; the size's usual one otherwise
    #[arg(long)]
    vocab_size: Option<usize>,
    /// Steps timed, after two to warm up
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Dropout
    #[arg(long, default_value_t = 0.1)]
    dropout: f32,
    /// Compute layers again in backward
    #[arg(long)]
    recompute: bool,
}

fn parse_precision(text: &str) -> Result<Precision, String> {
    serde_json::from_value(serde_json::json!(text)).map_err(|_| "auto, f32 or bf16".to_owned())
}

pub(crate) fn run(command: Command, options: &Options) -> anyhow::Result<u8> {
    let (args, ops) = match command {
        Command::TrainStep(args) => (args, false),
        Command::Ops(args) => (args, true),
        Command::Forward(args) => return forward(&args, options),
    };
    let device = options.open()?;
    let small = args.model != "base" && args.model != "large";
    let shape = cloze::bench::Shape {
        size: args.model.clone(),
        sequences: args.sequences.unwrap_or(if small { 64 } else { 8 }),
        length: args.length,
        vocab_size: args.vocab_size.unwrap_or(if small { 8192 } else { 30_522 }),
        dropout: args.dropout,
        recompute: args.recompute,
    };
    if ops {
        return each_op(&device, &shape, &args, options);
    }
    let mut step = cloze::bench::TrainStep::new(&device, &shape, args.precision)?;
    for _ in 0..2 {
        step.run()?;
    }
    let mut seconds = Vec::new();
    for _ in 0..args.steps.max(1) {
        let begin = Instant::now();
        step.run()?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let tokens = (shape.sequences * shape.length) as f64;
    let peak = device.peak_flops(device.dtype(args.precision));
    let share = step.flops() / median / peak;
    let memory = Memory::now().map_or(0.0, |m| m.peak_mb());
    if options.json {
        print_json(&serde_json::json!({
            "tokens_per_second": tokens / median,
            "step_seconds": median,
            "peak_rss_mb": memory,
            "share_of_peak": share,
            "peak_gflops": peak / 1e9,
            "model": args.model,
            "device": device.name(),
        }))?;
    } else {
        print_line(format_args!(
            "{}: {:.0} tokens/s, {:.1} ms a step (median of {}), {:.0} GFLOP/s = {:.0}% of the measured peak, {memory:.0} MB at most",
            device.name(),
            tokens / median,
            1e3 * median,
            seconds.len(),
            step.flops() / median / 1e9,
            100.0 * share
        ))?;
    }
    Ok(0)
}

/// The ops of a step, one line each.
fn each_op(device: &cloze::Device, shape: &cloze::bench::Shape, args: &TrainStep, options: &Options) -> anyhow::Result<u8> {
    let (timings, ceilings) = cloze::bench::ops::time(device, shape, args.precision, args.steps)?;
    if options.json {
        for timing in &timings {
            print_json(timing)?;
        }
        print_json(&ceilings)?;
        return Ok(0);
    }
    print_line(format_args!(
        "{}: at most {:.2} TFLOP/s in products, {:.0} GB/s of memory, both measured now",
        device.name(),
        ceilings.flops / 1e12,
        ceilings.bandwidth / 1e9
    ))?;
    for t in &timings {
        let (rate, unit, share) = if t.flops > 0.0 {
            (t.flops / t.seconds / 1e12, "TFLOP/s", t.flops / t.seconds / ceilings.flops)
        } else {
            (t.bytes / t.seconds / 1e9, "GB/s", t.bytes / t.seconds / ceilings.bandwidth)
        };
        print_line(format_args!("{:<40} {:>9.3} ms {rate:>9.3} {unit:<7} {:>4.0}%", t.op, 1e3 * t.seconds, 100.0 * share))?;
    }
    Ok(0)
}
