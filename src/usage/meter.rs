//! The meter: what handlers see of charges, and the threads behind it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use time::OffsetDateTime;

use super::journal::{self, Journal};
use super::price::Prices;
use super::queue::{Queue, Refused, Ticket};
use super::totals::Totals;
use super::writer::Committed;
use super::{Charge, Connections, Receipt, event, recovery, replay, writer};
use crate::blocking;
use crate::db;
use crate::error::{Error, Result};
use crate::http::{Deferred, Response};
use crate::store::charges::Event;
use crate::store::{prices, usage};

/// How soon a database that is back is noticed.
const TICK: Duration = Duration::from_millis(200);

/// How often prices are read and the journals of dead processes looked for.
const REFRESH_EVERY: Duration = Duration::from_secs(2);

/// How often the ledger's partitions are seen to.
const PARTITIONS_EVERY: Duration = Duration::from_secs(3600);

/// How long to wait after a failure that is no outage.
const FAULT_PAUSE: Duration = Duration::from_secs(5);

/// The longest that [`Meter::stop`] waits for its threads.
const FAREWELL: Duration = Duration::from_secs(5);

/// Charges for work. One of it serves all requests of a process.
pub struct Meter {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the requests and the threads share.
pub(super) struct Shared {
    pub(super) db: Connections,
    pub(super) queue: Queue,
    pub(super) committed: Committed,
    pub(super) journal: Journal,
    pub(super) counters: Counters,
    prices: RwLock<Option<Arc<Prices>>>,
    /// How many months of the ledger are kept beside this one; 0 for all.
    kept_months: AtomicI32,
    /// Whether the database took the last thing it was asked for.
    available: AtomicBool,
    stopped: Mutex<bool>,
    bell: Condvar,
}

/// How a meter is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Whether the database takes charges; while it does not, the journal is used.
    pub is_database_available: bool,
    /// Whether the journal has room for the charges of more work.
    pub has_journal_room: bool,
    /// Bytes in the journal.
    pub journal_bytes: u64,
    /// Bytes that it may hold.
    pub journal_max_bytes: u64,
    /// Charges in the journal that the database does not have yet.
    pub journal_charges: u64,
    /// Charges that wait for the writer.
    pub waiting: usize,
    /// Charges that requests made and the database took at once, since the process began.
    pub committed: u64,
    /// The transactions that took.
    pub commits: u64,
    /// Charges that went to the journal, since the process began.
    pub journaled: u64,
    /// Charges that were brought from a journal to the database, since the process began.
    pub replayed: u64,
    /// Charges that were made before, since the process began.
    pub duplicates: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    committed: AtomicU64,
    commits: AtomicU64,
    journaled: AtomicU64,
    replayed: AtomicU64,
    duplicates: AtomicU64,
}

impl Counters {
    pub(super) fn committed(&self, receipts: &[Receipt]) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.count(&self.committed, receipts);
    }

    pub(super) fn replayed(&self, receipts: &[Receipt]) {
        self.count(&self.replayed, receipts);
    }

    pub(super) fn journaled(&self, count: usize) {
        self.journaled.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// How many charges were brought to the database; those made before count as well, as what comes late again makes
    /// its day's total go.
    pub(super) fn brought(&self) -> u64 {
        [&self.committed, &self.replayed, &self.duplicates].iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn count(&self, fresh: &AtomicU64, receipts: &[Receipt]) {
        let duplicates = receipts.iter().filter(|receipt| receipt.duplicate).count();
        fresh.fetch_add((receipts.len() - duplicates) as u64, Ordering::Relaxed);
        self.duplicates.fetch_add(duplicates as u64, Ordering::Relaxed);
    }
}

impl Meter {
    /// A meter with a journal in `journal_dir` of at most `journal_max_bytes`. Nothing happens until [`Meter::start`].
    pub fn new(db: Connections, journal_dir: PathBuf, journal_max_bytes: u64) -> Arc<Meter> {
        let shared = Shared {
            db,
            queue: Queue::default(),
            committed: Committed::default(),
            journal: Journal::new(journal_dir, journal_max_bytes),
            counters: Counters::default(),
            prices: RwLock::new(None),
            kept_months: AtomicI32::new(0),
            available: AtomicBool::new(false),
            stopped: Mutex::new(false),
            bell: Condvar::new(),
        };
        Arc::new(Meter { shared: Arc::new(shared), threads: Mutex::default() })
    }

    /// Drops the ledger's months from before the last `months` and the one under way; 0 keeps all, as is the case unless
    /// this is called.
    pub fn keep_months(&self, months: i32) {
        self.shared.kept_months.store(months, Ordering::Relaxed);
    }

    /// Starts the writer, what tells requests of its work, and the work in the background.
    ///
    /// # Errors
    /// A thread cannot be started, in words for the operator.
    pub fn start(&self) -> std::result::Result<(), String> {
        let spawn = |name: &str, work: fn(&Shared)| {
            let shared = self.shared.clone();
            let thread = thread::Builder::new().name(name.to_owned());
            thread.spawn(move || work(&shared)).map_err(|e| e.to_string())
        };
        let mut threads = self.threads.lock();
        threads.push(spawn("charges", writer::run)?);
        threads.push(spawn("charges-told", writer::tell)?);
        threads.push(spawn("meter", keep)?);
        Ok(())
    }

    /// The tables are there: the database may be used from now on.
    pub fn open(&self) {
        self.shared.db.open();
    }

    /// Whether work may begin: its charge will be taken by the database, or by the journal while that is away.
    ///
    /// # Errors
    /// 503: neither can take it, or the prices are not known yet.
    pub fn admit(&self) -> Result<()> {
        let can_be_taken = self.shared.is_available() || self.shared.journal.has_room();
        if can_be_taken && self.shared.prices.read().is_some() { Ok(()) } else { Err(Error::Busy) }
    }

    /// Charges, and returns once that is durable: in the database, or in the journal while the database is away.
    /// Blocks for as long as a commit takes.
    ///
    /// # Errors
    /// 503: too many requests wait, or neither the database nor the journal took the charge. It counts as not made;
    /// where the database died while it took it, it may turn out to have been made, once.
    pub fn charge(&self, charge: Charge) -> Result<Receipt> {
        let event = self.event(charge)?;
        blocking::block_in_place(|| self.shared.queue.charge(event))?.map_err(refused)
    }

    /// As [`Meter::charge`], but without a thread that waits: defers a response until this charge is durable. If the
    /// charge is refused, `instead` makes another response of the error and of the one that must not be sent.
    ///
    /// # Errors
    /// 503: the prices are not known yet.
    pub fn charge_deferred(
        &self,
        charge: Charge,
        instead: impl FnOnce(Error, Response) -> Response + Send + 'static,
    ) -> Result<Deferred> {
        let event = self.event(charge)?;
        let (shared, ticket) = (Arc::clone(&self.shared), Arc::new(Ticket::default()));
        let decided = Arc::clone(&ticket);
        Ok(Deferred::new(
            move |signal| shared.queue.charge_later(event, ticket, signal),
            move |response| match decided.outcome() {
                Ok(_) => response,
                Err(e) => instead(refused(e), response),
            },
        ))
    }

    fn event(&self, charge: Charge) -> Result<Event> {
        let prices = self.shared.prices.read().clone().ok_or(Error::Busy)?;
        let cost = prices.cost(&charge.model, &charge.units);
        Ok(event::from_charge(charge, cost, OffsetDateTime::now_utc()))
    }

    /// How it is doing.
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
            waiting: queue.len(),
            committed: count(&counters.committed),
            commits: count(&counters.commits),
            journaled: count(&counters.journaled),
            replayed: count(&counters.replayed),
            duplicates: count(&counters.duplicates),
        }
    }

    /// Takes no charge any more, finishes those that wait, and ends the threads; a database that hangs is waited for
    /// no longer than a moment. What is in the journal stays there for the next process.
    pub fn stop(&self) {
        self.shared.queue.stop();
        *self.shared.stopped.lock() = true;
        self.shared.bell.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock());
        let end = Instant::now() + FAREWELL;
        while !threads.iter().all(JoinHandle::is_finished) {
            if Instant::now() >= end {
                log::warn!("the database says nothing: the end does not wait for it");
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.shared.journal.close();
    }
}

fn refused(_: Refused) -> Error {
    Error::Database(db::Error::Unavailable("neither it nor the journal took a charge".to_owned()))
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    pub(super) fn is_available(&self) -> bool {
        self.available.load(Ordering::Acquire)
    }

    pub(super) fn set_available(&self, available: bool) {
        self.available.store(available, Ordering::Release);
    }

    /// Waits, at most until the end. Whether that has come.
    fn rest(&self, pause: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        if !*stopped {
            self.bell.wait_for(&mut stopped, pause);
        }
        *stopped
    }
}

/// When what was last done in the background, and what was said of it.
#[derive(Default)]
struct Upkeep {
    /// How the journals' names begin; empty until the database has said who it is.
    prefix: String,
    refreshed: Option<Instant>,
    partitioned: Option<Instant>,
    totals: Totals,
    /// The failure that was logged last.
    said: String,
}

/// The work in the background: until the end.
fn keep(shared: &Shared) {
    let mut upkeep = Upkeep::default();
    let mut pause = Duration::ZERO;
    while !shared.rest(pause) {
        pause = TICK;
        if !shared.db.is_open() {
            continue;
        }
        let failure = match upkeep.run(shared) {
            Ok(()) => String::new(),
            Err(e) => {
                if e.is_outage() {
                    shared.set_available(false);
                } else {
                    pause = FAULT_PAUSE;
                }
                e.to_string()
            }
        };
        if failure != upkeep.said {
            match failure.is_empty() {
                true => log::info!("charges are well again"),
                false => log::warn!("charges: {failure}"),
            }
            upkeep.said = failure;
        }
    }
}

impl Upkeep {
    fn run(&mut self, shared: &Shared) -> std::result::Result<(), replay::Failure> {
        let is_due = |at: Option<Instant>, every| at.is_none_or(|at: Instant| at.elapsed() >= every);
        let refresh = is_due(self.refreshed, REFRESH_EVERY);
        if refresh || !shared.is_available() {
            self.refresh(shared)?;
            self.refreshed = Some(Instant::now());
        }
        // Without a journal, charges go on for as long as the database is there.
        let prepared = if refresh { shared.journal.prepare(&self.prefix) } else { Ok(()) };
        if refresh {
            replay::of_the_dead(shared, &self.prefix)?;
        }
        replay::own(shared)?;
        if is_due(self.partitioned, PARTITIONS_EVERY) {
            self.partitioned = Some(Instant::now());
            // The default partition takes what has no other, and what is over takes room: only speed suffers.
            if let Err(e) = see_to_partitions(shared) {
                log::warn!("the ledger's partitions were not seen to, the next attempt is in an hour: {e}");
            }
        }
        self.totals.see_to(shared);
        Ok(prepared?)
    }

    /// Asks the database who it is and what things cost, by which it is seen to be there.
    fn refresh(&mut self, shared: &Shared) -> std::result::Result<(), replay::Failure> {
        let mut session = shared.db.durable()?;
        if self.prefix.is_empty() {
            self.prefix = journal::prefix(&usage::identity(&mut session)?);
            let strangers = recovery::strangers(shared.journal.folder(), &self.prefix)?;
            if strangers > 0 {
                log::warn!("the journal's folder holds {strangers} journals of other databases, which stay there");
            }
        }
        let prices = Prices::new(prices::all(&mut session)?);
        *shared.prices.write() = Some(Arc::new(prices));
        shared.set_available(true);
        Ok(())
    }
}

/// Makes the ledger's partitions ahead, and drops those of the months that are not to be kept.
fn see_to_partitions(shared: &Shared) -> std::result::Result<(), db::Error> {
    let mut session = shared.db.patient()?;
    usage::make_partitions(&mut session)?;
    let months = shared.kept_months.load(Ordering::Relaxed);
    if months > 0 {
        let dropped = usage::drop_partitions(&mut session, months)?;
        if dropped > 0 {
            log::info!("{dropped} months of the ledger were dropped, as USAGE_RETENTION_MONTHS is {months}");
        }
    }
    Ok(())
}
