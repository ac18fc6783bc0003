//! What happened to an order, moment by moment.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::limits::{TIMELINE_EVENTS_DEFAULT, TIMELINE_EVENTS_MAX};
use super::problem::{Error, Result};
use super::request::{Params, Segment, bounded, reading};
use super::{Shared, page};
use crate::backend::Moment;
use crate::order::OrderId;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimelineParams {
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Timeline {
    order_id: OrderId,
    timeline: Vec<Moment>,
    next: Option<String>,
}

/// `GET /v1/orders/{id}/timeline`: around at most `limit` of its events.
pub async fn show(
    State(shared): State<Arc<Shared>>,
    Segment(id): Segment<OrderId>,
    Params(params): Params<TimelineParams>,
) -> Result<Response> {
    let events = params.limit.unwrap_or(TIMELINE_EVENTS_DEFAULT);
    if !(1..=TIMELINE_EVENTS_MAX).contains(&events) {
        let detail = format!("must be 1 to {TIMELINE_EVENTS_MAX} events");
        return Err(Error::InvalidParameter { field: "limit".into(), detail });
    }
    let after = bounded("after", params.after)?;
    if reading(shared.api.journal.order(id)).await?.is_none() {
        return Err(Error::UnknownOrder(id.to_string()));
    }
    let found = reading(shared.api.timelines.timeline(id, after, events)).await?;
    page::json(&Timeline { order_id: id, timeline: found.items, next: found.next })
}
