//! The ledger's monthly partitions.

use crate::db::{Error, Executor};

/// Makes the ledger's partitions of this month and the next two, unless another process is doing so. Returns how many
/// were made.
///
/// # Errors
/// See [`Error`].
pub fn make(db: &mut impl Executor) -> Result<i64, Error> {
    // The lock is "partiti" in ASCII. It is released when the statement's transaction ends.
    const SQL: &str = "SELECT count(*) FILTER (WHERE textgen_make_usage_partition(month)) FROM (
            SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') + n * interval '1 month')::date AS month
            FROM generate_series(0, 2) AS n WHERE (SELECT pg_try_advisory_xact_lock(31632341598827625))
        ) AS months";
    Ok(db.query_one(SQL, &[])?.try_get(0)?)
}

/// Drops the ledger's partitions of all months but this one and the `months` before it, unless another process is doing
/// so. Returns how many were dropped.
///
/// # Errors
/// See [`Error`]; [`Error::Unavailable`] also while a long query reads the ledger.
pub fn drop_old(db: &mut impl Executor, months: i32) -> Result<i32, Error> {
    // The lock is that of `make`.
    const SQL: &str = "SELECT coalesce((
            SELECT textgen_drop_usage_before((date_trunc('month', now() AT TIME ZONE 'UTC')
                - make_interval(months => $1))::date)
            WHERE (SELECT pg_try_advisory_xact_lock(31632341598827625))
        ), 0)";
    Ok(db.query_one(SQL, &[&months])?.try_get(0)?)
}
