//! Connections: accepted in bounded number, cut off where they stall, drained at the end.
//!
//! HTTP/1.1 only: it is what can be bounded simply, and a proxy in front may speak anything to the world. What
//! holds a connection without end is cut off in each phase: the head of a request (and idleness between two) by
//! hyper's timer, the body by [`body::read`](super::body::read), the answer by [`Unstalled`].

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::http::{Request, header};
use axum::response::IntoResponse as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::limits::{
    CONNECTIONS_MAX, CONNECTIONS_SHARE, DRAIN_TIME_MAX, HEAD_BYTES_MAX, HEADER_TIME_MAX, WRITE_STALL_MAX,
};
use super::owed::{Owed, Patient};
use super::problem::{Error, Result};
use super::request::clip;
use super::{Api, Hosts, router, unread};

/// How long accepting rests after it failed, which is mostly for want of file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Serves the API until [`Api::stopping`] is cancelled and the requests in flight have ended, or
/// [`DRAIN_TIME_MAX`] later.
pub async fn serve(listener: TcpListener, api: Api) {
    let stopping = api.stopping.clone();
    let hosts = Arc::new(api.hosts.clone());
    let router = router(api);
    let slots = Arc::new(Semaphore::new(connections_max()));
    let mut connections = JoinSet::new();
    while let Some((stream, slot)) = accept(&listener, &slots, &stopping).await {
        connections.spawn(converse(stream, router.clone(), Arc::clone(&hosts), stopping.clone(), slot));
        while let Some(ended) = connections.try_join_next() {
            report(ended);
        }
    }
    drop(listener);
    drain(connections).await;
}

/// As many as the system lets this process hold open beside everything else.
fn connections_max() -> usize {
    let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let share = open_files.and_then(|files| usize::try_from(files / CONNECTIONS_SHARE).ok());
    share.unwrap_or(CONNECTIONS_MAX).clamp(1, CONNECTIONS_MAX)
}

/// The next connection and its slot; `None` when the host stops.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    stopping: &CancellationToken,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let accepting = async {
        let slot = Arc::clone(slots).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _peer)) => return Some((stream, slot)),
                Err(err) => {
                    tracing::warn!(error = %err, "a connection could not be accepted");
                    sleep(ACCEPT_REST).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = stopping.cancelled() => None,
        accepted = accepting => accepted,
    }
}

async fn drain(mut connections: JoinSet<()>) {
    let ending = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if timeout(DRAIN_TIME_MAX, ending).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections were cut off: their requests took too long");
        connections.shutdown().await;
    }
}

/// A request that panicked took its connection along, and nothing else.
fn report(ended: std::result::Result<(), tokio::task::JoinError>) {
    if let Err(err) = ended
        && err.is_panic()
    {
        tracing::error!(error = %err, "a connection panicked");
    }
}

/// Answers the requests of one connection.
async fn converse(
    stream: TcpStream,
    router: Router,
    hosts: Arc<Hosts>,
    stopping: CancellationToken,
    _slot: OwnedSemaphorePermit,
) {
    // Answers are small: waiting to fill a segment would only delay them.
    if let Err(err) = stream.set_nodelay(true) {
        tracing::debug!(error = %err, "a connection ended before it began");
        return;
    }
    let router = TowerToHyperService::new(router);
    let owed = Owed::default();
    let stream = Patient::new(Unstalled::new(stream, WRITE_STALL_MAX), owed.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let owed = owed.clone();
        let (request, unread) = unread::lend(request, &owed);
        let answer = hosts.check(&request).map(|()| router.call(request));
        async move {
            let response = match answer {
                Ok(answer) => answer.await?,
                Err(refused) => refused.into_response(),
            };
            unread.discard(response.status()).await;
            Ok::<_, Infallible>(owed.until_sent(response))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(err) = ended {
        // The peer's doing: gone, too slow, or not speaking HTTP.
        tracing::debug!(error = %err, "a connection broke off");
    }
}

impl Hosts {
    pub(super) fn check<B>(&self, request: &Request<B>) -> Result<()> {
        let Self::Only(names) = self else { return Ok(()) };
        // All of them: whoever stands between may go by another one than the first.
        let headers = request.headers().get_all(header::HOST).iter();
        let headers = headers.map(|host| String::from_utf8_lossy(host.as_bytes()));
        let authority = request.uri().authority().map(|authority| authority.as_str().into());
        for host in headers.chain(authority) {
            if !names.iter().any(|name| name.eq_ignore_ascii_case(without_port(&host))) {
                return Err(Error::WrongHost { host: clip(&host), expected: names.join(", ") });
            }
        }
        Ok(())
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// A connection that fails once its peer has taken nothing for so long.
struct Unstalled<T> {
    inner: T,
    stall_max: Duration,
    /// Runs while the peer takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<T> Unstalled<T> {
    fn new(inner: T, stall_max: Duration) -> Self {
        Self { inner, stall_max, stalled: None }
    }

    fn judge(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.stall_max)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not take its answer")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Unstalled<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Unstalled<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, buf);
        this.judge(written, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.judge(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::api::tests::full_store;

    fn request(uri: &str, host: Option<&str>) -> Request<()> {
        let mut request = Request::builder().uri(uri);
        if let Some(host) = host {
            request = request.header(header::HOST, host);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn another_hosts_name_is_refused_on_loopback() {
        let hosts = Hosts::loopback();
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080", "[::1]"] {
            assert!(hosts.check(&request("/", Some(host))).is_ok(), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:8080", "evil.example:localhost", ""] {
            assert!(hosts.check(&request("/", Some(host))).is_err(), "{host}");
            assert!(Hosts::Any.check(&request("/", Some(host))).is_ok(), "{host}");
        }
        assert!(hosts.check(&request("http://evil.example/", Some("localhost"))).is_err());
        let mut two = request("/", Some("localhost"));
        two.headers_mut().append(header::HOST, "evil.example".parse().unwrap());
        assert!(hosts.check(&two).is_err());
        assert!(hosts.check(&request("/", None)).is_ok());
    }

    /// A served API over a store that accepts nothing.
    async fn served(hosts: Hosts) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let api = Api { hosts, ..full_store() };
        (address, api.stopping.clone(), tokio::spawn(serve(listener, api)))
    }

    /// Sends a request and reads until the answer holds `expected`.
    async fn ask(address: SocketAddr, request: &str, expected: &str) -> TcpStream {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).contains(expected) {
            let read = timeout(Duration::from_secs(10), connection.read_buf(&mut answer)).await;
            let read = read.expect("an answer in time").unwrap();
            assert_ne!(read, 0, "{expected} is not in {:?}", String::from_utf8_lossy(&answer));
        }
        connection
    }

    #[tokio::test]
    async fn requests_under_another_name_are_answered_with_a_problem() {
        let (address, _stopping, _serving) = served(Hosts::loopback()).await;
        ask(address, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "200 OK").await;
        ask(address, "GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", "/problems/wrong-host").await;
    }

    #[tokio::test]
    async fn a_head_that_does_not_end_is_not_waited_for() {
        let (address, _stopping, _serving) = served(Hosts::Any).await;
        let mut connection = TcpStream::connect(address).await.unwrap();
        let head = format!("GET /healthz HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(HEAD_BYTES_MAX + 1));
        connection.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // What was sent and not read may make the end a reset.
        let _ended = timeout(HEADER_TIME_MAX / 3, connection.read_to_end(&mut answer)).await.expect("an end");
        assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    }

    #[tokio::test]
    async fn a_stop_ends_idle_connections_and_streams_and_then_the_serving() {
        let (address, stopping, serving) = served(Hosts::Any).await;
        let mut idle = ask(address, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK").await;
        let mut stream = ask(address, "GET /v1/events HTTP/1.1\r\nHost: a\r\n\r\n", ": fanfare").await;
        stopping.cancel();
        let deadline = Duration::from_secs(5);
        timeout(deadline, serving).await.expect("an end before requests are cut off").unwrap();
        let mut rest = Vec::new();
        timeout(deadline, idle.read_to_end(&mut rest)).await.expect("an end of the idle connection").unwrap();
        timeout(deadline, stream.read_to_end(&mut rest)).await.expect("an end of the stream").unwrap();
    }

    #[tokio::test]
    async fn a_request_in_flight_is_answered_although_the_host_stops() {
        let (address, stopping, serving) = served(Hosts::Any).await;
        let head = "POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n";
        let expecting = head.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
        // The host has begun to read the body once it asks for it.
        let mut connection = ask(address, &expecting, "100 Continue").await;
        stopping.cancel();
        connection.write_all(b"{}").await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("/problems/invalid-order"), "{answer}");
        timeout(Duration::from_secs(5), serving).await.expect("an end").unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_cut_off() {
        let (near, _far) = tokio::io::duplex(16);
        let mut near = Unstalled::new(near, Duration::from_millis(5));
        let err = near.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::TimedOut);
    }
}
