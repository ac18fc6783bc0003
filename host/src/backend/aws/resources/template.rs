//! `deploy/cloudformation.yaml` makes what a host would make.

use serde_json::Value;

use super::queue::{Fed, Wanted};
use super::{Change, Resource, Setting, Step, names, queue, subscription, table, topic};
use crate::backend::aws::settings::{Prefix, TopicKind};
use crate::event::{KindPattern, Subscriptions};
use crate::policy::ConsumerName;

const TEMPLATE: &str = include_str!("../../../../../deploy/cloudformation.yaml");
/// What the shipped consumers hear.
const CONSUMERS: [(&str, &[&str]); 5] = [
    ("analytics", &["order.*"]),
    (
        "inventory",
        &[
            "order.placed",
            "order.cancelled",
            "order.rejected",
            "com.fanfare.stock.received",
            "com.fanfare.stock.counted",
        ],
    ),
    ("loyalty", &["order.confirmed", "order.cancelled"]),
    ("notification", &["order.*", "com.fanfare.stock.low"]),
    ("shipment", &["order.confirmed", "order.cancelled"]),
];

/// The lines of one resource of the template, without the space before them.
fn block(name: &str) -> Vec<&'static str> {
    let heading = format!("  {name}:");
    let lines = TEMPLATE.lines().skip_while(|line| *line != heading).skip(1);
    let lines: Vec<_> = lines.take_while(|line| line.is_empty() || line.starts_with("    ")).map(str::trim).collect();
    assert!(!lines.is_empty(), "there is no resource {name}");
    lines
}

/// What is set of one resource: its own properties, `name: value`.
fn properties(name: &str) -> Vec<&'static str> {
    let heading = format!("  {name}:");
    let lines = TEMPLATE.lines().skip_while(|line| *line != heading).skip(1);
    let lines = lines.take_while(|line| line.is_empty() || line.starts_with("    "));
    lines.filter_map(|line| line.strip_prefix("      ").filter(|line| !line.starts_with([' ', '-', '#']))).collect()
}

/// The one step that makes what is not there.
fn made(steps: Vec<Step>) -> Vec<Setting> {
    let [Step { change: Change::Create { settings }, .. }] = <[Step; 1]>::try_from(steps).unwrap() else {
        panic!("what is not there is made")
    };
    settings
}

#[test]
fn the_table_has_the_same_keys_and_indexes() {
    let lines = block("Table").join("\n");
    for Setting { name, value } in made(table::compare("shop", "shop", None).unwrap()) {
        let attributes = value.split(", ").next().unwrap().split(" + ").map(|part| part.split_once(' ').unwrap());
        let attributes: Vec<_> = match name.as_str() {
            "time to live" => {
                assert!(
                    lines.contains(&format!("TimeToLiveSpecification: {{ AttributeName: {value}, Enabled: true }}"))
                );
                continue;
            }
            _ => attributes.collect(),
        };
        for (attribute, kind) in &attributes {
            let kind = kind.trim_matches(['(', ')']);
            assert!(
                lines.contains(&format!("- {{ AttributeName: {attribute}, AttributeType: {kind} }}")),
                "{attribute}"
            );
        }
        let [hash, range] = [0, 1].map(|at| attributes[at].0);
        let schema = format!(
            "KeySchema:\n- {{ AttributeName: {hash}, KeyType: HASH }}\n- {{ AttributeName: {range}, KeyType: RANGE }}"
        );
        let wanted = match name.as_str() {
            "key" => format!("{schema}\nGlobalSecondaryIndexes:"),
            index => format!("- IndexName: {index}\n{schema}\nProjection: {{ ProjectionType: KEYS_ONLY }}"),
        };
        assert!(lines.contains(&wanted), "{wanted}\nis not in\n{lines}");
    }
    assert_eq!(lines.matches("IndexName:").count(), 2);
    assert!(lines.contains("TableName: !Ref Prefix\nBillingMode: PAY_PER_REQUEST\n"));
}

#[test]
fn the_topic_has_the_same_settings() {
    let properties = properties("Topic");
    let settings = made(topic::compare("shop.fifo", TopicKind::Fifo, "shop", None));
    for Setting { name, value } in &settings {
        assert!(properties.contains(&format!("{name}: {value}").as_str()), "{name}: {value}");
    }
    assert!(properties.contains(&"TopicName: !Sub \"${Prefix}.fifo\""));
    assert_eq!(properties.len(), settings.len() + ["TopicName", "Tags"].len(), "{properties:?}");
}

#[test]
fn every_consumer_has_the_same_queues() {
    let prefix: Prefix = "PREFIX".parse().unwrap();
    for (consumer, _) in CONSUMERS {
        let name: ConsumerName = consumer.parse().unwrap();
        let [queue, dead] = names::queues(&prefix, &name, TopicKind::Fifo);
        let title = titled(consumer);
        let fed = Fed { topic_arn: None, dead_arn: None };
        for (block, name, fed) in [("Queue", queue, Some(fed)), ("DeadQueue", dead, None)] {
            let properties = properties(&format!("{title}{block}"));
            let own = if fed.is_some() { 3 } else { 2 };
            let wanted = Wanted { name: &name, kind: TopicKind::Fifo, tags: &[], fed };
            let settings = made(queue::compare(&wanted, None).unwrap());
            // What names other resources is looked at below.
            let plain: Vec<_> = settings.iter().filter(|setting| !setting.name.ends_with("Policy")).collect();
            for Setting { name, value } in &plain {
                assert!(properties.contains(&format!("{name}: {value}").as_str()), "{title}{block}: {name}: {value}");
            }
            let named = format!("QueueName: !Sub \"{}\"", name.replace("PREFIX", "${Prefix}"));
            assert!(properties.contains(&named.as_str()), "{named}");
            assert_eq!(properties.len(), plain.len() + own, "{properties:?}");
        }
    }
}

#[test]
fn every_queue_lets_the_topic_send_and_gives_up_to_its_dead_letter_queue() {
    let policy = queue::policy("QUEUE", "TOPIC");
    for (consumer, _) in CONSUMERS {
        let title = titled(consumer);
        let redrive = format!("deadLetterTargetArn: !GetAtt {title}DeadQueue.Arn\nmaxReceiveCount: 1000");
        assert!(block(&format!("{title}Queue")).join("\n").contains(&redrive), "{title}");
        let lines = block(&format!("{title}QueuePolicy"));
        assert!(lines.contains(&format!("Queues: [!Ref {title}Queue]").as_str()), "{title}");
        let statement: Vec<_> = lines.iter().skip_while(|line| **line != "Statement:").skip(1).copied().collect();
        let told = |name: &str, value: &Value| {
            let text = value.to_string().replace(':', ": ").replace('{', "{ ").replace('}', " }");
            let text = text.replace("aws: ", "aws:").replace("sqs: ", "sqs:").replace("TOPIC", "!Ref Topic");
            let text = text.replace("QUEUE", &format!("!GetAtt {title}Queue.Arn"));
            // Quotes are needed around what has a colon in it.
            let text = text.replace('"', "").replace("aws:SourceArn", "\"aws:SourceArn\"");
            format!("{name}: {text}")
        };
        let wanted = policy["Statement"][0].as_object().unwrap();
        for (name, value) in wanted {
            let line = told(name, value);
            assert!(
                statement.iter().any(|told| told.trim_start_matches("- ") == line),
                "{line} is not in {statement:?}"
            );
        }
        let count = statement.iter().filter(|line| !line.is_empty()).count();
        assert_eq!(count, wanted.len(), "{statement:?}");
    }
}

#[test]
fn every_subscription_lets_through_what_its_consumer_hears() {
    for (consumer, kinds) in CONSUMERS {
        let title = titled(consumer);
        let hears: Subscriptions = kinds.iter().map(|kind| kind.parse::<KindPattern>().unwrap()).collect();
        let on = Resource::Subscription { name: String::new(), topic: String::new() };
        let lines = block(&format!("{title}Subscription"));
        for Setting { name, value } in made(subscription::compare(&on, &Some(&hears).into(), None)) {
            if name != "FilterPolicy" {
                assert!(lines.contains(&format!("{name}: {value}").as_str()), "{title}: {name}: {value}");
                continue;
            }
            let policy: Value = serde_json::from_str(&value).unwrap();
            let values = policy[names::KIND_ATTRIBUTE].as_array().unwrap().iter();
            let values = values.map(|value| match value {
                Value::String(kind) => format!("- {kind}"),
                prefix => format!("- prefix: {}", prefix["prefix"].as_str().unwrap()),
            });
            let told: Vec<_> = lines.iter().skip_while(|line| **line != "kind:").skip(1).copied().collect();
            assert_eq!(told.join("\n").trim_end(), values.collect::<Vec<_>>().join("\n"), "{title}");
        }
        for line in [format!("DependsOn: {title}QueuePolicy"), format!("Endpoint: !GetAtt {title}Queue.Arn")] {
            assert!(lines.contains(&line.as_str()), "{line}");
        }
    }
}

#[test]
fn every_process_may_do_what_the_table_is_asked_for() {
    let sources = [include_str!("../table.rs"), include_str!("../table/reads.rs")].concat();
    let asked = sources.split(".client.").skip(1).filter_map(|rest| rest.split_once("()")).map(|(called, _)| called);
    let mut asked: Vec<&str> = asked
        .flat_map(|operation| match operation {
            // Allowed by what it writes.
            "transact_write_items" => vec!["condition_check_item", "delete_item", "put_item", "update_item"],
            operation => vec![operation],
        })
        .collect();
    asked.sort_unstable();
    asked.dedup();
    let named = |operation: &str| operation.split('_').map(titled).collect::<String>();
    let asked: Vec<String> = asked.into_iter().map(|operation| format!("- dynamodb:{}", named(operation))).collect();
    let policy = block("ApiPolicy");
    let data =
        policy.iter().skip_while(|line| **line != "- Sid: Data").take_while(|line| !line.starts_with("Resource"));
    let allowed: Vec<&str> = data.copied().filter(|line| line.starts_with("- dynamodb:")).collect();
    assert_eq!(allowed, asked);
}

fn titled(consumer: &str) -> String {
    let (first, rest) = consumer.split_at(1);
    format!("{}{rest}", first.to_ascii_uppercase())
}
