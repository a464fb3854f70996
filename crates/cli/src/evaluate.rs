//! `cloze evaluate`: figures of a model on labelled rows, or of many models on many files.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use cloze::Pipeline;
use cloze::task::{Columns, Figures, Options as TaskOptions, Rows};
use cloze::train::run::Precision;
use indicatif::ProgressBar;
use serde::Deserialize;

use crate::options::{Options, print_json, print_line};
use crate::tasks::{AskArgs, ColumnArgs, task_names};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model's folder, or an adapter's, which finds its base
    #[arg(long, required_unless_present = "suite")]
    model: Option<PathBuf>,
    /// An adapter's folder, put on the model
    #[arg(long, value_name = "DIR", conflicts_with = "suite")]
    adapter: Option<PathBuf>,
    /// The task; what the model is for by default
    #[arg(long, value_parser = task_names())]
    task: Option<String>,
    /// Labelled rows: csv, tsv, jsonl, json, conll, also .gz and .zst
    #[arg(long, required_unless_present = "suite")]
    data: Option<PathBuf>,
    /// Many evaluations in one table: a TOML file with a [[run]] table for each (name, model, data; task, columns, options)
    #[arg(long, conflicts_with_all = ["model", "data", "task"])]
    suite: Option<PathBuf>,
    #[command(flatten)]
    columns: ColumnArgs,
    #[command(flatten)]
    ask: AskArgs,
    /// Write every row with its answer to this file, as JSON lines
    #[arg(long, conflicts_with = "suite")]
    predictions: Option<PathBuf>,
    /// Recommendation: the file of items, where rows hold their ids
    #[arg(long, conflicts_with = "suite")]
    catalogue: Option<PathBuf>,
    /// Longer texts are cut to this many tokens
    #[arg(long)]
    max_length: Option<usize>,
}

/// Many evaluations.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Suite {
    run: Vec<Entry>,
}

/// One of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Option<String>,
    model: PathBuf,
    #[serde(default)]
    adapter: Option<PathBuf>,
    data: PathBuf,
    #[serde(default)]
    task: Option<String>,
    #[serde(default)]
    columns: Columns,
    #[serde(default)]
    options: TaskOptions,
    #[serde(default)]
    catalogue: Option<PathBuf>,
    #[serde(default)]
    max_length: Option<usize>,
}

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    if let Some(path) = &args.suite {
        return suite(path, options);
    }
    let (Some(model), Some(data)) = (args.model, args.data) else { anyhow::bail!("give --model and --data, or --suite") };
    let columns = args.columns.columns();
    let (options_asked, catalogue, max_length) = (args.ask.options()?, args.catalogue, args.max_length);
    let entry =
        Entry { name: None, model, adapter: args.adapter, data, task: args.task, columns, options: options_asked, catalogue, max_length };
    let (task, rows, figures) = evaluate(&entry, args.predictions.as_deref(), options)?;
    if options.json {
        let mut line = serde_json::json!({"task": task, "rows": rows, "metrics": figures.values});
        if let (Some(line), Some(detail)) = (line.as_object_mut(), figures.detail.as_object()) {
            line.extend(detail.clone());
        }
        print_json(&line)?;
        return Ok(0);
    }
    if !figures.table.is_empty() {
        print_line(&figures.table)?;
        print_line("")?;
    }
    print_line(lines(&figures.values))?;
    Ok(0)
}

/// The task, the number of rows and the figures of one evaluation.
fn evaluate(entry: &Entry, predictions: Option<&Path>, options: &Options) -> anyhow::Result<(&'static str, usize, Figures)> {
    let device = options.open()?;
    let pipeline = match &entry.adapter {
        Some(adapter) => Pipeline::load_adapted(&device, &entry.model, adapter, Precision::F32, entry.max_length)?,
        None => Pipeline::load(&device, &entry.model, Precision::F32, entry.max_length)?,
    };
    let task = pipeline.require(entry.task.as_deref()).with_context(|| entry.model.display().to_string())?;
    let bar = if options.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    let create = |path: &Path| std::fs::File::create(path).with_context(|| format!("{}: cannot write", path.display()));
    let mut out = predictions.map(create).transpose()?.map(std::io::BufWriter::new);
    let mut fault = None;
    let mut rows = 0;
    let mut labelled = Rows::read_all(&entry.data, task.fields(), &entry.columns, true)?;
    if let Some(catalogue) = &entry.catalogue {
        labelled = task.joined(labelled, catalogue)?;
    }
    let figures = pipeline.evaluate_rows(task, &labelled, &entry.options, &mut |n, row, answer| {
        rows = n;
        if let Some(out) = out.as_mut().filter(|_| fault.is_none()) {
            fault = writeln!(out, "{}", serde_json::json!({"line": row.line, "row": row.value, "answer": answer})).err();
        }
        if n % 64 == 0 {
            bar.set_message(format!("{n} rows"));
            bar.tick();
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    if let Some(mut out) = out {
        out.flush()?;
    }
    fault.map_or(Ok((task.name(), rows, figures)), |e| Err(e).context("the predictions could not be written"))
}

/// Figures one to a line.
pub(crate) fn lines(figures: &BTreeMap<String, f64>) -> String {
    figures.iter().map(|(name, value)| format!("{name:<16}{value:>9.4}")).collect::<Vec<_>>().join("\n")
}

fn suite(path: &Path, options: &Options) -> anyhow::Result<u8> {
    let suite: Suite = cloze::train::run::read(path, &[])?;
    let width = 24;
    let mut goals = Vec::new();
    if !options.json {
        print_line(format!("{:<width$}{:<24}{:>8}  figures", "name", "task", "rows"))?;
    }
    for entry in &suite.run {
        let name = entry.name.clone().unwrap_or_else(|| entry.data.display().to_string());
        let (task, rows, figures) = evaluate(entry, None, options).with_context(|| name.clone())?;
        let goal = cloze::task::task(task).and_then(|t| t.learning()).map_or(&[][..], |l| l.goals());
        if let Some(value) = goal.iter().find_map(|g| figures.values.get(*g)) {
            goals.push(*value);
        }
        if options.json {
            print_json(&serde_json::json!({"name": name, "task": task, "rows": rows, "metrics": figures.values}))?;
        } else {
            let figures: Vec<String> = figures.values.iter().map(|(k, v)| format!("{k} {v:.4}")).collect();
            print_line(format!("{name:<width$}{task:<24}{rows:>8}  {}", figures.join("  ")))?;
        }
    }
    if !options.json && !goals.is_empty() {
        print_line(format!(
            "{:<width$}{:<24}{:>8}  {:.4}",
            "mean of first figures",
            "",
            "",
            goals.iter().sum::<f64>() / goals.len() as f64
        ))?;
    }
    Ok(0)
}
