//! How many dead letters consumers have: counted when somebody asks, and where there are many not each time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backend::Result;
use crate::backend::aws::table::{Table, Tally};
use crate::policy::ConsumerName;

/// A count stays for so many times as long as it took, so that counting costs next to nothing, however many there are.
const STAYS_TIMES: u32 = 100;
/// Whoever looks again after that sees what has come.
const STAYS_MAX: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Counted(Mutex<HashMap<ConsumerName, Count>>);

#[derive(Clone, Copy)]
struct Count {
    letters: u64,
    until: Instant,
}

impl Counted {
    /// What the table has of the consumer, where one answer holds it all: about a thousand letters. More than that are as they were
    /// up to a minute ago, but for what a person decided here.
    pub async fn letters(&self, table: &Table, name: &ConsumerName) -> Result<u64> {
        let began = Instant::now();
        if let Some(count) = self.0.lock().get(name).filter(|count| count.until > began) {
            return Ok(count.letters);
        }
        let Tally { items: letters, answers } = table.count(&format!("d#{name}")).await?;
        let ended = Instant::now();
        let mut counts = self.0.lock();
        match stays(answers, ended - began) {
            Some(time) => counts.insert(name.clone(), Count { letters, until: ended + time }),
            None => counts.remove(name),
        };
        Ok(letters)
    }

    /// A person decided about some of them.
    pub fn forget(&self, name: &ConsumerName) {
        self.0.lock().remove(name);
    }
}

/// For how long nobody counts again what took so many answers and so long.
fn stays(answers: u32, took: Duration) -> Option<Duration> {
    (answers > 1).then(|| took.saturating_mul(STAYS_TIMES).min(STAYS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_answer_has_is_counted_each_time_and_more_the_less_often_the_longer_it_took() {
        assert_eq!(stays(1, Duration::from_secs(5)), None);
        assert_eq!(stays(2, Duration::from_millis(20)), Some(Duration::from_secs(2)));
        assert_eq!(stays(50, Duration::from_secs(2)), Some(STAYS_MAX));
    }
}
