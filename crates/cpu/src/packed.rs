//! Weights packed once for many products.

/// Packed forms of some weights; empty until they are made.
#[derive(Debug, Default)]
pub struct PackedWeights {}
