//! How many deliveries of one consumer may be on their way to the disk at once.
//!
//! One that catches up finishes thousands a second, and what is on its way when an order comes is in the commit that the order
//! waits for, or in the one before it. A commit costs a millisecond or two whatever is in it, and some 20 µs for each delivery:
//!
//! ```text
//! deliveries in a commit       64     1,024
//! it takes                   3 ms     22 ms
//! a delivery's part of that 45 µs     21 µs
//! ```
//! So few are dear for a consumer, and many for everybody else. Who is alone may have many; beside others, twice what they
//! commit themselves, so that a commit is at most three times as long as without it, and even that only where it is longer than
//! a few make it. Twice, because with as much as they a consumer that is behind keeps up with what comes, and never
//! catches up. Where all are busy (a journey of orders, whose consumers wait for each other's commits) the bound grows with what
//! they commit, by at least two from one commit to the next, and holds nobody back.

/// Beside others, however little they do. Beside 300 orders a second, with 64 instead one that catches up does 17 % more, and an
/// answer takes 2.9 ms instead of 1.7; with 8 it does 30 % less, and an answer takes as long.
const MIN: usize = 16;
/// Alone.
const MAX: usize = 1_024;
/// Commits in a row without others until a consumer counts as alone: seconds, or an order every now and then would meet the
/// long commits of one that is alone.
const ALONE_AFTER: u32 = 1_000;

#[derive(Debug, Default)]
pub struct Room {
    /// Number of the last job that was durable when it was last looked at; `None` before that.
    durable: Option<u64>,
    /// Jobs of others in the last commit that had any; 0 where the consumer is alone.
    others: u64,
    without_others: u32,
}

impl Room {
    /// Jobs up to number `durable` are on disk; of those that were not when it was last told, `own` are the consumer's.
    pub fn settled(&mut self, durable: u64, own: u64) {
        let before = self.durable.replace(durable).unwrap_or(durable);
        if durable == before {
            return;
        }
        let others = durable.saturating_sub(before).saturating_sub(own);
        if others > 0 {
            (self.others, self.without_others) = (others, 0);
            return;
        }
        self.without_others += 1;
        if self.without_others >= ALONE_AFTER {
            (self.others, self.without_others) = (0, 0);
        }
    }

    /// Deliveries that may be on their way.
    pub fn max(&self) -> usize {
        match usize::try_from(self.others).unwrap_or(MAX) {
            0 => MAX,
            others => others.saturating_mul(2).clamp(MIN, MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::value::RawValue;

    use super::*;
    use crate::backend::embedded::inbox::tests::hold;
    use crate::backend::embedded::inbox::{EmbeddedInbox, settle};
    use crate::backend::embedded::{Settings, backup, start};
    use crate::backend::{
        Consumers as _, Finished, Inbox as _, InboxPolicy, Intake as _, Lifecycle as _, Ran, Settlement,
    };
    use crate::effects::{Effects, Reads};
    use crate::event::{Custom, KindPattern};
    use crate::policy::{OnDead, Start};

    const EVENTS: usize = 600;

    /// Commits of consumers that always have as much to do as they may, each beside `more` jobs of orders. What each may do after.
    fn busy(consumers: usize, more: u64, commits: u32, rooms: Option<Vec<Room>>) -> Vec<Room> {
        let mut rooms =
            rooms.unwrap_or_else(|| (0..consumers).map(|_| Room { others: 1, ..Room::default() }).collect());
        for _ in 0..commits {
            let own: Vec<u64> = rooms.iter().map(|room| room.max() as u64).collect();
            let all = own.iter().sum::<u64>() + more;
            for (room, own) in rooms.iter_mut().zip(own) {
                let before = *room.durable.get_or_insert(0);
                room.settled(before + all, own);
            }
        }
        rooms
    }

    #[test]
    fn one_that_is_alone_has_all_the_room() {
        let mut room = Room::default();
        assert_eq!(room.max(), MAX);
        // Whatever was there before it came is no matter.
        room.settled(1_000_000, 3);
        assert_eq!(room.max(), MAX);
        room.settled(1_000_900, 900);
        assert_eq!(room.max(), MAX);
    }

    #[test]
    fn beside_a_trickle_of_orders_it_has_little_until_they_have_stayed_away() {
        let mut room = Room { durable: Some(0), ..Room::default() };
        room.settled(1_001, 1_000);
        assert_eq!(room.max(), MIN);
        let mut at = 1_001;
        for _ in 1..ALONE_AFTER {
            at += 64;
            room.settled(at, 64);
            room.settled(at, 0);
        }
        assert_eq!(room.max(), MIN, "an order may come any time");
        room.settled(at + 64, 64);
        assert_eq!(room.max(), MAX);
    }

    #[test]
    fn a_commit_is_at_most_three_times_as_long_as_without_one_that_catches_up() {
        for others in [40, 100, 300] {
            let [room] = &busy(1, others, 10, None)[..] else { unreachable!("one") };
            assert_eq!(room.max() as u64, 2 * others);
        }
    }

    #[test]
    fn those_that_are_busy_alike_hold_nobody_back() {
        for consumers in [2, 5] {
            assert!(busy(consumers, 0, 7, None).iter().all(|room| room.max() == MAX), "{consumers} consumers");
        }
        // Nor after a commit that happened to be small.
        let rooms = busy(5, 64, 5, None);
        let small = rooms.into_iter().map(|room| Room { others: 3, ..room }).collect();
        assert!(busy(5, 64, 3, Some(small)).iter().all(|room| room.max() == MAX));
    }

    /// Leases and finishes a delivery, if one may start.
    fn handle(inbox: &EmbeddedInbox) -> bool {
        let Some(delivery) = inbox.lease() else { return false };
        let ran = Ran { version: "1".into(), duration: Duration::ZERO, calls: Vec::new() };
        let done = Settlement::Done { effects: Effects::default(), ran };
        assert!(matches!(settle::finish(inbox, delivery, &Reads::default(), done), Finished::Accepted));
        true
    }

    fn handle_all(inbox: &EmbeddedInbox) -> usize {
        std::iter::from_fn(|| handle(inbox).then_some(())).count()
    }

    fn event(number: usize) -> Custom {
        Custom {
            kind: "com.example.told".into(),
            source: "/test".into(),
            origin_id: None,
            subject: number.to_string().into(),
            order_id: None,
            data: Arc::from(RawValue::from_string("1".into()).unwrap()),
        }
    }

    #[tokio::test]
    async fn while_the_disk_is_busy_a_consumer_finishes_as_much_as_it_has_room_for() {
        let directory = tempfile::tempdir().unwrap();
        let embedded = start(&Settings { data_dir: directory.path().to_owned() }).unwrap();
        let store = &embedded.store;
        for name in ["alpha", "beta"] {
            embedded.attach(&name.parse().unwrap(), Start::Beginning).await.unwrap();
        }
        let inboxes = store.inboxes();
        let [beside_others, alone] = &inboxes[..] else { unreachable!("attached above") };
        let policy = InboxPolicy {
            subscriptions: ["com.*"].iter().map(|kind| kind.parse::<KindPattern>().unwrap()).collect(),
            concurrency: 1,
            rate: None,
            on_dead: OnDead::Park,
            state_bytes_max: 1 << 20,
            layout: None,
            back: None,
        };
        inboxes.iter().for_each(|inbox| inbox.configure(policy.clone()));
        drop(embedded.publish((0..EVENTS).map(event).collect()).await.unwrap());

        // A job of somebody else is committed after it began.
        assert!(handle(beside_others));
        backup::tick(store).await.unwrap();
        let held = hold(store);
        assert_eq!(handle_all(beside_others), MIN);
        assert_eq!(handle_all(alone), EVENTS);
        drop(held);
        backup::tick(store).await.unwrap();
        let held = hold(store);
        assert_eq!(
            handle_all(beside_others),
            MAX.min(EVENTS - MIN - 1),
            "beside one that commits as much, it has more"
        );
        drop(held);
        embedded.close().await;
    }
}
