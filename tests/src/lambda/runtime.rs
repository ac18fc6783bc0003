//! The Runtime API of AWS Lambda, version 2018-06-01: where a function's process asks for events and answers them.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use ureq::http::{HeaderMap, HeaderValue, Request};

use crate::aws::proxy::{read, write};

const BASE: &str = "/2018-06-01/runtime";

/// One execution environment's own: it is asked by one process at a time.
pub struct RuntimeApi {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The next event.
    event: Option<Event>,
    /// How many were asked for and did not come yet.
    asking: u32,
    outcomes: BTreeMap<String, Result<Value, Value>>,
    failed_to_start: Option<Value>,
    invocations: u32,
    /// Raised when the process is gone: who asked before is nobody now.
    process: u32,
}

struct Event {
    id: String,
    body: Vec<u8>,
    deadline_ms: u128,
}

impl RuntimeApi {
    pub fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Shared>::default();
        let of = Arc::clone(&shared);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let shared = Arc::clone(&of);
                // A function that is killed in between is none of the API's concern.
                thread::spawn(move || shared.serve(&connection).ok());
            }
        });
        Self { address, shared }
    }

    /// `127.0.0.1:40000`
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Whether the process waits for an event.
    pub fn is_asked(&self) -> bool {
        self.shared.state().asking > 0
    }

    /// Hands the process an event, and says under which id.
    #[allow(
        clippy::disallowed_methods,
        reason = "the tests have no clock of the host's, and Lambda tells the time of day"
    )]
    pub fn invoke(&self, event: &Value, timeout: Duration) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        let mut state = self.shared.state();
        state.invocations += 1;
        let id = format!("00000000-0000-4000-8000-{:012}", state.invocations);
        let deadline_ms = (now + timeout).as_millis();
        state.event = Some(Event { id: id.clone(), body: event.to_string().into_bytes(), deadline_ms });
        drop(state);
        self.shared.changed.notify_all();
        id
    }

    /// What became of an invocation, once.
    pub fn outcome(&self, id: &str) -> Option<Result<Value, Value>> {
        self.shared.state().outcomes.remove(id)
    }

    /// Why the process could not start, if it said so.
    pub fn take_failure(&self) -> Option<Value> {
        self.shared.state().failed_to_start.take()
    }

    /// The process is gone.
    pub fn forget(&self) {
        let mut state = self.shared.state();
        (state.event, state.asking) = (None, 0);
        state.process += 1;
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a sound runtime API")
    }

    fn serve(&self, connection: &TcpStream) -> std::io::Result<()> {
        let mut input = BufReader::new(connection);
        while let Some(request) = read(&mut input, connection)? {
            let path = request.uri().path().strip_prefix(BASE).unwrap_or_default().to_owned();
            match path.split('/').skip(1).collect::<Vec<_>>()[..] {
                ["invocation", "next"] => self.next(connection)?,
                ["invocation", id, how @ ("response" | "error")] => {
                    let answer = said(&request);
                    let outcome = if how == "response" { Ok(answer) } else { Err(answer) };
                    self.state().outcomes.insert(id.to_owned(), outcome);
                    accepted(connection)?;
                }
                ["init", "error"] => {
                    self.state().failed_to_start = Some(said(&request));
                    accepted(connection)?;
                }
                _ => write(connection, 404, &HeaderMap::new(), b"")?,
            }
        }
        Ok(())
    }

    /// Answers when there is an event.
    fn next(&self, connection: impl Write) -> std::io::Result<()> {
        let mut state = self.state();
        let process = state.process;
        state.asking += 1;
        let event = loop {
            if state.process != process {
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
            if let Some(event) = state.event.take() {
                break event;
            }
            state = self.changed.wait(state).expect("a sound runtime API");
        };
        state.asking -= 1;
        drop(state);
        let mut headers = HeaderMap::new();
        let mut say = |name: &'static str, value: &str| {
            headers.insert(name, HeaderValue::from_str(value).expect("a header"));
        };
        say("content-type", "application/json");
        say("lambda-runtime-aws-request-id", &event.id);
        say("lambda-runtime-deadline-ms", &event.deadline_ms.to_string());
        say("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-central-1:000000000000:function:fanfare");
        say("lambda-runtime-trace-id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0");
        write(connection, 200, &headers, &event.body)
    }
}

fn said(request: &Request<Vec<u8>>) -> Value {
    serde_json::from_slice(request.body()).expect("a function answers in JSON")
}

fn accepted(connection: impl Write) -> std::io::Result<()> {
    write(connection, 202, &HeaderMap::new(), b"{\"status\":\"OK\"}")
}
