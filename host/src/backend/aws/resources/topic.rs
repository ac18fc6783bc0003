//! The topic that every event is published to.

use aws_sdk_sns::error::ProvideErrorMetadata as _;
use aws_sdk_sns::types::Tag;

use super::names::PREFIX_TAG;
use super::settle::Applied;
use super::{Attributes, Change, Error, Resource, Setting, Step, Tags, tag_steps};
use crate::backend::aws::clients::{Clients, Service};
use crate::backend::aws::settings::TopicKind;

/// Lanes do not wait for each other, and a message is told from others by its event's id and not by its text.
const FIFO: [(&str, &str); 3] =
    [(FIFO_TOPIC, "true"), ("ContentBasedDeduplication", "false"), ("FifoThroughputScope", "MessageGroup")];
const FIFO_TOPIC: &str = "FifoTopic";

#[derive(Debug)]
pub struct Found {
    pub arn: String,
    attributes: Attributes,
    /// `None` where nobody looked.
    tags: Option<Tags>,
}

/// Looks through all topics: an ARN holds a region and an account, which are not ours to guess.
pub async fn look(clients: &Clients, name: &str, with_tags: bool) -> Result<Option<Found>, Error> {
    let mut pages = clients.sns.list_topics().into_paginator().items().send();
    let arn = loop {
        match pages.next().await {
            Some(Ok(topic)) => match topic.topic_arn {
                Some(arn) if arn.rsplit(':').next() == Some(name) => break arn,
                _ => {}
            },
            Some(Err(error)) => return Err(clients.failure(Service::Sns, "list topics", &error).into()),
            None => return Ok(None),
        }
    };
    let attributes = match clients.sns.get_topic_attributes().topic_arn(&arn).send().await {
        Ok(got) => got.attributes.unwrap_or_default().into_iter().collect(),
        // A list may still show what is deleted.
        Err(error) if error.code() == Some("NotFound") => return Ok(None),
        Err(error) => {
            return Err(clients.failure(Service::Sns, format!("look at the topic {name}"), &error).into());
        }
    };
    let tags = if with_tags { Some(tags(clients, &arn).await?) } else { None };
    Ok(Some(Found { arn, attributes, tags }))
}

pub fn compare(name: &str, kind: TopicKind, prefix: &str, found: Option<&Found>) -> Vec<Step> {
    let on = Resource::Topic { name: name.to_owned() };
    let Some(found) = found else {
        let settings = wanted(kind).map(|(name, value)| Setting::new(name, value)).collect();
        return vec![Step::needed(on, Change::Create { settings })];
    };
    // An answer need not tell everything: what it leaves out is as the topic was made.
    let told = |name: &str| name != FIFO_TOPIC && found.attributes.contains_key(name);
    let settable = wanted(kind).filter(|(name, _)| told(name));
    let mut steps = super::attribute_steps(&on, &found.attributes, settable);
    steps.extend(tag_steps(&on, found.tags.as_ref(), &[(PREFIX_TAG, prefix)]));
    steps
}

/// Does a step of [`compare`].
pub async fn apply(
    clients: &Clients,
    name: &str,
    kind: TopicKind,
    prefix: &str,
    found: Option<&Found>,
    step: &Step,
) -> Result<Applied, Error> {
    let arn = found.map(|found| found.arn.as_str()).unwrap_or_default();
    match &step.change {
        Change::Set { setting, .. } => {
            let set = clients.sns.set_topic_attributes().topic_arn(arn);
            let sent = set.attribute_name(&setting.name).attribute_value(&setting.value).send().await;
            sent.map_err(|error| clients.failure(Service::Sns, format!("set up the topic {name}"), &error))?;
            Ok(Applied::Taken)
        }
        Change::Tag { tag, .. } => {
            let sent = clients.sns.tag_resource().resource_arn(arn).tags(own_tag(&tag.name, &tag.value)).send().await;
            sent.map_err(|error| clients.failure(Service::Sns, format!("tag the topic {name}"), &error))?;
            Ok(Applied::Taken)
        }
        _ => create(clients, name, kind, prefix).await,
    }
}

fn wanted(kind: TopicKind) -> impl Iterator<Item = (&'static str, &'static str)> {
    let fifo = kind == TopicKind::Fifo;
    FIFO.into_iter().filter(move |_| fifo)
}

async fn create(clients: &Clients, name: &str, kind: TopicKind, prefix: &str) -> Result<Applied, Error> {
    let attributes = wanted(kind).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let create = clients.sns.create_topic().name(name).set_attributes(Some(attributes));
    match create.tags(own_tag(PREFIX_TAG, prefix)).send().await {
        Ok(_) => Ok(Applied::Done),
        // Another host made it just now, or somebody made it otherwise: the next look tells what it lacks.
        Err(error) if error.message().is_some_and(|message| message.contains("already exists")) => Ok(Applied::Later),
        Err(error) if error.code() == Some("ConcurrentAccess") => Ok(Applied::Later),
        Err(error) => Err(clients.failure(Service::Sns, format!("create the topic {name}"), &error).into()),
    }
}

async fn tags(clients: &Clients, arn: &str) -> Result<Tags, Error> {
    let listed = clients.sns.list_tags_for_resource().resource_arn(arn).send().await;
    let listed = listed.map_err(|error| clients.failure(Service::Sns, format!("list the tags of {arn}"), &error))?;
    Ok(listed.tags().iter().map(|tag| (tag.key.clone(), tag.value.clone())).collect())
}

fn own_tag(key: &str, value: &str) -> Tag {
    let tag = Tag::builder().key(key).value(value).build();
    tag.unwrap_or_else(|error| unreachable!("both fields are set: {error}"))
}
