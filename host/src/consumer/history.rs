//! Which version a consumer goes back to, and what runs in place of the file in the directory. Pure.
//!
//! A decision is about one file, by its hash: while that very file is in the directory, what was decided holds, through
//! restarts; another file is another decision.

use crate::backend::{HistoryEntry, Standing, TurnOutcome};
use crate::version::{Hash, HashPrefix};

/// What becomes of a file that could be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    Take,
    /// It is tried on a share of the orders, beside `live`.
    Try {
        live: Hash,
    },
    /// It is kept out, for `reason`; `live` runs.
    Keep {
        live: Hash,
        reason: String,
    },
}

impl Plan {
    /// `came` says whether the file came by itself: it may be new to what was decided about another one.
    ///
    /// `tries` says whether the policy tries new versions on a share of the orders. A canary that a restart broke off begins
    /// anew; one whose policy does not try any more is over, and its version taken.
    #[must_use]
    pub fn of(file: &Hash, standing: Option<&Standing>, tries: bool, came: Came) -> Self {
        match standing {
            Some(Standing { outcome: TurnOutcome::RolledBack, file: about, live: Some(live), reason })
                if about.as_ref() == Some(file) =>
            {
                let why = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                Self::Keep { live: *live, reason: format!("it was rolled back{why}") }
            }
            Some(standing @ Standing { live: Some(live), reason, .. })
                if came == Came::Before && standing.is_decision() && live != file =>
            {
                let why = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                Self::Keep {
                    live: *live,
                    reason: format!("version {} was decided on for all hosts{why}", live.short()),
                }
            }
            // An older file that another host passed by is not tried: it would be judged for all.
            Some(Standing { live: Some(live), file: about, .. })
                if tries && live != file && (came == Came::Last || about.as_ref() == Some(file)) =>
            {
                Self::Try { live: *live }
            }
            _ => Self::Take,
        }
    }

    /// Whether trying `file` is news.
    #[must_use]
    pub fn is_new_canary(file: &Hash, standing: Option<&Standing>) -> bool {
        let known =
            |standing: &Standing| standing.outcome == TurnOutcome::Canary && standing.file.as_ref() == Some(file);
        !standing.is_some_and(known)
    }

    /// Whether making `file` live is news.
    #[must_use]
    pub fn is_news(file: &Hash, standing: Option<&Standing>, came: Came) -> bool {
        !standing.is_some_and(|standing| {
            let whole = matches!(standing.outcome, TurnOutcome::Live | TurnOutcome::Promoted);
            // What was decided about another host's file is not undone because this one has the version that it led to.
            (whole || came == Came::Before) && standing.live.as_ref() == Some(file)
        })
    }
}

/// When a file came to be in the directory, seen from what stands in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// Where other hosts decide too: it has been there while they did.
    Before,
    /// It came as the last word, or nobody else has one.
    Last,
}

/// Whether a version is the last one that somebody gave to a host, whichever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Last,
    Earlier,
}

impl Word {
    /// `came` says when the version's file did. What was decided on is the last word wherever it runs.
    #[must_use]
    pub fn of(version: &Hash, standing: Option<&Standing>, came: Came) -> Self {
        let decided = |standing: &Standing| standing.is_decision() && standing.live.as_ref() == Some(version);
        if came == Came::Last || standing.is_some_and(decided) { Self::Last } else { Self::Earlier }
    }
}

/// Whether the history speaks of this file as one that handled events.
#[must_use]
pub fn knows(history: &[HistoryEntry], file: &Hash) -> bool {
    let ran = history.iter().filter(|entry| entry.turn.outcome != TurnOutcome::Refused);
    ran.flat_map(|entry| [entry.turn.file.hash, entry.turn.live]).flatten().any(|hash| hash == *file)
}

/// The version that ran before `live` came: what was rolled back since then is passed over. `history` is newest first.
#[must_use]
pub fn one_before(history: &[HistoryEntry], live: &Hash) -> Option<Hash> {
    let came = |entry: &HistoryEntry| {
        let by_file = matches!(entry.turn.outcome, TurnOutcome::Live | TurnOutcome::Promoted);
        by_file && entry.turn.file.hash.as_ref() == Some(live)
    };
    let mut older = history.iter().skip_while(|entry| !came(entry)).filter_map(|entry| entry.turn.live);
    older.find(|before| before != live)
}

/// The version that a person means.
///
/// # Errors
/// How many versions that ran begin so, where it is not one.
pub fn meant(history: &[HistoryEntry], prefix: &HashPrefix) -> Result<Hash, usize> {
    let mut found: Vec<Hash> =
        history.iter().filter_map(|entry| entry.turn.live).filter(|hash| prefix.matches(hash)).collect();
    found.sort_unstable();
    found.dedup();
    match found.as_slice() {
        [one] => Ok(*one),
        several => Err(several.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{PluginFile, Turn};
    use crate::clock::Timestamp;

    fn hash(plugin: &str) -> Hash {
        Hash::of(plugin.as_bytes())
    }

    fn entry(outcome: TurnOutcome, file: &str, live: &str) -> HistoryEntry {
        let file = PluginFile { hash: Some(hash(file)), ..PluginFile::default() };
        let turn = Turn { outcome, reason: None, file, live: Some(hash(live)) };
        HistoryEntry { time: Timestamp::default(), turn, kept: true }
    }

    fn came(file: &str) -> HistoryEntry {
        entry(TurnOutcome::Live, file, file)
    }

    /// Oldest first, as it reads.
    fn before(history: &[HistoryEntry], live: &str) -> Option<Hash> {
        let newest_first: Vec<_> = history.iter().rev().cloned().collect();
        one_before(&newest_first, &hash(live))
    }

    #[test]
    fn the_one_before_is_what_ran_when_this_one_came() {
        assert_eq!(before(&[came("1")], "1"), None);
        assert_eq!(before(&[came("1"), came("2"), came("3")], "3"), Some(hash("2")));
        let refused = entry(TurnOutcome::Refused, "bad", "2");
        assert_eq!(before(&[came("1"), came("2"), refused], "2"), Some(hash("1")));
    }

    #[test]
    fn going_back_twice_goes_two_back_and_never_forward() {
        let back = entry(TurnOutcome::RolledBack, "3", "2");
        assert_eq!(before(&[came("1"), came("2"), came("3"), back], "2"), Some(hash("1")));
    }

    #[test]
    fn what_was_rolled_back_is_passed_over_later() {
        let back = entry(TurnOutcome::RolledBack, "2", "1");
        assert_eq!(before(&[came("1"), came("2"), back, came("3")], "3"), Some(hash("1")));
    }

    #[test]
    fn a_person_means_one_version_that_ran() {
        let history = [came("2"), entry(TurnOutcome::Refused, "bad", "1"), came("1")];
        let prefix = |plugin: &str| hash(plugin).to_string()[..8].parse().unwrap();
        assert_eq!(meant(&history, &prefix("1")), Ok(hash("1")));
        assert_eq!(meant(&history, &prefix("bad")), Err(0), "it never ran");
    }

    #[test]
    fn a_decision_holds_for_its_file_and_for_no_other() {
        let reason = Some("too slow".to_owned());
        let outcome = TurnOutcome::RolledBack;
        let back = Standing { outcome, file: Some(hash("2")), live: Some(hash("1")), reason };
        let kept = Plan::Keep { live: hash("1"), reason: "it was rolled back: too slow".to_owned() };
        assert_eq!(Plan::of(&hash("2"), Some(&back), true, Came::Last), kept);
        assert_eq!(Plan::of(&hash("3"), Some(&back), false, Came::Last), Plan::Take);
        assert_eq!(Plan::of(&hash("1"), None, true, Came::Last), Plan::Take, "there is nothing beside which to try it");
        assert!(Plan::is_news(&hash("1"), Some(&back), Came::Last), "its own file is another decision");
        let live = Standing { outcome: TurnOutcome::Live, file: Some(hash("1")), reason: None, ..back };
        assert_eq!(Plan::of(&hash("2"), Some(&live), true, Came::Last), Plan::Try { live: hash("1") });
        assert_eq!(Plan::of(&hash("1"), Some(&live), true, Came::Last), Plan::Take);
        let canary = Standing { outcome: TurnOutcome::Canary, file: Some(hash("2")), ..live.clone() };
        assert_eq!(Plan::of(&hash("2"), Some(&canary), true, Came::Last), Plan::Try { live: hash("1") });
        assert_eq!(Plan::of(&hash("2"), Some(&canary), false, Came::Last), Plan::Take);
        assert_eq!(Plan::of(&hash("3"), Some(&canary), true, Came::Last), Plan::Try { live: hash("1") });
        assert!(!Plan::is_new_canary(&hash("2"), Some(&canary)) && Plan::is_new_canary(&hash("3"), Some(&canary)));
        assert!(
            !Plan::is_news(&hash("1"), Some(&live), Came::Last) && Plan::is_news(&hash("2"), Some(&live), Came::Last)
        );
    }
    #[test]
    fn what_another_host_decided_holds_for_a_file_that_was_there_before() {
        let back =
            Standing { outcome: TurnOutcome::RolledBack, file: Some(hash("3")), live: Some(hash("1")), reason: None };
        let plan = |file: &str, standing: &Standing, came| Plan::of(&hash(file), Some(standing), false, came);
        assert!(matches!(plan("2", &back, Came::Before), Plan::Keep { live, .. } if live == hash("1")));
        assert_eq!(plan("2", &back, Came::Last), Plan::Take, "another file is another decision");
        assert_eq!(plan("1", &back, Came::Before), Plan::Take);
        assert!(
            !Plan::is_news(&hash("1"), Some(&back), Came::Before),
            "or the one who was rolled back would come again"
        );
        assert!(Plan::is_news(&hash("1"), Some(&back), Came::Last));
        assert_eq!(Word::of(&hash("1"), Some(&back), Came::Before), Word::Last, "it was decided on");
        assert_eq!(Word::of(&hash("3"), Some(&back), Came::Before), Word::Earlier);
        assert_eq!(Word::of(&hash("3"), Some(&back), Came::Last), Word::Last);
        let live = Standing { outcome: TurnOutcome::Live, file: Some(hash("3")), live: Some(hash("3")), reason: None };
        assert_eq!(plan("2", &live, Came::Before), Plan::Take, "a file that came elsewhere is no decision");
        assert_eq!(
            Plan::of(&hash("2"), Some(&live), true, Came::Before),
            Plan::Take,
            "nor is it one to be tried again"
        );
        let canary = Standing { outcome: TurnOutcome::Canary, live: Some(hash("1")), ..live };
        assert_eq!(Plan::of(&hash("3"), Some(&canary), true, Came::Before), Plan::Try { live: hash("1") });
        assert!(knows(&[came("1")], &hash("1")) && !knows(&[came("1")], &hash("2")));
    }
}
