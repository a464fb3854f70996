//! One line on standard error for each request.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::Method;
use axum::response::Response;

use crate::error::ApiError;
use crate::settings::LogFormat;
use crate::work::Times;

/// Write the line of a request. Never its texts.
pub(crate) fn request(
    format: LogFormat,
    method: &Method,
    path: &str,
    response: &Response,
    took: Duration,
    error: Option<&ApiError>,
    trace: Option<String>,
) {
    if format == LogFormat::Off {
        return;
    }
    let times = response.extensions().get::<Times>().copied().unwrap_or_default();
    let id = response.headers().get("x-request-id").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let status = response.status().as_u16();
    let ms = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
    let line = match format {
        LogFormat::Json => {
            let mut line = serde_json::json!({
                "time": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64()),
                "level": if status >= 500 { "error" } else if status >= 400 { "warn" } else { "info" },
                "request_id": id,
                "method": method.as_str(),
                "path": path,
                "status": status,
                "total_ms": ms(took),
            });
            if times.tokens > 0 {
                line["tokens"] = times.tokens.into();
                line["tokenization_ms"] = ms(times.tokenization).into();
                line["queue_ms"] = ms(times.queue).into();
                line["inference_ms"] = ms(times.inference).into();
            }
            if let Some(trace) = trace {
                line["trace_id"] = trace.into();
            }
            if let Some(error) = error {
                line["error"] = error.logged().into();
            }
            line.to_string()
        }
        _ => {
            let error = error.map(|e| format!("  {}", e.logged())).unwrap_or_default();
            format!("{status} {method} {path}  {:.1} ms, {} tokens  {id}{error}", ms(took), times.tokens)
        }
    };
    writeln!(std::io::stderr().lock(), "{line}").ok(); // a log that cannot be written is no reason to stop
}
