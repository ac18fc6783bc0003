//! What an order takes at AWS, counted on the way there.

use fanfare_tests::cost::{Counted, Pace};

#[test]
fn many_orders_share_requests() {
    let mut counted = Counted::start();
    let _ = counted.sell(8, Pace { clients: 8, rate: None });
    let spent = counted.sell(120, Pace { clients: 32, rate: None });
    eprintln!("{spent}");
    counted.check();
    // One transaction to place an order and one for each of its nine deliveries, three events and nine messages, if none shared.
    assert!(spent.requests("DYNAMODB", "TransactWriteItems") < 9.0, "{spent}");
    assert!(spent.requests("SNS", "PublishBatch") < 2.0, "{spent}");
    assert!(spent.requests("SQS", "DeleteMessageBatch") < 6.0, "{spent}");
    // What it needs for itself (ARCHITECTURE.md), and what the consumers keep.
    let table = spent.total("DYNAMODB");
    assert!(table.write_units > 32.0 * 120.0 && table.read_units > 0.0, "{spent}");
}
