//! The CUDA backend: every op of the contract on an NVIDIA GPU of compute capability 8.0 or more.
//!
//! The driver, cuBLASLt and NVRTC are loaded when a device is opened ([`Cuda::open`]); nothing of CUDA is needed to build, and a machine
//! without it gets an error that says what is missing. Kernels are the text of `kernels/*.cu`, compiled by NVRTC for the device
//! that is there at their first use and kept on disk by the hash of what they were made from.
//!
//! Everything between the ops and the hardware is the small trait [`Driver`]. It has three implementations: [`device::Gpu`]; [`Rehearsal`],
//! which computes nothing and counts memory; and, in the tests of this crate, one that runs the very same kernel text on the host.
//!
//! All work goes to one stream, so memory can be handed on as soon as the last launch that uses it is asked for. Stretches of work that
//! come again and again are replayed as graphs (`queue.rs`).
//!
//! `unsafe` is allowed in this crate because addresses on a device are plain numbers; every block says why it is sound.
#![allow(unsafe_code)]

mod attention;
mod backend;
mod choices;
pub mod compile;
mod cross_entropy;
pub mod device;
pub mod driver;
mod elementwise;
mod embedding;
mod error;
mod gated;
mod graph;
mod linear;
mod memory;
mod norm;
mod optimizer;
mod pinned;
mod pool;
mod products;
mod queue;
#[cfg(test)]
mod recorder;
mod rehearsal;
mod rows;

pub use backend::{Cuda, Indices, Shadow};
pub use driver::Driver;
pub use error::CudaError;
pub use memory::{Buffer, MemoryStats};
pub use rehearsal::Rehearsal;
