//! `cloze quantize`: a model folder in a quarter or half of its size, checked on the user's rows.

use std::path::PathBuf;

use cloze::quantize::{Quantization, quantize};
use cloze::tensor::Operands;
use indicatif::{ProgressBar, ProgressStyle};

use crate::options::{Options, print_json, print_line};
use crate::tasks::{AskArgs, ColumnArgs, task_names};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model's folder
    #[arg(long)]
    model: PathBuf,
    /// The folder to write
    #[arg(long)]
    out: PathBuf,
    /// Rows to check on: labelled ones give the task's figure before and after, others the hidden states alone
    #[arg(long)]
    dev: PathBuf,
    /// int8: matrices of the layers in 8 bits, the rest in bf16. bf16: everything in half the size
    #[arg(long, default_value = "int8", value_parser = parse)]
    precision: Operands,
    /// The task of the rows; what the model is for by default
    #[arg(long, value_parser = task_names())]
    task: Option<String>,
    #[command(flatten)]
    columns: ColumnArgs,
    #[command(flatten)]
    ask: AskArgs,
    /// How much of the task's figure may be lost; the matrices that cost most stay in bf16 until no more is (0.005: half a point)
    #[arg(long, default_value_t = 0.005)]
    tolerance: f64,
    /// Rows whose hidden states are compared
    #[arg(long, default_value_t = 32)]
    samples: usize,
}

fn parse(text: &str) -> Result<Operands, String> {
    [Operands::Bf16, Operands::Int8].into_iter().find(|o| o.name() == text).ok_or_else(|| "int8 or bf16".to_owned())
}

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    if args.out.exists() {
        anyhow::bail!("{} is there already; give another --out", args.out.display());
    }
    let device = options.open()?;
    let what = Quantization {
        model: args.model,
        out: args.out,
        operands: args.precision,
        dev: args.dev,
        task: args.task,
        columns: args.columns.columns(),
        options: args.ask.options()?,
        tolerance: args.tolerance,
        samples: args.samples,
    };
    let bar = if options.quiet { ProgressBar::hidden() } else { ProgressBar::new(1) };
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed}") {
        bar.set_style(style);
    }
    let outcome = quantize(&device, &what, &mut |stage, done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        bar.set_message(stage.to_owned());
    })?;
    bar.finish_and_clear();
    if options.json {
        print_json(&serde_json::to_value(&outcome)?)?;
        return Ok(0);
    }
    let mb = |bytes: u64| bytes as f64 / 1e6;
    print_line(format!(
        "weights       {:.1} MB, were {:.1} MB ({:.2} of it)",
        mb(outcome.bytes_after),
        mb(outcome.bytes_before),
        outcome.bytes_after as f64 / outcome.bytes_before.max(1) as f64
    ))?;
    if what.operands == Operands::Int8 {
        print_line(format!("matrices      {} in 8 bits, {} in bf16", outcome.int8, outcome.kept.len()))?;
        for (name, far) in outcome.sensitivity.iter().take(outcome.kept.len().max(3)) {
            let kept = if outcome.kept.contains(name) { ", stays in bf16" } else { "" };
            print_line(format!("  {name}: alone it moves the hidden states by {:.2} %{kept}", 100.0 * far))?;
        }
    }
    if let Some(why) = &outcome.unlabelled {
        print_line(format!("labels        none, hidden states were compared alone: {why}"))?;
    }
    if let (Some(figure), Some(before), Some(after)) = (&outcome.figure, outcome.before, outcome.after) {
        print_line(format!("{figure:<14}{after:.4}, was {before:.4} in f32"))?;
    }
    print_line(format!("hidden states cosine to f32 at worst {:.5} (one token of {} rows)", outcome.worst_cosine, what.samples))?;
    print_line(format!("written to {}; every command takes it as --model", what.out.display()))?;
    Ok(0)
}
