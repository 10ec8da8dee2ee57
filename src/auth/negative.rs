//! A negative cache: remembers invalid credentials for a few seconds, so that a flood of guesses causes no queries.

use std::collections::HashSet;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The age of a generation. A credential is remembered for at least this long, and at most twice as long.
const GENERATION: Duration = Duration::from_secs(2);

/// The size of a generation.
const CAPACITY: usize = 50_000;

/// A set in two generations, of which the older one is dropped as a whole.
pub(super) struct NegativeCache<K>(Mutex<Generations<K>>);

struct Generations<K> {
    newer: HashSet<K>,
    older: HashSet<K>,
    started: Instant,
}

impl<K: Hash + Eq> NegativeCache<K> {
    pub(super) fn new() -> NegativeCache<K> {
        NegativeCache(Mutex::new(Generations { newer: HashSet::new(), older: HashSet::new(), started: Instant::now() }))
    }

    pub(super) fn contains(&self, key: &K, now: Instant) -> bool {
        let mut generations = self.0.lock();
        generations.rotate_if_due(now);
        generations.newer.contains(key) || generations.older.contains(key)
    }

    pub(super) fn insert(&self, key: K, now: Instant) {
        let mut generations = self.0.lock();
        generations.rotate_if_due(now);
        generations.newer.insert(key);
    }

    pub(super) fn clear(&self) {
        let mut generations = self.0.lock();
        generations.newer.clear();
        generations.older.clear();
    }
}

impl<K: Hash + Eq> Generations<K> {
    fn rotate_if_due(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.started);
        if age < GENERATION && self.newer.len() < CAPACITY {
            return;
        }
        self.older = if age < 2 * GENERATION { std::mem::take(&mut self.newer) } else { HashSet::new() };
        self.newer.clear();
        self.started = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_in_time_and_stays_bounded() {
        let cache = NegativeCache::new();
        let start = Instant::now();
        cache.insert(1, start);
        assert!(cache.contains(&1, start + GENERATION));
        assert!(!cache.contains(&1, start + 3 * GENERATION));
        for n in 0..5 * CAPACITY {
            cache.insert(n, start + 3 * GENERATION);
        }
        let generations = cache.0.lock();
        assert!(generations.newer.len() + generations.older.len() <= 2 * CAPACITY);
    }
}
