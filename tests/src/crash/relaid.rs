//! A host dies while a state is kept that a version with another layout takes over, and on the way back to it.

use std::os::unix::process::ExitStatusExt;

use super::points::SIGKILL;
use crate::orders::order;
use crate::{Client, TestHost, guests, json, program};

const CONSUMER: &str = "reports";
/// Placed in each part of the story.
const ORDERS: usize = 12;

/// Crashes a host at each of `points`, each on a store of its own: what is left is the former version with its state or the new
/// one with its own, and in the end the version that was gone back to has handled every event once.
///
/// # Panics
/// If a point is not reached, or a state is not what its version should have.
pub fn crash_at_each(points: &[String]) {
    for point in points {
        let mut host = TestHost::new();
        host.leave_deliveries();
        host.consumers.put(CONSUMER, &guests::wasm("reports-one"));
        let at = |part: &str| point.starts_with(part).then_some(point.as_str());
        host.start();
        place(&host.client());
        // A state that has no layout gets one.
        host.kill();
        host.die_at(at("layout.")).start();
        host.consumers.put(CONSUMER, &guests::wasm("reports-relaid"));
        if at("layout.").is_some() {
            dies(&mut host, point);
        }
        runs(&host.client(), "4.0.0");
        place(&host.client());
        assert_eq!(by_version(&host.client()), [ORDERS, ORDERS], "{point}");

        host.kill();
        host.die_at(at("return.")).start();
        // Its answer may be lost with the host.
        let back = host.client().try_post(&format!("/v1/consumers/{CONSUMER}/rollback"), &[], b"{}");
        if at("return.").is_some() {
            dies(&mut host, point);
        } else {
            assert_eq!(back.expect("an answer").status, 202);
        }
        let client = host.client();
        runs(&client, "1.0.0");
        place(&client);
        assert_eq!(by_version(&client), [3 * ORDERS, 0], "{point}");
        // And what was gone back from is there, too.
        let _ = client.post(&format!("/v1/consumers/{CONSUMER}/promote"), &json!({})).expect(202);
        runs(&client, "4.0.0");
        assert_eq!(by_version(&client), [ORDERS, 2 * ORDERS], "{point}");
        let checked = program::run(["check", "--url", client.base()]);
        assert_eq!(checked.code(), Some(0), "{point}: {checked:#?}");
    }
}

fn dies(host: &mut TestHost, point: &str) {
    let status = host.ended();
    assert_eq!(status.signal(), Some(SIGKILL), "the host should die at {point}: {}", host.log());
    host.die_at(None).start();
}

fn place(client: &Client) {
    (0..ORDERS).for_each(|_| drop(client.placed(&order(&[("TEA", 1)]))));
    client.wait_until_idle();
}

fn runs(client: &Client, version: &str) {
    client.wait_for_consumer(CONSUMER, |consumer| {
        consumer["version"] == version && consumer["state"] == "running" && consumer["way_back"].is_null()
    });
}

/// Events that each version handled, by the state in use.
fn by_version(client: &Client) -> [usize; 2] {
    ["by-version/1", "by-version/4"].map(|key| client.counter(CONSUMER, key).try_into().expect("a count"))
}
