//! The messages of one answer of SQS in another order than the emulator's. SQS promises an order within a message group of a
//! FIFO queue alone; on a standard queue it promises none, and that a message may come again.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::call::{Call, Protocol};
use crate::crash::goods::Dice;

/// One message of a standard queue in so many comes again.
const REPEATED_EVERY: u64 = 8;
const GROUP: &str = "MessageGroupId";
const NAMES: &str = "MessageSystemAttributeNames";
/// What SQS gives at once, unless it is asked for more.
const COUNT_DEFAULT: u64 = 1;

pub(super) struct Disorder {
    dice: Dice,
    /// Of each standard queue: messages that come once more.
    again: BTreeMap<String, VecDeque<Value>>,
    /// Answers whose messages came in another order, and messages that came again.
    pub disordered: u64,
    pub repeated: u64,
}

impl Disorder {
    pub fn new(seed: u64) -> Self {
        Self { dice: Dice::new(seed), again: BTreeMap::new(), disordered: 0, repeated: 0 }
    }

    /// The answer to this request, disordered; `None` where it stays as it is.
    pub fn of(&mut self, call: &Call, answer: &[u8]) -> Option<Vec<u8>> {
        let asked = Asked::of(call)?;
        let mut answer: Value = serde_json::from_slice(answer).ok()?;
        let before: Vec<Value> = answer["Messages"].as_array().cloned().unwrap_or_default();
        let after = if asked.is_fifo() { self.between_groups(&before) } else { self.any_how(&asked, &before) };
        if after == before {
            return None;
        }
        self.disordered += 1;
        answer["Messages"] = after.into();
        Some(answer.to_string().into_bytes())
    }

    /// Those of one group stay in their order.
    fn between_groups(&mut self, messages: &[Value]) -> Vec<Value> {
        let group = |message: &Value| message["Attributes"][GROUP].as_str().unwrap_or_default().to_owned();
        let mut groups: Vec<String> = messages.iter().map(group).collect();
        self.shuffle(&mut groups);
        let mut of_group: BTreeMap<String, VecDeque<&Value>> = BTreeMap::new();
        messages.iter().for_each(|message| of_group.entry(group(message)).or_default().push_back(message));
        groups.iter().filter_map(|group| of_group.get_mut(group)?.pop_front().cloned()).collect()
    }

    fn any_how(&mut self, asked: &Asked, messages: &[Value]) -> Vec<Value> {
        let mut after = messages.to_vec();
        let again = self.again.entry(asked.queue.clone()).or_default();
        while after.len() < asked.count
            && let Some(message) = again.pop_front()
        {
            after.push(message);
            self.repeated += 1;
        }
        for message in messages {
            if self.dice.below(REPEATED_EVERY) == 0 {
                again.push_back(message.clone());
            }
        }
        self.shuffle(&mut after);
        after
    }

    /// Every order is as likely as any other.
    fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            let other = usize::try_from(self.dice.below(last as u64 + 1)).unwrap_or_default();
            all.swap(last, other);
        }
    }
}

/// What somebody asks a queue for.
struct Asked {
    queue: String,
    count: usize,
}

impl Asked {
    fn of(call: &Call) -> Option<Self> {
        if call.protocol != Protocol::Sqs || call.operation != "ReceiveMessage" {
            return None;
        }
        let request: Value = serde_json::from_str(&call.body).ok()?;
        let count = request["MaxNumberOfMessages"].as_u64().unwrap_or(COUNT_DEFAULT);
        Some(Self { queue: request["QueueUrl"].as_str()?.to_owned(), count: usize::try_from(count).ok()? })
    }

    fn is_fifo(&self) -> bool {
        self.queue.ends_with(".fifo")
    }
}

/// The request, so that its answer tells the group of each message; `None` where there are no groups.
pub(super) fn asking_for_groups(call: &Call) -> Option<String> {
    Asked::of(call).filter(Asked::is_fifo)?;
    let mut request: Value = serde_json::from_str(&call.body).ok()?;
    let names = request[NAMES].as_array().cloned().unwrap_or_default();
    request[NAMES] = names.into_iter().chain([json!(GROUP)]).collect();
    Some(request.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ureq::http::HeaderMap;

    use super::*;

    fn receive(queue: &str) -> Call {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-target", "AmazonSQS.ReceiveMessage".parse().unwrap());
        Call::new(&headers, json!({"QueueUrl": queue, "MaxNumberOfMessages": 10}).to_string().as_bytes())
    }

    /// Bodies of a disordered answer with these messages: group and body.
    fn received(disorder: &mut Disorder, queue: &str, messages: &[(&str, &str)]) -> Vec<String> {
        let message = |(group, body): &(&str, &str)| json!({"Body": body, "Attributes": {GROUP: group}});
        let answer = json!({"Messages": messages.iter().map(message).collect::<Vec<_>>()}).to_string();
        let disordered = disorder.of(&receive(queue), answer.as_bytes());
        let answer: Value = serde_json::from_slice(disordered.as_deref().unwrap_or(answer.as_bytes())).unwrap();
        let bodies = answer["Messages"].as_array().unwrap().iter();
        bodies.map(|message| message["Body"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn groups_of_a_fifo_queue_come_in_any_order_and_each_in_its_own() {
        let (mut disorder, mut orders) = (Disorder::new(3), BTreeSet::new());
        let messages = [("a", "a1"), ("a", "a2"), ("b", "b1"), ("a", "a3"), ("c", "c1"), ("b", "b2")];
        for _ in 0..100 {
            let bodies = received(&mut disorder, "http://sqs/q.fifo", &messages);
            for (group, count) in [("a", 3), ("b", 2), ("c", 1)] {
                let of_group: Vec<&String> = bodies.iter().filter(|body| body.starts_with(group)).collect();
                assert!(of_group.is_sorted() && of_group.len() == count, "{bodies:?}");
            }
            orders.insert(bodies);
        }
        // Of 60 that there are.
        assert!(orders.len() > 30, "{orders:?}");
        assert!(disorder.disordered > 80 && disorder.repeated == 0, "{}", disorder.disordered);
        assert_eq!(received(&mut disorder, "http://sqs/q.fifo", &messages[..2]), ["a1", "a2"]);
    }

    #[test]
    fn messages_of_a_standard_queue_come_in_any_order_and_some_of_them_again() {
        let (mut disorder, mut orders) = (Disorder::new(3), BTreeSet::new());
        let (mut came, mut rounds) = (BTreeMap::<String, u64>::new(), 0);
        while rounds < 100 {
            rounds += 1;
            let names = [1, 2, 3].map(|number| format!("{rounds}-{number}"));
            let messages = [0, 1, 2].map(|at| ("a", names[at].as_str()));
            let bodies = received(&mut disorder, "http://sqs/q", &messages);
            let of_round = bodies.iter().filter(|body| names.contains(body));
            orders.insert(of_round.map(|body| body.rsplit('-').next().unwrap().to_owned()).collect::<Vec<_>>());
            bodies.into_iter().for_each(|body| *came.entry(body).or_default() += 1);
        }
        assert_eq!((orders.len(), came.len()), (6, 300), "{orders:?}");
        let again: u64 = came.values().map(|times| times - 1).sum();
        assert_eq!(again, disorder.repeated);
        assert!((15..80).contains(&again), "{again}");
        // A question that finds nothing may find one that was there.
        let last = (0..50).any(|_| {
            let _ = received(&mut disorder, "http://sqs/q", &[("a", "x")]);
            let found = disorder.of(&receive("http://sqs/q"), b"{}");
            found.is_some_and(|found| String::from_utf8(found).unwrap().contains("\"x\""))
        });
        assert!(last);
    }

    #[test]
    fn only_a_fifo_queue_is_asked_for_groups_and_only_messages_are_disordered() {
        let asked = asking_for_groups(&receive("http://sqs/q.fifo")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&asked).unwrap()[NAMES], json!([GROUP]));
        assert_eq!(asking_for_groups(&receive("http://sqs/q")), None);
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-target", "DynamoDB_20120810.Query".parse().unwrap());
        let query = Call::new(&headers, b"{\"QueueUrl\":\"q\"}");
        assert_eq!(Disorder::new(1).of(&query, b"{\"Messages\":[1,2,3,4,5,6]}"), None);
        assert_eq!(asking_for_groups(&query), None);
    }
}
