//! TOML, read so that every refusal names its file, line and key. For `fanfare.toml` and for side files.
//!
//! A reader takes the keys that it knows out of a [`Table`] and then calls [`Table::finish`], which refuses what is
//! left: a misspelled key is an error with a suggestion, never a setting that silently does nothing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::de::{DeTable, DeValue};

/// `consumers/shipment.toml:4: grant.http: "https:/carrier" is not a URL`
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {}{what}", file.display(), Prefix(key))]
pub struct Error {
    pub file: PathBuf,
    pub line: usize,
    /// Dotted; empty where the file is not TOML at all.
    pub key: String,
    pub what: String,
}

/// A file and its text.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub file: &'a Path,
    pub text: &'a str,
}

/// A table of which keys are still to be read.
#[must_use = "call `finish`, so that unknown keys are refused"]
pub struct Table<'a> {
    source: Source<'a>,
    path: String,
    entries: DeTable<'a>,
    known: Vec<&'static str>,
}

/// One value and where it stands.
pub struct Value<'a> {
    source: Source<'a>,
    path: String,
    at: usize,
    value: DeValue<'a>,
}

impl<'a> Source<'a> {
    /// The file's top table.
    ///
    /// # Errors
    /// Where the text is not TOML.
    pub fn parse(self) -> Result<Table<'a>, Error> {
        match DeTable::parse(self.text) {
            Ok(table) => {
                Ok(Table { source: self, path: String::new(), entries: table.into_inner(), known: Vec::new() })
            }
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                Err(self.refuse("", at, format_args!("this is not TOML: {}", error.message())))
            }
        }
    }

    fn refuse(self, key: &str, at: usize, what: impl fmt::Display) -> Error {
        let before = self.text.as_bytes().get(..at).unwrap_or(self.text.as_bytes());
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        Error { file: self.file.to_owned(), line, key: key.to_owned(), what: what.to_string() }
    }
}

impl<'a> Table<'a> {
    /// The value at `key`, if it is there. From now on `key` is known.
    pub fn take(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.known.push(key);
        let value = self.entries.remove(key)?;
        let path = join(&self.path, key);
        Some(Value { source: self.source, path, at: value.span().start, value: value.into_inner() })
    }

    /// The table at `key`, if it is there.
    ///
    /// # Errors
    /// Where something else than a table stands there.
    pub fn table(&mut self, key: &'static str) -> Result<Option<Table<'a>>, Error> {
        self.take(key).map(Value::table).transpose()
    }

    /// Every key and value that is left, in the order of the keys: for tables whose keys the author chooses.
    pub fn into_entries(self) -> Vec<(String, Value<'a>)> {
        let Self { source, path, entries, .. } = self;
        let entry = |(key, value): (toml::Spanned<toml::de::DeString<'a>>, toml::Spanned<DeValue<'a>>)| {
            let path = join(&path, key.get_ref());
            let at = value.span().start;
            (key.into_inner().into_owned(), Value { source, path, at, value: value.into_inner() })
        };
        entries.into_iter().map(entry).collect()
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Where a key is left that nobody asked for, with the likeliest one meant.
    pub fn finish(self) -> Result<(), Error> {
        let Some((key, _)) = self.entries.iter().next() else { return Ok(()) };
        let path = join(&self.path, key.get_ref());
        let what = match closest(key.get_ref(), &self.known) {
            Some(meant) => format!("there is no such key; did you mean `{meant}`?"),
            None => format!("there is no such key; known here: {}", self.known.join(", ")),
        };
        Err(self.source.refuse(&path, key.span().start, what))
    }
}

impl<'a> Value<'a> {
    /// # Errors
    /// Where it is no string.
    pub fn text(&self) -> Result<&str, Error> {
        match &self.value {
            DeValue::String(text) => Ok(text),
            _ => Err(self.expected("a string")),
        }
    }

    /// A string that reads as a `T`.
    ///
    /// # Errors
    /// Where it is no string or no `T`.
    pub fn parsed<T: FromStr<Err: fmt::Display>>(&self) -> Result<T, Error> {
        self.text()?.parse().map_err(|error| self.refuse(error))
    }

    /// # Errors
    /// Where it is no integer of 64 bits.
    pub fn integer(&self) -> Result<i64, Error> {
        match &self.value {
            DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix())
                .map_err(|_| self.refuse(format_args!("{digits} is beyond 64 bits"))),
            _ => Err(self.expected("an integer")),
        }
    }

    /// # Errors
    /// Where it is neither an integer nor a number with a point.
    pub fn number(&self) -> Result<f64, Error> {
        let digits = match &self.value {
            DeValue::Float(digits) => digits.as_str().to_owned(),
            _ => self.integer().map_err(|_| self.expected("a number"))?.to_string(),
        };
        digits.parse().map_err(|_| self.expected("a number"))
    }

    /// # Errors
    /// Where it is neither `true` nor `false`.
    pub fn boolean(&self) -> Result<bool, Error> {
        match self.value {
            DeValue::Boolean(value) => Ok(value),
            _ => Err(self.expected("true or false")),
        }
    }

    /// A string, integer or boolean, as it was written.
    ///
    /// # Errors
    /// Where it is anything else.
    pub fn scalar(&self) -> Result<String, Error> {
        match &self.value {
            DeValue::String(text) => Ok(text.clone().into_owned()),
            DeValue::Integer(_) => Ok(self.integer()?.to_string()),
            DeValue::Boolean(value) => Ok(value.to_string()),
            _ => Err(self.expected("a string, an integer, true or false")),
        }
    }

    /// # Errors
    /// Where it is no array.
    pub fn array(self) -> Result<Vec<Value<'a>>, Error> {
        if !matches!(self.value, DeValue::Array(_)) {
            return Err(self.expected("an array"));
        }
        let Self { source, path, value, .. } = self;
        let DeValue::Array(items) = value else { return Ok(Vec::new()) };
        let item = |item: toml::Spanned<DeValue<'a>>| {
            let at = item.span().start;
            Value { source, path: path.clone(), at, value: item.into_inner() }
        };
        Ok(items.into_iter().map(item).collect())
    }

    /// # Errors
    /// Where it is no table.
    pub fn table(self) -> Result<Table<'a>, Error> {
        if !matches!(self.value, DeValue::Table(_)) {
            return Err(self.expected("a table"));
        }
        let Self { source, path, value, .. } = self;
        let entries = if let DeValue::Table(entries) = value { entries } else { DeTable::new() };
        Ok(Table { source, path, entries, known: Vec::new() })
    }

    /// The 1-based line on which it stands.
    #[must_use]
    pub fn line(&self) -> usize {
        self.refuse("").line
    }

    /// An error at this value.
    #[must_use]
    pub fn refuse(&self, what: impl fmt::Display) -> Error {
        self.source.refuse(&self.path, self.at, what)
    }

    fn expected(&self, shape: &str) -> Error {
        let found = match &self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a number with a point",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time (put it in quotes)",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.refuse(format_args!("expected {shape}, found {found}"))
    }
}

/// The word in `known` that `given` was probably meant to be.
#[must_use]
pub fn closest<'k>(given: &str, known: &[&'k str]) -> Option<&'k str> {
    /// Below this, a suggestion is a guess that misleads.
    const SIMILARITY_MIN: f64 = 0.75;
    let scored = known.iter().map(|&word| (strsim::jaro_winkler(given, word), word));
    let best = scored.max_by(|left, right| left.0.total_cmp(&right.0))?;
    (best.0 >= SIMILARITY_MIN).then_some(best.1)
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

struct Prefix<'a>(&'a str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{}: ", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Table<'_> {
        Source { file: Path::new("shop.toml"), text }.parse().unwrap()
    }

    #[test]
    fn a_wrong_value_names_file_line_and_key() {
        let mut table = read("a = 1\n\n[mail]\nport = \"x\"\n");
        let mut mail = table.table("mail").unwrap().unwrap();
        let error = mail.take("port").unwrap().integer().unwrap_err();
        assert_eq!(error.to_string(), "shop.toml:4: mail.port: expected an integer, found a string");
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_likeliest_one_meant() {
        let mut table = read("\nlisten = \"x\"\ndata_dri = \"data\"\n");
        let _ = table.take("listen");
        assert!(table.take("data_dir").is_none());
        let error = table.finish().unwrap_err();
        assert_eq!(error.to_string(), "shop.toml:3: data_dri: there is no such key; did you mean `data_dir`?");
    }

    #[test]
    fn what_is_not_toml_names_its_line() {
        let error = Source { file: Path::new("shop.toml"), text: "a = 1\nb = = 2\n" }.parse().map(drop).unwrap_err();
        assert!(error.to_string().starts_with("shop.toml:2: this is not TOML"), "{error}");
    }

    #[test]
    fn every_key_of_a_free_table_is_handed_out_with_its_place() {
        let mut table = read("[settings]\nz = \"1\"\na = \"2\"\n");
        let entries = table.table("settings").unwrap().unwrap().into_entries();
        let lines: Vec<_> = entries.iter().map(|(key, value)| (key.as_str(), value.line())).collect();
        assert_eq!(lines, [("a", 3), ("z", 2)]);
        table.finish().unwrap();
    }

    #[test]
    fn items_of_an_array_of_tables_are_tables() {
        let mut table = read("[grant]\nhttp = [{ url_prefix = \"a\" },\n  { url_prefix = 3 }]\n");
        let mut grant = table.table("grant").unwrap().unwrap();
        let mut items = grant.take("http").unwrap().array().unwrap().into_iter().map(|item| item.table().unwrap());
        assert_eq!(items.next().unwrap().take("url_prefix").unwrap().text().unwrap(), "a");
        let wrong = items.next().unwrap().take("url_prefix").unwrap();
        assert_eq!(
            wrong.text().unwrap_err().to_string(),
            "shop.toml:3: grant.http.url_prefix: expected a string, found an integer"
        );
    }
}
