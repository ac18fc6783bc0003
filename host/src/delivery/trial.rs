//! A version that is tried on a share of the orders, beside the one that is live: what it did, and what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::rollout::{Counts, Progress, Verdict, judge};
use crate::event::Share;
use crate::policy::Rollout;
use crate::version::Hash;

pub struct Trial {
    share: Share,
    rule: Rollout,
    tally: Mutex<Tally>,
    /// Rung once, when there is a verdict.
    bell: Arc<Notify>,
}

#[derive(Default)]
struct Tally {
    candidate: Counts,
    live: Counts,
    both_failed: u64,
    verdict: Option<Verdict>,
}

impl Trial {
    #[must_use]
    pub fn new(version: &Hash, rule: Rollout, bell: Arc<Notify>) -> Self {
        Self { share: Share::of(version, rule.share_permille), rule, tally: Mutex::default(), bell }
    }

    #[must_use]
    pub fn share(&self) -> Share {
        self.share
    }

    #[must_use]
    pub fn rule(&self) -> &Rollout {
        &self.rule
    }

    /// Whether the candidate still gets its share: not from the moment on at which it failed too much.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self.tally.lock().verdict, Some(Verdict::RollBack(_)))
    }

    /// The candidate handled an event.
    pub fn done(&self, took: Duration) {
        self.note(|tally| add(&mut tally.candidate, took));
    }

    /// The candidate failed an event that the live version handled, or would never have heard of.
    pub fn failed(&self) {
        self.note(|tally| tally.candidate.failed += 1);
    }

    /// Both failed an event.
    pub fn both_failed(&self) {
        self.note(|tally| tally.both_failed += 1);
    }

    /// The live version handled an event of its own share.
    pub fn live_done(&self, took: Duration) {
        add(&mut self.tally.lock().live, took);
    }

    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.tally.lock().verdict.clone()
    }

    #[must_use]
    pub fn progress(&self) -> Progress {
        let Tally { candidate, live, both_failed, .. } = &*self.tally.lock();
        let micros = |mean: Duration| u64::try_from(mean.as_micros()).unwrap_or(u64::MAX);
        Progress {
            share: format!("{}%", f64::from(self.rule.share_permille) / 10.0),
            events: candidate.events(),
            min_events: self.rule.min_events.get().into(),
            failed: candidate.failed,
            both_failed: *both_failed,
            duration_mean_us: candidate.mean().map(micros),
            live_duration_mean_us: live.mean().map(micros),
        }
    }

    /// Counts, until there is a verdict: what ends after it changes nothing any more.
    fn note(&self, count: impl FnOnce(&mut Tally)) {
        let mut tally = self.tally.lock();
        if tally.verdict.is_some() {
            return;
        }
        count(&mut tally);
        tally.verdict = judge(&self.rule, &tally.candidate, &tally.live);
        if tally.verdict.is_some() {
            self.bell.notify_one();
        }
    }
}

fn add(counts: &mut Counts, took: Duration) {
    counts.done += 1;
    counts.took = counts.took.saturating_add(took);
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn what_ends_after_the_verdict_changes_nothing() {
        let rule = Rollout {
            share_permille: 100,
            min_events: NonZeroU32::new(2).unwrap(),
            max_failure_rate: 0.0,
            max_slowdown: None,
        };
        let trial = Trial::new(&Hash::of(b"candidate"), rule, Arc::default());
        trial.done(Duration::from_micros(10));
        assert_eq!(trial.verdict(), None);
        trial.failed();
        let verdict = trial.verdict();
        assert!(matches!(verdict, Some(Verdict::RollBack(_))) && !trial.is_open(), "{verdict:?}");
        for _ in 0..3 {
            trial.done(Duration::from_micros(10));
            trial.failed();
            trial.both_failed();
        }
        assert_eq!(trial.verdict(), verdict);
        let Progress { events, failed, both_failed, .. } = trial.progress();
        assert_eq!((events, failed, both_failed), (2, 1, 0));
    }
}
