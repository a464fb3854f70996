//! The trainer: flat weights, gradients and moments, and one optimizer step over micro-batches. Of a model whose table has two parts
//! the first alone is trained: gradients, moments and checkpoints hold no more.

use std::io::{self, Read, Write};

use cloze_model::params::Spec;
use cloze_model::{Input, Model};
use cloze_tensor::ops::optimizer::{Adam, Muon};
use cloze_tensor::{Backend, Dtype, Param, Tape, Weights};
use cloze_text::Batch;

use crate::course::{Course, Losses, Pass, Sums, Totals};
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
    /// Optimizer steps done.
    steps: u64,
    /// Micro-batches run; the place of dropout's draws.
    micro_batches: u64,
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
            steps: 0,
            micro_batches: 0,
            model,
        }
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
        let own = self.own_len();
        let totals = Totals::of(batches);
        let mut result = StepResult { sums: Sums::new(), grad_norm: 0.0, tokens: 0, flops: 0.0 };
        self.backend.clear(&mut self.gradients, 0..own);
        for (i, batch) in batches.iter().enumerate() {
            let sums = self.gradients_of(course, batch, totals);
            for (name, sum) in sums {
                if !sum.loss.is_finite() {
                    return Err(self.not_finite(i + 1, format!("the {name} loss")));
                }
                result.sums.entry(name).or_default().add(&sum);
            }
            result.tokens += batch.tokens() as u64;
            result.flops += self.flops(batch);
        }
        let squares = self.backend.sum_of_squares(&self.gradients, 0..own);
        if !squares.is_finite() {
            let culprit = self.trained().find(|s| !self.backend.sum_of_squares(&self.gradients, s.param.range()).is_finite());
            let name = culprit.map_or("a parameter", |s| &s.name);
            return Err(self.not_finite(batches.len(), format!("the gradient of {name}")));
        }
        if self.steps == 0 {
            self.guard()?;
        }
        result.grad_norm = squares.sqrt();
        self.update(lr, result.grad_norm);
        Ok(result)
    }

    /// Forward and backward of one micro-batch; parameter gradients are added up.
    fn gradients_of<C: Losses>(&mut self, course: &C, batch: &Batch, totals: Totals) -> Sums {
        let input = Input::new(self.backend, &batch.input_ids, &batch.token_type_ids, batch.sequences.clone());
        let draws = Some((self.seed, self.micro_batches));
        self.micro_batches += 1;
        let mut tape = Tape::training(self.backend, &self.weights, self.dtype, &mut self.gradients, draws);
        let sums = course.losses(&self.model, &mut tape, &input, batch, Pass { totals, recompute: self.recompute });
        tape.backward();
        sums
    }

    fn not_finite(&self, micro_batch: usize, what: String) -> TrainError {
        TrainError::NotFinite { step: self.steps + 1, micro_batch, what }
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

    fn update(&mut self, lr: f64, grad_norm: f64) {
        self.steps += 1;
        let c = &self.optimizer;
        let clip = if c.clip > 0.0 && grad_norm > c.clip { c.clip / grad_norm } else { 1.0 };
        let adam = Adam {
            lr: lr as f32,
            beta1: c.beta1 as f32,
            beta2: c.beta2 as f32,
            eps: c.eps as f32,
            step: self.steps,
            gradient_scale: clip as f32,
        };
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
                gradient_scale: clip as f32,
                products: self.dtype,
            };
            backend.muon(&muon, &matrices.params, weights, &self.gradients, first);
        }
        if let Some(average) = &mut self.average {
            // Early on a long average would hold the initial weights: it starts short and grows (t / (t + 10)).
            let decay = c.ema.min(self.steps as f64 / (self.steps as f64 + 10.0));
            backend.moving_average(decay as f32, self.weights.flat(), average);
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

/// Elements that a checkpoint reads or writes at once.
const CHUNK: usize = 1 << 20;
