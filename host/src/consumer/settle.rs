//! Waits until files are complete: a sighting settles when nothing changed between two looks, or when it is known to be whole.
//!
//! Pure: looks and instants come in, the settled table comes out. A file that goes away settles likewise, so that
//! a tool which deletes and writes anew does not stop a consumer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::scan::{Look, Sighting};
use crate::policy::ConsumerName;

#[derive(Debug)]
pub struct Settling {
    after: Duration,
    settled: BTreeMap<ConsumerName, Sighting>,
    /// What was last seen and is not what is settled; `None` where nothing was there.
    unsettled: BTreeMap<ConsumerName, (Option<Sighting>, Instant)>,
}

impl Settling {
    /// Two looks at least `after` apart must agree.
    #[must_use]
    pub fn new(after: Duration) -> Self {
        Self { after, settled: BTreeMap::new(), unsettled: BTreeMap::new() }
    }

    pub fn observe(&mut self, look: &Look, now: Instant) {
        let names: Vec<_> =
            self.settled.keys().chain(self.unsettled.keys()).chain(look.sightings.keys()).cloned().collect();
        for name in names {
            let seen = look.sightings.get(&name);
            if seen == self.settled.get(&name) {
                self.unsettled.remove(&name);
                continue;
            }
            let since = match self.unsettled.get(&name) {
                Some((before, since)) if before.as_ref() == seen => *since,
                _ => now,
            };
            if now.duration_since(since) >= self.after || look.whole.contains(&name) {
                self.unsettled.remove(&name);
                match seen {
                    Some(seen) => self.settled.insert(name, seen.clone()),
                    None => self.settled.remove(&name),
                };
            } else {
                self.unsettled.insert(name, (seen.cloned(), since));
            }
        }
    }

    /// What is in the directory, as far as it is complete.
    #[must_use]
    pub fn settled(&self) -> &BTreeMap<ConsumerName, Sighting> {
        &self.settled
    }

    /// Names whose files are there and not complete yet.
    pub fn arriving(&self) -> impl Iterator<Item = &ConsumerName> {
        self.unsettled.iter().filter(|(_, (seen, _))| seen.is_some()).map(|(name, _)| name)
    }

    /// When another look can settle something; `None` if nothing is unsettled.
    #[must_use]
    pub fn next_look(&self) -> Option<Instant> {
        self.unsettled.values().map(|(_, since)| *since + self.after).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::scan::Entry;
    use super::*;

    const AFTER: Duration = Duration::from_millis(120);

    fn look(content: Option<&str>) -> Look {
        let mut look = Look::default();
        if let Some(content) = content {
            let sighting = Sighting { plugin: Entry::Other(content.to_owned()), side_file: None };
            look.sightings.insert("a".parse().unwrap(), sighting);
        }
        look
    }

    fn settled(settling: &Settling) -> Option<&str> {
        settling.settled().values().next().map(|sighting| match &sighting.plugin {
            Entry::Other(content) => content.as_str(),
            Entry::File(_) => unreachable!("made above"),
        })
    }

    #[test]
    fn a_file_settles_when_two_looks_agree() {
        let (mut settling, start) = (Settling::new(AFTER), Instant::now());
        settling.observe(&look(Some("half")), start);
        assert_eq!((settled(&settling), settling.next_look()), (None, Some(start + AFTER)));
        settling.observe(&look(Some("whole")), start + AFTER);
        assert_eq!((settled(&settling), settling.arriving().count()), (None, 1));
        settling.observe(&look(Some("whole")), start + AFTER + AFTER / 2);
        assert_eq!(settled(&settling), None);
        settling.observe(&look(Some("whole")), start + AFTER * 2);
        assert_eq!((settled(&settling), settling.next_look()), (Some("whole"), None));
    }

    #[test]
    fn of_two_quick_saves_only_the_last_settles() {
        let (mut settling, start) = (Settling::new(AFTER), Instant::now());
        settling.observe(&look(Some("first")), start);
        settling.observe(&look(Some("second")), start + AFTER / 2);
        settling.observe(&look(Some("second")), start + AFTER);
        assert_eq!(settled(&settling), None);
        settling.observe(&look(Some("second")), start + AFTER * 3 / 2);
        assert_eq!(settled(&settling), Some("second"));
    }

    #[test]
    fn a_file_away_for_a_moment_stays_settled() {
        let (mut settling, start) = (Settling::new(AFTER), Instant::now());
        settling.observe(&look(Some("one")), start);
        settling.observe(&look(Some("one")), start + AFTER);
        settling.observe(&look(None), start + AFTER * 2);
        assert_eq!(settled(&settling), Some("one"));
        settling.observe(&look(Some("one")), start + AFTER * 4);
        assert_eq!((settled(&settling), settling.next_look()), (Some("one"), None));
        settling.observe(&look(None), start + AFTER * 5);
        settling.observe(&look(None), start + AFTER * 6);
        assert_eq!((settled(&settling), settling.next_look()), (None, None));
    }

    #[test]
    fn a_whole_file_settles_at_first_sight() {
        let mut settling = Settling::new(AFTER);
        let mut look = look(Some("old"));
        look.whole.insert("a".parse().unwrap());
        settling.observe(&look, Instant::now());
        assert_eq!(settled(&settling), Some("old"));
    }
}
