//! Many handlers at once, and many things that happen between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::{Place, inbox, name, place, policy, ran, settled};
use crate::backend::{Finished, Inbox, InboxPolicy, Settlement, StateQuery};
use crate::effects::{Adjustment, Effects, Reads};

const HANDLERS: u32 = 64;
const STOCK: i64 = 300;
const ORDERS: u64 = 600;

/// What the handlers of one SKU met.
#[derive(Default)]
struct Met {
    conflicts: AtomicU64,
    at_once: AtomicU64,
    at_once_most: AtomicU64,
}

/// Takes one unit, or notes that there was none, as inventory does: a conflict is handled again.
fn handle_one(runtime: &Handle, inbox: &dyn Inbox, met: &Met) -> bool {
    let Some(mut delivery) = inbox.lease() else { return false };
    let running = met.at_once.fetch_add(1, Ordering::SeqCst) + 1;
    met.at_once_most.fetch_max(running, Ordering::SeqCst);
    loop {
        let view = inbox.view();
        let stock = runtime.block_on(view.count("stock")).unwrap();
        // Others get their turn between what was seen and what is done.
        std::thread::yield_now();
        let (take, reads) = match stock > 0 {
            true => (Adjustment { key: "stock".into(), by: -1, floor: Some(0) }, Reads::default()),
            // That it was short must hold.
            false => {
                let reads = Reads { counters: vec![("stock".into(), stock)], ..Reads::default() };
                (Adjustment { key: "short".into(), by: 1, floor: None }, reads)
            }
        };
        let handled = Adjustment { key: if stock > 0 { "taken" } else { "refused" }.into(), by: 1, floor: None };
        let effects = Effects { adjustments: vec![take, handled], ..Effects::default() };
        match inbox.finish(delivery, &reads, Settlement::Done { effects, ran: ran() }) {
            Finished::Accepted => break,
            Finished::Conflict(again) => {
                met.conflicts.fetch_add(1, Ordering::SeqCst);
                delivery = again;
            }
            other => panic!("{other:?}"),
        }
    }
    met.at_once.fetch_sub(1, Ordering::SeqCst);
    true
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
    let finished = deliveries.finish(first, &Reads::default(), Settlement::Done { effects, ran: ran() });
    assert!(matches!(finished, Finished::Accepted));

    let met = Arc::new(Met::default());
    let left = Arc::new(AtomicU64::new(ORDERS - 1));
    let deadline = Instant::now() + Duration::from_secs(60);
    std::thread::scope(|scope| {
        for _ in 0..HANDLERS {
            let runtime = Handle::current();
            let (deliveries, met, left) = (Arc::clone(&deliveries), Arc::clone(&met), Arc::clone(&left));
            scope.spawn(move || {
                while left.load(Ordering::SeqCst) > 0 {
                    assert!(Instant::now() < deadline, "{} left", left.load(Ordering::SeqCst));
                    if handle_one(&runtime, &*deliveries, &met) {
                        left.fetch_sub(1, Ordering::SeqCst);
                    } else {
                        std::thread::yield_now();
                    }
                }
            });
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
    let (most, conflicts) = (met.at_once_most.load(Ordering::SeqCst), met.conflicts.load(Ordering::SeqCst));
    assert!(most > 8 && conflicts > 0, "{most} at once, {conflicts} conflicts");
}
