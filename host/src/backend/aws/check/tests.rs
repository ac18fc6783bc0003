//! Against emulators: what breaks a table, and what is found then.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::{Kind, step_with};
use crate::backend::aws::clock::slot_of;
use crate::backend::aws::fixture::{alpha, settings};
use crate::backend::aws::fleet::files;
use crate::backend::aws::item::{Item, Key, LaneKey, json, number, text};
use crate::backend::aws::journal::POSITION_MAX;
use crate::backend::aws::seat::Seat;
use crate::backend::aws::settle::intent;
use crate::backend::aws::store::Store;
use crate::backend::aws::table::{Change as Write, Table, Transaction};
use crate::backend::aws::{Clients, hosts, open, resources};
use crate::backend::contract::{policy, ran};
use crate::backend::{
    Backend, Cause, CauseKind, CheckPlace, Delivery, Finding, Inbox, Placed, Placement, PluginFile, Settlement, Turn,
    TurnOutcome, Which,
};
use crate::clock::Timestamp;
use crate::effects::{Adjustment, Effects, Message, Reads, Record};
use crate::event::{Custom, Lane};
use crate::order::{Change, Content, Customer, Line, Order, OrderId};
use crate::policy::{ConsumerName, Start};
use crate::version::Binary;

const SOON: Duration = Duration::from_millis(50);

fn done(effects: Effects) -> Settlement {
    Settlement::Done { effects, ran: ran() }
}

fn dead() -> Settlement {
    Settlement::Dead { cause: Cause::new(CauseKind::Reject, "no"), ran: ran() }
}

fn later(after: Duration) -> Settlement {
    Settlement::Retry { at: Timestamp::now().plus(after), cause: Cause::new(CauseKind::Retry, "later"), ran: ran() }
}

async fn place(backend: &Backend, reference: &str) -> OrderId {
    let content = Content {
        reference: Some(reference.to_owned()),
        currency: "EUR".into(),
        customer: Customer { id: "c-1".into(), name: None, email: None, phone: None },
        lines: vec![Line { sku: "A".into(), title: None, quantity: 1, unit_amount: 1, discount_amount: 0 }],
        total_amount: 1,
        shipping_address: None,
        metadata: std::collections::BTreeMap::default(),
    };
    let order = Order::place(Arc::new(content), Timestamp::now());
    let placement = Placement { order, fingerprint: [0; 32], idempotency_key: Some(reference.to_owned()) };
    match backend.intake.place(placement).await.unwrap().into_inner() {
        Placed::New(order) => order.id,
        other => panic!("{other:?}"),
    }
}

async fn change(backend: &Backend, order: OrderId, change: Change) {
    drop(backend.intake.change(order, change).await.unwrap().into_inner());
}

async fn lease(inbox: &Arc<dyn Inbox>, order: OrderId) -> Delivery {
    let leased = async {
        loop {
            match inbox.lease() {
                Some(delivery) => {
                    assert_eq!(delivery.event.order_id(), Some(order));
                    return delivery;
                }
                None => inbox.changed().await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), leased).await.unwrap()
}

async fn settle(inbox: &Arc<dyn Inbox>, order: OrderId, settlement: Settlement) {
    let finished = inbox.finish(lease(inbox, order).await, &Reads::default(), settlement).await;
    assert!(matches!(finished, crate::backend::Finished::Accepted), "{finished:?}");
}

/// A table with items of nearly every kind, on which nothing moves any more.
struct Shop {
    store: Store,
    /// Of these orders, one went well, one is tried again in an hour, one is dead and parks its lane, one was tried twice, and
    /// one was given up.
    well: LaneKey,
    retried: LaneKey,
    dead: LaneKey,
    twice: LaneKey,
    plugin: Binary,
}

impl Shop {
    async fn open() -> Self {
        let settings = settings();
        let backend = open(&settings).await.unwrap();
        let inbox = backend.consumers.attach(&alpha(), Start::Beginning).await.unwrap();
        inbox.configure(policy());
        let well = place(&backend, "well").await;
        let effects = Effects {
            entries: vec![("entry".into(), Some(b"value".as_slice().into()))],
            adjustments: vec![Adjustment { key: "count".into(), by: 1, floor: None }],
            order_changes: vec![(well, Change::Confirmed {})],
            messages: vec![Message::Sms { to: "+1".into(), text: "t".into() }],
            records: vec![Record { dataset: "rows".into(), row: r#"{"a":1}"#.into() }],
            ..Effects::default()
        };
        settle(&inbox, well, done(effects)).await;
        settle(&inbox, well, done(Effects::default())).await;
        change(&backend, well, Change::Cancelled { reason: "test".into() }).await;
        settle(&inbox, well, done(Effects::default())).await;
        let retried = place(&backend, "retried").await;
        settle(&inbox, retried, later(Duration::from_secs(3_600))).await;
        let given_up = place(&backend, "given-up").await;
        settle(&inbox, given_up, dead()).await;
        let _ = backend.dead_letters.discard(&alpha(), Which::All.first(1)).await.unwrap().into_inner();
        let dead = place(&backend, "dead").await;
        settle(&inbox, dead, self::dead()).await;
        change(&backend, dead, Change::Confirmed {}).await;
        let twice = place(&backend, "twice").await;
        settle(&inbox, twice, later(Duration::ZERO)).await;
        settle(&inbox, twice, done(Effects::default())).await;
        let data = RawValue::from_string("{}".into()).unwrap().into();
        let (kind, source) = ("com.example.a".into(), "/test".into());
        let event = Custom { kind, source, origin_id: Some("1".into()), subject: "s".into(), order_id: None, data };
        let _ = backend.intake.publish(vec![event]).await.unwrap();
        let plugin = Binary::from(b"plugin".to_vec());
        backend.fleet.keep_file(&plugin).await.unwrap();
        let turn = Turn {
            outcome: TurnOutcome::Live,
            reason: None,
            file: PluginFile { hash: Some(*plugin.hash()), path: "alpha.wasm".into(), ..PluginFile::default() },
            live: Some(*plugin.hash()),
        };
        drop(backend.versions.record(&alpha(), turn, 5).await.unwrap().into_inner());
        drop(inbox);

        let clients = Clients::connect(&settings).await.unwrap();
        let shared = resources::ensure(&clients, &settings).await.unwrap();
        let table = Table::new(clients.dynamodb.clone(), shared.table.clone());
        let newest = backend.journal.newest().await.unwrap().unwrap().get();
        let is_past = async {
            loop {
                let consumer = table.get(&Key::consumer(&alpha())).await.unwrap().unwrap();
                if consumer.number::<u64>("cua").unwrap() > newest {
                    return;
                }
                tokio::time::sleep(SOON).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), is_past).await.unwrap();
        backend.lifecycle.close().await;
        let slot = hosts::claim(&table, hosts::Stay::Kept).await.unwrap();
        let lane = |id| LaneKey::of(&Lane::Order(id));
        let store = Store::new(clients, settings, shared, Seat::Kept(slot));
        let (well, retried, dead, twice) = (lane(well), lane(retried), lane(dead), lane(twice));
        Self { store, well, retried, dead, twice, plugin }
    }

    async fn check(&self) -> (BTreeSet<&'static str>, Vec<Finding>) {
        let (mut rules, mut findings) = (BTreeSet::new(), Vec::new());
        let mut place = Some(CheckPlace::default());
        while let Some(at) = place {
            let step = step_with(&self.store, at, SOON).await.unwrap();
            for checked in step.checked {
                rules.extend(Some(checked.rule).filter(|_| checked.rows > 0));
                findings.extend(checked.findings);
            }
            place = step.next;
        }
        (rules, findings)
    }

    async fn items(&self) -> HashMap<Key, Item> {
        let (mut items, mut after) = (HashMap::new(), None);
        loop {
            let (page, next) = self.store.table.scan(after.as_ref(), 1_000).await.unwrap();
            items.extend(page.into_iter().map(|item| (item.key().unwrap(), item)));
            after = next;
            if after.is_none() {
                return items;
            }
        }
    }

    async fn put(&self, item: Item) {
        let mut transaction = Transaction::default();
        transaction.put((), item);
        self.store.table.transact(transaction).await.unwrap().unwrap();
    }

    /// Makes the table what it was.
    async fn mend(&self, was: &HashMap<Key, Item>) {
        let is = self.items().await;
        for key in is.keys().filter(|key| !was.contains_key(key)) {
            self.store.table.delete(key).await.unwrap();
        }
        for (_, item) in was.iter().filter(|(key, item)| is.get(key) != Some(item)) {
            self.put(item.clone()).await;
        }
    }

    async fn harm(&self, harm: Harm) {
        match harm {
            Harm::Delete(key) => self.store.table.delete(&key).await.unwrap(),
            Harm::Change(key, change) => drop(self.store.table.update(&key, change).await.unwrap().unwrap()),
            Harm::Put(item) => self.put(item).await,
            Harm::Both(first, second) => {
                Box::pin(self.harm(*first)).await;
                Box::pin(self.harm(*second)).await;
            }
        }
    }
}

enum Harm {
    Delete(Key),
    Change(Key, Write),
    Put(Item),
    Both(Box<Harm>, Box<Harm>),
}

fn set(key: Key, name: &str, value: aws_sdk_dynamodb::types::AttributeValue) -> Harm {
    Harm::Change(key, Write::of("SET #n = :v").name("#n", name).value(":v", value))
}

fn remove(key: Key, name: &str) -> Harm {
    Harm::Change(key, Write::of("REMOVE #n").name("#n", name))
}

/// The one item that is of this kind.
fn only(items: &HashMap<Key, Item>, of: impl Fn(&Kind) -> bool) -> Key {
    let mut found: Vec<&Key> = items.keys().filter(|key| of(&Kind::of(key))).collect();
    found.sort_by_key(|key| (&key.pk, &key.sk));
    (*found.first().expect("there is one")).clone()
}

/// What is done to the table, and what is said of it.
fn harms(shop: &Shop, items: &HashMap<Key, Item>) -> Vec<(Harm, &'static str, &'static str)> {
    let Shop { well, retried, dead, twice, plugin, .. } = shop;
    let event = |lane: &LaneKey, seq| Key::event(lane, seq);
    let place = |lane: &LaneKey| Key::place(&alpha(), lane);
    let position: u64 = items[&event(well, 1)].number("pos").unwrap();
    let custom = only(items, |kind| matches!(kind, Kind::Event { lane, .. } if lane.as_str() == "s#s"));
    let host = Key::host(slot_of(position));
    let due = Key::due(&alpha(), retried);
    let letter = only(items, |kind| matches!(kind, Kind::Letter { .. }));
    let message = only(items, |kind| matches!(kind, Kind::Message { .. }));
    let records = only(items, |kind| matches!(kind, Kind::Records { .. }));
    let row = only(items, |kind| matches!(kind, Kind::HistoryRow { .. }));
    let kept = only(items, |kind| matches!(kind, Kind::Kept { .. }));
    let piece = only(items, |kind| matches!(kind, Kind::Piece { .. }));
    let file = files::file_key(plugin.hash());
    let (entry, counter) = (Key::entry(&alpha(), 0, "entry"), Key::counter(&alpha(), 0, "count"));
    let stranger: ConsumerName = "nobody".parse().unwrap();
    let key = |pk: &str, sk: &str| Key { pk: pk.into(), sk: sk.into() };
    let became = |outcome: &str, live: &str| {
        text(format!(r#"{{"outcome":"{outcome}","path":"a","hash":"{}"{live}}}"#, plugin.hash()))
    };
    let turn = |live: &str| became("live", live);
    let same = format!(r#","live":"{}""#, plugin.hash());
    let surplus = Binary::from(b"surplus".to_vec());
    let whole = Item::at(&files::file_key(surplus.hash())).with("t", number(1));
    let whole = whole.with("whole", aws_sdk_dynamodb::types::AttributeValue::Bool(true));
    let surplus = Item::at(&key("k", &format!("alpha#{}", surplus.hash()))).with("n", number(1));
    let is_running = |harm| {
        let begun = Write::of("SET bfa = :one").value(":one", number(1));
        Harm::Both(Box::new(Harm::Change(Key::consumer(&alpha()), begun)), Box::new(harm))
    };
    let nowhere = OrderId::generate().to_string();
    let open_intent = |at: u64| Item::at(&Key::intent("x")).with("st", text("open")).with("ls", number(at));
    vec![
        (Harm::Delete(event(well, 2)), "events", "event 3 of order ORDER: the event before it is missing"),
        (Harm::Delete(event(well, 1)), "events", "event 3 of order ORDER: the first event of its order"),
        (Harm::Delete(event(well, 1)), "idempotency keys", "its order ORDER is missing"),
        (Harm::Delete(event(well, 1)), "references", "its order ORDER is missing"),
        (Harm::Delete(event(well, 3)), "places", "it is through with event 3, and its lane ends with 2"),
        (Harm::Delete(event(retried, 1)), "places", "it stands at event 1, which is gone"),
        (Harm::Delete(event(retried, 1)), "due deliveries", "its event is gone"),
        (Harm::Delete(event(dead, 1)), "dead letters", "is gone: discard it"),
        (Harm::Delete(event(twice, 1)), "attempts", "its event is gone"),
        (set(event(well, 2), "ch", text("{")), "events", "event 2 of order ORDER: it cannot be read"),
        (set(custom.clone(), "b", text("{")), "events", "event 1 of subject s: it cannot be read"),
        (set(event(well, 2), "k", text("order.shipped")), "events", "it is order.confirmed, and its kind is another"),
        (
            set(event(well, 2), "st", text(r#"{"st":"confirmed","rev":7,"at":1}"#)),
            "events",
            "event 2 of order ORDER: its order does not follow from the event before it",
        ),
        (
            set(event(well, 2), "st", text(r#"{"st":"shipped","rev":2,"at":1}"#)),
            "events",
            "it makes its order what it then is not",
        ),
        (set(event(well, 2), "lp", text("log#99")), "events", "so nobody who follows the journal finds it right"),
        (remove(event(well, 2), "lp"), "events", "so nobody who follows the journal finds it right"),
        (remove(event(well, 2), "pr"), "events", "it does not tell of the event before it"),
        (set(event(well, 2), "pos", number(1)), "events", "event 2 of order ORDER"),
        (
            set(event(well, 2), "pr", text(format!(r#"[[1,"order.placed",{}]]"#, position - 1))),
            "events",
            "event 2 of order ORDER: it is not behind the event before it in the journal",
        ),
        (
            Harm::Change(custom, Write::of("SET pos = :p, ls = :p").value(":p", number(position))),
            "journal",
            "another event has the same position",
        ),
        (Harm::Delete(host.clone()), "events", "nothing is known"),
        (
            Harm::Change(
                host,
                Write::of("SET own = :n, drawn = :d").value(":n", text(hosts::NOBODY)).value(":d", number(1)),
            ),
            "events",
            "was left at position 1, before it, so nobody may have published it",
        ),
        (set(event(well, 1), "cs", text("x")), "orders", "order ORDER: it is not among the orders of its customer"),
        (Harm::Delete(Key::reference("well")), "orders", "its reference well is not kept for it"),
        (set(Key::reference("well"), "o", text(nowhere.as_str())), "references", "is missing"),
        (set(Key::idempotency("well"), "o", text(nowhere)), "idempotency keys", "idempotency key well: its order"),
        (
            Harm::Delete(place(well)),
            "deliveries",
            "delivery of event 3 of order ORDER to alpha: its consumer is past it",
        ),
        (set(place(well), "seq", number(9)), "places", "it is through with event 9, and its lane ends with 3"),
        (set(place(dead), "seq", number(1)), "places", "it stands at event 1, and is through with it"),
        (
            Harm::Change(place(dead), Write::of("REMOVE hq, hs")),
            "dead letters",
            "its lane does not stand at it: retry it with `fanfare dead-letters retry alpha --event ",
        ),
        (Harm::Delete(due.clone()), "places", "it is to try event 1 again, and no item is due"),
        (remove(due.clone(), "lp"), "due deliveries", "it is never tried"),
        (set(due, "l", text(twice.as_str())), "due deliveries", "it is never tried"),
        (set(letter.clone(), "q", number(2)), "dead letters", "its event 2 of order "),
        (Harm::Delete(letter), "places", "whose dead letter is missing"),
        (
            Harm::Put(Item::at(&Key::place(&stranger, well)).with("ver", number(1)).with("seq", number(1))),
            "places",
            "its consumer nobody is not known",
        ),
        (
            Harm::Put(Item::at(&Key::entry(&alpha(), 7, "k")).with("v", super::super::item::bytes(b"v"))),
            "state",
            "no consumer has the state that it is of",
        ),
        (remove(entry.clone(), "v"), "state", "entry entry of alpha: it has no value"),
        (set(counter, "n", text("x")), "state", "counter count of alpha: it has no value"),
        (set(entry, "lk", text("x")), "state", "it is locked by the large commit x, which is not there"),
        (Harm::Put(Item::at(&Key::intended("x", 1))), "large commits", "the large commit that it is of is not there"),
        (Harm::Put(open_intent(POSITION_MAX)), "large commits", "not in the index where hosts look"),
        (Harm::Put(open_intent(1).with("lp", text(intent::OPEN))), "large commits", "no host ends it"),
        (remove(message.clone(), "lp"), "messages", "so nobody sends it"),
        (set(message.clone(), "ms", text("lost")), "messages", "its state lost is not known"),
        (set(message, "by", text("nobody")), "messages", "its consumer nobody is not known"),
        (set(records.clone(), "by", text("nobody")), "records", "its consumer nobody is not known"),
        (set(records, "rows", text("{")), "records", "it cannot be read"),
        (set(Key::origin("/test", "1"), "e", text("x")), "ids of events", "it cannot be read"),
        (set(Key::consumer(&alpha()), "cua", number(POSITION_MAX)), "consumers", "which is still to come"),
        (remove(Key::consumer(&alpha()), "cua"), "consumers", "consumer alpha: it cannot be read"),
        (Harm::Put(Item::at(&Key::running(99)).with("runs", json(&()).unwrap())), "hosts", "no host is in its slot"),
        (Harm::Put(Item::at(&key("-", "-"))), "other items", "this host does not know what it is"),
        (set(row.clone(), "turn", turn("")), "version history", "it does not say which version is live"),
        (
            set(row.clone(), "turn", turn(&format!(r#","live":"{}""#, "0".repeat(64)))),
            "version history",
            "its file came live, and another version is",
        ),
        (
            set(row.clone(), "turn", became("rolled-back", &same)),
            "version history",
            "the file beside or behind the live",
        ),
        (set(row.clone(), "turn", became("canary", &same)), "version history", "the file beside or behind the live"),
        (Harm::Delete(row), "kept versions", "its consumer has no history"),
        (
            Harm::Both(Box::new(Harm::Put(whole)), Box::new(Harm::Put(surplus))),
            "kept versions",
            "no row of the history speaks of it",
        ),
        (
            set(Key::standing(&alpha()), "turn", turn("")),
            "version history",
            "standing of alpha: it is not what the newest",
        ),
        (Harm::Delete(kept), "version history", "the version that is live is not kept"),
        (Harm::Delete(file.clone()), "kept versions", "its file is not in the table"),
        (Harm::Delete(file), "plugin files", "the file that it is of is not there"),
        (Harm::Delete(piece), "plugin files", "it is not what its name says"),
        (Harm::Put(under_way()), "backfills", "its consumer does not name it"),
        (
            is_running(Harm::Put(under_way().with("rb", number(1)).with("upt", number(1)))),
            "backfills",
            "it is a rebuild, or none, and its consumer says otherwise",
        ),
        (set(Key::consumer(&alpha()), "bfa", number(1)), "consumers", "the backfill that is under way is missing"),
        (
            Harm::Put(Item::at(&Key::put_off(&alpha(), 1, 1)).with("l", text("s#s")).with("q", number(1))),
            "backfills",
            "event 1 that rebuild 1 of alpha comes back to: rebuild 1 is not under way",
        ),
        (
            // The lane has no such event, and the one that it has is elsewhere in the journal.
            beside_rebuild(Item::at(&Key::put_off(&alpha(), 1, 1)).with("l", text("s#s")).with("q", number(9))),
            "backfills",
            "event 1 that rebuild 1 of alpha comes back to: its event is gone",
        ),
        (
            beside_rebuild(Item::at(&Key::put_off(&alpha(), 1, 1)).with("l", text("s#s")).with("q", number(1))),
            "backfills",
            "event 1 that rebuild 1 of alpha comes back to: its event is gone",
        ),
        (Harm::Put(Item::at(&Key::gate(&alpha(), 1, "x"))), "backfills", "gate of x beside rebuild 1 of alpha"),
        (
            Harm::Put(Item::at(&Key::left(&alpha(), 1, "x"))),
            "state",
            "what x says of take-over 1 of the state of alpha: no such take-over is under way",
        ),
    ]
}

/// An item of a rebuild that is under way.
fn beside_rebuild(item: Item) -> Harm {
    let begun = Write::of("SET bfa = :one, bfr = :one").value(":one", number(1));
    Harm::Both(Box::new(Harm::Change(Key::consumer(&alpha()), begun)), Box::new(Harm::Put(item)))
}

/// A backfill that nobody goes through.
fn under_way() -> Item {
    let item = Item::at(&Key::backfill(&alpha(), 1)).with("sta", text("running")).with("eff", text("all"));
    ["rt", "fst", "lst", "cur", "evs", "ta"].iter().fold(item, |item, name| item.with(name, number(1)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rule_finds_what_breaks_it_and_a_table_that_is_well_has_no_findings() {
    let shop = Shop::open().await;
    let (rules, findings) = shop.check().await;
    assert_eq!(findings, []);
    let items = shop.items().await;
    let harms = harms(&shop, &items);
    let well = shop.well.as_str().trim_start_matches("o#");
    for (number_of, (harm, rule, said)) in harms.into_iter().enumerate() {
        let of_others = ["large commits", "backfills", "other items"];
        assert!(rules.contains(rule) || of_others.contains(&rule), "{rule} is not looked at: {rules:?}");
        shop.harm(harm).await;
        let (_, findings) = shop.check().await;
        let told = |finding: &Finding| format!("{}: {}", finding.place, finding.fault);
        let said = said.replace("ORDER", well);
        assert!(
            findings.iter().any(|finding| finding.rule == rule && told(finding).contains(&said)),
            "{number_of}: no {rule}: {said} in {findings:#?}"
        );
        shop.mend(&items).await;
    }
    assert_eq!(shop.check().await.1, []);
}
