//! Hosts that share a store tell each other of versions.

use std::collections::BTreeMap;
use std::time::Duration;

use super::versions::{hash, turn};
use super::{Place, inbox, name, policy};
use crate::backend::{Backend, Forgotten, HostRuns, InboxPolicy, Running, RunningVersion, TurnOutcome};
use crate::version::Binary;

/// More than fits into one item of a table.
fn file(content: u8) -> Binary {
    let bytes: Vec<u8> = (0..900_000_u32).map(|at| content.wrapping_add(u8::try_from(at % 251).unwrap())).collect();
    Binary::from(bytes)
}

async fn live(backend: &Backend, consumer: &str, file: &Binary) {
    let mut turn = turn(TurnOutcome::Live, "1", None);
    (turn.file.hash, turn.live) = (Some(*file.hash()), Some(*file.hash()));
    backend.versions.record(&name(consumer), turn, 1).await.unwrap().into_inner();
}

async fn a_file_that_one_host_keeps_is_there_for_all_until_nobody_keeps_its_version(home: Place) {
    let (backend, other) = (home.open().await, home.open().await);
    let [first, second, third] = [1, 2, 3].map(file);
    assert!(other.fleet.file(first.hash()).await.unwrap().is_none());
    for consumer in ["alpha", "beta"] {
        backend.fleet.keep_file(&first).await.unwrap();
        live(&backend, consumer, &first).await;
    }
    assert!(other.fleet.has_file(first.hash()).await.unwrap());
    assert_eq!(*other.fleet.file(first.hash()).await.unwrap().unwrap(), *first);

    backend.fleet.keep_file(&second).await.unwrap();
    live(&backend, "alpha", &second).await;
    assert!(other.fleet.has_file(first.hash()).await.unwrap(), "beta keeps it");
    live(&other, "beta", &second).await;
    assert!(other.fleet.file(first.hash()).await.unwrap().is_none());
    assert_eq!(*other.fleet.file(second.hash()).await.unwrap().unwrap(), *second);

    other.fleet.keep_file(&third).await.unwrap();
    live(&other, "gone", &third).await;
    backend.consumers.forget(&name("gone")).await.unwrap().into_inner();
    assert!(backend.fleet.file(third.hash()).await.unwrap().is_none());
    other.lifecycle.close().await;
    backend.lifecycle.close().await;
}

async fn a_host_hears_what_others_decide_and_run_and_when_they_leave(home: Place) {
    let (backend, other) = (home.open().await, home.open().await);
    let mut standings = other.fleet.standings().unwrap();
    let back = turn(TurnOutcome::RolledBack, "2", Some("1"));
    backend.versions.record(&name("alpha"), back, 5).await.unwrap().into_inner();
    let heard = standings.wait_for(|standings| standings.contains_key(&name("alpha")));
    let heard = tokio::time::timeout(PATIENCE, heard).await.unwrap().unwrap().clone();
    let standing = &heard[&name("alpha")];
    assert_eq!((standing.outcome, standing.live), (TurnOutcome::RolledBack, Some(hash("1"))));
    assert_eq!(backend.versions.standing(&name("alpha")).await.unwrap().as_ref(), Some(standing));

    let on = turn(TurnOutcome::Promoted, "2", Some("2"));
    backend.versions.record(&name("alpha"), on, 5).await.unwrap().into_inner();
    let follows = standings.wait_for(|standings| standings[&name("alpha")].live == Some(hash("2")));
    tokio::time::timeout(PATIENCE, follows).await.unwrap().unwrap();

    let runs = |file: &str| {
        let version = RunningVersion { version: file.to_owned(), hash: hash(file) };
        Running::from([(name("alpha"), version)])
    };
    backend.fleet.tell_running(runs("1"));
    other.fleet.tell_running(runs("2"));
    for host in [&backend, &other] {
        seen(host, &[runs("1"), runs("2")]).await;
    }
    let names: BTreeMap<String, ()> = other.fleet.hosts().into_iter().map(|host| (host.host, ())).collect();
    assert_eq!(names.len(), 2, "each has a name of its own");
    backend.lifecycle.close().await;
    seen(&other, &[runs("2")]).await;
    other.lifecycle.close().await;
}

async fn a_consumer_that_another_host_runs_is_not_forgotten(home: Place) {
    let (backend, other) = (home.open().await, home.open().await);
    let alpha = name("alpha");
    let inbox = inbox(&backend, "alpha").await;
    let version = RunningVersion { version: "1".to_owned(), hash: hash("1") };
    let runs = Running::from([(alpha.clone(), version)]);
    backend.fleet.tell_running(runs.clone());
    seen(&other, &[Running::new(), runs]).await;
    let forget = async || other.consumers.forget(&alpha).await.unwrap().into_inner();
    assert_eq!(forget().await, Forgotten::InUse);
    assert!(other.consumers.known().await.unwrap().iter().any(|report| report.name == alpha));
    // Its file is taken away there.
    inbox.configure(InboxPolicy { concurrency: 0, ..policy() });
    drop(inbox);
    backend.fleet.tell_running(Running::new());
    seen(&other, &[Running::new(), Running::new()]).await;
    assert_eq!(forget().await, Forgotten::Done);
    other.lifecycle.close().await;
    backend.lifecycle.close().await;
}

const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until a host knows of hosts that run this, and of no other.
async fn seen(backend: &Backend, expected: &[Running]) {
    let seen = async {
        loop {
            let mut hosts: Vec<Running> =
                backend.fleet.hosts().into_iter().map(|HostRuns { running, .. }| running).collect();
            hosts.sort_by_key(|running| running.values().map(|it| it.version.clone()).collect::<Vec<_>>());
            if hosts == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let seen = tokio::time::timeout(PATIENCE, seen).await;
    assert!(seen.is_ok(), "instead: {:?}", backend.fleet.hosts());
}

claims! {
    a_file_that_one_host_keeps_is_there_for_all_until_nobody_keeps_its_version on [aws]
        because "a store on one machine has one host, which keeps the files in its data directory",
    a_host_hears_what_others_decide_and_run_and_when_they_leave on [aws]
        because "a store on one machine has one host",
    a_consumer_that_another_host_runs_is_not_forgotten on [aws] because "a store on one machine has one host",
}
