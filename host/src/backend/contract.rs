//! What every backend must pass: the promises of the ports, as functions over the ports alone.
//!
//! A claim is an `async fn(Place)`. Each file ends with the table of its claims and the backends that they hold on, and of each
//! row are made as many tests: `embedded::a_claim`, `aws::a_claim`. `standard` is `aws` on a topic and queues that keep no
//! order and repeat messages; what has to do with neither holds there as on `aws`, and is not shown again.
//!
//! **What the ports do not promise, no claim relies on**
//! - Positions grow along a lane and with time; they need not be contiguous.
//! - Leases come in journal order within a lane; in any order among lanes.
//! - A report tells what was committed, some time after it was: [`wait`] has what waits for it.
//! - That nothing can be leased is known at once only where nothing is on its way: [`wait::nothing_comes`].

/// Makes a test of each claim on each backend that it holds on. Where it cannot hold on all, the reason stands beside it.
macro_rules! claims {
    ($($claim:ident on [$($backend:ident),+] $(because $reason:literal)?),* $(,)?) => {
        mod embedded { $($(claims! { @embedded $backend $claim })+)* }
        mod aws { $($(claims! { @aws $backend $claim })+)* }
        mod standard { $($(claims! { @standard $backend $claim })+)* }
    };
    (@embedded embedded $claim:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $claim() {
            Box::pin(super::$claim($crate::backend::contract::Place::embedded())).await;
        }
    };
    (@aws aws $claim:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $claim() {
            Box::pin(super::$claim($crate::backend::contract::Place::aws())).await;
        }
    };
    (@standard standard $claim:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $claim() {
            Box::pin(super::$claim($crate::backend::contract::Place::standard())).await;
        }
    };
    (@$on:ident $other:ident $claim:ident) => {};
}

mod backfills;
mod broken;
mod check;
mod dead_letters;
mod deliveries;
mod fleet;
mod forgetting;
mod hearing;
mod intake;
mod lanes;
mod outgoing;
mod pausing;
mod place;
mod pressure;
mod rebuilds;
mod retention;
mod room;
mod sharing;
mod size;
mod timeline;
mod versions;
mod wait;

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use self::place::Place;
pub(in crate::backend) use self::wait::eventually;
use self::wait::{events, lease, leases, nothing_comes, report, report_when, settled, stays_quiet};
use super::{Backend, Delivery, Finished, Inbox, InboxPolicy, Placed, Placement, Ran, Settlement};
use crate::clock::Timestamp;
use crate::effects::{Effects, Reads};
use crate::event::{Custom, KindPattern, Subscriptions};
use crate::order::{Change, Content, Customer, Line, Order, OrderId};
use crate::policy::{ConsumerName, OnDead, Start};

fn content(reference: Option<&str>, quantity: u32) -> Content {
    Content {
        reference: reference.map(str::to_owned),
        currency: "EUR".into(),
        customer: Customer { id: "c-1".into(), name: None, email: None, phone: None },
        lines: vec![Line { sku: "A".into(), title: None, quantity, unit_amount: 100, discount_amount: 0 }],
        total_amount: 100 * i64::from(quantity),
        shipping_address: None,
        metadata: std::collections::BTreeMap::default(),
    }
}

pub(in crate::backend) fn placement(reference: Option<&str>, key: Option<&str>, quantity: u32) -> Placement {
    let order = Order::place(Arc::new(content(reference, quantity)), Timestamp::now());
    let mut fingerprint = [0; 32];
    fingerprint[0] = u8::try_from(quantity).unwrap();
    Placement { order, fingerprint, idempotency_key: key.map(str::to_owned) }
}

pub(in crate::backend) async fn place(backend: &Backend) -> Order {
    match backend.intake.place(placement(None, None, 1)).await.unwrap().into_inner() {
        Placed::New(order) => order,
        other => panic!("{other:?}"),
    }
}

pub(in crate::backend) async fn confirm(backend: &Backend, order: OrderId) {
    backend.intake.change(order, Change::Confirmed {}).await.unwrap().into_inner();
}

/// A custom event in the lane of `subject`.
pub(in crate::backend) fn custom(subject: &str) -> Custom {
    Custom {
        kind: "com.example.counted".into(),
        source: "/test".into(),
        origin_id: None,
        subject: subject.into(),
        order_id: None,
        data: RawValue::from_string(format!("{{\"subject\":\"{subject}\"}}")).unwrap().into(),
    }
}

pub(in crate::backend) async fn publish(backend: &Backend, subject: &str) {
    backend.intake.publish(vec![custom(subject)]).await.unwrap().into_inner();
}

pub(in crate::backend) fn name(name: &str) -> ConsumerName {
    name.parse().unwrap()
}

pub(in crate::backend) fn hears(kinds: &[&str]) -> Subscriptions {
    kinds.iter().map(|kind| kind.parse::<KindPattern>().unwrap()).collect()
}

pub(in crate::backend) fn policy() -> InboxPolicy {
    InboxPolicy {
        subscriptions: hears(&["order.*"]),
        concurrency: 8,
        rate: None,
        on_dead: OnDead::Park,
        state_bytes_max: 1 << 30,
        layout: None,
        back: None,
    }
}

async fn inbox(backend: &Backend, consumer: &str) -> Arc<dyn Inbox> {
    let inbox = backend.consumers.attach(&name(consumer), Start::Beginning).await.unwrap();
    inbox.configure(policy());
    inbox
}

pub(in crate::backend) fn ran() -> Ran {
    Ran { version: "1.0.0 (test)".into(), duration: Duration::from_micros(10), calls: Vec::new() }
}

pub(in crate::backend) fn done(effects: Effects) -> Settlement {
    Settlement::Done { effects, ran: ran() }
}

#[track_caller]
fn accept(inbox: &Arc<dyn Inbox>, delivery: Delivery, settlement: Settlement) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let finished = inbox.finish(delivery, &Reads::default(), settlement).await;
        assert!(matches!(finished, Finished::Accepted), "{caller}: {finished:?}");
    }
}
