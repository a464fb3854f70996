//! `cloze evaluate`: figures of a classifier on labelled rows.

use std::path::PathBuf;

use cloze::Pipeline;
use cloze::task::text_classification::Columns;
use cloze::train::run::Precision;
use indicatif::ProgressBar;

use crate::finetune::table;
use crate::options::{Options, print_json, print_line};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The classifier's folder
    #[arg(long)]
    model: PathBuf,
    /// Labelled rows: csv, tsv, jsonl, also .gz and .zst
    #[arg(long)]
    data: PathBuf,
    /// The column of the text, or of the first of a pair; found by name otherwise
    #[arg(long)]
    text_column: Option<String>,
    /// The column of the second text of a pair
    #[arg(long)]
    pair_column: Option<String>,
    /// The column of the label
    #[arg(long)]
    label_column: Option<String>,
}

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    let device = options.open();
    let pipeline = Pipeline::load(&device, &args.model, Precision::F32, None)?;
    if pipeline.model().classifier().is_none() {
        anyhow::bail!("{}: the model has no classifier; make one with `cloze finetune`", args.model.display());
    }
    let columns = Columns { text: args.text_column, pair: args.pair_column, label: args.label_column };
    let bar = if options.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    let confusion = cloze::evaluate(&pipeline, &args.data, &columns, &mut |rows| {
        bar.set_message(format!("{rows} rows"));
        bar.tick();
    })?;
    bar.finish_and_clear();
    let labels = &pipeline.model().heads.labels;
    if options.json {
        let metrics = cloze::task::text_classification::figures(&confusion);
        print_json(&serde_json::json!({"rows": confusion.total(), "metrics": metrics, "labels": labels, "confusion": confusion}))?;
    } else {
        print_line(table(labels, &confusion))?;
    }
    Ok(0)
}
