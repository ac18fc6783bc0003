use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Head, Item, Lanes};
use crate::backend::{BackfillEffects, FromBackfill};
use crate::clock::Timestamp;
use crate::event::Lane;

fn lane(name: u8) -> Lane {
    Lane::Subject(format!("lane-{name}").into())
}

fn item(position: u64) -> Item {
    Item { position, event: None, attempts: 0, first_attempt_at: None, stored: false, replayed: false, backfill: None }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

#[test]
fn a_lane_runs_one_delivery_at_a_time_and_others_are_not_hindered() {
    let mut lanes = Lanes::default();
    lanes.offer(lane(1), item(1));
    lanes.offer(lane(1), item(2));
    lanes.offer(lane(2), item(3));
    assert_eq!(lanes.lease(at(0)).unwrap().position, 1);
    assert_eq!(lanes.lease(at(0)).unwrap().position, 3);
    assert!(lanes.lease(at(0)).is_none());
    lanes.done(1);
    assert_eq!(lanes.lease(at(0)).unwrap().position, 2);
}

#[test]
fn a_retry_parks_its_lane_until_it_is_due() {
    let mut lanes = Lanes::default();
    lanes.offer(lane(1), item(1));
    lanes.offer(lane(1), item(2));
    lanes.lease(at(0)).unwrap();
    assert_eq!(lanes.retry(1, at(100)), [1, 2]);
    assert!(lanes.offer(lane(1), item(3)), "what comes behind a parked head is to be stored");
    assert!(lanes.lease(at(99)).is_none());
    let again = lanes.lease(at(100)).unwrap();
    assert_eq!((again.position, again.attempts), (1, 1));
    lanes.done(1);
    assert_eq!(lanes.lease(at(100)).unwrap().position, 2);
}

#[test]
fn a_retry_does_not_wait_for_a_clock_that_was_set_back() {
    let mut lanes = Lanes::default();
    for (name, due) in [(1, 90_100), (2, 90_300)] {
        lanes.offer(lane(name), item(u64::from(name)));
        lanes.lease(at(90_000)).unwrap();
        lanes.retry(u64::from(name), at(due));
    }
    lanes.set_back(std::time::Duration::from_millis(80_000));
    assert_eq!(lanes.next_due(), Some(at(10_100)));
    assert!(lanes.lease(at(10_099)).is_none());
    assert_eq!(lanes.lease(at(10_100)).unwrap().position, 1);
    assert!(lanes.lease(at(10_299)).is_none());
    assert_eq!(lanes.lease(at(10_300)).unwrap().position, 2);
}

#[test]
fn a_dead_letter_parks_its_lane_until_it_is_revived_or_discarded() {
    let mut lanes = Lanes::default();
    lanes.offer(lane(1), item(1));
    lanes.offer(lane(1), item(2));
    lanes.lease(at(0)).unwrap();
    assert_eq!(lanes.die(1), [1, 2]);
    assert!(lanes.lease(at(1_000_000)).is_none());
    assert!(lanes.revive(&lane(1), 1));
    let again = lanes.lease(at(0)).unwrap();
    assert_eq!((again.position, again.attempts, again.replayed), (1, 0, true));
    lanes.die(1);
    assert!(lanes.discard(&lane(1), 1));
    assert_eq!(lanes.lease(at(0)).unwrap().position, 2);
    assert_eq!(lanes.dead(), 0);
}

#[test]
fn a_restored_lane_stands_as_it_stood() {
    let mut lanes = Lanes::default();
    let stored = |position| Item { stored: true, ..item(position) };
    lanes.restore(lane(1), Item { attempts: 3, ..stored(1) }, Head::Retrying(at(50)));
    lanes.restore(lane(1), stored(4), Head::Ready);
    lanes.restore(lane(2), stored(2), Head::Dead);
    assert!(lanes.lease(at(49)).is_none());
    assert_eq!(lanes.next_due(), Some(at(50)));
    assert_eq!(lanes.lease(at(50)).unwrap().attempts, 3);
    assert_eq!((lanes.total(), lanes.dead(), lanes.unstored()), (3, 1, 0));
}

#[test]
fn a_backfill_comes_on_beside_live_events_that_never_end() {
    let mut lanes = Lanes::default();
    let from = FromBackfill { number: 1, effects: BackfillEffects::All };
    let mut position = 0;
    for name in 0..4 {
        position += 1;
        lanes.offer(lane(name), Item { backfill: Some(from), ..item(position) });
    }
    let mut leased = 0;
    for name in 4..40 {
        position += 1;
        lanes.offer(lane(name), item(position));
        let next = lanes.lease(at(0)).unwrap();
        leased += usize::from(next.backfill.is_some());
        lanes.done(next.position);
    }
    assert_eq!(leased, 4);
}

#[test]
fn what_was_given_back_was_not_attempted() {
    let mut lanes = Lanes::default();
    lanes.offer(lane(1), item(1));
    lanes.lease(at(10)).unwrap();
    lanes.release(1);
    let first = lanes.lease(at(20)).unwrap();
    assert_eq!((first.attempts, first.first_attempt_at), (0, Some(at(20))));
    lanes.retry(1, at(30));
    lanes.lease(at(30)).unwrap();
    lanes.release(1);
    let again = lanes.lease(at(40)).unwrap();
    assert_eq!((again.attempts, again.first_attempt_at), (1, Some(at(20))));
}

#[derive(Clone, Debug)]
enum Step {
    Offer(u8),
    Lease,
    End(usize, u8),
    Revive(u8),
    Discard(u8),
    Tick(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u8..5).prop_map(Step::Offer),
        4 => Just(Step::Lease),
        4 => (0_usize..8, 0_u8..4).prop_map(|(which, how)| Step::End(which, how)),
        1 => (0_u8..5).prop_map(Step::Revive),
        1 => (0_u8..5).prop_map(Step::Discard),
        1 => (1_u64..20).prop_map(Step::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The model is a queue per lane. Whatever happens: only a head is leased, never twice at once, retries not
    /// before they are due, and the counts agree.
    #[test]
    fn lanes_agree_with_a_queue_per_lane(steps in prop::collection::vec(step(), 1..120)) {
        let mut lanes = Lanes::default();
        let mut model: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
        let mut stored: BTreeMap<u64, bool> = BTreeMap::new();
        let mut heads: BTreeMap<u8, Head> = BTreeMap::new();
        let mut running: Vec<(u8, u64)> = Vec::new();
        let (mut now, mut next) = (0_u64, 1_u64);
        for step in steps {
            match step {
                Step::Offer(name) => {
                    let parked = matches!(heads.get(&name), Some(Head::Dead | Head::Retrying(_)));
                    // A retry that is due is still parked until the next lease looks at the clock.
                    prop_assert_eq!(lanes.offer(lane(name), item(next)), parked);
                    stored.insert(next, parked);
                    model.entry(name).or_default().push(next);
                    heads.entry(name).or_insert(Head::Ready);
                    next += 1;
                }
                Step::Lease => {
                    for head in heads.values_mut() {
                        if matches!(head, Head::Retrying(due) if *due <= at(now)) {
                            *head = Head::Ready;
                        }
                    }
                    let leased = lanes.lease(at(now));
                    let any = heads.values().any(|head| *head == Head::Ready);
                    prop_assert_eq!(leased.is_some(), any);
                    if let Some(leased) = leased {
                        let (&name, _) = model.iter().find(|(_, queue)| queue.first() == Some(&leased.position)).unwrap();
                        prop_assert_eq!(heads[&name], Head::Ready);
                        heads.insert(name, Head::Leased);
                        running.push((name, leased.position));
                    }
                }
                Step::End(which, how) => {
                    if running.is_empty() { continue; }
                    let (name, position) = running.remove(which % running.len());
                    let queue = model.get_mut(&name).unwrap();
                    match how {
                        0 => { lanes.release(position); heads.insert(name, Head::Ready); }
                        1 => {
                            lanes.done(position);
                            queue.remove(0);
                            heads.insert(name, Head::Ready);
                        }
                        how => {
                            let due = at(now + 10);
                            let head = if how == 2 { Head::Retrying(due) } else { Head::Dead };
                            let to_store = if how == 2 { lanes.retry(position, due) } else { lanes.die(position) };
                            let expected: Vec<u64> = queue.iter().copied().filter(|p| !stored[p]).collect();
                            prop_assert_eq!(&to_store, &expected);
                            for position in to_store { stored.insert(position, true); }
                            heads.insert(name, head);
                        }
                    }
                    if queue.is_empty() { model.remove(&name); heads.remove(&name); }
                }
                Step::Revive(name) => {
                    let Some(&first) = model.get(&name).and_then(|queue| queue.first()) else { continue };
                    let dead = heads[&name] == Head::Dead;
                    prop_assert_eq!(lanes.revive(&lane(name), first), dead);
                    if dead { heads.insert(name, Head::Ready); }
                }
                Step::Discard(name) => {
                    let Some(&first) = model.get(&name).and_then(|queue| queue.first()) else { continue };
                    let dead = heads[&name] == Head::Dead;
                    prop_assert_eq!(lanes.discard(&lane(name), first), dead);
                    if dead {
                        let queue = model.get_mut(&name).unwrap();
                        queue.remove(0);
                        heads.insert(name, Head::Ready);
                        if queue.is_empty() { model.remove(&name); heads.remove(&name); }
                    }
                }
                Step::Tick(by) => now += by,
            }
            prop_assert_eq!(lanes.total(), model.values().map(Vec::len).sum::<usize>());
            prop_assert_eq!(lanes.unstored(), model.values().flatten().filter(|p| !stored[p]).count());
            prop_assert_eq!(lanes.leased(), running.len());
            prop_assert_eq!(lanes.dead(), heads.values().filter(|head| **head == Head::Dead).count());
        }
    }
}
