//! `cloze finetune`: a pre-trained model and labelled rows → a classifier.

use std::path::PathBuf;
use std::sync::Arc;

use cloze::task::metric::classification::Confusion;
use cloze::train::finetune::FinetuneRun;
use cloze::train::observer::{Control, Reason};
use cloze::train::record::record;
use cloze::train::run;

use crate::options::{Options, print_json, print_line};
use crate::pretrain::{observers, sets};
use crate::signals::Signals;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The task
    #[arg(long, default_value = "text-classification")]
    task: String,
    /// The pre-trained model's folder
    #[arg(long)]
    model: PathBuf,
    /// Labelled rows to train on: csv, tsv, jsonl, also .gz and .zst
    #[arg(long)]
    train: PathBuf,
    /// Labelled rows to choose the best epoch by
    #[arg(long)]
    dev: PathBuf,
    /// The run's folder; the model is written to its model/
    #[arg(long)]
    out: PathBuf,
    /// The column of the text, or of the first of a pair; found by name otherwise
    #[arg(long)]
    text_column: Option<String>,
    /// The column of the second text of a pair
    #[arg(long)]
    pair_column: Option<String>,
    /// The column of the label
    #[arg(long)]
    label_column: Option<String>,
    /// Start from random weights instead of the model's, to see what pre-training is worth
    #[arg(long)]
    from_scratch: bool,
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

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    let mut settings = FinetuneRun::new(&args.task, args.model.clone(), args.train.clone(), args.dev.clone(), args.out.clone());
    settings.from_scratch = args.from_scratch;
    settings.columns.text = args.text_column.clone();
    settings.columns.pair = args.pair_column.clone();
    settings.columns.label = args.label_column.clone();
    let settings: FinetuneRun = run::from_defaults(&settings, &args.changes)?;
    let control = Arc::new(Control::default());
    let signals = Signals::watch(&control)?;
    let mut observers = observers(options, args.tui, &control)?;
    record(&settings.out, args.resume, &mut observers)?;
    let done = cloze::finetune(&options.open(), &settings, args.resume, &mut observers, &control)?;
    drop(observers);
    if done.outcome.reason == Reason::Stopped {
        options.say(format!("stopped; give the same command with --resume to go on{}", sets(&args.changes)));
        return Ok(signals.exit_code());
    }
    let model = settings.out.join("model");
    if options.json {
        print_json(
            &serde_json::json!({"model": model, "metrics": done.outcome.metrics, "labels": done.labels, "confusion": done.confusion}),
        )?;
    } else if !options.quiet {
        print_line(table(&done.labels, &done.confusion))?;
    }
    options.say(format!("model: {}", model.display()));
    options.say(format!("try it:  cloze predict --model {} \"a text\"", model.display()));
    Ok(0)
}

/// Figures and confusion matrix as a person reads them.
pub(crate) fn table(labels: &[String], confusion: &Confusion) -> String {
    use std::fmt::Write;
    let mut s = String::new();
    let name = |l: &str| if l.chars().count() > 16 { l.chars().take(15).chain(['…']).collect() } else { l.to_owned() };
    let _ = writeln!(
        s,
        "accuracy {:.2}%   macro F1 {:.2}%   MCC {:.3}   ({} rows)",
        100.0 * confusion.accuracy(),
        100.0 * confusion.macro_f1(),
        confusion.mcc(),
        confusion.total()
    );
    let _ = writeln!(s, "\n{:<18}{:>10}{:>10}{:>10}{:>8}", "label", "precision", "recall", "F1", "rows");
    for (i, label) in labels.iter().enumerate() {
        let [p, r, f] = [confusion.precision(i), confusion.recall(i), confusion.f1(i)].map(|v| format!("{:.1}%", 100.0 * v));
        let _ = writeln!(s, "{:<18}{p:>10}{r:>10}{f:>10}{:>8}", name(label), confusion.support(i));
    }
    if labels.len() <= 8 {
        let _ = writeln!(s, "\nrows: true label, columns: predicted");
        let _ = write!(s, "{:<18}", "");
        for label in labels {
            let _ = write!(s, "{:>10}", name(label).chars().take(9).collect::<String>());
        }
        for (i, label) in labels.iter().enumerate() {
            let _ = write!(s, "\n{:<18}", name(label));
            for count in &confusion.counts[i] {
                let _ = write!(s, "{count:>10}");
            }
        }
        s.push('\n');
    }
    s.trim_end().to_owned()
}
