//! What stands in place of an event that is in the journal and cannot be read any more, since what it says is not there, or is not what
//! a host writes. Whoever goes through the journal must get past it: one such event is not to keep all others from all consumers. Those
//! that hear of its kind go on behind it, whoever hears of everything has it, and it is said, in the log and by `fanfare check`.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use serde_json::value::RawValue;

use crate::event::Custom;
use crate::order::OrderId;

/// What it is.
pub const KIND: &str = "fanfare.damaged";
/// Of more than these, everybody knows by then.
const TOLD_MAX: usize = 100;

/// Which of them were told of, by their positions.
#[derive(Default)]
pub struct Told(Mutex<BTreeSet<u64>>);

impl Told {
    /// What is handed on in place of the event of this `kind` at `position`, in the lane of its order where that is known.
    pub fn stand_in(&self, position: u64, kind: &str, order_id: Option<OrderId>, why: &str) -> Custom {
        let mut told = self.0.lock();
        if told.len() < TOLD_MAX && told.insert(position) {
            tracing::error!(
                position,
                kind,
                why,
                "an event of the journal is damaged: it is handed on as {KIND}, and consumers of {kind} go on behind it; `fanfare check` \
                 tells of all that is"
            );
        }
        drop(told);
        let data = serde_json::json!({ "type": kind, "why": why }).to_string();
        Custom {
            kind: KIND.into(),
            source: "/fanfare".into(),
            origin_id: None,
            subject: order_id.map_or_else(|| format!("event {position}"), |id| id.to_string()).into(),
            order_id,
            data: RawValue::from_string(data).unwrap_or_else(|_| RawValue::NULL.to_owned()).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_it_stands_for() {
        let custom = Told::default().stand_in(7, "order.placed", None, "its order is \"missing\"");
        assert_eq!((&*custom.kind, &*custom.subject), (KIND, "event 7"));
        assert_eq!(custom.data.get(), r#"{"type":"order.placed","why":"its order is \"missing\""}"#);
    }
}
