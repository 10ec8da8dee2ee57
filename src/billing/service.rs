//! The threads of a server that report usage.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;

use super::check::{CheckError, Checker, Report};
use super::sender::Sender;
use crate::db::{self, Database};
use crate::repeating::{FailureLog, sleep};
use crate::store::reporting;
use crate::store::reporting::outbox;
use crate::store::unsent::Unsent;

/// How often it is looked for something to do.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often it is asked whether the sums were compared today.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// How often the outbox is looked at, for metrics.
const OUTBOX_INTERVAL: Duration = Duration::from_secs(5);

/// Closes hours and sends usage until the process is stopped.
pub fn report_usage(mut sender: Sender, db: &Database, stopped: &AtomicBool) {
    let mut failures = FailureLog::new("billing: usage is not sent, trying again");
    while sleep(INTERVAL, stopped) {
        if !db.is_open() {
            continue;
        }
        failures.note(sender.turn(stopped));
    }
    // It may not have been the sender, and the database may be down.
    let _ = sender.release();
}

/// What waits to be sent, as it was lately; `None` before it was looked at.
#[derive(Debug, Default)]
pub struct Outbox(Mutex<Option<Unsent>>);

impl Outbox {
    /// What was found last.
    pub fn unsent(&self) -> Option<Unsent> {
        *self.0.lock()
    }

    /// Looks at it from time to time, until the process is stopped. While the database is down, the last state stays.
    pub fn follow(&self, db: &Database, stopped: &AtomicBool) {
        while sleep(OUTBOX_INTERVAL, stopped) {
            match db.is_open().then(|| db.session().and_then(|mut session| outbox::unsent(&mut session))) {
                Some(Ok(unsent)) => *self.0.lock() = Some(unsent),
                Some(Err(e)) => log::debug!("billing: the outbox was not looked at: {e}"),
                None => {}
            }
        }
    }
}

/// Compares all sums once a day, in one of all processes, until the process is stopped.
pub fn check_daily(checker: &Checker, stopped: &AtomicBool) {
    let db = &checker.db;
    while sleep(CHECK_INTERVAL, stopped) {
        if !db.is_open() {
            continue;
        }
        match check_if_due(checker) {
            Ok(None) => {}
            Ok(Some(Report { accounts, customers, in_flight, different: 0, .. })) => log::info!(
                "billing: the ledger, the outbox and Stripe agree for {accounts} accounts and {customers} customers \
                 ({in_flight} with usage that Stripe has not added up yet)"
            ),
            Ok(Some(report)) => {
                let what = report.differences.join("; ");
                log::error!("billing: {} sums differ: {what}", report.different);
                if let Err(e) = note(db, &what) {
                    log::error!("billing: this could not be recorded: {e}");
                }
            }
            Err(e) => log::error!("billing: the sums could not be compared: {e}"),
        }
    }
}

fn check_if_due(checker: &Checker) -> Result<Option<Report>, CheckError> {
    let is_due = reporting::sender::take_check(&mut checker.db.session()?)?;
    let checked = is_due.then(|| checker.check()).transpose();
    if checked.is_err() {
        reporting::sender::put_off_check(&mut checker.db.session()?)?;
    }
    checked
}

fn note(db: &Database, what: &str) -> Result<(), db::Error> {
    reporting::check::note_difference(&mut db.session()?, what)
}
