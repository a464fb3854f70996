//! Text to tokens, on threads of their own: neither the event loop nor the compute thread waits for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::error::{ApiError, ServeError};

type Work = Box<dyn FnOnce() + Send>;

/// Who waits for work on these threads. What takes several steps asks between them.
pub(crate) struct Caller<'a>(&'a dyn Fn() -> bool);

impl Caller<'_> {
    /// Stop here if nobody waits for the result any more.
    pub(crate) fn waits(&self) -> Result<(), ApiError> {
        if (self.0)() { Err(ApiError::Unhealthy { problem: "the caller has gone" }) } else { Ok(()) }
    }
}

/// The threads. They end when this is dropped.
pub(crate) struct Tokenizing {
    work: Mutex<Sender<Work>>,
}

impl Tokenizing {
    /// Start `workers` threads.
    pub(crate) fn start(workers: usize) -> Result<Self, ServeError> {
        let (sender, receiver) = channel::<Work>();
        let receiver = Arc::new(Mutex::new(receiver));
        for i in 0..workers.max(1) {
            let receiver: Arc<Mutex<Receiver<Work>>> = Arc::clone(&receiver);
            let take = move || receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let run = move || {
                while let Ok(work) = take() {
                    work();
                }
            };
            let source = |source| ServeError::Start { what: "a tokenizing thread", source };
            std::thread::Builder::new().name(format!("cloze-tokenize-{i}")).spawn(run).map_err(source)?;
        }
        Ok(Self { work: Mutex::new(sender) })
    }

    /// Run `work` on one of the threads; not at all if the caller has gone before its turn. Requests under way are bounded
    /// elsewhere, and so is what waits here.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Caller<'_>) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let (reply, receiver) = oneshot::channel();
        let work = Box::new(move || {
            if !reply.is_closed() {
                let panicked = |_| Err(ApiError::Tokenizer { problem: "the tokenizer panicked".into() });
                let done = catch_unwind(AssertUnwindSafe(|| work(&Caller(&|| reply.is_closed())))).unwrap_or_else(panicked);
                reply.send(done).ok(); // the caller may have gone
            }
        });
        let gone = ApiError::Unhealthy { problem: "the tokenizing threads have ended" };
        if self.work.lock().unwrap_or_else(PoisonError::into_inner).send(work).is_err() {
            return Err(gone);
        }
        receiver.await.unwrap_or(Err(gone))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn work_ends_between_its_steps_when_its_caller_goes() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let tokenizing = Tokenizing::start(1).unwrap();
        let steps = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&steps);
        let endless = tokenizing.run(move |caller| -> Result<(), ApiError> {
            loop {
                caller.waits()?;
                counted.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        runtime.block_on(async {
            assert!(tokio::time::timeout(Duration::from_millis(50), endless).await.is_err());
            // The one thread is free again for who comes next.
            let next = tokio::time::timeout(Duration::from_secs(10), tokenizing.run(|_| Ok(Instant::now()))).await;
            assert!(next.is_ok_and(|done| done.is_ok()));
        });
        assert!(steps.load(Ordering::SeqCst) > 0);
    }
}
