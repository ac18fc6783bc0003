//! Deliveries that could not be done, and what a person makes of them.
//!
//! Each letter is an item, in journal order, with what it is listed and found by. What a person decides is one transaction:
//! the letter goes, the consumer's place in the lane moves, and an item stands for the lane that is to be looked at again.

mod counted;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

pub use self::counted::Counted;
use super::Aws;
use super::clock::first_at;
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

/// From when the position of an event is drawn until it has an id, by clocks that are set back meanwhile.
const DRAWN_MAX: Duration = Duration::from_secs(60);
/// Letters read at once.
const BATCH: usize = if cfg!(test) { 3 } else { 200 };
/// How long one call looks for letters that died of something; as long as a page of orders is looked for.
const LOOK_TIME: Duration = Duration::from_secs(2);
/// How long letters are counted by what they died of, before the others are left out: well within what a read may take.
const COUNT_TIME: Duration = Duration::from_secs(4);
/// How long one call decides about letters, one by one: with the look before, well within what a commit may take.
const REDRIVE_TIME: Duration = Duration::from_secs(1);

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
        let (mut items, rest) = self.select(consumer, &which, after, limit.saturating_add(1), LOOK_TIME).await?;
        let more = items.len() > limit;
        items.truncate(limit);
        let items = items.iter().map(shown).collect::<Result<Vec<_>>>()?;
        let next = items.last().filter(|_| more).map(|last| last.position.get());
        Ok(Page { items, next: next.or(rest).map(|next| next.to_string()) })
    }

    async fn causes(&self, consumer: &ConsumerName, limit: usize) -> Result<Vec<CauseCount>> {
        self.count_causes(consumer, limit, COUNT_TIME).await
    }

    async fn show(&self, consumer: &ConsumerName, event: EventId) -> Result<Option<LetterShown>> {
        let (mut items, _) = self.select(consumer, &Which::Event(event), 0, 1, Duration::MAX).await?;
        let Some(item) = items.pop() else { return Ok(None) };
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
        self.redrive(consumer, selection, Redrive::Retry, REDRIVE_TIME).await
    }

    async fn retry_edited(&self, consumer: &ConsumerName, event: EventId, copy: Body) -> Result<Durable<bool>> {
        let which = Which::Event(event).first(1);
        let redriven = self.redrive(consumer, which, Redrive::Edited(&copy), REDRIVE_TIME).await?;
        Ok(redriven.map(|redriven| redriven.count > 0))
    }

    async fn discard(&self, consumer: &ConsumerName, selection: Selection) -> Result<Durable<Redriven>> {
        self.redrive(consumer, selection, Redrive::Discard, REDRIVE_TIME).await
    }
}

impl Aws {
    /// What the letters died of that can be read within `time_max`, oldest first.
    async fn count_causes(&self, consumer: &ConsumerName, limit: usize, time_max: Duration) -> Result<Vec<CauseCount>> {
        let mut causes: HashMap<(&'static str, String), CauseCount> = HashMap::new();
        let (began, mut after, mut at_least) = (Instant::now(), 0, false);
        loop {
            let items = letters(&self.store, consumer, after, BATCH).await?;
            for item in &items {
                let (letter, time) = (Letter::read(item)?, item.time("t")?);
                after = letter.position;
                let counted = causes.entry((letter.outcome.as_str(), letter.general.clone()));
                let counted = counted.or_insert_with(|| CauseCount {
                    outcome: letter.outcome,
                    cause: letter.general,
                    count: 0,
                    at_least: false,
                    first_at: time,
                    last_at: time,
                });
                counted.count += 1;
                (counted.first_at, counted.last_at) = (counted.first_at.min(time), counted.last_at.max(time));
            }
            if items.len() < BATCH {
                break;
            }
            if began.elapsed() >= time_max {
                at_least = true;
                break;
            }
        }
        let counted = causes.into_values().map(|cause| CauseCount { at_least, ..cause });
        let mut causes: Vec<CauseCount> = counted.collect();
        causes.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.first_at.cmp(&other.first_at)));
        causes.truncate(limit);
        Ok(causes)
    }

    /// Items of dead letters in journal order, at most `limit` behind `after`; and behind which position to go on, where those that
    /// died of something else took longer than `time_max`.
    async fn select(
        &self,
        consumer: &ConsumerName,
        which: &Which,
        after: u64,
        limit: usize,
        time_max: Duration,
    ) -> Result<(Vec<Item>, Option<u64>)> {
        let first = match which {
            // It was drawn just before the id, and is no earlier.
            Which::Event(event) => first_at(event.made_at().minus(DRAWN_MAX)).saturating_sub(1),
            Which::All | Which::Cause(_) => 0,
        };
        let (began, mut found, mut after) = (Instant::now(), Vec::new(), after.max(first));
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
                    return Ok((found, None));
                }
            }
            if !more {
                return Ok((found, None));
            }
            if began.elapsed() >= time_max {
                return Ok((found, Some(after)));
            }
        }
    }

    /// Each letter is a transaction of its own: after `time_max`, the rest is left for the next call.
    async fn redrive(
        &self,
        name: &ConsumerName,
        selection: Selection,
        how: Redrive<'_>,
        time_max: Duration,
    ) -> Result<Durable<Redriven>> {
        let Selection { which, after, limit } = selection;
        let look_time = if matches!(which, Which::Event(_)) { Duration::MAX } else { LOOK_TIME };
        let (items, mut next) = self.select(name, &which, after.map_or(0, Position::get), limit, look_time).await?;
        let (began, mut count) = (Instant::now(), 0);
        for (index, item) in items.iter().enumerate() {
            let letter = Letter::read(item)?;
            count += u64::from(decide(&self.store, name, &letter, how).await?);
            let is_over = began.elapsed() >= time_max && index + 1 < items.len();
            if is_over || index + 1 == limit {
                next = Some(letter.position);
                break;
            }
        }
        self.store.letters.forget(name);
        if let Some(inbox) = self.store.inbox(name) {
            inbox.rung.notify_one();
        }
        Ok(Durable::assert(Redriven { count, next: next.and_then(Position::new) }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::aws::fixture::alpha;
    use crate::backend::aws::inbox::Inboxed;
    use crate::backend::aws::item::text;
    use crate::backend::contract::{publish, ran};
    use crate::backend::{Cause, Finished, Inbox as _, Settlement};
    use crate::effects::Reads;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_call_that_takes_long_ends_with_where_to_go_on() {
        let shop = Inboxed::open().await;
        for subject in ["a", "b", "c", "d", "e"] {
            publish(&shop.backend, subject).await;
            shop.take_in(subject).await;
            let cause = Cause::new(CauseKind::Reject, if subject == "e" { "rare" } else { "frequent" });
            let dead = Settlement::Dead { cause, ran: ran() };
            let finished = shop.inbox.finish(shop.lease().unwrap(), &Reads::default(), dead).await;
            assert!(matches!(finished, Finished::Accepted), "{finished:?}");
        }
        let aws = Aws { store: Arc::clone(&shop.store) };
        // Letters of long ago.
        let first = letters(&shop.store, &alpha(), 0, 10).await.unwrap().remove(0);
        let old = (1..=9).map(|position| Item::clone(&first).with("sk", text(position_sort(position))));
        let old: Vec<Item> = old.collect();
        let keys: Vec<Key> = old.iter().map(|item| item.key().unwrap()).collect();
        shop.store.table.put_all(old).await.unwrap();
        let event = Letter::read(&first).unwrap().event;
        let (found, _) = aws.select(&alpha(), &Which::Event(event), 0, 1, Duration::ZERO).await.unwrap();
        assert_eq!(found, [first], "it is looked for where it may be");
        shop.store.table.delete_all(keys).await.unwrap();

        let rare = Which::Cause(CauseKey { outcome: None, text: "rare".to_owned() });
        let (found, rest) = aws.select(&alpha(), &rare, 0, 10, Duration::ZERO).await.unwrap();
        assert_eq!((found.len(), rest.is_some()), (0, true), "it is behind others");
        let (found, rest) = aws.select(&alpha(), &rare, rest.unwrap(), 10, Duration::ZERO).await.unwrap();
        assert_eq!((found.len(), rest), (1, None));

        let [counted] = &aws.count_causes(&alpha(), 10, Duration::ZERO).await.unwrap()[..] else { panic!("one cause") };
        assert_eq!((&*counted.cause, counted.count, counted.at_least), ("frequent", 3, true));
        let all = aws.causes(&alpha(), 10).await.unwrap();
        assert_eq!(all.iter().map(|it| (it.count, it.at_least)).collect::<Vec<_>>(), [(4, false), (1, false)]);

        let (mut after, mut steps) = (None, Vec::new());
        loop {
            let selection = Selection { which: Which::All, after, limit: 500 };
            let done = aws.redrive(&alpha(), selection, Redrive::Retry, Duration::ZERO).await.unwrap().into_inner();
            steps.push(done.count);
            after = done.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(steps, [1, 1, 1, 1, 1]);
        shop.backend.lifecycle.close().await;
    }
}
