//! What becomes of the messages of one invocation. Against emulators, where there are any.

use super::super::fixture::{Handed as Inboxed, lane};
use super::*;
use crate::backend::contract::publish;
use crate::backend::{Delivery, Inbox as _};

const PATIENCE: Duration = Duration::from_secs(120);

/// Deliveries may begin for this long, and end for as long as it takes.
fn begins_in(time: Duration) -> Until {
    let begin = Instant::now() + time;
    Until { begin, end: begin + PATIENCE }
}

/// The message of the only event of a subject, as Lambda hands it on.
async fn message(handed: &Inboxed, subject: &str) -> Message {
    publish(&handed.backend, subject).await;
    let [message] = &handed.messages(&lane(subject)).await[..] else { panic!("one event of {subject}") };
    let attributes = message.message_attributes().into_iter().flatten();
    let attributes = attributes.filter_map(|(name, value)| Some((name.clone(), value.string_value()?.to_owned())));
    Message {
        id: message.message_id().unwrap().to_owned(),
        group: Some(subject.to_owned()),
        body: message.body().unwrap().to_owned(),
        attributes: attributes.collect(),
    }
}

/// The next delivery of an invocation.
async fn lease(handed: &Inboxed) -> Delivery {
    let leased = async {
        loop {
            match handed.inbox.lease() {
                Some(delivery) => return delivery,
                None => sleep(LOOK_EVERY).await,
            }
        }
    };
    timeout(PATIENCE, leased).await.unwrap()
}

#[test]
fn a_message_has_the_fate_that_it_had_first() {
    let handed = Handed::default();
    handed.begin(["a", "b", "c"].map(str::to_owned).into_iter());
    handed.done(vec!["a".to_owned(), "of an invocation before".to_owned()]);
    handed.not_done(vec!["a".to_owned(), "b".to_owned()]);
    handed.done(vec!["b".to_owned()]);
    assert_eq!(handed.are_open(), ["c"]);
    assert_eq!(handed.take(), HashSet::from(["a".to_owned()]));
    handed.done(vec!["c".to_owned()]);
    assert!(handed.take().is_empty(), "nobody asks any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_begins_that_might_not_end_in_time_and_what_runs_ends() {
    let handed = Inboxed::open().await;
    let messages = [message(&handed, "tea").await, message(&handed, "salt").await];
    let until = begins_in(Duration::from_secs(5));
    let handles = async {
        let running = lease(&handed).await;
        let rests = async {
            while !handed.inbox.resting.load(Ordering::Relaxed) {
                sleep(LOOK_EVERY).await;
            }
        };
        timeout(PATIENCE / 2, rests).await.unwrap();
        assert!(Instant::now() >= until.begin && handed.inbox.lease().is_none());
        handed.done(running).await;
    };
    let (done, ()) = tokio::join!(handed.inbox.hand_in(&messages, until), handles);
    assert_eq!(done.iter().filter(|done| **done).count(), 1, "the other comes again");
    assert_eq!(handed.inbox.desk.lock().len(), 0, "nothing is in memory between two invocations");

    // Whoever is handed it next handles it.
    let again: Vec<Message> = messages.into_iter().zip(done).filter(|(_, done)| !done).map(|(it, _)| it).collect();
    let handles = async { handed.done(lease(&handed).await).await };
    let (done, ()) = tokio::join!(handed.inbox.hand_in(&again, begins_in(PATIENCE)), handles);
    assert_eq!(done, [true]);
    handed.backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_behind_one_that_is_not_done_in_its_group_comes_again_with_it() {
    let handed = Inboxed::open().await;
    let tea = message(&handed, "tea").await;
    // Put aside as no event, which needs nobody to handle it.
    let stranger = |id: &str, group: &str| Message {
        id: id.to_owned(),
        group: Some(group.to_owned()),
        body: "hello".to_owned(),
        attributes: BTreeMap::new(),
    };
    let messages = [stranger("1", "tea"), tea, stranger("2", "tea"), stranger("3", "salt")];
    let done = handed.inbox.hand_in(&messages, begins_in(Duration::from_secs(1))).await;
    assert_eq!(done, [true, false, false, true]);
    handed.backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_lost_sight_of_comes_again() {
    let inboxed = Inboxed::open().await;
    let handed = Handed::default();
    handed.begin(std::iter::once("lost".to_owned()));
    let settled = inboxed.inbox.settled(&handed, begins_in(PATIENCE));
    timeout(PATIENCE / 2, settled).await.unwrap();
    assert!(handed.are_open().is_empty() && handed.take().is_empty());
    inboxed.backend.lifecycle.close().await;
}
