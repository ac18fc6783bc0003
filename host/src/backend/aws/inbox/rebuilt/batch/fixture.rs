//! Events of a rebuild, as they are offered.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::super::{Again, Progress};
use crate::backend::aws::lane::Tail;
use crate::clock::Timestamp;
use crate::event::{Body, Custom, Event, EventId, Position};

pub const REBUILD: i64 = 1;

/// The only event of its lane.
pub fn again(position: u64, progress: Progress) -> Again {
    let custom = Custom {
        kind: "com.test".into(),
        source: "/shop".into(),
        origin_id: None,
        subject: position.to_string().into(),
        order_id: None,
        data: RawValue::from_string("{}".to_owned()).unwrap().into(),
    };
    let (id, time) = (EventId::generate(), Timestamp::now());
    let position = Position::new(position).unwrap();
    let event = Event { id, position, time, cause: None, depth: 0, body: Body::Custom(custom) };
    Again {
        rebuild: REBUILD,
        generation: REBUILD,
        put_off: REBUILD,
        logged: Tail::default().next(Arc::new(event), None, false),
        edited: None,
        progress,
        owner: "me".to_owned(),
        is_more: false,
        has_failed: false,
        tried: None,
    }
}
