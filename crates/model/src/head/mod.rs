//! Heads: what stands on the body for a loss or an answer.

pub mod choice;
pub mod classifier;
pub mod loss;
pub mod masked_lm;
pub mod next_sentence;
pub mod pooling;
pub mod replaced_token;
pub mod span;
pub mod tokens;
