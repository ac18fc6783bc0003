//! Gathers what is wrong with a draft or another body, and the checks that every text shares.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

/// Enough to mend a form in one go; more would only make the answer long.
pub const FAULTS_MAX: usize = 50;

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// `currency`, `lines[0].quantity`, `metadata.channel`.
    pub field: String,
    /// Goes on where the field's name stops: "is required".
    pub detail: Cow<'static, str>,
}

/// Everything found so far.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    found: Vec<FieldError>,
}

impl Faults {
    pub(crate) fn add(&mut self, field: fmt::Arguments<'_>, detail: impl Into<Cow<'static, str>>) {
        if self.found.len() < FAULTS_MAX {
            self.found.push(FieldError { field: field.to_string(), detail: detail.into() });
        }
    }

    pub(crate) fn none(self) -> Result<(), Vec<FieldError>> {
        if self.found.is_empty() { Ok(()) } else { Err(self.found) }
    }

    pub(crate) fn required(&mut self, field: fmt::Arguments<'_>, text: Option<String>, chars_max: usize) -> String {
        match text {
            None => self.add(field, "is required"),
            Some(text) if text.trim().is_empty() => self.add(field, "must not be empty"),
            Some(text) => {
                self.fits(field, &text, chars_max);
                return text;
            }
        }
        String::new()
    }

    pub(crate) fn optional(
        &mut self,
        field: fmt::Arguments<'_>,
        text: Option<String>,
        chars_max: usize,
    ) -> Option<String> {
        let text = text.filter(|text| !text.trim().is_empty())?;
        self.fits(field, &text, chars_max);
        Some(text)
    }

    /// Whether the text is short enough and free of control characters; a fault otherwise.
    pub(crate) fn fits(&mut self, field: fmt::Arguments<'_>, text: &str, chars_max: usize) -> bool {
        if text.chars().any(char::is_control) {
            self.add(field, "must not hold control characters such as line breaks");
            return false;
        }
        // A text has at most as many characters as bytes, so most are never counted.
        if text.len() > chars_max {
            let chars = text.chars().count();
            if chars > chars_max {
                self.add(field, format!("is {chars} characters long; at most {chars_max} are allowed"));
                return false;
            }
        }
        true
    }
}
