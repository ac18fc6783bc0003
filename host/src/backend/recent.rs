//! What was used lately, in two generations: when the young one is full it becomes the old one, and what nobody asked
//! for since the last turn is forgotten. Unlike emptying a full map at once, this never forgets what is hot.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use foldhash::quality::RandomState;

pub struct Recent<K, V> {
    young: HashMap<K, V, RandomState>,
    old: HashMap<K, V, RandomState>,
    /// Of one generation.
    max: usize,
    /// With so many, the young generation is full.
    full: usize,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    /// Keeps at most twice `max`, or a few times what must be kept.
    pub fn new(max: usize) -> Self {
        Self { young: HashMap::default(), old: HashMap::default(), max, full: max }
    }

    pub fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        if !self.old.is_empty() && !self.young.contains_key(key) {
            let (key, value) = self.old.remove_entry(key)?;
            self.young.insert(key, value);
        }
        self.young.get(key)
    }

    /// Values for which `keep` holds are never forgotten.
    pub fn insert(&mut self, key: K, value: V, keep: impl Fn(&V) -> bool) {
        if self.young.len() >= self.full {
            std::mem::swap(&mut self.young, &mut self.old);
            // In the memory that it has: to let go of megabytes and ask for them again, bit by bit, leaves holes.
            self.young.retain(|_, value| keep(value));
            // Whatever must be kept is looked at in each turn: the more it is, the later comes the next.
            self.full = self.max.max(2 * self.young.len());
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    pub fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.young.iter().chain(&self.old)
    }

    pub fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::Recent;

    #[test]
    fn what_is_used_again_and_again_stays_and_what_is_not_goes() {
        let mut recent = Recent::new(8);
        recent.insert(0, "hot", |_| false);
        for key in 1..1_000 {
            recent.insert(key, "cold", |_| false);
            assert_eq!(recent.get(&0), Some(&"hot"));
            assert!(recent.iter().count() <= 8 * 2 + 1, "{key}");
        }
        assert_eq!(recent.get(&1), None);
    }

    #[test]
    fn what_must_be_kept_is_kept_until_it_need_not_be() {
        let mut recent = Recent::new(4);
        for key in 0..100 {
            recent.insert(key, key, |_| true);
        }
        assert!((0..100).all(|key| recent.get(&key) == Some(&key)));
        for key in 100..400 {
            recent.insert(key, key, |_| false);
        }
        assert!((0..100).all(|key| recent.get(&key).is_none()));
    }

    #[test]
    fn much_that_must_be_kept_is_not_looked_at_all_the_time() {
        let (mut recent, looks) = (Recent::new(8), std::cell::Cell::new(0));
        for key in 0..10_000 {
            recent.insert(key, key, |_| {
                looks.set(looks.get() + 1);
                true
            });
        }
        assert!(looks.get() < 50_000, "{} looks", looks.get());
    }

    #[test]
    fn a_key_has_its_newest_value() {
        let mut recent = Recent::new(2);
        for value in 0..20 {
            recent.insert(value % 3, value, |_| false);
            assert_eq!(recent.get(&(value % 3)), Some(&value));
            assert_eq!(recent.iter().filter(|(key, _)| **key == value % 3).count(), 1);
        }
    }
}
