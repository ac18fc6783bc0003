//! The program as functions of AWS Lambda: the real process, asked over the Runtime API, standing still in between.

use std::collections::BTreeSet;
use std::time::Duration;

use fanfare_tests::aws::{self, Call, Fault, FaultProxy};
use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::lambda::shop::{counter, deaf_sns, get, handled, order_of, place, placing, stock};
use fanfare_tests::lambda::{Failed, SHORT, Source, TIMEOUT, TestFunction, asked, request, request_v1};
use fanfare_tests::mail;
use fanfare_tests::orders::order;
use fanfare_tests::{Value, eventually, json, program};

#[test]
fn an_order_of_api_gateway_is_durable_and_told_when_it_is_answered() {
    let prefix = prefix();
    let mut inventory = TestFunction::with("consumer.inventory", &prefix, &["inventory"]);
    let mut api = TestFunction::with("api", &prefix, &[]);
    let queue = Source::of(&prefix, "inventory");
    let (key, order) = (json!({"idempotency-key": "k-1"}), order(&[("TEA", 2)]));
    let answer = api.invoke(&request("POST", "/v1/orders", &key, Some(&order)));
    let (status, placed) = asked(&answer);
    assert_eq!((status, &placed["total_amount"]), (201, &json!(2_000)), "{answer}");
    let id = placed["id"].as_str().expect("an id").to_owned();
    assert_eq!(answer["headers"]["location"], format!("/v1/orders/{id}"));

    // Of a REST API, and with a stage in the path of an HTTP API: the repeat of a key is the same order.
    let repeated = asked(&api.invoke(&request_v1("POST", "/v1/orders", &key, Some(&order))));
    assert_eq!(repeated, (201, placed.clone()));
    let mut staged = request("POST", "/prod/v1/orders", &key, Some(&order));
    staged["requestContext"]["stage"] = json!("prod");
    assert_eq!(asked(&api.invoke(&staged)), (201, placed));

    // The process stands still: what is there now was there when it answered.
    let event = queue.event(1);
    assert_eq!(order_of(&event["Records"][0]), id);
    let answer = inventory.invoke(&event);
    assert_eq!(queue.settle(&event, &answer), BTreeSet::new());
    assert_eq!(get(&mut api, &format!("/v1/orders/{id}"))["status"], "rejected", "there is no tea");

    let (status, problem) = asked(&api.invoke(&placing(&json!({"currency": "USD"}))));
    assert_eq!((status, &problem["type"]), (422, &json!("/problems/invalid-order")));
    // Lines are text, which a REST API need not be told to decode.
    let mut lines = request_v1("POST", "/v1/orders:import", &json!({}), Some(&order));
    lines["headers"]["content-type"] = json!("application/x-ndjson");
    let imported = api.invoke(&lines);
    assert!(imported["body"].as_str().is_some_and(|body| body.contains("\"created\"")), "{imported}");
    assert_eq!(imported["isBase64Encoded"], false);
    let (status, problem) = asked(&api.invoke(&request("GET", "/v1/nowhere", &json!({}), None)));
    assert_eq!((status, &problem["type"]), (404, &json!("/problems/not-found")));
    let consumers = get(&mut api, "/v1/consumers");
    assert_eq!(
        (&consumers["consumers"][0]["name"], &consumers["consumers"][0]["state"]),
        (&json!("inventory"), &json!("running"))
    );
}

#[test]
fn what_is_not_durable_comes_back_with_the_rest_of_its_group_and_takes_effect_once() {
    let prefix = prefix();
    let dynamodb = FaultProxy::before(&aws::endpoint("DYNAMODB"));
    let mut inventory = TestFunction::new("consumer.inventory", &prefix);
    inventory.consumers.add("inventory");
    inventory.variable("AWS_ENDPOINT_URL_DYNAMODB", &dynamodb.url());
    // Or the guest would be out of time before it is told that its stock cannot be read.
    inventory.variable("FANFARE_AWS_ATTEMPTS_MAX", "2");
    inventory.start();
    let mut api = TestFunction::with("api", &prefix, &[]);
    let queue = Source::of(&prefix, "inventory");
    ["TEA", "CUP"].iter().for_each(|sku| stock(&mut api, &mut inventory, &queue, sku, 100));

    let orders = ["TEA", "CUP", "TEA"].map(|sku| place(&mut api, &[(sku, 1)]));
    let stuck = orders[1].clone();
    let cancelling =
        request("POST", &format!("/v1/orders/{stuck}/cancel"), &json!({}), Some(&json!({"reason": "late"})));
    assert_eq!(asked(&api.invoke(&cancelling)).0, 200);
    let event = queue.event(4);
    let records = event["Records"].as_array().expect("records").clone();

    // What one of the orders asks for cannot be read, alone or with others, so that nothing of it can be committed.
    let is_stuck =
        |call: &Call| ["GetItem", "BatchGetItem"].contains(&call.operation.as_str()) && call.body.contains("stock/CUP");
    dynamodb.choose(move |call| if is_stuck(call) { Fault::Throttle } else { Fault::Pass });
    let answer = inventory.try_invoke(&event, SHORT).unwrap_or_else(|why| panic!("{why:?}\n{}", inventory.log()));
    let back = queue.settle(&event, &answer);
    let of_stuck = records.iter().filter(|record| order_of(record) == stuck);
    let of_stuck: BTreeSet<String> =
        of_stuck.map(|record| record["messageId"].as_str().expect("an id").to_owned()).collect();
    assert_eq!((back, of_stuck.len()), (of_stuck, 2));
    for id in [&orders[0], &orders[2]] {
        assert_eq!(get(&mut api, &format!("/v1/orders/{id}"))["status"], "confirmed");
    }
    assert_eq!(counter(&mut api, "inventory", "stock/TEA"), 98);

    // The same messages once more, until none comes back: what was done before is not done again.
    dynamodb.tell(Fault::Pass);
    let done = (0..5).any(|_| queue.settle(&event, &inventory.invoke(&event)).is_empty());
    assert!(done, "{}", inventory.log());
    assert_eq!(counter(&mut api, "inventory", "stock/TEA"), 98);
    let answer = inventory.invoke(&event);
    assert_eq!(answer, json!({"batchItemFailures": []}));
    assert_eq!(counter(&mut api, "inventory", "stock/TEA"), 98);
    assert_eq!(counter(&mut api, "inventory", "stock/CUP"), 100, "taken, and given back");
}

#[test]
fn the_worker_publishes_what_a_killed_function_left() {
    let prefix = prefix();
    drop(TestFunction::with("consumer.inventory", &prefix, &["inventory"]));
    let queue = Source::of(&prefix, "inventory");
    let sns = deaf_sns();
    let mut killed = TestFunction::new("api", &prefix);
    killed.variable("AWS_ENDPOINT_URL_SNS", &sns.url());
    killed.die_at(Some("order.durable:1")).start();
    let key = json!({"idempotency-key": "k-1"});
    let placing = request("POST", "/v1/orders", &key, Some(&order(&[("TEA", 2)])));
    let failed = killed.try_invoke(&placing, TIMEOUT).expect_err("it dies");
    assert!(matches!(failed, Failed::Ended(_)), "{failed:?}");

    // A repeat finds the order, and tells nobody of it.
    let (status, placed) = asked(&TestFunction::with("api", &prefix, &[]).invoke(&placing));
    assert_eq!((status, queue.count()), (201, 0));
    let mut worker = TestFunction::with("worker", &prefix, &[]);
    worker.invoke(&json!({"source": "aws.events"}));
    queue.comes_to(1);
    assert_eq!(order_of(&queue.event(1)["Records"][0]), placed["id"].as_str().expect("an id"));
}

#[test]
fn a_function_that_stood_still_with_unpublished_events_goes_on_beside_whoever_published_them() {
    let prefix = prefix();
    drop(TestFunction::with("consumer.inventory", &prefix, &["inventory"]));
    let queue = Source::of(&prefix, "inventory");
    let sns = deaf_sns();
    let mut api = TestFunction::new("api", &prefix);
    api.variable("AWS_ENDPOINT_URL_SNS", &sns.url());
    api.start();
    let answer = api.try_invoke(&placing(&order(&[("TEA", 1)])), SHORT);
    let (status, first) = asked(&answer.unwrap_or_else(|why| panic!("{why:?}\n{}", api.log())));
    assert_eq!((status, queue.count()), (201, 0), "it is durable, and SNS takes nothing");
    let mut worker = TestFunction::with("worker", &prefix, &[]);
    worker.invoke(&json!({}));
    queue.comes_to(1);

    sns.tell(Fault::Pass);
    let second = place(&mut api, &[("TEA", 1)]);
    assert!(api.log().contains("has taken this one's slot"), "{}", api.log());
    let told: Vec<String> = queue.event(2)["Records"].as_array().expect("records").iter().map(order_of).collect();
    assert_eq!(told, [first["id"].as_str().expect("an id"), &second]);
    assert_eq!(queue.count(), 2, "nothing is told twice");
}

#[test]
fn the_worker_retries_what_is_due_and_sends_what_waits() {
    let prefix = prefix();
    let mail_folder = tempfile::tempdir().expect("a folder");
    let retries = |function: &TestFunction| {
        function.consumers.add("always-retry");
        function.consumers.set_policy("always-retry", "[settings]\nsucceed_at = \"2\"\nafter_ms = \"0\"\n");
    };
    let mut consumer = TestFunction::new("consumer.always-retry", &prefix);
    retries(&consumer);
    consumer.start();
    let mut notification = TestFunction::with("consumer.notification", &prefix, &["notification"]);
    let mut worker = TestFunction::new("worker", &prefix);
    retries(&worker);
    worker.consumers.add("notification");
    worker.variable("FANFARE_MAIL_FOLDER", mail_folder.path().to_str().expect("a path"));
    worker.start();
    let mut api = TestFunction::with("api", &prefix, &[]);
    place(&mut api, &[("TEA", 1)]);

    // The table has the exception, and the queue need not.
    handled(&mut consumer, &Source::of(&prefix, "always-retry"), 1);
    assert_eq!(counter(&mut api, "always-retry", "handled"), 0);
    handled(&mut notification, &Source::of(&prefix, "notification"), 1);
    assert_eq!(get(&mut api, "/v1/messages")["messages"][0]["state"], "pending");

    assert_eq!(worker.invoke(&json!({"Records": []})), json!({"batchItemFailures": []}));
    assert_eq!(counter(&mut api, "always-retry", "handled"), 1, "{}", worker.log());
    assert_eq!(get(&mut api, "/v1/messages")["messages"][0]["state"], "sent", "{}", worker.log());
    assert_eq!(mail::in_folder(mail_folder.path()).len(), 1);
}

#[test]
fn the_worker_tells_a_new_consumer_of_the_past() {
    let prefix = prefix();
    let mut api = TestFunction::with("api", &prefix, &[]);
    let id = place(&mut api, &[("TEA", 1)]);
    let mut worker = TestFunction::new("worker", &prefix);
    worker.consumers.add("inventory");
    worker.consumers.set_policy(
        "inventory",
        "start = \"beginning\"\n[grant]\nchange_order = true\npublish = [\"com.fanfare.stock.low\"]\n",
    );
    worker.start();
    // What was written a moment ago is left to the next invocation.
    eventually("the order is rejected", || {
        worker.invoke(&json!({}));
        let order = get(&mut api, &format!("/v1/orders/{id}"));
        if order["status"] == "rejected" { Ok(()) } else { Err(worker.log()) }
    });
}

#[test]
fn messages_of_a_paused_consumer_come_back() {
    let prefix = prefix();
    let mut inventory = TestFunction::with("consumer.inventory", &prefix, &["inventory"]);
    let mut api = TestFunction::with("api", &prefix, &[]);
    let queue = Source::of(&prefix, "inventory");
    let id = place(&mut api, &[("TEA", 1)]);
    let steer = |step: &str| request("POST", &format!("/v1/consumers/inventory/{step}"), &json!({}), Some(&json!({})));
    assert_eq!(asked(&api.invoke(&steer("pause"))).0, 200);
    let event = queue.event(1);
    assert_eq!(queue.settle(&event, &inventory.invoke(&event)).len(), 1);
    assert_eq!(asked(&api.invoke(&steer("resume"))).0, 200);
    assert_eq!(queue.settle(&event, &inventory.invoke(&event)).len(), 0);
    assert_eq!(get(&mut api, &format!("/v1/orders/{id}"))["status"], "rejected");
}

#[test]
fn what_is_no_event_of_fanfare_is_put_aside_and_the_others_are_handled() {
    let prefix = prefix();
    let mut inventory = TestFunction::with("consumer.inventory", &prefix, &["inventory"]);
    let mut api = TestFunction::with("api", &prefix, &[]);
    let (queue, dead) = (Source::of(&prefix, "inventory"), Source::dead(&prefix, "inventory"));
    let id = place(&mut api, &[("TEA", 1)]);
    let mut event = queue.event(1);
    let mut stranger = event["Records"][0].clone();
    stranger["messageId"] = json!("11111111-0000-4000-8000-000000000000");
    (stranger["body"], stranger["messageAttributes"]) = (json!("hello"), json!({}));
    stranger["attributes"]["MessageGroupId"] = json!("another");
    let mut newer = stranger.clone();
    newer["messageId"] = json!("22222222-0000-4000-8000-000000000000");
    newer["attributes"]["MessageGroupId"] = json!("newer");
    newer["messageAttributes"] = json!({"fanfare": {"stringValue": "{\"v\":9000}", "dataType": "String"}});
    let records = event["Records"].as_array_mut().expect("records");
    records.extend([stranger, newer]);
    let answer = inventory.invoke(&event);
    let back = json!({"batchItemFailures": [{"itemIdentifier": "22222222-0000-4000-8000-000000000000"}]});
    assert_eq!(answer, back, "only what another version of the program understands comes again");
    assert_eq!(dead.event(1)["Records"][0]["body"], "hello");
    assert_eq!(get(&mut api, &format!("/v1/orders/{id}"))["status"], "rejected");
}

#[test]
fn what_a_function_is_not_for_is_told_with_the_reason() {
    let prefix = prefix();
    let mut inventory = TestFunction::with("consumer.inventory", &prefix, &["inventory"]);
    let told = |function: &mut TestFunction, event: &Value, timeout| match function.try_invoke(event, timeout) {
        Err(Failed::Told(why)) => {
            (why["errorType"].as_str().unwrap_or_default().to_owned(), why["errorMessage"].to_string())
        }
        other => panic!("{other:?}"),
    };
    let of_sns = json!({"Records": [{"EventSource": "aws:sns", "Sns": {"Message": "hello"}}]});
    let (kind, why) = told(&mut inventory, &of_sns, SHORT);
    assert!(kind == "Fanfare.NotMessages" && why.contains("messages of an SQS queue"), "{kind} {why}");
    let (kind, why) = told(&mut inventory, &json!("hello"), SHORT);
    assert!(kind == "Fanfare.NotMessages" && why.contains("hello"), "{kind} {why}");
    let record = |arn: &str| json!({"Records": [{"messageId": "1", "eventSource": "aws:sqs", "eventSourceARN": arn}]});
    let other = "arn:aws:sqs:eu-central-1:000000000000:other.fifo";
    let (kind, why) = told(&mut inventory, &record(other), SHORT);
    let own = Source::of(&prefix, "inventory").arn;
    assert!(kind == "Fanfare.OtherQueue" && why.contains(other) && why.contains(&own), "{kind} {why}");
    let (kind, why) = told(&mut inventory, &record(&own), Duration::from_secs(3));
    assert!(kind == "Fanfare.TooShort" && why.contains("limits.time"), "{kind} {why}");

    let mut api = TestFunction::with("api", &prefix, &[]);
    let (_, why) = told(&mut api, &of_sns, SHORT);
    assert!(why.contains("API Gateway"), "{why}");
}

#[test]
fn a_function_that_cannot_start_says_why() {
    let prefix = prefix();
    let told = |function: &mut TestFunction| {
        let why = function.start_or_fail().expect_err("it does not start");
        why["errorMessage"].as_str().unwrap_or_else(|| panic!("{why}\n{}", function.log())).to_owned()
    };
    let why = told(&mut TestFunction::new("consumer.fraud", &prefix));
    assert!(why.contains("there is no consumer fraud: put its plugin at"), "{why}");
    let bad = TestFunction::new("consumer.fraud", &prefix);
    bad.consumers.put("fraud", b"no component");
    let why = told(&mut { bad });
    assert!(why.contains("the consumer fraud is failed: "), "{why}");
    let mut lost = TestFunction::new("api", &prefix);
    lost.variable("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:9");
    let why = told(&mut lost);
    assert!(why.contains("http://127.0.0.1:9"), "{why}");

    let run = program::run(["lambda", "api"]);
    assert_eq!(run.code(), Some(2), "{run:#?}");
    assert!(run.stderr.contains("AWS_LAMBDA_RUNTIME_API") && run.stderr.contains("fanfare serve"), "{run:#?}");
}
