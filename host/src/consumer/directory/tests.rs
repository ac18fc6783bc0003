//! Stories over real files in a folder of their own, with a loader that reads a line of text for a plugin.

mod canary;
mod shadow;
mod versions;
mod world;

use world::{World, looks_on, no_side_file};

use super::super::status::{CandidateState, ConsumerStatus, State};
use super::*;

#[tokio::test]
async fn a_plugin_dropped_in_runs() {
    let world = World::open(&[]).await;
    world.put("loyalty.wasm", "plugin 1.0.0");
    world.until("loyalty runs", || world.running("loyalty", "1.0.0")).await;
    assert_eq!(world.log(), ["start loyalty 1.0.0"]);
    world.close().await;
}

#[tokio::test]
async fn plugins_that_are_there_run_before_open_returns_and_a_bad_one_does_not_block_it() {
    let world = World::open(&[("a.wasm", "plugin 1.0.0"), ("b.wasm", "no plugin"), ("c.wasm", "plugin 2.0.0")]).await;
    assert!(world.running("a", "1.0.0") && world.running("c", "2.0.0"));
    let b = world.status("b").unwrap();
    assert_eq!((b.state, b.reason.as_deref()), (State::Failed, Some("the file is no plugin")));
    world.close().await;
}

#[tokio::test]
async fn what_was_taken_up_asks_for_no_other_look() {
    assert!(!looks_on(&[("a.wasm", "plugin 1.0.0"), ("b.wasm", "no plugin"), ("c.wasm", "plugin 2.0.0")]).await);
}

#[tokio::test]
async fn a_new_file_is_swapped_in_and_a_touched_one_is_not() {
    let world = World::open(&[("a.wasm", "plugin 1.0.0")]).await;
    world.put("a.wasm", "plugin 1.0.0");
    world.put("b.wasm", "plugin 1.0.0");
    world.until("b runs", || world.running("b", "1.0.0")).await;
    world.put("a.wasm", "plugin 1.1.0");
    world.until("the new version runs", || world.running("a", "1.1.0")).await;
    assert_eq!(world.loads("plugin 1.0.0"), 2, "a's when it came and b's");
    assert_eq!(world.log(), ["start a 1.0.0", "start b 1.0.0", "swap a 1.1.0"]);
    world.close().await;
}

#[tokio::test]
async fn a_bad_file_leaves_the_old_version_running_and_a_good_one_after_it_recovers() {
    let world = World::open(&[("a.wasm", "plugin 1.0.0")]).await;
    world.put("a.wasm", "rubbish");
    world.until("the refusal shows", || world.kept("a", "1.0.0", CandidateState::Failed)).await;
    assert_eq!(world.status("a").unwrap().reason.unwrap(), "version 1.0.0 keeps running: the file is no plugin");
    world.put("a.wasm", "plugin 2.0.0");
    world.until("the good one runs", || world.running("a", "2.0.0")).await;
    assert_eq!(world.log(), ["start a 1.0.0", "swap a 2.0.0"]);
    world.close().await;
}

#[tokio::test]
async fn a_refused_file_is_tried_once_until_it_changes() {
    let world = World::open(&[("a.wasm", "rubbish")]).await;
    world.put("a.toml", "concurrency = 3");
    // Looks go on meanwhile: another consumer that comes and goes proves it.
    world.put("b.wasm", "plugin 1.0.0");
    world.until("b runs", || world.running("b", "1.0.0")).await;
    world.remove("b.wasm");
    world.until("b is removed", || world.state("b") == Some(State::Removed)).await;
    assert_eq!(world.loads("rubbish"), 1);
    world.close().await;
}

#[tokio::test]
async fn a_directory_in_place_of_a_file_is_refused_and_the_old_version_keeps_running() {
    let world = World::open(&[("a.wasm", "plugin 1.0.0")]).await;
    world.remove("a.wasm");
    std::fs::create_dir(world.path("a.wasm")).unwrap();
    world.until("the refusal shows", || world.kept("a", "1.0.0", CandidateState::Failed)).await;
    assert!(world.status("a").unwrap().reason.unwrap().contains("a.wasm is a directory, not a file"));
    assert_eq!(world.log(), ["start a 1.0.0"]);
    world.close().await;
}

#[tokio::test]
async fn a_copy_in_pieces_is_never_read_by_halves() {
    let world = World::open_settling(Duration::from_secs(1)).await;
    let whole = "plugin 1.0.0";
    for end in 1..=whole.len() {
        world.put("a.wasm", &whole[..end]);
        world.until("the piece is there", || world.bytes("a") == Some(end as u64)).await;
    }
    world.until("its arrival shows", || world.state("a") == Some(State::Loading)).await;
    world.until("a runs", || world.running("a", "1.0.0")).await;
    assert_eq!((world.loads(whole), world.loads_all()), (1, 1));
    world.close().await;
}

#[tokio::test]
async fn of_two_quick_saves_the_last_runs() {
    let world = World::open(&[("a.wasm", "plugin 1.0.0")]).await;
    world.put("a.wasm", "plugin 2.0.0");
    world.put("a.wasm", "plugin 3.0.0");
    world.until("the last runs", || world.running("a", "3.0.0")).await;
    assert_eq!(world.log().last().unwrap(), "swap a 3.0.0");
    world.close().await;
}

#[tokio::test]
async fn a_file_that_changes_while_it_loads_is_not_told_as_failed() {
    let world = World::open(&[("a.wasm", "plugin 1.0.0")]).await;
    let gate = world.hold("half of a plug");
    world.put("a.wasm", "half of a plug");
    world.until("it is being loaded", || world.loads("half of a plug") == 1).await;
    world.put("a.wasm", "plugin 2.0.0");
    drop(gate);
    world.until("the whole one runs", || world.running("a", "2.0.0")).await;
    assert!(world.every_reason("a").is_empty(), "{:?}", world.every_reason("a"));
    world.close().await;
}

#[tokio::test]
async fn a_removed_consumer_stops_and_comes_back_with_its_file() {
    let world = World::open(&[("a.wasm", "plugin 1.0.0")]).await;
    world.remove("a.wasm");
    world.until("a is removed", || world.state("a") == Some(State::Removed)).await;
    assert!(world.status("a").unwrap().reason.unwrap().contains("put it back"));
    world.put("a.wasm", "plugin 1.0.0");
    world.until("a runs again", || world.running("a", "1.0.0")).await;
    assert_eq!(world.log(), ["start a 1.0.0", "stop a 1.0.0", "start a 1.0.0"]);
    world.close().await;
}

#[tokio::test]
async fn a_consumer_that_the_store_knows_and_the_directory_lacks_is_shown_as_removed() {
    let world = World::open_knowing("gone").await;
    assert_eq!(world.state("gone"), Some(State::Removed));
    world.close().await;
}

#[tokio::test]
async fn a_missing_grant_keeps_a_consumer_out_until_the_side_file_has_it() {
    let world = World::open(&[("a.wasm", "plugin 1.0.0 needs change_order")]).await;
    let status = world.status("a").unwrap();
    assert_eq!(status.state, State::AwaitingGrant);
    assert!(status.reason.unwrap().ends_with("a.toml must say:\n[grant]\nchange_order = true"));
    world.put("a.toml", "[grant]\nchange_order = true");
    world.until("a runs", || world.running("a", "1.0.0")).await;
    assert_eq!(world.loads_all(), 1, "another side file needs no second compile");
    assert_eq!(world.log(), ["introduce a Now", "start a 1.0.0"], "events waited for it");
    world.close().await;
}

#[tokio::test]
async fn a_new_version_that_needs_more_waits_beside_the_old_one() {
    let world = World::open(&[("a.wasm", "plugin 1.0.0")]).await;
    world.put("a.wasm", "plugin 2.0.0 needs change_order");
    world.until("the candidate waits", || world.kept("a", "1.0.0", CandidateState::AwaitingGrant)).await;
    world.put("a.toml", "[grant]\nchange_order = true");
    world.until("it runs", || world.running("a", "2.0.0")).await;
    assert_eq!(world.status("a").unwrap().candidate, None);
    world.close().await;
}

#[tokio::test]
async fn a_grant_taken_away_stops_what_needs_it() {
    let granted = ("a.toml", "[grant]\nchange_order = true");
    let world = World::open(&[("a.wasm", "plugin 1.0.0 needs change_order"), granted]).await;
    assert!(world.running("a", "1.0.0"));
    world.remove("a.toml");
    world.until("a waits", || world.state("a") == Some(State::AwaitingGrant)).await;
    assert_eq!(world.log(), ["start a 1.0.0", "stop a 1.0.0"]);
    world.close().await;
}

#[tokio::test]
async fn a_grant_taken_away_stops_what_needs_it_beside_a_refused_file_too() {
    let granted = ("a.toml", "[grant]\nchange_order = true");
    let world = World::open(&[("a.wasm", "plugin 1.0.0 needs change_order"), granted]).await;
    world.put("a.wasm", "rubbish");
    world.until("the refusal shows", || world.kept("a", "1.0.0", CandidateState::Failed)).await;
    world.remove("a.toml");
    let stopped = |status: ConsumerStatus| status.state == State::Failed && status.loaded_at.is_none();
    world.until("a stopped", || world.status("a").is_some_and(stopped)).await;
    assert_eq!(world.log(), ["start a 1.0.0", "stop a 1.0.0"]);
    world.close().await;
}

/// Whether this version of a runs under a side file from before, since the one that is there was refused.
fn under_former(world: &World, version: &str) -> bool {
    let told = world.status("a").and_then(|status| status.reason);
    let is_told = told.is_some_and(|reason| reason.contains("keeps running under the side file from before"));
    is_told && world.running("a", version)
}

#[tokio::test]
async fn a_side_file_that_no_longer_parses_leaves_the_old_policy_in_force() {
    let world = World::open(&[("a.wasm", "plugin 1.0.0"), ("a.toml", "concurrency = 3")]).await;
    world.put("a.toml", "concurrency = 3\ncolour = \"blue\"");
    world.until("the refusal shows", || under_former(&world, "1.0.0")).await;
    let reason = world.status("a").unwrap().reason.unwrap();
    assert!(reason.contains("a.toml:2: unknown key colour"), "{reason}");
    // A new file goes live under the old policy all the same.
    world.put("a.wasm", "plugin 2.0.0");
    world.until("the new version runs", || under_former(&world, "2.0.0")).await;
    assert_eq!(world.concurrency("a"), 3);
    world.put("a.toml", "concurrency = 4");
    world.until("the mended policy is in force", || world.concurrency("a") == 4).await;
    assert_eq!(world.status("a").unwrap().reason, None);
    world.close().await;
}

#[tokio::test]
async fn a_new_consumer_does_not_start_under_a_side_file_that_cannot_be_read() {
    let world = World::open(&[("a.wasm", "plugin 1.0.0"), ("a.toml", "[rollout]\nmin_events = 10")]).await;
    let status = world.status("a").unwrap();
    assert_eq!(status.state, State::Failed);
    assert!(status.reason.unwrap().ends_with("a.toml:1: rollout: `percent` is missing"));
    world.close().await;
}

#[tokio::test]
async fn another_state_version_starts_only_when_the_old_one_has_stopped() {
    let world = World::open(&[("a.wasm", "plugin 1.0.0")]).await;
    world.put("a.wasm", "plugin 2.0.0 state 2");
    world.until("the new version runs", || world.running("a", "2.0.0")).await;
    assert_eq!(world.log(), ["start a 1.0.0", "stop a 1.0.0", "start a 2.0.0"]);
    world.close().await;
}

#[tokio::test]
async fn subscriptions_are_shown_with_their_filters_and_a_side_file_replaces_them() {
    let world = World::open(&[("a.wasm", "plugin 1.0.0 filter")]).await;
    world.until("a runs", || world.running("a", "1.0.0")).await;
    assert_eq!(world.status("a").unwrap().subscriptions, [r#"order.* {"order":{"currency":["EUR"]}}"#]);
    world.put("a.toml", r#"subscribe = ["order.placed", { kind = "com.a", filter = '{"n": [1]}' }]"#);
    world
        .until("the side file is in force", || {
            world.status("a").unwrap().subscriptions == ["order.placed", r#"com.a {"n":[1]}"#]
        })
        .await;
    world.close().await;
}

#[tokio::test]
async fn a_file_that_is_too_large_is_refused_unread() {
    let world = World::open(&[("a.wasm", &"x".repeat(world::PLUGIN_BYTES_MAX as usize + 1))]).await;
    assert_eq!(world.state("a"), Some(State::Failed));
    assert_eq!(world.loads_all(), 0);
    world.close().await;
}

#[tokio::test]
async fn what_the_store_could_not_do_is_tried_again() {
    let world = World::open(&[]).await;
    world.refuse_starts(1);
    world.put("a.wasm", "plugin 1.0.0");
    world.until("the refusal shows", || world.state("a") == Some(State::Failed)).await;
    world.until("a runs", || world.running("a", "1.0.0")).await;
    assert_eq!(world.loads_all(), 1);
    world.close().await;
}

#[tokio::test]
async fn a_plugin_that_the_host_could_not_load_is_tried_again() {
    let world = World::open(&[("a.wasm", "plugin 1.0.0")]).await;
    world.refuse_loads(1);
    world.put("a.wasm", "plugin 2.0.0");
    world.until("2.0.0 runs", || world.running("a", "2.0.0")).await;
    assert_eq!(world.loads("plugin 2.0.0"), 2);
    assert_eq!(world.history("a").await, ["live 1.0.0", "live 2.0.0"], "it was not the file's fault");
    world.close().await;
}

#[tokio::test]
async fn closing_stops_every_worker() {
    let world = World::open(&[("a.wasm", "plugin 1.0.0"), ("b.wasm", "plugin 1.0.0")]).await;
    let log = world.close().await;
    let mut stopped: Vec<_> = log.iter().filter(|line| line.starts_with("stop")).collect();
    stopped.sort();
    assert_eq!(stopped, ["stop a 1.0.0", "stop b 1.0.0"]);
}

#[tokio::test]
async fn a_check_reports_the_stages_up_to_the_one_that_failed() {
    let world = World::open(&[]).await;
    world.put("a.wasm", "plugin 1.0.0 needs change_order");
    let report = super::super::check::check(&world.path("a.wasm"), 1000, &[], &no_side_file()).await;
    let mut json = serde_json::to_value(&report).unwrap();
    let dir = world.path("").display().to_string();
    json["file"] = "a.wasm".into();
    insta::assert_snapshot!(serde_json::to_string_pretty(&json).unwrap().replace(&dir, ""));
    world.put("a.toml", "[grant]\nchange_order = true");
    assert!(super::super::check::check(&world.path("a.wasm"), 1000, &[], &no_side_file()).await.ok);
    world.put("b.wasm", "rubbish");
    let report = super::super::check::check(&world.path("b.wasm"), 1000, &[], &no_side_file()).await;
    assert_eq!(report.faults().collect::<Vec<_>>(), ["the file is no plugin"]);
    let report = super::super::check::check(&world.path("c.wasm"), 1000, &[], &no_side_file()).await;
    assert!(report.faults().next().unwrap().starts_with("there is no file"));
    world.close().await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_read_is_told_of_with_each_consumer_until_it_can() {
    let world = World::open(&[("a.wasm", "plugin 1.0.0")]).await;
    let (dir, away) = (world.path("").components().collect::<PathBuf>(), world.kept_path("away"));
    let reason = || world.status("a").unwrap().reason;
    std::fs::rename(&dir, &away).unwrap();
    world.until("it is told", || reason().is_some_and(|why| why.contains("cannot be read"))).await;
    assert!(reason().unwrap().starts_with(dir.to_str().unwrap()) && world.running("a", "1.0.0"));
    std::fs::rename(&away, &dir).unwrap();
    world.until("it is well", || reason().is_none()).await;
    assert!(world.running("a", "1.0.0"));
    world.close().await;
}
