//! Weights packed once for many products.

use std::collections::HashMap;

use cloze_tensor::Param;

use crate::gemm::PackedB;

/// Packed forms of some weight matrices, each as the right operand Wᵀ; empty until they are made.
#[derive(Debug, Default)]
pub struct PackedWeights {
    forms: HashMap<usize, PackedB>, // by offset in the flat buffer
}

impl PackedWeights {
    /// The packed form of a matrix, if there is one.
    pub fn get(&self, param: Param) -> Option<&PackedB> {
        self.forms.get(&param.offset).filter(|p| p.shape() == (param.cols, param.rows))
    }

    /// Keep a packed form.
    pub(crate) fn insert(&mut self, param: Param, form: PackedB) {
        self.forms.insert(param.offset, form);
    }

    /// Bytes of all packed forms.
    pub fn bytes(&self) -> usize {
        self.forms.values().map(PackedB::bytes).sum()
    }
}
