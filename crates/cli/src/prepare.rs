//! `cloze prepare`: raw text → a corpus to pre-train on.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use cloze::text::read::{OnBad, ReadOptions};
use cloze::text::{Dataset, ObjectiveConfig, PrepareOptions, Sampler, Split, Tokenizer, Vocabulary, prepare, show_masks};
use cloze::train::figures::grouped;
use cloze::train::observer::Control;
use indicatif::{ProgressBar, ProgressStyle};

use crate::options::{Options, print_json, print_line};
use crate::signals::Signals;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Files, folders, patterns, or - for standard input; txt, jsonl, csv, tsv, also .gz and .zst
    #[arg(long, num_args = 1.., required_unless_present = "show_masks", requires = "tokenizer")]
    input: Vec<String>,
    /// The tokenizer's folder; needed with --input
    #[arg(long, required_unless_present = "show_masks")]
    tokenizer: Option<PathBuf>,
    /// The corpus folder to write (or, with --show-masks alone, to read)
    #[arg(long)]
    out: PathBuf,
    /// Share of the documents held out for evaluation
    #[arg(long, default_value_t = 0.005)]
    holdout: f64,
    /// Documents of fewer tokens are dropped
    #[arg(long)]
    min_tokens: Option<usize>,
    /// The field or column that holds the text (jsonl, csv, tsv); found by name otherwise
    #[arg(long)]
    text_field: Option<String>,
    /// Every line is a document (txt)
    #[arg(long)]
    document_per_line: bool,
    /// Count bad rows and lines instead of stopping at the first
    #[arg(long)]
    skip_bad: bool,
    /// Replace a corpus that stands there
    #[arg(long)]
    overwrite: bool,
    /// Print this many masked examples, as the model will see them
    #[arg(long, value_name = "N")]
    show_masks: Option<usize>,
    /// What is masked together in these examples: token, whole_word or span
    #[arg(long, default_value = "whole_word", requires = "show_masks")]
    masking: String,
}

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    if let Some(folder) = args.tokenizer.as_ref().filter(|_| !args.input.is_empty()) {
        let tokenizer = Tokenizer::load(folder)?;
        let defaults = PrepareOptions::default();
        let prepare_options = PrepareOptions {
            inputs: args.input.clone(),
            out: args.out.clone(),
            read: ReadOptions {
                text_field: args.text_field.clone(),
                document_per_line: args.document_per_line,
                on_bad: if args.skip_bad { OnBad::SkipAndCount } else { OnBad::Fail },
                ..ReadOptions::default()
            },
            holdout: args.holdout,
            min_tokens: args.min_tokens.unwrap_or(defaults.min_tokens),
            threads: options.threads().unwrap_or(0),
            overwrite: args.overwrite,
            ..defaults
        };
        let control = Arc::new(Control::default());
        let signals = Signals::watch(&control)?;
        let bar = if options.quiet { ProgressBar::hidden() } else { ProgressBar::new(0) };
        let style = ProgressStyle::with_template("{wide_bar} {percent}%  {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        let report = prepare(&prepare_options, &tokenizer, &mut |p| {
            if let Some(total) = p.bytes_total {
                bar.set_length(total);
                bar.set_position(p.bytes_done);
            }
            bar.set_message(format!("{} documents, {} tokens, {:.1} MB/s", grouped(p.documents), grouped(p.tokens), p.mb_per_second()));
            if control.stop_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        bar.finish_and_clear();
        let report = match report {
            Err(_) if control.stop_requested() => {
                options.say("interrupted; nothing was left behind");
                return Ok(signals.exit_code());
            }
            other => other?,
        };
        if options.json {
            print_json(&report)?;
        } else if !options.quiet {
            print_line(&report)?;
        }
    }
    if let Some(count) = args.show_masks {
        show(&args, count, options)?;
    }
    Ok(0)
}

fn show(args: &Args, count: usize, options: &Options) -> anyhow::Result<()> {
    let masking = serde_json::from_value(serde_json::json!(args.masking))
        .map_err(|_| anyhow::anyhow!("--masking {}: token, whole_word or span", args.masking))?;
    let tokenizer = Tokenizer::load(args.out.join("tokenizer"))?;
    let dataset = Arc::new(Dataset::open(&args.out, Split::Train)?);
    let config = ObjectiveConfig { masking, ..ObjectiveConfig::default() };
    let sampler = Sampler::new(dataset, config, Vocabulary::of(&tokenizer)?, 0)?;
    let color = std::io::IsTerminal::is_terminal(&std::io::stdout());
    for example in show_masks(&sampler, &tokenizer, 64, count)? {
        if options.json {
            print_json(&example)?;
        } else {
            print_line(format_args!("{}\n", example.render(100, color)))?;
        }
    }
    Ok(())
}
