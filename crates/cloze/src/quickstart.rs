//! The main job from end to end: text → vocabulary → pre-training → two classifiers → answers.
//!
//! On a generated world by default, on the user's own text with [`Options::corpus`] and [`Options::labels`]. Nothing is
//! printed here: every stage tells a [`Guide`] what it does and what came out.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use cloze_task::text_classification::{FIELDS, TextClassification, TextInput};
use cloze_task::{Columns, Options as TaskOptions, Row, Rows};
use cloze_text::learn::{LearnOptions, try_learn};
use cloze_text::read::{Documents, ReadOptions, expand};
use cloze_text::{PrepareOptions, Tokenizer, prepare};
use cloze_train::budget::Budget;
use cloze_train::finetune::FinetuneRun;
use cloze_train::fit::Every;
use cloze_train::observer::{Control, Observers, Reason};
use cloze_train::optimizer::OptimizerConfig;
use cloze_train::pretrain::PretrainRun;
use cloze_train::record::record;
use cloze_train::run::Precision;

use crate::world::{Sizes, World};
use crate::{Device, Error, Pipeline};

/// What the quickstart is given.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder that everything is written to; made anew.
    pub out: PathBuf,
    /// Raw text instead of the generated world's.
    pub corpus: Option<PathBuf>,
    /// Labelled rows instead of the generated world's.
    pub labels: Option<PathBuf>,
    /// Time for pre-training.
    pub budget: Budget,
    /// Decides the world and everything random.
    pub seed: u64,
}

/// What the stages tell.
pub trait Guide {
    /// A stage begins.
    fn stage(&mut self, number: usize, of: usize, title: &str);
    /// A line about it.
    fn line(&mut self, text: &str);
    /// The displays of a training run.
    fn observers(&mut self) -> Observers;
    /// Interrupts.
    fn control(&self) -> &Control;
}

/// Accuracies on the same test rows.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Comparison {
    /// What was classified: sentiment, topic, or the user's labels.
    pub task: String,
    /// Rows the figures are taken on; no model has seen them.
    pub test_rows: u64,
    /// Labelled rows to train on.
    pub train_rows: usize,
    /// With pre-training.
    pub pretrained: f64,
    /// The same model and training from random weights.
    pub from_scratch: f64,
    /// Always the most frequent training label.
    pub majority: f64,
}

/// What came out.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Summary {
    /// The pre-trained model.
    pub model: PathBuf,
    /// The classifiers, in the order of `comparisons`.
    pub classifiers: Vec<PathBuf>,
    /// What pre-training was worth.
    pub comparisons: Vec<Comparison>,
    /// Masked questions answered right, of how many; of the generated world alone.
    pub probes: Option<(usize, usize)>,
    /// Seconds in all.
    pub seconds: f64,
}

/// Labelled files of one task: train, dev, test.
struct Labelled {
    task: String,
    files: [PathBuf; 3],
}

/// Run all stages; `None` when it was interrupted.
pub fn quickstart(device: &Device, options: &Options, guide: &mut dyn Guide) -> Result<Option<Summary>, Error> {
    let begin = Instant::now();
    let out = &options.out;
    cloze_train::files::create_folder(out)?;
    let world = World::new(options.seed);
    let stages = 6;

    guide.stage(1, stages, "Text");
    let data = out.join("data");
    cloze_train::files::create_folder(&data)?;
    let (corpus, tasks) = text(options, &world, &data, guide)?;

    guide.stage(2, stages, "Vocabulary");
    let tokenizer = vocabulary(&corpus, out, guide)?;

    guide.stage(3, stages, "Corpus");
    let prepared = out.join("corpus");
    let prepare_options = PrepareOptions {
        inputs: vec![corpus.display().to_string()],
        out: prepared.clone(),
        holdout: 0.01,
        overwrite: true,
        ..PrepareOptions::default()
    };
    let stop = |guide: &dyn Guide| guide.control().stop_requested();
    let report =
        prepare(&prepare_options, &tokenizer, &mut |_| if stop(guide) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) });
    let report = match report {
        Err(_) if stop(guide) => return Ok(None),
        other => other?,
    };
    guide.line(&format!(
        "{} documents, {} sentences, {} tokens; {} documents held out",
        report.documents, report.sentences, report.tokens, report.heldout_documents
    ));

    guide.stage(4, stages, "Pre-training: find the masked words");
    let run = pretraining(options, &prepared)?;
    let mut observers = guide.observers();
    fresh(&run.out)?;
    record(&run.out, false, &mut observers)?;
    let outcome = crate::pretrain(device, &run, false, &mut observers, guide.control())?;
    drop(observers);
    if outcome.reason == Reason::Stopped {
        return Ok(None);
    }
    let model = run.out.join("model");
    if let (Some(accuracy), Some(perplexity)) = (outcome.metrics.get("mlm_accuracy"), outcome.metrics.get("perplexity")) {
        guide.line(&format!("on held-out text: {:.1}% of the masked words found, perplexity {perplexity:.1}", 100.0 * accuracy));
    }

    guide.stage(5, stages, "Fine-tuning: with pre-training, and from scratch");
    let mut comparisons = Vec::new();
    let mut classifiers = Vec::new();
    for labelled in &tasks {
        let Some((comparison, folder)) = compare(device, options, &model, labelled, guide)? else { return Ok(None) };
        guide.line(&format!(
            "{}: {:.1}% right with pre-training, {:.1}% from scratch, {:.1}% by always saying the most frequent label ({} test rows, {} labelled rows to learn from)",
            comparison.task,
            100.0 * comparison.pretrained,
            100.0 * comparison.from_scratch,
            100.0 * comparison.majority,
            comparison.test_rows,
            comparison.train_rows
        ));
        comparisons.push(comparison);
        classifiers.push(folder);
    }

    guide.stage(6, stages, "Answers");
    let probes = answers(device, options, &world, &model, &tasks, &classifiers, guide)?;
    Ok(Some(Summary { model, classifiers, comparisons, probes, seconds: begin.elapsed().as_secs_f64() }))
}

/// The corpus file and the labelled files: the user's, or the generated world's.
fn text(options: &Options, world: &World, data: &Path, guide: &mut dyn Guide) -> Result<(PathBuf, Vec<Labelled>), Error> {
    let generated = if options.corpus.is_none() || options.labels.is_none() {
        let files = world.write(data, &Sizes::default())?;
        Some(files)
    } else {
        None
    };
    let corpus = match (&options.corpus, &generated) {
        (Some(corpus), _) => corpus.clone(),
        (None, Some(files)) => {
            let bytes = std::fs::metadata(&files.corpus).map_or(0, |m| m.len());
            guide.line(&format!("wrote {} ({:.1} MB of English and Chinese)", files.corpus.display(), bytes as f64 / 1e6));
            files.corpus.clone()
        }
        (None, None) => unreachable!("without a corpus the world is written"),
    };
    let tasks = match (&options.labels, generated) {
        (Some(labels), _) => vec![split(labels, data)?],
        (None, Some(files)) => {
            vec![Labelled { task: "sentiment".into(), files: files.sentiment }, Labelled { task: "topic".into(), files: files.topic }]
        }
        (None, None) => vec![],
    };
    Ok((corpus, tasks))
}

/// Cut the user's labelled rows into train (80 %), dev and test (10 % each), by a fixed shuffle.
fn split(labels: &Path, data: &Path) -> Result<Labelled, Error> {
    use cloze_tensor::random::{Key, Permutation, Stream};
    let examples: Vec<Row> = Rows::read_all(labels, &FIELDS, &Columns::default(), true)?;
    let n = examples.len();
    if n < 20 {
        let problem = format!("{n} rows; the quickstart wants at least 20, to train, choose and test on");
        return Err(cloze_task::TaskError::TooLittle { path: labels.to_owned(), problem }.into());
    }
    let order = Permutation::new(Key::new(0, Stream::Shuffle, 0, 0), n as u64);
    let bounds = [0, n * 8 / 10, n * 9 / 10, n];
    let names = ["labels.train.jsonl", "labels.dev.jsonl", "labels.test.jsonl"];
    let mut files = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let path = data.join(name);
        cloze_train::files::replace_file(&path, |out| {
            for at in bounds[i]..bounds[i + 1] {
                let e = &examples[order.at(at as u64) as usize];
                writeln!(out, "{}", e.value)?;
            }
            Ok(())
        })?;
        files.push(path);
    }
    let Ok(files) = <[PathBuf; 3]>::try_from(files) else { unreachable!("three names, three files") };
    Ok(Labelled { task: "labels".into(), files })
}

fn vocabulary(corpus: &Path, out: &Path, guide: &mut dyn Guide) -> Result<Tokenizer, Error> {
    let mut texts = Vec::new();
    for source in expand(&[corpus.display().to_string()])? {
        texts.push(Documents::open(&source, &ReadOptions::default(), Default::default())?);
    }
    let texts = texts.into_iter().flatten().map(|d| d.map(|d| d.text));
    let learned = try_learn(texts, &LearnOptions { vocab_size: VOCABULARY, ..LearnOptions::default() }, |_| ())?;
    let tokenizer = learned.tokenizer()?;
    let folder = out.join("tokenizer");
    cloze_train::files::create_folder(&folder)?;
    tokenizer.save(&folder)?;
    guide.line(&format!("{} pieces from {} distinct words", learned.report.pieces, learned.report.distinct_words));
    Ok(tokenizer)
}

/// Pieces: a tiny model wants a small vocabulary.
const VOCABULARY: usize = 5120;

/// The recipe of the tiny model.
fn pretraining(options: &Options, corpus: &Path) -> Result<PretrainRun, Error> {
    let recipe = format!(
        r#"
        out = {out:?}
        seed = {seed}
        [data]
        dir = {corpus:?}
        [model]
        family = "modernbert"
        size = "tiny"
        intermediate_size = 384
        max_position_embeddings = 128
        [objective]
        masking = "whole_word"
        mask_probability = 0.2
        [train]
        budget = "{budget}"
        batch_tokens = 2048
        micro_batch_tokens = 2048
        sequence_length = 64
        [optimizer]
        rule = "muon"
        lr = 6e-3
        weight_decay = 0.01
        [evaluation]
        every = "20%"
        tokens = 20000
        [checkpoint]
        every = "50%"
        keep = 1
        "#,
        out = options.out.join("pretrained"),
        seed = options.seed,
        budget = options.budget
    );
    Ok(cloze_train::run::parse(&recipe)?)
}

/// A run of the quickstart starts anew.
fn fresh(out: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(out) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(cloze_train::files::FileError::io(cloze_train::files::Operation::Remove, out, e).into())
        }
        _ => Ok(()),
    }
}

/// Fine-tune with and without pre-training, and look at both on rows that neither has seen.
fn compare(
    device: &Device,
    options: &Options,
    model: &Path,
    labelled: &Labelled,
    guide: &mut dyn Guide,
) -> Result<Option<(Comparison, PathBuf)>, Error> {
    let [train, dev, test] = &labelled.files;
    let mut accuracies = Vec::new();
    let mut folder = PathBuf::new();
    let mut rows = (0, 0);
    let mut majority = 0.0;
    for from_scratch in [true, false] {
        let out = options.out.join(if from_scratch { format!("{}-from-scratch", labelled.task) } else { labelled.task.clone() });
        fresh(&out)?;
        let run = FinetuneRun {
            seed: options.seed,
            from_scratch,
            budget: Budget::Epochs(10.0),
            batch_size: 16,
            max_length: 64,
            evaluate: Every::Amount(Budget::Epochs(1.0)),
            optimizer: OptimizerConfig { lr: 1e-3, beta2: 0.999, eps: 1e-8, ..OptimizerConfig::default() },
            ..FinetuneRun::new("text-classification", model.to_owned(), train.clone(), dev.clone(), out.clone())
        };
        let mut observers = Observers::new();
        record(&out, false, &mut observers)?;
        let done = crate::finetune(device, &run, false, &mut observers, guide.control())?;
        if done.outcome.reason == Reason::Stopped {
            return Ok(None);
        }
        folder = out.join("model");
        let pipeline = Pipeline::load(device, &folder, Precision::F32, None)?;
        let frequent = done.data.labels.iter().max_by_key(|l| l.1).map_or("", |l| l.0.as_str());
        let (mut total, mut common) = (0u64, 0u64);
        let mut count = |_: usize, row: &Row, _: &serde_json::Value| {
            total += 1;
            common += u64::from(row.written("label").is_ok_and(|l| l == frequent));
            Ok(())
        };
        let figures = pipeline.evaluate(&TextClassification, test, &Columns::default(), &TaskOptions::default(), &mut count)?;
        accuracies.push(figures.values.get("accuracy").copied().unwrap_or(0.0));
        rows = (total, done.data.rows.0);
        majority = common as f64 / total.max(1) as f64;
    }
    let comparison = Comparison {
        task: labelled.task.clone(),
        test_rows: rows.0,
        train_rows: rows.1,
        pretrained: accuracies[1],
        from_scratch: accuracies[0],
        majority,
    };
    Ok(Some((comparison, folder)))
}

/// Show some answers; of the generated world, count the masked questions that are answered right.
fn answers(
    device: &Device,
    options: &Options,
    world: &World,
    model: &Path,
    tasks: &[Labelled],
    classifiers: &[PathBuf],
    guide: &mut dyn Guide,
) -> Result<Option<(usize, usize)>, Error> {
    for (labelled, folder) in tasks.iter().zip(classifiers) {
        let pipeline = Pipeline::load(device, folder, Precision::F32, None)?;
        let test = Rows::read_all(&labelled.files[2], &FIELDS, &Columns::default(), true)?;
        let shown: Vec<Row> = test.iter().step_by((test.len() / 5).max(1)).take(5).cloned().collect();
        let inputs: Vec<TextInput> = shown.iter().map(TextInput::of).collect::<Result<_, _>>()?;
        for ((row, input), answer) in shown.iter().zip(&inputs).zip(pipeline.classify(&inputs)?) {
            let Some(best) = answer.first() else { continue };
            let verdict = if row.written("label").is_ok_and(|l| l == best.label) { "✓" } else { "✗" };
            guide.line(&format!("{verdict} {:<10} {:>5.1}%  {}", best.label, 100.0 * best.score, input.first));
        }
    }
    if options.corpus.is_some() {
        return Ok(None);
    }
    let pipeline = Pipeline::load(device, model, Precision::F32, None)?;
    let probes = world.fill_mask_probes();
    let mut right = 0;
    for (i, probe) in probes.iter().enumerate() {
        let answer = pipeline.fill_mask(&probe.text, 1)?;
        let Some(best) = answer.first().and_then(|c| c.first()) else { continue };
        // The vocabulary is in lower case.
        let hit = best.token_str == probe.answer.to_lowercase();
        right += usize::from(hit);
        if i % (probes.len() / 6).max(1) == 0 {
            let verdict = if hit { "✓" } else { "✗" };
            guide.line(&format!("{verdict} {}  →  {} ({:.0}%)", probe.text, best.token_str, 100.0 * best.score));
        }
    }
    guide.line(&format!("{right} of {} masked questions about the world answered right", probes.len()));
    Ok(Some((right, probes.len())))
}
