//! A TOML table that is taken apart key by key: what nobody took is unknown, and refused. For side files and for
//! the host's own settings.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Fault;
use super::value::{quoted, told};

/// A key this near to a known one was probably meant to be it (Jaro-Winkler, 0 to 1).
const LIKENESS_MIN: f64 = 0.75;
/// Longer than any key that is known: not a slip of one, and told in part.
const KEY_BYTES_MAX: usize = 64;

/// Faults found so far, each with its line.
pub(crate) struct Faults<'t> {
    text: &'t str,
    found: Vec<Fault>,
}

impl<'t> Faults<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { text, found: Vec::new() }
    }

    pub(crate) fn add(&mut self, span: Range<usize>, message: String) {
        let line = self.line(span.start);
        self.found.push(Fault { line, message });
    }

    /// What the text is no TOML for.
    pub(crate) fn add_no_toml(&mut self, error: &toml::de::Error) {
        let span = error.span().unwrap_or_default();
        let message = match (error.message(), self.text.get(span.clone())) {
            // The reader does not say which.
            ("duplicate key", Some(key)) => format!("{} stands twice", quoted(key)),
            (message, _) => message.to_owned(),
        };
        self.add(span, message);
    }

    /// The line, from 1, on which the byte `at` stands.
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().get(..at).unwrap_or(self.text.as_bytes());
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    pub(crate) fn into_sorted(mut self) -> Vec<Fault> {
        self.found.sort_by_key(|fault| fault.line);
        self.found
    }
}

pub(crate) struct Table<'t> {
    /// Keys that lead here, joined by dots; empty at the root.
    path: String,
    span: Range<usize>,
    entries: DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'t> Table<'t> {
    pub(crate) fn root(table: Spanned<DeTable<'t>>) -> Self {
        Self { path: String::new(), span: table.span(), entries: table.into_inner(), known: Vec::new() }
    }

    /// The value at `key` as `convert` reads it; absent, or a fault noted, is `None`.
    pub(crate) fn take<T>(
        &mut self,
        key: &'static str,
        faults: &mut Faults<'_>,
        convert: impl FnOnce(&DeValue<'t>) -> Result<T, String>,
    ) -> Option<T> {
        self.take_at(key, faults, convert).map(|(value, _)| value)
    }

    /// As [`Table::take`], with the line of the value, for what can be judged only later.
    pub(crate) fn take_at<T>(
        &mut self,
        key: &'static str,
        faults: &mut Faults<'_>,
        convert: impl FnOnce(&DeValue<'t>) -> Result<T, String>,
    ) -> Option<(T, usize)> {
        let value = self.remove(key)?;
        match convert(value.get_ref()) {
            Ok(converted) => Some((converted, faults.line(value.span().start))),
            Err(message) => {
                faults.add(value.span(), format!("{}: {message}", self.name(key)));
                None
            }
        }
    }

    /// As [`Table::take`], where the key must be there.
    pub(crate) fn require<T>(
        &mut self,
        key: &'static str,
        faults: &mut Faults<'_>,
        convert: impl FnOnce(&DeValue<'t>) -> Result<T, String>,
    ) -> Option<T> {
        if !self.entries.contains_key(key) {
            self.known.push(key);
            faults.add(self.span.clone(), format!("{}: `{key}` is missing", self.path));
        }
        self.take(key, faults, convert)
    }

    /// The table at `key`.
    pub(crate) fn table(&mut self, key: &'static str, faults: &mut Faults<'_>) -> Option<Self> {
        let value = self.remove(key)?;
        Self::inner(self.name(key), value, faults)
    }

    /// The list of tables at `key`, those without fault. `example` shows a table, made of what stands in its place where that is a text.
    pub(crate) fn list_of_tables<T>(
        &mut self,
        key: &'static str,
        faults: &mut Faults<'_>,
        example: impl Fn(Option<&str>) -> String,
        mut read: impl FnMut(Self, &mut Faults<'_>) -> Option<T>,
    ) -> Vec<T> {
        let Some(value) = self.remove(key) else { return Vec::new() };
        let (span, path) = (value.span(), self.name(key));
        let items = match value.into_inner() {
            DeValue::Array(items) => items,
            other => {
                let like = example(other.as_str());
                faults.add(span, format!("{path}: expected a list of tables such as [{like}], got {}", told(&other)));
                return Vec::new();
            }
        };
        let read = |item: Spanned<DeValue<'t>>| match item.get_ref() {
            DeValue::Table(_) => Self::inner(path.clone(), item, faults).and_then(|table| read(table, faults)),
            value => {
                let like = example(value.as_str());
                faults.add(item.span(), format!("{path}: expected a table such as {like}, got {}", told(value)));
                None
            }
        };
        items.into_iter().filter_map(read).collect()
    }

    /// The list at `key`, whose items are values or tables: those without fault. An empty one is a fault, told as
    /// `empty`; what is absent, or no list, is `None`.
    pub(crate) fn mixed_list<T>(
        &mut self,
        key: &'static str,
        faults: &mut Faults<'_>,
        empty: &str,
        convert: impl Fn(&DeValue<'t>) -> Result<T, String>,
        mut read: impl FnMut(Self, &mut Faults<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = self.remove(key)?;
        let (span, path) = (value.span(), self.name(key));
        let items = match value.into_inner() {
            DeValue::Array(items) if items.is_empty() => {
                faults.add(span, format!("{path}: {empty}"));
                return None;
            }
            DeValue::Array(items) => items,
            other => {
                faults.add(span, format!("{path}: expected a list in [ ], got {}", told(&other)));
                return None;
            }
        };
        let read = |item: Spanned<DeValue<'t>>| match item.get_ref() {
            DeValue::Table(_) => Self::inner(path.clone(), item, faults).and_then(|table| read(table, faults)),
            value => convert(value).map_err(|message| faults.add(item.span(), format!("{path}: {message}"))).ok(),
        };
        Some(items.into_iter().filter_map(read).collect())
    }

    /// Every entry, where the keys are the operator's own.
    pub(crate) fn take_all<T>(
        &mut self,
        faults: &mut Faults<'_>,
        mut convert: impl FnMut(&str, &DeValue<'t>) -> Result<T, String>,
    ) -> BTreeMap<String, T> {
        let mut all = BTreeMap::new();
        for (key, value) in std::mem::take(&mut self.entries) {
            let key = key.into_inner();
            match convert(&key, value.get_ref()) {
                Ok(converted) => {
                    all.insert(key.into_owned(), converted);
                }
                Err(message) => faults.add(value.span(), format!("{}: {message}", self.name(&key))),
            }
        }
        all
    }

    /// Refuses every key that was not asked for.
    pub(crate) fn finish(self, faults: &mut Faults<'_>) {
        for key in self.entries.keys() {
            let name = self.name(key.get_ref());
            let hint = match nearest(key.get_ref(), &self.known) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("known here: {}", self.known.join(", ")),
            };
            faults.add(key.span(), format!("unknown key {name}; {hint}"));
        }
    }

    fn inner(path: String, value: Spanned<DeValue<'t>>, faults: &mut Faults<'_>) -> Option<Self> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(entries) => Some(Self { path, span, entries, known: Vec::new() }),
            other => {
                faults.add(span, format!("{path}: expected a table, got {}", other.type_str()));
                None
            }
        }
    }

    fn remove(&mut self, key: &'static str) -> Option<Spanned<DeValue<'t>>> {
        self.known.push(key);
        self.entries.remove(key)
    }

    fn name(&self, key: &str) -> String {
        let bare =
            key.len() <= KEY_BYTES_MAX && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        let key = if bare { key.to_owned() } else { quoted(key) };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }
}

fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    // A comparison costs the product of both lengths.
    if key.len() > KEY_BYTES_MAX {
        return None;
    }
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(key, candidate), *candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
