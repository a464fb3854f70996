//! The files that a run writes about itself: `log.jsonl`, `tensorboard/`, `curve.svg`.

use std::path::Path;

use crate::curve::Curve;
use crate::error::TrainError;
use crate::files::FileError;
use crate::fit::resume_step;
use crate::log::{JsonlLog, read_log};
use crate::observer::{Event, Observer, Observers, Reason};
use crate::tensorboard::TensorBoard;

/// Add the observers that write a run's files into `out`. On `resume` they go on after the checkpoint's step, so that
/// nothing stands in them twice; a run that was over and takes no step leaves them as they are.
pub fn record(out: &Path, resume: bool, observers: &mut Observers) -> Result<(), TrainError> {
    crate::run::claim(out, resume)?;
    let (log, curve, board) = (out.join("log.jsonl"), out.join("curve.svg"), out.join("tensorboard"));
    if !resume {
        observers.add(JsonlLog::create(&log)?);
        observers.add(TensorBoard::create(&board, None)?);
        observers.add(Curve::new(&curve));
        return Ok(());
    }
    let step = resume_step(out)?;
    let lines = JsonlLog::resume(&log, step)?;
    let picture = Curve::from_log(&log, &curve)?;
    if matches!(read_log(&log)?.last(), Some(Event::Finished(end)) if end.reason != Reason::Stopped) {
        observers.add(Ended::new(move || Ok(Box::new(lines))));
        observers.add(Ended::new(move || Ok(Box::new(TensorBoard::create(&board, Some(step))?))));
        observers.add(Ended::new(move || Ok(Box::new(picture))));
    } else {
        observers.add(lines);
        observers.add(TensorBoard::create(&board, Some(step))?);
        observers.add(picture);
    }
    Ok(())
}

type Open = Box<dyn FnOnce() -> Result<Box<dyn Observer>, FileError> + Send>;

/// A file of a run whose log has its end already. It is gone on with when the run does; where no step comes, what is said around
/// the end was said before.
struct Ended {
    open: Option<Open>,
    held: Vec<Event>,
    file: Option<Box<dyn Observer>>,
}

impl Ended {
    fn new(open: impl FnOnce() -> Result<Box<dyn Observer>, FileError> + Send + 'static) -> Self {
        Self { open: Some(Box::new(open)), held: Vec::new(), file: None }
    }
}

impl Observer for Ended {
    fn event(&mut self, event: &Event) -> Result<(), FileError> {
        match (event, self.file.is_none()) {
            (Event::Start(_) | Event::Message(_), true) => self.held.push(event.clone()),
            (Event::Finished(_), true) => self.held.clear(),
            _ => {
                if let Some(open) = self.open.take() {
                    self.file = Some(open()?);
                }
                let Some(file) = &mut self.file else { return Ok(()) };
                self.held.drain(..).try_for_each(|held| file.event(&held))?;
                file.event(event)?;
            }
        }
        Ok(())
    }
}
