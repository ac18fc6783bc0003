//! Settings as they were written, each with the place where it was.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::settings::{SETTINGS, Setting};
use super::toml_at::{Source, Table};
use super::{Config, Error, check};

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
        let size = std::fs::metadata(file).map_err(|error| refuse(error.to_string()))?.len();
        if size > FILE_BYTES_MAX {
            return Err(refuse(format!("{size} bytes are too many for a config file ({FILE_BYTES_MAX} at most)")));
        }
        let text = std::fs::read_to_string(file).map_err(|error| refuse(error.to_string()))?;
        self.read_text(file, &text)
    }

    /// Adds what `text` says, that of the file `file`.
    ///
    /// # Errors
    /// Where it is no TOML, or has a key that is no setting.
    pub fn read_text(&mut self, file: &Path, text: &str) -> Result<(), Error> {
        let mut read = || {
            let mut top = Source { file, text }.parse()?;
            for section in ["mail", "log"] {
                if let Some(mut table) = top.table(section)? {
                    self.take_settings(file, section, &mut table)?;
                    table.finish()?;
                }
            }
            self.take_settings(file, "", &mut top)?;
            top.finish()
        };
        read().map_err(|error| Error(vec![error.to_string()]))
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

    /// What all of it means; `variable` looks up the variables that secrets name.
    ///
    /// # Errors
    /// [`Error`] with every wrong setting.
    pub fn check(self, variable: impl Fn(&str) -> Option<String>) -> Result<Config, Error> {
        check::check(self, &variable)
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<Given> {
        self.given.remove(key)
    }

    fn take_settings(
        &mut self,
        file: &Path,
        section: &str,
        table: &mut Table<'_>,
    ) -> Result<(), super::toml_at::Error> {
        for Setting { key, .. } in SETTINGS {
            let (of, name) = key.split_once('.').unwrap_or(("", key));
            if of != section {
                continue;
            }
            let Some(value) = table.take(name) else { continue };
            let origin = Origin::File { file: file.to_owned(), line: value.line(), key };
            self.given.insert(key, Given { text: value.scalar()?, origin });
        }
        Ok(())
    }
}
