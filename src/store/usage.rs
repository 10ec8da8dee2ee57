//! Tables `usage_daily`, of which a person's usage is read, and `usage_events`, whose partitions are looked after.

use serde::Serialize;
use time::Date;

use crate::db::{Error, Executor};

/// By what a person's usage is grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The day (UTC), as `2026-11-22`.
    Day,
    /// The model.
    Model,
    /// The id of the key; empty for none.
    Key,
    /// The path of the route.
    Route,
}

/// What a person used, all in one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// What the group has in common.
    pub name: String,
    /// Charges.
    pub events: i64,
    /// Tokens read.
    pub prompt_tokens: i64,
    /// Tokens written.
    pub completion_tokens: i64,
    /// Tokens embedded.
    pub embedding_tokens: i64,
    /// Milliseconds of audio heard.
    pub audio_millis: i64,
    /// Characters spoken.
    pub characters: i64,
    /// Requests.
    pub requests: i64,
    /// What it cost, in micro-dollars.
    pub cost_micros: i64,
}

/// What a person used from one day to another, both included, at most `limit` groups in the order of their names.
///
/// # Errors
/// See [`Error`].
pub fn sums(db: &mut impl Executor, user_id: &str, days: (Date, Date), by: By, limit: i64) -> Result<Vec<Sum>, Error> {
    const SQL: &str = "SELECT CASE $4 WHEN 'day' THEN to_char(day, 'YYYY-MM-DD') WHEN 'model' THEN model
                WHEN 'key' THEN key_id ELSE route END COLLATE \"C\" AS name,
            sum(events)::bigint, sum(prompt_tokens)::bigint, sum(completion_tokens)::bigint,
            sum(embedding_tokens)::bigint, sum(audio_millis)::bigint, sum(characters)::bigint, sum(requests)::bigint,
            sum(cost_micros)::bigint
        FROM usage_daily WHERE user_id = $1 AND day BETWEEN $2 AND $3 GROUP BY name ORDER BY name LIMIT $5";
    let by = match by {
        By::Day => "day",
        By::Model => "model",
        By::Key => "key",
        By::Route => "route",
    };
    let sum = |row: &postgres::Row| {
        Ok(Sum {
            name: row.try_get(0)?,
            events: row.try_get(1)?,
            prompt_tokens: row.try_get(2)?,
            completion_tokens: row.try_get(3)?,
            embedding_tokens: row.try_get(4)?,
            audio_millis: row.try_get(5)?,
            characters: row.try_get(6)?,
            requests: row.try_get(7)?,
            cost_micros: row.try_get(8)?,
        })
    };
    db.query(SQL, &[&user_id, &days.0, &days.1, &by, &limit])?.iter().map(sum).collect()
}

/// What tells this database from every other: the id of the installation and the database's name.
///
/// # Errors
/// See [`Error`].
pub fn identity(db: &mut impl Executor) -> Result<String, Error> {
    Ok(db.query_one("SELECT id::text || current_database() FROM installation", &[])?.try_get(0)?)
}

/// Makes the ledger's partitions of this month and the next two, unless another process is at it. How many were made.
///
/// # Errors
/// See [`Error`].
pub fn make_partitions(db: &mut impl Executor) -> Result<i64, Error> {
    // The lock is "partiti" in ASCII, and ends with the statement's transaction.
    const SQL: &str = "SELECT count(*) FILTER (WHERE textgen_make_usage_partition(month)) FROM (
            SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') + n * interval '1 month')::date AS month
            FROM generate_series(0, 2) AS n WHERE (SELECT pg_try_advisory_xact_lock(31632341598827625))
        ) AS months";
    Ok(db.query_one(SQL, &[])?.try_get(0)?)
}

/// Drops the ledger's months before the last `months` and this one, unless another process is at it. How many there were.
///
/// # Errors
/// See [`Error`]; [`Error::Unavailable`] also where others read the ledger just now.
pub fn drop_partitions(db: &mut impl Executor, months: i32) -> Result<i32, Error> {
    // The lock is that of `make_partitions`.
    const SQL: &str = "SELECT coalesce((
            SELECT textgen_drop_usage_before((date_trunc('month', now() AT TIME ZONE 'UTC')
                - make_interval(months => $1))::date)
            WHERE (SELECT pg_try_advisory_xact_lock(31632341598827625))
        ), 0)";
    Ok(db.query_one(SQL, &[&months])?.try_get(0)?)
}
