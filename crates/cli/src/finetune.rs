//! `cloze finetune`: a pre-trained model and labelled rows → a model for a task.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use cloze::train::adapt;
use cloze::train::finetune::FinetuneRun;
use cloze::train::log::read_log;
use cloze::train::observer::{Control, Event, Reason};
use cloze::train::record::record;
use cloze::train::run;

use crate::evaluate::usual_goal;
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
    let mut found: Vec<(PathBuf, Figures)> = Vec::new();
    let mut goal = settings.metric.clone();
    let seeds = settings.seed..settings.seed + args.seeds;
    let folder = |seed: u64| match args.seeds {
        1 => settings.out.clone(),
        _ => settings.out.join(format!("seed-{seed}")),
    };
    let begun = |seed: u64| run::is_begun(&folder(seed));
    let any_begun = seeds.clone().any(begun);
    for seed in seeds {
        let run = FinetuneRun { seed, out: folder(seed), ..settings.clone() };
        let model = run.out.join("model");
        if args.resume
            && args.seeds > 1
            && let Some(figures) = finished(&run.out)
        {
            options.say(format!("seed {seed} is done: {}", model.display()));
            if options.json {
                print_json(&serde_json::json!({"model": model, "seed": seed, "metrics": figures}))?;
            }
            found.push((model, figures));
            continue;
        }
        let stopped = || -> anyhow::Result<u8> {
            options.say(format!("stopped; give the same command with --resume to go on{}", sets(&args.changes)));
            Ok(signals.exit_code())
        };
        // Two phases are two runs, each with its own log; a stopped one goes on in the phase that it had reached.
        // A seed that was not reached begins; where no seed has begun, there is nothing to go on with, and that is said.
        let mut resume = args.resume && (args.seeds == 1 || begun(seed) || !any_begun);
        if run.adapt.is_some() {
            resume &= begun(seed);
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
        goal = Some(done.goal);
        found.push((model, done.figures.values));
    }
    let goal = goal.or_else(|| usual_goal(&settings.task, &found.first()?.1));
    let best = best(&found, goal.as_deref()).context("at least one seed is run")?;
    if args.seeds > 1 {
        let spread = spread(&found.iter().map(|f| &f.1).collect::<Vec<_>>());
        if options.json {
            print_json(&serde_json::json!({"seeds": args.seeds, "best": best, "metrics": spread}))?;
        } else {
            for (name, [mean, deviation]) in &spread {
                print_line(format!("{name:<16}{mean:>8.4} ± {deviation:.4}   ({} seeds)", args.seeds))?;
            }
        }
    }
    options.say(format!("model: {}", best.display()));
    options.say(format!("try it:  cloze predict --model {} {}", best.display(), sample(&settings.task)));
    Ok(0)
}

/// The model with the most of a figure, the first of equals. One whose figure is missing or no number comes behind all others.
fn best<'f>(found: &'f [(PathBuf, Figures)], goal: Option<&str>) -> Option<&'f PathBuf> {
    let value = |figures: &Figures| goal.and_then(|goal| figures.get(goal)).copied().filter(|v| !v.is_nan()).unwrap_or(f64::NEG_INFINITY);
    found.iter().rev().max_by(|a, b| value(&a.1).total_cmp(&value(&b.1))).map(|(model, _)| model)
}

/// Figures by name.
type Figures = BTreeMap<String, f64>;

/// The figures of a run that is over, out of its log; `None` while it has no model.
fn finished(out: &Path) -> Option<Figures> {
    let events = out.join("model").exists().then(|| read_log(&out.join("log.jsonl")).ok())??;
    events.into_iter().rev().find_map(|event| match event {
        Event::Finished(end) if end.reason != Reason::Stopped => Some(end.metrics),
        _ => None,
    })
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
fn spread(runs: &[&Figures]) -> BTreeMap<String, [f64; 2]> {
    let n = runs.len() as f64;
    let of = |name: &String| {
        let values: Vec<f64> = runs.iter().filter_map(|r| r.get(name)).copied().collect();
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
        [mean, (squares / (n - 1.0).max(1.0)).sqrt()]
    };
    runs.first().into_iter().flat_map(|r| r.keys()).map(|name| (name.clone(), of(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_no_number_is_never_the_best() {
        let seed = |name: &str, value: Option<f64>| (PathBuf::from(name), value.map(|v| ("f1".to_owned(), v)).into_iter().collect());
        let found = [seed("a", Some(f64::NAN)), seed("b", Some(0.2)), seed("c", Some(0.7)), seed("d", Some(0.7)), seed("e", None)];
        assert_eq!(best(&found, Some("f1")), Some(&PathBuf::from("c")));
        assert_eq!(best(&found[..1], Some("f1")), Some(&PathBuf::from("a")));
        assert_eq!(best(&[], Some("f1")), None);
    }
}
