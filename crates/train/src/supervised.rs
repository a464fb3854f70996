//! The course of every fine-tuning: shuffled examples of a task, its loss, and its figures on dev rows.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use cloze_model::{Input, Model};
use cloze_task::agreement::agree;
use cloze_task::distillation::distill;
use cloze_task::loss::{LossOptions, Rows as LossRows, loss};
use cloze_task::run::{Kind, Packed, rows};
use cloze_task::task::{Example, Figures};
use cloze_task::{Context, Options, Row, Sequence, Task, Want, answers};
use cloze_tensor::random::{Key, Permutation, Stream};
use cloze_tensor::{Backend, Dtype, Tape, Tensor, Weights};
use cloze_text::Batch;
use serde_json::Value;

use crate::course::{Course, Cursor, Found, Loss, Losses, Pass, Sum};
use crate::error::TrainError;
use crate::label_errors::History;
use crate::teacher::Teacher;

/// Shuffled examples, their loss, and figures on dev rows.
pub struct Supervised<'t> {
    pub(crate) task: &'static dyn Task,
    pub(crate) context: Arc<Context>,
    pub(crate) examples: Vec<Example>,
    pub(crate) dev: Vec<Row>,
    pub(crate) loss: LossOptions,
    pub(crate) options: Options,
    pub(crate) seed: u64,
    pub(crate) batch_size: usize,
    pub(crate) micro_batch_tokens: usize,
    pub(crate) goal: String,
    pub(crate) cursor: u64,
    /// α of R-Drop: every example is run twice, and how far its answers are apart is part of the loss; 0: once.
    pub(crate) r_drop: f32,
    /// Whose answers are learned, too.
    pub(crate) teacher: Option<Teacher<'t>>,
    /// Units of the step at hand: each loss is the mean over the step, however it is cut up.
    pub(crate) units: f64,
    /// What is seen of every row, where label errors are looked for.
    pub(crate) history: Option<History>,
}

impl Supervised<'_> {
    /// Figures on the dev rows.
    pub fn figures<B: Backend>(&self, backend: &B, model: &Model, weights: &Weights<B>, dtype: Dtype) -> Result<Figures, TrainError> {
        let dev: Vec<&Row> = self.dev.iter().collect();
        let found = self.answers(backend, model, weights, dtype, &dev)?;
        Ok(self.task.figures(&self.context, &self.dev, &found)?)
    }

    /// Whether dev rows can be evaluated and have the figure that chooses the best: what is wrong with them is to be said before training, not
    /// after its first epoch.
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        let blank = vec![Value::Null; self.dev.len()]; // an answer that says nothing is right nowhere, but its row is read
        self.aimed(self.task.figures(&self.context, &self.dev, &blank)?.values).map(drop)
    }

    /// Figures, if the one that is wanted is among them.
    fn aimed(&self, figures: BTreeMap<String, f64>) -> Result<BTreeMap<String, f64>, TrainError> {
        if figures.contains_key(&self.goal) {
            return Ok(figures);
        }
        let expected = format!("a figure that these rows have: {}", figures.keys().cloned().collect::<Vec<_>>().join(", "));
        Err(TrainError::Value { key: "metric", found: self.goal.clone(), expected })
    }

    /// What the model answers to rows.
    pub(crate) fn answers<B: Backend>(
        &self,
        backend: &B,
        model: &Model,
        weights: &Weights<B>,
        dtype: Dtype,
        rows: &[&Row],
    ) -> Result<Vec<Value>, TrainError> {
        let pooling = self.context.settings.pooling;
        let runner = Packed { backend, model, weights, dtype, batch_tokens: self.micro_batch_tokens, pooling, off: &[] };
        let mut found = Vec::with_capacity(rows.len());
        let options = self.task.measured(&self.options);
        for chunk in rows.chunks(512) {
            let jobs = chunk.iter().map(|r| self.task.encode(&self.context, &r.value, &options)).collect::<Result<_, _>>()?;
            found.extend(answers(&runner, jobs)?);
        }
        Ok(found)
    }
}

impl Losses for Supervised<'_> {
    fn losses<'a, B: Backend>(&self, model: &Model, tape: &mut Tape<'a, B>, input: &Input<B>, batch: &Batch, pass: Pass) -> Found<B> {
        let backend = tape.backend();
        let hidden = model.hidden(tape, input, pass.recompute);
        // the sequences of an example stand together
        let places: Vec<Range<usize>> = batch.sequences.ranges().collect();
        let mut groups: Vec<(usize, Range<usize>)> = Vec::new();
        let mut next = 0;
        while let Some(&at) = batch.sequence_labels.get(next) {
            let end = next + self.examples[at as usize].sequences.len();
            groups.push((at as usize, next..end));
            next = end;
        }
        let of = |at: usize| self.examples[at].sequences.iter().map(|s| &s.want);
        let wants: Vec<(&Want, Range<usize>)> = groups.iter().flat_map(|(e, r)| of(*e).zip(places[r.clone()].iter().cloned())).collect();
        let mut losses = Found::new();
        let Some(kind) = wants.first().map(|(want, _)| Kind::of(want)) else { return losses };
        let Some(rows) = rows(tape, model, self.context.settings.pooling, &hidden, input, kind, &wants) else { return losses };
        let mut at = 0;
        let mut next = wants.iter();
        let mut examples: Vec<LossRows> = Vec::new();
        for (example, range) in &groups {
            let example = &self.examples[*example];
            let ranges = next.by_ref().take(range.len()).map(|(want, place)| {
                let start = at;
                at += kind.rows(want, place);
                start..at
            });
            examples.push((&example.target, ranges.collect()));
        }
        let values = rows.to_host(backend);
        let mut found = loss(&self.loss, &examples, &values, rows.cols());
        if let Some(teacher) = &self.teacher {
            let answers: Vec<&[f32]> = groups.iter().map(|(at, _)| teacher.answer(*at)).collect();
            distill(teacher.distillation, &self.loss, &examples, &answers, &values, rows.cols(), &mut found);
        }
        if self.r_drop > 0.0 {
            agree(self.r_drop, &self.loss, &examples, &values, rows.cols(), &mut found);
        }
        if tape.is_recording() {
            if let Some(history) = self.history.as_ref().filter(|_| !pass.perturbed) {
                for ((_, range), (target, rows_of)) in groups.iter().zip(&examples) {
                    history.see(batch.sequence_labels[range.start] as usize, target, rows_of, &values, rows.cols());
                }
            }
            let scale = (1.0 / self.units.max(f64::MIN_POSITIVE)) as f32;
            found.gradient.iter_mut().for_each(|g| *g *= scale);
            let gradient = Tensor::from_host(backend, rows.dtype(), rows.rows(), rows.cols(), &found.gradient);
            tape.seed(&rows, gradient);
        }
        let sum = Sum { loss: found.loss, hits: found.hits, rows: found.targets, weight: found.units };
        losses.insert(self.task.name(), Loss::Sum(sum));
        losses
    }
}

impl Course for Supervised<'_> {
    fn next(&mut self, _: f64) -> Result<Vec<Batch>, TrainError> {
        let count = self.examples.len() as u64;
        let (epoch, begin) = (self.cursor / count, self.cursor % count);
        let end = (begin + self.batch_size as u64).min(count); // a step stays inside its epoch
        let order = Permutation::new(Key::new(self.seed, Stream::Shuffle, epoch, 0), count);
        self.cursor += end - begin;
        self.units = 0.0;
        if let Some(teacher) = &mut self.teacher {
            let which: Vec<usize> = (begin..end).map(|i| order.at(i) as usize).collect();
            teacher.ask(&which, &self.examples)?;
        }
        let mut batches: Vec<Batch> = Vec::new();
        for i in begin..end {
            let at = order.at(i);
            let example = &self.examples[at as usize];
            let runs = if self.r_drop > 0.0 { 2 } else { 1 };
            self.units += f64::from(runs) * self.loss.units(&example.target);
            let tokens = runs as usize * example.sequences.iter().map(Sequence::len).sum::<usize>();
            let fits = batches.last().is_some_and(|b| b.tokens() + tokens <= self.micro_batch_tokens);
            if !fits {
                batches.push(Batch::default());
            }
            let last = batches.len() - 1;
            // Another place in the batch has other draws of dropout.
            for sequence in (0..runs).flat_map(|_| &example.sequences) {
                batches[last].push(&sequence.ids, &sequence.segments);
                batches[last].sequence_labels.push(at as u32);
            }
        }
        Ok(batches)
    }

    fn cursor(&self) -> Cursor {
        Cursor { samples: self.cursor, stretch: None }
    }

    fn seek(&mut self, cursor: Cursor) {
        self.cursor = cursor.samples;
    }

    fn epochs(&self) -> f64 {
        self.cursor as f64 / self.examples.len() as f64
    }

    fn evaluate<B: Backend>(
        &self,
        backend: &B,
        model: &Model,
        weights: &Weights<B>,
        dtype: Dtype,
    ) -> Result<BTreeMap<String, f64>, TrainError> {
        self.aimed(self.figures(backend, model, weights, dtype)?.values)
    }

    fn goal(&self) -> (&str, bool) {
        (&self.goal, true)
    }
}
