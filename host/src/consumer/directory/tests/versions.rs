//! Stories of versions: back to one that ran before, through restarts, and on again.

use std::path::Path;

use super::world::{TOO_LARGE, World, keeps_again};
use crate::consumer::status::{CandidateState, State};
use crate::consumer::steer::Refusal;
use futures::FutureExt as _;

const ONE: &str = "plugin 1.0.0";
const TWO: &str = "plugin 2.0.0";
const THREE: &str = "plugin 3.0.0";

/// A consumer `a` that came as the first of `versions` and is the last now.
async fn grown(versions: &[&str]) -> World {
    let world = World::open(&[("a.wasm", versions[0])]).await;
    for version in &versions[1..] {
        world.put("a.wasm", version);
        world.until("it runs", || world.running("a", number(version))).await;
    }
    world
}

/// `1.0.0` of `plugin 1.0.0 state 2`.
fn number(content: &str) -> &str {
    content.split(' ').nth(1).unwrap()
}

fn impossible(refused: Result<(), Refusal>) -> String {
    match refused {
        Err(Refusal::Impossible(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn nothing(_: &Path) {}

#[tokio::test]
async fn going_back_runs_the_version_before_without_its_file_and_going_back_again_the_one_before_that() {
    let world = grown(&[ONE, TWO, THREE]).await;
    world.roll_back("a", None).await.unwrap();
    assert!(world.kept("a", "2.0.0", CandidateState::RolledBack));
    let status = world.status("a").unwrap();
    assert_eq!(
        status.reason.unwrap(),
        "version 2.0.0 keeps running: it was rolled back: a test; `fanfare consumers promote a` takes it up, and so does \
         another file"
    );
    assert_eq!(status.candidate.unwrap().version.as_deref(), Some("3.0.0"));
    world.roll_back("a", None).await.unwrap();
    assert!(world.kept("a", "1.0.0", CandidateState::RolledBack));
    assert_eq!(
        impossible(world.roll_back("a", None).await).split(' ').take(4).collect::<Vec<_>>().join(" "),
        "no version ran before"
    );
    assert_eq!(world.log(), ["start a 1.0.0", "swap a 2.0.0", "swap a 3.0.0", "swap a 2.0.0", "swap a 1.0.0"]);
    let told = ["live 1.0.0", "live 2.0.0", "live 3.0.0", "rolled-back 3.0.0", "rolled-back 3.0.0"];
    assert_eq!(world.history("a").await, told);
    world.close().await;
}

#[tokio::test]
async fn a_step_that_nobody_waits_for_any_more_is_not_begun() {
    const FOUR: &str = "plugin 4.0.0";
    let world = grown(&[ONE, TWO, THREE]).await;
    let held = world.hold(FOUR);
    world.put("a.wasm", FOUR);
    world.until("it is being loaded", || world.loads(FOUR) == 1).await;
    assert!(world.roll_back("a", None).now_or_never().is_none(), "it waits, and is given up");
    drop(held);
    world.until("it runs", || world.running("a", "4.0.0")).await;
    // Asked again, it is one step and not two.
    world.roll_back("a", None).await.unwrap();
    assert!(world.kept("a", "3.0.0", CandidateState::RolledBack));
    world.close().await;
}

#[tokio::test]
async fn what_was_rolled_back_stays_out_through_a_restart_and_another_file_is_taken_up() {
    let world = grown(&[ONE, TWO]).await;
    world.roll_back("a", None).await.unwrap();
    let world = world.reopen(nothing).await;
    assert!(world.kept("a", "1.0.0", CandidateState::RolledBack));
    assert_eq!(world.log(), ["start a 1.0.0"], "the newer file never ran");
    // The same bytes again are no other file, and another side file is none either.
    world.put("a.wasm", TWO);
    world.put("a.toml", "concurrency = 3");
    world.until("the side file is in force", || world.concurrency("a") == 3).await;
    assert!(world.kept("a", "1.0.0", CandidateState::RolledBack));
    world.put("a.wasm", THREE);
    world.until("the other file runs", || world.running("a", "3.0.0")).await;
    // And what was decided about the one before is over.
    world.put("a.wasm", TWO);
    world.until("it runs", || world.running("a", "2.0.0")).await;
    world.close().await;
}

#[tokio::test]
async fn promoting_takes_up_what_was_rolled_back_through_a_restart() {
    let world = grown(&[ONE, TWO]).await;
    world.roll_back("a", Some(ONE)).await.unwrap();
    world.promote("a").await.unwrap();
    assert!(world.running("a", "2.0.0"));
    assert!(impossible(world.promote("a").await).starts_with("nothing waits to be promoted"));
    let world = world.reopen(nothing).await;
    assert!(world.running("a", "2.0.0"));
    // Naming the file in the directory is the same.
    world.roll_back("a", None).await.unwrap();
    world.roll_back("a", Some(TWO)).await.unwrap();
    assert!(world.running("a", "2.0.0"));
    assert_eq!(world.history("a").await[3..], ["promoted 2.0.0", "rolled-back 2.0.0", "promoted 2.0.0"]);
    world.close().await;
}

#[tokio::test]
async fn there_is_no_way_back_across_layouts_of_state() {
    let world = grown(&[ONE, "plugin 2.0.0 state 2"]).await;
    let why = impossible(world.roll_back("a", None).await);
    assert!(why.contains("layout 1 and the one that runs of layout 2"), "{why}");
    assert!(world.running("a", "2.0.0"));
    assert_eq!(world.history("a").await, ["live 1.0.0", "live 2.0.0"], "nothing was written down");
    world.close().await;
}

#[tokio::test]
async fn going_back_wants_the_grants_that_the_version_needs() {
    let world =
        World::open(&[("a.wasm", "plugin 1.0.0 needs change_order"), ("a.toml", "[grant]\nchange_order = true")]).await;
    world.put("a.wasm", TWO);
    world.until("the new one runs", || world.running("a", "2.0.0")).await;
    world.put("a.toml", "concurrency = 2");
    world.until("the grant is taken away", || world.concurrency("a") == 2).await;
    let why = impossible(world.roll_back("a", None).await);
    assert!(why.ends_with("a.toml must say:\n[grant]\nchange_order = true"), "{why}");
    assert!(world.running("a", "2.0.0"));
    world.close().await;
}

#[tokio::test]
async fn going_back_wants_the_file_whole_and_a_consumer_that_runs() {
    let world = grown(&[ONE, TWO]).await;
    assert!(matches!(world.roll_back("nobody", None).await, Err(Refusal::Impossible(_))));
    assert!(matches!(world.roll_back("a", Some("plugin 9.0.0")).await, Err(Refusal::UnknownVersion(_))));
    assert!(impossible(world.roll_back("a", Some(TWO)).await).ends_with("runs already"));
    std::fs::write(world.kept_path(ONE), "plugin 1.0.1").unwrap();
    assert!(impossible(world.roll_back("a", None).await).contains("is damaged"));
    std::fs::remove_file(world.kept_path(ONE)).unwrap();
    assert!(impossible(world.roll_back("a", None).await).contains("is not kept any more"));
    assert!(world.running("a", "2.0.0"));
    world.remove("a.wasm");
    world.until("a is removed", || world.state("a") == Some(State::Removed)).await;
    assert!(impossible(world.roll_back("a", None).await).contains("does not run (it is removed"));
    world.close().await;
}

#[tokio::test]
async fn a_bad_file_found_at_the_start_does_not_replace_the_version_that_ran_before() {
    let world = grown(&[ONE]).await;
    let world = world.reopen(|dir| std::fs::write(dir.join("a.wasm"), "rubbish").unwrap()).await;
    assert!(world.kept("a", "1.0.0", CandidateState::Failed));
    assert_eq!(world.history("a").await, ["live 1.0.0", "refused "]);
    let needs_more = |dir: &Path| std::fs::write(dir.join("a.wasm"), "plugin 2.0.0 needs change_order").unwrap();
    let world = world.reopen(needs_more).await;
    assert!(world.kept("a", "1.0.0", CandidateState::AwaitingGrant));
    assert_eq!(world.history("a").await[2..], ["refused 2.0.0"]);
    world.close().await;
}

#[tokio::test]
async fn as_many_versions_are_kept_as_the_side_file_says() {
    let world = World::open(&[("a.wasm", ONE), ("a.toml", "keep_versions = 2")]).await;
    for version in [TWO, THREE] {
        world.put("a.wasm", version);
        world.until("it runs", || world.running("a", number(version))).await;
    }
    let kept = [ONE, TWO, THREE].map(|version| world.kept_path(version).exists());
    assert_eq!(kept, [false, true, true]);
    // What a crash left behind is gone with the next start, and what is kept is not.
    std::fs::write(world.kept_path("half").with_extension("draft"), "half").unwrap();
    let world = world.reopen(nothing).await;
    assert!(!world.kept_path("half").with_extension("draft").exists());
    world.roll_back("a", None).await.unwrap();
    assert!(world.kept("a", "2.0.0", CandidateState::RolledBack));
    world.close().await;
}

#[tokio::test]
async fn a_version_that_was_rolled_back_to_and_whose_file_is_lost_does_not_start_and_says_what_to_do() {
    let world = grown(&[ONE, TWO]).await;
    world.roll_back("a", None).await.unwrap();
    std::fs::remove_file(world.kept_path(ONE)).unwrap();
    let world = world.reopen(nothing).await;
    let status = world.status("a").unwrap();
    assert_eq!(status.state, State::Failed);
    let reason = status.reason.unwrap();
    assert!(reason.contains("consumers promote a") && reason.contains("is not kept any more"), "{reason}");
    world.promote("a").await.unwrap();
    assert!(world.running("a", "2.0.0"));
    world.close().await;
}

#[tokio::test]
async fn a_kept_file_that_somebody_deletes_is_kept_again_while_it_is_there() {
    let world = grown(&[ONE, TWO]).await;
    let folder = world.kept_path(TWO).parent().unwrap().to_owned();
    std::fs::remove_dir_all(&folder).unwrap();
    world.until("it is kept again", || world.kept_path(TWO).exists()).await;
    // Of what ran before, nobody has a copy.
    let told = impossible(world.roll_back("a", None).await);
    assert!(told.contains("is not kept any more") && told.contains("put its file there as"), "{told}");
    assert!(world.running("a", "2.0.0"));
    world.put("a.wasm", THREE);
    world.until("it runs", || world.running("a", "3.0.0")).await;
    std::fs::remove_file(world.kept_path(THREE)).unwrap();
    world.until("it is kept again", || world.kept_path(THREE).exists()).await;
    world.roll_back("a", Some(TWO)).await.unwrap();
    assert!(world.kept("a", "2.0.0", CandidateState::RolledBack));
    let world = world.reopen(nothing).await;
    assert!(world.kept("a", "2.0.0", CandidateState::RolledBack));
    world.close().await;
}

#[tokio::test]
async fn a_file_that_comes_again_while_it_is_let_go_of_stays_kept() {
    let world = World::open_late(&[("a.wasm", ONE)]).await;
    world.put("a.wasm", TWO);
    world.until("it runs", || world.running("a", "2.0.0")).await;
    world.put("a.toml", "keep_versions = 1");
    world.put("a.wasm", "rubbish");
    world.until("the refusal is written down, with what may go", || world.somebody_waits()).await;
    world.put("b.wasm", ONE);
    world.until("it runs", || world.running("b", "1.0.0")).await;
    world.let_through();
    world.until("the refusal shows", || world.kept("a", "2.0.0", CandidateState::Failed)).await;
    assert!(world.kept_path(ONE).exists());
    // Nor where a consumer is forgotten meanwhile that had the same.
    std::fs::write(world.kept_path(THREE), THREE).unwrap();
    world.let_go(&[ONE, THREE]);
    world.until("what nobody has is gone", || !world.kept_path(THREE).exists()).await;
    assert!(world.kept_path(ONE).exists());
    world.close().await;
}

#[tokio::test]
async fn a_file_that_others_let_go_of_before_its_version_was_written_down_is_kept_again() {
    assert!(keeps_again(("a.wasm", ONE)).await);
}

#[tokio::test]
async fn a_bad_file_leaves_what_runs_here_where_another_host_runs_another_version() {
    let world = World::open_sharing(&[("a.wasm", ONE)]).await;
    world.put("a.wasm", TWO);
    world.until("it runs", || world.running("a", "2.0.0")).await;
    world.runs_elsewhere("a", ONE).await;
    world.put("a.wasm", "rubbish");
    world.until("the refusal shows", || world.kept("a", "2.0.0", CandidateState::Failed)).await;
    assert_eq!(world.log(), ["lay out a 1.0.0", "start a 1.0.0", "lay out a 2.0.0", "swap a 2.0.0"]);
    world.close().await;
}

#[tokio::test]
async fn a_new_version_is_tried_beside_what_runs_here_where_another_host_runs_another_one() {
    let world = World::open_sharing(&[("a.wasm", ONE)]).await;
    world.put("a.wasm", TWO);
    world.until("it runs", || world.running("a", "2.0.0")).await;
    world.runs_elsewhere("a", ONE).await;
    world.put("a.toml", "[rollout]\npercent = 10\nmin_events = 5\nmax_failure_rate = 0.5");
    world.put("a.wasm", THREE);
    world.until("it is tried", || world.tries("a", "2.0.0", "3.0.0")).await;
    assert_eq!(world.log()[2..], ["lay out a 2.0.0", "swap a 2.0.0", "try a 3.0.0"]);
    world.close().await;
}

#[tokio::test]
async fn another_layout_of_state_is_written_down_once_others_have_made_way_and_they_are_asked_once() {
    let world = World::open_sharing(&[("a.wasm", ONE)]).await;
    world.refuse_starts(1);
    world.put("a.wasm", "plugin 2.0.0 state 2");
    world.until("the refusal shows", || world.kept("a", "1.0.0", CandidateState::Failed)).await;
    assert_eq!(world.history("a").await, ["live 1.0.0"], "no host has heard of it");
    world.until("it runs", || world.running("a", "2.0.0")).await;
    assert_eq!(world.history("a").await, ["live 1.0.0", "live 2.0.0"]);
    // Who takes over from then on came later.
    let log = ["lay out a 1.0.0", "start a 1.0.0", "lay out a 2.0.0", "stop a 1.0.0", "start a 2.0.0"];
    assert_eq!(world.log(), log);
    world.close().await;
}

#[tokio::test]
async fn the_file_of_a_version_that_never_ran_is_not_kept_when_another_one_comes_or_it_goes() {
    const WAITS: &str = "plugin 2.0.0 needs change_order";
    const WAITS_TOO: &str = "plugin 3.0.0 needs change_order";
    let world = World::open(&[("a.wasm", ONE), ("b.wasm", WAITS_TOO)]).await;
    let is_kept = |content| world.kept_path(content).exists();
    world.put("a.wasm", WAITS);
    world.until("it waits", || world.kept("a", "1.0.0", CandidateState::AwaitingGrant)).await;
    assert!(is_kept(WAITS));
    world.put("a.wasm", WAITS_TOO);
    world.until("its file is gone", || !is_kept(WAITS)).await;
    world.remove("b.wasm");
    world.until("b is removed", || world.state("b") == Some(State::Removed)).await;
    // `a` has it too; what it runs needs it all the same when the grant comes.
    world.put("a.toml", "[grant]\nchange_order = true\n");
    world.until("it runs", || world.running("a", "3.0.0")).await;
    assert!(is_kept(ONE) && is_kept(WAITS_TOO));
    world.put("b.wasm", WAITS);
    world.until("it waits", || world.state("b") == Some(State::AwaitingGrant)).await;
    world.remove("b.wasm");
    world.until("its file is gone", || !is_kept(WAITS)).await;
    assert!(is_kept(ONE) && is_kept(WAITS_TOO));
    world.close().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_kept_runs_and_its_status_says_so_until_it_is() {
    let world = World::open(&[]).await;
    let folder = world.kept_path(ONE).parent().unwrap().to_owned();
    let not_kept = |name: &str| serde_json::to_value(world.status(name)).unwrap()["not_kept"].clone();
    std::fs::write(&folder, "no folder").unwrap();
    world.put("a.wasm", ONE);
    world.until("it runs", || world.running("a", "1.0.0")).await;
    let told = not_kept("a");
    let why = told.as_str().unwrap();
    for part in [folder.to_str().unwrap(), "1.0.0", "a.wasm"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    std::fs::remove_file(&folder).unwrap();
    world.put("a.wasm", ONE);
    world.until("it is kept", || not_kept("a").is_null()).await;
    assert!(world.kept_path(ONE).exists());
    world.close().await;
}

#[tokio::test]
async fn a_file_that_other_hosts_cannot_have_runs_and_its_status_says_so_until_they_can() {
    let world = World::open_sharing(&[("a.wasm", TOO_LARGE)]).await;
    assert!(world.running("a", "7.0.0"));
    let why = world.status("a").unwrap().not_kept.unwrap();
    assert!(why.starts_with("other hosts cannot have the file of version 7.0.0"), "{why}");
    world.put("a.wasm", TOO_LARGE);
    world.until("they can", || world.status("a").unwrap().not_kept.is_none()).await;
    world.close().await;
}
