//! Bodies that nobody read to the end. An answer that leaves before its request has come in whole would be cut off with the
//! connection, and a client that is still writing would see no answer at all; so a small rest is taken in first.

use super::limits::{LEFTOVER_TIMEOUT, MAX_LEFTOVER_BYTES};
use axum::body::{Body, Bytes};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};
use tokio::time::timeout;

/// What is left of a body when its reader is gone.
#[derive(Debug, Clone, Default)]
pub(super) struct Leftover(Arc<Mutex<Option<Body>>>);

/// A body that leaves what is not read to its [`Leftover`].
struct Watched {
    body: Body,
    leftover: Leftover,
}

impl Leftover {
    /// The body as its reader sees it.
    pub(super) fn watch(&self, body: Body) -> Body {
        if body.is_end_stream() { body } else { Body::new(Watched { body, leftover: self.clone() }) }
    }

    /// Takes in what is left, within bounds, and tells whether that was all; else the connection ends.
    pub(super) async fn take_in(self) -> bool {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(body) = left else { return true };
        matches!(timeout(LEFTOVER_TIMEOUT, Limited::new(body, MAX_LEFTOVER_BYTES).collect()).await, Ok(Ok(_)))
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.body.is_end_stream() {
            let body = std::mem::take(&mut self.body);
            *self.leftover.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}
