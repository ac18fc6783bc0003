//! Orders that handlers of a rebuild ask for, read before they do: as many at once as were asked for lately, so that one which
//! asks for none costs nothing.

use std::collections::{HashMap, VecDeque};

use crate::backend::aws::lane::Tail;
use crate::order::{Order, OrderId};

/// Orders that are read at once, at most.
const MANY_MAX: usize = 32;

/// An order, and where its lane ends.
pub type Stands = (Option<Order>, Tail);

#[derive(Default)]
pub struct Ahead {
    /// Of the events that come next, in their order.
    next: VecDeque<OrderId>,
    read: HashMap<OrderId, Stands>,
    /// Of those that were read last: how many, and which were not asked for.
    many: usize,
    left: Vec<OrderId>,
}

impl Ahead {
    /// These are the orders of the events that come next.
    pub fn look(&mut self, next: impl IntoIterator<Item = OrderId>) {
        self.next = next.into_iter().collect();
        self.read.clear();
    }

    pub fn get(&mut self, id: OrderId) -> Option<Stands> {
        self.left.retain(|left| *left != id);
        self.read.get(&id).cloned()
    }

    /// Which to read, where this one is asked for and was not read.
    pub fn ask(&mut self, id: OrderId) -> Vec<OrderId> {
        self.many = if self.left.is_empty() { (2 * self.many).clamp(1, MANY_MAX) } else { 1 };
        if let Some(at) = self.next.iter().position(|next| *next == id) {
            self.next.drain(..=at);
        }
        let mut asked = vec![id];
        while asked.len() < self.many
            && let Some(next) = self.next.pop_front()
        {
            if !asked.contains(&next) && !self.read.contains_key(&next) {
                asked.push(next);
            }
        }
        self.left = asked.iter().skip(1).copied().collect();
        asked
    }

    pub fn add(&mut self, id: OrderId, stands: Stands) {
        self.read.insert(id, stands);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(ahead: &mut Ahead, id: OrderId) -> usize {
        if ahead.get(id).is_some() {
            return 0;
        }
        let asked = ahead.ask(id);
        asked.iter().for_each(|id| ahead.add(*id, Stands::default()));
        asked.len()
    }

    #[test]
    fn as_many_are_read_as_were_asked_for() {
        let ids: Vec<OrderId> = (0..200).map(|_| OrderId::generate()).collect();
        let mut ahead = Ahead::default();
        // Each order has two events, one behind the other.
        ahead.look(ids.iter().flat_map(|id| [*id, *id]));
        let read: Vec<usize> = ids.iter().map(|id| asks(&mut ahead, *id)).filter(|read| *read > 0).collect();
        assert_eq!(read, [1, 2, 4, 8, 16, 32, 32, 32, 32, 32, 9]);
        assert!(ids.iter().all(|id| asks(&mut ahead, *id) == 0), "it is read once");

        ahead.look(ids.iter().copied());
        assert_eq!(asks(&mut ahead, ids[0]), 32, "nothing was read in vain");
        assert_eq!(asks(&mut ahead, ids[40]), 1, "most of what was read last was not asked for");
        assert_eq!(asks(&mut ahead, ids[50]), 2);
        assert_eq!(asks(&mut ahead, ids[49]), 1, "one that is not to come");
    }
}
