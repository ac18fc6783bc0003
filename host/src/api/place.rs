//! `POST /v1/orders`: the path that must be quick.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;

use super::limits::ORDER_BYTES_MAX;
use super::problem::{Error, Result};
use super::request::{NoParams, Params};
use super::{Shared, body, request};
use crate::backend::{Durable, Placed, Placement};
use crate::clock::Timestamp;
use crate::fault::{self, Point};
use crate::order::Order;
use crate::order::draft::{CheckedOrder, Draft, Mode};
use crate::telemetry::meters;

/// Places an order. A repeat of an idempotency key gets the answer that the first one got: the order as it was
/// placed, byte for byte, with status 201.
pub async fn place(State(shared): State<Arc<Shared>>, _: Params<NoParams>, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    body::require_json(&parts.headers)?;
    let key = request::idempotency_key(&parts.headers)?;
    let bytes = body::read(&parts.headers, body, ORDER_BYTES_MAX).await?;
    let draft: Draft = body::parse(&bytes, Error::InvalidOrder)?;
    let now = Timestamp::now();
    let checked = draft.check(now, Mode::Submit).map_err(Error::InvalidOrder)?;

    let reference = checked.content.reference.clone();
    let placement = placement(checked, now, key.clone());
    let placing = request::committing(shared.api.intake.place(placement));
    let placed = match key {
        None => placing.await?,
        Some(key) => {
            let key = shared.keys.enter(key);
            match placing.await {
                Err(Error::CommitTooSlow) if key.is_second() => return Err(Error::KeyInUse),
                placed => placed?,
            }
        }
    };
    answer(placed, reference)
}

/// What the store is asked to keep.
pub fn placement(checked: CheckedOrder, now: Timestamp, idempotency_key: Option<String>) -> Placement {
    let CheckedOrder { content, placed_at, fingerprint } = checked;
    let order = Order::place(Arc::new(content), placed_at.unwrap_or(now));
    Placement { order, fingerprint, idempotency_key }
}

fn answer(placed: Durable<Placed>, reference: Option<String>) -> Result<Response> {
    fault::pass(Point::OrderDurable);
    match placed.into_inner() {
        Placed::New(order) => {
            meters::order_placed();
            created(&order, None)
        }
        Placed::Repeated(order) => created(&order, Some(("idempotency-replayed", "true"))),
        Placed::KeyReused => Err(Error::KeyReused),
        Placed::ReferenceTaken { by, .. } => {
            Err(Error::ReferenceExists { reference: reference.unwrap_or_default(), by })
        }
    }
}

fn created(order: &Order, replayed: Option<(&'static str, &'static str)>) -> Result<Response> {
    let body = serde_json::to_vec(order).map_err(|err| Error::Bug(format!("an order is no JSON: {err}")))?;
    let headers =
        [(header::CONTENT_TYPE, "application/json".to_owned()), (header::LOCATION, format!("/v1/orders/{}", order.id))];
    Ok((StatusCode::CREATED, headers, replayed.map(|header| [header]), body).into_response())
}

/// Idempotency keys whose requests wait for their commit. The store settles repeats; this only tells a repeat
/// that waited in vain (409) from a first one that the store did not answer (503).
#[derive(Default)]
pub struct KeysInUse(Mutex<HashSet<Arc<str>>>);

/// A key is in use as long as the first request with it holds this.
struct KeyInUse<'a> {
    keys: &'a KeysInUse,
    /// `None` for a repeat, which does not own the entry.
    first: Option<Arc<str>>,
}

impl KeysInUse {
    fn enter(&self, key: String) -> KeyInUse<'_> {
        let key: Arc<str> = key.into();
        let first = self.0.lock().insert(Arc::clone(&key)).then_some(key);
        KeyInUse { keys: self, first }
    }
}

impl KeyInUse<'_> {
    fn is_second(&self) -> bool {
        self.first.is_none()
    }
}

impl Drop for KeyInUse<'_> {
    fn drop(&mut self) {
        if let Some(key) = &self.first {
            self.keys.0.lock().remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::KeysInUse;

    #[test]
    fn a_key_is_in_use_until_its_first_request_ends() {
        let keys = KeysInUse::default();
        let first = keys.enter("a".into());
        let second = keys.enter("a".into());
        assert!(!first.is_second() && second.is_second());
        drop(second);
        assert!(keys.enter("a".into()).is_second());
        drop(first);
        assert!(!keys.enter("a".into()).is_second());
    }
}
