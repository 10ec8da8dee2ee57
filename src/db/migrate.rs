//! Applies migrations, one process at a time.

use postgres::Client;
use refinery::{Migration, Runner};

use super::connect::{ConnectConfig, connect};
use super::watchdog::TimeoutCounter;
use super::{Error, Executor, RESPONSE_TIMEOUT};

/// The name and SQL of each file in `sql/migrations`, in order, as `build.rs` lists them. The name begins with the number.
const MIGRATIONS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// The advisory lock that lets one process migrate while the others wait: "textgen" in ASCII.
const LOCK: i64 = 0x0074_6578_7467_656e;

/// Applies the missing migrations, on a connection without a statement timeout, and returns their number.
///
/// # Errors
/// The database is unavailable, or a migration failed and was rolled back.
pub fn migrate(config: &ConnectConfig) -> Result<usize, Error> {
    let (mut client, watchdog) = connect(&without_timeouts(config), &TimeoutCounter::default())?;
    watchdog.arm(RESPONSE_TIMEOUT);
    // Checked without a lock or a write, so that a server can start on a read-only database.
    if is_current(&mut client)? {
        return Ok(0);
    }
    // A migration may take long, also that of another process.
    watchdog.disarm();
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK])?;
    let report = runner()?.run(&mut client).map_err(|e| failed(&e))?;
    client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK])?;
    Ok(report.applied_migrations().len())
}

/// The number of the newest migration of this version.
pub fn newest() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// The number of the newest migration that was applied; 0 if there is none.
///
/// # Errors
/// The database is unavailable.
pub fn applied(db: &mut impl Executor) -> Result<i64, Error> {
    if db.query_one("SELECT to_regclass('refinery_schema_history') IS NULL", &[])?.try_get(0)? {
        return Ok(0);
    }
    let newest = db.query_one("SELECT coalesce(max(version), 0)::bigint FROM refinery_schema_history", &[])?;
    Ok(newest.try_get(0)?)
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

/// The configuration without the time-outs that the URL, the role or the database may set for requests.
fn without_timeouts(config: &ConnectConfig) -> ConnectConfig {
    let mut config = config.clone();
    let options = format!("{} -c statement_timeout=0 -c lock_timeout=0", config.driver().get_options().unwrap_or(""));
    config.set_options(&options);
    config
}

/// Whether the newest migration was applied.
fn is_current(client: &mut Client) -> Result<bool, Error> {
    if client.query_one("SELECT to_regclass('refinery_schema_history') IS NULL", &[])?.try_get(0)? {
        return Ok(false);
    }
    let newest = client.query_one("SELECT coalesce(max(version), 0)::bigint FROM refinery_schema_history", &[])?;
    Ok(usize::try_from(newest.try_get::<_, i64>(0)?).is_ok_and(|version| version >= MIGRATIONS.len()))
}

fn runner() -> Result<Runner, Error> {
    let migrations = MIGRATIONS.iter().map(|(name, sql)| Migration::unapplied(name, sql));
    let migrations: Vec<Migration> = migrations.collect::<Result<_, _>>().map_err(|e| failed(&e))?;
    // A newer binary may have migrated the database: an older one works with its additions.
    Ok(Runner::new(&migrations).set_abort_missing(false))
}

fn failed(e: &refinery::Error) -> Error {
    use std::error::Error as _;
    let mut source = e.source();
    while let Some(cause) = source {
        if let Some(fault) = cause.downcast_ref::<postgres::Error>() {
            return match fault.is_closed() {
                true => Error::Unavailable(super::error::describe(fault)),
                false => Error::Other(format!("migration failed: {}", super::error::describe(fault))),
            };
        }
        source = cause.source();
    }
    Error::Other(format!("migration failed: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_named_as_the_databases_know_them() {
        let names: Vec<&str> = MIGRATIONS.iter().map(|(name, _)| *name).collect();
        assert_eq!((names[0], names[9], names[16]), ("V1__users", "V10__retention", "V17__unit_defaults"));
        assert!(runner().is_ok());
    }
}
