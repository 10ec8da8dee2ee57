//! A brief memory of credentials that are not valid, so that a flood of guesses costs no queries.

use std::collections::HashSet;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long an unknown credential is remembered, at the least; twice as long at the most.
const GENERATION: Duration = Duration::from_secs(2);

/// How many are remembered per generation.
const CAPACITY: usize = 50_000;

/// Two generations of a set: the older one is forgotten as a whole.
pub(super) struct Unknown<K>(Mutex<Generations<K>>);

struct Generations<K> {
    newer: HashSet<K>,
    older: HashSet<K>,
    began: Instant,
}

impl<K: Hash + Eq> Unknown<K> {
    pub(super) fn new() -> Unknown<K> {
        Unknown(Mutex::new(Generations { newer: HashSet::new(), older: HashSet::new(), began: Instant::now() }))
    }

    pub(super) fn contains(&self, key: &K, now: Instant) -> bool {
        let mut generations = self.0.lock();
        generations.turn(now);
        generations.newer.contains(key) || generations.older.contains(key)
    }

    pub(super) fn insert(&self, key: K, now: Instant) {
        let mut generations = self.0.lock();
        generations.turn(now);
        generations.newer.insert(key);
    }

    pub(super) fn clear(&self) {
        let mut generations = self.0.lock();
        generations.newer.clear();
        generations.older.clear();
    }
}

impl<K: Hash + Eq> Generations<K> {
    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.began);
        if age < GENERATION && self.newer.len() < CAPACITY {
            return;
        }
        self.older = if age < 2 * GENERATION { std::mem::take(&mut self.newer) } else { HashSet::new() };
        self.newer.clear();
        self.began = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_in_time_and_stays_bounded() {
        let unknown = Unknown::new();
        let start = Instant::now();
        unknown.insert(1, start);
        assert!(unknown.contains(&1, start + GENERATION));
        assert!(!unknown.contains(&1, start + 3 * GENERATION));
        for n in 0..5 * CAPACITY {
            unknown.insert(n, start + 3 * GENERATION);
        }
        let generations = unknown.0.lock();
        assert!(generations.newer.len() + generations.older.len() <= 2 * CAPACITY);
    }
}
