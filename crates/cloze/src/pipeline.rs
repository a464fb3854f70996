//! A model ready to answer, whatever its device and task.

use std::path::Path;
use std::sync::Arc;

use cloze_model::Model;
use cloze_model::params::Spec;
use cloze_task::run::{Packed, has_rows};
use cloze_task::text_classification::TextInput;
use cloze_task::{Columns, Context, Figures, Head, Job, Options, Output, Row, Rows, Runner, Sequence, Task, TaskError, Want};
use cloze_task::{answers, fill_mask, require, text_classification as classification};
use cloze_tensor::{Backend, Dtype, Operands, Tape, Weights};
use cloze_text::{Encoding, Tokenizer};
use cloze_train::run::Precision;
use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};
use serde_json::Value;

use crate::adapter::{Parts, Source};
use crate::attention::{Attention, HeadPlace};
use crate::{Device, Encoders, Error};

/// A loaded model with its tokenizer on a device.
///
/// Its parts can be used apart: [`Pipeline::encode`] needs no device and makes [`Job`]s on any thread, [`Runner::run`] runs
/// the sequences of many jobs (and tasks) packed, and a job's `finish` turns its outputs into the answer.
pub struct Pipeline<'d> {
    engine: Box<dyn Engine + 'd>,
    model: Model,
    context: Arc<Context>,
    new: Vec<String>,
    encoder: Option<crate::shared::Key>,
    /// Whether texts are encoded by several threads.
    together: bool,
}

/// What a device does for a pipeline.
trait Engine: Send + Sync {
    /// `off`: attention heads (layer, head) whose output is taken as zero.
    fn run(&self, model: &Model, context: &Context, sequences: &[&Sequence], off: &[(usize, usize)]) -> Result<Vec<Output>, TaskError>;
    fn states(&self, model: &Model, encoding: &Encoding) -> States;
    fn watch(&self, model: &Model, encoding: &Encoding, off: &[(usize, usize)]) -> Vec<crate::attention::Layer>;
}

/// What a model computes for one text, for comparison with other implementations.
#[derive(Clone, Debug, Default)]
pub struct States {
    /// Embeddings and every layer. // (layers + 1) × [len, H]
    pub hidden: Vec<Vec<f32>>,
    /// Logits of the prediction head. // [len, V]
    pub logits: Option<Vec<f32>>,
    /// Logits of the classifier. // `[labels]`
    pub class_logits: Option<Vec<f32>>,
}

struct Loaded<'b, B: Backend> {
    backend: &'b B,
    weights: Weights<B>,
    dtype: Dtype,
    batch_tokens: usize,
}

impl<B: Backend> Engine for Loaded<'_, B> {
    fn run(&self, model: &Model, context: &Context, sequences: &[&Sequence], off: &[(usize, usize)]) -> Result<Vec<Output>, TaskError> {
        let Self { backend, weights, dtype, batch_tokens } = self;
        let pooling = context.settings.pooling;
        let packed = Packed { backend: *backend, model, weights, dtype: *dtype, batch_tokens: *batch_tokens, pooling, off };
        let mut outputs = packed.run(sequences)?;
        for (output, sequence) in outputs.iter_mut().zip(sequences) {
            if let (Want::Embedding, Output::Rows { width, values }) = (&sequence.want, output) {
                for dense in &context.settings.dense {
                    *values = dense.apply(values);
                    *width = values.len();
                }
            }
        }
        Ok(outputs)
    }

    fn watch(&self, model: &Model, encoding: &Encoding, off: &[(usize, usize)]) -> Vec<crate::attention::Layer> {
        crate::attention::watch(self.backend, model, &self.weights, self.dtype, encoding, off)
    }

    fn states(&self, model: &Model, encoding: &Encoding) -> States {
        let sequences = cloze_tensor::Sequences::from_lengths([encoding.len()]);
        let input = cloze_model::Input::new(self.backend, &encoding.ids, &encoding.token_type_ids, sequences);
        let mut tape = Tape::inference(self.backend, &self.weights, self.dtype);
        let states = model.body().hidden_states(&mut tape, &input);
        let last = &states[states.len() - 1];
        let logits = model.masked_lm().map(|head| head.logits(&mut tape, last).to_host(self.backend));
        let pooled = model.pooled(&mut tape, last, &input);
        let class_logits = model.classifier().zip(pooled).map(|(head, pooled)| head.logits(&mut tape, &pooled).to_host(self.backend));
        States { hidden: states.iter().map(|s| s.to_host(self.backend)).collect(), logits, class_logits }
    }
}

/// In which form a model is held.
pub struct Form<'a> {
    /// The operands of products with each matrix.
    pub operands: &'a dyn Fn(&Spec) -> Operands,
    /// Activations between products are of the kind that goes with these.
    pub activations: Operands,
}

impl Form<'static> {
    /// All alike.
    pub fn whole(operands: Operands) -> Self {
        let all: &'static dyn Fn(&Spec) -> Operands = match operands {
            Operands::F32 => &|_| Operands::F32,
            Operands::Bf16 => &|_| Operands::Bf16,
            Operands::Int8 => &|spec| if Model::is_quantizable(spec) { Operands::Int8 } else { Operands::Bf16 },
        };
        Self { operands: all, activations: operands }
    }
}

/// Rows that are encoded and answered together.
const CHUNK: usize = 512;

impl<'d> Pipeline<'d> {
    /// Load a model folder, or a model of the hub by its name. `max_length`: longer texts are cut; the model's own limit when `None`.
    /// Matrices that a quantised folder holds as bytes are multiplied as bytes; `precision` is about everything else.
    pub fn load(device: &'d Device, folder: &Path, precision: Precision, max_length: Option<usize>) -> Result<Self, Error> {
        let operands = if device.dtype(precision) == Dtype::Bf16 { Operands::Bf16 } else { Operands::F32 };
        Self::with_form(device, folder, &Form::whole(operands), max_length)
    }

    /// Load a model folder in a form of one's own.
    pub fn with_form(device: &'d Device, folder: &Path, form: &Form, max_length: Option<usize>) -> Result<Self, Error> {
        Self::of_source(device, &Source::of(folder)?, form, max_length)
    }

    /// Load a base with an adapter on it; see [`Pipeline::load`].
    pub fn load_adapted(
        device: &'d Device,
        base: &Path,
        adapter: &Path,
        precision: Precision,
        max_length: Option<usize>,
    ) -> Result<Self, Error> {
        let operands = if device.dtype(precision) == Dtype::Bf16 { Operands::Bf16 } else { Operands::F32 };
        Self::of_source(device, &Source::with(base, adapter)?, &Form::whole(operands), max_length)
    }

    /// Load a model, an adapter's products added to the matrices that they are about.
    fn of_source(device: &'d Device, source: &Source, form: &Form, max_length: Option<usize>) -> Result<Self, Error> {
        let Parts { adapted: opened, words, settings } = source.open()?;
        let longest = opened.model.blueprint.position.longest();
        let max_length = max_length.map_or(settings.max_length.unwrap_or(512).clamp(3, longest), |m| m.clamp(3, longest));
        let (dtype, batch_tokens) = (device.activations(form.activations), device.batch_tokens().max(max_length));
        let operands = |spec: &Spec| if opened.is_bytes(spec) { Operands::Int8 } else { (form.operands)(spec) };
        let (engine, tokenizer): (Box<dyn Engine + 'd>, Tokenizer) = crate::device::on!(device, backend => {
            // The vocabulary is read while the weights are.
            let (weights, tokenizer) = std::thread::scope(|scope| {
                let tokenizer = scope.spawn(|| words.load());
                let weights = opened.model.freeze(backend, operands, |spec, take| opened.lend(spec, take));
                (weights, tokenizer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            });
            (Box::new(Loaded { backend, weights: weights?, dtype, batch_tokens }), tokenizer?)
        });
        let heads = &opened.model.heads;
        let context = Context { tokenizer, labels: heads.labels.clone(), problem: heads.problem, max_length, settings };
        let together = device.several_threads();
        let (model, new) = (opened.model, opened.report.new);
        Ok(Self { engine, model, context: Arc::new(context), new, encoder: None, together })
    }

    /// Load a model, an adapter's or an ordinary one, on an encoder that is kept once for all models that have the same; see [`Pipeline::load`].
    /// An adapter's products are computed beside the matrices of its base: its answers are those of the merged model up to rounding.
    pub fn load_shared(
        device: &'d Device,
        folder: &Path,
        precision: Precision,
        max_length: Option<usize>,
        encoders: &Encoders,
    ) -> Result<Self, Error> {
        // On a GPU every model has its own.
        let Device::Cpu(cpu) = device else { return Self::load(device, folder, precision, max_length) };
        let Parts { adapted, words, settings } = Source::of(folder)?.open()?;
        let tokenizer = words.load()?;
        let form = Form::whole(if device.dtype(precision) == Dtype::Bf16 { Operands::Bf16 } else { Operands::F32 });
        let beside = adapted.beside()?;
        let longest = beside.model.blueprint.position.longest();
        let max_length = max_length.unwrap_or(settings.max_length.unwrap_or(512)).clamp(3, longest);
        let operands = |spec: &Spec| if beside.is_bytes(spec) { Operands::Int8 } else { (form.operands)(spec) };
        let (encoder, key) = encoders.of(&**cpu, &beside, operands)?;
        let weights = beside.model.freeze_own(&**cpu, operands, |spec, take| beside.lend(spec, take), encoder)?;
        let dtype = device.activations(form.activations);
        let engine = Loaded { backend: &**cpu, weights, dtype, batch_tokens: device.batch_tokens().max(max_length) };
        let model = beside.model.clone();
        let context = Context { tokenizer, labels: model.heads.labels.clone(), problem: model.heads.problem, max_length, settings };
        let (new, together) = (adapted.report.new.clone(), device.several_threads());
        Ok(Self { engine: Box::new(engine), model, context: Arc::new(context), new, encoder: Some(key), together })
    }

    /// The hash of the encoder that it shares with others, as hexadecimal digits; `None` for a model that keeps its own.
    pub fn encoder(&self) -> Option<String> {
        self.encoder.map(|key| key.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.context.tokenizer
    }

    /// What tasks need to encode and decode; free of the device, to be shared between threads.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Parameters that no file held.
    pub fn newly_initialised(&self) -> &[String] {
        &self.new
    }

    /// Whether the model has what a task reads.
    pub fn serves(&self, task: &dyn Task) -> bool {
        self.has(task.head())
    }

    fn has(&self, head: Head) -> bool {
        match head {
            Head::Classifier => self.model.classifier().is_some(),
            Head::Tokens => self.model.token_classifier().is_some(),
            Head::Span => self.model.question_answering().is_some(),
            Head::Choice => self.model.multiple_choice().is_some(),
            Head::MaskedLm => self.model.masked_lm().is_some(),
            Head::Body => true,
        }
    }

    /// The task that the model is for: what its folder says, else what its heads serve.
    pub fn task(&self) -> Option<&'static dyn Task> {
        if let Some(name) = &self.context.settings.task {
            return cloze_task::task(name).filter(|t| self.serves(*t));
        }
        let by_head = [
            ("text-classification", Head::Classifier),
            ("token-classification", Head::Tokens),
            ("question-answering", Head::Span),
            ("multiple-choice", Head::Choice),
            ("fill-mask", Head::MaskedLm),
            ("sentence-embedding", Head::Body),
        ];
        let name = by_head.into_iter().find(|(_, head)| self.has(*head)).map_or("sentence-embedding", |(name, _)| name);
        cloze_task::task(name)
    }

    /// The task of that name, if the model can do it; without a name the one that it is for.
    pub fn require(&self, name: Option<&str>) -> Result<&'static dyn Task, Error> {
        let task = match name {
            Some(name) => require(name)?,
            None => self.task().ok_or(TaskError::Head { head: "head", task: "an answer", made_for: "no task".into() })?,
        };
        if self.serves(task) {
            return Ok(task);
        }
        let made_for = self.task().map_or("no task", |t| t.name()).to_owned();
        Err(TaskError::Head { head: task.head().name(), task: task.name(), made_for }.into())
    }

    /// From an input to the sequences to run for it. Needs no device.
    pub fn encode(&self, task: &dyn Task, input: &Value, options: &Options) -> Result<Job, Error> {
        Ok(task.encode(&self.context, input, options)?)
    }

    /// Answers for inputs, in their order.
    ///
    /// # Errors
    /// [`Error::Input`] says which input the task cannot take.
    pub fn answer(&self, task: &dyn Task, inputs: &[Value], options: &Options) -> Result<Vec<Value>, Error> {
        Ok(self.answer_counting(task, inputs, options)?.0)
    }

    /// The same, and how many of the inputs were longer than the model reads and were cut.
    ///
    /// # Errors
    /// As [`Pipeline::answer`].
    pub fn answer_counting(&self, task: &dyn Task, inputs: &[Value], options: &Options) -> Result<(Vec<Value>, usize), Error> {
        let (mut found, mut cut) = (Vec::with_capacity(inputs.len()), 0);
        for chunk in inputs.chunks(CHUNK) {
            let encode = |(at, input): (usize, &Value)| {
                let fault = |source| Error::Input { place: found.len() + at, source };
                task.encode(&self.context, input, options).map_err(fault)
            };
            let jobs: Vec<Result<Job, Error>> = if self.together {
                chunk.par_iter().with_min_len(16).enumerate().map(encode).collect()
            } else {
                chunk.iter().enumerate().map(encode).collect()
            };
            let jobs = jobs.into_iter().collect::<Result<Vec<Job>, _>>()?; // the first fault, whoever met one first
            cut += jobs.iter().filter(|job| job.cut).count();
            found.extend(answers(self, jobs)?);
        }
        Ok((found, cut))
    }

    /// Figures on the labelled rows of a file; `seen` is told how many were answered, with each row and its answer.
    pub fn evaluate(
        &self,
        task: &dyn Task,
        data: &Path,
        columns: &Columns,
        options: &Options,
        seen: &mut dyn FnMut(usize, &Row, &Value) -> Result<(), Error>,
    ) -> Result<Figures, Error> {
        let rows = Rows::read_all(data, task.fields(), columns, true)?;
        self.evaluate_rows(task, &rows, options, seen)
    }

    /// Figures on labelled rows; see [`Pipeline::evaluate`].
    pub fn evaluate_rows(
        &self,
        task: &dyn Task,
        rows: &[Row],
        options: &Options,
        seen: &mut dyn FnMut(usize, &Row, &Value) -> Result<(), Error>,
    ) -> Result<Figures, Error> {
        let mut found = Vec::with_capacity(rows.len());
        let options = task.measured(options);
        for chunk in rows.chunks(CHUNK) {
            let inputs: Vec<Value> = chunk.iter().map(|r| r.value.clone()).collect();
            let answers = self.answer(task, &inputs, &options).map_err(|error| match error {
                Error::Input { place, source } => Error::Row { path: chunk[place].path.to_path_buf(), line: chunk[place].line, source },
                other => other,
            });
            for (row, answer) in chunk.iter().zip(answers?) {
                found.push(answer);
                seen(found.len(), row, &found[found.len() - 1])?;
            }
        }
        Ok(task.figures(&self.context, rows, &found)?)
    }

    /// Classify texts or pairs, in their order.
    pub fn classify(&self, inputs: &[TextInput]) -> Result<Vec<classification::Answer>, Error> {
        let inputs: Vec<Value> = inputs.iter().map(|i| serde_json::json!(i)).collect();
        let answers = self.answer(&classification::TextClassification, &inputs, &Options::default())?;
        let shape = |e: serde_json::Error| TaskError::Answer { problem: e.to_string() };
        Ok(answers.into_iter().map(|a| serde_json::from_value(a).map_err(shape)).collect::<Result<_, _>>()?)
    }

    /// The `top_k` likeliest tokens for each mask of a text, each mask on its own.
    pub fn fill_mask(&self, text: &str, top_k: usize) -> Result<fill_mask::Answer, Error> {
        let options = Options { top_k: Some(top_k), ..Options::default() };
        let found = self.answer(&fill_mask::FillMask, &[serde_json::json!({ "text": text })], &options)?;
        Ok(found.first().map(fill_mask::answers).unwrap_or_default())
    }

    /// What every attention got for a text or a pair; its probabilities follow from it.
    ///
    /// # Errors
    /// When an id has no row in the model's tables.
    pub fn attention(&self, encoding: &Encoding) -> Result<Attention, Error> {
        self.attention_without(encoding, &[])
    }

    /// The same with some heads switched off: the layers above them see another input.
    ///
    /// # Errors
    /// When an id has no row in the model's tables.
    pub fn attention_without(&self, encoding: &Encoding, off: &[HeadPlace]) -> Result<Attention, Error> {
        has_rows(&self.model.blueprint, &encoding.ids, &encoding.token_type_ids)?;
        let tokens = encoding.ids.iter().map(|&id| self.context.tokenizer.readable(id).unwrap_or_default()).collect();
        Ok(Attention::new(tokens, self.engine.watch(&self.model, encoding, &places(off))))
    }

    /// Run sequences with some heads switched off.
    pub(crate) fn run_without(&self, sequences: &[&Sequence], off: &[HeadPlace]) -> Result<Vec<Output>, TaskError> {
        self.engine.run(&self.model, &self.context, sequences, &places(off))
    }

    /// Everything that the model computes for one text.
    pub fn states(&self, text: &str) -> Result<(Encoding, States), Error> {
        let encoding = self.context.tokenizer.encode_truncated(text, self.context.max_length)?;
        has_rows(&self.model.blueprint, &encoding.ids, &encoding.token_type_ids)?;
        let states = self.states_of(&encoding);
        Ok((encoding, states))
    }

    /// The same for tokens that are there already; their ids must be below the size of the vocabulary.
    pub fn states_of(&self, encoding: &Encoding) -> States {
        self.engine.states(&self.model, encoding)
    }
}

impl Runner for Pipeline<'_> {
    fn run(&self, sequences: &[&Sequence]) -> Result<Vec<Output>, TaskError> {
        self.engine.run(&self.model, &self.context, sequences, &[])
    }
}

fn places(heads: &[HeadPlace]) -> Vec<(usize, usize)> {
    heads.iter().map(|h| (h.layer, h.head)).collect()
}
