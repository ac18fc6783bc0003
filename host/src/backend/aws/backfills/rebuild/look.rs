//! What became of past events at their consumer, as a rebuild wants to know it.

use std::collections::HashMap;

use serde_json::value::RawValue;

use crate::backend::Result;
use crate::backend::aws::backfills::Fills;
use crate::backend::aws::consumers::Known;
use crate::backend::aws::item::{Item, Key};
use crate::backend::aws::lane::Logged;
use crate::backend::aws::place::Place;
use crate::backend::aws::store::Store;
use crate::policy::ConsumerName;

/// One event, and what became of it.
#[derive(Debug)]
pub struct Seen {
    pub logged: Logged,
    pub found: Found,
    /// The copy that a person edited, which the consumer has had in its place.
    pub copy: Option<Box<RawValue>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Or never to be delivered otherwise, since it is from before the consumer began.
    Done,
    /// Passed by: the version in use does not hear it, or did not when it came.
    Unheard,
    /// To be delivered, and not tried yet.
    Pending,
    /// Retrying, waiting behind one, dead, or left to its lane by a backfill.
    Exception,
    Discarded,
}

impl Found {
    /// Nothing of it is to come.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Unheard)
    }
}

/// Looks at events that the consumer listens to. What is done stays so, and so does what was discarded.
pub async fn look(store: &Store, known: &Known, fills: &Fills, events: Vec<Logged>) -> Result<Vec<Seen>> {
    let name = &known.name;
    let keys = |of: &dyn Fn(&Logged) -> Key| events.iter().map(of).collect::<Vec<Key>>();
    let strays = || keys(&|it| Key::stray(name, &it.key, it.seq));
    // A dead letter whose lane went on is due when it is retried, and is a letter when it dies again: looked at before and
    // behind, it is found.
    let mut exceptions = store.table.get_all(strays()).await?;
    let places = store.table.get_all(keys(&|it| Key::place(name, &it.key))).await?;
    exceptions.extend(store.table.get_all(keys(&|it| Key::dead_letter(name, it.position()))).await?);
    exceptions.extend(store.table.get_all(strays()).await?);
    // Whoever discards one writes it down in the transaction in which the letter goes.
    let decided = store.table.get_all(keys(&|it| Key::intervention(name, &it.key, it.seq))).await?;
    let mut seen = Vec::with_capacity(events.len());
    for logged in events {
        let place = places.get(&Key::place(name, &logged.key)).map(Place::read).transpose()?.unwrap_or_default();
        let decision = decided.get(&Key::intervention(name, &logged.key, logged.seq));
        let copy = decision.map(|item| item.json_or_none::<Box<RawValue>>("copy")).transpose()?.flatten();
        let is_discarded = decision.is_some() && copy.is_none();
        let found = if is_exception(name, &logged, &place, &exceptions) {
            Found::Exception
        } else if is_discarded {
            Found::Discarded
        } else {
            became(store, known, fills, &place, &logged)
        };
        seen.push(Seen { logged, found, copy });
    }
    Ok(seen)
}

fn is_exception(name: &ConsumerName, logged: &Logged, place: &Place, exceptions: &HashMap<Key, Item>) -> bool {
    place.head.is_some_and(|head| head.seq == logged.seq)
        || exceptions.contains_key(&Key::stray(name, &logged.key, logged.seq))
        || exceptions.contains_key(&Key::dead_letter(name, logged.position()))
}

/// What became of one that is no exception of its own.
fn became(store: &Store, known: &Known, fills: &Fills, place: &Place, logged: &Logged) -> Found {
    if logged.position() < known.start {
        return if fills.brings(place, logged).is_some() { Found::Exception } else { Found::Done };
    }
    match logged.seq <= place.seq {
        true => Found::Done,
        false if !store.wants(known, logged) => Found::Unheard,
        false if place.is_parked() => Found::Exception,
        false => Found::Pending,
    }
}
