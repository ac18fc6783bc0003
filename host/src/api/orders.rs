//! Orders read, listed, cancelled and delivered.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::limits::COMMAND_BYTES_MAX;
use super::problem::{Error, Result};
use super::request::{Params, Segment, bounded, committing, parsed, reading};
use super::{Shared, body, page};
use crate::backend::{Changed, DeliveryReport, OrderQuery};
use crate::clock::Timestamp;
use crate::event::{Body, Event, EventId};
use crate::order::draft::Faults;
use crate::order::{Change, Order, OrderId, Status};

/// Longest reason of a cancellation, in characters: it is shown to the customer.
const REASON_CHARS_MAX: usize = 500;

#[derive(Serialize)]
struct OrderShown<'a> {
    #[serde(flatten)]
    order: &'a Order,
    changes: Vec<ChangeShown<'a>>,
    deliveries: Vec<DeliveryReport>,
}

/// A step that the order took.
#[derive(Serialize)]
struct ChangeShown<'a> {
    event_id: EventId,
    #[serde(rename = "type")]
    kind: &'a str,
    time: Timestamp,
    change: &'a Change,
}

/// `GET /v1/orders/{id}`: the order, the steps that it took, and what became of each at each consumer.
pub async fn show(State(shared): State<Arc<Shared>>, Segment(id): Segment<OrderId>) -> Result<Response> {
    let journal = &shared.api.journal;
    let order = reading(journal.order(id)).await?.ok_or_else(|| Error::UnknownOrder(id.to_string()))?;
    let events = reading(journal.events_of(id)).await?;
    let deliveries = reading(journal.deliveries_of(id)).await?;
    let changes = events.iter().filter_map(|event| change_shown(event)).collect();
    page::json(&OrderShown { order: &order, changes, deliveries })
}

fn change_shown(event: &Event) -> Option<ChangeShown<'_>> {
    match &event.body {
        Body::OrderChanged { change, .. } => {
            Some(ChangeShown { event_id: event.id, kind: event.kind(), time: event.time, change })
        }
        Body::Custom(_) => None,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    customer: Option<String>,
    status: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct OrderList {
    orders: Vec<Order>,
    next: Option<String>,
}

/// `GET /v1/orders`: newest first.
pub async fn list(State(shared): State<Arc<Shared>>, Params(params): Params<ListParams>) -> Result<Response> {
    let query = OrderQuery {
        customer: bounded("customer", params.customer)?,
        status: parsed::<Status>("status", params.status.as_deref())?,
        after: bounded("after", params.after)?,
        limit: page::limit(params.limit)?,
    };
    let found = reading(shared.api.journal.orders(query)).await?;
    page::json(&OrderList { orders: found.items, next: found.next })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cancellation {
    reason: Option<String>,
}

/// `POST /v1/orders/{id}/cancel` with `{"reason": "…"}`, in words for the customer.
pub async fn cancel(
    State(shared): State<Arc<Shared>>,
    Segment(id): Segment<OrderId>,
    request: Request,
) -> Result<Response> {
    let bytes = command(request).await?;
    let Cancellation { reason } = body::parse(&bytes, Error::InvalidBody)?;
    let reason = check_reason(reason)?;
    change(&shared, id, Change::Cancelled { reason }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arrival {}

/// `POST /v1/orders/{id}/deliver`: the parcel arrived. The body is `{}` or empty.
pub async fn deliver(
    State(shared): State<Arc<Shared>>,
    Segment(id): Segment<OrderId>,
    request: Request,
) -> Result<Response> {
    let bytes = command(request).await?;
    if !bytes.is_empty() {
        let Arrival {} = body::parse(&bytes, Error::InvalidBody)?;
    }
    change(&shared, id, Change::Delivered {}).await
}

/// The body of a small command.
pub async fn command(request: Request) -> Result<bytes::Bytes> {
    let (parts, body) = request.into_parts();
    body::require_json(&parts.headers)?;
    body::read(&parts.headers, body, COMMAND_BYTES_MAX).await
}

fn check_reason(reason: Option<String>) -> Result<String> {
    let mut faults = Faults::default();
    let reason = faults.required(format_args!("reason"), reason, REASON_CHARS_MAX);
    faults.none().map_err(Error::InvalidBody)?;
    Ok(reason)
}

async fn change(shared: &Shared, id: OrderId, change: Change) -> Result<Response> {
    match committing(shared.api.intake.change(id, change)).await?.into_inner() {
        Changed::Done(order) => page::json(&order),
        Changed::UnknownOrder => Err(Error::UnknownOrder(id.to_string())),
        Changed::Illegal(illegal) => Err(Error::IllegalChange(illegal)),
    }
}
