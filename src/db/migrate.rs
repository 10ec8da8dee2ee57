//! Applies migrations, one process at a time.

use postgres::Client;
use refinery::{Migration, Runner};

use super::watchdog::{self, TimeoutCounter};
use super::{Error, RESPONSE_TIMEOUT};

/// All migrations in order; the name begins with the number. They are never edited once released.
const MIGRATIONS: &[(&str, &str)] = &[
    ("V1__users", include_str!("../../sql/migrations/0001_users.sql")),
    ("V2__documents", include_str!("../../sql/migrations/0002_documents.sql")),
    ("V3__sessions", include_str!("../../sql/migrations/0003_sessions.sql")),
    ("V4__api_keys", include_str!("../../sql/migrations/0004_api_keys.sql")),
    ("V5__notify", include_str!("../../sql/migrations/0005_notify.sql")),
    ("V6__standing", include_str!("../../sql/migrations/0006_standing.sql")),
    ("V7__usage", include_str!("../../sql/migrations/0007_usage.sql")),
    ("V8__audit", include_str!("../../sql/migrations/0008_audit.sql")),
    ("V9__deleted_documents", include_str!("../../sql/migrations/0009_deleted_documents.sql")),
    ("V10__retention", include_str!("../../sql/migrations/0010_retention.sql")),
    ("V11__known_networks", include_str!("../../sql/migrations/0011_known_networks.sql")),
    ("V12__usage_days", include_str!("../../sql/migrations/0012_usage_days.sql")),
    ("V13__charges_stay_silent", include_str!("../../sql/migrations/0013_charges_stay_silent.sql")),
    ("V14__ledger_ids", include_str!("../../sql/migrations/0014_ledger_ids.sql")),
    ("V15__emails_checked_once", include_str!("../../sql/migrations/0015_emails_checked_once.sql")),
    ("V16__exact_costs", include_str!("../../sql/migrations/0016_exact_costs.sql")),
    ("V17__unit_defaults", include_str!("../../sql/migrations/0017_unit_defaults.sql")),
    ("V18__catalogue", include_str!("../../sql/migrations/0018_catalogue.sql")),
];

/// The advisory lock that lets one process migrate while the others wait: "textgen" in ASCII.
const LOCK: i64 = 0x0074_6578_7467_656e;

/// Applies the missing migrations, on a connection without a statement timeout, and returns their number.
///
/// # Errors
/// The database is unavailable, or a migration failed and was rolled back.
pub fn migrate(config: &postgres::Config) -> Result<usize, Error> {
    let (mut client, watchdog) = watchdog::connect(&without_timeouts(config), &TimeoutCounter::default())?;
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

/// The configuration without the time-outs that the URL, the role or the database may set for requests.
fn without_timeouts(config: &postgres::Config) -> postgres::Config {
    let mut config = config.clone();
    let options = format!("{} -c statement_timeout=0 -c lock_timeout=0", config.get_options().unwrap_or(""));
    config.options(&options);
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
    fn every_file_is_a_migration_and_in_order() {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/migrations")).unwrap();
        let mut files: Vec<String> = folder.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        let listed = MIGRATIONS.iter().enumerate().map(|(n, (name, _))| {
            let (number, name) = name.strip_prefix('V').unwrap().split_once("__").unwrap();
            assert_eq!(number, (n + 1).to_string());
            format!("{:04}_{name}.sql", n + 1)
        });
        assert_eq!(files, listed.collect::<Vec<_>>());
        assert!(runner().is_ok());
    }
}
