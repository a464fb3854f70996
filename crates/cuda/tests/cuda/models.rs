//! Whole models: the tiny ones of fixtures/ against PyTorch's values.

use cloze_cuda::Cuda;
use cloze_tensor::Dtype;

#[path = "../../../model/tests/golden_support/models.rs"]
mod golden_models;
#[path = "../../../model/tests/golden_support/mod.rs"]
#[allow(dead_code)] // the levels of the processor
mod golden_support;

use golden_models::{Golden, everything, hidden_states};

/// PyTorch's own f32 is up to 2e-6 from these files; the promise to users is 1e-4.
pub(crate) fn tiny_models_equal_pytorch(device: &Cuda) {
    everything(device, 2e-5);
}

pub(crate) fn bf16_stays_close(device: &Cuda) {
    for name in ["bert-tiny", "bert-tiny-untied", "bert-tiny-classifier"] {
        hidden_states(&Golden::open(name), device, Dtype::Bf16, 4e-2);
    }
}
