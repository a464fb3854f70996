//! Metrics, equal to the reference implementations.

pub mod answers;
pub mod classification;
pub mod correlation;
pub mod entities;
pub mod ranking;
pub mod rouge;
