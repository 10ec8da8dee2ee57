//! The cache of callers: a bounded, sharded map from the digest of a credential to its caller. [`Epochs`] decides
//! whether an entry is still current.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use time::OffsetDateTime;

use super::Caller;
use super::credential::Key;
use super::epochs::{BUCKETS, Bucket, Epochs, Stamp};
use super::negative::NegativeCache;
use super::shard::Shard;

/// How long an entry is used without looking it up in the database again.
pub const TTL: Duration = Duration::from_secs(60);

/// How often the last use of a credential is recorded.
const RECORD_INTERVAL: Duration = Duration::from_secs(60);

const SHARDS: usize = 64;

/// What the cache knows of a credential.
pub(super) enum Lookup {
    /// It is valid. The flag says whether this use should be recorded.
    Hit(Arc<Caller>, bool),
    /// It was invalid a moment ago.
    Invalid,
    /// It was valid at this time, and has to be looked up again unless the database is down.
    Stale(Arc<Caller>, Instant),
    /// Nothing.
    Miss,
}

struct Entry {
    caller: Arc<Caller>,
    stamp: Stamp,
    bucket: Bucket,
    loaded: Instant,
    recorded: Instant,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Callers found in the cache.
    pub hits: AtomicU64,
    /// Credentials looked up in the database.
    pub misses: AtomicU64,
    /// Invalid credentials refused without a query.
    pub refused: AtomicU64,
    /// Entries evicted to make room for others.
    pub evicted: AtomicU64,
    /// Revocations received, of one user or of all.
    pub revocations: AtomicU64,
}

/// The cache.
pub struct Cache {
    shards: Vec<Mutex<Shard<Key, Entry>>>,
    invalid: NegativeCache<Key>,
    epochs: Epochs,
    is_subscribed: AtomicBool,
    /// Counters for monitoring.
    pub counters: Counters,
}

impl Cache {
    /// A cache of about `capacity` callers (each of its shards has the same bound). Until [`Cache::subscribed`], all
    /// its entries are stale.
    pub fn new(capacity: usize) -> Cache {
        let shard = || Mutex::new(Shard::new(capacity.div_ceil(SHARDS)));
        Cache {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            invalid: NegativeCache::new(),
            epochs: Epochs::new(BUCKETS),
            is_subscribed: AtomicBool::new(false),
            counters: Counters::default(),
        }
    }

    /// From now on, this process is notified of changes. Entries from before are stale: it may have missed some.
    pub fn subscribed(&self) {
        self.epochs.distrust_all();
        self.is_subscribed.store(true, Ordering::Release);
    }

    /// This process is no longer notified of changes: all entries are stale.
    pub fn unsubscribed(&self) {
        self.is_subscribed.store(false, Ordering::Release);
        self.epochs.distrust_all();
    }

    /// Whether this process is notified of changes.
    pub fn is_subscribed(&self) -> bool {
        self.is_subscribed.load(Ordering::Acquire)
    }

    /// Something about this user changed: rows read before are not used any more.
    pub fn revoke(&self, user_id: &str) {
        self.counters.revocations.fetch_add(1, Ordering::Relaxed);
        self.epochs.revoke(self.epochs.bucket(user_id));
        // An invalid credential may have become valid.
        self.invalid.clear();
    }

    /// Any user may have changed.
    pub fn revoke_all(&self) {
        self.counters.revocations.fetch_add(1, Ordering::Relaxed);
        self.epochs.revoke_all();
        self.invalid.clear();
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard<Key, Entry>> {
        // Any byte of a digest is uniformly distributed.
        &self.shards[usize::from(key.1.0[31]) % SHARDS]
    }

    /// To be taken before a row is read.
    pub(super) fn stamp(&self) -> Stamp {
        self.epochs.stamp()
    }

    /// Where the revocations of a user are noted.
    pub(super) fn bucket(&self, user_id: &str) -> Bucket {
        self.epochs.bucket(user_id)
    }

    /// Whether no user of the bucket has changed since the stamp was taken, as far as is known, and no change can have
    /// been missed.
    pub(super) fn is_bucket_current(&self, bucket: Bucket, stamp: Stamp) -> bool {
        self.epochs.is_current(bucket, stamp) && self.epochs.is_trusted(stamp)
    }

    /// Whether the user has not changed since the stamp was taken.
    pub(super) fn is_current(&self, user_id: &str, stamp: Stamp) -> bool {
        self.epochs.is_current(self.epochs.bucket(user_id), stamp)
    }

    pub(super) fn lookup(&self, key: &Key, now: Instant) -> Lookup {
        let mut shard = self.shard(key).lock();
        let Some(entry) = shard.get(key) else {
            drop(shard);
            return match self.invalid.contains(key, now) {
                true => {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                    Lookup::Invalid
                }
                false => Lookup::Miss,
            };
        };
        if !self.epochs.is_current(entry.bucket, entry.stamp) || has_expired(&entry.caller) {
            return Lookup::Miss;
        }
        let is_trusted = self.epochs.is_trusted(entry.stamp) && self.is_subscribed();
        if !is_trusted || now.saturating_duration_since(entry.loaded) >= TTL {
            return Lookup::Stale(entry.caller.clone(), entry.loaded);
        }
        let record = now.saturating_duration_since(entry.recorded) >= RECORD_INTERVAL;
        if record {
            entry.recorded = now;
        }
        self.counters.hits.fetch_add(1, Ordering::Relaxed);
        Lookup::Hit(entry.caller.clone(), record)
    }

    /// Caches a row that was read after `stamp` was taken. If the user has changed since, the entry will not be used.
    pub(super) fn insert(&self, key: Key, caller: &Arc<Caller>, stamp: Stamp, now: Instant) {
        let bucket = self.epochs.bucket(&caller.user.id);
        let entry = Entry { caller: caller.clone(), stamp, bucket, loaded: now, recorded: now };
        if self.shard(&key).lock().insert(key, entry) {
            self.counters.evicted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Removes a credential that has turned out to be invalid, and remembers that for a moment.
    pub(super) fn insert_invalid(&self, key: Key, now: Instant) {
        self.shard(&key).lock().remove(&key);
        self.invalid.insert(key, now);
    }

    /// Number of cached callers.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether no caller is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn has_expired(caller: &Caller) -> bool {
    caller.expires().is_some_and(|at| at <= OffsetDateTime::now_utc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Via;
    use crate::auth::{Digest, Kind};
    use crate::store::User;

    fn caller(user: &str) -> Arc<Caller> {
        Arc::new(Caller::new(User::sample(user), Via::Key { id: "key".into(), expires: None }))
    }

    fn key(n: u64) -> Key {
        (Kind::Key, Digest::of(&n.to_string()))
    }

    fn subscribed(capacity: usize) -> Cache {
        let cache = Cache::new(capacity);
        cache.subscribed();
        cache
    }

    #[test]
    fn an_entry_is_stale_after_its_ttl() {
        let (cache, now) = (subscribed(10), Instant::now());
        cache.insert(key(1), &caller("u"), cache.stamp(), now);
        assert!(matches!(cache.lookup(&key(1), now), Lookup::Hit(_, false)));
        assert!(matches!(cache.lookup(&(Kind::Session, key(1).1), now), Lookup::Miss));
        assert!(matches!(cache.lookup(&key(1), now + TTL), Lookup::Stale(..)));
    }

    #[test]
    fn a_revocation_affects_only_rows_of_its_user_read_before_it() {
        let (cache, now) = (subscribed(10), Instant::now());
        cache.insert(key(1), &caller("u"), cache.stamp(), now);
        cache.insert(key(2), &caller("other"), cache.stamp(), now);
        let before = cache.stamp();
        cache.revoke("u");
        assert!(matches!(cache.lookup(&key(1), now), Lookup::Miss));
        assert!(matches!(cache.lookup(&key(2), now), Lookup::Hit(..)));
        // A slow reader inserts the old row.
        assert!(!cache.is_current("u", before));
        cache.insert(key(1), &caller("u"), before, now);
        assert!(matches!(cache.lookup(&key(1), now), Lookup::Miss));
        cache.insert(key(1), &caller("u"), cache.stamp(), now);
        assert!(matches!(cache.lookup(&key(1), now), Lookup::Hit(..)));
    }

    #[test]
    fn all_users_can_be_revoked_at_once() {
        let (cache, now) = (subscribed(10), Instant::now());
        cache.insert(key(1), &caller("u"), cache.stamp(), now);
        cache.insert(key(2), &caller("other"), cache.stamp(), now);
        cache.revoke_all();
        for n in [1, 2] {
            assert!(matches!(cache.lookup(&key(n), now), Lookup::Miss));
        }
    }

    #[test]
    fn entries_are_stale_while_unsubscribed_and_after_it() {
        let (cache, now) = (subscribed(10), Instant::now());
        cache.insert(key(1), &caller("u"), cache.stamp(), now);
        cache.unsubscribed();
        assert!(matches!(cache.lookup(&key(1), now), Lookup::Stale(..)));
        cache.insert(key(2), &caller("u"), cache.stamp(), now);
        assert!(matches!(cache.lookup(&key(2), now), Lookup::Stale(..)));
        cache.subscribed();
        assert!(matches!(cache.lookup(&key(1), now), Lookup::Stale(..)));
        assert!(matches!(cache.lookup(&key(2), now), Lookup::Stale(..)));
        cache.revoke("u");
        assert!(matches!(cache.lookup(&key(1), now), Lookup::Miss), "a revoked caller gets no grace");
    }

    #[test]
    fn stays_bounded_and_keeps_what_is_used() {
        let (cache, now) = (subscribed(SHARDS * 4), Instant::now());
        cache.insert(key(0), &caller("u"), cache.stamp(), now);
        for n in 1..10_000 {
            cache.insert(key(n), &caller("u"), cache.stamp(), now);
            assert!(matches!(cache.lookup(&key(0), now), Lookup::Hit(..)), "{n}");
        }
        assert!(cache.len() <= SHARDS * 4);
        for n in 0..10_000 {
            cache.insert_invalid(key(n), now);
        }
        assert!(cache.is_empty());
        assert!(matches!(cache.lookup(&key(9_999), now), Lookup::Invalid));
    }

    #[test]
    fn use_is_recorded_once_a_minute() {
        let (cache, now) = (subscribed(10), Instant::now());
        cache.insert(key(1), &caller("u"), cache.stamp(), now);
        assert!(matches!(cache.lookup(&key(1), now + RECORD_INTERVAL / 2), Lookup::Hit(_, false)));
    }
}
