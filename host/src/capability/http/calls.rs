//! The calls of one handling: counted, sent, and told.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::address::Reach;
use super::secrets::Secrets;
use super::{Admitted, Body, Client, Http, Patience, Request, body, connect};
use crate::backend::{HttpCall, Lease, View};
use crate::capability::Stop;
use crate::event::EventId;

/// Calls of one handling that are told: how it began, and how it ended.
const TOLD_FIRST: usize = 10;
const TOLD_LAST: usize = 10;

/// The calls of one handling.
pub struct Calls {
    http: Arc<Http>,
    event: EventId,
    view: Arc<dyn View>,
    lease: Lease,
    made: Mutex<Made>,
    bytes: AtomicU64,
    /// What a call in the background broke: the handling ends with it.
    stop: watch::Sender<Option<Stop>>,
}

#[derive(Default)]
struct Made {
    count: u32,
    told: Vec<Told>,
}

struct Told {
    call: HttpCall,
    began: Instant,
}

/// One call, ready to be sent.
pub struct Call {
    calls: Arc<Calls>,
    n: u32,
    client: Client,
    request: http::Request<Body>,
    patience: Patience,
}

type Response = http::Response<Body>;

/// Why a call has no response, as far as the guest is told. The words are the host's own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Failure {
    pub kind: FailureKind,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    NoAddress,
    Unreachable,
    ConnectTimeout,
    Tls,
    ResponseTimeout,
    ReadTimeout,
    Terminated,
    Protocol,
    /// The guest broke off its own request.
    Abandoned,
    /// The handling is over: nobody will read this.
    Stopped,
}

impl Calls {
    pub fn new(http: Arc<Http>, event: EventId, view: Arc<dyn View>, lease: Lease) -> Self {
        let (made, bytes, stop) = (Mutex::default(), AtomicU64::new(0), watch::Sender::default());
        Self { http, event, view, lease, made, bytes, stop }
    }

    pub(super) fn secrets(&self) -> &Secrets {
        &self.http.secrets
    }

    /// Admits a call, or says why it must not be made.
    pub fn begin(self: &Arc<Self>, request: Request) -> Result<Call, Stop> {
        let mut made = self.made.lock();
        made.count = made.count.saturating_add(1);
        let (n, max, name) = (made.count, self.http.limits.calls, &self.http.consumer);
        if n > max {
            return Err(Stop::limit(format!(
                "{n} calls over HTTP for one event: the limit is {max}; raise limits.http_calls in {name}.toml"
            )));
        }
        let method = request.method.to_string();
        let Admitted { request, client, url, key, patience } = self.http.admit(self.event, n, request)?;
        let call = HttpCall { n, method, url, status: None, error: None, duration_us: 0, idempotency_key: key };
        made.tell(Told { call, began: Instant::now() });
        Ok(Call { calls: Arc::clone(self), n, client: client.clone(), request, patience })
    }

    /// Returns when something must not go on; what it was.
    pub async fn stopped(&self) -> Stop {
        let mut stop = self.stop.subscribe();
        match stop.wait_for(Option::is_some).await.map(|stop| stop.clone()) {
            Ok(Some(stop)) => stop,
            // The sender lives in `self`, and what was waited for is there.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// As [`Calls::stopped`], if it is so already.
    pub fn stop(&self) -> Option<Stop> {
        self.stop.borrow().clone()
    }

    /// What was called. One without an end was under way when the handling ended.
    pub fn told(&self) -> Vec<HttpCall> {
        let told = self.made.lock();
        let told = told.told.iter().map(|Told { call, began }| match call {
            HttpCall { status: None, error: None, .. } => {
                let error = Some("it was under way when the handling ended".to_owned());
                HttpCall { error, duration_us: micros(began.elapsed()), ..call.clone() }
            }
            over => over.clone(),
        });
        told.collect()
    }

    /// Calls that were made, and bytes that went out and came in, as far as they were let through.
    pub fn taken(&self) -> (u32, u64) {
        let limits = &self.http.limits;
        (self.made.lock().count.min(limits.calls), self.bytes.load(Ordering::Relaxed).min(limits.bytes))
    }

    /// Counts bytes that go out or come in.
    pub(super) fn take_bytes(&self, bytes: usize) -> Result<(), Failure> {
        let taken = self.bytes.fetch_add(bytes as u64, Ordering::Relaxed).saturating_add(bytes as u64);
        let (max, name) = (self.http.limits.bytes, &self.http.consumer);
        if taken <= max {
            return Ok(());
        }
        Err(self.break_off(Stop::limit(format!(
            "{taken} bytes over HTTP for one event: the limit is {max}; raise limits.http_bytes in {name}.toml"
        ))))
    }

    /// Notes why a call that seemed well was not.
    pub(super) fn failed(&self, n: u32, error: String) {
        self.end(n, |call| call.error = Some(error));
    }

    fn end(&self, n: u32, note: impl FnOnce(&mut HttpCall)) {
        if let Some(told) = self.made.lock().told.iter_mut().find(|told| told.call.n == n) {
            if told.call.duration_us == 0 {
                told.call.duration_us = micros(told.began.elapsed());
            }
            note(&mut told.call);
        }
    }

    /// The first reason stays.
    fn break_off(&self, stop: Stop) -> Failure {
        let failure = Failure { kind: FailureKind::Stopped, detail: stop.to_string() };
        self.stop.send_if_modified(|first| {
            let new = first.is_none();
            first.get_or_insert(stop);
            new
        });
        failure
    }
}

impl Made {
    fn tell(&mut self, told: Told) {
        if self.told.len() >= TOLD_FIRST + TOLD_LAST {
            self.told.remove(TOLD_FIRST);
        }
        self.told.push(told);
    }
}

impl Call {
    /// Sends it and waits for the head of the response.
    ///
    /// # Errors
    /// [`Failure`], for the guest. What breaks a grant or a limit ends the handling besides: [`Calls::stopped`].
    pub async fn send(self) -> Result<Response, Failure> {
        let (calls, n) = (Arc::clone(&self.calls), self.n);
        let responded = self.respond().await;
        calls.end(n, |call| match &responded {
            Ok(response) => call.status = Some(response.status().as_u16()),
            Err(failure) => call.error = Some(failure.detail.clone()),
        });
        responded
    }

    async fn respond(self) -> Result<Response, Failure> {
        let Self { calls, n, client, request, patience } = self;
        calls.view.durable(calls.lease).await.map_err(|error| calls.break_off(Stop::Store(error)))?;
        let (method, uri) = (request.method().clone(), request.uri().clone());
        calls.take_bytes(
            head_bytes(request.headers()).saturating_add(uri.path_and_query().map_or(0, |it| it.as_str().len())),
        )?;
        let request = request.map(|body| body::sent(body, Arc::clone(&calls)));
        let limits = calls.http.limits;
        // The guest's own patience begins when a connection stands.
        let wish = patience.first_byte.map(|wish| wish.saturating_add(patience.connect.unwrap_or(limits.connect)));
        let limit = wish.map_or(limits.first_byte, |wish| wish.min(limits.first_byte));
        let response = match tokio::time::timeout(limit, client.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(calls.why(&error, &method)),
            Err(_) => {
                let detail = format!("no response within {limit:?}");
                return Err(Failure { kind: FailureKind::ResponseTimeout, detail });
            }
        };
        let (mut parts, body) = response.into_parts();
        calls.take_bytes(head_bytes(&parts.headers))?;
        calls.secrets().mask_headers(&mut parts.headers);
        Ok(Response::from_parts(parts, body::received(body, calls, n, patience.between_bytes)))
    }
}

impl Calls {
    /// What the client's error means; of an address that is not granted, it is the handling's end.
    fn why(&self, error: &hyper_util::client::legacy::Error, method: &http::Method) -> Failure {
        let mut cause = error.source();
        while let Some(error) = cause {
            if let Some(failure) = error.downcast_ref::<Failure>() {
                return failure.clone();
            }
            if let Some(error) = error.downcast_ref::<connect::Error>() {
                return self.unconnected(error, method);
            }
            if let Some(error) = error.downcast_ref::<hyper::Error>() {
                return Failure::of_hyper(error);
            }
            cause = error.source();
        }
        Failure { kind: FailureKind::Terminated, detail: error.to_string() }
    }

    fn unconnected(&self, error: &connect::Error, method: &http::Method) -> Failure {
        let kind = match error {
            connect::Error::Prohibited { reach, .. } => {
                let hint = match reach {
                    Reach::Private => {
                        format!(
                            "; if it is meant, set private = true at its entry of grant.http in {}.toml",
                            self.http.consumer
                        )
                    }
                    Reach::Public | Reach::Metadata | Reach::Nobody => String::new(),
                };
                return self.break_off(Stop::grant(format!("{method} is refused: {error}{hint}")));
            }
            connect::Error::NoAddress(_) => FailureKind::NoAddress,
            connect::Error::Unreachable { .. } => FailureKind::Unreachable,
            connect::Error::Tls { .. } => FailureKind::Tls,
            connect::Error::OutOfTime { .. } => FailureKind::ConnectTimeout,
        };
        Failure { kind, detail: error.to_string() }
    }
}

impl Failure {
    pub fn of_hyper(error: &hyper::Error) -> Self {
        let mut cause = error.source();
        while let Some(error) = cause {
            if let Some(own) = error.downcast_ref::<Self>() {
                return own.clone();
            }
            cause = error.source();
        }
        let kind = if error.is_parse() { FailureKind::Protocol } else { FailureKind::Terminated };
        Self { kind, detail: format!("the connection failed: {error}") }
    }

    /// The guest gave up its own request.
    #[must_use]
    pub fn abandoned() -> Self {
        Self { kind: FailureKind::Abandoned, detail: "the guest did not finish the body of its request".to_owned() }
    }
}

fn head_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
