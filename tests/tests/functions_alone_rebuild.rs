//! The state of a consumer is made anew in a shop of functions alone: from one invocation of the worker to the next, whatever
//! kills it, and while orders go on.

use std::collections::BTreeSet;
use std::time::Duration;

use fanfare_tests::aws::{self, Fault, FaultProxy};
use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::lambda::shop::{get, place};
use fanfare_tests::lambda::{Failed, SHORT, Source, TIMEOUT, TestFunction, asked, request};
use fanfare_tests::{TestHost, Value, guests, json, program, within};

const REBUILT: &str = "analytics";
/// The same plugin under another name, whose state is never made anew.
const ALONE: &str = "alone";
/// Orders before the rebuild, and how fast it goes: for longer than the first invocation has.
const BEFORE: usize = 16;
const RATE: &str = "2/s";
const FIRST: Duration = Duration::from_secs(8);
/// What is left of one when nothing more may begin.
const LIMITS: &str = "[limits]\ntime = \"1s\"\n";
/// Longer than a rebuild waits for functions that have not heard of it, than a worker that was killed has it for itself, more
/// than once, and than a busy machine takes for the rest.
const WITHIN: Duration = Duration::from_secs(400);

fn with(handler: &str, prefix: &str, names: &[&str]) -> TestFunction {
    let function = TestFunction::new(handler, prefix);
    let policy = format!("{}\n{LIMITS}", guests::side_file(REBUILT).expect("a side file"));
    for name in names {
        function.consumers.set_policy(name, &policy);
        function.consumers.put(name, &guests::wasm(REBUILT));
    }
    function
}

fn consumer(prefix: &str, name: &str) -> TestFunction {
    let mut function = with(&format!("consumer.{name}"), prefix, &[name]);
    function.start();
    function
}

fn worker(prefix: &str) -> TestFunction {
    with("worker", prefix, &[REBUILT, ALONE])
}

fn ask(api: &mut TestFunction, path: &str, body: &Value) -> Value {
    let (status, answer) = asked(&api.invoke(&request("POST", path, &json!({}), Some(body))));
    assert!((200..300).contains(&status), "{answer:#}");
    answer
}

fn report(api: &mut TestFunction) -> Value {
    get(api, &format!("/v1/consumers/{REBUILT}/backfill"))
}

fn delivered(api: &mut TestFunction) -> u64 {
    report(api)["delivered"].as_u64().expect("a count")
}

/// Has the function handle messages of its queue, until it is done with so many.
#[track_caller]
fn all_handled(consumer: &mut TestFunction, queue: &Source, count: usize) {
    let event = queue.event(count);
    within(WITHIN, "the function is done with all", || {
        // Lambda would bring those alone that come back; the others are repeats.
        let back = queue.settle(&event, &consumer.invoke(&event));
        if back == BTreeSet::new() { Ok(()) } else { Err(format!("{back:?}\n{}", consumer.log())) }
    });
}

/// A consumer's counters and entries, as the API has them.
fn state(api: &mut TestFunction, name: &str) -> [Value; 2] {
    let mut state = get(api, &format!("/v1/consumers/{name}/state?limit=1000"));
    [state["counters"].take(), state["entries"].take()]
}

/// `fanfare check` finds nothing, of a host that has none of the consumers.
#[track_caller]
fn agrees_with_itself(prefix: &str) {
    let mut host = TestHost::new();
    host.argument("--backend").argument("aws").variable("FANFARE_AWS_PREFIX", prefix);
    host.start();
    within(WITHIN, "all of the store is looked through", || {
        let checked = program::run(["check", "--url", host.client().base()]);
        assert!(!checked.stdout.contains("something is wrong"), "{checked:#?}");
        if checked.status.success() { Ok(()) } else { Err(format!("{checked:#?}")) }
    });
}

#[test]
fn workers_make_a_state_anew_in_turns_whatever_kills_them_and_it_ends_as_that_of_one_that_was_left_alone() {
    let prefix = prefix();
    let mut api = TestFunction::with("api", &prefix, &[]);
    let [mut rebuilt, mut alone] = [REBUILT, ALONE].map(|name| consumer(&prefix, name));
    let [queue, queue_of_alone] = [REBUILT, ALONE].map(|name| Source::of(&prefix, name));
    let mut ids: Vec<String> = (0..BEFORE).map(|_| place(&mut api, &[("TEA", 1)])).collect();
    all_handled(&mut rebuilt, &queue, BEFORE);
    all_handled(&mut alone, &queue_of_alone, BEFORE);
    let asked = json!({"from": "beginning", "rebuild": true, "rate": RATE});
    let started = ask(&mut api, &format!("/v1/consumers/{REBUILT}/backfill"), &asked);
    assert_eq!((&started["state"], &started["events"]), (&json!("running"), &json!(BEFORE)), "{started:#}");

    let [mut first, mut killed] = [(); 2].map(|()| worker(&prefix));
    killed.die_at(Some("rebuild.handled:2"));
    [&mut first, &mut killed].into_iter().for_each(TestFunction::start);
    within(WITHIN, "the first worker handles some", || {
        first.try_invoke(&json!({}), FIRST).unwrap_or_else(|why| panic!("{why:?}\n{}", first.log()));
        if delivered(&mut api) > 0 { Ok(()) } else { Err(first.log()) }
    });
    let by_first = delivered(&mut api);
    assert!(by_first < BEFORE as u64 - 2, "it has no time for all: {by_first}");
    // The functions handle what comes on the state of before; some of it is of an order that the rebuild has before it.
    ids.push(place(&mut api, &[("SALT", 2)]));
    ask(&mut api, &format!("/v1/orders/{}/cancel", ids[BEFORE - 1]), &json!({"reason": "too late"}));
    all_handled(&mut rebuilt, &queue, 2);
    // It has let the rebuild go: another one goes on at once.
    let died = killed.try_invoke(&json!({}), TIMEOUT).expect_err("it dies where the rebuild goes on");
    assert!(matches!(died, Failed::Ended(_)), "{died:?}\n{}", killed.log());
    assert_eq!(delivered(&mut api), by_first + 2);

    // What was killed has it for a while. The next ones wait until all functions must have heard of it, one after another.
    let dynamodb = FaultProxy::before(&aws::endpoint("DYNAMODB"));
    let mut cut_off = worker(&prefix);
    cut_off.variable("AWS_ENDPOINT_URL_DYNAMODB", &dynamodb.url());
    cut_off.start();
    let mut has_tried = false;
    dynamodb.choose(move |call| {
        let had_tried = has_tried;
        has_tried |= call.body.contains("nru = :until");
        if had_tried { Fault::Delay(SHORT) } else { Fault::Pass }
    });
    within(WITHIN, "a worker begins to hand over, and is killed", || match cut_off.try_invoke(&json!({}), SHORT) {
        Err(Failed::TimedOut) => Ok(()),
        ended => Err(format!("{ended:?} {:#}\n{}", report(&mut api), cut_off.log())),
    });
    let report_then = report(&mut api);
    assert_eq!(report_then["state"], "running", "{report_then:#}");
    // Its try does not hold up live deliveries for long.
    ids.push(place(&mut api, &[("TEA", 3)]));
    all_handled(&mut rebuilt, &queue, 1);

    let mut last = worker(&prefix);
    last.die_at(Some("rebuild.handed-over"));
    last.start();
    within(WITHIN, "a worker hands over, and dies of it", || {
        ids.push(place(&mut api, &[("TEA", 1)]));
        match last.try_invoke(&json!({}), SHORT) {
            Err(Failed::Ended(_)) => Ok(()),
            ended => Err(format!("{ended:?} {:#}\n{}", report(&mut api), last.log())),
        }
    });
    let done = report(&mut api);
    assert_eq!((&done["state"], &done["rebuild"]), (&json!("done"), &json!(true)), "{done:#}");
    assert_eq!(done["delivered"], done["events"], "{done:#}");
    assert!(done["delivered"].as_u64() >= Some(BEFORE as u64 + 3), "{done:#}");

    // The functions stood still when the new state came into use.
    ids.push(place(&mut api, &[("SALT", 1)]));
    all_handled(&mut rebuilt, &queue, ids.len() - BEFORE - 2);
    all_handled(&mut alone, &queue_of_alone, ids.len() - BEFORE + 1);
    let [of_rebuilt, of_alone] = [REBUILT, ALONE].map(|name| state(&mut api, name));
    assert_eq!(of_rebuilt, of_alone);
    let placed = json!({"key": "status/placed", "value": ids.len()});
    assert!(of_rebuilt[0].as_array().is_some_and(|counters| counters.contains(&placed)), "{of_rebuilt:#?}");
    // There is nothing left to do for it.
    last.die_at(None).start();
    (0..2).for_each(|_| drop(last.invoke(&json!({}))));
    agrees_with_itself(&prefix);
    assert_eq!([REBUILT, ALONE].map(|name| state(&mut api, name)), [of_rebuilt, of_alone]);
}
