//! What one consumer has: a queue, one for dead letters, and a subscription.

use async_trait::async_trait;

use super::names::{self, CONSUMER_TAG, PREFIX_TAG};
use super::queue::{Fed, Wanted};
use super::settle::{Applied, Site};
use super::subscription::{self, Passing};
use super::{Change, Error, Plan, Resource, Step, lost, queue};
use crate::backend::aws::clients::Clients;
use crate::backend::aws::settings::{Settings, TopicKind};
use crate::policy::ConsumerName;

pub struct ConsumerSite<'a> {
    clients: &'a Clients,
    kind: TopicKind,
    topic_arn: Option<&'a str>,
    passing: Passing,
    with_tags: bool,
    queue: String,
    dead: String,
    subscription: Resource,
    tags: [(&'static str, &'a str); 2],
}

pub struct FoundConsumer {
    pub queue: Option<queue::Found>,
    pub dead: Option<queue::Found>,
    pub subscription: Option<subscription::Found>,
}

/// The subscription of a consumer, in words.
pub fn subscription(settings: &Settings, name: &ConsumerName) -> Resource {
    let [queue, _] = names::queues(&settings.prefix, name, settings.topic);
    Resource::Subscription { name: queue, topic: names::topic(&settings.prefix, settings.topic) }
}

impl<'a> ConsumerSite<'a> {
    pub fn new(
        clients: &'a Clients,
        settings: &'a Settings,
        topic_arn: Option<&'a str>,
        name: &'a ConsumerName,
        passing: Passing,
        with_tags: bool,
    ) -> Self {
        let [queue, dead] = names::queues(&settings.prefix, name, settings.topic);
        let tags = [(PREFIX_TAG, settings.prefix.as_str()), (CONSUMER_TAG, name.as_str())];
        let subscription = subscription(settings, name);
        Self { clients, kind: settings.topic, topic_arn, passing, with_tags, queue, dead, subscription, tags }
    }

    /// Deletes what is there, or only tells it. A queue that is somebody else's stays: a consumer may be called so that its
    /// queues have the names of another shop's.
    pub async fn remove(&self, really: bool) -> Result<Plan, Error> {
        let mut found = self.look().await?;
        for (name, found) in [(&self.queue, &mut found.queue), (&self.dead, &mut found.dead)] {
            if let Some(found) = found
                && let Err(error) = found.look_at_tags(self.clients, name).await
            {
                if really {
                    return Err(error);
                }
                tracing::warn!(queue = %name, %error, "whose queue this is cannot be seen: look at its tags before you delete it");
            }
        }
        let delete = |on: Resource| Step::useful(on, Change::Delete);
        let queue = |name: &str| Resource::Queue { name: name.to_owned() };
        let mut plan = Plan::default();
        // The subscription first: what is published to a queue that is gone, SNS tries for hours.
        if let Some(subscription) = &found.subscription {
            match really {
                true => subscription::delete(self.clients, &subscription.arn).await?,
                false => plan.steps.push(delete(self.subscription.clone())),
            }
        }
        for (name, found) in [(&self.queue, &found.queue), (&self.dead, &found.dead)] {
            if let Some(found) = found.as_ref().filter(|found| found.other_owner(&self.tags).is_none()) {
                match really {
                    true => queue::delete(self.clients, name, &found.url).await?,
                    false => plan.steps.push(delete(queue(name))),
                }
            }
        }
        Ok(plan)
    }

    fn queue_wanted<'f>(&'f self, found: &'f FoundConsumer) -> Wanted<'f> {
        let fed = Fed { topic_arn: self.topic_arn, dead_arn: found.dead.as_ref().map(|dead| dead.arn.as_str()) };
        Wanted { name: &self.queue, kind: self.kind, tags: &self.tags, fed: Some(fed) }
    }

    fn dead_wanted(&self) -> Wanted<'_> {
        Wanted { name: &self.dead, kind: self.kind, tags: &self.tags, fed: None }
    }
}

#[async_trait]
impl Site for ConsumerSite<'_> {
    type Found = FoundConsumer;

    fn clients(&self) -> &Clients {
        self.clients
    }

    async fn look(&self) -> Result<FoundConsumer, Error> {
        let queue = queue::look(self.clients, &self.queue, self.with_tags).await?;
        let dead = queue::look(self.clients, &self.dead, self.with_tags).await?;
        let subscription = match (self.topic_arn, &queue) {
            (Some(topic_arn), Some(queue)) => subscription::look(self.clients, topic_arn, &queue.arn).await?,
            _ => None,
        };
        Ok(FoundConsumer { queue, dead, subscription })
    }

    fn compare(&self, found: &FoundConsumer) -> Result<Plan, Error> {
        let mut steps = queue::compare(&self.dead_wanted(), found.dead.as_ref())?;
        steps.extend(queue::compare(&self.queue_wanted(found), found.queue.as_ref())?);
        steps.extend(subscription::compare(&self.subscription, &self.passing, found.subscription.as_ref()));
        Ok(Plan { steps })
    }

    async fn apply(&self, found: &FoundConsumer, step: &Step) -> Result<Applied, Error> {
        let clients = self.clients;
        match (&step.on, &step.change) {
            (Resource::Subscription { .. }, Change::Set { setting, .. }) => {
                let subscription = found.subscription.as_ref().ok_or_else(|| lost("subscription"))?;
                subscription::set(clients, &subscription.arn, setting).await
            }
            (Resource::Subscription { .. }, _) => {
                let topic_arn = self.topic_arn.ok_or_else(|| lost("topic"))?;
                let queue = found.queue.as_ref().ok_or_else(|| lost("queue"))?;
                subscription::create(clients, topic_arn, &queue.arn, &self.passing).await
            }
            (Resource::Queue { name }, _) if *name == self.dead => {
                queue::apply(clients, &self.dead_wanted(), found.dead.as_ref(), step).await
            }
            _ => queue::apply(clients, &self.queue_wanted(found), found.queue.as_ref(), step).await,
        }
    }
}
