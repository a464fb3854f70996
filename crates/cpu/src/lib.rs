//! The CPU backend of Cloze: own kernels for AVX-512 (with BF16 dot products), AVX2, NEON and plain Rust.
//!
//! - [`Level`]: what the processor can do, detected once, or forced to check every level in one process.
//! - [`simd`]: a tiny vector trait; kernels are generic over it and instantiated per level by [`simd::dispatch`].
//! - [`Threads`]: the pool that a backend owns. No result depends on the number of threads.
//! - [`Cpu`]: the backend, with its memory ([`Memory`]) and one file per op of the contract.
//! - [`gemm`]: matrix products with packed operands and fused epilogues.
//!
//! `unsafe` is allowed in this crate alone, because vector intrinsics and the micro-kernels of the matrix
//! product work on raw pointers; every block says why it is sound.
#![allow(unsafe_code)]

mod attention;
mod backend;
mod crew;
mod cross_entropy;
mod elementwise;
mod embedding;
mod gated;
pub mod gemm;
mod lanes;
mod level;
mod linear;
mod memory;
mod norm;
mod optimizer;
mod packed;
mod peak;
mod philox;
mod pool;
mod rows;
pub mod simd;
mod threads;

pub use backend::{Cpu, CpuOptions};
pub use level::Level;
pub use memory::{Buffer, Memory, MemoryStats};
pub use packed::PackedWeights;
pub use threads::{SharedMut, Threads};
