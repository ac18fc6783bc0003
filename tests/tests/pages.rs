//! Every list is the same however small its pages are, and what a page ends with goes into a URL as it is.

use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::guests::SHIPPED;
use fanfare_tests::orders::{event, order};
use fanfare_tests::{Client, TestHost, Value, eventually, json};

const ORDERS: usize = 3;
const ONE_ATTEMPT: &str = "[grant]\npublish = [\"com.example.obedient.*\"]\nemail = true\n[retry]\nmax_attempts = 1\n";

#[test]
fn on_one_machine() {
    lists_are_the_same_whatever_the_limit(TestHost::new());
}

#[test]
fn at_aws() {
    let mut host = TestHost::new();
    host.argument("--backend").argument("aws").variable("FANFARE_AWS_PREFIX", &prefix());
    host.variable("FANFARE_AWS_PROVISION", "true");
    lists_are_the_same_whatever_the_limit(host);
}

#[track_caller]
fn lists_are_the_same_whatever_the_limit(mut host: TestHost) {
    host.leave_deliveries();
    SHIPPED.iter().for_each(|guest| host.consumers.add(guest));
    host.consumers.add("obedient");
    host.consumers.set_policy("obedient", ONE_ATTEMPT);
    host.start();
    let client = host.client();
    client.stock(&["CUP", "TEA"], 100);
    let ids: Vec<String> = (0..ORDERS).map(|_| client.placed(&order(&[("TEA", 1), ("CUP", 1)]))).collect();
    ids.iter().for_each(|id| drop(client.wait_for_status(id, "shipped")));
    for id in ["one", "two", "three"] {
        let told = event(id, "com.example.told", id, json!({"end": "reject"}));
        assert!(client.publish(&told).status.is_success());
    }
    client.wait_for_consumer("obedient", |consumer| consumer["dead"] == 3);
    eventually("the rest is done", || {
        let busy = |consumer: &Value| consumer["name"] != "obedient" && consumer["pending"] != 0;
        let busy: Vec<_> = client.consumers().into_iter().filter(busy).collect();
        if busy.is_empty() { Ok(()) } else { Err(format!("{busy:#?}")) }
    });
    for (refused, file) in (1..).zip([b"one", b"two", b"who"]) {
        host.consumers.put("refused", file);
        eventually("the file is refused", || {
            let answer = client.get("/v1/consumers/refused/versions");
            let refusals = answer.json()["versions"].as_array().map_or(0, Vec::len);
            if refusals == refused { Ok(()) } else { Err(format!("{answer:?}")) }
        });
    }
    for (path, items) in [
        ("/v1/orders".to_owned(), ORDERS),
        ("/v1/orders?status=shipped".to_owned(), ORDERS),
        ("/v1/orders?customer=C-1".to_owned(), ORDERS),
        (format!("/v1/orders/{}/timeline", ids[0]), 3),
        ("/v1/messages".to_owned(), 3 * ORDERS),
        ("/v1/consumers/inventory/state?prefix=stock/".to_owned(), 2),
        ("/v1/consumers/shipment/state".to_owned(), ORDERS),
        ("/v1/consumers/obedient/dead-letters".to_owned(), 3),
        ("/v1/consumers/loyalty/versions".to_owned(), 1),
        ("/v1/consumers/refused/versions".to_owned(), 3),
    ] {
        // What became of something may be written down a moment later.
        eventually(&format!("all pages of {path} are one list"), || {
            let all = listed(&client, &path, 200);
            let same = |limit| listed(&client, &path, limit) == all;
            if all.len() >= items && (1..=3).all(same) { Ok(()) } else { Err(format!("{all:#?}")) }
        });
    }
}

/// All that the pages hold.
fn listed(client: &Client, path: &str, limit: usize) -> Vec<Value> {
    let (mut items, mut after) = (Vec::new(), String::new());
    loop {
        let sign = if path.contains('?') { '&' } else { '?' };
        let page = client.get(&format!("{path}{sign}limit={limit}{after}")).expect(200).json();
        let fields = page.as_object().expect("an object");
        // Causes of dead letters stand beside each page of them.
        let lists = fields.iter().filter(|(name, _)| *name != "causes").filter_map(|(_, list)| list.as_array());
        let found: Vec<Value> = lists.flatten().cloned().collect();
        // A page of a timeline is so many events of the order, and all that came of them.
        assert!(found.len() <= limit || path.ends_with("/timeline"), "{path}: {page:#}");
        items.extend(found);
        let Some(next) = page["next"].as_str() else { break };
        let goes_into_a_url = |it: char| it.is_ascii_alphanumeric() || "-._~/".contains(it);
        assert!(next.chars().all(goes_into_a_url), "{path}: {next}");
        after = format!("&after={next}");
    }
    // A page of state shows its entries before its counters, and one of a timeline what came of its events by time.
    items.sort_by_key(|item| match path {
        _ if path.contains("/state") => item["key"].to_string(),
        _ if path.ends_with("/timeline") => item.to_string(),
        _ => String::new(),
    });
    items
}
