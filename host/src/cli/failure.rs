//! How a command ends when it does not end well: what is wrong, where, what to do, and the exit code that tells a
//! script which of these it is.

use std::fmt;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::backend::aws;

/// Faults that are told to people one by one; programs get all.
const FAULTS_SHOWN_MAX: usize = 10;

#[derive(Debug)]
pub enum Failure {
    /// The command or a setting is wrong: 2.
    Usage(String),
    /// The host refused (4xx): 3.
    Refused(Problem),
    /// The host cannot be reached or does not accept now: 4.
    Unavailable(String),
    /// What was compared is not the same: 5.
    Differs(String),
    /// Anything else: 1.
    Failed(String),
}

/// An error answer of the host: RFC 9457, with the fields that are at fault.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Problem {
    #[serde(rename = "type", default)]
    pub kind: String,
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldFault>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct FieldFault {
    pub field: String,
    pub detail: String,
}

impl Failure {
    /// With what to do beside trying again, where the host may have done what it was asked without saying so.
    #[must_use]
    pub fn with_advice(self, advice: &str) -> Self {
        match self {
            Self::Unavailable(what) => Self::Unavailable(format!("{what}\n{advice}")),
            other => other,
        }
    }

    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Refused(_) => 3,
            Self::Unavailable(_) => 4,
            Self::Differs(_) => 5,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) | Self::Unavailable(what) | Self::Differs(what) | Self::Failed(what) => f.write_str(what),
            Self::Refused(problem) => write!(f, "the host refused: {problem}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.title.is_empty() { "without a reason" } else { &self.title })?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        let told = |fault: &FieldFault| format!("{} {}", fault.field, fault.detail);
        if let [only] = self.errors.as_slice()
            && self.detail.as_ref().is_some_and(|detail| *detail == told(only))
        {
            return Ok(());
        }
        for fault in self.errors.iter().take(FAULTS_SHOWN_MAX) {
            write!(f, "\n  {}", told(fault))?;
        }
        match self.errors.len().saturating_sub(FAULTS_SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "\n  … and {more} more"),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        // A host that cannot begin on AWS ends as a command does that meets the same.
        match error.downcast::<aws::OpenError>() {
            Ok(why) => why.into(),
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }
}
