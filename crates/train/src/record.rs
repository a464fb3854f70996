//! The files that a run writes about itself: `log.jsonl`, `tensorboard/`, `curve.svg`.

use std::path::Path;

use crate::curve::Curve;
use crate::error::TrainError;
use crate::fit::resume_step;
use crate::log::JsonlLog;
use crate::observer::Observers;
use crate::tensorboard::TensorBoard;

/// Add the observers that write a run's files into `out`. On `resume` they go on after the checkpoint's step, so that
/// nothing stands in them twice.
pub fn record(out: &Path, resume: bool, observers: &mut Observers) -> Result<(), TrainError> {
    crate::run::claim(out, resume)?;
    let (log, curve) = (out.join("log.jsonl"), out.join("curve.svg"));
    if resume {
        let step = resume_step(out)?;
        observers.add(JsonlLog::resume(&log, step)?);
        observers.add(TensorBoard::create(&out.join("tensorboard"), Some(step))?);
        observers.add(Curve::from_log(&log, &curve)?);
    } else {
        observers.add(JsonlLog::create(&log)?);
        observers.add(TensorBoard::create(&out.join("tensorboard"), None)?);
        observers.add(Curve::new(&curve));
    }
    Ok(())
}
