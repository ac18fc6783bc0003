//! The load: connections that each submit one order after another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use crate::wire::{Answer, Connection};
use crate::workload::Workload;

/// Whoever waits longer for one answer waits for a host that hangs.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);

/// When the next order is sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Every connection sends its next order as soon as the last is answered.
    AsAnswered,
    /// So many orders a second in all, whatever the answers take.
    PerSecond(f64),
}

/// One phase of load, all of it accepted.
pub struct Load {
    pub orders: u64,
    pub started: Instant,
    /// Until the last answer.
    pub duration: Duration,
    /// Time of each answer in microseconds, ascending.
    answers_us: Vec<u32>,
}

/// When each order of a phase is due.
struct Schedule {
    started: Instant,
    until: Instant,
    /// Between two orders; none where they are sent as answers come.
    every: Option<Duration>,
    taken: AtomicU64,
}

/// Hands out the numbers of orders, each once: every order below the next number was submitted.
#[derive(Default)]
pub struct Tickets(AtomicU64);

impl Tickets {
    pub fn handed_out(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn take(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl Load {
    /// Submits orders on `connections` connections for `duration`. Any answer but 201 is an error.
    pub async fn run(
        address: SocketAddr,
        workload: &Arc<Workload>,
        tickets: &Arc<Tickets>,
        connections: u16,
        pace: Pace,
        duration: Duration,
    ) -> Result<Self> {
        let mut open = Vec::with_capacity(usize::from(connections));
        for _ in 0..connections {
            open.push(Connection::open(address).await?);
        }
        let schedule = Arc::new(Schedule::new(pace, duration));
        let started = schedule.started;
        let mut running = JoinSet::new();
        for connection in open {
            running.spawn(submit(connection, Arc::clone(workload), Arc::clone(tickets), Arc::clone(&schedule)));
        }
        let mut answers_us = Vec::new();
        while let Some(answers) = running.join_next().await {
            // The first failure ends the run: dropping the set ends the other connections.
            answers_us.extend(answers??);
        }
        let duration = started.elapsed();
        answers_us.sort_unstable();
        Ok(Self { orders: answers_us.len() as u64, started, duration, answers_us })
    }

    /// The time within which this share of the orders was answered, in milliseconds.
    pub fn answered_within_ms(&self, share: f64) -> f64 {
        within_ms(&self.answers_us, share)
    }
}

impl Schedule {
    fn new(pace: Pace, duration: Duration) -> Self {
        let every = match pace {
            Pace::AsAnswered => None,
            Pace::PerSecond(rate) => Some(Duration::from_secs_f64(rate.recip())),
        };
        let started = Instant::now();
        Self { started, until: started + duration, every, taken: AtomicU64::new(0) }
    }

    /// Waits until the next order is due. Returns from when on its answer is waited for, or nothing at the end: an order
    /// that no connection was free to send in time has been waiting since it was due.
    async fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        let Some(every) = self.every else { return (now < self.until).then_some(now) };
        let place = self.taken.fetch_add(1, Ordering::Relaxed);
        let due = self.started + every.mul_f64(count(place));
        if due >= self.until {
            return None;
        }
        if due <= now {
            return Some(due);
        }
        tokio::time::sleep_until(due.into()).await;
        Some(Instant::now())
    }
}

async fn submit(
    mut connection: Connection,
    workload: Arc<Workload>,
    tickets: Arc<Tickets>,
    schedule: Arc<Schedule>,
) -> Result<Vec<u32>> {
    let mut answers_us = Vec::with_capacity(1 << 12);
    let mut request = Vec::with_capacity(4 << 10);
    while let Some(due) = schedule.next().await {
        place(&mut connection, &workload, tickets.take(), &mut request).await?;
        answers_us.push(micros(due.elapsed()));
    }
    Ok(answers_us)
}

/// Submits one order, and returns its answer.
pub async fn place<'a>(
    connection: &'a mut Connection,
    workload: &Workload,
    ticket: u64,
    request: &mut Vec<u8>,
) -> Result<&'a [u8]> {
    workload.write(ticket, request)?;
    let answer = tokio::time::timeout(ANSWER_TIME_MAX, connection.exchange(request)).await;
    let Answer { status, body } =
        answer.with_context(|| format!("order {ticket} was not answered within {ANSWER_TIME_MAX:?}"))??;
    ensure!(status == 201, "order {ticket} was answered {status}: {}", String::from_utf8_lossy(body));
    Ok(body)
}

pub fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

#[allow(clippy::cast_precision_loss, reason = "orders of a run are far below 2^52")]
pub fn count(orders: u64) -> f64 {
    orders as f64
}

/// The time in milliseconds that `share` of the times in microseconds do not exceed.
pub fn within_ms(ascending_us: &[u32], share: f64) -> f64 {
    percentile(ascending_us, share).map_or(f64::NAN, |micros| f64::from(micros) / 1e3)
}

/// The smallest value that `share` of the values do not exceed: the nearest rank.
fn percentile(ascending: &[u32], share: f64) -> Option<u32> {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
    let rank = (ascending.len() as f64 * share).ceil() as usize;
    ascending.get(rank.clamp(1, ascending.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Pace, Schedule, percentile};

    #[tokio::test]
    async fn an_order_that_was_kept_waiting_waits_since_it_was_due() {
        let mut schedule = Schedule::new(Pace::PerSecond(100.0), Duration::from_secs(3_600));
        schedule.started = schedule.started.checked_sub(Duration::from_secs(1)).unwrap();
        for place in 0..100 {
            assert_eq!(schedule.next().await, Some(schedule.started + Duration::from_millis(10) * place));
        }
    }

    #[tokio::test]
    async fn a_schedule_ends_with_its_time() {
        let schedule = Schedule::new(Pace::PerSecond(1_000.0), Duration::from_millis(3));
        let mut sent = 0;
        while schedule.next().await.is_some() {
            sent += 1;
        }
        assert_eq!(sent, 3);
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let values: Vec<u32> = (1..=200).collect();
        assert_eq!(percentile(&values, 0.5), Some(100));
        assert_eq!(percentile(&values, 0.99), Some(198));
        assert_eq!(percentile(&[7], 0.99), Some(7));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
