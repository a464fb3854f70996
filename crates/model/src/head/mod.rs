//! Heads: what stands on the body for a loss or an answer.

pub mod classifier;
pub mod masked_lm;
pub mod next_sentence;
