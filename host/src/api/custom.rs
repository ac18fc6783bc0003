//! `POST /v1/events`: custom events from outside, in the three modes of the CloudEvents HTTP binding.
//!
//! | mode | Content-Type | |
//! |---|---|---|
//! | structured | `application/cloudevents+json`, `application/json` | one event |
//! | batch | `application/cloudevents-batch+json` | up to 100 events, recorded all or none |
//! | binary | `application/json` with a header `ce-specversion` | attributes in headers, the body is the data |

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::cloudevents::Sent;
use super::limits::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, EVENT_BYTES_MAX, EVENT_DATA_BYTES_MAX};
use super::problem::{Error, Result};
use super::request::{NoParams, Params, committing, percent_decoded};
use super::{Shared, body, page};
use crate::backend::Published;
use crate::event::Custom;
use crate::order::draft::{FAULTS_MAX, FieldError, Object};

#[derive(Serialize)]
struct Accepted<'a> {
    /// In the order in which they were sent.
    events: &'a [Published],
}

/// Records custom events; 202, since consumers hear of them later.
pub async fn publish(State(shared): State<Arc<Shared>>, _: Params<NoParams>, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let mode = Mode::of(headers)?;
    let events = match mode {
        Mode::Structured => {
            let bytes = body::read(headers, body, EVENT_BYTES_MAX).await?;
            vec![body::parse(&bytes, Error::InvalidEvent)?]
        }
        Mode::Batch => {
            let bytes = body::read(headers, body, BATCH_BYTES_MAX).await?;
            let events: Vec<Object<Sent>> = body::parse_any(&bytes, Error::InvalidEvent)?;
            events.into_iter().map(|Object(event)| event).collect()
        }
        Mode::Binary => {
            let bytes = body::read(headers, body, EVENT_DATA_BYTES_MAX).await?;
            let data = if bytes.is_empty() { None } else { Some(body::parse_any(&bytes, Error::InvalidEvent)?) };
            vec![Sent { data, ..from_headers(headers)? }]
        }
    };
    let events = check(events, mode)?;
    let published =
        if events.is_empty() { Vec::new() } else { committing(shared.api.intake.publish(events)).await?.into_inner() };
    Ok((StatusCode::ACCEPTED, page::json(&Accepted { events: &published })?).into_response())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Structured,
    Batch,
    Binary,
}

impl Mode {
    fn of(headers: &HeaderMap) -> Result<Self> {
        match body::media_type(headers).to_ascii_lowercase().as_str() {
            "application/cloudevents+json" => Ok(Self::Structured),
            "application/cloudevents-batch+json" => Ok(Self::Batch),
            "application/json" if headers.contains_key("ce-specversion") => Ok(Self::Binary),
            "application/json" => Ok(Self::Structured),
            _ => Err(Error::UnsupportedMediaType {
                expected: "application/cloudevents+json, application/cloudevents-batch+json or application/json",
            }),
        }
    }
}

fn check(sent: Vec<Sent>, mode: Mode) -> Result<Vec<Custom>> {
    if sent.len() > BATCH_EVENTS_MAX {
        let detail = format!("holds {} events; at most {BATCH_EVENTS_MAX} are taken at once", sent.len());
        return Err(Error::InvalidEvent(vec![FieldError { field: "body".to_owned(), detail: detail.into() }]));
    }
    let mut events = Vec::with_capacity(sent.len());
    let mut faults = Vec::new();
    for (index, event) in sent.into_iter().enumerate() {
        let prefix = if mode == Mode::Batch { format!("[{index}].") } else { String::new() };
        match event.check(&prefix) {
            Ok(event) => events.push(event),
            Err(found) => faults.extend(found),
        }
    }
    faults.truncate(FAULTS_MAX);
    if faults.is_empty() { Ok(events) } else { Err(Error::InvalidEvent(faults)) }
}

/// The attributes of binary mode.
fn from_headers(headers: &HeaderMap) -> Result<Sent> {
    let attribute = |name: &'static str| {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let refused = |detail: &str| Error::InvalidParameter { field: name.into(), detail: detail.to_owned() };
        if values.next().is_some() {
            return Err(refused("stands more than once"));
        }
        percent_decoded(value.as_bytes()).map(Some).ok_or_else(|| refused("is not percent-encoded UTF-8"))
    };
    Ok(Sent {
        specversion: attribute("ce-specversion")?,
        id: attribute("ce-id")?,
        source: attribute("ce-source")?,
        kind: attribute("ce-type")?,
        subject: attribute("ce-subject")?,
        time: attribute("ce-time")?,
        orderid: attribute("ce-orderid")?,
        ..Sent::default()
    })
}
