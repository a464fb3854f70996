//! OpenTelemetry traces of requests, with the feature `otlp`: a span for each request, and in it spans for tokenizing, for waiting in the
//! queue and for computing. They go to a collector by OTLP over HTTP. A W3C `traceparent` of the client is the parent.
//!
//! Without the feature the same calls do nothing, and an endpoint is refused by name.

#[cfg(not(feature = "otlp"))]
mod off;
#[cfg(feature = "otlp")]
mod on;

#[cfg(not(feature = "otlp"))]
pub(crate) use off::{Trace, Tracing};
#[cfg(feature = "otlp")]
pub(crate) use on::{Trace, Tracing};
