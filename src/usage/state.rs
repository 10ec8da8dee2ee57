//! What requests and the meter's threads share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::charged::Charged;
use super::doubts::Doubts;
use super::holder::Holder;
use super::journal::Journal;
use super::kept_bytes::KeptBytes;
use super::price_list::PriceList;
use super::queue::Queue;
use super::{Connections, Receipt};
use crate::limits::Limits;
use crate::store::usage::charges::Event;
use crate::telemetry::{Bounds, Histogram, SECONDS};

/// What requests and the meter's threads share.
pub(super) struct Shared {
    /// The meter's own database connections.
    pub(super) db: Connections,
    /// Charges that wait for the writer.
    pub(super) queue: Queue,
    /// This process's journal.
    pub(super) journal: Journal,
    /// Budgets, and what this process holds of them.
    pub(super) limits: Arc<Limits>,
    /// This process as the holder of leases, once its file is there.
    pub(super) holder: Mutex<Option<Holder>>,
    /// Counters since the process started.
    pub(super) counters: Counters,
    /// Charges that were refused and may have been made all the same.
    pub(super) doubts: Doubts,
    /// Replies that were kept lately.
    pub(super) kept: KeptBytes,
    /// The prices as they were last read.
    pub(super) prices: PriceList,
    /// Charges and journals that are not in the database and will not get there by themselves.
    pub(super) aside: Mutex<Aside>,
    /// How many months of the ledger are kept in addition to the current one; 0 for all.
    pub(super) kept_months: AtomicI32,
    /// Whether the last statement succeeded.
    available: AtomicBool,
    /// The meter is shutting down.
    stopped: Mutex<bool>,
    wakened: Condvar,
}

/// Charges and journals in the folder of journals that are not in the database and will not get there by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aside {
    /// Charges that the database refuses, in `rejected.jsonl`.
    pub charges: u64,
    /// Journals that were damaged or may be forged, and are kept under another name.
    pub journals: usize,
    /// Journals that cannot be replayed, such as those of another user.
    pub stuck: usize,
    /// Whether something else is wrong with charging, which the log has.
    pub is_failing: bool,
}

impl Aside {
    /// What is worst of it, for the operator; `None` if there is nothing.
    pub fn reason(&self) -> Option<&'static str> {
        [
            (self.is_failing, "the charges' maintenance fails, the log says why"),
            (self.stuck > 0, "a journal cannot be replayed, the log says why"),
            (self.charges > 0, "charges that the database refuses were set aside in rejected.jsonl"),
            (self.journals > 0, "a journal that is damaged or may be forged was put aside"),
        ]
        .into_iter()
        .find_map(|(is_so, reason)| is_so.then_some(reason))
    }
}

/// Counters since the process started; see [`Stats`](super::Stats).
pub(super) struct Counters {
    pub(super) committed: AtomicU64,
    /// How many charges each transaction had in which they were written directly to the database.
    pub(super) batches: Histogram,
    /// How long these took until they were durable.
    pub(super) commits: Histogram,
    pub(super) journaled: AtomicU64,
    pub(super) replayed: AtomicU64,
    pub(super) duplicates: AtomicU64,
    /// What was charged for.
    pub(super) charged: Charged,
}

/// How many charges there are in one transaction; see [`BATCH`](super::commit::BATCH).
static BATCH_SIZES: Bounds = Bounds { upper: &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], steps_in_unit: 1.0 };

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            committed: AtomicU64::new(0),
            batches: Histogram::new(&BATCH_SIZES),
            commits: Histogram::new(&SECONDS),
            journaled: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            charged: Charged::default(),
        }
    }
}

impl Counters {
    /// A batch of charges that requests were waiting for was committed, which began at this time.
    pub(super) fn add_committed<'e>(
        &self,
        events: impl Iterator<Item = &'e Event>,
        receipts: &[Receipt],
        began: Instant,
    ) {
        self.batches.add(receipts.len() as u64);
        self.commits.add_time(began.elapsed());
        self.count(&self.committed, receipts);
        let fresh = events.zip(receipts).filter(|(_, receipt)| !receipt.duplicate);
        self.charged.add(fresh.map(|(event, _)| event));
    }

    /// Charges of a journal were committed.
    pub(super) fn add_replayed(&self, receipts: &[Receipt]) {
        self.count(&self.replayed, receipts);
    }

    /// Charges were written to the journal.
    pub(super) fn add_journaled<'e>(&self, events: impl ExactSizeIterator<Item = &'e Event>) {
        self.journaled.fetch_add(events.len() as u64, Ordering::Relaxed);
        self.charged.add(events);
    }

    /// How many charges were sent to the database. Duplicates count as well, because a late one also deletes the total
    /// of its day.
    pub(super) fn sent(&self) -> u64 {
        [&self.committed, &self.replayed, &self.duplicates].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn count(&self, fresh: &AtomicU64, receipts: &[Receipt]) {
        let duplicates = receipts.iter().filter(|receipt| receipt.duplicate).count();
        fresh.fetch_add((receipts.len() - duplicates) as u64, Ordering::Relaxed);
        self.duplicates.fetch_add(duplicates as u64, Ordering::Relaxed);
    }
}

impl Shared {
    /// The state before any thread was started.
    pub(super) fn new(db: Connections, journal: Journal) -> Shared {
        Shared {
            limits: Limits::new(db.for_limits()),
            holder: Mutex::default(),
            db,
            queue: Queue::default(),
            journal,
            counters: Counters::default(),
            doubts: Doubts::default(),
            kept: KeptBytes::default(),
            prices: PriceList::default(),
            aside: Mutex::default(),
            kept_months: AtomicI32::new(0),
            available: AtomicBool::new(false),
            stopped: Mutex::default(),
            wakened: Condvar::new(),
        }
    }

    /// Whether the last statement succeeded.
    pub(super) fn is_available(&self) -> bool {
        self.available.load(Ordering::Acquire)
    }

    pub(super) fn set_available(&self, available: bool) {
        self.available.store(available, Ordering::Release);
    }

    /// This charge was not made: what it took of leases is free again.
    pub(super) fn take_back(&self, event: &Event) {
        if let Some(leases) = &event.leases {
            let budgets = leases.budgets.iter().map(|budget| &*budget.id);
            self.limits.take_back(&leases.holder, budgets, event.cost().total_picos());
        }
    }

    /// The same for the duplicates of these.
    pub(super) fn take_back_duplicates<'e>(&self, events: impl Iterator<Item = &'e Event>, receipts: &[Receipt]) {
        let duplicates = events.zip(receipts).filter(|(_, receipt)| receipt.duplicate);
        duplicates.for_each(|(event, _)| self.take_back(event));
    }

    /// Accepts no more charges, and wakes the maintenance thread so that it ends.
    pub(super) fn shut_down(&self) {
        self.queue.stop();
        *self.stopped.lock() = true;
        self.wakened.notify_all();
    }

    /// Sleeps for `pause`, or until shutdown. Returns whether the meter is shutting down.
    pub(super) fn sleep_until_shutdown(&self, pause: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        if !*stopped {
            self.wakened.wait_for(&mut stopped, pause);
        }
        *stopped
    }
}
