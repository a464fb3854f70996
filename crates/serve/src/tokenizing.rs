//! Text to tokens, on threads of their own: neither the event loop nor the compute thread waits for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::error::{ApiError, ServeError};

type Work = Box<dyn FnOnce() + Send>;

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
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, ApiError> + Send + 'static) -> Result<T, ApiError> {
        let (reply, receiver) = oneshot::channel();
        let work = Box::new(move || {
            if !reply.is_closed() {
                let panicked = |_| Err(ApiError::Tokenizer { problem: "the tokenizer panicked".into() });
                reply.send(catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(panicked)).ok(); // the caller may have gone
            }
        });
        let gone = ApiError::Unhealthy { problem: "the tokenizing threads have ended" };
        if self.work.lock().unwrap_or_else(PoisonError::into_inner).send(work).is_err() {
            return Err(gone);
        }
        receiver.await.unwrap_or(Err(gone))
    }
}
