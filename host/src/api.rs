//! The HTTP interface: the only code that knows HTTP statuses.
//!
//! Requests become calls of the ports and answers become JSON; nothing is decided here that an order or a backend
//! could decide. A POST of JSON must say `Content-Type: application/json`, every body and every wait is bounded
//! ([`limits`]), what a page of another site makes a browser send is refused (`origin`), and everything that goes wrong is
//! an RFC 9457 problem ([`problem`]).
//!
//! **Invariant**: a 201 is built from a [`Durable`](crate::backend::Durable) placement and from nothing else.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::backend::{Backfills, Consumers, DeadLetters, Fleet, Intake, Journal, Layouts, Timelines, Upkeep, Versions};
use crate::consumer::status::Catalogue;
use crate::consumer::steer::Steering;
use crate::telemetry::meters;

mod backfill;
mod backup;
mod body;
mod check;
mod cloudevents;
mod consumers;
mod custom;
mod dead_letters;
mod exports;
mod import;
mod invoked;
pub mod limits;
mod orders;
mod origin;
mod owed;
mod page;
mod pause;
mod place;
mod probes;
pub mod problem;
mod request;
mod room;
mod serve;
mod stream;
mod timeline;
mod unread;
mod versions;

pub use invoked::Function;
pub use serve::serve;

/// What the API speaks to.
#[derive(Clone)]
pub struct Api {
    pub intake: Arc<dyn Intake>,
    pub journal: Arc<dyn Journal>,
    pub timelines: Arc<dyn Timelines>,
    pub consumers: Arc<dyn Consumers>,
    pub dead_letters: Arc<dyn DeadLetters>,
    pub upkeep: Arc<dyn Upkeep>,
    pub backfills: Arc<dyn Backfills>,
    pub versions: Arc<dyn Versions>,
    pub layouts: Arc<dyn Layouts>,
    pub fleet: Arc<dyn Fleet>,
    pub catalogue: Arc<dyn Catalogue>,
    pub steering: Arc<dyn Steering>,
    /// The body of `GET /metrics`, in the text format of Prometheus.
    pub metrics: Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>,
    pub hosts: Hosts,
    /// Cancelled when the host begins to stop: streams end, and `GET /readyz` says so.
    pub stopping: CancellationToken,
}

/// The names in `Host` that requests may come under. A page of another site that had its own name resolve to this
/// machine (DNS rebinding) comes under that name, and is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    Any,
    /// Without ports, in lower case; IPv6 addresses in brackets.
    Only(Vec<String>),
}

impl Hosts {
    /// For a host that listens on loopback alone.
    #[must_use]
    pub fn loopback() -> Self {
        Self::Only(["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).into())
    }
}

/// What all requests share.
struct Shared {
    api: Api,
    keys: place::KeysInUse,
    imports: Arc<Semaphore>,
    backups: Arc<Semaphore>,
    exports: Arc<Semaphore>,
    checks: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

/// Every call of the API. [`serve`] checks `Host` and bounds connections around it.
pub fn router(api: Api) -> Router {
    let shared = Arc::new(Shared {
        api,
        keys: place::KeysInUse::default(),
        imports: Arc::new(Semaphore::new(limits::IMPORTS_MAX)),
        backups: Arc::new(Semaphore::new(limits::BACKUPS_MAX)),
        exports: Arc::new(Semaphore::new(limits::EXPORTS_MAX)),
        checks: Arc::new(Semaphore::new(limits::CHECKS_MAX)),
        streams: Arc::new(Semaphore::new(limits::STREAMS_MAX)),
    });
    let pages = Router::new()
        .route("/v1/orders/{id}/timeline", get(timeline::show))
        .route("/v1/consumers/{name}/state", get(consumers::state))
        .route("/v1/consumers/{name}/dead-letters", get(dead_letters::list))
        .route("/v1/consumers/{name}/versions", get(versions::history))
        .route("/v1/messages", get(exports::messages))
        .route_layer(middleware::from_fn(room::for_answer));
    let others = Router::new()
        .route("/v1/orders:import", post(import::import))
        .route("/v1/orders/{id}", get(orders::show))
        .route("/v1/orders/{id}/cancel", post(orders::cancel))
        .route("/v1/orders/{id}/deliver", post(orders::deliver))
        .route("/v1/consumers", get(consumers::list))
        .route("/v1/consumers/{name}/pause", post(pause::pause))
        .route("/v1/consumers/{name}/resume", post(pause::resume))
        .route("/v1/consumers/{name}", get(consumers::show).delete(consumers::forget))
        .route("/v1/consumers/{name}/dead-letters/{event_id}", get(dead_letters::show))
        .route("/v1/consumers/{name}/dead-letters/retry", post(dead_letters::retry))
        .route("/v1/consumers/{name}/dead-letters/discard", post(dead_letters::discard))
        .route("/v1/consumers/{name}/shadow", get(versions::shadow))
        .route("/v1/consumers/{name}/rollback", post(versions::roll_back))
        .route("/v1/consumers/{name}/promote", post(versions::promote))
        .route("/v1/consumers/{name}/backfill", get(backfill::show).post(backfill::start))
        .route("/v1/consumers/{name}/backfill/pause", post(backfill::pause))
        .route("/v1/consumers/{name}/backfill/resume", post(backfill::resume))
        .route("/v1/consumers/{name}/backfill/cancel", post(backfill::cancel))
        .route("/v1/records/{dataset}", get(exports::records))
        .route("/v1/backup", post(backup::backup))
        .route_layer(middleware::from_fn(request::without_params));
    // Load balancers and scrapers may add parameters of their own, and narrow nothing by them.
    let probes = Router::new()
        .route("/healthz", get(probes::health))
        .route("/readyz", get(probes::ready))
        .route("/metrics", get(probes::metrics))
        .route("/", get(probes::index));
    let list = get(orders::list).route_layer(middleware::from_fn(room::for_answer));
    Router::new()
        .route("/v1/orders", post(place::place).merge(list))
        .route("/v1/events", post(custom::publish).get(stream::stream))
        .route("/v1/check", get(check::check))
        .merge(pages)
        .merge(others)
        .merge(probes)
        .route_layer(middleware::from_fn(measure))
        .fallback(request::not_found)
        .method_not_allowed_fallback(request::method_not_allowed)
        .layer(middleware::from_fn(origin::own))
        .with_state(shared)
}

/// Times every request under the pattern of its route; what matches no route is not measured, since callers choose it.
async fn measure(route: MatchedPath, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let response = next.run(request).await;
    meters::http_request(route.as_str(), response.status().as_u16(), began.elapsed());
    response
}

#[cfg(test)]
mod tests;
