//! Hosts that share a store follow each other's decisions within two seconds.
//!
//! How long that takes is a matter of how often a host asks, and of a machine that may be busy. So the first is looked at where
//! it can be seen, on the way to DynamoDB: a busy machine makes the time between two questions longer and never shorter. And the
//! second is shown by the best of some tries.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fanfare_tests::aws::{Call, Fault, Way};
use fanfare_tests::crash::fleet::prefix;
use fanfare_tests::orders::order;
use fanfare_tests::{Client, TestHost, Value, eventually, guests, json, within};

const FOLLOWED_WITHIN: Duration = Duration::from_secs(2);
/// Of these two seconds, what is left is for the question itself and what follows from its answer.
const ASKED_EVERY: Duration = Duration::from_millis(1_500);
const QUESTIONS: usize = 6;
const TRIES: usize = 8;
/// A host has a backfill for itself for ten seconds; where it does not let it go, another one asks about that often.
const ASKED_IN_VAIN_MAX: usize = 4;
const PATIENCE: Duration = Duration::from_secs(300);

/// A consumer with a past.
const LATE: &str = "late";

/// A host, and what it asks DynamoDB.
struct Watched {
    host: TestHost,
    asked: Arc<Mutex<Vec<(Instant, Call)>>>,
    _way: Way,
}

impl Watched {
    fn on(prefix: &str, guests: &[(&str, &str)]) -> Self {
        let mut host = TestHost::new();
        host.argument("--backend").argument("aws");
        host.variable("FANFARE_AWS_PREFIX", prefix).variable("FANFARE_AWS_PROVISION", "true");
        guests.iter().for_each(|(name, guest)| host.consumers.put(name, &guests::wasm(guest)));
        let (way, asked) = (Way::of(&mut host), Arc::<Mutex<Vec<_>>>::default());
        let heard = Arc::clone(&asked);
        way.dynamodb.choose(move |call| {
            heard.lock().expect("a sound list").push((Instant::now(), call.clone()));
            Fault::Pass
        });
        host.start();
        Self { host, asked, _way: way }
    }

    fn client(&self) -> Client {
        self.host.client()
    }

    /// When it asked such a question, since `since`.
    fn times(&self, since: Instant, is_one: impl Fn(&Call) -> bool) -> Vec<Instant> {
        let asked = self.asked.lock().expect("a sound list");
        asked.iter().filter(|(at, call)| *at >= since && is_one(call)).map(|(at, _)| *at).collect()
    }

    /// How long after `since` it first asked such a question.
    fn asks_after(&self, since: Instant, what: &str, is_one: impl Fn(&Call) -> bool) -> Duration {
        within(PATIENCE, what, || match self.times(since, &is_one).first() {
            Some(at) => Ok(at.duration_since(since)),
            None => Err(self.host.log()),
        })
    }

    /// The shortest time between two such questions, but for one that may be a repeat, out of those that it asks from now on.
    fn asks_every(&self, what: &str, is_one: impl Fn(&Call) -> bool) -> Duration {
        let since = Instant::now();
        within(PATIENCE, what, || {
            let times = self.times(since, &is_one);
            let mut between: Vec<Duration> = times.windows(2).map(|two| two[1].duration_since(two[0])).collect();
            between.sort_unstable();
            if between.len() >= QUESTIONS { Ok(between[1]) } else { Err(format!("{between:?}")) }
        })
    }
}

/// What hosts decided about versions, and which run where.
fn is_about_versions(call: &Call) -> bool {
    call.operation == "Query" && call.body.contains(r#"":pk":{"S":"y"}"#)
}

/// Pauses and backfills.
fn is_about_consumers(call: &Call) -> bool {
    call.operation == "Query" && call.body.contains(r#"":pk":{"S":"c"}"#)
}

/// Whether a backfill is for this host to go through.
fn is_claim(call: &Call) -> bool {
    call.operation == "UpdateItem" && call.body.contains("own = :owner, til = :until")
}

/// That it went through some of one.
fn is_advance(call: &Call) -> bool {
    call.operation == "UpdateItem" && call.body.contains("SET cur = :reached")
}

/// The first time that is short enough, of some.
#[track_caller]
fn best_of_tries(what: &str, mut try_it: impl FnMut(usize) -> Duration) {
    let mut took = Vec::new();
    for number in 0..TRIES {
        took.push(try_it(number));
        if took.last().is_some_and(|took| *took <= FOLLOWED_WITHIN) {
            return;
        }
    }
    panic!("{what} took {took:?}");
}

fn ask(client: &Client, name: &str, step: &str, body: &Value) {
    let answer = client.post(&format!("/v1/consumers/{name}/{step}"), body);
    assert!(answer.status.is_success(), "{answer:#?}");
}

fn hash(client: &Client) -> Value {
    client.consumer("reports").map(|mut reports| reports["hash"].take()).unwrap_or_default()
}

/// How long after `since` a host runs this version.
fn runs_after(client: &Client, since: Instant, wanted: &Value) -> Duration {
    within(PATIENCE, "the other host runs it, too", || {
        let runs = hash(client);
        if runs == *wanted { Ok(since.elapsed()) } else { Err(format!("{runs} and not {wanted}")) }
    })
}

#[test]
fn a_host_asks_what_others_decided_often_enough_to_follow_within_two_seconds() {
    let prefix = prefix();
    let first = Watched::on(&prefix, &[]);
    // For as long as the story takes.
    (0..90).for_each(|_| drop(first.client().placed(&order(&[("TEA", 1)]))));
    drop(first);
    let mut hosts = [Watched::on(&prefix, &[(LATE, "reports-one")]), Watched::on(&prefix, &[(LATE, "reports-one")])];
    for watched in &mut hosts {
        watched.host.leave_deliveries();
    }
    for host in &hosts {
        let every = host.asks_every("it asks about versions", is_about_versions);
        assert!(every <= ASKED_EVERY, "about versions every {every:?}");
        let every = host.asks_every("it asks about consumers", is_about_consumers);
        assert!(every <= ASKED_EVERY, "about pauses and backfills every {every:?}");
    }

    let began = Instant::now();
    ask(&hosts[0].client(), LATE, "backfill", &json!({"from": "beginning", "rate": "1/s"}));
    let owner = within(PATIENCE, "one of both goes through the backfill", || {
        let owner = hosts.iter().position(|host| !host.times(began, is_advance).is_empty());
        owner.ok_or_else(|| hosts[0].host.log())
    });
    let [owner, other] = if owner == 0 { [0, 1] } else { [1, 0] };
    let every = hosts[other].asks_every("the other one asks for it", is_claim);
    assert!(every <= ASKED_EVERY, "for the backfill every {every:?}");
    assert!(hosts[other].times(began, is_advance).is_empty(), "two hosts go through one backfill");

    hosts[owner].host.ask_to_end();
    hosts[owner].host.ended();
    let ended = Instant::now();
    let first = hosts[other].asks_after(ended, "the other one goes on", is_advance);
    let in_vain = hosts[other].times(ended, |call| is_claim(call) || is_advance(call));
    let in_vain = in_vain.into_iter().filter(|at| at.duration_since(ended) < first).count();
    assert!(in_vain <= ASKED_IN_VAIN_MAX, "it asked {in_vain} times for what nobody had any more");
    ask(&hosts[other].client(), LATE, "backfill/cancel", &json!({}));
}

#[test]
fn a_pause_a_rollback_a_promotion_a_verdict_and_a_backfill_are_followed_within_two_seconds() {
    let prefix = prefix();
    let mut decides = Watched::on(&prefix, &[("reports", "reports-one")]);
    (0..40).for_each(|_| drop(decides.client().placed(&order(&[("TEA", 1)]))));
    let mut follows = Watched::on(&prefix, &[("reports", "reports-one"), (LATE, "reports-one")]);
    for watched in [&mut decides, &mut follows] {
        watched.host.leave_deliveries();
    }
    let [decider, follower] = [&decides, &follows].map(Watched::client);

    // Only the host that is not asked has that consumer.
    best_of_tries("what was resumed", |_| {
        ask(&decider, LATE, "pause", &json!({}));
        let paused = Instant::now();
        eventually("it asks once more, behind one that was answered", || {
            match follows.times(paused, is_about_consumers).len() {
                count @ 0..3 => Err(format!("{count} times")),
                _ => Ok(()),
            }
        });
        let before = decider.counter(LATE, "handled");
        decider.placed(&order(&[("TEA", 1)]));
        follows.asks_after(Instant::now(), "it asks again", is_about_consumers);
        assert_eq!(decider.counter(LATE, "handled"), before, "it handles what a pause holds back");
        ask(&decider, LATE, "resume", &json!({}));
        let resumed = Instant::now();
        within(PATIENCE, "it is handled", || match decider.counter(LATE, "handled") {
            handled if handled > before => Ok(resumed.elapsed()),
            handled => Err(format!("{handled}: {}", follows.host.log())),
        })
    });
    best_of_tries("the beginning of a backfill", |_| {
        ask(&decider, LATE, "backfill", &json!({"from": "beginning", "rate": "1/s"}));
        let took = follows.asks_after(Instant::now(), "it goes through it", is_claim);
        ask(&decider, LATE, "backfill/cancel", &json!({}));
        took
    });

    let one = hash(&decider);
    decides.host.consumers.put("reports", &guests::wasm("reports-two"));
    decider.wait_for_consumer("reports", |reports| reports["version"] == "2.0.0");
    let two = hash(&decider);
    ask(&decider, "reports", "promote", &json!({}));
    runs_after(&follower, Instant::now(), &two);
    let step = |step: &str, wanted: &Value| {
        ask(&decider, "reports", step, &json!({}));
        runs_after(&follower, Instant::now(), wanted)
    };
    best_of_tries("a rollback", |_| {
        let took = step("rollback", &one);
        step("promote", &two);
        took
    });
    best_of_tries("a promotion", |_| {
        step("rollback", &one);
        step("promote", &two)
    });

    decides.host.consumers.set_policy("reports", "[rollout]\npercent = 90\nmin_events = 5\nmax_failure_rate = 0.05\n");
    best_of_tries("the verdict on a canary", |number| {
        let before = hash(&decider);
        let guest = if number % 2 == 0 { "reports-one" } else { "reports-two" };
        decides.host.consumers.put("reports", &guests::variant(guest, u8::try_from(number).expect("a few")));
        decider.wait_for_consumer("reports", |reports| reports["candidate"]["state"] == "canary");
        let mut judged = Instant::now();
        within(PATIENCE, "it is judged", || {
            if hash(&decider) != before {
                return Ok(());
            }
            judged = Instant::now();
            decider.placed(&order(&[("TEA", 1)]));
            Err(decides.host.log())
        });
        runs_after(&follower, judged, &hash(&decider))
    });
}
