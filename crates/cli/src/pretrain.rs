//! `cloze pretrain`: a recipe → a model.

use std::path::PathBuf;
use std::sync::Arc;

use cloze::train::observer::{Control, Observers, Reason};
use cloze::train::pretrain::PretrainRun;
use cloze::train::record::record;

use crate::dashboard::Dashboard;
use crate::options::{JsonEvents, Options};
use crate::progress;
use crate::signals::Signals;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The recipe: one TOML file, see recipes/
    recipe: PathBuf,
    /// Change a key of the recipe, such as train.budget=30m; may be given many times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    changes: Vec<String>,
    /// Go on from the last complete checkpoint of the run's folder
    #[arg(long)]
    resume: bool,
    /// Full-screen display
    #[arg(long)]
    tui: bool,
}

/// The displays of a run: JSON lines, the full screen, or a bar.
pub(crate) fn observers(options: &Options, tui: bool, control: &Arc<Control>) -> anyhow::Result<Observers> {
    let mut observers = Observers::new();
    if options.json {
        observers.add(JsonEvents);
    }
    if tui {
        observers.add(Dashboard::open(Arc::clone(control))?);
    } else {
        observers.add(progress::display(options.quiet || options.json));
    }
    Ok(observers)
}

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    let run = PretrainRun::read(&args.recipe, &args.changes)?;
    let control = Arc::new(Control::default());
    let signals = Signals::watch(&control)?;
    let mut observers = observers(options, args.tui, &control)?;
    record(&run.out, args.resume, &mut observers)?;
    let outcome = cloze::pretrain(&options.open()?, &run, args.resume, &mut observers, &control)?;
    drop(observers);
    if outcome.reason == Reason::Stopped {
        options.say(format!("go on with: cloze pretrain {} --resume{}", args.recipe.display(), sets(&args.changes)));
        return Ok(signals.exit_code());
    }
    let model = run.out.join("model");
    options.say(format!("model: {}    curve: {}", model.display(), run.out.join("curve.svg").display()));
    options.say(format!("try it:  cloze predict --model {} \"… [MASK] …\"", model.display()));
    Ok(0)
}

/// The `--set` options again.
pub(crate) fn sets(changes: &[String]) -> String {
    changes.iter().map(|c| format!(" --set {c}")).collect()
}
