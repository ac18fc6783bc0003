//! What commands print: tables for people, JSON for programs.
//!
//! Texts of orders and of guests are shown with control characters escaped, in whatever is printed: a terminal obeys them.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::OnceLock;

use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::failure::Failure;

/// Longer texts are cut in tables.
const CELL_CHARS_MAX: usize = 60;

pub struct Output {
    json: bool,
    /// Why not all of it could be printed.
    lost: OnceLock<io::Error>,
}

impl Output {
    #[must_use]
    pub fn new(json: bool) -> Self {
        Self { json, lost: OnceLock::new() }
    }

    /// # Errors
    /// [`Failure::Failed`] where what a command printed did not reach whoever reads it: a full disk, a closed output. A reader
    /// that has seen enough is none: `fanfare … | head`.
    pub fn check(&self) -> Result<(), Failure> {
        match self.lost.get() {
            Some(error) => Err(Failure::Failed(format!("the output cannot be written: {error}"))),
            None => Ok(()),
        }
    }

    fn print(&self, text: &str) {
        match writeln!(io::stdout(), "{text}") {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => drop(self.lost.set(error)),
            _ => {}
        }
    }

    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints `value` as it is for programs, and as `text` shows it for people.
    pub fn show(&self, value: &Value, text: impl FnOnce(&Value) -> String) {
        if self.json { self.print(&json(value)) } else { self.print(&visible(&text(value))) }
    }

    /// As [`Output::show`], for an answer with JSON in it that others wrote: it stays as they did.
    pub fn show_as_written(&self, answer: &RawValue, text: impl FnOnce(&RawValue) -> String) {
        if self.json { self.print(&json(answer)) } else { self.print(&visible(&text(answer))) }
    }

    /// A line for people only.
    pub fn say(&self, text: &str) {
        if !self.json {
            self.print(&visible(text));
        }
    }

    /// A line for whoever waits for a command, beside what it prints.
    pub fn note(&self, text: &str) {
        if !self.json {
            // Nobody is left to tell if standard error is gone.
            let _ = writeln!(io::stderr(), "{}", visible(text));
        }
    }

    /// A bar for long work, where somebody looks at it.
    pub fn progress(&self, total: Option<u64>, template: &str) -> ProgressBar {
        let hidden = self.json || !io::stderr().is_terminal();
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(total, target);
        // The template is a constant.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar
    }

    pub fn failure(&self, failure: &Failure) {
        let text = match (self.json, failure) {
            (true, Failure::Refused(problem)) => json(problem),
            (true, other) => json(&serde_json::json!({ "error": other.to_string() })),
            (false, other) => format!("error: {}", visible(&other.to_string())),
        };
        // Nobody is left to tell if standard error is gone.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// Prints a line that nothing depends on.
pub fn line(text: &str) {
    let _ = writeln!(io::stdout(), "{}", visible(text));
}

/// A table of rows, with columns of numbers to the right. Long texts are cut.
#[must_use]
pub fn table<const N: usize>(columns: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    table_of(columns, rows, CELL_CHARS_MAX)
}

/// A [`table`] of texts that people hand in again: none is cut.
#[must_use]
pub fn whole_table<const N: usize>(columns: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    table_of(columns, rows, usize::MAX)
}

fn table_of<const N: usize>(
    columns: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    chars_max: usize,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let mut numeric = [true; N];
    let rows: Vec<_> = rows.into_iter().collect();
    for row in &rows {
        for (numeric, text) in numeric.iter_mut().zip(row) {
            let digits = text.strip_prefix('-').unwrap_or(text);
            *numeric &= digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'.'));
        }
    }
    let cell = |(text, numeric): (String, bool)| {
        Cell::new(text).set_alignment(if numeric { CellAlignment::Right } else { CellAlignment::Left })
    };
    table.set_header(columns.map(str::to_uppercase).into_iter().zip(numeric).map(cell));
    for row in rows {
        table.add_row(row.map(|text| short(&visible(&text), chars_max)).into_iter().zip(numeric).map(cell));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A table of one page of a list, and how to ask for the next one.
#[must_use]
pub fn page<const N: usize>(page: &Value, columns: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut rows = rows.into_iter().peekable();
    // A page may be empty where what was asked for is rare: there may be some behind it all the same.
    let mut shown = if rows.peek().is_none() { "nothing here".to_owned() } else { table(columns, rows) };
    if let Some(next) = page.get("next").and_then(Value::as_str) {
        shown.push_str(&format!("\n\nmore: --after {}", visible(next)));
    }
    shown
}

/// One call over HTTP that an attempt made.
pub fn call(call: &Value) -> String {
    let [method, url, status, error, duration] =
        ["/method", "/url", "/status", "/error", "/duration_us"].map(|path| text(call, path));
    let ended: Vec<_> = [status, error].into_iter().filter(|it| !it.is_empty()).collect();
    format!("{method} {url}: {} in {duration} µs", ended.join(", "))
}

/// The text at `path` in `value`; numbers and booleans as JSON writes them, nothing where there is nothing.
#[must_use]
pub fn text(value: &Value, path: &str) -> String {
    match value.pointer(path) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The field `name` of `value`, null where there is none.
#[must_use]
pub fn field<'v>(value: &'v Value, name: &str) -> &'v Value {
    value.get(name).unwrap_or(&Value::Null)
}

/// Sets the field `name` of an object.
pub fn set(object: &mut Value, name: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}

/// The items of the list at `path`, none where there is no list.
#[must_use]
pub fn items<'v>(value: &'v Value, path: &str) -> &'v [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Letters that are not shown but turn the direction of those around them: what stands beside them would be shown as part of them.
fn turns_direction(letter: char) -> bool {
    matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` with control characters other than line breaks escaped.
#[must_use]
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() && letter != '\n' || turns_direction(letter) {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// `value` as JSON in which nothing steers a terminal either.
fn json(value: &(impl Serialize + ?Sized)) -> String {
    // Values and problems are texts, numbers and lists of them: writing them into memory cannot fail.
    inert(&serde_json::to_string(value).unwrap_or_default())
}

/// `json` with what would steer a terminal written as `\u009b`: the same JSON, on one line.
#[must_use]
pub fn inert(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for letter in json.chars() {
        if matches!(letter, '\n' | '\r' | '\t') {
            // Between tokens: inside texts, JSON has them escaped.
            shown.push(' ');
        } else if letter.is_control() || turns_direction(letter) {
            shown.push_str(&format!("\\u{:04x}", u32::from(letter)));
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// An amount of minor units with its currency: `168.99 USD`, `500 JPY`.
#[must_use]
pub fn money(minor: i64, currency: &str) -> String {
    let digits = minor_digits(currency);
    if digits == 0 {
        return format!("{} {currency}", grouped(minor));
    }
    let unit = 10_i64.pow(digits);
    let sign = if minor < 0 { "-" } else { "" };
    let (whole, rest) = (minor.unsigned_abs() / unit.unsigned_abs(), minor.unsigned_abs() % unit.unsigned_abs());
    let whole = grouped(i64::try_from(whole).unwrap_or(i64::MAX));
    format!("{sign}{whole}.{rest:0width$} {currency}", width = digits as usize)
}

/// A number with commas between thousands.
#[must_use]
pub fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Digits behind the point, by ISO 4217.
fn minor_digits(currency: &str) -> u32 {
    match currency {
        "BIF" | "CLP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG" | "RWF" | "UGX" | "VND" | "VUV"
        | "XAF" | "XOF" | "XPF" => 0,
        "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
        _ => 2,
    }
}

fn short(text: &str, chars_max: usize) -> String {
    let one_line = text.replace('\n', "\\n");
    match one_line.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", one_line.get(..end).unwrap_or_default()),
        None => one_line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_never_told_what_to_do_by_an_order() {
        let rows = [["\u{1b}[2J\u{7}title\n".to_owned(), "1".to_owned()]];
        let shown = table(["sku", "quantity"], rows);
        assert!(!shown.contains('\u{1b}') && shown.contains("\\u{1b}[2J"), "{shown}");
        assert_eq!(visible("C\u{202e}1\n"), "C\\u{202e}1\n");
    }

    #[test]
    fn json_steers_no_terminal_and_says_the_same() {
        let value = serde_json::json!({ "a\u{9b}2J": ["\u{7f}\u{202e}\u{1b}", "Grüße 🙂"] });
        let shown = json(&value);
        assert!(!shown.contains(|letter: char| letter.is_control() || turns_direction(letter)), "{shown:?}");
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), value);
    }

    #[test]
    fn json_that_others_wrote_stays_as_it_is_on_one_line() {
        let written = "{\"n\":123456789012345678901234567890,\r\n\t\"price\": 1.10, \"text\": \"a\\n\u{202e}\"}";
        let shown = json(&serde_json::from_str::<&RawValue>(written).unwrap());
        assert_eq!(shown, r#"{"n":123456789012345678901234567890,   "price": 1.10, "text": "a\n\u202e"}"#);
    }

    #[test]
    fn numbers_stand_to_the_right() {
        let rows = [["a".to_owned(), "5".to_owned()], ["b".to_owned(), "1,200".to_owned()]];
        insta::assert_snapshot!(table(["sku", "left"], rows), @r"
         SKU   LEFT
         a        5
         b    1,200
        ");
    }

    #[test]
    fn an_empty_page_tells_how_to_go_on_where_it_is_not_the_last() {
        let rows = || std::iter::empty::<[String; 1]>();
        assert_eq!(page(&serde_json::json!({ "next": null }), ["id"], rows()), "nothing here");
        assert_eq!(page(&serde_json::json!({ "next": "5" }), ["id"], rows()), "nothing here\n\nmore: --after 5");
    }

    #[test]
    fn what_is_handed_in_again_is_not_cut() {
        let cause = "x".repeat(CELL_CHARS_MAX + 1);
        assert!(table(["cause"], [[cause.clone()]]).ends_with('…'));
        assert!(whole_table(["cause"], [[cause.clone()]]).ends_with(&cause));
    }

    #[test]
    fn money_is_written_in_the_minor_units_of_its_currency() {
        let written = [money(16_899, "USD"), money(500, "JPY"), money(-5, "EUR"), money(1_234_567, "KWD")];
        assert_eq!(written, ["168.99 USD", "500 JPY", "-0.05 EUR", "1,234.567 KWD"]);
    }
}
