//! Places for running instances, shared so that whoever is stuck in all of its own leaves some to everybody else.
//!
//! Each member (a version of a consumer) is guaranteed a few places; beyond them it may have any place that is not needed
//! for the guarantees of the others. So one busy consumer may use nearly all, and no number of stuck ones keeps another
//! from running.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// What a member is guaranteed where there is room for as many: enough to keep the cores busy with one consumer's events.
const GUARANTEED_MAX: usize = 4;

pub struct Places {
    state: Mutex<State>,
    freed: Notify,
}

struct State {
    total: usize,
    free: usize,
    guaranteed: usize,
    /// Places that are to be left for members which have fewer than they are guaranteed.
    owed: usize,
    /// Places that each member has.
    members: Vec<Option<usize>>,
    waiting: usize,
}

/// The right to places, of one member.
pub struct Member {
    places: Arc<Places>,
    index: usize,
}

/// One place, until it is dropped.
pub struct Place(Arc<Member>);

impl Places {
    pub fn new(total: usize) -> Arc<Self> {
        let total = total.max(1);
        let state = State { total, free: total, guaranteed: GUARANTEED_MAX, owed: 0, members: Vec::new(), waiting: 0 };
        Arc::new(Self { state: Mutex::new(state), freed: Notify::new() })
    }

    pub fn join(self: &Arc<Self>) -> Arc<Member> {
        let mut state = self.state.lock();
        let vacant = state.members.iter().position(Option::is_none);
        let index = vacant.unwrap_or(state.members.len());
        match state.members.get_mut(index) {
            Some(member) => *member = Some(0),
            None => state.members.push(Some(0)),
        }
        state.share_out();
        drop(state);
        Arc::new(Member { places: Arc::clone(self), index })
    }
}

impl State {
    /// What is guaranteed depends on how many there are.
    fn share_out(&mut self) {
        let members = self.members.iter().flatten();
        self.guaranteed = (self.total / members.clone().count().max(1) / 2).clamp(1, GUARANTEED_MAX);
        self.owed = members.map(|has| self.guaranteed.saturating_sub(*has)).sum();
    }

    fn take(&mut self, index: usize) -> bool {
        let Some(Some(has)) = self.members.get_mut(index) else { return false };
        let within = *has < self.guaranteed;
        if self.free == 0 || !within && self.free <= self.owed {
            return false;
        }
        *has += 1;
        self.free -= 1;
        self.owed -= usize::from(within);
        true
    }

    fn give_back(&mut self, index: usize) {
        if let Some(Some(has)) = self.members.get_mut(index) {
            *has -= 1;
            self.free += 1;
            self.owed += usize::from(*has < self.guaranteed);
        }
    }
}

impl Member {
    /// Waits for a place.
    pub async fn place(self: &Arc<Self>) -> Place {
        let places = &self.places;
        if places.state.lock().take(self.index) {
            return Place(Arc::clone(self));
        }
        let _waiting = Waiting::begin(places);
        loop {
            // Whoever leaves from here on is heard.
            let freed = places.freed.notified();
            if places.state.lock().take(self.index) {
                return Place(Arc::clone(self));
            }
            freed.await;
        }
    }
}

/// One that waits, so that nobody is called where nobody does.
struct Waiting<'a>(&'a Places);

impl<'a> Waiting<'a> {
    fn begin(places: &'a Places) -> Self {
        places.state.lock().waiting += 1;
        Self(places)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let places = &self.0.places;
        let waiting = {
            let mut state = places.state.lock();
            state.give_back(self.0.index);
            state.waiting
        };
        if waiting > 0 {
            places.freed.notify_waiters();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut state = self.places.state.lock();
        if let Some(member) = state.members.get_mut(self.index) {
            *member = None;
        }
        state.share_out();
        drop(state);
        self.places.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn all_that_there_is(member: &Arc<Member>) -> Vec<Place> {
        std::iter::from_fn(|| member.place().now_or_never()).collect()
    }

    #[test]
    fn one_alone_has_all_places() {
        let places = Places::new(10);
        let member = places.join();
        assert_eq!(all_that_there_is(&member).len(), 10);
        assert_eq!(all_that_there_is(&member).len(), 10, "and again, once they were given back");
    }

    #[test]
    fn whoever_is_stuck_leaves_the_others_what_they_are_guaranteed() {
        let places = Places::new(20);
        let (first, second, third) = (places.join(), places.join(), places.join());
        let stuck = (all_that_there_is(&first), all_that_there_is(&second));
        assert_eq!((stuck.0.len(), stuck.1.len()), (14, 3));
        assert_eq!(all_that_there_is(&third).len(), 3);
    }

    #[test]
    fn every_member_has_a_place_at_last_however_many_there_are() {
        let places = Places::new(3);
        let members: Vec<_> = (0..5).map(|_| places.join()).collect();
        let mut held: Vec<_> = members.iter().map(all_that_there_is).collect();
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1, 0, 0]);
        held.clear();
        assert!(members[4].place().now_or_never().is_some());
    }

    #[test]
    fn a_member_that_leaves_takes_its_guarantee_along() {
        let places = Places::new(8);
        let (first, second) = (places.join(), places.join());
        let held = all_that_there_is(&first);
        assert_eq!(held.len(), 6);
        drop(second);
        assert_eq!(all_that_there_is(&first).len(), 2);
    }

    #[tokio::test]
    async fn those_who_wait_hear_of_a_place() {
        let places = Places::new(1);
        let (first, second) = (places.join(), places.join());
        let held = first.place().await;
        let waiting = tokio::spawn(async move { drop(second.place().await) });
        tokio::task::yield_now().await;
        drop(held);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn those_who_wait_hear_of_a_member_that_leaves() {
        let places = Places::new(8);
        let (first, second) = (places.join(), places.join());
        let held = all_that_there_is(&first);
        let waiting = tokio::spawn(async move { drop(first.place().await) });
        tokio::task::yield_now().await;
        drop(second);
        tokio::time::timeout(std::time::Duration::from_secs(60), waiting).await.expect("a place").unwrap();
        drop(held);
    }
}
