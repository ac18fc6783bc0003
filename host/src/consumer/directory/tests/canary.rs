//! Stories of new versions that are tried on a share of the orders.

use std::path::Path;
use std::time::Duration;

use super::world::World;
use crate::consumer::status::CandidateState;
use crate::consumer::steer::Refusal;

const ONE: &str = "plugin 1.0.0";
const TWO: &str = "plugin 2.0.0";
const ROLLOUT: &str = "[rollout]\npercent = 10\nmin_events = 20\nmax_failure_rate = 0.1";

/// Version 1.0.0 runs, and 2.0.0 is tried beside it.
async fn trying(rollout: &str) -> World {
    let world = World::open(&[("a.wasm", ONE), ("a.toml", rollout)]).await;
    assert!(world.running("a", "1.0.0"), "there was nothing before it");
    world.put("a.wasm", TWO);
    world.until("the new one is tried", || world.tries("a", "1.0.0", "2.0.0")).await;
    world
}

fn nothing(_: &Path) {}

#[tokio::test]
async fn a_new_version_gets_a_share_and_is_promoted_when_it_has_shown_enough() {
    let world = trying(ROLLOUT).await;
    let trial = world.trial("a");
    for _ in 0..19 {
        trial.done(Duration::from_micros(10));
    }
    let shown = serde_json::to_value(world.status("a").unwrap().candidate).unwrap();
    assert_eq!((&shown["state"], &shown["share"], &shown["events"]), (&"canary".into(), &"10%".into(), &19.into()));
    trial.done(Duration::from_micros(10));
    world.until("it is promoted", || world.running("a", "2.0.0")).await;
    assert_eq!(world.log(), ["start a 1.0.0", "try a 2.0.0", "swap a 2.0.0"]);
    assert_eq!(world.history("a").await, ["live 1.0.0", "canary 2.0.0", "promoted 2.0.0"]);
    let world = world.reopen(nothing).await;
    assert!(world.running("a", "2.0.0"), "and stays");
    world.close().await;
}

#[tokio::test]
async fn one_that_fails_too_much_is_rolled_back_and_stays_out_until_its_file_changes() {
    let world = trying(ROLLOUT).await;
    let trial = world.trial("a");
    for _ in 0..3 {
        trial.failed();
    }
    assert!(!trial.is_open(), "it gets no order more");
    world.until("it is rolled back", || world.kept("a", "1.0.0", CandidateState::RolledBack)).await;
    let reason = world.status("a").unwrap().reason.unwrap();
    assert!(reason.contains("it failed 3 of 3 events, and rollout.max_failure_rate is 0.1"), "{reason}");
    let world = world.reopen(nothing).await;
    assert!(world.kept("a", "1.0.0", CandidateState::RolledBack));
    world.put("a.wasm", "plugin 2.0.1");
    world.until("the next one is tried", || world.tries("a", "1.0.0", "2.0.1")).await;
    world.close().await;
}

#[tokio::test]
async fn a_restart_begins_the_trial_anew_and_a_file_that_came_meanwhile_is_tried_too() {
    let world = trying(ROLLOUT).await;
    world.trial("a").failed();
    let world = world.reopen(nothing).await;
    assert!(world.tries("a", "1.0.0", "2.0.0"));
    assert_eq!(world.trial("a").progress().failed, 0);
    let world = world.reopen(|dir| std::fs::write(dir.join("a.wasm"), "plugin 3.0.0").unwrap()).await;
    assert!(world.tries("a", "1.0.0", "3.0.0"));
    assert_eq!(world.history("a").await, ["live 1.0.0", "canary 2.0.0", "canary 3.0.0"]);
    world.close().await;
}

#[tokio::test]
async fn a_person_ends_a_trial_either_way() {
    let world = trying(ROLLOUT).await;
    world.promote("a").await.unwrap();
    assert!(world.running("a", "2.0.0"));
    world.put("a.wasm", "plugin 3.0.0");
    world.until("the next one is tried", || world.tries("a", "2.0.0", "3.0.0")).await;
    world.roll_back("a", None).await.unwrap();
    assert!(world.kept("a", "2.0.0", CandidateState::RolledBack));
    world.promote("a").await.unwrap();
    assert!(world.running("a", "3.0.0"), "rolled back or not");
    world.close().await;
}

#[tokio::test]
async fn another_layout_of_state_cannot_be_tried_beside_and_is_taken_when_a_person_says_so() {
    let world = World::open(&[("a.wasm", ONE), ("a.toml", ROLLOUT)]).await;
    world.put("a.wasm", "plugin 2.0.0 state 2");
    world.until("it is refused", || world.kept("a", "1.0.0", CandidateState::Failed)).await;
    let reason = world.status("a").unwrap().candidate.unwrap().reason;
    assert!(reason.contains("layout 2") && reason.contains("consumers promote a"), "{reason}");
    world.promote("a").await.unwrap();
    assert!(world.running("a", "2.0.0"));
    assert_eq!(world.log(), ["start a 1.0.0", "stop a 1.0.0", "start a 2.0.0"]);
    world.close().await;
}

#[tokio::test]
async fn a_side_file_saved_during_a_trial_keeps_its_counts_unless_it_changes_the_rule() {
    let world = trying(ROLLOUT).await;
    world.trial("a").failed();
    world.put("a.toml", &format!("concurrency = 3\n{ROLLOUT}"));
    world.until("it is in force", || world.concurrency("a") == 3).await;
    assert_eq!(world.trial("a").progress().failed, 1);
    world.put("a.toml", &format!("concurrency = 4\n{ROLLOUT}\nmax_slowdown = 2"));
    world.until("it is in force", || world.concurrency("a") == 4).await;
    assert_eq!(world.trial("a").progress().failed, 0);
    // Without a rollout, new files are taken whole: the one that waits too.
    world.put("a.toml", "concurrency = 5");
    world.until("it runs", || world.running("a", "2.0.0")).await;
    world.close().await;
}

#[tokio::test]
async fn a_bad_file_during_a_trial_ends_it_and_leaves_the_version_before() {
    let world = trying(ROLLOUT).await;
    world.put("a.wasm", "rubbish");
    world.until("the refusal shows", || world.kept("a", "1.0.0", CandidateState::Failed)).await;
    world.put("a.wasm", TWO);
    world.until("it is tried again", || world.tries("a", "1.0.0", "2.0.0")).await;
    world.remove("a.wasm");
    world.until("nothing runs", || world.log().last().unwrap() == "stop a 1.0.0").await;
    world.close().await;
}

#[tokio::test]
async fn a_promotion_that_the_store_broke_off_halfway_is_completed() {
    let world = World::open(&[("a.wasm", ONE), ("a.toml", ROLLOUT)]).await;
    world.put("a.wasm", "plugin 2.0.0 state 2");
    world.until("it is refused", || world.kept("a", "1.0.0", CandidateState::Failed)).await;
    world.refuse_starts(1);
    assert!(matches!(world.promote("a").await, Err(Refusal::Store(_))), "the version before has stopped already");
    world.until("it runs", || world.running("a", "2.0.0")).await;
    assert_eq!(world.history("a").await, ["live 1.0.0", "refused 2.0.0", "promoted 2.0.0"]);
    world.close().await;
}

#[tokio::test]
async fn a_trial_goes_on_and_is_judged_where_another_host_takes_up_a_file_of_its_own() {
    let world = World::open_sharing(&[("a.wasm", ONE), ("a.toml", ROLLOUT)]).await;
    world.put("a.wasm", TWO);
    world.until("the new one is tried", || world.tries("a", "1.0.0", "2.0.0")).await;
    let trial = world.trial("a");
    world.runs_elsewhere("a", "plugin 0.9.0").await;
    world.put("a.toml", &format!("concurrency = 3\n{ROLLOUT}"));
    world.until("the side file is in force", || world.concurrency("a") == 3).await;
    assert!(world.tries("a", "1.0.0", "2.0.0"));
    world.runs_elsewhere("a", "plugin 0.9.0").await;
    for _ in 0..3 {
        trial.failed();
    }
    world.until("it is rolled back", || world.kept("a", "1.0.0", CandidateState::RolledBack)).await;
    world.close().await;
}
