//! Plugin files: loaded by the real sandbox, and let loose on one event if they are taken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare::backend::{Lease, Origin, Result as Answer, View};
use fanfare::clock::Timestamp;
use fanfare::event::{Body, Custom, Event, EventId, Position};
use fanfare::order::{Order, OrderId};
use fanfare::policy::Policy;
use fanfare::sandbox::{LoadError, NotAComponent, Sandbox, Settings};
use fanfare::version::Binary;
use fanfare_tests::crash::goods::Dice;
use fanfare_tests::mutants::{self, Way};
use tokio::runtime::Runtime;

use crate::{Target, check_refusal};

/// Longer than anything a file may take to be read, compiled, asked and tried.
const PATIENCE: Duration = Duration::from_secs(60);

/// How far a file came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// No WebAssembly, or broken.
    Invalid,
    /// Valid, and refused by a later stage.
    Refused,
    /// It runs.
    Taken,
}

/// Loads mutants of a small plugin, each way in turn.
pub struct Plugins {
    runtime: Runtime,
    sandbox: Sandbox,
    good: Vec<u8>,
    made: usize,
    way: Way,
    pub came: BTreeMap<(Way, Stage), u64>,
}

impl Default for Plugins {
    fn default() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let sandbox = Sandbox::new(Settings { instances_max: 4, ..Settings::default() });
        Self {
            runtime: runtime.expect("a runtime"),
            sandbox: sandbox.expect("a sandbox"),
            good: mutants::guest(),
            made: 0,
            way: Way::Cut,
            came: BTreeMap::new(),
        }
    }
}

impl Target for Plugins {
    fn name(&self) -> &'static str {
        "plugins"
    }

    fn make(&mut self, dice: &mut Dice) -> Vec<u8> {
        self.way = Way::ALL[self.made % Way::ALL.len()];
        self.made += 1;
        mutants::make(self.way, &self.good, dice)
    }

    fn try_input(&mut self, input: &[u8]) -> Result<(), String> {
        // In a task of its own: a panic ends that, and is told.
        let task = self.runtime.spawn(load(self.sandbox.clone(), input.into()));
        let loaded = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, task).await });
        let stage = match loaded.map_err(|_| format!("no end after {PATIENCE:?}"))? {
            Ok(stage) => stage?,
            Err(panic) => return Err(panic.to_string()),
        };
        if self.way.is_valid_wasm() && stage != Stage::Refused {
            return Err(format!("{:?}: {stage:?}, and it is valid WebAssembly that no host may run", self.way));
        }
        *self.came.entry((self.way, stage)).or_default() += 1;
        Ok(())
    }
}

async fn load(sandbox: Sandbox, plugin: Binary) -> Result<Stage, String> {
    let plugin = match sandbox.load(plugin).await {
        Ok(plugin) => plugin,
        Err(LoadError::Host(why)) => return Err(format!("the host is to blame: {why}")),
        Err(refusal) => {
            check_refusal(&refusal.to_string())?;
            // A core module is valid, and so is what nests deep.
            let valid =
                |kind: &NotAComponent| matches!(kind, NotAComponent::CoreModule | NotAComponent::TooDeep { .. });
            let invalid = matches!(&refusal, LoadError::NotAComponent(kind) if !valid(kind));
            return Ok(if invalid { Stage::Invalid } else { Stage::Refused });
        }
    };
    let name = "mutant".parse().map_err(|error| format!("{error}"))?;
    match plugin.link(&name, &Policy::default()) {
        // Whatever comes of it: an outcome of its own event.
        Ok(version) => drop(version.handle_event(&event(), 1, Origin::Live, Arc::new(Nothing)).await),
        Err(refusal) => check_refusal(&refusal.to_string())?,
    }
    Ok(Stage::Taken)
}

fn event() -> Arc<Event> {
    let data: Box<serde_json::value::RawValue> = serde_json::from_str(r#"{"do":"nothing"}"#).expect("JSON");
    let custom = Custom {
        kind: "com.example.told".into(),
        source: "/test".into(),
        origin_id: None,
        subject: "it".into(),
        order_id: None,
        data: data.into(),
    };
    Arc::new(Event {
        id: EventId::generate(),
        position: Position::FIRST,
        time: Timestamp::now(),
        cause: None,
        depth: 0,
        body: Body::Custom(custom),
    })
}

/// A store without anything in it.
struct Nothing;

#[async_trait]
impl View for Nothing {
    async fn get(&self, _key: &str) -> Answer<Option<Arc<[u8]>>> {
        Ok(None)
    }

    async fn count(&self, _key: &str) -> Answer<i64> {
        Ok(0)
    }

    async fn scan(&self, _prefix: &str, _after: Option<&str>, _limit: usize) -> Answer<Vec<(Arc<str>, Arc<[u8]>)>> {
        Ok(Vec::new())
    }

    async fn scan_counts(&self, _prefix: &str, _after: Option<&str>, _limit: usize) -> Answer<Vec<(Arc<str>, i64)>> {
        Ok(Vec::new())
    }

    async fn order(&self, _id: OrderId) -> Answer<Option<Order>> {
        Ok(None)
    }

    async fn durable(&self, _: Lease) -> Answer<()> {
        Ok(())
    }
}
