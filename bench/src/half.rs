//! Half of the load that the host can take: how long an order waits for its answer, and how long after it until every
//! consumer is done with the order.
//!
//! Orders are sent by the clock, whatever the answers take. A few of them, [`PROBES_PER_S`], are followed: once such an order
//! is answered, `GET /v1/orders/{id}` is asked again and again until it shows each delivery done, which it does when that is
//! on disk. What is reported is the time from the answer to the order until the first of these answers that says so, so it
//! is up to one look too long. The looks cost the host little: they read a few rows by key.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::Arguments;
use crate::load::{self, Load, Pace, Tickets, micros, within_ms};
use crate::mode::Mode;
use crate::wire::Connection;
use crate::workload::Workload;

const PROBES_PER_S: u32 = 50;
/// Each follows one order at a time, so that one that takes long does not keep the next from being followed.
const PROBES: u32 = 16;
const LOOK_EVERY: Duration = Duration::from_millis(2);
const DONE_TIME_MAX: Duration = Duration::from_secs(60);

pub struct Half {
    pub orders_per_s: f64,
    pub ack_p50_ms: f64,
    pub ack_p99_ms: f64,
    pub ack_p999_ms: f64,
    /// From the answer until every delivery was done.
    pub done_p50_ms: f64,
    pub done_p99_ms: f64,
    /// Orders that were followed.
    pub followed: usize,
}

#[derive(Deserialize)]
struct Order {
    id: String,
    #[serde(default)]
    deliveries: Vec<Delivery>,
}

#[derive(Deserialize)]
struct Delivery {
    state: String,
}

pub async fn measure(
    mode: &Mode,
    address: SocketAddr,
    workload: &Arc<Workload>,
    tickets: &Arc<Tickets>,
    arguments: &Arguments,
    rate: f64,
) -> Result<Half> {
    let duration = Duration::from_secs(arguments.seconds);
    let until = Instant::now() + duration;
    let deliveries = mode.consumers.iter().map(|(_, deliveries)| deliveries).sum();
    let mut probes = JoinSet::new();
    for place in 0..PROBES {
        let probe = Probe {
            address,
            connection: Connection::open(address).await?,
            workload: Arc::clone(workload),
            tickets: Arc::clone(tickets),
            deliveries,
        };
        probes.spawn(probe.follow(Duration::from_secs(1) * place / PROBES_PER_S, until));
    }
    let pace = Pace::PerSecond((rate - f64::from(PROBES_PER_S)).max(1.0));
    let load = Load::run(address, workload, tickets, arguments.connections, pace, duration).await?;
    let mut done_us = Vec::new();
    while let Some(probe) = probes.join_next().await {
        done_us.extend(probe??);
    }
    ensure!(!done_us.is_empty(), "no order was followed");
    done_us.sort_unstable();
    Ok(Half {
        orders_per_s: load::count(load.orders + done_us.len() as u64) / load.duration.as_secs_f64(),
        ack_p50_ms: load.answered_within_ms(0.5),
        ack_p99_ms: load.answered_within_ms(0.99),
        ack_p999_ms: load.answered_within_ms(0.999),
        done_p50_ms: within_ms(&done_us, 0.5),
        done_p99_ms: within_ms(&done_us, 0.99),
        followed: done_us.len(),
    })
}

/// Submits orders one after another, and follows each.
struct Probe {
    address: SocketAddr,
    connection: Connection,
    workload: Arc<Workload>,
    tickets: Arc<Tickets>,
    deliveries: u64,
}

impl Probe {
    /// Returns how long each order took from its answer until it was done, in microseconds.
    async fn follow(mut self, delay: Duration, until: Instant) -> Result<Vec<u32>> {
        let begin = tokio::time::Instant::now() + delay;
        let mut ticks = tokio::time::interval_at(begin, Duration::from_secs(1) * PROBES / PROBES_PER_S);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut done_us, mut request) = (Vec::new(), Vec::new());
        while ticks.tick().await.into_std() < until {
            let answer = load::place(&mut self.connection, &self.workload, self.tickets.take(), &mut request).await?;
            let answered = Instant::now();
            let Order { id, .. } = serde_json::from_slice(answer).context("the answer is no order")?;
            let look = format!("GET /v1/orders/{id} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
            while !self.is_done(&look).await? {
                let waited = answered.elapsed();
                ensure!(waited < DONE_TIME_MAX, "order {id} is not done after {waited:?}");
                tokio::time::sleep(LOOK_EVERY).await;
            }
            done_us.push(micros(answered.elapsed()));
        }
        Ok(done_us)
    }

    async fn is_done(&mut self, look: &str) -> Result<bool> {
        let answer = self.connection.exchange(look.as_bytes()).await?;
        ensure!(answer.status == 200, "{look} was answered {}", answer.status);
        let Order { deliveries, .. } = serde_json::from_slice(answer.body).context("the answer is no order")?;
        let done = deliveries.iter().filter(|delivery| delivery.state == "done").count();
        Ok(done as u64 == self.deliveries)
    }
}
