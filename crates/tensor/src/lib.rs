//! The numeric contract of Cloze: dense tensors, a small closed set of fused ops (each a forward and a backward
//! half with a plain-loop reference), the tape that models are written on, and counter-based randomness.
//!
//! Dimensions, everywhere: `T` tokens (packed), `S` sequences, `H` hidden, `N` heads, `D` head dim,
//! `I` intermediate, `V` vocabulary, `M` selected (masked) rows.

mod backend;
pub mod conformance;
mod dtype;
mod frozen;
mod later;
pub mod ops;
pub mod plain;
pub mod random;
mod sequences;
mod tape;
mod tensor;

pub use backend::{Backend, Packed, Storage};
pub use dtype::Dtype;
pub use frozen::{Frozen, Operands};
pub use later::Later;
pub use sequences::Sequences;
pub use tape::{Dropout, Reverse, Tape, Var, Watched};
pub use tensor::{Param, Target, Tensor, View, ViewMut, Weights, Write};
