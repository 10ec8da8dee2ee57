//! Work that a process does beside serving requests: migrations, recording when credentials were last used, and
//! deleting what has expired.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::auth::{LastUsed, last_used};
use crate::db::probe::Probe;
use crate::db::{self, ConnectConfig, Database, migrate};
use crate::repeating;
use crate::store::{
    account_links, api_keys, budgets, deleted_documents, document_versions, known_networks, rates, sessions,
};

/// How often expired rows are deleted.
const DELETE_INTERVAL: Duration = Duration::from_secs(3600);

/// The first pause between two attempts to migrate.
const MIGRATE_PAUSE: Duration = Duration::from_millis(100);

/// The longest one while the database is away, and while it is there: such an attempt may be much work that is undone again.
const LONGEST_PAUSE_AWAY: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long the end of the process may be delayed by the last write.
const LAST_FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Applies the migrations, trying again until that succeeds. Returns false if the process was stopped before.
pub fn migrate(database: &ConnectConfig, stopped: &AtomicBool) -> bool {
    let mut pause = MIGRATE_PAUSE;
    let mut logged = String::new();
    while !stopped.load(Ordering::Acquire) {
        let e = match migrate::migrate(database) {
            Ok(applied) => {
                log::info!("the database is up to date ({applied} migrations applied)");
                return true;
            }
            Err(e) => e,
        };
        let reason = e.to_string();
        if reason != logged {
            log::error!("not ready, retrying: {reason}");
            logged = reason;
        }
        let longest = if e.is_outage() { LONGEST_PAUSE_AWAY } else { LONGEST_PAUSE };
        pause = pause.min(longest);
        repeating::sleep(pause, stopped);
        pause *= 2;
    }
    false
}

/// Until the process is stopped, writes when credentials were last used, measures how late notifications are, and deletes
/// expired rows.
pub fn housekeeping(db: &Database, last_used: &LastUsed, probe: &Probe, stopped: &AtomicBool) {
    let mut deleted: Option<Instant> = None;
    while !stopped.load(Ordering::Acquire) {
        thread::sleep(last_used::FLUSH_INTERVAL);
        if !db.is_open() {
            continue;
        }
        flush(db, last_used);
        if let Err(e) = probe.send(db) {
            log::debug!("the delay of notifications was not measured: {e}");
        }
        if deleted.is_none_or(|at| at.elapsed() >= DELETE_INTERVAL) {
            deleted = Some(Instant::now());
            if let Err(e) = delete_expired(db) {
                log::debug!("expired rows were not deleted: {e}");
            }
        }
    }
}

/// Writes when credentials were last used, unless that takes longer than [`LAST_FLUSH_TIMEOUT`].
pub fn flush_at_exit(db: &Database, last_used: &Arc<LastUsed>) {
    let (db, last_used, (done, finished)) = (db.clone(), last_used.clone(), mpsc::channel());
    let work = move || {
        flush(&db, &last_used);
        // This only fails after the timeout.
        let _ = done.send(());
    };
    // If the thread cannot be started, the channel is closed, and there is no wait.
    let _ = thread::Builder::new().name("last-used".to_owned()).spawn(work);
    let _ = finished.recv_timeout(LAST_FLUSH_TIMEOUT);
}

fn flush(db: &Database, last_used: &LastUsed) {
    if let Err(e) = last_used.flush(db) {
        log::debug!("last-used times were not written: {e}");
    }
}

fn delete_expired(db: &Database) -> Result<(), db::Error> {
    let mut session = db.session()?;
    sessions::delete_expired(&mut session)?;
    account_links::delete_expired(&mut session)?;
    while api_keys::delete_ended(&mut session)? > 0 {}
    for delete_after in [budgets::delete_unused, rates::delete_unused] {
        let mut after = String::new();
        while let Some(last) = delete_after(&mut session, &after)? {
            after = last;
        }
    }
    while deleted_documents::purge(&mut session)? > 0 {}
    while document_versions::purge(&mut session)? > 0 {}
    known_networks::delete_old(&mut session)?;
    Ok(())
}
