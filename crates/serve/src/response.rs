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
