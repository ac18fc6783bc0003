//! Lists in pages: `limit` and `after` in, a named list and `next` out.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::limits::{PAGE_DEFAULT, PAGE_MAX};
use super::problem::{Error, Result};

/// How many items a page may hold, from the parameter `limit`.
pub fn limit(asked: Option<usize>) -> Result<usize> {
    match asked.unwrap_or(PAGE_DEFAULT) {
        limit @ 1..=PAGE_MAX => Ok(limit),
        _ => Err(Error::InvalidParameter { field: "limit".into(), detail: format!("must be 1 to {PAGE_MAX}") }),
    }
}

/// `value` as a JSON answer with status 200.
pub fn json(value: &impl Serialize) -> Result<Response> {
    let body = serde_json::to_vec(value).map_err(|err| Error::Bug(format!("an answer is no JSON: {err}")))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// Makes `text`, which is JSON, one line. Line breaks can stand only between its tokens: inside strings, JSON
/// has them escaped.
pub fn one_line(mut text: String) -> String {
    if text.contains(['\n', '\r']) {
        text = text.replace(['\n', '\r'], " ");
    }
    text
}
