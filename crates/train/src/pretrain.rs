//! Pre-training: a recipe, its corpus and objective, and the model that comes out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloze_model::blueprint::Position;
use cloze_model::files::card::Card;
use cloze_model::files::config::Config;
use cloze_model::files::hub_folder::announced;
use cloze_model::{Blueprint, Heads, Input, Loaded, Model, load_with};
use cloze_task::Settings;
use cloze_tensor::{Backend, Dtype, Tape, Weights};
use cloze_text::{Batch, Dataset, Limits, ObjectiveConfig, Sampler, SentenceObjective, Split, Tokenizer, Vocabulary};
use serde::{Deserialize, Serialize};

use crate::budget::Budget;
use crate::course::{Course, Cursor, Found, Loss, Losses, Pass, Stretch, Sums};
use crate::error::TrainError;
use crate::fit::{self, Every, Outcome, Plan};
use crate::observer::{Control, Event, Observers, Reason};
use crate::optimizer::OptimizerConfig;
use crate::ramp::Ramp;
use crate::run::{self, Precision};
use crate::schedule::Schedule;
use crate::step::Trainer;

/// A pre-training recipe: one TOML file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainRun {
    /// The folder of the run: log, curve, checkpoints, and the model at the end.
    pub out: PathBuf,
    /// Decides initial weights, order, masks and dropout.
    #[serde(default)]
    pub seed: u64,
    /// The corpus.
    pub data: DataConfig,
    /// The model.
    pub model: ModelConfig,
    /// What is predicted.
    #[serde(default)]
    pub objective: ObjectiveConfig,
    /// How long, and how much at once.
    pub train: TrainConfig,
    /// The update.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// The learning rate over the run.
    #[serde(default)]
    pub schedule: Schedule,
    /// When held-out text is looked at.
    #[serde(default)]
    pub evaluation: EvaluationConfig,
    /// When the state is saved.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
}

/// The `[data]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// A folder written by `cloze prepare`; its tokenizer is the model's.
    pub dir: PathBuf,
}

/// The `[model]` table: a size by name or in full, and what of the architecture is not the family's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Go on from the weights of this model's folder instead of random ones; the corpus must have been prepared with its tokenizer. Its
    /// shape is the model's own: of the keys below only `dropout` goes with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// `bert` (post-norm, learned positions) or `modernbert` (pre-norm, gated, rotary, no biases).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// `tiny`, `mini`, `small`, `medium`, `base` or `large`; the keys below override it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_hidden_layers: Option<usize>,
    /// H.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden_size: Option<usize>,
    /// N.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_attention_heads: Option<usize>,
    /// I.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intermediate_size: Option<usize>,
    /// The longest sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_position_embeddings: Option<usize>,
    /// Dropout of embeddings, sublayer outputs and attention probabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f32>,
}

/// The `[train]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// How far the run goes: `"30m"`, `"10000 steps"`, `"20M tokens"`, `"3 epochs"`.
    pub budget: Budget,
    /// Tokens of one optimizer step.
    pub batch_tokens: Ramp<usize>,
    /// Tokens that are run at once; a step is cut into such pieces. Bounds the memory.
    #[serde(default = "default_micro_batch")]
    pub micro_batch_tokens: usize,
    /// The longest sequence, in tokens.
    pub sequence_length: Ramp<usize>,
    /// `auto`, `f32` or `bf16`.
    #[serde(default)]
    pub precision: Precision,
    /// Compute layers again in backward instead of keeping them: less memory, a third more time.
    #[serde(default)]
    pub recompute: bool,
}

fn default_micro_batch() -> usize {
    8192
}

/// The `[evaluation]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationConfig {
    /// How often: `"5%"`, `"500 steps"`, `"2m"`.
    pub every: Every,
    /// Held-out tokens looked at.
    pub tokens: usize,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self { every: Every::Share(0.05), tokens: 100_000 }
    }
}

/// The `[checkpoint]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// How often: `"10%"`, `"500 steps"`, `"5m"`.
    pub every: Every,
    /// How many are kept.
    pub keep: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: Every::Share(0.1), keep: 2 }
    }
}

impl PretrainRun {
    /// Read a recipe with `--set` changes.
    pub fn read(path: &Path, changes: &[String]) -> Result<Self, TrainError> {
        let run: Self = run::read(path, changes)?;
        run.check()?;
        Ok(run)
    }

    /// Refuse what cannot be run.
    pub fn check(&self) -> Result<(), TrainError> {
        self.optimizer.check()?;
        self.objective.validate()?;
        let least = |key, found: usize, least: usize| {
            if found >= least {
                Ok(())
            } else {
                Err(TrainError::Value { key, found: found.to_string(), expected: format!("at least {least}") })
            }
        };
        least("train.sequence_length", self.train.sequence_length.at(0.0), 8)?;
        least("train.micro_batch_tokens", self.train.micro_batch_tokens, self.train.sequence_length.max())?;
        least("train.batch_tokens", self.train.batch_tokens.at(0.0), 8)?;
        least("checkpoint.keep", self.checkpoint.keep, 1)
    }

    /// The model's blueprint for a vocabulary of `vocab_size`.
    pub fn blueprint(&self, vocab_size: usize) -> Result<(&'static str, Blueprint), TrainError> {
        let m = &self.model;
        let refuse = |key, found: &str, expected: String| TrainError::Value { key, found: format!("{found:?}"), expected };
        let size = match &m.size {
            None => None,
            Some(name) => Some(
                Blueprint::named_size(name).ok_or_else(|| refuse("model.size", name, "tiny, mini, small, medium, base or large".into()))?,
            ),
        };
        let need = |key, value: Option<usize>, named: Option<usize>| {
            value.or(named).ok_or_else(|| TrainError::Value { key, found: "nothing".into(), expected: "a number, or a model.size".into() })
        };
        let layers = need("model.num_hidden_layers", m.num_hidden_layers, size.map(|s| s.0))?;
        let hidden = need("model.hidden_size", m.hidden_size, size.map(|s| s.1))?;
        let heads = need("model.num_attention_heads", m.num_attention_heads, size.map(|s| s.2))?;
        let intermediate = need("model.intermediate_size", m.intermediate_size, size.map(|s| s.3))?;
        let (family, mut b) = match m.family.as_deref().unwrap_or("bert") {
            "bert" => ("bert", Blueprint::bert(vocab_size, layers, hidden, heads, intermediate)),
            "modernbert" => ("modernbert", Blueprint::modern(vocab_size, layers, hidden, heads, intermediate)),
            other => return Err(refuse("model.family", other, "bert or modernbert".into())),
        };
        if let Some(dropout) = m.dropout {
            (b.hidden_dropout, b.attention_dropout) = (dropout, dropout);
        }
        if let Some(longest) = m.max_position_embeddings {
            match &mut b.position {
                Position::Learned { max, .. } | Position::Rotary { max, .. } => *max = longest,
            }
        }
        if family == "modernbert" && self.objective.sentence_objective != SentenceObjective::None {
            let expected =
                "none with model.family = \"modernbert\", which has no head for sentence pairs; or model.family = \"bert\"".into();
            return Err(TrainError::Value {
                key: "objective.sentence_objective",
                found: format!("{:?}", self.objective.sentence_objective),
                expected,
            });
        }
        if let Some(fault) = b.fault() {
            return Err(TrainError::Value { key: "model", found: fault, expected: "sizes that fit together".into() });
        }
        let longest = self.train.sequence_length.max();
        if longest > b.position.longest() {
            let expected = format!("at most the model's {} positions", b.position.longest());
            return Err(TrainError::Value { key: "train.sequence_length", found: longest.to_string(), expected });
        }
        Ok((family, b))
    }
}

/// Cross-entropy on masked tokens, and on sentence pairs where the model has the head.
pub struct MaskedLmLosses;

impl Losses for MaskedLmLosses {
    fn losses<'a, B: Backend>(&self, model: &Model, tape: &mut Tape<'a, B>, input: &Input<B>, batch: &Batch, pass: Pass) -> Found<B> {
        let backend = tape.backend();
        let hidden = model.hidden(tape, input, pass.recompute);
        let mut found = Found::new();
        if let Some(head) = model.masked_lm().filter(|_| !batch.masked_rows.is_empty()) {
            let rows = tape.gather(&hidden, &backend.indices(&batch.masked_rows), batch.masked_rows.len());
            let labels = backend.indices(&batch.masked_labels);
            let losses = head.loss(tape, &rows, &labels, 1.0 / pass.totals.masked.max(1) as f32);
            found.insert("mlm", Loss::Rows(losses));
        }
        if let Some(head) = model.next_sentence().filter(|_| !batch.sequence_labels.is_empty())
            && let Some(pooled) = model.pooled(tape, &hidden, input)
        {
            let labels = backend.indices(&batch.sequence_labels);
            let losses = head.loss(tape, &pooled, &labels, 1.0 / pass.totals.sequences.max(1) as f32);
            found.insert("nsp", Loss::Rows(losses));
        }
        found
    }
}

/// The masked-LM course: batches from a prepared corpus, losses on masked tokens and sentence pairs.
pub struct Pretraining {
    train: Sampler,
    heldout: Option<Sampler>,
    config: TrainConfig,
    evaluation_tokens: usize,
    cursor: Cursor,
    epochs: f64,
}

impl Pretraining {
    /// Open the corpus of a run.
    pub fn open(run: &PretrainRun, tokenizer: &Tokenizer) -> Result<Self, TrainError> {
        let sampler = |split| -> Result<Sampler, TrainError> {
            let dataset = Arc::new(Dataset::open(&run.data.dir, split)?);
            Ok(Sampler::new(dataset, run.objective.clone(), Vocabulary::of(tokenizer)?, run.seed)?)
        };
        let train = sampler(Split::Train)?;
        let longest = run.train.sequence_length.max();
        let heldout = match sampler(Split::Heldout).and_then(|heldout| Ok(heldout.samples(longest).map(|_| heldout)?)) {
            Ok(heldout) => Some(heldout),
            // A corpus of one document holds nothing out, and one held-out document has no other to take sentences from.
            Err(TrainError::Text(cloze_text::Error::TooLittleData { .. })) => None,
            Err(error) => return Err(error),
        };
        let (cursor, epochs) = (Cursor::default(), 0.0);
        Ok(Self { train, heldout, config: run.train.clone(), evaluation_tokens: run.evaluation.tokens, cursor, epochs })
    }

    /// The sampler of the training text.
    pub fn sampler(&self) -> &Sampler {
        &self.train
    }

    /// Passes over the text: those before the stretch, and what was taken of it.
    fn epochs_in(&self, stretch: Stretch) -> Result<f64, TrainError> {
        let samples = self.train.samples(stretch.sequence_length)?.max(1);
        Ok(stretch.epochs + (self.cursor.samples - stretch.samples) as f64 / samples as f64)
    }

    /// The stretch of the next step. At a new sequence length the samples are other pieces of text in another order; the cursor goes to
    /// the same share of the pass, which favours no text, even if some of this pass is seen twice then and some not at all.
    fn stretch(&mut self, sequence_length: usize) -> Result<Stretch, TrainError> {
        let stretch = match self.cursor.stretch {
            Some(stretch) if stretch.sequence_length == sequence_length => stretch,
            Some(before) => {
                let epochs = self.epochs_in(before)?;
                self.cursor.samples = (epochs * self.train.samples(sequence_length)? as f64).round() as u64;
                Stretch { sequence_length, samples: self.cursor.samples, epochs }
            }
            None => Stretch { sequence_length, samples: 0, epochs: 0.0 },
        };
        self.cursor.stretch = Some(stretch);
        Ok(stretch)
    }
}

impl Losses for Pretraining {
    fn losses<'a, B: Backend>(&self, model: &Model, tape: &mut Tape<'a, B>, input: &Input<B>, batch: &Batch, pass: Pass) -> Found<B> {
        MaskedLmLosses.losses(model, tape, input, batch, pass)
    }
}

impl Course for Pretraining {
    fn next(&mut self, progress: f64) -> Result<Vec<Batch>, TrainError> {
        let sequence_length = self.config.sequence_length.at(progress);
        let stretch = self.stretch(sequence_length)?;
        let mut left = self.config.batch_tokens.at(progress);
        let mut batches = Vec::new();
        loop {
            let limits = Limits { tokens: left.min(self.config.micro_batch_tokens), sequence_length };
            let (batch, next) = self.train.batch(self.cursor.samples, limits)?;
            left = left.saturating_sub(batch.tokens());
            self.cursor.samples = next;
            batches.push(batch);
            // A rest shorter than one sequence is no batch of its own.
            if left < sequence_length {
                break;
            }
        }
        self.epochs = self.epochs_in(stretch)?;
        Ok(batches)
    }

    fn cursor(&self) -> Cursor {
        self.cursor
    }

    fn seek(&mut self, cursor: Cursor) {
        self.cursor = cursor;
    }

    fn epochs(&self) -> f64 {
        self.epochs
    }

    fn evaluate<B: Backend>(
        &self,
        backend: &B,
        model: &Model,
        weights: &Weights<B>,
        dtype: Dtype,
    ) -> Result<BTreeMap<String, f64>, TrainError> {
        let mut metrics = BTreeMap::new();
        let Some(heldout) = &self.heldout else { return Ok(metrics) };
        let limits = Limits { tokens: self.config.micro_batch_tokens, sequence_length: self.config.sequence_length.max() };
        let (mut total, mut tokens) = (Sums::new(), 0);
        for batch in heldout.evaluation(limits) {
            let batch = batch?;
            let input = Input::new(backend, &batch.input_ids, &batch.token_type_ids, batch.sequences.clone());
            let mut tape = Tape::inference(backend, weights, dtype);
            for (name, loss) in self.losses(model, &mut tape, &input, &batch, Pass::default()) {
                total.entry(name).or_default().add(&loss.sum(backend));
            }
            tokens += batch.tokens();
            if tokens >= self.evaluation_tokens {
                break;
            }
        }
        for (name, sum) in total {
            metrics.insert(format!("{name}_loss"), sum.mean());
            metrics.insert(format!("{name}_accuracy"), sum.accuracy());
            if name == "mlm" {
                metrics.insert("perplexity".into(), sum.mean().exp());
            }
        }
        Ok(metrics)
    }

    fn goal(&self) -> (&str, bool) {
        ("mlm_loss", false)
    }
}

/// The device of a run, as its displays and its record tell it.
#[derive(Clone, Debug)]
pub struct Device {
    /// The machine: instruction set, threads.
    pub name: String,
    /// Peak of the products in the run's precision, FLOP/s.
    pub peak_flops: Option<f64>,
    /// Element kind of activations and product operands.
    pub dtype: Dtype,
}

/// Run a recipe; the model is written to `out/model`. `None` when it was stopped before its end.
pub fn pretrain<B: Backend>(
    backend: &B,
    run: &PretrainRun,
    device: Device,
    resume: bool,
    observers: &mut Observers,
    control: &Control,
) -> Result<Outcome, TrainError> {
    run.check()?;
    run::claim(&run.out, resume)?;
    let tokenizer = Tokenizer::load(run.data.dir.join("tokenizer"))?;
    let sentences = run.objective.sentence_objective != SentenceObjective::None;
    let (model, values) = match &run.model.from {
        None => {
            let (family, blueprint) = run.blueprint(tokenizer.vocab_size())?;
            let model = Model::new(family, blueprint, Heads::pretraining(sentences));
            let values = model.table().init(run.seed);
            (model, values)
        }
        Some(folder) => {
            let begin = begin_from(folder, run, &tokenizer, Heads::pretraining(sentences))?;
            if !begin.report.new.is_empty() {
                observers.event(&Event::note(0, format!("newly initialised: {}", begin.report.new.join(", "))));
            }
            (begin.model, begin.values)
        }
    };
    let mut course = Pretraining::open(run, &tokenizer)?;
    if course.heldout.is_none() {
        let text = "too little text is held out to be looked at: the run has no evaluation; prepare the corpus with a larger --holdout";
        observers.event(&Event::warning(0, text));
    }
    let mut trainer = Trainer::new(backend, model, &values, run.optimizer.clone(), device.dtype, run.seed, run.train.recompute);
    drop(values);
    let plan = Plan {
        title: format!("pre-training {}", run.out.display()),
        kind: "pretrain",
        budget: run.train.budget,
        schedule: run.schedule,
        lr: run.optimizer.lr,
        evaluate: run.evaluation.every,
        checkpoint: run.checkpoint.every,
        keep: run.checkpoint.keep,
        patience: 0,
        keep_best: false,
        device: device.name,
        peak_flops: device.peak_flops,
        config: run::to_json(run),
    };
    let outcome = fit::fit(&mut trainer, &mut course, &plan, &run.out, resume, observers, control)?;
    let folder = run.out.join("model");
    if outcome.reason != Reason::Stopped {
        let card = card(run, &course, trainer.model(), &outcome);
        match &run.model.from {
            None => save_model(&folder, trainer.model(), &outcome.values, &tokenizer, &card, None)?,
            Some(from) => {
                let (model, values) = completed(from, trainer.model(), &outcome.values)?;
                let settings = Settings::read(from)?;
                let settings = (settings != Settings::default()).then_some(&settings);
                save_model(&folder, &model, &values, &Tokenizer::load(from)?, &card, settings)?;
            }
        }
    }
    observers.event(&fit::finished(&outcome, (outcome.reason != Reason::Stopped).then_some(folder)));
    Ok(outcome)
}

/// The model that a run goes on from, with the heads that it trains.
fn begin_from(folder: &Path, run: &PretrainRun, tokenizer: &Tokenizer, heads: Heads) -> Result<Loaded, TrainError> {
    let refuse = |key, found: String, expected: String| Err(TrainError::Value { key, found, expected });
    let shape = ModelConfig { from: None, dropout: None, ..run.model.clone() };
    if shape != ModelConfig::default() {
        let expected = "the model's own shape: no family, size or sizes beside model.from".into();
        return refuse("model", run::to_toml(&shape).trim().replace('\n', ", "), expected);
    }
    let own = Tokenizer::load(folder)?;
    let count = own.vocab_size().max(tokenizer.vocab_size()) as u32;
    if let Some(id) = (0..count).find(|&id| own.id_to_token(id) != tokenizer.id_to_token(id)) {
        let says = |t: &Tokenizer| t.id_to_token(id).unwrap_or_else(|| "nothing".into());
        let found = format!("{} (token {id} is {})", run.data.dir.display(), says(tokenizer));
        let expected = format!("a corpus prepared with --tokenizer {} (where it is {})", folder.display(), says(&own));
        return refuse("data.dir", found, expected);
    }
    let mut loaded = load_with(folder, Some(heads), run.seed)?;
    if loaded.model.blueprint.vocab_size < tokenizer.vocab_size() {
        let expected = format!("a tokenizer of at most its {} tokens", loaded.model.blueprint.vocab_size);
        return refuse("model.from", format!("a model whose tokenizer has {} tokens", tokenizer.vocab_size()), expected);
    }
    let known = cloze_model::registry::family(loaded.model.family);
    if known.is_none_or(|family| family.architecture(&loaded.model.heads).is_none()) {
        let found = format!("{:?}", run.objective.sentence_objective);
        return refuse("objective.sentence_objective", found, format!("none: {} has no head for it", loaded.model.family));
    }
    if let Some(dropout) = run.model.dropout {
        let mut blueprint = loaded.model.blueprint.clone();
        (blueprint.hidden_dropout, blueprint.attention_dropout) = (dropout, dropout);
        loaded.model = Model::new(loaded.model.family, blueprint, loaded.model.heads);
    }
    let longest = loaded.model.blueprint.position.longest();
    if run.train.sequence_length.max() > longest {
        let expected = format!("at most the model's {longest} positions");
        return refuse("train.sequence_length", run.train.sequence_length.max().to_string(), expected);
    }
    Ok(loaded)
}

/// What a run has trained, with the heads of the model that it went on from which it has not (a pooler, next sentence).
fn completed(from: &Path, trained: &Model, values: &[f32]) -> Result<(Model, Vec<f32>), TrainError> {
    let own = load_with(from, Some(Heads::body()), 0)?.model.heads.summary;
    let (_, announced) = announced(&Config::read(&from.join("config.json"))?)?;
    let heads = Heads {
        summary: own || trained.heads.summary,
        next_sentence: announced.next_sentence || trained.heads.next_sentence,
        ..trained.heads.clone()
    };
    let mut whole = load_with(from, Some(heads), 0)?;
    whole.model = Model::new(whole.model.family, trained.blueprint.clone(), whole.model.heads);
    for spec in trained.table().specs() {
        if let Some(place) = whole.model.table().get(&spec.name) {
            whole.values[place.param.range()].copy_from_slice(&values[spec.param.range()]);
        }
    }
    Ok((whole.model, whole.values))
}

/// Write a model folder whole: weights, configuration, tokenizer, card, and what its task must know. It takes the place of an
/// older one at once.
pub fn save_model(
    folder: &Path,
    model: &Model,
    values: &[f32],
    tokenizer: &Tokenizer,
    card: &Card,
    settings: Option<&cloze_task::Settings>,
) -> Result<(), TrainError> {
    save_folder(folder, model, tokenizer, card, settings, |temporary, keys| cloze_model::save(temporary, model, values, keys))
}

/// Write the folder of a model whose weights and configuration `write` puts there, given the keys of token ids.
pub(crate) fn save_folder(
    folder: &Path,
    model: &Model,
    tokenizer: &Tokenizer,
    card: &Card,
    settings: Option<&cloze_task::Settings>,
    write: impl Fn(&Path, &[(&str, u32)]) -> Result<(), cloze_model::ModelError>,
) -> Result<(), TrainError> {
    crate::files::replace_folder(folder, |temporary| -> Result<(), TrainError> {
        let ids = tokenizer.special();
        let mut keys = vec![("pad_token_id", ids.pad)];
        if model.family == "modernbert" {
            // The library that reads this has other defaults than ours for each.
            keys.extend([("cls_token_id", ids.cls), ("sep_token_id", ids.sep), ("bos_token_id", ids.cls), ("eos_token_id", ids.sep)]);
        }
        let keys: Vec<(&str, u32)> = keys.into_iter().filter_map(|(key, id)| Some((key, id?))).collect();
        write(temporary, &keys)?;
        tokenizer.save(temporary)?;
        if let Some(settings) = settings {
            settings.write(temporary, model.blueprint.hidden_size)?;
        }
        let path = temporary.join("README.md");
        crate::files::replace_file(&path, |file| file.write_all(card.to_markdown().as_bytes()))?;
        Ok(())
    })
}

fn card(run: &PretrainRun, course: &Pretraining, model: &Model, outcome: &Outcome) -> Card {
    let b = &model.blueprint;
    let dataset = course.train.dataset();
    let on = "held-out documents, never trained on".to_owned();
    Card {
        title: run.out.file_name().map_or("model".into(), |n| n.to_string_lossy().into_owned()),
        languages: vec![],
        pipeline: "fill-mask".into(),
        summary: format!(
            "A {} encoder of {} layers × {} hidden units ({:.1} M parameters, vocabulary {}), pre-trained {} with Cloze by masked language modelling.",
            model.family,
            b.num_hidden_layers,
            b.hidden_size,
            model.table().count() as f64 / 1e6,
            b.vocab_size,
            run.model.from.as_ref().map_or("from scratch".into(), |from| format!("further, from {},", from.display()))
        ),
        data: vec![
            format!("{} documents, {} tokens", dataset.documents(), dataset.tokens()),
            format!(
                "{} tokens seen in {} steps, {:.1} passes, {:.0} s",
                outcome.spent.tokens,
                outcome.spent.steps,
                outcome.spent.epochs,
                outcome.spent.time.as_secs_f64()
            ),
        ],
        figures: outcome.metrics.iter().map(|(name, value)| (name.clone(), format!("{value:.4}"), on.clone())).collect(),
        usage: vec![
            "cloze predict --task fill-mask --model . \"The cat sat on the [MASK].\"".into(),
            "cloze finetune --task text-classification --model . --train train.tsv --dev dev.tsv --out classifier".into(),
        ],
        run: run::to_toml(run),
    }
}
