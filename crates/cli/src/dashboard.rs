//! The full-screen display behind `--tui`: loss chart, figures, speed, evaluations, messages.
//!
//! The run passes its events to a [`Dashboard`]; a thread of its own draws and reads the keys, so that neither
//! waits for the other.

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cloze_train::curve::{Curve, TrainingLoss};
use cloze_train::figures::{clock, format_bytes, grouped, percent, rate};
use cloze_train::files::FileError;
use cloze_train::observer::{Control, Event, Finished, Level, Observer, Record, Start};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event as TerminalEvent, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, BorderType, Chart, Dataset, GraphType, Paragraph, Sparkline};

use crate::progress::{headline, metric, summary};

/// Speeds that are remembered for the sparkline.
const SPEEDS: usize = 512;
/// Lines that are remembered.
const MESSAGES: usize = 64;

const TRAIN: Color = Color::LightBlue;
const HELD_OUT: Color = Color::LightRed;
const QUIET: Style = Style::new().fg(Color::DarkGray);
const NAME: Style = Style::new().fg(Color::Gray);
const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);

/// What the screen shows.
struct State {
    start: Start,
    curve: Curve,
    last: Option<Record>,
    speeds: VecDeque<u64>,
    messages: VecDeque<(u64, Level, String)>,
    finished: Option<Finished>,
    changed: bool,
}

impl State {
    fn new() -> Self {
        Self {
            start: Start::default(),
            curve: Curve::new(std::path::Path::new("")),
            last: None,
            speeds: VecDeque::new(),
            messages: VecDeque::new(),
            finished: None,
            changed: true,
        }
    }

    fn take(&mut self, event: &Event) {
        self.changed = true;
        self.curve.take(event);
        match event {
            Event::Start(start) => {
                self.start = start.clone();
                if start.step > 0 {
                    self.say(start.step, Level::Note, "resumed");
                }
            }
            Event::Step(record) => {
                if self.speeds.len() == SPEEDS {
                    self.speeds.pop_front();
                }
                self.speeds.push_back(record.tokens_per_second.max(0.0) as u64);
                self.last = Some(record.clone());
            }
            // the curve holds it, for chart and table
            Event::Eval(_) => {}
            Event::Checkpoint(saved) => {
                let text = format!("checkpoint, {} in {:.1} s", format_bytes(saved.bytes), saved.seconds);
                self.say(saved.step, Level::Note, &text);
            }
            Event::Message(message) => self.say(message.step, message.level, &message.text),
            Event::Finished(finished) => {
                self.say(finished.step, Level::Note, &summary(finished));
                self.finished = Some(finished.clone());
            }
        }
    }

    fn say(&mut self, step: u64, level: Level, text: &str) {
        for line in text.lines() {
            if self.messages.len() == MESSAGES {
                self.messages.pop_front();
            }
            self.messages.push_back((step, level, line.to_owned()));
        }
    }

    // ------------------------------------------------------------------------------------------ drawing

    fn draw(&self, frame: &mut Frame<'_>, mood: Mood) {
        let area = frame.area();
        if area.width < 40 || area.height < 12 {
            frame.render_widget(Paragraph::new(self.one_line()), area);
            return;
        }
        let messages = (area.height / 5).clamp(4, 12);
        let band = (area.height / 4).clamp(5, 9);
        let [title, gauge, main, low, tail, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Min(4),
            Constraint::Length(band),
            Constraint::Length(messages),
            Constraint::Length(1),
        ])
        .areas(area);
        let figures_width = if area.width >= 110 { 34 } else { 27 };
        let columns = [Constraint::Min(10), Constraint::Length(figures_width)];
        let [chart, figures] = Layout::horizontal(columns).areas(main);
        let [speed, evals] = Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)]).areas(low);
        self.draw_title(frame, title, mood);
        self.draw_gauge(frame, gauge);
        self.draw_chart(frame, chart);
        self.draw_figures(frame, figures);
        self.draw_speed(frame, speed);
        self.draw_evals(frame, evals);
        self.draw_messages(frame, tail);
        let pause = if mood == Mood::Paused { " go on" } else { " pause" };
        let help = match mood {
            Mood::Stopping => vec![Span::raw(" again: "), Span::styled("q", STRONG), Span::raw(" leaves at once, without a checkpoint")],
            _ => vec![Span::styled(" q", STRONG), Span::raw(" checkpoint and stop   "), Span::styled("p", STRONG), Span::raw(pause)],
        };
        frame.render_widget(Line::from(help).style(NAME), keys);
    }

    /// For a window too small for anything else.
    fn one_line(&self) -> String {
        match &self.last {
            Some(record) => format!("step {} loss {:.3}", grouped(record.step), record.loss),
            None => "starting …".to_owned(),
        }
    }

    fn draw_title(&self, frame: &mut Frame<'_>, area: Rect, mood: Mood) {
        let (text, color) = match mood {
            _ if self.finished.is_some() => (" finished ", Color::Green),
            Mood::Running => (" running ", Color::Green),
            Mood::Paused => (" paused ", Color::Yellow),
            Mood::Stopping => (" stopping after this step ", Color::Yellow),
        };
        let [left, right] = Layout::horizontal([Constraint::Min(0), Constraint::Length(text.len() as u16)]).areas(area);
        let title = Line::from(vec![Span::styled(" Cloze ", STRONG.fg(Color::Cyan)), Span::styled(headline(&self.start), STRONG)]);
        frame.render_widget(title, left);
        frame.render_widget(Span::styled(text, Style::new().fg(Color::Black).bg(color).add_modifier(Modifier::BOLD)), right);
    }

    fn draw_gauge(&self, frame: &mut Frame<'_>, area: Rect) {
        let record = self.last.clone().unwrap_or_default();
        let total = self.start.total_steps.map(|total| format!("/{}", grouped(total))).unwrap_or_default();
        let before = format!(" step {}{total} ", grouped(record.step));
        let left = record.eta_seconds.map(|eta| format!(" · {} left", clock(eta))).unwrap_or_default();
        let after = format!(" {} · {}{left} ", percent(record.progress), clock(record.seconds));
        let widths = [before.chars().count(), after.chars().count()].map(|width| Constraint::Length(width as u16));
        let [from, bar, to] = Layout::horizontal([widths[0], Constraint::Min(4), widths[1]]).areas(area);
        frame.render_widget(Span::raw(before), from);
        frame.render_widget(Span::raw(after), to);
        let cells = usize::from(bar.width);
        let full = ((record.progress * cells as f64).round() as usize).min(cells);
        let line =
            Line::from(vec![Span::styled("━".repeat(full), Style::new().fg(Color::Cyan)), Span::styled("╌".repeat(cells - full), QUIET)]);
        frame.render_widget(line, bar);
    }

    fn draw_chart(&self, frame: &mut Frame<'_>, area: Rect) {
        // two points a column is what braille can show
        let TrainingLoss { raw, smoothed } = self.curve.training_loss(2 * usize::from(area.width.max(10)));
        let evals = self.curve.evals();
        let held_out: Vec<(f64, f64)> =
            evals.iter().filter_map(|eval| Some((eval.step as f64, eval.loss()?))).filter(|(_, loss)| loss.is_finite()).collect();
        let block = panel("loss");
        if smoothed.is_empty() {
            frame.render_widget(Paragraph::new("waiting for the first step …").style(NAME).block(block), area);
            return;
        }
        let values = smoothed.iter().chain(&held_out).map(|point| point.1);
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
        let margin = ((high - low) * 0.05).max(0.01);
        let (low, high) = (low - margin, high + margin);
        let last = self.last.as_ref().map_or(1, |record| record.step).max(2) as f64;
        let dots = |marker, color, kind| Dataset::default().marker(marker).style(Style::new().fg(color)).graph_type(kind);
        let mut datasets = vec![
            dots(Marker::Braille, Color::DarkGray, GraphType::Scatter).data(&raw),
            dots(Marker::Braille, TRAIN, GraphType::Line).name("training").data(&smoothed),
        ];
        if !held_out.is_empty() {
            datasets.push(dots(Marker::Dot, HELD_OUT, GraphType::Scatter).name("held out").data(&held_out));
        }
        let labels = |values: [f64; 3], decimals: usize| values.map(|value| Line::from(format!("{value:.decimals$}")));
        let decimals = if high - low < 0.1 { 3 } else { 2 };
        let steps = ["0".to_owned(), grouped((last / 2.0) as u64), grouped(last as u64)].map(Line::from);
        let chart = Chart::new(datasets)
            .block(block)
            .legend_position(Some(ratatui::widgets::LegendPosition::TopRight))
            .hidden_legend_constraints((Constraint::Ratio(1, 2), Constraint::Ratio(1, 2)))
            .x_axis(Axis::default().bounds([0.0, last]).labels(steps).style(QUIET))
            .y_axis(Axis::default().bounds([low, high]).labels(labels([low, (low + high) / 2.0, high], decimals)).style(QUIET));
        frame.render_widget(chart, area);
    }

    fn draw_figures(&self, frame: &mut Frame<'_>, area: Rect) {
        let record = self.last.clone().unwrap_or_default();
        let mut rows = vec![("loss".to_owned(), format!("{:.4}", record.loss))];
        if record.parts.len() > 1 {
            rows.extend(record.parts.iter().map(|(name, value)| (format!("  {name}"), format!("{value:.4}"))));
        }
        let optional = [
            ("accuracy", record.accuracy.map(percent)),
            ("perplexity", record.perplexity.map(|value| metric("perplexity", value))),
            ("learning rate", Some(rate(record.learning_rate))),
            ("gradient norm", Some(format!("{:.3}", record.grad_norm))),
            ("share of peak", record.share_of_peak.map(|share| format!("{:.0} %", share * 100.0))),
            ("memory", Some(format_bytes((record.memory_mb * 1e6) as u64))),
            ("  at most", Some(format_bytes((record.memory_peak_mb * 1e6) as u64))),
            ("epoch", Some(format!("{:.2}", record.epoch))),
            ("tokens", Some(format!("{:.1} M", record.tokens as f64 / 1e6))),
        ];
        rows.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        let width = usize::from(area.width.saturating_sub(4));
        let lines = rows.into_iter().map(|(name, value)| {
            let gap = width.saturating_sub(name.chars().count() + value.chars().count());
            Line::from(vec![Span::styled(name, NAME), Span::raw(" ".repeat(gap)), Span::styled(value, STRONG)])
        });
        frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(panel("now")), area);
    }

    fn draw_speed(&self, frame: &mut Frame<'_>, area: Rect) {
        let width = usize::from(area.width.saturating_sub(4));
        let shown: Vec<u64> = self.speeds.iter().skip(self.speeds.len().saturating_sub(width)).copied().collect();
        let now = self.speeds.back().copied().unwrap_or(0);
        let title = format!("{} tokens/s", grouped(now));
        // from zero to a little above the fastest, so that the height means something
        let most = shown.iter().max().copied().unwrap_or(1).max(1);
        let sparkline = Sparkline::default().data(shown).max(most + most / 8).style(Style::new().fg(Color::Green)).block(panel(&title));
        frame.render_widget(sparkline, area);
    }

    fn draw_evals(&self, frame: &mut Frame<'_>, area: Rect) {
        let evals = self.curve.evals();
        let block = panel("held-out data");
        let rows = usize::from(area.height.saturating_sub(3));
        let mut names: Vec<&str> = Vec::new();
        for name in evals.iter().flat_map(|eval| eval.metrics.keys()) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names.sort_by_key(|name| (*name != "loss", *name != "accuracy", *name));
        let columns = (usize::from(area.width.saturating_sub(4)).saturating_sub(13) / 11).max(1);
        names.truncate(columns);
        if evals.is_empty() {
            frame.render_widget(Paragraph::new("none yet").style(NAME).block(block), area);
            return;
        }
        let cell = |text: &str| format!("{:>11}", text.chars().take(10).collect::<String>());
        let head = names.iter().map(|name| cell(&name.replace('_', " "))).collect::<String>();
        let mut lines = vec![Line::styled(format!("{:>7}      {head}", "step"), NAME)];
        for eval in evals.iter().rev().take(rows) {
            let values = names.iter().map(|name| eval.metrics.get(*name).map_or_else(|| cell("–"), |value| cell(&metric(name, *value))));
            let text =
                format!("{:>7} {:<5}{}", grouped(eval.step), eval.name.chars().take(5).collect::<String>(), values.collect::<String>());
            let style = if eval.best { Style::new().fg(Color::Green) } else { Style::new() };
            lines.push(Line::styled(text, style));
        }
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }

    fn draw_messages(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = usize::from(area.height.saturating_sub(2));
        let lines = self.messages.iter().skip(self.messages.len().saturating_sub(rows)).map(|(step, level, text)| {
            let style = match level {
                Level::Note => Style::new(),
                Level::Warning => Style::new().fg(Color::Yellow),
                Level::Example => Style::new().fg(Color::Cyan),
            };
            Line::from(vec![Span::styled(format!("{:>7}  ", grouped(*step)), QUIET), Span::styled(text.as_str(), style)])
        });
        frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(panel("messages")), area);
    }
}

fn panel(title: &str) -> Block<'static> {
    let title = Line::styled(format!(" {title} "), STRONG);
    Block::bordered().border_type(BorderType::Rounded).border_style(QUIET).title(title).padding(ratatui::widgets::Padding::horizontal(1))
}

/// What the run is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Running,
    Paused,
    Stopping,
}

impl Mood {
    fn of(control: &Control) -> Self {
        match (control.stop_requested(), control.is_paused()) {
            (true, _) => Self::Stopping,
            (_, true) => Self::Paused,
            _ => Self::Running,
        }
    }
}

// --------------------------------------------------------------------------------------------- running

/// The full screen as an observer of the run. The terminal is given back when it is dropped.
pub(crate) struct Dashboard {
    state: Arc<Mutex<State>>,
    closing: Arc<AtomicBool>,
    painter: Option<JoinHandle<()>>,
}

impl Dashboard {
    /// Takes over the terminal; the keys go to `control`.
    ///
    /// # Errors
    /// When standard output is no terminal.
    pub(crate) fn open(control: Arc<Control>) -> io::Result<Self> {
        if !io::stdout().is_terminal() {
            let message = "--tui needs a terminal; without it the progress comes as plain lines";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        let terminal = ratatui::try_init()?;
        let state = Arc::new(Mutex::new(State::new()));
        let closing = Arc::new(AtomicBool::new(false));
        let (shared, end) = (Arc::clone(&state), Arc::clone(&closing));
        let painter = std::thread::Builder::new().name("dashboard".to_owned()).spawn(move || paint(terminal, &shared, &control, &end));
        match painter {
            Ok(painter) => Ok(Self { state, closing, painter: Some(painter) }),
            Err(error) => {
                ratatui::restore();
                Err(error)
            }
        }
    }
}

impl Observer for Dashboard {
    fn event(&mut self, event: &Event) -> Result<(), FileError> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).take(event);
        Ok(())
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        if let Some(painter) = self.painter.take() {
            let _ = painter.join();
        }
        ratatui::restore();
        // what the screen showed last is gone with it: leave the line that says how it ended
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, _, text) in state.messages.iter().filter(|(_, level, _)| *level == Level::Warning) {
            eprintln!("warning: {text}");
        }
        if let Some(finished) = &state.finished {
            eprintln!("{}", summary(finished));
        }
    }
}

/// How long the painter waits for a key before it looks at the run again.
const KEY_WAIT: Duration = Duration::from_millis(100);
/// Four pictures a second at most, and none when nothing changed: the cores belong to the training.
const FRAME: Duration = Duration::from_millis(250);

fn paint(mut terminal: ratatui::DefaultTerminal, state: &Mutex<State>, control: &Control, closing: &AtomicBool) {
    let mut drawn: Option<(Instant, Mood)> = None;
    let mut keys_work = true;
    while !closing.load(Ordering::Relaxed) {
        let mut touched = false;
        if keys_work {
            match key(control) {
                Ok(found) => touched = found,
                // a terminal without a keyboard still shows the run
                Err(_) => keys_work = false,
            }
        } else {
            std::thread::sleep(KEY_WAIT);
        }
        let mood = Mood::of(control);
        let due = drawn.is_none_or(|(at, before)| touched || before != mood || at.elapsed() >= FRAME);
        if due {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::take(&mut state.changed) || touched || drawn.is_none_or(|(_, before)| before != mood) {
                let _ = terminal.draw(|frame| state.draw(frame, mood));
                drawn = Some((Instant::now(), mood));
            }
        }
    }
}

/// Waits a moment for a key; tells whether the picture must be drawn anew.
fn key(control: &Control) -> io::Result<bool> {
    if !event::poll(KEY_WAIT)? {
        return Ok(false);
    }
    match event::read()? {
        TerminalEvent::Resize(..) => Ok(true),
        TerminalEvent::Key(key) if key.kind == KeyEventKind::Press => {
            let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            match key.code {
                KeyCode::Char('q') => stop(control),
                _ if interrupt => stop(control),
                KeyCode::Char('p' | ' ') => control.set_paused(!control.is_paused()),
                _ => return Ok(false),
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// The first time asks for a checkpoint and the end; the second leaves at once, as a second Ctrl-C does.
fn stop(control: &Control) {
    if control.stop_requested() {
        ratatui::restore();
        eprintln!("left without a checkpoint; --resume goes on from the last one");
        std::process::exit(130);
    }
    control.request_stop();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::tests::run;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn screen(width: u16, height: u16, events: &[Event], mood: Mood) -> String {
        let mut state = State::new();
        events.iter().for_each(|event| state.take(event));
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| state.draw(frame, mood)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn eighty_by_twenty_four() {
        insta::assert_snapshot!(screen(80, 24, &run(), Mood::Running));
    }

    #[test]
    fn a_large_window() {
        insta::assert_snapshot!(screen(132, 40, &run(), Mood::Paused));
    }

    #[test]
    fn before_the_first_step() {
        insta::assert_snapshot!(screen(80, 24, &run()[..2], Mood::Stopping));
    }

    #[test]
    fn no_window_is_too_small_and_no_figure_too_odd() {
        let mut events = run();
        events.push(Event::Step(Record { step: u64::MAX, loss: f64::NAN, progress: 7.0, eta_seconds: Some(1e300), ..Record::default() }));
        for width in [1, 2, 7, 39, 40, 41, 55, 80, 300] {
            for height in [1, 2, 5, 11, 12, 13, 20, 80] {
                for events in [&events[..], &[]] {
                    assert!(!screen(width, height, events, Mood::Running).is_empty());
                }
            }
        }
    }

    /// To look at by hand: `CLOZE_DASHBOARD=1 cargo test -p cloze-cli a_run_to_look_at -- --nocapture`.
    #[test]
    fn a_run_to_look_at() {
        if std::env::var_os("CLOZE_DASHBOARD").is_none() {
            println!("skipped: CLOZE_DASHBOARD is not set");
            return;
        }
        let control = Arc::new(Control::default());
        let mut dashboard = Dashboard::open(Arc::clone(&control)).unwrap();
        for event in run() {
            dashboard.event(&event).unwrap();
            control.wait_while_paused();
            if control.stop_requested() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let end = Finished { step: 700, tokens: 700 * 8192, seconds: 707.0, ..Finished::default() };
        dashboard.event(&Event::Finished(end)).unwrap();
    }
}
