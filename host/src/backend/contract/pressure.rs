//! Many handlers at once, and many things that happen between them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::{Place, inbox, name, place, policy, ran, settled};
use crate::backend::{Delivery, Finished, Inbox, InboxPolicy, Settlement, StateQuery};
use crate::effects::{Adjustment, Effects, Reads};

const HANDLERS: u32 = 64;
/// Fewer than the handlers, so that some of those that saw it must be refused.
const STOCK: i64 = 40;
const ORDERS: u64 = 600;

/// Handlers of one SKU, and what they meet.
struct Handlers {
    runtime: Handle,
    inbox: Arc<dyn Inbox>,
    /// Where each waits in its first handling, having seen the stock, until all have.
    all: Barrier,
    left: AtomicU64,
    conflicts: AtomicU64,
}

impl Handlers {
    fn run(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut met = false;
        while self.left.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < deadline, "{} left", self.left.load(Ordering::SeqCst));
            match self.inbox.lease() {
                Some(delivery) => {
                    self.handle(delivery, || {
                        if !std::mem::replace(&mut met, true) {
                            self.all.wait();
                        }
                    });
                    self.left.fetch_sub(1, Ordering::SeqCst);
                }
                None => std::thread::yield_now(),
            }
        }
    }

    /// Takes one unit, or notes that there was none, as inventory does: a conflict is handled again.
    fn handle(&self, mut delivery: Delivery, mut between: impl FnMut()) {
        loop {
            let stock = self.runtime.block_on(self.inbox.view().count("stock")).unwrap();
            between();
            let (take, reads) = if stock > 0 {
                (Adjustment { key: "stock".into(), by: -1, floor: Some(0) }, Reads::default())
            } else {
                // That it was short must hold.
                let reads = Reads { counters: vec![("stock".into(), stock)], ..Reads::default() };
                (Adjustment { key: "short".into(), by: 1, floor: None }, reads)
            };
            let handled = Adjustment { key: if stock > 0 { "taken" } else { "refused" }.into(), by: 1, floor: None };
            let effects = Effects { adjustments: vec![take, handled], ..Effects::default() };
            let settlement = Settlement::Done { effects, ran: ran() };
            match self.runtime.block_on(self.inbox.finish(delivery, &reads, settlement)) {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_floor_is_crossed_by_64_handlers_of_one_sku() {
    let home = Place::new();
    let backend = home.open();
    for _ in 0..ORDERS {
        place(&backend).await;
    }
    let deliveries = inbox(&backend, "alpha").await;
    deliveries.configure(InboxPolicy { concurrency: HANDLERS, ..policy() });
    let first = deliveries.lease().unwrap();
    let stock = Adjustment { key: "stock".into(), by: STOCK, floor: None };
    let effects = Effects { adjustments: vec![stock], ..Effects::default() };
    let finished = deliveries.finish(first, &Reads::default(), Settlement::Done { effects, ran: ran() }).await;
    assert!(matches!(finished, Finished::Accepted));

    let handlers = Handlers {
        runtime: Handle::current(),
        inbox: deliveries,
        all: Barrier::new(usize::try_from(HANDLERS).unwrap()),
        left: AtomicU64::new(ORDERS - 1),
        conflicts: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        for _ in 0..HANDLERS {
            scope.spawn(|| handlers.run());
        }
    });

    let report = settled(&backend, "alpha").await;
    assert_eq!((report.pending, report.done), (0, ORDERS));
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
