//! Tasks: text in, answer out. One file each: input, answer, encoding, head, targets, decoding, figures.
//!
//! ```text
//! input ─encode→ Job{sequences} ─Runner→ outputs ─finish→ answer (or another round)
//! row ─examples→ sequences + target ─run, loss→ gradient
//! ```
//!
//! Encoding and decoding know no device: a [`job::Runner`] runs sequences of any tasks and requests packed together.

pub mod agreement;
pub mod context;
pub mod distillation;
mod error;
pub mod extractive_summarization;
pub mod fill_mask;
pub mod job;
pub mod loss;
pub mod masked_lm_scoring;
pub mod metric;
pub mod multiple_choice;
pub mod paint;
pub mod question_answering;
pub mod recommendation;
pub mod registry;
pub mod rerank;
pub mod rows;
pub mod run;
pub mod sentence_embedding;
pub mod sentence_similarity;
pub mod task;
pub mod text_classification;
pub mod token_classification;
pub mod zero_shot;

pub use context::{Context, Options, Settings};
pub use error::TaskError;
pub use job::{Job, Output, Runner, Sequence, Step, Want, answers};
pub use registry::{TASKS, require, task};
pub use rows::{Columns, Field, Row, Rows};
pub use task::{Example, Figures, Head, Learning, Task};
