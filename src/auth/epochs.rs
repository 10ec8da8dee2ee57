//! Decides whether a cached row is still current.
//!
//! One counter numbers all revocations. A revocation increments it and records the new number, its epoch, for the
//! user's bucket. A cached row carries a stamp: the epoch at a time before the row was read. If its bucket's last
//! revocation is later than the stamp, the row may have been read before the change and must not be used. So a
//! revocation costs one store, however many entries are cached, and a row that was read just before a change cannot be
//! used after it.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of buckets. Users that share one are revoked together, which only costs them a query each.
pub(super) const BUCKETS: usize = 1 << 16;

/// The epoch at a time before a row was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp(u64);

/// Index of a user's bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket(usize);

/// An atomic number. A trait, so that the concurrency model below can use its own.
pub(super) trait Number {
    fn new(value: u64) -> Self;
    fn load(&self) -> u64;
    /// Increments it, and returns the new value.
    fn increment(&self) -> u64;
    /// Raises it to `value`, unless it is higher already.
    fn raise(&self, value: u64);
}

impl Number for AtomicU64 {
    fn new(value: u64) -> AtomicU64 {
        AtomicU64::new(value)
    }

    fn load(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    fn increment(&self) -> u64 {
        self.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn raise(&self, value: u64) {
        self.fetch_max(value, Ordering::AcqRel);
    }
}

/// The current epoch, and those of the last revocations.
pub(super) struct Epochs<N = AtomicU64> {
    current: N,
    /// Rows with an earlier stamp have to be looked up again before they are trusted.
    distrusted: N,
    /// The last revocation in each bucket.
    revoked: Vec<N>,
    hasher: RandomState,
}

impl<N: Number> Epochs<N> {
    pub(super) fn new(buckets: usize) -> Epochs<N> {
        Epochs {
            current: N::new(1),
            distrusted: N::new(0),
            revoked: (0..buckets).map(|_| N::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn bucket(&self, user_id: &str) -> Bucket {
        #[allow(clippy::cast_possible_truncation)] // Any of the bits will do.
        let hash = self.hasher.hash_one(user_id) as usize;
        Bucket(hash % self.revoked.len())
    }

    /// To be taken before a row is read.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp(self.current.load())
    }

    /// Whether the users of this bucket have not been revoked since the stamp was taken.
    pub(super) fn is_current(&self, bucket: Bucket, stamp: Stamp) -> bool {
        self.revoked[bucket.0].load() <= stamp.0
    }

    /// Whether the stamp was taken after the last call of [`distrust_all`](Epochs::distrust_all).
    pub(super) fn is_trusted(&self, stamp: Stamp) -> bool {
        self.distrusted.load() <= stamp.0
    }

    /// Revokes the rows that were read so far of the users in this bucket.
    pub(super) fn revoke(&self, bucket: Bucket) {
        // Not a store: of two concurrent revocations, the later epoch must win.
        self.revoked[bucket.0].raise(self.current.increment());
    }

    /// Revokes all rows that were read so far.
    pub(super) fn revoke_all(&self) {
        let epoch = self.current.increment();
        for bucket in &self.revoked {
            bucket.raise(epoch);
        }
    }

    /// Rows that were read so far are no longer trusted, but not revoked: changes may have been missed.
    pub(super) fn distrust_all(&self) {
        self.distrusted.raise(self.current.increment());
    }
}

#[cfg(test)]
mod tests {
    use shuttle::sync::Arc;
    use shuttle::sync::atomic::AtomicU64 as ModelU64;
    use shuttle::thread;

    use super::*;

    impl Number for ModelU64 {
        fn new(value: u64) -> ModelU64 {
            ModelU64::new(value)
        }

        fn load(&self) -> u64 {
            self.load(Ordering::SeqCst)
        }

        fn increment(&self) -> u64 {
            self.fetch_add(1, Ordering::SeqCst) + 1
        }

        fn raise(&self, value: u64) {
            self.fetch_max(value, Ordering::SeqCst);
        }
    }

    /// Stores what should only be raised, so that an earlier epoch can overwrite a later one.
    struct Overwritten(ModelU64);

    impl Number for Overwritten {
        fn new(value: u64) -> Overwritten {
            Overwritten(ModelU64::new(value))
        }

        fn load(&self) -> u64 {
            Number::load(&self.0)
        }

        fn increment(&self) -> u64 {
            self.0.increment()
        }

        fn raise(&self, value: u64) {
            self.0.store(value, Ordering::SeqCst);
        }
    }

    /// Two changes of one user, each followed by its revocation, while the row is read: once both revocations are done,
    /// a row that lacks a change is not current.
    fn an_outdated_row_is_not_current<N: Number + Send + Sync + 'static>() {
        let epochs = Arc::new(Epochs::<N>::new(1));
        let row = Arc::new(ModelU64::new(0));
        let change = || {
            let (epochs, row) = (epochs.clone(), row.clone());
            thread::spawn(move || {
                row.fetch_add(1, Ordering::SeqCst);
                epochs.revoke(Bucket(0));
            })
        };
        let changes = [change(), change()];
        let stamp = epochs.stamp();
        let read = row.load(Ordering::SeqCst);
        for change in changes {
            change.join().unwrap();
        }
        assert!(read == 2 || !epochs.is_current(Bucket(0), stamp), "the row read {read} of 2 changes");
    }

    #[test]
    fn no_interleaving_makes_an_outdated_row_current() {
        shuttle::check_dfs(an_outdated_row_is_not_current::<ModelU64>, None);
    }

    #[test]
    #[should_panic(expected = "of 2 changes")]
    fn the_model_finds_an_overwritten_epoch() {
        shuttle::check_dfs(an_outdated_row_is_not_current::<Overwritten>, None);
    }

    #[test]
    fn distrust_is_not_revocation() {
        let epochs = Epochs::<AtomicU64>::new(4);
        let bucket = epochs.bucket("u");
        let stamp = epochs.stamp();
        epochs.distrust_all();
        assert!(epochs.is_current(bucket, stamp) && !epochs.is_trusted(stamp));
        assert!(epochs.is_trusted(epochs.stamp()));
        epochs.revoke_all();
        assert!(!epochs.is_current(bucket, stamp));
    }
}
