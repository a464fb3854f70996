//! The real server on a free port of this machine, with tiny models made here: what clients send and what they must get.

mod dialects;
mod operation;
mod reliability;
mod sharing;
mod tasks;
#[cfg(feature = "otlp")]
mod traces;
mod world;
