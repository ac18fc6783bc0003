//! What brings events from the topic to a consumer's queue.

use aws_sdk_sns::error::ProvideErrorMetadata as _;
use serde_json::Value;

use super::settle::Applied;
use super::{Attributes, Change, Error, Resource, Setting, Step, attribute_steps, filter};
use crate::backend::aws::clients::{Clients, Service};
use crate::event::Subscriptions;

const PROTOCOL: &str = "sqs";
const FILTER: &str = "FilterPolicy";
const SCOPE: &str = "FilterPolicyScope";
/// The message is the event itself, without an envelope.
const RAW: (&str, &str) = ("RawMessageDelivery", "true");
const BY_ATTRIBUTES: &str = "MessageAttributes";
/// What takes a policy away.
const NO_FILTER: &str = "{}";

#[derive(Debug)]
pub struct Found {
    pub arn: String,
    attributes: Attributes,
}

/// What should pass.
#[derive(Clone, Debug)]
pub enum Passing {
    /// By this policy, or everything.
    By(Option<Value>),
    /// Nobody knows here what the consumer hears: what is there stays, and what is made lets everything through.
    Unknown,
}

impl From<Option<&Subscriptions>> for Passing {
    fn from(hears: Option<&Subscriptions>) -> Self {
        hears.map_or(Self::Unknown, |hears| Self::By(filter::policy(hears)))
    }
}

/// Looks for the subscription of the queue among those of the topic.
pub async fn look(clients: &Clients, topic_arn: &str, queue_arn: &str) -> Result<Option<Found>, Error> {
    let mut pages = clients.sns.list_subscriptions_by_topic().topic_arn(topic_arn).into_paginator().send();
    while let Some(page) = pages.next().await {
        let page =
            page.map_err(|error| clients.failure(Service::Sns, "list the subscriptions of the topic", &error))?;
        let ours = page.subscriptions().iter().find(|one| one.endpoint() == Some(queue_arn));
        if let Some(arn) = ours.and_then(|ours| ours.subscription_arn()) {
            return look_at(clients, arn).await;
        }
    }
    Ok(None)
}

pub async fn look_at(clients: &Clients, arn: &str) -> Result<Option<Found>, Error> {
    match clients.sns.get_subscription_attributes().subscription_arn(arn).send().await {
        Ok(got) => {
            let attributes = got.attributes.unwrap_or_default().into_iter().collect();
            Ok(Some(Found { arn: arn.to_owned(), attributes }))
        }
        // A list may still show what is gone.
        Err(error) if error.code() == Some("NotFound") => Ok(None),
        Err(error) => Err(clients.failure(Service::Sns, format!("look at the subscription {arn}"), &error).into()),
    }
}

pub fn compare(on: &Resource, passing: &Passing, found: Option<&Found>) -> Vec<Step> {
    let Some(found) = found else {
        let settings = wanted(passing).map(|(name, value)| Setting::new(name, value)).collect();
        return vec![Step::needed(on.clone(), Change::Create { settings })];
    };
    let mut steps = attribute_steps(on, &found.attributes, [RAW].into_iter());
    let Passing::By(wanted) = passing else { return steps };
    let shown = found.attributes.get(FILTER).filter(|shown| !matches!(shown.as_str(), "" | NO_FILTER));
    let policy = shown.map(|shown| serde_json::from_str::<Value>(shown).unwrap_or_default());
    // By the text of messages another policy passes than by their attributes.
    let by_text = shown.is_some() && found.attributes.get(SCOPE).is_some_and(|scope| scope != BY_ATTRIBUTES);
    if by_text {
        let setting = Setting::new(SCOPE, BY_ATTRIBUTES);
        let change = Change::Set { setting, found: found.attributes.get(SCOPE).cloned() };
        steps.push(Step::needed(on.clone(), change));
    }
    if policy != *wanted {
        let setting = Setting::new(FILTER, wanted.as_ref().map_or_else(|| NO_FILTER.to_owned(), Value::to_string));
        let change = Change::Set { setting, found: shown.cloned() };
        // One that lets more through than is wanted costs messages, and loses none.
        let needed = by_text || !filter::passes_at_least(policy.as_ref(), wanted.as_ref());
        steps.push(Step { on: on.clone(), change, needed });
    }
    steps
}

/// Sets what a step of [`compare`] says.
pub async fn set(clients: &Clients, arn: &str, setting: &Setting) -> Result<Applied, Error> {
    let Setting { name, value } = setting;
    let set = clients.sns.set_subscription_attributes().subscription_arn(arn);
    match set.attribute_name(name).attribute_value(value).send().await {
        Ok(_) => Ok(Applied::Taken),
        Err(error) if error.code() == Some("FilterPolicyLimitExceeded") => {
            tracing::warn!(subscription = arn, "the account has all the filter policies it may: the old one stays");
            Ok(Applied::Taken)
        }
        Err(error) => {
            Err(clients.failure(Service::Sns, format!("set {name} of the subscription {arn}"), &error).into())
        }
    }
}

pub async fn create(clients: &Clients, topic_arn: &str, queue_arn: &str, passing: &Passing) -> Result<Applied, Error> {
    let subscribe = |attributes: Vec<(&str, String)>| {
        let attributes = attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let subscribe = clients.sns.subscribe().topic_arn(topic_arn).protocol(PROTOCOL).endpoint(queue_arn);
        subscribe.set_attributes(Some(attributes)).return_subscription_arn(true).send()
    };
    let mut sent = subscribe(wanted(passing).collect()).await;
    if sent.as_ref().is_err_and(|error| error.code() == Some("FilterPolicyLimitExceeded")) {
        tracing::warn!(queue = queue_arn, "the account has all the filter policies it may: every event comes here");
        sent = subscribe(wanted(&Passing::Unknown).collect()).await;
    }
    match sent {
        Ok(_) => Ok(Applied::Done),
        Err(error) if error.code() == Some("SubscriptionLimitExceeded") => {
            Err(Error::TooManyConsumers { topic: topic_arn.to_owned() })
        }
        // Another host made it just now, with another filter: the next look tells.
        Err(error) if error.message().is_some_and(|message| message.contains("already exists")) => Ok(Applied::Later),
        Err(error) => Err(clients.failure(Service::Sns, format!("subscribe the queue {queue_arn}"), &error).into()),
    }
}

/// Takes the subscription away. One that is not there is away.
pub async fn delete(clients: &Clients, arn: &str) -> Result<(), Error> {
    match clients.sns.unsubscribe().subscription_arn(arn).send().await {
        Err(error) if error.code() != Some("NotFound") => {
            Err(clients.failure(Service::Sns, format!("take away the subscription {arn}"), &error).into())
        }
        _ => Ok(()),
    }
}

fn wanted(passing: &Passing) -> impl Iterator<Item = (&'static str, String)> {
    let filter = match passing {
        Passing::By(Some(policy)) => Some([(SCOPE, BY_ATTRIBUTES.to_owned()), (FILTER, policy.to_string())]),
        Passing::By(None) | Passing::Unknown => None,
    };
    std::iter::once((RAW.0, RAW.1.to_owned())).chain(filter.into_iter().flatten())
}
