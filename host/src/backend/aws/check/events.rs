//! Events: each follows the one before it, is where the index has it, makes of its order what the order then is, and is done
//! by every consumer that is past it.

use std::sync::Arc;

use super::kind::{Kind, shown};
use super::{DELETE, Look, REPORT, RESTORE, Seen, Suspect};
use crate::backend::aws::clock::slot_of;
use crate::backend::aws::consumers::Known;
use crate::backend::aws::hosts::NOBODY;
use crate::backend::aws::item::{Item, Key, LaneKey};
use crate::backend::aws::lane::{
    Logged, OLD_ORDERS, Prior, Standing, Tail, content_of, is_end, log_partition, shard, tail_of,
};
use crate::backend::aws::place::Place;
use crate::backend::aws::resources::names::{CUSTOMER_PARTITION, CUSTOMER_SORT, LOG_PARTITION, LOG_SORT};
use crate::backend::{Error, Result};
use crate::order::{self, Change};

const ORDERS: &str = "orders";
const DELIVERIES: &str = "deliveries";
const PLACED: &str = "order.placed";

/// What an event points to.
pub fn points(look: &Look<'_>, kind: &Kind, item: &Item, wanted: &mut Vec<Key>) {
    let Kind::Event { lane, seq } = kind else { return };
    if is_end(item) {
        return;
    }
    if *seq > 1 {
        wanted.push(Key::event(lane, seq - 1));
    }
    if order_id(lane).is_some() {
        wanted.push(Key::event(lane, 1));
    }
    if let Ok(Some(content)) = content_of(item) {
        wanted.extend(content.reference.as_deref().map(Key::reference));
    }
    if let (false, Ok(position), Ok(kind)) = (item.is_gone(), item.number("pos"), item.text("k")) {
        let past = look.consumers.values().filter(|known| is_past(known, position, kind));
        wanted.extend(past.map(|known| Key::place(&known.name, lane)));
    }
}

fn order_id(lane: &LaneKey) -> Option<&str> {
    lane.as_str().strip_prefix("o#")
}

/// Whether the consumer may have wanted such an event, and has followed the journal past it.
fn is_past(known: &Known, position: u64, kind: &str) -> bool {
    let remembers = known.epochs.iter().any(|epoch| epoch.since <= position);
    let hears = || known.last_heard().is_some_and(|heard| heard.everywhere().hear(kind));
    remembers && position >= known.start && position <= known.catch_up.after && hears()
}

pub async fn look(look: &Look<'_>, item: &Item, lane: &LaneKey, seq: u64, seen: &mut Seen) -> Result<()> {
    let event = Numbered { look, item, lane, seq };
    let key = Key::event(lane, seq);
    let place = format!("event {seq} of {}", shown(lane));
    let fault = told(event.fault().await)?;
    let is_whole = fault.is_none();
    seen.suspects.extend(fault.map(|fault| Suspect::new("events", &key, place.clone(), fault)));
    if let Some(id) = order_id(lane).filter(|_| seq == 1 && item.text_or_none("k") == Some(PLACED)) {
        *seen.rows.entry(ORDERS).or_default() += 1;
        let fault = told(event.order_fault(id).await)?;
        seen.suspects.extend(fault.map(|fault| Suspect::new(ORDERS, &key, format!("order {id}"), fault)));
    }
    if is_whole
        && !item.is_gone()
        && let Some(logged) = event.logged()?
    {
        for known in look.consumers.values().filter(|known| is_past(known, logged.position(), logged.event.kind())) {
            if !known.last_heard().is_some_and(|heard| known.wants_by(&heard.everywhere(), &logged)) {
                continue;
            }
            *seen.rows.entry(DELIVERIES).or_default() += 1;
            if event.is_missed_by(known).await? {
                let place = format!("delivery of {place} to {}", known.name);
                let fault = "its consumer is past it, and it was neither done nor is it to be tried again: deliver it by \
                             a backfill, or take the consumer's place in the lane from a copy of the table";
                seen.suspects.push(Suspect::new(DELIVERIES, &key, place, fault.to_owned()));
            }
        }
    }
    Ok(())
}

/// What cannot be read is a fault.
fn told(fault: Result<Option<String>>) -> Result<Option<String>> {
    match fault {
        Err(Error::Failed(why)) => Ok(Some(format!("it cannot be read: {why}: {REPORT}"))),
        fault => fault,
    }
}

struct Numbered<'a> {
    look: &'a Look<'a>,
    item: &'a Item,
    lane: &'a LaneKey,
    seq: u64,
}

impl Numbered<'_> {
    async fn fault(&self) -> Result<Option<String>> {
        let tail = tail_of(self.item)?;
        if is_end(self.item) {
            return Ok(None);
        }
        if let Some(fault) = self.index_fault(&tail).or_else(|| self.host_fault(&tail)) {
            return Ok(Some(fault));
        }
        if let Some(fault) = self.order_of_fault(&tail)? {
            return Ok(Some(fault));
        }
        let is_first_there = self.first().is_some_and(|first| first.text_or_none("k") == Some(PLACED));
        if order_id(self.lane).is_some() && tail.standing.is_some() && !is_first_there {
            // A lane that goes as a whole goes from the front, behind what ends it.
            let ends = self.look.last_item(self.lane).await?.is_some_and(|last| is_end(&last));
            return Ok(
                (!ends).then(|| format!("the first event of its order, with what was ordered, is missing: {RESTORE}"))
            );
        }
        if let Some(logged) = self.logged()?.filter(|logged| Some(logged.event.kind()) != self.item.text_or_none("k")) {
            return Ok(Some(format!("it is {}, and its kind is another: {REPORT}", logged.event.kind())));
        }
        Ok(None)
    }

    fn first(&self) -> Option<&Item> {
        if self.seq == 1 { Some(self.item) } else { self.look.found(&Key::event(self.lane, 1)) }
    }

    /// As it reads; `None` where it is of an order whose first event cannot be read.
    fn logged(&self) -> Result<Option<Logged>> {
        if self.item.is_gone() {
            return Ok(None);
        }
        let changes = self.seq > 1 && self.item.text_or_none("ch").is_some();
        let content = self.first().filter(|_| changes).and_then(|first| content_of(first).ok().flatten());
        if changes && content.is_none() {
            return Ok(None);
        }
        Logged::read(self.item, content.map(Arc::new).as_ref()).map(Some)
    }

    fn index_fault(&self, tail: &Tail) -> Option<String> {
        let is_kept_order = self.seq == 1 && tail.standing.is_some();
        let wanted = match self.item.is_gone() {
            true => is_kept_order.then(|| OLD_ORDERS.to_owned()),
            false => Some(log_partition(shard(self.lane))),
        };
        let entry = self.item.text_or_none(LOG_PARTITION).map(str::to_owned);
        let sort = self.item.number_or_none::<u64>(LOG_SORT).ok().flatten();
        if entry == wanted && sort == wanted.as_ref().map(|_| tail.position) {
            return None;
        }
        let wanted =
            wanted.map_or("out of the index".to_owned(), |it| format!("at {it}, {} of the index", tail.position));
        Some(format!("it is not {wanted}, so nobody who follows the journal finds it right: {RESTORE}"))
    }

    /// Whoever publishes what a host left needs the host's item.
    fn host_fault(&self, tail: &Tail) -> Option<String> {
        let slot = slot_of(tail.position);
        let Some(host) = self.look.hosts.get(&format!("{slot:03}")) else {
            return Some(format!("of the host in slot {slot}, which wrote it, nothing is known: {RESTORE}"));
        };
        let drawn = host.number_or_none::<u64>("drawn").ok().flatten().unwrap_or_default();
        (host.text_or_none("own") == Some(NOBODY) && drawn < tail.position).then(|| {
            format!("slot {slot} was left at position {drawn}, before it, so nobody may have published it: {REPORT}")
        })
    }

    /// How it follows the event before it.
    fn order_of_fault(&self, tail: &Tail) -> Result<Option<String>> {
        let change: Option<Change> = self.item.json_or_none("ch")?;
        let (standing, kind) = (tail.standing, change.as_ref().map(Change::status));
        if kind.is_some() && kind != standing.map(|standing| standing.status) {
            return Ok(Some(format!("it makes its order what it then is not: {REPORT}")));
        }
        if self.seq == 1 {
            return Ok(None);
        }
        let prior: Vec<Prior> = self.item.json_or_none("pr")?.unwrap_or_default();
        let Some(prior) = prior.last().filter(|prior| prior.seq() + 1 == self.seq) else {
            return Ok(Some(format!("it does not tell of the event before it: {REPORT}")));
        };
        let Some(before) = self.look.found(&Key::event(self.lane, self.seq - 1)) else {
            let lost = prior.position() > self.look.gone_through;
            return Ok(lost.then(|| format!("the event before it is missing: {RESTORE}")));
        };
        let before = tail_of(before)?;
        if before.position != prior.position() || before.position >= tail.position {
            return Ok(Some(format!("it is not behind the event before it in the journal: {REPORT}")));
        }
        let follows = match (&change, before.standing, standing) {
            (Some(change), Some(before), Some(Standing { status, revision, .. })) => {
                order::decide(before.status, change).ok() == Some(status) && revision == before.revision + 1
            }
            (Some(_), _, _) => false,
            (None, before, standing) => before == standing,
        };
        Ok((!follows).then(|| format!("its order does not follow from the event before it: {REPORT}")))
    }

    async fn order_fault(&self, id: &str) -> Result<Option<String>> {
        let Some(content) = content_of(self.item)? else {
            return Ok(Some(format!("what was ordered is missing: {RESTORE}")));
        };
        let listed = [(CUSTOMER_PARTITION, content.customer.id.as_str()), (CUSTOMER_SORT, id)];
        if listed.iter().any(|(name, value)| self.item.text_or_none(name) != Some(value)) {
            return Ok(Some(format!("it is not among the orders of its customer: {RESTORE}")));
        }
        let Some(reference) = &content.reference else { return Ok(None) };
        let by = self.look.found(&Key::reference(reference)).and_then(|it| it.text_or_none("o"));
        if by == Some(id) || self.look.last_item(self.lane).await?.is_some_and(|last| is_end(&last)) {
            return Ok(None);
        }
        Ok(Some(format!("its reference {reference} is not kept for it, so another order may take it: {RESTORE}")))
    }

    /// Whether the consumer is neither through with it nor about to be.
    async fn is_missed_by(&self, known: &Known) -> Result<bool> {
        let key = Key::place(&known.name, self.lane);
        let found = self.look.found(&key);
        let Ok(place) = found.map_or_else(|| Ok(Place::default()), Place::read) else { return Ok(false) };
        if self.seq <= place.seq || place.is_parked() {
            return Ok(false);
        }
        // Behind an exception that is over, the lane is looked at again; the place stayed as it was meanwhile.
        let due = self.look.get(&Key::due(&known.name, self.lane)).await?;
        Ok(due.is_none() && self.look.get(&key).await?.as_ref() == found)
    }
}

/// What to do about an item that belongs to an event that is gone.
pub fn without_event() -> String {
    format!("its event is gone: {DELETE}")
}
