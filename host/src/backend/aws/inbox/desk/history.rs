//! What backfills bring, in the same lanes: in front of live events, and gone from memory when the backfill stops.

use super::{Desk, LaneIn, Receipt, Work};
use crate::backend::aws::due::Due;
use crate::backend::aws::item::LaneKey;
use crate::backend::aws::place::Place;

impl LaneIn {
    /// Forgets events that do not run and were not tried before, where `which` says so. Their messages come again.
    fn drop_waiting(&mut self, which: impl Fn(&Work) -> bool) -> Vec<Receipt> {
        let first = usize::from(self.running.is_some());
        let (mut index, mut receipts) = (0, Vec::new());
        self.queue.retain(|work| {
            let goes = index >= first && work.head.is_none() && which(work);
            index += 1;
            if goes {
                receipts.extend(work.receipts.iter().cloned());
            }
            !goes
        });
        receipts
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.due.is_none() && !self.looking
    }
}

impl Desk {
    /// The backfill that may bring events, if one may. What others brought goes out of memory, unless it runs, or its lane
    /// brings it by itself.
    pub fn fill(&mut self, number: Option<i64>) {
        if self.filling == number {
            return;
        }
        self.filling = number;
        let lanes: Vec<LaneKey> = self.lanes.keys().cloned().collect();
        lanes.iter().for_each(|lane| self.withdraw_from(lane));
    }

    /// Takes back what a backfill brought that may not bring it now. What a lane brings by itself stays.
    pub fn withdraw_from(&mut self, key: &LaneKey) {
        let filling = self.filling;
        let Some(lane) = self.lanes.get_mut(key).filter(|lane| lane.due.is_none()) else { return };
        drop(lane.drop_waiting(|work| work.from.is_some_and(|from| Some(from.number) != filling)));
        if lane.is_idle() {
            self.lanes.remove(key);
        }
    }

    /// Forgets live events that wait, since a backfill has begun: some may have to wait for their history. What they were
    /// told by, and what stands for lanes that are left.
    pub fn make_way(&mut self) -> (Vec<Receipt>, Vec<Due>) {
        let (mut receipts, mut dues) = (Vec::new(), Vec::new());
        self.lanes.retain(|_, lane| {
            let waited = !lane.queue.is_empty();
            receipts.extend(lane.drop_waiting(|work| work.from.is_none()));
            let stays = !lane.queue.is_empty() || !waited;
            if !stays {
                dues.extend(lane.due.take());
            }
            stays
        });
        (receipts, dues)
    }

    /// Takes in events that a backfill brings, in the order of their lane. `place` is that of a lane that is not in memory.
    /// One that stands at an exception takes none.
    pub fn bring(&mut self, number: i64, key: LaneKey, place: Option<Place>, works: Vec<Work>) {
        if self.filling != Some(number) {
            return;
        }
        let lane = match (self.lanes.get_mut(&key), place) {
            (Some(lane), _) => lane,
            (None, Some(place)) => self.lanes.entry(key.clone()).or_insert_with(|| LaneIn::at(place)),
            (None, None) => return,
        };
        if lane.due.is_none() && !lane.place.is_parked() {
            drop(lane.add(works));
        }
        if lane.is_idle() {
            self.lanes.remove(&key);
        } else if lane.running.is_none() && !lane.queue.is_empty() {
            self.ready.push_back(key);
        }
    }

    /// Whether memory has an event that a backfill brought.
    pub fn has_history(&self, lane: &LaneKey, seq: u64) -> bool {
        let lane = self.lanes.get(lane);
        lane.is_some_and(|lane| lane.queue.iter().any(|work| work.logged.seq == seq && work.from.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::value::RawValue;

    use super::*;
    use crate::backend::aws::inbox::desk::Ended;
    use crate::backend::aws::lane::{Logged, Tail};
    use crate::backend::{BackfillEffects, FromBackfill, InboxPolicy};
    use crate::clock::Timestamp;
    use crate::event::{Body, Custom, Event, EventId, KindPattern, Position};
    use crate::policy::OnDead;

    const FILL: FromBackfill = FromBackfill { number: 7, effects: BackfillEffects::All };

    /// The first events of a lane.
    fn lane<const N: usize>(subject: &str) -> [Logged; N] {
        let mut tail = Tail::default();
        [(); N].map(|()| {
            let custom = Custom {
                kind: "com.example.a".into(),
                source: "/shop".into(),
                origin_id: None,
                subject: subject.into(),
                order_id: None,
                data: RawValue::from_string("{}".into()).unwrap().into(),
            };
            let position = Position::new(tail.seq + 1).unwrap();
            let (id, time) = (EventId::generate(), Timestamp::now());
            let event = Event { id, position, time, cause: None, depth: 0, body: Body::Custom(custom) };
            let logged = tail.next(Arc::new(event), None, false);
            tail = Tail::behind(&logged);
            logged
        })
    }

    fn desk() -> Desk {
        let subscriptions = std::iter::once("*".parse::<KindPattern>().unwrap()).collect();
        let mut desk = Desk::new(false);
        let policy = InboxPolicy {
            subscriptions,
            concurrency: 8,
            rate: None,
            on_dead: OnDead::Park,
            state_bytes_max: u64::MAX,
            layout: None,
            back: None,
        };
        drop(desk.configure(policy));
        desk
    }

    fn live(logged: &Logged) -> Work {
        Work { receipts: vec![format!("of {}", logged.seq)], ..Work::new(logged.clone()) }
    }

    fn leased(desk: &mut Desk) -> Option<(u64, u64)> {
        desk.lease(Timestamp::now()).map(|running| (running.logged.seq, running.ticket))
    }

    #[test]
    fn history_comes_before_live_events_of_its_lane_and_goes_when_its_backfill_stops() {
        let [one, two, three] = lane("tea");
        let (mut desk, key) = (desk(), one.key.clone());
        desk.bring(7, key.clone(), Some(Place::default()), vec![Work::past(one.clone(), FILL)]);
        assert!(!desk.has(&key), "it is not the one that may bring events");
        desk.fill(Some(7));
        let past = vec![Work::past(one.clone(), FILL), Work::past(two.clone(), FILL)];
        desk.bring(7, key.clone(), Some(Place::default()), past);
        drop(desk.add(&key, vec![live(&three)]));
        let (seq, ticket) = leased(&mut desk).unwrap();
        assert_eq!((seq, leased(&mut desk)), (1, None));
        desk.fill(None);
        assert!(desk.has_history(&key, 1) && !desk.has_history(&key, 2), "what runs ends");
        let running = desk.running_of(ticket).unwrap();
        let Ended::Next(done) = desk.ended(&running, running.place.through(1, Some(FILL), None)) else {
            panic!("there is a live event")
        };
        assert_eq!((done, leased(&mut desk).map(|it| it.0)), (Vec::<String>::new(), Some(3)));
    }

    #[test]
    fn what_is_given_back_is_not_handed_out_again_by_a_backfill_that_stopped() {
        let [one] = lane("tea");
        let (mut desk, key) = (desk(), one.key.clone());
        desk.fill(Some(7));
        desk.bring(7, key.clone(), Some(Place::default()), vec![Work::past(one, FILL)]);
        assert!(leased(&mut desk).is_some());
        desk.fill(None);
        desk.release(&key);
        assert!(leased(&mut desk).is_none() && !desk.has(&key));
    }

    #[test]
    fn live_events_that_wait_make_way_for_a_backfill_and_what_runs_stays() {
        let ([one, two], [other]) = (lane("tea"), lane("salt"));
        let mut desk = desk();
        let mut busy = LaneIn::at(Place::default());
        drop(busy.add([live(&one), live(&two)]));
        desk.insert(one.key.clone(), busy);
        let (seq, ticket) = leased(&mut desk).unwrap();
        assert_eq!(seq, 1);
        let mut idle = LaneIn::at(Place::default());
        drop(idle.add([live(&other)]));
        desk.insert(other.key.clone(), idle);
        let (mut receipts, dues) = desk.make_way();
        receipts.sort();
        assert_eq!((receipts, dues.len()), (vec!["of 1".to_owned(), "of 2".to_owned()], 0));
        assert!(desk.has(&one.key) && !desk.has(&other.key));
        assert!(desk.running_of(ticket).is_some() && leased(&mut desk).is_none());
    }
}
