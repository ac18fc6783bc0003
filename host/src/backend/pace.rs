//! How fast deliveries start under a rate. Pure: the caller says what time it is.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::policy::Rate;

/// Deliveries that a rate lets through at once after a pause.
const BURST: Duration = Duration::from_millis(100);

pub struct Pace {
    rate: Rate,
    /// When the next delivery would start if they came evenly, in ms since the epoch.
    next_ms: f64,
}

impl Pace {
    pub fn new(rate: Rate) -> Self {
        Self { rate, next_ms: 0.0 }
    }

    /// What was counted is of another time where the clock was set back since: then it holds nobody up.
    pub fn allows(&self, now: Timestamp) -> bool {
        let ahead = self.next_ms - millis(now);
        ahead <= burst_ms() || ahead > self.ahead_max_ms()
    }

    pub fn started(&mut self, now: Timestamp) {
        let now = millis(now);
        self.next_ms = self.next_ms.clamp(now, now + burst_ms()) + self.interval_ms();
    }

    /// When a delivery that may not start now may.
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time after now")]
        (!self.allows(now)).then(|| Timestamp::from_millis((self.next_ms - burst_ms()).ceil() as u64))
    }

    fn interval_ms(&self) -> f64 {
        1_000.0 / f64::from(self.rate.per_second.get())
    }

    /// Further ahead no start puts the next one, whatever is lost in rounding.
    fn ahead_max_ms(&self) -> f64 {
        burst_ms() + self.interval_ms() + 1.0
    }
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds of this century are exact in 53 bits")]
fn millis(at: Timestamp) -> f64 {
    at.as_millis() as f64
}

fn burst_ms() -> f64 {
    BURST.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_over_time_and_lets_a_burst_through_after_a_pause() {
        let mut pace = Pace::new("100/s".parse().unwrap());
        let mut started = 0;
        for ms in 0..2_000 {
            while pace.allows(Timestamp::from_millis(10_000 + ms)) {
                pace.started(Timestamp::from_millis(10_000 + ms));
                started += 1;
            }
        }
        assert!((200..=212).contains(&started), "{started}");
        let now = Timestamp::from_millis(11_999);
        let due = pace.next_due(now).unwrap();
        assert!(due > now && due.since(now) <= Duration::from_millis(10), "{due}");
        assert!(pace.allows(due));
    }

    #[test]
    fn a_clock_that_is_set_back_holds_nobody_up_and_the_rate_is_kept_from_there() {
        for rate in ["100/s", "1/s", "100000/s"] {
            let mut pace = Pace::new(rate.parse().unwrap());
            let per_second: u64 = rate.trim_end_matches("/s").parse().unwrap();
            let started = |pace: &mut Pace, from: u64| {
                let mut started = 0;
                for ms in from..from + 2_000 {
                    while pace.allows(Timestamp::from_millis(ms)) {
                        pace.started(Timestamp::from_millis(ms));
                        started += 1;
                    }
                    let due = pace.next_due(Timestamp::from_millis(ms)).unwrap();
                    assert!(due.as_millis() <= ms + 1_001, "{rate}: {due}");
                }
                started
            };
            let day = 24 * 3_600_000;
            for from in [2 * day, day, day + 1_000, 3 * day] {
                let (started, expected) = (started(&mut pace, from), 2 * per_second);
                assert!(
                    (expected - 1 - per_second / 1_000..=expected + per_second / 8 + 2).contains(&started),
                    "{rate} from {from}: {started}"
                );
            }
        }
    }
}
