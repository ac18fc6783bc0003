//! On which generation of its state a consumer's live deliveries are committed here, and through which gate.
//!
//! ```text
//!  free ──► gated, through this host's gate ──► shut, for a try to hand over ──► free, on the new generation
//!    └──────────────► shut ◄───────┘
//! ```
//!
//! Where no rebuild is known to be under way, commits have no condition on it. So what is known must be young, and when that
//! changes, it counts only once nothing is on its way that went by what was known before.

#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::AwsInbox;
use super::desk::Running;
use crate::backend::aws::backfills::gate;
use crate::backend::aws::consumers::{FOLLOW_EVERY, Known};
use crate::backend::aws::item::Key;
use crate::backend::aws::layouts::Laid;
use crate::backend::{AttemptBy, Delivery, Error, Finished, Generation, Lease, Result};
use crate::clock::Timestamp;

/// How old what is known may be that a commit without a gate goes by.
const KNOWN_MAX: Duration = Duration::from_secs(10);
/// For how long a commit without a gate whose answer did not come may be on its way.
const DOUBTED_FOR: Duration = Duration::from_secs(20);
/// Between two looks at the gate, while a rebuild is under way.
const KEEP_EVERY: Duration = Duration::from_millis(50);
/// Who died while he tried to hand over has held live deliveries back for long enough by then.
const GRACE: Duration = Duration::from_secs(5);

/// When something was asked for: by a clock that only rises, and by one that goes on while the machine sleeps.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    at: Instant,
    time: Timestamp,
}

impl Asked {
    pub fn now() -> Self {
        Self { at: Instant::now(), time: Timestamp::now() }
    }

    fn age(self) -> Duration {
        self.at.elapsed().max(Timestamp::now().since(self.time))
    }

    fn later(self, other: Self) -> Self {
        if other.at > self.at { other } else { self }
    }
}

/// What commits go by that begin now.
#[derive(Debug, PartialEq, Eq)]
pub struct Ground {
    pub generation: i64,
    laid: Option<Laid>,
    stands: Stands,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stands {
    Free,
    /// Nothing is committed.
    Shut {
        rebuild: i64,
    },
    Gated {
        rebuild: i64,
        gate: Key,
    },
}

impl Ground {
    fn of(known: &Known, stands: Stands) -> Self {
        Self { generation: known.generation, laid: known.laid, stands }
    }

    pub fn gate(&self) -> Option<&Key> {
        match &self.stands {
            Stands::Gated { gate, .. } => Some(gate),
            Stands::Free | Stands::Shut { .. } => None,
        }
    }

    /// Whether what was handled on this generation, by this layout, may be committed.
    pub fn holds(&self, generation: i64, layout: Option<u32>) -> bool {
        self.generation == generation && self.laid.is_none_or(|laid| laid.lets(layout)) && !self.is_shut()
    }

    fn is_shut(&self) -> bool {
        matches!(self.stands, Stands::Shut { .. })
    }

    fn is_free(&self) -> bool {
        self.stands == Stands::Free
    }
}

pub struct Footing {
    ground: Arc<Ground>,
    /// When what it goes by was asked for.
    asked: Asked,
    /// The take-over that has not ended, and since when this host knows of it.
    relaid: Option<(i64, Instant)>,
    /// Somebody here is about to end it.
    follows: bool,
    /// What commits without a gate went by that may be on their way.
    unfenced: Vec<Weak<Ground>>,
    /// The rebuild of which this host has said that it commits through its gate alone.
    joined: Option<i64>,
}

impl Footing {
    pub fn of(known: &Known, asked: Asked) -> Self {
        let stands = known.rebuilding.map_or(Stands::Free, |rebuild| Stands::Shut { rebuild });
        let ground = Arc::new(Ground::of(known, stands));
        Self { ground, asked, relaid: None, follows: false, unfenced: Vec::new(), joined: None }
    }

    fn stand(&mut self, ground: Ground) {
        if *self.ground == ground {
            return;
        }
        let before = std::mem::replace(&mut self.ground, Arc::new(ground));
        self.unfenced.retain(|other| other.strong_count() > 0);
        if before.is_free() {
            self.unfenced.push(Arc::downgrade(&before));
        }
    }

    /// Whether nothing is on its way without a gate.
    fn is_fenced(&self) -> bool {
        !self.ground.is_free() && self.is_young()
    }

    /// Whether nothing is on its way that went by what was known before.
    fn is_young(&self) -> bool {
        self.unfenced.iter().all(|other| other.strong_count() == 0)
    }
}

impl AwsInbox {
    /// The next live delivery.
    pub(super) fn lease_live(&self, now: Timestamp) -> Option<Delivery> {
        let running = self.desk.lock().lease(now)?;
        Some(Delivery {
            event: Arc::clone(&running.event),
            attempt: running.head.map_or(0, |head| head.attempts) + 1,
            origin: running.origin(),
            first_attempt_at: running.first_at(),
            generation: Generation { state: self.generation(), epoch: 0 },
            by: AttemptBy::default(),
            lease: Lease {
                epoch: running.ticket,
                stored: running.head.is_some(),
                edited: running.edited,
                backfill: running.from,
                rebuild: None,
            },
        })
    }

    /// The table says this now, which was asked for then. Whoever knows more than that keeps what he knows.
    pub(super) fn take_ground(&self, known: &Known, asked: Asked) {
        let mut footing = self.footing.lock();
        footing.asked = footing.asked.later(asked);
        let ground = Arc::clone(&footing.ground);
        let same = ground.generation == known.generation;
        let stands = match (known.rebuilding, &ground.stands) {
            (None, _) => Stands::Free,
            // Its gate is to be opened, unless it is too late for that.
            (Some(_), Stands::Free) if same && known.near.is_none() => Stands::Free,
            (Some(rebuild), Stands::Gated { rebuild: before, .. }) if same && rebuild == *before => {
                ground.stands.clone()
            }
            (Some(rebuild), _) => Stands::Shut { rebuild },
        };
        let relaid = known.laid.filter(|laid| !laid.is_ready).map(|laid| laid.number);
        if relaid != footing.relaid.map(|(number, _)| number) {
            footing.relaid = relaid.map(|number| (number, Instant::now()));
        }
        let is_held = known.near.is_some() || matches!(stands, Stands::Shut { .. });
        footing.stand(Ground::of(known, stands));
        drop(footing);
        {
            let mut desk = self.desk.lock();
            (desk.held, desk.laid) = (is_held, known.laid);
        }
        if known.rebuilding.is_some() {
            self.gated.notify_one();
        }
    }

    /// What a commit that begins now goes by.
    ///
    /// # Errors
    /// Where what is known is old, and the table cannot be asked.
    pub(super) async fn ground(&self) -> Result<Arc<Ground>> {
        {
            let footing = self.footing.lock();
            if !footing.ground.is_free() || footing.asked.age() < KNOWN_MAX {
                return Ok(Arc::clone(&footing.ground));
            }
        }
        self.reknow().await?;
        if self.handed.is_some() {
            // Nobody else opens its gate in the middle of an invocation.
            self.look_at_gate().await?;
        }
        Ok(Arc::clone(&self.footing.lock().ground))
    }

    /// Whether that is the gate of this host, and something may go through it still.
    pub fn goes_through_gate_of(&self, host: &str) -> bool {
        self.host == host && self.footing.lock().ground.gate().is_some()
    }

    /// The generation in use, as far as this host knows.
    pub(super) fn generation(&self) -> i64 {
        self.footing.lock().ground.generation
    }

    /// The answer to a commit that went by this did not come.
    pub(super) fn doubt(&self, ground: Arc<Ground>) {
        if ground.is_free() {
            let stopping = self.store.stopping.clone();
            self.store.tasks.spawn(async move {
                tokio::select! {
                    () = sleep(DOUBTED_FOR) => {}
                    () = stopping.cancelled() => {}
                }
                drop(ground);
            });
        }
    }

    /// Asks the table what it says of the consumer.
    pub(super) async fn reknow(&self) -> Result<()> {
        let asked = Asked::now();
        let item = self.store.table.get(&Key::consumer(&self.name)).await?;
        let known = item.as_ref().map(Known::read).transpose()?.filter(|known| self.is_of(known));
        let known = known.ok_or_else(|| Error::Unavailable("the consumer was forgotten meanwhile".into()))?;
        self.learn(known, asked);
        Ok(())
    }

    /// Somebody shut the gate, or the rebuild is over.
    async fn found_shut(&self) -> Result<()> {
        {
            let known = self.known.lock();
            if let Some(rebuild) = known.rebuilding {
                self.footing.lock().stand(Ground::of(&known, Stands::Shut { rebuild }));
                self.desk.lock().held = true;
            }
        }
        self.reknow().await
    }

    /// What was handled may be of a state that is no use any more: it is the first to be handled again.
    pub(super) async fn meets_shut_gate(&self, running: &Running, ground: Option<Arc<Ground>>) -> Finished {
        let event = running.event.id;
        tracing::debug!(consumer = %self.name, %event, "the consumer may have another state by now; it is handled again");
        if ground.is_some_and(|ground| ground.gate().is_some())
            && let Err(error) = self.found_shut().await
        {
            tracing::debug!(consumer = %self.name, %error, "how its rebuild stands is learned later");
        }
        self.desk.lock().release(&running.lane);
        self.ring();
        Finished::Superseded
    }

    /// Keeps this host's gate, until the inbox ends.
    pub(super) async fn keep_gate(self: Arc<Self>) {
        loop {
            if self.known().rebuilding.is_some() {
                tokio::select! {
                    () = sleep(KEEP_EVERY) => {}
                    () = self.ending.cancelled() => return,
                }
            } else {
                tokio::select! {
                    () = self.gated.notified() => {}
                    () = self.ending.cancelled() => return,
                }
            }
            if let Err(error) = self.look_at_gate().await {
                tracing::debug!(consumer = %self.name, %error, "the gate beside a rebuild is looked at later");
            }
        }
    }

    /// Follows a rebuild that is under way, on a host where nobody else does: for as long as somebody waits for deliveries.
    pub(super) async fn follow_rebuild(&self) {
        loop {
            sleep(FOLLOW_EVERY).await;
            if self.known().rebuilding.is_none() {
                continue;
            }
            let followed = async {
                self.reknow().await?;
                self.look_at_gate().await
            };
            if let Err(error) = followed.await {
                tracing::debug!(consumer = %self.name, %error, "how its rebuild stands is learned later");
            }
        }
    }

    /// Opens the gate, or shuts it when nothing runs any more, as is asked for.
    pub(in crate::backend::aws) async fn look_at_gate(&self) -> Result<()> {
        let known = self.known();
        let Some(rebuild) = known.rebuilding else { return Ok(()) };
        let is_open = self.footing.lock().ground.gate().is_some();
        match (is_open, known.near) {
            (false, None) => {
                if gate::open(&self.store, &self.name, rebuild, &self.host).await? {
                    self.go_through(rebuild);
                } else {
                    self.reknow().await?;
                }
            }
            (true, Some(_)) if self.is_quiet() => {
                self.footing.lock().stand(Ground::of(&known, Stands::Shut { rebuild }));
                gate::shut(&self.store, &self.name, rebuild, &self.host).await?;
            }
            (_, Some(near)) if Timestamp::now() > near.until.plus(GRACE) => {
                gate::end_try(&self.store, &self.name, near.number).await?;
                self.reknow().await?;
            }
            _ => {}
        }
        self.join(rebuild).await
    }

    /// The gate is open: commits go through it from now on.
    fn go_through(&self, rebuild: i64) {
        let known = self.known.lock();
        if known.rebuilding != Some(rebuild) {
            return;
        }
        let gate = Key::gate(&self.name, rebuild, &self.host);
        self.footing.lock().stand(Ground::of(&known, Stands::Gated { rebuild, gate }));
        self.desk.lock().held = known.near.is_some();
        drop(known);
        self.ring();
    }

    async fn join(&self, rebuild: i64) -> Result<()> {
        let is_to_join = {
            let footing = self.footing.lock();
            footing.joined != Some(rebuild) && footing.is_fenced()
        };
        if is_to_join && gate::join(&self.store, &self.name, rebuild, &self.host).await? {
            self.footing.lock().joined = Some(rebuild);
        }
        Ok(())
    }

    /// Whether nothing is on its way here that was handled by a layout before, where one has taken over.
    pub fn has_left(&self, laid: Laid) -> bool {
        let footing = self.footing.lock();
        footing.ground.laid == Some(laid) && footing.is_young() && self.desk.lock().running() == 0
    }

    /// Ends a take-over for the layout that is handled by here, whoever began it. What is to be kept may take a while to copy.
    pub async fn follow_take_over(self: &Arc<Self>) {
        let (layout, laid) = (self.desk.lock().layout(), self.known.lock().laid);
        let is_own = laid.is_some_and(|laid| layout == Some(laid.layout));
        let (number, since) = {
            let mut footing = self.footing.lock();
            let Some(relaid) = footing.relaid.filter(|_| is_own && !footing.follows) else { return };
            footing.follows = true;
            relaid
        };
        let followed = Arc::clone(self).end_take_over(number, since);
        if self.handed.is_some() {
            // It copies nothing, and is frozen at the end of the invocation.
            followed.await;
        } else {
            self.tasks.spawn(followed);
        }
    }

    async fn end_take_over(self: Arc<Self>, number: i64, since: Instant) {
        let ended = async {
            match self.store.look_at_take_over(&self.name, number, since).await? {
                true => self.reknow().await,
                false => Ok(()),
            }
        };
        let ended = tokio::select! {
            ended = Box::pin(ended) => ended,
            () = self.ending.cancelled() => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(consumer = %self.name, %error, "the take-over of its state is looked at again");
        }
        self.footing.lock().follows = false;
    }

    /// Gives back what is in memory, where nothing of it is handled here.
    pub(super) fn step_aside(&self) {
        let (receipts, dues) = self.desk.lock().give_up();
        self.leave_to_others(receipts, dues);
    }

    /// Why nothing is handled here, while that is done by another layout.
    pub fn aside(&self) -> Option<String> {
        let is_copied = self.known.lock().copying.is_some();
        let desk = self.desk.lock();
        let (Laid { layout, .. }, own) = desk.laid.filter(|_| desk.is_aside()).zip(desk.layout())?;
        Some(match layout == own {
            true if is_copied => {
                "what its state was before is copied, to be kept: nothing is handled until that is done".to_owned()
            }
            true => format!(
                "it takes over from hosts that handle by another layout of state than {own}: they are waited for"
            ),
            false => format!(
                "its state is of layout {layout} by now, and the version here of layout {own}: it handles nothing beside that of \
                 another host; give this host that version, too, or have this one take over everywhere: `fanfare consumers promote \
                 {}`",
                self.name
            ),
        })
    }

    /// Whether no live delivery runs, and none starts.
    fn is_quiet(&self) -> bool {
        let desk = self.desk.lock();
        desk.held && desk.running() == 0
    }

    /// Nothing is committed here any more.
    pub(super) async fn leave_gate(&self) {
        let known = self.known();
        let Some(rebuild) = known.rebuilding else { return };
        self.footing.lock().stand(Ground::of(&known, Stands::Shut { rebuild }));
        let left = async {
            gate::shut(&self.store, &self.name, rebuild, &self.host).await?;
            self.join(rebuild).await
        };
        if let Err(error) = left.await {
            tracing::debug!(consumer = %self.name, %error, "the rebuild waits until this host is surely gone");
        }
    }
}
