//! Deliveries that could not be done, and what a person makes of them.
//!
//! Each letter is an item, in journal order, with what it is listed and found by. What a person decides is one transaction:
//! the letter goes, the consumer's place in the lane moves, and an item stands for the lane that is to be looked at again.

mod counted;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;

pub use self::counted::Counted;
use super::Aws;
use super::due;
use super::item::{Item, Key, LaneKey, number, position_sort};
use super::place::{Head, HeadState, Place, attempts, from_backfill, look};
use super::settle::{as_edited, copy_of};
use super::store::Store;
use super::table::{Change, Span, Transaction};
use crate::backend::{
    CauseCount, CauseKey, CauseKind, DeadLetter, DeadLetters, Durable, EditedCopy, Error, FromBackfill, LetterQuery,
    LetterShown, Page, Redriven, Result, Selection, Which, cause,
};
use crate::clock::Timestamp;
use crate::event::{Body, Event, EventId, Position};
use crate::policy::ConsumerName;

/// Letters read at once.
const BATCH: usize = 200;

/// What the item of a dead letter says.
struct Letter {
    key: Key,
    position: u64,
    lane: LaneKey,
    seq: u64,
    event: EventId,
    outcome: CauseKind,
    general: String,
    parks: bool,
    from: Option<FromBackfill>,
}

impl Letter {
    fn read(item: &Item) -> Result<Self> {
        let (pk, sk) = (item.text("pk")?.to_owned(), item.text("sk")?.to_owned());
        Ok(Self {
            position: sk.parse().map_err(|_| Error::Failed(format!("{pk}, {sk} is no dead letter").into()))?,
            key: Key { pk, sk },
            lane: LaneKey::known(item.text("l")?),
            seq: item.number("q")?,
            event: item.parse("id")?,
            outcome: item.parse("out")?,
            general: item.text("gen")?.to_owned(),
            parks: item.number_or_none::<u8>("parks")?.is_some(),
            from: from_backfill(item)?,
        })
    }

    fn died_of(&self, cause: &CauseKey) -> bool {
        cause.outcome.is_none_or(|outcome| outcome == self.outcome)
            && (self.general == cause.text || self.general == cause::in_general(&cause.text))
    }
}

fn shown(item: &Item) -> Result<DeadLetter> {
    let letter = Letter::read(item)?;
    Ok(DeadLetter {
        event_id: letter.event,
        position: Position::new(letter.position).unwrap_or(Position::FIRST),
        kind: item.text("k")?.to_owned(),
        order_id: item.parse_or_none("o")?,
        attempts: item.number("n")?,
        outcome: Some(letter.outcome),
        cause: item.text("why")?.to_owned(),
        version: item.text("v")?.to_owned(),
        backtrace: item.text_or_none("trace").map(str::to_owned),
        time: item.time("t")?,
        parks: letter.parks,
    })
}

/// What becomes of a letter.
#[derive(Clone, Copy)]
enum Redrive<'a> {
    Retry,
    Edited(&'a Body),
    Discard,
}

#[async_trait]
impl DeadLetters for Aws {
    async fn list(&self, consumer: &ConsumerName, query: LetterQuery) -> Result<Page<DeadLetter>> {
        let LetterQuery { cause, after, limit } = query;
        let cursor = |text: String| text.parse::<u64>().map_err(|_| Error::NotACursor(text.as_str().into()));
        let after = after.map(cursor).transpose()?.unwrap_or_default();
        let which = cause.map_or(Which::All, Which::Cause);
        let mut items = self.select(consumer, &which, after, limit.saturating_add(1)).await?;
        let more = items.len() > limit;
        items.truncate(limit);
        let items = items.iter().map(shown).collect::<Result<Vec<_>>>()?;
        let next = items.last().filter(|_| more).map(|last| last.position.to_string());
        Ok(Page { items, next })
    }

    async fn causes(&self, consumer: &ConsumerName, limit: usize) -> Result<Vec<CauseCount>> {
        let mut causes: HashMap<(&'static str, String), CauseCount> = HashMap::new();
        let mut after = 0;
        loop {
            let items = self.select(consumer, &Which::All, after, BATCH).await?;
            for item in &items {
                let (letter, time) = (Letter::read(item)?, item.time("t")?);
                after = letter.position;
                let counted = causes.entry((letter.outcome.as_str(), letter.general.clone()));
                let counted = counted.or_insert_with(|| CauseCount {
                    outcome: letter.outcome,
                    cause: letter.general,
                    count: 0,
                    first_at: time,
                    last_at: time,
                });
                counted.count += 1;
                (counted.first_at, counted.last_at) = (counted.first_at.min(time), counted.last_at.max(time));
            }
            if items.len() < BATCH {
                break;
            }
        }
        let mut causes: Vec<CauseCount> = causes.into_values().collect();
        causes.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.first_at.cmp(&other.first_at)));
        causes.truncate(limit);
        Ok(causes)
    }

    async fn show(&self, consumer: &ConsumerName, event: EventId) -> Result<Option<LetterShown>> {
        let Some(item) = self.select(consumer, &Which::Event(event), 0, 1).await?.pop() else { return Ok(None) };
        let letter = Letter::read(&item)?;
        let Some(logged) = self.store.logged(&letter.lane, letter.seq, letter.seq, 1).await?.pop() else {
            return Ok(None);
        };
        let (_, mut past) = look(&self.store, consumer, &letter.lane).await?;
        let (past, event) = (past.remove(&letter.seq).unwrap_or_default(), logged.event);
        Ok(Some(LetterShown {
            letter: shown(&item)?,
            edited: past.edited.map(|copy| as_shown(&event, copy)).transpose()?,
            attempts: attempts(&self.store, consumer, &letter.lane, letter.seq).await?,
            event,
        }))
    }

    async fn retry(&self, consumer: &ConsumerName, selection: Selection) -> Result<Durable<Redriven>> {
        self.redrive(consumer, selection, Redrive::Retry).await
    }

    async fn retry_edited(&self, consumer: &ConsumerName, event: EventId, copy: Body) -> Result<Durable<bool>> {
        let redriven = self.redrive(consumer, Which::Event(event).first(1), Redrive::Edited(&copy)).await?;
        Ok(redriven.map(|redriven| redriven.count > 0))
    }

    async fn discard(&self, consumer: &ConsumerName, selection: Selection) -> Result<Durable<Redriven>> {
        self.redrive(consumer, selection, Redrive::Discard).await
    }
}

impl Aws {
    /// Items of dead letters in journal order, at most `limit` behind `after`.
    async fn select(&self, consumer: &ConsumerName, which: &Which, after: u64, limit: usize) -> Result<Vec<Item>> {
        let mut found = Vec::new();
        let mut after = after;
        loop {
            let items = letters(&self.store, consumer, after, BATCH).await?;
            let more = items.len() == BATCH;
            for item in items {
                let letter = Letter::read(&item)?;
                after = letter.position;
                let chosen = match which {
                    Which::All => true,
                    Which::Event(event) => letter.event == *event,
                    Which::Cause(cause) => letter.died_of(cause),
                };
                if chosen {
                    found.push(item);
                }
                if found.len() == limit {
                    return Ok(found);
                }
            }
            if !more {
                return Ok(found);
            }
        }
    }

    async fn redrive(&self, name: &ConsumerName, selection: Selection, how: Redrive<'_>) -> Result<Durable<Redriven>> {
        let Selection { which, after, limit } = selection;
        let items = self.select(name, &which, after.map_or(0, Position::get), limit).await?;
        let next = items.last().filter(|_| items.len() == limit).map(Letter::read).transpose()?;
        let mut count = 0;
        for item in &items {
            count += u64::from(decide(&self.store, name, &Letter::read(item)?, how).await?);
        }
        self.store.letters.forget(name);
        if let Some(inbox) = self.store.inbox(name) {
            inbox.rung.notify_one();
        }
        Ok(Durable::assert(Redriven { count, next: next.and_then(|last| Position::new(last.position)) }))
    }
}

async fn letters(store: &Store, consumer: &ConsumerName, after: u64, limit: usize) -> Result<Vec<Item>> {
    let (partition, from) = (format!("d#{consumer}"), position_sort(after.saturating_add(1)));
    store.table.query(Span { partition, from, to: "9".repeat(20), newest_first: false, limit }).await
}

fn as_shown(event: &Arc<Event>, copy: EditedCopy) -> Result<EditedCopy> {
    let data = as_edited(event, &copy.data)?.body.data();
    Ok(EditedCopy { data: data.map_err(|error| Error::Failed(error.to_string().into()))?, ..copy })
}

/// What a person decided about one letter; `false` where it is none any more.
async fn decide(store: &Store, name: &ConsumerName, letter: &Letter, how: Redrive<'_>) -> Result<bool> {
    let now = Timestamp::now();
    loop {
        let place = Place::load(store, name, &letter.lane).await?;
        let at_head = place.head.filter(|head| letter.parks && head.seq == letter.seq);
        let mut transaction = Transaction::default();
        let is_there = Change::default().only_if("attribute_exists(pk)");
        transaction.delete(false, letter.key.clone(), is_there);
        let intervention =
            Item::at(&Key::intervention(name, &letter.lane, letter.seq)).with("t", number(now.as_millis()));
        match how {
            Redrive::Edited(copy) => transaction.put(true, intervention.with("copy", copy_of(copy)?)),
            Redrive::Discard => transaction.put(true, intervention),
            Redrive::Retry => {}
        }
        match (at_head, how) {
            (Some(head), Redrive::Retry | Redrive::Edited(_)) => {
                let head = Head { state: HeadState::Waiting, attempts: 0, first_at: None, replayed: true, ..head };
                transaction.update(true, Key::place(name, &letter.lane), place.at(head).change()?);
                let due = due::item(&Key::due(name, &letter.lane), &letter.lane, letter.seq, now);
                transaction.put(true, due);
            }
            (Some(_), Redrive::Discard) => {
                let next = place.through(letter.seq, letter.from, None);
                transaction.update(true, Key::place(name, &letter.lane), next.change()?);
                // What is behind it is looked for in the table.
                let due = due::item(&Key::due(name, &letter.lane), &letter.lane, letter.seq, now);
                transaction.put(true, due);
            }
            (None, Redrive::Retry | Redrive::Edited(_)) => {
                transaction.put(true, due::stray(name, &letter.lane, letter.seq, letter.from, now));
            }
            (None, Redrive::Discard) => {}
        }
        match store.table.transact(transaction).await? {
            Ok(()) => return Ok(true),
            // The place has moved: look again. The letter is gone: somebody else decided.
            Err(refused) if refused.contains(&false) => return Ok(false),
            Err(_) => {}
        }
    }
}

/// The lanes of letters that park them go on without them.
pub async fn unpark(store: &Store, name: &ConsumerName) -> Result<()> {
    let mut after = 0;
    loop {
        let items = letters(store, name, after, BATCH).await?;
        for item in &items {
            let letter = Letter::read(item)?;
            after = letter.position;
            let place = Place::load(store, name, &letter.lane).await?;
            if !letter.parks || place.head.is_none_or(|head| head.seq != letter.seq) {
                continue;
            }
            let mut transaction = Transaction::default();
            let skipped = Change::of("REMOVE parks").only_if("attribute_exists(pk)");
            transaction.update((), letter.key.clone(), skipped);
            let next = place.through(letter.seq, letter.from, None);
            transaction.update((), Key::place(name, &letter.lane), next.change()?);
            let due = due::item(&Key::due(name, &letter.lane), &letter.lane, letter.seq, Timestamp::now());
            transaction.put((), due);
            // Refused where somebody else moved it meanwhile.
            drop(store.table.transact(transaction).await?);
        }
        if items.len() < BATCH {
            return Ok(());
        }
    }
}
