//! Topic, queues, subscriptions and table: what they should be, what they are, and the way from one to the other.
//!
//! ```text
//!                    ┌─► queue PREFIX-inventory.fifo ─► (after 1,000 times) PREFIX-inventory-dead.fifo
//!  PREFIX.fifo ──────┼─► queue PREFIX-shipment.fifo  ─► …          by kind of event, see `filter`
//!  (topic)           └─► …
//!  PREFIX (table)
//! ```
//!
//! **Invariants**
//! - What differs is a [`Plan`] before anything is done about it: a host that may not change anything tells all of it,
//!   `fanfare provision --plan` shows it, and the others do it.
//! - ARNs and addresses of queues come from answers.
//! - A queue lets the topic send before it is subscribed.

mod consumer;
mod filter;
pub mod names;
mod plan;
mod queue;
mod settle;
mod shared;
mod subscription;
mod table;
#[cfg(test)]
mod template;
#[cfg(test)]
mod tests;
mod topic;

use std::collections::BTreeMap;

use super::clients::{Clients, OpenError};
use super::settings::{Settings, TopicKind};
use crate::event::Subscriptions;
use crate::policy::ConsumerName;
use consumer::ConsumerSite;
use settle::{Site as _, settle};
use shared::SharedSite;
use subscription::Passing;

pub use plan::{Change, Plan, Resource, Setting, Step};
pub use queue::{KEPT, POLL_MAX, VISIBILITY};

/// What all hosts and consumers of a shop have in common.
#[derive(Clone, Debug)]
pub struct Shared {
    pub table: String,
    /// Which table of that name it is; `None` where the service does not say.
    pub table_id: Option<String>,
    pub topic_arn: String,
    pub kind: TopicKind,
}

/// What one consumer hears from.
#[derive(Clone, Debug)]
pub struct Queue {
    pub url: String,
    pub arn: String,
    pub dead_url: String,
    pub subscription_arn: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The host may not change anything, and cannot work like this.
    #[error(
        "not everything at AWS is in {region} as this host needs it:\n{plan}\nRun `fanfare provision`, let hosts do it with \
         aws.provision = true (FANFARE_AWS_PROVISION), or do it by hand, as deploy/cloudformation.yaml does"
    )]
    Missing { region: String, plan: Plan },
    #[error(
        "the topic {topic} has all the subscriptions that a FIFO topic takes (100): forget a consumer that is gone \
         (fanfare consumers forget NAME), or set aws.topic = \"standard\""
    )]
    TooManyConsumers { topic: String },
    /// What no host may mend, since data hangs on it.
    #[error("{what}")]
    Unmendable { what: String },
    #[error("AWS has not done this after {} minutes: {what}. Start again later", settle::SETTLED_MAX.as_secs() / 60)]
    Slow { what: String },
}

/// Table and topic, as they should be.
///
/// # Errors
/// [`Error::Missing`] without `settings.provision`, where they are not.
pub async fn ensure(clients: &Clients, settings: &Settings) -> Result<Shared, Error> {
    let site = SharedSite::new(clients, settings, settings.provision);
    let found = settle(&site, settings.provision).await?;
    let topic = found.topic.ok_or_else(|| lost("topic"))?;
    let table_id = found.table.and_then(|table| table.id);
    Ok(Shared { table: site.table, table_id, topic_arn: topic.arn, kind: settings.topic })
}

/// The consumer's queue, as it should be, subscribed to the kinds of events that `hears`. Where that is not known yet, a filter
/// that is there stays, and a subscription that is made lets everything through.
///
/// # Errors
/// [`Error::Missing`] without `settings.provision`, where it is not; [`Error::TooManyConsumers`].
pub async fn ensure_consumer(
    clients: &Clients,
    settings: &Settings,
    shared: &Shared,
    name: &ConsumerName,
    hears: Option<&Subscriptions>,
) -> Result<Queue, Error> {
    let topic = Some(shared.topic_arn.as_str());
    let site = ConsumerSite::new(clients, settings, topic, name, hears.into(), settings.provision);
    let found = settle(&site, settings.provision).await?;
    let queue = found.queue.ok_or_else(|| lost("queue"))?;
    let dead = found.dead.ok_or_else(|| lost("dead-letter queue"))?;
    let subscription = found.subscription.ok_or_else(|| lost("subscription"))?;
    Ok(Queue { url: queue.url, arn: queue.arn, dead_url: dead.url, subscription_arn: subscription.arn })
}

/// Changes what SNS lets through to the queue after a consumer's subscriptions changed. A wider filter may take a
/// quarter of an hour until it is in force.
///
/// # Errors
/// [`Error::Missing`] without `settings.provision`, where SNS keeps back what the consumer hears.
pub async fn narrow(
    clients: &Clients,
    settings: &Settings,
    name: &ConsumerName,
    subscription_arn: &str,
    hears: &Subscriptions,
) -> Result<(), Error> {
    let on = consumer::subscription(settings, name);
    let found = subscription::look_at(clients, subscription_arn).await?;
    let plan = Plan { steps: subscription::compare(&on, &Some(hears).into(), found.as_ref()) };
    // Where the subscription is gone, `ensure_consumer` makes another.
    if !settings.provision || found.is_none() {
        return if plan.is_needed() { Err(missing(clients, plan)) } else { Ok(()) };
    }
    for step in &plan.steps {
        if let Change::Set { setting, .. } = &step.change {
            subscription::set(clients, subscription_arn, setting).await?;
            tracing::info!(%step, "provisioned");
        }
    }
    Ok(())
}

/// Deletes the queues of a consumer that is forgotten, and their subscription. Without `settings.provision` nothing is
/// deleted; what is returned then is for a person to do.
///
/// # Errors
/// Where a call fails.
pub async fn remove_consumer(
    clients: &Clients,
    settings: &Settings,
    shared: &Shared,
    name: &ConsumerName,
) -> Result<Plan, Error> {
    let topic = Some(shared.topic_arn.as_str());
    let site = ConsumerSite::new(clients, settings, topic, name, Passing::Unknown, settings.provision);
    site.remove(settings.provision).await
}

/// Everything that [`provision`] would do, for these consumers too. What they hear need not be known.
///
/// # Errors
/// Where a call fails, or something is there that nothing here may change.
pub async fn plan(
    clients: &Clients,
    settings: &Settings,
    consumers: &[(ConsumerName, Option<Subscriptions>)],
) -> Result<Plan, Error> {
    let site = SharedSite::new(clients, settings, true);
    let found = site.look().await?;
    let mut plan = site.compare(&found)?;
    let topic = found.topic.as_ref().map(|topic| topic.arn.as_str());
    for (name, hears) in consumers {
        let site = ConsumerSite::new(clients, settings, topic, name, hears.as_ref().into(), true);
        plan.steps.extend(site.compare(&site.look().await?)?.steps);
    }
    Ok(plan)
}

/// Makes and mends table and topic, and what these consumers need, whatever `settings.provision` says.
///
/// # Errors
/// Where a call fails, or something is there that nothing here may change.
pub async fn provision(
    clients: &Clients,
    settings: &Settings,
    consumers: &[(ConsumerName, Option<Subscriptions>)],
) -> Result<(), Error> {
    let found = settle(&SharedSite::new(clients, settings, true), true).await?;
    let topic = found.topic.as_ref().map(|topic| topic.arn.as_str());
    for (name, hears) in consumers {
        settle(&ConsumerSite::new(clients, settings, topic, name, hears.as_ref().into(), true), true).await?;
    }
    Ok(())
}

type Attributes = BTreeMap<String, String>;
type Tags = BTreeMap<String, String>;

/// What is to be set so that `found` has all of `wanted`.
fn attribute_steps<'a>(
    on: &Resource,
    found: &Attributes,
    wanted: impl Iterator<Item = (&'a str, &'a str)>,
) -> Vec<Step> {
    let differs = |(name, value): (&str, &str)| {
        let shown = found.get(name);
        let setting = Setting::new(name, value);
        let step = || Step::needed(on.clone(), Change::Set { setting, found: shown.cloned() });
        shown.is_none_or(|shown| shown != value).then(step)
    };
    wanted.filter_map(differs).collect()
}

fn tag_steps(on: &Resource, found: Option<&Tags>, wanted: &[(&str, &str)]) -> Vec<Step> {
    let Some(found) = found else { return Vec::new() };
    let differs = |(name, value): &(&str, &str)| {
        let shown = found.get(*name);
        let tag = Setting::new(*name, *value);
        let step = || Step::useful(on.clone(), Change::Tag { tag, found: shown.cloned() });
        shown.is_none_or(|shown| shown != value).then(step)
    };
    wanted.iter().filter_map(differs).collect()
}

fn missing(clients: &Clients, plan: Plan) -> Error {
    Error::Missing { region: clients.region.clone(), plan }
}

/// Settled means that everything is there: what is not was deleted in between.
fn lost(what: &str) -> Error {
    Error::Unmendable { what: format!("the {what} was deleted while the host looked at it: start again") }
}
