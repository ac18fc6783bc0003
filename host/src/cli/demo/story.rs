//! What happens in the demo, in order, all of it over HTTP.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::{Value, json};

use super::gather::pages;
use super::plan::{Plan, Planned};
use super::say;
use crate::cli::Failure;
use crate::cli::client::{Client, Payload, escaped};
use crate::cli::events::publish_all;
use crate::cli::print::{Output, grouped, items, text};

/// Requests at the same time: enough to keep one committer busy, few beside the consumers on a small machine.
const CONNECTIONS: usize = 16;
/// Of the shipped orders, delivered at the end.
const DELIVERED_MAX: usize = 50;
const POLL_EVERY: Duration = Duration::from_millis(50);
/// Consumers that make no progress for this long make none at all.
const STALLED_AFTER: Duration = Duration::from_secs(60);
const READY_TIME_MAX: Duration = Duration::from_secs(60);

pub(super) struct Story<'a> {
    pub client: &'a Client,
    pub plan: &'a Plan,
    pub output: &'a Output,
    pub progress: bool,
}

/// How placing went.
#[derive(Debug, Default)]
pub(super) struct Placing {
    pub placed: usize,
    pub cancelled: usize,
    /// Cancellations that came after the parcel had left.
    pub too_late: usize,
    pub delivered: usize,
    pub took: Duration,
    /// From the first order until every consumer was done.
    pub done_after: Duration,
    /// Of each order, sorted.
    pub answer_times: Vec<Duration>,
}

impl Story<'_> {
    pub fn tell(&self, consumers_dir: &Path) -> Result<Placing, Failure> {
        self.wait_until_ready(consumers_dir)?;
        let events = self.plan.stock_events();
        publish_all(self.client, &events)?;
        self.wait_until_idle()?;
        let units: u64 = self.plan.stock.values().sum();
        let units = grouped(i64::try_from(units).unwrap_or(i64::MAX));
        say(self.output, "stock", &format!("{} events load {units} units", events.len()));

        let began = Instant::now();
        let mut placing = self.place_all()?;
        placing.took = began.elapsed();
        let per_second = placing.placed as f64 / placing.took.as_secs_f64();
        let Placing { placed, cancelled, too_late, .. } = placing;
        say(
            self.output,
            "orders",
            &format!("{placed} placed, {per_second:.0} a second; {cancelled} cancelled, {too_late} cancelled too late"),
        );
        self.wait_until_idle()?;
        placing.done_after = began.elapsed();
        say(
            self.output,
            "consumers",
            &format!("all done {:.1} s after the first order", placing.done_after.as_secs_f64()),
        );

        placing.delivered = self.deliver_some()?;
        say(self.output, "delivered", &format!("{} parcels arrive", placing.delivered));
        self.wait_until_idle()?;
        self.wait_until_sent()?;
        Ok(placing)
    }

    fn wait_until_ready(&self, consumers_dir: &Path) -> Result<(), Failure> {
        let deadline = Instant::now() + READY_TIME_MAX;
        loop {
            let list = self.client.get("/v1/consumers", &[])?;
            let consumers = items(&list, "/consumers");
            let waiting = consumers.iter().find(|consumer| text(consumer, "/state") == "loading");
            match waiting {
                None if consumers.iter().any(|consumer| text(consumer, "/name") == "inventory") => break,
                None => {
                    return Err(Failure::Usage(format!(
                        "there is no inventory.wasm in {}: `cargo xtask demo` builds the five consumers, or name their \
                         folder with --consumers-dir",
                        consumers_dir.display()
                    )));
                }
                Some(consumer) if Instant::now() > deadline => {
                    return Err(Failure::Failed(format!("{} does not start", text(consumer, "/name"))));
                }
                Some(_) => thread::sleep(POLL_EVERY),
            }
        }
        let list = self.client.get("/v1/consumers", &[])?;
        for consumer in items(&list, "/consumers") {
            let [name, state, version, reason] =
                ["/name", "/state", "/version", "/reason"].map(|path| text(consumer, path));
            say(self.output, &name, format!("{state} {version} {reason}").trim());
            if state != "running" {
                return Err(Failure::Failed(format!("{name} is {state}: {reason}")));
            }
        }
        Ok(())
    }

    fn place_all(&self) -> Result<Placing, Failure> {
        let orders = &self.plan.orders;
        let target = if self.progress { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(orders.len() as u64), target);
        let next = AtomicUsize::new(0);
        let total = Mutex::new(Placing::default());
        let work = || {
            let mut mine = Placing::default();
            while let Some(order) = orders.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(failure) = self.place(order, &mut mine) {
                    // Nobody else begins another order.
                    next.store(orders.len(), Ordering::Relaxed);
                    return Err(failure);
                }
                bar.inc(1);
            }
            let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            total.placed += mine.placed;
            total.cancelled += mine.cancelled;
            total.too_late += mine.too_late;
            total.answer_times.append(&mut mine.answer_times);
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(work)).collect();
            let broke = |_| Err(Failure::Failed("placing orders broke down".to_owned()));
            workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(broke))
        })?;
        bar.finish_and_clear();
        let mut total = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        total.answer_times.sort_unstable();
        Ok(total)
    }

    fn place(&self, order: &Planned, placing: &mut Placing) -> Result<(), Failure> {
        let body = order.body.to_string();
        let payload = Payload { idempotency_key: Some(&order.reference), ..Payload::json(body.as_bytes()) };
        let began = Instant::now();
        let placed = self.client.post("/v1/orders", payload)?;
        placing.answer_times.push(began.elapsed());
        placing.placed += 1;
        let Some(reason) = order.cancel else { return Ok(()) };
        let path = format!("/v1/orders/{}/cancel", escaped(&text(&placed, "/id")));
        match self.client.post(&path, Payload::json(json!({ "reason": reason }).to_string().as_bytes())) {
            Ok(_) => placing.cancelled += 1,
            Err(Failure::Refused(problem)) if problem.status == 409 => placing.too_late += 1,
            Err(other) => return Err(other),
        }
        Ok(())
    }

    fn deliver_some(&self) -> Result<usize, Failure> {
        let limit = DELIVERED_MAX.to_string();
        let page = self.client.get("/v1/orders", &[("status", "shipped"), ("limit", &limit)])?;
        for order in items(&page, "/orders") {
            let path = format!("/v1/orders/{}/deliver", escaped(&text(order, "/id")));
            self.client.post(&path, Payload::json(b"{}"))?;
        }
        Ok(items(&page, "/orders").len())
    }

    /// Until no consumer has an event left, two looks in a row: one look at several consumers is not one instant.
    fn wait_until_idle(&self) -> Result<(), Failure> {
        let mut idle_looks = 0;
        let mut last_change = (Instant::now(), 0);
        while idle_looks < 2 {
            let list = self.client.get("/v1/consumers", &[])?;
            let sum = |path| items(&list, "/consumers").iter().filter_map(|c| c.pointer(path)?.as_u64()).sum::<u64>();
            let (pending, dead) = (sum("/pending"), sum("/dead"));
            if dead > 0 {
                return Err(Failure::Failed(dead_letters(&list)));
            }
            idle_looks = if pending == 0 { idle_looks + 1 } else { 0 };
            if pending != last_change.1 {
                last_change = (Instant::now(), pending);
            }
            if last_change.0.elapsed() > STALLED_AFTER && pending > 0 {
                return Err(Failure::Failed(format!("{pending} events stay pending; see `fanfare consumers list`")));
            }
            thread::sleep(POLL_EVERY);
        }
        Ok(())
    }

    fn wait_until_sent(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + STALLED_AFTER;
        // The oldest go first, so that the newest are the last to be pending.
        while pages(self.client, "/v1/messages", &[("limit", "100")], "/messages", 1)?
            .iter()
            .any(|message| text(message, "/state") == "pending")
        {
            if Instant::now() > deadline {
                return Err(Failure::Failed("messages stay pending; is mail turned off?".to_owned()));
            }
            thread::sleep(POLL_EVERY);
        }
        Ok(())
    }
}

fn dead_letters(list: &Value) -> String {
    let dead = |consumer: &&Value| consumer.get("dead").and_then(Value::as_u64).unwrap_or(0) > 0;
    let names: Vec<_> = items(list, "/consumers").iter().filter(dead).map(|consumer| text(consumer, "/name")).collect();
    format!("there are dead letters of {}; see `fanfare dead-letters list`", names.join(", "))
}
