//! The meter: the interface through which handlers charge, and its threads.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use time::OffsetDateTime;

use super::acknowledge::{self, Committed};
use super::journal::Journal;
use super::queue::{Order, Refused, Ticket};
use super::state::{Aside, Shared};
use super::{Charge, Connections, ModelTotal, Receipt, event, maintenance, price, replay, writer};
use crate::blocking::{self, Wait};
use crate::db::{self, Executor};
use crate::error::{Error, Result};
use crate::http::{Deferred, Response};
use crate::limits::Limits;
use crate::store::prices::Price;
use crate::telemetry::Histogram;
use crate::units::Units;

/// The longest that [`Meter::stop`] waits for its threads.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Charges for work. One meter serves all requests of a process.
pub struct Meter {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// State and counters of a meter; counters are since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Whether the database accepts charges; while it does not, the journal is used.
    pub is_database_available: bool,
    /// Whether the journal has room for the charges of more work.
    pub has_journal_room: bool,
    /// Bytes in the journal.
    pub journal_bytes: u64,
    /// Bytes that it may hold.
    pub journal_max_bytes: u64,
    /// Charges in the journal that the database does not have yet.
    pub journal_charges: u64,
    /// When the oldest of them was made.
    pub journal_oldest: Option<OffsetDateTime>,
    /// Charges that wait for the writer.
    pub waiting: usize,
    /// Charges written directly to the database.
    pub committed: u64,
    /// The number of transactions for these.
    pub commits: u64,
    /// Charges written to the journal.
    pub journaled: u64,
    /// Charges that were replayed from a journal.
    pub replayed: u64,
    /// Charges that were duplicates.
    pub duplicates: u64,
}

impl Meter {
    /// A meter with a journal in `journal_dir` of at most `journal_max_bytes`. Nothing happens until [`Meter::start`].
    pub fn new(db: Connections, journal_dir: PathBuf, journal_max_bytes: u64) -> Arc<Meter> {
        let shared = Shared::new(db, Journal::new(journal_dir, journal_max_bytes));
        Arc::new(Meter { shared: Arc::new(shared), threads: Mutex::default() })
    }

    /// Keeps this many months of the ledger beside the current one and drops older ones; 0, the default, keeps all.
    pub fn keep_months(&self, months: i32) {
        self.shared.kept_months.store(months, Ordering::Relaxed);
    }

    /// Keeps at most about this many bytes of replies for each account; all of them by default.
    pub fn keep_reply_bytes(&self, most: u64) {
        self.shared.kept.set_most(most);
    }

    /// Checks that it can be known which replies are kept: while this process's journal holds charges, some are only
    /// there.
    ///
    /// # Errors
    /// 503: it cannot.
    pub fn knows_kept_replies(&self) -> Result<()> {
        let (_, journaled) = self.shared.journal.size();
        if journaled == 0 && self.shared.is_available() { Ok(()) } else { Err(Error::Busy) }
    }

    /// The budgets that its charges count against.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.shared.limits
    }

    /// The price of a model now; `None` before prices have been read.
    pub fn price(&self, model: &str) -> Option<Price> {
        let prices = self.shared.prices.current()?;
        Some(prices.current(model, OffsetDateTime::now_utc()))
    }

    /// Starts the threads: writer, acknowledgement, maintenance, leases, settlements, rate limits.
    ///
    /// # Errors
    /// A thread cannot be started, in words for the operator.
    pub fn start(&self) -> std::result::Result<(), String> {
        let committed = Arc::new(Committed::default());
        let spawn = |name: &str, work: fn(&Shared, &Committed)| {
            let (shared, committed) = (Arc::clone(&self.shared), Arc::clone(&committed));
            let thread = thread::Builder::new().name(name.to_owned());
            thread.spawn(move || work(&shared, &committed)).map_err(|e| e.to_string())
        };
        let mut threads = self.threads.lock();
        threads.push(spawn("charges", writer::run)?);
        threads.push(spawn("charges-ack", acknowledge::run)?);
        threads.push(spawn("meter", |shared, _| maintenance::run(shared))?);
        threads.push(spawn("leases", |shared, _| shared.limits.run_leases())?);
        threads.push(spawn("settlements", |shared, _| shared.limits.run_settlements())?);
        threads.push(spawn("rates", |shared, _| shared.limits.run_rates())?);
        Ok(())
    }

    /// Notes that the schema is up to date: the database may be used from now on.
    pub fn open(&self) {
        self.shared.db.open();
    }

    /// Reads the prices at once, as they have changed. Otherwise they are read every two seconds.
    ///
    /// # Errors
    /// Those of the database; the last ones stay.
    pub fn read_prices(&self, db: &mut impl Executor) -> std::result::Result<(), db::Error> {
        self.shared.prices.read(db)
    }

    /// Checks, before work begins, that its charge can be recorded in the database or in the journal.
    ///
    /// # Errors
    /// 503: neither can record it, or the prices have not been read yet.
    pub fn admit(&self) -> Result<()> {
        let can_be_taken = self.shared.is_available() || self.shared.journal.has_room();
        if can_be_taken && self.shared.prices.current().is_some() { Ok(()) } else { Err(Error::Busy) }
    }

    /// Charges, and returns when the charge is durable in the database or, while the database is down, in the journal.
    /// Blocks for as long as a commit takes.
    ///
    /// # Errors
    /// 409: another reply is kept under the charge's key. 503: too many requests wait, or neither the database nor the
    /// journal accepted the charge. If the database died meanwhile, the charge may turn out to have been made, once.
    pub fn charge(&self, charge: Charge) -> Result<Receipt> {
        // What it takes of a budget is only taken once it is certain that it can be charged.
        blocking::block_in_place(Wait::Database, || {
            let order = self.order(charge)?;
            let has_reply = order.claim.is_some();
            outcome_of(self.shared.queue.charge(order), has_reply)
        })?
    }

    /// Like [`Meter::charge`], but no thread waits: the response is deferred until the charge is durable. If the charge
    /// is refused, `instead` makes another response from the error and the one that must not be sent.
    ///
    /// # Errors
    /// 503: the prices are not known yet.
    pub fn charge_deferred(
        &self,
        charge: Charge,
        instead: impl FnOnce(Error, Response) -> Response + Send + 'static,
    ) -> Result<Deferred<Response>> {
        let order = self.order(charge)?;
        let has_reply = order.claim.is_some();
        let (shared, ticket) = (Arc::clone(&self.shared), Arc::new(Ticket::default()));
        let decided = Arc::clone(&ticket);
        Ok(Deferred::new(
            move |signal| shared.queue.charge_later(order, ticket, signal),
            move |response| match outcome_of(decided.outcome(), has_reply) {
                Ok(_) => response,
                Err(e) => instead(e, response),
            },
        ))
    }

    fn order(&self, mut charge: Charge) -> Result<Order> {
        let prices = self.shared.prices.current().ok_or(Error::Busy)?;
        let now = OffsetDateTime::now_utc();
        let cost = |model: &str, units: &Units| prices.cost(model, units, now);
        let claim = charge.keep.as_ref().map(|keep| Arc::clone(&keep.claim));
        let Some(admission) = charge.admission.take() else {
            return Ok(Order { event: event::from_charge(charge, now, None, cost), settled: None, claim });
        };
        let total = |charge: &mut Charge| charge.used().map(|(model, units)| cost(model, units).total_picos()).sum();
        let mut settled = total(&mut charge);
        let covered = admission.cover(settled);
        if covered < settled {
            // A model server has made more than it was asked for. Budgets are never passed.
            log::warn!("a charge for {:?} is cut to what its budget can pay", charge.model);
            let mut left = covered;
            for (model, units) in charge.used() {
                *units = price::affordable(&prices.current(model, now), units, left);
                left -= cost(model, units).total_picos();
            }
            settled = total(&mut charge);
        }
        let settled = admission.settle(settled);
        let earliest = settled.as_ref().map_or(now, |settled| from_micros(settled.earliest));
        let leases = settled.as_ref().map(|settled| Arc::clone(&settled.leases));
        Ok(Order { event: event::from_charge(charge, now.max(earliest), leases, cost), settled, claim })
    }

    /// The current state and counters.
    pub fn stats(&self) -> Stats {
        let Shared { journal, counters, queue, .. } = &*self.shared;
        let (journal_bytes, journal_charges) = journal.size();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            is_database_available: self.shared.is_available(),
            has_journal_room: journal.has_room(),
            journal_bytes,
            journal_max_bytes: journal.most_bytes(),
            journal_charges,
            journal_oldest: journal.oldest(),
            waiting: queue.len(),
            committed: count(&counters.committed),
            commits: counters.commits.count(),
            journaled: count(&counters.journaled),
            replayed: count(&counters.replayed),
            duplicates: count(&counters.duplicates),
        }
    }

    /// How many charges were committed together, and how long commits took until they were durable.
    pub fn commits(&self) -> [&Histogram; 2] {
        let counters = &self.shared.counters;
        [&counters.batches, &counters.commits]
    }

    /// What this process has charged for since it started, in the database or in its journal, by model.
    pub fn charged(&self) -> BTreeMap<String, ModelTotal> {
        self.shared.counters.charged.totals()
    }

    /// What is not in the database and will not get there by itself, as of the last two seconds.
    pub fn aside(&self) -> Aside {
        *self.shared.aside.lock()
    }

    /// Refuses new charges, finishes those in the queue, and ends the threads, within [`STOP_TIMEOUT`] even if the
    /// database hangs. The next process replays what is left in the journal.
    pub fn stop(&self) {
        self.shared.shut_down();
        self.shared.limits.stop();
        let threads = std::mem::take(&mut *self.threads.lock());
        let end = Instant::now() + STOP_TIMEOUT;
        while !threads.iter().all(JoinHandle::is_finished) {
            if Instant::now() >= end {
                log::warn!("database not responding: stopping without waiting for it");
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.shared.journal.close();
        if let Err(e) = replay::end_own_holder(&self.shared) {
            log::warn!("another process will end the leases of this one: {e}");
        }
    }
}

fn from_micros(micros: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// The outcome for the client. A reply that is not kept, because another one is, must not be sent.
fn outcome_of(outcome: std::result::Result<Receipt, Refused>, has_reply: bool) -> Result<Receipt> {
    match outcome {
        Ok(receipt) if receipt.duplicate && has_reply => Err(Error::KeyInUse),
        outcome => outcome.map_err(refused),
    }
}

fn refused(_: Refused) -> Error {
    Error::Database(db::Error::Unavailable("neither the database nor the journal accepted a charge".to_owned()))
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.stop();
    }
}
