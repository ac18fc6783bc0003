//! Calls against servers of this machine, over a network that lies about names where a test wants it to.

mod bounds;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::*;
use crate::backend::{HttpCall, View};
use crate::capability::fixture::{self, Memory, overstep};
use crate::event::Event;
use crate::policy::SecretSource;

const PUBLIC: &str = "93.184.215.14";

/// Answers names from a list, one answer each time, and connects every address to one server.
struct Lies {
    answers: Mutex<VecDeque<Vec<&'static str>>>,
    dialled: Mutex<Vec<String>>,
    server: SocketAddr,
}

#[async_trait]
impl Network for Lies {
    async fn resolve(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let answer = self.answers.lock().pop_front().ok_or_else(|| io::Error::other("asked once too often"))?;
        Ok(answer.into_iter().map(|address| SocketAddr::new(address.parse().unwrap(), port)).collect())
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.dialled.lock().push(address.to_string());
        TcpStream::connect(self.server).await
    }
}

/// Takes requests one after the other, answers each with the same bytes, and closes.
struct Answering {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Answering {
    async fn with(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, requests) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let (told, answer) = (Arc::clone(&requests), answer.into());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    let mut chunk = [0; 4096];
                    let read = stream.read(&mut chunk).await.unwrap_or(0);
                    if read == 0 {
                        break;
                    }
                    request.extend_from_slice(&chunk[..read]);
                }
                told.lock().push(String::from_utf8(request).unwrap());
                stream.write_all(&answer).await.ok();
            }
        });
        Self { address, requests }
    }

    fn header(&self, request: usize, name: &str) -> String {
        let requests = self.requests.lock();
        let line = requests[request].lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name} in {}", requests[request])).to_owned()
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";

/// What a test calls with.
struct World {
    http: Arc<Http>,
    lies: Arc<Lies>,
    event: Arc<Event>,
    view: Arc<dyn View>,
}

impl World {
    fn new(side_file: &str, server: SocketAddr, answers: &[&[&'static str]]) -> Self {
        Self::built(side_file, server, answers, Secrets::default(), None)
    }

    fn built(
        side_file: &str,
        server: SocketAddr,
        answers: &[&[&'static str]],
        secrets: Secrets,
        roots: Option<RootCertStore>,
    ) -> Self {
        let policy = Policy::parse(std::path::Path::new("shipment.toml"), side_file).unwrap();
        let answers = answers.iter().map(|answer| answer.to_vec()).collect();
        let lies = Arc::new(Lies { answers: Mutex::new(answers), dialled: Mutex::default(), server });
        let network = Arc::clone(&lies) as Arc<dyn Network>;
        let mut http = Http::new(&"shipment".parse().unwrap(), &policy, secrets, &network);
        if let Some(roots) = roots {
            http.public = client(Connector::new(network, false, policy.limits.http.connect).trusting(roots));
        }
        let event = fixture::custom("com.example.test", 0);
        Self { http: Arc::new(http), lies, event, view: Arc::new(Memory::default()) }
    }

    fn handling(&self) -> Handling {
        let rights = fixture::rights(crate::policy::Grant::default());
        Handling::new(rights, Arc::clone(&self.event), Arc::clone(&self.view))
            .calling(Some(&self.http), Gate::Open(Lease::of_nothing()))
    }

    fn dialled(&self) -> Vec<String> {
        self.lies.dialled.lock().clone()
    }
}

fn request(method: &str, url: &str) -> Request {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Request {
        method: method.parse().unwrap(),
        scheme: scheme.to_owned(),
        authority: authority.to_owned(),
        path_and_query: path.to_owned(),
        headers: HeaderMap::new(),
        body: Empty::new().map_err(|never| match never {}).boxed_unsync(),
        patience: Patience::default(),
    }
}

/// Sends a call, and what became of it: status and body.
async fn send(handling: &Handling, request: Request) -> Result<(u16, Bytes), Failure> {
    let response = handling.call(request).unwrap().send().await?;
    let status = response.status().as_u16();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

fn told(handling: &Handling) -> Vec<HttpCall> {
    handling.calls().unwrap().told()
}

/// Kind and words of what ended the handling.
fn stopped(handling: &Handling) -> (&'static str, String) {
    overstep(handling.calls().unwrap().stop().map_or(Ok(()), Err))
}

const GRANT: &str =
    "[grant]\nhttp = [{ url_prefix = \"http://carrier.example/v1/\", methods = [\"GET\", \"POST\"] }]\n";
const PRIVATE: &str =
    "[grant]\nhttp = [{ url_prefix = \"http://carrier.example/\", methods = [\"GET\"], private = true }]\n";

#[tokio::test]
async fn a_call_goes_out_with_what_the_host_adds_and_is_told() {
    let server = Answering::with(OK).await;
    let world = World::new(GRANT, server.address, &[&[PUBLIC], &[PUBLIC]]);
    let handling = world.handling();
    let called = send(&handling, request("POST", "http://Carrier.example:80/v1/parcels?token=abc")).await;
    assert_eq!(called, Ok((200, Bytes::from_static(b"hi"))));
    assert!(server.requests.lock()[0].starts_with("POST /v1/parcels?token=abc HTTP/1.1\r\n"));
    assert_eq!(server.header(0, "host"), "carrier.example");
    let key = format!("shipment/{}/1", world.event.id);
    assert_eq!(server.header(0, "idempotency-key"), key);
    let trace: String = world.event.id.to_string().split('-').collect();
    let traceparent = server.header(0, "traceparent");
    assert!(traceparent.starts_with(&format!("00-{trace}-")) && traceparent.len() == 55, "{traceparent}");

    send(&handling, request("GET", "http://carrier.example/v1/")).await.unwrap();
    assert!(!server.requests.lock()[1].contains("idempotency-key"), "reading needs no key");
    let calls = told(&handling);
    assert_eq!((calls[0].n, calls[0].status, calls[0].idempotency_key.as_deref()), (1, Some(200), Some(key.as_str())));
    assert_eq!((&*calls[0].url, &*calls[1].method), ("http://carrier.example/v1/parcels", "GET"));
    assert!(calls[0].duration_us > 0);
}

#[tokio::test]
async fn what_the_guest_sets_itself_stays() {
    let server = Answering::with(OK).await;
    let world = World::new(GRANT, server.address, &[&[PUBLIC]]);
    let mut wanted = request("POST", "http://carrier.example/v1/");
    wanted.headers.insert("idempotency-key", "own".parse().unwrap());
    wanted.headers.insert("host", "evil.test".parse().unwrap());
    let handling = world.handling();
    send(&handling, wanted).await.unwrap();
    assert_eq!(
        (server.header(0, "idempotency-key"), server.header(0, "host")),
        ("own".into(), "carrier.example".into())
    );
    assert_eq!(told(&handling)[0].idempotency_key.as_deref(), Some("own"));
}

#[tokio::test]
async fn every_attempt_sends_the_same_key_and_trace() {
    let server = Answering::with(OK).await;
    let world = World::new(GRANT, server.address, &[&[PUBLIC], &[PUBLIC]]);
    for _ in 0..2 {
        send(&world.handling(), request("POST", "http://carrier.example/v1/")).await.unwrap();
    }
    for name in ["idempotency-key", "traceparent"] {
        assert_eq!(server.header(0, name), server.header(1, name));
    }
}

#[tokio::test]
async fn what_is_not_granted_is_refused_before_anybody_is_asked() {
    let server = Answering::with(OK).await;
    let world = World::new(GRANT, server.address, &[]);
    for (method, url) in [
        ("PUT", "http://carrier.example/v1/"),
        ("get", "http://carrier.example/v1/"),
        ("GET", "https://carrier.example/v1/"),
        ("GET", "http://carrier.example/v2/"),
        ("GET", "http://carrier.example/v1/../admin"),
        ("GET", "http://carrier.example/"),
        ("GET", "http://carrier.example"),
        ("GET", "http://carrier.example:8080/v1/"),
        ("GET", "http://carrier.example@127.0.0.1/v1/"),
        ("GET", "http://169.254.169.254/latest/meta-data/"),
        ("GET", "http://127.0.0.1/v1/"),
        ("GET", "http://2130706433/v1/"),
        ("GET", "http://0x7f.0.0.1/v1/"),
        ("GET", "http://0177.0.0.1/v1/"),
        ("GET", "http://[::1]/v1/"),
        ("GET", "http://[::ffff:127.0.0.1]/v1/"),
        ("GET", "ftp://carrier.example/v1/"),
    ] {
        let (kind, message) = overstep(world.handling().call(request(method, url)).map(drop));
        assert_eq!(kind, "grant", "{method} {url}: {message}");
        assert!(message.starts_with(&format!("{method} ")) && message.contains("not granted"), "{message}");
    }
    assert!(world.dialled().is_empty());
}

#[tokio::test]
async fn a_body_that_is_announced_and_never_comes_is_refused() {
    let server = Answering::with(OK).await;
    let world = World::new(GRANT, server.address, &[&[PUBLIC]]);
    let announcing = |length: &str| {
        let mut wanted = request("POST", "http://carrier.example/v1/");
        wanted.headers.insert("content-length", length.parse().unwrap());
        wanted
    };
    let (kind, message) = overstep(world.handling().call(announcing("050")).map(drop));
    assert_eq!(kind, "bad-argument", "{message}");
    assert!(world.dialled().is_empty());
    assert_eq!(send(&world.handling(), announcing("0")).await.unwrap().0, 200);
}

#[tokio::test]
async fn a_name_that_changes_between_check_and_connect_is_connected_where_it_was_checked() {
    let server = Answering::with(OK).await;
    let world = World::new(GRANT, server.address, &[&[PUBLIC], &["127.0.0.1"]]);
    let handling = world.handling();
    send(&handling, request("GET", "http://carrier.example/v1/")).await.unwrap();
    assert_eq!(world.dialled(), [format!("{PUBLIC}:80")], "resolved once, and connected to that");

    let failed = send(&handling, request("GET", "http://carrier.example/v1/")).await.unwrap_err();
    assert_eq!(failed.kind, FailureKind::Stopped);
    let (kind, message) = stopped(&handling);
    assert_eq!(kind, "grant");
    assert!(message.contains("carrier.example is at 127.0.0.1") && message.contains("private = true"), "{message}");
    assert_eq!(world.dialled().len(), 1);
    assert!(told(&handling)[1].error.as_ref().unwrap().contains("127.0.0.1"));
}

#[tokio::test]
async fn one_bad_address_among_good_ones_is_enough() {
    for bad in ["10.0.0.1", "::1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "0.0.0.0", "fe80::1"] {
        let server = Answering::with(OK).await;
        let world = World::new(GRANT, server.address, &[&[PUBLIC, bad]]);
        let handling = world.handling();
        send(&handling, request("GET", "http://carrier.example/v1/")).await.unwrap_err();
        assert_eq!((stopped(&handling).0, world.dialled().len()), ("grant", 0), "{bad}");
    }
}

#[tokio::test]
async fn a_private_address_takes_a_grant_and_a_machines_metadata_its_very_address() {
    let server = Answering::with(OK).await;
    let world = World::new(PRIVATE, server.address, &[&["10.0.0.1", "127.0.0.1"], &["169.254.169.254"]]);
    send(&world.handling(), request("GET", "http://carrier.example/")).await.unwrap();
    let handling = world.handling();
    send(&handling, request("GET", "http://carrier.example/")).await.unwrap_err();
    assert_eq!(stopped(&handling).0, "grant", "no name leads there");

    for (private, granted) in [(true, true), (false, false)] {
        let grant = format!(
            "[grant]\nhttp = [{{ url_prefix = \"http://169.254.169.254/\", methods = [\"GET\"], private = {private} }}]"
        );
        let world = World::new(&grant, server.address, &[]);
        let sent = send(&world.handling(), request("GET", "http://169.254.169.254/latest")).await;
        assert_eq!(sent.is_ok(), granted);
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_like_any_other() {
    let server =
        Answering::with("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n").await;
    let world = World::new(GRANT, server.address, &[&[PUBLIC]]);
    let handling = world.handling();
    assert_eq!(send(&handling, request("GET", "http://carrier.example/v1/")).await.unwrap().0, 302);
    assert_eq!((world.dialled().len(), server.requests.lock().len()), (1, 1));
}

#[tokio::test]
async fn calls_and_bytes_are_bounded_for_each_event() {
    let server = Answering::with(format!(
        "HTTP/1.1 200 OK\r\ncontent-length: 9000\r\nconnection: close\r\n\r\n{}",
        "x".repeat(9_000)
    ))
    .await;
    let limits = format!("{GRANT}[limits]\nhttp_calls = 2\nhttp_bytes = \"8KiB\"\n");
    let world = World::new(&limits, server.address, &[&[PUBLIC], &[PUBLIC]]);
    let handling = world.handling();
    send(&handling, request("GET", "http://carrier.example/v1/")).await.unwrap_err();
    let (kind, message) = stopped(&handling);
    assert_eq!(kind, "limit");
    assert!(message.contains("the limit is 8192; raise limits.http_bytes in shipment.toml"), "{message}");

    let handling = world.handling();
    let body = Full::new(Bytes::from(vec![0; 9_000])).map_err(|never| match never {}).boxed_unsync();
    send(&handling, Request { body, ..request("POST", "http://carrier.example/v1/") }).await.ok();
    assert_eq!(stopped(&handling).0, "limit", "of requests too");

    let handling = world.handling();
    let calls: Vec<_> = (0..3).map(|_| handling.call(request("GET", "http://carrier.example/v1/")).map(drop)).collect();
    let (kind, message) = overstep(calls.into_iter().collect::<Result<(), _>>());
    assert_eq!(kind, "limit");
    assert!(message.contains("3 calls") && message.contains("limits.http_calls in shipment.toml"), "{message}");
    assert_eq!(handling.taken().http_calls, 2, "what was refused is none");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for_beyond_the_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limits = format!("{GRANT}[limits]\nhttp_connect = \"20ms\"\nhttp_first_byte = \"30ms\"\n");
    let world = World::new(&limits, listener.local_addr().unwrap(), &[&[PUBLIC]]);
    let handling = world.handling();
    let failed = send(&handling, request("GET", "http://carrier.example/v1/")).await.unwrap_err();
    assert_eq!(failed.kind, FailureKind::ResponseTimeout);
    assert_eq!(told(&handling)[0].error.as_deref(), Some("no response within 30ms"));
}

#[tokio::test]
async fn what_a_server_does_wrong_is_told_to_the_guest() {
    for (answer, kind) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\nshort", FailureKind::Terminated),
        ("nonsense\r\n\r\n", FailureKind::Protocol),
        (&format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(4 * HEAD_BYTES_MAX)), FailureKind::Protocol),
        ("", FailureKind::Terminated),
    ] {
        let server = Answering::with(answer).await;
        let world = World::new(GRANT, server.address, &[&[PUBLIC]]);
        let handling = world.handling();
        // A server that closes at once is closed for good.
        let failed = send(&handling, request("GET", "http://carrier.example/v1/")).await.unwrap_err();
        assert_eq!(failed.kind, kind, "{failed} of {answer:.40}");
        assert!(told(&handling)[0].error.is_some() && handling.calls().unwrap().stop().is_none());
    }
}

fn secrets(folder: &tempfile::TempDir) -> Secrets {
    let path = folder.path().join("token");
    std::fs::write(&path, "s3cret-value").unwrap();
    Secrets::read(&[("TOKEN".to_owned(), SecretSource::File(path))].into()).unwrap()
}

#[tokio::test]
async fn a_secret_goes_out_to_servers_of_the_own_network_and_comes_back_masked() {
    let folder = tempfile::tempdir().unwrap();
    let echo = "HTTP/1.1 200 OK\r\nx-echo: s3cret-value\r\ncontent-length: 20\r\nconnection: close\r\n\r\nyou said s3cret-value";
    let server = Answering::with(echo.replace("20", "21")).await;
    let world = World::built(PRIVATE, server.address, &[&["127.0.0.1"]], secrets(&folder), None);
    let handling = world.handling();
    let mut wanted = request("GET", "http://carrier.example/");
    wanted.headers.insert("authorization", "Bearer {{secret:TOKEN}}".parse().unwrap());
    let response = handling.call(wanted).unwrap().send().await.unwrap();
    assert_eq!(server.header(0, "authorization"), "Bearer s3cret-value");
    assert_eq!(response.headers()["x-echo"], "************");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "you said ************");
    assert!(!format!("{:?}", told(&handling)).contains("s3cret"));
}

#[tokio::test]
async fn a_secret_is_not_sent_where_anybody_could_read_it_or_where_it_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let server = Answering::with(OK).await;
    let world = World::built(GRANT, server.address, &[], secrets(&folder), None);
    for (value, said) in
        [("{{secret:TOKEN}}", "anybody on the way"), ("{{secret:OTHER}}", "secret OTHER is not granted")]
    {
        let mut wanted = request("GET", "http://carrier.example/v1/");
        wanted.headers.insert("x-token", value.parse().unwrap());
        let (kind, message) = overstep(world.handling().call(wanted).map(drop));
        assert_eq!(kind, "grant");
        assert!(message.contains(said), "{message}");
    }
}

#[tokio::test]
async fn nothing_goes_out_before_what_was_read_is_durable() {
    let server = Answering::with(OK).await;
    let mut world = World::new(GRANT, server.address, &[&[PUBLIC]]);
    let undone = crate::backend::Error::Unavailable("undone".into());
    world.view = Arc::new(Memory { broken: Some(undone), ..Memory::default() });
    let handling = world.handling();
    send(&handling, request("POST", "http://carrier.example/v1/")).await.unwrap_err();
    assert!(matches!(handling.calls().unwrap().stop(), Some(Stop::Store(_))), "it is handled again");

    world.view = Arc::new(Memory { takes: Some(Duration::MAX), ..Memory::default() });
    let handling = world.handling();
    let call = handling.call(request("POST", "http://carrier.example/v1/")).unwrap();
    tokio::time::timeout(Duration::from_millis(50), call.send()).await.map(drop).unwrap_err();
    assert!(world.dialled().is_empty());
}

#[tokio::test]
async fn without_a_grant_or_in_a_trial_nobody_is_called() {
    let server = Answering::with(OK).await;
    let world = World::new(GRANT, server.address, &[]);
    let open = Gate::Open(Lease::of_nothing());
    for (http, gate, of_kind, said) in [
        (None, open, "grant", "add grant.http in inventory.toml"),
        (Some(&world.http), Gate::StateOnly, "grant", "state-only"),
        (Some(&world.http), Gate::Trial, "trial", "a trial"),
        (None, Gate::Trial, "trial", "a trial"),
    ] {
        let handling = world.handling().calling(http, gate);
        let (kind, message) = overstep(handling.call(request("GET", "http://carrier.example/v1/")).map(drop));
        assert_eq!(kind, of_kind);
        assert!(message.contains(said), "{message}");
    }
}

/// A server of HTTP/2 over TLS for `carrier.example`.
async fn encrypted() -> SocketAddr {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("fixtures/server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("fixtures/server.key.pem")).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let answer = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                let said = format!("{:?} {}", request.version(), request.headers()["authorization"].to_str().unwrap());
                Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(said))))
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), answer));
        }
    });
    address
}

#[tokio::test]
async fn http_2_is_spoken_over_tls_where_the_server_offers_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(include_bytes!("fixtures/ca.pem")).unwrap()).unwrap();
    let grant = GRANT.replace("http://", "https://");
    let world = World::built(&grant, encrypted().await, &[&[PUBLIC]], secrets(&folder), Some(roots));
    let handling = world.handling();
    for _ in 0..2 {
        let mut wanted = request("GET", "https://carrier.example/v1/");
        wanted.headers.insert("authorization", "{{secret:TOKEN}}".parse().unwrap());
        let (_, body) = send(&handling, wanted).await.unwrap();
        assert_eq!(body, "HTTP/2.0 ************", "the secret went out, and came back masked");
    }
    assert_eq!(world.dialled().len(), 1, "over one connection");
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let grant = GRANT.replace("http://", "https://");
    let world = World::new(&grant, encrypted().await, &[&[PUBLIC]]);
    let handling = world.handling();
    let failed = send(&handling, request("GET", "https://carrier.example/v1/")).await.unwrap_err();
    assert_eq!(failed.kind, FailureKind::Tls);
    assert!(failed.detail.contains("carrier.example"), "{failed}");
}
