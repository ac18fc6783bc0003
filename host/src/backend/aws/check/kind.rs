//! What an item is, by its keys, and what it is called.

use std::fmt::{self, Display, Formatter};

use crate::backend::aws::item::{CONSUMERS, FORGOTTEN, HOSTS, Key, LaneKey, MESSAGES};

/// Names of consumers are as they stand in keys: no consumer may have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Event {
        lane: LaneKey,
        seq: u64,
    },
    IdempotencyKey(String),
    Reference(String),
    OriginId(String),
    Consumer(String),
    Forgotten(String),
    Place {
        by: String,
        lane: LaneKey,
    },
    /// An attempt, or what a person did with the delivery.
    Delivery {
        by: String,
        lane: LaneKey,
        seq: u64,
    },
    Letter {
        by: String,
        position: u64,
    },
    Due {
        by: String,
        sort: String,
    },
    State {
        by: String,
        generation: String,
        key: String,
        counter: bool,
    },
    Message {
        position: u64,
        sort: String,
    },
    Records {
        dataset: String,
        position: u64,
        sort: String,
    },
    /// One, or a sum that it keeps.
    Backfill {
        by: String,
        sort: String,
    },
    /// An event that a rebuild comes back to.
    PutOff {
        by: String,
        rebuild: i64,
        position: u64,
    },
    /// Of a host beside a rebuild.
    Gate {
        by: String,
        rebuild: i64,
        host: String,
    },
    /// Of a host that is to leave the layout before a take-over.
    Left {
        by: String,
        take_over: i64,
        host: String,
    },
    HistoryRow {
        by: String,
        number: u64,
    },
    Kept {
        by: String,
        hash: String,
    },
    Standing {
        by: String,
    },
    Running {
        slot: String,
    },
    File(String),
    Piece {
        file: String,
        number: String,
    },
    Host {
        slot: String,
    },
    Intent(String),
    Intended {
        intent: String,
        number: String,
    },
    Upkeep,
    Unknown(Key),
}

impl Kind {
    pub fn of(key: &Key) -> Self {
        Self::parse(key).unwrap_or_else(|| Self::Unknown(key.clone()))
    }

    fn parse(Key { pk, sk }: &Key) -> Option<Self> {
        let (sort, owned) = (sk.clone(), str::to_owned);
        let Some((prefix, rest)) = pk.split_once('#') else {
            return Some(match pk.as_str() {
                CONSUMERS => Self::Consumer(sort),
                FORGOTTEN => Self::Forgotten(sort),
                HOSTS => Self::Host { slot: sort },
                MESSAGES => Self::Message { position: first_number(sk)?, sort },
                "b" => Self::File(sort),
                "k" => sk.split_once('#').map(|(by, hash)| Self::Kept { by: owned(by), hash: owned(hash) })?,
                "y" => match sk.split_once('#')? {
                    ("s", by) => Self::Standing { by: owned(by) },
                    ("h", slot) => Self::Running { slot: owned(slot) },
                    _ => return None,
                },
                "u" => Self::Upkeep,
                _ => return None,
            });
        };
        Some(match prefix {
            "l" => Self::Event { lane: LaneKey::known(rest), seq: sk.strip_prefix("e#")?.parse().ok()? },
            "i" => Self::IdempotencyKey(owned(rest)),
            "f" => Self::Reference(owned(rest)),
            "x" => Self::OriginId(owned(rest)),
            "p" => {
                let (by, lane) = rest.split_once('#')?;
                let (by, lane) = (owned(by), LaneKey::known(lane));
                let mut parts = sk.split('#');
                match (parts.next()?, parts.next()) {
                    ("p", None) => Self::Place { by, lane },
                    ("a" | "v", Some(seq)) => Self::Delivery { by, lane, seq: seq.parse().ok()? },
                    _ => return None,
                }
            }
            "d" => Self::Letter { by: owned(rest), position: sk.parse().ok()? },
            "g" => Self::Backfill { by: owned(rest), sort },
            "w" => {
                let (first, kept) = sk.split_once('#')?;
                let by = owned(rest);
                if first == "l" {
                    let (take_over, host) = kept.split_once('#')?;
                    return Some(Self::Left { by, take_over: take_over.parse().ok()?, host: owned(host) });
                }
                let rebuild = first.parse().ok()?;
                match kept.split_once('#')? {
                    ("e", position) => Self::PutOff { by, rebuild, position: position.parse().ok()? },
                    ("g", host) => Self::Gate { by, rebuild, host: owned(host) },
                    _ => return None,
                }
            }
            "q" => Self::Due { by: owned(rest), sort },
            "s" => {
                let mut parts = rest.split('#').map(owned);
                let (by, generation) = (parts.next()?, parts.next()?);
                let counter = match parts.next()?.as_str() {
                    "n" => true,
                    "k" => false,
                    _ => return None,
                };
                Self::State { by, generation, key: sort, counter }
            }
            "r" => Self::Records { dataset: owned(rest), position: first_number(sk)?, sort },
            "v" => Self::HistoryRow { by: owned(rest), number: sk.parse().ok()? },
            "b" => Self::Piece { file: owned(rest), number: sort },
            "t" if sk == "t" => Self::Intent(owned(rest)),
            "t" => Self::Intended { intent: owned(rest), number: owned(sk.strip_prefix("w#")?) },
            _ => return None,
        })
    }

    pub fn rule(&self) -> &'static str {
        match self {
            Self::Event { .. } => "events",
            Self::IdempotencyKey(_) => "idempotency keys",
            Self::Reference(_) => "references",
            Self::OriginId(_) => "ids of events",
            Self::Consumer(_) | Self::Forgotten(_) => "consumers",
            Self::Place { .. } => "places",
            Self::Delivery { .. } => "attempts",
            Self::Letter { .. } => "dead letters",
            Self::Due { .. } => "due deliveries",
            Self::State { .. } | Self::Left { .. } => "state",
            Self::Message { .. } => "messages",
            Self::Records { .. } => "records",
            Self::Backfill { .. } | Self::PutOff { .. } | Self::Gate { .. } => "backfills",
            Self::HistoryRow { .. } | Self::Standing { .. } => "version history",
            Self::Kept { .. } => "kept versions",
            Self::File(_) | Self::Piece { .. } => "plugin files",
            Self::Running { .. } | Self::Host { .. } | Self::Upkeep => "hosts",
            Self::Intent(_) | Self::Intended { .. } => "large commits",
            Self::Unknown(_) => "other items",
        }
    }
}

fn first_number(sort: &str) -> Option<u64> {
    sort.split('#').next()?.parse().ok()
}

/// A lane as people call it.
pub fn shown(lane: &LaneKey) -> String {
    match lane.as_str().split_once('#') {
        Some(("o", id)) => format!("order {id}"),
        Some((_, subject)) => format!("subject {subject}"),
        None => lane.to_string(),
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event { lane, seq } => write!(f, "event {seq} of {}", shown(lane)),
            Self::IdempotencyKey(key) => write!(f, "idempotency key {key}"),
            Self::Reference(reference) => write!(f, "reference {reference}"),
            Self::OriginId(id) => write!(f, "id of an event {id}"),
            Self::Consumer(name) => write!(f, "consumer {name}"),
            Self::Forgotten(name) => write!(f, "forgotten consumer {name}"),
            Self::Place { by, lane } => write!(f, "place of {by} in {}", shown(lane)),
            Self::Delivery { by, lane, seq } => write!(f, "attempt of {by} at event {seq} of {}", shown(lane)),
            Self::Letter { by, position } => write!(f, "dead letter {position} of {by}"),
            Self::Due { by, sort } => write!(f, "due delivery of {by} in {}", shown(&LaneKey::known(sort.as_str()))),
            Self::State { by, key, counter: true, .. } => write!(f, "counter {key} of {by}"),
            Self::State { by, key, .. } => write!(f, "entry {key} of {by}"),
            Self::Message { sort, .. } => write!(f, "message {sort}"),
            Self::Records { dataset, sort, .. } => write!(f, "rows {sort} of {dataset}"),
            Self::Backfill { by, sort } => write!(f, "backfill {sort} of {by}"),
            Self::PutOff { by, rebuild, position } => {
                write!(f, "event {position} that rebuild {rebuild} of {by} comes back to")
            }
            Self::Gate { by, rebuild, host } => write!(f, "gate of {host} beside rebuild {rebuild} of {by}"),
            Self::Left { by, take_over, host } => {
                write!(f, "what {host} says of take-over {take_over} of the state of {by}")
            }
            Self::HistoryRow { by, number } => write!(f, "row {number} of the versions of {by}"),
            Self::Kept { by, hash } => write!(f, "version {hash} of {by}"),
            Self::Standing { by } => write!(f, "standing of {by}"),
            Self::Running { slot } => write!(f, "what the host in slot {slot} runs"),
            Self::File(hash) => write!(f, "plugin file {hash}"),
            Self::Piece { file, number } => write!(f, "piece {number} of plugin file {file}"),
            Self::Host { slot } => write!(f, "host in slot {slot}"),
            Self::Intent(id) => write!(f, "large commit {id}"),
            Self::Intended { intent, number } => write!(f, "step {number} of large commit {intent}"),
            Self::Upkeep => f.write_str("upkeep"),
            Self::Unknown(Key { pk, sk }) => write!(f, "item {pk}, {sk}"),
        }
    }
}
