//! A rebuild at work: what is leased beside the live deliveries, and the hand-over.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::look::Look;
use super::{Leased, Rebuild};
use crate::backend::embedded::commit::BackfillNumber;
use crate::backend::embedded::generations::{Filling, Step};
use crate::backend::embedded::inbox::desk::Desk;
use crate::backend::embedded::inbox::{EmbeddedInbox, StateView};
use crate::backend::embedded::queue::{Answer, DEPTH_OF_DELIVERIES_MAX, Job};
use crate::backend::{AttemptBy, BackfillStep, Delivery, Generation, Lease, Origin, Result, View, WayBack};
use crate::fault::{self, Point};

impl EmbeddedInbox {
    /// Takes up the rebuild that is under way in the store.
    pub fn begin_rebuild(&self) -> rusqlite::Result<()> {
        let mut desk = self.desk.lock();
        let rebuild = Rebuild::load(self.store.readers.disk().connection()?, self.number)?;
        if desk.rebuild.as_ref().map(Rebuild::number) != rebuild.as_ref().map(Rebuild::number) {
            desk.rebuild = rebuild;
        }
        self.rebuilds.store(desk.rebuild.is_some(), Ordering::Release);
        drop(desk);
        self.ring();
        Ok(())
    }

    /// From now on, its state is of this layout; the rebuild with the number `ended` was of the one before.
    pub fn laid_out(&self, layout: u32, ended: Option<BackfillNumber>) {
        if let Some(number) = ended {
            self.steer_rebuild(number, BackfillStep::Cancel);
        }
        self.desk.lock().layout = Some(layout);
        self.ring();
    }

    /// `false` where no such rebuild is at work here.
    pub fn steer_rebuild(&self, number: BackfillNumber, step: BackfillStep) -> bool {
        let mut desk = self.desk.lock();
        let rebuild = desk.rebuild.as_mut().filter(|rebuild| rebuild.number() == number);
        let found = rebuild.map(|rebuild| rebuild.steer(step)).is_some();
        drop(desk);
        self.ring();
        found
    }

    /// Whether deliveries of a rebuild may still be on their way.
    pub fn is_rebuilt(&self) -> bool {
        let mut desk = self.desk.lock();
        if desk.rebuild.take_if(|rebuild| rebuild.is_over()).is_some() {
            self.rebuilds.store(false, Ordering::Release);
        }
        desk.rebuild.is_some()
    }

    /// The next delivery, live or the rebuild's.
    pub fn lease_beside_rebuild(&self) -> rusqlite::Result<Option<Delivery>> {
        if !self.is_rebuilt() {
            return self.try_lease();
        }
        self.look_back()?;
        let first = self.desk.lock().rebuild.as_mut().is_some_and(Rebuild::takes_turn);
        if first && let Some(delivery) = self.lease_past()? {
            return Ok(Some(delivery));
        }
        match self.try_lease()? {
            None if !first => self.lease_past(),
            found => Ok(found),
        }
    }

    fn is_busy(&self) -> bool {
        self.store.queue.depth() >= DEPTH_OF_DELIVERIES_MAX || self.store.queue.refusing().is_some()
    }

    fn lease_past(&self) -> rusqlite::Result<Option<Delivery>> {
        if self.is_busy() {
            return Ok(None);
        }
        let mut desk = self.desk.lock();
        let now = desk.now();
        let may_start = desk.may_start_past(now);
        let Desk { rebuild: Some(rebuild), edited, epoch, .. } = &mut *desk else { return Ok(None) };
        let Some(leased) = may_start.then(|| rebuild.lease(now)).flatten() else { return Ok(None) };
        let Leased { event, attempt, first_attempt_at } = leased;
        let position = event.position.get();
        // Where a person edited a copy, the consumer did that one.
        let copy = if edited.contains(&position) { self.edited(&event) } else { Ok(None) };
        let copy = copy.inspect_err(|_| rebuild.release(position))?;
        let Filling { backfill, state, .. } = rebuild.filling;
        let by = if rebuild.way.is_some() { AttemptBy::Returning } else { AttemptBy::Live };
        let lease =
            Lease { epoch: *epoch, stored: false, edited: copy.is_some(), backfill: None, rebuild: Some(backfill) };
        let (origin, generation) = (Origin::Backfill, Generation { state, epoch: *epoch });
        desk.started(now);
        let event = copy.unwrap_or(event);
        Ok(Some(Delivery { event, attempt, origin, first_attempt_at, generation, by, lease }))
    }

    /// Looks at more of the past, or asks for the hand-over. The desk is free while the store is read.
    fn look_back(&self) -> rusqlite::Result<()> {
        let durable = self.store.queue.durable();
        let (past, epoch) = {
            let mut desk = self.desk.lock();
            let (is_open, running, epoch) = (desk.rebuilt_for().is_some(), desk.lanes.leased(), desk.epoch);
            let now = desk.now();
            let Some(rebuild) = desk.rebuild.as_mut().filter(|_| is_open) else { return Ok(()) };
            rebuild.keep_time(now);
            if rebuild.asks(running) {
                self.ask_for_hand_over(&mut desk);
                return Ok(());
            }
            let Some(past) = rebuild.begin_look(durable) else { return Ok(()) };
            (past, epoch)
        };
        let look = Look::at(&self.store, &past);
        let mut desk = self.desk.lock();
        let now = desk.now();
        let wanted = desk.rebuilt_for().cloned();
        let same = desk.epoch == epoch;
        let rebuild = desk.rebuild.as_mut().filter(|rebuild| same && rebuild.filling == past.filling);
        let (Some(rebuild), Some(wanted)) = (rebuild, wanted) else { return Ok(()) };
        let look = look.inspect_err(|_| rebuild.give_up_look())?;
        let mut fed = rebuild.feed(&look, |event| wanted.want(event));
        let job = if fed.looked == Default::default() {
            None
        } else {
            let step = Step::Looked(std::mem::take(&mut fed.looked));
            let Ok(job) = self.push_step(past.filling, step) else {
                rebuild.give_up_look();
                return Ok(());
            };
            Some(job)
        };
        rebuild.looked(&look, fed, job, durable, now);
        drop(desk);
        // There is more: look again, after others had their turn.
        self.ring();
        Ok(())
    }

    pub fn push_step(&self, filling: Filling, step: Step) -> Result<u64> {
        self.store.queue.push(Job::untold(move |writer| {
            writer.rebuild(filling, step)?;
            Ok(Box::new(|_| ()) as Answer)
        }))
    }

    /// No live delivery runs, and none starts until there is an answer: whatever the consumer did is ahead in the queue.
    fn ask_for_hand_over(&self, desk: &mut Desk) {
        // What this version passed by, the one that comes may hear: it must be seen before.
        if desk.rebuild.as_ref().is_some_and(|rebuild| rebuild.way.is_some()) {
            self.write_passed(desk);
        }
        let Some(rebuild) = &mut desk.rebuild else { return };
        let (store, name, filling) = (Arc::clone(&self.store), self.name.clone(), rebuild.filling);
        let pushed = self.store.queue.push(Job::untold(move |writer| {
            let is_new = writer.hand_over(filling)?;
            let told = move |durable: Result<()>| {
                // Otherwise everything goes back to what is durable.
                if durable.is_ok()
                    && let Some(inbox) = store.inbox(&name)
                {
                    inbox.answered(filling, is_new);
                }
            };
            Ok(Box::new(told) as Answer)
        }));
        if pushed.is_err() {
            rebuild.not_yet();
        }
    }

    fn answered(&self, filling: Filling, is_new: bool) {
        if is_new {
            fault::pass(Point::RebuildHandedOver);
            self.take_over(filling);
        } else if let Some(rebuild) = self.desk.lock().rebuild.as_mut().filter(|rebuild| rebuild.filling == filling) {
            rebuild.not_yet();
        }
        self.ring();
    }

    /// From here on, the consumer's state is what the rebuild filled. Nothing is leased until it is.
    fn take_over(&self, filling: Filling) {
        let cache = {
            let desk = self.desk.lock();
            let rebuild = desk.rebuild.as_ref().filter(|rebuild| rebuild.filling == filling);
            let Some(rebuild) = rebuild else { return };
            Arc::clone(&rebuild.cache)
        };
        let mut in_use = self.cache.lock();
        std::mem::swap(&mut *in_use, &mut *cache.lock());
        let mut desk = self.desk.lock();
        let way = desk.rebuild.take().and_then(|rebuild| rebuild.way);
        desk.generation = filling.state;
        if let Some(way) = &way {
            // Nothing starts on it before the version is there that it is for.
            fault::pass(Point::ReturnDurable);
            desk.layout = Some(way.layout);
            self.store.handed_over.notify_one();
        }
        self.rebuilds.store(false, Ordering::Release);
        drop((desk, in_use));
        match way {
            None => tracing::info!(consumer = %self.name, "its rebuilt state is in use from now on"),
            Some(WayBack { to, layout, .. }) => tracing::info!(
                consumer = %self.name, version = %to.short(), layout, "the state that was kept is in use again, with this version"
            ),
        }
    }

    /// A view of the generation that the delivery is handled on.
    pub fn view_of(&self, delivery: &Delivery) -> Arc<dyn View> {
        let desk = self.desk.lock();
        let rebuild = desk.rebuild.as_ref().filter(|rebuild| delivery.lease.rebuild == Some(rebuild.filling.backfill));
        match rebuild {
            Some(rebuild) => {
                let (store, cache) = (Arc::clone(&self.store), Arc::clone(&rebuild.cache));
                Arc::new(StateView { store, cache, epoch: Arc::clone(&self.epoch) })
            }
            // Of one that ended meanwhile: nothing comes of it.
            None => Arc::clone(&self.view),
        }
    }
}
