//! What consumers have: places, exceptions, and state.

use super::events::without_event;
use super::kind::{Kind, shown};
use super::{DELETE, Look, REPORT, RESTORE};
use crate::backend::aws::backfills::Fill;
use crate::backend::aws::consumers::Known;
use crate::backend::aws::due;
use crate::backend::aws::item::{Item, Key, LaneKey};
use crate::backend::aws::lane::place_of;
use crate::backend::aws::place::{Head, HeadState, Place};
use crate::backend::aws::resources::names::{LOG_PARTITION, LOG_SORT};
use crate::backend::aws::settle::intent::LOCK;
use crate::backend::{BackfillState, Result};
use crate::policy::ConsumerName;

pub fn points(kind: &Kind, item: &Item, wanted: &mut Vec<Key>) {
    // What cannot be read points to nothing, and is told of when it is looked at.
    let number = |name| item.number::<u64>(name).ok();
    let lane = || item.text_or_none("l").map(LaneKey::known);
    match kind {
        Kind::Place { by, lane } => {
            wanted.extend(number("seq").filter(|seq| *seq > 0).map(|seq| Key::event(lane, seq)));
            if let (Some(head), Ok(name)) = (number("hq"), by.parse()) {
                wanted.extend([Key::event(lane, head), Key::due(&name, lane)]);
            }
        }
        Kind::Delivery { lane, seq, .. } => wanted.push(Key::event(lane, *seq)),
        Kind::Letter { by, .. } => {
            let Some((lane, seq)) = lane().zip(number("q")) else { return };
            wanted.push(Key::event(&lane, seq));
            wanted.extend(by.parse().ok().map(|name: ConsumerName| Key::place(&name, &lane)));
        }
        Kind::Due { .. } | Kind::PutOff { .. } => {
            wanted.extend(lane().zip(number("q")).map(|(lane, seq)| Key::event(&lane, seq)))
        }
        Kind::State { .. } => wanted.extend(item.text_or_none(LOCK).map(Key::intent)),
        _ => {}
    }
}

pub async fn fault(look: &Look<'_>, kind: &Kind, item: &Item) -> Result<Option<String>> {
    let by = match kind {
        Kind::Place { by, .. }
        | Kind::Delivery { by, .. }
        | Kind::Letter { by, .. }
        | Kind::Due { by, .. }
        | Kind::Backfill { by, .. }
        | Kind::PutOff { by, .. }
        | Kind::Gate { by, .. }
        | Kind::Left { by, .. }
        | Kind::State { by, .. } => by,
        _ => return Ok(None),
    };
    let Some(known) = look.known(by) else { return Ok(Some(format!("its consumer {by} is not known: {DELETE}"))) };
    match kind {
        Kind::Place { lane, .. } => place(look, &known.name, lane, item).await,
        Kind::Delivery { lane, seq, .. } => {
            item.time("t")?;
            Ok(event(look, lane, *seq).is_none().then(without_event))
        }
        Kind::Letter { position, .. } => letter(look, &known.name, *position, item),
        Kind::Due { sort, .. } => is_due(look, &known.name, sort, item),
        Kind::Backfill { sort, .. } if sort.contains('#') => item.number::<i64>("n").map(|_| None),
        Kind::Backfill { .. } => backfill(known, item),
        Kind::PutOff { rebuild, position, .. } => put_off(look, known, *rebuild, *position, item),
        Kind::Gate { rebuild, .. } => Ok(left_over(known, *rebuild)),
        Kind::Left { take_over, .. } => {
            // Those of take-overs before go with it.
            let is_under_way = known.laid.is_some_and(|laid| laid.number >= *take_over && !laid.is_ready);
            Ok((!is_under_way).then(|| format!("no such take-over is under way: {DELETE}")))
        }
        Kind::State { generation, counter, .. } => match generation.parse() {
            Ok(generation)
                if known.generation == generation
                    || known.rebuilding == Some(generation)
                    || known.kept.as_ref().is_some_and(|kept| kept.generation == generation) =>
            {
                state(look, *counter, item)
            }
            // It is being cleared, or made.
            Ok(generation) if known.past.contains(&generation) || known.copying == Some(generation) => Ok(None),
            _ => Ok(Some(format!("no consumer has the state that it is of: {DELETE}"))),
        },
        _ => Ok(Some(format!("no consumer has the state that it is of: {DELETE}"))),
    }
}

/// One that has not gone.
fn event<'a>(look: &'a Look<'_>, lane: &LaneKey, seq: u64) -> Option<&'a Item> {
    look.found(&Key::event(lane, seq)).filter(|event| !event.is_gone())
}

async fn place(look: &Look<'_>, name: &ConsumerName, lane: &LaneKey, item: &Item) -> Result<Option<String>> {
    let place = Place::read(item)?;
    if place.seq > 0 && look.found(&Key::event(lane, place.seq)).is_none() {
        // It may have gone by age, as long as the lane goes on behind it.
        let last = look.last_item(lane).await?.map(|last| place_of(&last)).transpose()?.map_or(0, |(_, seq)| seq);
        if last < place.seq {
            let through = place.seq;
            return Ok(Some(format!("it is through with event {through}, and its lane ends with {last}: {RESTORE}")));
        }
    }
    match place.head {
        Some(head) if place.is_through(head.seq, head.from) => {
            Ok(Some(format!("it stands at event {}, and is through with it: {REPORT}", head.seq)))
        }
        Some(head) => stands(look, name, lane, head).await,
        None => Ok(None),
    }
}

/// A lane that stands goes on by what stands for it.
async fn stands(look: &Look<'_>, name: &ConsumerName, lane: &LaneKey, head: Head) -> Result<Option<String>> {
    let seq = head.seq;
    let Some(event) = event(look, lane, seq) else {
        return Ok(Some(format!("it stands at event {seq}, which is gone, so the lane never goes on: {RESTORE}")));
    };
    Ok(match head.state {
        HeadState::Retrying(_) | HeadState::Waiting => look.found(&Key::due(name, lane)).is_none().then(|| {
            format!("it is to try event {seq} again, and no item is due, so the lane never goes on: {RESTORE}")
        }),
        HeadState::Dead => {
            let letter = look.get(&Key::dead_letter(name, event.number("pos")?)).await?;
            letter.is_none().then(|| {
                format!("it stands at event {seq}, whose dead letter is missing, so the lane never goes on: {RESTORE}")
            })
        }
    })
}

fn letter(look: &Look<'_>, name: &ConsumerName, position: u64, item: &Item) -> Result<Option<String>> {
    let (lane, seq): (_, u64) = (LaneKey::known(item.text("l")?), item.number("q")?);
    item.text("out")?;
    item.text("why")?;
    item.time("t")?;
    let Some(event) = event(look, &lane, seq).filter(|event| event.number("pos").is_ok_and(|at: u64| at == position))
    else {
        return Ok(Some(format!("its event {seq} of {} is gone: discard it", shown(&lane))));
    };
    if item.number_or_none::<u8>("parks")?.is_none() {
        return Ok(None);
    }
    let place = look.found(&Key::place(name, &lane)).map(Place::read).transpose()?.unwrap_or_default();
    let head = place.head.filter(|head| head.state == HeadState::Dead);
    let event_id = event.text_or_none("id").unwrap_or_default();
    Ok((head.map(|head| head.seq) != Some(seq)).then(|| {
        format!("its lane does not stand at it: retry it with `fanfare dead-letters retry {name} --event {event_id}`")
    }))
}

fn is_due(look: &Look<'_>, name: &ConsumerName, sort: &str, item: &Item) -> Result<Option<String>> {
    let (lane, seq): (_, u64) = (LaneKey::known(item.text("l")?), item.number("q")?);
    item.number::<u64>("ver")?;
    let own = sort.strip_prefix(lane.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('!'));
    let partition = if due::is_held(item) { due::held_partition(name.as_str()) } else { due::partition(name.as_str()) };
    let found = item.text_or_none(LOG_PARTITION) == Some(partition.as_str());
    if !own || !found || item.number_or_none::<u64>(LOG_SORT)?.is_none() {
        return Ok(Some(format!("it is not in the index where it is looked for, so it is never tried: {RESTORE}")));
    }
    Ok(event(look, &lane, seq).is_none().then(without_event))
}

/// What is kept of a rebuild that is not under way, and goes with the state that is past.
fn left_over(known: &Known, rebuild: i64) -> Option<String> {
    let is_kept = known.rebuilding == Some(rebuild) || !known.past.is_empty();
    (!is_kept).then(|| format!("rebuild {rebuild} is not under way: {DELETE}"))
}

fn put_off(look: &Look<'_>, known: &Known, rebuild: i64, position: u64, item: &Item) -> Result<Option<String>> {
    let (lane, seq): (_, u64) = (LaneKey::known(item.text("l")?), item.number("q")?);
    let is_kept = known.kept.as_ref().is_some_and(|kept| kept.put_off == rebuild);
    if known.copying == Some(rebuild) {
        return Ok(None);
    }
    if known.rebuilding != Some(rebuild) && !is_kept {
        return Ok(left_over(known, rebuild));
    }
    let event = event(look, &lane, seq).filter(|event| event.number("pos").is_ok_and(|at: u64| at == position));
    Ok(event.is_none().then(without_event))
}

fn backfill(known: &Known, item: &Item) -> Result<Option<String>> {
    let fill = Fill::read(item)?;
    let is_under_way = matches!(fill.state, BackfillState::Running | BackfillState::Paused);
    let named = known.filling == Some(fill.number);
    if named && fill.is_rebuild() != known.rebuilding.is_some() {
        return Ok(Some(format!("it is a rebuild, or none, and its consumer says otherwise: {REPORT}")));
    }
    Ok((is_under_way && !named).then(|| format!("it is under way, and its consumer does not name it: {REPORT}")))
}

fn state(look: &Look<'_>, counter: bool, item: &Item) -> Result<Option<String>> {
    if let Some(intent) = item.text_or_none(LOCK) {
        let locked = look.found(&Key::intent(intent)).is_none();
        return Ok(locked.then(|| {
            format!("it is locked by the large commit {intent}, which is not there: remove its attribute {LOCK}")
        }));
    }
    let whole = if counter { item.number_or_none::<i64>("n")?.is_some() } else { item.blob("v").is_some() };
    Ok((!whole).then(|| format!("it has no value: {REPORT}")))
}
