//! `GET /v1/check`: looks through the store while it is used. One line for each step, and a last one:
//! `{"rule":"orders","rows":1000,"findings":[{"place":"order …","fault":"…"}]}`, `{"done":true}`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde_json::json;

use super::Shared;
use super::limits::CHECKS_MAX;
use super::problem::{Error, Result};
use crate::backend::CheckPlace;

pub async fn check(State(shared): State<Arc<Shared>>) -> Result<Response> {
    let permit = Arc::clone(&shared.checks)
        .try_acquire_owned()
        .map_err(|_none| Error::TooMany { what: "checks", max: CHECKS_MAX })?;
    let walk =
        Walk { upkeep: Arc::clone(&shared.api.upkeep), left: Left::From(CheckPlace::default()), _permit: permit };
    let lines = stream::unfold(walk, |mut walk| async { Some((Ok::<_, Infallible>(walk.next().await?), walk)) });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

struct Walk {
    upkeep: Arc<dyn crate::backend::Upkeep>,
    left: Left,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

enum Left {
    From(CheckPlace),
    LastLine,
    Nothing,
}

impl Walk {
    async fn next(&mut self) -> Option<Bytes> {
        let line = match std::mem::replace(&mut self.left, Left::Nothing) {
            Left::From(place) => match self.upkeep.check(place).await {
                Ok(mut checked) => {
                    self.left = checked.next.take().map_or(Left::LastLine, Left::From);
                    json!(checked)
                }
                Err(error) => json!({ "error": error.to_string() }),
            },
            Left::LastLine => json!({ "done": true }),
            Left::Nothing => return None,
        };
        Some(format!("{line}\n").into())
    }
}
