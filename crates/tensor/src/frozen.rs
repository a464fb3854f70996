//! Weights that will not change: in which form a device multiplies by them.

use std::borrow::Cow;

use half::bf16;

/// What the operands of products with frozen weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operands {
    /// f32.
    F32,
    /// bf16, summed in f32.
    Bf16,
    /// Weights of 8 bits with a scale for each output, activations of 8 bits with a range for each token; summed exactly.
    Int8,
}

impl Operands {
    /// The name as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Operands::F32 => "f32",
            Operands::Bf16 => "bf16",
            Operands::Int8 => "int8",
        }
    }
}

/// A matrix of frozen weights on the host. // [out, in]
#[derive(Clone, Debug, PartialEq)]
pub enum Frozen<'a> {
    /// Values.
    F32(Cow<'a, [f32]>),
    /// Values in half the size.
    Bf16(Cow<'a, [bf16]>),
    /// Row `o` stands for `scales[o] · values[o, ..]`.
    Int8 {
        /// In -127..=127. // [out, in]
        values: Cow<'a, [i8]>,
        /// // `[out]`
        scales: Cow<'a, [f32]>,
    },
}

impl Frozen<'_> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Frozen::F32(values) => values.len(),
            Frozen::Bf16(values) => values.len(),
            Frozen::Int8 { values, .. } => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the elements stand for.
    pub fn values(&self) -> Cow<'_, [f32]> {
        match self {
            Frozen::F32(values) => Cow::Borrowed(values),
            Frozen::Bf16(values) => Cow::Owned(values.iter().map(|v| v.to_f32()).collect()),
            Frozen::Int8 { values, scales } => {
                let depth = (values.len() / scales.len().max(1)).max(1);
                Cow::Owned(
                    values.chunks_exact(depth).zip(scales.iter()).flat_map(|(row, t)| row.iter().map(move |&p| f32::from(p) * t)).collect(),
                )
            }
        }
    }
}
