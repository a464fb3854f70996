//! Tasks: text in, answer out.

mod error;

pub use error::TaskError;
