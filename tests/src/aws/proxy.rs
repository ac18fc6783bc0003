//! A proxy that does to each request what it is told, and gives messages in no other order than SQS promises.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Error, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use ureq::Agent;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Request};

use super::bill::Bill;
use super::call::{Call, Refusal};
use super::disorder::{Disorder, asking_for_groups};
use super::half::Half;

/// No emulator answers more.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Below the 5 s after which LocalStack ends a connection: what goes over one that is about to end is lost.
const IDLE_MAX: Duration = Duration::from_secs(2);

/// As many connections as hosts have of their own, and more.
const IDLE_COUNT_MAX: usize = 256;

/// What a connection says about itself, and not about what goes over it.
const HOP_BY_HOP: [&str; 5] = ["connection", "keep-alive", "transfer-encoding", "content-length", "expect"];

/// What becomes of one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// None: it goes to the emulator, and its answer back.
    Pass,
    /// As [`Fault::Pass`], after a while.
    Delay(Duration),
    /// The connection ends before the emulator hears of it.
    HangUp,
    /// The emulator does it, and the connection ends before anybody hears of that.
    LoseAnswer,
    /// The connection ends at once, and the emulator hears of it only after a while: behind what is asked again, and what
    /// is asked then.
    ArriveLate(Duration),
    /// An error of the service's own, with this status.
    Fail(u16),
    /// Too many requests.
    Throttle,
    /// An error with this status and the service's code for it.
    Refuse(u16, &'static str),
    /// A page of something that is not the service, with this status.
    Page(u16),
    /// The emulator is not asked, and the answer says that nothing is there.
    Nothing,
    /// Of a batch, the emulator gets every second entry; the others are refused with this code.
    RefuseHalf(&'static str),
}

/// Listens on a port of its own, over HTTP/1.1, and ends with the test.
pub struct FaultProxy {
    address: SocketAddr,
    desk: Arc<Desk>,
}

struct Desk {
    upstream: String,
    agent: Agent,
    state: Mutex<State>,
}

struct State {
    choose: Choice,
    bill: Bill,
    /// The connections that are open now, by a number of their own.
    open: BTreeMap<u64, TcpStream>,
    opened: u64,
    meters: bool,
    /// Requests that came late and were answered to nobody.
    arrived_late: u64,
    disorder: Disorder,
}

type Choice = Box<dyn FnMut(&Call) -> Fault + Send>;

impl FaultProxy {
    /// Before the emulator at `upstream`, `http://127.0.0.1:4566`; lets everything pass until it is told otherwise.
    ///
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn before(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let config = Agent::config_builder().http_status_as_error(false).max_redirects(0).proxy(None);
        let config = config.max_idle_age(IDLE_MAX).max_idle_connections(IDLE_COUNT_MAX);
        let config = config.max_idle_connections_per_host(IDLE_COUNT_MAX);
        let choose: Choice = Box::new(|_| Fault::Pass);
        let desk = Arc::new(Desk {
            upstream: upstream.trim_end_matches('/').to_owned(),
            agent: config.build().into(),
            state: Mutex::new(State {
                choose,
                bill: Bill::default(),
                open: BTreeMap::new(),
                opened: 0,
                meters: false,
                arrived_late: 0,
                disorder: Disorder::new(address.port().into()),
            }),
        });
        let shared = Arc::clone(&desk);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let desk = Arc::clone(&shared);
                thread::spawn(move || {
                    let Ok(number) = desk.open(&connection) else { return };
                    // A host that hangs up in between, or is killed, is none of the proxy's concern.
                    desk.serve(&connection).ok();
                    desk.state().open.remove(&number);
                });
            }
        });
        Self { address, desk }
    }

    /// `http://127.0.0.1:40000`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same for every request from now on.
    pub fn tell(&self, fault: Fault) {
        self.choose(move |_| fault.clone());
    }

    /// Asks `choose` about every request from now on, one after another.
    pub fn choose(&self, choose: impl FnMut(&Call) -> Fault + Send + 'static) {
        self.desk.state().choose = Box::new(choose);
    }

    /// Ends every connection that is open, whatever goes on there. New ones are taken.
    pub fn cut(&self) {
        for connection in self.desk.state().open.values() {
            // It may have ended by itself.
            connection.shutdown(Shutdown::Both).ok();
        }
    }

    /// Asks DynamoDB for the units of each request from now on, where its sender did not, so that they are on the bill.
    pub fn meter(&self) {
        self.desk.state().meters = true;
    }

    /// How many requests have arrived late, and are done.
    #[must_use]
    pub fn arrived_late(&self) -> u64 {
        self.desk.state().arrived_late
    }

    /// Draws the order of messages from `seed` from now on.
    pub fn seed(&self, seed: u64) {
        self.desk.state().disorder = Disorder::new(seed);
    }

    /// Answers whose messages came in another order than the emulator gave them, and messages that came again.
    #[must_use]
    pub fn disordered(&self) -> (u64, u64) {
        let state = self.desk.state();
        (state.disorder.disordered, state.disorder.repeated)
    }

    /// What was asked since the start or the last [`FaultProxy::take_bill`].
    #[must_use]
    pub fn bill(&self) -> Bill {
        self.desk.state().bill.clone()
    }

    /// [`FaultProxy::bill`], and begins a new one.
    #[must_use]
    pub fn take_bill(&self) -> Bill {
        std::mem::take(&mut self.desk.state().bill)
    }
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a sound desk")
    }

    fn open(&self, connection: &TcpStream) -> std::io::Result<u64> {
        connection.set_nodelay(true)?;
        let copy = connection.try_clone()?;
        let mut state = self.state();
        state.opened += 1;
        let number = state.opened;
        state.open.insert(number, copy);
        Ok(number)
    }

    fn serve(self: &Arc<Self>, connection: &TcpStream) -> std::io::Result<()> {
        let mut input = BufReader::new(connection);
        while let Some(request) = read(&mut input, connection)? {
            let call = Call::new(request.headers(), request.body());
            let fault = {
                let mut state = self.state();
                state.bill.asked(&call);
                (state.choose)(&call)
            };
            match fault {
                Fault::Pass => self.pass(connection, &call, request)?,
                Fault::Delay(delay) => {
                    thread::sleep(delay);
                    self.pass(connection, &call, request)?;
                }
                Fault::HangUp => return connection.shutdown(Shutdown::Both),
                Fault::LoseAnswer => {
                    self.ask(&call, request)?;
                    return connection.shutdown(Shutdown::Both);
                }
                Fault::ArriveLate(delay) => {
                    let desk = Arc::clone(self);
                    thread::spawn(move || {
                        thread::sleep(delay);
                        // Nobody waits for the answer.
                        desk.ask(&call, request).ok();
                        desk.state().arrived_late += 1;
                    });
                    return connection.shutdown(Shutdown::Both);
                }
                Fault::Fail(status) => refuse(connection, call.fail(status))?,
                Fault::Throttle => refuse(connection, call.throttle())?,
                Fault::Refuse(status, code) => refuse(connection, call.refuse(status, code))?,
                Fault::Page(status) => refuse(connection, Refusal::page(status))?,
                Fault::Nothing => refuse(connection, call.nothing())?,
                Fault::RefuseHalf(code) => {
                    let (mut request, half) = (request, Half::of(&call, code));
                    *request.body_mut() = half.body.clone().into_bytes();
                    let (status, headers, body) = self.ask(&call, request)?;
                    write(connection, status, &headers, half.answer(&call, &body).as_bytes())?;
                }
            }
        }
        Ok(())
    }

    fn pass(&self, connection: &TcpStream, call: &Call, request: Request<Vec<u8>>) -> std::io::Result<()> {
        let (status, headers, body) = self.ask(call, request)?;
        write(connection, status, &headers, &body)
    }

    fn ask(&self, call: &Call, request: Request<Vec<u8>>) -> std::io::Result<(u16, HeaderMap, Vec<u8>)> {
        let (mut parts, mut body) = request.into_parts();
        if self.state().meters
            && let Some(metered) = call.metered()
        {
            body = metered.into_bytes();
        }
        if let Some(asking) = asking_for_groups(call) {
            body = asking.into_bytes();
        }
        parts.uri = format!("{}{}", self.upstream, parts.uri).parse().map_err(Error::other)?;
        strip(&mut parts.headers);
        // LocalStack ends a connection after each answer otherwise.
        parts.headers.insert("connection", HeaderValue::from_static("keep-alive"));
        let answer = self.agent.run(Request::from_parts(parts, body)).map_err(Error::other)?;
        let (mut parts, mut body) = answer.into_parts();
        let body = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(Error::other)?;
        strip(&mut parts.headers);
        let mut state = self.state();
        state.bill.answered(call, &body);
        let disordered = parts.status.is_success().then(|| state.disorder.of(call, &body)).flatten();
        Ok((parts.status.as_u16(), parts.headers, disordered.unwrap_or(body)))
    }
}

/// `None` where the connection ended instead.
pub(crate) fn read(input: &mut impl BufRead, mut output: impl Write) -> std::io::Result<Option<Request<Vec<u8>>>> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let mut request = Request::builder().method(words.next().unwrap_or_default()).uri(words.next().unwrap_or_default());
    let (mut length, mut waits) = (0, false);
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let name: HeaderName = name.parse().map_err(Error::other)?;
        let value = HeaderValue::from_str(value.trim()).map_err(Error::other)?;
        match name.as_str() {
            "content-length" => length = value.to_str().unwrap_or_default().parse().map_err(Error::other)?,
            "expect" => waits = true,
            "transfer-encoding" => return Err(Error::other("a body whose length is not said")),
            _ => {}
        }
        request = request.header(name, value);
    }
    if waits {
        output.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    request.body(body).map(Some).map_err(Error::other)
}

fn refuse(connection: &TcpStream, refusal: Refusal) -> std::io::Result<()> {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static(refusal.content_type));
    if let Some(error) = refusal.query_error {
        headers.insert("x-amzn-query-error", error.parse().map_err(Error::other)?);
    }
    write(connection, refusal.status, &headers, refusal.body.as_bytes())
}

pub(crate) fn write(mut output: impl Write, status: u16, headers: &HeaderMap, body: &[u8]) -> std::io::Result<()> {
    let mut answer = format!("HTTP/1.1 {status} \r\ncontent-length: {}\r\n", body.len()).into_bytes();
    for (name, value) in headers {
        answer.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    answer.extend_from_slice(b"\r\n");
    answer.extend_from_slice(body);
    output.write_all(&answer)
}

fn strip(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests;
