//! The database: whether it is there, how it is set, and whether its clock agrees with that of this machine.

use std::path::Path;

use time::OffsetDateTime;

use super::Check;
use crate::config::Config;
use crate::db::{self, ConnectConfig, Database, Session, migrate};
use crate::store::catalogue::{self, CatalogueRows};
use crate::store::checkup::{self, ServerSettings};
use crate::store::installation;
use crate::system_limits;

/// The oldest major version that is supported.
const OLDEST: u32 = 14;
/// Connections of a process besides those of `POOL_SIZE`: for charges, claims and notifications.
const OTHER_CONNECTIONS: i64 = 9;
/// How far the clocks may be apart, in seconds: charges are dated by this machine, days and budgets begin by the database.
const CLOCKS: (f64, f64) = (1.0, 60.0);
/// Transactions after which a database refuses writes, if nothing freezes old rows; autovacuum does from 200 million on.
const MAX_AGE: i64 = 1_000_000_000;
/// Bytes that should be free for the database.
const ROOM: u64 = 5 << 30;

/// What the database said.
#[derive(Default)]
pub(super) struct Found {
    pub(super) checks: Vec<Check>,
    /// What its journals are named by.
    pub(super) identity: Option<String>,
    /// The stored catalogue.
    pub(super) catalogue: Option<CatalogueRows>,
}

pub(super) fn examine(config: &Config) -> Found {
    let mut found = Found::default();
    let connected = ConnectConfig::new(&config.database_url, "textgen-doctor").map_err(db::Error::Other);
    let session = connected.and_then(|connect| {
        let db = Database::new(connect, !config.is_pooled(), 1);
        db.open();
        db.session()
    });
    let mut session = match session {
        Ok(session) => session,
        Err(e) => {
            found.checks.push(Check::fail(
                "database",
                e.to_string(),
                "see that PostgreSQL runs, and that DATABASE_URL has its address, user, password and database",
            ));
            return found;
        }
    };
    if let Err(e) = ask(&mut session, config, &mut found) {
        found.checks.push(Check::fail("database", e.to_string(), "see the log of PostgreSQL"));
    }
    if config.is_pooled() {
        found.checks.push(direct(config));
    }
    found
}

/// The connection that goes past the pooler.
fn direct(config: &Config) -> Check {
    let connect = ConnectConfig::new(config.direct_url(), "textgen-doctor").map_err(db::Error::Other);
    let reached = connect.and_then(|connect| {
        let db = Database::new(connect, true, 1);
        db.open();
        db.ping()
    });
    match reached {
        Ok(()) => Check::ok("direct connection", "reachable, past the pooler"),
        Err(e) => Check::fail(
            "direct connection",
            e.to_string(),
            "set DATABASE_LISTEN_URL to the database itself: migrations, charges and notifications need it",
        ),
    }
}

fn ask(session: &mut Session, config: &Config, found: &mut Found) -> Result<(), db::Error> {
    let before = OffsetDateTime::now_utc();
    let settings = checkup::settings(session)?;
    let after = OffsetDateTime::now_utc();
    let checks = &mut found.checks;
    checks.push(Check::needs(
        settings.major >= OLDEST,
        "database",
        format!("PostgreSQL {}, database {}", settings.version, settings.database),
        "upgrade PostgreSQL to 14 or later",
    ));
    checks.push(clocks(before, after, settings.now));
    let applied = migrate::applied(session)?;
    checks.push(schema(applied));
    checks.extend(safety(&settings));
    checks.push(connections(&settings, config));
    checks.push(time_limits(&settings, config));
    checks.push(room(&settings));
    let extensions = if settings.extensions.is_empty() { "none" } else { &settings.extensions };
    checks.push(Check::ok("extensions", format!("{extensions}; textgen needs none")));
    if applied > 0 {
        // Of an older schema, they may not be there yet.
        found.identity = installation::identity(session).ok();
        found.catalogue = catalogue::read(session).ok();
    }
    Ok(())
}

fn clocks(before: OffsetDateTime, after: OffsetDateTime, database: OffsetDateTime) -> Check {
    // It was somewhere in between when the database looked at its own.
    let off = if database < before {
        (before - database).as_seconds_f64()
    } else {
        (database - after).as_seconds_f64().max(0.0)
    };
    let detail = format!("this machine and the database are {off:.3} s apart");
    let advice = "synchronise the clocks of both with NTP (chrony, systemd-timesyncd)";
    if off > CLOCKS.1 {
        return Check::fail("clocks", detail, advice);
    }
    Check::wants(off <= CLOCKS.0, "clocks", detail, advice)
}

fn schema(applied: i64) -> Check {
    let newest = migrate::newest();
    let detail = format!("migration {applied} of {newest}");
    match applied.cmp(&newest) {
        std::cmp::Ordering::Equal => Check::ok("schema", detail),
        std::cmp::Ordering::Less => Check::warn(
            "schema",
            detail,
            "run `textgen migrate`, or start a server, which does the same; take a backup first",
        ),
        std::cmp::Ordering::Greater => {
            Check::warn("schema", detail, "a newer version of textgen has migrated it: upgrade this one too")
        }
    }
}

/// What must be so that commits last.
fn safety(settings: &ServerSettings) -> Vec<Check> {
    let is = |name: &str| settings.is(name, "on");
    vec![
        Check::needs(
            !settings.is_standby && !settings.is("default_transaction_read_only", "on"),
            "writes",
            if settings.is_standby { "this is a standby" } else { "the database takes writes" },
            "let DATABASE_URL lead to the primary (`target_session_attrs=read-write` finds it among several hosts)",
        ),
        Check::needs(
            !settings.is("synchronous_commit", "off"),
            "commits",
            format!("synchronous_commit={}", settings.of("synchronous_commit")),
            "turn it on: otherwise charges that were answered are lost when the database is killed",
        ),
        Check::needs(
            is("fsync"),
            "disk writes",
            format!("fsync={}", settings.of("fsync")),
            "turn it on: otherwise the database may be lost when its machine fails",
        ),
        Check::wants(
            is("full_page_writes"),
            "torn pages",
            format!("full_page_writes={}", settings.of("full_page_writes")),
            "turn it on, unless the file system never writes half a page",
        ),
        Check::needs(
            settings.is("server_encoding", "UTF8"),
            "encoding",
            settings.of("server_encoding"),
            "create the database with ENCODING 'UTF8', and move what is in this one by backup and restore",
        ),
        Check::ok("time zone", format!("{}; textgen works in UTC, whatever it is", settings.of("TimeZone"))),
        Check::wants(
            is("autovacuum") && settings.age < MAX_AGE,
            "vacuum",
            format!("autovacuum={}, the oldest rows are {} transactions old", settings.of("autovacuum"), settings.age),
            "turn autovacuum on, and look for transactions and replication slots that hold it up",
        ),
    ]
}

fn connections(settings: &ServerSettings, config: &Config) -> Check {
    let wanted = i64::from(config.pool_size) + OTHER_CONNECTIONS;
    let free = settings.max_connections - settings.reserved_connections - settings.used_connections;
    Check::wants(
        free >= wanted,
        "connections",
        format!(
            "{} of {} in use, {} reserved; a process needs up to {wanted} (POOL_SIZE={})",
            settings.used_connections, settings.max_connections, settings.reserved_connections, config.pool_size
        ),
        "unless running servers are what uses them: raise max_connections, or lower POOL_SIZE",
    )
}

fn time_limits(settings: &ServerSettings, config: &Config) -> Check {
    let (statement, lock) = (settings.of("statement_timeout"), settings.of("lock_timeout"));
    let detail = format!("statement_timeout={statement}, lock_timeout={lock}");
    let is_set = !config.is_pooled() || (statement != "0" && lock != "0");
    Check::wants(
        is_set,
        "time limits",
        detail,
        "behind a pooler, set them for the role: ALTER ROLE … SET statement_timeout = '10s', and lock_timeout = '4s'",
    )
}

fn room(settings: &ServerSettings) -> Check {
    let size = format!("the database has {} MB", settings.bytes >> 20);
    let folder = settings.data_directory.as_deref().filter(|folder| Path::new(folder).is_dir());
    match folder.and_then(|folder| system_limits::free_space(Path::new(folder))) {
        Some(free) => Check::wants(
            free > ROOM,
            "room",
            format!("{size}, {} MB are free in its data directory", free >> 20),
            "make room, or move the database to a larger disk: without room it stops taking charges",
        ),
        None => Check::ok("room", format!("{size}; what is free on its disk cannot be seen from here")),
    }
}
