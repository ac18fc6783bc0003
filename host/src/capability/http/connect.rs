//! From a server's name to a connection with an address that was looked at: resolved once, all of it checked, and then
//! connected to what was checked and nothing else.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tower_service::Service;

use super::address::{self, Reach};
use crate::policy::url::{Host, Scheme, Server};

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An address that the grant does not reach. None of the name's addresses was connected to.
    #[error("{host} is at {address}, {}", told(*.reach))]
    Prohibited { host: String, address: IpAddr, reach: Reach },
    #[error("the name {0} has no address")]
    NoAddress(String),
    #[error("no connection to {host}: {cause}")]
    Unreachable { host: String, cause: String },
    #[error("no TLS with {host}: {cause}")]
    Tls { host: String, cause: String },
    #[error("no connection to {host} within {limit:?}")]
    OutOfTime { host: String, limit: Duration },
}

fn told(reach: Reach) -> &'static str {
    match reach {
        Reach::Public => "which is not granted",
        Reach::Private => "which is of this machine or a private network",
        Reach::Metadata => "where a machine's own metadata are, or what is on its link alone",
        Reach::Nobody => "where nobody is to be called",
    }
}

/// What lies between a name and a stream of bytes. Another one stands in for tests of names that lie.
#[async_trait]
pub trait Network: Send + Sync {
    async fn resolve(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream>;
}

/// The one that there is.
pub struct Internet;

#[async_trait]
impl Network for Internet {
    async fn resolve(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((name, port)).await?.collect())
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Connects to servers, those that it may.
#[derive(Clone)]
pub struct Connector {
    network: Arc<dyn Network>,
    tls: TlsConnector,
    /// Whether addresses of private networks may be connected to.
    private: bool,
    limit: Duration,
}

impl Connector {
    pub fn new(network: Arc<dyn Network>, private: bool, limit: Duration) -> Self {
        Self { network, tls: TLS.clone(), private, limit }
    }

    #[cfg(test)]
    pub fn trusting(mut self, roots: RootCertStore) -> Self {
        self.tls = tls(roots);
        self
    }

    async fn connect(self, server: Server) -> Result<Stream, Error> {
        let (host, limit) = (server.host.to_string(), self.limit);
        let connected = tokio::time::timeout(limit, self.open(&server)).await;
        connected.unwrap_or(Err(Error::OutOfTime { host, limit }))
    }

    async fn open(&self, server: &Server) -> Result<Stream, Error> {
        let host = || server.host.to_string();
        let addresses = self.addresses(server).await?;
        let tcp = self.dial(server, &addresses).await?;
        if server.scheme == Scheme::Http {
            return Ok(Stream::Plain(TokioIo::new(tcp)));
        }
        let refused = |cause: String| Error::Tls { host: host(), cause };
        let name = match &server.host {
            Host::Name(name) => ServerName::try_from(name.clone()).map_err(|error| refused(error.to_string()))?,
            Host::V4(address) => ServerName::from(IpAddr::V4(*address)),
            Host::V6(address) => ServerName::from(IpAddr::V6(*address)),
        };
        let tls = self.tls.connect(name, tcp).await.map_err(|error| refused(error.to_string()))?;
        Ok(Stream::Tls(TokioIo::new(Box::new(tls))))
    }

    /// Where the server is, if every one of its addresses may be connected to.
    async fn addresses(&self, server: &Server) -> Result<Vec<SocketAddr>, Error> {
        let (found, farthest) = match &server.host {
            Host::Name(name) => {
                let found = self.network.resolve(name, server.port).await;
                let found = found.map_err(|_| Error::NoAddress(name.clone()))?;
                (found, if self.private { Reach::Private } else { Reach::Public })
            }
            // The grant names the very address.
            Host::V4(address) => (vec![SocketAddr::new((*address).into(), server.port)], self.farthest_literal()),
            Host::V6(address) => (vec![SocketAddr::new((*address).into(), server.port)], self.farthest_literal()),
        };
        let host = server.host.to_string();
        for address in &found {
            let (address, reach) = (address.ip(), address::reach(address.ip()));
            if reach > farthest {
                return Err(Error::Prohibited { host, address, reach });
            }
        }
        if found.is_empty() { Err(Error::NoAddress(host)) } else { Ok(found) }
    }

    fn farthest_literal(&self) -> Reach {
        if self.private { Reach::Metadata } else { Reach::Public }
    }

    /// One address after the other; each has its part of the time, so that one that does not answer leaves some to the next.
    async fn dial(&self, server: &Server, addresses: &[SocketAddr]) -> Result<TcpStream, Error> {
        let addresses = addresses.get(..ADDRESSES_MAX).unwrap_or(addresses);
        let part = self.limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut cause = "no address was left to try".to_owned();
        for address in addresses {
            match tokio::time::timeout(part, self.network.dial(*address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => cause = error.to_string(),
                Err(_) => cause = format!("no answer within {part:?}"),
            }
        }
        Err(Error::Unreachable { host: server.host.to_string(), cause })
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Stream, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let authority = uri.authority().map_or("", http::uri::Authority::as_str);
            let server = Server::parse(uri.scheme_str().unwrap_or_default(), authority)
                .map_err(|why| Error::Unreachable { host: authority.to_owned(), cause: format!("the URL {why}") })?;
            connector.connect(server).await
        })
    }
}

static TLS: LazyLock<TlsConnector> =
    LazyLock::new(|| tls(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }));

fn tls(roots: RootCertStore) -> TlsConnector {
    let provider = Arc::new(ring::default_provider());
    #[allow(clippy::expect_used, reason = "this provider has these versions, whatever the input")]
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has TLS 1.2 and 1.3");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// A connection, with or without TLS.
pub enum Stream {
    Plain(TokioIo<TcpStream>),
    Tls(TokioIo<Box<TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Self::Tls(stream) if stream.inner().get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            _ => Connected::new(),
        }
    }
}

impl Read for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
