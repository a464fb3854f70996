//! The loss curve of a run as one self-contained SVG file: raw and smoothed training loss, held-out figures,
//! learning rate. It follows the reader's light or dark mode and needs no script and no font.
//!
//! It is drawn from the events of a run, or from its log:
//!
//! ```
//! # let folder = tempfile::tempdir().unwrap();
//! use cloze_train::curve::Curve;
//! use cloze_train::observer::{Event, Observer, Record};
//! let path = folder.path().join("curve.svg");
//! let mut curve = Curve::new(&path);
//! for step in 1..100 {
//!     curve.event(&Event::Step(Record { step, loss: 9.0 / (step as f64).sqrt(), ..Record::default() })).unwrap();
//! }
//! assert!(curve.svg().starts_with("<svg"));
//! ```

mod svg;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::figures::grouped;
use crate::files::{self, FileError};
use crate::log::read_log;
use crate::observer::{Eval, Event, Finished, Observer, Record, Start};
use svg::{Dots, Line, Panel, escape};

/// The points of the training loss are thinned to at most this many, so that a long run needs no more memory
/// than a short one.
const MOST_POINTS: usize = 4096;

/// The width of the picture in pixels.
const WIDTH: f64 = 960.0;

/// Gathers the figures of a run and draws them.
#[derive(Debug)]
pub struct Curve {
    path: PathBuf,
    start: Start,
    train: Thinned,
    /// By the name of the data: the figures of each evaluation, by step.
    evals: BTreeMap<String, BTreeMap<u64, Eval>>,
    last: Option<Record>,
    finished: Option<Finished>,
}

impl Curve {
    /// An empty curve that will be written to `path`.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            start: Start::default(),
            train: Thinned::default(),
            evals: BTreeMap::new(),
            last: None,
            finished: None,
        }
    }

    /// The curve of a log, to be written to `path`: that of a run that ended, or goes on now.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn from_log(log: &Path, path: &Path) -> Result<Self, FileError> {
        let mut curve = Self::new(path);
        for event in read_log(log)? {
            curve.take(&event);
        }
        Ok(curve)
    }

    /// Takes an event without writing anything.
    pub fn take(&mut self, event: &Event) {
        match event {
            Event::Start(start) => {
                self.start = start.clone();
                self.finished = None;
            }
            Event::Step(record) => {
                self.train.push(record);
                self.last = Some(record.clone());
            }
            Event::Eval(eval) => {
                self.evals.entry(eval.name.clone()).or_default().insert(eval.step, eval.clone());
            }
            Event::Finished(finished) => self.finished = Some(finished.clone()),
            Event::Checkpoint(_) | Event::Message(_) => {}
        }
    }

    /// Writes the picture to its file.
    ///
    /// # Errors
    /// When the disk fails; the picture before stays.
    pub fn write(&self) -> Result<(), FileError> {
        files::replace_file(&self.path, |out| out.write_all(self.svg().as_bytes()))
    }

    /// The picture.
    pub fn svg(&self) -> String {
        let last_step = self.last.as_ref().map_or(1, |record| record.step).max(self.finished.as_ref().map_or(1, |f| f.step));
        let steps = (0.0, last_step.max(1) as f64);
        let train = |value: fn(&Sample) -> f64| -> Vec<(f64, f64)> {
            let points = self.train.points().map(|sample| (sample.step, value(&sample)));
            points.filter(|(_, y)| y.is_finite()).collect()
        };
        let loss = train(|sample| sample.loss);
        let accuracy = train(|sample| sample.accuracy);
        let rate = train(|sample| sample.learning_rate);

        let mut panels = Vec::new();
        let mut figure = Panel::new("loss", 330.0);
        figure.lines.push(Line { class: "raw", name: "training, each step", points: thin(&loss, 900) });
        figure.lines.push(Line { class: "train", name: "training, smoothed", points: thin(&smooth(&loss), 400) });
        figure.dots = self.dots(Eval::loss);
        panels.push(figure);

        let accuracy_dots = self.dots(Eval::accuracy);
        if accuracy_dots.iter().any(|dots| !dots.points.is_empty()) {
            let mut figure = Panel::new("accuracy", 130.0);
            figure.lines.push(Line { class: "train", name: "", points: thin(&smooth(&accuracy), 400) });
            figure.dots = accuracy_dots;
            panels.push(figure);
        }
        let mut figure = Panel::new("learning rate", 80.0);
        figure.from_zero = true;
        figure.lines.push(Line { class: "rate", name: "", points: thin(&rate, 400) });
        panels.push(figure);
        svg::draw(WIDTH, steps, &escape(&self.title()), &escape(&self.subtitle()), &panels)
    }

    /// The training loss in at most `most` points.
    pub fn training_loss(&self, most: usize) -> TrainingLoss {
        let points = self.train.points().map(|sample| (sample.step, sample.loss));
        let finite: Vec<_> = points.filter(|point| point.1.is_finite()).collect();
        let raw = thin(&finite, most);
        let smoothed = smooth(&raw);
        TrainingLoss { raw, smoothed }
    }

    /// The evaluations of all data, by step.
    pub fn evals(&self) -> Vec<&Eval> {
        let mut evals: Vec<_> = self.evals.values().flat_map(BTreeMap::values).collect();
        evals.sort_by_key(|eval| eval.step);
        evals
    }

    fn title(&self) -> String {
        if self.start.title.is_empty() { "Training".to_owned() } else { self.start.title.clone() }
    }

    fn subtitle(&self) -> String {
        let mut parts = Vec::new();
        if self.start.parameters > 0 {
            parts.push(format!("{:.1} M parameters", self.start.parameters as f64 / 1e6));
        }
        if let Some(record) = &self.last {
            parts.push(format!("{} steps", grouped(record.step)));
            parts.push(format!("{:.1} M tokens", record.tokens as f64 / 1e6));
            parts.push(format!("{:.1} min", record.seconds / 60.0));
        }
        for (name, evals) in &self.evals {
            let loss = |eval: &Eval| eval.loss().filter(|loss| loss.is_finite());
            if let Some(best) = evals.values().filter_map(loss).min_by(f64::total_cmp) {
                parts.push(format!("best {name} loss {best:.3}"));
            }
        }
        parts.join(" · ")
    }

    fn dots(&self, figure: fn(&Eval) -> Option<f64>) -> Vec<Dots> {
        let sets = self.evals.iter().enumerate().map(|(place, (name, evals))| {
            let points: Vec<(f64, f64)> =
                evals.values().filter_map(|eval| Some((eval.step as f64, figure(eval)?))).filter(|(_, value)| value.is_finite()).collect();
            let best = evals.values().rev().find(|eval| eval.best).map(|eval| eval.step as f64);
            Dots { class: if place == 0 { "eval" } else { "eval2" }, name: name.clone(), points, best }
        });
        sets.collect()
    }
}

impl Observer for Curve {
    /// Takes the event; the picture is written at every evaluation, checkpoint and at the end.
    fn event(&mut self, event: &Event) -> Result<(), FileError> {
        self.take(event);
        match event {
            Event::Eval(_) | Event::Checkpoint(_) | Event::Finished(_) => self.write(),
            Event::Start(_) | Event::Step(_) | Event::Message(_) => Ok(()),
        }
    }
}

/// The training loss as points (step, loss).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrainingLoss {
    /// As it was.
    pub raw: Vec<(f64, f64)>,
    /// Without the noise.
    pub smoothed: Vec<(f64, f64)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    step: f64,
    loss: f64,
    accuracy: f64,
    learning_rate: f64,
}

impl Sample {
    fn of(record: &Record) -> Self {
        Self {
            step: record.step as f64,
            loss: record.loss,
            accuracy: record.accuracy.unwrap_or(f64::NAN),
            learning_rate: record.learning_rate,
        }
    }

    fn mean(samples: &[Self]) -> Self {
        let mean = |value: fn(&Self) -> f64| samples.iter().map(value).sum::<f64>() / samples.len() as f64;
        Self { step: mean(|s| s.step), loss: mean(|s| s.loss), accuracy: mean(|s| s.accuracy), learning_rate: mean(|s| s.learning_rate) }
    }
}

/// Samples, each the mean of `stride` steps; the stride doubles when they become too many.
#[derive(Debug)]
struct Thinned {
    stride: usize,
    whole: Vec<Sample>,
    pending: Vec<Sample>,
}

impl Default for Thinned {
    fn default() -> Self {
        Self { stride: 1, whole: Vec::new(), pending: Vec::new() }
    }
}

impl Thinned {
    fn push(&mut self, record: &Record) {
        self.pending.push(Sample::of(record));
        if self.pending.len() < self.stride {
            return;
        }
        self.whole.push(Sample::mean(&self.pending));
        self.pending.clear();
        if self.whole.len() == MOST_POINTS {
            self.whole = self.whole.chunks(2).map(Sample::mean).collect();
            self.stride *= 2;
        }
    }

    fn points(&self) -> impl Iterator<Item = Sample> {
        let rest = (!self.pending.is_empty()).then(|| Sample::mean(&self.pending));
        self.whole.iter().copied().chain(rest)
    }
}

/// The mean of each point's neighbours under a Gaussian window, narrow at the fast beginning: a curve without
/// the lag of a running average.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let count = points.len();
    let widest = (count as f64 / 60.0).max(1.0);
    let smoothed = (0..count).map(|at| {
        let sigma = (at as f64 / 5.0).clamp(0.5, widest);
        let reach = (3.0 * sigma) as usize;
        // as far to the left as to the right, so that the ends are not bent
        let reach = reach.min(at).min(count - 1 - at);
        let (mut sum, mut weights) = (0.0, 0.0);
        for near in at - reach..=at + reach {
            let distance = near as f64 - at as f64;
            let weight = (-0.5 * (distance / sigma).powi(2)).exp();
            sum += weight * points[near].1;
            weights += weight;
        }
        (points[at].0, sum / weights)
    });
    let mut smoothed: Vec<_> = smoothed.collect();
    // the last points have no right neighbours: their level is that of the last stretch, not of the last step
    let tail = (widest as usize).min(count / 4);
    if tail > 1 {
        let level = points[count - tail..].iter().map(|point| point.1).sum::<f64>() / tail as f64;
        let from = smoothed[count - tail - 1].1;
        for (place, point) in smoothed[count - tail..].iter_mut().enumerate() {
            point.1 = from + (level - from) * (place + 1) as f64 / tail as f64;
        }
    }
    smoothed
}

/// At most `most` points, each the mean of its stretch.
fn thin(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    let stride = points.len().div_ceil(most).max(1);
    let mean = |chunk: &[(f64, f64)], part: fn(&(f64, f64)) -> f64| chunk.iter().map(part).sum::<f64>() / chunk.len() as f64;
    points.chunks(stride).map(|chunk| (mean(chunk, |p| p.0), mean(chunk, |p| p.1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observer::Reason;

    /// A run that looks like one, from a fixed sequence of pseudo-random numbers.
    fn run(steps: u64) -> Vec<Event> {
        let mut seed = 7u64;
        let mut noise = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as f64 / 2f64.powi(30) - 1.0
        };
        let start = Start { title: "English mini, 4×256".into(), parameters: 5_400_000, device: "cpu".into(), ..Start::default() };
        let mut events = vec![Event::Start(start)];
        for step in 1..=steps {
            let p = step as f64 / steps as f64;
            let trend = 2.4 + 6.6 * (-p * 14.0).exp() + 1.1 * (-p * 2.0).exp();
            let learning_rate = 1e-3 * if p < 0.06 { p / 0.06 } else { (1.0 - p) / 0.94 };
            let record = Record {
                step,
                loss: trend + 0.22 * noise(),
                accuracy: Some(0.6 - trend / 20.0 + 0.02 * noise()),
                learning_rate,
                tokens: step * 8192,
                seconds: step as f64 * 1.5,
                ..Record::default()
            };
            events.push(Event::Step(record));
            if step % (steps / 12) == 0 {
                let metrics = [("loss".to_owned(), trend + 0.12), ("accuracy".to_owned(), 0.59 - trend / 20.0)].into();
                events.push(Event::Eval(Eval { step, name: "dev".into(), metrics, best: true, ..Eval::default() }));
            }
        }
        events.push(Event::Finished(Finished { step: steps, reason: Reason::Completed, ..Finished::default() }));
        events
    }

    fn curve(events: &[Event]) -> Curve {
        let mut curve = Curve::new(Path::new("curve.svg"));
        events.iter().for_each(|event| curve.take(event));
        curve
    }

    #[test]
    fn the_picture() {
        let svg = curve(&run(60)).svg();
        if let Ok(path) = std::env::var("CLOZE_CURVE") {
            let large = curve(&run(2400)).svg();
            std::fs::write(path, large).unwrap();
        }
        insta::assert_snapshot!(svg);
    }

    /// Pre-training has its figures by the name of the loss.
    #[test]
    fn held_out_figures_of_a_pretraining() {
        let eval = |step, loss, accuracy| {
            let metrics = [("mlm_loss", loss), ("mlm_accuracy", accuracy), ("nsp_loss", 0.5), ("nsp_accuracy", 0.9), ("perplexity", 8.0)];
            let metrics = metrics.map(|(name, value)| (name.to_owned(), value)).into();
            Event::Eval(Eval { step, name: "dev".into(), metrics, best: true, ..Eval::default() })
        };
        let step = |step| Event::Step(Record { step, loss: 4.0, accuracy: Some(0.2), ..Record::default() });
        let curve = curve(&[step(1), eval(1, 3.5, 0.25), step(2), eval(2, 2.5, 0.375)]);
        // as in training, the loss is that of both heads, and the accuracy that of the language model
        let points = |figure| curve.dots(figure)[0].points.clone();
        assert_eq!(points(Eval::loss), [(1.0, 4.0), (2.0, 3.0)]);
        assert_eq!(points(Eval::accuracy), [(1.0, 0.25), (2.0, 0.375)]);
        let svg = curve.svg();
        assert!(svg.contains("best dev loss 3.000") && svg.contains(">accuracy<"), "{svg}");
        assert_eq!(Eval::default().loss().or(Eval::default().accuracy()), None);
    }

    #[test]
    fn numbers_in_the_picture_are_finite_even_for_odd_runs() {
        let step = |step, loss| Event::Step(Record { step, loss, ..Record::default() });
        let eval = |step, loss| {
            let metrics = [("loss".to_owned(), loss)].into();
            Event::Eval(Eval { step, name: "a<b>&\"dev\"".into(), metrics, ..Eval::default() })
        };
        let odd: [&[Event]; 6] = [
            &[],
            &[step(1, 2.0)],
            &[step(1, 2.0), step(2, 2.0)],
            &[step(1, f64::NAN), eval(1, f64::NAN)],
            &[eval(0, 3.0), step(1, f64::INFINITY), step(2, 1e300), eval(2, 3.0)],
            &[step(5, 0.0), step(6, -1e-12)],
        ];
        for events in odd {
            let svg = curve(events).svg();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert!(!svg.contains("a<b>"), "names are escaped");
            assert!(svg.len() < 20_000);
        }
    }

    #[test]
    fn a_long_run_is_thinned_and_keeps_its_mean() {
        let mut thinned = Thinned::default();
        for step in 1..=100_000 {
            thinned.push(&Record { step, loss: step as f64, ..Record::default() });
        }
        let points: Vec<_> = thinned.points().collect();
        assert!(points.len() < MOST_POINTS && points.len() >= MOST_POINTS / 2);
        assert!(points.iter().all(|sample| (sample.step - sample.loss).abs() < 1e-9));
        assert!(points.windows(2).all(|pair| pair[0].step < pair[1].step));
    }

    #[test]
    fn smoothing_keeps_a_straight_line_and_removes_noise() {
        let line: Vec<_> = (0..400).map(|x| (x as f64, 5.0 - x as f64 * 0.01)).collect();
        for (smoothed, point) in smooth(&line).iter().zip(&line) {
            assert!((smoothed.1 - point.1).abs() < 0.05, "{smoothed:?} {point:?}");
        }
        let zigzag: Vec<_> = (0..400).map(|x| (x as f64, if x % 2 == 0 { 1.0 } else { 3.0 })).collect();
        assert!(smooth(&zigzag)[50..].iter().all(|point| (point.1 - 2.0).abs() < 0.2));
        assert!(smooth(&[]).is_empty());
    }

    #[test]
    fn written_at_each_evaluation_and_the_same_from_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curve.svg");
        let mut log = crate::log::JsonlLog::create(&folder.path().join("log.jsonl")).unwrap();
        let mut live = Curve::new(&path);
        for event in run(60) {
            log.event(&event).unwrap();
            live.event(&event).unwrap();
            assert_eq!(path.exists(), event.step() >= 5 && !matches!(event, Event::Step(Record { step: 5, .. })));
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), live.svg());
        let again = Curve::from_log(&folder.path().join("log.jsonl"), &path).unwrap();
        assert_eq!(again.svg(), live.svg());
    }
}
