//! `fanfare lambda worker`: whatever it is invoked with, it does what has to go on while functions stand still. Invoked every
//! minute, it makes good within about that time what a killed function left, and retries no later than that. A backfill or a
//! rebuild goes on for as long as each invocation has time, and from one to the next.

use std::sync::Arc;

use anyhow::{Result, ensure};
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use super::follow::Followed;
use super::{Error, Times, handling_max, rest};
use crate::app;
use crate::backend::Backend;
use crate::backend::aws::invoked::Invoked;
use crate::config::{Config, Mail, Transport};
use crate::consumer::status::{Catalogue, State};
use crate::sender::Sender;

/// All consumers, the sender, and the store.
pub struct Worker {
    backend: Backend,
    invoked: Invoked,
    catalogue: Arc<dyn Catalogue>,
    followed: Followed,
    mail: Mail,
    deliveries: Handle,
}

impl Worker {
    pub async fn open(config: &Config, backend: Backend, invoked: Invoked, deliveries: &Handle) -> Result<Self> {
        let folder = &config.consumers_dir;
        ensure!(
            folder.is_dir(),
            "there is no folder {}: put the plugins of all consumers there, or name the folder that has them with \
             consumers_dir (FANFARE_CONSUMERS_DIR)",
            folder.display()
        );
        let directory = app::directory(config, &backend, deliveries, None).await?;
        let catalogue = directory.catalogue();
        for status in catalogue.list().iter().filter(|status| status.state != State::Running) {
            let reason = status.reason.as_deref().unwrap_or_default();
            tracing::warn!(consumer = %status.name, state = %status.state, reason, "nothing is retried for a consumer that does not run here");
        }
        deliveries.spawn(directory.run(CancellationToken::new()));
        invoked.ready().await;
        let (mail, followed) = (lasting(config), Followed::new(&*backend.fleet, Arc::clone(&catalogue)));
        Ok(Self { backend, invoked, catalogue, followed, mail, deliveries: deliveries.clone() })
    }

    pub async fn run(self) -> Result<(), lambda_runtime::Error> {
        lambda_runtime::run(service_fn(|event| Box::pin(self.answer(event)))).await
    }

    /// Answers as a stream or a queue that invokes it understands: everything may go on.
    async fn answer(&self, event: LambdaEvent<Value>) -> Result<Value, Error> {
        let times = Times::of(&event.context);
        let until = times.until(handling_max(&*self.catalogue))?;
        self.invoked.wake().await?;
        self.followed.in_step(until.begin).await;
        let sender = Sender::start(Arc::clone(&self.backend.outgoing), &self.mail, &self.deliveries)?;
        let sends = !matches!(self.mail.transport, Transport::Off);
        Box::pin(self.invoked.make_up(until, sends)).await;
        if timeout_at(times.end, sender.stop()).await.is_err() {
            tracing::warn!("a message is still on its way; it is sent again unless that succeeds");
        }
        rest(&self.invoked, times).await;
        Ok(json!({ "batchItemFailures": [] }))
    }
}

/// How messages leave. A folder of the function's own goes with it, and messages that were sent there would be lost.
fn lasting(config: &Config) -> Mail {
    let mut mail = config.mail.clone();
    if matches!(&mail.transport, Transport::Folder(folder) if folder.starts_with(&config.data_dir)) {
        tracing::warn!(
            "messages stay pending: set mail.transport to smtp, or mail.folder to one that outlives the function"
        );
        mail.transport = Transport::Off;
    }
    mail
}
