//! Two contracts at once, on one host.

use std::sync::Arc;

use wit_component::StringEncoding;

use super::{Series, v0_1, v0_2};
use crate::backend::Origin;
use crate::capability::fixture::{Memory, order, placed};
use crate::policy::Policy;
use crate::sandbox::fixture::{self, DONE, Guest, REJECT, component, guest, sandbox};
use crate::sandbox::{Handled, LoadError, Outcome, Plugin};
use crate::version::Binary;

impl From<v0_2::handler::Description> for v0_1::handler::Description {
    fn from(described: v0_2::handler::Description) -> Self {
        let v0_2::handler::Description { version, state_version, summary, kinds } = described;
        let subscriptions = kinds.into_iter().map(|kind| v0_1::handler::Subscription { kind, filter: None });
        Self { version, state_version, summary, subscriptions: subscriptions.collect(), needs: Vec::new() }
    }
}

/// The second contract, as a package within another file.
fn next() -> String {
    let text = include_str!("next.wit").split_once("package fanfare:consumer@0.2.0;").unwrap().1;
    format!("package fanfare:consumer@0.2.0 {{ {text} }}")
}

const DESCRIBE: &str = "
    (i32.store (i32.const 512) (i32.const 64)) (i32.store (i32.const 516) (i32.const 5))
    (i32.store (i32.const 520) (i32.const 7))
    (i32.store (i32.const 524) (i32.const 112)) (i32.store (i32.const 528) (i32.const 6))
    (i32.store (i32.const 532) (i32.const 576)) (i32.store (i32.const 536) (i32.const 1))
    (i32.store (i32.const 576) (i32.const 128)) (i32.store (i32.const 580) (i32.const 12))
    (i32.const 512)";

/// Exports of 0.2: puts `value` at `key` and is done.
fn exports() -> String {
    format!(
        r#"(func (export "fanfare:consumer/handler@0.2.0#describe") (result i32) {DESCRIBE})
           (func (export "fanfare:consumer/handler@0.2.0#handle") (param i32 i32 i32) (result i32)
               (call $put (i32.const 160) (i32.const 3) (i32.const 176) (i32.const 5) (i32.const 2048))
               (i32.store8 (i32.const 1024) (i32.const 0)) (i32.const 1024))"#
    )
}

const PUT: &str = r#"(import "fanfare:consumer/state@0.2.0" "put" (func $put (param i32 i32 i32 i32 i32)))"#;

/// A guest that speaks 0.2 alone.
fn later() -> Binary {
    let world = format!("package test:guest; world extra {{ include fanfare:consumer/consumer@0.2.0; }} {}", next());
    let module = format!(
        r#"(module {PUT}
            (memory (export "memory") 1) (global $heap (mut i32) (i32.const 4096))
            (data (i32.const 64) "2.0.0") (data (i32.const 112) "a test") (data (i32.const 128) "order.placed")
            (data (i32.const 160) "key") (data (i32.const 176) "value")
            (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
                (global.get $heap) (global.set $heap (i32.add (global.get $heap) (local.get $size))))
            {})"#,
        exports()
    );
    component(&world, &module, StringEncoding::UTF8)
}

/// One that speaks both, and rejects in 0.1.
fn both() -> Binary {
    let world = format!(
        "package test:guest;
         world extra {{ include fanfare:consumer/consumer@0.1.0; include fanfare:consumer/consumer@0.2.0; }} {}",
        next()
    );
    Guest { world: &world, imports: PUT, more: &exports(), handle: REJECT, ..Guest::default() }.build()
}

async fn handled(plugin: &Arc<Plugin>) -> Handled {
    let version = plugin.link(&"inventory".parse().unwrap(), &Policy::default()).unwrap();
    version.handle_event(&placed(&order()), 1, Origin::Live, Arc::new(Memory::default())).await
}

#[track_caller]
fn put_and_done(handled: &Handled) {
    assert!(matches!(handled.outcome, Outcome::Done), "{:?}", handled.outcome);
    assert_eq!(handled.effects.entries, [("key".into(), Some(b"value".as_slice().into()))]);
}

#[tokio::test]
async fn plugins_of_two_contracts_run_side_by_side() {
    let sandbox = sandbox();
    let (first, second) = (sandbox.load(guest(DONE)).await.unwrap(), sandbox.load(later()).await.unwrap());
    assert_eq!(first.description().version.to_string(), "1.2.0");
    assert_eq!(second.description().version.to_string(), "2.0.0");
    assert_eq!(second.description().subscriptions[0].kind.to_string(), "order.placed");
    for _ in 0..3 {
        let (first, second) = tokio::join!(handled(&first), handled(&second));
        assert!(matches!(first.outcome, Outcome::Done), "{:?}", first.outcome);
        put_and_done(&second);
        assert_eq!(second.reads.entries, [("key".into(), None)], "the same conditions hold for its commit");
    }
}

#[tokio::test]
async fn a_plugin_that_speaks_both_is_spoken_to_in_the_newer() {
    put_and_done(&handled(&fixture::plugin(both()).await).await);
}

#[test]
fn of_one_compatible_series_exactly_one_must_match() {
    let spoken = |versions: &[&str]| {
        let names: Vec<_> = versions.iter().map(|version| format!("fanfare:consumer/handler@{version}")).collect();
        Series::spoken(&names)
    };
    assert_eq!(spoken(&["0.1.0"]), Some(Series::V0_1));
    assert_eq!(spoken(&["0.1.7"]), Some(Series::V0_1));
    assert_eq!(spoken(&["0.1.0", "0.1.1"]), None);
    assert_eq!(spoken(&["0.1.0", "0.1.1", "0.2.0"]), None);
    assert_eq!(spoken(&["0.1.0", "0.2.3"]), Some(Series::V0_2));
    assert_eq!(spoken(&["0.1.0", "0.3.0", "1.0.0"]), Some(Series::V0_1));
    assert_eq!(spoken(&["0.3.0", "1.1.0", "0.1"]), None);
    assert_eq!(Series::spoken::<&str>(&["acme:consumer/handler@0.1.0", "fanfare:consumer/state@0.1.0"]), None);
}

#[tokio::test]
async fn what_has_the_name_of_a_contract_and_not_its_functions_is_refused() {
    for version in ["0.1.0", "0.2.0"] {
        let hollow =
            format!(r#"(component (instance $i) (export "fanfare:consumer/handler@{version}" (instance $i)))"#);
        let refused = sandbox().load(wat::parse_str(hollow).unwrap().into()).await.unwrap_err();
        assert!(matches!(refused, LoadError::OtherContents(_)), "{refused}");
    }
}
