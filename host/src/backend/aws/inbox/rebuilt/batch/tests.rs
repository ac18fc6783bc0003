//! Against emulators: what is staged, when it is in the table, and what becomes of it where its write is refused.

use std::sync::Arc;

use super::super::Progress;
use super::fixture::{REBUILD, again};
use super::{BatchView, Batches};
use crate::backend::aws::fixture::alpha;
use crate::backend::aws::inbox::{AwsView, shop};
use crate::backend::aws::item::{Item, Key, bytes, number, text};
use crate::backend::aws::settle::{Committer, Settled};
use crate::backend::aws::store::Store;
use crate::backend::aws::table::{Change, Transaction};
use crate::backend::{Backend, View};
use crate::effects::{Adjustment, Effects, Reads};

struct Rebuild {
    backend: Backend,
    store: Arc<Store>,
    batches: Arc<Batches>,
}

impl Rebuild {
    async fn begin() -> Self {
        let (backend, store) = shop().await;
        let item = Item::at(&Key::backfill(&alpha(), REBUILD)).with("sta", text("running")).with("own", text("me"));
        let item = ["cur", "dl", "dx", "evs"].into_iter().fold(item, |item, name| item.with(name, number(0)));
        let mut transaction = Transaction::default();
        transaction.put((), item);
        assert!(store.table.transact(transaction).await.unwrap().is_ok());
        let batches = Batches::new(&store, &Committer::new(&store), &alpha());
        batches.begin("me").await;
        Self { backend, store, batches }
    }

    fn view(&self) -> BatchView {
        let table = AwsView::new(&self.store, &alpha(), REBUILD);
        BatchView { batches: Arc::clone(&self.batches), table, owner: Some("me".to_owned()) }
    }

    /// Handles the event at a position, which is the next: it writes down what it saw, and counts itself.
    async fn handle(&self, position: u64) -> Settled {
        let view = self.view();
        let before = view.get("trail").await.unwrap();
        let mut trail = before.as_deref().unwrap_or_default().to_vec();
        trail.push(u8::try_from(position).unwrap());
        let seen = view.count("n").await.unwrap();
        let reads =
            Reads { entries: vec![("trail".into(), before)], counters: vec![("n".into(), seen)], ..Reads::default() };
        let effects = Effects {
            entries: vec![("trail".into(), Some(trail.into()))],
            adjustments: vec![Adjustment { key: "n".into(), by: 1, floor: None }],
            ..Effects::default()
        };
        let again = again(position, Progress::From(position - 1));
        self.batches.stage(&again, &reads, &effects, 2).await.unwrap()
    }

    /// What the table has: the trail, the count, where the cursor stands, and how much was delivered and dropped.
    async fn table(&self) -> (Vec<u8>, i64, [u64; 3]) {
        let view = AwsView::new(&self.store, &alpha(), REBUILD);
        let trail = view.get("trail").await.unwrap().unwrap_or_default().to_vec();
        let item = self.store.table.get(&Key::backfill(&alpha(), REBUILD)).await.unwrap().unwrap();
        (trail, view.count("n").await.unwrap(), ["cur", "dl", "dx"].map(|name| item.number(name).unwrap()))
    }

    async fn close(self) {
        self.backend.lifecycle.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_handled_is_seen_at_once_and_written_together() {
    let rebuild = Rebuild::begin().await;
    for position in 1..=3 {
        assert!(matches!(rebuild.handle(position).await, Settled::Written(_)));
    }
    assert_eq!(rebuild.table().await, (vec![], 0, [0, 0, 0]));
    let view = rebuild.view();
    assert_eq!(view.get("trail").await.unwrap().as_deref(), Some([1, 2, 3].as_slice()));
    assert_eq!(view.count("n").await.unwrap(), 3);
    // A look at many asks the table, which has all of it then.
    assert_eq!(view.scan("", None, 10).await.unwrap().len(), 1);
    assert_eq!(rebuild.table().await, (vec![1, 2, 3], 3, [3, 3, 6]));

    rebuild.handle(4).await;
    assert!(rebuild.batches.write().await.unwrap() && rebuild.batches.write().await.unwrap());
    assert_eq!(rebuild.table().await, (vec![1, 2, 3, 4], 4, [4, 4, 8]));

    // What ends when nobody goes on is written as it ends.
    rebuild.handle(5).await;
    rebuild.batches.end().await;
    assert_eq!(rebuild.table().await.2, [5, 5, 10]);
    rebuild.handle(6).await;
    assert_eq!(rebuild.table().await, (vec![1, 2, 3, 4, 5, 6], 6, [6, 6, 12]));
    rebuild.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_together_is_handled_again_in_smaller_batches() {
    let rebuild = Rebuild::begin().await;
    rebuild.handle(1).await;
    assert!(rebuild.batches.write().await.unwrap());
    for position in 2..=5 {
        rebuild.handle(position).await;
    }
    // Nobody should, but somebody writes what they saw.
    let key = Key::entry(&alpha(), REBUILD, "trail");
    let stray = Change::of("SET v = :v").value(":v", bytes(&[9]));
    rebuild.store.table.update(&key, stray).await.unwrap().unwrap();
    assert!(!rebuild.batches.write().await.unwrap(), "it is refused");
    assert!(matches!(rebuild.handle(2).await, Settled::Elsewhere), "nobody goes on");
    assert_eq!(rebuild.table().await, (vec![9], 1, [1, 1, 2]));

    rebuild.batches.begin("me").await;
    // Two and two, then four, as long as nothing is refused; one that is refused twice goes by itself.
    for (position, written) in [(2, 1), (3, 1), (4, 3), (5, 3), (6, 3), (7, 3), (8, 7), (9, 7)] {
        assert!(matches!(rebuild.handle(position).await, Settled::Written(_)));
        assert_eq!(rebuild.table().await.2[0], written, "at {position}");
    }
    rebuild.store.table.update(&key, Change::of("SET v = :v").value(":v", bytes(&[8]))).await.unwrap().unwrap();
    assert!(!rebuild.batches.write().await.unwrap());
    rebuild.batches.begin("me").await;
    assert!(matches!(rebuild.handle(8).await, Settled::Written(_)));
    assert_eq!(rebuild.table().await, (vec![8, 8], 8, [8, 8, 16]));
    rebuild.handle(9).await;
    assert_eq!(rebuild.table().await.2[0], 8);
    assert!(rebuild.batches.write().await.unwrap());
    assert_eq!(rebuild.table().await, (vec![8, 8, 9], 9, [9, 9, 18]));
    rebuild.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_once_somebody_else_goes_on() {
    let rebuild = Rebuild::begin().await;
    rebuild.handle(1).await;
    let key = Key::backfill(&alpha(), REBUILD);
    let other = Change::of("SET own = :other").value(":other", text("somebody else"));
    rebuild.store.table.update(&key, other).await.unwrap().unwrap();
    assert!(!rebuild.batches.write().await.unwrap());
    assert_eq!(rebuild.table().await, (vec![], 0, [0, 0, 0]));
    // A delivery that saw what is lost is not staged beside what came after it.
    rebuild.batches.begin("me again").await;
    assert!(matches!(rebuild.handle(1).await, Settled::Elsewhere));
    rebuild.close().await;
}
