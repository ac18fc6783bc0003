//! What the operator set for the consumer.

use super::Handling;

impl Handling {
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.rights.settings.get(name).map(String::as_str)
    }
}
