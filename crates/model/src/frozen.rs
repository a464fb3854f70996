//! Weights for inference: each parameter in the form that the device multiplies by, and in no other.

use std::borrow::Cow;
use std::collections::HashSet;
use std::convert::Infallible;

use cloze_tensor::{Backend, Dtype, Frozen, Operands, Param, Weights};

use crate::model::Model;
use crate::params::{Role, Spec};

/// Elements of a large table that are turned into f32 at once.
const PIECE: usize = 1 << 21;

/// Write values from element `offset` on.
fn put<B: Backend>(backend: &B, weights: &mut Weights<B>, offset: usize, matrix: &Frozen<'_>) {
    let Frozen::Bf16(values) = matrix else {
        return weights.set(backend, offset, &matrix.values());
    };
    let mut wide = Vec::new();
    for (i, piece) in values.chunks(PIECE).enumerate() {
        wide.clear();
        wide.extend(piece.iter().map(|v| v.to_f32()));
        weights.set(backend, offset + i * PIECE, &wide);
    }
}

impl Model {
    /// Values in memory, for products of `dtype`. // `f32 [flat_len]`
    pub fn frozen<B: Backend>(&self, backend: &B, values: &[f32], dtype: Dtype) -> Weights<B> {
        assert_eq!(values.len(), self.table().flat_len(), "weights of another model");
        let operands = match dtype {
            Dtype::F32 => Operands::F32,
            Dtype::Bf16 => Operands::Bf16,
        };
        let lend = |spec: &Spec, take: &mut dyn FnMut(&Frozen)| {
            take(&Frozen::F32(Cow::Borrowed(&values[spec.param.range()])));
            Ok::<_, Infallible>(())
        };
        match self.freeze(backend, |_| operands, lend) {
            Ok(weights) => weights,
        }
    }

    /// Have the parameters lent one by one and bring each to the device: matrices of products in the form of their
    /// `operands`, everything else (tables, vectors, small heads) as it is. What is packed is not kept a second time. `lend`
    /// shows the values of a parameter to the function it is given, once, and may let go of them afterwards.
    pub fn freeze<B: Backend, E>(
        &self,
        backend: &B,
        operands: impl Fn(&Spec) -> Operands,
        mut lend: impl FnMut(&Spec, &mut dyn FnMut(&Frozen<'_>)) -> Result<(), E>,
    ) -> Result<Weights<B>, E> {
        let mut weights = Weights::reserved(backend, self.table().flat_len());
        let multiplied: HashSet<Param> =
            self.body().matrices().into_iter().chain(self.masked_lm().into_iter().flat_map(|h| h.matrices())).collect();
        for spec in self.table().specs() {
            lend(spec, &mut |matrix| {
                assert_eq!(matrix.len(), spec.param.len(), "{} is [{}, {}]", spec.name, spec.param.rows, spec.param.cols);
                let packed = multiplied.contains(&spec.param);
                if packed {
                    backend.freeze(&mut weights, spec.param, matrix, operands(spec));
                }
                // Tied to the prediction head, the embedding table is looked up and multiplied by.
                if !packed || spec.param == self.body().word_embedding() {
                    put(backend, &mut weights, spec.param.offset, matrix);
                }
            })?;
        }
        Ok(weights)
    }

    /// Whether a parameter is a matrix of the body's products, which may be quantised.
    pub fn is_quantizable(spec: &Spec) -> bool {
        matches!(spec.role, Role::Hidden { .. })
    }
}
