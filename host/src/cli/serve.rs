//! `fanfare serve`: runs a host until it is told to stop.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::print::{Output, line};
use crate::app;
use crate::config::settings::{SETTINGS, help};
use crate::config::{self, Config, RawConfig, from_env};
use crate::telemetry;

/// Read where no `--config` names another, if it is there.
const DEFAULT_FILE: &str = "fanfare.toml";

#[derive(Args, Debug)]
#[command(after_help = help())]
pub struct Serve {
    #[command(flatten)]
    flags: HostFlags,
}

/// Flags of the settings that are changed most; the others are set by file or variable.
#[derive(Args, Clone, Debug, Default)]
pub struct HostFlags {
    /// Settings file [default: fanfare.toml, if it is there]
    #[arg(long, env = "FANFARE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Folder of the store [default: data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Folder of plugins and side files [default: consumers]
    #[arg(long, value_name = "DIR")]
    consumers_dir: Option<String>,
    /// embedded or aws [default: embedded]
    #[arg(long)]
    backend: Option<String>,
    /// folder, smtp or off [default: folder]
    #[arg(long, value_name = "TRANSPORT")]
    mail_transport: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// A level, or directives such as info,fanfare=debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Allow what others could reach or overhear.
    #[arg(long)]
    insecure: bool,
}

impl Serve {
    pub fn run(self, output: &Output) -> Result<(), Failure> {
        let config = self.flags.config()?;
        config.has_consumers_dir().map_err(usage)?;
        telemetry::start_log(&config.log).map_err(|error| Failure::Failed(error.to_string()))?;
        for (variable, meant) in config::misspelt() {
            tracing::warn!(variable, "this is no setting of a host, and passed over; did you mean {meant}?");
        }
        // Whoever started the host reads from this line where it listens: the port may have been chosen just now.
        let announce = |address| match output.is_json() {
            true => line(&json!({ "listening": format!("http://{address}") }).to_string()),
            false => line(&format!("fanfare is listening on http://{address}")),
        };
        Ok(app::run(config, announce, CancellationToken::new())?)
    }
}

pub fn usage(error: config::Error) -> Failure {
    Failure::Usage(error.to_string())
}

/// What file and environment say.
///
/// # Errors
/// Where the file cannot be read, is no TOML, or has a key that is no setting.
pub fn settings(file: Option<&Path>) -> Result<RawConfig, config::Error> {
    let mut raw = RawConfig::default();
    match file {
        Some(file) => raw.read_file(file)?,
        None if Path::new(DEFAULT_FILE).exists() => raw.read_file(DEFAULT_FILE.as_ref())?,
        None => {}
    }
    let illegible = config::illegible();
    if !illegible.is_empty() {
        let told = illegible.into_iter().map(|name| format!("{name}: what it is set to is no UTF-8 text"));
        return Err(config::Error(told.collect()));
    }
    raw.read_environment(from_env);
    Ok(raw)
}

impl HostFlags {
    /// The flags that say where a host keeps what.
    pub fn folders(config: Option<PathBuf>, data_dir: Option<String>, consumers_dir: Option<String>) -> Self {
        Self { config, data_dir, consumers_dir, ..Self::default() }
    }

    /// File, environment and these flags, checked.
    ///
    /// # Errors
    /// [`Failure::Usage`] with every wrong setting and where it was written.
    pub fn config(&self) -> Result<Config, Failure> {
        self.config_or(&[])
    }

    /// [`HostFlags::config`], with other defaults for some keys.
    ///
    /// # Errors
    /// As there.
    pub fn config_or(&self, defaults: &[(&str, &str)]) -> Result<Config, Failure> {
        let mut raw = settings(self.config.as_deref()).map_err(usage)?;
        for setting in SETTINGS {
            if let Some(text) = self.flag(setting.key) {
                raw.set_flag(setting, text);
            }
            if let Some((_, text)) = defaults.iter().find(|(key, _)| *key == setting.key) {
                raw.set_default(setting, (*text).to_owned());
            }
        }
        raw.check(from_env).map_err(usage)
    }

    fn flag(&self, key: &str) -> Option<String> {
        match key {
            "listen" => self.listen.clone(),
            "data_dir" => self.data_dir.clone(),
            "consumers_dir" => self.consumers_dir.clone(),
            "backend" => self.backend.clone(),
            "mail.transport" => self.mail_transport.clone(),
            "log.format" => self.log_format.clone(),
            "log.level" => self.log_level.clone(),
            "insecure" => self.insecure.then(|| "true".to_owned()),
            _ => None,
        }
    }
}
