//! No traces.

use std::time::{Duration, Instant};

use axum::http::{HeaderMap, Method};

use crate::error::{ApiError, ServeError};

/// No traces.
pub(crate) struct Tracing;

impl Tracing {
    /// Refuses an endpoint: this build cannot send anything there.
    pub(crate) fn start(endpoint: Option<&str>) -> Result<Self, ServeError> {
        match endpoint {
            None => Ok(Self),
            Some(found) => {
                let problem = "this build sends no traces; build it with --features otlp";
                Err(ServeError::Flag { flag: "otlp-endpoint", found: found.to_owned(), problem })
            }
        }
    }

    pub(crate) fn request(&self, _: &Method, _: &str, _: &HeaderMap, _: Instant) -> Trace {
        Trace
    }

    pub(crate) fn finish(&self) {}
}

/// The trace of a request: none.
#[derive(Clone)]
pub(crate) struct Trace;

impl Trace {
    pub(crate) fn part(&self, _: &'static str, _: Instant, _: Duration) {}

    pub(crate) fn end(&self, _: u16, _: &str, _: usize, _: Option<&ApiError>) {}

    pub(crate) fn id(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_names_the_feature() {
        assert!(Tracing::start(None).is_ok());
        let error = Tracing::start(Some("http://127.0.0.1:4318")).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("--otlp-endpoint") && error.contains("--features otlp"), "{error}");
    }
}
