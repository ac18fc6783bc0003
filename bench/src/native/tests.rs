use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::store::{self, Placed, Queue};
use super::{front, stage};
use crate::books::Books;
use crate::mode::{FANOUT, JOURNEY, Mode};
use crate::workload::Workload;

const KEY: &str = "bench-1";

/// Sends the order with this ticket under [`KEY`], and returns the id that it was given.
fn send(mode: &Mode, queue: &Queue, workload: &Workload, ticket: u64) -> (String, oneshot::Receiver<Placed>) {
    let (job, placed) = front::job(stage(mode), workload.body(ticket).unwrap(), Some(KEY.to_owned())).unwrap();
    let id = job.id.clone();
    queue.push(job);
    (id, placed)
}

/// Places an order, the same again, and another one under its key; returns the rows that are left of it.
async fn rows_of_one_order(mode: &'static Mode, folder: &Path) -> f64 {
    let workload = Workload::generate("test.example").unwrap();
    let queue = Arc::new(Queue::default());
    let (settled, settling) = mpsc::unbounded_channel();
    let writer = store::start(mode, folder, Arc::clone(&queue), settled).unwrap();
    let answering = tokio::spawn(store::answer(settling));
    let (id, first) = send(mode, &queue, &workload, 0);
    let (_, again) = send(mode, &queue, &workload, 0);
    let (_, other) = send(mode, &queue, &workload, 1);
    assert!(matches!(first.await.unwrap(), Placed::New));
    assert!(matches!(again.await.unwrap(), Placed::Repeated(order) if order.id.to_string() == id));
    assert!(matches!(other.await.unwrap(), Placed::KeyReused));
    queue.close();
    writer.join().unwrap().unwrap();
    answering.await.unwrap();

    let books = Books::open(&folder.join(fanfare::backend::embedded::FILE)).unwrap();
    books.verify(mode, &workload, 1).unwrap();
    assert!(books.verify(mode, &workload, 2).is_err(), "an order that was not placed is missed");
    books.rows_per_order().unwrap()
}

#[tokio::test]
async fn a_fanout_order_is_written_once_with_all_that_becomes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    // The order, its key, its event, its parcel and its letter.
    assert_eq!(rows_of_one_order(&FANOUT, folder.path()).await, 5.0);
}

#[tokio::test]
async fn a_journey_order_is_written_once_with_all_that_becomes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let lines = Workload::generate("test.example")
        .unwrap()
        .body(0)
        .unwrap()
        .windows(6)
        .filter(|six| six == b"\"sku\":")
        .count();
    // The order and its key; three events, entries (and a tier, for many points) and letters; rows of three changes, of the
    // order, and of each line.
    let rows = rows_of_one_order(&JOURNEY, folder.path()).await - f64::from(u32::try_from(lines).unwrap());
    assert!(rows == 15.0 || rows == 16.0, "{rows}");
}
