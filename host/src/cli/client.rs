//! A host, spoken to over HTTP.

use std::fmt::{self, Write as _};
use std::io::{BufRead, BufReader};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

use super::failure::{Failure, Problem};
use crate::config::without_login;

/// A person who waits longer than this thinks that nothing happens any more.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// The host answers a repeat that waits for its first after 5 s; this is well beyond.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// No answer of the API is larger, except streams of lines.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
const PROBLEM_BYTES_MAX: u64 = 1 << 20;
/// The longest line of a stream that is read.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    /// It may have a password in it: people see [`Client::shown`].
    base: String,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.shown()).finish_non_exhaustive()
    }
}

/// A request body and what it is.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    pub media_type: &'static str,
    pub bytes: &'a [u8],
    pub idempotency_key: Option<&'a str>,
}

impl<'a> Payload<'a> {
    #[must_use]
    pub fn json(bytes: &'a [u8]) -> Self {
        Self { media_type: "application/json", bytes, idempotency_key: None }
    }
}

impl Client {
    /// # Errors
    /// [`Failure::Usage`] where `url` is no address of a host.
    pub fn new(url: &str) -> Result<Self, Failure> {
        let base = url.trim_end_matches('/').to_owned();
        let legal = base.parse::<Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
                && !base.contains(['?', '#'])
        });
        if !legal {
            let shown = without_login(url);
            return Err(Failure::Usage(format!("--url: {shown:?} is not a URL such as http://127.0.0.1:8080")));
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            // Followed, an order that is placed would become a list of orders that is asked for.
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIME_MAX))
            .timeout_recv_response(Some(ANSWER_TIME_MAX))
            .timeout_send_request(Some(ANSWER_TIME_MAX))
            .max_idle_connections_per_host(64)
            .build()
            .new_agent();
        Ok(Self { agent, base })
    }

    /// The JSON at `path`, asked for with `query`.
    ///
    /// # Errors
    /// As the host or the way to it says.
    pub fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Failure> {
        json(self.fetch(path, query)?)
    }

    /// The JSON at `path` as the host wrote it: numbers of any length stay what they are.
    ///
    /// # Errors
    /// As the host or the way to it says.
    pub fn get_as_written(&self, path: &str) -> Result<Box<RawValue>, Failure> {
        json(self.fetch(path, &[])?)
    }

    /// The lines at `path`, as they come.
    ///
    /// # Errors
    /// As the host or the way to it says; each line can fail too, where the connection is lost.
    pub fn lines(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<impl Iterator<Item = Result<String, Failure>> + use<>, Failure> {
        Ok(lines(self.fetch(path, query)?))
    }

    /// Sends `payload` and returns the JSON answered, `null` where the answer is empty.
    ///
    /// # Errors
    /// As the host or the way to it says.
    pub fn post(&self, path: &str, payload: Payload<'_>) -> Result<Value, Failure> {
        json(self.send(path, payload)?)
    }

    /// Sends `payload` and returns the answer as it comes, of any length.
    ///
    /// # Errors
    /// As the host or the way to it says.
    pub fn stream(&self, path: &str, payload: Payload<'_>) -> Result<impl BufRead + use<>, Failure> {
        let body = self.send(path, payload)?.into_body();
        Ok(BufReader::new(body.into_with_config().limit(u64::MAX).reader()))
    }

    /// Sends `payload` and returns the lines answered.
    ///
    /// # Errors
    /// As the host or the way to it says; each line can fail too, where the connection is lost.
    pub fn post_for_lines(
        &self,
        path: &str,
        payload: Payload<'_>,
    ) -> Result<impl Iterator<Item = Result<String, Failure>> + use<>, Failure> {
        Ok(lines(self.send(path, payload)?))
    }

    /// Deletes what is at `path`.
    ///
    /// # Errors
    /// As the host or the way to it says.
    pub fn delete(&self, path: &str) -> Result<(), Failure> {
        let answer = self.agent.delete(self.url(path)).call().map_err(|error| self.lost(&error))?;
        checked(answer).map(drop)
    }

    fn fetch(&self, path: &str, query: &[(&str, &str)]) -> Result<Response<Body>, Failure> {
        let request = self.agent.get(self.url(path)).query_pairs(query.iter().copied());
        checked(request.call().map_err(|error| self.lost(&error))?)
    }

    fn send(&self, path: &str, payload: Payload<'_>) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.post(self.url(path)).content_type(payload.media_type);
        if let Some(key) = payload.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        checked(request.send(payload.bytes).map_err(|error| self.lost(&error))?)
    }

    fn shown(&self) -> String {
        without_login(&self.base)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn lost(&self, error: &ureq::Error) -> Failure {
        let shown = self.shown();
        // It may say what was asked for.
        let told = error.to_string().replace(&self.base, &shown);
        match error {
            ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::Protocol(_) => Failure::Unavailable(format!(
                "no answer from {shown}: {told}; is the host running? Start one with `fanfare serve`, or name another with \
                 --url"
            )),
            _ => Failure::Failed(format!("the request to {shown} failed: {told}")),
        }
    }
}

/// `text` as one part of a path.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut part = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            part.push(char::from(byte));
        } else {
            // Writing to a string never fails.
            let _ = write!(part, "%{byte:02X}");
        }
    }
    part
}

/// A name that can be one part of a path. Under none, and under `.` or `..`, another resource would be asked for, and an answer about
/// that one taken for the answer.
///
/// # Errors
/// Where `text` is none.
pub fn part(text: &str) -> Result<String, String> {
    match text {
        "" | "." | ".." => Err("it names nothing".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

fn checked(mut response: Response<Body>) -> Result<Response<Body>, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    if status.is_redirection() {
        let place = response.headers().get("location").and_then(|place| place.to_str().ok()).unwrap_or("nowhere");
        return Err(Failure::Usage(format!(
            "--url: the host is not there: the answer is {status}, which leads to {:?}, and nothing was done. Name where the host is",
            without_login(place)
        )));
    }
    let text = response.body_mut().with_config().limit(PROBLEM_BYTES_MAX).lossy_utf8(true).read_to_string();
    let text = text.unwrap_or_default();
    let mut problem = serde_json::from_str::<Problem>(&text).unwrap_or_else(|_| Problem {
        title: status.canonical_reason().unwrap_or("an answer that is no problem report").to_owned(),
        detail: Some(text.chars().take(200).collect()).filter(|detail: &String| !detail.is_empty()),
        ..Problem::default()
    });
    problem.status = status.as_u16();
    match status.as_u16() {
        // Proxies say for a host that it does not answer.
        408 | 429 | 502 | 503 | 504 => Err(Failure::Unavailable(format!("the host does not accept now: {problem}"))),
        400..=499 => Err(Failure::Refused(problem)),
        _ => Err(Failure::Failed(format!("the host failed: {problem}"))),
    }
}

fn json<T: DeserializeOwned>(mut response: Response<Body>) -> Result<T, Failure> {
    let broken = |error: &dyn std::fmt::Display| Failure::Unavailable(format!("the answer broke off: {error}"));
    let bytes =
        response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(|error| broken(&error))?;
    let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
    serde_json::from_slice(text).map_err(|error| {
        Failure::Failed(format!("the host answered what is no JSON: {error}; is this a Fanfare host?"))
    })
}

fn lines(response: Response<Body>) -> impl Iterator<Item = Result<String, Failure>> {
    let mut reader = BufReader::new(response.into_body().into_with_config().limit(u64::MAX).reader());
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let mut line = Vec::new();
        let lost = match std::io::Read::take(&mut reader, LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return None,
            Ok(_) => match String::from_utf8(line) {
                Ok(line) => return Some(Ok(line.trim_end().to_owned())),
                Err(_) => "a line is not UTF-8".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        ended = true;
        Some(Err(Failure::Unavailable(format!("the answer broke off: {lost}"))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_with_slashes_stays_one_part_of_the_path() {
        assert_eq!(escaped("stock/Ä b"), "stock%2F%C3%84%20b");
    }

    #[test]
    fn what_is_no_url_is_wrong_usage() {
        for url in ["", "127.0.0.1:8080", "ftp://x", "http://", "http://x?a=1", "http://x#a"] {
            assert!(matches!(Client::new(url), Err(Failure::Usage(_))), "{url:?}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_never_shown() {
        for url in ["user:hunter2@x", "ftp://user:hunter2@x", "http://user:hunter2@", "http://user:hunter2@x?a=1"] {
            let failure = Client::new(url).unwrap_err();
            assert!(!failure.to_string().contains("hunter2"), "{failure}");
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let client = Client::new(&format!("http://user:hunter2@127.0.0.1:{port}")).unwrap();
        for path in ["/v1/orders", "//%", "/\n"] {
            let failure = client.get(path, &[]).unwrap_err();
            assert!(!failure.to_string().contains("hunter2"), "{failure}");
        }
        assert!(!format!("{client:?}").contains("hunter2"));
    }

    /// A client of something that gives one answer.
    fn answered(answer: &'static str) -> (Client, std::thread::JoinHandle<()>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]).unwrap();
            std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
        });
        (client, answering)
    }

    #[test]
    fn what_leads_elsewhere_is_not_followed_and_is_no_success() {
        type Ask = fn(&Client) -> Result<(), Failure>;
        let moved =
            "HTTP/1.1 301 Moved\r\nLocation: https://user:hunter2@shop.example/v1/orders\r\nContent-Length: 0\r\n\r\n";
        let asks: [Ask; 3] = [
            |client| client.post("/v1/orders", Payload::json(b"{}")).map(drop),
            |client| client.delete("/v1/consumers/a"),
            |client| client.get("/v1/orders", &[]).map(drop),
        ];
        for ask in asks {
            let (client, answering) = answered(moved);
            let failure = ask(&client).unwrap_err();
            let told = failure.to_string();
            assert!(told.contains("shop.example/v1/orders") && !told.contains("hunter2"), "{told}");
            assert_eq!(failure.code(), 2, "{told}");
            answering.join().unwrap();
        }
    }

    #[test]
    fn a_proxy_whose_host_does_not_answer_is_to_be_asked_again() {
        for answer in [
            "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n",
        ] {
            let (client, answering) = answered(answer);
            let failure = client.post("/v1/orders", Payload::json(b"{}")).unwrap_err();
            assert_eq!(failure.code(), 4, "{failure}");
            answering.join().unwrap();
        }
    }

    #[test]
    fn a_host_that_is_not_there_is_unavailable_and_named() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let client = Client::new(&format!("http://127.0.0.1:{port}")).unwrap();
        let failure = client.get("/v1/orders", &[]).unwrap_err();
        assert_eq!(failure.code(), 4);
        assert!(failure.to_string().contains(&port.to_string()), "{failure}");
    }
}
