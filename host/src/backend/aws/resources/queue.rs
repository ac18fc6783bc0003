//! A consumer's queue, and the one behind it for messages that were received a thousand times.
//!
//! The host itself counts attempts and keeps dead letters, in the table: the second queue is only the net below.

use std::time::Duration;

use aws_sdk_sqs::error::ProvideErrorMetadata as _;
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::{Value, json};

use super::settle::Applied;
use super::{Attributes, Change, Error, Resource, Setting, Step, Tags, attribute_steps, tag_steps};
use crate::backend::aws::clients::{Clients, Service};
use crate::backend::aws::settings::TopicKind;

/// The longest that SQS lets a poll wait; it costs the least.
pub const POLL_MAX: Duration = Duration::from_secs(20);
/// How long a message stays hidden that was received and neither deleted nor prolonged: what a crash delays it by.
pub const VISIBILITY: Duration = Duration::from_secs(60);
/// The most that SQS takes. What went even so is found in the table.
pub const KEPT: Duration = Duration::from_secs(14 * 24 * 3600);
/// Of a message, before it goes to the dead-letter queue. No host that works gets there.
const RECEIVED_MAX: u32 = 1_000;

/// What SNS hands on at most. A larger message would be lost on its way.
const MESSAGE_BYTES_MAX: u64 = 256 << 10;

const DELAY: &str = "DelaySeconds";
const SIZE: &str = "MaximumMessageSize";
const POLICY: &str = "Policy";
const REDRIVE: &str = "RedrivePolicy";
const REDRIVE_ALLOW: &str = "RedriveAllowPolicy";

#[derive(Debug)]
pub struct Found {
    pub url: String,
    pub arn: String,
    attributes: Attributes,
    /// `None` where nobody looked.
    tags: Option<Tags>,
}

impl Found {
    /// Where nobody has: a host that may change nothing needs them for this alone, and may not be allowed to.
    ///
    /// # Errors
    /// Where the call fails.
    pub async fn look_at_tags(&mut self, clients: &Clients, name: &str) -> Result<(), Error> {
        if self.tags.is_none() {
            self.tags = Some(tags(clients, name, &self.url).await?);
        }
        Ok(())
    }

    /// The first of these tags that says somebody else has the queue, with what is wanted and what it says.
    pub fn other_owner<'t>(&'t self, wanted: &[(&'t str, &'t str)]) -> Option<(&'t str, &'t str, &'t str)> {
        let tags = self.tags.as_ref()?;
        let of_another = |&(tag, value): &(&'t str, &'t str)| {
            let other = tags.get(tag).filter(|other| *other != value)?;
            Some((tag, value, other.as_str()))
        };
        wanted.iter().find_map(of_another)
    }
}

/// What a queue should be.
pub struct Wanted<'a> {
    pub name: &'a str,
    pub kind: TopicKind,
    pub tags: &'a [(&'a str, &'a str)],
    /// Absent for a dead-letter queue, which nothing but SQS sends to.
    pub fed: Option<Fed<'a>>,
}

/// From where messages come to a queue, and where they go. Absent is what is not there yet.
pub struct Fed<'a> {
    pub topic_arn: Option<&'a str>,
    pub dead_arn: Option<&'a str>,
}

pub async fn look(clients: &Clients, name: &str, with_tags: bool) -> Result<Option<Found>, Error> {
    let url = match clients.sqs.get_queue_url().queue_name(name).send().await {
        Ok(got) => got.queue_url.unwrap_or_default(),
        Err(error) if is_absent(error.code()) => return Ok(None),
        Err(error) => return Err(clients.failure(Service::Sqs, format!("find the queue {name}"), &error).into()),
    };
    let get = clients.sqs.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::All);
    let attributes: Attributes = match get.send().await {
        Ok(got) => {
            let attributes = got.attributes.unwrap_or_default().into_iter();
            attributes.map(|(name, value)| (name.as_str().to_owned(), value)).collect()
        }
        Err(error) if is_absent(error.code()) => return Ok(None),
        Err(error) => return Err(clients.failure(Service::Sqs, format!("look at the queue {name}"), &error).into()),
    };
    let tags = if with_tags { Some(tags(clients, name, &url).await?) } else { None };
    let arn = attributes.get("QueueArn").cloned().unwrap_or_default();
    Ok(Some(Found { url, arn, attributes, tags }))
}

pub fn compare(wanted: &Wanted<'_>, found: Option<&Found>) -> Result<Vec<Step>, Error> {
    let Wanted { name, .. } = wanted;
    let on = Resource::Queue { name: (*name).to_owned() };
    let Some(found) = found else {
        let settings = wanted.made_with().into_iter().map(|(name, value)| Setting::new(name, value));
        // Set as soon as what it names is there.
        let fed = wanted.fed.iter().flat_map(|_| {
            let redrive = format!("to its dead-letter queue after {RECEIVED_MAX} times");
            [Setting::new(POLICY, "the topic alone may send"), Setting::new(REDRIVE, redrive)]
        });
        return Ok(vec![Step::needed(on, Change::Create { settings: settings.chain(fed).collect() })]);
    };
    if let Some((tag, value, other)) = found.other_owner(wanted.tags) {
        let what = format!(
            "the queue {name} has the tag {tag} = {other}, not {value}: it is another shop's or another consumer's; \
             set another aws.prefix, or rename the consumer"
        );
        return Err(Error::Unmendable { what });
    }
    let plain = wanted.made_with();
    let plain = plain.iter().map(|(name, value)| (*name, value.as_str())).filter(|(name, _)| *name != "FifoQueue");
    let mut steps = attribute_steps(&on, &found.attributes, plain);
    steps.extend(hindering(&on, &found.attributes, wanted.fed.is_some()));
    if wanted.fed.is_none() {
        steps.extend(not_left_alone(&on, &found.attributes));
    }
    if let Some(Fed { topic_arn, dead_arn }) = wanted.fed {
        let policy = topic_arn.map(|topic_arn| (POLICY, policy(&found.arn, topic_arn)));
        let redrive = dead_arn.map(|dead_arn| (REDRIVE, redrive(dead_arn)));
        for (name, value) in policy.into_iter().chain(redrive) {
            let shown = found.attributes.get(name).filter(|shown| !shown.is_empty());
            if shown.is_none_or(|shown| !says_the_same(shown, &value)) {
                let setting = Setting::new(name, value.to_string());
                steps.push(Step::needed(on.clone(), Change::Set { setting, found: shown.cloned() }));
            }
        }
    }
    steps.extend(tag_steps(&on, found.tags.as_ref(), wanted.tags));
    Ok(steps)
}

/// What a queue has of itself as it should be, and may have been set otherwise. An answer that leaves it out says nothing against it.
fn hindering(on: &Resource, found: &Attributes, is_fed: bool) -> Vec<Step> {
    let told = |name: &str| found.get(name).and_then(|told| told.parse::<u64>().ok());
    let delays = told(DELAY).is_some_and(|seconds| is_fed && seconds > 0).then_some((DELAY, 0));
    let refuses = told(SIZE).is_some_and(|bytes| bytes < MESSAGE_BYTES_MAX).then_some((SIZE, MESSAGE_BYTES_MAX));
    let set = |(name, value): (&str, u64)| {
        let setting = Setting::new(name, value.to_string());
        Step::needed(on.clone(), Change::Set { setting, found: found.get(name).cloned() })
    };
    delays.into_iter().chain(refuses).map(set).collect()
}

/// What somebody set of a queue for dead letters: it passes on or keeps out what SQS moves there, or shows it later. No host needs
/// that to be otherwise, but whoever looks for what is dead. Who may read it or send to it, is the operator's to say.
fn not_left_alone(on: &Resource, found: &Attributes) -> Vec<Step> {
    let told = |name: &str| found.get(name).map(String::as_str).filter(|told| !told.is_empty());
    let delays = told(DELAY).is_some_and(|seconds| seconds != "0").then_some((DELAY, "0"));
    let passes_on = told(REDRIVE).map(|_| (REDRIVE, ""));
    let keeps_out = told(REDRIVE_ALLOW).filter(|told| told.contains("denyAll")).map(|_| (REDRIVE_ALLOW, ""));
    let set = |(name, value): (&str, &str)| {
        Step::useful(on.clone(), Change::Set { setting: Setting::new(name, value), found: found.get(name).cloned() })
    };
    delays.into_iter().chain(passes_on).chain(keeps_out).map(set).collect()
}

/// Does a step of [`compare`].
pub async fn apply(
    clients: &Clients,
    wanted: &Wanted<'_>,
    found: Option<&Found>,
    step: &Step,
) -> Result<Applied, Error> {
    let (name, url) = (wanted.name, found.map(|found| found.url.as_str()).unwrap_or_default());
    match &step.change {
        Change::Set { setting: Setting { name: attribute, value }, .. } => {
            let set = clients.sqs.set_queue_attributes().queue_url(url);
            let sent = set.attributes(QueueAttributeName::from(attribute.as_str()), value).send().await;
            sent.map_err(|error| {
                clients.failure(Service::Sqs, format!("set {attribute} of the queue {name}"), &error)
            })?;
            Ok(Applied::Taken)
        }
        Change::Tag { tag, .. } => {
            let sent = clients.sqs.tag_queue().queue_url(url).tags(&tag.name, &tag.value).send().await;
            sent.map_err(|error| clients.failure(Service::Sqs, format!("tag the queue {name}"), &error))?;
            Ok(Applied::Taken)
        }
        _ => create(clients, wanted).await,
    }
}

/// Deletes the queue with all that is in it. One that is not there is deleted.
pub async fn delete(clients: &Clients, name: &str, url: &str) -> Result<(), Error> {
    match clients.sqs.delete_queue().queue_url(url).send().await {
        Err(error) if !is_absent(error.code()) => {
            Err(clients.failure(Service::Sqs, format!("delete the queue {name}"), &error).into())
        }
        _ => Ok(()),
    }
}

async fn create(clients: &Clients, wanted: &Wanted<'_>) -> Result<Applied, Error> {
    let mut create = clients.sqs.create_queue().queue_name(wanted.name);
    for (name, value) in wanted.made_with() {
        create = create.attributes(QueueAttributeName::from(name), value);
    }
    for (tag, value) in wanted.tags {
        create = create.tags(*tag, *value);
    }
    match create.send().await {
        Ok(_) => Ok(Applied::Done),
        Err(error) => match error.as_service_error() {
            // Another host made it just now, or somebody made it otherwise: the next look tells what it lacks.
            Some(refused) if refused.is_queue_name_exists() => Ok(Applied::Later),
            // For a minute.
            Some(refused) if refused.is_queue_deleted_recently() => Ok(Applied::Later),
            _ => Err(clients.failure(Service::Sqs, format!("create the queue {}", wanted.name), &error).into()),
        },
    }
}

async fn tags(clients: &Clients, name: &str, url: &str) -> Result<Tags, Error> {
    let listed = clients.sqs.list_queue_tags().queue_url(url).send().await;
    let listed = listed.map_err(|error| clients.failure(Service::Sqs, format!("list the tags of {name}"), &error))?;
    Ok(listed.tags.unwrap_or_default().into_iter().collect())
}

impl Wanted<'_> {
    /// What does not depend on anything else.
    fn made_with(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![("MessageRetentionPeriod", KEPT.as_secs().to_string())];
        if self.fed.is_some() {
            settings.push(("ReceiveMessageWaitTimeSeconds", POLL_MAX.as_secs().to_string()));
            settings.push(("VisibilityTimeout", VISIBILITY.as_secs().to_string()));
        }
        if self.kind == TopicKind::Fifo {
            let fifo = [
                ("FifoQueue", "true"),
                ("ContentBasedDeduplication", "false"),
                // Lanes do not wait for each other.
                ("DeduplicationScope", "messageGroup"),
                ("FifoThroughputLimit", "perMessageGroupId"),
            ];
            settings.extend(fifo.map(|(name, value)| (name, value.to_owned())));
        }
        settings
    }
}

/// Lets the topic send to the queue, and nobody else.
pub fn policy(queue_arn: &str, topic_arn: &str) -> Value {
    json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Sid": "Topic",
            "Effect": "Allow",
            "Principal": { "Service": "sns.amazonaws.com" },
            "Action": "sqs:SendMessage",
            "Resource": queue_arn,
            "Condition": { "ArnEquals": { "aws:SourceArn": topic_arn } },
        }],
    })
}

fn redrive(dead_arn: &str) -> Value {
    json!({ "deadLetterTargetArn": dead_arn, "maxReceiveCount": RECEIVED_MAX })
}

/// Whether a document means what `wanted` says: what a policy is called does not count, nor how a list of one, a number
/// or a service's action is written.
fn says_the_same(shown: &str, wanted: &Value) -> bool {
    serde_json::from_str(shown).is_ok_and(|shown: Value| plain(&shown) == plain(wanted))
}

fn plain(document: &Value) -> Value {
    match document {
        Value::Array(items) => match items.as_slice() {
            [one] => plain(one),
            many => many.iter().map(plain).collect(),
        },
        Value::Object(fields) => {
            let named = fields.iter().filter(|(name, _)| !matches!(name.as_str(), "Sid" | "Id"));
            let field = |(name, value): (&String, &Value)| match (name.as_str(), plain(value)) {
                // Actions are known in any case, and emulators answer in capitals.
                ("Action", Value::String(action)) => (name.clone(), Value::String(action.to_ascii_lowercase())),
                (_, value) => (name.clone(), value),
            };
            Value::Object(named.map(field).collect())
        }
        Value::Number(number) => Value::String(number.to_string()),
        other => other.clone(),
    }
}

/// SQS has an old and a new way to say so.
fn is_absent(code: Option<&str>) -> bool {
    matches!(code, Some("QueueDoesNotExist" | "AWS.SimpleQueueService.NonExistentQueue"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: &str = "arn:aws:sqs:eu-west-1:1:shop-inventory.fifo";
    const TOPIC: &str = "arn:aws:sns:eu-west-1:1:shop.fifo";

    #[test]
    fn a_policy_written_otherwise_is_the_same_and_a_wider_one_is_not() {
        let wanted = policy(QUEUE, TOPIC);
        let other =
            wanted.to_string().replace("\"sqs:SendMessage\"", "[\"SQS:SendMessage\"]").replace("Topic", "Other");
        assert!(says_the_same(&other, &wanted));
        for (from, to) in
            [(TOPIC, "*"), ("ArnEquals", "ArnLike"), ("Allow", "Deny"), ("SendMessage", "*"), (QUEUE, "*")]
        {
            assert!(!says_the_same(&wanted.to_string().replace(from, to), &wanted), "{to}");
        }
        let mut two = wanted.clone();
        let more = two["Statement"][0].clone();
        two["Statement"].as_array_mut().unwrap().push(more);
        assert!(!says_the_same(&two.to_string(), &wanted));
    }

    #[test]
    fn what_delays_or_refuses_messages_is_to_be_set_and_what_is_as_good_is_not() {
        let on = Resource::Queue { name: "queue".to_owned() };
        let steps = |delay: &str, size: &str, is_fed| {
            let found = [(DELAY, delay), (SIZE, size)].map(|(name, value)| (name.to_owned(), value.to_owned()));
            hindering(&on, &Attributes::from(found), is_fed).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let size = "set MaximumMessageSize of queue queue to 262144: it is 1024";
        assert_eq!(steps("30", "1024", true), ["set DelaySeconds of queue queue to 0: it is 30", size]);
        assert_eq!(steps("30", "1024", false), [size], "no host waits for a queue for dead letters");
        assert!(steps("0", "262144", true).is_empty() && steps("0", "1048576", true).is_empty());
        assert!(hindering(&on, &Attributes::default(), true).is_empty());
    }

    #[test]
    fn what_somebody_set_of_a_queue_for_dead_letters_is_told() {
        let on = Resource::Queue { name: "dead".to_owned() };
        let steps = |set: &[(&str, &str)]| {
            let found = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            not_left_alone(&on, &found).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let set = [(DELAY, "30"), (POLICY, "{1}"), (REDRIVE, "{2}"), (REDRIVE_ALLOW, "denyAll")];
        insta::assert_snapshot!(steps(&set).join("\n"), @"
        set DelaySeconds of queue dead to 0: it is 30
        remove RedrivePolicy of queue dead: it is {2}
        remove RedriveAllowPolicy of queue dead: it is denyAll
        ");
        assert!(
            steps(&[(DELAY, "0"), (POLICY, ""), (REDRIVE_ALLOW, r#"{"redrivePermission":"allowAll"}"#)]).is_empty()
        );
    }

    #[test]
    fn a_count_is_the_same_in_quotes() {
        let shown = r#"{"maxReceiveCount":"1000","deadLetterTargetArn":"arn:dead"}"#;
        assert!(says_the_same(shown, &redrive("arn:dead")));
        assert!(!says_the_same(shown, &redrive("arn:other")));
    }
}
