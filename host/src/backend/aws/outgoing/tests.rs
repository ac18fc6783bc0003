//! Which messages this host may send; against emulators, that no other host does so meanwhile.

use super::*;
use crate::backend::aws::inbox::Inboxed;
use crate::backend::contract::{done, publish};
use crate::backend::{Finished, Inbox};
use crate::effects::{Effects, Reads};

const SECOND: Duration = Duration::from_secs(1);

fn sms(to: &str) -> Message {
    Message::Sms { to: to.into(), text: "t".into() }
}

/// A message that was written at `time`, due to everybody at `due`.
fn staged(id: &str, time: Timestamp, due: Timestamp) -> Staged {
    let (message_id, message) = (id.to_owned(), sms("+1"));
    Staged { parcel: Parcel { id: id.into(), message_id, message, attempts: 0, time }, due, item: Item::default() }
}

fn ids(parcels: Vec<Parcel>) -> Vec<String> {
    parcels.into_iter().map(|parcel| parcel.message_id).collect()
}

#[test]
fn what_others_may_have_taken_up_meanwhile_is_not_sent_here() {
    let (handed, now) = (Handed::default(), Timestamp::now());
    let ago = |time: Duration| now.minus(time);
    let late = ago(CLAIM / 2 + SECOND);
    handed.hand(vec![
        staged("waited for long", late, late.plus(CLAIM)),
        staged("due to all", now, now),
        staged("new", now, now.plus(CLAIM)),
    ]);
    assert_eq!(ids(handed.take(10)), ["new"]);
    assert!(handed.take(10).is_empty() && !handed.is_idle(), "the sender has it");
    handed.settled(&"new".into());
    assert!(handed.is_idle());
}

#[test]
fn a_message_is_written_whole_only_as_long_as_nobody_else_may_have_changed_it() {
    let (handed, now) = (Handed::default(), Timestamp::now());
    handed.hand(vec![staged("a", now, now.plus(CLAIM))]);
    assert_eq!(handed.take(10).len(), 1);
    assert!(handed.written(&"a".into()).is_some());
    assert!(handed.written(&"b".into()).is_none());
    let said = |at| handed.state.lock().sending.get_mut("a").unwrap().said_at = at;
    said(now.minus(CLAIM / 2 + SECOND));
    assert!(handed.written(&"a".into()).is_none());
    handed.kept(&"a".into(), now);
    assert!(handed.written(&"a".into()).is_some(), "it was said again that it is not for others");
}

#[test]
fn messages_are_handed_to_a_sender_where_there_is_one() {
    let (handed, now) = (Handed::default(), Timestamp::now());
    assert_eq!(handed.due_at(now), now, "nobody has asked here for what is due");
    assert!(handed.is_look_due(10) && !handed.is_look_due(10), "the table is looked at from time to time");
    assert_eq!(handed.due_at(now), now.plus(CLAIM));
    let many = (0..HANDED_MAX).map(|n| staged(&n.to_string(), now, now.plus(CLAIM)));
    handed.hand(many.collect());
    assert_eq!(handed.due_at(now), now, "there is too much to do here");
}

#[test]
fn messages_are_kept_as_long_as_the_sender_has_them_but_not_for_ever() {
    let (handed, now) = (Handed::default(), Timestamp::now());
    handed.hand(["a", "b"].map(|id| staged(id, now, now.plus(CLAIM))).into());
    assert_eq!(handed.take(1).len(), 1);
    assert!(handed.begins_to_keep() && !handed.begins_to_keep(), "once for all");
    assert!(handed.to_be_kept(now).is_empty(), "it was said just now");
    let later = now.plus(KEEP_EVERY + SECOND);
    assert_eq!(handed.to_be_kept(later), [("a".into(), now)]);
    handed.kept(&"a".into(), later);
    assert!(handed.to_be_kept(later).is_empty() && handed.goes_on_keeping());
    assert!(handed.to_be_kept(now.plus(KEPT_MAX + SECOND)).is_empty() && !handed.goes_on_keeping());
    assert!(handed.begins_to_keep());
}

/// Ends a delivery with messages, on a host where somebody sends.
async fn ended_with(messages: &[&str], reads: &Reads) -> (Inboxed, Finished) {
    let handed = Inboxed::open().await;
    assert!(handed.store.outgoing.is_look_due(10));
    publish(&handed.backend, "tea").await;
    handed.take_in("tea").await;
    let delivery = handed.lease().unwrap();
    let effects = Effects { messages: messages.iter().map(|to| sms(to)).collect(), ..Effects::default() };
    let finished = handed.inbox.finish(delivery, reads, done(effects)).await;
    (handed, finished)
}

async fn with_messages(messages: &[&str]) -> Inboxed {
    let (handed, finished) = ended_with(messages, &Reads::default()).await;
    assert!(matches!(finished, Finished::Accepted), "{finished:?}");
    handed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_sent_of_an_end_that_was_refused() {
    let reads = Reads { entries: vec![("k".into(), Some(b"as it was".as_slice().into()))], ..Reads::default() };
    let (handed, finished) = ended_with(&["+1"], &reads).await;
    assert!(matches!(finished, Finished::Conflict(_)), "{finished:?}");
    assert!(handed.store.outgoing.take(10).is_empty());
    handed.backend.lifecycle.close().await;
}

/// What the table says of a message: state, tries, and when it is due to everybody.
async fn stands(store: &Store, id: &ParcelId) -> (MessageState, u32, Option<Timestamp>) {
    let item = store.table.get(&key_of(id)).await.unwrap().unwrap();
    (state(&item).unwrap(), item.number("att").unwrap(), item.time_or_none("ls").unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_sender_keeps_its_messages_from_other_hosts() {
    let handed = with_messages(&["+1", "+2"]).await;
    let store = &handed.store;
    let aws = Aws { store: Arc::clone(store) };
    let [one, two] = aws.due(10).await.unwrap().try_into().unwrap();
    assert!(!store.outgoing.begins_to_keep(), "somebody sees to it");
    let due = stands(store, &one.id).await.2.unwrap();
    assert_eq!(due, one.time.plus(CLAIM));
    // Another host has the second one by now.
    let theirs = due.plus(Duration::from_secs(7));
    let taken = Change::of("SET ls = :at").value(":at", number(theirs.as_millis()));
    store.table.update(&key_of(&two.id), taken).await.unwrap().unwrap();

    let later = one.time.plus(CLAIM - SECOND);
    keep_once(store, later).await;
    assert_eq!(stands(store, &one.id).await, (MessageState::Pending, 0, Some(later.plus(CLAIM))));
    assert_eq!(stands(store, &two.id).await, (MessageState::Pending, 0, Some(theirs)));
    let much_later = later.plus(CLAIM - SECOND);
    keep_once(store, much_later).await;
    assert_eq!(stands(store, &one.id).await.2, Some(much_later.plus(CLAIM)));

    aws.settle(vec![(one.id.clone(), Sending::Sent)]).await.unwrap();
    keep_once(store, much_later.plus(CLAIM - SECOND)).await;
    assert_eq!(stands(store, &one.id).await, (MessageState::Sent, 1, None));
    let item = store.table.get(&key_of(&one.id)).await.unwrap().unwrap();
    assert!(item.number_or_none::<u64>("ttl").unwrap().is_some(), "it may go by age");
    handed.backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_that_is_noted_again_is_one_try_and_ends_nothing_that_has_ended() {
    let handed = with_messages(&["+1"]).await;
    let (store, at) = (&handed.store, Timestamp::now().plus(Duration::from_secs(900)));
    let aws = Aws { store: Arc::clone(store) };
    let [one] = store.outgoing.take(10).try_into().unwrap();
    let has = store.outgoing.state.lock().sending.clone();
    let again = || aws.settle(vec![(one.id.clone(), Sending::Again { at, error: "busy".into() })]);
    for _ in 0..2 {
        // The answer to the first one was lost.
        store.outgoing.state.lock().sending.clone_from(&has);
        again().await.unwrap();
        assert_eq!(stands(store, &one.id).await, (MessageState::Pending, 1, Some(at)));
    }
    let failed = Sending::Failed { error: "no such number".into() };
    aws.settle(vec![(one.id.clone(), failed)]).await.unwrap();
    assert_eq!(stands(store, &one.id).await, (MessageState::Failed, 2, None));
    again().await.unwrap();
    assert_eq!(stands(store, &one.id).await, (MessageState::Failed, 2, None), "it arrived late");
    aws.settle(vec![(one.id.clone(), Sending::Sent)]).await.unwrap();
    assert_eq!(stands(store, &one.id).await.0, MessageState::Sent, "that is true, whatever was said");
    handed.backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_sender_did_not_get_to_is_due_to_everybody_at_once() {
    let handed = with_messages(&["+1", "+2"]).await;
    let store = &handed.store;
    let [first] = store.outgoing.take(1).try_into().unwrap();
    give_back(store).await;
    assert!(store.outgoing.is_idle());
    let partition = Indexed { partition: DUE.into(), from: 0, to: u64::MAX >> 11, newest_first: false, limit: 10 };
    let due = store.table.indexed(partition).await.unwrap();
    let due: Vec<(bool, bool)> =
        due.iter().map(|(key, at)| (*key == key_of(&first.id), *at <= Timestamp::now().as_millis())).collect();
    assert_eq!(due, [(false, true), (true, false)], "the first one may have been sent");
    handed.backend.lifecycle.close().await;
}
