//! Fine-tuning a pre-trained body for a task of the registry.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloze_model::files::card::Card;
use cloze_model::files::config::Config;
use cloze_model::head::pooling::Pooling;
use cloze_model::{LoadReport, Loaded, Model, Problem, load_with};
use cloze_task::agreement::can_agree;
use cloze_task::loss::{LossOptions, Target};
use cloze_task::task::{Example, Figures};
use cloze_task::{Columns, Context, Options, Row, Rows, Settings, Task, TaskError};
use cloze_tensor::Backend;
use cloze_text::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::adapt::{self, AdaptConfig};
use crate::budget::Budget;
use crate::data_report::DataReport;
use crate::error::TrainError;
use crate::fit::{self, Every, Outcome, Plan};
use crate::label_errors::{self, History, Suspect};
use crate::lora::{Keep, LoraConfig};
use crate::observer::{Control, Event, Observers, Reason};
use crate::optimizer::OptimizerConfig;
use crate::pretrain::{Device, save_folder, save_model};
use crate::run::{self, Precision};
use crate::schedule::Schedule;
use crate::step::Trainer;
use crate::supervised::Supervised;
use crate::teacher::{DistillConfig, Student, Teacher};

/// Weights of classes in the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ClassWeights {
    /// `"balanced"`: rows / (labels · rows of the label), as scikit-learn has it.
    Named(String),
    /// By label; others weigh 1.
    Of(BTreeMap<String, f32>),
}

/// A fine-tuning run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneRun {
    /// The task: a name of the registry that is trained.
    pub task: String,
    /// The pre-trained model's folder.
    pub model: PathBuf,
    /// Labelled rows to train on (csv, tsv, jsonl; .gz, .zst).
    pub train: PathBuf,
    /// Labelled rows to choose the best epoch by; without them every tenth training row is held out for it.
    #[serde(default, skip_serializing_if = "is_nowhere")]
    pub dev: PathBuf,
    /// Recommendation: the file of items (`item_id` and the columns of its text), where rows hold ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalogue: Option<PathBuf>,
    /// The folder of the run; the model is written to `out/model`.
    pub out: PathBuf,
    /// Decides the head's initial weights, order and dropout.
    #[serde(default)]
    pub seed: u64,
    /// Start from random weights instead of the model's: what pre-training is measured against.
    #[serde(default)]
    pub from_scratch: bool,
    /// Which columns hold what; found by name where not given.
    #[serde(default, skip_serializing_if = "Columns::is_empty")]
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
    /// R-Drop's α (Liang et al. 2021): every example is run twice under different dropout, and how far its two answers are apart is
    /// part of the loss; 0: once. It must have dropout.
    #[serde(default)]
    pub r_drop: f32,
    /// ε of adversarial training (Miyato et al. 2017): each step also learns from its rows with the word embeddings moved by this much in
    /// the direction that makes the loss larger; 0: none.
    #[serde(default)]
    pub adversarial: f32,
    /// Weights of classes in the loss: `"balanced"`, or a table of labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<ClassWeights>,
    /// How sequence labels are meant: `single_label_classification`, `multi_label_classification` or `regression`; told by
    /// the data where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Embeddings: `cls`, `mean`, `max` or `lasttoken`; the model's own, or the mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooling: Option<String>,
    /// Embeddings: what cosines are multiplied by in a contrast.
    #[serde(default = "default_scale")]
    pub scale: f32,
    /// Embeddings: prefix lengths that are trained, too (Matryoshka).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dimensions: Vec<usize>,
    /// Embeddings: put before queries.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub query_prefix: String,
    /// Embeddings: put before the texts that are searched.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub passage_prefix: String,
    /// What is asked of the task when dev rows are looked at (`stride`, `max_answer_tokens` …).
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: Options,
    /// `auto`, `f32` or `bf16`.
    #[serde(default)]
    pub precision: Precision,
    /// Dropout instead of the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f32>,
    /// When the dev rows are looked at.
    #[serde(default = "default_evaluate")]
    pub evaluate: Every,
    /// The figure that chooses the best evaluation; the task's usual one where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// Stop when this many evaluations in a row brought nothing better; 0: never.
    #[serde(default)]
    pub patience: usize,
    /// Look for training rows whose label the model does not come to believe, and list them in `label-errors.tsv` of the run's folder.
    #[serde(default = "default_label_errors")]
    pub label_errors: bool,
    /// The update.
    #[serde(default = "default_optimizer")]
    pub optimizer: OptimizerConfig,
    /// The learning rate over the run.
    #[serde(default)]
    pub schedule: Schedule,
    /// Train low-rank updates beside the body's matrices instead of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// Learn from the answers of another model, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distill: Option<DistillConfig>,
    /// First go on with masked language modelling on text of the task's domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapt: Option<AdaptConfig>,
}

fn is_nowhere(path: &Path) -> bool {
    path.as_os_str().is_empty()
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
fn default_label_errors() -> bool {
    true
}
fn default_scale() -> f32 {
    20.0
}
fn is_default(options: &Options) -> bool {
    *options == Options::default()
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
            catalogue: None,
            out,
            seed: 0,
            from_scratch: false,
            columns: Columns::default(),
            budget: default_budget(),
            batch_size: default_batch_size(),
            micro_batch_tokens: default_micro_batch(),
            max_length: default_max_length(),
            label_smoothing: 0.0,
            r_drop: 0.0,
            adversarial: 0.0,
            class_weights: None,
            problem: None,
            pooling: None,
            scale: default_scale(),
            dimensions: Vec::new(),
            query_prefix: String::new(),
            passage_prefix: String::new(),
            options: Options::default(),
            precision: Precision::Auto,
            dropout: None,
            evaluate: default_evaluate(),
            metric: None,
            patience: 0,
            label_errors: default_label_errors(),
            optimizer: default_optimizer(),
            schedule: Schedule::default(),
            lora: None,
            distill: None,
            adapt: None,
        }
    }

    fn check(&self) -> Result<&'static dyn Task, TrainError> {
        let refuse = |key, found: String, expected: &str| Err(TrainError::Value { key, found, expected: expected.into() });
        self.optimizer.check()?;
        if let Some(lora) = &self.lora {
            lora.check(self)?;
        }
        if let Some(distill) = &self.distill {
            distill.check()?;
        }
        if let Some(adapt) = &self.adapt {
            adapt.check()?;
        }
        let task = cloze_task::require(&self.task)?;
        let Some(learning) = task.learning() else {
            let trained: Vec<&str> = cloze_task::TASKS.iter().filter(|t| t.learning().is_some()).map(|t| t.name()).collect();
            return refuse("task", format!("{:?}", self.task), &format!("a task that is trained: {}", trained.join(", ")));
        };
        if let Some(metric) = self.metric.as_deref().filter(|m| !learning.goals().contains(m)) {
            return refuse("metric", format!("{metric:?}"), &learning.goals().join(", "));
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
        if !(self.r_drop.is_finite() && self.r_drop >= 0.0) {
            return refuse("r_drop", self.r_drop.to_string(), "a number of at least 0");
        }
        if !(self.adversarial.is_finite() && self.adversarial >= 0.0) {
            return refuse("adversarial", self.adversarial.to_string(), "a number of at least 0");
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return refuse("scale", self.scale.to_string(), "a number above 0");
        }
        match (&self.class_weights, self.dropout) {
            (Some(ClassWeights::Named(name)), _) if name != "balanced" => {
                refuse("class_weights", format!("{name:?}"), "\"balanced\", or a table")
            }
            (Some(ClassWeights::Of(weights)), _) if weights.values().any(|w| !(w.is_finite() && *w > 0.0)) => {
                refuse("class_weights", format!("{weights:?}"), "numbers above 0")
            }
            (_, Some(d)) if !(0.0..1.0).contains(&d) => refuse("dropout", d.to_string(), "a number from 0 to below 1"),
            _ => Ok(task),
        }
    }

    /// Refuse what this model or these examples cannot have.
    fn check_regularization(&self, model: &Model, examples: &[Example]) -> Result<(), TrainError> {
        let refuse = |key, found: f32, expected: String| Err(TrainError::Value { key, found: found.to_string(), expected });
        let b = &model.blueprint;
        let draws = [b.hidden_dropout, b.attention_dropout, b.classifier_dropout, self.lora.as_ref().map_or(0.0, |l| l.dropout)];
        if self.r_drop > 0.0 && draws.iter().all(|d| *d == 0.0) {
            return refuse("r_drop", self.r_drop, "0, or dropout: without it an example's two answers are the same (dropout = 0.1)".into());
        }
        if self.r_drop > 0.0 && !examples.iter().all(|e| can_agree(&e.target)) {
            return refuse("r_drop", self.r_drop, format!("0: {} learns vectors by their neighbours in the batch", self.task));
        }
        if self.adversarial > 0.0 && !model.table().is_own(model.body().word_embedding()) {
            return refuse("adversarial", self.adversarial, "0: the word embeddings are not trained here".into());
        }
        Ok(())
    }

    fn problem(&self) -> Result<Option<Problem>, TrainError> {
        let expected = "single_label_classification, multi_label_classification or regression";
        self.problem
            .as_deref()
            .map(|name| match name {
                "single_label_classification" | "single_label" => Ok(Problem::SingleLabel),
                "multi_label_classification" | "multi_label" => Ok(Problem::MultiLabel),
                "regression" => Ok(Problem::Regression),
                other => Err(TrainError::Value { key: "problem", found: format!("{other:?}"), expected: expected.into() }),
            })
            .transpose()
    }

    /// The settings that the model will carry.
    fn settings(&self) -> Result<Settings, TrainError> {
        let mut settings = Settings::read(&self.model)?;
        settings.task = Some(self.task.clone());
        settings.dense.clear(); // what is learned is the pooled vector itself
        settings.max_length = Some(self.max_length);
        settings.dimensions.clone_from(&self.dimensions);
        settings.default_prefix.clear(); // what stands before texts is what the recipe says
        settings.prompts.clear();
        settings.query_prefix.clone_from(&self.query_prefix);
        settings.passage_prefix.clone_from(&self.passage_prefix);
        if let Some(name) = &self.pooling {
            let expected = || "cls, mean, max or lasttoken".to_owned();
            settings.pooling = Pooling::of_name(name).ok_or_else(|| TrainError::Value {
                key: "pooling",
                found: format!("{name:?}"),
                expected: expected(),
            })?;
        }
        Ok(settings)
    }
}

/// What a fine-tuning gave.
pub struct Finetuned {
    /// How it ended.
    pub outcome: Outcome,
    /// The labels.
    pub labels: Vec<String>,
    /// Figures on the dev rows under the best weights; none where it was stopped.
    pub figures: Figures,
    /// The figure that chose them.
    pub goal: String,
    /// The data.
    pub data: DataReport,
    /// What of the model was new.
    pub loaded: LoadReport,
    /// Training rows that are likely labelled wrong, the likeliest first.
    pub suspects: Vec<Suspect>,
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

/// One row in so many is held out where no dev rows are given.
const HELD_OUT: usize = 10;
/// At most this many are: an evaluation of more rows tells little more, and takes long.
const MOST_HELD_OUT: usize = 2000;

/// Training rows, and every tenth of them as dev rows (fewer of very many); the distance between two of these.
fn held_out(rows: Vec<Row>) -> Result<(Vec<Row>, Vec<Row>, usize), TrainError> {
    if rows.len() < HELD_OUT {
        let path = rows.first().map(|r| r.path.to_path_buf()).unwrap_or_default();
        let problem = format!("{} rows, of which none can be held out; give dev rows with --dev", rows.len());
        return Err(TaskError::TooLittle { path, problem }.into());
    }
    let every = HELD_OUT.max(rows.len().div_ceil(MOST_HELD_OUT));
    let (mut train, mut dev) = (Vec::new(), Vec::new());
    for (at, row) in rows.into_iter().enumerate() {
        if at % every == every - 1 { dev.push(row) } else { train.push(row) }
    }
    Ok((train, dev, every))
}

/// The weight of each label: of what is learned, one label for each sequence or token.
fn weights(run: &FinetuneRun, labels: &[String], examples: &[Example]) -> Result<Vec<f32>, TrainError> {
    let Some(wanted) = &run.class_weights else { return Ok(Vec::new()) };
    let mut counts = vec![0usize; labels.len()];
    for example in examples {
        let classes = match &example.target {
            Target::Class(class) => std::slice::from_ref(class),
            Target::Tokens(classes) => classes,
            _ => {
                let expected = format!("no weights for {}: they are for rows or tokens with one label each", run.task);
                return Err(TrainError::Value { key: "class_weights", found: serde_json::to_string(wanted).unwrap_or_default(), expected });
            }
        };
        classes.iter().for_each(|&c| counts[c as usize] += 1);
    }
    match wanted {
        // n / (labels · n of this label), as scikit-learn balances; a label that no row has weighs nothing, and never counts
        ClassWeights::Named(_) => {
            let total: usize = counts.iter().sum();
            let weight = |&n: &usize| if n > 0 { total as f32 / (labels.len() * n) as f32 } else { 0.0 };
            Ok(counts.iter().map(weight).collect())
        }
        ClassWeights::Of(given) => match given.keys().find(|k| !labels.contains(k)) {
            Some(unknown) => {
                let expected = format!("labels of the data: {}", labels.join(", "));
                Err(TrainError::Value { key: "class_weights", found: unknown.clone(), expected })
            }
            None => Ok(labels.iter().map(|l| given.get(l).copied().unwrap_or(1.0)).collect()),
        },
    }
}

/// Fine-tune; the best evaluation's model is written to `out/model`.
pub fn finetune<B: Backend>(
    backend: &B,
    run: &FinetuneRun,
    device: Device,
    resume: bool,
    observers: &mut Observers,
    control: &Control,
) -> Result<Finetuned, TrainError> {
    let task = run.check()?;
    let Some(learning) = task.learning() else { unreachable!("a task that is not trained was refused") };
    run::claim(&run.out, resume)?;
    let given = run;
    let run = &mut fitted(run)?;
    if run.adapt.is_some() {
        if !adapt::is_done(run) {
            let found = format!("no model in {}", adapt::folder(run).display());
            return Err(TrainError::Value { key: "adapt", found, expected: "its phase to be run first, as `cloze finetune` does".into() });
        }
        run.model = adapt::folder(run).join("model");
    }
    let run = &*run;
    let tokenizer = Tokenizer::load(&run.model)?;
    let read = |path: &PathBuf| -> Result<Vec<Row>, TrainError> {
        let rows = Rows::read_all(path, task.fields(), &run.columns, true)?;
        Ok(run.catalogue.as_ref().map_or(Ok(rows.clone()), |catalogue| task.joined(rows, catalogue))?)
    };
    let rows = read(&run.train)?;
    let mut settings = run.settings()?;
    // Of all rows, so that a label which is only held out is known, too.
    let heads = learning.heads(&rows, run.problem()?, &mut settings)?;
    let (train, dev) = if is_nowhere(&run.dev) {
        let (train, dev, every) = held_out(rows)?;
        observers.event(&Event::note(0, format!("no dev rows are given: every {every}th training row is held out to choose the best by")));
        (train, dev)
    } else {
        (rows, read(&run.dev)?)
    };
    let Loaded { mut model, mut values, report } = load_with(&run.model, Some(heads), run.seed)?;
    if let Some(dropout) = run.dropout {
        let mut blueprint = model.blueprint.clone();
        (blueprint.hidden_dropout, blueprint.attention_dropout, blueprint.classifier_dropout) = (dropout, dropout, dropout);
        model = Model::new(model.family, blueprint, model.heads);
    }
    if run.max_length > model.blueprint.position.longest() {
        let expected = format!("at most the model's {} positions", model.blueprint.position.longest());
        return Err(TrainError::Value { key: "max_length", found: run.max_length.to_string(), expected });
    }
    let context = Arc::new(Context {
        tokenizer,
        labels: model.heads.labels.clone(),
        problem: model.heads.problem,
        max_length: run.max_length,
        settings,
    });
    let labels = context.labels.clone();
    let (examples, row_of) = examples(task, &context, &train)?;
    let mut data = DataReport::new(task, learning, &train, &dev, &examples);
    data.unused(&train, &row_of);
    for line in data.lines() {
        observers.event(&Event::note(0, line));
    }
    if run.from_scratch {
        values = model.table().init(run.seed);
    } else if !report.new.is_empty() {
        observers.event(&Event::note(0, format!("newly initialised: {}", report.new.join(", "))));
    }
    let loss = LossOptions {
        label_smoothing: run.label_smoothing,
        class_weights: weights(run, &labels, &examples)?,
        scale: run.scale,
        dimensions: run.dimensions.clone(),
    };
    let student = Student { task, learning, context: &context, rows: &train, examples: &examples };
    let teach = |config| Teacher::open(backend, config, &student, device.dtype, run.micro_batch_tokens);
    let teacher = run.distill.as_ref().map(teach).transpose()?;
    let mut course = Supervised {
        task,
        goal: run.metric.clone().unwrap_or_else(|| learning.goal(&context, &dev).to_owned()),
        context: Arc::clone(&context),
        examples,
        dev,
        loss,
        options: run.options.clone(),
        seed: run.seed,
        batch_size: run.batch_size,
        micro_batch_tokens: run.micro_batch_tokens,
        cursor: 0,
        teacher,
        r_drop: run.r_drop,
        units: 0.0,
        history: run.label_errors.then(|| History::new(row_of, train.len(), context.problem == Problem::Regression)),
    };
    course.check()?;
    if let Some(lora) = &run.lora {
        (model, values) = lora.adapted(&model, &values, run.seed)?;
        observers.event(&Event::note(0, lora.line(&model)));
    }
    run.check_regularization(&model, &course.examples)?;
    let mut trainer = Trainer::new(backend, model, &values, run.optimizer.clone(), device.dtype, run.seed, false);
    if run.adversarial > 0.0 {
        trainer = trainer.adversarial(run.adversarial);
    }
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
        config: run::to_json(given),
    };
    let outcome = fit::fit(&mut trainer, &mut course, &plan, &run.out, resume, observers, control)?;
    let folder = run.out.join("model");
    let (mut figures, mut suspects) = (Figures::default(), Vec::new());
    if outcome.reason != Reason::Stopped {
        let weights = trainer.model().frozen(backend, &outcome.values, device.dtype);
        figures = course.figures(backend, trainer.model(), &weights, device.dtype)?;
        suspects = course.history.as_ref().map(History::suspects).unwrap_or_default();
        let doubtful: Vec<&Row> = suspects.iter().map(|s| &train[s.row]).collect();
        let said = course.answers(backend, trainer.model(), &weights, device.dtype, &doubtful)?;
        let path = run.out.join(label_errors::FILE);
        // A finished run that is resumed takes no step: what it found before stays.
        if course.history.as_ref().is_some_and(History::has_seen) {
            label_errors::write(&path, task, &context, &train, &suspects, &said)?;
        }
        if let Some(line) = label_errors::line(task, &context, &train, &suspects, &said, &path) {
            observers.event(&Event::note(outcome.spent.steps, line));
        }
        let card = card(given, task, trainer.model(), &outcome, &data);
        let (tokenizer, settings) = (&context.tokenizer, Some(&context.settings));
        match &run.lora {
            None => save_model(&folder, trainer.model(), &outcome.values, tokenizer, &card, settings)?,
            Some(LoraConfig { keep: Keep::Merged, .. }) => {
                let (model, values) = trainer.model().merged(&outcome.values);
                save_model(&folder, &model, &values, tokenizer, &card, settings)?;
            }
            Some(lora) => {
                let base = lora.base_of(&run.model);
                save_folder(&folder, trainer.model(), tokenizer, &card, settings, |folder, ids| {
                    lora.save(folder, trainer.model(), &outcome.values, &base, ids)
                })?;
            }
        }
    }
    observers.event(&fit::finished(&outcome, (outcome.reason != Reason::Stopped).then_some(folder)));
    Ok(Finetuned { outcome, labels, figures, goal: course.goal, data, loaded: report, suspects })
}

/// The examples of all rows, at least one; and the row of each.
fn examples(task: &dyn Task, context: &Context, rows: &[Row]) -> Result<(Vec<Example>, Vec<u32>), TrainError> {
    let (mut examples, mut row_of) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for (at, row) in rows.iter().enumerate() {
        examples.extend(task.learning().map_or(Ok(Vec::new()), |l| l.examples(context, row))?);
        row_of.resize(examples.len(), at as u32);
    }
    if examples.is_empty() {
        let path = rows.first().map(|r| r.path.to_path_buf()).unwrap_or_default();
        return Err(TaskError::TooLittle { path, problem: "no row has anything to learn".into() }.into());
    }
    Ok((examples, row_of))
}

fn card(run: &FinetuneRun, task: &dyn Task, model: &Model, outcome: &Outcome, data: &DataReport) -> Card {
    let on = format!("{} dev rows", data.rows.1);
    let labels = match model.heads.labels.len() {
        0 => String::new(),
        n @ 1..=30 => format!(", {n} labels: {}", model.heads.labels.join(", ")),
        n => format!(", {n} labels"),
    };
    Card {
        title: run.out.file_name().map_or("model".into(), |n| n.to_string_lossy().into_owned()),
        languages: vec![],
        pipeline: task.name().into(),
        summary: format!(
            "A model for {} ({}{labels}): a {} encoder of {} layers × {} hidden units, fine-tuned with Cloze.",
            task.name(),
            task.about(),
            model.family,
            model.blueprint.num_hidden_layers,
            model.blueprint.hidden_size
        ),
        data: data.lines().into_iter().map(|l| l.trim().to_owned()).collect(),
        figures: outcome.metrics.iter().map(|(name, value)| (name.clone(), format!("{value:.4}"), on.clone())).collect(),
        usage: vec![
            format!("cloze predict --task {} --model . --input rows.jsonl", task.name()),
            format!("cloze evaluate --task {} --model . --data dev.jsonl", task.name()),
        ],
        run: run::to_toml(run),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(target: Target) -> Example {
        Example { sequences: Vec::new(), target, cut: false }
    }

    #[test]
    fn balanced_weights_count_what_is_learned() {
        let mut run = FinetuneRun::new("token-classification", "m".into(), "t".into(), "d".into(), "o".into());
        run.class_weights = Some(ClassWeights::Named("balanced".into()));
        let labels = ["B-x", "I-x", "O"].map(str::to_owned);
        let tokens = [example(Target::Tokens(vec![2, 2, 2, 0])), example(Target::Tokens(vec![2, 2]))];
        let found = weights(&run, &labels, &tokens).unwrap();
        assert_eq!(found, [6.0 / 3.0, 0.0, 6.0 / 15.0]);
        let classes = [example(Target::Class(1)), example(Target::Class(1)), example(Target::Class(0))];
        assert_eq!(weights(&run, &labels[..2], &classes).unwrap(), [1.5, 0.75]);
        let error = weights(&run, &labels, &[example(Target::Value(1.0))]).unwrap_err().to_string();
        assert!(error.contains("class_weights") && error.contains("balanced"), "{error}");
    }
}
