//! Distillation from a teacher's folder (Hinton et al. 2015): a frozen model answers the sequences of each step, and the loss is mixed with
//! the distance to its answers.
//!
//! A sequence's answer does not change and has the same bits whatever its neighbours, so each example is answered once, at its first step,
//! and kept: a few numbers an example. A resumed run asks again and gets the same.

use std::path::{Path, PathBuf};

use cloze_model::files::sentence::{SentenceDense, SentenceModel};
use cloze_model::head::pooling::Pooling;
use cloze_model::{Model, Problem};
use cloze_task::distillation::Distillation;
use cloze_task::run::Packed;
use cloze_task::task::Example;
use cloze_task::{Context, Head, Learning, Output, Row, Runner, Sequence, Settings, Task, TaskError, Want};
use cloze_tensor::{Backend, Dtype, Operands, Weights};
use cloze_text::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// The `[distill]` table of a fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// The teacher's folder: a model of the same task.
    pub teacher: PathBuf,
    /// T: logits are divided by it before they are compared.
    #[serde(default = "default_temperature")]
    pub temperature: f32,
    /// The teacher's share of the loss, from 0 to 1; the labels have the rest.
    #[serde(default = "default_weight")]
    pub weight: f32,
}

fn default_temperature() -> f32 {
    2.0
}
fn default_weight() -> f32 {
    0.5
}

impl DistillConfig {
    /// A teacher with the defaults of the field.
    pub fn new(teacher: PathBuf) -> Self {
        Self { teacher, temperature: default_temperature(), weight: default_weight() }
    }

    pub(crate) fn check(&self) -> Result<(), TrainError> {
        let refuse = |key, found: f32, expected: &str| Err(TrainError::Value { key, found: found.to_string(), expected: expected.into() });
        match self {
            c if !(c.temperature.is_finite() && c.temperature > 0.0) => refuse("distill.temperature", c.temperature, "a number above 0"),
            c if !(0.0..=1.0).contains(&c.weight) => refuse("distill.weight", c.weight, "a number from 0 to 1"),
            _ => Ok(()),
        }
    }
}

/// A frozen model on its device.
struct Frozen<'t, B: Backend> {
    backend: &'t B,
    model: Model,
    weights: Weights<B>,
    dtype: Dtype,
    batch_tokens: usize,
    pooling: Pooling,
    dense: Vec<SentenceDense>,
}

impl<B: Backend> Runner for Frozen<'_, B> {
    fn run(&self, sequences: &[&Sequence]) -> Result<Vec<Output>, TaskError> {
        let Self { backend, model, weights, dtype, batch_tokens, pooling, dense } = self;
        let packed = Packed { backend: *backend, model, weights, dtype: *dtype, batch_tokens: *batch_tokens, pooling: *pooling, off: &[] };
        let mut outputs = packed.run(sequences)?;
        for (output, sequence) in outputs.iter_mut().zip(sequences) {
            if let (Want::Embedding, Output::Rows { width, values }) = (&sequence.want, output) {
                for map in dense {
                    *values = map.apply(values);
                    *width = values.len();
                }
            }
        }
        Ok(outputs)
    }
}

/// A teacher and its answers so far.
pub(crate) struct Teacher<'t> {
    runner: Box<dyn Runner + 't>,
    /// The examples in the teacher's own tokens; where it has the student's tokenizer, the student's are asked.
    own: Option<Vec<Vec<Sequence>>>,
    /// The teacher's column of each of the student's labels; none where they stand alike.
    order: Option<Vec<usize>>,
    pub(crate) distillation: Distillation,
    answers: Vec<Option<Box<[f32]>>>,
}

/// What a teacher is to go with.
pub(crate) struct Student<'a> {
    pub(crate) task: &'static dyn Task,
    pub(crate) learning: &'a dyn Learning,
    pub(crate) context: &'a Context,
    pub(crate) rows: &'a [Row],
    pub(crate) examples: &'a [Example],
}

impl<'t> Teacher<'t> {
    /// Load a teacher and see that it can teach this student.
    pub(crate) fn open<B: Backend>(
        backend: &'t B,
        config: &DistillConfig,
        student: &Student,
        dtype: Dtype,
        batch_tokens: usize,
    ) -> Result<Self, TrainError> {
        let folder = &config.teacher;
        let fault = |e: cloze_model::ModelError| TrainError::Model(e);
        let encoder = SentenceModel::read(folder).map_err(fault)?.map_or_else(|| folder.clone(), |s| s.encoder);
        let opened = cloze_model::open(&encoder, None, 0)?;
        let task = student.task;
        let untrained = |name: &String| ["classifier.", "tokens.", "span.", "choice."].iter().any(|head| name.starts_with(head));
        if lacks(&opened.model, task.head()) || opened.report.new.iter().any(untrained) {
            return Err(TrainError::TeacherHead { folder: folder.clone(), head: task.head().name(), task: task.name() });
        }
        let order = label_order(folder, &opened.model, student.context)?;
        let settings = Settings::read(folder)?;
        let tokenizer = Tokenizer::load(&encoder)?;
        let longest = opened.model.blueprint.position.longest();
        let context = Context {
            tokenizer,
            labels: student.context.labels.clone(),
            problem: student.context.problem,
            max_length: student.context.max_length.min(longest),
            settings: Settings {
                query_prefix: settings.query_prefix.clone(),
                passage_prefix: settings.passage_prefix.clone(),
                ..student.context.settings.clone()
            },
        };
        let own = own_tokens(folder, student, &context)?;
        let operands = if dtype == Dtype::Bf16 { Operands::Bf16 } else { Operands::F32 };
        let weights = opened.model.freeze(backend, |_| operands, |spec, take| opened.lend(spec, take))?;
        let (pooling, dense) = (settings.pooling, settings.dense);
        let batch_tokens = batch_tokens.max(context.max_length);
        let runner = Frozen { backend, model: opened.model, weights, dtype, batch_tokens, pooling, dense };
        Ok(Self {
            runner: Box::new(runner),
            own,
            order,
            distillation: Distillation { temperature: config.temperature, weight: config.weight },
            answers: vec![None; student.examples.len()],
        })
    }

    /// Have the teacher answer those of these examples that it has not answered yet, in one packed run.
    pub(crate) fn ask(&mut self, which: &[usize], examples: &[Example]) -> Result<(), TrainError> {
        let new: Vec<usize> = which.iter().copied().filter(|&at| self.answers[at].is_none()).collect();
        let of = |at: usize| self.own.as_ref().map_or(&examples[at].sequences, |own| &own[at]);
        let sequences: Vec<&Sequence> = new.iter().flat_map(|&at| of(at)).collect();
        if sequences.is_empty() {
            return Ok(());
        }
        let mut outputs = self.runner.run(&sequences)?.into_iter();
        for at in new {
            let count = self.own.as_ref().map_or(&examples[at].sequences, |own| &own[at]).len();
            let mut answer: Vec<f32> = Vec::new();
            for output in outputs.by_ref().take(count) {
                match &self.order {
                    None => answer.extend_from_slice(output.values()),
                    Some(order) => output.rows().for_each(|row| answer.extend(order.iter().map(|&column| row[column]))),
                }
            }
            self.answers[at] = Some(answer.into());
        }
        Ok(())
    }

    /// The teacher's answer to an example that it was asked.
    pub(crate) fn answer(&self, at: usize) -> &[f32] {
        self.answers[at].as_deref().unwrap_or_else(|| panic!("example {at} was asked when its step was made"))
    }
}

/// Whether a model lacks what a task reads.
fn lacks(model: &Model, head: Head) -> bool {
    match head {
        Head::Classifier => model.classifier().is_none(),
        Head::Tokens => model.token_classifier().is_none(),
        Head::Span => model.question_answering().is_none(),
        Head::Choice => model.multiple_choice().is_none(),
        Head::MaskedLm => model.masked_lm().is_none(),
        Head::Body => false,
    }
}

/// Where the teacher has each of the student's labels. Names that say nothing (`LABEL_0`) stand in the student's order.
fn label_order(folder: &Path, teacher: &Model, student: &Context) -> Result<Option<Vec<usize>>, TrainError> {
    let theirs = &teacher.heads.labels;
    let other = |what, found: String, expected: String| TrainError::TeacherLabels { folder: folder.to_owned(), what, found, expected };
    if student.labels.is_empty() {
        return Ok(None);
    }
    if teacher.classifier().is_some() && teacher.heads.problem != student.problem {
        let name = |problem| match problem {
            Problem::SingleLabel => "one of the labels",
            Problem::MultiLabel => "any of the labels",
            Problem::Regression => "a number",
        };
        return Err(other("its answers are", name(teacher.heads.problem).into(), name(student.problem).into()));
    }
    let nameless = theirs.iter().enumerate().all(|(i, l)| *l == format!("LABEL_{i}"));
    if theirs.len() == student.labels.len() && (nameless || student.problem == Problem::Regression || *theirs == student.labels) {
        return Ok(None);
    }
    let order: Option<Vec<usize>> = student.labels.iter().map(|label| theirs.iter().position(|l| l == label)).collect();
    match order.filter(|_| theirs.len() == student.labels.len()) {
        Some(order) => Ok(Some(order)),
        None => Err(other("its labels are", theirs.join(", "), student.labels.join(", "))),
    }
}

/// The examples in the teacher's tokens; `None` where these are the student's. What is answered for each token must have the same ones.
fn own_tokens(folder: &Path, student: &Student, context: &Context) -> Result<Option<Vec<Vec<Sequence>>>, TrainError> {
    let by_token = matches!(student.task.head(), Head::Tokens | Head::Span);
    let mut own = Vec::with_capacity(student.examples.len());
    let mut alike = true;
    let mut at = student.examples.iter();
    for row in student.rows {
        let theirs = student.learning.examples(context, row)?;
        let mut same = true;
        let count = theirs.len();
        let ours: Vec<&Example> = at.by_ref().take(count).collect();
        for (theirs, ours) in theirs.into_iter().zip(&ours) {
            same &= theirs.sequences == ours.sequences;
            own.push(theirs.sequences);
        }
        alike &= same && ours.len() == count;
        if by_token && !alike {
            return Err(TrainError::TeacherTokens {
                folder: folder.to_owned(),
                path: row.path.to_path_buf(),
                line: row.line,
                task: student.task.name(),
            });
        }
    }
    if own.len() != student.examples.len() {
        let (path, line) = student.rows.last().map(|r| (r.path.to_path_buf(), r.line)).unwrap_or_default();
        return Err(TrainError::TeacherTokens { folder: folder.to_owned(), path, line, task: student.task.name() });
    }
    Ok((!alike).then_some(own))
}
