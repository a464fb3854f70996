//! A device that computes nothing: what a run would take of the memory is known before it begins.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::driver::{Command, Product};
use crate::{CudaError, Driver};

/// Hands out addresses and counts; launches and products do nothing, what is read is zeros.
///
/// A training step on `Cuda::with_driver(Rehearsal)` asks for the blocks that it would ask for on a device, in the same order.
#[derive(Debug)]
pub struct Rehearsal {
    next: AtomicU64,
}

impl Default for Rehearsal {
    fn default() -> Self {
        Self { next: AtomicU64::new(1 << 20) }
    }
}

impl Driver for Rehearsal {
    fn name(&self) -> String {
        "rehearsal".into()
    }

    fn memory(&self) -> Result<(usize, usize), CudaError> {
        Ok((usize::MAX, usize::MAX))
    }

    fn shared_limit(&self) -> usize {
        usize::MAX
    }

    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        Ok(self.next.fetch_add(bytes.next_multiple_of(512) as u64, Ordering::Relaxed))
    }

    unsafe fn release(&self, _: u64) {}

    unsafe fn run(&self, _: &Command) -> Result<(), CudaError> {
        Ok(())
    }

    unsafe fn upload(&self, _: u64, _: &[u8]) -> Result<(), CudaError> {
        Ok(())
    }

    unsafe fn download(&self, _: u64, to: &mut [u8]) -> Result<(), CudaError> {
        to.fill(0);
        Ok(())
    }

    unsafe fn upload_pinned(&self, _: u64, _: u64, _: usize) -> Result<(), CudaError> {
        Ok(())
    }

    unsafe fn download_pinned(&self, _: u64, _: u64, _: usize) -> Result<(), CudaError> {
        Ok(())
    }

    fn mark(&self) -> Result<u64, CudaError> {
        Ok(0)
    }

    unsafe fn wait(&self, _: u64) -> Result<(), CudaError> {
        Ok(())
    }

    unsafe fn unmark(&self, _: u64) {}

    fn supports(&self, _: &Product) -> bool {
        true
    }
}
