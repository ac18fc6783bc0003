//! The log of a lane: its events, numbered from 1 without a gap.
//!
//! An order is the fold of its lane: what was placed stands in the first event, and status and revision in every one, so
//! the last event and the content say how the order stands.
//!
//! Events go by age from the front of a lane. Where its order stays, so does the first item, which has the content, and the
//! last one; both say `gone`. A lane that goes as a whole ends with an item that takes the next number, so that whoever was
//! about to add an event sees that there is no order any more, and numbers go on behind it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::item::{self, Item, Key, LaneKey};
use crate::backend::damaged::Told;
use crate::backend::{Error, Result};
use crate::clock::Timestamp;
use crate::event::{Body, Custom, Event, EventId, Position};
use crate::order::{Change, Content, Order, OrderId, Status};
use crate::policy::ConsumerName;

/// Shards of the index by position: a partition takes 1,000 writes a second.
pub const LOG_SHARDS: u64 = 16;
/// Partition of the index that has the orders whose first event went by age, by its position.
pub const OLD_ORDERS: &str = "old";
/// Predecessors that an event tells of. Who needs more reads the lane.
const PRIOR_MAX: usize = 16;

/// An event in its lane.
#[derive(Clone, Debug)]
pub struct Logged {
    pub event: Arc<Event>,
    pub key: LaneKey,
    /// Its number in the lane, from 1.
    pub seq: u64,
    /// The consumer that caused it.
    pub by: Option<ConsumerName>,
    /// The event is not about the order that its cause is about.
    pub astray: bool,
    /// Where the lane's order stands, whatever the event is.
    pub standing: Option<Standing>,
    /// Events before it in the lane, oldest first: the last few.
    pub prior: Vec<Prior>,
}

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    #[serde(rename = "st")]
    pub status: Status,
    #[serde(rename = "rev")]
    pub revision: u64,
    #[serde(rename = "at")]
    pub placed_at_ms: u64,
}

impl Standing {
    pub fn of(order: &Order) -> Self {
        Self { status: order.status, revision: order.revision, placed_at_ms: order.placed_at.as_millis() }
    }

    pub fn order(self, id: OrderId, content: Arc<Content>) -> Order {
        let Self { status, revision, placed_at_ms } = self;
        Order { id, status, revision, placed_at: Timestamp::from_millis(placed_at_ms), content }
    }
}

/// What an event tells of one before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prior(pub u64, pub Arc<str>, pub u64);

impl Prior {
    pub fn seq(&self) -> u64 {
        self.0
    }

    pub fn kind(&self) -> &str {
        &self.1
    }

    pub fn position(&self) -> u64 {
        self.2
    }
}

/// The end of a lane: what the next event follows.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    pub seq: u64,
    pub position: u64,
    pub standing: Option<Standing>,
    prior: Vec<Prior>,
}

impl Tail {
    pub fn behind(logged: &Logged) -> Self {
        let Logged { event, seq, standing, prior, .. } = logged;
        let mut prior = prior.clone();
        prior.push(Prior(*seq, event.kind().into(), event.position.get()));
        let surplus = prior.len().saturating_sub(PRIOR_MAX);
        prior.drain(..surplus);
        Self { seq: *seq, position: event.position.get(), standing: *standing, prior }
    }

    /// `event` as the next of this lane.
    pub fn next(&self, event: Arc<Event>, by: Option<ConsumerName>, astray: bool) -> Logged {
        let standing = match &event.body {
            Body::OrderChanged { order, .. } => Some(Standing::of(order)),
            Body::Custom(_) => self.standing,
        };
        let key = LaneKey::of(&event.lane());
        Logged { key, seq: self.seq + 1, by, astray, standing, prior: self.prior.clone(), event }
    }
}

/// Which shard of the index has the events of a lane.
pub fn shard(key: &LaneKey) -> u64 {
    // FNV-1a, as hosts of every version must agree on it.
    let hash = key
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ hash >> 32) % LOG_SHARDS
}

pub fn log_partition(shard: u64) -> String {
    format!("log#{shard}")
}

impl Logged {
    pub fn item_key(&self) -> Key {
        Key::event(&self.key, self.seq)
    }

    pub fn position(&self) -> u64 {
        self.event.position.get()
    }

    pub fn item(&self) -> Result<Item> {
        let Event { id, position, time, cause, depth, body } = &*self.event;
        let item = Item::at(&self.item_key())
            .with("id", item::text(id.to_string()))
            .with("pos", item::number(position))
            .with("t", item::number(time.as_millis()))
            .with_some("c", cause.map(|cause| item::text(cause.to_string())))
            .with("d", item::number(depth))
            .with("k", item::text(self.event.kind()))
            .with_some("by", self.by.as_ref().map(|by| item::text(by.as_str())))
            .with_some("astray", self.astray.then(|| item::number(1)))
            .with_some("st", self.standing.map(|it| item::json(&it)).transpose()?)
            .with_some("pr", Some(&self.prior).filter(|it| !it.is_empty()).map(item::json).transpose()?)
            .with("lp", item::text(log_partition(shard(&self.key))))
            .with("ls", item::number(position));
        match body {
            Body::OrderChanged { order, change } => {
                let item = item.with("ch", item::json(change)?);
                if !matches!(change, Change::Placed {}) {
                    return Ok(item);
                }
                let customer = item::text(&order.content.customer.id);
                Ok(item
                    .with("b", item::json(&*order.content)?)
                    .with("cp", customer)
                    .with("cs", item::text(order.id.to_string())))
            }
            Body::Custom(custom) => Ok(item
                .with("src", item::text(&*custom.source))
                .with_some("oid", custom.origin_id.as_deref().map(item::text))
                .with("sub", item::text(&*custom.subject))
                .with_some("o", custom.order_id.map(|id| item::text(id.to_string())))
                .with("b", item::text(custom.data.get()))),
        }
    }

    /// What stands in place of an event of the order `id` that cannot be read for `why`.
    pub fn stand_in(item: &Item, id: OrderId, why: &str, told: &Told) -> Result<Self> {
        let (key, seq) = place_of(item)?;
        let custom = told.stand_in(item.number("pos")?, item.text("k")?, Some(id), why);
        let event = Arc::new(event(item, Body::Custom(custom))?);
        let (standing, prior) = (item.json_or_none("st")?, item.json_or_none("pr")?.unwrap_or_default());
        Ok(Self { event, key, seq, by: None, astray: false, standing, prior })
    }

    /// As it stands in the table. `content` is that of the lane's order, where it has one.
    pub fn read(item: &Item, content: Option<&Arc<Content>>) -> Result<Self> {
        let (key, seq) = place_of(item)?;
        let standing: Option<Standing> = item.json_or_none("st")?;
        let body = match item.json_or_none::<Change>("ch")? {
            Some(change) => {
                let id = key.as_str().strip_prefix("o#").and_then(|id| id.parse().ok());
                let lost = || Error::Failed(format!("event {seq} of {key} changes an order that is not there").into());
                let (id, standing) = (id.ok_or_else(lost)?, standing.ok_or_else(lost)?);
                let content = match content {
                    Some(content) => Arc::clone(content),
                    None => Arc::new(content_of(item)?.ok_or_else(lost)?),
                };
                Body::OrderChanged { order: standing.order(id, content), change }
            }
            None => Body::Custom(Custom {
                kind: item.text("k")?.into(),
                source: item.text("src")?.into(),
                origin_id: item.text_or_none("oid").map(Into::into),
                subject: item.text("sub")?.into(),
                order_id: item.parse_or_none("o")?,
                data: item.json::<Box<RawValue>>("b")?.into(),
            }),
        };
        Ok(Self {
            event: Arc::new(event(item, body)?),
            key,
            seq,
            by: item.parse_or_none("by")?,
            astray: item.number_or_none::<u8>("astray")?.is_some(),
            standing,
            prior: item.json_or_none("pr")?.unwrap_or_default(),
        })
    }
}

fn event(item: &Item, body: Body) -> Result<Event> {
    Ok(Event {
        id: item.parse("id")?,
        position: Position::new(item.number("pos")?).unwrap_or(Position::FIRST),
        time: item.time("t")?,
        cause: item.parse_or_none("c")?,
        depth: item.number("d")?,
        body,
    })
}

/// The end of a lane, from its last item: without the body.
pub fn tail_of(item: &Item) -> Result<Tail> {
    let (_, seq) = place_of(item)?;
    let mut prior: Vec<Prior> = item.json_or_none("pr")?.unwrap_or_default();
    let position = item.number("pos")?;
    prior.push(Prior(seq, item.text("k")?.into(), position));
    let surplus = prior.len().saturating_sub(PRIOR_MAX);
    prior.drain(..surplus);
    Ok(Tail { seq, position, standing: item.json_or_none("st")?, prior })
}

/// What takes the number behind `tail` where the lane goes as a whole; DynamoDB may delete it at `expires`, in seconds.
pub fn end_item(key: &LaneKey, tail: &Tail, expires: u64) -> Item {
    Item::at(&Key::event(key, tail.seq + 1))
        .with("gone", item::number(1))
        .with("end", item::number(1))
        .with("k", item::text(""))
        .with("pos", item::number(tail.position))
        .with("ttl", item::number(expires))
}

/// Whether the item ends a lane that goes as a whole.
pub fn is_end(item: &Item) -> bool {
    item.is_gone() && item.number_or_none::<u8>("end").is_ok_and(|end| end.is_some())
}

/// The content of the order that the item places.
pub fn content_of(item: &Item) -> Result<Option<Content>> {
    match item.json_or_none::<Change>("ch")? {
        Some(Change::Placed {}) => item.json("b").map(Some),
        _ => Ok(None),
    }
}

/// Lane and number, from the keys.
pub fn place_of(item: &Item) -> Result<(LaneKey, u64)> {
    let (pk, sk) = (item.text("pk")?, item.text("sk")?);
    let unknown = || Error::Failed(format!("{pk}, {sk} names no event of a lane").into());
    let lane = pk.strip_prefix("l#").ok_or_else(unknown)?;
    let seq = sk.strip_prefix("e#").and_then(|seq| seq.parse().ok()).ok_or_else(unknown)?;
    Ok((LaneKey::known(lane), seq))
}

/// An event as SNS and SQS carry it, beside its JSON: what the JSON does not say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// Raised where a host of before could not read it.
    pub v: u32,
    pub lane: String,
    pub seq: u64,
    pub position: u64,
    pub depth: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prior: Vec<Prior>,
    /// The event is too large for a message, or holds what none may, and stands in the table alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_reference: bool,
    /// The id of the table that the event stands in. Hosts of before do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
}

/// The series of envelopes that this host writes and reads.
pub const ENVELOPE_VERSION: u32 = 1;

impl Envelope {
    pub fn of(logged: &Logged) -> Self {
        Self {
            v: ENVELOPE_VERSION,
            lane: logged.key.as_str().to_owned(),
            seq: logged.seq,
            position: logged.position(),
            depth: logged.event.depth,
            standing: logged.standing,
            prior: logged.prior.clone(),
            by_reference: false,
            table: None,
        }
    }

    /// The event that the message carries.
    pub fn open(self, body: &str) -> Result<Logged, serde_json::Error> {
        let carried: Carried = serde_json::from_str(body)?;
        let Self { lane, seq, position, depth, standing, prior, .. } = self;
        let body = match (standing, carried.kind.starts_with("order.")) {
            (Some(standing), true) => {
                let CarriedOrder { order, change } = serde_json::from_str(carried.data.get())?;
                Body::OrderChanged { order: standing.order(order.id, Arc::new(order.content)), change }
            }
            _ => Body::Custom(Custom {
                kind: carried.kind,
                source: carried.source,
                origin_id: carried.originid,
                subject: carried.subject,
                order_id: carried.orderid,
                data: carried.data.into(),
            }),
        };
        let position = Position::new(position).unwrap_or(Position::FIRST);
        let event = Event { id: carried.id, position, time: carried.time, cause: carried.causationid, depth, body };
        let (event, key) = (Arc::new(event), LaneKey::known(lane));
        Ok(Logged { event, key, seq, by: None, astray: false, standing, prior })
    }
}

/// An event's JSON, read back.
#[derive(Deserialize)]
struct Carried {
    id: EventId,
    #[serde(rename = "type")]
    kind: Arc<str>,
    source: Arc<str>,
    subject: Arc<str>,
    time: Timestamp,
    #[serde(default)]
    causationid: Option<EventId>,
    #[serde(default)]
    orderid: Option<OrderId>,
    #[serde(default)]
    originid: Option<Arc<str>>,
    data: Box<RawValue>,
}

#[derive(Deserialize)]
struct CarriedOrder {
    order: CarriedContent,
    change: Change,
}

#[derive(Deserialize)]
struct CarriedContent {
    id: OrderId,
    #[serde(flatten)]
    content: Content,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::order::{Customer, Line};

    fn order() -> Order {
        let content = Content {
            reference: Some("R-1".into()),
            currency: "EUR".into(),
            customer: Customer { id: "c-1".into(), name: None, email: None, phone: None },
            lines: vec![Line { sku: "A".into(), title: None, quantity: 2, unit_amount: 100, discount_amount: 0 }],
            total_amount: 200,
            shipping_address: None,
            metadata: BTreeMap::from([("note".to_owned(), "ü".to_owned())]),
        };
        Order::place(Arc::new(content), Timestamp::now())
    }

    fn event(body: Body, position: u64) -> Arc<Event> {
        let position = Position::new(position).unwrap();
        Arc::new(Event { id: EventId::generate(), position, time: Timestamp::now(), cause: None, depth: 3, body })
    }

    fn custom(order_id: Option<OrderId>) -> Body {
        Body::Custom(Custom {
            kind: "com.example.a".into(),
            source: "/shop".into(),
            origin_id: Some("7".into()),
            subject: "s".into(),
            order_id,
            data: RawValue::from_string(r#"{"n": 1.50}"#.into()).unwrap().into(),
        })
    }

    /// placed, a custom event about the order, confirmed.
    fn lane() -> Vec<Logged> {
        let placed = order();
        let change = Change::Confirmed {};
        let confirmed = placed.after(&change).unwrap();
        let id = placed.id;
        let mut lane: Vec<Logged> = Vec::new();
        let bodies = [
            Body::OrderChanged { order: placed, change: Change::Placed {} },
            custom(Some(id)),
            Body::OrderChanged { order: confirmed, change },
        ];
        for (body, position) in bodies.into_iter().zip([10, 20, 30]) {
            let tail = lane.last().map(Tail::behind).unwrap_or_default();
            lane.push(tail.next(event(body, position), "inventory".parse().ok(), false));
        }
        lane
    }

    fn shown(logged: &Logged) -> String {
        let Logged { event, key, seq, standing, prior, .. } = logged;
        format!("{key} {seq} {standing:?} {prior:?} {} {}", event.depth, serde_json::to_string(&**event).unwrap())
    }

    #[test]
    fn an_event_reads_back_from_its_item() {
        let lane = lane();
        let content = Arc::new(content_of(&lane[0].item().unwrap()).unwrap().unwrap());
        for logged in &lane {
            let read = Logged::read(&logged.item().unwrap(), Some(&content)).unwrap();
            assert_eq!((shown(&read), read.by.is_some()), (shown(logged), true));
        }
        assert_eq!(lane.iter().map(|logged| logged.seq).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(lane[2].prior, [Prior(1, "order.placed".into(), 10), Prior(2, "com.example.a".into(), 20)]);
        assert_eq!(lane[1].standing.unwrap().status, Status::Placed, "it stands in events that do not change it, too");
    }

    #[test]
    fn an_event_reads_back_from_its_message() {
        for logged in lane() {
            let envelope = serde_json::to_string(&Envelope::of(&logged)).unwrap();
            let envelope: Envelope = serde_json::from_str(&envelope).unwrap();
            let body = serde_json::to_string(&*logged.event).unwrap();
            assert_eq!(shown(&envelope.open(&body).unwrap()), shown(&logged));
        }
    }

    #[test]
    fn an_event_tells_of_its_last_predecessors() {
        let mut tail = Tail::default();
        for seq in 1..=40 {
            let logged = tail.next(event(custom(None), seq * 10), None, false);
            let item = logged.item().unwrap();
            assert_eq!(tail_of(&item).unwrap().prior, Tail::behind(&logged).prior);
            tail = Tail::behind(&logged);
        }
        assert_eq!((tail.seq, tail.prior.len(), tail.prior[0].seq()), (40, PRIOR_MAX, 25));
    }
}
