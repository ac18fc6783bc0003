//! Lanes that stood at an exception, or were to be looked at again: taken up when they are due.

use std::sync::Arc;
use std::time::Duration;

use super::desk::LaneIn;
use super::{AGAIN, AwsInbox};
use crate::backend::Result;
use crate::backend::aws::due::{self, Due};
use crate::backend::aws::item::LaneKey;
use crate::backend::aws::place::{self, HeadState};
use crate::clock::Timestamp;

/// Between two looks at what is due, where nothing rang: items of hosts that died.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What is due and taken up in one look.
pub(super) const DUE_BATCH: usize = 50;

impl AwsInbox {
    /// Takes up what is due, until the store is closed.
    pub(super) async fn look(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.rung.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.ending.cancelled() => return,
            }
            if self.desk.lock().is_open() && self.take_due().await == DUE_BATCH {
                self.rung.notify_one();
            }
        }
    }

    /// Takes up what is due, some of it, and says how much.
    pub(super) async fn take_due(&self) -> usize {
        let taken = match due::take(&self.store, &self.name, DUE_BATCH).await {
            Ok(taken) => taken,
            Err(error) => {
                if self.store.repeats.is_news("look for what is due", self.name.as_str(), &error) {
                    tracing::warn!(consumer = %self.name, %error, "what is due cannot be looked for");
                }
                return 0;
            }
        };
        let count = taken.len();
        for due in taken {
            let lane = due.lane.clone();
            if let Err(error) = self.take_up(due).await {
                // Its claim runs out, and it is taken up again.
                drop(self.desk.lock().leave(&lane));
                tracing::warn!(consumer = %self.name, %lane, %error, "what is due cannot be read; it is tried again");
            }
        }
        count
    }

    /// A lane, from what stands for it among the items that are due.
    async fn take_up(&self, due: Due) -> Result<()> {
        let _sorting = self.sorting.lock().await;
        if self.desk.lock().has(&due.lane) {
            return due::claim_until(&self.store, &due, Timestamp::now().plus(AGAIN)).await;
        }
        let (place, past) = place::look(&self.store, &self.name, &due.lane).await?;
        let head = place.head.filter(|_| !due.stray);
        match head.map(|head| head.state) {
            Some(HeadState::Retrying(at)) if at > Timestamp::now() => {
                return due::claim_until(&self.store, &due, at).await;
            }
            // It died once more; who redrives it makes another item.
            Some(HeadState::Dead) => return due::done(&self.store, &due).await,
            _ => {}
        }
        let key = due.lane.clone();
        let standing = if due.stray { Some(due.seq) } else { head.map(|head| head.seq) };
        let Some(seq) = standing else {
            // Through with it before; what is behind it may not have been looked at.
            self.desk.lock().insert(key.clone(), LaneIn::looking(place, due));
            return self.go_on(&key).await;
        };
        let Some(logged) = self.store.logged(&key, seq, seq, 1).await?.pop() else {
            return due::done(&self.store, &due).await;
        };
        let mut lane = LaneIn::due(place, due);
        lane.offer_head(logged, &past.get(&seq).cloned().unwrap_or_default())?;
        self.desk.lock().insert(key, lane);
        self.ring();
        Ok(())
    }

    /// Looks for more of a lane that stood at an exception, and lets it go where there is nothing. Nobody else brings lanes
    /// into memory meanwhile.
    pub(super) async fn go_on(&self, key: &LaneKey) -> Result<()> {
        let Some((place, due)) = self.desk.lock().lane(key).map(|lane| (lane.place.clone(), lane.due.clone())) else {
            return Ok(());
        };
        let Some(behind) = self.behind(key, &place).await? else {
            let left = self.desk.lock().leave(key);
            match due {
                Some(due) => {
                    self.hold(&due).await?;
                    self.acknowledge(left);
                }
                None => self.acknowledge_none(left),
            }
            self.ring();
            return Ok(());
        };
        if !self.desk.lock().looked(key, behind) {
            if let Some(due) = due {
                due::done(&self.store, &due).await?;
            }
            let left = self.desk.lock().leave(key);
            self.acknowledge(left);
        }
        self.ring();
        Ok(())
    }

    /// Rings when something of this host is due.
    pub(super) fn ring_at(&self, at: Timestamp) {
        let (store, name) = (Arc::clone(&self.store), self.name.clone());
        let wait = at.since(Timestamp::now());
        if wait > LOOK_EVERY {
            return;
        }
        self.store.tasks.spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(inbox) = store.inbox(&name) {
                inbox.rung.notify_one();
            }
        });
    }

    /// Lanes that stand behind dead letters go on, as if the policy had been so from the start.
    pub(super) async fn leave_dead_behind(self: Arc<Self>) {
        if let Err(error) = crate::backend::aws::dead_letters::unpark(&self.store, &self.name).await {
            tracing::warn!(consumer = %self.name, %error, "lanes behind dead letters do not go on yet");
        }
        self.rung.notify_one();
    }
}
