//! `fanfare plugin run`: what a plugin would have made of recorded events, beside the version that runs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::{runtime, sandbox};
use crate::app::VERSIONS_DIR;
use crate::backend::StateCopy;
use crate::backend::embedded::{Copies, Past, PastError};
use crate::cli::print::{Output, field, set, table, text, visible};
use crate::cli::serve::HostFlags;
use crate::cli::{Failure, versions};
use crate::config::Config;
use crate::consumer::archive::Archive;
use crate::consumer::directory::PLUGIN_BYTES_MAX;
use crate::consumer::scan;
use crate::consumer::stage::{File, Loaded, Refused, Settled};
use crate::delivery::shadow::narrowed;
use crate::delivery::shadow::replay::{Did, Replay, Side};
use crate::event::EventRange;
use crate::policy::{ConsumerName, Policy};
use crate::sandbox::Sandbox;
use crate::version::{Binary, Hash, HashPrefix, PREFIX_DIGITS_MAX, PREFIX_DIGITS_MIN};

const ABOUT: &str = "\
Handle recorded events with a plugin, without effect, and say what it does otherwise than the version that runs.

The data folder of an embedded store is only read, whether a host runs on it or not; while the command reads one that no host
runs on, none can be started there. The candidate and the version that it is compared with handle the same events in the order of
the journal, each on a copy of the consumer's state that is its own: later events see what it did at earlier ones. Both run under
the consumer's side file, with its grants, settings, limits and subscriptions. Orders stand at each event as they stood then. An
event that ends otherwise than done changes nothing, and is not tried again. Nobody is called over HTTP: a call ends the event as a
trap, and is counted. Ids that were made up and the time of the run are not compared.";

/// Handle recorded events with a plugin, without effect, and say what it does otherwise than the version that runs.
#[derive(Args, Debug)]
#[command(long_about = ABOUT)]
pub struct Run {
    /// The candidate.
    file: PathBuf,
    /// The first and the last event, both included: each its id, its position in the journal or a time; left out, the journal's end.
    #[arg(long, value_name = "FROM..TO")]
    events: EventRange,
    /// Whose state, side file and versions these are [default: the file's stem]
    #[arg(long, value_name = "NAME")]
    consumer: Option<ConsumerName>,
    /// What both begin on.
    #[arg(long, value_enum, default_value_t = Begin::Before)]
    state: Begin,
    /// The version to compare with: the one that is live, one that ran and is kept, or none: then all that the candidate does is told.
    #[arg(long, value_name = "live|HASH|nothing", default_value = "live")]
    against: Against,
    /// Settings file of the host [default: fanfare.toml, if it is there]
    #[arg(long, env = "FANFARE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the store [default: data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Folder of plugins and side files [default: consumers]
    #[arg(long, value_name = "DIR")]
    consumers_dir: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Begin {
    /// The state before the first event: what the version compared with makes of all events before it, from where the consumer
    /// began. The candidate takes it over.
    Before,
    /// A copy of the state as it is now. The events are in it already: what counts counts them twice, and what knows an event
    /// again passes it by.
    Current,
    /// A state with nothing in it.
    Empty,
}

#[derive(Clone, Debug)]
enum Against {
    Live,
    Nothing,
    Version(HashPrefix),
}

/// Everything that a run is about.
struct Setting {
    name: ConsumerName,
    config: Config,
    past: Arc<Past>,
    policy: Arc<Policy>,
    side_file: PathBuf,
    sandbox: Sandbox,
}

/// A version and what it is called.
struct Cast {
    loaded: Loaded<Sandbox>,
    side: Box<dyn Fn(Arc<dyn StateCopy>) -> Side>,
    told: Value,
}

impl Run {
    pub fn run(&self, output: &Output) -> Result<(), Failure> {
        let setting = self.setting()?;
        let (first, last) = setting.past.resolve(&self.events)?;
        let runtime = runtime()?;
        let cast = runtime.block_on(self.cast(&setting))?;
        let (candidate, live) = (&cast.0, cast.1.as_ref());
        if let (Some(live), false) = (live, self.state == Begin::Empty) {
            self.same_layout(live, candidate)?;
        }
        let warm_up = self.before(&setting, first)?;
        let bar = output.progress(
            Some(last - first + 1 + warm_up.map_or(0, |(first, last)| last - first + 1)),
            "{bar:40} {pos}/{len} events, {per_sec} ({eta} left)",
        );
        let replayed = async {
            let mut copies = Copies::new(Arc::clone(&setting.past))?;
            let state = match self.state {
                Begin::Current => copies.current(&setting.name)?.ok_or_else(|| unknown(&setting.name))?,
                Begin::Before | Begin::Empty => copies.empty(),
            };
            if let Some((first, last)) = warm_up {
                let side = (live.unwrap_or(candidate).side)(Arc::clone(&state) as _);
                for_each(&setting.past, first, last, &bar, async |event| side.handle(event).await.map(drop)).await?;
            }
            let of_candidate = (candidate.side)(copies.copy(&state)?);
            let mut replay = Replay::new(of_candidate, live.map(|live| (live.side)(state)));
            for_each(&setting.past, first, last, &bar, async |event| replay.compare(event).await).await?;
            Ok::<_, Failure>(replay.end())
        };
        let (did, live_did, report) = runtime.block_on(replayed)?;
        bar.finish_and_clear();
        let (differing, compared) = (report.differing, report.compared);
        let mut told = json!(report);
        set(&mut told, "consumer", json!(setting.name));
        set(&mut told, "candidate", candidate.with(&did));
        set(&mut told, "live", live.zip(live_did).map_or(Value::Null, |(live, did)| live.with(&did)));
        set(&mut told, "state", json!(self.state.name()));
        set(&mut told, "events", json!({ "first": first, "last": last }));
        output.show(&told, shown);
        let file = self.file.display();
        match live {
            Some(_) if differing > 0 => {
                Err(Failure::Differs(format!("{file} did {differing} of {compared} events otherwise")))
            }
            _ => Ok(()),
        }
    }

    fn setting(&self) -> Result<Setting, Failure> {
        let stem = || self.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = match &self.consumer {
            Some(name) => name.clone(),
            None => stem().parse().map_err(|error| Failure::Usage(format!("{error}; or say --consumer NAME")))?,
        };
        let Self { config, data_dir, consumers_dir, .. } = self;
        let config = HostFlags::folders(config.clone(), data_dir.clone(), consumers_dir.clone()).config()?;
        let past = Arc::new(Past::open(&config.data_dir)?);
        let side_file = scan::side_file_path(&config.consumers_dir, &name);
        let policy = match scan::entry_at(&side_file) {
            Some(entry) => File { path: side_file.clone(), entry }.read_policy().map_err(failed)?,
            None => Policy::default(),
        };
        let sandbox = sandbox(config.compile)?;
        Ok(Setting { name, config, past, policy: Arc::new(policy), side_file, sandbox })
    }

    /// The candidate, and what it is compared with.
    async fn cast(&self, setting: &Setting) -> Result<(Cast, Option<Cast>), Failure> {
        let path = self.file.clone();
        let told = |refused: Refused| Failure::Failed(format!("{}: {refused}", path.display()));
        let entry =
            scan::entry_at(&path).ok_or_else(|| Failure::Failed(format!("there is no file {}", path.display())))?;
        let file = File { path: path.clone(), entry }.read(PLUGIN_BYTES_MAX).map_err(told)?;
        let mut candidate = setting.cast(file).await.map_err(told)?;
        set(&mut candidate.told, "file", json!(path.display().to_string()));
        let Some(hash) = self.hash(setting)? else { return Ok((candidate, None)) };
        let binary = setting.kept(&hash)?;
        let live = setting.cast(Settled { binary, owner: None }).await;
        let live = live.map_err(|refused| {
            Failure::Failed(format!(
                "version {}, to compare with, cannot run: {refused}. {}",
                hash.short(),
                otherwise(&setting.name)
            ))
        })?;
        Ok((candidate, Some(live)))
    }

    /// The version to compare with.
    fn hash(&self, setting: &Setting) -> Result<Option<Hash>, Failure> {
        let name = &setting.name;
        match &self.against {
            Against::Nothing => Ok(None),
            Against::Live => match setting.past.standing(name)?.and_then(|standing| standing.live) {
                Some(live) => Ok(Some(live)),
                None => Err(Failure::Failed(format!(
                    "the store knows no version of a consumer {name} that is live: say whose events these are with \
                     --consumer NAME, or --against nothing to be told all that the candidate does"
                ))),
            },
            Against::Version(prefix) => {
                let kept = setting.past.kept(name)?;
                chosen(name, prefix, &kept).map(Some)
            }
        }
    }

    fn same_layout(&self, live: &Cast, candidate: &Cast) -> Result<(), Failure> {
        let [runs, wanted] = [live, candidate].map(|cast| cast.loaded.plugin.description().state_version);
        if runs == wanted {
            return Ok(());
        }
        Err(Failure::Failed(format!(
            "{} keeps state of layout {wanted}, and version {}, to compare with, of layout {runs}: neither reads the other's. Say \
             --state empty",
            self.file.display(),
            live.loaded.hash.short()
        )))
    }

    /// The events that make the state before the one at `first`.
    fn before(&self, setting: &Setting, first: u64) -> Result<Option<(u64, u64)>, Failure> {
        if self.state != Begin::Before {
            return Ok(None);
        }
        let begins = match setting.past.consumer(&setting.name)? {
            Some(known) if known.first < known.oldest => {
                return Err(Failure::Failed(format!(
                    "what {} kept before the first event cannot be made again: events that it heard were removed by retention, \
                     and the journal begins with position {}. Say --state current or --state empty",
                    setting.name, known.oldest
                )));
            }
            Some(known) => known.first,
            // As if it had been there from the oldest event on.
            None => setting.past.resolve(&EventRange { from: None, to: None })?.0,
        };
        Ok((begins < first).then_some((begins, first - 1)))
    }
}

impl Setting {
    async fn cast(&self, file: Settled) -> Result<Cast, Refused> {
        let Self { name, policy, sandbox, .. } = self;
        let loaded = file.verify(&self.config.plugin_keys)?.load(sandbox).await?;
        let granted = loaded.grant(sandbox, policy, &self.side_file)?;
        let linked = granted.under(Arc::new(narrowed(policy))).link(sandbox, name)?;
        let told = json!({ "version": loaded.plugin.description().version.to_string(), "hash": loaded.hash });
        let (name, state_bytes_max) = (name.clone(), policy.limits.state_bytes);
        let side = move |state| Side {
            name: name.clone(),
            version: Arc::clone(&linked.version),
            subscriptions: linked.subscriptions.clone(),
            state,
            state_bytes_max,
        };
        Ok(Cast { loaded, side: Box::new(side), told })
    }

    /// The file of a version that ran.
    fn kept(&self, hash: &Hash) -> Result<Binary, Failure> {
        let gone = match Archive::new(self.config.data_dir.join(VERSIONS_DIR)).read(hash) {
            Ok(binary) => return Ok(binary),
            Err(gone) => gone,
        };
        // The host runs it from there.
        let path = scan::plugin_path(&self.config.consumers_dir, &self.name);
        let there = scan::entry_at(&path).and_then(|entry| File { path, entry }.read(PLUGIN_BYTES_MAX).ok());
        match there.filter(|file| file.binary.hash() == hash) {
            Some(file) => Ok(file.binary),
            None => {
                let otherwise = otherwise(&self.name);
                Err(Failure::Failed(format!("version {}, to compare with: {gone}. {otherwise}", hash.short())))
            }
        }
    }
}

impl Cast {
    /// The version with what it did.
    fn with(&self, did: &Did) -> Value {
        let mut told = self.told.clone();
        let did = json!(did);
        did.as_object().into_iter().flatten().for_each(|(name, value)| set(&mut told, name, value.clone()));
        told
    }
}

impl Begin {
    fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Current => "current",
            Self::Empty => "empty",
        }
    }
}

impl FromStr for Against {
    type Err = NotAgainst;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "live" => Ok(Self::Live),
            "nothing" => Ok(Self::Nothing),
            prefix => prefix.parse().map(Self::Version).map_err(|_| NotAgainst),
        }
    }
}

/// Why a text names no version to compare with.
#[derive(Debug, thiserror::Error)]
#[error(
    "must be live, nothing, or the first {PREFIX_DIGITS_MIN} to {PREFIX_DIGITS_MAX} digits of the SHA-256 of a version that is kept"
)]
struct NotAgainst;

/// The one of the versions that are kept which begins with `prefix`.
fn chosen(name: &ConsumerName, prefix: &HashPrefix, kept: &[Hash]) -> Result<Hash, Failure> {
    let told = |hashes: &[Hash]| {
        let digits = hashes.iter().map(|hash| hash.to_string().chars().take(versions::DIGITS).collect::<String>());
        digits.collect::<Vec<_>>().join(", ")
    };
    let meant: Vec<Hash> = kept.iter().copied().filter(|hash| prefix.matches(hash)).collect();
    match meant[..] {
        [hash] => Ok(hash),
        [] if kept.is_empty() => Err(Failure::Failed(format!(
            "{name} keeps no version {prefix}, nor any other: name another consumer with --consumer, or say --against nothing"
        ))),
        [] => Err(Failure::Failed(format!(
            "{name} keeps no version {prefix}: it keeps {}; say --against one of these, or --against nothing",
            told(kept)
        ))),
        _ => Err(Failure::Usage(format!(
            "--against: {} versions that {name} keeps begin with {prefix}: {}; give more digits",
            meant.len(),
            told(&meant)
        ))),
    }
}

/// What to do where the version to compare with is of no use.
fn otherwise(name: &ConsumerName) -> String {
    format!(
        "Say --against another one (`fanfare consumers history {name}` lists those that are kept), or --against nothing"
    )
}

impl From<PastError> for Failure {
    fn from(error: PastError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<crate::backend::Error> for Failure {
    fn from(error: crate::backend::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

fn failed(refused: Refused) -> Failure {
    Failure::Failed(refused.to_string())
}

fn unknown(name: &ConsumerName) -> Failure {
    Failure::Failed(format!("the store knows no consumer {name}: name one with --consumer, or say --state empty"))
}

async fn for_each(
    past: &Past,
    first: u64,
    last: u64,
    bar: &ProgressBar,
    mut handle: impl AsyncFnMut(&Arc<crate::event::Event>) -> crate::backend::Result<()>,
) -> Result<(), Failure> {
    let mut next = first;
    while next <= last {
        for event in past.events(next, last)? {
            handle(&event).await?;
            next = event.position.get() + 1;
            bar.inc(1);
        }
    }
    Ok(())
}

fn shown(told: &Value) -> String {
    let [consumer, state, first, last] =
        ["/consumer", "/state", "/events/first", "/events/last"].map(|path| text(told, path));
    let named = |side: &str| {
        let [version, hash] = ["version", "hash"].map(|name| visible(&text(told, &format!("/{side}/{name}"))));
        format!("{version} ({})", hash.chars().take(8).collect::<String>())
    };
    let compared = field(told, "live").is_object();
    let mut shown = format!("events {first} to {last} for {consumer}, {} on state {state}: ", named("candidate"));
    shown.push_str(&match compared {
        true => {
            let [differing, compared] = ["/differing", "/compared"].map(|path| text(told, path));
            format!("{differing} of {compared} done otherwise than by {}", named("live"))
        }
        false => format!("{} heard", text(told, "/candidate/heard")),
    });
    shown.push_str("\n\n");
    shown.push_str(&table(["", "live", "candidate"], rows(told)));
    shown.push_str(&versions::differences(told, "candidate"));
    shown
}

/// What either did, and how often.
fn rows(told: &Value) -> Vec<[String; 3]> {
    let sides = ["live", "candidate"];
    let mut paths = vec![("heard".to_owned(), "heard".to_owned())];
    for part in ["outcomes", "effects"] {
        let of_either = sides.iter().filter_map(|side| told.pointer(&format!("/{side}/{part}"))?.as_object());
        let names: BTreeSet<&String> = of_either.flat_map(|named| named.keys()).collect();
        paths.extend(names.into_iter().map(|name| (name.replace('_', " "), format!("{part}/{name}"))));
    }
    paths.push(("called out".to_owned(), "called_out".to_owned()));
    let row = |(name, path): (String, String)| {
        let [live, candidate] = sides.map(|side| match told.pointer(&format!("/{side}/{path}")) {
            None if field(told, side).is_object() => "0".to_owned(),
            None => String::new(),
            Some(count) => count.to_string(),
        });
        [name, live, candidate]
    };
    paths.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_is_named_is_one_of_those_that_are_kept_or_they_are_told() {
        let name = "reports".parse().unwrap();
        let kept: Vec<Hash> = ["11112", "11113", "2"].map(|digits| format!("{digits:0<64}").parse().unwrap()).to_vec();
        let chosen = |prefix: &str, kept: &[Hash]| chosen(&name, &prefix.parse().unwrap(), kept);
        assert_eq!(chosen("20000", &kept).unwrap(), kept[2]);
        let told = |prefix: &str, kept: &[Hash], code: u8| {
            let failure = chosen(prefix, kept).unwrap_err();
            assert_eq!(failure.code(), code);
            failure.to_string()
        };
        assert!(told("1111", &kept, 2).ends_with("111120000000, 111130000000; give more digits"));
        assert!(told("3333", &kept[..1], 1).contains("it keeps 111120000000; say --against one of these"));
        assert!(told("3333", &[], 1).contains("nor any other"));
    }
}
