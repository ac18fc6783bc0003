//! `fanfare lambda consumer NAME`: each event is some messages of the consumer's queue. Lambda deletes those that are done;
//! the answer names those that come back.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, bail};
use lambda_runtime::{LambdaEvent, service_fn};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::follow::Followed;
use super::{Error, Times, handling_max, rest};
use crate::app;
use crate::backend::Backend;
use crate::backend::aws::invoked::{Invoked, Message};
use crate::config::Config;
use crate::consumer::scan::plugin_path;
use crate::consumer::status::{Catalogue, State};
use crate::policy::ConsumerName;

/// A consumer, and the store that has its places.
pub struct Queue {
    name: ConsumerName,
    catalogue: Arc<dyn Catalogue>,
    followed: Followed,
    invoked: Invoked,
}

impl Queue {
    pub async fn open(
        config: &Config,
        backend: &Backend,
        invoked: Invoked,
        deliveries: &Handle,
        name: ConsumerName,
    ) -> Result<Self> {
        let file = plugin_path(&config.consumers_dir, &name);
        if !file.exists() {
            bail!("there is no consumer {name}: put its plugin at {}, or name another", file.display());
        }
        let directory = app::directory(config, backend, deliveries, Some(name.clone())).await?;
        let catalogue = directory.catalogue();
        let status = catalogue.list().into_iter().find(|status| status.name == name);
        match status {
            Some(status) if status.state == State::Running => {}
            Some(status) => bail!("the consumer {name} is {}: {}", status.state, status.reason.unwrap_or_default()),
            None => bail!("the consumer {name} was not taken up"),
        }
        deliveries.spawn(directory.run(CancellationToken::new()));
        invoked.ready().await;
        let followed = Followed::new(&*backend.fleet, Arc::clone(&catalogue));
        Ok(Self { name, catalogue, followed, invoked })
    }

    pub async fn run(self) -> Result<(), lambda_runtime::Error> {
        lambda_runtime::run(service_fn(|event| Box::pin(self.answer(event)))).await
    }

    async fn answer(&self, event: LambdaEvent<Value>) -> Result<Answer, Error> {
        let times = Times::of(&event.context);
        let messages = self.messages(event.payload)?;
        let until = times.until(handling_max(&*self.catalogue))?;
        self.invoked.wake().await?;
        self.followed.in_step(until.begin).await;
        if self.invoked.is_paused(&self.name) {
            tracing::info!(consumer = %self.name, messages = messages.len(), "the consumer is paused; its messages come again");
        }
        let done = self.invoked.hand_in(&self.name, &messages, until).await;
        rest(&self.invoked, times).await;
        let failures = messages.into_iter().zip(done).filter(|(_, done)| !done);
        let failures = failures.map(|(message, _)| Failure { item_identifier: message.id });
        Ok(Answer { batch_item_failures: failures.collect() })
    }

    fn messages(&self, event: Value) -> Result<Vec<Message>, Error> {
        let event: Event = serde_json::from_value(event).map_err(|error| Error::NotMessages(error.to_string()))?;
        if let Some(other) = event.records.iter().find(|record| record.event_source != SQS) {
            return Err(Error::NotMessages(format!("its records are of {}", other.event_source)));
        }
        let own = self.invoked.queue_arn(&self.name).unwrap_or_default();
        if let Some(other) = event.records.iter().find(|record| record.event_source_arn != own) {
            let other = other.event_source_arn.clone();
            return Err(Error::OtherQueue { name: self.name.clone(), own, other });
        }
        Ok(event.records.into_iter().map(Message::from).collect())
    }
}

const SQS: &str = "aws:sqs";

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "Records")]
    records: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    message_id: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    #[serde(default)]
    message_attributes: BTreeMap<String, Attribute>,
    event_source: String,
    #[serde(rename = "eventSourceARN")]
    event_source_arn: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attribute {
    string_value: Option<String>,
}

impl From<Record> for Message {
    fn from(record: Record) -> Self {
        let Record { message_id: id, body, mut attributes, message_attributes, .. } = record;
        let group = attributes.remove("MessageGroupId");
        let texts = message_attributes.into_iter().filter_map(|(name, value)| Some((name, value.string_value?)));
        Self { id, group, body, attributes: texts.collect() }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    batch_item_failures: Vec<Failure>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    item_identifier: String,
}
