//! A plugin that was built for a contract runs on every later host.

use fanfare_tests::orders::order;
use fanfare_tests::{TestHost, Value, json};

const BARE: &[u8] = include_bytes!("../fixtures/contract-0.1/bare.wasm");
const BARE_POLICY: &str = include_str!("../fixtures/contract-0.1/bare.toml");
const REPORTS_ONE: &[u8] = include_bytes!("../fixtures/contract-0.1/reports-one.wasm");

#[test]
fn plugins_built_for_contract_0_1_run_as_they_did() {
    let mut host = TestHost::new();
    host.consumers.set_policy("bare", BARE_POLICY);
    host.consumers.put("bare", BARE);
    host.consumers.put("reports-one", REPORTS_ONE);
    // What the same source makes of today's SDK, beside them.
    host.consumers.add("reports-two");
    host.start();
    let client = host.client();
    let id = client.placed(&order(&[("TEA", 1)]));
    client.wait_for_status(&id, "confirmed");
    client.wait_until_idle();

    let seen = client.entries("bare", "seen");
    let seen: Value = serde_json::from_str(seen[0]["value"].as_str().expect("a text")).expect("JSON");
    let expected = json!({
        "entry": "one", "entries": ["entry/c"], "count": 5, "counters": [["counter/a", 5]], "shortage": ["counter/a", 4],
        "statuses": ["placed", "confirmed"], "setting": "hello", "misfit": true,
    });
    assert_eq!(seen, expected);
    assert_eq!(client.get("/v1/records/bare").expect(200).lines().len(), 1);
    assert_eq!(client.messages().len(), 2);
    assert_eq!(client.counter("reports-one", "by-version/1"), 1);
    assert_eq!(client.counter("reports-two", "by-version/2"), 1);
}
