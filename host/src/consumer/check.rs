//! `plugin check FILE`: runs one file through the stages that the directory would take it through, without running it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::runtime::Loader;
use super::scan::entry_at;
use super::slot::{blocking, no_shadow, same_layout};
use super::stage::{File, Loaded, Refused};
use crate::event::Subscriptions;
use crate::policy::{ConsumerName, Policy, SHADOW_DIR};
use crate::signature::{self, PublicKey};

/// What became of a file, stage by stage. Every stage stands there, up to the first that was not reached.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    #[serde(serialize_with = "shown")]
    pub file: PathBuf,
    /// Whether the directory would run it.
    pub ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<ConsumerName>,
    /// SHA-256 of the file, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// The side file beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side_file: Option<String>,
    /// By which keys it says that it is signed as it is.
    pub signed_by: Vec<SignedBy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<Described>,
    pub stages: Vec<Reached>,
    /// What a host would deliver to it, where it would run it: what the side file says, or else the plugin.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hears: Vec<String>,
    /// The same, to be matched.
    #[serde(skip)]
    pub subscriptions: Option<Subscriptions>,
    /// The shadow that the side file names. A host runs the plugin whatever is wrong with that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shadow {
    pub file: String,
    /// Why it would handle nothing, if it would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SignedBy {
    /// The public key where it was named, else the id by which the signature tells it.
    pub key: String,
    /// Whether the signature was held against the key itself, and is right.
    pub verified: bool,
}

/// What the plugin says about itself.
#[derive(Clone, Debug, Serialize)]
pub struct Described {
    pub version: String,
    pub state_version: u32,
    pub summary: String,
    pub subscriptions: Vec<String>,
    pub needs: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reached {
    pub stage: Stage,
    pub ok: bool,
    /// What is wrong, where, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The file's name is a consumer's.
    Named,
    /// It is a file, readable, and not too large.
    Read,
    /// One of the keys that were named signed it, or none was named.
    Trusted,
    /// It is a component of a known contract, compiles, and describes itself.
    Loaded,
    /// Its side file is right, if it has one.
    Policy,
    /// It is granted what it needs.
    Granted,
    /// Everything that it imports is there.
    Linked,
}

impl Report {
    /// Reasons of the stages that failed.
    pub fn faults(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().filter_map(|reached| reached.reason.as_deref())
    }
}

/// Checks the plugin file at `path`, with the side file beside it if there is one, as a host that trusts `keys` would.
pub async fn check<L: Loader>(path: &Path, bytes_max: u64, keys: &[PublicKey], loader: &L) -> Report {
    let mut report = Report {
        file: path.to_owned(),
        ok: false,
        name: None,
        hash: None,
        side_file: None,
        signed_by: Vec::new(),
        description: None,
        stages: Vec::new(),
        hears: Vec::new(),
        subscriptions: None,
        shadow: None,
    };
    // The stages after a failure are not reached; what was found until then stays in the report.
    report.subscriptions = walk(&mut report, bytes_max, keys, loader).await;
    report.ok = report.subscriptions.is_some();
    report.hears = report.subscriptions.iter().flat_map(Subscriptions::iter).map(ToString::to_string).collect();
    report
}

async fn walk<L: Loader>(report: &mut Report, bytes_max: u64, keys: &[PublicKey], loader: &L) -> Option<Subscriptions> {
    let path = report.file.clone();
    let name = report.reach(Stage::Named, named(&path))?;
    report.name = Some(name.clone());

    let entry = entry_at(&path).ok_or_else(|| Refused::Faulty(format!("there is no file {}", path.display())));
    let read = match entry {
        Ok(entry) => blocking(move || File { path, entry }.read(bytes_max)).await,
        Err(refused) => Err(refused),
    };
    let settled = report.reach(Stage::Read, read)?;
    report.hash = Some(settled.binary.hash().to_string());

    report.signed_by = signed_by(&settled.binary, keys);
    let trusted = report.reach(Stage::Trusted, settled.verify(keys))?;

    let loaded = report.reach(Stage::Loaded, trusted.load(loader).await)?;
    let description = loader.description(&loaded.plugin);
    report.description = Some(Described {
        version: description.version.to_string(),
        state_version: description.state_version,
        summary: description.summary.clone(),
        subscriptions: description.subscriptions.iter().map(ToString::to_string).collect(),
        needs: description.needs.iter().map(ToString::to_string).collect(),
    });

    let side_file = report.file.with_extension("toml");
    let policy = match entry_at(&side_file) {
        Some(entry) => {
            report.side_file = Some(side_file.display().to_string());
            let file = File { path: side_file.clone(), entry };
            blocking(move || file.read_policy()).await
        }
        None => Ok(Policy::default()),
    };
    let policy = report.reach(Stage::Policy, policy).map(Arc::new)?;
    let granted = report.reach(Stage::Granted, loaded.grant(loader, &policy, &side_file))?;
    let live = report.reach(Stage::Linked, granted.link(loader, &name))?;
    if let Some(file) = &policy.shadow {
        let file = side_file.with_file_name(SHADOW_DIR).join(file);
        let ready = shadow(&file, bytes_max, keys, loader).await.and_then(|shadow| {
            shadow.grant(loader, &policy, &side_file)?;
            same_layout(loader.description(&loaded.plugin), loader.description(&shadow.plugin))
        });
        report.shadow =
            Some(Shadow { file: file.display().to_string(), reason: ready.err().map(|refused| refused.to_string()) });
    }
    Some(live.subscriptions)
}

async fn shadow<L: Loader>(path: &Path, bytes_max: u64, keys: &[PublicKey], loader: &L) -> Result<Loaded<L>, Refused> {
    let path = path.to_owned();
    let entry = entry_at(&path).ok_or_else(|| no_shadow(&path))?;
    let read = blocking(move || File { path, entry }.read(bytes_max)).await?;
    read.verify(keys)?.load(loader).await
}

impl Report {
    fn reach<T>(&mut self, stage: Stage, result: Result<T, Refused>) -> Option<T> {
        let (reached, reason) = match result {
            Ok(reached) => (Some(reached), None),
            Err(refused) => (None, Some(refused.to_string())),
        };
        self.stages.push(Reached { stage, ok: reached.is_some(), reason });
        reached
    }
}

/// A path need be no text.
fn shown<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

fn signed_by(file: &[u8], keys: &[PublicKey]) -> Vec<SignedBy> {
    let verified = signature::verify(file, keys).unwrap_or_default();
    let claimed = signature::claims(file).unwrap_or_default();
    let others = claimed.into_iter().filter(|id| verified.iter().all(|key| key.id() != *id));
    let others = others.map(|id| SignedBy { key: id.to_string(), verified: false });
    verified.iter().map(|key| SignedBy { key: key.to_string(), verified: true }).chain(others).collect()
}

fn named(path: &Path) -> Result<ConsumerName, Refused> {
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = file_name.strip_suffix(".wasm").ok_or_else(|| {
        Refused::Faulty(format!("{} does not end in .wasm, so the directory would pass over it", path.display()))
    })?;
    stem.parse().map_err(|error: crate::policy::NotAName| Refused::Faulty(error.to_string()))
}
