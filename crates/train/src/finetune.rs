//! Fine-tuning a pre-trained body for text classification.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cloze_model::files::card::Card;
use cloze_model::files::config::Config;
use cloze_model::{Heads, Input, LoadReport, Loaded, Model, load_with};
use cloze_task::metric::classification::Confusion;
use cloze_task::text_classification::{self as classification, Columns, Examples, TextInput};
use cloze_tensor::random::{Key, Permutation, Stream};
use cloze_tensor::{Backend, Dtype, Tape, Weights};
use cloze_text::{Batch, Encoding, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::budget::Budget;
use crate::course::{Course, Losses, Pass, Sum, Sums};
use crate::error::TrainError;
use crate::fit::{self, Every, Outcome, Plan};
use crate::observer::{Control, Event, Observers, Reason};
use crate::optimizer::OptimizerConfig;
use crate::pretrain::{Device, save_model};
use crate::run::{self, Precision};
use crate::schedule::Schedule;
use crate::step::Trainer;

/// A fine-tuning run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneRun {
    /// The task; `text-classification`.
    pub task: String,
    /// The pre-trained model's folder.
    pub model: PathBuf,
    /// Labelled rows to train on (csv, tsv, jsonl; .gz, .zst).
    pub train: PathBuf,
    /// Labelled rows to choose the best epoch by.
    pub dev: PathBuf,
    /// The folder of the run; the model is written to `out/model`.
    pub out: PathBuf,
    /// Decides the head's initial weights, order and dropout.
    #[serde(default)]
    pub seed: u64,
    /// Start from random weights instead of the model's: what pre-training is measured against.
    #[serde(default)]
    pub from_scratch: bool,
    /// Which columns hold what; found by name where not given.
    #[serde(default)]
    pub columns: Columns,
    /// How far: `"4 epochs"`, `"500 steps"`, `"5m"`.
    #[serde(default = "default_budget")]
    pub budget: Budget,
    /// Rows of one optimizer step.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// Tokens run at once; bounds the memory.
    #[serde(default = "default_micro_batch")]
    pub micro_batch_tokens: usize,
    /// Longer texts are cut to this many tokens; 256 by default, or the model's positions where these are fewer.
    #[serde(default = "default_max_length")]
    pub max_length: usize,
    /// Share of the target taken from the label and given to all labels.
    #[serde(default)]
    pub label_smoothing: f32,
    /// `auto`, `f32` or `bf16`.
    #[serde(default)]
    pub precision: Precision,
    /// Dropout instead of the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f32>,
    /// When the dev rows are looked at.
    #[serde(default = "default_evaluate")]
    pub evaluate: Every,
    /// The figure that chooses the best epoch: `accuracy`, `macro_f1`, `micro_f1` or `mcc`.
    #[serde(default = "default_metric")]
    pub metric: String,
    /// Stop when this many evaluations in a row brought nothing better; 0: never.
    #[serde(default)]
    pub patience: usize,
    /// The update.
    #[serde(default = "default_optimizer")]
    pub optimizer: OptimizerConfig,
    /// The learning rate over the run.
    #[serde(default)]
    pub schedule: Schedule,
}

fn default_budget() -> Budget {
    Budget::Epochs(4.0)
}
fn default_batch_size() -> usize {
    32
}
fn default_micro_batch() -> usize {
    4096
}
fn default_max_length() -> usize {
    256
}
fn default_evaluate() -> Every {
    Every::Amount(Budget::Epochs(1.0))
}
fn default_metric() -> String {
    "accuracy".into()
}
fn default_optimizer() -> OptimizerConfig {
    OptimizerConfig { lr: 1e-4, beta2: 0.999, eps: 1e-8, ..OptimizerConfig::default() }
}

impl FinetuneRun {
    /// A run with the defaults of the field.
    pub fn new(task: &str, model: PathBuf, train: PathBuf, dev: PathBuf, out: PathBuf) -> Self {
        Self {
            task: task.into(),
            model,
            train,
            dev,
            out,
            seed: 0,
            from_scratch: false,
            columns: Columns::default(),
            budget: default_budget(),
            batch_size: default_batch_size(),
            micro_batch_tokens: default_micro_batch(),
            max_length: default_max_length(),
            label_smoothing: 0.0,
            precision: Precision::Auto,
            dropout: None,
            evaluate: default_evaluate(),
            metric: default_metric(),
            patience: 0,
            optimizer: default_optimizer(),
            schedule: Schedule::default(),
        }
    }

    fn check(&self) -> Result<(), TrainError> {
        let refuse = |key, found: String, expected: &str| Err(TrainError::Value { key, found, expected: expected.into() });
        self.optimizer.check()?;
        if cloze_task::task(&self.task).is_none_or(|t| !t.trainable) {
            return refuse("task", format!("{:?}", self.task), "text-classification");
        }
        if !["accuracy", "macro_f1", "micro_f1", "mcc"].contains(&self.metric.as_str()) {
            return refuse("metric", format!("{:?}", self.metric), "accuracy, macro_f1, micro_f1 or mcc");
        }
        if self.batch_size == 0 {
            return refuse("batch_size", "0".into(), "at least 1");
        }
        if self.max_length < 8 || self.micro_batch_tokens < self.max_length {
            return refuse("max_length", self.max_length.to_string(), "at least 8, and no more than micro_batch_tokens");
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            return refuse("label_smoothing", self.label_smoothing.to_string(), "a number from 0 to below 1");
        }
        match self.dropout {
            Some(d) if !(0.0..1.0).contains(&d) => refuse("dropout", d.to_string(), "a number from 0 to below 1"),
            _ => Ok(()),
        }
    }
}

/// Labelled, encoded rows.
pub struct Rows {
    encodings: Vec<Encoding>,
    labels: Vec<u32>,
}

/// The classification course: shuffled rows, cross-entropy on labels, figures on the dev rows.
pub struct Classification {
    train: Rows,
    dev: Rows,
    classes: usize,
    run: FinetuneRun,
    cursor: u64,
}

/// What the data is like, told before training.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataReport {
    /// Rows to train on and dev rows.
    pub rows: (usize, usize),
    /// Training rows and dev rows of each label.
    pub labels: Vec<(String, usize, usize)>,
    /// Training rows that are cut to the longest length.
    pub truncated: usize,
    /// Tokens of the median and of the longest training row (uncut rows count as cut).
    pub tokens: (usize, usize),
    /// Dev rows whose text stands among the training rows, too.
    pub leaked: usize,
    /// Training rows that repeat another.
    pub repeated: usize,
}

impl DataReport {
    /// The report in lines for people.
    pub fn lines(&self) -> Vec<String> {
        let (train, dev) = self.rows;
        let mut lines = vec![format!(
            "{train} rows to train on, {dev} dev rows; median {} tokens, longest {}{}",
            self.tokens.0,
            self.tokens.1,
            if self.truncated > 0 { format!(", {} cut", self.truncated) } else { String::new() }
        )];
        let share = |n: usize, of: usize| 100.0 * n as f64 / of.max(1) as f64;
        for (label, in_train, in_dev) in &self.labels {
            lines.push(format!("  {label}: {:.1}% of train, {:.1}% of dev", share(*in_train, train), share(*in_dev, dev)));
        }
        if self.repeated > 0 {
            lines.push(format!("{} training rows repeat another", self.repeated));
        }
        if self.leaked > 0 {
            lines.push(format!("{} dev rows stand among the training rows, too: their figures flatter", self.leaked));
        }
        lines
    }
}

impl Classification {
    /// Read and encode both tables; returns the course, the labels and the report.
    pub fn open(run: &FinetuneRun, tokenizer: &Tokenizer) -> Result<(Self, Vec<String>, DataReport), TrainError> {
        let train = Examples::read_all(&run.train, &run.columns)?;
        let dev = Examples::read_all(&run.dev, &run.columns)?;
        let labels = classification::labels_of(&train);
        if labels.len() < 2 {
            let problem =
                format!("all rows have the label {:?}; a classifier needs at least two", labels.first().cloned().unwrap_or_default());
            return Err(cloze_task::TaskError::TooLittle { path: run.train.clone(), problem }.into());
        }
        let train_labels = classification::label_ids(&run.train, &train, &labels)?;
        let dev_labels = classification::label_ids(&run.dev, &dev, &labels)?;
        let inputs = |examples: Vec<classification::Example>| -> Vec<TextInput> { examples.into_iter().map(|e| e.input).collect() };
        let (train, dev) = (inputs(train), inputs(dev));
        let seen: std::collections::HashSet<(&str, Option<&str>)> = train.iter().map(|i| (i.first.as_str(), i.second.as_deref())).collect();
        let leaked = dev.iter().filter(|i| seen.contains(&(i.first.as_str(), i.second.as_deref()))).count();
        let repeated = train.len() - seen.len();
        let encode = |inputs: &[TextInput]| -> Result<Vec<Encoding>, TrainError> {
            inputs.iter().map(|i| Ok(classification::encode(tokenizer, i, run.max_length)?)).collect()
        };
        let (train, dev) =
            (Rows { encodings: encode(&train)?, labels: train_labels }, Rows { encodings: encode(&dev)?, labels: dev_labels });
        let mut lengths: Vec<usize> = train.encodings.iter().map(Encoding::len).collect();
        lengths.sort_unstable();
        let count = |rows: &Rows, l: usize| rows.labels.iter().filter(|&&x| x as usize == l).count();
        let report = DataReport {
            rows: (train.labels.len(), dev.labels.len()),
            labels: labels.iter().enumerate().map(|(i, l)| (l.clone(), count(&train, i), count(&dev, i))).collect(),
            truncated: lengths.iter().filter(|l| **l >= run.max_length).count(),
            tokens: (lengths[lengths.len() / 2], lengths[lengths.len() - 1]),
            leaked,
            repeated,
        };
        let course = Self { train, dev, classes: labels.len(), run: run.clone(), cursor: 0 };
        Ok((course, labels, report))
    }

    /// The confusion matrix of the dev rows.
    pub fn confusion<B: Backend>(
        &self,
        backend: &B,
        model: &Model,
        weights: &Weights<B>,
        dtype: Dtype,
    ) -> Result<(Confusion, f64), TrainError> {
        let logits = classification::logits(backend, model, weights, dtype, &self.dev.encodings, self.run.micro_batch_tokens)?;
        let mut confusion = Confusion::new(self.classes);
        let mut loss = 0.0;
        for (row, &label) in logits.iter().zip(&self.dev.labels) {
            confusion.add(label as usize, classification::argmax(row));
            loss -= f64::from(classification::softmax(row)[label as usize].max(f32::MIN_POSITIVE)).ln();
        }
        Ok((confusion, loss / self.dev.labels.len().max(1) as f64))
    }
}

impl Losses for Classification {
    fn losses<'a, B: Backend>(&self, model: &Model, tape: &mut Tape<'a, B>, input: &Input<B>, batch: &Batch, pass: Pass) -> Sums {
        let backend = tape.backend();
        let hidden = model.hidden(tape, input, pass.recompute);
        let mut sums = Sums::new();
        if let (Some(pooled), Some(head)) = (model.pooled(tape, &hidden, input), model.classifier()) {
            let labels = backend.indices(&batch.sequence_labels);
            let losses = head.loss(tape, &pooled, &labels, 1.0 / pass.totals.sequences.max(1) as f32, self.run.label_smoothing);
            sums.insert("classification", Sum::of(backend, &losses));
        }
        sums
    }
}

impl Course for Classification {
    fn next(&mut self, _: f64) -> Result<Vec<Batch>, TrainError> {
        let rows = self.train.labels.len() as u64;
        let (epoch, begin) = (self.cursor / rows, self.cursor % rows);
        let end = (begin + self.run.batch_size as u64).min(rows); // a step stays inside its epoch
        let order = Permutation::new(Key::new(self.run.seed, Stream::Shuffle, epoch, 0), rows);
        self.cursor += end - begin;
        let mut batches: Vec<Batch> = Vec::new();
        for i in begin..end {
            let at = order.at(i) as usize;
            let encoding = &self.train.encodings[at];
            let fits = batches.last().is_some_and(|b| b.tokens() + encoding.len() <= self.run.micro_batch_tokens);
            if !fits {
                batches.push(Batch::default());
            }
            let last = batches.len() - 1;
            batches[last].push(&encoding.ids, &encoding.token_type_ids);
            batches[last].sequence_labels.push(self.train.labels[at]);
        }
        Ok(batches)
    }

    fn cursor(&self) -> u64 {
        self.cursor
    }

    fn seek(&mut self, cursor: u64) {
        self.cursor = cursor;
    }

    fn epochs(&self) -> f64 {
        self.cursor as f64 / self.train.labels.len() as f64
    }

    fn evaluate<B: Backend>(
        &self,
        backend: &B,
        model: &Model,
        weights: &Weights<B>,
        dtype: Dtype,
    ) -> Result<BTreeMap<String, f64>, TrainError> {
        let (confusion, loss) = self.confusion(backend, model, weights, dtype)?;
        let mut figures = classification::figures(&confusion);
        figures.insert("loss".into(), loss);
        Ok(figures)
    }

    fn goal(&self) -> (&str, bool) {
        (&self.run.metric, true)
    }
}

/// What a fine-tuning gave.
pub struct Finetuned {
    /// How it ended.
    pub outcome: Outcome,
    /// The labels.
    pub labels: Vec<String>,
    /// The confusion matrix of the dev rows under the best weights.
    pub confusion: Confusion,
    /// The data.
    pub data: DataReport,
    /// What of the model was new.
    pub loaded: LoadReport,
}

/// The run with the default length cut to what the model can take; a length that was chosen stays, to be refused.
fn fitted(run: &FinetuneRun) -> Result<FinetuneRun, TrainError> {
    let mut run = run.clone();
    let path = run.model.join("config.json");
    if run.max_length == default_max_length() && path.exists() {
        let positions = Config::read(&path)?.size_or("max_position_embeddings", run.max_length)?;
        run.max_length = run.max_length.min(positions);
    }
    Ok(run)
}

/// Fine-tune; the best epoch's model is written to `out/model`.
pub fn finetune<B: Backend>(
    backend: &B,
    run: &FinetuneRun,
    device: Device,
    resume: bool,
    observers: &mut Observers,
    control: &Control,
) -> Result<Finetuned, TrainError> {
    run.check()?;
    run::claim(&run.out, resume)?;
    let tokenizer = Tokenizer::load(&run.model)?;
    let run = &fitted(run)?;
    let (mut course, labels, data) = Classification::open(run, &tokenizer)?;
    for line in data.lines() {
        observers.event(&Event::note(0, line));
    }
    let Loaded { mut model, mut values, report } = load_with(&run.model, Some(Heads::classification(labels.clone())), run.seed)?;
    if let Some(dropout) = run.dropout {
        let mut blueprint = model.blueprint.clone();
        (blueprint.hidden_dropout, blueprint.attention_dropout) = (dropout, dropout);
        model = Model::new(model.family, blueprint, model.heads);
    }
    if run.max_length > model.blueprint.position.longest() {
        let expected = format!("at most the model's {} positions", model.blueprint.position.longest());
        return Err(TrainError::Value { key: "max_length", found: run.max_length.to_string(), expected });
    }
    if run.from_scratch {
        values = model.table().init(run.seed);
    } else if !report.new.is_empty() {
        observers.event(&Event::note(0, format!("newly initialised: {}", report.new.join(", "))));
    }
    let mut trainer = Trainer::new(backend, model, &values, run.optimizer.clone(), device.dtype, run.seed, false);
    drop(values);
    let plan = Plan {
        title: format!("fine-tuning {} ({})", run.out.display(), run.task),
        kind: "finetune",
        budget: run.budget,
        schedule: run.schedule,
        lr: run.optimizer.lr,
        evaluate: run.evaluate,
        checkpoint: run.evaluate,
        keep: 1,
        patience: run.patience,
        keep_best: true,
        device: device.name,
        peak_flops: device.peak_flops,
        config: run::to_json(run),
    };
    let outcome = fit::fit(&mut trainer, &mut course, &plan, &run.out, resume, observers, control)?;
    let weights = trainer.model().frozen(backend, &outcome.values, device.dtype);
    let (confusion, _) = course.confusion(backend, trainer.model(), &weights, device.dtype)?;
    let folder = run.out.join("model");
    if outcome.reason != Reason::Stopped {
        let card = card(run, trainer.model(), &outcome, &data);
        save_model(&folder, trainer.model(), &outcome.values, &tokenizer, &card)?;
    }
    observers.event(&fit::finished(&outcome, (outcome.reason != Reason::Stopped).then_some(folder)));
    Ok(Finetuned { outcome, labels, confusion, data, loaded: report })
}

fn card(run: &FinetuneRun, model: &Model, outcome: &Outcome, data: &DataReport) -> Card {
    let on = format!("{} dev rows", data.rows.1);
    Card {
        title: run.out.file_name().map_or("classifier".into(), |n| n.to_string_lossy().into_owned()),
        languages: vec![],
        pipeline: "text-classification".into(),
        summary: format!(
            "A text classifier over {} labels ({}): a {} encoder of {} layers × {} hidden units, fine-tuned with Cloze.",
            model.heads.labels.len(),
            model.heads.labels.join(", "),
            model.family,
            model.blueprint.num_hidden_layers,
            model.blueprint.hidden_size
        ),
        data: data.lines().into_iter().map(|l| l.trim().to_owned()).collect(),
        figures: outcome.metrics.iter().map(|(name, value)| (name.clone(), format!("{value:.4}"), on.clone())).collect(),
        usage: vec!["cloze predict --model . \"a text to classify\"".into(), "cloze evaluate --model . --data dev.tsv".into()],
        run: run::to_toml(run),
    }
}
