//! Continued pre-training before a fine-tuning: masked language modelling on text of the task's own domain (Gururangan et al. 2020,
//! "Don't stop pretraining"). A pre-training run of its own in `out/adapt`, from the model that is fine-tuned, with its tokenizer; the
//! fine-tuning starts from what comes out.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use cloze_model::files::config::Config;
use cloze_task::{Field, Rows, TaskError};
use cloze_tensor::Backend;
use cloze_text::read::Format;
use cloze_text::{ObjectiveConfig, PrepareOptions, Tokenizer, prepare};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::budget::Budget;
use crate::error::TrainError;
use crate::finetune::FinetuneRun;
use crate::fit::Every;
use crate::observer::{Control, Event, Observers, Reason};
use crate::optimizer::OptimizerConfig;
use crate::pretrain::{CheckpointConfig, DataConfig, Device, EvaluationConfig, ModelConfig, PretrainRun, TrainConfig, pretrain};
use crate::ramp::Ramp;
use crate::schedule::Schedule;

/// The `[adapt]` table of a fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptConfig {
    /// Text of the domain: files, folders, patterns. Of a table with the task's columns all its texts, without the labels.
    pub text: Vec<String>,
    /// How far: `"2 epochs"`, `"5m"`.
    #[serde(default = "default_budget")]
    pub budget: Budget,
    /// The peak learning rate.
    #[serde(default = "default_lr")]
    pub lr: f64,
    /// Tokens of one optimizer step.
    #[serde(default = "default_batch_tokens")]
    pub batch_tokens: usize,
    /// The longest sequence, in tokens; 128, or the model's positions where these are fewer.
    #[serde(default = "default_sequence_length")]
    pub sequence_length: usize,
    /// What is masked.
    #[serde(default)]
    pub objective: ObjectiveConfig,
}

fn default_budget() -> Budget {
    Budget::Epochs(1.0)
}
fn default_lr() -> f64 {
    1e-4
}
fn default_batch_tokens() -> usize {
    8192
}
fn default_sequence_length() -> usize {
    128
}

impl AdaptConfig {
    /// With the defaults of the field.
    pub fn new(text: Vec<String>) -> Self {
        let objective = ObjectiveConfig::default();
        let (lr, batch_tokens, sequence_length) = (default_lr(), default_batch_tokens(), default_sequence_length());
        Self { text, budget: default_budget(), lr, batch_tokens, sequence_length, objective }
    }

    pub(crate) fn check(&self) -> Result<(), TrainError> {
        if self.text.is_empty() {
            let expected = "files of text, such as [\"domain.txt\"]".into();
            return Err(TrainError::Value { key: "adapt.text", found: "[]".into(), expected });
        }
        Ok(())
    }
}

/// The folder of the first phase of a run.
pub fn folder(run: &FinetuneRun) -> PathBuf {
    run.out.join("adapt")
}

/// Whether the first phase of a run is over: its model is there.
pub fn is_done(run: &FinetuneRun) -> bool {
    folder(run).join("model").join("config.json").exists()
}

/// Whether the first phase has a checkpoint to go on from.
pub fn is_begun(run: &FinetuneRun) -> bool {
    folder(run).join("checkpoints").exists()
}

/// Run the first phase of a fine-tuning with `[adapt]`, if it is not over. Its model; `None` when it was stopped before its end.
pub fn adapt<B: Backend>(
    backend: &B,
    run: &FinetuneRun,
    device: Device,
    resume: bool,
    observers: &mut Observers,
    control: &Control,
) -> Result<Option<PathBuf>, TrainError> {
    let Some(config) = &run.adapt else { return Ok(Some(run.model.clone())) };
    config.check()?;
    let (folder, model) = (folder(run), folder(run).join("model"));
    if is_done(run) {
        return Ok(Some(model));
    }
    crate::files::create_folder(&folder)?;
    let corpus = folder.join("corpus");
    if !corpus.exists() {
        let report = corpus_of(run, config, &folder, &corpus, control)?;
        let Some(line) = report else { return Ok(None) };
        observers.event(&Event::note(0, line));
    }
    let recipe = recipe(run, config, &folder, corpus)?;
    let outcome = pretrain(backend, &recipe, device, resume && is_begun(run), observers, control)?;
    Ok((outcome.reason != Reason::Stopped).then_some(model))
}

/// The pre-training run of the first phase.
fn recipe(run: &FinetuneRun, config: &AdaptConfig, folder: &Path, corpus: PathBuf) -> Result<PretrainRun, TrainError> {
    let path = run.model.join("config.json");
    let positions = Config::read(&path)?.size_or("max_position_embeddings", config.sequence_length)?;
    let longest =
        if config.sequence_length == default_sequence_length() { config.sequence_length.min(positions) } else { config.sequence_length };
    Ok(PretrainRun {
        out: folder.to_owned(),
        seed: run.seed,
        data: DataConfig { dir: corpus },
        model: ModelConfig { from: Some(run.model.clone()), dropout: run.dropout, ..ModelConfig::default() },
        objective: config.objective.clone(),
        train: TrainConfig {
            budget: config.budget,
            batch_tokens: Ramp::from(config.batch_tokens),
            micro_batch_tokens: run.micro_batch_tokens.max(longest),
            sequence_length: Ramp::from(longest),
            precision: run.precision,
            recompute: false,
        },
        optimizer: OptimizerConfig { lr: config.lr, ..OptimizerConfig::default() },
        schedule: Schedule::default(),
        evaluation: EvaluationConfig { every: Every::Share(0.25), ..EvaluationConfig::default() },
        checkpoint: CheckpointConfig { every: Every::Share(0.25), keep: 1 },
    })
}

/// Make the corpus of the first phase; a line about it. `None` when it was stopped.
fn corpus_of(
    run: &FinetuneRun,
    config: &AdaptConfig,
    folder: &Path,
    corpus: &Path,
    control: &Control,
) -> Result<Option<String>, TrainError> {
    let fields = cloze_task::require(&run.task)?.fields();
    let tokenizer = Tokenizer::load(&run.model)?;
    let mut inputs = Vec::new();
    let rows = folder.join("texts.txt");
    let mut texts = String::new();
    for given in &config.text {
        let path = Path::new(given);
        match Format::of(path) {
            // a table with the task's columns, or in a layout of the task's own
            format if path.is_file() && format != Some(Format::Txt) => match texts_of(path, fields, run, &mut texts) {
                Ok(()) => {}
                // a table of another kind: its text is looked for as in any corpus
                Err(TaskError::Column { .. }) if format.is_some() => inputs.push(given.clone()),
                Err(fault) => return Err(fault.into()),
            },
            _ => inputs.push(given.clone()),
        }
    }
    if !texts.is_empty() {
        crate::files::replace_file(&rows, |file| file.write_all(texts.as_bytes()))?;
        inputs.push(rows.display().to_string());
    }
    let holdout = PrepareOptions::default().holdout.max(0.02); // domains are small: enough to see whether it helps
    let options = PrepareOptions { inputs, out: corpus.to_owned(), holdout, ..PrepareOptions::default() };
    let report =
        prepare(&options, &tokenizer, &mut |_| if control.stop_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) });
    match report {
        Err(_) if control.stop_requested() => Ok(None),
        report => {
            let report = report?;
            Ok(Some(format!("domain text: {} documents, {} tokens", report.documents, report.tokens)))
        }
    }
}

/// Every text of a table's rows, labels aside, as a document of its own.
fn texts_of(path: &Path, fields: &'static [Field], run: &FinetuneRun, out: &mut String) -> Result<(), TaskError> {
    use cloze_task::rows::Needed;
    for row in Rows::open(path, fields, &run.columns, false)? {
        let row = row?;
        for field in fields.iter().filter(|f| matches!(f.needed, Needed::Always | Needed::Optional)) {
            match row.get(field.name) {
                Some(Value::String(text)) => document(text, out),
                // words of a sentence are one text, texts of a list are several
                Some(Value::Array(items)) if field.name == "tokens" => {
                    document(&items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "), out);
                }
                Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).for_each(|text| document(text, out)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// A text as lines of a document; blank lines stand between documents.
fn document(text: &str, out: &mut String) {
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        out.push_str(line);
        out.push('\n');
    }
    out.push('\n');
}
