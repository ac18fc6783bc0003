//! Shops that place order after order, and ask again whenever an answer did not come.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::goods::{self, RECEIVED_EVERY, Sold};
use crate::orders;
use crate::{Answer, Client, json};

/// A host that is there and did not answer is asked again after this.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// One order in so many is cancelled as soon as it is placed.
const CANCELLED_EVERY: u64 = 10;
/// One order in so many is given up when its answer does not come: it may be there or not.
const GIVEN_UP_EVERY: u64 = 4;

/// What the shops know of their orders.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// By reference.
    pub sales: BTreeMap<String, Sale>,
    /// Units of each SKU that the host took into stock.
    pub received: BTreeMap<&'static str, i64>,
}

impl Ledger {
    /// Units that are asked for in orders which may exist.
    #[must_use]
    pub fn asked_for(&self, sku: &str) -> i64 {
        self.sales.values().filter_map(|sale| sale.sold.units.get(sku)).sum()
    }
}

#[derive(Clone, Debug)]
pub struct Sale {
    pub sold: Sold,
    /// The id of the order, if the host ever told it.
    pub id: Option<String>,
    /// The host said that it is cancelled.
    pub cancelled: bool,
}

pub struct Shops {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Those that serve: each try goes to the next of them.
    clients: Vec<Client>,
    tries: usize,
    /// Raised with each host.
    generation: u64,
    /// One order in so many is for what is scarce; 0 for none.
    scarce_every: u64,
    next: u64,
    /// Orders with numbers from here on are not placed yet.
    limit: u64,
    stopping: bool,
    ledger: Ledger,
}

impl Shops {
    /// Opens so many shops; they wait for a host and for orders that they may place.
    #[must_use]
    pub fn open(shops: usize) -> Self {
        Self::open_with_scarce_goods(shops, 0)
    }

    /// [`Shops::open`], where one order in so many is for [`goods::SCARCE`].
    #[must_use]
    pub fn open_with_scarce_goods(shops: usize, scarce_every: u64) -> Self {
        let state = State { scarce_every, ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let shop = |_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.sell())
        };
        let threads = (0..shops).map(shop).collect();
        Self { shared, threads }
    }

    /// The host that serves from now on.
    pub fn serve_by(&self, client: Client) {
        self.serve_by_all(vec![client]);
    }

    /// The hosts that serve from now on, in turn: what one does not answer, the next is asked again.
    pub fn serve_by_all(&self, clients: Vec<Client>) {
        let mut state = self.shared.state();
        state.clients = clients;
        state.generation += 1;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Lets the shops place so many orders more.
    pub fn allow(&self, orders: u64) {
        let mut state = self.shared.state();
        state.limit = state.limit.max(state.next).saturating_add(orders);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Notes goods that were taken into stock otherwise than by the shops.
    pub fn received(&self, sku: &'static str, units: i64) {
        *self.shared.state().ledger.received.entry(sku).or_default() += units;
    }

    /// Units that were asked for until now.
    #[must_use]
    pub fn asked_for(&self, sku: &str) -> i64 {
        self.shared.state().ledger.asked_for(sku)
    }

    /// Lets the shops place no more orders for now.
    pub fn hold(&self) {
        self.shared.state().limit = 0;
    }

    /// Closes the shops once each has its last answer.
    ///
    /// # Panics
    /// If a shop did.
    #[must_use]
    pub fn close(mut self) -> Ledger {
        self.shared.state().stopping = true;
        self.shared.changed.notify_all();
        for shop in self.threads.drain(..) {
            shop.join().expect("a shop");
        }
        self.shared.state().ledger.clone()
    }
}

/// A test that fails leaves its shops behind; they end by themselves.
impl Drop for Shops {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.stopping = true;
        state.clients.clear();
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn sell(&self) {
        while let Some((number, scarce)) = self.next() {
            let (sold, body) = if scarce { goods::scarce_order(number) } else { goods::order(number) };
            let reference = sold.reference.clone();
            let sale = Sale { sold, id: None, cancelled: false };
            self.state().ledger.sales.insert(reference.clone(), sale);
            let key = format!("key-{number}");
            let given_up = number.is_multiple_of(GIVEN_UP_EVERY);
            let headers = [("Idempotency-Key", key.as_str())];
            let Some(placed) = self.ask("/v1/orders", &headers, &body.to_string(), given_up) else { continue };
            let id = placed.expect(201).id();
            self.note(&reference, |sale| sale.id = Some(id.clone()));
            if number % CANCELLED_EVERY == 3 && !scarce {
                self.cancel(&reference, &id);
            }
            if number.is_multiple_of(RECEIVED_EVERY) {
                self.receive(number);
            }
        }
    }

    /// Waits until another order may be placed: its number, and whether it is for what is scarce. `None` when the shops close.
    fn next(&self) -> Option<(u64, bool)> {
        let mut state = self.state();
        while !state.stopping && state.next >= state.limit {
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        if state.stopping {
            return None;
        }
        let number = state.next;
        state.next += 1;
        Some((number, state.scarce_every > 0 && number.is_multiple_of(state.scarce_every)))
    }

    fn cancel(&self, reference: &str, id: &str) {
        let body = json!({"reason": "changed my mind"}).to_string();
        let Some(answer) = self.ask(&format!("/v1/orders/{id}/cancel"), &[], &body, false) else { return };
        // 409 says that it was shipped before, or that an earlier try got through.
        if answer.status == 200 {
            self.note(reference, |sale| sale.cancelled = true);
        } else {
            drop(answer.problem(409));
        }
    }

    fn receive(&self, number: u64) {
        let (sku, units) = goods::received(number);
        let event = orders::received(&format!("received-{number}"), sku, u32::try_from(units).unwrap_or(0));
        let headers = [("Content-Type", "application/cloudevents+json")];
        if let Some(answer) = self.ask("/v1/events", &headers, &event.to_string(), false) {
            assert!(answer.status.is_success(), "{answer:#?}");
            *self.state().ledger.received.entry(sku).or_default() += units;
        }
    }

    fn note(&self, reference: &str, change: impl FnOnce(&mut Sale)) {
        if let Some(sale) = self.state().ledger.sales.get_mut(reference) {
            change(sale);
        }
    }

    /// Asks whichever host serves until one answers; once only where `give_up` says so, and never 503 for an answer.
    fn ask(&self, path: &str, headers: &[(&str, &str)], body: &str, give_up: bool) -> Option<Answer> {
        loop {
            let (client, generation) = self.client()?;
            match client.try_post(path, headers, body.as_bytes()) {
                Ok(answer) if answer.status != 503 => return Some(answer),
                _ if give_up => return None,
                _ => self.wait_for_another(generation),
            }
        }
    }

    /// A host that serves; `None` when the test is over without one.
    fn client(&self) -> Option<(Client, u64)> {
        let mut state = self.state();
        loop {
            state.tries = state.tries.wrapping_add(1);
            if let Some(client) = state.clients.get(state.tries % state.clients.len().max(1)) {
                return Some((client.clone(), state.generation));
            }
            if state.stopping {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    fn wait_for_another(&self, generation: u64) {
        let state = self.state();
        let same = |state: &mut State| state.generation == generation;
        drop(self.changed.wait_timeout_while(state, ASK_AGAIN_AFTER, same));
    }
}
