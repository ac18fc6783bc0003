//! Somebody who changes consumers while hosts die: pauses them, makes their states anew, replaces them, goes back and on. Whatever
//! of it gets through, what each consumer holds must follow from the orders.

use std::collections::BTreeMap;
use std::time::Duration;

use super::goods::Dice;
use super::{CONSUMERS, REBUILT, points};
use crate::{Client, TestHost, Value, guests, json, program, within};

/// A consumer whose versions count each order once: one of them in another layout of the state, and one that fails one in five.
const REPORTS: &str = "reports";
const VERSIONS: [&str; 4] = ["reports-one", "reports-two", "reports-relaid", "reports-flaky"];
/// The side files that it is given.
const ROLLOUTS: [&str; 2] = [
    "start = \"beginning\"\n",
    "start = \"beginning\"\n[rollout]\npercent = 50\nmin_events = 10\nmax_failure_rate = 0.05\nmax_slowdown = 100.0\n",
];
/// Taken away and put back.
const PASSING: &str = "loyalty";
/// Replaced by the same under another hash, and given other side files.
const REPLACED: &str = "lanes";
/// The side files that it is given.
const POLICIES: [&str; 4] = [
    "concurrency = 8\n[retry]\nbase = \"5ms\"\ncap = \"20ms\"\n",
    "concurrency = 1\n[retry]\nbase = \"1ms\"\ncap = \"5ms\"\n",
    "isolation = \"event\"\n[retry]\nbase = \"5ms\"\ncap = \"20ms\"\n",
    "[retry]\nbase = \"5ms\"\ncap = \"20ms\"\n[rollout]\npercent = 30\nmin_events = 20\nmax_failure_rate = 0.9\nmax_slowdown = 100.0\n",
];
const QUIET_WITHIN: Duration = Duration::from_secs(300);

/// What was done, and what became of it: how often.
pub type Acts = BTreeMap<String, u32>;

pub struct Operator {
    dice: Dice,
    variants: u8,
    /// Whose past events are told again, as far as is known.
    retold: &'static str,
    acts: Acts,
    /// Answers that nobody should get.
    faults: Vec<String>,
}

impl Operator {
    /// The same seed draws the same acts. They are about `hosts`, which do not run yet.
    #[must_use]
    pub fn of(hosts: &[TestHost], seed: u64) -> Self {
        for host in hosts {
            host.consumers.set_policy(REPORTS, ROLLOUTS[0]);
            host.consumers.put(REPORTS, &guests::wasm(VERSIONS[0]));
        }
        Self { dice: Dice::new(seed), variants: 0, retold: REPORTS, acts: Acts::new(), faults: Vec::new() }
    }

    /// Does something to the consumers of `hosts`, of which the one behind `client` serves, or did.
    pub fn act(&mut self, hosts: &[TestHost], client: &Client) {
        match self.dice.below(21) {
            0 | 1 => self.ask(client, "pause", &json!({"reason": "to look at it"})),
            2..=4 => self.ask(client, "resume", &json!({})),
            5 | 6 => self.rebuild(client),
            7 => self.ask_of(client, self.retold, "backfill/pause", &json!({})),
            8 => self.ask_of(client, self.retold, "backfill/resume", &json!({})),
            9 => self.ask_of(client, self.retold, "backfill/cancel", &json!({})),
            10..=12 => self.ask_of(client, REPORTS, "rollback", &json!({})),
            13 | 14 => self.ask_of(client, REPORTS, "promote", &json!({})),
            15..=17 => self.replace_reports(hosts),
            18 => self.replace_lanes(hosts),
            19 => self.ask_of(client, REPORTS, "dead-letters/retry", &json!({"all": true})),
            _ => self.take_or_put_back(hosts),
        }
    }

    /// Has everything go on again, and waits until what was begun has ended.
    ///
    /// # Panics
    /// If it does not.
    pub fn rest(&mut self, hosts: &[TestHost], serving: &mut impl FnMut() -> Client) {
        for host in hosts {
            host.consumers.add(PASSING);
            host.consumers.set_policy(REPLACED, POLICIES[0]);
            host.consumers.set_policy(REPORTS, ROLLOUTS[0]);
            host.consumers.put(REPORTS, &guests::wasm(VERSIONS[0]));
        }
        for consumer in CONSUMERS.into_iter().chain([REPORTS]) {
            within(QUIET_WITHIN, "the consumer goes on", || {
                let client = serving();
                for what in ["resume", "backfill/resume"] {
                    drop(client.try_post(&format!("/v1/consumers/{consumer}/{what}"), &[], b"{}"));
                }
                let shown = client.look(&format!("/v1/consumers/{consumer}"))?;
                let goes_on = shown["state"] == "running" && shown["paused"].is_null() && shown["way_back"].is_null();
                if goes_on { Ok(()) } else { Err(shown.to_string()) }
            });
        }
        points::retelling_ends(&serving());
        within(QUIET_WITHIN, "the first version does what others failed", || {
            let client = serving();
            let shown = client.look(&format!("/v1/consumers/{REPORTS}"))?;
            // Another layout's state waits until somebody says which version is meant.
            let is_alone = ["candidate", "way_back", "reason"].iter().all(|other| shown[other].is_null());
            let runs = shown["version"] == "1.0.0" && is_alone;
            if runs && shown["dead"] == 0 {
                return Ok(());
            }
            let what = if runs { "dead-letters/retry" } else { "promote" };
            let body = if runs { "{\"all\":true}" } else { "{}" };
            drop(client.try_post(&format!("/v1/consumers/{REPORTS}/{what}"), &[], body.as_bytes()));
            Err(shown.to_string())
        });
    }

    /// What is wrong once everything is done.
    ///
    /// # Errors
    /// Every fault.
    pub fn check(self, client: &Client) -> Result<Acts, String> {
        let Self { acts, mut faults, .. } = self;
        let orders = i64::try_from(client.orders().len()).unwrap_or(i64::MAX);
        let by_version = client.counters(REPORTS, "by-version/");
        let handled = (client.counter(REPORTS, "handled"), by_version.iter().map(|(_, count)| count).sum());
        if handled != (orders, orders) {
            faults.push(format!("{orders} orders, and {REPORTS} has {handled:?} by versions {by_version:?}"));
        }
        let checked = program::run(["check", "--url", client.base()]);
        if checked.code() != Some(0) {
            faults.push(format!("{checked:#?}"));
        }
        if faults.is_empty() { Ok(acts) } else { Err(faults.join("\n")) }
    }

    fn ask(&mut self, client: &Client, what: &str, body: &Value) {
        let consumer = self.draw(&[&CONSUMERS[..], &[REPORTS]].concat());
        self.ask_of(client, consumer, what, body);
    }

    fn rebuild(&mut self, client: &Client) {
        self.retold = self.draw(&[&REBUILT[..], &[REPORTS]].concat());
        let body = json!({"from": "beginning", "rebuild": true, "rate": "100000/s"});
        self.ask_of(client, self.retold, "backfill", &body);
    }

    /// Asks once: the answer may be lost with the host.
    fn ask_of(&mut self, client: &Client, consumer: &str, what: &str, body: &Value) {
        let answer = client.try_post(&format!("/v1/consumers/{consumer}/{what}"), &[], body.to_string().as_bytes());
        let became = match answer {
            Ok(answer) if answer.status.is_success() => "done".to_owned(),
            // Unknown as yet, not as things stand, or not now.
            Ok(answer) if matches!(answer.status.as_u16(), 404 | 409 | 503) => {
                let problem = answer.json();
                format!("{}: {}", answer.status.as_u16(), problem["title"].as_str().unwrap_or_default())
            }
            Ok(answer) => {
                self.faults.push(format!("{what} of {consumer}: {answer:#?}"));
                answer.status.to_string()
            }
            Err(_) => "no answer".to_owned(),
        };
        self.count(&format!("{what}, {became}"));
    }

    /// As a deployment does: one host's folder after another.
    fn replace_reports(&mut self, hosts: &[TestHost]) {
        if self.dice.below(4) == 0 {
            let policy = self.draw(&ROLLOUTS);
            self.count("another rollout");
            hosts.iter().for_each(|host| host.consumers.set_policy(REPORTS, policy));
        }
        let version = self.draw(&VERSIONS);
        self.count(version);
        hosts.iter().for_each(|host| host.consumers.put(REPORTS, &guests::wasm(version)));
    }

    /// Its plugin or its side file.
    fn replace_lanes(&mut self, hosts: &[TestHost]) {
        if self.dice.below(2) == 0 {
            self.variants = self.variants.wrapping_add(1);
            self.count("another file");
            hosts.iter().for_each(|host| host.consumers.put(REPLACED, &guests::variant(REPLACED, self.variants)));
        } else {
            let policy = self.draw(&POLICIES);
            self.count("another side file");
            hosts.iter().for_each(|host| host.consumers.set_policy(REPLACED, policy));
        }
    }

    fn take_or_put_back(&mut self, hosts: &[TestHost]) {
        let is_there = |host: &TestHost| host.consumers.names().iter().any(|name| name == PASSING);
        if hosts.iter().any(is_there) {
            self.count("taken away");
            hosts.iter().filter(|host| is_there(host)).for_each(|host| host.consumers.remove(PASSING));
        } else {
            self.count("put back");
            hosts.iter().for_each(|host| host.consumers.add(PASSING));
        }
    }

    fn count(&mut self, what: &str) {
        *self.acts.entry(what.to_owned()).or_default() += 1;
    }

    fn draw(&mut self, from: &[&'static str]) -> &'static str {
        from[usize::try_from(self.dice.below(from.len() as u64)).unwrap_or_default()]
    }
}
