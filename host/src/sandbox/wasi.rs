//! WASI 0.2 with nothing in it: no arguments, environment, files or sockets; clocks and randomness; and stdout and stderr
//! that end, line by line, in the consumer's log. `http` has what goes out.

use std::io::{BufRead, Read};
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxView};
use wasmtime_wasi_http::WasiHttpCtxView;

use super::http::Http;
use super::state::State;
use crate::capability::{GuestLog, Level};

/// A guest that wants random bytes wants keys and seeds, not bulk data out of the host's memory.
const RANDOM_BYTES_MAX: u64 = 64 << 10;
/// What stdout accepts at once, and the longest line.
const CHUNK_BYTES_MAX: usize = 4 << 10;

pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)
}

/// The WASI side of one instance. Most handlers never touch it, so it is made at the first call.
#[derive(Default)]
pub struct Wasi(Option<Box<Side>>);

struct Side {
    ctx: WasiCtx,
    table: ResourceTable,
    http: Http,
}

impl Wasi {
    /// `handles_max` streams, pollables and the like may be there at once.
    pub fn view(&mut self, log: &Arc<GuestLog>, handles_max: usize) -> WasiCtxView<'_> {
        let Side { ctx, table, .. } = self.side(log, handles_max);
        WasiCtxView { ctx, table }
    }

    pub fn http(&mut self, log: &Arc<GuestLog>, handles_max: usize) -> WasiHttpCtxView<'_> {
        let Side { table, http: Http { ctx, hooks }, .. } = self.side(log, handles_max);
        WasiHttpCtxView { hooks, table, ctx }
    }

    /// The most handles that the instance ever held at once.
    pub fn handles(&mut self) -> usize {
        self.0.as_mut().map_or(0, |side| longest(&mut side.table))
    }

    fn side(&mut self, log: &Arc<GuestLog>, handles_max: usize) -> &mut Side {
        self.0.get_or_insert_with(|| Box::new(empty(log, handles_max)))
    }
}

fn empty(log: &Arc<GuestLog>, handles_max: usize) -> Side {
    let ctx = WasiCtx::builder()
        .max_random_size(RANDOM_BYTES_MAX)
        .stdout(Console { log: Arc::clone(log), stream: Stream::Out })
        .stderr(Console { log: Arc::clone(log), stream: Stream::Err })
        .build();
    let mut table = ResourceTable::new();
    table.set_max_capacity(handles_max);
    Side { ctx, table, http: Http::default() }
}

/// How long a table is: what is there, and what is free. As long as the most that was ever in it, for it fills what is free
/// first and never shrinks. It does not tell, but with no room to grow it takes as much as is free.
fn longest(table: &mut ResourceTable) -> usize {
    let (there, max) = (table.iter_mut().count(), table.max_capacity());
    table.set_max_capacity(0);
    let filled: Vec<_> = std::iter::from_fn(|| table.push(()).ok()).collect();
    table.set_max_capacity(max);
    let free = filled.len();
    for nothing in filled {
        drop(table.delete(nothing));
    }
    there + free
}

#[derive(Clone, Copy)]
enum Stream {
    Out,
    Err,
}

/// Where stdout or stderr of an instance goes.
struct Console {
    log: Arc<GuestLog>,
    stream: Stream,
}

impl IsTerminal for Console {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Console {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        // For WASI 0.3, which is not linked.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Lines { log: Arc::clone(&self.log), stream: self.stream, begun: Vec::new() })
    }
}

/// Cuts what is written into lines.
struct Lines {
    log: Arc<GuestLog>,
    stream: Stream,
    /// The line that has no end yet; at most [`CHUNK_BYTES_MAX`].
    begun: Vec<u8>,
}

impl Lines {
    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.begun);
        match self.stream {
            Stream::Out => self.log.write(Level::Info, &line),
            Stream::Err => self.log.write_stderr(&line),
        }
        self.begun.clear();
    }
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut rest = bytes.as_ref();
        while !rest.is_empty() {
            let room = CHUNK_BYTES_MAX.saturating_sub(self.begun.len());
            // From memory, which cannot fail.
            rest.by_ref()
                .take(room as u64)
                .read_until(b'\n', &mut self.begun)
                .map_err(|failed| StreamError::LastOperationFailed(failed.into()))?;
            if self.begun.pop_if(|last| *last == b'\n').is_some() || self.begun.len() >= CHUNK_BYTES_MAX {
                self.end_line();
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK_BYTES_MAX)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.begun.is_empty() {
            self.end_line();
        }
    }
}

#[async_trait::async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_tells_the_most_that_was_in_it_and_is_as_before() {
        let mut table = ResourceTable::new();
        table.set_max_capacity(4);
        assert_eq!(longest(&mut table), 0);
        let [one, two, three] = [1, 2, 3].map(|number| table.push(number).unwrap());
        table.delete(two).unwrap();
        table.delete(one).unwrap();
        assert_eq!((longest(&mut table), longest(&mut table)), (3, 3));
        assert_eq!(table.get(&three).unwrap(), &3);
        let more = (0..3).filter(|number| table.push(*number).is_ok()).count();
        assert_eq!((more, longest(&mut table), table.push(9).is_ok()), (3, 4, false));
    }

    #[test]
    fn a_line_without_an_end_is_ended_where_lines_end() {
        let log = Arc::new(GuestLog::new(None, usize::MAX));
        let mut lines = Lines { log: Arc::clone(&log), stream: Stream::Out, begun: Vec::new() };
        for _ in 0..30 {
            lines.write(Bytes::from(vec![b'a'; 1 << 10])).unwrap();
            assert!(lines.begun.capacity() <= 2 * CHUNK_BYTES_MAX);
        }
        let kept = log.take_kept();
        assert!(kept.len() > 1 && kept.iter().all(|line| line.text.len() <= CHUNK_BYTES_MAX), "{} lines", kept.len());
    }

    #[test]
    fn lines_are_cut_at_their_ends_however_they_are_written() {
        let log = Arc::new(GuestLog::new(None, usize::MAX));
        for piece in [1, 2, 3, 7, 100] {
            let mut lines = Lines { log: Arc::clone(&log), stream: Stream::Out, begun: Vec::new() };
            for written in b"one\n\ntwo\nthree".chunks(piece) {
                lines.write(Bytes::from_static(written)).unwrap();
            }
            drop(lines);
            let kept: Vec<String> = log.take_kept().into_iter().map(|line| line.text).collect();
            assert_eq!(kept, ["one", "", "two", "three"], "in pieces of {piece}");
        }
    }
}
