//! Every counter, in memory; a batch writes each that it moved once, as the host does.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::staged::{Adjustment, Consumer, Entry, Rule, Staged};

const SILVER_FROM: i64 = 1_000;
const GOLD_FROM: i64 = 5_000;

#[derive(Default)]
pub struct Counters {
    places: [HashMap<Arc<str>, usize>; 5],
    all: Vec<Counter>,
    /// Places of those that moved since they were last written.
    moved: Vec<usize>,
}

pub struct Counter {
    pub consumer: Consumer,
    pub key: Arc<str>,
    pub value: i64,
    moved: bool,
}

impl Counters {
    pub fn set(&mut self, consumer: Consumer, key: &str, value: i64) -> Result<()> {
        let place = self.place(consumer, key)?;
        self.all.get_mut(place).into_iter().for_each(|counter| counter.value = value);
        Ok(())
    }

    /// Adds up what an order adjusts, and enters the tiers that this lifts.
    pub fn settle(&mut self, staged: &mut Staged) -> Result<()> {
        let mut tiers = Vec::new();
        for (key, Adjustment { consumer, by, rule, .. }) in staged.adjusted() {
            let place = self.place(*consumer, key)?;
            let Some(counter) = self.all.get_mut(place) else { continue };
            let before = counter.value;
            counter.value += by;
            if !counter.moved {
                counter.moved = true;
                self.moved.push(place);
            }
            match *rule {
                Rule::Free => {}
                // What no order of the load meets; one that did would have to be rejected.
                Rule::Floor(floor) => ensure!(counter.value >= floor, "{key} would fall to {}", counter.value),
                Rule::Tier(prefix) if tier(before) != tier(counter.value) => {
                    let customer = key.get(prefix..).unwrap_or_default();
                    let value = tier(counter.value).unwrap_or_default().into();
                    tiers.push(Entry { consumer: *consumer, key: format!("tier/{customer}"), value });
                }
                Rule::Tier(_) => {}
            }
        }
        staged.entries.append(&mut tiers);
        Ok(())
    }

    /// Those that moved, to be written.
    pub fn drain(&mut self, mut write: impl FnMut(&Counter) -> rusqlite::Result<()>) -> rusqlite::Result<()> {
        for place in self.moved.drain(..) {
            let Some(counter) = self.all.get_mut(place) else { continue };
            counter.moved = false;
            write(counter)?;
        }
        Ok(())
    }

    fn place(&mut self, consumer: Consumer, key: &str) -> Result<usize> {
        let places = self.places.get_mut(consumer);
        ensure!(places.is_some(), "there is no consumer {consumer}");
        let Some(places) = places else { return Ok(0) };
        if let Some(place) = places.get(key) {
            return Ok(*place);
        }
        let key: Arc<str> = key.into();
        let place = self.all.len();
        places.insert(Arc::clone(&key), place);
        self.all.push(Counter { consumer, key, value: 0, moved: false });
        Ok(place)
    }
}

/// Points only ever grow here: nobody falls back to no tier.
fn tier(points: i64) -> Option<&'static str> {
    match points {
        GOLD_FROM.. => Some("gold"),
        SILVER_FROM.. => Some("silver"),
        _ => None,
    }
}
