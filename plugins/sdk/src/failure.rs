//! How a handler says that it could not do its work. Anything that converts into [`Failure`] can be raised with `?`.

use crate::{Failure, Later};

impl Failure {
    /// Try again after the consumer's own back-off: the cause may go away.
    pub fn retry(reason: impl Into<String>) -> Self {
        Self::Retry(Later { after_ms: None, reason: reason.into() })
    }

    /// Try again after this many milliseconds: whoever refused said when.
    pub fn retry_after_ms(after_ms: u64, reason: impl Into<String>) -> Self {
        Self::Retry(Later { after_ms: Some(after_ms), reason: reason.into() })
    }

    /// Never going to work: straight to the dead letters.
    pub fn reject(reason: impl Into<String>) -> Self {
        Self::Reject(reason.into())
    }

    /// Why, in words for the operator.
    pub fn reason(&self) -> &str {
        match self {
            Self::Retry(later) => &later.reason,
            Self::Reject(reason) => reason,
        }
    }
}

/// Data that cannot be understood will not be understood on the next attempt either.
impl From<crate::json::Error> for Failure {
    fn from(error: crate::json::Error) -> Self {
        Self::reject(error.to_string())
    }
}

/// A wrong setting is the operator's to mend; the event is fine and waits for it.
impl From<crate::settings::Error> for Failure {
    fn from(error: crate::settings::Error) -> Self {
        Self::retry(error.to_string())
    }
}

/// A row that does not fit its declared columns is a fault in the plugin: it does not fit next time either.
impl From<crate::records::Misfit> for Failure {
    fn from(misfit: crate::records::Misfit) -> Self {
        Self::reject(misfit.to_string())
    }
}
