//! Calls to other services over HTTP, where the operator granted their URLs.
//!
//! A call takes effect at once and is not undone when the handler fails: it may be made again on the next attempt. So the
//! host sends an `Idempotency-Key` with everything but GET, HEAD and OPTIONS, the same on every attempt, as long as a handler
//! makes its calls in the same order. Redirects are not followed. Breaking a grant or a limit traps.
//!
//! ```no_run
//! # use fanfare_sdk::{Failure, http::Request};
//! # fn call(parcel: &str) -> Result<(), Failure> {
//! let response = Request::post("https://api.carrier.example/v1/parcels")
//!     .header("authorization", "Bearer {{secret:CARRIER_TOKEN}}") // the host puts the secret there
//!     .json(&parcel)
//!     .send()?;
//! # Ok(())
//! # }
//! ```

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Failure, json, time};

#[cfg(target_family = "wasm")]
mod bindings;
#[cfg(not(target_family = "wasm"))]
use crate::testing::imports::http::send;
#[cfg(target_family = "wasm")]
use bindings::send;

/// Of a response, unless the request asks for less or more.
const BODY_BYTES_MAX: usize = 1 << 20;

/// A request to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Of the response's body.
    pub body_bytes_max: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Why there is no response. Raised with `?` it is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    what: String,
    cause: String,
}

impl Request {
    pub fn new(method: &str, url: impl Into<String>) -> Self {
        let (method, url) = (method.to_owned(), url.into());
        Self { method, url, headers: Vec::new(), body: Vec::new(), body_bytes_max: BODY_BYTES_MAX }
    }

    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    pub fn post(url: impl Into<String>) -> Self {
        Self::new("POST", url)
    }

    /// `{{secret:NAME}}` in a value stands for a secret that the operator granted.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    #[must_use]
    pub fn json(self, value: &impl Serialize) -> Self {
        self.header("content-type", "application/json").body(json::to_string(value))
    }

    /// Sends it and waits for the whole response. A status of any kind is a response.
    pub fn send(&self) -> Result<Response, Error> {
        send(self)
    }

    /// An error of this request. The query is left out: it may be long, and nobody's business.
    pub(crate) fn error(&self, cause: impl Into<String>) -> Error {
        let url = self.url.split('?').next().unwrap_or_default();
        Error { what: format!("{} {url}", self.method), cause: cause.into() }
    }
}

impl Response {
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// What is no UTF-8 of it replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json<T: DeserializeOwned>(&self) -> Result<T, json::Error> {
        serde_json::from_slice(&self.body).map_err(|error| json::Error::new("response", error.to_string()))
    }

    /// How long the server asks to be left alone, by its `Retry-After`: in seconds, or until a time, which is compared with
    /// the server's own `Date`.
    pub fn retry_after_ms(&self) -> Option<u64> {
        let wish = self.header("retry-after")?.trim();
        if let Ok(seconds) = wish.parse::<u32>() {
            return Some(u64::from(seconds) * 1000);
        }
        let (until, now) = (time::parse_http_date(wish)?, time::parse_http_date(self.header("date")?)?);
        Some(until.saturating_sub(now) * 1000)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.cause)
    }
}

impl std::error::Error for Error {}

/// Whoever did not answer may do so later.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::retry(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_time_by_the_servers_own_clock() {
        let after = |wish: &str| {
            let response = Response::new(503).with_header("Retry-After", wish);
            response.with_header("Date", "Sun, 06 Nov 1994 08:49:37 GMT").retry_after_ms()
        };
        assert_eq!(after("120"), Some(120_000));
        assert_eq!(after("Sun, 06 Nov 1994 08:50:07 GMT"), Some(30_000));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:07 GMT"), Some(0));
        assert_eq!((after("soon"), after("-1"), Response::new(503).retry_after_ms()), (None, None, None));
    }

    #[test]
    fn an_error_is_told_without_the_query() {
        let error = Request::get("https://a.example/x?token=1").error("connection refused");
        assert_eq!(error.to_string(), "GET https://a.example/x: connection refused");
        assert!(matches!(Failure::from(error), Failure::Retry(_)));
    }

    #[test]
    fn headers_are_found_by_name_whatever_their_case() {
        let response = Response::new(200).with_header("X-Request-Id", "7");
        assert_eq!((response.header("x-request-ID"), response.header("y")), (Some("7"), None));
    }
}
