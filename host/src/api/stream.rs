//! `GET /v1/events`: events as they are recorded, as server-sent events.
//!
//! The id of each is its position in the journal, so a stream that broke off goes on where it stood: browsers send
//! `Last-Event-ID` by themselves. Without it, `?after=POSITION` says where to begin (0 for the first event), and
//! without that only new events are sent. `?type=order.*` narrows by kind.
//!
//! Where events between have left the journal by age, an event of the name `gap` says so: `{"after":12,"before":345}`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::limits::{STREAM_BATCH, STREAM_PIECE_BYTES, STREAM_POLL, STREAM_SILENCE_MAX, STREAMS_MAX};
use super::page::one_line;
use super::problem::{Error, Result};
use super::request::{Params, parsed, reading};
use crate::backend::Journal;
use crate::event::{Event, KindPattern, Position};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamParams {
    after: Option<u64>,
    r#type: Option<String>,
}

/// Opens a stream of events.
pub async fn stream(
    State(shared): State<Arc<Shared>>,
    Params(params): Params<StreamParams>,
    headers: HeaderMap,
) -> Result<Response> {
    let kinds = parsed::<KindPattern>("type", params.r#type.as_deref())?;
    let permit = Arc::clone(&shared.streams)
        .try_acquire_owned()
        .map_err(|_none| Error::TooMany { what: "event streams", max: STREAMS_MAX })?;
    let journal = Arc::clone(&shared.api.journal);
    let after = match last_event_id(&headers)?.or(params.after) {
        Some(position) => Position::new(position),
        None => reading(journal.newest()).await?,
    };
    let follower = Follower {
        journal,
        stopping: shared.api.stopping.clone(),
        after,
        kinds,
        spoke_at: Instant::now(),
        _permit: permit,
    };
    // The first comment makes the head of the answer leave at once.
    let opened = stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b": fanfare\n\n")) });
    let events = stream::unfold(follower, |mut follower| async { Some((Ok(follower.next().await?), follower)) });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(futures::StreamExt::chain(opened, events))).into_response())
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let refused = Error::InvalidParameter {
        field: "Last-Event-ID".into(),
        detail: "must be the id of an event of this stream, which is a whole number".to_owned(),
    };
    value.to_str().ok().and_then(|text| text.parse().ok()).map(Some).ok_or(refused)
}

/// One open stream.
struct Follower {
    journal: Arc<dyn Journal>,
    stopping: CancellationToken,
    after: Option<Position>,
    kinds: Option<KindPattern>,
    /// When something was last sent.
    spoke_at: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    /// The next piece of the stream. It ends when the host stops or the store fails: clients come back by
    /// themselves, and miss nothing.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.stopping.is_cancelled() {
                return None;
            }
            let events = match reading(self.journal.events_after(self.after, STREAM_BATCH)).await {
                Ok(events) => events,
                Err(err) => {
                    tracing::warn!(error = %err, "an event stream ended: the journal could not be read");
                    return None;
                }
            };
            let gap = gap(self.after, &events).filter(|_| self.journal.is_contiguous());
            let mut text = gap.unwrap_or_default();
            for event in &events {
                // What is left out is read again: from memory, as a rule.
                if text.len() > STREAM_PIECE_BYTES {
                    break;
                }
                self.after = Some(event.position);
                if self.kinds.as_ref().is_none_or(|kinds| kinds.matches(event.kind())) {
                    text.extend(frame(event));
                }
            }
            let caught_up = events.is_empty();
            if !text.is_empty() {
                self.spoke_at = Instant::now();
                return Some(text.into());
            }
            if self.spoke_at.elapsed() >= STREAM_SILENCE_MAX {
                self.spoke_at = Instant::now();
                return Some(Bytes::from_static(b": still here\n\n"));
            }
            if caught_up {
                // A stop ends the wait early; the head of the loop sees it.
                let _ = tokio::time::timeout(STREAM_POLL, self.stopping.cancelled()).await;
            }
        }
    }
}

/// Where positions are without gaps, what is missing before the first event is not there any more.
fn gap(after: Option<Position>, events: &[Arc<Event>]) -> Option<String> {
    let (after, before) = (after.map_or(0, Position::get), events.first()?.position.get());
    (after + 1 < before).then(|| format!("event: gap\ndata: {{\"after\":{after},\"before\":{before}}}\n\n"))
}

fn frame(event: &Event) -> Option<String> {
    match serde_json::to_string(event) {
        Ok(json) => Some(format!("id: {}\ndata: {}\n\n", event.position, one_line(json))),
        Err(err) => {
            tracing::error!(event_id = %event.id, error = %err, "an event is no JSON and was left out of a stream");
            None
        }
    }
}
