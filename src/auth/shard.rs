//! A bounded map with second-chance (CLOCK) eviction: a hand goes around the slots and evicts the first entry that was
//! not used since the hand last passed it.

use std::collections::HashMap;
use std::hash::Hash;

/// One shard of the cache.
pub(super) struct Shard<K, V> {
    /// Where the entry of a key is in `slots`.
    index: HashMap<K, usize>,
    slots: Vec<Slot<K, V>>,
    hand: usize,
    capacity: usize,
}

struct Slot<K, V> {
    key: K,
    value: V,
    used: bool,
}

impl<K: Copy + Eq + Hash, V> Shard<K, V> {
    /// A map of at most `capacity` entries, and at least one.
    pub(super) fn new(capacity: usize) -> Shard<K, V> {
        Shard { index: HashMap::new(), slots: Vec::new(), hand: 0, capacity: capacity.max(1) }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn get(&mut self, key: &K) -> Option<&mut V> {
        let slot = &mut self.slots[*self.index.get(key)?];
        slot.used = true;
        Some(&mut slot.value)
    }

    /// Returns whether another entry was evicted.
    pub(super) fn insert(&mut self, key: K, value: V) -> bool {
        if let Some(at) = self.index.get(&key) {
            self.slots[*at].value = value;
            return false;
        }
        let slot = Slot { key, value, used: false };
        if self.slots.len() < self.capacity {
            self.index.insert(key, self.slots.len());
            self.slots.push(slot);
            return false;
        }
        while std::mem::take(&mut self.slots[self.hand].used) {
            self.hand = (self.hand + 1) % self.capacity;
        }
        self.index.remove(&self.slots[self.hand].key);
        self.index.insert(key, self.hand);
        self.slots[self.hand] = slot;
        self.hand = (self.hand + 1) % self.capacity;
        true
    }

    pub(super) fn remove(&mut self, key: &K) {
        let Some(at) = self.index.remove(key) else { return };
        self.slots.swap_remove(at);
        if let Some(moved) = self.slots.get(at) {
            self.index.insert(moved.key, at);
        }
        self.hand = if self.hand < self.slots.len() { self.hand } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_in_use_is_not_evicted() {
        let mut shard = Shard::new(4);
        shard.insert(0, "kept");
        for n in 1..100 {
            shard.insert(n, "evicted some day");
            assert_eq!(shard.get(&0), Some(&mut "kept"), "{n}");
        }
        assert_eq!(shard.len(), 4);
        for n in 0..100 {
            shard.remove(&n);
        }
        assert!(shard.len() == 0 && shard.index.is_empty());
    }
}
