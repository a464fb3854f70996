//! What all routes share, how a request is taken in, and what happens around every answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequest, Query, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use hyper::body::Body as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::batcher::{self, Health};
use crate::error::{ApiError, ServeError};
use crate::limits::{self, Keys};
use crate::log;
use crate::metrics::Metrics;
use crate::models::{Models, Served};
use crate::queue::Queue;
use crate::response::{Held, SHORT};
use crate::routes;
use crate::settings::Settings;
use crate::tokenizing::Tokenizing;
use crate::trace::{Trace, Tracing};
use crate::work::Times;

/// A server without its sockets.
pub struct App {
    pub(crate) settings: Settings,
    pub(crate) models: Models,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) health: Arc<Health>,
    pub(crate) tokenizing: Tokenizing,
    tracing: Tracing,
    /// Requests under way.
    pub(crate) permits: Arc<Semaphore>,
    /// Who may compute beside the batches to look inside a model.
    pub(crate) inspecting: Arc<Semaphore>,
    /// Who may load a model anew.
    pub(crate) reloading: Arc<Semaphore>,
    /// Bytes of bodies in memory.
    pub(crate) body_memory: Arc<Semaphore>,
    /// Bytes of long answers that are not written yet.
    answer_memory: Arc<Semaphore>,
    keys: Keys,
    draining: AtomicBool,
    requests: AtomicU64,
    started: Instant,
    batcher: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl App {
    /// Start the threads that cut text and compute.
    ///
    /// # Errors
    /// When a thread cannot be started, or a setting makes no sense.
    pub fn new(settings: Settings, models: Models) -> Result<Arc<Self>, ServeError> {
        let positive = [
            ("max-concurrent-requests", settings.max_concurrent_requests),
            ("max-batch-tokens", settings.max_batch_tokens),
            ("max-client-batch-size", settings.max_client_batch_size),
            ("max-connections", settings.max_connections),
            ("payload-limit", settings.payload_limit),
        ];
        if let Some((flag, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(ServeError::Flag { flag, found: "0".into(), problem: "must be at least 1" });
        }
        if settings.api_keys.iter().any(|key| key.trim().is_empty()) {
            return Err(ServeError::Flag { flag: "api-key", found: "\"\"".into(), problem: "an empty key would open the server to all" });
        }
        let metrics = Arc::new(Metrics::default());
        let entries = settings.max_concurrent_requests.saturating_mul(settings.max_client_batch_size);
        let queue = Arc::new(Queue::new(settings.max_queue_tokens, entries, Arc::clone(&metrics)));
        let health = Arc::new(Health::default());
        let batcher = batcher::start(
            Arc::clone(&queue),
            Arc::clone(&metrics),
            Arc::clone(&health),
            settings.max_batch_tokens,
            settings.batch_target,
        )?;
        let most = Semaphore::MAX_PERMITS;
        Ok(Arc::new(Self {
            tokenizing: Tokenizing::start(settings.tokenization_workers)?,
            tracing: Tracing::start(settings.otlp_endpoint.as_deref())?,
            permits: Arc::new(Semaphore::new(settings.max_concurrent_requests.min(most))),
            inspecting: Arc::new(Semaphore::new(1)),
            reloading: Arc::new(Semaphore::new(1)),
            body_memory: Arc::new(Semaphore::new(settings.body_memory.max(settings.payload_limit).min(most))),
            answer_memory: Arc::new(Semaphore::new(answer_memory(&settings) as usize)),
            keys: Keys::new(&settings.api_keys),
            draining: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            started: Instant::now(),
            batcher: std::sync::Mutex::new(Some(batcher)),
            settings,
            models,
            metrics,
            queue,
            health,
        }))
    }

    /// The models.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// Whether the server is about to end: readiness says 503, connections are not kept.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Let readiness say 503 from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Answer what waits, end the compute thread, send the last traces.
    pub(crate) fn finish(&self) {
        self.queue.close();
        let batcher = self.batcher.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(batcher) = batcher {
            batcher.join().ok(); // its panics are caught batch by batch
        }
        self.tracing.finish();
    }

    /// All routes, with what is around them.
    pub(crate) fn router(self: &Arc<Self>) -> Router {
        let mut router = Router::new();
        for route in routes::all(self) {
            router = router.route(&route.path, (route.handler)());
        }
        router = router.fallback(no_route).method_not_allowed_fallback(no_method);
        router = router.layer(middleware::from_fn_with_state(Arc::clone(self), around));
        let origins = &self.settings.cors_allow_origin;
        if !origins.is_empty() {
            let origin = match origins.iter().any(|o| o == "*") {
                true => AllowOrigin::any(),
                false => AllowOrigin::list(origins.iter().filter_map(|o| HeaderValue::from_str(o).ok())),
            };
            let headers = [header::CONTENT_TYPE, header::AUTHORIZATION];
            router = router.layer(CorsLayer::new().allow_origin(origin).allow_methods([Method::GET, Method::POST]).allow_headers(headers));
        }
        router.with_state(Arc::clone(self))
    }

    /// A name for a request that brings none: the server's start and a count, so that it is found in the log.
    pub(crate) fn request_id(&self) -> String {
        let pid = std::process::id();
        format!("{pid:x}-{:x}", self.requests.fetch_add(1, Ordering::Relaxed))
    }

    /// Seconds since the start.
    pub(crate) fn uptime(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

async fn no_route(request: Request) -> ApiError {
    ApiError::NoRoute { path: request.uri().path().to_owned() }
}

async fn no_method(request: Request) -> ApiError {
    ApiError::Method { path: request.uri().path().to_owned(), method: request.method().to_string() }
}

/// When the head of a request had arrived, its trace, and the memory that its body was granted, until its texts are tokens.
#[derive(Clone)]
pub(crate) struct Arrived {
    pub(crate) at: Instant,
    pub(crate) trace: Trace,
    pub(crate) body: Option<Arc<OwnedSemaphorePermit>>,
}

/// Bytes of long answers that may be in memory at once.
fn answer_memory(settings: &Settings) -> u32 {
    u32::try_from(settings.answer_memory.clamp(1, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX)
}

/// A long answer with the memory that it holds until it is written; refused when those of slow readers hold all of it.
fn held(app: &App, response: Response) -> Response {
    let length = response.body().size_hint().lower();
    if length <= SHORT as u64 {
        return response;
    }
    // One that is longer than all of the memory goes alone.
    let wanted = u32::try_from(length).unwrap_or(u32::MAX).min(answer_memory(&app.settings));
    match Arc::clone(&app.answer_memory).try_acquire_many_owned(wanted) {
        Ok(memory) => response.map(|body| Body::new(Held::new(body, memory))),
        Err(_) => ApiError::Overloaded { full: "too many bytes of answers wait to be read" }.into_response(),
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Around every route, unknown ones included: the key, the request's name, the dialect of errors, figures and the log.
async fn around(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let visible = |v: &HeaderValue| v.len() <= 128 && v.to_str().is_ok_and(|s| s.bytes().all(|b| b.is_ascii_graphic()));
    let id = request.headers().get(REQUEST_ID).filter(|v| visible(v)).cloned();
    let id = id.or_else(|| HeaderValue::from_str(&app.request_id()).ok());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let trace = app.tracing.request(&method, &path, request.headers(), begin);
    request.extensions_mut().insert(Arrived { at: begin, trace: trace.clone(), body: None });
    let mut response = match app.keys.open(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    response = held(&app, response);
    let error = response.extensions().get::<ApiError>().cloned();
    if let Some(error) = &error {
        app.metrics.failure(error);
        if path.starts_with("/v1/") {
            let body = crate::response::json(response.status(), &error.nested());
            *response.body_mut() = body.into_body();
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
    }
    let headers = response.headers_mut();
    if app.is_draining() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(id) = id {
        headers.insert(REQUEST_ID, id);
    }
    let tokens = response.extensions().get::<Times>().map_or(0, |t| t.tokens);
    let id = response.headers().get(REQUEST_ID).and_then(|v| v.to_str().ok()).unwrap_or_default();
    trace.end(response.status().as_u16(), id, tokens, error.as_ref());
    log::request(app.settings.log, &method, &path, &response, begin.elapsed(), error.as_ref(), trace.id());
    response
}

/// What any route's address may carry.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Address {
    /// The model that is asked; the first one by default.
    pub(crate) model: Option<String>,
}

/// What stands behind the `?` of an address.
pub(crate) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    let Query(value) = Query::try_from_uri(uri).map_err(|e| ApiError::Invalid { field: "query", problem: e.to_string() })?;
    Ok(value)
}

/// A request that has been read: its JSON, the model that its address names, and when it came.
pub(crate) struct Parsed<T> {
    pub(crate) value: T,
    pub(crate) served: Arc<Served>,
    pub(crate) begin: Arrived,
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Parsed<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let begin = request.extensions().get::<Arrived>().cloned();
        let mut begin = begin.ok_or(ApiError::Unhealthy { problem: "a request came in by no door" })?;
        let address: Address = query(request.uri())?;
        let served = app.models.get(address.model.as_deref())?;
        let bytes = limits::body(app, request.into_body()).await?;
        let value = limits::json(&bytes, app.settings.json_depth)?;
        begin.body = Some(Arc::new(bytes.into_memory()));
        Ok(Self { value, served, begin })
    }
}
