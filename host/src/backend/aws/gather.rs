//! Jobs that go to AWS together: one goes at once where nothing is on its way, and what comes meanwhile waits until that is
//! back, or until it is a whole batch. So a job that comes alone never waits, and many make few requests.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

/// How long what is less than a whole batch waits for more, after a batch of `last`: one `step` where things come one by one,
/// and up to [`STEPS_MAX`] where others are sure to come.
pub fn pace(step: Duration, last: usize) -> Duration {
    step * u32::try_from(last).map_or(STEPS_MAX, |last| last.clamp(1, STEPS_MAX))
}

const STEPS_MAX: u32 = 3;

/// Jobs that wait, and batches of them that are on their way.
#[derive(Debug)]
pub struct Gather<J> {
    state: Mutex<State<J>>,
    /// What is a whole batch.
    whole: usize,
    /// Batches on their way at once.
    most: usize,
}

#[derive(Debug)]
struct State<J> {
    waiting: VecDeque<J>,
    runs: usize,
}

impl<J> Gather<J> {
    pub fn new(whole: usize, most: usize) -> Self {
        Self { state: Mutex::new(State { waiting: VecDeque::new(), runs: 0 }), whole, most }
    }

    /// Whether a run begins with it: somebody takes batches from then on until there is none.
    #[must_use]
    pub fn push(&self, job: J) -> bool {
        let mut state = self.state.lock();
        state.waiting.push_back(job);
        self.begins(&mut state)
    }

    fn begins(&self, state: &mut State<J>) -> bool {
        let begins = !state.waiting.is_empty()
            && (state.runs == 0 || (state.waiting.len() >= self.whole && state.runs < self.most));
        state.runs += usize::from(begins);
        begins
    }

    /// What a run does next, as `pick` takes it out of what waits; `None` where the run has ended.
    pub fn take(&self, pick: impl FnOnce(&mut VecDeque<J>) -> Vec<J>) -> Option<Vec<J>> {
        let mut state = self.state.lock();
        if state.waiting.is_empty() || (state.runs > 1 && state.waiting.len() < self.whole) {
            state.runs -= 1;
            return None;
        }
        Some(pick(&mut state.waiting))
    }

    /// They wait again, before all others. Said by a run, which goes on.
    pub fn put_back(&self, jobs: Vec<J>) {
        self.state.lock().put_back(jobs);
    }

    /// As [`Gather::put_back`], said by somebody else: whether a run begins with them.
    #[must_use]
    pub fn put_back_and_begin(&self, jobs: Vec<J>) -> bool {
        let mut state = self.state.lock();
        state.put_back(jobs);
        self.begins(&mut state)
    }
}

impl<J> State<J> {
    fn put_back(&mut self, jobs: Vec<J>) {
        for job in jobs.into_iter().rev() {
            self.waiting.push_front(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(waiting: &mut VecDeque<u32>) -> Vec<u32> {
        waiting.drain(..).collect()
    }

    #[test]
    fn one_goes_at_once_and_what_comes_meanwhile_goes_together() {
        let gather = Gather::new(10, 2);
        assert!(gather.push(1));
        assert_eq!(gather.take(all), Some(vec![1]));
        assert!(!gather.push(2) && !gather.push(3), "one is on its way");
        assert_eq!(gather.take(all), Some(vec![2, 3]));
        assert_eq!(gather.take(all), None);
        assert!(gather.push(4));
    }

    #[test]
    fn whole_batches_do_not_wait_as_far_as_there_may_be_more() {
        let gather = Gather::new(2, 2);
        assert!(gather.push(1));
        assert_eq!(gather.take(all), Some(vec![1]));
        assert!(!gather.push(2));
        assert!(gather.push(3), "two are a batch of their own");
        assert!(!gather.push(4) && !gather.push(5), "two runs are all there may be");
        assert_eq!(gather.take(|waiting| waiting.drain(..3).collect()), Some(vec![2, 3, 4]));
        assert_eq!(gather.take(all), None, "what is left is no batch, and the other run takes it");
        assert_eq!(gather.take(all), Some(vec![5]));
        gather.put_back(vec![6, 7]);
        assert_eq!(gather.take(all), Some(vec![6, 7]));
        assert!(!gather.put_back_and_begin(vec![8]), "a run is under way");
        assert_eq!(gather.take(all), Some(vec![8]));
        assert_eq!(gather.take(all), None);
        assert!(!gather.put_back_and_begin(Vec::new()), "there is nothing to do");
        assert!(gather.put_back_and_begin(vec![9]));
    }
}
