//! Progress of a run on the terminal: a bar where there is a terminal, plain lines where there is none.
//!
//! All of it goes to standard error; standard output belongs to results.

use std::io::{self, IsTerminal, Write};

use cloze_train::figures::{clock, format_bytes, grouped, percent, rate};
use cloze_train::files::{FileError, Operation};
use cloze_train::observer::{Eval, Event, Finished, Level, Observer, Reason, Record, Saved, Start};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The display that fits: nothing but warnings when `quiet`, a bar on a terminal, else plain lines.
pub(crate) fn display(quiet: bool) -> Box<dyn Observer> {
    if quiet {
        Box::new(Lines::new(io::stderr(), true))
    } else if io::stderr().is_terminal() {
        Box::new(Bar::new(ProgressDrawTarget::stderr_with_hz(8)))
    } else {
        Box::new(Lines::new(io::stderr(), false))
    }
}

// ---------------------------------------------------------------------------------------------- lines

/// One line each few seconds, and one for whatever else happens.
pub(crate) struct Lines<W> {
    out: W,
    quiet: bool,
    /// Seconds of training between two lines of figures.
    every: f64,
    next: f64,
    total_steps: Option<u64>,
}

impl<W: Write + Send> Lines<W> {
    /// Only warnings when `quiet`.
    pub(crate) fn new(out: W, quiet: bool) -> Self {
        Self { out, quiet, every: 5.0, next: 0.0, total_steps: None }
    }

    fn line(&mut self, text: &str) -> Result<(), FileError> {
        match writeln!(self.out, "{text}") {
            // nobody reads any more, as after `| head`: no reason to stop training
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|source| FileError::io(Operation::Write, "standard error", source)),
        }
    }
}

impl<W: Write + Send> Observer for Lines<W> {
    fn event(&mut self, event: &Event) -> Result<(), FileError> {
        if let Event::Message(message) = event
            && message.level == Level::Warning
        {
            return self.line(&format!("warning: {}", message.text));
        }
        if self.quiet {
            return Ok(());
        }
        match event {
            Event::Start(start) => {
                self.total_steps = start.total_steps;
                self.next = 0.0;
                self.line(&headline(start))
            }
            Event::Step(record) if record.seconds < self.next => Ok(()),
            Event::Step(record) => {
                self.next = record.seconds + self.every;
                let left = record.eta_seconds.map(|eta| format!("  {} left", clock(eta))).unwrap_or_default();
                self.line(&format!(
                    "{}  {:>5}  {}  {} elapsed{left}",
                    steps(record.step, self.total_steps),
                    share(record.progress),
                    figures(record).join("  "),
                    clock(record.seconds)
                ))
            }
            Event::Eval(eval) => self.line(&evaluation(eval)),
            Event::Checkpoint(saved) => self.line(&checkpoint(saved)),
            Event::Message(message) => self.line(&message.text),
            Event::Finished(finished) => self.line(&summary(finished)),
        }
    }
}

// ------------------------------------------------------------------------------------------------ bar

/// Two lines that stay at the bottom of the terminal; what else happens scrolls by above them.
pub(crate) struct Bar {
    bar: ProgressBar,
    total_steps: Option<u64>,
    /// Columns of the terminal; `None` asks for them each time.
    width: Option<usize>,
}

/// The bar counts in these parts of the budget, which may be a time.
const PARTS: f64 = 100_000.0;

impl Bar {
    pub(crate) fn new(target: ProgressDrawTarget) -> Self {
        let bar = ProgressBar::with_draw_target(Some(PARTS as u64), target);
        // a template of our own: it cannot be refused
        if let Ok(style) = ProgressStyle::with_template("{prefix}  {bar:28.cyan/blue.dim}  {msg}") {
            bar.set_style(style.progress_chars("━━╌"));
        }
        Self { bar, total_steps: None, width: None }
    }

    fn width(&self) -> usize {
        self.width.unwrap_or_else(|| ratatui::crossterm::terminal::size().map_or(80, |(columns, _)| columns.into()))
    }

    fn line(&self, style: &str, text: &str) {
        let plain = std::env::var_os("NO_COLOR").is_some();
        for line in text.lines() {
            self.bar.println(if plain || style.is_empty() { line.to_owned() } else { format!("\x1b[{style}m{line}\x1b[0m") });
        }
    }
}

impl Observer for Bar {
    fn event(&mut self, event: &Event) -> Result<(), FileError> {
        match event {
            Event::Start(start) => {
                self.total_steps = start.total_steps;
                self.line("1", &headline(start));
                self.bar.set_prefix(steps(start.step, start.total_steps));
                self.bar.set_message("first step …");
                self.bar.tick();
            }
            Event::Step(record) => {
                let left = record.eta_seconds.map(|eta| format!("{} left", clock(eta))).unwrap_or_default();
                self.bar.set_position((record.progress * PARTS) as u64);
                self.bar.set_prefix(steps(record.step, self.total_steps));
                self.bar.set_message(format!(
                    "{}  {} elapsed  {left}\n{}",
                    share(record.progress),
                    clock(record.seconds),
                    fitting(&figures(record), self.width())
                ));
            }
            Event::Eval(eval) => self.line(if eval.best { "32" } else { "" }, &evaluation(eval)),
            Event::Checkpoint(saved) => self.line("2", &checkpoint(saved)),
            Event::Message(message) => match message.level {
                Level::Note => self.line("", &message.text),
                Level::Warning => self.line("33", &format!("warning: {}", message.text)),
                Level::Example => self.line("36", &message.text),
            },
            Event::Finished(finished) => {
                self.line("1", &summary(finished));
                self.bar.finish_and_clear();
            }
        }
        Ok(())
    }
}

impl Drop for Bar {
    /// A run that ends in an error leaves the terminal clean for it.
    fn drop(&mut self) {
        if !self.bar.is_finished() {
            self.bar.finish_and_clear();
        }
    }
}

// ---------------------------------------------------------------------------------------------- words

/// `English mini · 5.4 M parameters · cpu, 2 threads · budget 30m`.
pub(crate) fn headline(start: &Start) -> String {
    let mut parts = vec![if start.title.is_empty() { "Training".to_owned() } else { start.title.clone() }];
    if start.parameters > 0 {
        parts.push(format!("{:.1} M parameters", start.parameters as f64 / 1e6));
    }
    let budget = if start.budget.is_empty() { String::new() } else { format!("budget {}", start.budget) };
    let resumed = if start.step > 0 { format!("goes on after step {}", grouped(start.step)) } else { String::new() };
    parts.extend([start.device.clone(), budget, resumed].into_iter().filter(|part| !part.is_empty()));
    parts.join(" · ")
}

fn steps(step: u64, total: Option<u64>) -> String {
    match total {
        Some(total) => format!("step {:>width$}/{}", grouped(step), grouped(total), width = grouped(total).len()),
        None => format!("step {:>6}", grouped(step)),
    }
}

fn share(progress: f64) -> String {
    format!("{:.1}%", progress * 100.0)
}

/// The figures of a step, each with its name, the most important first.
pub(crate) fn figures(record: &Record) -> Vec<String> {
    let mut figures = vec![format!("loss {:.3}", record.loss)];
    figures.extend(record.accuracy.map(|accuracy| format!("acc {:.1}%", accuracy * 100.0)));
    figures.push(format!("lr {}", rate(record.learning_rate)));
    figures.push(format!("grad {:.2}", record.grad_norm));
    figures.push(format!("{} tok/s", grouped(record.tokens_per_second.max(0.0).round() as u64)));
    figures.extend(record.share_of_peak.map(|share| format!("{:.0}% of peak", share * 100.0)));
    if record.memory_mb > 0.0 {
        figures.push(format_bytes((record.memory_mb * 1e6) as u64));
    }
    if record.parts.len() > 1 {
        let parts: Vec<_> = record.parts.iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
        figures.push(format!("({})", parts.join(", ")));
    }
    figures
}

/// As many of the figures as a line of the terminal holds.
fn fitting(figures: &[String], width: usize) -> String {
    let mut line = String::new();
    for figure in figures {
        let gap = if line.is_empty() { "" } else { "  " };
        if line.chars().count() + gap.len() + figure.chars().count() > width {
            break;
        }
        line += gap;
        line += figure;
    }
    line
}

/// `dev at step 500: loss 2.310, accuracy 55.1 % (best so far)`.
pub(crate) fn evaluation(eval: &Eval) -> String {
    let best = if eval.best { "  (best so far)" } else { "" };
    format!("{} at step {}: {}{best}", eval.name, grouped(eval.step), metrics(&eval.metrics))
}

/// Loss first, then the others by name; shares as percentages.
fn metrics(metrics: &std::collections::BTreeMap<String, f64>) -> String {
    let mut sorted: Vec<_> = metrics.iter().collect();
    sorted.sort_by_key(|(name, _)| (*name != "loss", *name));
    let figures = sorted.into_iter().map(|(name, value)| format!("{} {}", name.replace('_', " "), metric(name, *value)));
    figures.collect::<Vec<_>>().join(", ")
}

/// A figure in the form that its name asks for.
pub(crate) fn metric(name: &str, value: f64) -> String {
    if name == "candidates" {
        format!("{value}")
    } else if name.contains("accuracy") {
        percent(value)
    } else if name.contains("perplexity") && value >= 100.0 {
        format!("{value:.0}")
    } else if name.contains("perplexity") {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

fn checkpoint(saved: &Saved) -> String {
    let best = if saved.best { ", the best" } else { "" };
    format!("checkpoint {} ({} in {:.1} s{best})", saved.path.display(), format_bytes(saved.bytes), saved.seconds)
}

/// The last line of a run.
pub(crate) fn summary(finished: &Finished) -> String {
    let reason = match finished.reason {
        Reason::Completed => "finished",
        Reason::EarlyStop => "stopped early: the held-out figures got no better;",
        Reason::Stopped => "stopped; --resume goes on from here;",
    };
    let speed = if finished.seconds > 0.0 { finished.tokens as f64 / finished.seconds } else { 0.0 };
    let mut text = format!(
        "{reason} {} steps, {} tokens in {} ({} tok/s)",
        grouped(finished.step),
        grouped(finished.tokens),
        clock(finished.seconds),
        grouped(speed.round() as u64)
    );
    if !finished.metrics.is_empty() {
        text += &format!(": {}", metrics(&finished.metrics));
    }
    if let Some(path) = &finished.path {
        text += &format!("\nsaved in {}", path.display());
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use indicatif::InMemoryTerm;
    use std::sync::{Arc, Mutex};

    /// A run that looks like one: the same events every time.
    pub(crate) fn run() -> Vec<Event> {
        let start = Start {
            title: "English mini, 4×256".into(),
            total_steps: Some(1200),
            budget: "1200 steps".into(),
            device: "cpu avx512, 2 threads".into(),
            parameters: 5_400_000,
            ..Start::default()
        };
        let mut events = vec![Event::Start(start), Event::note(0, "3,412 documents, 41 held out")];
        for step in 1..=700u64 {
            let p = step as f64 / 1200.0;
            let wobble = ((step * 37) % 23) as f64 / 23.0 - 0.5;
            let loss = 2.4 + 6.6 * (-p * 12.0).exp() + 0.3 * wobble;
            events.push(Event::Step(Record {
                step,
                progress: p,
                epoch: p * 2.0,
                tokens: step * 8192,
                loss,
                parts: [("mlm".to_owned(), loss - 0.4), ("nsp".to_owned(), 0.4)].into(),
                accuracy: Some(0.6 - loss / 20.0),
                perplexity: Some(loss.exp()),
                learning_rate: 1e-3 * (1.0 - p),
                grad_norm: 0.8 + 0.3 * wobble,
                tokens_per_second: 8123.0 + 700.0 * wobble,
                share_of_peak: Some(0.62),
                memory_mb: 812.0,
                memory_peak_mb: 845.0,
                seconds: step as f64 * 1.01,
                eta_seconds: Some((1200 - step) as f64 * 1.01),
            }));
            if step % 200 == 0 {
                let metrics = [
                    ("loss".to_owned(), loss + 0.1),
                    ("accuracy".to_owned(), 0.59 - loss / 20.0),
                    ("perplexity".to_owned(), (loss + 0.1).exp()),
                ];
                let eval = Eval { step, name: "dev".into(), metrics: metrics.into(), best: true, seconds: step as f64 };
                events.push(Event::Eval(eval));
                let path = format!("runs/mini/checkpoint-{step}").into();
                events.push(Event::Checkpoint(Saved { step, path, bytes: 64_800_000, seconds: 0.21, best: true }));
                events.push(Event::example(step, "the cat [MASK→sat ✓] on the [MASK→mat ✗ dog]"));
            }
        }
        events.push(Event::warning(700, "12 lines were skipped: invalid UTF-8"));
        events
    }

    fn finished() -> Event {
        let metrics = [("loss".to_owned(), 2.31), ("accuracy".to_owned(), 0.551)].into();
        let path = Some("runs/mini/model".into());
        Event::Finished(Finished { step: 1200, tokens: 9_830_400, seconds: 1212.0, reason: Reason::Completed, path, metrics })
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn told(quiet: bool) -> String {
        let shared = Shared::default();
        let mut lines = Lines::new(shared.clone(), quiet);
        for event in run().into_iter().filter(|event| event.step() <= 210 || event.step() == 700).chain([finished()]) {
            lines.event(&event).unwrap();
        }
        let bytes = shared.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn plain_lines() {
        let text = told(false);
        let shown: Vec<_> = text.lines().enumerate().filter(|(place, _)| !(6..40).contains(place)).map(|(_, line)| line).collect();
        insta::assert_snapshot!(shown.join("\n"));
    }

    #[test]
    fn quiet_is_warnings_only() {
        assert_eq!(told(true), "warning: 12 lines were skipped: invalid UTF-8\n");
    }

    #[test]
    fn a_reader_that_went_away_stops_nothing() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        Lines::new(Closed, false).event(&finished()).unwrap();
    }

    #[test]
    fn the_bar_fits_eighty_columns_and_leaves_a_summary() {
        let terminal = InMemoryTerm::new(12, 80);
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 255);
        let mut bar = Bar::new(target);
        bar.width = Some(80);
        for event in run() {
            bar.event(&event).unwrap();
        }
        bar.bar.force_draw();
        let running = terminal.contents();
        bar.event(&finished()).unwrap();
        insta::assert_snapshot!(format!("{running}\n=== and at the end ===\n{}", terminal.contents()));
    }
}
