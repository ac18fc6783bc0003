//! Functions of AWS Lambda that run out of time, are killed, or share their store with hosts.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use fanfare_tests::aws::{self, Call, Fault, FaultProxy, Protocol};
use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::lambda::shop::{counter, get, handled, order_of, place, placing, stock};
use fanfare_tests::lambda::{Failed, SHORT, Source, TIMEOUT, TestFunction, asked, request};
use fanfare_tests::orders::order;
use fanfare_tests::{Client, TestHost, Value, guests, json};

/// More than one transaction of DynamoDB holds, where each line is two counters.
const LINES: u32 = 60;

fn host(prefix: &str) -> TestHost {
    let mut host = TestHost::new();
    host.argument("--backend").argument("aws");
    host.variable("FANFARE_AWS_PREFIX", prefix).variable("FANFARE_AWS_PROVISION", "true");
    host
}

#[test]
fn a_worker_without_a_folder_of_consumers_says_so_and_makes_none() {
    let mut worker = TestFunction::new("worker", &prefix());
    let nowhere = worker.folder().join("nowhere");
    worker.variable("FANFARE_CONSUMERS_DIR", &nowhere.display().to_string());
    let why = worker.start_or_fail().expect_err("it has no plugins").to_string();
    assert!(why.contains("nowhere") && why.contains("FANFARE_CONSUMERS_DIR"), "{why}");
    assert!(!nowhere.exists());
}

#[test]
fn what_might_not_end_in_time_comes_back_before_it_begins() {
    let prefix = prefix();
    let mut sleeps = TestFunction::new("consumer.sleeps", &prefix);
    sleeps.consumers.add("sleeps");
    sleeps.consumers.set_policy("sleeps", "concurrency = 1\n[limits]\ntime = \"2s\"\n[retry]\nbase = \"5m\"\n");
    sleeps.start();
    let mut api = TestFunction::with("api", &prefix, &[]);
    let queue = Source::of(&prefix, "sleeps");
    for _ in 0..8 {
        place(&mut api, &[("TEA", 1)]);
    }
    let event = queue.event(8);
    let answer = sleeps.try_invoke(&event, SHORT).unwrap_or_else(|why| panic!("{why:?}\n{}", sleeps.log()));
    let back = queue.settle(&event, &answer);
    assert!((1..8).contains(&back.len()), "{back:?}");
    for record in event["Records"].as_array().expect("records") {
        let order = get(&mut api, &format!("/v1/orders/{}", order_of(record)));
        let began = order["deliveries"][0]["attempts"] != 0;
        let came_back = back.contains(record["messageId"].as_str().expect("an id"));
        assert_ne!(began, came_back, "{order:#}");
    }
}

#[test]
fn a_function_that_dies_in_the_middle_of_a_batch_repeats_no_effect() {
    let prefix = prefix();
    let mut inventory = TestFunction::with("consumer.inventory", &prefix, &["inventory"]);
    let mut api = TestFunction::with("api", &prefix, &[]);
    let queue = Source::of(&prefix, "inventory");
    stock(&mut api, &mut inventory, &queue, "TEA", 100);
    let orders: Vec<String> = (0..3).map(|_| place(&mut api, &[("TEA", 1)])).collect();
    let event = queue.event(3);
    for nth in [2, 1] {
        inventory.kill();
        inventory.die_at(Some(&format!("delivery.handled:{nth}"))).start();
        let failed = inventory.try_invoke(&event, TIMEOUT).expect_err("it dies");
        assert!(matches!(failed, Failed::Ended(_)), "{failed:?}");
        inventory.die_at(None).start();
    }
    // Lambda has heard nothing: all of them come again.
    let done = (0..5).any(|_| queue.settle(&event, &inventory.invoke(&event)).is_empty());
    assert!(done, "{}", inventory.log());
    assert_eq!(counter(&mut api, "inventory", "stock/TEA"), 97);
    for id in orders {
        assert_eq!(get(&mut api, &format!("/v1/orders/{id}"))["status"], "confirmed");
    }
}

#[test]
fn a_large_commit_of_a_function_that_ran_out_of_time_is_ended_by_the_worker_and_counts_once() {
    let prefix = prefix();
    let dynamodb = FaultProxy::before(&aws::endpoint("DYNAMODB"));
    let mut analytics = TestFunction::new("consumer.analytics", &prefix);
    analytics.consumers.add("analytics");
    analytics.variable("AWS_ENDPOINT_URL_DYNAMODB", &dynamodb.url());
    analytics.start();
    let mut api = TestFunction::with("api", &prefix, &[]);
    let queue = Source::of(&prefix, "analytics");
    let skus: Vec<String> = (0..LINES).map(|n| format!("SKU-{n}")).collect();
    let lines: Vec<(&str, u32)> = skus.iter().map(|sku| (sku.as_str(), 1)).collect();
    place(&mut api, &lines);

    // It is decided, and nothing of it is done: no later request is answered for as long as the function may take.
    let mut is_decided = false;
    dynamodb.choose(move |call| {
        let was_decided = is_decided;
        is_decided |= call.operation == "TransactWriteItems" && call.body.contains("\"decided\"");
        if was_decided { Fault::Delay(SHORT) } else { Fault::Pass }
    });
    let event = queue.event(1);
    let failed = analytics.try_invoke(&event, SHORT).expect_err("it does not stand still with a request on its way");
    assert!(matches!(failed, Failed::TimedOut), "{failed:?}\n{}", analytics.log());

    let mut worker = TestFunction::with("worker", &prefix, &[]);
    worker.invoke(&json!({}));
    assert!(worker.log().contains("a large commit was left behind"), "{}", worker.log());
    dynamodb.tell(Fault::Pass);
    analytics.start();
    let answer = analytics.invoke(&event);
    assert_eq!(queue.settle(&event, &answer), BTreeSet::new(), "{}", analytics.log());
    let state = get(&mut api, "/v1/consumers/analytics/state?prefix=units/sku/&limit=100");
    let counted: Vec<i64> =
        state["counters"].as_array().expect("counters").iter().filter_map(|one| one["value"].as_i64()).collect();
    assert_eq!(counted, vec![1; LINES as usize], "{state:#}");
}

#[test]
fn hosts_and_functions_share_a_store() {
    let prefix = prefix();
    let mut host = host(&prefix);
    host.consumers.add("inventory");
    host.start();
    let client = host.client();
    client.stock(&["TEA"], 10);
    let mut shipment = TestFunction::with("consumer.shipment", &prefix, &["shipment"]);
    let mut api = TestFunction::with("api", &prefix, &[]);
    let queue = Source::of(&prefix, "shipment");

    // Of both, the host confirms and the function ships.
    let orders = [place(&mut api, &[("TEA", 1)]), client.placed(&order(&[("TEA", 2)]))];
    handled(&mut shipment, &queue, 2);
    for id in &orders {
        assert_eq!(client.order(id)["status"], "shipped");
        assert_eq!(get(&mut api, &format!("/v1/orders/{id}"))["status"], "shipped");
    }
    assert_eq!(client.counter("inventory", "stock/TEA"), 7);

    // What one of them decides holds for the others.
    let _ = client.post("/v1/consumers/shipment/pause", &json!({})).expect(200);
    let id = place(&mut api, &[("TEA", 1)]);
    let event = queue.event(1);
    assert_eq!(queue.settle(&event, &shipment.invoke(&event)).len(), 1);
    let _ = client.post("/v1/consumers/shipment/resume", &json!({})).expect(200);
    assert_eq!(queue.settle(&event, &shipment.invoke(&event)).len(), 0);
    client.wait_for_status(&id, "shipped");

    // A host publishes what a function left that died.
    let mut killed = TestFunction::new("api", &prefix);
    killed.die_at(Some("order.durable:1")).start();
    let failed = killed.try_invoke(&placing(&order(&[("TEA", 1)])), TIMEOUT).expect_err("it dies");
    assert!(matches!(failed, Failed::Ended(_)), "{failed:?}");
    handled(&mut shipment, &queue, 1);
    client.wait_until_idle();
    assert_eq!(client.counter("inventory", "stock/TEA"), 5);
}

#[test]
fn a_rollback_on_a_host_holds_for_a_function_that_stood_still() {
    let prefix = prefix();
    let mut host = host(&prefix);
    host.consumers.put("reports", &guests::wasm("reports-one"));
    host.start();
    let runs = |client: &Client, version: &str| {
        client.wait_for_consumer("reports", |reports| reports["version"] == version);
    };
    runs(&host.client(), "1.0.0");
    host.consumers.put("reports", &guests::wasm("reports-two"));
    runs(&host.client(), "2.0.0");
    stop(&mut host);

    // It never had the file of 1.0.0.
    let mut reports = TestFunction::new("consumer.reports", &prefix);
    reports.consumers.put("reports", &guests::wasm("reports-two"));
    reports.start();
    let mut api = TestFunction::with("api", &prefix, &[]);
    let queue = Source::of(&prefix, "reports");
    place(&mut api, &[("TEA", 1)]);
    handled(&mut reports, &queue, 1);
    assert_eq!(counter(&mut api, "reports", "by-version/2"), 1);

    host.start();
    let _ = host.client().post("/v1/consumers/reports/rollback", &json!({})).expect(200);
    runs(&host.client(), "1.0.0");
    stop(&mut host);
    place(&mut api, &[("TEA", 1)]);
    handled(&mut reports, &queue, 1);
    let counted = ["by-version/2", "by-version/1"].map(|key| counter(&mut api, "reports", key));
    assert_eq!(counted, [1, 1], "{}", reports.log());
}

#[test]
fn functions_that_may_make_nothing_do_what_their_policies_let_them_do() {
    let store = include_str!("../../deploy/cloudformation.yaml");
    let functions = include_str!("../../deploy/lambda.yaml");
    let every = allowed(store, "  ApiPolicy:", "  ConsumerPolicy:");
    let prefix = prefix();
    drop(TestFunction::with("consumer.inventory", &prefix, &["inventory"]));

    let (mut api, used) = Watched::new("api", &prefix);
    let mut invoke = |method: &str, path: &str, body: Option<&Value>| {
        let (status, answer) = asked(&api.invoke(&request(method, path, &json!({}), body)));
        assert!((200..300).contains(&status), "{path}: {answer}");
        answer
    };
    let placed = invoke("POST", "/v1/orders", Some(&order(&[("TEA", 1)])));
    let path = format!("/v1/orders/{}", placed["id"].as_str().expect("an id"));
    for path in [path.as_str(), "/v1/orders", "/v1/consumers", "/v1/messages", "/v1/consumers/inventory/dead-letters"] {
        invoke("GET", path, None);
    }
    invoke("POST", &format!("{path}/cancel"), Some(&json!({"reason": "late"})));
    for step in ["pause", "resume"] {
        invoke("POST", &format!("/v1/consumers/inventory/{step}"), Some(&json!({})));
    }
    used.are_among(&every);

    let (mut inventory, used) = Watched::new("consumer.inventory", &prefix);
    let queue = Source::of(&prefix, "inventory");
    handled(&mut inventory, &queue, 2);
    let own = allowed(functions, "${Consumer}Role:", "${Consumer}Function:");
    used.are_among(&every.union(&own).cloned().collect());
    used.name_no_queue_but(&[&format!("{prefix}-inventory.fifo"), &format!("{prefix}-inventory-dead.fifo")]);

    let (mut worker, used) = Watched::new("worker", &prefix);
    worker.invoke(&json!({}));
    let own = allowed(functions, "WorkerRole:", "WorkerFunction:");
    used.are_among(&every.union(&own).cloned().collect());
}

/// The actions that a template allows between two of its lines.
fn allowed(template: &str, from: &str, to: &str) -> BTreeSet<String> {
    let (_, behind) = template.split_once(from).expect("where it begins");
    let (part, _) = behind.split_once(to).expect("where it ends");
    let actions = part.lines().filter_map(|line| line.trim().strip_prefix("- "));
    let actions =
        actions.filter(|action| ["dynamodb:", "sns:", "sqs:"].iter().any(|service| action.starts_with(service)));
    actions.map(str::to_owned).collect()
}

/// What a function asked of AWS.
struct Watched {
    calls: Arc<Mutex<Vec<Call>>>,
    _proxies: Vec<FaultProxy>,
}

impl Watched {
    fn new(handler: &str, prefix: &str) -> (TestFunction, Self) {
        let (calls, mut proxies) = (Arc::<Mutex<Vec<Call>>>::default(), Vec::new());
        let mut function = TestFunction::new(handler, prefix);
        function.variable("FANFARE_AWS_PROVISION", "false");
        if handler != "api" {
            function.consumers.add("inventory");
        }
        for service in ["DYNAMODB", "SNS", "SQS"] {
            let (proxy, calls) = (FaultProxy::before(&aws::endpoint(service)), Arc::clone(&calls));
            proxy.choose(move |call| {
                calls.lock().expect("calls").push(call.clone());
                Fault::Pass
            });
            function.variable(&format!("AWS_ENDPOINT_URL_{service}"), &proxy.url());
            proxies.push(proxy);
        }
        function.start();
        (function, Self { calls, _proxies: proxies })
    }

    #[track_caller]
    fn are_among(&self, allowed: &BTreeSet<String>) {
        let calls = self.calls.lock().expect("calls");
        let used: BTreeSet<String> = calls.iter().flat_map(actions).collect();
        assert!(used.len() > 3, "{used:?}");
        assert_eq!(used.difference(allowed).collect::<Vec<_>>(), Vec::<&String>::new());
    }

    #[track_caller]
    fn name_no_queue_but(&self, own: &[&str]) {
        for call in self.calls.lock().expect("calls").iter().filter(|call| call.protocol == Protocol::Sqs) {
            let named = |queue: &&str| call.body.contains(&format!("{queue}\""));
            assert!(own.iter().any(named), "{}: {}", call.operation, call.body);
        }
    }
}

/// What AWS asks the policies for, of one request.
fn actions(call: &Call) -> Vec<String> {
    let operation = call.operation.as_str();
    match call.protocol {
        Protocol::DynamoDb if operation == "TransactWriteItems" => {
            let kinds = ["ConditionCheck", "Delete", "Put", "Update"].into_iter();
            let kinds = kinds.filter(|kind| call.body.contains(&format!("{{\"{kind}\":")));
            kinds.map(|kind| format!("dynamodb:{kind}Item")).collect()
        }
        Protocol::DynamoDb => vec![format!("dynamodb:{operation}")],
        Protocol::Sqs => vec![format!("sqs:{}", operation.trim_end_matches("Batch"))],
        Protocol::Query => vec![format!("sns:{}", operation.trim_end_matches("Batch"))],
    }
}

/// The host leaves, so that its consumer takes no message meanwhile.
fn stop(host: &mut TestHost) {
    host.ask_to_end();
    let ended = host.ended();
    assert!(ended.success(), "{ended}: {}", host.log());
}
