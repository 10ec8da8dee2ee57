//! Sums over everything that was charged, for backups: they are the same before and after, and agree with each other.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::db::{Error, Executor, Transaction};

/// How long a sum over a large ledger may take.
pub const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// A sum, by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    /// What was added up.
    pub name: String,
    /// The sum: a whole number of any size.
    pub value: String,
}

/// The server, and the database on it.
pub struct Server {
    /// Its version, such as `15.4`.
    pub version: String,
    /// The first number of that.
    pub major: u32,
    /// The database's name.
    pub database: String,
}

/// What this connection leads to.
///
/// # Errors
/// See [`Error`].
pub fn server(db: &mut impl Executor) -> Result<Server, Error> {
    const SQL: &str = "SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000,
        current_database()::text";
    let row = db.query_one(SQL, &[])?;
    let major = u32::try_from(row.try_get::<_, i32>(1)?).unwrap_or(0);
    Ok(Server { version: row.try_get(0)?, major, database: row.try_get(2)? })
}

/// A snapshot that other sessions can read, for as long as its transaction lasts.
pub struct Snapshot {
    /// Its id for other sessions.
    pub id: String,
    /// When it was taken.
    pub taken: OffsetDateTime,
}

/// Makes a new transaction one that reads a single snapshot, for as long as that takes.
///
/// # Errors
/// See [`Error`].
pub fn snapshot(transaction: &mut Transaction<'_>) -> Result<Snapshot, Error> {
    transaction.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY", &[])?;
    without_time_limit(transaction)?;
    let row = transaction.query_one("SELECT pg_export_snapshot(), clock_timestamp()", &[])?;
    Ok(Snapshot { id: row.try_get(0)?, taken: row.try_get(1)? })
}

/// Lets the statements of a transaction take as long as they need, and the transaction wait.
///
/// # Errors
/// See [`Error`].
pub fn without_time_limit(transaction: &mut Transaction<'_>) -> Result<(), Error> {
    const SQL: &str = "SELECT set_config(name, '0', true) FROM unnest(ARRAY['statement_timeout', 'lock_timeout',
        'idle_in_transaction_session_timeout']) AS name";
    transaction.query(SQL, &[]).map(drop)
}

/// The sums. Costs are in picodollars (millionths of a micro-dollar).
///
/// # Errors
/// See [`Error`].
pub fn totals(transaction: &mut Transaction<'_>) -> Result<Vec<Total>, Error> {
    const SQL: &str = "
        SELECT 'accounts', count(*)::text FROM users
        UNION ALL SELECT 'documents', count(*)::text FROM documents
        UNION ALL SELECT 'keys', count(*)::text FROM api_keys
        UNION ALL SELECT 'charges', count(*)::text FROM usage_events
        UNION ALL SELECT 'cost of charges',
            coalesce(sum(cost_micros::numeric * 1000000 + cost_picos), 0)::text FROM usage_events
        UNION ALL SELECT 'charges by day', coalesce(sum(events), 0)::text FROM usage_daily
        UNION ALL SELECT 'cost by day',
            coalesce(sum(cost_micros::numeric * 1000000 + cost_picos), 0)::text FROM usage_daily
        UNION ALL SELECT 'cost by account',
            coalesce(sum(charges_monthly::numeric * 1000000 + charges_picos), 0)::text FROM users
        UNION ALL SELECT 'ids of charges', count(*)::text FROM charge_ids
        UNION ALL SELECT 'credit', coalesce(sum(amount_picos), 0)::text FROM credit_entries
        UNION ALL SELECT 'outbox of usage', coalesce(sum(amount_micros), 0)::text FROM stripe_outbox
        UNION ALL SELECT 'entries of the audit log', count(*)::text FROM audit";
    let total = |row: &postgres::Row| Ok(Total { name: row.try_get(0)?, value: row.try_get(1)? });
    transaction.query(SQL, &[])?.iter().map(total).collect()
}

/// How much is in the ledger, in words.
pub fn ledger(totals: &[Total]) -> String {
    let of = |name: &str| totals.iter().find(|total| total.name == name).map_or("0", |total| &total.value);
    let micros = of("cost of charges").parse::<i128>().unwrap_or(0) / 1_000_000;
    format!("{} charges of {micros} micro-dollars", of("charges"))
}

/// Where sums disagree that should be the same: the ledger and the daily totals of each account, from the first month
/// that the ledger still has; and what accounts were charged in their month, which an older system may have begun. The
/// first `most` of them, in words.
///
/// # Errors
/// See [`Error`].
pub fn differences(transaction: &mut Transaction<'_>, most: i64) -> Result<Vec<String>, Error> {
    const SQL: &str = "
        WITH first AS (
            SELECT date_trunc('month', min(created) AT TIME ZONE 'UTC')::date AS day FROM usage_events),
        ledger AS (
            SELECT user_id COLLATE \"C\" AS user_id, count(*) AS events,
                sum(cost_micros::numeric * 1000000 + cost_picos) AS picos
            FROM usage_events GROUP BY 1),
        days AS (
            SELECT user_id, sum(events) AS events, sum(cost_micros::numeric * 1000000 + cost_picos) AS picos
            FROM usage_daily WHERE day >= (SELECT day FROM first) GROUP BY 1),
        months AS (
            SELECT u.id, u.charges_monthly::numeric * 1000000 + u.charges_picos AS picos,
                (SELECT coalesce(sum(d.cost_micros::numeric * 1000000 + d.cost_picos), 0) FROM usage_daily d
                 WHERE d.user_id = u.id COLLATE \"C\" AND d.day >= u.charges_month
                    AND d.day < u.charges_month + interval '1 month') AS of_days
            FROM users u)
        (SELECT format('account %s: the ledger has %s charges of %s picodollars, the daily totals %s of %s',
                coalesce(l.user_id, d.user_id), coalesce(l.events, 0), coalesce(l.picos, 0), coalesce(d.events, 0),
                coalesce(d.picos, 0))
            FROM ledger l FULL JOIN days d ON d.user_id = l.user_id
            WHERE (l.events, l.picos) IS DISTINCT FROM (d.events, d.picos) LIMIT $1)
        UNION ALL
        (SELECT format('account %s: its month has %s picodollars, the daily totals %s', id, picos, of_days)
            FROM months WHERE picos < of_days LIMIT $1)";
    transaction.query(SQL, &[&most])?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// The textgen processes that are connected to this database, but for this one, by the names of their connections.
///
/// # Errors
/// See [`Error`].
pub fn other_processes(db: &mut impl Executor) -> Result<Vec<String>, Error> {
    const SQL: &str = "SELECT DISTINCT application_name FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'textgen%'
        ORDER BY 1 LIMIT 20";
    db.query(SQL, &[])?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// How many tables, views and sequences this database has that belong to no extension.
///
/// # Errors
/// See [`Error`].
pub fn relations(db: &mut impl Executor) -> Result<i64, Error> {
    const SQL: &str = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
            AND n.nspname NOT LIKE 'pg\\_toast%' AND n.nspname NOT LIKE 'pg\\_temp%'
            AND NOT EXISTS (SELECT FROM pg_depend d
                WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')";
    Ok(db.query_one(SQL, &[])?.try_get(0)?)
}
