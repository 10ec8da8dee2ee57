//! Which process sends. It is a lease with a time, not a lock of a connection, as no connection is held while Stripe is
//! called. If a process that was stopped for long goes on, two may send for a moment. That costs calls, but nothing is
//! counted twice: Stripe knows the identifiers.

use time::OffsetDateTime;

use crate::db::{Error, Executor};

/// What the sender has to do.
#[derive(Clone, Copy, Debug)]
pub struct Duties {
    /// The hour that is over and must be closed, if there is one.
    pub hour: Option<OffsetDateTime>,
    /// Whether all days must be looked at.
    pub is_full_due: bool,
    /// The hour that is not over yet.
    pub current_hour: OffsetDateTime,
}

/// Makes `process` the sender for so many seconds, or keeps it. `None` if another process is the sender.
///
/// # Errors
/// See [`Error`].
pub fn take(db: &mut impl Executor, process: &str, seconds: i32) -> Result<Option<Duties>, Error> {
    const SQL: &str = "UPDATE stripe_reporting
        SET sender = $1, sender_until = clock_timestamp() + $2 * interval '1 second'
        WHERE sender = $1 OR sender_until < clock_timestamp()
        RETURNING CASE WHEN closed < date_trunc('hour', now()) THEN date_trunc('hour', now()) - interval '1 hour' END,
            closed_all < now() - interval '1 day', date_trunc('hour', now())";
    let Some(row) = db.query_opt(SQL, &[&process, &seconds])? else { return Ok(None) };
    Ok(Some(Duties { hour: row.try_get(0)?, is_full_due: row.try_get(1)?, current_hour: row.try_get(2)? }))
}

/// Lets another process be the sender.
///
/// # Errors
/// See [`Error`].
pub fn release(db: &mut impl Executor, process: &str) -> Result<(), Error> {
    db.execute("UPDATE stripe_reporting SET sender_until = now() WHERE sender = $1", &[&process]).map(drop)
}

/// Whether it is a day since the sums were compared. It is so for one process only.
///
/// # Errors
/// See [`Error`].
pub fn take_check(db: &mut impl Executor) -> Result<bool, Error> {
    const SQL: &str = "UPDATE stripe_reporting SET checked = now() WHERE checked < now() - interval '1 day'";
    Ok(db.execute(SQL, &[])? == 1)
}
