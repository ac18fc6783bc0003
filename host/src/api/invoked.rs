//! Requests that come one by one, as events, and are answered whole: the API as a function of AWS Lambda.
//!
//! What a connection bounds is bounded here by the time and the bytes that a function may take. An event stream ends after
//! [`FUNCTION_STREAM_TIME`]: its client comes back with the id of the last event, and misses nothing.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, header};
use axum::response::IntoResponse as _;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};
use tower_service::Service as _;

use super::limits::{FUNCTION_ANSWER_BYTES_MAX, FUNCTION_STREAM_TIME};
use super::problem::{Error, Result};
use super::{Api, Hosts, router};

/// The API without connections.
#[derive(Clone)]
pub struct Function {
    router: Router,
    hosts: Hosts,
}

impl Function {
    #[must_use]
    pub fn new(api: Api) -> Self {
        Self { hosts: api.hosts.clone(), router: router(api) }
    }

    /// The answer to one request, by `by`.
    pub async fn answer(&self, request: Request<Bytes>, by: Instant) -> Response<Bytes> {
        match self.try_answer(request, by).await {
            Ok(answer) => answer,
            Err(error) => {
                let (parts, body) = error.into_response().into_parts();
                // A problem is in memory.
                let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                Response::from_parts(parts, body)
            }
        }
    }

    async fn try_answer(&self, request: Request<Bytes>, by: Instant) -> Result<Response<Bytes>> {
        self.hosts.check(&request)?;
        let answer = in_time(by, self.router.clone().call(request.map(Body::from))).await?;
        let (parts, body) = match answer {
            Ok(answer) => answer.into_parts(),
            Err(never) => match never {},
        };
        let kind = parts.headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes());
        let body = if kind.is_some_and(|kind| kind.starts_with(b"text/event-stream")) {
            part(body, by.min(Instant::now() + FUNCTION_STREAM_TIME)).await
        } else {
            in_time(by, whole(body)).await??
        };
        if escaped(&body) > FUNCTION_ANSWER_BYTES_MAX {
            return Err(Error::AnswerTooLarge);
        }
        Ok(Response::from_parts(parts, body))
    }
}

async fn in_time<T>(by: Instant, what: impl Future<Output = T>) -> Result<T> {
    timeout_at(by, what).await.map_err(|_elapsed| Error::InvocationOver)
}

async fn whole(mut body: Body) -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::Bug(format!("an answer broke off: {error}")))?;
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if bytes.len() > FUNCTION_ANSWER_BYTES_MAX {
            return Err(Error::AnswerTooLarge);
        }
    }
    Ok(bytes.freeze())
}

/// What comes until `by`, in whole pieces, as far as it may be answered.
async fn part(mut body: Body, by: Instant) -> Bytes {
    let (mut bytes, mut weight) = (BytesMut::new(), 0);
    while let Ok(Some(Ok(frame))) = timeout_at(by, body.frame()).await {
        let Some(data) = frame.data_ref() else { continue };
        weight += escaped(data);
        if weight > FUNCTION_ANSWER_BYTES_MAX {
            break;
        }
        bytes.extend_from_slice(data);
    }
    bytes.freeze()
}

/// Bytes of a text of JSON that says it; what is no text is written in base64.
fn escaped(body: &[u8]) -> usize {
    if std::str::from_utf8(body).is_err() {
        return body.len().div_ceil(3) * 4;
    }
    let surplus = |byte: &u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
        0..0x20 => 5,
        _ => 0,
    };
    body.len() + body.iter().map(surplus).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::StatusCode;
    use axum::routing::get;

    use super::*;

    fn function(body: fn() -> Body) -> Function {
        let stream = move || async move { ([(header::CONTENT_TYPE, "text/event-stream")], body()) };
        let router = Router::new().route("/", get(move || async move { body() })).route("/stream", get(stream));
        Function { router, hosts: Hosts::Only(vec!["shop.example".to_owned()]) }
    }

    fn request(path: &str) -> Request<Bytes> {
        Request::builder().uri(path).header(header::HOST, "shop.example").body(Bytes::new()).unwrap()
    }

    /// Two pieces, and then nothing for ever.
    fn endless() -> Body {
        let pieces = futures::stream::iter(["a", "b"].map(Ok::<_, std::io::Error>));
        Body::from_stream(futures::StreamExt::chain(pieces, futures::stream::pending()))
    }

    async fn answered(function: &Function, request: Request<Bytes>) -> (StatusCode, String) {
        answered_within(Duration::from_secs(60), function, request).await
    }

    async fn answered_within(time: Duration, function: &Function, request: Request<Bytes>) -> (StatusCode, String) {
        let answer = function.answer(request, Instant::now() + time).await;
        let (parts, body) = answer.into_parts();
        (parts.status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_stream_is_answered_with_what_came_and_anything_else_is_told_to_be_late() {
        let (function, time) = (function(endless), Duration::from_millis(200));
        assert_eq!(answered_within(time, &function, request("/stream")).await, (StatusCode::OK, "ab".to_owned()));
        let (status, problem) = answered_within(time, &function, request("/")).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(problem.contains("/problems/outcome-unknown"), "{problem}");
    }

    #[tokio::test]
    async fn what_is_too_large_as_json_is_refused() {
        // Each quote is two bytes of JSON.
        let fits = function(|| Body::from("\"".repeat(FUNCTION_ANSWER_BYTES_MAX / 2)));
        assert_eq!(answered(&fits, request("/")).await.0, StatusCode::OK);
        let large = function(|| Body::from("\"".repeat(FUNCTION_ANSWER_BYTES_MAX / 2 + 1)));
        let (status, problem) = answered(&large, request("/")).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(problem.contains("/problems/answer-too-large"), "{problem}");
    }

    #[tokio::test]
    async fn another_hosts_name_is_refused() {
        let mut other = request("/");
        other.headers_mut().insert(header::HOST, "evil.example".parse().unwrap());
        assert_eq!(answered(&function(Body::empty), other).await.0, StatusCode::MISDIRECTED_REQUEST);
    }

    #[test]
    fn a_body_weighs_what_its_json_does() {
        for body in ["", "plain", "\"quoted\" \\ \n\t\u{1}\u{8}", "Köln €"] {
            assert_eq!(escaped(body.as_bytes()), serde_json::to_string(body).unwrap().len() - 2, "{body:?}");
        }
        assert_eq!(escaped(&[0xff; 4]), 8);
    }
}
