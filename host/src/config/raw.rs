//! Settings as they were written, each with the place where it was.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::settings::{SETTINGS, Setting};
use super::{Config, Error, check, keys};
use crate::policy::CompileLimits;
use crate::policy::parse::Fault;
use crate::policy::parse::table::{Faults, Table};
use crate::signature::PublicKey;

/// A config file is a page of settings; what is larger is something else.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// What was set, by key.
#[derive(Debug, Default)]
pub struct RawConfig {
    given: BTreeMap<&'static str, Given>,
}

/// One value as it was written.
#[derive(Clone, Debug)]
pub struct Given {
    pub text: String,
    pub origin: Origin,
}

/// Where a value was written: what a complaint about it begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Flag(String),
    Variable(String),
    File { file: PathBuf, line: usize, key: &'static str },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) => f.write_str(name),
            Self::File { file, line, key } => write!(f, "{}:{line}: {key}", file.display()),
        }
    }
}

impl RawConfig {
    /// Adds what the file says.
    ///
    /// # Errors
    /// Where it cannot be read, is no TOML, or has a key that is no setting.
    pub fn read_file(&mut self, file: &Path) -> Result<(), Error> {
        let refuse = |what: String| Error(vec![format!("{}: {what}", file.display())]);
        let text = crate::file::read_text(file, FILE_BYTES_MAX).map_err(|error| refuse(error.to_string()))?;
        self.read_text(file, &text)
    }

    /// Adds what `text` says, that of the file `file`.
    ///
    /// # Errors
    /// Where it is no TOML, or has a key that is no setting.
    pub fn read_text(&mut self, file: &Path, text: &str) -> Result<(), Error> {
        let mut faults = Faults::new(text);
        match DeTable::parse(text) {
            Ok(root) => {
                let mut top = Table::root(root);
                for section in ["compile", "mail", "retention", "aws", "log"] {
                    if let Some(mut table) = top.table(section, &mut faults) {
                        self.take_settings(file, section, &mut table, &mut faults);
                        table.finish(&mut faults);
                    }
                }
                self.take_settings(file, "", &mut top, &mut faults);
                top.finish(&mut faults);
            }
            Err(error) => faults.add_no_toml(&error),
        }
        let told = |Fault { line, message }| format!("{}:{line}: {message}", file.display());
        let faults: Vec<_> = faults.into_sorted().into_iter().map(told).collect();
        if faults.is_empty() { Ok(()) } else { Err(Error(faults)) }
    }

    /// Adds what the environment says, as `variable` tells it.
    pub fn read_environment(&mut self, variable: impl Fn(&str) -> Option<String>) {
        for setting in SETTINGS {
            let name = setting.variable();
            if let Some(text) = variable(&name) {
                self.given.insert(setting.key, Given { text, origin: Origin::Variable(name) });
            }
        }
    }

    /// Adds a flag. What is added later wins.
    pub fn set_flag(&mut self, setting: Setting, text: String) {
        self.given.insert(setting.key, Given { text, origin: Origin::Flag(setting.flag()) });
    }

    /// What `key` is where nothing was set.
    pub fn set_default(&mut self, setting: Setting, text: String) {
        self.given.entry(setting.key).or_insert(Given { text, origin: Origin::Flag(setting.flag()) });
    }

    /// What all of it means; `variable` looks up the variables that secrets name.
    ///
    /// # Errors
    /// [`Error`] with every wrong setting.
    pub fn check(self, variable: impl Fn(&str) -> Option<String>) -> Result<Config, Error> {
        check::check(self, &variable)
    }

    /// The keys of `plugin_keys` and the limits of `[compile]` alone, whatever else is set.
    ///
    /// # Errors
    /// [`Error`] where one of those settings is wrong.
    pub fn of_plugins(self) -> Result<(Vec<PublicKey>, CompileLimits), Error> {
        keys::of_plugins(self)
    }

    pub(super) fn origin(&self, key: &'static str) -> Option<Origin> {
        self.given.get(key).map(|given| given.origin.clone())
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<Given> {
        self.given.remove(key)
    }

    fn take_settings(&mut self, file: &Path, section: &str, table: &mut Table<'_>, faults: &mut Faults<'_>) {
        for Setting { key, .. } in SETTINGS {
            let (of, name) = key.split_once('.').unwrap_or(("", key));
            if of != section {
                continue;
            }
            if let Some((text, line)) = table.take_at(name, faults, scalar) {
                self.given.insert(key, Given { text, origin: Origin::File { file: file.to_owned(), line, key } });
            }
        }
    }
}

/// A value as it would be written in a variable or a flag, where every setting is a text.
fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| format!("{number} is beyond 64 bits")),
        DeValue::Boolean(flag) => Ok(flag.to_string()),
        DeValue::Array(_) => {
            Err("expected one text in quotes, got a list: where there are several, write \"one, two\"".to_owned())
        }
        other => Err(format!("expected text in quotes, a number, true or false, got {}", other.type_str())),
    }
}
