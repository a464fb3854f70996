//! What the comparisons with PyTorch's values share.

use std::path::{Path, PathBuf};

use cloze_cpu::{Cpu, CpuOptions, Level};

/// A file or folder of fixtures/.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// Largest difference, over the largest value expected.
pub(crate) fn close(what: &str, ours: &[f32], expected: &[f32], bound: f32) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    for (i, (a, b)) in ours.iter().zip(expected).enumerate() {
        let error = (a - b).abs() / (largest + 1e-6);
        assert!(error <= bound, "{what}[{i}]: {a} instead of {b} (normalised error {error:.1e} over {bound:.0e})");
    }
}

/// The backend on every level that this machine has.
pub(crate) fn cpus() -> impl Iterator<Item = Cpu> {
    Level::available().into_iter().map(|level| Cpu::new(CpuOptions { threads: Some(2), level: Some(level) }))
}
