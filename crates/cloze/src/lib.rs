//! Cloze: raw text to a served BERT model, as a library.
//!
//! ```text
//! text ─tokenizer, prepare→ corpus ─pretrain→ model ─finetune→ classifier ─Pipeline→ answers
//! ```
//!
//! The crates underneath are re-exported: [`text`], [`model`], [`task`], [`train`], [`tensor`].

pub mod adapter;
pub mod attention;
pub mod bench;
pub mod convert;
mod device;
pub mod doctor;
mod error;
pub mod hub;
mod pipeline;
pub mod quantize;
pub mod quickstart;
mod rehearsal;
pub mod search;
pub mod shared;
pub mod world;

pub use cloze_model as model;
pub use cloze_task as task;
pub use cloze_tensor as tensor;
pub use cloze_text as text;
pub use cloze_train as train;

pub use adapter::Source;
pub use device::{Device, DeviceChoice};
pub use error::Error;
pub use pipeline::{Form, Pipeline, States};
pub use shared::Encoders;

use cloze_train::finetune::{FinetuneRun, Finetuned};
use cloze_train::fit::Outcome;
use cloze_train::observer::{Control, Observers};
use cloze_train::pretrain::PretrainRun;

/// Run a pre-training recipe on a device.
pub fn pretrain(device: &Device, run: &PretrainRun, resume: bool, observers: &mut Observers, control: &Control) -> Result<Outcome, Error> {
    if let Device::Cuda(cuda) = device {
        rehearsal::check(cuda, run, device.dtype(run.train.precision))?;
    }
    let mut run = run.clone();
    run.model.from = run.model.from.map(|from| hub::model_folder(&from, &mut |_| ())).transpose()?;
    let recorded = device.for_run(run.train.precision);
    Ok(device::on!(device, backend => cloze_train::pretrain::pretrain(backend, &run, recorded, resume, observers, control))?)
}

/// Run the first phase of a fine-tuning with `[adapt]`: masked language modelling on text of its domain, if it is not over yet. False when
/// it was stopped before its end.
pub fn adapt(device: &Device, run: &FinetuneRun, resume: bool, observers: &mut Observers, control: &Control) -> Result<bool, Error> {
    let run = &FinetuneRun { model: hub::model_folder(&run.model, &mut |_| ())?, ..run.clone() };
    let recorded = device.for_run(run.precision);
    Ok(device::on!(device, backend => cloze_train::adapt::adapt(backend, run, recorded, resume, observers, control))?.is_some())
}

/// Run a fine-tuning on a device. One with `[adapt]` starts from what [`adapt`] made.
pub fn finetune(
    device: &Device,
    run: &FinetuneRun,
    resume: bool,
    observers: &mut Observers,
    control: &Control,
) -> Result<Finetuned, Error> {
    let mut lora = run.lora.clone();
    if let Some(lora) = &mut lora
        && run.adapt.is_none()
        && !run.model.exists()
    {
        // A name on the hub is what an adapter calls its base, not the folder of its cache.
        lora.base.get_or_insert_with(|| run.model.display().to_string());
    }
    let mut distill = run.distill.clone();
    if let Some(distill) = &mut distill {
        distill.teacher = hub::model_folder(&distill.teacher, &mut |_| ())?;
    }
    let run = &FinetuneRun { model: hub::model_folder(&run.model, &mut |_| ())?, lora, distill, ..run.clone() };
    let recorded = device.for_run(run.precision);
    Ok(device::on!(device, backend => cloze_train::finetune::finetune(backend, run, recorded, resume, observers, control))?)
}
