//! Promise 1 and idempotency: an order answered is never lost, and a repeat is answered, not repeated.

use super::{Place, custom, events, eventually, place, placement};
use crate::backend::{Changed, Error, OrderQuery, Placed};
use crate::event::{Body, Custom, Position};
use crate::order::{Change, OrderId, Shipment, Status};

pub async fn an_order_that_was_answered_is_there_after_a_restart(home: Place) {
    let backend = home.open().await;
    let order = place(&backend).await;
    let backend = home.reopen(backend).await;
    assert_eq!(backend.journal.order(order.id).await.unwrap().unwrap(), order);
    let events = backend.journal.events_of(order.id).await.unwrap();
    assert!(matches!(&events[..], [event] if event.kind() == "order.placed"));
}

pub async fn the_same_key_makes_one_order_and_one_answer(home: Place) {
    let backend = home.open().await;
    let tries = (0..200).map(|_| backend.intake.place(placement(None, Some("key"), 1)));
    let answers = futures::future::join_all(tries).await;
    let (mut new, mut ids) = (0, std::collections::BTreeSet::new());
    for answer in answers {
        match answer.unwrap().into_inner() {
            Placed::New(order) => {
                new += 1;
                ids.insert(order.id);
            }
            Placed::Repeated(order) => {
                ids.insert(order.id);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((new, ids.len()), (1, 1));
    let other = backend.intake.place(placement(None, Some("key"), 2)).await.unwrap().into_inner();
    assert!(matches!(other, Placed::KeyReused));
}

pub async fn a_repeat_is_answered_with_the_order_as_it_was_placed(home: Place) {
    let backend = home.open().await;
    let Placed::New(order) = backend.intake.place(placement(None, Some("key"), 1)).await.unwrap().into_inner() else {
        panic!("not new");
    };
    let changed = backend.intake.change(order.id, Change::Confirmed {}).await.unwrap().into_inner();
    assert!(matches!(changed, Changed::Done(_)));
    let repeat = backend.intake.place(placement(None, Some("key"), 1)).await.unwrap().into_inner();
    assert!(matches!(repeat, Placed::Repeated(again) if again == order));
}

async fn a_reference_is_taken_once(home: Place) {
    let backend = home.open().await;
    let Placed::New(order) = backend.intake.place(placement(Some("R-1"), None, 1)).await.unwrap().into_inner() else {
        panic!("not new");
    };
    for (quantity, same) in [(1, true), (2, false)] {
        let again = backend.intake.place(placement(Some("R-1"), None, quantity)).await.unwrap().into_inner();
        assert!(
            matches!(again, Placed::ReferenceTaken { by, same_content } if by == order.id && same_content == same),
            "{again:?}"
        );
    }
}

async fn an_order_takes_legal_steps_only(home: Place) {
    let backend = home.open().await;
    let order = place(&backend).await;
    let cancel = || Change::Cancelled { reason: "no need".into() };
    let changed = backend.intake.change(order.id, cancel()).await.unwrap().into_inner();
    assert!(matches!(changed, Changed::Done(order) if order.status == Status::Cancelled && order.revision == 2));
    let again = backend.intake.change(order.id, cancel()).await.unwrap().into_inner();
    assert!(matches!(again, Changed::Illegal(illegal) if illegal.from == Status::Cancelled));
    let unknown = backend.intake.change(OrderId::generate(), cancel()).await.unwrap().into_inner();
    assert!(matches!(unknown, Changed::UnknownOrder));

    let backend = home.reopen(backend).await;
    let events = backend.journal.events_of(order.id).await.unwrap();
    let seen: Vec<_> = events
        .iter()
        .map(|event| match &event.body {
            Body::OrderChanged { order, change } => (order.revision, order.status, change.status()),
            Body::Custom(_) => panic!("no custom event was published"),
        })
        .collect();
    assert_eq!(seen, [(1, Status::Placed, Status::Placed), (2, Status::Cancelled, Status::Cancelled)]);
}

pub async fn an_event_from_outside_is_recorded_once(home: Place) {
    let backend = home.open().await;
    let event = |id: Option<&str>| Custom { origin_id: id.map(Into::into), ..custom("tea") };
    let first = backend.intake.publish(vec![event(Some("1")), event(Some("1")), event(None)]).await.unwrap();
    let repeated: Vec<bool> = first.iter().map(|published| published.repeated).collect();
    assert_eq!(repeated, [false, true, false]);
    let again = backend.intake.publish(vec![event(Some("1"))]).await.unwrap();
    assert_eq!((again[0].id, again[0].repeated), (first[0].id, true));

    let backend = home.reopen(backend).await;
    let events = events(&backend, 2).await;
    assert!(events.is_sorted_by(|one, other| one.position < other.position));
    assert_eq!(events.iter().map(|event| event.id).collect::<Vec<_>>(), [first[0].id, first[2].id]);
    let Body::Custom(custom) = &events[0].body else { panic!("an order change") };
    assert_eq!((&*custom.source, &*custom.subject, custom.data.get()), ("/test", "tea", r#"{"subject":"tea"}"#));
}

async fn lists_are_newest_first_and_go_on_where_they_ended(home: Place) {
    let backend = home.open().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(place(&backend).await.id);
    }
    backend.intake.change(ids[1], Change::Confirmed {}).await.unwrap().into_inner();
    ids.reverse();
    eventually("all orders in pages of two", async || {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = backend.journal.orders(OrderQuery { after, limit: 2, ..OrderQuery::default() }).await.unwrap();
            assert!(page.items.len() <= 2);
            seen.extend(page.items.into_iter().map(|order| order.id));
            after = page.next;
            if after.is_none() {
                return (seen == ids).then_some(());
            }
        }
    })
    .await;
    eventually("the one that is confirmed", async || {
        let confirmed = OrderQuery { status: Some(Status::Confirmed), limit: 9, ..OrderQuery::default() };
        let page = backend.journal.orders(confirmed).await.unwrap();
        (page.items.iter().map(|order| order.id).collect::<Vec<_>>() == [ids[3]]).then_some(())
    })
    .await;
    let customers = OrderQuery { customer: Some("c-1".into()), limit: 9, ..OrderQuery::default() };
    assert_eq!(backend.journal.orders(customers).await.unwrap().items.len(), 5);
    let stranger = OrderQuery { customer: Some("nobody".into()), limit: 9, ..OrderQuery::default() };
    assert!(backend.journal.orders(stranger).await.unwrap().items.is_empty());
}

async fn a_page_of_orders_is_full_where_there_are_more(home: Place) {
    let backend = home.open().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(place(&backend).await.id);
    }
    // Events of theirs that are newer than any order.
    let shipment = Shipment { carrier: "local".into(), tracking_number: "1".into(), tracking_url: None };
    for id in &ids {
        for change in [Change::Confirmed {}, Change::Shipped(shipment.clone()), Change::Delivered {}] {
            backend.intake.change(*id, change).await.unwrap().into_inner();
        }
    }
    ids.reverse();
    let listed = async |query: OrderQuery| {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = backend.journal.orders(OrderQuery { after, ..query.clone() }).await.unwrap();
            if page.items.len() < query.limit && page.next.is_some() {
                return None;
            }
            seen.extend(page.items.into_iter().map(|order| order.id));
            after = page.next;
            if after.is_none() {
                return Some(seen);
            }
        }
    };
    for limit in 1..=4 {
        let all = OrderQuery { limit, ..OrderQuery::default() };
        let delivered = OrderQuery { status: Some(Status::Delivered), ..all.clone() };
        let placed = OrderQuery { status: Some(Status::Placed), ..all.clone() };
        let of_customer = OrderQuery { customer: Some("c-1".into()), ..all.clone() };
        for query in [all, delivered, of_customer] {
            eventually("all of them, page by page", async || {
                (listed(query.clone()).await.as_ref() == Some(&ids)).then_some(())
            })
            .await;
        }
        eventually("none of them", async || listed(placed.clone()).await?.is_empty().then_some(())).await;
    }
}

async fn what_no_page_ended_with_is_not_a_cursor(home: Place) {
    let backend = home.open().await;
    place(&backend).await;
    for customer in [None, Some("c-1".to_owned())] {
        let query = OrderQuery { customer, after: Some("zz".into()), limit: 2, ..OrderQuery::default() };
        let refused = backend.journal.orders(query).await.unwrap_err();
        assert!(matches!(refused, Error::NotACursor(_)), "{refused}");
    }
    let refused = backend.journal.messages(Some("zz".into()), 2).await.unwrap_err();
    assert!(matches!(refused, Error::NotACursor(_)), "{refused}");
}

async fn nothing_has_happened_behind_a_position_that_is_yet_to_come(home: Place) {
    let backend = home.open().await;
    place(&backend).await;
    for position in [1 << 60, i64::MAX as u64, u64::MAX - 1, u64::MAX] {
        let events = backend.journal.events_after(Position::new(position), 100).await.unwrap();
        assert!(events.is_empty(), "{position}: {events:?}");
    }
}

async fn positions_say_where_events_stand(home: Place) {
    const ORDERS: usize = 5;
    let backend = home.open().await;
    let settled = backend.journal.settled();
    for _ in 0..ORDERS {
        place(&backend).await;
    }
    let stand: Vec<Position> = events(&backend, ORDERS).await.iter().map(|event| event.position).collect();
    let [first, second, .., last] = *stand else { panic!("{stand:?}") };
    let journal = &backend.journal;
    let positions = async |after, to, limit| {
        let mut positions = journal.positions(after, to, limit).await.unwrap();
        positions.sort_unstable();
        positions
    };
    let ever = Position::new(u64::MAX).unwrap();
    for to in [last, ever] {
        assert_eq!(positions(None, to, 100).await, stand);
    }
    assert_eq!(positions(Some(first), second, 100).await, [second]);
    assert_eq!(positions(Some(last), ever, 100).await, []);
    assert_eq!(positions(None, ever, 2).await.len(), 2);
    assert!(settled.is_none_or(|settled| settled < first), "others may still come to stand there");
}

claims! {
    positions_say_where_events_stand on [embedded, aws],
    an_order_that_was_answered_is_there_after_a_restart on [embedded, aws],
    the_same_key_makes_one_order_and_one_answer on [embedded, aws],
    a_repeat_is_answered_with_the_order_as_it_was_placed on [embedded, aws],
    a_reference_is_taken_once on [embedded, aws],
    an_order_takes_legal_steps_only on [embedded, aws],
    an_event_from_outside_is_recorded_once on [embedded, aws],
    lists_are_newest_first_and_go_on_where_they_ended on [embedded, aws],
    a_page_of_orders_is_full_where_there_are_more on [embedded, aws],
    what_no_page_ended_with_is_not_a_cursor on [embedded, aws],
    nothing_has_happened_behind_a_position_that_is_yet_to_come on [embedded, aws],
}
