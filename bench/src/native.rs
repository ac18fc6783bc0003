//! The baseline: what a shop could write by hand for one mode, as fast as it goes, without a queue and without a sandbox.
//!
//! ```text
//! POST /v1/orders ──► read, check, do what every consumer does ──► one thread: one transaction, one fsync ──► 201
//! ```
//!
//! It answers an order when the order *and all that becomes of it* is on disk: order, idempotency record, events with the
//! order's steps, entries, counters, messages, records and the consumers' positions, in the host's own tables and with the
//! host's settings of SQLite. As in the host, whatever waits is one transaction, and a counter that many orders move is
//! written once a batch.
//!
//! What the consumers do is written by hand on the host's own types: the SDK's copies of every event would take a fifth of
//! the time. `agree` holds it against the guests, effect by effect, before anything is measured.
//!
//! It leaves out what makes Fanfare more than that: no retries, no dead letters, no limits, no timeline, nothing that can be
//! changed while it runs. A shortage or a taken reference, which the load never meets, ends it.

pub mod agree;
mod checkpoint;
mod counters;
mod fanout;
mod front;
mod journey;
mod letter;
mod rows;
mod staged;
mod store;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use fanfare::order::Line;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::mode::Mode;
use staged::Stage;

/// All prices of the load are in EUR.
const MINOR_PER_MAJOR: i64 = 100;

/// Takes orders as a process of its own, until it is told to end.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Whose work to do: `fanout` or `journey`.
    #[arg(long, value_parser = Mode::named)]
    mode: &'static Mode,
    #[arg(long)]
    listen: SocketAddr,
    /// Folder for its store, which must not be there yet.
    #[arg(long)]
    data_dir: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { mode, listen, data_dir } = arguments;
    let queue = Arc::default();
    // As long as the orders that wait for an answer, which the connections bound.
    let (settled, settling) = mpsc::unbounded_channel();
    let writer = store::start(mode, data_dir, Arc::clone(&queue), settled)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().thread_name("http").enable_all().build()?;
    runtime.spawn(store::answer(settling));
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        tokio::select! {
            served = front::serve(listener, stage(mode), Arc::clone(&queue)) => served,
            _ = terminate.recv() => Ok(()),
        }
    })?;
    queue.close();
    writer.join().map_err(|_| anyhow!("the thread that writes has panicked"))?
}

fn stage(mode: &Mode) -> Stage {
    if mode.shipped { journey::stage } else { fanout::stage }
}

/// What the customer pays for a line, in minor units.
fn line_amount(line: &Line) -> i64 {
    i64::from(line.quantity) * line.unit_amount - line.discount_amount
}
