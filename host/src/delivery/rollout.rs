//! When a version that is tried on a share of the orders has shown enough: pure, over what was counted.
//!
//! ```text
//! candidate done ─────────────────────────▶ done
//! candidate failed ─▶ the live version done ─▶ failed     (handled again; none of its attempts)
//!                  └▶ the live version fails ─▶ neither   (the event is to blame; its attempt is the live version's)
//! ```
//! It is rolled back as soon as it cannot meet `max_failure_rate` any more within `min_events`, however well the rest would go,
//! and promoted at `min_events` unless it is slower than it may be. So nothing is decided by luck early on, and a version that
//! fails much is out after a few events.

use std::time::Duration;

use serde::Serialize;

use crate::policy::Rollout;

/// What one version did with the events that were judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub done: u64,
    pub failed: u64,
    /// Of those that were done, together.
    pub took: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Promote(String),
    RollBack(String),
}

/// How far a candidate has come, as people are shown it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// `10%`: of the orders.
    pub share: String,
    /// Events that it was judged by, and how many it needs.
    pub events: u64,
    pub min_events: u64,
    pub failed: u64,
    /// Events that the live version failed too: they count for neither.
    pub both_failed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_mean_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_duration_mean_us: Option<u64>,
}

impl Counts {
    #[must_use]
    pub fn events(&self) -> u64 {
        self.done + self.failed
    }

    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let done = u32::try_from(self.done).ok().filter(|done| *done > 0)?;
        Some(self.took / done)
    }
}

/// What becomes of a candidate; `None` while it has not shown enough. The live version's speed is that of its own orders in the
/// same time: where it had none, nothing is slower than it.
#[must_use]
pub fn judge(rule: &Rollout, candidate: &Counts, live: &Counts) -> Option<Verdict> {
    let (events, min_events) = (candidate.events(), u64::from(rule.min_events.get()));
    let Counts { failed, .. } = candidate;
    let rate = rule.max_failure_rate;
    if exceeds(*failed, rate, events.max(min_events)) {
        return Some(Verdict::RollBack(format!(
            "it failed {failed} of {events} events, and rollout.max_failure_rate is {rate}"
        )));
    }
    if events < min_events {
        return None;
    }
    if let (Some(max), Some(mean), Some(beside)) = (rule.max_slowdown, candidate.mean(), live.mean())
        && mean > beside.mul_f64(max)
    {
        return Some(Verdict::RollBack(format!(
            "an event took it {mean:.1?} at the mean and the version before {beside:.1?}, and rollout.max_slowdown is {max}"
        )));
    }
    Some(Verdict::Promote(format!("it failed {failed} of {events} events")))
}

/// Whether `failed` of `events` is more than `rate`.
fn exceeds(failed: u64, rate: f64, events: u64) -> bool {
    #[allow(clippy::cast_precision_loss, reason = "events are counted far below 2^53")]
    let (failed, allowed) = (failed as f64, rate * events as f64);
    // A rate such as 0.29 is a little less than that as a float.
    failed > allowed + 1e-9
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    fn rule(min_events: u32, max_failure_rate: f64, max_slowdown: Option<f64>) -> Rollout {
        Rollout {
            share_permille: 100,
            min_events: NonZeroU32::new(min_events).unwrap(),
            max_failure_rate,
            max_slowdown,
        }
    }

    fn counts(done: u64, failed: u64, mean_us: u64) -> Counts {
        Counts { done, failed, took: Duration::from_micros(done * mean_us) }
    }

    #[test]
    fn a_candidate_without_failures_is_promoted_at_its_last_event_and_not_before() {
        let rule = rule(200, 0.01, None);
        assert_eq!(judge(&rule, &counts(199, 0, 10), &counts(0, 0, 0)), None);
        let promoted = judge(&rule, &counts(200, 0, 10), &counts(0, 0, 0));
        assert_eq!(promoted, Some(Verdict::Promote("it failed 0 of 200 events".to_owned())));
    }

    #[test]
    fn a_candidate_is_out_at_the_first_failure_that_it_cannot_make_good() {
        let rule = rule(200, 0.01, None);
        assert_eq!(judge(&rule, &counts(5, 2, 10), &counts(0, 0, 0)), None, "two of 200 are allowed");
        let out = "it failed 3 of 8 events, and rollout.max_failure_rate is 0.01".to_owned();
        assert_eq!(judge(&rule, &counts(5, 3, 10), &counts(0, 0, 0)), Some(Verdict::RollBack(out)));
    }

    #[test]
    fn a_candidate_that_is_too_slow_is_out_once_it_has_shown_enough() {
        let (rule, live) = (rule(10, 0.0, Some(1.5)), counts(90, 0, 100));
        assert_eq!(judge(&rule, &counts(9, 0, 900), &live), None);
        assert!(matches!(judge(&rule, &counts(10, 0, 150), &live), Some(Verdict::Promote(_))));
        let Some(Verdict::RollBack(why)) = judge(&rule, &counts(10, 0, 151), &live) else { panic!("promoted") };
        assert_eq!(
            why,
            "an event took it 151.0µs at the mean and the version before 100.0µs, and rollout.max_slowdown is 1.5"
        );
        assert!(
            matches!(judge(&rule, &counts(10, 0, 900), &counts(0, 3, 0)), Some(Verdict::Promote(_))),
            "beside nothing"
        );
    }

    proptest! {
        /// Event by event: it ends by `min_events`, promoted exactly if it failed no more than it may of those.
        #[test]
        fn every_candidate_ends_by_its_last_event_and_as_its_failures_say(
            min_events in 1_u32..60,
            rate in 0.0_f64..0.9,
            fails in prop::collection::vec(prop::bool::weighted(0.2), 60),
        ) {
            let rule = rule(min_events, rate, None);
            let mut candidate = Counts::default();
            let enough = min_events as usize;
            let all = fails[..enough].iter().filter(|failed| **failed).count();
            let allowed = (rate * f64::from(min_events)).floor() as usize;
            for (index, failed) in fails[..enough].iter().enumerate() {
                if *failed { candidate.failed += 1 } else { candidate.done += 1 }
                match judge(&rule, &candidate, &Counts::default()) {
                    None => prop_assert!(index + 1 < enough && candidate.failed as usize <= allowed),
                    Some(Verdict::Promote(_)) => {
                        prop_assert!(index + 1 == enough && all <= allowed);
                        return Ok(());
                    }
                    Some(Verdict::RollBack(_)) => {
                        prop_assert!(candidate.failed as usize == allowed + 1 && *failed, "at once");
                        return Ok(());
                    }
                }
            }
            prop_assert!(false, "never judged");
        }
    }
}
