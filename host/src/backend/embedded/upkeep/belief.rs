//! Whether the clock is believed: what it makes old is gone for good.

use std::time::{Duration, Instant};

use crate::clock::Timestamp;

/// How much further the clock may be than the time that passed.
const AHEAD_MAX: Duration = Duration::from_secs(300);
/// For how long one is not believed that leapt further: by then, somebody has set it right, or it was.
const DOUBT: Duration = Duration::from_secs(3_600);

/// A clock, beside one that only counts the time that passes.
pub struct Belief {
    began: Instant,
    /// When it was looked at last: by the clock, and since `began`.
    seen: (Timestamp, Duration),
    doubted_until: Option<Duration>,
}

impl Belief {
    pub fn new(now: Timestamp) -> Self {
        Self { began: Instant::now(), seen: (now, Duration::ZERO), doubted_until: None }
    }

    /// Whether anything may go because the clock says `now`.
    pub fn is_in(&mut self, now: Timestamp) -> bool {
        self.is_in_after(now, self.began.elapsed())
    }

    /// Where so much time has passed since the beginning.
    fn is_in_after(&mut self, now: Timestamp, passed: Duration) -> bool {
        let (before, passed_before) = std::mem::replace(&mut self.seen, (now, passed));
        let ahead = now.since(before).saturating_sub(passed.saturating_sub(passed_before));
        if ahead > AHEAD_MAX {
            tracing::warn!(
                ahead_s = ahead.as_secs(),
                doubt_s = DOUBT.as_secs(),
                "the clock leapt ahead: nothing is let go for its age until that has been so for a while"
            );
            self.doubted_until = Some(passed + DOUBT);
        }
        self.doubted_until.take_if(|until| *until <= passed);
        self.doubted_until.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    #[test]
    fn a_clock_that_leaps_ahead_is_believed_an_hour_later_and_one_that_was_wrong_never() {
        let began = Timestamp::from_millis(1_800_000_000_000);
        let mut belief = Belief::new(began);
        let mut is_in = |ahead: Duration, passed: Duration| belief.is_in_after(began.plus(passed).plus(ahead), passed);
        assert!(is_in(Duration::ZERO, minutes(1)));
        assert!(is_in(minutes(4), minutes(2)), "a little is nothing");
        assert!(!is_in(30 * DAY, minutes(3)) && !is_in(30 * DAY, minutes(4)));
        assert!(!is_in(Duration::ZERO, minutes(5)), "it was set right");
        assert!(is_in(Duration::ZERO, minutes(63)) && is_in(Duration::ZERO, minutes(64)));
        assert!(!is_in(30 * DAY, minutes(65)) && !is_in(30 * DAY, minutes(124)));
        assert!(is_in(30 * DAY, minutes(125)), "it is so");
        assert!(is_in(30 * DAY, 2 * DAY), "a round that took long is no leap");
    }
}
