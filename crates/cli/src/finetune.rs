//! `cloze finetune`: a pre-trained model and labelled rows → a model for a task.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use cloze::train::adapt;
use cloze::train::finetune::FinetuneRun;
use cloze::train::observer::{Control, Reason};
use cloze::train::record::record;
use cloze::train::run;

use crate::options::{Options, print_json, print_line};
use crate::pretrain::{observers, sets};
use crate::signals::Signals;
use crate::tasks::{ColumnArgs, task_names};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A run as a TOML file; what is given beside it takes its place
    recipe: Option<PathBuf>,
    /// The task; text-classification by default
    #[arg(long, value_parser = task_names())]
    task: Option<String>,
    /// The pre-trained model's folder
    #[arg(long, required_unless_present = "recipe")]
    model: Option<PathBuf>,
    /// Labelled rows to train on: csv, tsv, jsonl, json, conll, also .gz and .zst
    #[arg(long, required_unless_present = "recipe")]
    train: Option<PathBuf>,
    /// Labelled rows to choose the best epoch by; without them every tenth training row is held out
    #[arg(long)]
    dev: Option<PathBuf>,
    /// The run's folder; the model is written to its model/
    #[arg(long, required_unless_present = "recipe")]
    out: Option<PathBuf>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Start from random weights instead of the model's, to see what pre-training is worth
    #[arg(long)]
    from_scratch: bool,
    /// Run with this many seeds, from the run's own on; the figures' mean and spread are told
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// Change a setting, such as budget="3 epochs" or optimizer.lr=3e-4; may be given many times. All of them with their
    /// values stand in the README.md of the model that comes out
    #[arg(long = "set", value_name = "KEY=VALUE")]
    changes: Vec<String>,
    /// Go on from the last complete checkpoint of the run's folder
    #[arg(long)]
    resume: bool,
    /// Full-screen display
    #[arg(long)]
    tui: bool,
}

/// The run that the arguments describe.
fn settings(args: &Args) -> anyhow::Result<FinetuneRun> {
    let mut run = match &args.recipe {
        Some(recipe) => run::read(recipe, &[])?,
        None => {
            let given = |path: &Option<PathBuf>| path.clone().unwrap_or_default();
            let task = args.task.as_deref().unwrap_or("text-classification");
            FinetuneRun::new(task, given(&args.model), given(&args.train), given(&args.dev), given(&args.out))
        }
    };
    if args.recipe.is_some() {
        let replace = |at: &mut PathBuf, by: &Option<PathBuf>| by.iter().for_each(|path| at.clone_from(path));
        replace(&mut run.model, &args.model);
        replace(&mut run.train, &args.train);
        replace(&mut run.dev, &args.dev);
        replace(&mut run.out, &args.out);
        args.task.iter().for_each(|task| run.task.clone_from(task));
    }
    run.from_scratch |= args.from_scratch;
    run.columns.0.extend(args.columns.columns().0);
    Ok(run::from_defaults(&run, &args.changes)?)
}

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    let settings = settings(&args)?;
    let control = Arc::new(Control::default());
    let signals = Signals::watch(&control)?;
    let device = options.open()?;
    let mut found: Vec<(f64, PathBuf, std::collections::BTreeMap<String, f64>)> = Vec::new();
    for seed in settings.seed..settings.seed + args.seeds {
        let mut run = settings.clone();
        run.seed = seed;
        if args.seeds > 1 {
            run.out = settings.out.join(format!("seed-{seed}"));
        }
        let stopped = || -> anyhow::Result<u8> {
            options.say(format!("stopped; give the same command with --resume to go on{}", sets(&args.changes)));
            Ok(signals.exit_code())
        };
        // Two phases are two runs, each with its own log; a stopped one goes on in the phase that it had reached.
        let mut resume = args.resume;
        if run.adapt.is_some() {
            resume &= run.out.join("checkpoints").exists();
            if !adapt::is_done(&run) {
                let mut observers = observers(options, args.tui, &control)?;
                record(&adapt::folder(&run), args.resume && adapt::is_begun(&run), &mut observers)?;
                if !cloze::adapt(&device, &run, args.resume, &mut observers, &control)? {
                    return stopped();
                }
            }
        }
        let mut observers = observers(options, args.tui, &control)?;
        record(&run.out, resume, &mut observers)?;
        let done = cloze::finetune(&device, &run, resume, &mut observers, &control)?;
        drop(observers);
        if done.outcome.reason == Reason::Stopped {
            return stopped();
        }
        let model = run.out.join("model");
        if options.json {
            print_json(&serde_json::json!({
                "model": model, "seed": seed, "metrics": done.outcome.metrics, "labels": done.labels, "detail": done.figures.detail,
            }))?;
        } else if !options.quiet {
            if done.figures.table.is_empty() {
                print_line(crate::evaluate::lines(&done.figures.values))?;
            } else {
                print_line(&done.figures.table)?;
            }
        }
        let goal = done.goal.clone();
        found.push((done.figures.values.get(&goal).copied().unwrap_or(f64::NAN), model, done.figures.values));
    }
    let best = found.iter().max_by(|a, b| a.0.total_cmp(&b.0)).context("at least one seed is run")?;
    if args.seeds > 1 {
        let spread = spread(&found.iter().map(|f| &f.2).collect::<Vec<_>>());
        if options.json {
            print_json(&serde_json::json!({"seeds": args.seeds, "best": best.1, "metrics": spread}))?;
        } else {
            for (name, [mean, deviation]) in &spread {
                print_line(format!("{name:<16}{mean:>8.4} ± {deviation:.4}   ({} seeds)", args.seeds))?;
            }
        }
    }
    options.say(format!("model: {}", best.1.display()));
    options.say(format!("try it:  cloze predict --model {} {}", best.1.display(), sample(&settings.task)));
    Ok(0)
}

/// An input of the task as a shell takes it.
fn sample(task: &str) -> String {
    let sample = cloze::task::task(task).map(|t| t.sample()).unwrap_or_default();
    match sample.as_object().map(|o| (o.len(), o.get("text").and_then(|t| t.as_str()))) {
        Some((1, Some(text))) => format!("\"{text}\""),
        _ => format!("'{sample}'"),
    }
}

/// Mean and sample deviation of each figure over the seeds.
fn spread(runs: &[&std::collections::BTreeMap<String, f64>]) -> std::collections::BTreeMap<String, [f64; 2]> {
    let n = runs.len() as f64;
    let of = |name: &String| {
        let values: Vec<f64> = runs.iter().filter_map(|r| r.get(name)).copied().collect();
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
        [mean, (squares / (n - 1.0).max(1.0)).sqrt()]
    };
    runs.first().into_iter().flat_map(|r| r.keys()).map(|name| (name.clone(), of(name))).collect()
}
