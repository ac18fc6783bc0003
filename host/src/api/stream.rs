//! `GET /v1/events`: events as they are recorded, as server-sent events.
//!
//! The id of each says where the stream stands, so one that broke off goes on there: browsers send `Last-Event-ID` by
//! themselves. Without it, `?after=POSITION` says where to begin (0 for the first event), and without that only new events are
//! sent. `?type=order.*` narrows by kind.
//!
//! Where nothing is told for a while, because all that it goes by is of other kinds, an id comes alone: whoever breaks off there
//! need not go by all of it once more. A stream of new events alone begins with one, so that none is missed that comes while it is
//! broken off.
//!
//! Events come in the order of the journal. Where hosts share it, one whose write took long may come to stand in front of
//! others that were sent already; it is sent by and by, behind them: see [`passed`].
//!
//! Where events between are left out, an event of the name `gap` says so: `{"after":12,"before":345}`. They have left the
//! journal by age; or some came to stand there while the stream was broken off, and nobody knows which were told; or the store
//! was restored from a copy that was made before what was told.

mod passed;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
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

use self::passed::{Cursor, PASSED_MAX, Passed};
use super::Shared;
use super::limits::{
    STREAM_BATCH, STREAM_LOOK_AGAIN, STREAM_PIECE_BYTES, STREAM_PLACE_EVERY, STREAM_POLL, STREAM_SILENCE_MAX,
    STREAMS_MAX,
};
use super::owed::WhileHeard;
use super::page::one_line;
use super::problem::{Error, Result};
use super::request::{Params, parsed, reading};
use crate::backend::Journal;
use crate::event::{Event, KindPattern, Position};

/// Events that a stream looks at when it looks once more: all that it has gone by, and as many that it has not.
const FOUND_MAX: usize = 2 * PASSED_MAX;

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
    let last = last_event_id(&headers)?;
    let is_new_alone = last.is_none() && params.after.is_none();
    let start = Start::find(&*journal, last, params.after).await?;
    let mut follower = Follower {
        journal,
        stopping: shared.api.stopping.clone(),
        after: Position::new(start.after),
        passed: start.passed,
        looks_again_at: Instant::now() + STREAM_LOOK_AGAIN,
        kinds,
        spoke_at: Instant::now(),
        told: Cursor { position: start.after, unsettled: None },
        _permit: permit,
    };
    follower.told = follower.cursor();
    // The first comment makes the head of the answer leave at once.
    let place = if is_new_alone { place(follower.told) } else { String::new() };
    let opening = format!(": fanfare\n\n{}{place}", start.gap.unwrap_or_default());
    let opened = stream::once(async { Ok::<_, Infallible>(Bytes::from(opening)) });
    let events = stream::unfold(follower, |mut follower| async { Some((Ok(follower.next().await?), follower)) });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Extension(WhileHeard), Body::from_stream(futures::StreamExt::chain(opened, events))).into_response())
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<Cursor>> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let refused = Error::InvalidParameter {
        field: "Last-Event-ID".into(),
        detail: "must be the id of an event of this stream".to_owned(),
    };
    value.to_str().ok().and_then(|text| text.parse().ok()).map(Some).ok_or(refused)
}

/// Where a stream begins.
struct Start {
    after: u64,
    /// `None` where nothing comes to stand in front of what was read.
    passed: Option<Passed>,
    gap: Option<String>,
}

impl Start {
    async fn find(journal: &dyn Journal, cursor: Option<Cursor>, after: Option<u64>) -> Result<Self> {
        // Before anything is read.
        let settled = journal.settled();
        let looks = match cursor {
            Some(_) => settled.is_none(),
            None => settled.is_some() || after.is_none(),
        };
        let newest = if looks { reading(journal.newest()).await? } else { None };
        let newest = newest.map_or(0, Position::get);
        let last = cursor.map(|cursor| cursor.position).or(after).unwrap_or(newest);
        let Some(settled) = settled else {
            // Where what was told last is not there, the store was restored from a copy, and goes on with other events.
            let ahead = Position::new(last).filter(|_| cursor.is_some() && last > newest);
            let is_there = match ahead {
                Some(last) => !reading(journal.positions(Position::new(newest), last, 1)).await?.is_empty(),
                None => true,
            };
            return Ok(match is_there {
                true => Self { after: last, passed: None, gap: None },
                false => Self { after: newest, passed: None, gap: Some(gap(0, newest.saturating_add(1))) },
            });
        };
        if cursor.is_none() && last > newest {
            // What is yet to come is waited for, and not what comes before it.
            return Ok(Self { after: last, passed: Some(Passed::new(last, last, [])), gap: None });
        }
        let unsettled = cursor.and_then(|cursor| cursor.unsettled);
        let through = unsettled.map_or(settled.get(), |unsettled| unsettled.through).min(last);
        let found = match Position::new(last).filter(|_| through < last) {
            Some(last) => reading(journal.positions(Position::new(through), last, PASSED_MAX + 1)).await?,
            None => Vec::new(),
        };
        let is_known = found.len() <= PASSED_MAX && unsettled.is_none_or(|unsettled| unsettled.count == found.len());
        let gap = (!is_known).then(|| gap(through, last.saturating_add(1)));
        let passed =
            if found.len() > PASSED_MAX { Passed::new(last, last, []) } else { Passed::new(through, last, found) };
        Ok(Self { after: last, passed: Some(passed), gap })
    }
}

/// One open stream.
struct Follower {
    journal: Arc<dyn Journal>,
    stopping: CancellationToken,
    after: Option<Position>,
    passed: Option<Passed>,
    looks_again_at: Instant,
    kinds: Option<KindPattern>,
    /// When something was last sent.
    spoke_at: Instant,
    /// Where it said last that it stands.
    told: Cursor,
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
            let (text, caught_up) = match self.read().await {
                Ok(read) => read,
                Err(err) => {
                    tracing::warn!(error = %err, "an event stream ended: the journal could not be read");
                    return None;
                }
            };
            let stands = self.cursor();
            let is_far = stands != self.told && self.spoke_at.elapsed() >= STREAM_PLACE_EVERY;
            if !text.is_empty() || is_far {
                (self.spoke_at, self.told) = (Instant::now(), stands);
                return Some(if text.is_empty() { place(stands) } else { text }.into());
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

    /// What there is to tell, and whether that was all.
    async fn read(&mut self) -> Result<(String, bool)> {
        let settled = self.journal.settled().map_or(0, Position::get);
        let mut text = self.look_again(settled).await?;
        if text.len() > STREAM_PIECE_BYTES {
            return Ok((text, false));
        }
        if self.passed.as_ref().is_some_and(Passed::is_full) {
            return Ok((text, true));
        }
        let events = reading(self.journal.events_after(self.after, STREAM_BATCH)).await?;
        if self.passed.is_none()
            && let Some(first) = events.first()
        {
            // Positions are without gaps, so what is missing before the first event is not there any more.
            let (after, before) = (self.after.map_or(0, Position::get), first.position.get());
            text.extend((after + 1 < before).then(|| gap(after, before)));
        }
        for event in &events {
            // What is left out is read again: from memory, as a rule.
            if text.len() > STREAM_PIECE_BYTES {
                break;
            }
            self.after = Some(event.position);
            self.tell(event, settled, &mut text);
        }
        Ok((text, events.is_empty()))
    }

    /// What came to stand in front of events that were sent, where nothing can any more.
    async fn look_again(&mut self, settled: u64) -> Result<String> {
        let mut text = String::new();
        let Some(passed) = &self.passed else { return Ok(text) };
        let Some((after, to)) = passed.settled(settled).filter(|_| passed.is_full() || self.is_to_look_again()) else {
            return Ok(text);
        };
        let Some(last) = Position::new(to) else { return Ok(text) };
        let found = reading(self.journal.positions(Position::new(after), last, FOUND_MAX)).await?;
        for position in passed.missing(&found) {
            if text.len() > STREAM_PIECE_BYTES {
                return Ok(text);
            }
            let events = reading(self.journal.events_after(Position::new(position.get() - 1), 1)).await?;
            match events.first().filter(|event| event.position == position) {
                Some(event) => self.tell(event, 0, &mut text),
                // It went by age since it was found.
                None => self.go_by(position.get(), 0),
            }
        }
        text.extend((found.len() >= FOUND_MAX).then(|| gap(after, to + 1)));
        if let Some(passed) = &mut self.passed {
            passed.settle(to);
        }
        self.looks_again_at = Instant::now() + STREAM_LOOK_AGAIN;
        Ok(text)
    }

    fn is_to_look_again(&self) -> bool {
        self.looks_again_at <= Instant::now()
    }

    fn go_by(&mut self, position: u64, settled: u64) {
        if let Some(passed) = &mut self.passed {
            passed.go_by(position, settled);
        }
    }

    /// Where it stands.
    fn cursor(&self) -> Cursor {
        let position = self.after.map_or(0, Position::get);
        self.passed.as_ref().map_or(Cursor { position, unsettled: None }, Passed::cursor)
    }

    fn tell(&mut self, event: &Event, settled: u64, text: &mut String) {
        let position = event.position.get();
        self.go_by(position, settled);
        let cursor = self.passed.as_ref().map_or(Cursor { position, unsettled: None }, Passed::cursor);
        if self.kinds.as_ref().is_none_or(|kinds| kinds.matches(event.kind())) {
            text.extend(frame(event, cursor));
        }
    }
}

fn gap(after: u64, before: u64) -> String {
    format!("event: gap\ndata: {{\"after\":{after},\"before\":{before}}}\n\n")
}

/// Of no event: whoever listens keeps the id.
fn place(cursor: Cursor) -> String {
    format!("id: {cursor}\n\n")
}

fn frame(event: &Event, cursor: Cursor) -> Option<String> {
    match serde_json::to_string(event) {
        Ok(json) => Some(format!("id: {cursor}\ndata: {}\n\n", one_line(json))),
        Err(err) => {
            tracing::error!(event_id = %event.id, error = %err, "an event is no JSON and was left out of a stream");
            None
        }
    }
}
