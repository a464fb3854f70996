//! Training: a run (one TOML file) becomes a checkpoint and a model folder.

pub mod adapt;
pub mod budget;
pub mod checkpoint;
pub mod course;
pub mod curve;
pub mod data_report;
mod error;
pub mod figures;
pub mod files;
pub mod finetune;
pub mod fit;
pub mod label_errors;
pub mod log;
pub mod lora;
pub mod memory;
pub mod observer;
pub mod optimizer;
pub mod pretrain;
pub mod ramp;
pub mod record;
pub mod run;
pub mod schedule;
pub mod step;
pub mod supervised;
pub mod teacher;
pub mod tensorboard;

pub use error::TrainError;
