//! Calls that take too long or carry too much, and what of a call is kept and handed on.

use super::*;

/// Answers the first request with these bytes, and says nothing more, but does not hang up.
async fn silent_after(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut streams = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let asked = stream.read(&mut head).await.is_ok_and(|bytes| bytes > 0);
            if asked && !answer.is_empty() {
                stream.write_all(answer.as_bytes()).await.ok();
            }
            streams.push(stream);
        }
    });
    address
}

/// Where nobody answers, not even whether there is such a name.
struct Nowhere;

#[async_trait]
impl Network for Nowhere {
    async fn resolve(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        std::future::pending().await
    }

    async fn dial(&self, _: SocketAddr) -> io::Result<TcpStream> {
        std::future::pending().await
    }
}

/// As [`send`], of a call that is to end by itself.
async fn soon(handling: &Handling, request: Request) -> Result<(u16, Bytes), Failure> {
    tokio::time::timeout(Duration::from_secs(60), send(handling, request)).await.expect("an end")
}

#[tokio::test]
async fn a_guest_that_waits_longer_than_it_may_is_not_asked() {
    let limits = format!("{GRANT}[limits]\nhttp_first_byte = \"30ms\"\n");
    let world = World::new(&limits, silent_after("").await, &[&[PUBLIC]]);
    let handling = world.handling();
    let mut patient = request("GET", "http://carrier.example/v1/");
    patient.patience.first_byte = Some(Duration::from_secs(3_600));
    let failed = soon(&handling, patient).await.unwrap_err();
    assert_eq!((failed.kind, &*failed.detail), (FailureKind::ResponseTimeout, "no response within 30ms"));
}

#[tokio::test]
async fn a_guest_that_waits_no_longer_is_told_so() {
    let limits = format!("{GRANT}[limits]\nhttp_first_byte = \"1h\"\nhttp_connect = \"1h\"\n");
    let world = World::new(&limits, silent_after("").await, &[&[PUBLIC]]);
    let handling = world.handling();
    let mut wanted = request("GET", "http://carrier.example/v1/");
    (wanted.patience.connect, wanted.patience.first_byte) =
        (Some(Duration::from_millis(10)), Some(Duration::from_millis(20)));
    let failed = soon(&handling, wanted).await.unwrap_err();
    assert_eq!((failed.kind, &*failed.detail), (FailureKind::ResponseTimeout, "no response within 30ms"));

    let begun = silent_after("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort").await;
    let world = World::new(GRANT, begun, &[&[PUBLIC]]);
    let handling = world.handling();
    let mut wanted = request("GET", "http://carrier.example/v1/");
    wanted.patience.between_bytes = Some(Duration::from_millis(20));
    let failed = soon(&handling, wanted).await.unwrap_err();
    assert_eq!((failed.kind, &*failed.detail), (FailureKind::ReadTimeout, "nothing came for 20ms"));
    assert_eq!(told(&handling)[0].error.as_deref(), Some("the body broke off: nothing came for 20ms"));
    assert!(handling.calls().unwrap().stop().is_none());
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_is_not_waited_for_beyond_the_limit() {
    let policy = format!("{GRANT}[limits]\nhttp_connect = \"20ms\"\nhttp_first_byte = \"1h\"\n");
    let policy = Policy::parse(std::path::Path::new("shipment.toml"), &policy).unwrap();
    let mut world = World::new(GRANT, silent_after("").await, &[]);
    let network = Arc::new(Nowhere) as Arc<dyn Network>;
    world.http = Arc::new(Http::new(&"shipment".parse().unwrap(), &policy, Secrets::default(), &network));
    let failed = soon(&world.handling(), request("GET", "http://carrier.example/v1/")).await.unwrap_err();
    assert_eq!(failed.kind, FailureKind::ConnectTimeout, "{failed}");
}

#[tokio::test]
async fn heads_count_towards_the_bytes_of_an_event() {
    let limits = format!("{GRANT}[limits]\nhttp_bytes = \"8KiB\"\n");
    let server = Answering::with(OK).await;
    let world = World::new(&limits, server.address, &[&[PUBLIC]]);
    let mut wanted = request("GET", "http://carrier.example/v1/");
    wanted.headers.insert("x-much", "x".repeat(9_000).parse().unwrap());
    let long = format!("http://carrier.example/v1/?{}", "x".repeat(9_000));
    for wanted in [wanted, request("GET", &long)] {
        let handling = world.handling();
        soon(&handling, wanted).await.unwrap_err();
        assert_eq!(stopped(&handling).0, "limit");
    }
    assert!(server.requests.lock().is_empty(), "nothing of them left");

    let much =
        format!("HTTP/1.1 200 OK\r\nx-much: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", "x".repeat(9_000));
    let world = World::new(&limits, Answering::with(much).await.address, &[&[PUBLIC]]);
    let handling = world.handling();
    soon(&handling, request("GET", "http://carrier.example/v1/")).await.unwrap_err();
    assert_eq!(stopped(&handling).0, "limit", "of responses too");
}

#[tokio::test]
async fn of_many_calls_the_first_and_the_last_are_told() {
    let limits = format!("{GRANT}[limits]\nhttp_calls = 100\n");
    let world = World::new(&limits, silent_after("").await, &[]);
    let handling = world.handling();
    for _ in 0..100 {
        drop(handling.call(request("GET", "http://carrier.example/v1/")).unwrap());
    }
    let numbers: Vec<_> = told(&handling).iter().map(|call| call.n).collect();
    assert_eq!(numbers, (1..=10).chain(91..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_private_network_is_open_to_the_entry_that_says_so_and_to_no_other() {
    let both = "[grant]\nhttp = [
        { url_prefix = \"http://own.example/\", methods = [\"GET\"], private = true },
        { url_prefix = \"http://carrier.example/v1/\", methods = [\"GET\"] },
        { url_prefix = \"http://carrier.example/v2/\", methods = [\"GET\"], private = true },
        { url_prefix = \"http://carrier.example/v1/\", methods = [\"POST\"], private = true }]\n";
    let server = Answering::with(OK).await;
    let world = World::new(both, server.address, &[["10.0.0.1"].as_slice(); 3]);
    let handling = world.handling();
    soon(&handling, request("GET", "http://carrier.example/v1/")).await.unwrap_err();
    assert_eq!((stopped(&handling).0, world.dialled().len()), ("grant", 0));
    for (method, url) in [("GET", "http://own.example/"), ("POST", "http://carrier.example/v1/")] {
        assert_eq!(soon(&world.handling(), request(method, url)).await.unwrap().0, 200, "{method} {url}");
    }
}

#[tokio::test]
async fn a_secret_in_a_key_or_a_trailer_is_told_to_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let private =
        "[grant]\nhttp = [{ url_prefix = \"http://carrier.example/\", methods = [\"POST\"], private = true }]\n";
    let echo = "HTTP/1.1 200 OK\r\ntrailer: x-echo\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\nhi\r\n0\r\nx-echo: s3cret-value\r\n\r\n";
    let server = Answering::with(echo).await;
    let world = World::built(private, server.address, &[&["127.0.0.1"]], secrets(&folder), None);
    let handling = world.handling();
    let mut wanted = request("POST", "http://carrier.example/");
    wanted.headers.insert("te", "trailers".parse().unwrap());
    wanted.headers.insert("idempotency-key", "{{secret:TOKEN}}/1".parse().unwrap());
    let response = handling.call(wanted).unwrap().send().await.unwrap();
    assert_eq!(server.header(0, "idempotency-key"), "s3cret-value/1");
    let body = response.into_body().collect().await.unwrap();
    assert!(body.trailers().is_none(), "{:?}", body.trailers());
    assert_eq!(body.to_bytes(), "hi");
    let told = told(&handling);
    assert_eq!(told[0].idempotency_key.as_deref(), Some("{{secret:TOKEN}}/1"));
}
