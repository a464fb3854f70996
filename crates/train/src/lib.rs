//! See ARCHITECTURE.md.

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
