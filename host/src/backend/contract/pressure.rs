//! Many handlers at once, and many things that happen between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::wait::Deadline;
use super::{Place, accept, done, inbox, lease, name, place, policy, report_when};
use crate::backend::{Delivery, Finished, Inbox, InboxPolicy, StateQuery};
use crate::effects::{Adjustment, Effects, Reads};

const HANDLERS: u32 = 64;
/// Fewer than the handlers, so that some of those that saw it must be refused.
const STOCK: i64 = 40;
const ORDERS: u64 = 600;

/// Handlers of one SKU, and what they meet.
struct Handlers {
    inbox: Arc<dyn Inbox>,
    /// Where each waits in its first handling, having seen the stock, until all have.
    all: Barrier,
    left: AtomicU64,
    conflicts: AtomicU64,
}

impl Handlers {
    async fn run(self: Arc<Self>) {
        let (mut deadline, mut met) = (Deadline::new(), false);
        while self.left.load(Ordering::SeqCst) > 0 {
            match self.inbox.lease() {
                Some(delivery) => {
                    self.handle(delivery, &mut met).await;
                    self.left.fetch_sub(1, Ordering::SeqCst);
                    deadline = Deadline::new();
                }
                None => deadline.pause(&self.left).await,
            }
        }
    }

    /// Takes one unit, or notes that there was none, as inventory does: a conflict is handled again.
    async fn handle(&self, mut delivery: Delivery, met: &mut bool) {
        loop {
            let stock = self.inbox.view().count("stock").await.unwrap();
            if !std::mem::replace(met, true) {
                self.all.wait().await;
            }
            let (take, reads) = if stock > 0 {
                (Adjustment { key: "stock".into(), by: -1, floor: Some(0) }, Reads::default())
            } else {
                // That it was short must hold.
                let reads = Reads { counters: vec![("stock".into(), stock)], ..Reads::default() };
                (Adjustment { key: "short".into(), by: 1, floor: None }, reads)
            };
            let handled = Adjustment { key: if stock > 0 { "taken" } else { "refused" }.into(), by: 1, floor: None };
            let effects = Effects { adjustments: vec![take, handled], ..Effects::default() };
            match self.inbox.finish(delivery, &reads, done(effects)).await {
                Finished::Accepted => return,
                Finished::Conflict(again) => {
                    self.conflicts.fetch_add(1, Ordering::SeqCst);
                    delivery = again;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn no_floor_is_crossed_by_64_handlers_of_one_sku(home: Place) {
    let backend = home.open().await;
    for _ in 0..ORDERS {
        place(&backend).await;
    }
    let deliveries = inbox(&backend, "alpha").await;
    deliveries.configure(InboxPolicy { concurrency: HANDLERS, ..policy() });
    let stock = Adjustment { key: "stock".into(), by: STOCK, floor: None };
    let effects = Effects { adjustments: vec![stock], ..Effects::default() };
    accept(&deliveries, lease(&deliveries).await, done(effects)).await;

    let handlers = Arc::new(Handlers {
        inbox: deliveries,
        all: Barrier::new(usize::try_from(HANDLERS).unwrap()),
        left: AtomicU64::new(ORDERS - 1),
        conflicts: AtomicU64::new(0),
    });
    let mut running = JoinSet::new();
    for _ in 0..HANDLERS {
        running.spawn(Arc::clone(&handlers).run());
    }
    running.join_all().await;

    report_when(&backend, "alpha", |it| (it.pending, it.done) == (0, ORDERS)).await;
    let query = StateQuery { limit: 10, ..StateQuery::default() };
    let counters = backend.consumers.state(&name("alpha"), query).await.unwrap().counters;
    let expected = [
        ("refused", i64::try_from(ORDERS).unwrap() - 1 - STOCK),
        ("short", i64::try_from(ORDERS).unwrap() - 1 - STOCK),
        ("stock", 0),
        ("taken", STOCK),
    ];
    assert_eq!(counters, expected.map(|(key, value)| (key.to_owned(), value)));
    // Each handler saw the whole stock before anybody took of it.
    let refused = u64::from(HANDLERS) - u64::try_from(STOCK).unwrap();
    let conflicts = handlers.conflicts.load(Ordering::SeqCst);
    assert!(conflicts >= refused, "{conflicts} conflicts");
}

claims! {
    no_floor_is_crossed_by_64_handlers_of_one_sku on [embedded, aws, standard],
}
