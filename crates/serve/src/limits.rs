//! What is asked of a request before anything else looks at it: a key, a body of bounded size that arrives in time, JSON of bounded depth.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq;
use tokio::sync::OwnedSemaphorePermit;

use crate::app::App;
use crate::error::ApiError;

/// The keys that open the server.
pub(crate) struct Keys(Vec<String>);

impl Keys {
    pub(crate) fn new(keys: &[String]) -> Self {
        Self(keys.to_vec())
    }

    /// Whether the headers carry one of the keys: as a bearer token, or as the password of basic authentication, with which a browser
    /// asks its user. Every key is compared, in time that depends on lengths alone. Paths play no part, so that no spelling of a path
    /// goes around it.
    pub(crate) fn open(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return Err(ApiError::Unauthorized) };
        let value = value.as_bytes();
        let shown = match value.split_first_chunk::<7>() {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token.to_vec(),
            _ => basic_password(value).unwrap_or_default(),
        };
        let mut open = subtle::Choice::from(0);
        for key in &self.0 {
            open |= key.as_bytes().ct_eq(&shown);
        }
        if open.into() { Ok(()) } else { Err(ApiError::Unauthorized) }
    }
}

/// The password of `Basic base64(user:password)`.
fn basic_password(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, token) = value.split_first_chunk::<6>()?;
    let decoded = scheme.eq_ignore_ascii_case(b"basic ").then(|| BASE64_STANDARD.decode(token).ok())??;
    let colon = decoded.iter().position(|&b| b == b':')?;
    Some(decoded[colon + 1..].to_vec())
}

/// A body in memory, and the memory that it was granted.
pub(crate) struct Bytes {
    bytes: Vec<u8>,
    memory: OwnedSemaphorePermit,
}

impl Bytes {
    /// The memory alone: what was parsed from the bytes holds about as much.
    pub(crate) fn into_memory(self) -> OwnedSemaphorePermit {
        self.memory
    }
}

/// Read a body: at most `--payload-limit` bytes, within `--body-timeout`, while all bodies together keep to their memory.
pub(crate) async fn body(app: &App, body: Body) -> Result<Bytes, ApiError> {
    let settings = &app.settings;
    let limit = settings.payload_limit;
    let hint = body.size_hint();
    if hint.lower() > limit as u64 {
        return Err(ApiError::Payload { limit });
    }
    // A body that does not say its length is granted the most it may have.
    let expected = hint.exact().map_or(limit, |n| n as usize);
    let memory = u32::try_from(expected.max(1)).unwrap_or(u32::MAX);
    let memory = Arc::clone(&app.body_memory).try_acquire_many_owned(memory);
    let memory = memory.map_err(|_| ApiError::Overloaded { full: "too many bytes of requests are under way" })?;
    let read = async {
        let mut body = body;
        let mut bytes = Vec::with_capacity(hint.exact().map_or(0, |n| n as usize));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| ApiError::Body { problem: e.to_string() })?;
            if let Some(data) = frame.data_ref() {
                if bytes.len() + data.len() > limit {
                    return Err(ApiError::Payload { limit });
                }
                bytes.extend_from_slice(data);
            }
        }
        Ok(bytes)
    };
    let slow = ApiError::SlowBody { seconds: settings.body_timeout.as_secs() };
    let bytes = tokio::time::timeout(settings.body_timeout, read).await.map_err(|_| slow)??;
    Ok(Bytes { bytes, memory })
}

/// Parse a body, whatever its content type says.
pub(crate) fn json<T: DeserializeOwned>(bytes: &Bytes, depth: usize) -> Result<T, ApiError> {
    let bytes = &bytes.bytes;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::Json { problem: "it is empty".into() });
    }
    shallow(bytes, depth)?;
    serde_json::from_slice(bytes).map_err(|e| ApiError::Json { problem: e.to_string() })
}

/// Refuse nesting beyond `limit` before a parser descends into it.
fn shallow(bytes: &[u8], limit: usize) -> Result<(), ApiError> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > limit {
                    return Err(ApiError::Depth { limit });
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => (),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_strings_only() {
        assert!(shallow(br#"[[["]]]]]][[[[[[ \" [["]]]"#, 3).is_ok());
        assert_eq!(shallow(b"[[[[1]]]]", 3), Err(ApiError::Depth { limit: 3 }));
        assert!(shallow(b"]]]][[[1]]]", 3).is_ok());
    }

    #[test]
    fn keys_open_as_bearer_and_as_password() {
        let keys = Keys::new(&["one".into(), "two".into()]);
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            keys.open(&headers)
        };
        assert!(with("Bearer two").is_ok() && with("bearer one").is_ok());
        assert!(with(&format!("Basic {}", BASE64_STANDARD.encode("anybody:one"))).is_ok());
        for wrong in ["", "Bearer", "Bearer ", "Bearer onetwo", "Bearer on", "one", "Basic b25l", "Basic !!", "Digest one"] {
            assert_eq!(with(wrong), Err(ApiError::Unauthorized), "{wrong:?}");
        }
        assert_eq!(keys.open(&HeaderMap::new()), Err(ApiError::Unauthorized));
        assert!(Keys::new(&[]).open(&HeaderMap::new()).is_ok());
    }
}
