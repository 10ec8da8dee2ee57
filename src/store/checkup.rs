//! How the database's server is set, for the operator.

use time::OffsetDateTime;

use crate::db::{Error, Executor};

/// What is known of the server.
pub struct ServerSettings {
    /// Its version, such as `15.4`.
    pub version: String,
    /// The first number of that.
    pub major: u32,
    /// The database's name.
    pub database: String,
    /// Its clock.
    pub now: OffsetDateTime,
    /// Whether it only follows another server.
    pub is_standby: bool,
    /// Connections that it takes.
    pub max_connections: i64,
    /// Of these, those that ordinary roles do not get.
    pub reserved_connections: i64,
    /// Of these, those in use, but for this one.
    pub used_connections: i64,
    /// Size of the database in bytes.
    pub bytes: i64,
    /// Transactions since the oldest row that is not frozen.
    pub age: i64,
    /// Extensions, comma-separated.
    pub extensions: String,
    /// Where its data is on its machine, if this role may know.
    pub data_directory: Option<String>,
    settings: Vec<(String, String)>,
}

impl ServerSettings {
    /// A setting; empty if it is not known.
    pub fn of(&self, name: &str) -> &str {
        self.settings.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// Whether a setting has this value.
    pub fn is(&self, name: &str, value: &str) -> bool {
        self.of(name) == value
    }
}

/// Reads them.
///
/// # Errors
/// See [`Error`].
pub fn settings(db: &mut impl Executor) -> Result<ServerSettings, Error> {
    const SQL: &str = "SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000,
        current_database()::text, clock_timestamp(), pg_is_in_recovery(), current_setting('max_connections')::bigint,
        current_setting('superuser_reserved_connections')::bigint
            + coalesce(current_setting('reserved_connections', true), '0')::bigint,
        (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
        pg_database_size(current_database()),
        (SELECT age(datfrozenxid)::bigint FROM pg_database WHERE datname = current_database()),
        (SELECT coalesce(string_agg(extname::text, ', ' ORDER BY extname), '') FROM pg_extension
            WHERE extname <> 'plpgsql')";
    // Of all settings, those that a role may not read are left out.
    const SETTINGS: &str =
        "SELECT name, current_setting(name, true) FROM pg_settings WHERE name IN ('synchronous_commit',
        'fsync', 'full_page_writes', 'server_encoding', 'TimeZone', 'autovacuum', 'statement_timeout', 'lock_timeout',
        'default_transaction_read_only', 'data_directory')";
    let row = db.query_one(SQL, &[])?;
    let mut settings = Vec::new();
    for row in db.query(SETTINGS, &[])? {
        settings.push((row.try_get(0)?, row.try_get::<_, Option<String>>(1)?.unwrap_or_default()));
    }
    let data_directory = settings.iter().find(|(name, _)| name == "data_directory").map(|(_, value)| value.clone());
    Ok(ServerSettings {
        version: row.try_get(0)?,
        major: u32::try_from(row.try_get::<_, i32>(1)?).unwrap_or(0),
        database: row.try_get(2)?,
        now: row.try_get(3)?,
        is_standby: row.try_get(4)?,
        max_connections: row.try_get(5)?,
        reserved_connections: row.try_get(6)?,
        used_connections: row.try_get(7)?,
        bytes: row.try_get(8)?,
        age: row.try_get(9)?,
        extensions: row.try_get(10)?,
        data_directory,
        settings,
    })
}
