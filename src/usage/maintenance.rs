//! The meter's background tasks: prices, journals, partitions of the ledger, daily totals.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::day_totals::DayTotals;
use super::holder::Holder;
use super::state::Shared;
use super::{journal, recovery, replay};
use crate::db;
use crate::store::{credits, events, installation, leases, replies, usage::partitions};

/// How often the database is checked during an outage.
const INTERVAL: Duration = Duration::from_millis(200);

/// How often prices are read, and journals of dead processes are looked for.
const REFRESH_EVERY: Duration = Duration::from_secs(2);

/// How often partitions of the ledger and of kept replies are created and dropped.
const PARTITIONS_EVERY: Duration = Duration::from_secs(3600);

/// The pause after a failure that is not an outage.
const FAULT_PAUSE: Duration = Duration::from_secs(5);

/// When each task last ran, and what was logged.
#[derive(Default)]
struct Maintenance {
    /// The prefix of the names of this database's journals; empty until the identity of the database is known.
    prefix: String,
    refreshed: Option<Instant>,
    partitioned: Option<Instant>,
    totals: DayTotals,
    /// The failure that was logged last; empty if there is none.
    logged: String,
}

/// Runs until the meter shuts down.
pub(super) fn run(shared: &Shared) {
    let mut maintenance = Maintenance::default();
    let mut pause = Duration::ZERO;
    while !shared.sleep_until_shutdown(pause) {
        pause = INTERVAL;
        if !shared.db.is_open() {
            continue;
        }
        let failure = match maintenance.run(shared) {
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
        if failure != maintenance.logged {
            match failure.is_empty() {
                true => log::info!("charging recovered"),
                false => log::warn!("charging: {failure}"),
            }
            maintenance.logged = failure;
        }
    }
}

impl Maintenance {
    fn run(&mut self, shared: &Shared) -> std::result::Result<(), replay::Failure> {
        let is_due = |at: Option<Instant>, every| at.is_none_or(|at: Instant| at.elapsed() >= every);
        let refresh = is_due(self.refreshed, REFRESH_EVERY);
        if refresh || !shared.is_available() {
            self.refresh(shared)?;
            if refresh {
                self.refreshed = Some(Instant::now());
            }
        }
        // Without a journal, charging works for as long as the database does.
        let prepared = if refresh { prepare(shared, &self.prefix) } else { Ok(()) };
        if refresh {
            replay::replay_orphans(shared, &self.prefix)?;
            replay::end_dead_holders(shared, &self.prefix)?;
            // By now all journals are replayed, also one of this process that could not be written any more.
            shared.doubts.settle(&shared.db)?;
        }
        replay::replay_own(shared)?;
        if is_due(self.partitioned, PARTITIONS_EVERY) {
            self.partitioned = Some(Instant::now());
            // Meanwhile, charges go to the default partition and old partitions take up space, but nothing fails.
            if let Err(e) = maintain_partitions(shared) {
                log::warn!("cannot maintain the ledger's partitions, trying again in an hour: {e}");
            }
        }
        self.totals.recompute_if_due(shared);
        if refresh {
            // They cannot be spent meanwhile: whoever asks for a lease ends them first.
            if let Err(e) = shared.db.background().and_then(|mut session| credits::expire(&mut session)) {
                log::warn!("cannot record which credits have expired, trying again: {e}");
            }
            // The database holds a little too much meanwhile.
            if let Err(e) = shared.kept.trim(&shared.db) {
                log::warn!("cannot drop the oldest kept replies, trying again: {e}");
            }
        }
        Ok(prepared?)
    }

    /// Reads the database's identity and the prices, and thereby checks that the database works.
    fn refresh(&mut self, shared: &Shared) -> std::result::Result<(), replay::Failure> {
        let mut session = shared.db.durable()?;
        if self.prefix.is_empty() {
            self.prefix = journal::prefix(&installation::identity(&mut session)?);
            let foreign = recovery::count_foreign(shared.journal.folder(), &self.prefix)?;
            if foreign > 0 {
                log::warn!("the journal folder holds journals of other databases, which are left alone: {foreign}");
            }
        }
        shared.prices.read(&mut session)?;
        shared.set_available(true);
        Ok(())
    }
}

/// Makes this process a holder of leases, and prepares its journal, whose name has the holder's id.
fn prepare(shared: &Shared, prefix: &str) -> io::Result<()> {
    let own = shared.holder.lock().take().filter(|_| shared.limits.holder().is_some());
    let own = own.map_or_else(|| Holder::create(shared.journal.folder(), prefix), Ok)?;
    shared.limits.set_holder(own.id());
    let prepared = shared.journal.prepare(own.journal_prefix());
    *shared.holder.lock() = Some(own);
    prepared
}

/// Creates the next partitions, and drops those of kept replies that have expired and of months that are no longer kept.
fn maintain_partitions(shared: &Shared) -> std::result::Result<(), db::Error> {
    let mut session = shared.db.background()?;
    replies::maintain_partitions(&mut session)?;
    leases::forget_ended(&mut session)?;
    events::forget_old(&mut session)?;
    partitions::make(&mut session)?;
    let months = shared.kept_months.load(Ordering::Relaxed);
    if months > 0 {
        let dropped = partitions::drop_old(&mut session, months)?;
        if dropped > 0 {
            log::info!("dropped old months of the ledger (USAGE_RETENTION_MONTHS={months}): {dropped}");
        }
    }
    Ok(())
}
