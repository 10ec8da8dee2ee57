//! Applies migrations, one process at a time.
//!
//! What can be known to prevent them is looked for before the first change ([`conditions`]). A database that was never
//! migrated, also one of the Python system ([`old_system`]), is migrated in one transaction: it is as it was, or done.
//! Servers may be at work on any other, so each migration is a transaction of its own there, and holds its locks no longer.

mod conditions;
mod history;
mod old_system;
mod progress;
mod strangers;

use postgres::{Client, Transaction};

use super::connect::{ConnectConfig, connect};
use super::watchdog::TimeoutCounter;
use super::{Error, Executor, RESPONSE_TIMEOUT};
use history::Pending;
use old_system::OldTables;
use progress::Progress;
pub use progress::Report;

/// The name and SQL of each file in `sql/migrations`, in order, as `build.rs` lists them. The name begins with the number.
const MIGRATIONS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// The advisory lock that lets one process migrate while the others wait: "textgen" in ASCII.
const LOCK: i64 = 0x0074_6578_7467_656e;

/// Applies the missing migrations, on a connection without a statement timeout, and returns their number. What is done
/// meanwhile is logged.
///
/// # Errors
/// The database is unavailable, cannot be migrated, or a migration failed and was rolled back.
pub fn migrate(config: &ConnectConfig) -> Result<usize, Error> {
    migrate_and_report(config, Report::new(|line: &str| log::info!("{line}")))
}

/// The same; what is done meanwhile is reported line by line.
///
/// # Errors
/// See [`migrate`].
pub fn migrate_and_report(config: &ConnectConfig, report: Report) -> Result<usize, Error> {
    run(config, Progress::new(report), true)
}

/// The same, without a word, but not for a database of the Python system: there is no way back from that, so it is asked for.
///
/// # Errors
/// See [`migrate`].
pub fn migrate_own(config: &ConnectConfig) -> Result<usize, Error> {
    run(config, Progress::new(Report::new(|_: &str| ())), false)
}

/// The number of migrations that [`migrate`] would apply. Changes nothing.
///
/// # Errors
/// The database is unavailable, or cannot be migrated.
pub fn check(config: &ConnectConfig) -> Result<usize, Error> {
    let (mut client, watchdog) = connect(&without_timeouts(config), &TimeoutCounter::default())?;
    watchdog.arm(RESPONSE_TIMEOUT);
    strangers::check(&mut client)?;
    let pending = history::pending(&mut client)?;
    // All rows are looked at, which may take long.
    watchdog.disarm();
    let old = OldTables::find(&mut client, &pending)?;
    conditions::check(&mut client, &pending, &old)?;
    Ok(pending.len())
}

fn run(config: &ConnectConfig, progress: Progress, takes_over: bool) -> Result<usize, Error> {
    let mut config = without_timeouts(config);
    progress.listen(&mut config);
    let (mut client, watchdog) = connect(&config, &TimeoutCounter::default())?;
    watchdog.arm(RESPONSE_TIMEOUT);
    // Checked without a lock or a write, so that a server can start on a read-only database.
    if history::pending(&mut client)?.is_empty() {
        return Ok(0);
    }
    // A migration may take long, also that of another process.
    watchdog.disarm();
    // So that the database notices at once if this process is killed. Not every system can tell it.
    let _ = client.batch_execute("SET client_connection_check_interval = '1s'");
    // PostgreSQL 17 knows it.
    let _ = client.batch_execute("SET transaction_timeout = 0");
    let _watch = progress.watch(&config, backend_pid(&mut client)?);
    let wait = || client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]);
    progress.quietly("waiting for another process that migrates the database", wait)?;
    let applied = apply_all(&mut client, &progress, takes_over)?;
    client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK])?;
    Ok(applied)
}

/// The number of the newest migration of this version.
pub fn newest() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// The number of the last migration before the first that is missing; 0 if there is none.
///
/// # Errors
/// The database is unavailable.
pub fn applied(db: &mut impl Executor) -> Result<i64, Error> {
    if db.query_one("SELECT to_regclass('refinery_schema_history') IS NULL", &[])?.try_get(0)? {
        return Ok(0);
    }
    const SQL: &str = "SELECT coalesce(max(version), 0)::bigint
        FROM (SELECT version, row_number() OVER (ORDER BY version) AS place FROM refinery_schema_history) h
        WHERE version = place";
    Ok(db.query_one(SQL, &[])?.try_get(0)?)
}

/// Takes the lock of migrations for this session, so that no other process changes the schema. False if another has it.
///
/// # Errors
/// The database is unavailable.
pub fn try_lock(db: &mut impl Executor) -> Result<bool, Error> {
    Ok(db.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])?.try_get(0)?)
}

/// Gives it back.
///
/// # Errors
/// The database is unavailable.
pub fn unlock(db: &mut impl Executor) -> Result<(), Error> {
    db.query_one("SELECT pg_advisory_unlock($1)", &[&LOCK]).map(drop)
}

/// The configuration without the time-outs and limits that the URL, the role or the database may set for requests, and with
/// notices. Policies do not hide rows: what they would hide is an error.
fn without_timeouts(config: &ConnectConfig) -> ConnectConfig {
    let mut config = config.clone();
    let given = config.driver().get_options().unwrap_or("");
    let own = "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c row_security=off \
               -c default_transaction_read_only=off -c client_min_messages=notice";
    config.set_options(&format!("{given} {own}"));
    config
}

fn backend_pid(client: &mut Client) -> Result<i32, Error> {
    Ok(client.query_one("SELECT pg_backend_pid()", &[])?.try_get(0)?)
}

fn apply_all(client: &mut Client, progress: &Progress, takes_over: bool) -> Result<usize, Error> {
    strangers::check(client)?;
    let pending = history::pending(client)?;
    let old = OldTables::find(client, &pending)?;
    if !takes_over && !old.is_empty() {
        return Err(Error::NotMigratable("it is the Python system's: dump it, and run `textgen migrate`".to_owned()));
    }
    conditions::check(client, &pending, &old)?;
    if pending.first().is_some_and(|first| first.number <= old_system::LAST_MIGRATION) {
        for line in old.warnings(client)? {
            progress.say(&line);
        }
        let failed = |what: &str, e| failed(what, e, "nothing was changed");
        let mut transaction = client.transaction()?;
        for (name, sql) in old.steps() {
            progress.step(name, || transaction.batch_execute(sql)).map_err(|e| failed(name, e))?;
        }
        for migration in &pending {
            apply(&mut transaction, migration, progress).map_err(|e| failed(&migration.to_string(), e))?;
        }
        progress.step("committing", || transaction.commit()).map_err(|e| failed("the commit", e))?;
    } else {
        for migration in &pending {
            let mut transaction = client.transaction()?;
            let outcome = apply(&mut transaction, migration, progress).and_then(|()| transaction.commit());
            outcome.map_err(|e| failed(&migration.to_string(), e, "it was undone, and those before it stay"))?;
        }
    }
    Ok(pending.len())
}

fn apply(transaction: &mut Transaction<'_>, migration: &Pending, progress: &Progress) -> Result<(), postgres::Error> {
    progress.step(&migration.to_string(), || {
        transaction.batch_execute(migration.sql)?;
        history::record(transaction, migration)
    })
}

fn failed(what: &str, e: postgres::Error, state: &str) -> Error {
    let reason = format!("migration failed, {state}: {what}: {}", super::error::describe(&e));
    match Error::from(e).is_outage() {
        true => Error::Unavailable(reason),
        false => Error::Other(reason),
    }
}
