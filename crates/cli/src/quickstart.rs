//! `cloze quickstart`: the main job from end to end.

use std::path::PathBuf;
use std::sync::Arc;

use cloze::quickstart::{Guide, Options as Job, Summary, quickstart};
use cloze::train::budget::Budget;
use cloze::train::observer::{Control, Observers};

use crate::options::{Options, print_json};
use crate::progress;
use crate::signals::Signals;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder that everything is written to
    #[arg(long, default_value = "runs/quickstart")]
    out: PathBuf,
    /// Your own raw text instead of the generated one: txt, jsonl, csv, tsv, also .gz and .zst
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// Your own labelled rows instead of the generated ones: csv, tsv or jsonl with a text and a label column
    #[arg(long)]
    labels: Option<PathBuf>,
    /// Time for pre-training
    #[arg(long, default_value = "100s")]
    budget: Budget,
    /// Decides the generated world and everything random
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Tells a person on a terminal.
struct Terminal<'o> {
    options: &'o Options,
    control: Arc<Control>,
}

impl Guide for Terminal<'_> {
    fn stage(&mut self, number: usize, of: usize, title: &str) {
        self.options.say(format!("\n[{number}/{of}] {title}"));
    }

    fn line(&mut self, text: &str) {
        self.options.say(format!("      {text}"));
    }

    fn observers(&mut self) -> Observers {
        let mut observers = Observers::new();
        observers.add(progress::display(self.options.quiet || self.options.json));
        observers
    }

    fn control(&self) -> &Control {
        &self.control
    }
}

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    let control = Arc::new(Control::default());
    let signals = Signals::watch(&control)?;
    let device = options.open()?;
    options.say(format!("cloze quickstart on {}", device.name()));
    let job = Job { out: args.out, corpus: args.corpus, labels: args.labels, budget: args.budget, seed: args.seed };
    let mut guide = Terminal { options, control };
    match quickstart(&device, &job, &mut guide)? {
        None => {
            options.say("interrupted");
            Ok(signals.exit_code())
        }
        Some(summary) if options.json => print_json(&summary).map(|()| 0),
        Some(summary) => {
            next_steps(&summary, options);
            Ok(0)
        }
    }
}

fn next_steps(summary: &Summary, options: &Options) {
    options.say(format!("\nDone in {:.0} s. What to type next:", summary.seconds));
    let classifier = summary.classifiers.first().unwrap_or(&summary.model);
    options.say(format!(
        "  cargo run --release -- predict --model {} \"The soup was cold, but the waiter was wonderful.\"",
        classifier.display()
    ));
    options.say(format!("  cargo run --release -- predict --model {} \"The cat sat on the [MASK].\"", summary.model.display()));
    options.say(format!("  cargo run --release -- inspect {}", summary.model.display()));
    options.say("  cargo run --release -- quickstart --corpus YOUR.txt --labels YOUR.tsv --out runs/mine");
    options.say("  cargo run --release -- --help");
}
