//! What goes wrong at AWS, or on the way there: it costs time, and no order, and no effect comes twice.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fanfare_tests::aws::{self, Fault, Way};
use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::orders::order;
use fanfare_tests::program::{self, finish};
use fanfare_tests::{Client, TestHost, Value, eventually, json, within};

/// Longer than SQS and the host hide what was not deleted, and than any wait between two tries.
const RECOVERED_WITHIN: Duration = Duration::from_secs(120);

/// How long the host tries a transaction before it gives its deliveries back.
const TRIED_FOR: Duration = Duration::from_secs(30);

/// A host on a store of its own at AWS, with a way there on which things go wrong, and `reports-one`, which counts orders.
struct Cloud {
    host: TestHost,
    way: Way,
    prefix: String,
}

impl Cloud {
    fn start() -> Self {
        Self::start_with("")
    }

    /// With this side file of `reports`.
    fn start_with(policy: &str) -> Self {
        let prefix = prefix();
        let mut host = TestHost::new();
        host.argument("--backend").argument("aws");
        host.variable("FANFARE_AWS_PREFIX", &prefix).variable("FANFARE_AWS_PROVISION", "true");
        let way = Way::of(&mut host);
        host.consumers.set_policy("reports", policy);
        host.consumers.put("reports", &fanfare_tests::guests::wasm("reports-one"));
        host.start();
        Self { host, way, prefix }
    }

    fn client(&self) -> Client {
        self.host.client()
    }

    /// `fanfare`, on the same store.
    fn tool(&self) -> Command {
        let mut command = program::fanfare();
        command.current_dir(self.host.folder()).env("FANFARE_AWS_PREFIX", &self.prefix);
        command
    }

    fn sqs(&self, operation: &str, body: &Value) -> Value {
        let (status, answer) = aws::ask(&aws::endpoint("SQS"), &format!("AmazonSQS.{operation}"), body);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    fn sns(&self, form: &[(&str, &str)]) -> String {
        aws::ask_sns(&aws::endpoint("SNS"), form)
    }

    /// The topic's one subscription, if there is one.
    fn subscription(&self) -> Option<String> {
        // A list of all topics has pages; the queue knows its own.
        let asked = json!({"QueueUrl": self.queue(""), "AttributeNames": ["Policy"]});
        let policy =
            self.sqs("GetQueueAttributes", &asked)["Attributes"]["Policy"].as_str().expect("a policy").to_owned();
        let policy: Value = serde_json::from_str(&policy).expect("JSON");
        let topic = policy["Statement"][0]["Condition"]["ArnEquals"]["aws:SourceArn"].as_str().expect("a topic");
        let listed = self.sns(&[("Action", "ListSubscriptionsByTopic"), ("TopicArn", topic)]);
        let (_, rest) = listed.split_once("<SubscriptionArn>")?;
        rest.split_once('<').map(|(arn, _)| arn.to_owned())
    }

    /// Where SQS has the queue of `reports`: `""`, or the one for dead letters: `-dead`.
    fn queue(&self, which: &str) -> Value {
        let name = format!("{}-reports{which}.fifo", self.prefix);
        self.sqs("GetQueueUrl", &json!({"QueueName": name}))["QueueUrl"].take()
    }

    /// Messages in a queue, hidden or not.
    fn messages(&self, queue: &Value) -> i64 {
        let asked = json!({"QueueUrl": queue, "AttributeNames": ["All"]});
        let attributes = self.sqs("GetQueueAttributes", &asked);
        let count = |name: &str| attributes["Attributes"][name].as_str().and_then(|it| it.parse().ok()).unwrap_or(0);
        count("ApproximateNumberOfMessages") + count("ApproximateNumberOfMessagesNotVisible")
    }

    /// Each of so many orders was handled once, and at the first attempt.
    #[track_caller]
    fn each_was_handled_once(&self, orders: &[String]) {
        let client = self.client();
        within(RECOVERED_WITHIN, "every order is handled", || match client.counter("reports", "handled") {
            handled if handled >= i64::try_from(orders.len()).unwrap_or(i64::MAX) => Ok(()),
            handled => Err(format!("{handled} of {} are; {:#?}", orders.len(), client.consumer("reports"))),
        });
        within(RECOVERED_WITHIN, "nothing is pending", || match client.consumer("reports") {
            Some(reports) if reports["pending"] == 0 => Ok(()),
            reports => Err(format!("{reports:#?}")),
        });
        assert_eq!(client.counter("reports", "handled"), i64::try_from(orders.len()).unwrap_or(i64::MAX));
        for id in orders {
            let delivery = client.order(id)["deliveries"][0].clone();
            assert_eq!((&delivery["state"], &delivery["attempts"]), (&json!("done"), &json!(1)), "{delivery:#}");
        }
    }
}

/// What is said of `reports` beside its state.
fn cut_off(client: &Client) -> Option<String> {
    client.consumer("reports").and_then(|reports| reports["reason"].as_str().map(str::to_owned))
}

/// Places so many orders from several shops at once, each sent again until it is answered; their ids.
fn place(client: &Client, orders: usize) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let shop = || {
        let mut ids = Vec::new();
        while next.fetch_add(1, Ordering::Relaxed) < orders {
            let key = format!("{:?}-{}", thread::current().id(), ids.len());
            let headers = [("Idempotency-Key", key.as_str())];
            let body = order(&[("TEA", 1)]).to_string();
            ids.push(within(RECOVERED_WITHIN, "the order is taken", || {
                match client.try_post("/v1/orders", &headers, body.as_bytes()) {
                    Ok(answer) if answer.status == 201 => Ok(answer.id()),
                    other => Err(format!("{other:#?}")),
                }
            }));
        }
        ids
    };
    thread::scope(|scope| {
        let shops: Vec<_> = (0..8).map(|_| scope.spawn(shop)).collect();
        shops.into_iter().flat_map(|shop| shop.join().expect("a shop")).collect()
    })
}

#[test]
fn where_aws_cannot_be_reached_for_a_while_orders_are_answered_with_503_and_nothing_is_lost() {
    let cloud = Cloud::start();
    let client = cloud.client();
    let mut ids = place(&client, 5);
    cloud.way.tell(&Fault::HangUp);
    cloud.way.cut();
    let unknown = client.place(&order(&[("TEA", 1)]));
    assert_eq!(unknown.problem(503)["type"], "/problems/outcome-unknown");
    let not_ready = client.get("/readyz").problem(503);
    assert!(not_ready["detail"].to_string().contains("AWS"), "{not_ready:#}");
    assert_eq!(client.get("/healthz").status, 200, "to start it again would not help");
    cloud.way.tell(&Fault::Pass);
    ids.extend(place(&client, 5));
    let there = within(RECOVERED_WITHIN, "what was not known is settled", || {
        let there: Vec<String> =
            client.orders().iter().filter_map(|order| order["id"].as_str().map(str::to_owned)).collect();
        let settled = client.consumer("reports").is_some_and(|reports| reports["pending"] == 0);
        if settled { Ok(there) } else { Err(format!("{} are there", there.len())) }
    });
    // The one that was answered with neither may be there or not, as the answer said.
    assert!(ids.iter().all(|id| there.contains(id)) && [10, 11].contains(&there.len()), "{there:?}");
    cloud.each_was_handled_once(&there);
}

#[test]
fn throttling_of_every_call_for_half_a_minute_costs_time_and_no_attempt() {
    let cloud = Cloud::start();
    let client = cloud.client();
    let mut ids = place(&client, 5);
    cloud.way.tell(&Fault::Throttle);
    let begin = Instant::now();
    ids.extend(thread::scope(|scope| {
        let placing = scope.spawn(|| place(&client, 16));
        thread::sleep(Duration::from_secs(30).saturating_sub(begin.elapsed()));
        cloud.way.tell(&Fault::Pass);
        placing.join().expect("shops")
    }));
    assert_eq!(ids.len(), 21);
    cloud.each_was_handled_once(&ids);
    assert_eq!(client.dead_letters("reports"), Vec::<Value>::new());
    let checked = program::run(["check", "--url", client.base()]).succeeded();
    assert!(checked.stdout.contains("nothing is wrong"), "{checked:?}");
}

#[test]
fn state_that_is_slow_to_read_costs_time_and_no_attempt() {
    let cloud = Cloud::start_with("[limits]\ntime = \"1s\"");
    let client = cloud.client();
    let slow = Arc::new(AtomicUsize::new(0));
    let reads = Arc::clone(&slow);
    cloud.way.dynamodb.choose(move |call| {
        let reads_state = call.operation.ends_with("GetItem") && call.body.contains("\"s#reports#");
        if reads_state && reads.fetch_add(1, Ordering::Relaxed) < 4 {
            return Fault::Delay(Duration::from_secs(3));
        }
        Fault::Pass
    });
    let ids = place(&client, 6);
    cloud.each_was_handled_once(&ids);
    assert!(slow.load(Ordering::Relaxed) >= 1, "its state was read");
}

#[test]
fn an_order_whose_writes_are_throttled_holds_up_no_other() {
    let cloud = Cloud::start();
    let client = cloud.client();
    let _ = client.post("/v1/consumers/reports/pause", &json!({})).expect(200);
    let mut ids = place(&client, 1);
    let held = ids[0].clone();
    cloud.way.dynamodb.choose(move |call| {
        let throttled = call.operation == "TransactWriteItems" && call.body.contains(&held);
        if throttled { Fault::Throttle } else { Fault::Pass }
    });
    let _ = client.post("/v1/consumers/reports/resume", &json!({})).expect(200);
    ids.extend(place(&client, 5));
    within(TRIED_FOR - Duration::from_secs(8), "the others are handled", || {
        match client.counter("reports", "handled") {
            5 => Ok(()),
            other => Err(format!("{other} are; {:#?}", client.consumer("reports"))),
        }
    });
    eventually("it is pending", || match client.consumer("reports") {
        Some(reports) if reports["pending"] == 1 => Ok(()),
        other => Err(format!("{other:#?}")),
    });
    cloud.way.tell(&Fault::Pass);
    cloud.each_was_handled_once(&ids);
}

#[test]
fn half_a_batch_that_fails_is_sent_again_and_receipts_that_expired_cost_no_effect() {
    let cloud = Cloud::start();
    let client = cloud.client();
    cloud.way.choose(|call| match call.operation.as_str() {
        "PublishBatch" | "ChangeMessageVisibilityBatch" => Fault::RefuseHalf("InternalError"),
        "DeleteMessageBatch" => Fault::RefuseHalf("ReceiptHandleIsInvalid"),
        _ => Fault::Pass,
    });
    let ids = place(&client, 60);
    cloud.each_was_handled_once(&ids);
    cloud.way.tell(&Fault::Pass);
    let queue = cloud.queue("");
    within(RECOVERED_WITHIN, "messages that came again are deleted", || match cloud.messages(&queue) {
        0 => Ok(()),
        some => Err(format!("{some} are left")),
    });
    cloud.each_was_handled_once(&ids);
}

#[test]
fn a_pause_that_arrives_again_late_does_not_undo_that_the_consumer_was_resumed() {
    let cloud = Cloud::start();
    let client = cloud.client();
    let mut first = true;
    cloud.way.dynamodb.choose(move |call| {
        let late = call.body.contains("psince") && std::mem::take(&mut first);
        if late { Fault::ArriveLate(Duration::from_secs(2)) } else { Fault::Pass }
    });
    let state = |step: &str| client.post(&format!("/v1/consumers/reports/{step}"), &json!({})).expect(200).json();
    assert_eq!(state("pause")["state"], "paused");
    assert_eq!(state("resume")["state"], "running");
    eventually("the first try of the pause has arrived", || match cloud.way.dynamodb.arrived_late() {
        1 => Ok(()),
        other => Err(other.to_string()),
    });
    assert_eq!(client.consumer("reports").expect("reports")["paused"], Value::Null);
    cloud.each_was_handled_once(&place(&client, 1));
}

#[test]
fn what_sns_took_and_sqs_does_not_show_yet_is_pending_until_it_does() {
    let cloud = Cloud::start();
    let client = cloud.client();
    cloud.way.choose(|call| if call.operation == "ReceiveMessage" { Fault::Nothing } else { Fault::Pass });
    // A poll that began before is over when it has something.
    let mut ids = place(&client, 1);
    cloud.each_was_handled_once(&ids);
    ids.extend(place(&client, 5));
    eventually("they are pending", || match client.consumer("reports") {
        Some(reports) if reports["pending"] == 5 => Ok(()),
        other => Err(format!("{other:#?}")),
    });
    cloud.way.tell(&Fault::Pass);
    cloud.each_was_handled_once(&ids);
}

#[test]
fn a_queue_that_is_deleted_is_told_of_and_once_it_is_made_anew_its_events_come_from_the_journal() {
    let mut cloud = Cloud::start();
    cloud.host.ask_to_end();
    assert!(cloud.host.ended().success());
    cloud.host.variable("FANFARE_AWS_PROVISION", "false");
    cloud.host.start();
    let client = cloud.client();
    let mut ids = place(&client, 3);
    cloud.each_was_handled_once(&ids);
    cloud.sqs("DeleteQueue", &json!({"QueueUrl": cloud.queue("")}));
    eventually("it is told of", || match cut_off(&client) {
        Some(reason) if reason.contains("is gone") || reason.contains("create queue") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    ids.extend(place(&client, 3));
    let provision = finish(cloud.tool().arg("provision").arg("reports"));
    assert_eq!(provision.code(), Some(0), "{provision:#?}");
    cloud.each_was_handled_once(&ids);
    within(RECOVERED_WITHIN, "it is told of no more", || cut_off(&client).map_or(Ok(()), Err));
}

#[test]
fn a_host_that_provisions_mends_a_subscription_that_was_deleted_and_what_was_missed_comes_from_the_journal() {
    let cloud = Cloud::start();
    let client = cloud.client();
    let mut ids = place(&client, 3);
    cloud.each_was_handled_once(&ids);
    let subscription = cloud.subscription().expect("a subscription");
    cloud.sns(&[("Action", "Unsubscribe"), ("SubscriptionArn", &subscription)]);
    assert_eq!(cloud.subscription(), None);
    // A consumer that is new follows the journal for a while, and what is younger than a minute is left to the queue.
    within(4 * RECOVERED_WITHIN, "it is subscribed again", || {
        ids.extend(place(&client, 1));
        thread::sleep(Duration::from_secs(5));
        cloud.subscription().map(drop).ok_or_else(|| "there is no subscription".to_owned())
    });
    ids.extend(place(&client, 3));
    cloud.each_was_handled_once(&ids);
    assert_eq!(cut_off(&client), None);
}

#[test]
fn a_queue_for_dead_letters_that_was_deleted_is_made_anew_for_what_is_no_event() {
    let cloud = Cloud::start();
    let queue = cloud.queue("");
    cloud.sqs("DeleteQueue", &json!({"QueueUrl": cloud.queue("-dead")}));
    let letter = json!({"QueueUrl": queue, "MessageBody": "good morning", "MessageGroupId": "letter",
        "MessageDeduplicationId": "letter"});
    cloud.sqs("SendMessage", &letter);
    within(RECOVERED_WITHIN, "what is no event is put aside", || match cloud.messages(&queue) {
        0 => Ok(()),
        other => Err(format!("{other} are in the queue; {}", cloud.host.log())),
    });
    assert_eq!(cloud.messages(&cloud.queue("-dead")), 1);
}

#[test]
fn a_message_that_is_no_event_is_put_aside_and_one_of_a_newer_host_waits_for_it() {
    let cloud = Cloud::start();
    let client = cloud.client();
    let (queue, dead) = (cloud.queue(""), cloud.queue("-dead"));
    let send = |id: &str, body: &str, envelope: Option<&str>| {
        let mut message = json!({"QueueUrl": queue, "MessageBody": body, "MessageGroupId": id,
            "MessageDeduplicationId": id});
        if let Some(envelope) = envelope {
            message["MessageAttributes"]["fanfare"] = json!({"DataType": "String", "StringValue": envelope});
        }
        cloud.sqs("SendMessage", &message);
    };
    send("letter", "good morning", None);
    send("damaged", "{}", Some("{\"v\":1,\"lane\":7}"));
    send("newer", "{}", Some("{\"v\":99,\"whatever\":\"comes\"}"));
    // One of a shop with another table, or with the one that was here before.
    let event = json!({"specversion": "1.0", "id": "01a22d62-7e0c-7557-a046-2527ed841ce6", "source": "/other",
        "type": "com.example.a", "subject": "TEA", "time": "2026-11-30T16:55:59.244Z", "data": {}});
    let envelope = json!({"v": 1, "lane": "s#TEA", "seq": 1, "position": 753586661328576_u64, "depth": 0,
        "table": "17235b6a-42ef-490a-89d1-77689d57aa87"});
    send("other", &event.to_string(), Some(&envelope.to_string()));
    eventually("what is no event is put aside", || match cloud.messages(&dead) {
        3 => Ok(()),
        other => Err(format!("{other} are; {}", cloud.host.log())),
    });
    let asked = json!({"QueueUrl": dead, "MaxNumberOfMessages": 10, "VisibilityTimeout": 0});
    let aside = cloud.sqs("ReceiveMessage", &asked);
    let bodies: Vec<_> = aside["Messages"].as_array().into_iter().flatten().map(|message| &message["Body"]).collect();
    assert_eq!(bodies, [&json!("good morning"), &json!("{}"), &json!(event.to_string())], "as they came");
    for said in [
        "Who sends to this queue?",
        "it is of another store",
        "an event of a newer host waits in the queue: update this host",
    ] {
        eventually("the host says so", || match cloud.host.log() {
            log if log.contains(said) => Ok(()),
            log => Err(log),
        });
    }
    let ids = place(&client, 3);
    cloud.each_was_handled_once(&ids);
    eventually("only the newer host's is left", || match cloud.messages(&queue) {
        1 => Ok(()),
        other => Err(format!("{other} are")),
    });
}
