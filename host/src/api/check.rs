//! `GET /v1/check?rate=500/s`: looks through the store while it is used. Some lines for each step, and a last one:
//! `{"rule":"orders","rows":1000,"findings":[{"place":"order …","fault":"…"}]}`, `{"done":true}`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::limits::CHECKS_MAX;
use super::owed::WhileHeard;
use super::problem::{Error, Result};
use super::request::{Params, parsed};
use crate::backend::{CheckPlace, CheckStep, Upkeep};
use crate::policy::Rate;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Rows that may be read in a second.
    rate: Option<String>,
}

pub async fn check(State(shared): State<Arc<Shared>>, Params(asked): Params<Asked>) -> Result<Response> {
    let rate: Option<Rate> = parsed("rate", asked.rate.as_deref())?;
    let permit = Arc::clone(&shared.checks)
        .try_acquire_owned()
        .map_err(|_none| Error::TooMany { what: "checks", max: CHECKS_MAX })?;
    let upkeep = Arc::clone(&shared.api.upkeep);
    let rate = rate.or_else(|| upkeep.check_rate());
    let walk = Walk { upkeep, left: Left::From(CheckPlace::default()), rate, next: Instant::now(), _permit: permit };
    let lines = stream::unfold(walk, |mut walk| async { Some((Ok::<_, Infallible>(walk.next().await?), walk)) });
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((headers, Extension(WhileHeard), Body::from_stream(lines)).into_response())
}

struct Walk {
    upkeep: Arc<dyn Upkeep>,
    left: Left,
    rate: Option<Rate>,
    /// When the next step may begin.
    next: Instant,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

enum Left {
    From(CheckPlace),
    LastLine,
    Nothing,
}

impl Walk {
    async fn next(&mut self) -> Option<Bytes> {
        let lines = match std::mem::replace(&mut self.left, Left::Nothing) {
            Left::From(place) => {
                sleep_until(self.next).await;
                match self.upkeep.check(place).await {
                    Ok(CheckStep { checked, read, next }) => {
                        self.next = self.next.max(Instant::now()) + self.pause(read);
                        self.left = next.map_or(Left::LastLine, Left::From);
                        checked.iter().map(|checked| format!("{}\n", json!(checked))).collect()
                    }
                    Err(error) => format!("{}\n", json!({ "error": error.to_string() })),
                }
            }
            Left::LastLine => format!("{}\n", json!({ "done": true })),
            Left::Nothing => return None,
        };
        Some(lines.into())
    }

    /// How long others have the store for themselves after so many rows.
    fn pause(&self, rows: u64) -> Duration {
        let second = |rate: Rate| Duration::from_secs(1) / rate.per_second.get();
        self.rate.map_or(Duration::ZERO, |rate| second(rate).saturating_mul(u32::try_from(rows).unwrap_or(u32::MAX)))
    }
}
