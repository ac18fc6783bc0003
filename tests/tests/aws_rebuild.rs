//! A consumer's state is made anew by hosts that share a store, while all of them go on with the old one: whoever dies meanwhile,
//! it ends as the state of one that was left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::orders::order;
use fanfare_tests::{Answer, Client, TestHost, Value, guests, json, program, within};

const REBUILT: &str = "analytics";
/// The same plugin under another name, whose state is never made anew.
const ALONE: &str = "alone";
/// Longer than a host has a rebuild for itself after its death, than it takes to be held for dead, and than hosts of a busy machine
/// take for the rest.
const WITHIN: Duration = Duration::from_secs(300);

fn host(prefix: &str) -> TestHost {
    let mut host = TestHost::new();
    host.argument("--backend").argument("aws");
    host.variable("FANFARE_AWS_PREFIX", prefix).variable("FANFARE_AWS_PROVISION", "true");
    [REBUILT, "inventory"].iter().for_each(|name| host.consumers.add(name));
    host.consumers.set_policy(ALONE, &guests::side_file(REBUILT).expect("a side file"));
    host.consumers.put(ALONE, &guests::wasm(REBUILT));
    host
}

fn runs(client: &Client) {
    for name in [REBUILT, ALONE, "inventory"] {
        within(WITHIN, "every consumer runs", || {
            let consumer = client.look(&format!("/v1/consumers/{name}"))?;
            if consumer["state"] == "running" { Ok(()) } else { Err(consumer.to_string()) }
        });
    }
}

fn rebuild(client: &Client, rate: &str) -> Answer {
    let asked = json!({"from": "beginning", "rebuild": true, "rate": rate});
    client.post(&format!("/v1/consumers/{REBUILT}/backfill"), &asked)
}

/// Begins a rebuild: what the host says of it then, or soon after, where it could not say in time that it has begun.
#[track_caller]
fn begin(client: &Client, rate: &str) -> Value {
    let mut may_have_begun = false;
    within(WITHIN, "the rebuild begins", || {
        let answer = rebuild(client, rate);
        if answer.is_late() {
            may_have_begun = true;
            return Err(format!("{answer:#?}"));
        }
        match answer.status.as_u16() {
            409 if may_have_begun => client.look(&format!("/v1/consumers/{REBUILT}/backfill")),
            _ => Ok(answer.expect(202).json()),
        }
    })
}

fn steer(client: &Client, step: &str) -> Answer {
    client.post(&format!("/v1/consumers/{REBUILT}/backfill/{step}"), &json!({}))
}

/// How the rebuild stands, once it stands like this, while so many orders are placed, one at a time.
#[track_caller]
fn stands(client: &Client, mut orders: u32, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    within(WITHIN, what, || {
        if orders > 0 {
            orders -= 1;
            let _ = client.placed_at_last(&order(&[("TEA", 1)]));
        }
        let report = client.look(&format!("/v1/consumers/{REBUILT}/backfill"))?;
        if wanted(&report) { Ok(report) } else { Err(report.to_string()) }
    })
}

#[track_caller]
fn is_done(client: &Client, orders: u32) {
    let report = stands(client, orders, "the rebuild is done", |report| report["state"] == "done");
    assert_eq!((&report["rebuild"], &report["delivered"]), (&json!(true), &report["events"]), "{report:#}");
}

#[track_caller]
fn is_idle(client: &Client) {
    within(WITHIN, "every consumer has done all its deliveries", || {
        let consumers = client.look("/v1/consumers")?["consumers"].take();
        let idle = |consumer: &Value| consumer["pending"] == 0 && consumer["dead"] == 0;
        let all_idle = consumers.as_array().is_some_and(|consumers| consumers.iter().all(idle));
        if all_idle { Ok(()) } else { Err(format!("{consumers:#?}")) }
    });
}

/// Once nothing is pending, the rebuilt one holds what the one that was left alone does, by the word of each host.
#[track_caller]
fn holds_the_same(clients: &[Client]) {
    for client in clients {
        is_idle(client);
        within(WITHIN, "both have seen the same", || {
            let [rebuilt, alone] = [REBUILT, ALONE].map(|name| client.counters(name, ""));
            if rebuilt == alone { Ok(()) } else { Err(format!("{rebuilt:#?}\n{alone:#?}")) }
        });
        assert_eq!(client.entries(REBUILT, ""), client.entries(ALONE, ""));
    }
}

/// `fanfare check` finds nothing, whatever is under way.
#[track_caller]
fn agrees_with_itself(client: &Client) {
    within(WITHIN, "all of the store is looked through", || {
        let checked = program::run(["check", "--url", client.base()]);
        assert!(!checked.stdout.contains("something is wrong"), "{checked:#?}");
        let is_whole = checked.status.success() && checked.stdout.contains("backfills");
        if is_whole { Ok(()) } else { Err(format!("{checked:#?}")) }
    });
}

#[test]
fn a_rebuild_whose_host_is_killed_in_its_middle_under_load_ends_with_the_state_of_one_that_was_left_alone() {
    let prefix = prefix();
    let (mut walker, mut other) = (host(&prefix), host(&prefix));
    [&mut walker, &mut other].into_iter().for_each(TestHost::start);
    [&walker, &other].iter().for_each(|host| runs(&host.client()));
    walker.client().stock(&["TEA"], 60);
    (0..40).for_each(|_| drop(walker.client().placed_at_last(&order(&[("TEA", 1)]))));
    is_idle(&walker.client());
    // Who is asked begins with it.
    let started = begin(&walker.client(), "8/s");
    assert!(started["events"].as_u64() >= Some(80), "{started:#}");
    let again = rebuild(&other.client(), "8/s").problem(409);
    assert!(again["type"].to_string().contains("backfill"), "{again:#}");
    let in_the_middle = |report: &Value| report["delivered"].as_u64() >= Some(20);
    let report = stands(&walker.client(), 30, "it is in the middle", in_the_middle);
    assert_eq!(report["state"], "running", "{report:#}");
    agrees_with_itself(&other.client());
    walker.kill();

    let client = other.client();
    is_done(&client, 40);
    walker.start();
    let clients = [client, walker.client()];
    holds_the_same(&clients);
    agrees_with_itself(&clients[0]);
}

#[test]
fn a_rebuild_is_paused_by_one_host_and_resumed_by_another_and_both_follow_though_the_one_that_hands_over_dies_of_it() {
    let prefix = prefix();
    let mut hosts = [host(&prefix), host(&prefix)];
    for host in &mut hosts {
        host.die_at(Some("rebuild.handed-over"));
        host.start();
        runs(&host.client());
    }
    let clients = [&hosts[0], &hosts[1]].map(TestHost::client);
    // Rejected, since there is no tea: each order is two events.
    let ids: Vec<String> = (0..10).map(|_| clients[0].placed_at_last(&order(&[("TEA", 1)]))).collect();
    ids.iter().for_each(|id| drop(clients[0].wait_for_status(id, "rejected")));
    is_idle(&clients[0]);
    let dry_run = json!({"from": "beginning", "rebuild": true, "dry_run": true});
    let counted = clients[1].post(&format!("/v1/consumers/{REBUILT}/backfill"), &dry_run).expect(200).json();
    assert_eq!(counted, json!({"dry_run": true, "events": 20}));
    let _ = begin(&clients[0], "4/s");
    let _ = stands(&clients[1], 0, "some are handled", |report| report["delivered"].as_u64() >= Some(3));
    assert_eq!(steer(&clients[1], "pause").expect(200).json()["state"], "paused");
    assert_eq!(steer(&clients[0], "resume").expect(200).json()["state"], "running");
    let dead = within(WITHIN, "a host has handed over, and died of it", || {
        let dead = (0..2).find(|of| hosts[*of].ended_by_now().is_some());
        dead.ok_or_else(|| format!("{}\n{}", hosts[0].log(), hosts[1].log()))
    });
    let living = clients[1 - dead].clone();
    is_done(&living, 3);
    hosts[dead].die_at(None);
    hosts[dead].start();
    holds_the_same(&[living, hosts[dead].client()]);
    agrees_with_itself(&hosts[dead].client());
}

#[test]
fn a_rebuild_ends_beside_orders_that_never_cease() {
    let mut host = host(&prefix());
    host.start();
    let client = host.client();
    runs(&client);
    client.stock(&["TEA"], 1_000_000);
    (0..30).for_each(|_| drop(client.placed_at_last(&order(&[("TEA", 1)]))));
    is_idle(&client);
    let ends = Arc::new(AtomicBool::new(false));
    let shop = thread::spawn({
        let (client, ends) = (client.clone(), Arc::clone(&ends));
        move || {
            let placed = |_: &i32| {
                let _ = client.placed_at_last(&order(&[("TEA", 1)]));
                thread::sleep(Duration::from_millis(200));
            };
            (1..).inspect(placed).take_while(|_| !ends.load(Ordering::Relaxed)).last()
        }
    });
    let begun = begin(&client, "1000000/s");
    let done = stands(&client, 0, "the rebuild is done", |report| report["state"] == "done");
    ends.store(true, Ordering::Relaxed);
    assert!(shop.join().expect("orders are taken") > Some(0));
    assert!(done["events"].as_u64() > begun["events"].as_u64(), "it has come after what came meanwhile: {done:#}");
    holds_the_same(&[client]);
}
