//! The meter's background tasks: prices, journals, partitions of the ledger, daily totals.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::day_totals::DayTotals;
use super::holder::Holder;
use super::record::Origin;
use super::state::{Aside, Shared};
use super::{aside, journal, recovery, replay};
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
    /// What identifies this database's journals; `None` until the database was reached.
    own: Option<Arc<Identity>>,
    refreshed: Option<Instant>,
    partitioned: Option<Instant>,
    totals: DayTotals,
    rejected: aside::Count,
    /// Journals that could not be replayed at the last look.
    problems: Vec<String>,
    /// The failure that was logged last; empty if there is none.
    logged: String,
}

/// What identifies the journals of a database.
struct Identity {
    /// What their names begin with.
    prefix: String,
    /// Who writes them.
    origin: Origin,
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
            Ok(()) => maintenance.problems.join("; "),
            Err(e) => {
                if e.is_outage() {
                    shared.set_available(false);
                } else {
                    pause = FAULT_PAUSE;
                    shared.aside.lock().is_failing = true;
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
        let Some(own) = self.own.clone() else { return Ok(()) };
        // What fails for another reason than an outage fails alone, and is reported at the end.
        let mut failed = Ok(());
        let mut attempt = |done: std::result::Result<(), replay::Failure>| match done {
            Err(e) if e.is_outage() => Err(e),
            Err(e) => {
                failed = Err(e);
                Ok(())
            }
            Ok(()) => Ok(()),
        };
        if refresh {
            // Without a journal, charging works for as long as the database does.
            attempt(prepare(shared, &own).map_err(Into::into))?;
            attempt(self.replay_orphans(shared, &own))?;
            attempt(replay::end_dead_holders(shared, &own.prefix))?;
            // By now all journals are replayed, also one of this process that could not be written any more.
            attempt(shared.doubts.settle(&shared.db).map_err(Into::into))?;
            attempt(self.count_aside(shared, &own))?;
        }
        attempt(replay::replay_own(shared))?;
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
                log::warn!("cannot record expired credits, trying again: {e}");
            }
            // The database holds a little too much meanwhile.
            if let Err(e) = shared.kept.trim(&shared.db) {
                log::warn!("cannot drop the oldest kept replies, trying again: {e}");
            }
        }
        failed
    }

    fn replay_orphans(&mut self, shared: &Shared, own: &Identity) -> std::result::Result<(), replay::Failure> {
        self.problems = replay::replay_orphans(shared, &own.prefix, &own.origin)?;
        Ok(())
    }

    /// Counts what is not in the database and will not get there by itself.
    fn count_aside(&mut self, shared: &Shared, own: &Identity) -> std::result::Result<(), replay::Failure> {
        let folder = shared.journal.folder();
        let charges = self.rejected.read(folder)?;
        let journals = recovery::count_aside(folder, &own.prefix)?;
        *shared.aside.lock() = Aside { charges, journals, stuck: self.problems.len(), is_failing: false };
        Ok(())
    }

    /// Reads the database's identity and the prices, and thereby checks that the database works.
    fn refresh(&mut self, shared: &Shared) -> std::result::Result<(), replay::Failure> {
        let mut session = shared.db.durable()?;
        if self.own.is_none() {
            let prefix = journal::prefix(&installation::identity(&mut session)?);
            let origin = Origin::of(&installation::journal_key(&mut session)?);
            look_at_folder(shared.journal.folder(), &prefix);
            self.own = Some(Arc::new(Identity { prefix, origin }));
        }
        shared.prices.read(&mut session)?;
        shared.set_available(true);
        Ok(())
    }
}

/// Warns of what is unusual about the folder of journals.
fn look_at_folder(folder: &Path, prefix: &str) {
    let foreign = recovery::count_foreign(folder, prefix).unwrap_or(0);
    if foreign > 0 {
        log::warn!("the journal folder holds journals of other databases, which are ignored: {foreign}");
    }
    if fs::metadata(folder).is_ok_and(|folder| folder.mode() & 0o077 != 0) {
        log::warn!("the journal folder {} should be for this user alone (mode 0700)", folder.display());
    }
}

/// Makes this process a holder of leases, and prepares its journal, whose name has the holder's id.
fn prepare(shared: &Shared, Identity { prefix, origin }: &Identity) -> io::Result<()> {
    let own = shared.holder.lock().take().filter(|_| shared.limits.holder().is_some());
    let own = own.map_or_else(|| Holder::create(shared.journal.folder(), prefix), Ok)?;
    shared.limits.set_holder(own.id());
    let prepared = shared.journal.prepare(own.journal_prefix(), origin);
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
