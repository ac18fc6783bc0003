//! A client that has said all that it has to say, and waits for the answer.
//!
//! It may close its side of the connection behind its request (`nc -N`), which looks as if it had gone away: hyper gives such a
//! connection up, and with its own half-closing it never looks whether anybody is there. So the end of what a client sends is kept from
//! hyper as long as an answer is owed: from when the request is whole until its answer is flushed. Whoever is gone indeed is found out by
//! what is written. What may have nothing to write for long ([`WhileHeard`]) is owed to nobody that has closed its side.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Waker};

use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// No request is whole.
const NOTHING: u8 = 0;
/// One is, and its answer has not come to its end.
const ANSWER: u8 = 1;
/// What is left of its answer leaves with the next flush.
const FLUSH: u8 = 2;

/// What is owed on one connection.
#[derive(Clone, Default)]
pub struct Owed(Arc<AtomicU8>);

/// In the extensions of an answer: it ends where nobody listens any more, and may be silent for long.
#[derive(Clone, Copy, Debug)]
pub struct WhileHeard;

impl Owed {
    /// A request is whole.
    pub fn answer(&self) {
        self.0.store(ANSWER, Ordering::Relaxed);
    }

    /// The answer to it, which is owed until it has come to its end.
    pub fn until_sent<B>(&self, response: Response<B>) -> Response<Answer<B>> {
        if response.extensions().get::<WhileHeard>().is_some() {
            self.0.store(NOTHING, Ordering::Relaxed);
        }
        response.map(|body| Answer { body, owed: self.clone() })
    }

    fn step(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// The body of an answer that is owed.
pub struct Answer<B> {
    body: B,
    owed: Owed,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Answer<B> {
    fn drop(&mut self) {
        self.owed.step(ANSWER, FLUSH);
    }
}

/// A connection whose end is not told while an answer is owed.
pub struct Patient<T> {
    inner: T,
    owed: Owed,
    /// Whoever was not told.
    untold: Option<Waker>,
}

impl<T> Patient<T> {
    pub fn new(inner: T, owed: Owed) -> Self {
        Self { inner, owed, untold: None }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (filled, asked) = (buf.filled().len(), buf.remaining());
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        let ended = matches!(read, Poll::Ready(Ok(()))) && asked > 0 && buf.filled().len() == filled;
        if ended && this.owed.0.load(Ordering::Relaxed) != NOTHING {
            this.untold = Some(cx.waker().clone());
            return Poll::Pending;
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            this.owed.step(FLUSH, NOTHING);
        }
        // It reads again when it has written, unless it is waited for without reading.
        if this.owed.0.load(Ordering::Relaxed) == NOTHING {
            this.untold.take().iter().for_each(Waker::wake_by_ref);
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use crate::api::tests::full_store;
    use crate::api::{Api, serve};

    /// What is answered to a client that sends `request` and closes its side, until the host closes its own.
    async fn answered(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let api = full_store();
        let stopping = api.stopping.clone();
        let serving = tokio::spawn(serve(listener, Api { hosts: crate::api::Hosts::Any, ..api }));
        client.write_all(request.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        let read = timeout(Duration::from_secs(5), client.read_to_string(&mut answer)).await;
        read.expect("the host closes its side in turn").unwrap();
        stopping.cancel();
        serving.await.unwrap();
        answer
    }

    #[tokio::test]
    async fn who_closes_its_side_behind_its_request_is_answered() {
        let head = "POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
        let cases = [
            ("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "200 OK"),
            ("GET /v1/orders HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(), "200 OK"),
            (format!("{head}Content-Length: 2\r\n\r\n{{}}"), "/problems/invalid-order"),
            (format!("{head}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"), "/problems/invalid-order"),
            ("POST /v1/none HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}".to_owned(), "/problems/not-found"),
        ];
        for (request, expected) in cases {
            let answer = answered(&request).await;
            assert!(answer.contains(expected), "{request}: {answer}");
        }
    }

    #[tokio::test]
    async fn who_closes_its_side_before_its_request_is_whole_or_listens_to_a_stream_is_not_waited_for() {
        let half =
            "POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
        for request in ["", "GET /healthz HT", half, "GET /v1/events HTTP/1.1\r\nHost: a\r\n\r\n"] {
            let answer = answered(request).await;
            assert!(!answer.contains("201"), "{request}: {answer}");
        }
    }
}
