//! A queue that does not answer.

use std::time::Duration;

/// Between two questions where nothing may be taken; where SQS does not answer, the first such time and the longest.
pub const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(5);

/// For how long the queue has not answered, and what was said of it: why, once.
#[derive(Default)]
pub struct Silence {
    times: u32,
    told: Option<String>,
}

impl Silence {
    /// One more question without an answer: how long to wait before the next one, and whether the reason is another.
    pub fn go_on(&mut self, why: &str) -> (Duration, bool) {
        let wait = AGAIN.saturating_mul(2_u32.saturating_pow(self.times)).min(AGAIN_MAX);
        self.times += 1;
        let is_news = self.told.as_deref() != Some(why);
        self.told = Some(why.to_owned());
        (wait, is_news)
    }

    /// Whether the last question was answered.
    pub fn is_over(&self) -> bool {
        self.told.is_none()
    }

    /// Whether something was said that is over.
    pub fn end(&mut self) -> bool {
        std::mem::take(self).told.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_does_not_answer_is_asked_less_often_and_told_of_once() {
        let mut silence = Silence::default();
        assert!(!silence.end());
        assert_eq!(silence.go_on("it is gone"), (AGAIN, true));
        assert_eq!(silence.go_on("it is gone"), (AGAIN * 2, false));
        assert_eq!(silence.go_on("it refuses"), (AGAIN * 4, true));
        for _ in 0..100 {
            assert!(!silence.go_on("it refuses").1);
        }
        assert_eq!(silence.go_on("it refuses").0, AGAIN_MAX);
        assert!(silence.end() && !silence.end());
        assert_eq!(silence.go_on("it refuses"), (AGAIN, true));
    }
}
