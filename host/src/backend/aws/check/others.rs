//! Keys that orders and events are known by, messages, records, plugin files, hosts, and large commits.

use std::time::Duration;

use serde_json::Value;

use super::kind::Kind;
use super::{DELETE, Look, REPORT, RESTORE};
use crate::backend::Result;
use crate::backend::aws::consumers::Known;
use crate::backend::aws::fleet::files;
use crate::backend::aws::hosts::NOBODY;
use crate::backend::aws::item::{Item, Key, LaneKey};
use crate::backend::aws::resources::names::{LOG_PARTITION, LOG_SORT};
use crate::backend::aws::settle::intent::OPEN;
use crate::backend::aws::{clock, outgoing};
use crate::clock::Timestamp;
use crate::event::{EventId, Lane};
use crate::order::OrderId;

/// Hosts see to a large commit that was left behind within seconds.
const LEFT_MAX: Duration = Duration::from_secs(10 * 60);

pub fn points(kind: &Kind, item: &Item, wanted: &mut Vec<Key>) {
    match kind {
        Kind::IdempotencyKey(_) | Kind::Reference(_) => wanted.extend(item.parse("o").ok().map(order)),
        Kind::Kept { hash, .. } | Kind::Piece { file: hash, .. } => {
            wanted.extend(hash.parse().ok().map(|hash| files::file_key(&hash)));
        }
        Kind::Intended { intent, .. } => wanted.push(Key::intent(intent)),
        Kind::Consumer(_) => wanted.extend(Known::read(item).ok().and_then(|known| under_way(&known))),
        _ => {}
    }
}

/// The item of an order, whatever is left of its events.
fn order(id: OrderId) -> Key {
    Key::event(&LaneKey::of(&Lane::Order(id)), 1)
}

pub async fn fault(look: &Look<'_>, kind: &Kind, item: &Item) -> Result<Option<String>> {
    match kind {
        Kind::IdempotencyKey(_) => {
            let id: OrderId = item.parse("o")?;
            // A repeat of what is older is taken for new.
            let cutoff = look.store.retention.lock().idempotency.cutoff(look.now);
            let counts = cutoff.is_none_or(|cutoff| id.made_at() >= cutoff);
            Ok((counts && look.found(&order(id)).is_none()).then(|| format!("its order {id} is missing: {RESTORE}")))
        }
        Kind::Reference(_) => {
            let id: OrderId = item.parse("o")?;
            Ok(look.found(&order(id)).is_none().then(|| format!("its order {id} is missing: {RESTORE}")))
        }
        Kind::OriginId(_) => item.parse::<EventId>("e").map(|_| None),
        Kind::Consumer(_) => consumer(look, item),
        Kind::Message { position, .. } => message(look, *position, item),
        Kind::Records { position, .. } => {
            item.json::<Vec<String>>("rows")?;
            Ok(left_behind(look, *position, item)?)
        }
        Kind::File(hash) => file(look, hash, item).await,
        Kind::Piece { file, .. } => {
            let named = file.parse().ok().and_then(|hash| look.found(&files::file_key(&hash))).is_some();
            Ok((!named).then(|| format!("the file that it is of is not there: {DELETE}")))
        }
        Kind::Host { .. } => {
            item.text("own")?;
            item.number::<u64>("beat")?;
            item.number::<u64>("pub").map(|_| None)
        }
        Kind::Running { slot } => {
            item.json::<Value>("runs")?;
            let owner = look.hosts.get(slot).and_then(|host| host.text_or_none("own"));
            let runs = owner.is_some_and(|owner| owner != NOBODY);
            Ok((!runs).then(|| format!("no host is in its slot: {DELETE}")))
        }
        Kind::Intent(_) => intent(look, item),
        Kind::Intended { intent, .. } => {
            let is_open = look.found(&Key::intent(intent)).is_some();
            Ok((!is_open).then(|| format!("the large commit that it is of is not there: {DELETE}")))
        }
        Kind::Unknown(_) => {
            Ok(Some("this host does not know what it is: a newer one wrote it, or somebody else".to_owned()))
        }
        _ => Ok(None),
    }
}

/// The backfill that the consumer says is under way.
fn under_way(known: &Known) -> Option<Key> {
    known.filling.map(|filling| Key::backfill(&known.name, filling))
}

fn consumer(look: &Look<'_>, item: &Item) -> Result<Option<String>> {
    let known = Known::read(item)?;
    if under_way(&known).is_some_and(|fill| look.found(&fill).is_none()) {
        return Ok(Some(format!("the backfill that is under way is missing, and no other can begin: {RESTORE}")));
    }
    let Known { catch_up, start, .. } = known;
    let ahead = catch_up.after > look.beyond() && catch_up.after >= start;
    Ok(ahead.then(|| {
        let time = clock::time_of(catch_up.after);
        format!("it has followed the journal up to {time}, which is still to come: {REPORT}")
    }))
}

/// What a consumer made of an event that there is, or was.
fn left_behind(look: &Look<'_>, position: u64, item: &Item) -> Result<Option<String>> {
    let by = item.text("by")?;
    if !look.was_known(by) {
        return Ok(Some(format!("its consumer {by} is not known: {DELETE}")));
    }
    Ok((position > look.beyond()).then(|| format!("its event is still to come: {REPORT}")))
}

fn message(look: &Look<'_>, position: u64, item: &Item) -> Result<Option<String>> {
    outgoing::report(item)?;
    if let Some(fault) = left_behind(look, position, item)? {
        return Ok(Some(fault));
    }
    let state = item.text("ms")?;
    let is_found =
        item.text_or_none(LOG_PARTITION) == Some(outgoing::DUE) && item.number_or_none::<u64>(LOG_SORT)?.is_some();
    Ok(match state {
        "pending" => {
            (!is_found).then(|| format!("it is pending, and not where it is looked for, so nobody sends it: {RESTORE}"))
        }
        "sent" | "failed" | "unknown" => is_found.then(|| format!("it is {state}, and is to be sent: {REPORT}")),
        _ => Some(format!("its state {state} is not known: {REPORT}")),
    })
}

async fn file(look: &Look<'_>, hash: &str, item: &Item) -> Result<Option<String>> {
    let Ok(hash) = hash.parse() else { return Ok(Some(format!("its name is no SHA-256: {DELETE}"))) };
    if !files::is_whole(item) {
        // It is being written or deleted, or hosts delete it at their start.
        return Ok(None);
    }
    look.count(1);
    let read = files::read(&look.store.table, &hash).await?;
    Ok(read.is_none().then(|| {
        format!(
            "it is not what its name says, so no host can run it: put the plugin into the directory again, or {RESTORE}"
        )
    }))
}

fn intent(look: &Look<'_>, item: &Item) -> Result<Option<String>> {
    let until: Timestamp = item.time(LOG_SORT)?;
    if !["open", "decided", "given up"].contains(&item.text("st")?) {
        return Ok(Some(format!("its state is not known: {REPORT}")));
    }
    if item.text_or_none(LOG_PARTITION) != Some(OPEN) {
        return Ok(Some(format!(
            "it is not in the index where hosts look for what others left, so nobody ends it: {RESTORE}"
        )));
    }
    let left = look.now.since(until) > LEFT_MAX;
    Ok(left.then(|| format!("it was left behind at {until}, and no host ends it: look into the hosts' logs for why")))
}
