//! The loop of a run: steps, log, evaluation, checkpoints, the end.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cloze_tensor::Backend;
use serde::{Deserialize, Serialize};

use crate::budget::{Budget, Spent};
use crate::checkpoint::{Checkpoint, Checkpoints};
use crate::course::{Course, Cursor, Stretch, Sums};
use crate::error::TrainError;
use crate::memory::Memory;
use crate::observer::{Control, Eval, Event, Finished, Observers, Reason, Record, Saved, Start, number, numbers};
use crate::schedule::Schedule;
use crate::step::{StepResult, Trainer};

/// How often something happens: a share of the run (`"5%"`), or every so many steps, tokens, epochs or minutes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Every {
    /// After each such share of the budget.
    Share(f64),
    /// After each such amount.
    Amount(Budget),
}

impl std::str::FromStr for Every {
    type Err = crate::schedule::ScheduleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(percent) = text.trim().strip_suffix('%') {
            return match percent.trim().parse::<f64>() {
                Ok(p) if p > 0.0 && p <= 100.0 => Ok(Every::Share(p / 100.0)),
                _ => Err(Self::Err::Range { key: "every", found: text.into(), expected: "a share such as \"5%\", above 0%, at most 100%" }),
            };
        }
        text.parse().map(Every::Amount)
    }
}

impl std::fmt::Display for Every {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Every::Share(s) => write!(f, "{}%", s * 100.0),
            Every::Amount(a) => a.fmt(f),
        }
    }
}

impl Serialize for Every {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Every {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Every {
    /// How many times it was due once this much is spent.
    fn count(&self, budget: &Budget, spent: &Spent) -> u64 {
        let done = match self {
            Every::Share(share) => budget.progress(spent) / share,
            Every::Amount(Budget::Steps(n)) => spent.steps as f64 / *n as f64,
            Every::Amount(Budget::Tokens(n)) => spent.tokens as f64 / *n as f64,
            Every::Amount(Budget::Epochs(n)) => spent.epochs / n,
            Every::Amount(Budget::Time(t)) => spent.time.as_secs_f64() / t.as_secs_f64(),
        };
        // A count reached exactly must not be missed by rounding.
        (done + 1e-9) as u64
    }
}

/// What the loop needs to know of a run.
pub struct Plan {
    /// The headline of the displays.
    pub title: String,
    /// What kind of run: checkpoints carry it.
    pub kind: &'static str,
    /// How far it goes.
    pub budget: Budget,
    /// The learning rate over the run.
    pub schedule: Schedule,
    /// Its peak.
    pub lr: f64,
    /// When held-out data is looked at.
    pub evaluate: Every,
    /// When the state is saved.
    pub checkpoint: Every,
    /// How many checkpoints are kept, besides the best.
    pub keep: usize,
    /// Stop when this many evaluations in a row brought nothing better; 0: never.
    pub patience: usize,
    /// Whether the best evaluation's weights are the result, instead of the last ones.
    pub keep_best: bool,
    /// The machine, for the displays.
    pub device: String,
    /// Peak of the machine's products in FLOP/s, for the share of it that is reached.
    pub peak_flops: Option<f64>,
    /// The whole recipe.
    pub config: serde_json::Value,
}

/// How a run ended.
pub struct Outcome {
    /// Why.
    pub reason: Reason,
    /// What was spent.
    pub spent: Spent,
    /// The figures of the evaluation that the result stands for.
    pub metrics: BTreeMap<String, f64>,
    /// The result's weights. // `f32 [flat_len]`
    pub values: Vec<f32>,
}

/// The part of a checkpoint that is not a buffer.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    kind: String,
    elements: usize,
    steps: u64,
    micro_batches: u64,
    cursor: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stretch: Option<Stretch>,
    spent: Spent,
    evaluations: u64,
    checkpoints: u64,
    best: Option<Best>,
    /// Absent before the first evaluation, and in checkpoints of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Looked>,
    config: serde_json::Value,
}

/// The best evaluation so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Best {
    step: u64,
    #[serde(with = "number")]
    value: f64,
    #[serde(with = "numbers")]
    metrics: BTreeMap<String, f64>,
    /// Evaluations since that were not better.
    since: usize,
}

/// A look at held-out data; no figures where there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Looked {
    step: u64,
    #[serde(with = "numbers")]
    metrics: BTreeMap<String, f64>,
}

/// The running loop.
struct Run<'r, 'b, B: Backend, C: Course> {
    trainer: &'r mut Trainer<'b, B>,
    course: &'r mut C,
    plan: &'r Plan,
    observers: &'r mut Observers,
    checkpoints: Checkpoints,
    spent: Spent,
    evaluations: u64,
    saved: u64,
    /// What was spent when the last checkpoint was written, as it says.
    saved_at: Option<Spent>,
    best: Option<Best>,
    last: Option<Looked>,
    /// Steps that were begun and have no record yet: what was spent with each, and its learning rate.
    begun: VecDeque<(Spent, f64)>,
}

/// Run `course` on `trainer` until the budget is spent, nothing gets better, or `control` asks for the end. Checkpoints go to
/// `folder`; with `resume` the run goes on from the last complete one there.
pub fn fit<B: Backend, C: Course>(
    trainer: &mut Trainer<B>,
    course: &mut C,
    plan: &Plan,
    folder: &Path,
    resume: bool,
    observers: &mut Observers,
    control: &Control,
) -> Result<Outcome, TrainError> {
    let checkpoints = Checkpoints::open(&folder.join("checkpoints"), plan.keep)?;
    let mut run = Run {
        trainer,
        course,
        plan,
        observers,
        checkpoints,
        spent: Spent::default(),
        evaluations: 0,
        saved: 0,
        saved_at: None,
        best: None,
        last: None,
        begun: VecDeque::new(),
    };
    if resume {
        run.resume(folder)?;
    }
    run.go(control, resume)
}

/// The step that a resumed run of `folder` goes on from; logs are cut there before it starts.
pub fn resume_step(folder: &Path) -> Result<u64, TrainError> {
    Ok(latest(&Checkpoints::open(&folder.join("checkpoints"), 1)?, folder)?.0.step())
}

fn latest(checkpoints: &Checkpoints, folder: &Path) -> Result<(Checkpoint, Vec<String>), TrainError> {
    let latest = checkpoints.latest()?;
    let skipped: Vec<String> = latest.skipped.iter().map(ToString::to_string).collect();
    match latest.checkpoint {
        Some(checkpoint) => Ok((checkpoint, skipped)),
        None => Err(TrainError::NothingToResume { folder: folder.to_owned(), skipped }),
    }
}

impl<B: Backend, C: Course> Run<'_, '_, B, C> {
    fn resume(&mut self, folder: &Path) -> Result<(), TrainError> {
        let (checkpoint, skipped) = latest(&self.checkpoints, folder)?;
        for reason in skipped {
            self.observers.event(&Event::warning(checkpoint.step(), format!("skipped a damaged checkpoint: {reason}")));
        }
        let state = self.load(&checkpoint)?;
        self.course.seek(Cursor { samples: state.cursor, stretch: state.stretch });
        self.trainer.set_counters(state.steps, state.micro_batches);
        // Under a larger budget less of both was due until here.
        let due = |every: &Every, done: u64| done.min(every.count(&self.plan.budget, &state.spent));
        self.evaluations = due(&self.plan.evaluate, state.evaluations);
        self.saved = due(&self.plan.checkpoint, state.checkpoints);
        (self.spent, self.saved_at, self.best, self.last) = (state.spent, Some(state.spent), state.best, state.last);
        // A run that was killed between the checkpoint and its mark has none.
        if let Some(best) = self.best.as_ref().filter(|_| self.plan.keep_best) {
            self.checkpoints.mark_best(best.step)?;
        }
        Ok(())
    }

    /// Read a checkpoint's buffers into the trainer and return its state.
    fn load(&mut self, checkpoint: &Checkpoint) -> Result<State, TrainError> {
        let other =
            |what, found: String, expected: String| TrainError::OtherRun { path: checkpoint.path().to_owned(), what, found, expected };
        let state: State = serde_json::from_slice(&checkpoint.read("state.json")?)
            .map_err(|e| other("state.json", e.to_string(), "the state of a run of this version".into()))?;
        if state.kind != self.plan.kind {
            return Err(other("the kind of run", state.kind, self.plan.kind.into()));
        }
        let elements = self.trainer.model().table().own_len();
        if state.elements != elements {
            return Err(other("the number of parameters", state.elements.to_string(), elements.to_string()));
        }
        for name in self.trainer.buffer_names() {
            let mut reader = checkpoint.reader(name)?;
            let path = checkpoint.path().join(name);
            self.trainer.read_buffer(name, &mut reader).map_err(|e| crate::files::FileError::io(crate::files::Operation::Read, path, e))?;
        }
        Ok(state)
    }

    fn go(&mut self, control: &Control, resumed: bool) -> Result<Outcome, TrainError> {
        self.observers.event(&Event::Start(Start {
            title: self.plan.title.clone(),
            step: self.spent.steps,
            total_steps: self.plan.budget.total_steps(&self.spent),
            budget: self.plan.budget.to_string(),
            device: self.plan.device.clone(),
            parameters: self.trainer.model().table().count() as u64,
            unix_time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            config: self.plan.config.clone(),
        }));
        let mut end = self.end();
        if resumed && end.is_some() && self.is_evaluated() {
            self.observers.event(&Event::note(self.spent.steps, "the run is finished: nothing is left to do"));
        }
        let mut clock = Instant::now();
        while end.is_none() {
            if control.stop_requested() {
                end = Some(Reason::Stopped);
                break;
            }
            let paused = control.wait_while_paused();
            clock += paused;
            self.step(&mut clock)?;
            self.milestones(&mut clock)?;
            // Evaluations and checkpoints take time that a budget in time counts as well.
            self.spent.time += clock.elapsed();
            clock = Instant::now();
            end = self.end();
        }
        self.catch_up(&mut clock, 0)?;
        let reason = end.unwrap_or(Reason::Completed);
        if reason == Reason::Stopped {
            self.save(false)?;
        } else {
            // The last checkpoint holds the figures and says that the budget is spent: a run that is resumed at its end need not look
            // again, nor go on for the seconds that the checkpoint itself took.
            let looked = !self.is_evaluated();
            let best = looked && self.evaluate()?;
            let says = |at: Spent| at.steps == self.spent.steps && (reason == Reason::EarlyStop || self.plan.budget.is_spent(&at));
            if looked || !self.saved_at.is_some_and(says) {
                self.save(best && self.plan.keep_best)?;
            }
        }
        self.finish(reason)
    }

    /// Whether held-out data was looked at after the present step.
    fn is_evaluated(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.step == self.spent.steps)
    }

    /// Why the run takes no further step; `None`: it goes on.
    fn end(&self) -> Option<Reason> {
        let since = self.best.as_ref().map_or(0, |b| b.since);
        if self.plan.budget.is_spent(&self.spent) {
            Some(Reason::Completed)
        } else {
            (self.plan.patience > 0 && since >= self.plan.patience).then_some(Reason::EarlyStop)
        }
    }

    /// One optimizer step and its bookkeeping. Its record follows at once, or with the next step where the device is still at work.
    fn step(&mut self, clock: &mut Instant) -> Result<(), TrainError> {
        let progress = self.plan.budget.progress(&self.spent);
        let batches = self.course.next(progress)?;
        let tokens: u64 = batches.iter().map(|b| b.tokens() as u64).sum();
        let after = Spent { steps: self.spent.steps + 1, tokens: self.spent.tokens + tokens, epochs: self.course.epochs(), ..self.spent };
        let lr = self.plan.lr * self.plan.schedule.factor_of_step(&self.plan.budget, &self.spent, &after);
        if let Err(error) = self.trainer.begin(&*self.course, &batches, lr) {
            // What came before it comes before it in the log, too, and may be what is wrong.
            self.catch_up(clock, 0)?;
            return Err(error);
        }
        self.spent = after;
        self.begun.push_back((after, lr));
        self.catch_up(clock, 1)
    }

    /// The records of steps that were begun, until at most `left` of them are under way on the device.
    fn catch_up(&mut self, clock: &mut Instant, left: usize) -> Result<(), TrainError> {
        while !self.begun.is_empty() && self.begun.len() > left.min(self.trainer.under_way()) {
            let result = self.trainer.finish()?;
            let elapsed = clock.elapsed();
            *clock = Instant::now();
            self.spent.time += elapsed;
            let Some((spent, lr)) = self.begun.pop_front() else { break };
            let record = self.record(&result, &Spent { time: self.spent.time, ..spent }, lr, elapsed);
            self.observers.event(&Event::Step(record));
        }
        Ok(())
    }

    fn record(&self, result: &StepResult, spent: &Spent, lr: f64, elapsed: Duration) -> Record {
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let main = main_loss(&result.sums);
        let memory = Memory::now();
        Record {
            step: spent.steps,
            progress: self.plan.budget.progress(spent),
            epoch: spent.epochs,
            tokens: spent.tokens,
            loss: result.sums.values().map(|s| s.mean()).sum(),
            parts: result.sums.iter().map(|(name, s)| ((*name).to_owned(), s.mean())).collect(),
            accuracy: main.map(|(_, s)| s.accuracy()).filter(|a| a.is_finite()),
            perplexity: main.filter(|(name, _)| *name == "mlm").map(|(_, s)| s.mean().exp()),
            learning_rate: lr,
            grad_norm: result.grad_norm,
            tokens_per_second: result.tokens as f64 / seconds,
            share_of_peak: self.plan.peak_flops.map(|peak| result.flops / seconds / peak),
            memory_mb: memory.as_ref().map_or(0.0, Memory::resident_mb),
            memory_peak_mb: memory.as_ref().map_or(0.0, Memory::peak_mb),
            seconds: spent.time.as_secs_f64(),
            eta_seconds: self.plan.budget.remaining(spent).map(|d| d.as_secs_f64()),
        }
    }

    /// Evaluation and checkpoint where they are due.
    fn milestones(&mut self, clock: &mut Instant) -> Result<(), TrainError> {
        let due = |every: &Every, done: u64, run: &Self| every.count(&run.plan.budget, &run.spent) > done;
        if due(&self.plan.evaluate, self.evaluations, self) || due(&self.plan.checkpoint, self.saved, self) {
            self.catch_up(clock, 0)?;
        }
        let mut best = false;
        if due(&self.plan.evaluate, self.evaluations, self) {
            self.evaluations = self.plan.evaluate.count(&self.plan.budget, &self.spent);
            best = self.evaluate()?;
        }
        let keep_best = best && self.plan.keep_best;
        if due(&self.plan.checkpoint, self.saved, self) || keep_best {
            self.saved = self.plan.checkpoint.count(&self.plan.budget, &self.spent);
            self.save(keep_best)?;
        }
        Ok(())
    }

    /// Look at held-out data; true when it is the best so far.
    fn evaluate(&mut self) -> Result<bool, TrainError> {
        let metrics = self.trainer.evaluate(&*self.course)?;
        self.last = Some(Looked { step: self.spent.steps, metrics: metrics.clone() });
        if metrics.is_empty() {
            return Ok(false);
        }
        let (goal, more) = self.course.goal();
        let value = metrics.get(goal).copied().unwrap_or(f64::NAN);
        // What is no number is worse than any.
        let better = |b: &Best| b.value.is_nan() || if more { value > b.value } else { value < b.value };
        let better = self.best.as_ref().is_none_or(better);
        if better {
            self.best = Some(Best { step: self.spent.steps, value, metrics: metrics.clone(), since: 0 });
        } else if let Some(best) = &mut self.best {
            best.since += 1;
        }
        self.observers.event(&Event::Eval(Eval {
            step: self.spent.steps,
            seconds: self.spent.time.as_secs_f64(),
            name: "dev".into(),
            metrics,
            best: better,
        }));
        Ok(better)
    }

    fn save(&mut self, best: bool) -> Result<(), TrainError> {
        let begin = Instant::now();
        let (steps, micro_batches) = self.trainer.counters();
        let cursor = self.course.cursor();
        let state = State {
            kind: self.plan.kind.into(),
            elements: self.trainer.model().table().own_len(),
            steps,
            micro_batches,
            cursor: cursor.samples,
            stretch: cursor.stretch,
            spent: self.spent,
            evaluations: self.evaluations,
            checkpoints: self.saved,
            best: self.best.clone(),
            last: self.last.clone(),
            config: self.plan.config.clone(),
        };
        let trainer = &*self.trainer;
        let state = serde_json::to_vec_pretty(&state).unwrap_or_default();
        let saved = self.checkpoints.save(steps, self.plan.kind, |out| {
            for name in trainer.buffer_names() {
                out.write(name, |file| trainer.write_buffer(name, file))?;
            }
            out.write("state.json", |file| file.write_all(&state))
        })?;
        if best {
            self.checkpoints.mark_best(steps)?;
        }
        self.saved_at = Some(self.spent);
        if let Some(error) = saved.not_removed {
            self.observers.event(&Event::warning(steps, error.to_string()));
        }
        self.observers.event(&Event::Checkpoint(Saved {
            step: steps,
            path: saved.path,
            bytes: saved.bytes,
            seconds: begin.elapsed().as_secs_f64(),
            best,
        }));
        Ok(())
    }

    fn finish(&mut self, reason: Reason) -> Result<Outcome, TrainError> {
        let mut metrics = self.last.take().map(|last| last.metrics).unwrap_or_default();
        if self.plan.keep_best
            && reason != Reason::Stopped
            && let Some(best) = self.best.clone()
            && best.step != self.spent.steps
        {
            let checkpoint = self.checkpoints.get(best.step)?;
            self.load(&checkpoint)?;
            metrics = best.metrics;
        }
        Ok(Outcome { reason, spent: self.spent, metrics, values: self.trainer.values() })
    }
}

/// Report the end of a run.
pub fn finished(outcome: &Outcome, path: Option<std::path::PathBuf>) -> Event {
    Event::Finished(Finished {
        step: outcome.spent.steps,
        tokens: outcome.spent.tokens,
        seconds: outcome.spent.time.as_secs_f64(),
        reason: outcome.reason,
        path,
        metrics: outcome.metrics.clone(),
    })
}

/// The loss that accuracy is told of: the language model's, or the only one.
fn main_loss(sums: &Sums) -> Option<(&'static str, &crate::course::Sum)> {
    sums.get_key_value("mlm").or_else(|| sums.iter().next()).map(|(name, s)| (*name, s))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            kind: "pretrain".into(),
            elements: 7,
            steps: 3,
            micro_batches: 4,
            cursor: 90,
            stretch: Some(Stretch { sequence_length: 32, samples: 60, epochs: 1.0 / 3.0 }),
            spent: Spent { steps: 3, tokens: 500, epochs: 0.7 / 3.0, time: Duration::from_nanos(123_456_789) },
            evaluations: 1,
            checkpoints: 2,
            best: None,
            last: Some(Looked { step: 3, metrics: [("accuracy".to_owned(), f64::INFINITY)].into() }),
            config: serde_json::Value::Null,
        }
    }

    /// A number that came back one bit off would make a resumed run another one: its rates, its ramps, its best evaluation.
    #[test]
    fn numbers_of_a_checkpoint_come_back_to_the_last_bit() {
        for n in 1..2000 {
            let value = f64::from(n) / 2001.0;
            let best = Best { step: 3, value, metrics: [("accuracy".to_owned(), value)].into(), since: 0 };
            let spent = Spent { epochs: value, ..state().spent };
            let text = serde_json::to_vec_pretty(&State { spent, best: Some(best.clone()), ..state() }).unwrap();
            let read: State = serde_json::from_slice(&text).unwrap();
            assert_eq!((read.spent, read.best, read.stretch), (spent, Some(best), state().stretch));
        }
    }

    #[test]
    fn a_checkpoint_of_an_earlier_version_is_read() {
        let mut text = serde_json::to_value(state()).unwrap();
        text.as_object_mut().unwrap().remove("stretch").unwrap();
        text.as_object_mut().unwrap().remove("last").unwrap();
        let read: State = serde_json::from_value(text).unwrap();
        assert_eq!((read.cursor, read.stretch, read.last), (90, None, None));
    }

    /// JSON has no such numbers; a run that met one must be able to go on.
    #[test]
    fn a_checkpoint_with_figures_that_are_no_numbers_is_read() {
        let best = Best { step: 3, value: f64::NAN, metrics: [("perplexity".to_owned(), f64::INFINITY)].into(), since: 0 };
        let text = serde_json::to_vec_pretty(&State { best: Some(best), ..state() }).unwrap();
        let read: State = serde_json::from_slice(&text).unwrap();
        assert!(read.best.unwrap().value.is_nan() && read.last.unwrap().metrics["accuracy"].is_nan());
    }
}
