//! From the bytes of a file to a plugin that described itself.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::Component;
use wasmtime::wasmparser::{Parser, Payload, Validator, WasmFeatures};
use wasmtime::{Engine, Store};

use super::Sandbox;
use super::code;
use super::contract::{Contract, Series};
use super::description::Description;
use super::error::{DescribeFailed, Error, LoadError, NotAComponent};
use super::nesting;
use super::outcome::Outcome;
use super::state::{self, State};
use super::trap;
use super::version::Version;
use crate::capability::GuestLog;
use crate::capability::http::Http;
use crate::policy::{ConsumerName, Limits, Policy};
use crate::version::{Binary, Hash};

/// Components that carry an interpreter (Python, JavaScript) have 10 to 40 MiB.
pub const PLUGIN_BYTES_MAX: usize = 64 << 20;
/// A plugin describes itself once, at leisure: an interpreter may have to start for it.
const DESCRIBE_TIME_MAX: Duration = Duration::from_secs(10);
pub const DESCRIBE_CPU_MAX: Duration = Duration::from_secs(1);
const DESCRIBE_MEMORY_BYTES_MAX: usize = 256 << 20;

/// One exact plugin, compiled and linked.
pub struct Plugin {
    pub(super) sandbox: Sandbox,
    pub(super) contract: Contract,
    hash: Hash,
    description: Description,
    report: LoadReport,
}

/// How loading went.
#[derive(Clone, Copy, Debug)]
pub struct LoadReport {
    /// Compiling, or reading what was compiled before.
    pub compile: Duration,
    pub from_cache: bool,
    pub describe: Duration,
}

impl Plugin {
    #[must_use]
    pub fn hash(&self) -> &Hash {
        &self.hash
    }

    #[must_use]
    pub fn description(&self) -> &Description {
        &self.description
    }

    #[must_use]
    pub fn load_report(&self) -> LoadReport {
        self.report
    }

    /// This plugin as consumer `name`, under `policy`.
    ///
    /// # Errors
    /// [`Error::Link`] where the policy leaves the plugin too little memory to start, or names a secret that is not there.
    pub fn link(self: &Arc<Self>, name: &ConsumerName, policy: &Policy) -> Result<Arc<Version>, Error> {
        let component = self.contract.component();
        let required = component.resources_required().and_then(|required| required.max_initial_memory_size);
        // In pages of 64 KiB.
        let required = required.unwrap_or(0).saturating_mul(64 << 10);
        if required > policy.limits.memory_bytes as u64 {
            return Err(Error::Link(format!(
                "it starts with {required} bytes of memory and limits.memory allows {}; raise it in {name}.toml",
                policy.limits.memory_bytes
            )));
        }
        let http =
            Http::of(name, policy).map_err(|why| Error::Link(format!("{why}; see grant.secrets in {name}.toml")))?;
        let contract = match http {
            Some(_) => self.contract.relinked(&self.sandbox.0.linkers.calling),
            None => Ok(self.contract.clone()),
        };
        let contract = contract.map_err(|cause| Error::Link(format!("{cause:#}")))?;
        Ok(Arc::new(Version::new(self, contract, http, name, policy)))
    }
}

impl Sandbox {
    /// Loads a plugin from its file.
    ///
    /// # Errors
    /// [`LoadError`]: what is wrong with the file and what to do.
    pub async fn load(&self, binary: Binary) -> Result<Arc<Plugin>, LoadError> {
        // What a file says of itself is quoted, and a file may say anything at any length.
        self.load_file(binary).await.map_err(LoadError::bounded)
    }

    async fn load_file(&self, binary: Binary) -> Result<Arc<Plugin>, LoadError> {
        let turn = self.0.compiling.acquire().await.map_err(|closed| LoadError::Host(closed.to_string()))?;
        let (sandbox, hash) = (self.clone(), *binary.hash());
        let compiled = tokio::task::spawn_blocking(move || compile(&sandbox, &binary)).await;
        drop(turn);
        let Compiled { component, from_cache, duration } =
            compiled.map_err(|panic| LoadError::Host(format!("compiling failed: {panic}")))??;

        let exports = exports(&component, &self.0.engine);
        let Some(series) = Series::spoken(&exports) else { return Err(LoadError::UnknownContract { exports }) };
        let linked = self.0.linkers.closed.instantiate_pre(&component);
        let linked = linked.map_err(|missing| LoadError::UnlinkedImport(format!("{missing:#}")))?;
        let contract =
            Contract::bind(linked, series).map_err(|other| LoadError::OtherContents(format!("{other:#}")))?;
        let started = Instant::now();
        let description = describe(self, &contract).await?;
        let report = LoadReport { compile: duration, from_cache, describe: started.elapsed() };
        Ok(Arc::new(Plugin { sandbox: self.clone(), contract, hash, description, report }))
    }
}

struct Compiled {
    component: Component,
    from_cache: bool,
    duration: Duration,
}

fn compile(sandbox: &Sandbox, binary: &Binary) -> Result<Compiled, LoadError> {
    let started = Instant::now();
    let (engine, cache) = (&sandbox.0.engine, sandbox.0.cache.as_ref());
    check_form(binary)?;
    // What is in the cache was valid and compiled once.
    if let Some(component) = cache.and_then(|cache| cache.get(engine, binary.hash())) {
        return Ok(Compiled { component, from_cache: true, duration: started.elapsed() });
    }
    let exports = validate(engine, binary).map_err(LoadError::NotAComponent)?;
    // Before compiling: whole worlds of components exist that are no consumers.
    if Series::spoken(&exports).is_none() {
        return Err(LoadError::UnknownContract { exports });
    }
    let compiled = sandbox.0.compiler.compile(engine, binary)?;
    // What an instance may not have (many memories or tables) shows only here.
    let component = code::deserialize(engine, &compiled).map_err(|cause| LoadError::Compile(format!("{cause:#}")))?;
    if let Some(cache) = cache {
        cache.put(binary.hash(), &compiled);
    }
    Ok(Compiled { component, from_cache: false, duration: started.elapsed() })
}

/// What can be said without reading on.
fn check_form(bytes: &[u8]) -> Result<(), LoadError> {
    let form = if bytes.is_empty() {
        NotAComponent::Empty
    } else if bytes.len() > PLUGIN_BYTES_MAX {
        return Err(LoadError::TooLarge { bytes: bytes.len(), max: PLUGIN_BYTES_MAX });
    } else if Engine::detect_precompiled(bytes).is_some() {
        NotAComponent::Precompiled
    } else if !b"\0asm".starts_with(bytes.get(..4).unwrap_or(bytes)) {
        NotAComponent::NotWasm
    } else if Parser::is_core_wasm(bytes) {
        NotAComponent::CoreModule
    } else {
        return Ok(());
    };
    Err(LoadError::NotAComponent(form))
}

/// Validates the whole file; the names of what the component exports.
fn validate(engine: &Engine, bytes: &[u8]) -> Result<Vec<String>, NotAComponent> {
    // A cut file fails where something should follow, which is at its end.
    let wrong = |error: wasmtime::wasmparser::BinaryReaderError| {
        if error.message().contains("unexpected end") || error.offset() >= bytes.len() {
            NotAComponent::Truncated(error.to_string())
        } else {
            NotAComponent::Invalid(error.to_string())
        }
    };
    nesting::check(bytes)?;
    if let Err(error) = Validator::new_with_features(engine.get_wasm_features()).validate_all(bytes) {
        let elsewhere = Validator::new_with_features(WasmFeatures::all()).validate_all(bytes).is_ok();
        return Err(if elsewhere { NotAComponent::Unsupported(error.to_string()) } else { wrong(error) });
    }
    let mut exports = Vec::new();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(wrong)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(wrong)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(exports)
}

fn exports(component: &Component, engine: &Engine) -> Vec<String> {
    component.component_type().exports(engine).map(|(name, _)| name.to_owned()).collect()
}

/// Asks the plugin what it is, in a sandbox without any capability.
async fn describe(sandbox: &Sandbox, contract: &Contract) -> Result<Description, LoadError> {
    let place = sandbox.0.running.join().place().await;
    let limits = Limits { memory_bytes: DESCRIBE_MEMORY_BYTES_MAX, ..Limits::default() };
    let mut store = State::store(&sandbox.0.engine, GuestLog::new(None, limits.log_bytes), &limits);
    let ticking = sandbox.0.ticker.run();
    let described = tokio::time::timeout(DESCRIBE_TIME_MAX, call_describe(&mut store, contract)).await;
    drop((ticking, place));
    let timeout = |what, limit| LoadError::DescribeFailed(DescribeFailed::Timeout { what, limit });
    let described = described.map_err(|_| timeout("time", DESCRIBE_TIME_MAX))?;
    described.map_err(|error| match trap::outcome(&error, store.data()) {
        Outcome::Timeout { what, limit, .. } => timeout(what, limit),
        Outcome::Trap { kind, message, backtrace } => {
            LoadError::DescribeFailed(DescribeFailed::Trap { kind, message, backtrace })
        }
        other => LoadError::Host(format!("{other:?}")),
    })?
}

async fn call_describe(
    store: &mut Store<State>,
    contract: &Contract,
) -> wasmtime::Result<Result<Description, LoadError>> {
    let meter = state::begin(store, DESCRIBE_CPU_MAX);
    let described = meter
        .measure(async {
            match contract {
                Contract::V0_1(pre) => {
                    let instance = pre.instantiate_async(&mut *store).await?;
                    instance.fanfare_consumer_handler().call_describe(&mut *store).await
                }
                #[cfg(test)]
                Contract::V0_2(pre) => {
                    let instance = pre.instantiate_async(&mut *store).await?;
                    instance.fanfare_consumer_handler().call_describe(&mut *store).await.map(Into::into)
                }
            }
        })
        .await?;
    Ok(Description::check(described).map_err(LoadError::BadDescription))
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("hash", &self.hash).field("version", &self.description.version).finish()
    }
}
