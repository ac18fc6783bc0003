//! The event source of a consumer's function: receives from the queue, invokes, and deletes what does not come back.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::aws;
use crate::eventually;

/// A queue, and what was received of it and not deleted.
pub struct Source {
    url: String,
    pub arn: String,
}

impl Source {
    /// The queue of a consumer.
    #[must_use]
    pub fn of(prefix: &str, consumer: &str) -> Self {
        Self::named(&format!("{prefix}-{consumer}.fifo"))
    }

    /// What a consumer's function put aside.
    #[must_use]
    pub fn dead(prefix: &str, consumer: &str) -> Self {
        Self::named(&format!("{prefix}-{consumer}-dead.fifo"))
    }

    fn named(name: &str) -> Self {
        let url = ask("GetQueueUrl", &json!({"QueueName": name}))["QueueUrl"].take();
        let attributes = ask("GetQueueAttributes", &json!({"QueueUrl": url, "AttributeNames": ["QueueArn"]}));
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("no queue {name}")).to_owned();
        Self { url: text(&url), arn: text(&attributes["Attributes"]["QueueArn"]) }
    }

    /// The next messages, `count` of them, as records of one event.
    #[track_caller]
    pub fn event(&self, count: usize) -> Value {
        // Of a group of which one was received, no other comes before that is deleted: they must come together.
        self.comes_to(count as u64);
        let mut records: Vec<Value> = Vec::new();
        eventually(&format!("{count} messages are in the queue"), || {
            let request = json!({"QueueUrl": self.url, "MaxNumberOfMessages": 10.min(count - records.len()),
                "WaitTimeSeconds": 1, "VisibilityTimeout": 600, "MessageAttributeNames": ["All"],
                "AttributeNames": ["All"]});
            let mut received = ask("ReceiveMessage", &request);
            let messages = received["Messages"].as_array_mut().map(std::mem::take).unwrap_or_default();
            records.extend(messages.iter().map(|message| self.record(message)));
            if records.len() >= count { Ok(()) } else { Err(format!("{records:#?}")) }
        });
        json!({"Records": records})
    }

    /// Deletes what the function that was invoked with `event` has not given back; the ids of what it has.
    ///
    /// # Panics
    /// If the answer is none of a function behind a queue.
    #[track_caller]
    pub fn settle(&self, event: &Value, answer: &Value) -> BTreeSet<String> {
        let failures = answer["batchItemFailures"].as_array().unwrap_or_else(|| panic!("no failures: {answer}"));
        let text = |value: &Value| value.as_str().expect("an id").to_owned();
        let back: BTreeSet<String> = failures.iter().map(|one| text(&one["itemIdentifier"])).collect();
        for record in event["Records"].as_array().into_iter().flatten() {
            if !back.contains(&text(&record["messageId"])) {
                ask("DeleteMessage", &json!({"QueueUrl": self.url, "ReceiptHandle": record["receiptHandle"]}));
            }
        }
        back
    }

    /// Waits until so many messages are there: SNS hands them on in its own time.
    #[track_caller]
    pub fn comes_to(&self, count: u64) {
        eventually(&format!("the queue has {count} messages"), || {
            let there = self.count();
            if there >= count { Ok(()) } else { Err(there.to_string()) }
        });
    }

    /// How many messages are there, received ones too.
    #[must_use]
    pub fn count(&self) -> u64 {
        let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
        let answer = ask("GetQueueAttributes", &json!({"QueueUrl": self.url, "AttributeNames": names}));
        let number = |name: &str| answer["Attributes"][name].as_str().and_then(|text| text.parse::<u64>().ok());
        names.into_iter().filter_map(number).sum()
    }

    /// A message as Lambda hands it on: names begin small, and attributes know of two more kinds.
    fn record(&self, message: &Value) -> Value {
        let attributes = message["MessageAttributes"].as_object().cloned().unwrap_or_default();
        let attribute = |(name, value): (String, Value)| {
            let value = json!({"stringValue": value["StringValue"], "stringListValues": [], "binaryListValues": [],
                "dataType": value["DataType"]});
            (name, value)
        };
        json!({
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message["Attributes"],
            "messageAttributes": attributes.into_iter().map(attribute).collect::<serde_json::Map<_, _>>(),
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": self.arn,
            "awsRegion": "eu-central-1",
        })
    }
}

fn ask(operation: &str, body: &Value) -> Value {
    let (status, answer) = aws::ask(&aws::endpoint("SQS"), &format!("AmazonSQS.{operation}"), body);
    assert!((200..300).contains(&status), "{operation} of {body}: {answer}");
    answer
}
