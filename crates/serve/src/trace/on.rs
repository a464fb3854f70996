//! Spans through the OpenTelemetry SDK, sent by its batch processor on a thread of its own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use axum::http::{HeaderMap, Method};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use crate::error::{ApiError, ServeError};

/// For a collector to take a batch of spans.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a collector's answer.
const ANSWER: u64 = 1 << 20;
/// The variables by which OpenTelemetry's exporters are told where to send.
const STANDARD: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Where spans go; nowhere when no endpoint is given.
pub(crate) struct Tracing(Option<(SdkTracerProvider, SdkTracer)>);

/// The exporter's way to the collector: plain HTTP, as to a collector on this machine.
struct Client(ureq::Agent);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

#[async_trait]
impl HttpClient for Client {
    // It is called on the thread of the batch processor, which does nothing else and may wait.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let (parts, mut body) = self.0.run(Request::from_parts(parts, body.to_vec()))?.into_parts();
        let bytes = body.with_config().limit(ANSWER).read_to_vec()?;
        Ok(Response::from_parts(parts, Bytes::from(bytes)))
    }
}

impl Tracing {
    /// Send spans to `endpoint` (`http://HOST:PORT`; `/v1/traces` is added where no path is given), else to where OpenTelemetry's own
    /// variables say, else nowhere.
    pub(crate) fn start(endpoint: Option<&str>) -> Result<Self, ServeError> {
        let standard = || STANDARD.iter().find_map(|name| std::env::var(name).ok()).filter(|value| !value.is_empty());
        let Some(found) = endpoint.map(str::to_owned).or_else(standard) else { return Ok(Self(None)) };
        let refuse = |problem| ServeError::Flag { flag: "otlp-endpoint", found: found.clone(), problem };
        let Some(address) = found.strip_prefix("http://").filter(|a| !a.is_empty()) else {
            return Err(refuse("write http://HOST:PORT; a collector on this machine can send on by https"));
        };
        let agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).build();
        let mut exporter = SpanExporter::builder().with_http().with_http_client(Client(agent.into()));
        if endpoint.is_some() {
            let path = if address.trim_end_matches('/').contains('/') { "" } else { "/v1/traces" };
            exporter = exporter.with_endpoint(format!("{}{path}", found.trim_end_matches('/')));
        }
        let exporter = exporter.with_timeout(PATIENCE).build().map_err(|_| refuse("no exporter can be made for it"))?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("cloze");
        }
        let resource = resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        let tracer = provider.tracer("cloze-serve");
        Ok(Self(Some((provider, tracer))))
    }

    /// The span of a request, whose head had arrived at `begin`.
    pub(crate) fn request(&self, method: &Method, path: &str, headers: &HeaderMap, begin: Instant) -> Trace {
        let Some((_, tracer)) = &self.0 else { return Trace(None) };
        let parent = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
        let attributes = [KeyValue::new("http.request.method", method.to_string()), KeyValue::new("url.path", path.to_owned())];
        let span = tracer.span_builder(format!("{method} {path}")).with_kind(SpanKind::Server);
        let span = span.with_start_time(at(begin)).with_attributes(attributes).start_with_context(tracer, &parent);
        let context = parent.with_span(span);
        Trace(Some(Arc::new(Open { tracer: tracer.clone(), context, ended: AtomicBool::new(false) })))
    }

    /// Send what waits; no more spans.
    pub(crate) fn finish(&self) {
        if let Some((provider, _)) = &self.0 {
            provider.shutdown_with_timeout(PATIENCE).ok(); // a collector that is away keeps nobody from ending
        }
    }
}

/// The wall clock at an instant that has passed.
fn at(instant: Instant) -> SystemTime {
    SystemTime::now() - instant.elapsed()
}

struct Open {
    tracer: SdkTracer,
    context: Context,
    ended: AtomicBool,
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.ended.load(Ordering::SeqCst) {
            self.context.span().set_status(Status::error("the client went away"));
            self.context.span().end();
        }
    }
}

/// The trace of a request; nothing when none is kept.
#[derive(Clone)]
pub(crate) struct Trace(Option<Arc<Open>>);

impl Trace {
    /// A part of the request's way: it began at `begin` and took so long.
    pub(crate) fn part(&self, name: &'static str, begin: Instant, took: Duration) {
        let Some(open) = &self.0 else { return };
        let start = at(begin);
        let mut span = open.tracer.span_builder(name).with_start_time(start).start_with_context(&open.tracer, &open.context);
        span.end_with_timestamp(start + took);
    }

    /// The request is answered.
    pub(crate) fn end(&self, status: u16, id: &str, tokens: usize, error: Option<&ApiError>) {
        let Some(open) = &self.0 else { return };
        let span = open.context.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        span.set_attribute(KeyValue::new("cloze.request_id", id.to_owned()));
        if tokens > 0 {
            span.set_attribute(KeyValue::new("cloze.tokens", i64::try_from(tokens).unwrap_or(i64::MAX)));
        }
        if let Some(error) = error {
            span.set_attribute(KeyValue::new("error.type", error.label()));
            // A span of a server is in error when the fault is the server's (OpenTelemetry's semantic conventions for HTTP).
            if status >= 500 || status == 424 {
                span.set_status(Status::error(error.to_string()));
            }
        }
        open.ended.store(true, Ordering::SeqCst);
        span.end();
    }

    /// The trace's id, for the log.
    pub(crate) fn id(&self) -> Option<String> {
        self.0.as_ref().map(|open| open.context.span().span_context().trace_id().to_string())
    }
}
