//! A person stops a consumer for a while, and lets it go on.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Deserialize;

use super::consumers::{one, require_known};
use super::problem::{Error, Result};
use super::request::{Segment, committing};
use super::{Shared, body, orders};
use crate::backend::Pause;
use crate::clock::Timestamp;
use crate::order::draft::FieldError;
use crate::policy::ConsumerName;

/// A line in a table.
const REASON_CHARS_MAX: usize = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// `POST /v1/consumers/{name}/pause`: deliveries that run finish, and no other starts.
pub async fn pause(
    State(shared): State<Arc<Shared>>,
    Segment(name): Segment<ConsumerName>,
    request: Request,
) -> Result<Response> {
    let why: Why = body::parse(&orders::command(request).await?, Error::InvalidBody)?;
    let reason = why.reason.map(check).transpose()?;
    set(&shared, &name, Some(Pause { since: Timestamp::now(), reason })).await
}

/// `POST /v1/consumers/{name}/resume`: it goes on where it stood.
pub async fn resume(
    State(shared): State<Arc<Shared>>,
    Segment(name): Segment<ConsumerName>,
    request: Request,
) -> Result<Response> {
    let Nothing {} = body::parse(&orders::command(request).await?, Error::InvalidBody)?;
    set(&shared, &name, None).await
}

async fn set(shared: &Shared, name: &ConsumerName, pause: Option<Pause>) -> Result<Response> {
    if committing(shared.api.consumers.set_pause(name, pause)).await?.into_inner() {
        return one(shared, name).await;
    }
    // The directory may know a consumer that the store has never seen.
    require_known(shared, name).await?;
    Err(Error::NeverRan(name.clone()))
}

/// A reason as a person gives it: a line in a table.
pub(super) fn check(reason: String) -> Result<String> {
    let legal = !reason.trim().is_empty()
        && reason.chars().count() <= REASON_CHARS_MAX
        && !reason.chars().any(char::is_control);
    if legal {
        return Ok(reason);
    }
    let detail = format!("must be one line of 1 to {REASON_CHARS_MAX} characters");
    Err(Error::InvalidBody(vec![FieldError { field: "reason".to_owned(), detail: detail.into() }]))
}
