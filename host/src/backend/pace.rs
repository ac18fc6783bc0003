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

    pub fn allows(&self, now: Timestamp) -> bool {
        self.next_ms <= millis(now) + burst_ms()
    }

    pub fn started(&mut self, now: Timestamp) {
        self.next_ms = self.next_ms.max(millis(now)) + 1_000.0 / f64::from(self.rate.per_second.get());
    }

    /// When a delivery that may not start now may.
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let due = self.next_ms - burst_ms();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time after now")]
        (due > millis(now)).then(|| Timestamp::from_millis(due.ceil() as u64))
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
}
