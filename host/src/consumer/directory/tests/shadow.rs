//! Stories of plugins that handle a consumer's events without effect.

use std::time::Duration;

use super::world::World;

const ONE: &str = "plugin 1.0.0";
const SHADOW: &str = "shadow = \"next.wasm\"";

async fn shadowed(content: &str) -> World {
    let world = World::open(&[("a.wasm", ONE)]).await;
    std::fs::create_dir(world.path("shadow")).unwrap();
    world.put("shadow/next.wasm", content);
    world.put("a.toml", SHADOW);
    world
}

#[tokio::test]
async fn a_shadow_runs_beside_its_consumer_and_changes_with_its_file() {
    let world = shadowed("plugin 2.0.0").await;
    world.until("it handles events", || world.shadow("a").as_deref() == Some("2.0.0")).await;
    assert!(world.running("a", "1.0.0"));
    world.put("shadow/next.wasm", "plugin 2.0.1");
    world.until("the new one does", || world.shadow("a").as_deref() == Some("2.0.1")).await;
    // Another live version keeps it.
    world.put("a.wasm", "plugin 1.1.0");
    world.until("it runs", || world.running("a", "1.1.0")).await;
    assert_eq!(world.shadow("a").as_deref(), Some("2.0.1"));
    world.put("a.toml", "");
    world.until("nobody does", || world.shadow("a").is_none()).await;
    assert_eq!(world.log(), ["start a 1.0.0", "swap a 1.1.0"]);
    assert_eq!(world.history("a").await, ["live 1.0.0", "live 1.1.0"], "a shadow is no version that ran");
    world.close().await;
}

#[tokio::test]
async fn a_shadow_that_may_not_run_says_why_and_leaves_its_consumer_alone() {
    for (content, why) in [
        ("rubbish", "the file is no plugin"),
        ("plugin 2.0.0 state 2", "layout 2 and the version that runs of layout 1"),
        ("plugin 2.0.0 needs change_order", "change_order = true"),
    ] {
        let world = shadowed(content).await;
        let told = world.shadow_refused("a").await;
        assert!(told.contains(why), "{content}: {told}");
        assert!(world.running("a", "1.0.0") && world.shadow("a").is_none());
        world.remove("shadow/next.wasm");
        world
            .until("it is missed", || {
                world.status("a").unwrap().shadow.unwrap().reason.unwrap().starts_with("there is no file")
            })
            .await;
        world.close().await;
    }
}

#[tokio::test]
async fn a_shadow_that_the_host_could_not_load_is_tried_again() {
    let world = World::open(&[("a.wasm", ONE)]).await;
    world.refuse_loads(2);
    std::fs::create_dir(world.path("shadow")).unwrap();
    world.put("shadow/next.wasm", "plugin 2.0.0");
    world.put("a.toml", SHADOW);
    world.until("it handles events", || world.shadow("a").as_deref() == Some("2.0.0")).await;
    assert!(world.running("a", "1.0.0"));
    assert_eq!((world.loads("plugin 2.0.0"), world.loads(ONE)), (3, 1));
    world.close().await;
}

#[tokio::test]
async fn a_shadow_that_is_loading_holds_no_host_up_that_stops() {
    let world = World::open(&[("a.wasm", ONE)]).await;
    let held = world.hold("plugin 2.0.0");
    std::fs::create_dir(world.path("shadow")).unwrap();
    world.put("shadow/next.wasm", "plugin 2.0.0");
    world.put("a.toml", SHADOW);
    world.until("it is loading", || world.loads("plugin 2.0.0") == 1).await;
    let log = tokio::time::timeout(Duration::from_secs(60), world.close()).await.expect("it stops");
    assert_eq!(log, ["start a 1.0.0", "stop a 1.0.0"]);
    drop(held);
}
