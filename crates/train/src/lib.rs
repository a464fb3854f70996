//! Training: a run (one TOML file) becomes a checkpoint and a model folder.

pub mod budget;
pub mod checkpoint;
pub mod curve;
pub mod figures;
pub mod files;
pub mod log;
pub mod memory;
pub mod observer;
pub mod ramp;
pub mod schedule;
pub mod tensorboard;
pub mod course;
mod error;
pub mod fit;
pub mod optimizer;
pub mod pretrain;
pub mod run;
pub mod step;

pub use error::TrainError;
