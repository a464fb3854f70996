//! A request on its way through tokenizing, queue and batches, and what it took.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use cloze::task::{Output, Sequence};

use crate::app::{App, Arrived};
use crate::error::ApiError;
use crate::models::Served;
use crate::tokenizing::Caller;

/// What a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Times {
    /// Characters of its texts.
    pub(crate) characters: usize,
    /// Tokens that were computed for it.
    pub(crate) tokens: usize,
    /// Text to tokens, waiting for a thread included.
    pub(crate) tokenization: Duration,
    /// Waiting for batches.
    pub(crate) queue: Duration,
    /// In batches.
    pub(crate) inference: Duration,
}

impl Times {
    /// The headers of text-embeddings-inference; times in milliseconds.
    pub(crate) fn headers(&self, total: Duration) -> HeaderMap {
        let ms = |d: Duration| d.as_millis() as usize;
        let mut headers = HeaderMap::new();
        headers.insert("x-compute-type", HeaderValue::from_static("cpu"));
        for (name, value) in [
            ("x-compute-time", ms(total)),
            ("x-compute-characters", self.characters),
            ("x-compute-tokens", self.tokens),
            ("x-total-time", ms(total)),
            ("x-tokenization-time", ms(self.tokenization)),
            ("x-queue-time", ms(self.queue)),
            ("x-inference-time", ms(self.inference)),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
        }
        headers
    }
}

/// A request whose time is over.
const LATE: ApiError = ApiError::Overloaded { full: "the request waited longer than --request-timeout" };

/// Counts, measures and bounds the work of one request.
pub(crate) struct Work {
    app: Arc<App>,
    /// The model it is for.
    pub(crate) served: Arc<Served>,
    /// Whether it carries many inputs.
    many: bool,
    /// When its head had arrived, and its trace.
    begin: Arrived,
    /// What it has taken.
    pub(crate) times: Times,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Work {
    /// Begin the work of a request for `inputs` inputs; refused when too many requests are under way, or too many inputs come at once.
    pub(crate) fn begin(app: &Arc<App>, served: Arc<Served>, begin: Arrived, inputs: usize, many: bool) -> Result<Self, ApiError> {
        app.metrics.request(many);
        let limit = app.settings.max_client_batch_size;
        if inputs > limit {
            return Err(ApiError::BatchSize { found: inputs, limit });
        }
        let permit = Arc::clone(&app.permits).try_acquire_owned();
        let permit = permit.map_err(|_| ApiError::Overloaded { full: "too many requests are under way" })?;
        Ok(Self { app: Arc::clone(app), served, many, begin, times: Times::default(), _permit: permit })
    }

    /// What is left of `--request-timeout`.
    pub(crate) fn time_left(&self) -> Duration {
        self.app.settings.request_timeout.saturating_sub(self.begin.at.elapsed())
    }

    /// Do something with texts on the tokenizing threads. `characters`: of these texts. If the caller goes away or the time is over, it
    /// ends at the next step of the work. The memory of the body is given back after it.
    pub(crate) async fn tokenize<T: Send + 'static>(
        &mut self,
        characters: usize,
        work: impl FnOnce(&Served, &Caller<'_>) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let begin = Instant::now();
        let served = Arc::clone(&self.served);
        // The work has it, too: who goes away leaves the texts in memory until the work sees that.
        let memory = self.begin.body.take();
        let work = self.app.tokenizing.run(move |caller| {
            let _memory = memory;
            work(&served, caller)
        });
        let done = tokio::time::timeout(self.time_left(), work).await.map_err(|_| LATE)?;
        let took = begin.elapsed();
        self.times.tokenization += took;
        self.times.characters += characters;
        self.begin.trace.part("tokenize", begin, took);
        done
    }

    /// Run sequences in whatever batches they come into. If the caller goes away, what has not started is never computed.
    pub(crate) async fn run(&mut self, sequences: Vec<Sequence>) -> Result<Vec<Output>, ApiError> {
        for sequence in &sequences {
            self.app.metrics.input_length(sequence.len());
            self.times.tokens += sequence.len();
        }
        let pushed = Instant::now();
        let reply = self.app.queue.push(&self.served.engine, sequences)?;
        let gone = ApiError::Backend { problem: "the compute worker has ended".into() };
        let done = tokio::time::timeout(self.time_left(), reply).await.map_err(|_| LATE)?.unwrap_or(Err(gone))?;
        self.times.queue += done.queue;
        self.times.inference += done.inference;
        self.begin.trace.part("queue", pushed, done.queue);
        self.begin.trace.part("compute", pushed + done.queue, done.inference);
        Ok(done.outputs)
    }

    /// The answer with the headers of its times.
    pub(crate) async fn answer(self, body: impl serde::Serialize + Send + 'static) -> Result<axum::response::Response, ApiError> {
        let write = crate::response::json_bytes(&self.app.tokenizing, body);
        let body = tokio::time::timeout(self.time_left(), write).await.map_err(|_| LATE)??;
        self.written(body)
    }

    /// The same for an answer that is JSON already.
    pub(crate) fn written(self, body: Vec<u8>) -> Result<axum::response::Response, ApiError> {
        let total = self.begin.at.elapsed();
        self.app.metrics.success(self.many, &self.times, total);
        let mut response = crate::response::written(StatusCode::OK, body);
        response.headers_mut().extend(self.times.headers(total));
        response.extensions_mut().insert(self.times);
        Ok(response)
    }
}
