//! Swaps a consumer's plugin again and again under load, by files renamed into the directory, and checks that every event was
//! handled once and in turn, that no request failed and that the memory of the host does not grow.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::crash::goods::Dice;
use crate::mutants::stamped;
use crate::orders::order;
use crate::{TestHost, guests, within};

/// Files of different hashes that are swapped for one another.
pub const FILES: u64 = 128;
const SHOPS: usize = 4;
/// Longer than any swap may take.
const SWAP_TIME_MAX: Duration = Duration::from_secs(30);
/// The newest events are in memory, and what was written last of a consumer's state, which is a key for each order here and two
/// events: only when it is full of both, memory says something about swaps. What is kept is forgotten a generation at a time, so
/// that memory falls and rises again without any swap; the most that it came to is what the end is held against.
const WARM_UP_EVENTS: usize = 140_000;
/// After so many swaps every file was there once.
const FIRST: u32 = 100;
const CONSUMER: &str = "lanes";

#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub swaps: u32,
    pub seed: u64,
    /// Fill what is filled by events alone first, so that memory is measured.
    pub warm_up: bool,
}

/// What a run did.
#[derive(Debug)]
pub struct Report {
    pub swaps: u32,
    pub hashes: usize,
    pub orders: usize,
    /// From the rename until the version of that file is live, of files that were never there before.
    pub uncached: Times,
    pub cached: Times,
    /// Resident memory of the host, in KiB: the most until after the first 100 swaps, and at the end.
    pub memory_first_kib: u64,
    pub memory_last_kib: u64,
    pub took: Duration,
}

#[derive(Debug, Default)]
pub struct Times {
    pub count: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// Shops that place an order, cancel it, and remember it.
struct Shops {
    stop: Arc<AtomicBool>,
    running: Vec<thread::JoinHandle<Result<Vec<String>, String>>>,
}

impl Run {
    /// # Errors
    /// What was lost, repeated or reordered, and requests that failed.
    ///
    /// # Panics
    /// If a version does not come to run.
    pub fn run(self, mut progress: impl FnMut(u32)) -> Result<Report, String> {
        let begin = Instant::now();
        let mut host = TestHost::new();
        let good = guests::wasm(CONSUMER);
        host.consumers.set_policy(CONSUMER, &guests::side_file(CONSUMER).expect("lanes.toml"));
        host.consumers.put(CONSUMER, &stamped(&good, 0));
        host.variable("FANFARE_LOG_LEVEL", "error").leave_deliveries().start();
        let client = host.client();
        let mut orders = Vec::new();
        let most_kib = Cell::new(0);
        let look = || most_kib.set(host.resident_kib().max(most_kib.get()));
        if self.warm_up {
            let shops = Shops::open(&client, Duration::ZERO);
            client.wait_for_consumer_within(Duration::from_secs(600), CONSUMER, |consumer| {
                look();
                consumer["done"].as_u64() >= Some(WARM_UP_EVENTS as u64)
            });
            orders = shops.close()?;
        }
        let shops = Shops::open(&client, Duration::from_millis(5));
        let mut files =
            Files { host: &host, client: &client, good: &good, hashes: BTreeMap::new(), last: hash(&client) };
        let mut dice = Dice::new(self.seed);
        let (mut uncached, mut cached) = (Vec::new(), Vec::new());
        for swap in 0..self.swaps {
            // Each file once, and then any but the one that runs.
            let number = if u64::from(swap) < FILES { u64::from(swap) + 1 } else { 1 + dice.below(FILES) };
            match files.swap(number) {
                Some((took, true)) => uncached.push(took),
                Some((took, false)) => cached.push(took),
                None => {}
            }
            if swap < FIRST {
                look();
            }
            progress(swap + 1);
        }
        let memory_last_kib = host.resident_kib();
        let hashes = files.hashes.len();
        orders.extend(shops.close()?);
        client.wait_for_consumer_within(Duration::from_secs(300), CONSUMER, |consumer| consumer["pending"] == 0);
        check(&client, &orders)?;
        Ok(Report {
            swaps: self.swaps,
            hashes,
            orders: orders.len(),
            uncached: Times::of(uncached),
            cached: Times::of(cached),
            memory_first_kib: most_kib.get(),
            memory_last_kib,
            took: begin.elapsed(),
        })
    }
}

struct Files<'a> {
    host: &'a TestHost,
    client: &'a Client,
    good: &'a [u8],
    /// The hash of each file that was there.
    hashes: BTreeMap<u64, String>,
    last: String,
}

impl Files<'_> {
    /// How long it took until file `number` ran, and whether it was never there before; `None` if it runs already.
    fn swap(&mut self, number: u64) -> Option<(Duration, bool)> {
        let wanted = self.hashes.get(&number).cloned();
        if wanted.as_ref() == Some(&self.last) {
            return None;
        }
        let bytes = stamped(self.good, number);
        let begin = Instant::now();
        self.host.consumers.put(CONSUMER, &bytes);
        let hash = within(SWAP_TIME_MAX, "the new version runs", || {
            let hash = hash(self.client);
            let is = wanted.as_ref().map_or(hash != self.last, |wanted| *wanted == hash);
            if is { Ok(hash) } else { Err(format!("{hash} runs, and not {wanted:?}")) }
        });
        let took = begin.elapsed();
        self.hashes.insert(number, hash.clone());
        self.last = hash;
        Some((took, wanted.is_none()))
    }
}

/// Of the version that runs.
fn hash(client: &Client) -> String {
    let consumer = client.get(&format!("/v1/consumers/{CONSUMER}")).expect(200).json();
    consumer["hash"].as_str().unwrap_or_default().to_owned()
}

impl Shops {
    fn open(client: &Client, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let shop = |_| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            thread::spawn(move || sell(&client, &stop, pause))
        };
        let running = (0..SHOPS).map(shop).collect();
        Self { stop, running }
    }

    /// The orders that were placed and cancelled.
    fn close(mut self) -> Result<Vec<String>, String> {
        self.stop.store(true, Ordering::SeqCst);
        let mut orders = Vec::new();
        for shop in self.running.drain(..) {
            orders.extend(shop.join().expect("a shop")?);
        }
        Ok(orders)
    }
}

/// Dropped, the shops stop by themselves.
impl Drop for Shops {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn sell(client: &Client, stop: &AtomicBool, pause: Duration) -> Result<Vec<String>, String> {
    let order = order(&[("TEA", 1)]).to_string();
    let post = |path: &str, body: &str, status: u16| {
        let answer = client.try_post(path, &[], body.as_bytes()).map_err(|error| format!("{path}: {error}"))?;
        if answer.status == status { Ok(answer) } else { Err(format!("{path}: {answer:#?}")) }
    };
    let mut ids = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let id = post("/v1/orders", &order, 201)?.id();
        post(&format!("/v1/orders/{id}/cancel"), r#"{"reason":"swapped"}"#, 200)?;
        ids.push(id);
        // Not to wait for something: it is how often a shop sells.
        thread::sleep(pause);
    }
    Ok(ids)
}

/// Each order was heard of twice, in turn.
fn check(client: &Client, orders: &[String]) -> Result<(), String> {
    let lanes = client.entries(CONSUMER, "lane/");
    let lanes: BTreeMap<&str, &str> =
        lanes.iter().filter_map(|entry| Some((entry["key"].as_str()?, entry["value"].as_str()?))).collect();
    let wrong: Vec<String> = orders
        .iter()
        .filter_map(|id| match lanes.get(format!("lane/{id}").as_str()) {
            Some(&"1 2") => None,
            heard => Some(format!("{id}: {heard:?}")),
        })
        .collect();
    let handled = usize::try_from(client.counter(CONSUMER, "handled")).unwrap_or(0);
    if wrong.is_empty() && handled == 2 * orders.len() && lanes.len() == orders.len() {
        return Ok(());
    }
    let shown = wrong.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    Err(format!("{} of {} lanes are not `1 2`, {handled} events handled:\n{shown}", wrong.len(), orders.len()))
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |permille: usize| {
            let index = (times.len() * permille / 1_000).min(times.len().saturating_sub(1));
            times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Self { count: times.len(), p50_ms: at(500), p99_ms: at(990), max_ms: at(1_000) }
    }
}
