//! The history of versions: added to, never changed, and it says what is kept.

use std::collections::BTreeSet;

use super::{Place, name};
use crate::backend::{Backend, Forgotten, HISTORY_MAX, PluginFile, Standing, Turn, TurnOutcome};
use crate::version::Hash;

pub(super) fn hash(plugin: &str) -> Hash {
    Hash::of(plugin.as_bytes())
}

pub(super) fn turn(outcome: TurnOutcome, file: &str, live: Option<&str>) -> Turn {
    let file = PluginFile {
        hash: Some(hash(file)),
        version: Some(file.to_owned()),
        state_version: Some(1),
        path: "consumers/alpha.wasm".to_owned(),
        owner: Some("ada".to_owned()),
    };
    Turn { outcome, reason: None, file, live: live.map(hash) }
}

async fn record(backend: &Backend, consumer: &str, turn: Turn, keep: usize) -> Vec<Hash> {
    backend.versions.record(&name(consumer), turn, keep).await.unwrap().into_inner()
}

async fn live(backend: &Backend, consumer: &str, file: &str, keep: usize) -> Vec<Hash> {
    record(backend, consumer, turn(TurnOutcome::Live, file, Some(file)), keep).await
}

async fn told(backend: &Backend, consumer: &str) -> Vec<(TurnOutcome, String, bool)> {
    let history = backend.versions.history(&name(consumer), 100).await.unwrap();
    history.into_iter().map(|it| (it.turn.outcome, it.turn.file.version.unwrap_or_default(), it.kept)).collect()
}

async fn the_newest_row_that_is_no_refusal_says_where_a_consumer_stands_and_outlives_a_restart(home: Place) {
    let backend = home.open().await;
    assert_eq!(backend.versions.standing(&name("alpha")).await.unwrap(), None);
    live(&backend, "alpha", "1", 5).await;
    live(&backend, "alpha", "2", 5).await;
    let back = Turn { reason: Some("too slow".to_owned()), ..turn(TurnOutcome::RolledBack, "2", Some("1")) };
    record(&backend, "alpha", back, 5).await;
    let refused = Turn { reason: Some("rubbish".to_owned()), ..turn(TurnOutcome::Refused, "3", None) };
    record(&backend, "alpha", refused.clone(), 5).await;
    // The same refusal again is no news.
    record(&backend, "alpha", refused, 5).await;
    live(&backend, "beta", "9", 5).await;

    let backend = home.reopen(backend).await;
    let expected = Standing {
        outcome: TurnOutcome::RolledBack,
        file: Some(hash("2")),
        live: Some(hash("1")),
        reason: Some("too slow".to_owned()),
    };
    assert_eq!(backend.versions.standing(&name("alpha")).await.unwrap(), Some(expected));
    let history = [
        (TurnOutcome::Refused, "3".to_owned(), false),
        (TurnOutcome::RolledBack, "2".to_owned(), true),
        (TurnOutcome::Live, "2".to_owned(), true),
        (TurnOutcome::Live, "1".to_owned(), true),
    ];
    assert_eq!(told(&backend, "alpha").await, history);
    backend.lifecycle.close().await;
}

async fn so_many_versions_are_kept_and_what_another_consumer_keeps_stays(home: Place) {
    let backend = home.open().await;
    assert_eq!(live(&backend, "beta", "1", 1).await, []);
    for file in ["1", "2", "3"] {
        assert_eq!(live(&backend, "alpha", file, 3).await, []);
    }
    assert_eq!(live(&backend, "alpha", "4", 3).await, [], "beta keeps it");
    assert_eq!(live(&backend, "alpha", "5", 3).await, [hash("2")]);
    // Going back makes a version new again.
    record(&backend, "alpha", turn(TurnOutcome::RolledBack, "5", Some("3")), 3).await;
    let gone: BTreeSet<_> = live(&backend, "alpha", "6", 2).await.into_iter().collect();
    assert_eq!(gone, ["4", "5"].map(hash).into());
    assert_eq!(backend.versions.kept().await.unwrap(), ["1", "3", "6"].map(hash).into());

    assert_eq!(live(&backend, "beta", "7", 1).await, [hash("1")]);
    backend.lifecycle.close().await;
}

async fn what_a_row_speaks_of_is_kept_however_little_is_to_be_kept(home: Place) {
    let backend = home.open().await;
    live(&backend, "alpha", "1", 1).await;
    assert_eq!(record(&backend, "alpha", turn(TurnOutcome::Canary, "2", Some("1")), 1).await, []);
    assert_eq!(backend.versions.kept().await.unwrap(), ["1", "2"].map(hash).into());
    assert_eq!(record(&backend, "alpha", turn(TurnOutcome::Promoted, "2", Some("2")), 1).await, [hash("1")]);
    live(&backend, "alpha", "3", 2).await;
    let back = turn(TurnOutcome::RolledBack, "3", Some("2"));
    assert_eq!(record(&backend, "alpha", back, 1).await, [hash("3")], "a file that is kept out is none to go back to");
    backend.lifecycle.close().await;
}

async fn a_history_is_bounded_and_never_forgets_where_its_consumer_stands(home: Place) {
    let backend = home.open().await;
    live(&backend, "alpha", "good", 5).await;
    for file in 0..HISTORY_MAX + 5 {
        record(&backend, "alpha", turn(TurnOutcome::Refused, &file.to_string(), Some("good")), 5).await;
    }
    let history = backend.versions.history(&name("alpha"), 2 * HISTORY_MAX).await.unwrap();
    assert_eq!(history.len(), HISTORY_MAX + 1);
    assert_eq!(history.last().map(|entry| entry.turn.outcome), Some(TurnOutcome::Live), "the oldest that is kept");
    let standing = backend.versions.standing(&name("alpha")).await.unwrap().unwrap();
    assert_eq!(standing.live, Some(hash("good")));
    backend.lifecycle.close().await;
}

async fn a_consumer_that_is_forgotten_leaves_no_history_and_keeps_no_version(home: Place) {
    let backend = home.open().await;
    live(&backend, "alpha", "1", 5).await;
    assert_eq!(backend.consumers.forget(&name("alpha")).await.unwrap().into_inner(), Forgotten::Unknown);
    assert_eq!(told(&backend, "alpha").await, []);
    assert_eq!(backend.versions.standing(&name("alpha")).await.unwrap(), None);
    assert!(backend.versions.kept().await.unwrap().is_empty());
    backend.lifecycle.close().await;
}

claims! {
    the_newest_row_that_is_no_refusal_says_where_a_consumer_stands_and_outlives_a_restart on [embedded, aws],
    so_many_versions_are_kept_and_what_another_consumer_keeps_stays on [embedded, aws],
    what_a_row_speaks_of_is_kept_however_little_is_to_be_kept on [embedded, aws],
    a_history_is_bounded_and_never_forgets_where_its_consumer_stands on [embedded, aws],
    a_consumer_that_is_forgotten_leaves_no_history_and_keeps_no_version on [embedded, aws],
}
