//! The versions of a consumer: what became of each plugin file, back to one that ran before, and on again.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::consumers::{one, require_known};
use super::limits::COMMIT_TIME_MAX;
use super::problem::{Error, Result};
use super::request::{Params, Segment, parsed, reading};
use super::{Shared, body, orders, page, pause};
use crate::backend::HistoryEntry;
use crate::consumer::status::ShadowStatus;
use crate::consumer::steer::{Refusal, Step};
use crate::delivery::shadow::Report;
use crate::order::draft::FieldError;
use crate::policy::ConsumerName;
use crate::version::{HashPrefix, NotAPrefix};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryParams {
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct History {
    versions: Vec<HistoryEntry>,
    next: Option<String>,
}

/// `GET /v1/consumers/{name}/versions`: newest first. The cursor is the number of rows behind it, which stays as it is whatever comes
/// meanwhile.
pub async fn history(
    State(shared): State<Arc<Shared>>,
    Segment(name): Segment<ConsumerName>,
    Params(params): Params<HistoryParams>,
) -> Result<Response> {
    require_known(&shared, &name).await?;
    let (behind, limit) = (parsed("after", params.after.as_deref())?, page::limit(params.limit)?);
    let mut versions = reading(shared.api.versions.history(&name, usize::MAX)).await?;
    drop(versions.drain(..versions.len().saturating_sub(behind.unwrap_or(usize::MAX))));
    let left = versions.len().saturating_sub(limit);
    versions.truncate(limit);
    page::json(&History { versions, next: (left > 0).then(|| left.to_string()) })
}

#[derive(Serialize)]
struct ShadowShown {
    #[serde(flatten)]
    status: ShadowStatus,
    /// Absent while it handles nothing.
    #[serde(flatten)]
    report: Option<Report>,
}

/// `GET /v1/consumers/{name}/shadow`: what it would have done otherwise.
pub async fn shadow(State(shared): State<Arc<Shared>>, Segment(name): Segment<ConsumerName>) -> Result<Response> {
    require_known(&shared, &name).await?;
    let status = shared.api.catalogue.list().into_iter().find(|status| status.name == name);
    let status = status.and_then(|status| status.shadow).ok_or_else(|| Error::NoShadow(name.clone()))?;
    page::json(&ShadowShown { status, report: shared.api.catalogue.shadow(&name) })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Back {
    version: Option<String>,
    from: Option<String>,
    reason: Option<String>,
}

/// `POST /v1/consumers/{name}/rollback`: to the version before, or to the one named. With `from`, only where that one is tried or
/// runs, so that it can be repeated.
pub async fn roll_back(
    State(shared): State<Arc<Shared>>,
    Segment(name): Segment<ConsumerName>,
    request: Request,
) -> Result<Response> {
    let Back { version, from, reason } = body::parse(&orders::command(request).await?, Error::InvalidBody)?;
    let (to, from) = (prefix("version", version)?, prefix("from", from)?);
    let reason = reason.map(pause::check).transpose()?;
    take(&shared, &name, Step::RollBack { to, from, reason }).await
}

fn prefix(field: &str, text: Option<String>) -> Result<Option<HashPrefix>> {
    text.map(|text| text.parse()).transpose().map_err(|error: NotAPrefix| {
        Error::InvalidBody(vec![FieldError { field: field.to_owned(), detail: error.to_string().into() }])
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct On {
    reason: Option<String>,
}

/// `POST /v1/consumers/{name}/promote`: the file in the directory, whatever was decided about it.
pub async fn promote(
    State(shared): State<Arc<Shared>>,
    Segment(name): Segment<ConsumerName>,
    request: Request,
) -> Result<Response> {
    let On { reason } = body::parse(&orders::command(request).await?, Error::InvalidBody)?;
    let reason = reason.map(pause::check).transpose()?;
    take(&shared, &name, Step::Promote { reason }).await
}

/// As it stands after the step: 202 where its version comes once the state of that one is up to date.
async fn shown(shared: &Shared, name: &ConsumerName) -> Result<Response> {
    let mut shown = one(shared, name).await?;
    if shared.api.catalogue.list().iter().any(|status| status.name == *name && status.way_back.is_some()) {
        *shown.status_mut() = StatusCode::ACCEPTED;
    }
    Ok(shown)
}

async fn take(shared: &Shared, name: &ConsumerName, step: Step) -> Result<Response> {
    require_known(shared, name).await?;
    let taken = timeout(COMMIT_TIME_MAX, shared.api.steering.step(name, step)).await;
    match taken.map_err(|_elapsed| Error::CommitTooSlow)? {
        Ok(()) => shown(shared, name).await,
        Err(Refusal::UnknownVersion(why)) => Err(Error::UnknownVersion(why)),
        Err(Refusal::Impossible(why)) => Err(Error::StepRefused(why)),
        Err(Refusal::Store(error)) => Err(Error::Store(error)),
    }
}
