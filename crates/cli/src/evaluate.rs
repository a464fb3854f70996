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
    /// The figure that counts in the mean; the task's usual one where not given.
    #[serde(default)]
    metric: Option<String>,
}

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    if let Some(path) = &args.suite {
        return suite(path, options);
    }
    let (Some(model), Some(data)) = (args.model, args.data) else { anyhow::bail!("give --model and --data, or --suite") };
    let columns = args.columns.columns();
    let entry = Entry {
        name: None,
        model,
        adapter: args.adapter,
        data,
        task: args.task,
        columns,
        options: args.ask.options()?,
        catalogue: args.catalogue,
        max_length: args.max_length,
        metric: None,
    };
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
    let width = figures.keys().map(String::len).max().unwrap_or(0).max(16);
    let figure = |(name, value): (&String, &f64)| match name.as_str() {
        "candidates" => format!("{name:<width$}{value:>9}"), // a count
        _ => format!("{name:<width$}{value:>9.4}"),
    };
    figures.iter().map(figure).collect::<Vec<_>>().join("\n")
}

/// The name of the figure that counts in the mean: the one asked for, or the first of the task's goals that is there.
fn main_figure(entry: &Entry, task: &str, figures: &BTreeMap<String, f64>) -> anyhow::Result<Option<String>> {
    if let Some(metric) = &entry.metric {
        let known: Vec<&str> = figures.keys().map(String::as_str).collect();
        anyhow::ensure!(figures.contains_key(metric), "metric = {metric:?}: the figures are {}", known.join(", "));
        return Ok(Some(metric.clone()));
    }
    Ok(usual_goal(task, figures))
}

/// The first of a task's goals that is among the figures.
pub(crate) fn usual_goal(task: &str, figures: &BTreeMap<String, f64>) -> Option<String> {
    let goals = cloze::task::task(task)?.learning()?.goals();
    goals.iter().find(|goal| figures.contains_key(**goal)).map(|goal| (*goal).to_owned())
}

fn suite(path: &Path, options: &Options) -> anyhow::Result<u8> {
    let suite: Suite = cloze::train::run::read(path, &[])?;
    let names: Vec<String> = suite.run.iter().map(|e| e.name.clone().unwrap_or_else(|| e.data.display().to_string())).collect();
    let width = names.iter().map(|n| n.chars().count() + 2).max().unwrap_or(0).max(24);
    let (mut main, mut failed) = (Vec::new(), Vec::new());
    if !options.json {
        print_line(format!("{:<width$}{:<26}{:>8}  figures", "name", "task", "rows"))?;
    }
    for (entry, name) in suite.run.iter().zip(&names) {
        // One that fails leaves the others their figures.
        let found = evaluate(entry, None, options).and_then(|found| {
            let chosen = main_figure(entry, found.0, &found.2.values).with_context(|| path.display().to_string())?;
            Ok((found, chosen))
        });
        let ((task, rows, mut figures), chosen) = match found {
            Ok(found) => found,
            Err(error) => {
                eprintln!("{name}: {}", crate::told(&error));
                failed.push(name.as_str());
                continue;
            }
        };
        if options.json {
            let value = chosen.as_ref().and_then(|c| figures.values.get(c));
            let line =
                serde_json::json!({"name": name, "task": task, "rows": rows, "metric": chosen, "value": value, "metrics": figures.values});
            print_json(&line)?;
            continue;
        }
        // the main figure first
        let first = chosen.and_then(|c| figures.values.remove_entry(&c));
        main.extend(first.iter().map(|(_, value)| *value));
        let told: Vec<String> = first.iter().map(|(k, v)| (k, v)).chain(&figures.values).map(|(k, v)| format!("{k} {v:.4}")).collect();
        print_line(format!("{name:<width$}{task:<26}{rows:>8}  {}", told.join("  ")))?;
    }
    if !options.json && !main.is_empty() {
        let mean = main.iter().sum::<f64>() / main.len() as f64;
        print_line(format!("{:<width$}{:<26}{:>8}  {mean:.4}", "mean of the first figures", "", ""))?;
    }
    anyhow::ensure!(failed.is_empty(), "{} of {} evaluations failed: {}", failed.len(), suite.run.len(), failed.join(", "));
    Ok(0)
}
