//! As much of HTTP/1.1 as this needs: one request after another on a connection that stays open, answers with a length.
//!
//! A client for everybody would take as much of the shared cores as the host; this one copies bytes.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Room for the answer to an order, so that one read is enough.
const ANSWER_BYTES: usize = 8 << 10;

/// More than any page of a list.
const ANSWER_BYTES_MAX: usize = 64 << 20;

pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    bytes: usize,
    body_bytes: usize,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::with_capacity(ANSWER_BYTES) })
    }

    /// Sends a whole request and waits for its whole answer.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.stream.write_all(request).await.context("the host does not take the request")?;
        self.received.clear();
        let mut head = None;
        loop {
            self.received.reserve(ANSWER_BYTES);
            let read = self.stream.read_buf(&mut self.received).await.context("the host does not answer")?;
            ensure!(read > 0, "the host closed the connection instead of answering");
            if head.is_none() {
                head = read_head(&self.received)?;
            }
            let Some(Head { status, bytes, body_bytes }) = head else {
                ensure!(self.received.len() <= ANSWER_BYTES_MAX, "the head of the answer has no end");
                continue;
            };
            if self.received.len() >= bytes + body_bytes {
                let body = self.received.get(bytes..).unwrap_or_default();
                ensure!(body.len() == body_bytes, "the host sent more than its answer");
                return Ok(Answer { status, body });
            }
        }
    }
}

/// `None` while the head is not complete.
fn read_head(received: &[u8]) -> Result<Option<Head>> {
    const END: &[u8] = b"\r\n\r\n";
    let Some(end) = received.windows(END.len()).position(|bytes| bytes == END) else { return Ok(None) };
    let text = std::str::from_utf8(received.get(..end).unwrap_or_default()).context("the head is not text")?;
    let mut lines = text.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let Some(status) = status else { bail!("not an answer in HTTP/1.1: {status_line}") };
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            let body_bytes: usize = value.trim().parse().with_context(|| format!("not a length: {value}"))?;
            ensure!(body_bytes <= ANSWER_BYTES_MAX, "an answer of {body_bytes} bytes");
            return Ok(Some(Head { status, bytes: end + END.len(), body_bytes }));
        }
    }
    bail!("an answer without Content-Length: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_status_and_lengths_however_it_is_spelled() {
        let head = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\nCONTENT-LENGTH: 12\r\n\r\n{";
        let expected = Head { status: 201, bytes: head.len() - 1, body_bytes: 12 };
        assert_eq!(read_head(head).unwrap(), Some(expected));
    }

    #[test]
    fn half_a_head_waits_for_the_rest() {
        assert_eq!(read_head(b"HTTP/1.1 201 Created\r\nContent-Length: 12\r\n").unwrap(), None);
    }

    #[test]
    fn an_answer_of_unknown_length_is_refused() {
        assert!(read_head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
