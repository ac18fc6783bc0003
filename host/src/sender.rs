//! Sends what consumers staged: e-mail into a folder or to an SMTP server.
//!
//! Messages are rows of the transactions that staged them; the sender takes what is due, tries, and records what
//! became of each. A crash between a try and its record repeats the try, with the same Message-ID, which lets the
//! receiver drop the second copy.
//!
//! | what happened | what is recorded |
//! |---|---|
//! | taken by the server, or written to the folder | sent |
//! | refused for good (5xx), an address that is none, an SMS (no transport for it yet) | failed |
//! | refused for now (4xx), wrong login, no connection, full disk | again, later and later, for three days |
//! | still no success after three days | failed; unknown if the last connection broke off in the middle |
//!
//! With mail turned off nothing is taken, and messages wait as pending.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::backend::{MessageState, Outgoing, Parcel, ParcelId, Sending};
use crate::config::{Mail, Transport};
use crate::effects::Message;
use crate::fault::{self, Point};
use crate::telemetry::meters;

mod compose;
mod folder;
mod smtp;

use compose::Composer;

/// Taken from the store at once: enough to keep every connection busy, little to repeat after a crash.
const BATCH: usize = 256;
/// A slow server must not keep what was sent from being recorded.
const SETTLE_EVERY: Duration = Duration::from_secs(1);
/// Between tries to reach a store that does not answer.
const STORE_PAUSE: Duration = if cfg!(test) { Duration::from_millis(10) } else { Duration::from_secs(1) };

/// The transport that was configured cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the mail folder {folder} cannot be written: {error}; set mail.folder to one that can")]
    Folder { folder: String, error: std::io::Error },
    #[error("the mail server cannot be set up: {0}")]
    Smtp(#[from] lettre::transport::smtp::Error),
}

/// The running sender. Stop it before the store is closed.
#[must_use = "stop it, so that what was sent is recorded"]
pub struct Sender {
    stopping: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Sender {
    /// Starts sending on `runtime`; with mail turned off, nothing runs.
    ///
    /// # Errors
    /// [`Error`] where the transport cannot be used at all.
    pub fn start(outgoing: Arc<dyn Outgoing>, mail: &Mail, runtime: &Handle) -> Result<Self, Error> {
        let stopping = CancellationToken::new();
        let carrier = match &mail.transport {
            Transport::Off => return Ok(Self { stopping, task: None }),
            Transport::Folder(folder) => Carrier::Folder(folder::Folder::open(folder)?),
            Transport::Smtp(smtp) => {
                // The pool of connections keeps house on the runtime that it is made on.
                let _runtime = runtime.enter();
                Carrier::Smtp(smtp::Server::new(smtp, mail.concurrency)?)
            }
        };
        let round = Round {
            outgoing,
            carrier,
            composer: Composer::new(mail.from.clone()),
            concurrency: mail.concurrency.get(),
            every: mail.rate.map_or(Duration::ZERO, |per_second| Duration::from_secs(1) / per_second.get()),
            stopping: stopping.clone(),
        };
        Ok(Self { stopping, task: Some(runtime.spawn(round.run())) })
    }

    /// Starts no more messages, and returns when those on their way are recorded.
    pub async fn stop(self) {
        self.stopping.cancel();
        if let Some(task) = self.task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the sender of messages ended in disorder");
        }
    }
}

enum Carrier {
    Folder(folder::Folder),
    Smtp(smtp::Server),
}

struct Round {
    outgoing: Arc<dyn Outgoing>,
    carrier: Carrier,
    composer: Composer,
    concurrency: usize,
    /// Least time between two starts.
    every: Duration,
    stopping: CancellationToken,
}

impl Round {
    async fn run(self) {
        // Kept from one lot to the next: under a rate, most lots are of one message.
        let mut start_at = Instant::now();
        while !self.stopping.is_cancelled() {
            let due = tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                due = self.outgoing.due(BATCH) => due,
            };
            match due {
                Ok(parcels) => self.send_all(parcels, &mut start_at).await,
                Err(error) => {
                    tracing::warn!(%error, "messages cannot be read from the store; trying again");
                    self.pause().await;
                }
            }
        }
    }

    /// `start_at` is when the next message may start.
    async fn send_all(&self, parcels: Vec<Parcel>, start_at: &mut Instant) {
        fault::pass(Point::MessageDue);
        let mut waiting = parcels.into_iter();
        let mut running = FuturesUnordered::new();
        let mut sent = Vec::new();
        let mut settle_at = Instant::now() + SETTLE_EVERY;
        loop {
            let stopping = self.stopping.is_cancelled();
            let may_start = !stopping && waiting.len() > 0 && running.len() < self.concurrency;
            tokio::select! {
                () = sleep_until(*start_at), if may_start => {
                    *start_at = (*start_at).max(Instant::now()) + self.every;
                    running.extend(waiting.next().map(|parcel| self.send(parcel)));
                }
                () = self.stopping.cancelled(), if !stopping => {}
                Some(one) = running.next(), if !running.is_empty() => sent.push(one),
                () = sleep_until(settle_at), if !sent.is_empty() && (may_start || !running.is_empty()) => {
                    self.settle(std::mem::take(&mut sent)).await;
                    settle_at = Instant::now() + SETTLE_EVERY;
                }
                else => break,
            }
            if running.is_empty() && (waiting.len() == 0 || self.stopping.is_cancelled()) {
                break;
            }
        }
        if !sent.is_empty() {
            self.settle(sent).await;
        }
    }

    async fn send(&self, parcel: Parcel) -> (ParcelId, Sending) {
        let sending = match &parcel.message {
            Message::Sms { .. } => {
                Sending::Failed { error: "no transport for SMS is configured on this host".to_owned() }
            }
            Message::Email { .. } => match self.composer.compose(&parcel) {
                Err(error) => Sending::Failed { error },
                Ok(mail) => match &self.carrier {
                    Carrier::Folder(folder) => folder.write(&parcel, mail).await,
                    Carrier::Smtp(server) => server.send(&parcel, mail).await,
                },
            },
        };
        let state = match &sending {
            Sending::Sent => MessageState::Sent,
            Sending::Again { .. } => MessageState::Pending,
            Sending::Failed { .. } => MessageState::Failed,
            Sending::Unknown { .. } => MessageState::Unknown,
        };
        meters::message(state);
        if let Sending::Again { error, .. } | Sending::Failed { error } | Sending::Unknown { error } = &sending {
            tracing::warn!(message_id = parcel.message_id, attempt = parcel.attempts + 1, ?state, error, "not sent");
        }
        (parcel.id, sending)
    }

    /// Asks until the store takes it: forgetting what was sent would send it again.
    async fn settle(&self, sent: Vec<(ParcelId, Sending)>) {
        fault::pass(Point::MessageSent);
        while let Err(error) = self.outgoing.settle(sent.clone()).await {
            tracing::warn!(%error, messages = sent.len(), "what was sent cannot be recorded; trying again");
            if self.stopping.is_cancelled() {
                return;
            }
            self.pause().await;
        }
        fault::pass(Point::MessageSettled);
    }

    async fn pause(&self) {
        tokio::select! {
            () = self.stopping.cancelled() => {}
            () = sleep(STORE_PAUSE) => {}
        }
    }
}

#[cfg(test)]
mod tests;
