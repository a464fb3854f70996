//! JSON answers, and the bodies that hold them until they are written.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::ApiError;
use crate::tokenizing::Tokenizing;

/// Bytes of a short answer: the socket's own buffers take it, and writing it keeps nobody waiting.
pub(crate) const SHORT: usize = 64 << 10;

/// JSON that ends at [`SHORT`] bytes.
#[derive(Default)]
struct Short(Vec<u8>);

impl std::io::Write for Short {
    fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + part.len() > SHORT {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An answer as JSON: a short one at once. One that turns out to be longer is begun anew on a tokenizing thread, and is freed there,
/// so that the event loop goes on with other connections.
pub(crate) async fn json_bytes(tokenizing: &Tokenizing, value: impl Serialize + Send + 'static) -> Result<Vec<u8>, ApiError> {
    let mut short = Short::default();
    match serde_json::to_writer(&mut short, &value) {
        Ok(()) => Ok(short.0),
        Err(long) if long.is_io() => tokenizing.run(move |_| bytes(&value)).await,
        Err(e) => Err(ApiError::Backend { problem: e.to_string() }),
    }
}

/// A value as JSON.
pub(crate) fn bytes(value: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(value).map_err(|e| ApiError::Backend { problem: e.to_string() })
}

/// JSON as an answer.
pub(crate) fn written(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

/// A value as an answer.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    bytes(value).map_or_else(IntoResponse::into_response, |body| written(status, body))
}

/// Bytes of an answer that are handed to the socket at a time.
const PIECE: usize = 32 << 10;

/// A body that is handed out piece by piece as the socket takes it, and that gives back the memory that it was granted when the last
/// piece is gone. Handed out whole it would end at once, with all its bytes still to be written.
pub(crate) struct Held {
    inner: Body,
    left: Bytes,
    _memory: OwnedSemaphorePermit,
}

impl Held {
    pub(crate) fn new(inner: Body, memory: OwnedSemaphorePermit) -> Self {
        Self { inner, left: Bytes::new(), _memory: memory }
    }
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.left.is_empty() {
            match std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.left = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = PIECE.min(self.left.len());
        let piece = self.left.split_to(piece);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, left) = (self.inner.size_hint(), self.left.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + left);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + left);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde::Serializer;

    use super::*;

    /// A number that notes the thread on which it is written.
    struct Noted(Arc<Mutex<Vec<String>>>);

    impl Serialize for Noted {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.lock().unwrap().push(std::thread::current().name().unwrap_or_default().to_owned());
            serializer.serialize_u64(1234567)
        }
    }

    #[test]
    fn long_answers_are_written_beside_the_event_loop() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let tokenizing = Tokenizing::start(1).unwrap();
        let threads = |numbers: usize| {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let list: Vec<Noted> = (0..numbers).map(|_| Noted(Arc::clone(&seen))).collect();
            let written = runtime.block_on(json_bytes(&tokenizing, list)).unwrap();
            assert_eq!(serde_json::from_slice::<Vec<u64>>(&written).unwrap(), vec![1234567; numbers]);
            let there = seen.lock().unwrap().iter().filter(|name| name.starts_with("cloze-tokenize")).count();
            let all = seen.lock().unwrap().len();
            (all - there, there)
        };
        assert_eq!(threads(1000), (1000, 0), "a short one is written at once");
        let (here, there) = threads(1_000_000);
        assert!(there == 1_000_000 && here * 8 <= SHORT, "{here} of a million were written on the event loop");
    }
}
