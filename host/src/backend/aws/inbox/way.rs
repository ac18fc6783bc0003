//! The way of events to a consumer, from the topic into its queue: looked at where they do not come, and mended where this
//! host may.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::AwsInbox;
use crate::backend::aws::resources::{self, Queue};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(30);

const NOT_LOOKED_AT: &str = "the way of its events cannot be looked at";

#[derive(Debug, Default)]
pub struct Way {
    /// Where it is another than at the start.
    subscription_arn: Option<String>,
    /// Why the queue does not answer, while it does not.
    silent: Option<String>,
    /// What was wrong at the last look.
    wrong: Option<String>,
    looked: Option<Instant>,
}

impl Way {
    /// Whether it is looked at now.
    fn is_look_due(&mut self) -> bool {
        let due = self.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY);
        if due {
            self.looked = Some(Instant::now());
        }
        due
    }
}

impl AwsInbox {
    /// Why its events do not reach this host, or are not handled here, while that is so.
    pub fn cut_off(&self) -> Option<String> {
        if let Some(aside) = self.aside() {
            return Some(aside);
        }
        let way = self.way.lock();
        let why = way.wrong.as_ref().or(way.silent.as_ref())?;
        Some(format!("its events do not reach this host, or a minute late: {why}"))
    }

    pub fn subscription_arn(&self) -> String {
        self.way.lock().subscription_arn.as_ref().unwrap_or(&self.queue.subscription_arn).clone()
    }

    /// Whether the queue answers, or why not.
    pub(super) fn hear_of_queue(&self, silent: Option<&str>) {
        self.way.lock().silent = silent.map(str::to_owned);
    }

    /// What was wrong with the way is looked at again.
    pub fn look_at_wrong_way(self: &Arc<Self>) {
        if self.way.lock().wrong.is_some() {
            self.look_at_way();
        }
    }

    /// Looks whether queue and subscription are as they should be, on its own and not all the time.
    pub fn look_at_way(self: &Arc<Self>) {
        if self.handed.is_some() || !self.way.lock().is_look_due() {
            return;
        }
        let inbox = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = inbox.ending.cancelled() => {}
                () = inbox.mend_way() => {}
            }
        });
    }

    async fn mend_way(&self) {
        let AwsInbox { store, name, .. } = self;
        match store.known_as(name).await {
            Ok(Some(known)) => {
                let (clients, settings, shared) = (&store.clients, &store.settings, &store.shared);
                let hears = known.last_heard();
                self.looked_at_way(resources::ensure_consumer(clients, settings, shared, name, hears).await);
            }
            // It was forgotten: its queue is to be gone.
            Ok(None) => {}
            Err(error) => tracing::debug!(consumer = %name, %error, "{NOT_LOOKED_AT}"),
        }
    }

    fn looked_at_way(&self, found: Result<Queue, resources::Error>) {
        let mut way = self.way.lock();
        match found {
            Ok(queue) => {
                way.subscription_arn = Some(queue.subscription_arn);
                if way.wrong.take().is_some() {
                    tracing::info!(consumer = %self.name, "its queue and subscription are as they should be again");
                }
            }
            // That AWS does not answer says nothing of the way.
            Err(resources::Error::Open(error)) => {
                tracing::debug!(consumer = %self.name, %error, "the way of its events cannot be looked at")
            }
            Err(error) => {
                let wrong = error.to_string();
                if way.wrong.as_ref() != Some(&wrong) {
                    tracing::warn!(consumer = %self.name, %error, "its events come from the journal, a minute late");
                }
                way.wrong = Some(wrong);
            }
        }
    }
}
