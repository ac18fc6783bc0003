//! What is tried again and again while something at AWS is away: it is said once, again where the reason is another, and then each half
//! minute, so that the log of a host stays one that can be read.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const SAID_EVERY: Duration = Duration::from_secs(30);

/// Why it failed, and when that was last said.
type Said = (String, Instant);

/// By what is tried, and for which consumer.
#[derive(Default)]
pub struct Repeats(Mutex<HashMap<(&'static str, String), Said>>);

impl Repeats {
    /// Whether it is to be said that `what` failed for `of`; the host itself is `""`.
    pub fn is_news(&self, what: &'static str, of: &str, why: &impl Display) -> bool {
        self.is_news_at(Instant::now(), what, of, why.to_string())
    }

    fn is_news_at(&self, now: Instant, what: &'static str, of: &str, why: String) -> bool {
        let mut said = self.0.lock();
        let last = said.entry((what, of.to_owned())).or_insert_with(|| (String::new(), now));
        let is_news = last.0 != why || now.duration_since(last.1) >= SAID_EVERY;
        if is_news {
            *last = (why, now);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_and_again_where_it_is_another_or_half_a_minute_old() {
        let (repeats, begun) = (Repeats::default(), Instant::now());
        let is_news = |second: u64, of: &str, why: &str| {
            repeats.is_news_at(begun + Duration::from_secs(second), "look", of, why.to_owned())
        };
        assert!(is_news(0, "a", "the table is gone") && is_news(0, "b", "the table is gone"));
        assert!((1..30).all(|second| !is_news(second, "a", "the table is gone")));
        assert!(is_news(29, "a", "it refuses") && !is_news(58, "a", "it refuses"));
        assert!(is_news(59, "a", "it refuses") && !is_news(60, "a", "it refuses"));
    }
}
