//! The numeric contract of Cloze: tensors, ops, the tape and counter-based randomness.

pub mod random;
mod sequences;

pub use sequences::Sequences;
