//! What the host tells about itself: the log on standard error, and the meters behind `/metrics`.

use std::io::{self, IsTerminal as _, Write};

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

pub mod meters;

/// The log could not be started: something else in this process took it first.
#[derive(Debug, thiserror::Error)]
#[error("the log is already set up: {0}")]
pub struct Taken(String);

/// Starts the log of this process, once.
///
/// # Errors
/// [`Taken`] where it was started before.
pub fn start_log(log: &Log) -> Result<(), Taken> {
    let filter = EnvFilter::builder().parse_lossy(&log.level);
    // A log that cannot be written (it may be on the disk that is full) is lost. The library would tell standard error of
    // it, which is the same file, and panic.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| OneLine(io::stderr()))
        .log_internal_errors(false);
    let started = match log.format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Taken(error.to_string()))
}

/// Each event, which the library writes at once, is one line and steers no terminal: texts in it may be a guest's, or those of a
/// file's name. Escapes of the library's own are colours; it shows those in texts itself.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        const ESCAPE: u8 = 0x1b;
        let obeyed = |byte: &u8| byte.is_ascii_control() && *byte != ESCAPE;
        let (text, end) = event.split_at(event.strip_suffix(b"\n").unwrap_or(event).len());
        if !text.iter().any(obeyed) {
            self.0.write_all(event)?;
            return Ok(event.len());
        }
        // At once, or an event of another thread could come between.
        let mut shown = Vec::with_capacity(event.len() + 64);
        for byte in text {
            if obeyed(byte) { shown.extend(byte.escape_ascii()) } else { shown.push(*byte) }
        }
        shown.extend_from_slice(end);
        self.0.write_all(&shown)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let mut log = OneLine(Vec::new());
        for event in ["\u{1b}[33mWARN\u{1b}[0m file=a\r\n2026 ERROR b.wasm\u{0}\tc\n", "Grüße\n", ""] {
            log.write_all(event.as_bytes()).unwrap();
        }
        let shown = "\u{1b}[33mWARN\u{1b}[0m file=a\\r\\n2026 ERROR b.wasm\\x00\\tc\nGrüße\n";
        assert_eq!(String::from_utf8(log.0).unwrap(), shown);
    }
}
