//! What leaves the host: messages as a list, records as NDJSON.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::limits::{EXPORT_BATCH, EXPORTS_MAX};
use super::problem::{Error, Result};
use super::request::{Named, Params, Segment, bounded, reading};
use super::{Shared, page};
use crate::backend::{Journal, MessageReport};
use crate::policy::ConsumerName;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageParams {
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct MessageList {
    messages: Vec<MessageReport>,
    next: Option<String>,
}

/// `GET /v1/messages`: newest first.
pub async fn messages(State(shared): State<Arc<Shared>>, Params(params): Params<MessageParams>) -> Result<Response> {
    let (after, limit) = (bounded("after", params.after)?, page::limit(params.limit)?);
    let found = reading(shared.api.journal.messages(after, limit)).await?;
    page::json(&MessageList { messages: found.items, next: found.next })
}

/// Names a data set, as far as a path can: 1 to 100 of letters, digits, `-`, `_` and `.`.
pub struct DatasetName(String);

impl std::str::FromStr for DatasetName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        const NAME_BYTES_MAX: usize = 100;
        let legal = (1..=NAME_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if legal { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

impl Named for DatasetName {
    fn unknown(text: String) -> Error {
        Error::NotADataset(text)
    }
}

/// `GET /v1/records/{dataset}`: every row, oldest first, one JSON object a line. A data set that a plugin declares and that has no
/// rows is empty; one without either is unknown.
/// A failure on the way breaks the answer off, so that nobody takes a part for the whole.
pub async fn records(State(shared): State<Arc<Shared>>, Segment(dataset): Segment<DatasetName>) -> Result<Response> {
    let permit = Arc::clone(&shared.exports)
        .try_acquire_owned()
        .map_err(|_none| Error::TooMany { what: "exports", max: EXPORTS_MAX })?;
    let journal = Arc::clone(&shared.api.journal);
    let mut rows = Rows { journal, dataset: dataset.0, left: Left::All, _permit: permit };
    // The first page is read before the answer begins, so that a store that fails is still a problem.
    let first = rows.next().await.transpose()?;
    if first.as_ref().is_none_or(Bytes::is_empty) && matches!(rows.left, Left::Nothing) {
        require_declared(&shared, rows.dataset.clone())?;
    }
    let pieces =
        stream::iter(first.map(Ok)).chain(stream::unfold(rows, |mut rows| async { Some((rows.next().await?, rows)) }));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pieces)).into_response())
}

/// Where it is not known here what every plugin declares, each name may be one.
fn require_declared(shared: &Shared, name: String) -> Result<()> {
    let here = shared.api.catalogue.list();
    let is_here = |consumer: &ConsumerName| here.iter().any(|status| status.name == *consumer);
    if !shared.api.fleet.hosts().iter().flat_map(|host| host.running.keys()).all(is_here) {
        return Ok(());
    }
    match shared.api.catalogue.datasets() {
        Some(known) if !known.contains(&name) => {
            Err(Error::UnknownDataset { name, known: known.into_iter().collect() })
        }
        _ => Ok(()),
    }
}

/// The rows of a data set that were not yet sent.
struct Rows {
    journal: Arc<dyn Journal>,
    dataset: String,
    left: Left,
    _permit: OwnedSemaphorePermit,
}

enum Left {
    All,
    After(String),
    Nothing,
}

impl Rows {
    async fn next(&mut self) -> Option<Result<Bytes>> {
        let after = match std::mem::replace(&mut self.left, Left::Nothing) {
            Left::All => None,
            Left::After(cursor) => Some(cursor),
            Left::Nothing => return None,
        };
        let found = match reading(self.journal.records(&self.dataset, after, EXPORT_BATCH)).await {
            Ok(found) => found,
            Err(err) => {
                tracing::warn!(dataset = self.dataset, error = %err, "an export of records broke off");
                return Some(Err(err));
            }
        };
        if let Some(next) = found.next {
            self.left = Left::After(next);
        }
        let text: String = found.items.into_iter().map(|row| page::one_line(row) + "\n").collect();
        Some(Ok(text.into()))
    }
}
