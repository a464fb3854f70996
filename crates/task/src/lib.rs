//! Tasks: text in, answer out. One file each: input, answer, encoding, head, decoding, figures.

mod error;
pub mod fill_mask;
pub mod metric;
pub mod registry;
pub mod text_classification;

pub use error::TaskError;
pub use registry::{TASKS, Task, task};
