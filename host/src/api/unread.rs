//! What of a request's body was not read when its answer is there.
//!
//! A client may read only after it has written, and sends its next request over the same connection: whatever refuses a request early,
//! for its head, its path or its size, would leave it with a broken connection instead of the answer. So what is left is read and
//! thrown away, within limits, before the answer goes out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::limits::{DISCARD_BYTES_MAX, DISCARD_TIME_MAX};
use super::owed::Owed;

/// Where the rest of a body comes back, if there is one, and who is owed an answer when it is read.
pub struct Unread(Option<(Arc<Mutex<Option<Incoming>>>, Owed)>);

/// A body that comes back when it is dropped before its end.
struct Lent {
    body: Option<Incoming>,
    back: Arc<Mutex<Option<Incoming>>>,
    owed: Owed,
}

/// The request, and what will not have been read of it. An answer is `owed` when all of it is.
pub fn lend(request: Request<Incoming>, owed: &Owed) -> (Request<Body>, Unread) {
    if request.body().is_end_stream() {
        owed.answer();
    }
    // A client that waits for `100 Continue` has not begun to send: it is answered at once.
    if request.body().is_end_stream() || request.headers().contains_key(header::EXPECT) {
        return (request.map(Body::new), Unread(None));
    }
    let back = Arc::new(Mutex::new(None));
    let lent = |body| Body::new(Lent { body: Some(body), back: Arc::clone(&back), owed: owed.clone() });
    (request.map(lent), Unread(Some((back, owed.clone()))))
}

impl Unread {
    /// Reads on without keeping anything. Where that is too slow or too much, the connection is closed, which the client has
    /// earned; it has had its time where the answer says so.
    pub async fn discard(self, answered: StatusCode) {
        let Some((mut rest, owed)) = self.0.and_then(|(back, owed)| Some((back.lock().take()?, owed))) else { return };
        if answered == StatusCode::REQUEST_TIMEOUT {
            return;
        }
        let reading = async {
            let mut bytes = 0;
            while let Some(frame) = rest.frame().await {
                let Ok(frame) = frame else { return };
                bytes += frame.data_ref().map_or(0, Bytes::len);
                if bytes > DISCARD_BYTES_MAX {
                    return;
                }
            }
            owed.answer();
        };
        let _ = timeout(DISCARD_TIME_MAX, reading).await;
    }
}

impl hyper::body::Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = Pin::new(&mut *body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || (matches!(frame, Poll::Ready(Some(Ok(_)))) && body.is_end_stream()) {
            self.owed.answer();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Incoming::size_hint).unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.back.lock() = self.body.take().filter(|body| !body.is_end_stream());
    }
}
