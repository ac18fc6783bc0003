//! A consumer's share of the CPU: what it may use while other consumers are at work.
//!
//! A bucket of CPU time fills at the rate of the share. Guests drain it, at every tick and at the end of each handling;
//! where it is empty, the consumer's guests wait for it to fill, one turn of a tick at a time: before a handling, and in
//! the middle of one between two ticks, where a guest holds nothing that others need. While nobody else has anything to do
//! the bucket is not looked at, so that a consumer alone may use every idle core.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::cpu::{CpuMeter, TICK};

/// What a consumer may use at once after it was idle, and what it may owe: long work is spread out, and forgiven soon.
const BURST: Duration = Duration::from_millis(20);
/// Others count as at work for so long after one of them handled an event.
const AT_WORK: Duration = Duration::from_millis(100);
/// The runtime's timers are no finer.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// Events handled by all consumers of the process.
#[derive(Debug, Default)]
pub struct Everybody(AtomicU64);

#[derive(Debug)]
pub struct Share {
    everybody: Arc<Everybody>,
    /// Of [`Everybody`], this consumer's own.
    handled: AtomicU64,
    bucket: Mutex<Bucket>,
    /// Those who wait for the bucket to fill, the first of them with an eye on the clock.
    queue: tokio::sync::Mutex<()>,
}

impl Share {
    /// `permille` of one core.
    pub fn new(everybody: Arc<Everybody>, permille: u32) -> Self {
        let bucket = Mutex::new(Bucket::full(permille, Instant::now()));
        Self { everybody, handled: AtomicU64::new(0), bucket, queue: tokio::sync::Mutex::new(()) }
    }

    /// Waits until another handling may begin.
    pub async fn turn(&self) {
        if self.wait_at(Instant::now(), Duration::ZERO).is_none() {
            return;
        }
        let _first = self.queue.lock().await;
        while let Some(wait) = self.wait_at(Instant::now(), Duration::ZERO) {
            tokio::time::sleep(wait).await;
        }
    }

    /// Waits, at a tick, until the guest may run for another one. What it used since the last is charged.
    pub async fn turn_of(&self, cpu: &CpuMeter) {
        self.bucket.lock().spend(cpu.uncharged());
        let began = Instant::now();
        // Nobody overtakes those who wait.
        let at_once = self.queue.try_lock().is_ok_and(|_first| self.wait_at(began, TICK).is_none());
        if !at_once {
            let _first = self.queue.lock().await;
            while let Some(wait) = self.wait_at(Instant::now(), TICK) {
                tokio::time::sleep(wait).await;
            }
            cpu.wait(began.elapsed());
        }
        // Paid in advance, or all that wait would run at once as soon as there is enough for one.
        cpu.prepaid(TICK);
    }

    /// A handling has ended. One that saw no tick is charged what it took.
    pub fn handled(&self, cpu: &CpuMeter, took: Duration) {
        self.handled.fetch_add(1, Ordering::Relaxed);
        self.everybody.0.fetch_add(1, Ordering::Relaxed);
        let spent = if cpu.is_measuring() { cpu.uncharged() } else { took.min(TICK) };
        self.bucket.lock().spend(spent);
    }

    /// Takes `price` for what the host does for the consumer beyond running its guest.
    pub fn charge(&self, price: Duration) {
        self.bucket.lock().spend(price);
    }

    /// How long to wait before `price` is taken; taken now if `None`.
    fn wait_at(&self, now: Instant, price: Duration) -> Option<Duration> {
        let own = self.handled.load(Ordering::Relaxed);
        let others = self.everybody.0.load(Ordering::Relaxed).saturating_sub(own);
        let mut bucket = self.bucket.lock();
        let wait = bucket.wait(now).filter(|_| bucket.others_work(others, now));
        if wait.is_none() {
            bucket.spend(price);
        }
        wait.map(|wait| wait.max(WAIT_MIN))
    }
}

#[derive(Debug)]
struct Bucket {
    permille: u32,
    /// Less than nothing is a debt.
    left_ns: i64,
    filled_at: Instant,
    others: u64,
    others_at: Option<Instant>,
}

impl Bucket {
    fn full(permille: u32, now: Instant) -> Self {
        Self { permille: permille.max(1), left_ns: nanos(BURST), filled_at: now, others: 0, others_at: None }
    }

    fn spend(&mut self, spent: Duration) {
        self.left_ns = self.left_ns.saturating_sub(nanos(spent)).max(-nanos(BURST));
    }

    /// How long until it is no longer in debt.
    fn wait(&mut self, now: Instant) -> Option<Duration> {
        let since = nanos(now.saturating_duration_since(self.filled_at));
        self.filled_at = now;
        let filled = since.saturating_mul(self.permille.into()) / 1_000;
        self.left_ns = self.left_ns.saturating_add(filled).min(nanos(BURST));
        let debt = u64::try_from(-self.left_ns).ok().filter(|debt| *debt > 0)?;
        Some(Duration::from_nanos(debt.saturating_mul(1_000) / u64::from(self.permille)))
    }

    /// Whether others, who have handled so many events by now, are at work.
    fn others_work(&mut self, others: u64, now: Instant) -> bool {
        if std::mem::replace(&mut self.others, others) != others {
            self.others_at = Some(now);
        }
        self.others_at.is_some_and(|at| now.saturating_duration_since(at) < AT_WORK)
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn half_a_core_fills_at_half_the_speed_of_time() {
        let begin = Instant::now();
        let mut bucket = Bucket::full(500, begin);
        bucket.spend(BURST);
        assert_eq!(bucket.wait(begin), None, "what was there may be used");
        bucket.spend(10 * MS);
        assert_eq!(bucket.wait(begin), Some(20 * MS));
        assert_eq!(bucket.wait(begin + 15 * MS), Some(5 * MS));
        assert_eq!(bucket.wait(begin + 20 * MS), None);
    }

    #[test]
    fn neither_debts_nor_savings_grow_without_end() {
        let begin = Instant::now();
        let mut bucket = Bucket::full(1_000, begin);
        bucket.spend(Duration::from_secs(60));
        assert_eq!(bucket.wait(begin), Some(BURST));
        let later = begin + Duration::from_secs(60);
        assert_eq!(bucket.wait(later), None);
        bucket.spend(BURST + MS);
        assert_eq!(bucket.wait(later), Some(MS));
    }

    #[test]
    fn others_are_at_work_for_a_while_after_each_event() {
        let begin = Instant::now();
        let mut bucket = Bucket::full(500, begin);
        assert!(!bucket.others_work(0, begin), "alone");
        assert!(bucket.others_work(1, begin + MS));
        assert!(bucket.others_work(1, begin + 90 * MS));
        assert!(!bucket.others_work(1, begin + 102 * MS));
        assert!(bucket.others_work(2, begin + 103 * MS));
    }

    #[test]
    fn those_who_wait_get_one_turn_after_another() {
        let everybody = Arc::new(Everybody::default());
        let share = Share::new(Arc::clone(&everybody), 500);
        share.bucket.lock().spend(BURST);
        everybody.0.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now() + MS;
        assert_eq!(share.wait_at(now, TICK), None, "the first has its tick");
        assert!(share.wait_at(now, TICK).is_some(), "the second waits until the first is paid for");
        // Nobody else has done anything since.
        assert_eq!(share.wait_at(now + AT_WORK, TICK), None);
    }

    #[tokio::test]
    async fn every_handling_and_what_the_host_does_beside_it_is_paid_for() {
        let used_up = |share: &Share, everybody: &Everybody| {
            everybody.0.fetch_add(1, Ordering::Relaxed);
            share.wait_at(Instant::now(), Duration::ZERO).is_some()
        };
        let begun = || {
            let everybody = Arc::new(Everybody::default());
            (Share::new(Arc::clone(&everybody), 1), everybody)
        };
        let (share, everybody) = begun();
        assert!(!used_up(&share, &everybody));
        for _ in 0..25 {
            share.handled(&CpuMeter::default(), 5 * MS);
        }
        assert!(used_up(&share, &everybody), "each handling that saw no tick, with at most one");

        let (share, everybody) = begun();
        share.charge(2 * BURST);
        assert!(used_up(&share, &everybody));

        let (share, everybody) = begun();
        let cpu = CpuMeter::default();
        cpu.begin(Duration::MAX);
        cpu.look();
        let begin = super::super::cpu::thread_cpu();
        while super::super::cpu::thread_cpu() - begin < 2 * BURST {}
        cpu.is_spent();
        share.turn_of(&cpu).await;
        assert!(used_up(&share, &everybody), "what a guest used until a tick");
    }
}
