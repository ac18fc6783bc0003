//! When to try again, and when to give up. Pure.

use std::hash::BuildHasher;
use std::time::Duration;

use crate::backend::{Cause, CauseKind, Delivery, Evidence, LogLine, Ran, Settlement};
use crate::clock::Timestamp;
use crate::effects::Effects;
use crate::event::EventId;
use crate::policy::Retry;
use crate::sandbox::Outcome;

/// What becomes of a delivery after `outcome`. An outcome of the store is none of the consumer's attempts.
pub fn settle(
    policy: &Retry,
    delivery: &Delivery,
    outcome: Outcome,
    effects: Effects,
    log: Vec<LogLine>,
    ran: Ran,
) -> Settlement {
    if matches!(outcome, Outcome::Done) {
        return Settlement::Done { effects, ran };
    }
    let Some((cause, after)) = failure(outcome, &effects, log) else { return Settlement::Released };
    if cause.kind == CauseKind::Reject {
        return Settlement::Dead { cause, ran };
    }
    let now = Timestamp::now();
    let tried = Tried { attempts: delivery.attempt, first_at: delivery.first_attempt_at };
    match next_try(policy, tried, after, now, jitter(delivery.event.id, delivery.attempt)) {
        Some(at) => Settlement::Retry { at, cause, ran },
        None => Settlement::Dead { cause, ran },
    }
}

/// Why it was not done, and the guest's own wish when to try again. `None` of done, and of an outcome of the store.
pub fn failure(outcome: Outcome, effects: &Effects, log: Vec<LogLine>) -> Option<(Cause, Option<Duration>)> {
    let (mut cause, after) = match outcome {
        Outcome::Done | Outcome::Store(_) => return None,
        Outcome::Reject { reason } => (Cause::new(CauseKind::Reject, reason), None),
        Outcome::Retry { after, reason } => (Cause::new(CauseKind::Retry, reason), after),
        Outcome::Trap { kind, message, backtrace } => {
            (Cause { backtrace, ..Cause::new(CauseKind::Trap, format!("{kind}: {message}")) }, None)
        }
        Outcome::Timeout { what, limit, backtrace } => {
            let detail = format!("used up its {what} limit of {limit:?}");
            (Cause { backtrace, ..Cause::new(CauseKind::Timeout, detail) }, None)
        }
    };
    cause.evidence = Evidence { effects: effects.sketch(), log };
    Some((cause, after))
}

/// How often a delivery was tried, the attempt that just ended included.
#[derive(Clone, Copy)]
struct Tried {
    attempts: u32,
    first_at: Timestamp,
}

/// When to try again after the attempt that just ended, or `None` to give up. `after` is the guest's own wish,
/// `jitter` from 0 to 1.
fn next_try(policy: &Retry, tried: Tried, after: Option<Duration>, now: Timestamp, jitter: f64) -> Option<Timestamp> {
    if tried.attempts >= policy.max_attempts.get() {
        return None;
    }
    let at = now.plus(after.unwrap_or_else(|| backoff(policy, tried.attempts, jitter)));
    (at.since(tried.first_at) <= policy.max_age).then_some(at)
}

/// Exponential, from half to the whole of `base` × 2^(attempt − 1), at most `cap`: spread, so that what failed
/// together does not come back together.
fn backoff(policy: &Retry, attempt: u32, jitter: f64) -> Duration {
    let doubled = policy.base.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
    let whole = doubled.min(policy.cap);
    whole / 2 + (whole / 2).mul_f64(jitter.clamp(0.0, 1.0))
}

/// Differs from delivery to delivery and from attempt to attempt.
fn jitter(event: EventId, attempt: u32) -> f64 {
    let hash = std::hash::RandomState::new().hash_one((event, attempt));
    #[allow(clippy::cast_precision_loss, reason = "only spread is wanted")]
    let jitter = hash as f64 / u64::MAX as f64;
    jitter
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    fn policy(base_ms: u64, cap_ms: u64) -> Retry {
        Retry { base: Duration::from_millis(base_ms), cap: Duration::from_millis(cap_ms), ..Retry::default() }
    }

    #[test]
    fn backoff_doubles_until_it_is_capped() {
        let policy = policy(1_000, 10_000);
        let whole: Vec<u64> = (1..=6).map(|attempt| backoff(&policy, attempt, 1.0).as_secs()).collect();
        assert_eq!(whole, [1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff(&policy, 1, 0.0), Duration::from_millis(500));
    }

    #[test]
    fn what_failed_together_does_not_come_back_together() {
        let event = EventId::generate();
        let spread =
            (1..=200).map(|attempt| jitter(event, attempt)).chain((0..200).map(|_| jitter(EventId::generate(), 1)));
        let (low, high) = spread.fold((1.0_f64, 0.0_f64), |(low, high), it| (low.min(it), high.max(it)));
        assert!((0.0..0.2).contains(&low) && (0.8..=1.0).contains(&high), "{low} {high}");
    }

    proptest! {
        /// A delivery that fails until it is given up: neither too early nor too late, and never in a hurry.
        #[test]
        fn a_delivery_that_always_fails_is_given_up_by_attempts_or_by_age(
            base_ms in 1_u64..5_000,
            cap_ms in 1_u64..20_000,
            max_attempts in 1_u32..40,
            max_age_ms in 1_u64..100_000,
            attempts in prop::collection::vec((0.0_f64..1.0, 0_u64..2_000, prop::option::weighted(0.2, 0_u64..30_000)), 40),
        ) {
            let (max_attempts, max_age) = (NonZeroU32::new(max_attempts).unwrap(), Duration::from_millis(max_age_ms));
            let policy = Retry { max_attempts, max_age, ..policy(base_ms, cap_ms) };
            let first_at = Timestamp::from_millis(1_000_000);
            let mut at = first_at;
            for (tried, (jitter, took_ms, wish)) in (1_u32..).zip(attempts) {
                let wish = wish.map(Duration::from_millis);
                let now = at.plus(Duration::from_millis(took_ms));
                let longest = wish.unwrap_or(policy.base.saturating_mul(1 << tried.min(20)).min(policy.cap));
                match next_try(&policy, Tried { attempts: tried, first_at }, wish, now, jitter) {
                    Some(next) => {
                        prop_assert!(tried < max_attempts.get() && next.since(first_at) <= max_age);
                        prop_assert!(next >= now && next.since(now) <= longest);
                        prop_assert!(wish.is_none_or(|wish| next.since(now) == wish), "the guest's own wish");
                        at = next;
                    }
                    None => {
                        let too_old = now.plus(longest).since(first_at) > max_age;
                        prop_assert!(tried == max_attempts.get() || too_old, "given up after {tried}");
                        return Ok(());
                    }
                }
            }
            prop_assert!(false, "never given up");
        }

        #[test]
        fn backoff_stays_between_half_of_base_and_cap(base in 1_u64..10_000, cap in 1_u64..100_000, attempt in 1_u32..200, jitter in 0.0_f64..1.0) {
            let policy = policy(base, cap);
            let wait = backoff(&policy, attempt, jitter);
            prop_assert!(wait <= policy.cap);
            prop_assert!(wait >= policy.base.min(policy.cap) / 2);
        }
    }
}
