//! The way from one host to AWS, and what goes wrong on it: requests that hang up, answers that are lost, requests
//! that arrive late and twice, errors, throttles, messages in another order.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::goods::Dice;
use crate::TestHost;
use crate::aws::{Fault, Way};

/// Of 100 requests, those that something happens to, of each kind.
const PERCENT: u64 = 2;
const DELAY_MS_MAX: u64 = 400;
/// What is asked again because nobody answered is done by then, and what follows on it, too.
const LATE_MS_MAX: u64 = 3_000;

/// The way of one host, and the weather on it.
pub struct Network {
    way: Way,
    weather: Arc<Mutex<Weather>>,
}

struct Weather {
    dice: Dice,
    fair: bool,
    /// Until then nothing comes through.
    down_until: Option<Instant>,
    faults: Faults,
}

/// How many requests met which fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    pub requests: u64,
    pub delayed: u64,
    pub hung_up: u64,
    pub answers_lost: u64,
    /// Requests that came a second time, behind later ones.
    pub late: u64,
    pub failed: u64,
    pub throttled: u64,
    /// Answers of SQS whose messages came in another order, and messages of standard queues that came again.
    pub disordered: u64,
    pub repeated: u64,
}

impl Network {
    /// Stands between `host`, from its next start on, and the emulators. Fair until it is told otherwise.
    pub fn before(host: &mut TestHost, seed: u64) -> Self {
        let weather = Weather { dice: Dice::new(seed), fair: true, down_until: None, faults: Faults::default() };
        let weather = Arc::new(Mutex::new(weather));
        let (way, asked) = (Way::of(host), Arc::clone(&weather));
        way.sqs.seed(seed);
        way.choose(move |_| locked(&asked).fate());
        Self { way, weather }
    }

    /// A few of all requests meet with something from now on.
    pub fn worsen(&self) {
        locked(&self.weather).fair = false;
    }

    /// Nothing happens to any request from now on.
    pub fn clear(&self) {
        let mut weather = locked(&self.weather);
        (weather.fair, weather.down_until) = (true, None);
    }

    /// Ends every connection, whatever goes on there, and lets nothing through for a while.
    pub fn fall(&self, time: Duration) {
        locked(&self.weather).down_until = Some(Instant::now() + time);
        self.way.cut();
    }

    #[must_use]
    pub fn faults(&self) -> Faults {
        let (disordered, repeated) = self.way.sqs.disordered();
        Faults { disordered, repeated, ..locked(&self.weather).faults }
    }
}

impl Weather {
    fn fate(&mut self) -> Fault {
        let faults = &mut self.faults;
        faults.requests += 1;
        if self.down_until.is_some_and(|until| Instant::now() < until) {
            faults.hung_up += 1;
            return Fault::HangUp;
        }
        if self.fair {
            return Fault::Pass;
        }
        let (drawn, delay) = (self.dice.below(100) / PERCENT, self.dice.below(DELAY_MS_MAX));
        let (count, fault) = match drawn {
            0 => (&mut faults.delayed, Fault::Delay(Duration::from_millis(delay))),
            1 => (&mut faults.hung_up, Fault::HangUp),
            2 => (&mut faults.answers_lost, Fault::LoseAnswer),
            3 => {
                let late = Duration::from_millis(self.dice.below(LATE_MS_MAX));
                (&mut faults.late, Fault::ArriveLate(late))
            }
            4 => (&mut faults.failed, Fault::Fail(if delay.is_multiple_of(2) { 500 } else { 503 })),
            5 => (&mut faults.throttled, Fault::Throttle),
            _ => return Fault::Pass,
        };
        *count += 1;
        fault
    }
}

impl Faults {
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            delayed: self.delayed + other.delayed,
            hung_up: self.hung_up + other.hung_up,
            answers_lost: self.answers_lost + other.answers_lost,
            late: self.late + other.late,
            failed: self.failed + other.failed,
            throttled: self.throttled + other.throttled,
            disordered: self.disordered + other.disordered,
            repeated: self.repeated + other.repeated,
        }
    }
}

fn locked(weather: &Mutex<Weather>) -> MutexGuard<'_, Weather> {
    weather.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
