//! Memory that large bodies and answers take at the same time, over all connections: each waits for its turn. A small one is bounded
//! by the number of connections, and never waits. Who has a turn, and does not take the answer, loses both where others wait.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};

use super::limits::{
    ANSWER_STALL_MAX, ANSWER_TIME_MAX, LARGE_ANSWERS_MAX, LARGE_BODIES_MAX, SMALL_BYTES_MAX, TURN_TIME_MAX,
};
use super::problem::{Error, Result};

static BODIES: Semaphore = Semaphore::const_new(LARGE_BODIES_MAX);
static ANSWERS: Semaphore = Semaphore::const_new(LARGE_ANSWERS_MAX);

/// Large answers that have not been taken yet.
static LEAVING: Mutex<Vec<Weak<Mutex<Answer>>>> = Mutex::new(Vec::new());
/// How often whoever waits for a turn looks whether one is kept for nothing.
const LOOK_EVERY: Duration = Duration::from_millis(200);

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
    let turn = tokio::select! {
        turn = turn(&ANSWERS, TURN_TIME_MAX) => turn,
        () = end_stalled() => None,
    };
    let turn = turn.ok_or(refused)?;
    let (parts, body) = next.run(request).await.into_parts();
    if is_small(&body) {
        return Ok(Response::from_parts(parts, body));
    }
    // In one piece already.
    let bytes = body.collect().await.map_err(|error| Error::Bug(format!("a page broke off: {error}")))?.to_bytes();
    Ok(Response::from_parts(parts, Body::new(Leaving::new(bytes, turn))))
}

fn is_small(body: &Body) -> bool {
    body.size_hint().upper().is_some_and(|bytes| bytes <= SMALL_BYTES_MAX)
}

async fn turn(of: &'static Semaphore, time_max: Duration) -> Option<Turn> {
    timeout(time_max, of.acquire()).await.ok()?.ok()
}

/// Ends answers that keep their turns for nothing, for as long as somebody waits.
async fn end_stalled() {
    loop {
        sleep(LOOK_EVERY).await;
        end_stalled_at(Instant::now());
    }
}

fn end_stalled_at(now: Instant) {
    LEAVING.lock().retain(|answer| answer.upgrade().is_some_and(|answer| answer.lock().goes_on(now)));
}

/// What is left of an answer that is being sent.
struct Answer {
    bytes: Bytes,
    began: Instant,
    /// When some of it was last taken.
    taken: Instant,
    /// `None` where it was lost.
    turn: Option<Turn>,
}

impl Answer {
    /// `false` where it is over, and what is left of it is gone.
    fn goes_on(&mut self, now: Instant) -> bool {
        let stalled = now.duration_since(self.taken) >= ANSWER_STALL_MAX;
        if stalled || now.duration_since(self.began) >= ANSWER_TIME_MAX {
            (self.bytes, self.turn) = (Bytes::new(), None);
        }
        self.turn.is_some()
    }
}

/// An answer that leaves in pieces, so that it is there as long as the client has not taken all of it but the last.
struct Leaving {
    answer: Arc<Mutex<Answer>>,
    /// Of what is left, as the head of the answer says.
    length: usize,
}

impl Leaving {
    fn new(bytes: Bytes, turn: Turn) -> Self {
        let (length, now) = (bytes.len(), Instant::now());
        let answer = Arc::new(Mutex::new(Answer { bytes, began: now, taken: now, turn: Some(turn) }));
        let mut leaving = LEAVING.lock();
        leaving.retain(|answer| answer.strong_count() > 0);
        leaving.push(Arc::downgrade(&answer));
        Self { answer, length }
    }
}

impl HttpBody for Leaving {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Self::Error>>> {
        const PIECE_BYTES: usize = 64 << 10;
        let piece = {
            let mut answer = self.answer.lock();
            answer.taken = Instant::now();
            let length = answer.bytes.len().min(PIECE_BYTES);
            answer.bytes.split_to(length)
        };
        if self.length > 0 && piece.is_empty() {
            let lost = "the client did not take its answer, and others waited";
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, lost))));
        }
        self.length -= piece.len();
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.length == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For tests that count answers, of which there are those of one process.
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

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
        let _alone = ALONE.lock().await;
        let before = ANSWERS.available_permits();
        let turn = turn(&ANSWERS, Duration::from_secs(1)).await.unwrap();
        let whole: Bytes = (0..300_000_u32).map(|n| n.to_be_bytes()[3]).collect();
        let mut body = Body::new(Leaving::new(whole.clone(), turn));
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
    #[tokio::test]
    async fn a_reader_that_takes_nothing_loses_its_turn_where_others_wait() {
        let _alone = ALONE.lock().await;
        let whole = Bytes::from(vec![b'x'; 300_000]);
        let mut slow = Body::new(Leaving::new(whole.clone(), turn(&ANSWERS, TURN_TIME_MAX).await.unwrap()));
        let mut quick = Body::new(Leaving::new(whole, turn(&ANSWERS, TURN_TIME_MAX).await.unwrap()));
        let before = ANSWERS.available_permits();
        assert_eq!(slow.frame().await.unwrap().unwrap().into_data().unwrap().len(), 64 << 10);
        let now = Instant::now();
        sleep(Duration::from_millis(5)).await;
        assert!(quick.frame().await.unwrap().is_ok());
        end_stalled_at(now + ANSWER_STALL_MAX);
        assert_eq!(ANSWERS.available_permits(), before + 1);
        let lost = slow.frame().await.unwrap().unwrap_err();
        assert!(lost.to_string().contains("others waited"), "{lost}");
        assert!(quick.frame().await.unwrap().is_ok());
        end_stalled_at(now + ANSWER_TIME_MAX);
        assert_eq!(ANSWERS.available_permits(), before + 2);
        assert!(quick.frame().await.unwrap().is_err(), "nor may one be taken for ever, a little at a time");
    }

    #[tokio::test]
    async fn whoever_waits_gets_the_turn_of_a_reader_that_takes_nothing() {
        let _alone = ALONE.lock().await;
        let page = async || {
            let answers = async || Body::from(vec![b'x'; 300_000]);
            let router = axum::Router::new().route("/", axum::routing::get(answers));
            let router = router.route_layer(axum::middleware::from_fn(for_answer));
            let request = axum::http::Request::builder().uri("/").body(Body::empty()).unwrap();
            tower::ServiceExt::oneshot(router, request).await.unwrap()
        };
        let mut slow = Vec::new();
        for _ in 0..LARGE_ANSWERS_MAX {
            let mut body = page().await.into_body();
            assert!(body.frame().await.unwrap().is_ok());
            slow.push(body);
        }
        // Nobody has waited until now, so all of them go on.
        sleep(ANSWER_STALL_MAX).await;
        let next = page().await;
        assert_eq!(next.status(), axum::http::StatusCode::OK);
        assert_eq!(next.into_body().collect().await.unwrap().to_bytes().len(), 300_000);
    }
}
