//! The callers seen lately: a bounded, sharded map from a credential's digest to its caller.
//!
//! Being right rests on one counter. Every revocation takes the next number and writes it on the bucket its user falls
//! into; every entry carries the number that was current before its row was read. An entry whose bucket has a higher
//! number was read before a change of its user and counts for nothing. So a revocation costs one store whatever the
//! cache holds, and a row read just before a change can never be cached just behind it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use time::OffsetDateTime;

use super::unknown::Unknown;
use super::{Caller, Digest};

/// How long an entry is believed without a look at the database.
pub const TTL: Duration = Duration::from_secs(60);

/// How often the use of a credential is recorded.
const RECORD_EVERY: Duration = Duration::from_secs(60);

const SHARDS: usize = 64;

/// Users that fall into one bucket are revoked together, which costs a query each and no more.
const BUCKETS: usize = 1 << 16;

/// What kind of credential a digest is of: a secret is no session, and the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An API secret.
    Key,
    /// A session token.
    Session,
}

/// The key of an entry.
pub(super) type Key = (Kind, Digest);

/// What the cache says of a credential.
pub(super) enum Look {
    /// Valid. Whether its use is to be recorded.
    Hit(Arc<Caller>, bool),
    /// Not valid a moment ago.
    Unknown,
    /// Was valid at this time; to be looked up. Good enough while the database is away.
    Stale(Arc<Caller>, Instant),
    /// Nothing that may be used.
    Miss,
}

/// The number that was current before a row was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp(u64);

struct Entry {
    caller: Arc<Caller>,
    stamp: u64,
    bucket: usize,
    loaded: Instant,
    recorded: Instant,
}

/// How often what happened, since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// A caller was in the cache.
    pub hits: AtomicU64,
    /// A credential was looked up in the database.
    pub misses: AtomicU64,
    /// An unknown credential was refused from memory.
    pub refused: AtomicU64,
    /// An entry made room for another.
    pub evicted: AtomicU64,
}

/// The cache.
pub struct Cache {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    unknown: Unknown<Key>,
    counter: AtomicU64,
    /// Entries with a lower number are to be looked up: changes may have been missed.
    floor: AtomicU64,
    buckets: Vec<AtomicU64>,
    listening: AtomicBool,
    /// What happened.
    pub counters: Counters,
}

impl Cache {
    /// A cache of at most `capacity` callers. It believes nothing until [`Cache::listening`].
    pub fn new(capacity: usize) -> Cache {
        let shard = || Mutex::new(Shard::new(capacity.div_ceil(SHARDS)));
        Cache {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            hasher: RandomState::new(),
            unknown: Unknown::new(),
            counter: AtomicU64::new(1),
            floor: AtomicU64::new(0),
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            listening: AtomicBool::new(false),
            counters: Counters::default(),
        }
    }

    /// Changes are heard of from now on. What was cached before is to be looked up: something may have been missed.
    pub fn listening(&self) {
        self.floor.store(self.next_number(), Ordering::Release);
        self.listening.store(true, Ordering::Release);
    }

    /// Changes are not heard of any more.
    pub fn deaf(&self) {
        self.listening.store(false, Ordering::Release);
        self.floor.store(self.next_number(), Ordering::Release);
    }

    /// Whether changes are heard of.
    pub fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    /// Something about this user changed: nothing read before counts.
    pub fn revoke(&self, user_id: &str) {
        self.buckets[self.bucket(user_id)].store(self.next_number(), Ordering::Release);
        // A key may have been given back its rights.
        self.unknown.clear();
    }

    /// Something about everybody may have changed.
    pub fn revoke_all(&self) {
        let number = self.next_number();
        for bucket in &self.buckets {
            bucket.store(number, Ordering::Release);
        }
        self.unknown.clear();
    }

    fn next_number(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn bucket(&self, user_id: &str) -> usize {
        #[allow(clippy::cast_possible_truncation)]
        let hash = self.hasher.hash_one(user_id) as usize;
        hash % BUCKETS
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        // The digest is uniform, and the map inside the shard is keyed: this only spreads.
        &self.shards[usize::from(key.1.0[31]) % SHARDS]
    }

    /// To be taken before a row is read.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp(self.counter.load(Ordering::Acquire))
    }

    /// Whether no change of the user came since the stamp was taken.
    pub(super) fn is_current(&self, user_id: &str, stamp: Stamp) -> bool {
        self.buckets[self.bucket(user_id)].load(Ordering::Acquire) <= stamp.0
    }

    pub(super) fn look(&self, key: &Key, now: Instant) -> Look {
        let mut shard = self.shard(key).lock();
        let Some(entry) = shard.get(key) else {
            drop(shard);
            return match self.unknown.contains(key, now) {
                true => {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                    Look::Unknown
                }
                false => Look::Miss,
            };
        };
        if self.buckets[entry.bucket].load(Ordering::Acquire) > entry.stamp || has_expired(&entry.caller) {
            return Look::Miss;
        }
        let trusted = entry.stamp >= self.floor.load(Ordering::Acquire) && self.is_listening();
        if !trusted || now.saturating_duration_since(entry.loaded) >= TTL {
            return Look::Stale(entry.caller.clone(), entry.loaded);
        }
        let record = now.saturating_duration_since(entry.recorded) >= RECORD_EVERY;
        if record {
            entry.recorded = now;
        }
        self.counters.hits.fetch_add(1, Ordering::Relaxed);
        Look::Hit(entry.caller.clone(), record)
    }

    /// Keeps what was read since `stamp`, unless the user changed meanwhile.
    pub(super) fn insert(&self, key: Key, caller: &Arc<Caller>, stamp: Stamp, now: Instant) {
        let bucket = self.bucket(&caller.user.id);
        let entry = Entry { caller: caller.clone(), stamp: stamp.0, bucket, loaded: now, recorded: now };
        if self.shard(&key).lock().insert(key, entry) {
            self.counters.evicted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Forgets a credential that turned out not to be valid, and remembers that for a moment.
    pub(super) fn insert_unknown(&self, key: Key, now: Instant) {
        self.shard(&key).lock().remove(&key);
        self.unknown.insert(key, now);
    }

    /// How many callers are held.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().places.len()).sum()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn has_expired(caller: &Caller) -> bool {
    caller.expires().is_some_and(|at| at <= OffsetDateTime::now_utc())
}

/// A part of the cache, with second-chance (CLOCK) eviction: a hand goes round and takes what was not used since it
/// last came by.
struct Shard {
    places: HashMap<Key, usize>,
    slots: Vec<Slot>,
    hand: usize,
    capacity: usize,
}

struct Slot {
    key: Key,
    entry: Entry,
    used: bool,
}

impl Shard {
    fn new(capacity: usize) -> Shard {
        Shard { places: HashMap::new(), slots: Vec::new(), hand: 0, capacity: capacity.max(1) }
    }

    fn get(&mut self, key: &Key) -> Option<&mut Entry> {
        let slot = &mut self.slots[*self.places.get(key)?];
        slot.used = true;
        Some(&mut slot.entry)
    }

    /// Whether another entry made room.
    fn insert(&mut self, key: Key, entry: Entry) -> bool {
        if let Some(at) = self.places.get(&key) {
            self.slots[*at].entry = entry;
            return false;
        }
        let slot = Slot { key, entry, used: false };
        if self.slots.len() < self.capacity {
            self.places.insert(key, self.slots.len());
            self.slots.push(slot);
            return false;
        }
        while std::mem::take(&mut self.slots[self.hand].used) {
            self.hand = (self.hand + 1) % self.capacity;
        }
        self.places.remove(&self.slots[self.hand].key);
        self.places.insert(key, self.hand);
        self.slots[self.hand] = slot;
        self.hand = (self.hand + 1) % self.capacity;
        true
    }

    fn remove(&mut self, key: &Key) {
        let Some(at) = self.places.remove(key) else { return };
        self.slots.swap_remove(at);
        if let Some(moved) = self.slots.get(at) {
            self.places.insert(moved.key, at);
        }
        self.hand = if self.hand < self.slots.len() { self.hand } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Via;
    use crate::store::User;

    fn caller(user: &str) -> Arc<Caller> {
        Arc::new(Caller::new(User::sample(user), Via::Key { id: "key".into(), expires: None }))
    }

    fn key(n: u64) -> Key {
        (Kind::Key, Digest::of(&n.to_string()))
    }

    fn listening(capacity: usize) -> Cache {
        let cache = Cache::new(capacity);
        cache.listening();
        cache
    }

    #[test]
    fn a_hit_lasts_until_its_time_is_over() {
        let (cache, now) = (listening(10), Instant::now());
        cache.insert(key(1), &caller("u"), cache.stamp(), now);
        assert!(matches!(cache.look(&key(1), now), Look::Hit(_, false)));
        assert!(matches!(cache.look(&(Kind::Session, key(1).1), now), Look::Miss));
        assert!(matches!(cache.look(&key(1), now + TTL), Look::Stale(..)));
    }

    #[test]
    fn a_revocation_ends_what_was_read_before_it_and_only_that() {
        let (cache, now) = (listening(10), Instant::now());
        cache.insert(key(1), &caller("u"), cache.stamp(), now);
        cache.insert(key(2), &caller("other"), cache.stamp(), now);
        let read_before = cache.stamp();
        cache.revoke("u");
        assert!(matches!(cache.look(&key(1), now), Look::Miss));
        assert!(matches!(cache.look(&key(2), now), Look::Hit(..)));
        // A slow reader arrives with the old row.
        assert!(!cache.is_current("u", read_before));
        cache.insert(key(1), &caller("u"), read_before, now);
        assert!(matches!(cache.look(&key(1), now), Look::Miss));
        cache.insert(key(1), &caller("u"), cache.stamp(), now);
        assert!(matches!(cache.look(&key(1), now), Look::Hit(..)));
    }

    #[test]
    fn everybody_can_be_revoked_at_once() {
        let (cache, now) = (listening(10), Instant::now());
        cache.insert(key(1), &caller("u"), cache.stamp(), now);
        cache.insert(key(2), &caller("other"), cache.stamp(), now);
        cache.revoke_all();
        for n in [1, 2] {
            assert!(matches!(cache.look(&key(n), now), Look::Miss));
        }
    }

    #[test]
    fn nothing_from_before_a_loss_is_trusted_after_it() {
        let (cache, now) = (listening(10), Instant::now());
        cache.insert(key(1), &caller("u"), cache.stamp(), now);
        cache.deaf();
        assert!(matches!(cache.look(&key(1), now), Look::Stale(..)));
        cache.insert(key(2), &caller("u"), cache.stamp(), now);
        assert!(matches!(cache.look(&key(2), now), Look::Stale(..)));
        cache.listening();
        assert!(matches!(cache.look(&key(1), now), Look::Stale(..)));
        assert!(matches!(cache.look(&key(2), now), Look::Stale(..)));
        cache.revoke("u");
        assert!(matches!(cache.look(&key(1), now), Look::Miss), "a revoked caller gets no grace");
    }

    #[test]
    fn stays_bounded_and_keeps_what_is_used() {
        let (cache, now) = (listening(SHARDS * 4), Instant::now());
        cache.insert(key(0), &caller("u"), cache.stamp(), now);
        for n in 1..10_000 {
            cache.insert(key(n), &caller("u"), cache.stamp(), now);
            assert!(matches!(cache.look(&key(0), now), Look::Hit(..)), "{n}");
        }
        assert!(cache.len() <= SHARDS * 4);
        for n in 0..10_000 {
            cache.insert_unknown(key(n), now);
        }
        assert!(cache.is_empty());
        assert!(matches!(cache.look(&key(9_999), now), Look::Unknown));
    }

    #[test]
    fn use_is_recorded_once_a_minute() {
        let (cache, now) = (listening(10), Instant::now());
        cache.insert(key(1), &caller("u"), cache.stamp(), now);
        assert!(matches!(cache.look(&key(1), now + RECORD_EVERY / 2), Look::Hit(_, false)));
    }
}
