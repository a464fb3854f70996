//! `cloze bench`: the training step, timed.

use std::time::Instant;

use cloze::train::memory::Memory;
use cloze::train::run::Precision;

use crate::options::{Options, print_json, print_line};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Forward, backward and AdamW of masked-LM training on random tokens
    TrainStep(TrainStep),
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
    let Command::TrainStep(args) = command;
    let device = options.open();
    let small = args.model != "base" && args.model != "large";
    let shape = cloze::bench::Shape {
        size: args.model.clone(),
        sequences: args.sequences.unwrap_or(if small { 64 } else { 8 }),
        length: args.length,
        vocab_size: args.vocab_size.unwrap_or(if small { 8192 } else { 30_522 }),
        dropout: args.dropout,
        recompute: args.recompute,
    };
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
