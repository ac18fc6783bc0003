//! Memory that large bodies and answers take at the same time, over all connections: each waits for its turn. A small one is bounded
//! by the number of connections, and never waits.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::limits::{LARGE_ANSWERS_MAX, LARGE_BODIES_MAX, SMALL_BYTES_MAX, TURN_TIME_MAX};
use super::problem::{Error, Result};

static BODIES: Semaphore = Semaphore::const_new(LARGE_BODIES_MAX);
static ANSWERS: Semaphore = Semaphore::const_new(LARGE_ANSWERS_MAX);

/// Held as long as what is large is in memory.
type Turn = SemaphorePermit<'static>;

/// The turn of a body that comes, where it is large or does not say how large it is.
pub fn for_body(body: &Body) -> impl Future<Output = Result<Option<Turn>>> + use<> {
    let is_small = is_small(body);
    async move {
        if is_small {
            return Ok(None);
        }
        let refused = Error::TooMany { what: "large bodies", max: LARGE_BODIES_MAX };
        turn(&BODIES, TURN_TIME_MAX).await.map(Some).ok_or(refused)
    }
}

/// `bytes`, which keep their turn until they are dropped.
pub fn kept(bytes: Bytes, turn: Option<Turn>) -> Bytes {
    struct Kept(Bytes, #[expect(dead_code, reason = "dropped with the bytes")] Turn);
    impl AsRef<[u8]> for Kept {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    match turn {
        None => bytes,
        Some(turn) => Bytes::from_owner(Kept(bytes, turn)),
    }
}

/// Around calls whose answers are pages: one that is large keeps its turn until it is sent.
pub async fn for_answer(request: Request, next: Next) -> Result<Response> {
    let refused = Error::TooMany { what: "large answers", max: LARGE_ANSWERS_MAX };
    let turn = turn(&ANSWERS, TURN_TIME_MAX).await.ok_or(refused)?;
    let (parts, body) = next.run(request).await.into_parts();
    if is_small(&body) {
        return Ok(Response::from_parts(parts, body));
    }
    // In one piece already.
    let bytes = body.collect().await.map_err(|error| Error::Bug(format!("a page broke off: {error}")))?.to_bytes();
    Ok(Response::from_parts(parts, Body::new(Leaving { bytes, _turn: turn })))
}

fn is_small(body: &Body) -> bool {
    body.size_hint().upper().is_some_and(|bytes| bytes <= SMALL_BYTES_MAX)
}

async fn turn(of: &'static Semaphore, time_max: Duration) -> Option<Turn> {
    timeout(time_max, of.acquire()).await.ok()?.ok()
}

/// An answer that leaves in pieces, so that it is there as long as the client has not taken all of it but the last.
struct Leaving {
    bytes: Bytes,
    _turn: Turn,
}

impl HttpBody for Leaving {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Self::Error>>> {
        const PIECE_BYTES: usize = 64 << 10;
        let length = self.bytes.len().min(PIECE_BYTES);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(self.bytes.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_large_waits_for_its_turn_and_what_is_small_does_not() {
        let large = || Body::from(vec![b' '; usize::try_from(SMALL_BYTES_MAX).unwrap() + 1]);
        let unknown = || Body::from_stream(futures::stream::pending::<std::io::Result<&str>>());
        let mut turns = Vec::new();
        for n in 0..LARGE_BODIES_MAX {
            let body = if n % 2 == 0 { large() } else { unknown() };
            turns.push(kept(Bytes::from_static(b"x"), for_body(&body).await.unwrap()));
        }
        assert!(turn(&BODIES, Duration::from_millis(20)).await.is_none(), "all of them are out");
        assert!(for_body(&Body::from("{}")).await.unwrap().is_none());
        assert!(for_body(&Body::empty()).await.unwrap().is_none());
        let copy = turns[0].clone();
        turns.remove(0);
        assert!(turn(&BODIES, Duration::from_millis(20)).await.is_none(), "a copy is still there");
        drop(copy);
        assert!(turn(&BODIES, Duration::from_millis(20)).await.is_some());
    }

    #[tokio::test]
    async fn an_answer_keeps_its_turn_until_its_last_piece_is_taken() {
        let before = ANSWERS.available_permits();
        let turn = turn(&ANSWERS, Duration::from_secs(1)).await.unwrap();
        let whole: Bytes = (0..300_000_u32).map(|n| n.to_be_bytes()[3]).collect();
        let mut body = Body::new(Leaving { bytes: whole.clone(), _turn: turn });
        assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
        let mut sent = Vec::new();
        while let Some(frame) = body.frame().await {
            assert_eq!(ANSWERS.available_permits(), before - 1);
            sent.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        assert_eq!(sent, whole);
        drop(body);
        assert_eq!(ANSWERS.available_permits(), before);
    }
}
