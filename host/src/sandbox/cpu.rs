//! How much CPU one handling may use, and the ticker that gives the host a chance to look.
//!
//! Epoch ticks are wall time and say nothing of CPU on a busy machine, so the budget counts the thread's CPU time. Two
//! clock reads for every handling would cost more than many handlers do: nothing is measured until the first tick, which
//! most handlings never see. One instruction may write all of a guest's memory, and no tick comes in between: where there is
//! much of it, everything is measured.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use wasmtime::Engine;

/// How often a running guest is interrupted for a look at its budget, and for other tasks of the thread.
pub const TICK: Duration = Duration::from_millis(1);
/// Of each read of the store, so much is the guest's own time; what it takes beyond that is the store's.
const READ: Duration = Duration::from_millis(50);
/// Going to sleep and waking up costs more than some idle ticks.
const IDLE_TICKS_MAX: u32 = 200;

/// The CPU time of one handling. Used by one thread at a time; shared because the guest's store is borrowed while it runs.
#[derive(Debug, Default)]
pub struct CpuMeter {
    limit_ns: AtomicU64,
    spent_ns: AtomicU64,
    /// Thread CPU time when measuring began or was last counted.
    mark_ns: AtomicU64,
    measuring: AtomicBool,
    /// Of what was spent, what the consumer's share was charged, or more, where a tick was paid for in advance.
    charged_ns: AtomicU64,
    /// Wall time of this handling that it waited for the consumer's share, and for its store.
    waited_ns: AtomicU64,
    /// Since when it waits for a read of its store.
    reading_since: Mutex<Option<Instant>>,
}

/// While one lives, the handling waits for a read of its store.
pub struct Reading<'a>(&'a CpuMeter);

impl CpuMeter {
    pub fn begin(&self, limit: Duration) {
        self.limit_ns.store(nanos(limit), Ordering::Relaxed);
        self.spent_ns.store(0, Ordering::Relaxed);
        self.measuring.store(false, Ordering::Relaxed);
        self.charged_ns.store(0, Ordering::Relaxed);
        self.waited_ns.store(0, Ordering::Relaxed);
    }

    pub fn is_measuring(&self) -> bool {
        self.measuring.load(Ordering::Relaxed)
    }

    /// Measures from here on, tick or no tick.
    pub fn look(&self) {
        if !self.measuring.swap(true, Ordering::Relaxed) {
            self.mark_ns.store(nanos(thread_cpu()), Ordering::Relaxed);
        }
    }

    /// What was spent since [`CpuMeter::begin`], as far as it was measured.
    pub fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent_ns.load(Ordering::Relaxed))
    }

    /// What was spent and not charged yet; from now on it is.
    pub fn uncharged(&self) -> Duration {
        let spent = self.spent_ns.load(Ordering::Relaxed);
        let charged = self.charged_ns.fetch_max(spent, Ordering::Relaxed);
        Duration::from_nanos(spent.saturating_sub(charged))
    }

    pub fn prepaid(&self, paid: Duration) {
        self.charged_ns.fetch_add(nanos(paid), Ordering::Relaxed);
    }

    /// Waited for what is not its own doing, for so long.
    pub fn wait(&self, waited: Duration) {
        self.waited_ns.fetch_add(nanos(waited), Ordering::Relaxed);
    }

    /// Waits for a read of its store from here on. A guest makes one after another.
    #[must_use]
    pub fn read(&self) -> Reading<'_> {
        *self.reading_since.lock() = Some(Instant::now());
        Reading(self)
    }

    /// Wall time that is not the guest's own: it waited for its share, or longer for its store than a read takes.
    pub fn waited(&self) -> Duration {
        let reading = self.reading_since.lock().map_or(Duration::ZERO, beyond_a_read);
        Duration::from_nanos(self.waited_ns.load(Ordering::Relaxed)) + reading
    }

    pub fn limit(&self) -> Duration {
        Duration::from_nanos(self.limit_ns.load(Ordering::Relaxed))
    }

    /// Called at an epoch tick, by the thread that runs the guest. Whether the budget is spent.
    pub fn is_spent(&self) -> bool {
        if self.measuring.swap(true, Ordering::Relaxed) {
            self.count();
        } else {
            // What ran before the first tick was at most about one.
            self.spent_ns.fetch_add(nanos(TICK), Ordering::Relaxed);
            self.mark_ns.store(nanos(thread_cpu()), Ordering::Relaxed);
        }
        self.spent_ns.load(Ordering::Relaxed) >= self.limit_ns.load(Ordering::Relaxed)
    }

    /// Runs `future`, counting the CPU time of every poll from the first tick on.
    pub async fn measure<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| {
            if self.measuring.load(Ordering::Relaxed) {
                self.mark_ns.store(nanos(thread_cpu()), Ordering::Relaxed);
            }
            let polled = future.as_mut().poll(context);
            if self.measuring.load(Ordering::Relaxed) {
                self.count();
            }
            polled
        })
        .await
    }

    fn count(&self) {
        let now = nanos(thread_cpu());
        let since = now.saturating_sub(self.mark_ns.swap(now, Ordering::Relaxed));
        self.spent_ns.fetch_add(since, Ordering::Relaxed);
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let since = self.0.reading_since.lock().take();
        self.0.wait(since.map_or(Duration::ZERO, beyond_a_read));
    }
}

fn beyond_a_read(since: Instant) -> Duration {
    since.elapsed().saturating_sub(READ)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(unix)]
pub fn thread_cpu() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), u32::try_from(spent.tv_nsec).unwrap_or(0))
}

/// Where there is no such clock, wall time stands in: the budget is then at most too small.
#[cfg(not(unix))]
pub fn thread_cpu() -> Duration {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed()
}

/// Advances the engine's epoch while guests run, from a thread of its own: no guest can keep it from running.
pub struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    guests: AtomicUsize,
    asleep: AtomicBool,
    stopped: AtomicBool,
}

/// While one lives, the epoch advances.
pub struct Ticking<'a>(&'a Shared);

impl Ticker {
    pub fn start(engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            guests: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        let ticking = Arc::clone(&shared);
        let thread = thread::Builder::new().name("epoch".to_owned()).spawn(move || tick(&engine, &ticking))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub fn run(&self) -> Ticking<'_> {
        self.shared.guests.fetch_add(1, Ordering::SeqCst);
        // The ticker says that it sleeps before it looks at `guests` for the last time: one of both sees the other.
        if self.shared.asleep.load(Ordering::SeqCst)
            && let Some(thread) = self.thread()
        {
            thread.unpark();
        }
        Ticking(&self.shared)
    }

    fn thread(&self) -> Option<&Thread> {
        self.thread.as_ref().map(JoinHandle::thread)
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.guests.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It only sleeps and counts: there is nothing of a panic to pass on.
            drop(thread.join());
        }
    }
}

fn tick(engine: &Engine, shared: &Shared) {
    let mut idle_ticks = 0;
    while !shared.stopped.load(Ordering::SeqCst) {
        if shared.guests.load(Ordering::SeqCst) > 0 {
            idle_ticks = 0;
        } else {
            idle_ticks += 1;
        }
        if idle_ticks > IDLE_TICKS_MAX {
            shared.asleep.store(true, Ordering::SeqCst);
            while shared.guests.load(Ordering::SeqCst) == 0 && !shared.stopped.load(Ordering::SeqCst) {
                thread::park();
            }
            shared.asleep.store(false, Ordering::SeqCst);
            idle_ticks = 0;
        }
        thread::sleep(TICK);
        engine.increment_epoch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Uses so much of this thread's CPU time.
    fn burn(time: Duration) {
        let begin = thread_cpu();
        while thread_cpu() - begin < time {}
    }

    #[test]
    fn a_handling_begins_with_nothing_that_the_one_before_took() {
        let meter = CpuMeter::default();
        meter.begin(Duration::ZERO);
        meter.look();
        burn(MS);
        assert!(meter.is_spent());
        meter.wait(MS);
        assert!(meter.spent() >= MS && meter.waited() >= MS && meter.is_measuring());
        meter.begin(MS);
        assert_eq!(
            (meter.spent(), meter.waited(), meter.uncharged()),
            (Duration::ZERO, Duration::ZERO, Duration::ZERO)
        );
        assert_eq!((meter.is_measuring(), meter.limit()), (false, MS));
    }

    #[tokio::test]
    async fn all_polls_count_and_what_others_do_on_the_thread_between_them_does_not() {
        let meter = CpuMeter::default();
        meter.begin(Duration::MAX);
        meter.look();
        let guest = meter.measure(async {
            for _ in 0..10 {
                burn(2 * MS);
                tokio::task::yield_now().await;
            }
        });
        let others = async {
            for _ in 0..10 {
                burn(20 * MS);
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(guest, others);
        assert!((20 * MS..100 * MS).contains(&meter.spent()), "{:?}", meter.spent());
    }
}
