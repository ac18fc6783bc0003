//! What other hosts of the store decide about versions, as the directory hears of it.

use std::collections::BTreeMap;

use tokio::sync::watch;

use crate::backend::{Fleet, Standing, Standings, TurnOutcome};
use crate::policy::ConsumerName;

pub struct Elsewhere {
    /// Absent where there are no other hosts, or none can be heard any more.
    standings: Option<watch::Receiver<Standings>>,
    /// As they were when somebody last asked.
    known: Standings,
}

impl Elsewhere {
    pub fn of(fleet: &dyn Fleet) -> Self {
        let mut standings = fleet.standings();
        let known = standings.as_mut().map(|standings| Standings::clone(&standings.borrow_and_update()));
        Self { standings, known: known.unwrap_or_default() }
    }

    /// Waits until something is decided, and says of which consumers. May be dropped at any await without harm.
    pub async fn decided(&mut self) -> Vec<ConsumerName> {
        loop {
            let Some(standings) = &mut self.standings else { return std::future::pending().await };
            if standings.changed().await.is_err() {
                self.standings = None;
                continue;
            }
            let now = Standings::clone(&standings.borrow_and_update());
            let before = std::mem::replace(&mut self.known, now);
            return news(&before, &self.known);
        }
    }
}

/// Of which consumers something else was decided. That a file came to another host is no decision about this one's.
fn news(before: &BTreeMap<ConsumerName, Standing>, now: &BTreeMap<ConsumerName, Standing>) -> Vec<ConsumerName> {
    let news = now.iter().filter(|(name, standing)| standing.is_decision() && before.get(*name) != Some(standing));
    news.map(|(name, _)| name.clone()).collect()
}

impl Standing {
    /// Whether somebody, or a canary's judge, said which version is to run.
    #[must_use]
    pub fn is_decision(&self) -> bool {
        matches!(self.outcome, TurnOutcome::Promoted | TurnOutcome::RolledBack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Hash;

    #[test]
    fn decisions_are_news_once_and_files_that_came_elsewhere_are_none() {
        let name = |text: &str| text.parse::<ConsumerName>().unwrap();
        let standing =
            |outcome| Standing { outcome, file: Some(Hash::of(b"2")), live: Some(Hash::of(b"1")), reason: None };
        let of = |outcome| BTreeMap::from([(name("a"), standing(outcome))]);
        assert_eq!(news(&BTreeMap::new(), &of(TurnOutcome::Live)), []);
        assert_eq!(news(&of(TurnOutcome::Live), &of(TurnOutcome::RolledBack)), [name("a")]);
        assert_eq!(news(&of(TurnOutcome::RolledBack), &of(TurnOutcome::RolledBack)), []);
        assert_eq!(news(&of(TurnOutcome::RolledBack), &of(TurnOutcome::Promoted)), [name("a")]);
    }
}
