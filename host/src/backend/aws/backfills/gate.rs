//! Who may commit live deliveries while a rebuild of their consumer is under way.
//!
//! A live delivery writes nothing that all hosts meet at, so nothing would keep one from writing into a state that is no use any
//! more. So while a rebuild is under way, each host has an item, its *gate*, and whatever it commits of the consumer does so on
//! the condition that this is open.
//!
//! ```text
//!   begin: a gate for each host, shut ──► opened by the host that heard of it ──► joined: nothing is on its way without a gate
//!                                                  ▲                                        │
//!                                                  └── the try is over ◄── shut for a try to hand over, once nothing runs
//! ```
//!
//! **Invariants**
//! - A gate is opened only while no hand-over is tried. So who begins a try and then sees every gate shut, sees them shut until
//!   it is over.
//! - A host that has joined commits nothing of the consumer without its gate, as long as that rebuild is under way.
//! - Whoever shuts another one's gate does no harm: what its host was about to commit is handled again.

use std::collections::BTreeMap;

use super::news;
use crate::backend::Result;
use crate::backend::aws::hosts;
use crate::backend::aws::item::{Item, Key, gates_prefix, number, rebuilds_partition};
use crate::backend::aws::store::Store;
use crate::backend::aws::table::{Change, Span, Transaction};
use crate::policy::ConsumerName;

/// The condition of whatever goes through it.
pub fn is_open() -> Change {
    Change::default().only_if("op = :open").value(":open", number(1))
}

/// That the rebuild is under way.
fn is_under_way(rebuild: i64, more: &str) -> Change {
    Change::default().only_if(format!("bfa = :rebuild{more}")).value(":rebuild", number(rebuild))
}

/// Shut gates for hosts that are there when a rebuild begins: they are to join, or to be gone for long.
pub fn begun(name: &ConsumerName, rebuild: i64, hosts: &[String]) -> impl Iterator<Item = Item> {
    hosts.iter().map(move |host| Item::at(&Key::gate(name, rebuild, host)))
}

/// Opens this host's gate. `false` where a hand-over is tried, or the rebuild has ended.
pub async fn open(store: &Store, name: &ConsumerName, rebuild: i64, host: &str) -> Result<bool> {
    let mut transaction = Transaction::default();
    transaction.check((), Key::consumer(name), is_under_way(rebuild, " AND attribute_not_exists(nr)"));
    let open = Change::of("SET op = :open").value(":open", number(1));
    transaction.update((), Key::gate(name, rebuild, host), open);
    Ok(store.table.transact(transaction).await?.is_ok())
}

/// Says that this host commits nothing of the consumer without its gate. `false` where the rebuild has ended.
pub async fn join(store: &Store, name: &ConsumerName, rebuild: i64, host: &str) -> Result<bool> {
    let mut transaction = Transaction::default();
    transaction.check((), Key::consumer(name), is_under_way(rebuild, ""));
    let join = Change::of("SET ak = :joined").value(":joined", number(1));
    transaction.update((), Key::gate(name, rebuild, host), join);
    Ok(store.table.transact(transaction).await?.is_ok())
}

/// Shuts a gate. Where this comes late, its host opens it again.
pub async fn shut(store: &Store, name: &ConsumerName, rebuild: i64, host: &str) -> Result<()> {
    let change = Change::of("REMOVE op").only_if("attribute_exists(pk)");
    store.table.update(&Key::gate(name, rebuild, host), change).await.map(drop)
}

/// Ends a try to hand over, if it is that one still.
pub async fn end_try(store: &Store, name: &ConsumerName, number_of: u64) -> Result<()> {
    let over = news("REMOVE nr, nru").only_if("nr = :try").value(":try", number(number_of));
    store.table.update_once(&Key::consumer(name), over).await.map(drop)
}

/// A host's gate, as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    pub open: bool,
    pub joined: bool,
    /// Its host has a slot, and keeps it.
    pub lives: bool,
}

/// The gates of all hosts that live, or that had one.
pub async fn all(store: &Store, name: &ConsumerName, rebuild: i64) -> Result<BTreeMap<String, Gate>> {
    let lost = Gate { open: false, joined: false, lives: true };
    let living = hosts::keepers(&store.table).await?.into_iter().map(|host| (host, lost));
    let mut gates: BTreeMap<String, Gate> = living.collect();
    let prefix = gates_prefix(rebuild);
    let (partition, to) = (rebuilds_partition(name), format!("{prefix}~"));
    let span = Span { partition, from: prefix.clone(), to, newest_first: false, limit: usize::MAX };
    for item in store.table.query(span).await? {
        let host = item.text("sk")?.trim_start_matches(&prefix).to_owned();
        let is = |name: &str| item.number_or_none::<u8>(name).map(|is| is.is_some());
        let gate = gates.entry(host).or_insert(Gate { lives: false, ..lost });
        (gate.open, gate.joined) = (is("op")?, is("ak")?);
    }
    Ok(gates)
}
