//! Ends of deliveries of a rebuild that go in one transaction.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::{Again, Progress};
use crate::backend::Result;
use crate::backend::aws::inbox::Running;
use crate::backend::aws::item::{Key, LaneKey, number};
use crate::backend::aws::lane::Tail;
use crate::backend::aws::place::Place;
use crate::backend::aws::settle::{Committer, Mark, Settled, Settling};
use crate::backend::aws::store::Store;
use crate::backend::aws::table::{Change, Transaction, WRITES_MAX};
use crate::clock::Timestamp;
use crate::effects::{Adjustment, Effects, Reads, Value};
use crate::order::OrderId;
use crate::policy::{ConsumerName, OnDead};

/// Of what was seen, and what is to be written.
const BYTES_MAX: usize = 1 << 20;
/// Adjustments may be many of one counter.
const ADJUSTMENTS_MAX: usize = 10_000;

#[derive(Default)]
pub struct Staged {
    events: usize,
    bytes: usize,
    since: Option<Instant>,
    entries: BTreeMap<Arc<str>, Entry>,
    counters: BTreeMap<Arc<str>, Counter>,
    adjustments: Vec<Adjustment>,
    /// At which revision they were seen.
    orders: BTreeMap<OrderId, Option<u64>>,
    /// Where the cursor stands and goes to, where it moves.
    cursor: Option<(u64, u64)>,
    /// Positions of what was put off, and is no longer.
    come_back_to: Vec<u64>,
    dropped: u64,
    /// Events that were not counted when the rebuild began.
    more: u64,
    has_failed: bool,
    last: Option<Again>,
}

/// What was seen of the table, and what becomes of it.
#[derive(Default)]
struct Entry {
    seen: Option<Value>,
    written: Option<Value>,
}

#[derive(Default)]
struct Counter {
    seen: Option<i64>,
    by: i64,
}

impl Staged {
    pub fn of(again: &Again, reads: &Reads, effects: &Effects, dropped: u64) -> Self {
        let mut entries: BTreeMap<Arc<str>, Entry> = BTreeMap::new();
        for (key, seen) in &reads.entries {
            entries.entry(Arc::clone(key)).or_default().seen = Some(seen.clone());
        }
        for (key, written) in &effects.entries {
            entries.entry(Arc::clone(key)).or_default().written = Some(written.clone());
        }
        let mut counters: BTreeMap<Arc<str>, Counter> = BTreeMap::new();
        for (key, seen) in &reads.counters {
            counters.entry(Arc::clone(key)).or_default().seen = Some(*seen);
        }
        for adjustment in &effects.adjustments {
            let counter = counters.entry(Arc::clone(&adjustment.key)).or_default();
            counter.by = counter.by.wrapping_add(adjustment.by);
        }
        let position = again.logged.position();
        let (cursor, come_back_to) = match again.progress {
            Progress::From(from) => (Some((from, position)), Vec::new()),
            Progress::PutOff => (None, vec![position]),
        };
        let bytes = |value: &Option<Value>| value.iter().flatten().map(|value| value.len()).sum::<usize>();
        let of_entries = entries.iter().map(|(key, it)| key.len() + bytes(&it.seen) + bytes(&it.written));
        let of_counters = counters.keys().map(|key| key.len());
        Self {
            events: 1,
            bytes: of_entries.chain(of_counters).sum(),
            since: Some(Instant::now()),
            entries,
            counters,
            adjustments: effects.adjustments.clone(),
            orders: reads.orders.iter().copied().collect(),
            cursor,
            come_back_to,
            dropped,
            more: again.is_more.into(),
            has_failed: again.has_failed,
            last: Some(again.clone()),
        }
    }

    pub fn events(&self) -> usize {
        self.events
    }

    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// How long the first of them has waited.
    pub fn age(&self) -> Duration {
        self.since.map(|since| since.elapsed()).unwrap_or_default()
    }

    /// What becomes of a counter.
    pub fn adds(&self, key: &str) -> i64 {
        self.counters.get(key).map_or(0, |counter| counter.by)
    }

    fn writes(&self) -> usize {
        1 + self.entries.len() + self.counters.len() + self.orders.len() + self.come_back_to.len()
    }

    /// Whether it is as much as a batch holds by itself.
    pub fn is_large(&self) -> bool {
        self.writes() > WRITES_MAX || self.bytes > BYTES_MAX
    }

    /// Whether another one goes with it.
    pub fn takes(&self, one: &Self) -> bool {
        let entries = one.entries.keys().filter(|key| !self.entries.contains_key(*key)).count();
        let counters = one.counters.keys().filter(|key| !self.counters.contains_key(*key)).count();
        let orders = one.orders.keys().filter(|id| !self.orders.contains_key(id)).count();
        let writes = self.writes() + entries + counters + orders + one.come_back_to.len();
        // An order that has gone on between was seen by one of them as it is no more.
        let agree = one.orders.iter().all(|(id, seen)| self.orders.get(id).is_none_or(|other| other == seen));
        let fits = writes <= WRITES_MAX && self.bytes + one.bytes <= BYTES_MAX;
        fits && agree && self.adjustments.len() + one.adjustments.len() <= ADJUSTMENTS_MAX
    }

    /// Adds one that saw what becomes of these.
    pub fn add(&mut self, one: Self) {
        for (key, next) in one.entries {
            let entry = self.entries.entry(key).or_default();
            if entry.written.is_none() && entry.seen.is_none() {
                entry.seen = next.seen;
            }
            entry.written = next.written.or(entry.written.take());
        }
        for (key, next) in one.counters {
            let counter = self.counters.entry(key).or_default();
            // It saw what the adjustments before it had made of the counter.
            counter.seen = counter.seen.or(next.seen.and_then(|seen| seen.checked_sub(counter.by)));
            counter.by = counter.by.wrapping_add(next.by);
        }
        self.adjustments.extend(one.adjustments);
        self.orders.extend(one.orders);
        self.cursor = match (self.cursor, one.cursor) {
            (Some((from, _)), Some((_, to))) => Some((from, to)),
            (before, next) => before.or(next),
        };
        self.come_back_to.extend(one.come_back_to);
        self.since = self.since.or(one.since);
        self.events += one.events;
        self.bytes += one.bytes;
        self.dropped += one.dropped;
        self.more += one.more;
        self.has_failed |= one.has_failed;
        self.last = one.last;
    }

    /// What was read of the table, and the effects of all of them as those of one.
    fn merged(&self) -> (Reads, Effects) {
        let (mut reads, mut effects) = (Reads::default(), Effects::default());
        for (key, Entry { seen, written }) in &self.entries {
            reads.entries.extend(seen.clone().map(|seen| (Arc::clone(key), seen)));
            effects.entries.extend(written.clone().map(|written| (Arc::clone(key), written)));
        }
        let seen = |(key, counter): (&Arc<str>, &Counter)| counter.seen.map(|seen| (Arc::clone(key), seen));
        reads.counters = self.counters.iter().filter_map(seen).collect();
        reads.orders = self.orders.iter().map(|(id, seen)| (*id, *seen)).collect();
        effects.adjustments.clone_from(&self.adjustments);
        (reads, effects)
    }

    /// Writes them, with what they say of the rebuild. Lanes that were looked at end so, unless they have gone on.
    pub async fn commit(
        &self,
        store: &Store,
        committer: &Arc<Committer>,
        name: &ConsumerName,
        tails: HashMap<LaneKey, Tail>,
    ) -> Result<Settled> {
        let Some(again) = &self.last else { return Ok(Settled::Written(Place::default())) };
        let Again { rebuild, generation, put_off, logged, .. } = again;
        let running = Running {
            ticket: 0,
            lane: logged.key.clone(),
            logged: logged.clone(),
            event: Arc::clone(&logged.event),
            place: Place::default(),
            head: None,
            edited: again.edited.is_some(),
            stray: false,
            due_ver: 0,
            from: None,
            leased_at: Timestamp::now(),
        };
        // What it does with dead letters is of no concern.
        let (generation, on_dead, gate) = (*generation, OnDead::Park, None);
        let settling =
            Settling { store, committer, name, generation, on_dead, running: &running, gate, dropped: self.dropped };
        let mut set = "SET dl = dl + :events, dx = dx + :dropped, evs = evs + :more".to_owned();
        if self.cursor.is_some() {
            set += ", cur = :here";
        }
        if self.has_failed {
            set += " REMOVE fl, fla";
        }
        let says = |transaction: &mut Transaction<Mark>| {
            let mut change = again
                .change(&set, self.cursor.map(|(from, _)| from))
                .value(":events", number(self.events))
                .value(":dropped", number(self.dropped))
                .value(":more", number(self.more));
            if let Some((_, to)) = self.cursor {
                change = change.value(":here", number(to));
            }
            transaction.update(Mark::Place, Key::backfill(name, *rebuild), change);
            for position in &self.come_back_to {
                let is_there = Change::default().only_if("attribute_exists(pk)");
                transaction.delete(Mark::Place, Key::put_off(name, *put_off, *position), is_there);
            }
        };
        let (reads, effects) = self.merged();
        settling.settle_rebuilt(&reads, &effects, tails, says).await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixture::again;
    use super::*;

    /// What a state has, and what of it a handler is told and writes.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct State {
        entries: HashMap<Arc<str>, Arc<[u8]>>,
        counters: HashMap<Arc<str>, i64>,
    }

    #[derive(Clone, Debug)]
    enum Step {
        Get(u8),
        Set(u8, Option<u8>),
        Count(u8),
        Adjust(u8, i64),
    }

    fn key(number: u8) -> Arc<str> {
        format!("k{number}").into()
    }

    impl State {
        fn handled(&self, steps: &[Step]) -> (Reads, Effects) {
            let (mut reads, mut effects) = (Reads::default(), Effects::default());
            for step in steps {
                match *step {
                    Step::Get(k) if reads.entries.iter().all(|(seen, _)| *seen != key(k)) => {
                        reads.entries.push((key(k), self.entries.get(&key(k)).cloned()));
                    }
                    Step::Set(k, value) => {
                        effects.entries.retain(|(other, _)| *other != key(k));
                        effects.entries.push((key(k), value.map(|value| [value].as_slice().into())));
                    }
                    Step::Count(k) if reads.counters.iter().all(|(seen, _)| *seen != key(k)) => {
                        reads.counters.push((key(k), self.counters.get(&key(k)).copied().unwrap_or_default()));
                    }
                    Step::Adjust(k, by) => effects.adjustments.push(Adjustment { key: key(k), by, floor: None }),
                    Step::Get(_) | Step::Count(_) => {}
                }
            }
            (reads, effects)
        }

        fn take(&mut self, effects: &Effects) {
            for (key, value) in &effects.entries {
                match value {
                    Some(value) => drop(self.entries.insert(Arc::clone(key), Arc::clone(value))),
                    None => drop(self.entries.remove(key)),
                }
            }
            for Adjustment { key, by, .. } in &effects.adjustments {
                *self.counters.entry(Arc::clone(key)).or_default() += by;
            }
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4_u8).prop_map(Step::Get),
            (0..4_u8, prop::option::of(any::<u8>())).prop_map(|(k, value)| Step::Set(k, value)),
            (0..4_u8).prop_map(Step::Count),
            (0..4_u8, -9..9_i64).prop_map(|(k, by)| Step::Adjust(k, by)),
        ]
    }

    proptest! {
        /// One write does what those of each would have done, and is refused where the first that looks would have been.
        #[test]
        fn many_are_as_one_after_the_other(
            before in prop::collection::vec(step(), 0..6),
            events in prop::collection::vec(prop::collection::vec(step(), 0..5), 1..6),
        ) {
            let mut start = State::default();
            start.take(&start.handled(&before).1);
            let (mut now, mut staged) = (start.clone(), Staged::default());
            for (index, steps) in events.iter().enumerate() {
                let (reads, effects) = now.handled(steps);
                let progress = Progress::From(10 * index as u64);
                staged.add(Staged::of(&again(10 * (index as u64 + 1), progress), &reads, &effects, 1));
                now.take(&effects);
            }
            let (reads, effects) = staged.merged();
            for (key, seen) in &reads.entries {
                prop_assert_eq!(seen.as_ref(), start.entries.get(key), "{}", key);
            }
            for (key, seen) in &reads.counters {
                prop_assert_eq!(*seen, start.counters.get(key).copied().unwrap_or_default(), "{}", key);
            }
            let mut merged = start.clone();
            merged.take(&effects);
            prop_assert_eq!(&merged, &now);
            for key in now.counters.keys() {
                let before = start.counters.get(key).copied().unwrap_or_default();
                prop_assert_eq!(before + staged.adds(key), now.counters[key]);
            }
            let count = events.len() as u64;
            prop_assert_eq!((staged.events() as u64, staged.dropped, staged.cursor), (count, count, Some((0, 10 * count))));
            // What somebody looked at first, before anybody wrote it, is looked at.
            for (index, steps) in events.iter().enumerate() {
                let written = |k: u8| events[..index].iter().flatten().any(|it| matches!(it, Step::Set(other, _) if *other == k));
                for step in steps {
                    if let Step::Get(k) = step {
                        prop_assert!(written(*k) || reads.entries.iter().any(|(seen, _)| *seen == key(*k)), "{}", k);
                    }
                    if let Step::Count(k) = step {
                        prop_assert!(reads.counters.iter().any(|(seen, _)| *seen == key(*k)), "{}", k);
                    }
                }
            }
        }
    }

    #[test]
    fn a_batch_is_one_transaction_and_agrees_about_orders() {
        let entries = |from: usize, to: usize| {
            let entries = (from..to).map(|n| (Arc::from(format!("e{n}")), Some([1].as_slice().into()))).collect();
            Effects { entries, ..Effects::default() }
        };
        let one = |effects: &Effects| Staged::of(&again(1, Progress::From(0)), &Reads::default(), effects, 0);
        let mut staged = one(&entries(0, 90));
        assert!(staged.takes(&one(&entries(80, 99))) && !staged.takes(&one(&entries(80, 100))));
        assert!(!one(&entries(0, 99)).is_large() && one(&entries(0, 100)).is_large());
        let big = Effects { entries: vec![("e".into(), Some(vec![0; BYTES_MAX].into()))], ..Effects::default() };
        assert!(!staged.takes(&one(&big)) && one(&big).is_large());

        let order = OrderId::generate();
        let saw = |revision| {
            let reads = Reads { orders: vec![(order, revision)], ..Reads::default() };
            Staged::of(&again(1, Progress::PutOff), &reads, &Effects::default(), 0)
        };
        staged.add(saw(Some(3)));
        assert!(staged.takes(&saw(Some(3))) && !staged.takes(&saw(Some(4))) && !staged.takes(&saw(None)));
    }
}
