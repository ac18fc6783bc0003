//! Whose a rebuild is: one host's, for as long as it says so, or until it lets go of it.
//!
//! Each claim has a name of its own, and what moves the rebuild on is written under it. So whoever stood still, and believes that
//! it is his still, writes nothing any more once somebody else has it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Rebuilder, Walk, hand_over, position_of, put_off_items};
use crate::backend::aws::backfills::Fill;
use crate::backend::aws::item::{Key, LaneKey, number, text};
use crate::backend::aws::table::Change;
use crate::backend::pace::Pace;
use crate::backend::{BackfillState, Result};
use crate::clock::Timestamp;

/// How long a host has a rebuild for itself, unless it says so again, which it does this often.
const CLAIM: Duration = Duration::from_secs(10);
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// For how long a rebuild is surely under way: what those who had it before saw of it, and how long this host has had it. No
/// clock of one has to agree with that of another.
#[derive(Clone, Copy)]
pub struct Watched {
    before: Duration,
    since: Instant,
}

impl Watched {
    pub fn nothing() -> Self {
        Self { before: Duration::ZERO, since: Instant::now() }
    }
}

impl Rebuilder {
    /// Makes the rebuild this host's, unless it is another's, and reads how it stands.
    pub(super) async fn claim(&mut self, rebuild: i64) -> Result<Option<Walk>> {
        let (owner, now) = (uuid::Uuid::now_v7().to_string(), Timestamp::now());
        let change = Change::of("SET own = :owner, til = :until")
            .only_if("sta = :running AND (attribute_not_exists(own) OR own = :owner OR own = :last OR til < :now)")
            .value(":owner", text(&owner))
            .value(":last", text(&self.last))
            .value(":running", text(BackfillState::Running.as_str()))
            .value(":until", number(now.plus(CLAIM).as_millis()))
            .value(":now", number(now.as_millis()));
        let claimed = Instant::now();
        let Some(item) = self.store.table.update(&Key::backfill(self.name(), rebuild), change).await? else {
            return Ok(None);
        };
        self.inbox.batches.begin(&owner).await;
        // What others saw of it ended before this.
        let before = Duration::from_millis(item.number_or_none("wd")?.unwrap_or_default());
        self.watched = Watched { before, since: Instant::now() };
        self.last.clone_from(&owner);
        let fill = Fill::read(&item)?;
        let mut put_off = BTreeMap::new();
        for item in put_off_items(&self.store, self.name(), fill.put_off(), usize::MAX).await? {
            put_off.insert(position_of(&item)?, (LaneKey::known(item.text("l")?), item.number("q")?));
        }
        // What it weighed when somebody let go of it, if nothing was done since.
        let told = item.number_or_none::<u64>("wta")?.filter(|at| *at == fill.delivered);
        self.inbox.batches.take_weight(
            (rebuild, fill.generation),
            fill.delivered,
            item.number_or_none("wt")?.filter(|_| told.is_some()),
        );
        let lags = fill.rebuild.as_ref().is_some_and(|counted| counted.lags);
        let (cursor, pace) = (fill.position, Pace::new(fill.rate));
        let (put_off_at, pending, edge, near) = (None, None, None, None);
        let (fenced, tries) = (item.number_or_none::<u8>("fen")?.is_some(), hand_over::Tries::default());
        let (tried, rests) = (item.json_or_none("fla")?, false);
        Ok(Some(Walk {
            fill,
            owner,
            claimed,
            cursor,
            put_off,
            put_off_at,
            pace,
            tried,
            rests,
            pending,
            edge,
            lags,
            fenced,
            tries,
            near,
        }))
    }

    /// Whether the rebuild goes on, and is still this host's: said again, from time to time.
    pub(super) async fn goes_on(&self, walk: &mut Walk) -> Result<bool> {
        let runs = self.inbox.fills().running().is_some_and(|fill| fill.number == walk.fill.number);
        if !runs || !self.has_version() || !self.inbox.is_open() || self.inbox.is_ending() {
            return Ok(false);
        }
        if walk.claimed.elapsed() < RENEW_EVERY {
            return Ok(true);
        }
        let claimed = Instant::now();
        let change = Change::of("SET til = :until, wd = :watched").only_if("own = :owner AND sta = :running");
        let change = self
            .watched(change)
            .value(":owner", text(&walk.owner))
            .value(":running", text(BackfillState::Running.as_str()))
            .value(":until", number(Timestamp::now().plus(CLAIM).as_millis()));
        let is_own = self.store.table.update(&Key::backfill(self.name(), walk.fill.number), change).await?.is_some();
        walk.claimed = claimed;
        Ok(is_own)
    }

    /// Lets another host go on with it at once, with what this one knows of it.
    pub async fn leave(&self) {
        self.inbox.withdraw();
        let Some(fill) = self.inbox.fills().under_way().filter(|fill| fill.is_rebuild()).cloned() else { return };
        let left = async {
            self.inbox.batches.end().await;
            let weighs = self.inbox.batches.weighs(fill.number);
            let set = match weighs {
                Some(_) => "SET til = :zero, wd = :watched, wt = :bytes, wta = :delivered",
                None => "SET til = :zero, wd = :watched",
            };
            let change = Change::of(set).only_if("own = :owner").value(":owner", text(&self.last));
            let mut change = self.watched(change).value(":zero", number(0));
            if let Some((delivered, bytes)) = weighs {
                change = change.value(":delivered", number(delivered)).value(":bytes", number(bytes));
            }
            let was_own = self.store.table.update(&Key::backfill(self.name(), fill.number), change).await?.is_some();
            match self.inbox.known().near.filter(|_| was_own) {
                // Its own, or of one that had it before.
                Some(near) => self.end_try(near.number).await,
                None => Ok(()),
            }
        };
        if let Err(error) = left.await {
            tracing::debug!(consumer = %self.name(), %error, "another host goes on with the rebuild when the claim runs out");
        }
    }

    /// For how long the rebuild is surely under way, of whoever has it.
    pub(super) fn under_way_for(&self) -> Duration {
        let known = self.known.map(|(_, since)| since.elapsed()).unwrap_or_default();
        known.max(self.watched.before + self.watched.since.elapsed())
    }

    /// The same, as its item keeps it for who is next.
    fn watched(&self, change: Change) -> Change {
        change.value(":watched", number(self.under_way_for().as_millis()))
    }
}
