//! Metrics, equal to the reference implementations.

pub mod classification;
