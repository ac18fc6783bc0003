//! Messages leave once, and what became of each is known.

use std::time::Duration;

use super::{Place, accept, done, eventually, inbox, lease, place, settled};
use crate::backend::{Backend, MessageState, Parcel, Sending};
use crate::clock::Timestamp;
use crate::effects::{Effects, Message};
use crate::event::EventId;

fn sms(to: &str) -> Message {
    Message::Sms { to: to.into(), text: "t".into() }
}

/// Commits messages of one delivery.
async fn send(backend: &Backend, to: &[&str]) -> EventId {
    let deliveries = inbox(backend, "alpha").await;
    place(backend).await;
    let delivery = lease(&deliveries).await;
    let event = delivery.event.id;
    let messages = to.iter().map(|to| sms(to)).collect();
    accept(&deliveries, delivery, done(Effects { messages, ..Effects::default() })).await;
    settled(backend, "alpha").await;
    event
}

/// So many as are due, once they are, by their ids.
async fn due(backend: &Backend, count: usize) -> Vec<Parcel> {
    eventually(&format!("{count} messages are due"), async || {
        let waited = tokio::time::timeout(Duration::from_secs(1), backend.outgoing.due(100)).await;
        let mut parcels = waited.ok()?.unwrap();
        parcels.sort_by(|one, other| one.message_id.cmp(&other.message_id));
        (parcels.len() == count).then_some(parcels)
    })
    .await
}

async fn told(backend: &Backend) -> Vec<(String, MessageState, u32, Option<String>)> {
    let mut messages = backend.journal.messages(None, 100).await.unwrap().items;
    messages.sort_by(|one, other| one.id.cmp(&other.id));
    messages.into_iter().map(|it| (it.id, it.state, it.attempts, it.last_error)).collect()
}

async fn messages_are_read_page_by_page_newest_first(home: Place) {
    let backend = home.open().await;
    for _ in 0..2 {
        send(&backend, &["+1", "+2", "+3"]).await;
    }
    let all: Vec<_> = backend.journal.messages(None, 100).await.unwrap().items.into_iter().map(|it| it.id).collect();
    assert_eq!(all.len(), 6);
    for limit in 1..=7 {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = backend.journal.messages(after, limit).await.unwrap();
            assert!(page.items.len() == limit || page.next.is_none(), "{}", page.items.len());
            seen.extend(page.items.into_iter().map(|it| it.id));
            let Some(next) = page.next else { break };
            let goes_into_a_url = |it: char| it.is_ascii_alphanumeric() || "-._~".contains(it);
            assert!(next.chars().all(goes_into_a_url), "{next}");
            after = Some(next);
        }
        assert_eq!(seen, all, "{limit} at a time");
    }
}

async fn a_message_is_due_until_it_is_settled_and_tells_what_became_of_it(home: Place) {
    let backend = home.open().await;
    let event = send(&backend, &["+1", "+2", "+3", "+4"]).await;
    let parcels = due(&backend, 4).await;
    let ids: Vec<String> = (1..=4).map(|n| format!("{event}.{n}.alpha")).collect();
    assert_eq!(parcels.iter().map(|parcel| parcel.message_id.clone()).collect::<Vec<_>>(), ids);
    assert!(parcels.iter().all(|parcel| parcel.attempts == 0), "{parcels:?}");
    assert_eq!(
        parcels.iter().map(|parcel| parcel.message.clone()).collect::<Vec<_>>(),
        ["+1", "+2", "+3", "+4"].map(sms)
    );
    let pending = |id: &String| (id.clone(), MessageState::Pending, 0, None);
    assert_eq!(told(&backend).await, ids.iter().map(pending).collect::<Vec<_>>());

    let later = Timestamp::now().plus(Duration::from_secs(1_500));
    let endings = [
        Sending::Sent,
        Sending::Again { at: later, error: "busy".into() },
        Sending::Failed { error: "no such number".into() },
        Sending::Unknown { error: "cut off".into() },
    ];
    let settled = parcels.into_iter().map(|parcel| parcel.id).zip(endings).collect();
    backend.outgoing.settle(settled).await.unwrap();
    let backend = home.reopen(backend).await;
    let ended = [
        (MessageState::Sent, None),
        (MessageState::Pending, Some("busy")),
        (MessageState::Failed, Some("no such number")),
        (MessageState::Unknown, Some("cut off")),
    ];
    let ended = ids.into_iter().zip(ended).map(|(id, (state, error))| (id, state, 1, error.map(str::to_owned)));
    assert_eq!(told(&backend).await, ended.collect::<Vec<_>>());
    // None of them is due beside one that comes later.
    let later = send(&backend, &["+5"]).await;
    assert_eq!(due(&backend, 1).await[0].message_id, format!("{later}.1.alpha"));
}

async fn messages_that_are_sent_together_are_told_of_together(home: Place) {
    let backend = home.open().await;
    let numbers: Vec<String> = (100..160).map(|n| format!("+{n}")).collect();
    let event = send(&backend, &numbers.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let parcels = due(&backend, 60).await;
    let again = Timestamp::now().plus(Duration::from_secs(1_500));
    let ending = |n: usize| match n {
        30 => Sending::Again { at: again, error: "busy".into() },
        _ => Sending::Sent,
    };
    let settled = parcels.into_iter().enumerate().map(|(n, parcel)| (parcel.id, ending(n))).collect();
    backend.outgoing.settle(settled).await.unwrap();
    let told: Vec<(MessageState, u32)> =
        told(&backend).await.into_iter().map(|(_, state, attempts, _)| (state, attempts)).collect();
    let sent = (MessageState::Sent, 1);
    assert_eq!(told.iter().filter(|one| **one == sent).count(), 59);
    assert_eq!(told.iter().filter(|one| **one == (MessageState::Pending, 1)).count(), 1);
    let later = send(&backend, &["+5"]).await;
    assert_eq!(due(&backend, 1).await[0].message_id, format!("{later}.1.alpha"), "none of {event} is due");
}

async fn a_message_that_is_tried_again_is_due_in_time_under_the_same_id(home: Place) {
    let backend = home.open().await;
    let event = send(&backend, &["+1"]).await;
    let first = due(&backend, 1).await.remove(0);
    let at = Timestamp::now().plus(Duration::from_millis(300));
    backend.outgoing.settle(vec![(first.id, Sending::Again { at, error: "busy".into() })]).await.unwrap();
    let backend = home.reopen(backend).await;
    let second = due(&backend, 1).await.remove(0);
    assert!(Timestamp::now() >= at, "it is due no sooner");
    assert_eq!((second.message_id, second.attempts), (format!("{event}.1.alpha"), 1));
    assert_eq!((second.message, second.time), (first.message, first.time));
}

async fn a_try_that_a_clock_put_off_before_it_was_set_back_is_due(home: Place) {
    let backend = home.open().await;
    let event = send(&backend, &["+1"]).await;
    let first = due(&backend, 1).await.remove(0);
    let tomorrow = Timestamp::now().plus(Duration::from_secs(24 * 3_600));
    backend.outgoing.settle(vec![(first.id, Sending::Again { at: tomorrow, error: "busy".into() })]).await.unwrap();
    let second = due(&backend, 1).await.remove(0);
    assert_eq!((second.message_id, second.attempts), (format!("{event}.1.alpha"), 1));
}

claims! {
    messages_are_read_page_by_page_newest_first on [embedded, aws],
    a_message_is_due_until_it_is_settled_and_tells_what_became_of_it on [embedded, aws],
    messages_that_are_sent_together_are_told_of_together on [embedded, aws],
    a_message_that_is_tried_again_is_due_in_time_under_the_same_id on [embedded, aws],
    a_try_that_a_clock_put_off_before_it_was_set_back_is_due on [embedded] because "hosts have a clock each",
}
