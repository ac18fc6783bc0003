//! The whole state machine of one consumer's deliveries against a model that is a list per lane.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::{Desk, due_by};
use crate::backend::InboxPolicy;
use crate::backend::embedded::commit::ConsumerCommit;
use crate::clock::Timestamp;
use crate::event::{Body, Custom, Event, EventId, KindPattern, Lane, Position};
use crate::policy::{OnDead, Rate};

const KINDS: [&str; 3] = ["com.a", "com.b", "com.c"];

#[derive(Clone, Debug)]
enum Step {
    /// Lane and kind of an event that is recorded.
    Record(u8, usize),
    Lease,
    /// Which of those that run ends, and how.
    End(usize, End),
    Revive(u8),
    Discard(u8),
    Pause(bool),
    Configure {
        concurrency: u32,
        rate: Option<u32>,
        on_dead: OnDead,
        hears: usize,
    },
    Wait(u64),
    /// The clock goes back.
    SetBack(u64),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Done,
    Retry(u64),
    Dead,
    Released,
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        4 => Just(End::Done),
        2 => (1_u64..500).prop_map(End::Retry),
        1 => Just(End::Dead),
        1 => Just(End::Released),
    ];
    let rate = prop::option::weighted(0.4, prop_oneof![Just(1_u32), Just(20), Just(1_000)]);
    let on_dead = prop_oneof![3 => Just(OnDead::Park), 1 => Just(OnDead::Skip)];
    prop_oneof![
        8 => (0_u8..5, 0..KINDS.len()).prop_map(|(lane, kind)| Step::Record(lane, kind)),
        8 => Just(Step::Lease),
        8 => (0_usize..8, end).prop_map(|(which, end)| Step::End(which, end)),
        1 => (0_u8..5).prop_map(Step::Revive),
        1 => (0_u8..5).prop_map(Step::Discard),
        1 => any::<bool>().prop_map(Step::Pause),
        1 => (0_u32..5, rate, on_dead, 1..=KINDS.len())
            .prop_map(|(concurrency, rate, on_dead, hears)| Step::Configure { concurrency, rate, on_dead, hears }),
        3 => (1_u64..400).prop_map(Step::Wait),
        1 => prop_oneof![1_u64..400, 50_000_u64..100_000].prop_map(Step::SetBack),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Ready,
    Running,
    Retrying(u64),
    Dead,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    position: u64,
    attempts: u32,
    standing: Standing,
    stored: bool,
    kind: usize,
}

struct Model {
    /// Every event there is: its lane and its kind.
    journal: Vec<(u8, usize)>,
    cursor: usize,
    lanes: BTreeMap<u8, Vec<Waiting>>,
    /// Positions that are through: they would be written down so.
    through: BTreeSet<u64>,
    now: u64,
    paused: bool,
    policy: InboxPolicy,
    hears: usize,
    configured_at: u64,
    started_since: u64,
    last_start: Option<u64>,
}

impl Model {
    fn running(&self) -> Vec<(u8, u64)> {
        let heads = self.lanes.iter().filter_map(|(lane, queue)| Some((*lane, *queue.first()?)));
        heads.filter(|(_, head)| head.standing == Standing::Running).map(|(lane, head)| (lane, head.position)).collect()
    }

    fn open(&self) -> bool {
        !self.paused && self.policy.concurrency > 0
    }

    /// Whether a head may run, be it allowed or not.
    fn any_ready(&self) -> bool {
        self.lanes.values().filter_map(|queue| queue.first()).any(|head| match head.standing {
            Standing::Ready => true,
            Standing::Retrying(due) => due <= self.now,
            Standing::Running | Standing::Dead => false,
        })
    }

    fn look(&mut self) {
        while let Some(&(lane, kind)) = self.journal.get(self.cursor) {
            self.cursor += 1;
            let position = self.cursor as u64;
            if kind >= self.hears {
                self.through.insert(position);
                continue;
            }
            let queue = self.lanes.entry(lane).or_default();
            let stored =
                queue.first().is_some_and(|head| matches!(head.standing, Standing::Retrying(_) | Standing::Dead));
            if stored {
                self.through.insert(position);
            }
            queue.push(Waiting { position, attempts: 0, standing: Standing::Ready, stored, kind });
        }
    }

    fn head(&mut self, lane: u8) -> &mut Waiting {
        &mut self.lanes.get_mut(&lane).unwrap()[0]
    }

    fn pop(&mut self, lane: u8) {
        let queue = self.lanes.get_mut(&lane).unwrap();
        let head = queue.remove(0);
        self.through.insert(head.position);
        if let Some(next) = queue.first_mut() {
            next.standing = Standing::Ready;
        } else {
            self.lanes.remove(&lane);
        }
    }

    /// What has to be stored now that the head stands still.
    fn park(&mut self, lane: u8, standing: Standing) -> Vec<u64> {
        let queue = self.lanes.get_mut(&lane).unwrap();
        queue[0].attempts += 1;
        queue[0].standing = standing;
        let fresh: Vec<u64> = queue.iter().filter(|it| !it.stored).map(|it| it.position).collect();
        queue.iter_mut().for_each(|it| it.stored = true);
        self.through.extend(&fresh);
        fresh
    }

    fn configure(&mut self, policy: InboxPolicy, hears: usize) {
        if hears != self.hears {
            let unwanted = |it: &Waiting| it.kind >= hears && !it.stored && it.standing != Standing::Running;
            for queue in self.lanes.values_mut() {
                self.through.extend(queue.iter().filter(|it| unwanted(it)).map(|it| it.position));
                queue.retain(|it| !unwanted(it));
            }
            self.lanes.retain(|_, queue| !queue.is_empty());
        }
        if policy.on_dead == OnDead::Skip {
            let dead = |queue: &Vec<Waiting>| queue[0].standing == Standing::Dead;
            let lanes: Vec<u8> = self.lanes.iter().filter(|(_, queue)| dead(queue)).map(|(lane, _)| *lane).collect();
            lanes.into_iter().for_each(|lane| self.pop(lane));
        }
        (self.policy, self.hears) = (policy, hears);
        (self.configured_at, self.started_since) = (self.now, 0);
    }

    /// Retries come when they would have come; a rate begins anew.
    fn set_back(&mut self, by: u64) {
        self.now -= by;
        for queue in self.lanes.values_mut() {
            if let Standing::Retrying(due) = &mut queue[0].standing {
                *due -= by;
            }
        }
        (self.configured_at, self.started_since, self.last_start) = (self.now, 0, Some(self.now));
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_millis(self.now)
    }
}

fn lane(name: u8) -> Lane {
    Lane::Subject(format!("lane-{name}").into())
}

fn event(position: u64, lane: u8, kind: usize) -> Arc<Event> {
    let body = Body::Custom(Custom {
        kind: KINDS[kind].into(),
        source: "/test".into(),
        origin_id: None,
        subject: format!("lane-{lane}").into(),
        order_id: None,
        data: RawValue::from_string("{}".to_owned()).unwrap().into(),
    });
    let position = Position::new(position).unwrap();
    Arc::new(Event { id: EventId::generate(), position, time: Timestamp::from_millis(0), cause: None, depth: 0, body })
}

fn policy(concurrency: u32, rate: Option<u32>, on_dead: OnDead, hears: usize) -> InboxPolicy {
    let subscriptions = KINDS[..hears].iter().map(|kind| kind.parse::<KindPattern>().unwrap()).collect();
    let rate = rate.and_then(NonZeroU32::new).map(|per_second| Rate { per_second });
    InboxPolicy { subscriptions, concurrency, rate, on_dead, state_bytes_max: 0, layout: None, back: None }
}

/// What the desk would have written down as through, without what `End` and `Lease` told.
fn passed(desk: &mut Desk, through: &mut BTreeSet<u64>) {
    let mut commit = ConsumerCommit::new(1, 1, 0);
    desk.take_passed(&mut commit);
    through.extend(commit.through.iter().flat_map(|(first, last)| *first..=*last));
}

fn lease(desk: &mut Desk, model: &mut Model) -> Result<(), TestCaseError> {
    let now = model.at();
    desk.keep_time(now);
    let running = u32::try_from(model.running().len()).unwrap();
    let allowed = model.open() && running < model.policy.concurrency;
    let may_start = desk.may_start(now);
    prop_assert!(!may_start || allowed, "paused, or more than {} at once", model.policy.concurrency);
    if let Some(Rate { per_second }) = model.policy.rate {
        let since = Duration::from_millis(model.now - model.last_start.unwrap_or(0));
        let due = since >= Duration::from_secs(1) / per_second.get() || model.last_start.is_none();
        // After another rate, what was started before still counts.
        prop_assert!(may_start || !allowed || !due || model.started_since == 0, "a rate holds nothing up for longer");
    } else {
        prop_assert_eq!(may_start, allowed);
    }
    if !may_start {
        return Ok(());
    }
    while desk.is_open() && usize::try_from(desk.cursor).unwrap() < model.journal.len() {
        let position = desk.cursor + 1;
        let (lane, kind) = model.journal[usize::try_from(desk.cursor).unwrap()];
        desk.offer(event(position, lane, kind), None);
    }
    model.look();
    let any = model.any_ready();
    let Some(item) = desk.lanes.lease(now) else {
        prop_assert!(!any, "a head that is ready is not leased");
        return Ok(());
    };
    desk.started(now);
    let heads = model.lanes.iter().map(|(lane, queue)| (*lane, queue[0]));
    let found = heads.into_iter().find(|(_, head)| head.position == item.position);
    let Some((lane, head)) = found else { return Err(TestCaseError::fail(format!("{item:?} is the head of no lane"))) };
    let ready = match head.standing {
        Standing::Ready => true,
        Standing::Retrying(due) => due <= model.now,
        Standing::Running | Standing::Dead => false,
    };
    prop_assert!(ready, "{:?} was leased", head);
    prop_assert_eq!(item.attempts, head.attempts);
    // A retry that is due wakes its lane, whichever lane is leased then.
    let now_ms = model.now;
    for queue in model.lanes.values_mut() {
        if matches!(queue[0].standing, Standing::Retrying(due) if due <= now_ms) {
            queue[0].standing = Standing::Ready;
        }
    }
    model.head(lane).standing = Standing::Running;
    model.started_since += 1;
    model.last_start = Some(model.now);
    if let Some(Rate { per_second }) = model.policy.rate {
        let elapsed_ms = model.now - model.configured_at + 100;
        let most = 2 + u64::from(per_second.get()) * elapsed_ms / 1_000;
        prop_assert!(
            model.started_since <= most,
            "{} starts in {elapsed_ms} ms at {per_second}/s",
            model.started_since
        );
    }
    Ok(())
}

fn end(desk: &mut Desk, model: &mut Model, which: usize, how: End) -> Result<(), TestCaseError> {
    let running = model.running();
    if running.is_empty() {
        return Ok(());
    }
    let (name, position) = running[which % running.len()];
    match (how, desk.on_dead()) {
        (End::Released, _) => {
            desk.lanes.release(position);
            model.head(name).standing = Standing::Ready;
        }
        (End::Done, _) | (End::Dead, OnDead::Skip) => {
            desk.lanes.done(position);
            model.pop(name);
        }
        (End::Retry(delay), _) => {
            let due = model.now + delay;
            let stored = desk.lanes.retry(position, Timestamp::from_millis(due));
            prop_assert_eq!(stored, model.park(name, Standing::Retrying(due)));
        }
        (End::Dead, OnDead::Park) => {
            let stored = desk.lanes.die(position);
            prop_assert_eq!(stored, model.park(name, Standing::Dead));
        }
    }
    Ok(())
}

#[test]
fn a_stored_retry_waits_for_no_longer_than_it_would_have_where_the_clock_was_set_back_since() {
    let at = Timestamp::from_millis;
    let (tried, due) = (at(90_000), at(90_400));
    assert_eq!(due_by(at(90_100), due, Some(tried)), due);
    assert_eq!(due_by(at(95_000), due, Some(tried)), due);
    assert_eq!(due_by(at(10_000), due, Some(tried)), at(10_400));
    assert_eq!(due_by(at(10_000), due, None), due);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn a_consumer_agrees_with_a_list_per_lane(steps in prop::collection::vec(step(), 1..150)) {
        let mut desk = Desk::default();
        let first = policy(2, None, OnDead::Park, 2);
        let mut model = Model {
            journal: Vec::new(), cursor: 0, lanes: BTreeMap::new(), through: BTreeSet::new(), now: 100_000_000, paused: false,
            policy: first.clone(), hears: 2, configured_at: 100_000_000, started_since: 0, last_start: None,
        };
        desk.configure(first);
        // As the inbox would have it written: what was passed by, and what ended or is stored.
        let mut through = BTreeSet::new();
        for step in steps {
            match step {
                Step::Record(lane, kind) => model.journal.push((lane, kind)),
                Step::Lease => lease(&mut desk, &mut model)?,
                Step::End(which, how) => end(&mut desk, &mut model, which, how)?,
                Step::Revive(name) => {
                    let head = model.lanes.get(&name).map(|queue| queue[0]);
                    let dead = head.is_some_and(|head| head.standing == Standing::Dead);
                    let position = head.map_or(0, |head| head.position);
                    prop_assert_eq!(desk.lanes.revive(&lane(name), position), dead);
                    if dead {
                        let head = model.head(name);
                        (head.standing, head.attempts) = (Standing::Ready, 0);
                    }
                }
                Step::Discard(name) => {
                    let head = model.lanes.get(&name).map(|queue| queue[0]);
                    let dead = head.is_some_and(|head| head.standing == Standing::Dead);
                    prop_assert_eq!(desk.lanes.discard(&lane(name), head.map_or(0, |head| head.position)), dead);
                    if dead { model.pop(name); }
                }
                Step::Pause(paused) => (desk.paused, model.paused) = (paused, paused),
                Step::Configure { concurrency, rate, on_dead, hears } => {
                    let policy = policy(concurrency, rate, on_dead, hears);
                    desk.configure(policy.clone());
                    model.configure(policy, hears);
                }
                Step::Wait(by) => model.now += by,
                Step::SetBack(by) => {
                    desk.keep_time(model.at());
                    model.set_back(by);
                    desk.keep_time(model.at());
                }
            }
            prop_assert_eq!(usize::try_from(desk.cursor).unwrap(), model.cursor, "nothing is passed by while it stands still");
            prop_assert_eq!(desk.lanes.total(), model.lanes.values().map(Vec::len).sum::<usize>());
            prop_assert_eq!(desk.lanes.leased(), model.running().len());
            let waiting: Vec<u64> = model.lanes.values().flatten().filter(|it| !it.stored).map(|it| it.position).collect();
            prop_assert_eq!(desk.lanes.unstored(), waiting.len());
            // Every event that was looked at is through, or waits in memory; never both, never neither.
            prop_assert!(waiting.iter().all(|position| !model.through.contains(position)));
            prop_assert_eq!(waiting.len() + model.through.len(), model.cursor);
            passed(&mut desk, &mut through);
            prop_assert!(through.is_subset(&model.through), "passed by without a reason");
            let next = desk.next_due(model.at());
            let retry = model.lanes.values().filter_map(|queue| match queue[0].standing {
                Standing::Retrying(due) => Some(due),
                _ => None,
            }).min();
            let may_start = desk.may_start(model.at());
            prop_assert!(next.is_some() || retry.is_none() || !may_start, "a retry that nobody waits for");
            prop_assert!(may_start || next.is_none_or(|due| due > model.at()), "a time that is past is waited for");
        }
    }
}
