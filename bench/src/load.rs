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

/// One phase of load, all of it accepted.
pub struct Load {
    pub orders: u64,
    pub started: Instant,
    /// Until the last answer.
    pub duration: Duration,
    /// Time of each answer in microseconds, ascending.
    answers_us: Vec<u32>,
}

/// Hands out the numbers of orders, each once: every order below the next number was submitted.
#[derive(Default)]
pub struct Tickets(AtomicU64);

impl Tickets {
    pub fn handed_out(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn take(&self) -> u64 {
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
        duration: Duration,
    ) -> Result<Self> {
        let mut open = Vec::with_capacity(usize::from(connections));
        for _ in 0..connections {
            open.push(Connection::open(address).await?);
        }
        let started = Instant::now();
        let until = started + duration;
        let mut running = JoinSet::new();
        for connection in open {
            running.spawn(submit(connection, Arc::clone(workload), Arc::clone(tickets), until));
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
        percentile(&self.answers_us, share).map_or(f64::NAN, |micros| f64::from(micros) / 1e3)
    }
}

async fn submit(
    mut connection: Connection,
    workload: Arc<Workload>,
    tickets: Arc<Tickets>,
    until: Instant,
) -> Result<Vec<u32>> {
    let mut answers_us = Vec::with_capacity(1 << 12);
    let mut request = Vec::with_capacity(4 << 10);
    loop {
        if Instant::now() >= until {
            return Ok(answers_us);
        }
        let ticket = tickets.take();
        workload.write(ticket, &mut request)?;
        let sent = Instant::now();
        let answer = tokio::time::timeout(ANSWER_TIME_MAX, connection.exchange(&request)).await;
        let Answer { status, body } =
            answer.with_context(|| format!("order {ticket} was not answered within {ANSWER_TIME_MAX:?}"))??;
        ensure!(status == 201, "order {ticket} was answered {status}: {}", String::from_utf8_lossy(body));
        answers_us.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
}

/// The smallest value that `share` of the values do not exceed: the nearest rank.
fn percentile(ascending: &[u32], share: f64) -> Option<u32> {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
    let rank = (ascending.len() as f64 * share).ceil() as usize;
    ascending.get(rank.clamp(1, ascending.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let values: Vec<u32> = (1..=200).collect();
        assert_eq!(percentile(&values, 0.5), Some(100));
        assert_eq!(percentile(&values, 0.99), Some(198));
        assert_eq!(percentile(&[7], 0.99), Some(7));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
