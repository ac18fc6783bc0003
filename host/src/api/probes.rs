//! Probes, metrics and the first page.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use futures::FutureExt as _;
use serde_json::json;

use super::problem::{Error, Result};
use super::request::reading;
use super::{Shared, page};

/// `GET /healthz`: the process answers. Restarting helps where it does not.
pub async fn health() -> Result<Response> {
    page::json(&json!({"status": "ok"}))
}

/// `GET /readyz`: whether an order could be taken now.
pub async fn ready(State(shared): State<Arc<Shared>>) -> Result<Response> {
    if shared.api.stopping.is_cancelled() {
        return Err(Error::NotReady("the host is stopping".to_owned()));
    }
    reading(shared.api.journal.ready()).await.map_err(|err| Error::NotReady(err.to_string()))?;
    page::json(&json!({"status": "ready"}))
}

/// `GET /metrics`, in the text format of Prometheus.
pub async fn metrics(State(shared): State<Arc<Shared>>) -> Result<Response> {
    let text = reading((shared.api.metrics)().map(Ok)).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// `GET /`: what there is.
pub async fn index() -> Html<&'static str> {
    Html(include_str!("index.html"))
}
