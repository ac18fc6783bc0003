//! `POST /v1/orders:import`: orders placed elsewhere, one JSON object a line; results in the same order, one a line.
//!
//! ```text
//! body ─► lines ─► parse, check, place: up to IMPORT_IN_FLIGHT_MAX at once ─► results in input order ─► body
//! ```
//! Lines are placed together, so that they share group commits. An import that broke off is resumed by sending it
//! again: lines with a `reference` answer `exists`. The answer flows while the body is still read, and reading stops
//! while nobody takes the answer: a client must read while it writes, or send its orders in parts.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::limits::{IMPORT_IN_FLIGHT_MAX, IMPORT_PAUSE_MAX, IMPORTS_MAX, ORDER_BYTES_MAX};
use super::place::placement;
use super::problem::{Error, Problem, Result};
use super::request::committing;
use super::{Shared, body};
use crate::backend::Placed;
use crate::clock::Timestamp;
use crate::order::OrderId;
use crate::order::draft::{Draft, Mode};
use crate::telemetry::meters;

/// The names under which NDJSON is known.
const MEDIA_TYPES: [&str; 4] =
    ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"];

/// Results that are ready together leave in one piece of the answer.
const RESULTS_PER_PIECE: usize = 64;

/// What became of one line.
#[derive(Serialize)]
struct LineResult<'a> {
    /// From 1; blank lines count and have no result.
    line: u64,
    /// `created`, `exists` or `error`.
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<OrderId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem<'a>>,
}

/// Imports a stream of orders.
pub async fn import(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let media_type = body::media_type(&parts.headers);
    if !MEDIA_TYPES.iter().any(|known| media_type.eq_ignore_ascii_case(known)) {
        return Err(Error::UnsupportedMediaType { expected: MEDIA_TYPES[0] });
    }
    body::require_plain(&parts.headers)?;
    let permit = Arc::clone(&shared.imports)
        .try_acquire_owned()
        .map_err(|_none| Error::TooMany { what: "imports", max: IMPORTS_MAX })?;

    let lines = Lines::new(body, shared.api.stopping.clone());
    let results = stream::unfold(lines, |mut lines| async { Some((lines.next().await?, lines)) })
        .map(move |(number, line)| result_of(Arc::clone(&shared), number, line))
        .buffered(IMPORT_IN_FLIGHT_MAX)
        .ready_chunks(RESULTS_PER_PIECE)
        .map(move |results| {
            // The permit lives as long as the answer is being made.
            let _held = &permit;
            Ok::<_, Infallible>(Bytes::from(results.concat()))
        });
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPES[0])], Body::from_stream(results)).into_response())
}

/// Places one line and says what became of it, as a line of the answer.
async fn result_of(shared: Arc<Shared>, number: u64, line: Result<Bytes>) -> Vec<u8> {
    let outcome = match line {
        Ok(line) => place_line(&shared, &line).await,
        Err(err) => Err(err),
    };
    let outcome = outcome.map_err(|err| at_line(err, number));
    let result = match &outcome {
        Ok((result, id)) => LineResult { line: number, result, id: Some(*id), problem: None },
        Err(err) => LineResult { line: number, result: "error", id: None, problem: Some(err.problem()) },
    };
    // Texts and numbers: writing them into memory cannot fail.
    let mut json = serde_json::to_vec(&result).unwrap_or_default();
    json.push(b'\n');
    json
}

async fn place_line(shared: &Shared, line: &[u8]) -> Result<(&'static str, OrderId)> {
    let draft: Draft = body::parse(line, Error::InvalidOrder)?;
    let now = Timestamp::now();
    let checked = draft.check(now, Mode::Import).map_err(Error::InvalidOrder)?;
    let reference = checked.content.reference.clone();
    let placement = placement(checked, now, None);
    match committing(shared.api.intake.place(placement)).await?.into_inner() {
        Placed::New(order) => {
            meters::order_placed();
            Ok(("created", order.id))
        }
        Placed::Repeated(order) => Ok(("exists", order.id)),
        Placed::ReferenceTaken { by, same_content: true } => Ok(("exists", by)),
        Placed::ReferenceTaken { by, same_content: false } => {
            Err(Error::ReferenceExists { reference: reference.unwrap_or_default(), by })
        }
        Placed::KeyReused => Err(Error::Bug("a placement without an idempotency key reused one".to_owned())),
    }
}

/// The parser saw one line; the client sent many.
fn at_line(err: Error, number: u64) -> Error {
    match err {
        Error::MalformedJson { detail, column, .. } => {
            Error::MalformedJson { detail, line: usize::try_from(number).unwrap_or(usize::MAX), column }
        }
        err => err,
    }
}

/// Cuts a body into lines of at most [`ORDER_BYTES_MAX`].
struct Lines {
    body: Body,
    stopping: CancellationToken,
    pause_max: Duration,
    buffer: BytesMut,
    /// So much of the buffer holds no line break.
    searched: usize,
    number: u64,
    /// The line being read is too long; what comes of it is thrown away.
    skipping: bool,
    ended: bool,
}

impl Lines {
    fn new(body: Body, stopping: CancellationToken) -> Self {
        Self {
            body,
            stopping,
            pause_max: IMPORT_PAUSE_MAX,
            buffer: BytesMut::new(),
            searched: 0,
            number: 0,
            skipping: false,
            ended: false,
        }
    }

    /// The next line that is not blank, with its number. A body that breaks off ends in an error.
    async fn next(&mut self) -> Option<(u64, Result<Bytes>)> {
        loop {
            while let Some(line) = self.cut() {
                let too_long = std::mem::take(&mut self.skipping) || line.len() > ORDER_BYTES_MAX;
                if too_long {
                    return Some((self.number, Err(Error::BodyTooLarge { max: ORDER_BYTES_MAX })));
                }
                if !line.trim_ascii().is_empty() {
                    return Some((self.number, Ok(line)));
                }
            }
            if self.ended {
                return None;
            }
            if self.buffer.len() > ORDER_BYTES_MAX {
                self.skipping = true;
            }
            if self.skipping {
                self.buffer.clear();
                self.searched = 0;
            }
            if let Err(err) = self.read().await {
                self.ended = true;
                self.buffer.clear();
                self.skipping = false;
                return Some((self.number + 1, Err(err)));
            }
        }
    }

    /// The next whole line in the buffer; at the end of the body, what is left of it.
    fn cut(&mut self) -> Option<Bytes> {
        let found = self.buffer.iter().skip(self.searched).position(|byte| *byte == b'\n');
        let line = match found {
            Some(at) => {
                let mut line = self.buffer.split_to(self.searched + at + 1);
                line.truncate(line.len() - 1);
                line
            }
            None if self.ended && (self.skipping || !self.buffer.is_empty()) => self.buffer.split(),
            None => {
                self.searched = self.buffer.len();
                return None;
            }
        };
        self.searched = 0;
        self.number += 1;
        Some(line.freeze())
    }

    async fn read(&mut self) -> Result<()> {
        let frame = tokio::select! {
            biased;
            () = self.stopping.cancelled() => return Err(Error::NotReady("the host is stopping".to_owned())),
            frame = tokio::time::timeout(self.pause_max, self.body.frame()) => frame,
        };
        match frame {
            Err(_elapsed) => Err(Error::BodyBroken(format!("nothing came for {} s", self.pause_max.as_secs()))),
            Ok(None) => {
                self.ended = true;
                Ok(())
            }
            Ok(Some(Err(err))) => Err(Error::BodyBroken(err.to_string())),
            Ok(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.buffer.extend_from_slice(data);
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a body that arrives in these pieces: number and length, or `None` for a refused line.
    async fn lines(pieces: &[&str]) -> Vec<(u64, Option<String>)> {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok::<_, Infallible>(piece.to_string())).collect();
        let mut lines = Lines::new(Body::from_stream(stream::iter(pieces)), CancellationToken::new());
        let mut found = Vec::new();
        while let Some((number, line)) = lines.next().await {
            found.push((number, line.ok().map(|line| String::from_utf8(line.to_vec()).unwrap())));
        }
        found
    }

    fn line(number: u64, text: &str) -> (u64, Option<String>) {
        (number, Some(text.to_owned()))
    }

    #[tokio::test]
    async fn lines_are_cut_wherever_the_pieces_end() {
        assert_eq!(lines(&["a\nb", "b\n\n", "  \r\nc"]).await, [line(1, "a"), line(2, "bb"), line(5, "c")]);
        assert_eq!(lines(&[]).await, []);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_skipped_and_the_next_one_read() {
        let long = "x".repeat(ORDER_BYTES_MAX);
        assert_eq!(lines(&[&long, "x", &long, "\nb"]).await, [(1, None), line(2, "b")]);
        assert_eq!(lines(&[&long, "x"]).await, [(1, None)]);
        assert_eq!(lines(&[&long, "\n"]).await, [line(1, &long)]);
    }

    #[tokio::test]
    async fn a_body_that_stalls_ends_in_an_error() {
        let stalled = stream::once(async { Ok::<_, Infallible>("a\nb") }).chain(stream::pending());
        let mut lines = Lines::new(Body::from_stream(stalled), CancellationToken::new());
        lines.pause_max = Duration::from_millis(5);
        assert!(lines.next().await.unwrap().1.is_ok());
        let (number, line) = lines.next().await.unwrap();
        assert!(matches!((number, line), (2, Err(Error::BodyBroken(_)))));
        assert!(lines.next().await.is_none());
    }

    #[tokio::test]
    async fn a_stopping_host_reads_no_further() {
        let stopping = CancellationToken::new();
        stopping.cancel();
        let mut lines = Lines::new(Body::from("a\n"), stopping);
        assert!(matches!(lines.next().await, Some((1, Err(Error::NotReady(_))))));
        assert!(lines.next().await.is_none());
    }
}
