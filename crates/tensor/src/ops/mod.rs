//! The ops. One file each: the formula, the contract (forward and backward halves), the tape method that is its
//! checked entrance, the plain-loop reference, and its conformance cases.

pub mod activation;
pub mod attention;
pub mod cross_entropy;
pub mod elementwise;
pub mod embedding;
pub mod gated;
pub mod linear;
pub mod norm;
pub mod optimizer;
pub mod pool;
pub mod rows;
