//! A carrier: a server that books parcels, and behaves badly when told to.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// Between two bytes of a body that drips.
const DRIP_EVERY: Duration = Duration::from_millis(20);

/// Takes requests over HTTP/1.1. What it is not told otherwise is a parcel: the same one for the same `Idempotency-Key`.
pub struct Carrier {
    address: SocketAddr,
    desk: Arc<Mutex<Desk>>,
}

#[derive(Default)]
struct Desk {
    told: VecDeque<Reply>,
    requests: Vec<Request>,
    /// `Idempotency-Key` → tracking number.
    parcels: BTreeMap<String, String>,
}

/// What comes back for one request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Books the parcel and answers with its tracking number.
    Book,
    /// Books the parcel and never answers.
    BookInSilence,
    /// Status, a header or none, and a body.
    Answer(u16, Option<(&'static str, String)>, String),
    /// Says in header and body what it was told in `authorization`.
    Echo,
    /// Takes the request and says nothing.
    Silence,
    HangUp,
    /// A byte of the body every now and then, without end.
    Drip,
    /// A body without end.
    Flood,
}

#[derive(Clone, Debug)]
pub struct Request {
    /// `POST /v1/parcels HTTP/1.1`
    pub line: String,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    /// The value of a header, empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }
}

impl Carrier {
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let desk = Arc::<Mutex<Desk>>::default();
        let shared = Arc::clone(&desk);
        // It ends with the test.
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let desk = Arc::clone(&shared);
                // A host that hangs up in between, or is killed, is none of the carrier's concern.
                thread::spawn(move || serve(&connection, &desk).ok());
            }
        });
        Self { address, desk }
    }

    /// `http://127.0.0.1:40000/v1/`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/v1/", self.address)
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What comes back for the next requests that are not told yet.
    pub fn tell(&self, replies: impl IntoIterator<Item = Reply>) {
        self.desk().told.extend(replies);
    }

    /// What was asked so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.desk().requests.clone()
    }

    /// Tracking numbers of the parcels that are booked.
    #[must_use]
    pub fn parcels(&self) -> Vec<String> {
        self.desk().parcels.values().cloned().collect()
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().expect("a sound desk")
    }
}

fn serve(stream: &TcpStream, desk: &Mutex<Desk>) -> std::io::Result<()> {
    let mut input = BufReader::new(stream);
    while let Some(request) = read(&mut input)? {
        let reply = {
            let mut desk = desk.lock().expect("a sound desk");
            desk.requests.push(request.clone());
            desk.told.pop_front().unwrap_or(Reply::Book)
        };
        match reply {
            Reply::Book => answer(stream, 201, None, &book(desk, &request))?,
            Reply::Answer(status, header, body) => answer(stream, status, header, &body)?,
            Reply::Echo => {
                let said = request.header("authorization").to_owned();
                answer(stream, 200, Some(("x-echo", said.clone())), &format!("you said {said}"))?;
            }
            Reply::BookInSilence => {
                book(desk, &request);
                return wait_for_the_end(&mut input);
            }
            Reply::Silence => return wait_for_the_end(&mut input),
            Reply::HangUp => return Ok(()),
            Reply::Drip => return endless(stream, b"x", DRIP_EVERY),
            Reply::Flood => return endless(stream, &[b'x'; 64 << 10], Duration::ZERO),
        }
    }
    Ok(())
}

fn read(input: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let pair = |line: &String| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    let headers: Vec<_> = lines.iter().skip(1).filter_map(pair).collect();
    let mut request = Request { line: lines.swap_remove(0), headers, body: String::new() };
    let mut body = vec![0; request.header("content-length").parse().unwrap_or(0)];
    input.read_exact(&mut body)?;
    request.body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(request))
}

fn book(desk: &Mutex<Desk>, request: &Request) -> String {
    let mut desk = desk.lock().expect("a sound desk");
    let next = format!("AC{}", desk.parcels.len() + 1);
    let tracking = desk.parcels.entry(request.header("idempotency-key").to_owned()).or_insert(next);
    format!(r#"{{"carrier":"acme","tracking_number":"{tracking}","tracking_url":"https://acme.example/{tracking}"}}"#)
}

fn answer(mut stream: &TcpStream, status: u16, header: Option<(&str, String)>, body: &str) -> std::io::Result<()> {
    let header = header.map_or_else(String::new, |(name, value)| format!("{name}: {value}\r\n"));
    stream.write_all(format!("HTTP/1.1 {status} \r\n{header}content-length: {}\r\n\r\n{body}", body.len()).as_bytes())
}

fn wait_for_the_end(input: &mut impl Read) -> std::io::Result<()> {
    std::io::copy(input, &mut std::io::sink()).map(drop)
}

fn endless(mut stream: &TcpStream, piece: &[u8], pause: Duration) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
    loop {
        stream.write_all(piece)?;
        thread::sleep(pause);
    }
}
