//! Against emulators: events that come to stand where the journal was followed before.

use super::*;
use crate::backend::aws::inbox::Inboxed;
use crate::backend::aws::journal::settled_below;
use crate::backend::aws::lane::Tail;
use crate::backend::aws::table::Transaction;
use crate::backend::contract::{custom, policy};
use crate::backend::{Inbox as _, InboxPolicy};
use crate::event::Body;

const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);

/// Follows the journal until nothing is left to look at, while what comes is handled: the numbers of the events.
async fn followed(handed: &Inboxed, audited: u64) -> Vec<u64> {
    let Inboxed { inbox, store, .. } = handed;
    let (mut handled, mut ahead) = (Vec::new(), 0);
    let follow = async { while step(inbox, store, "test", audited, &mut ahead).await.unwrap() {} };
    let handle = async {
        loop {
            handled.extend(handed.rest().await);
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = follow => {}
        () = handle => {}
        () = tokio::time::sleep(PATIENCE) => panic!("there is always more"),
    }
    handled
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_whose_write_took_long_comes_though_the_journal_was_followed_past_its_position() {
    let handed = Inboxed::open().await;
    let Inboxed { store, inbox, .. } = &handed;
    let logged = |subject| store.next(&Tail::default(), Body::Custom(custom(subject)), None);
    let write = async |logged: Logged| {
        let mut transaction = Transaction::default();
        transaction.create((), logged.item().unwrap());
        assert!(store.append(transaction, vec![logged]).await.unwrap().is_ok());
    };
    let (quick, slow) = (logged("quick"), logged("slow"));
    let (before, position) = (quick.position() - 1, slow.position());
    write(quick).await;
    while settled_below(Timestamp::now()) <= position {
        tokio::time::sleep(PAUSE).await;
    }
    assert!(inbox.known().catch_up.is_eager());
    assert_eq!(followed(&handed, before).await, [1], "what is young comes at once");
    assert!(inbox.known().catch_up.after <= before);
    write(slow).await;
    // A minute later, where SNS has not told of it.
    assert_eq!(followed(&handed, position).await, [1]);
    assert!(inbox.known().catch_up.after >= position);
    assert!(followed(&handed, position).await.is_empty());
    handed.backend.lifecycle.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_handles_nothing_any_more_lets_another_one_follow_at_once() {
    let handed = Inboxed::open().await;
    let Inboxed { store, inbox, .. } = &handed;
    let owner = async || {
        let item = store.table.get(&Key::consumer(&inbox.name)).await.unwrap().unwrap();
        (item.text_or_none("cuo").map(str::to_owned), item.number_or_none::<u64>("cut").unwrap())
    };
    let follows = tokio::spawn(run(Arc::clone(inbox), Arc::clone(store), "one".to_owned()));
    let until = async |wanted: &dyn Fn(u64) -> bool| {
        let begun = Instant::now();
        while !matches!(owner().await, (Some(of), Some(until)) if of == "one" && wanted(until)) {
            assert!(begun.elapsed() < PATIENCE, "{:?}", owner().await);
            tokio::time::sleep(PAUSE).await;
        }
    };
    until(&|until| until > 0).await;
    let mut ahead = 0;
    assert!(!step(inbox, store, "two", 1, &mut ahead).await.unwrap(), "it is another's");
    inbox.configure(InboxPolicy { concurrency: 0, ..policy() });
    until(&|until| until == 0).await;
    step(inbox, store, "two", 1, &mut ahead).await.unwrap();
    assert_eq!(owner().await.0.as_deref(), Some("two"));
    follows.abort();
    handed.backend.lifecycle.close().await;
}
