//! Bodies of requests: the declared type, bounded bytes in bounded time, JSON with the place of its faults.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::limits::BODY_TIME_MAX;
use super::problem::{Error, Result};
use super::room;
use crate::order::draft::{FieldError, Object};

/// Requires `Content-Type: application/json`. A page of another site cannot send that without being asked for
/// permission by the browser, so it cannot place orders in the name of whoever looks at it.
pub fn require_json(headers: &HeaderMap) -> Result<()> {
    const JSON: &str = "application/json";
    if media_type(headers).eq_ignore_ascii_case(JSON) {
        Ok(())
    } else {
        Err(Error::UnsupportedMediaType { expected: JSON })
    }
}

/// The media type without its parameters; empty if there is none.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// Refuses a body that is compressed: what it would be is not looked into.
pub fn require_plain(headers: &HeaderMap) -> Result<()> {
    let plain = |coding: &HeaderValue| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if headers.get_all(header::CONTENT_ENCODING).iter().all(plain) { Ok(()) } else { Err(Error::UnsupportedEncoding) }
}

/// The whole body, at most `max` bytes, within [`BODY_TIME_MAX`].
pub async fn read(headers: &HeaderMap, body: Body, max: usize) -> Result<Bytes> {
    require_plain(headers)?;
    read_within(BODY_TIME_MAX, headers, body, max).await
}

async fn read_within(time_max: Duration, headers: &HeaderMap, mut body: Body, max: usize) -> Result<Bytes> {
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|bytes| bytes > max as u64) {
        return Err(Error::BodyTooLarge { max });
    }
    let turn = room::for_body(&body).await?;
    match timeout(time_max, collect(&mut body, max)).await {
        Ok(read) => read.map(|bytes| room::kept(bytes, turn)),
        Err(_elapsed) => Err(Error::BodyTooSlow),
    }
}

async fn collect(body: &mut Body, max: usize) -> Result<Bytes> {
    // Nearly every body is one piece, which is passed on without a copy.
    let mut whole = Bytes::new();
    let mut pieces = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|err| Error::BodyBroken(err.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + pieces.len() + data.len() > max {
            return Err(Error::BodyTooLarge { max });
        }
        if whole.is_empty() && pieces.is_empty() {
            whole = data;
        } else {
            pieces.extend_from_slice(&std::mem::take(&mut whole));
            pieces.extend_from_slice(&data);
        }
    }
    Ok(if pieces.is_empty() { whole } else { pieces.freeze() })
}

/// Reads a JSON object into `T`. A value of the wrong shape is refused through `invalid`, with the path of the field.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], invalid: fn(Vec<FieldError>) -> Error) -> Result<T> {
    parse_any(bytes, invalid).map(|Object(value)| value)
}

/// Reads any JSON into `T`, like [`parse`].
pub fn parse_any<T: DeserializeOwned>(bytes: &[u8], invalid: fn(Vec<FieldError>) -> Error) -> Result<T> {
    // The path is tracked only once something is wrong: tracking costs as much as reading.
    serde_json::from_slice(bytes).map_err(|err| fault::<T>(bytes, &err, invalid))
}

#[cold]
fn fault<T: DeserializeOwned>(bytes: &[u8], err: &serde_json::Error, invalid: fn(Vec<FieldError>) -> Error) -> Error {
    let (line, column) = (err.line(), err.column());
    let detail = err.to_string();
    let detail = detail.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&detail);
    if !err.is_data() {
        return Error::MalformedJson { detail: clip(detail), line, column };
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let field = match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Err(err) => err.path().to_string(),
        Ok(_) => ".".to_owned(),
    };
    // The path is `.` for the body as a whole.
    let field = if field == "." { "body".to_owned() } else { clip(&field) };
    let detail = clip(&detail.replace("expected i64", "expected a whole number of at most 64 bits"));
    invalid(vec![FieldError { field, detail: detail.into() }])
}

/// Names and values in these texts are the client's: an answer must not grow with them.
fn clip(text: &str) -> String {
    const CHARS_MAX: usize = 500;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::draft::Draft;

    fn fault_of(json: &str) -> serde_json::Value {
        let err = parse::<Draft>(json.as_bytes(), Error::InvalidOrder).unwrap_err();
        serde_json::to_value(err.problem()).unwrap()
    }

    #[test]
    fn malformed_json_says_line_and_column() {
        insta::assert_json_snapshot!(fault_of("{\n  \"currency\": \"USD\",\n  oops\n}"));
    }

    #[test]
    fn an_unknown_field_is_named_with_its_path() {
        insta::assert_json_snapshot!(fault_of(r#"{"lines":[{"sku":"A","quantiy":1}]}"#));
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_with_its_path() {
        insta::assert_json_snapshot!(fault_of(r#"{"lines":[{"sku":"A"},{"quantity":"two"}]}"#));
        insta::assert_json_snapshot!(fault_of(r#"{"lines":[{"quantity":99999999999999999999}]}"#));
        insta::assert_json_snapshot!(fault_of("[]"));
        insta::assert_json_snapshot!(fault_of(r#"{"lines":[["A",null,1,5,0]]}"#));
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_cut_off() {
        let never = Body::from_stream(futures::stream::pending::<std::io::Result<&str>>());
        let read = read_within(Duration::from_millis(5), &HeaderMap::new(), never, 100).await;
        assert!(matches!(read, Err(Error::BodyTooSlow)));
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together() {
        let pieces = futures::stream::iter(["{", "", "\"a\"", ":1}"].map(Ok::<_, std::io::Error>));
        let read = read(&HeaderMap::new(), Body::from_stream(pieces), 7).await.unwrap();
        assert_eq!(read, r#"{"a":1}"#);
    }

    #[test]
    fn what_a_client_sent_is_quoted_at_bounded_length() {
        let problem = fault_of(&format!(r#"{{"{}":1}}"#, "x".repeat(200_000)));
        assert!(problem.to_string().len() < 3000);
    }
}
