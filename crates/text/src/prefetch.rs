//! Batches prepared ahead on a background thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use crate::batch::{Batch, Limits};
use crate::error::{Error, Result};
use crate::sampler::Sampler;

/// Prepares the next batches while the current one is trained on.
///
/// It changes nothing but the waiting: batches are those of [`Sampler::batch`], one after the other.
#[derive(Debug)]
pub struct Prefetch {
    batches: Option<Receiver<Result<(Batch, u64)>>>,
    worker: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Start at `cursor`; `limits_for(n)` are the limits of the n-th batch from here. At most `depth` batches wait.
    pub fn new(
        sampler: Arc<Sampler>,
        cursor: u64,
        depth: usize,
        mut limits_for: impl FnMut(u64) -> Limits + Send + 'static,
    ) -> Result<Self> {
        let (sender, batches) = sync_channel(depth.max(1));
        let work = move || {
            let mut cursor = cursor;
            for number in 0.. {
                let result = sampler.batch(cursor, limits_for(number));
                let failed = result.is_err();
                if let Ok((_, next)) = &result {
                    cursor = *next;
                }
                if sender.send(result).is_err() || failed {
                    return; // the consumer is gone, or has been told
                }
            }
        };
        let worker = std::thread::Builder::new().name("cloze-prefetch".into()).spawn(work).map_err(Error::io("start", "a thread"))?;
        Ok(Self { batches: Some(batches), worker: Some(worker) })
    }

    /// The next batch and the cursor after it. After an error there are no further batches.
    #[allow(clippy::should_implement_trait)] // it never ends, and a failure is final
    pub fn next(&mut self) -> Result<(Batch, u64)> {
        let gone = Error::Worker { place: "the batch prefetch" };
        self.batches.as_ref().and_then(|batches| batches.recv().ok()).unwrap_or(Err(gone))
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.batches = None; // the worker's next send fails
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}
