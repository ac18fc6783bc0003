//! What holds for all that a handler reads and stages: each counts towards its limit, and is told the same twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;

use super::fixture::{self, Memory, custom, everything, overstep};
use super::outbox::Draft;
use super::{Handling, Rights, Stop, limits};
use crate::backend::{Lease, Result, View};
use crate::effects::{Adjustment, Message};
use crate::order::{Change, Order, OrderId, Shipment};
use crate::policy::{Limits, Policy};
use crate::sandbox::{Description, Need};

/// A handling with every grant, under these limits.
fn under(limits: Limits, view: impl View + 'static) -> Handling {
    let description = Description {
        version: semver::Version::new(1, 0, 0),
        state_version: 1,
        summary: String::new(),
        subscriptions: Vec::new(),
        needs: vec![Need::Records(fixture::dataset())],
    };
    let policy = Policy { grant: everything(), limits, ..Policy::default() };
    let rights = Arc::new(Rights::new(&"inventory".parse().unwrap(), &description, &policy));
    Handling::new(rights, custom("com.example.test", 0), Arc::new(view))
}

/// One thing that a handler can stage, `bytes` of text long.
#[derive(Clone, Copy, Debug)]
enum Staged {
    Entry,
    Adjustment,
    OrderChange,
    Event,
    Email,
    Sms,
    Record,
}

const ALL: [Staged; 7] =
    [Staged::Entry, Staged::Adjustment, Staged::OrderChange, Staged::Event, Staged::Email, Staged::Sms, Staged::Record];

impl Staged {
    async fn stage(
        self,
        handling: &mut Handling,
        n: usize,
        order: &Order,
        bytes: usize,
    ) -> std::result::Result<(), Stop> {
        let text = format!("{n}{}", "x".repeat(bytes));
        match self {
            Self::Entry => handling.put(text, None),
            Self::Adjustment => {
                let adjustment = Adjustment { key: text.into(), by: 1, floor: None };
                handling.adjust(vec![adjustment]).await.map(drop)
            }
            Self::OrderChange => {
                let change = Change::Rejected { reason: text };
                handling.change_order(&order.id.to_string(), Some(change)).await.map(drop)
            }
            Self::Event => handling.publish(draft("it", &format!("{text:?}"))),
            Self::Email => handling.send(email("a@example.com", "Hello", &text)),
            Self::Sms => handling.send(Message::Sms { to: "+49".to_owned(), text }),
            Self::Record => handling.append("orders", &format!("{{\"id\":{text:?}}}")).map(|row| row.unwrap()),
        }
    }

    /// The limit on their number.
    fn limited(self, to: usize) -> (Limits, &'static str) {
        let limits = Limits::default();
        match self {
            Self::Entry | Self::Adjustment => (Limits { writes: to, ..limits }, "limits.writes"),
            Self::OrderChange => (Limits { order_changes: to, ..limits }, "limits.order_changes"),
            Self::Event => (Limits { events: to, ..limits }, "limits.events"),
            Self::Email | Self::Sms => (Limits { messages: to, ..limits }, "limits.messages"),
            Self::Record => (Limits { records: to, ..limits }, "limits.records"),
        }
    }
}

fn draft(subject: &str, data: &str) -> Draft {
    let (kind, subject, data) = ("com.example.low".to_owned(), subject.to_owned(), data.to_owned());
    Draft { kind, subject, order_id: None, data }
}

fn email(to: &str, subject: &str, text: &str) -> Message {
    Message::Email { to: to.to_owned(), subject: subject.to_owned(), text: text.to_owned(), html: None }
}

fn orders(count: usize) -> (Memory, Vec<Order>) {
    let orders: Vec<_> = (0..count).map(|_| fixture::order()).collect();
    (Memory { orders: orders.clone(), ..Memory::default() }, orders)
}

#[tokio::test]
async fn whatever_is_staged_counts_towards_the_bytes_of_one_event() {
    for staged in ALL {
        let (memory, orders) = orders(30);
        let mut handling = under(Limits { effects_bytes: 1_000, ..Limits::default() }, memory);
        let mut stopped = None;
        for (n, order) in orders.iter().enumerate() {
            if let Err(stop) = staged.stage(&mut handling, n, order, 100).await {
                stopped = Some((n, overstep::<()>(Err(stop))));
                break;
            }
        }
        let (n, (kind, message)) = stopped.unwrap_or_else(|| panic!("{staged:?} costs nothing"));
        assert!((5..=9).contains(&n), "{staged:?}: stopped at {n}");
        assert_eq!((kind, message.contains("limits.effects")), ("limit", true), "{staged:?}: {message}");
    }
}

#[tokio::test]
async fn of_whatever_is_staged_one_event_has_as_many_as_the_side_file_says() {
    for staged in ALL {
        let (memory, orders) = orders(4);
        let (limits, key) = staged.limited(3);
        let mut handling = under(limits, memory);
        for (n, order) in orders.iter().enumerate() {
            let done = staged.stage(&mut handling, n, order, 10).await;
            match n < 3 {
                true => done.unwrap_or_else(|stop| panic!("{staged:?} {n}: {stop}")),
                false => {
                    let (kind, message) = overstep(done);
                    assert_eq!((kind, message.contains(key)), ("limit", true), "{staged:?}: {message}");
                }
            }
        }
    }
}

#[tokio::test]
async fn texts_that_travel_further_have_lengths_of_their_own() {
    let text = |bytes: usize| "x".repeat(bytes + 1);
    let (memory, orders) = orders(1);
    let mut handling = under(Limits::default(), memory);
    let reason = text(limits::REASON_BYTES_MAX);
    let shipment = |carrier: &str, tracking_number: &str, tracking_url: Option<&str>| {
        let (carrier, tracking_number) = (carrier.to_owned(), tracking_number.to_owned());
        Some(Change::Shipped(Shipment { carrier, tracking_number, tracking_url: tracking_url.map(str::to_owned) }))
    };
    let id = orders[0].id.to_string();
    let mut stopped = vec![
        overstep(handling.publish(draft(&text(limits::SUBJECT_BYTES_MAX), "1"))),
        overstep(handling.publish(draft("it", &format!("{:?}", text(limits::EVENT_DATA_BYTES_MAX))))),
        overstep(handling.send(email(&text(limits::ADDRESS_BYTES_MAX), "Hello", "there"))),
        overstep(handling.send(email("a@b", &text(limits::MAIL_SUBJECT_BYTES_MAX), "there"))),
        overstep(handling.send(email("a@b", "Hello", &text(limits::MESSAGE_BYTES_MAX)))),
        overstep(handling.append("orders", &format!("{{\"id\":{:?}}}", text(limits::RECORD_BYTES_MAX)))),
        overstep(handling.scan(&text(limits::KEY_BYTES_MAX), None, 1).await),
        overstep(handling.scan_counts("", Some(&text(limits::KEY_BYTES_MAX)), 1).await),
    ];
    for change in [
        Some(Change::Rejected { reason: reason.clone() }),
        Some(Change::Cancelled { reason: reason.clone() }),
        shipment(&reason, "1", None),
        shipment("local", &reason, None),
        shipment("local", "1", Some(&reason)),
    ] {
        stopped.push(overstep(handling.change_order(&id, change).await));
    }
    for (n, (kind, message)) in stopped.into_iter().enumerate() {
        assert_eq!((kind, message.contains(" bytes of ")), ("limit", true), "{n}: {message}");
    }
    assert!(handling.finish().1.is_empty());
}

#[tokio::test]
async fn whatever_is_read_counts() {
    let memory = || Memory {
        entries: (0..10).map(|n| (format!("e{n}"), vec![0])).collect(),
        counters: (0..10).map(|n| (format!("c{n}"), n)).collect(),
        ..Memory::default()
    };
    for what in ["entries", "counters", "adjusted", "orders", "a scan", "a scan of counters"] {
        let mut handling = under(Limits { reads: 5, ..Limits::default() }, memory());
        let mut last = Ok(());
        for n in 0..6 {
            last = match what {
                "entries" => handling.get(&format!("e{n}")).await.map(drop),
                "counters" => handling.count(&format!("c{n}")).await.map(drop),
                "adjusted" => {
                    let adjustment = Adjustment { key: format!("c{n}").into(), by: 1, floor: None };
                    handling.adjust(vec![adjustment]).await.map(drop)
                }
                "orders" => handling.order(&OrderId::generate().to_string()).await.map(drop),
                "a scan" => handling.scan("e", None, n + 1).await.map(drop),
                _ => handling.scan_counts("c", None, n + 1).await.map(drop),
            };
            if last.is_err() {
                break;
            }
        }
        let (kind, message) = overstep(last);
        assert_eq!((kind, message.contains("limits.reads")), ("limit", true), "{what}: {message}");
    }
}

#[tokio::test]
async fn what_is_read_is_bounded_in_bytes() {
    let entries = || (0..40).map(|n| (format!("{n:02}"), vec![0; limits::VALUE_BYTES_MAX])).collect();
    let large = || under(Limits::default(), Memory { entries: entries(), ..Memory::default() });
    let (kind, message) = overstep(large().scan("", None, 40).await);
    assert_eq!((kind, message.contains("bytes read for one event")), ("limit", true), "{message}");
    let mut handling = large();
    let mut last = Ok(None);
    for n in 0..40 {
        last = handling.get(&format!("{n:02}")).await;
        if last.is_err() {
            assert!(n <= limits::READ_BYTES_MAX / limits::VALUE_BYTES_MAX, "{n}");
            break;
        }
    }
    assert_eq!(overstep(last).0, "limit");
}

/// Answers otherwise each time that it is asked.
#[derive(Default)]
struct Fickle(AtomicI64);

impl Fickle {
    fn next(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

#[async_trait]
impl View for Fickle {
    async fn get(&self, _: &str) -> Result<Option<Arc<[u8]>>> {
        Ok(Some(self.next().to_string().into_bytes().into()))
    }

    async fn count(&self, _: &str) -> Result<i64> {
        Ok(self.next())
    }

    async fn scan(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<(Arc<str>, Arc<[u8]>)>> {
        Ok(Vec::new())
    }

    async fn scan_counts(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<(Arc<str>, i64)>> {
        Ok(Vec::new())
    }

    async fn order(&self, id: OrderId) -> Result<Option<Order>> {
        Ok(Some(Order { id, revision: self.next().unsigned_abs(), ..fixture::order() }))
    }

    async fn durable(&self, _: Lease) -> Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_a_handler_was_told_once_it_is_told_again() {
    let mut handling = under(Limits::default(), Fickle::default());
    let id = OrderId::generate();
    let told = async |handling: &mut Handling| {
        let order = handling.order(&id.to_string()).await.unwrap().unwrap();
        (handling.get("key").await.unwrap(), handling.count("key").await.unwrap(), order.revision)
    };
    let first = told(&mut handling).await;
    assert_eq!(told(&mut handling).await, first);
    let (reads, _) = handling.finish();
    let [(_, value)] = &reads.entries[..] else { panic!("{reads:?}") };
    let ([(_, count)], [(_, revision)]) = (&reads.counters[..], &reads.orders[..]) else { panic!("{reads:?}") };
    assert_eq!((value.clone(), *count, *revision), (first.0, first.1, Some(first.2)), "and the commit holds to that");
}
