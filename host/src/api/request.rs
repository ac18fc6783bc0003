//! What stands in a request's line and headers, checked; and how long the store may take to answer it.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::Next;
use axum::response::Response;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::limits::{COMMIT_TIME_MAX, IDEMPOTENCY_KEY_BYTES_MAX, QUERY_TEXT_BYTES_MAX, READ_TIME_MAX};
use super::problem::{Error, Result};
use crate::backend;
use crate::order::OrderId;
use crate::policy::ConsumerName;

/// The one variable segment of the path. What is no id names nothing, so it is answered as unknown.
pub struct Segment<T>(pub T);

/// A kind of name that can stand in a path.
pub trait Named: FromStr {
    fn unknown(text: String) -> Error;
}

impl Named for OrderId {
    fn unknown(text: String) -> Error {
        Error::UnknownOrder(text)
    }
}

impl Named for ConsumerName {
    fn unknown(text: String) -> Error {
        Error::UnknownConsumer(text)
    }
}

impl<S: Send + Sync, T: Named> FromRequestParts<S> for Segment<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let segment = Path::<String>::from_request_parts(parts, state).await;
        let Ok(Path(text)) = segment else { return Err(Error::NotFound(clip(parts.uri.path()))) };
        text.parse().map(Self).map_err(|_| T::unknown(clip(&text)))
    }
}

/// All variable segments of the path, as they are.
pub struct Segments<const N: usize>(pub [String; N]);

impl<S: Send + Sync, const N: usize> FromRequestParts<S> for Segments<N> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let unknown = |parts: &Parts| Error::NotFound(clip(parts.uri.path()));
        let Ok(Path(texts)) = Path::<Vec<String>>::from_request_parts(parts, state).await else {
            return Err(unknown(parts));
        };
        texts.try_into().map(Self).map_err(|_| unknown(parts))
    }
}

/// The query string. A parameter that is not known is refused by name, so that a misspelt filter is no filter.
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self> {
        if parts.uri.query().is_some_and(|query| percent_decoded(query.as_bytes()).is_none()) {
            return Err(Error::InvalidParameter {
                field: "query".into(),
                detail: "is not percent-encoded UTF-8".into(),
            });
        }
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(err) => {
                let text = std::error::Error::source(&err).map_or(err.to_string(), ToString::to_string);
                Err(refused_parameter(&clip(&text)))
            }
        }
    }
}

/// A call that has no parameters, wrapped around those: whoever narrows it by one would take all for the part.
pub async fn without_params(_: Params<NoParams>, request: Request, next: Next) -> Response {
    next.run(request).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// What serde says of a query string, as `limit: invalid digit found in string`, in words for whoever wrote it.
fn refused_parameter(text: &str) -> Error {
    if let Some(name) = text.strip_prefix("duplicate field `").and_then(|rest| rest.strip_suffix('`')) {
        return Error::InvalidParameter { field: name.to_owned().into(), detail: "stands more than once".to_owned() };
    }
    let named = text.split_once(": ").filter(|(name, _)| !name.contains(' '));
    let (field, detail) = named.unwrap_or(("query", text));
    let detail = match detail.strip_prefix(&format!("unknown field `{field}`, ")) {
        Some("there are no fields") => "is not known here; there are no parameters".to_owned(),
        Some(known) => {
            format!(
                "is not known here; there is {}",
                known.trim_start_matches("expected ").trim_start_matches("one of ")
            )
        }
        None if detail.contains("digit") || detail.contains("integer") || detail.contains("number") => {
            format!("must be a whole number: {detail}")
        }
        None => detail.to_owned(),
    };
    Error::InvalidParameter { field: field.to_owned().into(), detail }
}

/// `text` of the query, if it is of reasonable length.
pub fn bounded(field: &'static str, text: Option<String>) -> Result<Option<String>> {
    match text {
        Some(text) if text.len() > QUERY_TEXT_BYTES_MAX => Err(Error::InvalidParameter {
            field: field.into(),
            detail: format!("is longer than {QUERY_TEXT_BYTES_MAX} bytes"),
        }),
        text => Ok(text),
    }
}

/// A parameter of the query as what it stands for.
pub fn parsed<T: FromStr<Err: Display>>(field: &'static str, text: Option<&str>) -> Result<Option<T>> {
    let parse = |text: &str| {
        text.parse()
            .map_err(|err: T::Err| Error::InvalidParameter { field: field.into(), detail: format!("is wrong: {err}") })
    };
    text.map(parse).transpose()
}

/// The header `Idempotency-Key`, if there is one.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    const FIELD: &str = "Idempotency-Key";
    let mut values = headers.get_all(FIELD).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let refused = |detail: &str| Err(Error::InvalidParameter { field: FIELD.into(), detail: detail.to_owned() });
    if values.next().is_some() {
        return refused("stands more than once");
    }
    let key = value.as_bytes();
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX || !key.iter().all(u8::is_ascii_graphic) {
        return refused("must be 1 to 255 visible ASCII characters without spaces");
    }
    match value.to_str() {
        Ok(key) => Ok(Some(key.to_owned())),
        Err(_) => refused("must be ASCII"),
    }
}

/// Waits for a read of the store.
pub async fn reading<T>(read: impl Future<Output = backend::Result<T>>) -> Result<T> {
    Ok(timeout(READ_TIME_MAX, read).await.map_err(|_elapsed| Error::ReadTooSlow)??)
}

/// Waits for a commit. One that comes too late may still happen.
pub async fn committing<T>(commit: impl Future<Output = backend::Result<T>>) -> Result<T> {
    Ok(timeout(COMMIT_TIME_MAX, commit).await.map_err(|_elapsed| Error::CommitTooSlow)??)
}

pub async fn not_found(uri: Uri) -> Result<Infallible> {
    Err(Error::NotFound(clip(uri.path())))
}

pub async fn method_not_allowed(method: Method, uri: Uri) -> Result<Infallible> {
    Err(Error::MethodNotAllowed { method: clip(method.as_str()), path: clip(uri.path()) })
}

/// Undoes the encoding of a query, or of attributes in headers (CloudEvents HTTP binding, 3.1.3.2). A `%` that starts no encoding
/// stands for itself; `None` where it is not UTF-8.
pub fn percent_decoded(value: &[u8]) -> Option<String> {
    let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [first, after @ ..] = rest {
        rest = after;
        if let (b'%', [high, low, after @ ..]) = (first, rest)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            decoded.push(high << 4 | low);
            rest = after;
        } else {
            decoded.push(*first);
        }
    }
    String::from_utf8(decoded).ok()
}

/// Quotes what a client sent at bounded length.
pub fn clip(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::percent_decoded;

    #[test]
    fn attributes_in_headers_are_decoded() {
        assert_eq!(percent_decoded(b"Euro %E2%82%AC %zz 100%").as_deref(), Some("Euro € %zz 100%"));
        assert_eq!(percent_decoded(b"%ff"), None);
    }
}
