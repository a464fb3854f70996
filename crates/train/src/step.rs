//! The trainer: flat weights, gradients and moments, and one optimizer step over micro-batches. Of a model whose table has two parts
//! the first alone is trained: gradients, moments and checkpoints hold no more.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Read, Write};

use cloze_model::params::Spec;
use cloze_model::{Input, Model};
use cloze_tensor::ops::optimizer::{Adam, Muon, Scale, Verdict};
use cloze_tensor::{Backend, Dtype, Later, Param, Tape, Tensor, View, Weights};
use cloze_text::Batch;

use crate::course::{Course, Found, Loss, Losses, Pass, Sum, Sums, Totals};
use crate::error::TrainError;
use crate::optimizer::{OptimizerConfig, Plan, Rule};

/// What one optimizer step gave.
#[derive(Clone, Debug)]
pub struct StepResult {
    /// Losses by name, summed over the step's rows.
    pub sums: Sums,
    /// The global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens of the step.
    pub tokens: u64,
    /// Floating-point operations of the step's products, forward and backward.
    pub flops: f64,
}

/// A step whose work is on its way.
struct Begun {
    step: u64,
    micro_batches: usize,
    /// What the host knows of it.
    result: StepResult,
    /// What the device will tell; nothing on a backend that leaves judging to the host.
    coming: Option<Coming>,
}

/// What a device tells of a step when it has come there.
struct Coming {
    /// Micro-batch, name, rows of (loss, hit).
    losses: Vec<(usize, &'static str, Later<Vec<f32>>)>,
    verdict: Later<Verdict>,
}

/// A model in training.
pub struct Trainer<'b, B: Backend> {
    backend: &'b B,
    model: Model,
    weights: Weights<B>,
    gradients: B::Buffer,
    first: B::Buffer,
    second: B::Buffer,
    average: Option<B::Buffer>,
    optimizer: OptimizerConfig,
    plan: Plan,
    dtype: Dtype,
    seed: u64,
    recompute: bool,
    /// ε of adversarial training; 0: none.
    adversarial: f32,
    /// Optimizer steps done.
    steps: u64,
    /// Micro-batches run; the place of dropout's draws.
    micro_batches: u64,
    /// The gate of the last step, where the device judges.
    gate: Option<B::Buffer>,
    /// Steps that were begun and not finished, the oldest first.
    begun: VecDeque<Begun>,
}

impl<'b, B: Backend> Trainer<'b, B> {
    /// A model with its values (flat, host), before the first step. `dtype` is that of activations and product operands.
    pub fn new(backend: &'b B, model: Model, values: &[f32], optimizer: OptimizerConfig, dtype: Dtype, seed: u64, recompute: bool) -> Self {
        let own = model.table().own_len();
        let zeros = || backend.zeros(Dtype::F32, own);
        let average = (optimizer.ema > 0.0).then(|| {
            let mut average = zeros();
            backend.write(&mut average, 0, &values[..own]);
            average
        });
        let plan = optimizer.plan(model.table());
        Self {
            backend,
            weights: Weights::from_host(backend, values),
            gradients: backend.zeros(Dtype::F32, if backend.leaves_out_frozen() { own } else { values.len() }),
            first: zeros(),
            second: zeros(),
            average,
            optimizer,
            plan,
            dtype,
            seed,
            recompute,
            adversarial: 0.0,
            steps: 0,
            micro_batches: 0,
            gate: None,
            begun: VecDeque::new(),
            model,
        }
    }

    /// Learn from moved embeddings, too (Miyato et al. 2017, "Adversarial training methods for semi-supervised text classification",
    /// section 3): each step runs its rows a second time with the word embeddings moved by r = ε · g / ‖g‖, the way that makes its loss
    /// larger, and adds those gradients to the first ones. g is the gradient of the table under the whole step.
    ///
    /// # Panics
    /// If the word embeddings are not trained.
    pub fn adversarial(mut self, epsilon: f32) -> Self {
        assert!(self.model.table().is_own(self.model.body().word_embedding()), "adversarial training of frozen embeddings");
        self.adversarial = epsilon;
        self
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The backend.
    pub fn backend(&self) -> &'b B {
        self.backend
    }

    /// Optimizer steps done.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One optimizer step on `batches` at learning rate `lr`. On an error the weights are as before.
    pub fn step<C: Losses>(&mut self, course: &C, batches: &[Batch], lr: f64) -> Result<StepResult, TrainError> {
        self.begin(course, batches, lr)?;
        self.finish()
    }

    /// Begin a step; [`Trainer::finish`] tells what it gave. On a device that judges steps by itself nobody waits for it here: the next
    /// step may be begun before this one is done. Should it turn out to be no number, no later one changes the weights.
    pub fn begin<C: Losses>(&mut self, course: &C, batches: &[Batch], lr: f64) -> Result<(), TrainError> {
        let (own, totals) = (self.own_len(), Totals::of(batches));
        // Before the first update the gradients are looked at by the host (`guard`).
        let ahead = self.steps > 0 && self.backend.judges();
        let mut result = StepResult { sums: Sums::new(), grad_norm: 0.0, tokens: 0, flops: 0.0 };
        let mut waiting: Vec<(usize, &'static str, Tensor<B>)> = Vec::new();
        self.backend.clear(&mut self.gradients, 0..own);
        for (i, batch) in batches.iter().enumerate() {
            for (name, loss) in self.gradients_of(course, batch, totals, false) {
                match loss {
                    Loss::Rows(rows) if ahead => waiting.push((i + 1, name, rows)),
                    known => {
                        let sum = known.sum(self.backend);
                        add(&mut result.sums, self.steps + 1, i + 1, name, sum)?;
                    }
                }
            }
            result.tokens += batch.tokens() as u64;
            result.flops += self.flops(batch);
        }
        if self.adversarial > 0.0 {
            let rows = self.perturb(batches);
            for batch in batches {
                self.gradients_of(course, batch, totals, true);
                result.flops += self.flops(batch);
            }
            self.restore(&rows);
        }
        let coming = if ahead {
            Some(self.update_as_judged(lr, waiting))
        } else {
            result.grad_norm = self.judge(batches.len())?;
            let clip = self.optimizer.clip;
            let scale = if clip > 0.0 && result.grad_norm > clip { clip / result.grad_norm } else { 1.0 };
            self.update(lr, None, scale as f32);
            None
        };
        self.begun.push_back(Begun { step: self.steps, micro_batches: batches.len(), result, coming });
        Ok(())
    }

    /// How many of the steps that were begun are still under way on the device.
    pub fn under_way(&self) -> usize {
        self.begun.iter().filter(|b| b.coming.is_some()).count()
    }

    /// What the oldest step that was begun gave. After an error the weights are those before it, and steps begun since have not been.
    ///
    /// # Panics
    /// If none was begun.
    pub fn finish(&mut self) -> Result<StepResult, TrainError> {
        let Some(begun) = self.begun.pop_front() else { panic!("no step was begun") };
        let step = begun.step;
        self.told(begun).inspect_err(|_| {
            (self.steps, self.gate) = (step - 1, None);
            self.begun.clear();
        })
    }

    /// What a step gave, when the device has told.
    fn told(&self, begun: Begun) -> Result<StepResult, TrainError> {
        let mut result = begun.result;
        let Some(coming) = begun.coming else { return Ok(result) };
        for (micro_batch, name, rows) in coming.losses {
            add(&mut result.sums, begun.step, micro_batch, name, Sum::of_rows(&rows.get()))?;
        }
        let verdict = coming.verdict.get();
        if !verdict.squares.is_finite() {
            let culprit = verdict.culprit.and_then(|at| self.trained().find(|s| s.param.range().contains(&at)));
            let name = culprit.map_or("a parameter", |s| &s.name);
            return Err(not_finite(begun.step, begun.micro_batches, format!("the gradient of {name}")));
        }
        assert!(verdict.update, "step {}: the device made no update, and all is finite", begun.step);
        result.grad_norm = verdict.squares.sqrt();
        Ok(result)
    }

    /// The norm of the gradient, if it is a number and, before the first update, if no parameter is without one.
    fn judge(&self, micro_batches: usize) -> Result<f64, TrainError> {
        let squares = self.backend.sum_of_squares(&self.gradients, 0..self.own_len());
        if !squares.is_finite() {
            let culprit = self.trained().find(|s| !self.backend.sum_of_squares(&self.gradients, s.param.range()).is_finite());
            let name = culprit.map_or("a parameter", |s| &s.name);
            return Err(not_finite(self.steps + 1, micro_batches, format!("the gradient of {name}")));
        }
        if self.steps == 0 {
            self.guard()?;
        }
        Ok(squares.sqrt())
    }

    /// The update as the device judges it: norm, clipping, and whether it is made at all.
    fn update_as_judged(&mut self, lr: f64, losses: Vec<(usize, &'static str, Tensor<B>)>) -> Coming {
        let rows: Vec<View<B>> = losses.iter().map(|(_, _, rows)| rows.view()).collect();
        let judged = self.backend.judge(&self.gradients, 0..self.own_len(), &rows, self.optimizer.clip, self.gate.as_ref());
        self.update(lr, Some(&judged.gate), 1.0);
        self.gate = Some(judged.gate);
        let losses = losses.into_iter().map(|(i, name, rows)| (i, name, rows.to_host_later(self.backend))).collect();
        Coming { losses, verdict: judged.verdict }
    }

    /// Move the embeddings of the step's tokens by ε · g / ‖g‖; other rows have no gradient. What they were: first element, values.
    fn perturb(&mut self, batches: &[Batch]) -> Vec<(usize, Vec<f32>)> {
        let table = self.model.body().word_embedding();
        let norm = self.backend.sum_of_squares(&self.gradients, table.range()).sqrt();
        // A gradient that is no number is found, and named, when the step is judged.
        let scale = if norm.is_finite() && norm > 0.0 { f64::from(self.adversarial) / norm } else { 0.0 } as f32;
        let ids: BTreeSet<u32> = batches.iter().flat_map(|b| b.input_ids.iter().copied()).collect();
        let mut rows = Vec::with_capacity(ids.len());
        for id in ids {
            let start = table.offset + id as usize * table.cols;
            let range = start..start + table.cols;
            let before = self.backend.read(self.weights.flat(), range.clone());
            let gradient = self.backend.read(&self.gradients, range);
            let moved: Vec<f32> = before.iter().zip(gradient).map(|(w, g)| w + scale * g).collect();
            self.backend.write(self.weights.flat_mut(), start, &moved);
            rows.push((start, before));
        }
        rows
    }

    /// Put moved embeddings back, to the bit.
    fn restore(&mut self, rows: &[(usize, Vec<f32>)]) {
        for (start, before) in rows {
            self.backend.write(self.weights.flat_mut(), *start, before);
        }
    }

    /// Forward and backward of one micro-batch; parameter gradients are added up.
    fn gradients_of<C: Losses>(&mut self, course: &C, batch: &Batch, totals: Totals, perturbed: bool) -> Found<B> {
        let input = Input::new(self.backend, &batch.input_ids, &batch.token_type_ids, batch.sequences.clone());
        let draws = Some((self.seed, self.micro_batches));
        self.micro_batches += 1;
        let mut tape = Tape::training(self.backend, &self.weights, self.dtype, &mut self.gradients, draws);
        let found = course.losses(&self.model, &mut tape, &input, batch, Pass { totals, recompute: self.recompute, perturbed });
        tape.backward();
        found
    }

    /// Elements that are trained.
    fn own_len(&self) -> usize {
        self.model.table().own_len()
    }

    /// The parameters that are trained.
    fn trained(&self) -> impl Iterator<Item = &Spec> {
        self.model.table().specs().iter().filter(move |s| self.model.table().is_own(s.param))
    }

    /// Every parameter must have received a gradient: a loss of them in silence is the worst of bugs. The first matrix of a low-rank
    /// update has none as long as the second is zero, and what shifts all scores of a softmax alike never has one (with two scores not
    /// even by rounding).
    fn guard(&self) -> Result<(), TrainError> {
        let late = self.model.updates().iter().map(|u| u.params()[0]);
        let exempt: Vec<Param> = late.chain(self.model.shifts()).collect();
        let without = |s: &&Spec| self.backend.sum_of_squares(&self.gradients, s.param.range()) == 0.0 && !exempt.contains(&s.param);
        let parameters: Vec<String> = self.trained().filter(without).map(|s| s.name.clone()).collect();
        if parameters.is_empty() { Ok(()) } else { Err(TrainError::NoGradient { parameters }) }
    }

    /// The update, with a factor that the host knows or behind a gate that holds it.
    fn update(&mut self, lr: f64, gate: Option<&B::Buffer>, scale: f32) {
        self.steps += 1;
        let c = &self.optimizer;
        let gradient_scale = gate.map_or(Scale::Known(scale), Scale::Judged);
        let adam =
            Adam { lr: lr as f32, beta1: c.beta1 as f32, beta2: c.beta2 as f32, eps: c.eps as f32, step: self.steps, gradient_scale };
        let (backend, groups) = (self.backend, &self.plan.groups);
        let (weights, first, second) = (self.weights.flat_mut(), &mut self.first, &mut self.second);
        match c.rule {
            Rule::Lamb => backend.lamb(&adam, groups, weights, &self.gradients, first, second),
            Rule::Adamw | Rule::Muon => backend.adamw(&adam, groups, weights, &self.gradients, first, second),
        }
        for matrices in &self.plan.matrices {
            let muon = Muon {
                lr: (lr * c.muon_lr_scale * matrices.lr_scale) as f32,
                momentum: c.momentum as f32,
                weight_decay: c.weight_decay as f32,
                gradient_scale,
                products: self.dtype,
            };
            backend.muon(&muon, &matrices.params, weights, &self.gradients, first);
        }
        if let Some(average) = &mut self.average {
            // Early on a long average would hold the initial weights: it starts short and grows (t / (t + 10)).
            let decay = c.ema.min(self.steps as f64 / (self.steps as f64 + 10.0));
            backend.moving_average(decay as f32, self.weights.flat(), average, gate);
        }
    }

    /// Three times the forward products (twice where the body is frozen: no gradients of its matrices): the body on all tokens, the head
    /// on masked ones.
    fn flops(&self, batch: &Batch) -> f64 {
        let b = &self.model.blueprint;
        let quadratic: f64 = batch.sequences.ranges().map(|r| (r.len() * r.len()) as f64).sum();
        let attention = 4.0 * quadratic * (b.hidden_size * b.num_hidden_layers) as f64;
        let body = b.forward_flops_per_token(0) * batch.tokens() as f64;
        let passes = if self.own_len() < self.weights.len() { 2.0 } else { 3.0 };
        passes * (body + attention + b.head_flops_per_row() * batch.masked_rows.len() as f64)
    }

    /// The weights to evaluate and to save: the moving average where there is one. // `f32 [flat_len]`, host
    pub fn values(&self) -> Vec<f32> {
        let buffer = self.average.as_ref().unwrap_or(self.weights.flat());
        let mut values = self.backend.read(buffer, 0..self.own_len());
        values.extend(self.backend.read(self.weights.flat(), self.own_len()..self.weights.len()));
        values
    }

    /// Evaluate on the course's held-out data.
    pub fn evaluate<C: Course>(&self, course: &C) -> Result<std::collections::BTreeMap<String, f64>, TrainError> {
        match &self.average {
            None => course.evaluate(self.backend, &self.model, &self.weights, self.dtype),
            Some(_) => {
                let weights = Weights::from_host(self.backend, &self.values());
                course.evaluate(self.backend, &self.model, &weights, self.dtype)
            }
        }
    }

    /// The buffers that a checkpoint holds, by file name.
    pub(crate) fn buffer_names(&self) -> Vec<&'static str> {
        let mut names = vec!["weights.f32", "first_moment.f32", "second_moment.f32"];
        names.extend(self.average.as_ref().map(|_| "average.f32"));
        names
    }

    /// Write one of the buffers as little-endian f32.
    pub(crate) fn write_buffer(&self, name: &str, out: &mut dyn Write) -> io::Result<()> {
        let buffer = match name {
            "weights.f32" => self.weights.flat(),
            "first_moment.f32" => &self.first,
            "second_moment.f32" => &self.second,
            _ => self.average.as_ref().unwrap_or(self.weights.flat()),
        };
        for start in (0..self.own_len()).step_by(CHUNK) {
            let end = (start + CHUNK).min(self.own_len());
            let bytes: Vec<u8> = self.backend.read(buffer, start..end).iter().flat_map(|v| v.to_le_bytes()).collect();
            out.write_all(&bytes)?;
        }
        Ok(())
    }

    /// Read one of the buffers back.
    pub(crate) fn read_buffer(&mut self, name: &str, from: &mut dyn Read) -> io::Result<()> {
        let len = self.own_len();
        let buffer = match name {
            "weights.f32" => self.weights.flat_mut(),
            "first_moment.f32" => &mut self.first,
            "second_moment.f32" => &mut self.second,
            _ => match &mut self.average {
                Some(average) => average,
                None => return Ok(()),
            },
        };
        for start in (0..len).step_by(CHUNK) {
            let mut bytes = vec![0; 4 * CHUNK.min(len - start)];
            from.read_exact(&mut bytes)?;
            let values: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            self.backend.write(buffer, start, &values);
        }
        Ok(())
    }

    /// The counters that a checkpoint holds: steps, micro-batches.
    pub(crate) fn counters(&self) -> (u64, u64) {
        (self.steps, self.micro_batches)
    }

    /// Set the counters back.
    pub(crate) fn set_counters(&mut self, steps: u64, micro_batches: u64) {
        self.steps = steps;
        self.micro_batches = micro_batches;
    }
}

/// Take a loss in, if it is a number.
fn add(sums: &mut Sums, step: u64, micro_batch: usize, name: &'static str, sum: Sum) -> Result<(), TrainError> {
    if !sum.loss.is_finite() {
        return Err(not_finite(step, micro_batch, format!("the {name} loss")));
    }
    sums.entry(name).or_default().add(&sum);
    Ok(())
}

fn not_finite(step: u64, micro_batch: usize, what: String) -> TrainError {
    TrainError::NotFinite { step, micro_batch, what }
}

/// Elements that a checkpoint reads or writes at once.
const CHUNK: usize = 1 << 20;
