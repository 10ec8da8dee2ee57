//! Notifies requests that their charges are committed, on a separate thread while the writer works on the next batch.
//!
//! On a slow disk the writer commits without waiting for it, so that rows which other processes charge too are not
//! locked for so long; this thread then makes all those commits durable with one sync, and only then acknowledges them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Receipt;
use super::queue::{Pending, isolate_panics};
use super::spill::{finish, retry_or_spill};
use super::state::Shared;
use crate::db;
use crate::store::usage::charges;

/// A disk that syncs in less than this is fast.
const FAST_DISK: Duration = Duration::from_millis(2);

/// Committed batches whose requests have not been notified yet.
#[derive(Default)]
pub(super) struct Committed {
    batches: Mutex<Batches>,
    arrival: Condvar,
    /// The last sync of the disk took less than [`FAST_DISK`].
    is_disk_fast: AtomicBool,
}

#[derive(Default)]
struct Batches {
    waiting: Vec<Batch>,
    writer_ended: bool,
}

/// Charges that were committed together.
pub(super) struct Batch {
    pub(super) charges: Vec<Pending>,
    pub(super) receipts: Vec<Receipt>,
    /// When the commit began.
    pub(super) began: Instant,
    /// Whether the commit waited for the disk.
    pub(super) is_durable: bool,
}

impl Committed {
    /// Adds a batch.
    pub(super) fn add(&self, batch: Batch) {
        self.batches.lock().waiting.push(batch);
        self.arrival.notify_one();
    }

    /// Marks the end: no batch will be added.
    pub(super) fn end(&self) {
        self.batches.lock().writer_ended = true;
        self.arrival.notify_one();
    }

    /// Whether the disk is fast enough to wait for every commit.
    pub(super) fn is_disk_fast(&self) -> bool {
        self.is_disk_fast.load(Relaxed)
    }

    /// Waits for batches and takes all of them; `None` after the end.
    fn take(&self) -> Option<Vec<Batch>> {
        let mut batches = self.batches.lock();
        while batches.waiting.is_empty() && !batches.writer_ended {
            self.arrival.wait(&mut batches);
        }
        Some(std::mem::take(&mut batches.waiting)).filter(|batches| !batches.is_empty())
    }
}

/// The connection that makes commits durable. It is kept open: as long as it works, the database has not crashed since
/// it was opened, so no commit since then is lost.
struct CrashSentinel {
    session: db::Session,
    since: Instant,
}

/// Acknowledges batches until the writer has ended.
pub(super) fn run(shared: &Shared, committed: &Committed) {
    let mut sentinel = None;
    while let Some(batches) = committed.take() {
        isolate_panics(|| {
            let (durable, others): (Vec<_>, Vec<_>) = batches.into_iter().partition(|batch| batch.is_durable);
            for batch in durable {
                finish(shared, &batch.charges, batch.receipts, batch.began);
            }
            if !others.is_empty() {
                sentinel = sync_all(shared, committed, sentinel.take(), others);
            }
        });
    }
}

fn sync_all(
    shared: &Shared,
    committed: &Committed,
    sentinel: Option<CrashSentinel>,
    batches: Vec<Batch>,
) -> Option<CrashSentinel> {
    let open = || shared.db.durable().map(|session| CrashSentinel { session, since: Instant::now() });
    let synced = sentinel.map_or_else(open, Ok).and_then(|mut sentinel| {
        let began = Instant::now();
        charges::sync(&mut sentinel.session)?;
        committed.is_disk_fast.store(began.elapsed() < FAST_DISK, Relaxed);
        Ok(sentinel)
    });
    let (since, failure) = match &synced {
        Ok(sentinel) => (Some(sentinel.since), "the server may have crashed since the commit".to_owned()),
        Err(e) => (None, e.to_string()),
    };
    for batch in batches {
        if since.is_some_and(|since| since <= batch.began) {
            finish(shared, &batch.charges, batch.receipts, batch.began);
        } else {
            retry_or_spill(shared, &batch.charges, batch.began, db::Error::Unavailable(failure.clone()));
        }
    }
    synced.ok()
}
