//! HTTP by hand, for what no decent client sends.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longer than the host may wait for a body.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// One connection.
pub struct Wire {
    stream: TcpStream,
}

impl Wire {
    /// # Panics
    /// If nobody listens at `address`.
    #[must_use]
    pub fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_read_timeout(Some(SILENCE_MAX)).expect("a timeout");
        Self { stream }
    }

    /// Sends `bytes`; `false` if the host has hung up.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// What the host says until `enough` of it is there.
    ///
    /// # Panics
    /// If it hangs up or goes silent before.
    #[must_use]
    pub fn read_until(&mut self, enough: impl Fn(&str) -> bool) -> String {
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        loop {
            let text = String::from_utf8_lossy(&answer);
            if enough(&text) {
                return text.into_owned();
            }
            match self.stream.read(&mut part) {
                Ok(0) => panic!("the host hung up after {text:?}"),
                Ok(read) => answer.extend_from_slice(&part[..read]),
                Err(error) => panic!("the host fell silent ({error}) after {text:?}"),
            }
        }
    }

    /// Everything the host says until it hangs up; with a request that says `Connection: close`, or that is broken.
    ///
    /// # Panics
    /// If it goes on waiting.
    #[must_use]
    pub fn read_to_end(mut self) -> String {
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        loop {
            match self.stream.read(&mut part) {
                Ok(0) => break,
                Ok(read) => answer.extend_from_slice(&part[..read]),
                // What was sent and never read makes the end of a connection a reset.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("the host neither answers nor hangs up: {error}"),
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}
