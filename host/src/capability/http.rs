//! Outgoing HTTP: what a consumer may call, and what the host adds to each call.
//!
//! ```text
//! Handling::call ── grant, limits, secrets ──► durable? ──► connect: resolve, check, pin ──► response, counted and masked
//!      (at once: breaking one traps)           (in the background: breaking one stops the handling)
//! ```
//! Unlike everything else that a guest does, a call takes effect at once and is not undone. So it happens only when what the
//! handling is based on is durable, carries a key that is the same on every attempt, and is told in the timeline.
//!
//! **Invariants**
//! - A request goes to the URL that was compared with the grants, over a connection to an address that was checked for them.
//! - Secrets are in no type that is printed, and in no text that is kept.

mod address;
mod body;
mod calls;
mod connect;
mod secrets;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method};
use hyper::body::Body as _;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use sha2::{Digest as _, Sha256};

pub use body::Body;
pub use calls::{Call, Calls, Failure, FailureKind};
use connect::{Connector, Internet, Network};
use secrets::{Secrets, Unknown};

use super::{Handling, Stop};
use crate::backend::Lease;
use crate::event::EventId;
use crate::policy::url::{Scheme, Server};
use crate::policy::{ConsumerName, HttpGrant, HttpLimits, Policy};

type Client = legacy::Client<Connector, Body>;

/// Heads of responses; those of requests are bounded where the guest builds them.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// A connection that nobody used for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Idle connections to one server.
const IDLE_CONNECTIONS_MAX: usize = 16;
/// Of a URL in a text that is kept.
const SHOWN_BYTES_MAX: usize = 300;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("fanfare/", env!("CARGO_PKG_VERSION")));

/// What a consumer may call and how, settled when it is linked. Its connections are its own: no other consumer's calls wait
/// behind them, and none goes over one that was not checked for its own grants.
pub struct Http {
    consumer: ConsumerName,
    grants: Vec<HttpGrant>,
    secrets: Secrets,
    limits: HttpLimits,
    public: Client,
    /// For grants with `private = true`.
    private: Client,
}

/// Whether a handling may call out.
#[derive(Clone, Copy, Debug)]
pub enum Gate {
    /// Where what it read is durable.
    Open(Lease),
    /// A backfill that commits state alone.
    StateOnly,
    /// A handling whose effects are looked at and thrown away.
    Trial,
}

/// What stands behind a handling's calls.
pub(super) enum Outgoing {
    NotGranted,
    Closed(Stop),
    Open(Arc<Calls>),
}

/// A request as the guest wants it.
pub struct Request {
    pub method: Method,
    pub scheme: String,
    pub authority: String,
    pub path_and_query: String,
    pub headers: HeaderMap,
    pub body: Body,
    pub patience: Patience,
}

/// How long the guest itself wants to wait at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    pub connect: Option<Duration>,
    pub first_byte: Option<Duration>,
    pub between_bytes: Option<Duration>,
}

impl Http {
    /// `None` where no URL is granted.
    ///
    /// # Errors
    /// A secret that cannot be read, in words.
    pub fn of(consumer: &ConsumerName, policy: &Policy) -> Result<Option<Arc<Self>>, String> {
        let secrets = Secrets::read(&policy.grant.secrets)?;
        if policy.grant.http.is_empty() {
            return Ok(None);
        }
        Ok(Some(Arc::new(Self::new(consumer, policy, secrets, &(Arc::new(Internet) as Arc<dyn Network>)))))
    }

    fn new(consumer: &ConsumerName, policy: &Policy, secrets: Secrets, network: &Arc<dyn Network>) -> Self {
        let limits = policy.limits.http;
        let client = |private| client(Connector::new(Arc::clone(network), private, limits.connect));
        Self {
            consumer: consumer.clone(),
            grants: policy.grant.http.clone(),
            secrets,
            limits,
            public: client(false),
            private: client(true),
        }
    }

    /// Holds a request against the grants, and makes it what goes out: the `n`th call of handling `event`.
    fn admit(&self, event: EventId, n: u32, request: Request) -> Result<Admitted<'_>, Stop> {
        let Request { method, scheme, authority, path_and_query, mut headers, body, patience } = request;
        let name = &self.consumer;
        let (path, _) = path_and_query.split_once('?').unwrap_or((&path_and_query, ""));
        let path = if path.is_empty() { "/" } else { path };
        let wanted = |text: String| super::log::cut(&text, SHOWN_BYTES_MAX).to_owned();
        let server = Server::parse(&scheme, &authority).map_err(|why| {
            let url = wanted(format!("{scheme}://{authority}{path}"));
            Stop::grant(format!("{method} {url} is not granted: the URL {why}"))
        })?;
        let url = wanted(format!("{server}{path}"));
        let mut covering = self.grants.iter().filter(|grant| {
            grant.methods.iter().any(|granted| granted == method.as_str())
                && grant.url_prefix.covers_path(&server, path)
        });
        let Some(first) = covering.next() else {
            return Err(Stop::grant(format!(
                "{method} {url} is not granted; if it is meant, add {{ url_prefix = \"{server}/…\", methods = [\"{method}\"] }} \
                 to grant.http in {name}.toml"
            )));
        };
        // A server would take what comes next on the connection for the body: a request that was held against no grant could follow.
        let announced =
            headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes().iter().any(|it| *it != b'0'));
        if announced && body.is_end_stream() {
            return Err(Stop::bad_argument(format!(
                "{method} {url} has no body, and a content-length that says otherwise"
            )));
        }
        let private = first.private || covering.any(|grant| grant.private);
        let key = format!("{name}/{event}/{n}");
        let key = self.complete(&mut headers, &method, event, &key)?;
        let secret = self.secrets.fill(&mut headers).map_err(|Unknown(secret)| {
            Stop::grant(format!("secret {secret} is not granted: add it to grant.secrets in {name}.toml"))
        })?;
        if secret && server.scheme == Scheme::Http && !private {
            return Err(Stop::grant(format!(
                "{method} {url} would send a secret that anybody on the way can read: use https, or grant a server of your \
                 own network with private = true"
            )));
        }
        let uri = http::Uri::builder().scheme(server.scheme.as_str()).authority(server.authority());
        let uri = uri.path_and_query(if path_and_query.is_empty() { "/" } else { &path_and_query }).build();
        let uri = uri.map_err(|error| Stop::bad_argument(format!("{method} {url}: {error}")))?;
        let mut request = http::Request::new(body);
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
        let client = if private { &self.private } else { &self.public };
        Ok(Admitted { request, client, url, key, patience })
    }

    /// Adds what every request has. The idempotency key that goes with it, if it needs one.
    fn complete(
        &self,
        headers: &mut HeaderMap,
        method: &Method,
        event: EventId,
        key: &str,
    ) -> Result<Option<String>, Stop> {
        // The client sets it from the URL that was granted.
        headers.remove(HOST);
        headers.entry(USER_AGENT).or_insert(AGENT);
        let value =
            |text: &str| HeaderValue::from_str(text).map_err(|_| Stop::host("a header of the host's own is none"));
        headers.entry(TRACEPARENT).or_insert(value(&traceparent(event, key))?);
        if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(None);
        }
        let key = headers.entry(IDEMPOTENCY_KEY).or_insert(value(key)?);
        Ok(Some(super::log::cut(&String::from_utf8_lossy(key.as_bytes()), SHOWN_BYTES_MAX).to_owned()))
    }
}

/// What may go out, and where it stands.
struct Admitted<'a> {
    request: http::Request<Body>,
    client: &'a Client,
    /// Without its query.
    url: String,
    key: Option<String>,
    patience: Patience,
}

impl Handling {
    /// Lets it call out, where `http` is granted and `gate` is open.
    #[must_use]
    pub fn calling(mut self, http: Option<&Arc<Http>>, gate: Gate) -> Self {
        self.outgoing = match (http, gate) {
            // Whatever is granted: which line to add is not what stands in its way.
            (_, Gate::Trial) => Outgoing::Closed(Stop::trial(
                "outgoing HTTP is refused: this is a trial, whose effects are thrown away".to_owned(),
            )),
            (None, _) => Outgoing::NotGranted,
            (Some(http), Gate::Open(lease)) => {
                Outgoing::Open(Arc::new(Calls::new(Arc::clone(http), self.event.id, Arc::clone(&self.view), lease)))
            }
            (Some(_), Gate::StateOnly) => Outgoing::Closed(Stop::grant(
                "outgoing HTTP is refused: this backfill has effects = \"state-only\", and a call would be an effect beside \
                 state"
                    .to_owned(),
            )),
        };
        self
    }

    /// What it called, or may call.
    #[must_use]
    pub fn calls(&self) -> Option<&Arc<Calls>> {
        match &self.outgoing {
            Outgoing::Open(calls) => Some(calls),
            Outgoing::NotGranted | Outgoing::Closed(_) => None,
        }
    }

    /// What a call ends in where there is no grant, or the gate is closed.
    #[must_use]
    pub fn refused(&self) -> Stop {
        if let Outgoing::Closed(stop) = &self.outgoing {
            return stop.clone();
        }
        Stop::grant(format!(
            "outgoing HTTP is not granted: add grant.http in {}.toml, such as http = [{{ url_prefix = \
             \"https://api.carrier.example/v1/\", methods = [\"POST\"] }}]",
            self.rights.consumer
        ))
    }

    /// A call that is about to be made.
    pub fn call(&self, request: Request) -> Result<Call, Stop> {
        match &self.outgoing {
            Outgoing::NotGranted | Outgoing::Closed(_) => Err(self.refused()),
            Outgoing::Open(calls) => calls.begin(request),
        }
    }
}

fn client(connector: Connector) -> Client {
    legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .http1_max_buf_size(HEAD_BYTES_MAX)
        .http2_max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .build(connector)
}

/// W3C Trace Context: the trace is the event's, the span the call's, the same on every attempt.
fn traceparent(event: EventId, key: &str) -> String {
    let trace: String = event.to_string().split('-').collect();
    let span: String = Sha256::digest(key).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("00-{trace}-{span}-01")
}
