//! What a run tells the outside: one list of [`Event`]s for the terminal, the log, TensorBoard and the curve.
//!
//! An event is also one line of the JSONL log. A display is an [`Observer`]; [`Observers`] passes each event
//! to all of them, and a display that fails is dropped with a warning to the rest, never the run with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::files::FileError;

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run begins or goes on.
    Start(Start),
    /// An optimizer step is done.
    Step(Record),
    /// An evaluation is done.
    Eval(Eval),
    /// A checkpoint is on the disk.
    Checkpoint(Saved),
    /// A line for people.
    Message(Message),
    /// The run is over.
    Finished(Finished),
}

impl Event {
    /// The number of optimizer steps done when it happened.
    pub fn step(&self) -> u64 {
        match self {
            Self::Start(start) => start.step,
            Self::Step(record) => record.step,
            Self::Eval(eval) => eval.step,
            Self::Checkpoint(saved) => saved.step,
            Self::Message(message) => message.step,
            Self::Finished(finished) => finished.step,
        }
    }

    /// A note for people.
    pub fn note(step: u64, text: impl Into<String>) -> Self {
        Self::Message(Message { step, level: Level::Note, text: text.into() })
    }

    /// A warning for people.
    pub fn warning(step: u64, text: impl Into<String>) -> Self {
        Self::Message(Message { step, level: Level::Warning, text: text.into() })
    }

    /// A training example as the model sees it, such as a masked sentence and what was predicted.
    pub fn example(step: u64, text: impl Into<String>) -> Self {
        Self::Message(Message { step, level: Level::Example, text: text.into() })
    }
}

/// The first event of a run, and of every resumption of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Start {
    /// What the run is called: the headline of the displays.
    pub title: String,
    /// Steps already done: 0, or where a resumed run goes on.
    pub step: u64,
    /// Steps of the whole run, where the budget says it.
    pub total_steps: Option<u64>,
    /// The budget as in the recipe: `30m`, `10000 steps`.
    pub budget: String,
    /// The machine: device, instruction set, threads.
    pub device: String,
    /// Parameters of the model.
    pub parameters: u64,
    /// Seconds since 1970.
    pub unix_time: u64,
    /// The whole configuration of the run.
    pub config: serde_json::Value,
}

/// The figures of one optimizer step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Steps done, this one included.
    pub step: u64,
    /// The share of the budget that is spent, 0 … 1.
    pub progress: f64,
    /// Passes over the training data.
    pub epoch: f64,
    /// Tokens seen since the beginning.
    pub tokens: u64,
    /// The sum of the losses.
    #[serde(with = "number")]
    pub loss: f64,
    /// Its parts by name: `mlm`, `nsp`.
    #[serde(with = "numbers", skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, f64>,
    /// The share of targets predicted right, 0 … 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// `exp` of the language-model loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// The norm of the gradient before clipping.
    #[serde(with = "number")]
    pub grad_norm: f64,
    /// Tokens a second since the last record.
    pub tokens_per_second: f64,
    /// Achieved ÷ peak arithmetic of the machine, 0 … 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_of_peak: Option<f64>,
    /// Resident memory in MB (10⁶ bytes).
    pub memory_mb: f64,
    /// The most resident memory so far, in MB.
    pub memory_peak_mb: f64,
    /// Seconds of training since the beginning.
    pub seconds: f64,
    /// Seconds still to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<f64>,
}

/// The figures of an evaluation on held-out data.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Eval {
    /// Steps done.
    pub step: u64,
    /// Seconds of training since the beginning.
    pub seconds: f64,
    /// The name of the data: `dev`.
    pub name: String,
    /// The figures by name: `loss`, `accuracy`, `perplexity`, `macro_f1`.
    #[serde(with = "numbers")]
    pub metrics: BTreeMap<String, f64>,
    /// Whether it is the best so far.
    pub best: bool,
}

impl Eval {
    /// What stands beside the loss of a [`Record`]: `loss`, or the sum of its parts (`mlm_loss`, `nsp_loss`).
    pub fn loss(&self) -> Option<f64> {
        let parts = || self.metrics.iter().filter(|(name, _)| name.ends_with("_loss")).map(|(_, loss)| *loss).reduce(|a, b| a + b);
        self.metrics.get("loss").copied().or_else(parts)
    }

    /// What stands beside the accuracy of a [`Record`]: `accuracy`, or that of the language model.
    pub fn accuracy(&self) -> Option<f64> {
        self.metrics.get("accuracy").or_else(|| self.metrics.get("mlm_accuracy")).copied()
    }
}

/// A checkpoint that is complete on the disk.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    /// Steps done.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// How long training waited for it.
    pub seconds: f64,
    /// Whether it is kept as the best.
    pub best: bool,
}

/// A line for people.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Message {
    /// Steps done.
    pub step: u64,
    /// What kind of line.
    pub level: Level,
    /// The line.
    pub text: String,
}

/// The kinds of [`Message`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Good to know.
    #[default]
    Note,
    /// Something to look at.
    Warning,
    /// A training example as the model sees it.
    Example,
}

/// The last event of a run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Finished {
    /// Steps done.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Why it is over.
    pub reason: Reason,
    /// Where the result is.
    pub path: Option<PathBuf>,
    /// The figures at the end, by name.
    #[serde(with = "numbers")]
    pub metrics: BTreeMap<String, f64>,
}

/// Why a run is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The budget is spent.
    #[default]
    Completed,
    /// The figures on held-out data got no better.
    EarlyStop,
    /// Somebody asked for it; `--resume` goes on from here.
    Stopped,
}

/// JSON has no NaN or infinity: they are written as `null`, which reads as NaN.
pub(crate) mod number {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() { serializer.serialize_f64(*value) } else { serializer.serialize_none() }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

pub(crate) mod numbers {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::collections::BTreeMap;

    pub(crate) fn serialize<S: Serializer>(map: &BTreeMap<String, f64>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(map.iter().map(|(name, value)| (name, value.is_finite().then_some(*value))))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
        let map = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
        Ok(map.into_iter().map(|(name, value)| (name, value.unwrap_or(f64::NAN))).collect())
    }
}

/// A display or a log of a run.
pub trait Observer: Send {
    /// Takes one event.
    ///
    /// # Errors
    /// When the event cannot be written; the observer then gets no further event and the run goes on.
    fn event(&mut self, event: &Event) -> Result<(), FileError>;
}

impl Observer for Box<dyn Observer> {
    fn event(&mut self, event: &Event) -> Result<(), FileError> {
        (**self).event(event)
    }
}

/// All observers of a run.
#[derive(Default)]
pub struct Observers {
    list: Vec<Box<dyn Observer>>,
}

impl Observers {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one at the end.
    pub fn add(&mut self, observer: impl Observer + 'static) {
        self.list.push(Box::new(observer));
    }

    /// Passes the event to all, in the order in which they were added.
    pub fn event(&mut self, event: &Event) {
        let mut warnings = Vec::new();
        self.list.retain_mut(|observer| match observer.event(event) {
            Ok(()) => true,
            Err(error) => {
                warnings.push(format!("{error}; the run goes on without this file"));
                false
            }
        });
        for text in warnings {
            self.event(&Event::warning(event.step(), text));
        }
    }
}

/// What people ask of a running run, from a signal or a key; share it in an `Arc`.
#[derive(Debug, Default)]
pub struct Control {
    stop: AtomicBool,
    paused: Mutex<bool>,
    changed: Condvar,
}

impl Control {
    /// Asks for a checkpoint and the end, after the current step.
    pub fn request_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Whether the end was asked for.
    pub fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Pauses or goes on after the current step.
    pub fn set_paused(&self, paused: bool) {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = paused;
        self.changed.notify_all();
    }

    /// Whether a pause was asked for.
    pub fn is_paused(&self) -> bool {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called between two steps: waits while paused, and tells how long, which a budget in time does not count.
    pub fn wait_while_paused(&self) -> Duration {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        if !*paused {
            return Duration::ZERO;
        }
        let start = Instant::now();
        while *paused && !self.stop_requested() {
            // a signal handler stores the flag without a notice, so look again now and then
            let wait = self.changed.wait_timeout(paused, Duration::from_millis(100));
            paused = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        start.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn every_event_survives_json() {
        let metrics = BTreeMap::from([("loss".to_owned(), 2.5), ("accuracy".to_owned(), 0.5)]);
        let events = [
            Event::Start(Start { title: "mini".into(), config: serde_json::json!({"seed": 1}), ..Start::default() }),
            Event::Step(Record { step: 7, loss: 1.25, parts: metrics.clone(), accuracy: Some(0.5), ..Record::default() }),
            Event::Eval(Eval { step: 7, name: "dev".into(), metrics: metrics.clone(), best: true, ..Eval::default() }),
            Event::Checkpoint(Saved { step: 8, path: "checkpoint-8".into(), bytes: 3, ..Saved::default() }),
            Event::warning(9, "look"),
            Event::Finished(Finished { step: 9, reason: Reason::EarlyStop, metrics, ..Finished::default() }),
        ];
        for event in events {
            let line = serde_json::to_string(&event).unwrap();
            assert!(!line.contains('\n'));
            let back: Event = serde_json::from_str(&line).unwrap();
            assert_eq!(back, event, "{line}");
            assert_eq!(back.step(), event.step());
        }
    }

    #[test]
    fn nan_is_null_and_nan_again() {
        let parts = BTreeMap::from([("mlm".to_owned(), f64::NAN)]);
        let record = Record { loss: f64::INFINITY, grad_norm: f64::NAN, parts, accuracy: Some(f64::NAN), ..Record::default() };
        let line = serde_json::to_string(&Event::Step(record)).unwrap();
        assert!(line.contains("\"loss\":null") && line.contains("\"mlm\":null"), "{line}");
        let Event::Step(back) = serde_json::from_str(&line).unwrap() else { panic!("not a step: {line}") };
        assert!(back.loss.is_nan() && back.grad_norm.is_nan() && back.parts["mlm"].is_nan());
        assert_eq!(back.accuracy, None);
    }

    #[test]
    fn a_failing_observer_is_dropped_and_the_others_are_told() {
        struct Full;
        impl Observer for Full {
            fn event(&mut self, _: &Event) -> Result<(), FileError> {
                let full = std::io::ErrorKind::StorageFull.into();
                Err(FileError::io(crate::files::Operation::Write, "log.jsonl", full))
            }
        }
        struct Keep(Arc<Mutex<Vec<Event>>>);
        impl Observer for Keep {
            fn event(&mut self, event: &Event) -> Result<(), FileError> {
                self.0.lock().unwrap().push(event.clone());
                Ok(())
            }
        }
        let kept = Arc::new(Mutex::new(Vec::new()));
        let mut observers = Observers::new();
        observers.add(Full);
        observers.add(Keep(Arc::clone(&kept)));
        observers.event(&Event::note(1, "one"));
        observers.event(&Event::note(2, "two"));
        let kept = kept.lock().unwrap();
        assert_eq!(kept.len(), 3);
        assert!(matches!(&kept[1], Event::Message(m) if m.level == Level::Warning && m.text.contains("log.jsonl")));
    }

    #[test]
    fn a_pause_ends_with_the_key_or_with_the_stop() {
        let control = Arc::new(Control::default());
        assert_eq!(control.wait_while_paused(), Duration::ZERO);
        for stop in [false, true] {
            control.set_paused(true);
            let other = Arc::clone(&control);
            let waiter = std::thread::spawn(move || other.wait_while_paused());
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waiter.is_finished());
            if stop {
                control.request_stop()
            } else {
                control.set_paused(false)
            }
            assert!(waiter.join().unwrap() >= Duration::from_millis(5));
        }
        assert!(control.stop_requested());
    }
}
