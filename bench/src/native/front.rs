//! The HTTP front: the library that the host's front is built with, the host's own reading and checking of orders, and its
//! answer.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use fanfare::clock::Timestamp;
use fanfare::order::Order;
use fanfare::order::draft::{CheckedOrder, Draft, Mode as Door};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::staged::Stage;
use super::store::{Job, Placed, Queue};

// Limits of the host's front.
const ORDER_BYTES_MAX: usize = 256 << 10;
const KEY_BYTES_MAX: usize = 255;
const HEADER_TIME_MAX: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct Front {
    stage: Stage,
    queue: Arc<Queue>,
}

/// Takes orders until it is dropped.
pub async fn serve(listener: TcpListener, stage: Stage, queue: Arc<Queue>) -> Result<()> {
    let router = Router::new()
        .route("/v1/orders", post(place))
        .route("/readyz", get(|| async { StatusCode::OK }))
        .with_state(Front { stage, queue });
    loop {
        let (stream, _peer) = listener.accept().await?;
        tokio::spawn(converse(stream, router.clone()));
    }
}

async fn converse(stream: TcpStream, router: Router) {
    let served = async {
        stream.set_nodelay(true)?;
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        connection.await.map_err(anyhow::Error::from)
    };
    if let Err(error) = served.await {
        eprintln!("a connection broke off: {error:#}");
    }
}

async fn place(State(front): State<Front>, request: Request) -> Response {
    match front.place(request).await {
        Ok(answer) => answer,
        Err((status, why)) => (status, why).into_response(),
    }
}

/// A refusal.
type Refused = (StatusCode, String);

impl Front {
    async fn place(&self, request: Request) -> Result<Response, Refused> {
        let (parts, body) = request.into_parts();
        let key = idempotency_key(&parts.headers)?;
        let body = read(&parts.headers, body).await?;
        let (job, placed) = job(self.stage, &body, key)?;
        let order = job.order.clone();
        self.queue.push(job);
        match placed.await.map_err(|_| bug("the thread that writes has ended"))? {
            Placed::New => created(&order),
            Placed::Repeated(first) => created(&first),
            Placed::KeyReused => Err((StatusCode::UNPROCESSABLE_ENTITY, "the key stands for another order".to_owned())),
        }
    }
}

/// All that can be done for an order before it is written, and where to hear that it is.
pub fn job(stage: Stage, body: &[u8], key: Option<String>) -> Result<(Job, oneshot::Receiver<Placed>), Refused> {
    let now = Timestamp::now();
    let (order, fingerprint) = order(body, now).map_err(|why| (StatusCode::UNPROCESSABLE_ENTITY, why))?;
    let content = serde_json::to_string(&*order.content).map_err(bug)?;
    let staged = stage(&order, now).map_err(bug)?;
    let (reply, placed) = oneshot::channel();
    Ok((Job { id: order.id.to_string(), order, key, fingerprint, content, staged, reply }, placed))
}

/// The order that a body describes, placed now, with the fingerprint of its content.
pub fn order(body: &[u8], now: Timestamp) -> Result<(Order, [u8; 32]), String> {
    let draft: Draft = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let checked = draft.check(now, Door::Submit).map_err(|faults| format!("{faults:?}"))?;
    let CheckedOrder { content, fingerprint, .. } = checked;
    Ok((Order::place(Arc::new(content), now), fingerprint))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refused> {
    let Some(key) = headers.get("Idempotency-Key") else { return Ok(None) };
    let legal =
        |key: &&str| (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    match key.to_str().ok().filter(legal) {
        Some(key) => Ok(Some(key.to_owned())),
        None => Err((StatusCode::BAD_REQUEST, "Idempotency-Key: 1 to 255 visible characters".to_owned())),
    }
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Refused> {
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/json is expected".to_owned()));
    }
    to_bytes(body, ORDER_BYTES_MAX).await.map_err(|error| (StatusCode::PAYLOAD_TOO_LARGE, error.to_string()))
}

fn created(order: &Order) -> Result<Response, Refused> {
    let body = serde_json::to_vec(order).map_err(bug)?;
    let headers =
        [(header::CONTENT_TYPE, "application/json".to_owned()), (header::LOCATION, format!("/v1/orders/{}", order.id))];
    Ok((StatusCode::CREATED, headers, body).into_response())
}

fn bug(error: impl std::fmt::Display) -> Refused {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}
