//! `fanfare provision`: makes at AWS what hosts need, for those who do not let hosts do it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::Failure;
use super::plugin::{runtime, sandbox};
use super::print::Output;
use super::serve::HostFlags;
use crate::backend::aws::clients::{Clients, OpenError};
use crate::backend::aws::resources::{self, Error, Plan};
use crate::backend::{self, aws};
use crate::config::Config;
use crate::consumer::check;
use crate::consumer::directory::PLUGIN_BYTES_MAX;
use crate::consumer::scan::{look, plugin_path};
use crate::event::Subscriptions;
use crate::policy::ConsumerName;

/// Make and mend at AWS what hosts need: table and topic, and for each consumer a queue with its subscription.
#[derive(Args, Debug)]
pub struct Provision {
    /// Consumers that get a queue [default: those in the folder of consumers]
    #[arg(value_name = "NAME")]
    names: Vec<ConsumerName>,
    /// Only show what is to be done; exit with 5 where something is.
    #[arg(long)]
    plan: bool,
    /// Settings file [default: fanfare.toml, if it is there]
    #[arg(long, env = "FANFARE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of plugins and side files [default: consumers]
    #[arg(long, value_name = "DIR")]
    consumers_dir: Option<String>,
}

impl Provision {
    pub fn run(self, output: &Output) -> Result<(), Failure> {
        let Self { names, plan: only_plan, config, consumers_dir } = self;
        let config = HostFlags::folders(config, None, consumers_dir).config()?;
        let named = !names.is_empty();
        let names = if named { names } else { found(&config.consumers_dir)? };
        runtime()?.block_on(async {
            let clients = Clients::connect(&config.aws).await.map_err(Error::Open)?;
            let consumers = hearing(&config, names, named, output).await?;
            let plan = resources::plan(&clients, &config.aws, &consumers).await?;
            if only_plan {
                output.show(&json!(plan), |_| described(&plan));
                return match plan.steps.len() {
                    0 => Ok(()),
                    1 => Err(Failure::Differs("one step is to be done: `fanfare provision` does it".to_owned())),
                    many => {
                        Err(Failure::Differs(format!("{many} steps are to be done: `fanfare provision` does them")))
                    }
                };
            }
            resources::provision(&clients, &config.aws, &consumers).await?;
            output.show(&json!(plan), |_| described(&plan));
            Ok(())
        })
    }
}

fn found(dir: &Path) -> Result<Vec<ConsumerName>, Failure> {
    let look = look(dir, &Default::default());
    let look =
        look.with_context(|| format!("cannot look for consumers in {}: name them, or the folder", dir.display()))?;
    Ok(look.sightings.into_keys().collect())
}

/// The consumers, each with what it hears where its plugin is there and would run.
async fn hearing(
    config: &Config,
    names: Vec<ConsumerName>,
    named: bool,
    output: &Output,
) -> Result<Vec<(ConsumerName, Option<Subscriptions>)>, Failure> {
    let sandbox = sandbox(config.compile)?;
    let mut consumers = Vec::new();
    for name in names {
        let file = plugin_path(&config.consumers_dir, &name);
        let hears = if named && !file.exists() {
            None
        } else {
            let report = check(&file, PLUGIN_BYTES_MAX, &config.plugin_keys, &sandbox).await;
            for fault in report.faults() {
                output.say(&format!("{name}: every event goes to its queue until a host runs it: {fault}"));
            }
            report.subscriptions
        };
        consumers.push((name, hears));
    }
    Ok(consumers)
}

fn described(plan: &Plan) -> String {
    if plan.is_empty() { "everything is as it should be".to_owned() } else { plan.to_string() }
}

impl From<aws::OpenError> for Failure {
    fn from(error: aws::OpenError) -> Self {
        match error {
            aws::OpenError::Connect(error) => Error::Open(error).into(),
            aws::OpenError::Resources(error) => error.into(),
            aws::OpenError::Slot(error @ backend::Error::Unavailable(_)) => Self::Unavailable(error.to_string()),
            aws::OpenError::Slot(error) => Self::Failed(error.to_string()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let said = error.to_string();
        match error {
            Error::Open(
                OpenError::NoRegion
                | OpenError::BadRegion { .. }
                | OpenError::BadEndpoint { .. }
                | OpenError::NoCredentials { .. },
            ) => Self::Usage(said),
            Error::Open(OpenError::Unreachable { .. }) | Error::Slow { .. } => Self::Unavailable(said),
            Error::Open(OpenError::Refused { .. } | OpenError::Failed { .. })
            | Error::Missing { .. }
            | Error::TooManyConsumers { .. }
            | Error::Unmendable { .. } => Self::Failed(said),
        }
    }
}
